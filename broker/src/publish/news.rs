//! What the client of a publish stream is to be told, in the words of the protocol. Receipts that come together go together.

use std::collections::VecDeque;
use std::mem;

use alluvium_proto::status::to_wire;
use alluvium_proto::v1;
use alluvium_proto::v1::publish_stream_response::Response;
use alluvium_types::fault::Fault;
use alluvium_types::ids::PartitionIndex;

use super::lane::Item;
use super::receipt::{Claimed, Receipt, Stored};

/// Receipts and answers to claims, none of which was told, in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct News {
    told_before: VecDeque<Response>,
    /// Those that came last.
    receipts: Vec<v1::PublishReceipt>,
    len: usize,
}

impl News {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn receipt(&mut self, receipt: v1::PublishReceipt) {
        self.len += 1;
        self.receipts.push(receipt);
    }

    pub(super) fn claimed(&mut self, claimed: v1::PublishClaimed) {
        self.len += 1;
        let before = self.receipts();
        self.told_before.extend(before);
        self.told_before.push_back(Response::Claimed(claimed));
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
        let next = self.told_before.pop_front().or_else(|| self.receipts())?;
        self.len -= match &next {
            Response::Receipts(receipts) => receipts.receipts.len(),
            _ => 1,
        };
        Some(next)
    }

    /// The receipts that came last, if there are any.
    fn receipts(&mut self) -> Option<Response> {
        let receipts = mem::take(&mut self.receipts);
        (!receipts.is_empty()).then_some(Response::Receipts(v1::PublishReceipts { receipts }))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_first_is_told_first_and_receipts_that_come_together_go_together() {
        let mut news = News::default();
        for id in [1, 2] {
            news.receipt(v1::PublishReceipt { id, ..Default::default() });
        }
        news.claimed(v1::PublishClaimed { epoch: 7, ..Default::default() });
        news.receipt(v1::PublishReceipt { id: 3, ..Default::default() });
        assert_eq!(news.len(), 4);
        let told = std::iter::from_fn(|| news.next()).map(|response| match response {
            Response::Receipts(receipts) => receipts.receipts.iter().map(|receipt| receipt.id).collect(),
            Response::Claimed(claimed) => vec![claimed.epoch],
            other => panic!("{other:?}"),
        });
        assert_eq!(told.collect::<Vec<_>>(), [vec![1, 2], vec![7], vec![3]]);
        assert_eq!(news.len(), 0);
    }
}
