//! One delivery of the server, checked and decoded (B4).

use std::collections::VecDeque;

use alluvium_proto::batch;
use alluvium_proto::status::RemoteFault;
use alluvium_proto::v1;
use alluvium_types::limits::Limits;
use prost::Message as _;

use super::credits::Cost;
use crate::error::Error;
use crate::message::Delivery;

/// One delivery of the server, decoded: what to hand over, and the credit that it used.
#[derive(Debug, Default)]
pub(crate) struct Arrival {
    pub(crate) items: VecDeque<Result<Delivery, Error>>,
    pub(crate) cost: Cost,
}

impl Arrival {
    /// Decodes a delivery. What can't be decoded becomes an error in its place.
    pub(crate) fn decode(delivery: v1::Delivery, limits: Limits) -> Self {
        let partition = delivery.partition;
        let mut arrival = Self::default();
        for delivered in delivery.messages {
            let message = delivered.message.unwrap_or_default();
            arrival.cost.messages += 1;
            arrival.cost.bytes += message.encoded_len() as u64;
            let (offset, attempt, time) = (delivered.offset, delivered.attempt, delivered.server_time_ms);
            arrival.items.push_back(Ok(Delivery::new(partition, offset, attempt, time, message)));
        }
        for delivered in delivery.batches {
            arrival.decode_batch(partition, delivered, limits);
        }
        arrival
    }

    fn decode_batch(&mut self, partition: u32, delivered: v1::DeliveredBatch, limits: Limits) {
        let batch = delivered.batch.unwrap_or_default();
        let (first, count) = (delivered.first_offset, u64::from(batch.count));
        self.cost.messages += count;
        self.cost.bytes += u64::from(batch.inflated_bytes);
        let decoded = batch::check(&batch, limits).and_then(|(header, _)| batch::decode(&header, &batch.blob)).map_err(|error| {
            Error::Undeliverable {
                partition,
                first,
                last: first.saturating_add(count.saturating_sub(1)),
                producer: None,
                problem: error.to_string(),
                reason: error.reason.to_owned(),
            }
        });
        match decoded {
            Err(error) => self.items.push_back(Err(error)),
            Ok(messages) => {
                let (attempt, time) = (delivered.attempt, delivered.server_time_ms);
                let numbered = (first..).zip(messages);
                self.items.extend(numbered.map(|(offset, m)| Ok(Delivery::new(partition, offset, attempt, time, m))));
            }
        }
    }

    /// What the server says it can't deliver. It used no credit.
    pub(crate) fn fault(fault: v1::DeliveryFault) -> Self {
        let offsets = fault.offsets.unwrap_or_default();
        let problem = RemoteFault::from(fault.fault.unwrap_or_default());
        let error = Error::Undeliverable {
            partition: fault.partition,
            first: offsets.first,
            last: offsets.last,
            producer: Some(fault.producer).filter(|name| !name.is_empty()),
            reason: problem.reason.clone().into_owned(),
            problem: problem.message,
        };
        Self { items: VecDeque::from([Err(error)]), cost: Cost::default() }
    }

    /// The next item, with its share of the cost: the last one has what is left.
    pub(super) fn pop(&mut self) -> Option<(Result<Delivery, Error>, Cost)> {
        let left = self.items.len() as u64;
        let item = self.items.pop_front()?;
        let share = Cost { messages: self.cost.messages / left, bytes: self.cost.bytes / left };
        self.cost.messages -= share.messages;
        self.cost.bytes -= share.bytes;
        Some((item, share))
    }
}
