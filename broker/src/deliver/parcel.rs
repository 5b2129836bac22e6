//! One delivery on its way out: as whole batches, or decoded and in pieces that fit credit and transport.

use std::sync::Arc;

use alluvium_proto::batch::{BatchError, decode, to_wire};
use alluvium_proto::v1;
use alluvium_runtime::budget::BytesHeld;
use alluvium_types::checksum::Crc32c;
use alluvium_types::ids::{EntryId, LedgerId, Offset, PartitionIndex};
use alluvium_types::names::ProducerName;
use prost::Message as _;

use super::bundle::Bundle;
use crate::subscription::{Delivery, Grant, Span};
use crate::topic::PlacedBatch;

/// What a decoded message takes beside its own bytes.
const MESSAGE_OVERHEAD_BYTES: usize = 160;

/// In which shape a client takes messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Format {
    /// Decoded, one by one.
    Messages,
    /// As their producers sent them, where all of a batch is due.
    Batches,
}

/// A batch that was looked into. What it holds of the budget goes back with the last of its messages.
#[derive(Clone, Debug)]
pub(super) struct Decoded {
    place: (LedgerId, EntryId),
    whole: Span,
    messages: Arc<Vec<v1::Message>>,
    held: Arc<BytesHeld>,
}

/// A delivery of which some may have been sent.
#[derive(Debug)]
pub(super) struct Parcel {
    partition: PartitionIndex,
    delivery: Delivery,
    format: Format,
    /// The first message that was not handed over.
    at: Offset,
    /// The batch that was decoded last.
    decoded: Option<Decoded>,
    /// Of the bytes taken for the delivery, those that no message has used.
    paid: u64,
}

/// What is to be done about a parcel next.
#[derive(Debug)]
pub(super) enum Step {
    /// Go on: so much was added to the response.
    Added { messages: u64, bytes: u64 },
    /// Send the response first: nothing more of this fits in.
    Full,
    /// All messages of a batch can't be decoded, also those that are not part of this delivery: report them. They cost nothing,
    /// and `unused` credit goes back.
    Undeliverable { span: Span, producer: Option<ProducerName>, error: BatchError, unused: Grant },
    /// Take so much from the budget for decoding, then go on with [`Parcel::inflate`].
    NeedsRoom(usize),
    /// The next message is larger than what was taken for it, and the rest of the credit does not cover it.
    NeedsCredit,
    /// All of it is out; this much credit was not used.
    Done(Grant),
}

impl Parcel {
    /// `decoded` is what the parcel before this one left: a consumer that takes messages one by one has their batch decoded once.
    pub(super) fn new(partition: PartitionIndex, delivery: Delivery, format: Format, decoded: Option<Decoded>) -> Self {
        let (at, paid) = (delivery.span.first, delivery.taken.bytes);
        Self { partition, delivery, format, at, decoded, paid }
    }

    /// The batch that was decoded and of which more is likely to be due.
    pub(super) fn into_decoded(self) -> Option<Decoded> {
        let end = self.delivery.span.end;
        self.decoded.filter(|decoded| decoded.place == self.delivery.entry.place() && decoded.whole.contains(end))
    }

    /// What was not handed over.
    pub(super) fn unsent(&self) -> Span {
        Span::new(self.at, self.delivery.span.end)
    }

    /// The credit that was taken for that.
    pub(super) fn unused(&self) -> Grant {
        Grant { messages: self.unsent().count(), bytes: self.paid }
    }

    /// Whose it is.
    pub(super) const fn partition(&self) -> PartitionIndex {
        self.partition
    }

    /// The credit that was taken for it.
    pub(super) const fn taken(&self) -> Grant {
        self.delivery.taken
    }

    /// Adds to the response what it can, and says what to do next. `more` takes so many bytes more from the credit, if that much is left.
    pub(super) fn next(&mut self, response: &mut Bundle, more: impl FnMut(u64) -> bool) -> Step {
        if self.unsent().is_empty() {
            return Step::Done(Grant { messages: 0, bytes: std::mem::take(&mut self.paid) });
        }
        if !response.is_open_to(self.partition) {
            return Step::Full;
        }
        let place = self.delivery.entry.place();
        if let Some(decoded) = self.decoded.clone().filter(|d| d.place == place && d.whole.contains(self.at)) {
            return self.add_decoded(&decoded, response, more);
        }
        let batch = self.batch();
        let due = Span::new(batch.first_offset, batch.end_offset()).within(self.unsent());
        if self.format == Format::Batches && due.count() == u64::from(batch.descriptor.header.count) {
            return self.add_batch(due, response);
        }
        let header = &batch.descriptor.header;
        Step::NeedsRoom(header.inflated_bytes as usize + header.count as usize * MESSAGE_OVERHEAD_BYTES)
    }

    /// Decodes the batch that is next (B4): its checksum is the one its producer computed, its size and count are those it says.
    /// `None`: go on with [`Parcel::next`].
    pub(super) fn inflate(&mut self, held: BytesHeld) -> Option<Step> {
        let batch = self.batch();
        let whole = Span::new(batch.first_offset, batch.end_offset());
        let due = whole.within(self.unsent());
        let header = batch.descriptor.header;
        let computed = header.checksum(Crc32c::of(batch.blob), batch.blob.len());
        let messages = if computed == batch.descriptor.checksum {
            decode(&header, batch.blob)
        } else {
            let message = format!("computed {computed:?}, the batch says {:?}", batch.descriptor.checksum);
            Err(BatchError { field: "batch.checksum", reason: "BATCH_CHECKSUM", message })
        };
        match messages {
            Ok(messages) => {
                let place = self.delivery.entry.place();
                self.decoded = Some(Decoded { place, whole, messages: Arc::new(messages), held: Arc::new(held) });
                None
            }
            Err(error) => {
                let producer = batch.descriptor.producer.as_ref().map(|p| p.name.clone());
                let bytes = u64::from(header.inflated_bytes).div_ceil(u64::from(header.count.max(1))) * due.count();
                let unused = Grant { messages: due.count(), bytes: bytes.min(self.paid) };
                self.paid -= unused.bytes;
                self.at = due.end;
                Some(Step::Undeliverable { span: whole, producer, error, unused })
            }
        }
    }

    fn batch(&self) -> PlacedBatch<'_> {
        let found = self.delivery.entry.batches().find(|b| self.at < b.end_offset());
        found.expect("a delivery lies within its entry")
    }

    fn add_batch(&mut self, due: Span, response: &mut Bundle) -> Step {
        let batch = self.batch();
        let (header, blob) = (&batch.descriptor.header, batch.blob);
        if !response.takes_batch(blob.len()) {
            return Step::Full;
        }
        let delivered = v1::DeliveredBatch {
            first_offset: due.first.get(),
            server_time_ms: self.delivery.entry.server_time().as_millis(),
            attempt: self.delivery.attempt,
            batch: Some(to_wire(header, batch.descriptor.checksum, blob.clone())),
        };
        let bytes = u64::from(header.inflated_bytes);
        response.add_batch(self.partition, delivered, blob.len());
        response.keep(&self.delivery.entry, None);
        self.paid = self.paid.saturating_sub(bytes);
        self.at = due.end;
        Step::Added { messages: due.count(), bytes }
    }

    fn add_decoded(&mut self, decoded: &Decoded, response: &mut Bundle, mut more: impl FnMut(u64) -> bool) -> Step {
        let due = decoded.whole.within(self.unsent());
        let skipped = usize::try_from(decoded.whole.first.distance_to(due.first)).unwrap_or(usize::MAX);
        let wanted = usize::try_from(due.count()).unwrap_or(usize::MAX);
        let (mut messages, mut sent, mut is_full) = (0, 0, false);
        for message in decoded.messages.iter().skip(skipped).take(wanted) {
            let bytes = message.encoded_len();
            is_full = !response.takes_message(bytes);
            if is_full {
                break;
            }
            let short = (bytes as u64).saturating_sub(self.paid);
            if short > 0 && !more(short) {
                break;
            }
            self.paid = self.paid.saturating_sub(bytes as u64);
            (messages, sent) = (messages + 1, sent + bytes as u64);
            let delivered = v1::DeliveredMessage {
                offset: self.at.get(),
                message: Some(message.clone()),
                server_time_ms: self.delivery.entry.server_time().as_millis(),
                attempt: self.delivery.attempt,
            };
            response.add_message(self.partition, delivered, bytes);
            self.at = self.at.next();
        }
        if messages > 0 {
            response.keep(&self.delivery.entry, Some(&decoded.held));
            Step::Added { messages, bytes: sent }
        } else if is_full {
            Step::Full
        } else {
            Step::NeedsCredit
        }
    }
}

#[cfg(test)]
mod tests {
    use alluvium_proto::batch::BatchBuilder;
    use alluvium_runtime::budget::ByteBudget;
    use alluvium_types::batch::{BatchHeader, Codec};
    use alluvium_types::entry::{BatchDescriptor, EntryHeader, ProducerStamp};
    use alluvium_types::time::Timestamp;
    use bytes::{Bytes, BytesMut};

    use super::*;
    use crate::topic::LoadedEntry;

    /// Three messages in each batch; `spoil` may lie about one.
    fn entry(codec: Codec, batches: usize, spoil: impl Fn(usize, &mut BatchHeader)) -> LoadedEntry {
        let (mut descriptors, mut blobs) = (Vec::new(), BytesMut::new());
        for number in 0..batches {
            let mut builder = BatchBuilder::with_capacity(0);
            for n in 0..3 {
                let payload = Bytes::from(format!("{number}.{n} {}", "x".repeat(50 * n)));
                builder.push(&v1::Message { payload, ..Default::default() });
            }
            let batch = builder.finish(codec, 0, Timestamp::from_millis(1));
            let codec = Codec::from_number(u8::try_from(batch.codec).expect("small")).expect("known");
            let mut header = BatchHeader { count: 3, codec, inflated_bytes: batch.inflated_bytes, ..BatchHeader::default() };
            header.publish_time = Timestamp::from_millis(batch.publish_time_ms);
            spoil(number, &mut header);
            let producer = Some(ProducerStamp { name: ProducerName::parse("alice").expect("valid"), epoch: 1 });
            let checksum = header.checksum(Crc32c::of(&batch.blob), batch.blob.len());
            let blob_bytes = u32::try_from(batch.blob.len()).expect("small");
            descriptors.push(BatchDescriptor { header, checksum, blob_bytes, producer });
            blobs.extend_from_slice(&batch.blob);
        }
        let header = EntryHeader { first_offset: Offset::new(100), server_time: Timestamp::from_millis(7), batches: descriptors };
        let mut body = BytesMut::from(&header.encode()[..]);
        body.extend_from_slice(&blobs);
        LoadedEntry::decode((LedgerId::new(1), EntryId::new(0)), &body.freeze(), None).expect("valid")
    }

    fn parcel(entry: LoadedEntry, first: u64, end: u64, bytes: u64, format: Format) -> Parcel {
        let span = Span::new(Offset::new(first), Offset::new(end));
        let taken = Grant { messages: span.count(), bytes };
        Parcel::new(PartitionIndex::new(2), Delivery { entry, span, attempt: 4, taken }, format, None)
    }

    /// All responses, with what could not be delivered; every budget is granted.
    fn all(parcel: &mut Parcel) -> (Vec<v1::Delivery>, Vec<(Span, &'static str)>, Grant) {
        let budget = ByteBudget::new(1 << 20);
        let (mut sent, mut faults, mut unused) = (Vec::new(), Vec::new(), Grant::default());
        let mut response = Bundle::default();
        loop {
            let mut step = parcel.next(&mut response, |_| true);
            if let Step::NeedsRoom(bytes) = step {
                match parcel.inflate(budget.try_take(bytes).expect("free")) {
                    None => continue,
                    Some(fault) => step = fault,
                }
            }
            match step {
                Step::Added { .. } => {}
                Step::Full => sent.push(std::mem::take(&mut response).finish().0),
                Step::Undeliverable { span, error, unused: back, producer } => {
                    assert_eq!(producer.map(|p| p.to_string()).as_deref(), Some("alice"));
                    unused.messages += back.messages;
                    faults.push((span, error.reason));
                }
                Step::Done(back) => {
                    unused.bytes += back.bytes;
                    sent.extend((!response.is_empty()).then(|| response.finish().0));
                    return (sent, faults, unused);
                }
                Step::NeedsRoom(_) | Step::NeedsCredit => unreachable!("handled above, or granted"),
            }
        }
    }

    fn offsets(responses: &[v1::Delivery]) -> Vec<u64> {
        responses.iter().flat_map(|r| r.messages.iter().map(|m| m.offset)).collect()
    }

    #[test]
    fn whole_batches_go_out_as_they_came_and_cut_ones_decoded() {
        let entry = entry(Codec::Lz4, 3, |_, _| {});
        let (sent, faults, _) = all(&mut parcel(entry, 101, 109, 10_000, Format::Batches));
        assert!(faults.is_empty());
        assert_eq!(offsets(&sent), [101, 102], "the first batch lacks a message");
        assert_eq!(sent.len(), 2, "what is whole goes together, and not with what is not");
        let batches: Vec<u64> = sent[1].batches.iter().map(|b| b.first_offset).collect();
        assert_eq!(batches, [103, 106]);
        let batch = sent[1].batches[0].batch.clone().expect("a batch");
        assert!(alluvium_proto::batch::check(&batch, alluvium_types::limits::Limits::default()).is_ok(), "checksum and all");
    }

    #[test]
    fn decoded_messages_carry_offset_attempt_and_time() {
        for codec in [Codec::None, Codec::Lz4, Codec::Zstd] {
            let (sent, _, _) = all(&mut parcel(entry(codec, 2, |_, _| {}), 100, 106, 10_000, Format::Messages));
            assert_eq!(offsets(&sent), [100, 101, 102, 103, 104, 105]);
            let last = sent.last().and_then(|r| r.messages.last()).expect("some");
            assert_eq!((last.attempt, last.server_time_ms), (4, 7));
            assert!(last.message.as_ref().expect("there").payload.starts_with(b"1.2"));
        }
    }

    #[test]
    fn a_batch_that_contradicts_its_header_is_reported_and_the_rest_goes_on() {
        // B4, T6: found where it is first decoded, with its offsets and its producer.
        for codec in [Codec::None, Codec::Lz4, Codec::Zstd] {
            let lying = entry(codec, 3, |number, header| {
                if number == 1 {
                    header.count = 4;
                }
            });
            let (sent, faults, unused) = all(&mut parcel(lying, 100, 110, 10_000, Format::Messages));
            assert_eq!(faults, [(Span::new(Offset::new(103), Offset::new(107)), "BATCH_COUNT")]);
            assert_eq!(offsets(&sent), [100, 101, 102, 107, 108, 109]);
            assert_eq!(unused.messages, 4, "what was not delivered costs nothing");
        }
    }

    #[test]
    fn a_batch_that_is_taken_message_by_message_is_decoded_once() {
        let entry = entry(Codec::Zstd, 1, |_, _| {});
        let mut first = parcel(entry.clone(), 100, 101, 1000, Format::Messages);
        assert_eq!(offsets(&all(&mut first).0), [100]);
        let taken = Grant { messages: 2, bytes: 1000 };
        let span = Span::new(Offset::new(101), Offset::new(103));
        let delivery = Delivery { entry, span, attempt: 1, taken };
        let mut second = Parcel::new(PartitionIndex::new(2), delivery, Format::Messages, first.into_decoded());
        let step = second.next(&mut Bundle::default(), |_| true);
        assert!(matches!(step, Step::Added { messages: 2, .. }), "without room for decoding");
        assert!(second.into_decoded().is_none(), "all of it was sent");
    }

    #[test]
    fn a_message_larger_than_what_was_taken_waits_for_credit() {
        let mut parcel = parcel(entry(Codec::None, 1, |_, _| {}), 100, 103, 60, Format::Messages);
        let mut response = Bundle::default();
        let Step::NeedsRoom(bytes) = parcel.next(&mut response, |_| false) else { panic!("it is decoded first") };
        assert!(parcel.inflate(ByteBudget::new(1 << 20).try_take(bytes).expect("free")).is_none());
        let Step::Added { messages, .. } = parcel.next(&mut response, |_| false) else { panic!("the first one fits") };
        assert_eq!(messages, 1);
        assert!(matches!(parcel.next(&mut response, |_| false), Step::NeedsCredit));
        assert_eq!(parcel.unsent(), Span::new(Offset::new(101), Offset::new(103)));
        let Step::Added { messages, .. } = parcel.next(&mut response, |_| true) else { panic!("credit came") };
        assert_eq!(messages, 2);
        assert!(matches!(parcel.next(&mut response, |_| false), Step::Done(_)));
    }

    #[test]
    fn small_deliveries_of_a_partition_go_out_together_and_large_ones_alone() {
        let small = || parcel(entry(Codec::None, 2, |_, _| {}), 100, 106, 10_000, Format::Batches);
        let mut response = Bundle::default();
        for _ in 0..3 {
            let mut parcel = small();
            assert!(matches!(parcel.next(&mut response, |_| false), Step::Added { messages: 3, .. }));
            assert!(matches!(parcel.next(&mut response, |_| false), Step::Added { messages: 3, .. }));
            assert!(matches!(parcel.next(&mut response, |_| false), Step::Done(_)));
        }
        let mut other = Parcel { partition: PartitionIndex::new(3), ..small() };
        assert!(matches!(other.next(&mut response, |_| false), Step::Full), "of another partition");
        let large = || {
            let mut builder = BatchBuilder::with_capacity(0);
            builder.push(&v1::Message { payload: Bytes::from(vec![1; 200 << 10]), ..Default::default() });
            let batch = builder.finish(Codec::None, 0, Timestamp::from_millis(1));
            let header = BatchHeader { count: 1, inflated_bytes: batch.inflated_bytes, ..BatchHeader::default() };
            let blob_bytes = batch.inflated_bytes;
            let batches = vec![BatchDescriptor { header, checksum: Crc32c::EMPTY, blob_bytes, producer: None }];
            let header = EntryHeader { first_offset: Offset::new(100), server_time: Timestamp::from_millis(7), batches };
            LoadedEntry::of_parts((LedgerId::new(1), EntryId::new(0)), header, &batch.blob, None)
        };
        let mut next = parcel(large(), 100, 101, 1 << 20, Format::Batches);
        assert!(matches!(next.next(&mut response, |_| false), Step::Full));
        let (delivery, _) = std::mem::take(&mut response).finish();
        assert_eq!((delivery.partition, delivery.batches.len()), (2, 6));
        assert!(
            matches!(next.next(&mut response, |_| false), Step::Added { messages: 1, .. }),
            "the first is let in, however large"
        );
        assert!(matches!(small().next(&mut response, |_| false), Step::Full));
    }
}
