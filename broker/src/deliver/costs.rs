//! What delivering costs in a broker: from an entry, as a bookie or the tail cache has it, to the bytes of a response.

use alluvium_proto::batch::BatchBuilder;
use alluvium_proto::v1;
use alluvium_proto::v1::subscribe_response::Response;
use alluvium_runtime::budget::ByteBudget;
use alluvium_test_costs::{Cost, check};
use alluvium_types::batch::{BatchHeader, Codec};
use alluvium_types::checksum::Crc32c;
use alluvium_types::entry::{BatchDescriptor, EntryHeader};
use alluvium_types::ids::{EntryId, LedgerId, Offset, PartitionIndex};
use alluvium_types::time::Timestamp;
use bytes::{Bytes, BytesMut};
use prost::Message as _;

use super::bundle::Bundle;
use super::parcel::{Format, Parcel, Step};
use crate::subscription::{Delivery, Grant, Span};
use crate::topic::LoadedEntry;

const ENTRY_BATCHES: u64 = 2;
const BATCH_MESSAGES: u64 = 8;
const MESSAGE_BYTES: usize = 1024;
const ENTRY_MESSAGES: u64 = ENTRY_BATCHES * BATCH_MESSAGES;

const BATCHES: Cost = Cost { instructions: 538.0, allocations: 0.31, copied: 1055.0 };
const MESSAGES: Cost = Cost { instructions: 3482.0, allocations: 0.88, copied: 1066.0 };

/// An entry of a partition's log.
fn entry() -> Bytes {
    let mut builder = BatchBuilder::with_capacity(0);
    for _ in 0..BATCH_MESSAGES {
        builder.push(&v1::Message { payload: Bytes::from(vec![7; MESSAGE_BYTES]), ..Default::default() });
    }
    let blob = builder.finish(Codec::None, 0, Timestamp::from_millis(1)).blob;
    let blob_bytes = u32::try_from(blob.len()).expect("short");
    let count = u32::try_from(BATCH_MESSAGES).expect("few");
    let header = BatchHeader { count, inflated_bytes: blob_bytes, ..BatchHeader::default() };
    let batch = BatchDescriptor { header, checksum: header.checksum(Crc32c::of(&blob), blob.len()), blob_bytes, producer: None };
    let batches = vec![batch; usize::try_from(ENTRY_BATCHES).expect("few")];
    let header = EntryHeader { first_offset: Offset::ZERO, server_time: Timestamp::from_millis(2), batches };
    [&header.encode()[..], &blob, &blob].concat().into()
}

/// Delivers as many entries as hold so many messages.
fn deliver(body: &Bytes, messages: u64, format: Format) {
    let budget = ByteBudget::new(1 << 20);
    let mut wire = BytesMut::new();
    let mut delivered = 0;
    for number in 0..messages / ENTRY_MESSAGES {
        let entry = LoadedEntry::decode((LedgerId::new(1), EntryId::new(number)), body, None).expect("sound");
        let span = Span::new(entry.first_offset(), entry.end_offset());
        let taken = Grant { messages: span.count(), bytes: 1 << 20 };
        let delivery = Delivery { entry, span, attempt: 1, taken };
        let mut parcel = Parcel::new(PartitionIndex::default(), delivery, format, None);
        let mut bundle = Bundle::default();
        loop {
            match parcel.next(&mut bundle, |_| true) {
                Step::Added { messages, .. } => delivered += messages,
                Step::NeedsRoom(bytes) => {
                    assert!(parcel.inflate(budget.try_take(bytes).expect("free")).is_none(), "it is sound");
                }
                Step::Done(_) => break,
                step => panic!("an entry goes out in one response: {step:?}"),
            }
        }
        let (delivery, hold) = bundle.finish();
        wire.clear();
        v1::SubscribeResponse { response: Some(Response::Delivery(delivery)) }.encode(&mut wire).expect("it grows");
        drop(hold);
    }
    assert_eq!(delivered, messages / ENTRY_MESSAGES * ENTRY_MESSAGES);
}

#[test]
fn a_delivery_of_batches_costs_what_is_committed() {
    let test = "deliver::costs::a_delivery_of_batches_costs_what_is_committed";
    check(test, BATCHES, |_| entry(), |entry, messages| deliver(&entry, messages, Format::Batches));
}

#[test]
fn a_delivery_of_messages_costs_what_is_committed() {
    let test = "deliver::costs::a_delivery_of_messages_costs_what_is_committed";
    check(test, MESSAGES, |_| entry(), |entry, messages| deliver(&entry, messages, Format::Messages));
}
