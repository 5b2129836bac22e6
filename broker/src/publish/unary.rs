//! The simple way: a few messages in one call, batched by the broker.

use std::collections::BTreeMap;
use std::time::Duration;

use alluvium_proto::batch::{self, BatchBuilder};
use alluvium_proto::status::{to_status, wire_to_status};
use alluvium_proto::v1::publish_stream_request::Request as Asked;
use alluvium_proto::v1::publish_stream_response::Response as Said;
use alluvium_proto::{PROTOCOL_VERSION, v1};
use alluvium_types::batch::Codec;
use alluvium_types::fault::{Fault, FaultKind};
use alluvium_types::ids::PartitionIndex;
use alluvium_types::key_hash::partition_of;
use alluvium_types::limits::{BATCH_MESSAGES_MAX, Limits};
use alluvium_types::names::TopicName;
use alluvium_types::time::Timestamp;
use futures::stream;
use tokio::sync::mpsc;
use tonic::Status;

use super::admission;
use super::intake::Share;
use super::session::Session;
use crate::broker::{Broker, Scope};

/// The most messages of a call.
const MESSAGES_MAX: usize = 10_000;

/// How long a call waits for its receipts. A stream waits for as long as it is open.
const PATIENCE: Duration = Duration::from_secs(15);

/// A batch of a call, and which of the call's messages it holds.
struct Parcel {
    partition: PartitionIndex,
    batch: v1::Batch,
    members: Vec<usize>,
}

/// Publishes the messages of a call. `sticky` is where keyless ones go this time.
pub(super) async fn publish(broker: &Broker, request: v1::PublishRequest, sticky: u32) -> Result<v1::PublishResponse, Refused> {
    let name = TopicName::parse(&request.topic)?;
    let limits = broker.limits();
    if request.messages.is_empty() || request.messages.len() > MESSAGES_MAX {
        let text = format!("a call carries 1 to {MESSAGES_MAX} messages, this one {}", request.messages.len());
        return Err(Fault::invalid("messages", "MESSAGE_COUNT", text).into());
    }
    for message in &request.messages {
        batch::check_message(message, limits).map_err(admission::refused)?;
    }
    let topic = broker.topic(&name).await?;
    if let Some(partition) = request.partition.filter(|p| *p >= topic.partitions) {
        return Err(admission::no_partition(partition, &name, topic.partitions).into());
    }
    let chosen = |message: &v1::Message| match (request.partition, &message.key) {
        (Some(partition), _) => PartitionIndex::new(partition),
        (None, Some(key)) => partition_of(key, topic.partitions),
        (None, None) => PartitionIndex::new(sticky % topic.partitions),
    };
    let parcels = parcels(&request.messages, chosen, limits, broker.clock().wall());

    let batch = |(id, parcel): (u64, &Parcel)| {
        let (partition, batch) = (parcel.partition.get(), Some(parcel.batch.clone()));
        let batch = v1::PublishBatch { id, partition, producer_epoch: 0, batch };
        Ok(v1::PublishStreamRequest { request: Some(Asked::Batch(batch)) })
    };
    let requests: Vec<Result<v1::PublishStreamRequest, Status>> = (0..).zip(&parcels).map(batch).collect();
    let open = v1::PublishOpen {
        hello: Some(v1::Hello { protocol_version: PROTOCOL_VERSION, client: String::new() }),
        topic: request.topic,
        guarantee: request.guarantee,
        producer: String::new(),
    };
    let opening = admission::open(&open)?;
    let (responses, mut heard) = mpsc::channel(1);
    let (broker_here, share) = (broker.clone(), Share::default());
    let session = Session {
        broker: broker_here,
        scope: Scope::Cluster,
        topic,
        opening,
        open,
        requests: stream::iter(requests),
        share,
        responses,
    };
    let published = async {
        let ((), answered) = tokio::join!(session.run(), collect(&mut heard, &parcels, request.messages.len()));
        answered
    };
    broker.clock().timeout(PATIENCE, published).await.unwrap_or_else(|_| {
        let text = "the storage has not confirmed the messages yet; they may be stored";
        Err(Refused::Here(Fault::new(FaultKind::OutcomeUnknown, "NOT_CONFIRMED", text)))
    })
}

/// Why a call is refused: in the words of this broker, or of another one that was asked.
#[derive(Debug)]
pub(super) enum Refused {
    Here(Fault),
    There(v1::Fault),
}

impl<F: Into<Fault>> From<F> for Refused {
    fn from(fault: F) -> Self {
        Self::Here(fault.into())
    }
}

impl From<Refused> for Status {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Here(fault) => to_status(&fault),
            Refused::There(fault) => wire_to_status(&fault),
        }
    }
}

/// Waits for the receipts of all parcels.
async fn collect(
    heard: &mut mpsc::Receiver<Result<v1::PublishStreamResponse, Status>>,
    parcels: &[Parcel],
    messages: usize,
) -> Result<v1::PublishResponse, Refused> {
    let mut ids = vec![v1::MessageId::default(); messages];
    let (mut outstanding, mut refused) = (parcels.len(), None);
    while outstanding > 0 {
        let Some(Ok(v1::PublishStreamResponse { response })) = heard.recv().await else { return Err(lost().into()) };
        let Some(Said::Receipts(more)) = response else { continue };
        outstanding -= more.receipts.len();
        for receipt in more.receipts {
            match place(&receipt, parcels, &mut ids) {
                Ok(()) => {}
                // The session ends once all are answered; the first reason is told.
                Err(reason) => refused = refused.or(Some(reason)),
            }
        }
    }
    refused.map_or(Ok(v1::PublishResponse { ids }), Err)
}

/// The session ended with batches in its hands: the broker is stopping.
fn lost() -> Fault {
    let text = "the broker stopped before the messages were confirmed; they may be stored";
    Fault::new(FaultKind::OutcomeUnknown, "OUTCOME_UNKNOWN", text)
}

fn place(receipt: &v1::PublishReceipt, parcels: &[Parcel], ids: &mut [v1::MessageId]) -> Result<(), Refused> {
    if let Some(fault) = &receipt.fault {
        return Err(Refused::There(fault.clone()));
    }
    let number = usize::try_from(receipt.id).unwrap_or(usize::MAX);
    let parcel = parcels.get(number).ok_or_else(lost)?;
    for (step, member) in (0_u64..).zip(&parcel.members) {
        ids[*member] = v1::MessageId { partition: receipt.partition, offset: receipt.first_offset + step };
    }
    Ok(())
}

/// Batches of the messages, in their order within each partition, each within the limits.
fn parcels(
    messages: &[v1::Message],
    chosen: impl Fn(&v1::Message) -> PartitionIndex,
    limits: Limits,
    now: Timestamp,
) -> Vec<Parcel> {
    let mut by_partition: BTreeMap<PartitionIndex, Vec<usize>> = BTreeMap::new();
    for (number, message) in messages.iter().enumerate() {
        by_partition.entry(chosen(message)).or_default().push(number);
    }
    let mut parcels = Vec::new();
    for (partition, numbers) in by_partition {
        let mut filling: Option<(BatchBuilder, Vec<usize>)> = None;
        for number in numbers {
            let message = &messages[number];
            let fits = filling.as_ref().is_none_or(|(builder, _)| {
                builder.count() < BATCH_MESSAGES_MAX && builder.bytes() + BatchBuilder::cost(message) <= limits.batch_bytes_max()
            });
            if !fits && let Some((builder, members)) = filling.take() {
                parcels.push(Parcel { partition, batch: builder.finish(Codec::None, 0, now), members });
            }
            let (builder, members) =
                filling.get_or_insert_with(|| (BatchBuilder::with_capacity(BatchBuilder::cost(message)), Vec::new()));
            builder.push(message);
            members.push(number);
        }
        if let Some((builder, members)) = filling {
            parcels.push(Parcel { partition, batch: builder.finish(Codec::None, 0, now), members });
        }
    }
    parcels
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn messages_of_a_partition_keep_their_order_within_the_limits() {
        let limits = Limits::default();
        let big = v1::Message { payload: Bytes::from(vec![0; limits.message_bytes_max() / 3 * 2]), ..Default::default() };
        let small = v1::Message { payload: Bytes::from_static(b"x"), ..Default::default() };
        let messages = vec![big.clone(), small.clone(), big.clone(), big, small];
        let chosen = |m: &v1::Message| PartitionIndex::new(u32::from(m.payload.len() == 1));
        let parcels = parcels(&messages, chosen, limits, Timestamp::default());
        let found: Vec<(u32, Vec<usize>)> = parcels.iter().map(|p| (p.partition.get(), p.members.clone())).collect();
        assert_eq!(found, [(0, vec![0]), (0, vec![2]), (0, vec![3]), (1, vec![1, 4])]);
        for parcel in &parcels {
            batch::check(&parcel.batch, limits).expect("within the limits");
        }
    }
}
