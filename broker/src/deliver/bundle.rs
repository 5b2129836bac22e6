//! What goes out in one response: batches, or decoded messages, of one partition, in order. Many small ones go together: a response costs
//! the same whether it holds one message or a thousand.

use std::sync::Arc;

use alluvium_proto::v1;
use alluvium_runtime::budget::BytesHeld;
use alluvium_types::ids::PartitionIndex;

use super::outbox::Hold;
use crate::topic::LoadedEntry;

/// About how large a response is that holds more than one batch or message.
const BYTES_MAX: usize = 128 << 10;
/// The most batches in one response: each is more than its bytes.
const BATCHES_MAX: usize = 512;

/// See the module. Empty at first.
#[derive(Debug, Default)]
pub(super) struct Bundle {
    delivery: v1::Delivery,
    hold: Hold,
    bytes: usize,
}

impl Bundle {
    pub(super) const fn is_empty(&self) -> bool {
        self.delivery.messages.is_empty() && self.delivery.batches.is_empty()
    }

    /// Whether something of this partition may come in, if it is not too large.
    pub(super) fn is_open_to(&self, partition: PartitionIndex) -> bool {
        self.is_empty() || (self.delivery.partition == partition.get() && self.bytes < BYTES_MAX)
    }

    /// Whether a batch of so many bytes fits; the first always does.
    pub(super) fn takes_batch(&self, bytes: usize) -> bool {
        let fits = self.delivery.batches.len() < BATCHES_MAX && self.bytes + bytes <= BYTES_MAX;
        self.is_empty() || (self.delivery.messages.is_empty() && fits)
    }

    /// Whether a message of so many bytes fits; the first always does.
    pub(super) fn takes_message(&self, bytes: usize) -> bool {
        self.is_empty() || (self.delivery.batches.is_empty() && self.bytes + bytes <= BYTES_MAX)
    }

    pub(super) fn add_batch(&mut self, partition: PartitionIndex, batch: v1::DeliveredBatch, bytes: usize) {
        self.delivery.partition = partition.get();
        self.delivery.batches.push(batch);
        self.bytes += bytes;
    }

    pub(super) fn add_message(&mut self, partition: PartitionIndex, message: v1::DeliveredMessage, bytes: usize) {
        self.delivery.partition = partition.get();
        self.delivery.messages.push(message);
        self.bytes += bytes;
    }

    /// What was added is part of this entry; `inflated` is what its decoded messages hold.
    pub(super) fn keep(&mut self, entry: &LoadedEntry, inflated: Option<&Arc<BytesHeld>>) {
        self.hold.keep(entry, inflated);
    }

    /// What is to be said, and what that holds until it is out.
    pub(super) fn finish(self) -> (v1::Delivery, Hold) {
        (self.delivery, self.hold)
    }
}
