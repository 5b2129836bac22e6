//! Partitions that nobody serves for a relay's client: whoever owns them is looked for, and a stream begun there. What can't be served now
//! holds up nothing else: those that are found are served, the others are looked for again.

use std::sync::Arc;
use std::time::Duration;

use alluvium_runtime::backoff::Backoff;
use alluvium_types::ids::PartitionIndex;
use alluvium_types::time::Mono;
use futures::{FutureExt, Stream};
use tonic::Status;

use super::upstream::{Begun, Owners, Routed, at_home, elsewhere, is_busy, is_of_a_partition, owners, passes};
use super::{AGAIN, PATIENCE, Relay, Traffic};
use crate::deliver::service::ConsumeEdge;

/// Once some are found, how long the others are waited for, so that those of one owner share a stream.
const OTHERS_WAIT: Duration = Duration::from_millis(100);

/// Some partitions, and since when their owners are looked for in vain.
#[derive(Clone)]
pub(super) struct Search {
    partitions: Vec<PartitionIndex>,
    again: Backoff,
    since: Option<Mono>,
    /// It was said that it takes long.
    is_said: bool,
}

/// What came of a search, or of a stream that was to begin.
pub(super) enum Found<T: Traffic> {
    /// The owners of some. The others are not found yet, or can't be, for this reason.
    Owners { found: Owners, others: Search, why: Option<Status> },
    /// A stream stands.
    Begun(Box<Begun<T>>),
    /// One does not.
    NotBegun(Search, Status),
}

impl Search {
    fn of(&self, partitions: Vec<PartitionIndex>) -> Self {
        Self { partitions, ..self.clone() }
    }

    async fn run<T: Traffic>(mut self, edge: ConsumeEdge, traffic: T, pause: bool) -> Found<T> {
        let clock = edge.broker.clock().clone();
        if pause {
            clock.sleep(self.again.delay()).await;
        }
        let Routed { found, left, why } = owners(&edge, &traffic, &self.partitions, Some(OTHERS_WAIT)).await;
        self.partitions = left;
        Found::Owners { found, others: self, why }
    }

    /// Where one partition may keep an owner from serving the others, they are looked for apart.
    fn apart(self, status: &Status) -> Vec<Self> {
        let half = self.partitions.len() / 2;
        if half == 0 || !is_of_a_partition(status) {
            return vec![self];
        }
        let (first, second) = self.partitions.split_at(half);
        vec![self.of(first.to_vec()), self.of(second.to_vec())]
    }
}

impl<T, S> Relay<T, S>
where
    T: Traffic,
    S: Stream<Item = Result<T::Request, Status>> + Unpin + Send,
{
    /// Looks for whoever serves these; after a pause, if somebody did.
    pub(super) fn look_for(&mut self, partitions: Vec<PartitionIndex>, lost: bool) {
        let again = Backoff::new(AGAIN.0, AGAIN.1, self.edge.broker.entropy().clone());
        self.search(Search { partitions, again, since: None, is_said: false }, lost);
    }

    fn search(&mut self, search: Search, pause: bool) {
        if !search.partitions.is_empty() && !self.stops {
            self.beginning.push(search.run(self.edge.clone(), self.traffic.clone(), pause).boxed());
        }
    }

    /// Goes on with what was found.
    pub(super) fn found(&mut self, found: Found<T>) -> Result<(), Status> {
        match found {
            Found::Owners { found, others, why } => {
                self.begin_at(found, &others);
                match why {
                    None => self.search(others, false),
                    Some(status) => self.not_found(others, status)?,
                }
            }
            Found::Begun(begun) => {
                // Only the first opening is told.
                let _ = self.join(*begun);
                if self.stalled {
                    // What the last owners delivered has somebody who takes it back now.
                    self.take_back();
                }
            }
            Found::NotBegun(search, status) => {
                for search in search.apart(&status) {
                    self.not_found(search, status.clone())?;
                }
            }
        }
        Ok(())
    }

    /// Begins a stream at each owner.
    fn begin_at(&mut self, owners: Owners, search: &Search) {
        let Owners { here, there } = owners;
        let (edge, traffic) = (Arc::new(self.edge.clone()), self.traffic.clone());
        if !here.is_empty() {
            let search = search.of(here.keys().copied().collect());
            let (edge, traffic) = (Arc::clone(&edge), traffic.clone());
            self.beginning.push(async move { begun(at_home(&edge, &traffic, here).await, search) }.boxed());
        }
        for (peer, partitions) in there.into_values() {
            let search = search.of(partitions.clone());
            let (edge, traffic) = (Arc::clone(&edge), traffic.clone());
            self.beginning.push(async move { begun(elsewhere(&edge, &traffic, peer, partitions).await, search) }.boxed());
        }
    }

    /// They are looked for again, unless that makes no sense: the client is told if nobody serves it at all for long, or somebody else is
    /// served instead of it.
    fn not_found(&mut self, mut search: Search, status: Status) -> Result<(), Status> {
        let now = self.edge.broker.clock().mono();
        let is_late = now.since(*search.since.get_or_insert(now)) >= PATIENCE;
        if !passes(&status) || (is_late && (self.upstreams.is_empty() || is_busy(&status))) {
            return Err(status);
        }
        if is_late && !std::mem::replace(&mut search.is_said, true) {
            let (topic, partitions) = (&self.traffic.topic().name, &search.partitions);
            tracing::warn!(%topic, ?partitions, %status, "partitions of a consumer's stream can't be served; the others go on");
        }
        self.search(search, true);
        Ok(())
    }
}

fn begun<T: Traffic>(begun: Result<Begun<T>, Status>, search: Search) -> Found<T> {
    match begun {
        Ok(begun) => Found::Begun(Box::new(begun)),
        Err(status) => Found::NotBegun(search, status),
    }
}
