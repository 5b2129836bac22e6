//! Batches become entries: while an append is in flight, whatever arrives joins the next one.

use std::collections::VecDeque;

use alluvium_runtime::budget::BytesHeld;
use alluvium_types::batch::BatchHeader;
use alluvium_types::checksum::Crc32c;
use alluvium_types::entry::{BatchDescriptor, EntryHeader, ProducerStamp};
use alluvium_types::ids::Offset;
use alluvium_types::limits::{ENTRY_BATCHES_MAX, ENTRY_BYTES_TARGET};
use alluvium_types::time::Timestamp;
use bytes::{Bytes, BytesMut};

use super::receipt::Waiting;

/// About what a batch's descriptor adds to an entry's header, without the producer's name.
const DESCRIPTOR_BYTES: usize = 64;

/// A batch that was checked and paid for.
#[derive(Debug)]
pub(crate) struct Admitted {
    /// What the client said of it.
    pub(crate) header: BatchHeader,
    /// The client's checksum, over those fields and the blob.
    pub(crate) checksum: Crc32c,
    /// The blob.
    pub(crate) blob: Bytes,
    /// The blob's own checksum, which was verified through the client's.
    pub(crate) blob_crc: Crc32c,
    /// Who sent it; `None` without idempotence.
    pub(crate) producer: Option<ProducerStamp>,
    /// Its memory.
    pub(crate) held: BytesHeld,
}

impl Admitted {
    fn cost(&self) -> usize {
        self.blob.len() + DESCRIPTOR_BYTES + self.producer.as_ref().map_or(0, |stamp| stamp.name.as_str().len())
    }
}

/// An entry that is not built yet.
#[derive(Debug)]
pub(crate) struct Filling {
    first_offset: Offset,
    batches: Vec<Admitted>,
    bytes: usize,
    waiting: Vec<Waiting>,
}

/// An entry, ready to be appended.
#[derive(Debug)]
pub(crate) struct Built {
    /// Its header.
    pub(crate) header: EntryHeader,
    /// Header and blobs, in one piece. Whoever holds a copy of *this* holds the batches' memory in the budget (Q6).
    pub(crate) body: Bytes,
    /// The same bytes without a hold on that budget: for those with a budget of their own.
    pub(crate) unheld: Bytes,
    /// The body's checksum, combined from the batches' (B4).
    pub(crate) body_crc: Crc32c,
    /// Who is told when it is stored.
    pub(crate) waiting: Vec<Waiting>,
}

/// The batches of a partition that are not appended yet, in order.
#[derive(Debug, Default)]
pub(crate) struct Coalescer {
    full: VecDeque<Filling>,
    open: Option<Filling>,
    bytes: usize,
}

impl Coalescer {
    /// Bytes that wait.
    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether nothing waits.
    pub(crate) const fn is_empty(&self) -> bool {
        self.open.is_none()
    }

    /// Takes a batch whose first message gets the offset `at`: the one after all that were taken before.
    pub(crate) fn push(&mut self, batch: Admitted, at: Offset, waiting: Waiting) {
        let cost = batch.cost();
        if let Some(open) = self.open.take_if(|open| {
            !open.batches.is_empty() && (open.bytes + cost > ENTRY_BYTES_TARGET || open.batches.len() == ENTRY_BATCHES_MAX)
        }) {
            self.full.push_back(open);
        }
        let open =
            self.open.get_or_insert_with(|| Filling { first_offset: at, batches: Vec::new(), bytes: 0, waiting: Vec::new() });
        open.bytes += cost;
        self.bytes += cost;
        open.batches.push(batch);
        open.waiting.push(waiting);
    }

    /// Lets something that isn't stored wait for all that waits here; gives it back if nothing does.
    pub(crate) fn attach(&mut self, waiting: Waiting) -> Result<(), Waiting> {
        match &mut self.open {
            Some(open) => {
                open.waiting.push(waiting);
                Ok(())
            }
            None => Err(waiting),
        }
    }

    /// The next entry: a full one, or, when nothing is in flight that it could wait for, what there is.
    pub(crate) fn next(&mut self, nothing_in_flight: bool) -> Option<Filling> {
        let next = match self.full.pop_front() {
            Some(full) => Some(full),
            None if nothing_in_flight => self.open.take(),
            None => self.open.take_if(|open| open.bytes >= ENTRY_BYTES_TARGET),
        }?;
        self.bytes -= next.bytes;
        Some(next)
    }

    /// Everyone who waits, in order; nothing of it is appended.
    pub(crate) fn abandon(&mut self) -> Vec<Waiting> {
        self.bytes = 0;
        self.full.drain(..).chain(self.open.take()).flat_map(|filling| filling.waiting).collect()
    }
}

/// A body, and what it holds of the budget.
struct HeldBody {
    body: Bytes,
    _held: Vec<BytesHeld>,
}

impl AsRef<[u8]> for HeldBody {
    fn as_ref(&self) -> &[u8] {
        &self.body
    }
}

impl Filling {
    /// Builds the entry with one copy of each blob.
    pub(crate) fn build(self, server_time: Timestamp) -> Built {
        let descriptor = |batch: &Admitted| BatchDescriptor {
            header: batch.header,
            checksum: batch.checksum,
            blob_bytes: u32::try_from(batch.blob.len()).expect("a batch is bounded far below 4 GiB"),
            producer: batch.producer.clone(),
        };
        let header =
            EntryHeader { first_offset: self.first_offset, server_time, batches: self.batches.iter().map(descriptor).collect() };
        let head = header.encode();
        let blob_bytes: usize = self.batches.iter().map(|batch| batch.blob.len()).sum();
        let mut body = BytesMut::with_capacity(head.len() + blob_bytes);
        body.extend_from_slice(&head);
        let mut body_crc = Crc32c::of(&head);
        let mut held = Vec::with_capacity(self.batches.len());
        for batch in self.batches {
            body.extend_from_slice(&batch.blob);
            body_crc = body_crc.followed_by(batch.blob_crc, batch.blob.len());
            held.push(batch.held);
        }
        let unheld = body.freeze();
        let body = Bytes::from_owner(HeldBody { body: unheld.clone(), _held: held });
        Built { header, body, unheld, body_crc, waiting: self.waiting }
    }
}

#[cfg(test)]
mod tests {
    use alluvium_runtime::budget::ByteBudget;
    use alluvium_types::fault::{Fault, FaultKind};
    use alluvium_types::ids::PartitionIndex;

    use super::super::receipt::{Answers, Guarantee, Stored, Ticket};
    use super::*;

    fn batch(budget: &ByteBudget, bytes: usize, fill: u8) -> Admitted {
        let blob = Bytes::from(vec![fill; bytes]);
        let blob_crc = Crc32c::of(&blob);
        let header = BatchHeader { count: 2, ..BatchHeader::default() };
        let held = budget.try_take(bytes).expect("room");
        Admitted { header, checksum: header.checksum(blob_crc, bytes), blob, blob_crc, producer: None, held }
    }

    fn waiting(answers: &Answers, id: u64) -> Waiting {
        let ticket = Ticket { answers: answers.clone(), id, partition: PartitionIndex::default(), guarantee: Guarantee::Quorum };
        Waiting::Batch(Some(ticket), Ok(Stored { first_offset: Offset::ZERO, duplicate: false }))
    }

    #[test]
    fn while_an_append_is_in_flight_batches_join_the_next_entry() {
        let budget = ByteBudget::new(1 << 30);
        let (answers, _rx) = Answers::channel(8);
        let mut coalescer = Coalescer::default();
        for n in 0..3 {
            coalescer.push(batch(&budget, 1000, 1), Offset::new(2 * n), waiting(&answers, n));
            assert!(coalescer.next(false).is_none());
        }
        let built = coalescer.next(true).expect("nothing is in flight").build(Timestamp::from_millis(5));
        assert_eq!((built.header.batches.len(), built.header.count(), built.waiting.len()), (3, 6, 3));
        assert!(coalescer.is_empty() && coalescer.bytes() == 0);
    }

    #[test]
    fn a_full_entry_goes_without_waiting_and_never_grows_past_its_target() {
        let budget = ByteBudget::new(1 << 30);
        let (answers, _rx) = Answers::channel(8);
        let mut coalescer = Coalescer::default();
        for n in 0..9 {
            coalescer.push(batch(&budget, 100_000, 1), Offset::new(2 * n), waiting(&answers, n));
        }
        let mut first = 0;
        while let Some(filling) = coalescer.next(false) {
            let built = filling.build(Timestamp::default());
            assert_eq!(built.header.first_offset, Offset::new(first));
            assert!(built.body.len() <= ENTRY_BYTES_TARGET);
            first = built.header.range().end_offset().get();
        }
        assert_eq!(first, 16, "the ninth waits");
        // One that is larger than the target goes alone.
        coalescer.push(batch(&budget, 3 << 20, 1), Offset::new(18), waiting(&answers, 9));
        assert!(coalescer.next(false).is_some(), "the ninth is closed by it");
        assert!(coalescer.next(false).is_some(), "and it is more than full");
    }

    #[test]
    fn an_entry_decodes_to_its_batches_and_its_checksum_is_combined() {
        let budget = ByteBudget::new(1 << 20);
        let (answers, _rx) = Answers::channel(8);
        let mut coalescer = Coalescer::default();
        for (n, bytes) in [700, 1, 4096].into_iter().enumerate() {
            let fill = u8::try_from(n).expect("small");
            coalescer.push(batch(&budget, bytes, fill), Offset::new(7), waiting(&answers, 0));
        }
        let built = coalescer.next(true).expect("three").build(Timestamp::from_millis(9));
        assert_eq!(Crc32c::of(&built.body), built.body_crc);
        let (header, blobs) = EntryHeader::decode(&built.body).expect("sound");
        assert_eq!(header, built.header);
        assert_eq!(blobs.iter().map(|blob| (blob[0], blob.len())).collect::<Vec<_>>(), [(0, 700), (1, 1), (2, 4096)]);
    }

    #[test]
    fn q6_memory_is_held_until_the_last_copy_is_gone() {
        let budget = ByteBudget::new(1 << 20);
        let (answers, _rx) = Answers::channel(8);
        let mut coalescer = Coalescer::default();
        coalescer.push(batch(&budget, 5000, 1), Offset::ZERO, waiting(&answers, 0));
        let built = coalescer.next(true).expect("one").build(Timestamp::default());
        let slow_replica = built.body.slice(100..200);
        let cached = built.unheld.clone();
        drop(built);
        assert!(budget.held() >= 5000, "a copy is on its way to a slow bookie");
        drop(slow_replica);
        assert_eq!(budget.held(), 0, "the cache has a budget of its own");
        assert!(cached.len() > 5000);
    }

    #[test]
    fn those_abandoned_keep_their_order() {
        let budget = ByteBudget::new(1 << 30);
        let (answers, mut rx) = Answers::channel(8);
        let mut coalescer = Coalescer::default();
        for n in 0..4 {
            coalescer.push(batch(&budget, 200_000, 1), Offset::new(2 * n), waiting(&answers, n));
        }
        assert!(coalescer.attach(waiting(&answers, 4)).is_ok());
        super::super::receipt::tell_fault(coalescer.abandon(), &Fault::new(FaultKind::Unavailable, "GONE", "gone"));
        let super::super::receipt::Answer::Receipts(receipts) = rx.try_recv().expect("told") else { panic!("receipts") };
        assert_eq!(receipts.iter().map(|r| r.id).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
        assert!(coalescer.attach(waiting(&answers, 5)).is_err());
    }
}
