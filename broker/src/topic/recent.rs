//! What was read of history a moment ago, for others who read the same: a hundred subscriptions that are as far behind read an entry once.
//!
//! Who wants what somebody is reading waits for it. What two have asked for is kept for a while; what a lone reader has read is not.
//! All partitions share it. It holds its part of the budget for reads, bounded, and holds no lock while anybody reads.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use alluvium_types::ids::{LedgerId, Offset};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::entry::LoadedEntry;

/// How many reads are kept, and how many are remembered to have been made.
const KEPT_MAX: usize = 64;
const LATELY_MAX: usize = 256;

/// Where a read begins.
type Place = (LedgerId, Offset);

/// Entries of one ledger that follow each other, as they were read.
#[derive(Debug)]
struct Run {
    ledger: LedgerId,
    entries: Vec<LoadedEntry>,
    bytes: usize,
}

#[derive(Debug, Default)]
struct State {
    /// The newest at the back.
    kept: VecDeque<Run>,
    bytes: usize,
    /// What was read and not kept: from where, and to where.
    lately: VecDeque<(Place, Offset)>,
    /// What is being read now.
    reading: HashMap<Place, watch::Receiver<()>>,
}

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Recent {
    bytes_max: usize,
    state: Arc<Mutex<State>>,
}

/// What is to be done for a read.
#[derive(Debug)]
pub(crate) enum Asked {
    /// Nothing: these are the entries.
    Here(Vec<LoadedEntry>),
    /// To look again once this is over: somebody reads it.
    Wait(Waiting),
    /// To read it, and to say what was found.
    Read(Turn),
}

/// Somebody else's read.
#[derive(Debug)]
pub(crate) struct Waiting(watch::Receiver<()>);

impl Waiting {
    /// Resolves when it has ended, however. Cancel safe.
    pub(crate) async fn over(mut self) {
        // Nothing is ever sent: its end closes the channel.
        let _ = self.0.changed().await;
    }
}

/// A read under way. Dropped without [`Turn::found`] it has found nothing.
#[derive(Debug)]
pub(crate) struct Turn {
    recent: Recent,
    place: Place,
    is_wanted: bool,
    over: watch::Sender<()>,
}

impl Recent {
    /// Keeps at most so many bytes.
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { bytes_max, state: Arc::default() }
    }

    /// What to do for about `bytes_max` bytes of entries from the one of `ledger` on that holds `from`.
    pub(crate) fn ask(&self, ledger: LedgerId, from: Offset, bytes_max: usize) -> Asked {
        let mut state = self.state.lock();
        if let Some(at) = state.kept.iter().rposition(|run| run.holds(ledger, from)) {
            let entries = state.kept[at].from(from, bytes_max);
            if let Some(run) = state.kept.remove(at) {
                state.kept.push_back(run);
            }
            return Asked::Here(entries);
        }
        let place = (ledger, from);
        if let Some(reading) = state.reading.get(&place) {
            return Asked::Wait(Waiting(reading.clone()));
        }
        let is_wanted = state.lately.iter().any(|((of, first), end)| *of == ledger && (*first..*end).contains(&from));
        let (over, reading) = watch::channel(());
        state.reading.insert(place, reading);
        Asked::Read(Turn { recent: self.clone(), place, is_wanted, over })
    }
}

impl Run {
    fn holds(&self, ledger: LedgerId, from: Offset) -> bool {
        let ends = self.entries.first().zip(self.entries.last());
        self.ledger == ledger && ends.is_some_and(|(first, last)| (first.first_offset()..last.end_offset()).contains(&from))
    }

    fn from(&self, from: Offset, bytes_max: usize) -> Vec<LoadedEntry> {
        let start = self.entries.partition_point(|entry| entry.end_offset() <= from);
        let mut bytes = 0;
        let fits = |entry: &&LoadedEntry| {
            let is_first = bytes == 0;
            bytes += entry.bytes();
            is_first || bytes <= bytes_max
        };
        self.entries[start..].iter().take_while(fits).cloned().collect()
    }
}

impl Turn {
    /// The read has found these, in order. Others get them if they asked for them, before or meanwhile.
    pub(crate) fn found(self, entries: &[LoadedEntry]) {
        let Some((first, last)) = entries.first().zip(entries.last()) else { return };
        let (ledger, _) = self.place;
        let bytes = entries.iter().map(LoadedEntry::cost).sum();
        let Recent { bytes_max, state } = &self.recent;
        let mut state = state.lock();
        // One of those who watch is kept for whoever comes.
        let is_shared = self.is_wanted || self.over.receiver_count() > 1;
        if !is_shared || bytes > *bytes_max {
            if state.lately.len() == LATELY_MAX {
                state.lately.pop_front();
            }
            state.lately.push_back(((ledger, first.first_offset()), last.end_offset()));
            return;
        }
        let mut gone = Vec::new();
        while state.bytes + bytes > *bytes_max || state.kept.len() == KEPT_MAX {
            let Some(oldest) = state.kept.pop_front() else { break };
            state.bytes -= oldest.bytes;
            gone.push(oldest);
        }
        state.bytes += bytes;
        state.kept.push_back(Run { ledger, entries: entries.to_vec(), bytes });
        // Their memory is given back where nobody waits for that.
        drop(state);
        drop(gone);
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.recent.state.lock().reading.remove(&self.place);
    }
}

#[cfg(test)]
mod tests {
    use alluvium_types::batch::BatchHeader;
    use alluvium_types::checksum::Crc32c;
    use alluvium_types::entry::{BatchDescriptor, EntryHeader};
    use alluvium_types::ids::EntryId;
    use alluvium_types::time::Timestamp;
    use bytes::Bytes;
    use futures::FutureExt;

    use super::*;

    const LEDGER: LedgerId = LedgerId::new(7);

    /// An entry of one message, of 100 bytes.
    fn entry(offset: u64) -> LoadedEntry {
        let header = BatchHeader { count: 1, ..BatchHeader::default() };
        let batch = BatchDescriptor { header, blob_bytes: 100, checksum: Crc32c::of(&[]), producer: None };
        let header = EntryHeader { first_offset: Offset::new(offset), server_time: Timestamp::default(), batches: vec![batch] };
        LoadedEntry::of_parts((LEDGER, EntryId::new(offset)), header, &Bytes::from(vec![0; 100]), None)
    }

    fn entries(offsets: std::ops::Range<u64>) -> Vec<LoadedEntry> {
        offsets.map(entry).collect()
    }

    fn here(asked: Asked) -> Vec<u64> {
        let Asked::Here(entries) = asked else { panic!("{asked:?}") };
        entries.iter().map(|entry| entry.first_offset().get()).collect()
    }

    fn turn(asked: Asked) -> Turn {
        let Asked::Read(turn) = asked else { panic!("{asked:?}") };
        turn
    }

    fn at(offset: u64) -> Offset {
        Offset::new(offset)
    }

    #[test]
    fn what_one_has_read_is_kept_when_another_asks_for_it() {
        let recent = Recent::new(1 << 20);
        turn(recent.ask(LEDGER, at(0), 400)).found(&entries(0..4));
        assert!(matches!(recent.ask(LEDGER, at(4), 400), Asked::Read(_)), "a lone reader goes on");
        turn(recent.ask(LEDGER, at(2), 400)).found(&entries(2..6));
        assert_eq!(here(recent.ask(LEDGER, at(3), 200)), [3, 4], "about as many bytes as asked for");
        assert_eq!(here(recent.ask(LEDGER, at(5), 1)), [5], "one at least");
        assert!(matches!(recent.ask(LEDGER, at(6), 400), Asked::Read(_)));
        assert!(matches!(recent.ask(LedgerId::new(8), at(3), 400), Asked::Read(_)), "of another ledger");
    }

    #[tokio::test]
    async fn who_wants_what_is_being_read_waits_for_it() {
        let recent = Recent::new(1 << 20);
        let first = turn(recent.ask(LEDGER, at(0), 400));
        let Asked::Wait(waiting) = recent.ask(LEDGER, at(0), 400) else { panic!("it is being read") };
        let mut waiting = Box::pin(waiting.over());
        assert!(waiting.as_mut().now_or_never().is_none());
        first.found(&entries(0..4));
        waiting.await;
        assert_eq!(here(recent.ask(LEDGER, at(0), 1000)), [0, 1, 2, 3]);
        // One that fails, or is given up, leaves nothing and holds nobody up.
        let failed = turn(recent.ask(LEDGER, at(4), 400));
        let Asked::Wait(waiting) = recent.ask(LEDGER, at(4), 400) else { panic!("it is being read") };
        drop(failed);
        waiting.over().await;
        turn(recent.ask(LEDGER, at(4), 400));
    }

    #[test]
    fn q6_what_is_kept_is_bounded_and_the_least_used_goes() {
        let cost = entry(0).cost();
        let recent = Recent::new(4 * cost);
        let read = |first: u64| {
            for _ in 0..2 {
                turn(recent.ask(LEDGER, at(first), 200)).found(&entries(first..first + 2));
            }
        };
        read(0);
        read(10);
        assert_eq!(here(recent.ask(LEDGER, at(0), 1000)), [0, 1]);
        read(20);
        assert!(matches!(recent.ask(LEDGER, at(10), 1), Asked::Read(_)));
        assert_eq!(here(recent.ask(LEDGER, at(0), 1000)), [0, 1]);
        assert_eq!(recent.state.lock().bytes, 4 * cost);
        for _ in 0..2 {
            turn(recent.ask(LEDGER, at(30), 1000)).found(&entries(30..35));
        }
        assert!(matches!(recent.ask(LEDGER, at(30), 1), Asked::Read(_)), "more than there is room for");
    }
}
