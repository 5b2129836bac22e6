//! The newest entries of a partition, shared by all who read it: reference-counted bytes, bounded for the partition and for the
//! process.
//!
//! All partitions share one budget. Where it is used up, the entry that was cached first goes, whoever has it: what a partition
//! keeps follows from how much is published there, and an idle one keeps nothing from others. No lock is taken under another.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use alluvium_runtime::budget::{ByteBudget, BytesHeld};
use alluvium_types::ids::Offset;
use parking_lot::Mutex;

use super::entry::LoadedEntry;

/// The memory for the tails of all partitions.
#[derive(Clone, Debug)]
pub(crate) struct Tails(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    budget: ByteBudget,
    /// The entries of all tails in the order in which they came, and some that are gone already.
    order: Mutex<VecDeque<Ticket>>,
    /// Entries that are cached.
    live: AtomicUsize,
}

/// A cached entry, as others find it.
#[derive(Debug)]
struct Ticket {
    tail: Weak<Tail>,
    number: u64,
}

impl Ticket {
    fn is_live(&self) -> bool {
        self.tail.upgrade().is_some_and(|tail| self.number >= tail.first.load(Ordering::Relaxed))
    }
}

#[derive(Debug)]
struct Tail {
    run: Mutex<Run>,
    /// The number of the first entry that is here: earlier ones are gone.
    first: AtomicU64,
}

/// Entries without gaps that end at the newest one.
#[derive(Debug, Default)]
struct Run {
    entries: VecDeque<LoadedEntry>,
    bytes: usize,
}

/// The tail of one partition. Its owner fills it; readers take from it.
#[derive(Debug)]
pub(crate) struct TailCache {
    tail: Arc<Tail>,
    bytes_max: usize,
    tails: Tails,
}

impl Tails {
    /// Nothing is cached yet; at most `budget`.
    pub(crate) fn new(budget: ByteBudget) -> Self {
        Self(Arc::new(Shared { budget, order: Mutex::default(), live: AtomicUsize::new(0) }))
    }

    /// Room for so many bytes, at the cost of the oldest entries of all partitions. What somebody still reads makes no room when
    /// it goes: no more goes than twice what is asked for.
    fn make_room(&self, bytes: usize) -> Option<BytesHeld> {
        let mut gone = 0;
        loop {
            if let Some(held) = self.0.budget.try_take(bytes) {
                return Some(held);
            }
            if gone >= 2 * bytes {
                return None;
            }
            gone += self.let_oldest_go()?;
        }
    }

    /// The memory of the entry that came first; `None` when there is none.
    fn let_oldest_go(&self) -> Option<usize> {
        loop {
            let Ticket { tail, number } = self.0.order.lock().pop_front()?;
            let gone = tail.upgrade().map_or(0, |tail| self.let_go(&tail, number));
            if gone > 0 {
                return Some(gone);
            }
        }
    }

    /// Takes a tail's entries up to this one out: one, unless somebody else who makes room was overtaken. Answers their memory.
    fn let_go(&self, tail: &Tail, number: u64) -> usize {
        let mut run = tail.run.lock();
        let before = run.bytes;
        while tail.first.load(Ordering::Relaxed) <= number
            && let Some(oldest) = run.entries.pop_front()
        {
            run.bytes -= oldest.cost();
            tail.first.fetch_add(1, Ordering::Relaxed);
            self.0.live.fetch_sub(1, Ordering::Relaxed);
        }
        before - run.bytes
    }

    /// An entry came. Those that went otherwise than as the oldest of all are swept out once they are more than those that are
    /// there, so that each costs its share once.
    fn came(&self, tail: &Arc<Tail>, number: u64) {
        let live = self.0.live.fetch_add(1, Ordering::Relaxed) + 1;
        let mut order = self.0.order.lock();
        order.push_back(Ticket { tail: Arc::downgrade(tail), number });
        if order.len() > 2 * live + 64 {
            order.retain(Ticket::is_live);
        }
    }
}

impl TailCache {
    /// An empty one. It takes at most `bytes_max`.
    pub(crate) fn new(bytes_max: usize, tails: Tails) -> Self {
        Self { tail: Arc::new(Tail { run: Mutex::default(), first: AtomicU64::new(0) }), bytes_max, tails }
    }

    /// Adds the newest entry, which takes so many bytes of memory; one that does not follow the last one here begins anew. What
    /// can't be kept leaves nothing here, as it would leave a gap.
    pub(crate) fn push(&self, bytes: usize, entry: impl FnOnce(BytesHeld) -> LoadedEntry) {
        let held = (bytes <= self.bytes_max).then(|| self.tails.make_room(bytes)).flatten();
        let Some(held) = held else { return self.clear() };
        let entry = entry(held);
        let number = {
            let mut run = self.tail.run.lock();
            if run.entries.back().is_some_and(|last| last.end_offset() != entry.first_offset()) {
                self.clear_run(&mut run);
            }
            while run.bytes + bytes > self.bytes_max
                && let Some(oldest) = run.entries.pop_front()
            {
                run.bytes -= oldest.cost();
                self.went(1);
            }
            run.bytes += entry.cost();
            run.entries.push_back(entry);
            self.tail.first.load(Ordering::Relaxed) + run.entries.len() as u64 - 1
        };
        self.tails.came(&self.tail, number);
    }

    /// Lets everything go.
    pub(crate) fn clear(&self) {
        self.clear_run(&mut self.tail.run.lock());
    }

    fn clear_run(&self, run: &mut Run) {
        self.went(run.entries.len());
        *run = Run::default();
    }

    /// So many of the first entries went.
    fn went(&self, count: usize) {
        self.tail.first.fetch_add(count as u64, Ordering::Relaxed);
        self.tails.0.live.fetch_sub(count, Ordering::Relaxed);
    }

    /// Entries from the one that holds `from` on, about `bytes_max` bytes of them; nothing if that one is not here.
    pub(crate) fn read(&self, from: Offset, bytes_max: usize) -> Vec<LoadedEntry> {
        let run = self.tail.run.lock();
        if run.entries.front().is_none_or(|first| from < first.first_offset()) {
            return Vec::new();
        }
        let start = run.entries.partition_point(|entry| entry.end_offset() <= from);
        let mut bytes = 0;
        run.entries
            .iter()
            .skip(start)
            .take_while(|entry| {
                let take = bytes == 0 || bytes + entry.bytes() <= bytes_max;
                bytes += entry.bytes();
                take
            })
            .cloned()
            .collect()
    }
}

impl Drop for TailCache {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use alluvium_types::batch::BatchHeader;
    use alluvium_types::checksum::Crc32c;
    use alluvium_types::entry::{BatchDescriptor, EntryHeader};
    use alluvium_types::ids::{EntryId, LedgerId};
    use alluvium_types::time::Timestamp;
    use bytes::{Bytes, BytesMut};

    use super::*;

    fn push(cache: &TailCache, first: u64, bytes: u32) {
        let batch = BatchDescriptor {
            header: BatchHeader { count: 10, ..BatchHeader::default() },
            checksum: Crc32c::EMPTY,
            blob_bytes: bytes,
            producer: None,
        };
        let header = EntryHeader { first_offset: Offset::new(first), server_time: Timestamp::default(), batches: vec![batch] };
        let mut body = BytesMut::from(&header.encode()[..]);
        body.resize(body.len() + bytes as usize, 0);
        let body: Bytes = body.freeze();
        cache.push(LoadedEntry::cost_of(body.len(), 1), |held| {
            LoadedEntry::of_parts((LedgerId::ZERO, EntryId::ZERO), header, &body, Some(Arc::new(held)))
        });
    }

    fn firsts(cache: &TailCache, from: u64, bytes_max: usize) -> Vec<u64> {
        cache.read(Offset::new(from), bytes_max).iter().map(|entry| entry.first_offset().get()).collect()
    }

    #[test]
    fn it_keeps_the_newest_within_its_bytes() {
        let budget = ByteBudget::new(1 << 20);
        let four = 4 * LoadedEntry::cost_of(1000 + 86, 1);
        let cache = TailCache::new(four, Tails::new(budget.clone()));
        for n in 0..10 {
            push(&cache, n * 10, 1000);
        }
        assert_eq!(firsts(&cache, 0, 1 << 20), [0; 0]);
        assert_eq!(firsts(&cache, 65, 1 << 20), [60, 70, 80, 90]);
        assert_eq!(firsts(&cache, 60, 2400), [60, 70]);
        assert_eq!(firsts(&cache, 60, 1), [60], "at least one");
        assert_eq!(firsts(&cache, 100, 1), [0; 0]);
        assert!(budget.held() <= four + 4 * 256);
        push(&cache, 100, 9000);
        assert_eq!(firsts(&cache, 90, 1 << 20), [0; 0], "too large to be kept, and it would leave a gap");
        push(&cache, 110, 10);
        assert_eq!(firsts(&cache, 110, 1 << 20), [110]);
    }

    #[test]
    fn memory_goes_back_with_the_last_reader() {
        let tails = Tails::new(ByteBudget::new(4096));
        let (one, other) = (TailCache::new(1 << 20, tails.clone()), TailCache::new(1 << 20, tails));
        push(&one, 0, 3000);
        let reading = one.read(Offset::ZERO, 1);
        push(&other, 10, 3000);
        assert_eq!(firsts(&other, 10, 1), [0; 0], "somebody still reads it");
        drop(reading);
        push(&other, 20, 3000);
        assert_eq!(firsts(&other, 20, 1), [20]);
    }

    #[test]
    fn what_came_first_goes_first_whoever_has_it() {
        // Four idle partitions could keep all of the memory, and nobody else was given any.
        let cost = LoadedEntry::cost_of(1000 + 86, 1).next_multiple_of(256);
        let tails = Tails::new(ByteBudget::new(8 * cost));
        let idle: Vec<TailCache> = (0..4).map(|_| TailCache::new(2 * cost, tails.clone())).collect();
        for n in 0..2 {
            idle.iter().for_each(|cache| push(cache, n * 10, 1000));
        }
        let busy = TailCache::new(1 << 20, tails.clone());
        for n in 0..5 {
            push(&busy, n * 10, 1000);
        }
        assert_eq!(firsts(&busy, 0, 1 << 20), [0, 10, 20, 30, 40]);
        let kept: Vec<Vec<u64>> = idle.iter().map(|cache| firsts(cache, 10, 1 << 20)).collect();
        assert_eq!(kept, [vec![], vec![10], vec![10], vec![10]], "the newer half of what they had");
        for n in 5..1000 {
            push(&busy, n * 10, 1000);
        }
        assert_eq!(firsts(&busy, 9990, 1), [9990]);
        assert_eq!(firsts(&idle[3], 10, 1), [0; 0]);
        drop((idle, busy));
        assert_eq!((tails.0.live.load(Ordering::Relaxed), tails.0.budget.held()), (0, 0));
    }

    #[test]
    fn entries_that_went_by_themselves_are_not_remembered() {
        // An idle partition's entry is the oldest of all, and another one recycles its own.
        let tails = Tails::new(ByteBudget::new(1 << 20));
        let (idle, busy) = (TailCache::new(1 << 20, tails.clone()), TailCache::new(4000, tails.clone()));
        push(&idle, 0, 1000);
        for n in 0..10_000 {
            push(&busy, n * 10, 1000);
            assert!(tails.0.order.lock().len() <= 2 * 4 + 65);
        }
        assert_eq!(firsts(&idle, 0, 1), [0]);
    }
}
