//! What the client of a publish stream is to be told, in the words of the protocol. Receipts that come together go together.

use std::collections::VecDeque;

use alluvium_proto::status::to_wire;
use alluvium_proto::v1;
use alluvium_proto::v1::publish_stream_response::Response;
use alluvium_types::fault::Fault;
use alluvium_types::ids::PartitionIndex;

use super::lane::Item;
use super::receipt::{Claimed, Receipt, Stored};

/// Receipts and answers to claims, none of which was told.
#[derive(Debug, Default)]
pub(super) struct News {
    receipts: Vec<v1::PublishReceipt>,
    claims: VecDeque<v1::PublishClaimed>,
}

impl News {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.receipts.len() + self.claims.len()
    }

    pub(super) fn receipt(&mut self, receipt: v1::PublishReceipt) {
        self.receipts.push(receipt);
    }

    pub(super) fn claimed(&mut self, claimed: v1::PublishClaimed) {
        self.claims.push_back(claimed);
    }

    /// A request was refused.
    pub(super) fn refused<B>(&mut self, partition: PartitionIndex, item: &Item<B>, fault: &Fault) {
        match item {
            Item::Batch(id, _) => self.receipt(receipt(Receipt { id: *id, partition, result: Err(fault.clone()) })),
            Item::Claim(_) => self.claimed(claimed(partition, Err(fault.clone()))),
        }
    }

    /// The next response, if there is something to tell.
    pub(super) fn next(&mut self) -> Option<Response> {
        if self.receipts.is_empty() {
            return self.claims.pop_front().map(Response::Claimed);
        }
        Some(Response::Receipts(v1::PublishReceipts { receipts: std::mem::take(&mut self.receipts) }))
    }
}

/// A receipt, for the wire.
pub(super) fn receipt(receipt: Receipt) -> v1::PublishReceipt {
    let (stored, fault) = match receipt.result {
        Ok(stored) => (Some(stored), None),
        Err(fault) => (None, Some(to_wire(&fault))),
    };
    let Stored { first_offset, duplicate } = stored.unwrap_or_default();
    v1::PublishReceipt { id: receipt.id, partition: receipt.partition.get(), first_offset: first_offset.get(), duplicate, fault }
}

/// The answer to a claim, for the wire.
pub(super) fn claimed(partition: PartitionIndex, result: Result<Claimed, Fault>) -> v1::PublishClaimed {
    let partition = partition.get();
    match result {
        Ok(Claimed { epoch, last_sequence, forgotten }) => {
            v1::PublishClaimed { partition, epoch, last_sequence, forgotten, fault: None }
        }
        Err(fault) => v1::PublishClaimed { partition, fault: Some(to_wire(&fault)), ..Default::default() },
    }
}
