//! The streams that relays of other brokers open at this one, for partitions that it owns.

use std::collections::BTreeMap;

use alluvium_proto::internal::v1 as wire;
use alluvium_proto::status::to_status;
use alluvium_proto::v1;
use alluvium_types::fault::Fault;
use alluvium_types::ids::{Offset, PartitionIndex};
use futures::{Stream, StreamExt};
use tonic::Status;

use super::line::{Ask, Say};
use super::membership::Spans;
use super::outbox::Responses;
use super::read::{self, Resume};
use super::request;
use super::service::{ConsumeEdge, Consumer, not_open};
use crate::forward::topic_with;
use crate::subscription::Grant;

/// Serves a consumer of another broker's client.
pub(crate) async fn subscribe<S>(edge: &ConsumeEdge, mut requests: S) -> Result<Responses<wire::ForwardSubscribeResponse>, Status>
where
    S: Stream<Item = Result<wire::ForwardSubscribeRequest, Status>> + Unpin + Send + 'static,
{
    use wire::forward_subscribe_request::Ask as Asked;
    use wire::forward_subscribe_response::Answer;
    let opening = async {
        let Some(Asked::Open(open)) = edge.first(&mut requests).await?.ask else { return Err(not_open()) };
        let asked = request::subscribe(open.open.ok_or_else(not_open)?)?;
        let topic = topic_with(&edge.broker, &asked.topic, &asked.partitions).await?;
        let subscription = edge.broker.subscription(&topic, &asked.subscription, asked.kind, None).await?;
        let partitions = edge.partitions_here(&topic, &asked.partitions).await?;
        let held = spans("held.ranges", &open.held)?;
        let consumer = Consumer { subscription, name: asked.consumer, takeover: asked.takeover, format: asked.format };
        Ok((consumer, partitions, held))
    };
    let (consumer, partitions, held) = opening.await.map_err(|fault: Fault| to_status(&fault))?;
    let asks = requests.map(|request| {
        Ok(match request?.ask {
            Some(Asked::Request(request)) => Ask::Request(request),
            Some(Asked::Reclaim(_)) => Ask::Reclaim,
            Some(Asked::TakeBack(back)) => spans("unsent.ranges", &back.unsent).map_or_else(|_| nonsense(), Ask::TakeBack),
            Some(Asked::Open(_)) | None => nonsense(),
        })
    });
    let begun = edge.consume_here(consumer, partitions, held, asks).await;
    let said = begun.map_err(|fault| to_status(&fault))?.responses().map(|said| {
        let (answer, used) = match said? {
            Say::Response { response, taken } => (Answer::Response(response), Some(credit(taken))),
            Say::Wanted(granted) => (Answer::Wanted(wire::CreditWanted { granted: Some(credit(granted)) }), None),
            Say::Returned(returned) => (Answer::Returned(credit(returned)), None),
        };
        Ok(wire::ForwardSubscribeResponse { answer: Some(answer), used })
    });
    Ok(Box::pin(said))
}

/// Messages of some partitions, each of which may be named several times.
fn spans(field: &str, named: &[wire::HeldMessages]) -> Result<Spans, Fault> {
    let mut spans = Spans::new();
    for of in named {
        spans.entry(PartitionIndex::new(of.partition)).or_default().extend(request::spans(field, &of.ranges)?);
    }
    Ok(spans)
}

/// A request that is answered with what is wrong with it.
const fn nonsense() -> Ask<v1::SubscribeRequest> {
    Ask::Request(v1::SubscribeRequest { request: None })
}

/// Serves a reader of another broker's client.
pub(crate) async fn read<S>(edge: &ConsumeEdge, mut requests: S) -> Result<Responses<wire::ForwardReadResponse>, Status>
where
    S: Stream<Item = Result<wire::ForwardReadRequest, Status>> + Unpin + Send + 'static,
{
    use wire::forward_read_request::Ask as Asked;
    use wire::forward_read_response::Answer;
    let opening = async {
        let Some(Asked::Open(open)) = edge.first(&mut requests).await?.ask else { return Err(not_open()) };
        let asked = request::read(&open.open.ok_or_else(not_open)?)?;
        let topic = topic_with(&edge.broker, &asked.topic, &asked.partitions).await?;
        let partitions = edge.partitions_here(&topic, &asked.partitions).await?;
        let place = |place: &wire::ReadPlace| {
            let resume = Resume { next: Offset::new(place.next_offset), stop: place.stop_offset.map(Offset::new) };
            (PartitionIndex::new(place.partition), resume)
        };
        let places: BTreeMap<PartitionIndex, Resume> = open.places.iter().map(place).collect();
        Ok((asked, partitions, places))
    };
    let (asked, partitions, places) = opening.await.map_err(|fault: Fault| to_status(&fault))?;
    let asks = requests.map(|request| {
        Ok(match request?.ask {
            Some(Asked::Request(request)) => Ask::Request(request),
            Some(Asked::Reclaim(_)) => Ask::Reclaim,
            Some(Asked::Open(_)) | None => Ask::Request(v1::ReadRequest::default()),
        })
    });
    let begun = read::begin(edge, &asked, partitions, &places, asks).await;
    let said = begun.map_err(|fault| to_status(&fault))?.responses().map(|said| {
        let (answer, used) = match said? {
            Say::Response { response, taken } => (Answer::Response(response), Some(credit(taken))),
            Say::Wanted(granted) => (Answer::Wanted(wire::CreditWanted { granted: Some(credit(granted)) }), None),
            Say::Returned(returned) => (Answer::Returned(credit(returned)), None),
        };
        Ok(wire::ForwardReadResponse { answer: Some(answer), used })
    });
    Ok(Box::pin(said))
}

const fn credit(grant: Grant) -> v1::Credit {
    v1::Credit { messages: grant.messages, bytes: grant.bytes }
}
