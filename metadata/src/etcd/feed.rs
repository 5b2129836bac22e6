//! The one watch of a process: every change under the prefix, in order, once (M5). Local watches read from it.
//!
//! It resumes behind the last whole revision that it has, at any member. Where etcd has compacted what lies between, it
//! begins anew, and every local watch that is behind is told so.

use std::sync::Arc;
use std::time::Duration;

use alluvium_runtime::backoff::Backoff;
use alluvium_runtime::clock::Clock;
use alluvium_runtime::entropy::Entropy;
use alluvium_runtime::tasks::Tasks;
use alluvium_types::ids::Revision;
use bytes::Bytes;
use etcd_client::WatchOptions;
use parking_lot::RwLock;
use tokio::sync::watch;

use super::fault::Fault;
use super::layout::{self, Layout};
use super::members::Members;
use crate::changes::Changes;
use crate::error::StoreError;
use crate::shared::History;
use crate::store::Event;

/// The pause before a watch is begun again.
const PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// What the watch has shown so far.
#[derive(Debug)]
pub(crate) struct Feed {
    seen: RwLock<Seen>,
    revision: watch::Sender<Revision>,
}

#[derive(Debug)]
struct Seen {
    changes: Changes,
    /// All of it, and all before, was seen.
    newest: Revision,
    stopped: bool,
}

impl Feed {
    /// Nothing yet; begins behind `revision`.
    pub(crate) fn behind(revision: Revision) -> Self {
        let seen = Seen { changes: Changes::behind(revision), newest: revision, stopped: false };
        Self { seen: RwLock::new(seen), revision: watch::Sender::new(revision) }
    }

    /// Wakes whoever waits for changes.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Revision> {
        self.revision.subscribe()
    }

    /// Lets what is up to and including `revision` go.
    pub(crate) fn compact(&self, revision: Revision) {
        self.seen.write().changes.compact(revision);
        self.wake();
    }

    fn newest(&self) -> Revision {
        self.seen.read().newest
    }

    /// Takes whole revisions, in order, up to `newest`; what was taken before is not taken twice.
    fn take(&self, events: impl IntoIterator<Item = Event>, newest: Revision) {
        let mut seen = self.seen.write();
        let known = seen.newest;
        for event in events {
            if event.revision() > known {
                seen.changes.push(event);
            }
        }
        seen.newest = known.max(newest);
        let newest = seen.newest;
        seen.changes.trim(newest);
        drop(seen);
        self.wake();
    }

    /// What was between is not known: everything up to `revision` must be listed.
    fn begin_anew(&self, revision: Revision) {
        let mut seen = self.seen.write();
        seen.newest = seen.newest.max(revision);
        seen.changes = Changes::behind(seen.newest);
        drop(seen);
        self.wake();
    }

    fn stop(&self) {
        self.seen.write().stopped = true;
        self.wake();
    }

    fn wake(&self) {
        let newest = self.newest();
        self.revision.send_replace(newest);
    }
}

impl History for Arc<Feed> {
    fn read(&self, prefix: &Bytes, from: Revision, events_max: usize) -> Result<(Vec<Event>, Revision), StoreError> {
        let seen = self.seen.read();
        if seen.stopped {
            return Err(StoreError::Stopped);
        }
        seen.changes.read(prefix, from, events_max, seen.newest)
    }
}

/// Keeps a feed up to date until it is asked to stop.
#[derive(Debug)]
pub(crate) struct Follower {
    pub(crate) feed: Arc<Feed>,
    pub(crate) members: Arc<Members>,
    pub(crate) layout: Layout,
    pub(crate) clock: Clock,
    pub(crate) entropy: Entropy,
    pub(crate) tasks: Tasks,
}

/// Why a watch is over.
enum Ended {
    /// It may be resumed where it was.
    Lost(Fault),
    /// It can't: history up to here is gone.
    Compacted(Revision),
}

impl From<Fault> for Ended {
    fn from(fault: Fault) -> Self {
        Self::Lost(fault)
    }
}

impl Follower {
    /// Follows until the process stops.
    pub(crate) async fn run(self) {
        let mut backoff = Backoff::new(PAUSE.0, PAUSE.1, self.entropy.clone());
        loop {
            let before = self.feed.newest();
            let ended = tokio::select! {
                biased;
                () = self.tasks.stopping() => break,
                Err(ended) = self.follow() => ended,
            };
            if self.feed.newest() > before {
                backoff.reset();
            }
            match ended {
                Ended::Lost(fault) => tracing::debug!(reason = %fault.reason, "the watch of etcd ended, resuming"),
                Ended::Compacted(compacted) => {
                    tracing::warn!(%compacted, "etcd has compacted what was not seen yet: listing anew");
                    match self.members.newest(&self.layout).await {
                        Ok(newest) => self.feed.begin_anew(newest.revision),
                        Err(fault) => tracing::debug!(reason = %fault.reason, "cannot begin the watch of etcd anew"),
                    }
                }
            }
            tokio::select! {
                biased;
                () = self.tasks.stopping() => break,
                () = self.clock.sleep(backoff.delay()) => {}
            }
        }
        self.feed.stop();
    }

    /// Follows one watch to its end.
    async fn follow(&self) -> Result<std::convert::Infallible, Ended> {
        // A watch of an etcd that was emptied would wait for ever, and say nothing.
        self.members.newest(&self.layout).await?;
        // From the last revision that was seen, not from behind it: etcd refuses that when it is compacted, and only then is
        // everything behind it still there. (Older ones lose a removal that the compaction fell on.)
        let from = layout::number(self.feed.newest()).unwrap_or(1);
        let options =
            WatchOptions::new().with_range(self.layout.end()).with_start_revision(from).with_progress_notify().with_fragment();
        let mut watching = self.members.watch(&self.layout, options).await?;
        let mut parts = Parts::default();
        loop {
            let message = watching.message().await?;
            if message.canceled() {
                return Err(match message.compact_revision() {
                    0 => watching.ended(message.cancel_reason()).into(),
                    compacted => Ended::Compacted(layout::revision(compacted)),
                });
            }
            if message.created() {
                continue;
            }
            let shown = message.header().map_or(Revision::ZERO, |header| layout::revision(header.revision()));
            let events: Vec<Event> = message.events().iter().filter_map(|event| self.layout.event(event)).collect();
            if let Some((events, newest)) = parts.add(events, shown, message.0.fragment) {
                self.members.seen(newest);
                self.feed.take(events, newest);
            }
        }
    }
}

/// Puts together what etcd takes apart: a large message comes in fragments, which may part a revision.
#[derive(Debug, Default)]
struct Parts(Vec<Event>);

impl Parts {
    /// The whole revisions that are known now, and the newest of them. `shown` is where etcd is; an empty message says that
    /// everything up to there was sent.
    fn add(&mut self, events: Vec<Event>, shown: Revision, has_more: bool) -> Option<(Vec<Event>, Revision)> {
        self.0.extend(events);
        let Some(last) = self.0.last().map(Event::revision) else {
            return (!has_more).then(|| (Vec::new(), shown));
        };
        let open = if has_more { self.0.partition_point(|event| event.revision() < last) } else { self.0.len() };
        let rest = self.0.split_off(open);
        let whole = std::mem::replace(&mut self.0, rest);
        let newest = whole.last().map(Event::revision)?;
        Some((whole, newest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(revision: u64) -> Event {
        Event::Delete { key: Bytes::from_static(b"k"), revision: Revision::new(revision) }
    }

    fn revisions(whole: Option<(Vec<Event>, Revision)>) -> Option<(Vec<u64>, u64)> {
        whole.map(|(events, newest)| (events.iter().map(|e| e.revision().get()).collect(), newest.get()))
    }

    #[test]
    fn a_revision_that_was_taken_apart_comes_whole() {
        let mut parts = Parts::default();
        let shown = Revision::new(9);
        assert_eq!(revisions(parts.add(vec![at(2), at(3)], shown, true)), Some((vec![2], 2)));
        assert_eq!(revisions(parts.add(vec![at(3)], shown, true)), None);
        assert_eq!(revisions(parts.add(vec![at(3), at(4)], shown, true)), Some((vec![3, 3, 3], 3)));
        assert_eq!(revisions(parts.add(vec![at(4), at(5)], shown, false)), Some((vec![4, 4, 5], 5)));
        assert_eq!(revisions(parts.add(vec![], shown, false)), Some((vec![], 9)), "nothing is left to come");
    }

    #[test]
    fn what_was_taken_is_not_taken_twice_and_what_is_not_known_is_said() {
        let feed = Arc::new(Feed::behind(Revision::new(2)));
        let read = |from| feed.read(&Bytes::new(), Revision::new(from), 10).map(|(events, next)| (events.len(), next.get()));
        feed.take([at(2), at(3), at(3)], Revision::new(3));
        feed.take([at(3), at(3), at(5)], Revision::new(6));
        assert_eq!(read(3), Ok((3, 7)));
        assert_eq!(read(2), Err(StoreError::Compacted { oldest: Revision::new(3) }));
        feed.compact(Revision::new(3));
        assert_eq!(read(4), Ok((1, 7)));
        feed.begin_anew(Revision::new(9));
        assert_eq!(read(7), Err(StoreError::Compacted { oldest: Revision::new(10) }));
        assert_eq!(read(10), Ok((0, 10)));
        feed.stop();
        assert_eq!(read(10), Err(StoreError::Stopped));
    }
}
