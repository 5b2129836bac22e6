//! The newest entries of a partition, shared by all who read it: reference-counted bytes, bounded for the partition and for the
//! process.

use std::collections::VecDeque;

use alluvium_runtime::budget::{ByteBudget, BytesHeld};
use alluvium_types::ids::Offset;

use super::entry::LoadedEntry;

/// A run of entries without gaps that ends at the newest one.
#[derive(Debug)]
pub(crate) struct TailCache {
    entries: VecDeque<LoadedEntry>,
    bytes: usize,
    bytes_max: usize,
    budget: ByteBudget,
}

impl TailCache {
    /// An empty one. It takes at most `bytes_max`, and no more than others leave in `budget`.
    pub(crate) const fn new(bytes_max: usize, budget: ByteBudget) -> Self {
        Self { entries: VecDeque::new(), bytes: 0, bytes_max, budget }
    }

    /// Makes room for an entry that takes so many bytes of memory, at the cost of the oldest ones here; `None` when it is too large.
    pub(crate) fn make_room(&mut self, bytes: usize) -> Option<BytesHeld> {
        if bytes > self.bytes_max {
            return None;
        }
        while self.bytes + bytes > self.bytes_max {
            self.pop();
        }
        loop {
            if let Some(held) = self.budget.try_take(bytes) {
                return Some(held);
            }
            if self.entries.is_empty() {
                return None;
            }
            self.pop();
        }
    }

    fn pop(&mut self) {
        if let Some(oldest) = self.entries.pop_front() {
            self.bytes -= oldest.cost();
        }
    }

    /// Adds the newest entry. One that does not follow the last one here begins anew.
    pub(crate) fn push(&mut self, entry: LoadedEntry) {
        if self.entries.back().is_some_and(|last| last.end_offset() != entry.first_offset()) {
            self.clear();
        }
        self.bytes += entry.cost();
        self.entries.push_back(entry);
    }

    /// Lets everything go.
    pub(crate) fn clear(&mut self) {
        self.entries.clear();
        self.bytes = 0;
    }

    /// Entries from the one that holds `from` on, about `bytes_max` bytes of them; nothing if that one is not here.
    pub(crate) fn read(&self, from: Offset, bytes_max: usize) -> Vec<LoadedEntry> {
        if self.entries.front().is_none_or(|first| from < first.first_offset()) {
            return Vec::new();
        }
        let start = self.entries.partition_point(|entry| entry.end_offset() <= from);
        let mut bytes = 0;
        self.entries
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use alluvium_types::batch::BatchHeader;
    use alluvium_types::checksum::Crc32c;
    use alluvium_types::entry::{BatchDescriptor, EntryHeader};
    use alluvium_types::ids::{EntryId, LedgerId};
    use alluvium_types::time::Timestamp;
    use bytes::{Bytes, BytesMut};

    use super::*;

    fn push(cache: &mut TailCache, first: u64, bytes: u32) {
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
        if let Some(held) = cache.make_room(LoadedEntry::cost_of(body.len(), 1)) {
            let entry = LoadedEntry::of_parts((LedgerId::ZERO, EntryId::ZERO), header, &body, Some(Arc::new(held)));
            cache.push(entry);
        }
    }

    fn firsts(cache: &TailCache, from: u64, bytes_max: usize) -> Vec<u64> {
        cache.read(Offset::new(from), bytes_max).iter().map(|entry| entry.first_offset().get()).collect()
    }

    #[test]
    fn it_keeps_the_newest_within_its_bytes() {
        let budget = ByteBudget::new(1 << 20);
        let four = 4 * LoadedEntry::cost_of(1000 + 86, 1);
        let mut cache = TailCache::new(four, budget.clone());
        for n in 0..10 {
            push(&mut cache, n * 10, 1000);
        }
        assert_eq!(firsts(&cache, 0, 1 << 20), [0; 0]);
        assert_eq!(firsts(&cache, 65, 1 << 20), [60, 70, 80, 90]);
        assert_eq!(firsts(&cache, 60, 2400), [60, 70]);
        assert_eq!(firsts(&cache, 60, 1), [60], "at least one");
        assert_eq!(firsts(&cache, 100, 1), [0; 0]);
        assert!(budget.held() <= four + 4 * 256);
        push(&mut cache, 100, 9000);
        assert_eq!(firsts(&cache, 90, 1 << 20), [90], "too large to be kept");
        push(&mut cache, 110, 10);
        assert_eq!(firsts(&cache, 90, 1 << 20), [0; 0], "it would leave a gap");
        assert_eq!(firsts(&cache, 110, 1 << 20), [110]);
    }

    #[test]
    fn partitions_share_a_budget_and_memory_goes_back_with_the_last_reader() {
        let budget = ByteBudget::new(4096);
        let (mut one, mut other) = (TailCache::new(1 << 20, budget.clone()), TailCache::new(1 << 20, budget.clone()));
        push(&mut one, 0, 3000);
        push(&mut other, 0, 3000);
        assert_eq!(firsts(&other, 0, 1), [0; 0], "the other one has the room");
        let reading = one.read(Offset::ZERO, 1);
        one.clear();
        push(&mut other, 10, 3000);
        assert_eq!(firsts(&other, 10, 1), [0; 0], "somebody still reads it");
        drop(reading);
        push(&mut other, 20, 3000);
        assert_eq!(firsts(&other, 20, 1), [20]);
    }
}
