//! Acknowledging and giving back, without a stream.

use std::collections::BTreeMap;
use std::time::Duration;

use alluvium_proto::internal::v1 as wire;
use alluvium_proto::status::to_status;
use alluvium_proto::v1;
use alluvium_types::fault::Fault;
use alluvium_types::ids::{Offset, PartitionIndex};
use alluvium_types::names::{SubscriptionName, TopicName};
use futures::{StreamExt, TryStreamExt, stream};
use tokio::sync::oneshot;
use tonic::Status;

use super::membership::{Partitions, answered};
use super::request;
use super::service::ConsumeEdge;
use crate::broker::{Route, SubscriptionInfo, TopicInfo};
use crate::forward::{Asking, answered as answered_by, topic_with};
use crate::subscription::{AckRequest, AckTarget, Input, Span};
use crate::topic::PartitionHandle;

/// How many partitions of a request are asked at a time.
const AT_ONCE: usize = 16;

/// Answers once everything named is acknowledged and durable (S1). On a fault some of it may be; doing it again is harmless.
pub(super) async fn acknowledge(edge: &ConsumeEdge, request: v1::AcknowledgeRequest) -> Result<v1::AcknowledgeResponse, Status> {
    let asked = acks(&request).map_err(|fault| to_status(&fault))?;
    let named = [("ids", &request.ids[..]), ("up_to", &request.up_to)];
    let (topic, subscription) = find(edge, &request.topic, &request.subscription, &named).await?;
    let at = (&topic, &subscription);
    let settled = asked.into_iter().map(|(index, (spans, before))| {
        let request = acks_of(&request, index);
        async move {
            let mut asking = Asking::new(&edge.broker, at.0, index);
            loop {
                let answer = match asking.whom().await? {
                    Route::Here(handle) => {
                        let settled = async {
                            edge.broker.acquaint(&handle, at.1).await?;
                            acknowledge_here(&handle, &at.1.name, spans.clone(), before).await
                        };
                        settled.await.map_err(|fault| to_status(&fault))
                    }
                    Route::There(peer) => {
                        let request = wire::ForwardAcknowledgeRequest { request: Some(request.clone()) };
                        answered_by(&peer, peer.calling().forward_acknowledge(request)).await.map(drop)
                    }
                };
                if let Some(answer) = asking.settled(answer).await {
                    return answer;
                }
            }
        }
    });
    stream::iter(settled).buffer_unordered(AT_ONCE).try_collect::<()>().await?;
    Ok(v1::AcknowledgeResponse {})
}

/// The same, of partitions of this broker only.
pub(crate) async fn acknowledged(edge: &ConsumeEdge, request: &v1::AcknowledgeRequest) -> Result<(), Fault> {
    let (subscription, partitions) = here(edge, &request.topic, &request.subscription, acks(request)?.keys()).await?;
    for (index, (spans, before)) in acks(request)? {
        acknowledge_here(&partitions[&index], &subscription, spans, before).await?;
    }
    Ok(())
}

/// Gives messages back, whoever has them.
pub(super) async fn nack(edge: &ConsumeEdge, request: v1::NackRequest) -> Result<v1::NackResponse, Status> {
    let (asked, delay) = nacks(&request).map_err(|fault| to_status(&fault))?;
    let (topic, subscription) = find(edge, &request.topic, &request.subscription, &[("ids", &request.ids)]).await?;
    let at = (&topic, &subscription);
    let given_back = asked.into_iter().map(|(index, spans)| {
        let ids = request.ids.iter().filter(|id| id.partition == index.get()).copied().collect();
        let request = v1::NackRequest { ids, ..request.clone() };
        async move {
            let mut asking = Asking::new(&edge.broker, at.0, index);
            loop {
                let answer = match asking.whom().await? {
                    Route::Here(handle) => {
                        let given_back = async {
                            edge.broker.acquaint(&handle, at.1).await?;
                            nack_here(&handle, &at.1.name, spans.clone(), delay).await
                        };
                        given_back.await.map_err(|fault| to_status(&fault))
                    }
                    Route::There(peer) => {
                        let request = wire::ForwardNackRequest { request: Some(request.clone()) };
                        answered_by(&peer, peer.calling().forward_nack(request)).await.map(drop)
                    }
                };
                if let Some(answer) = asking.settled(answer).await {
                    return answer;
                }
            }
        }
    });
    stream::iter(given_back).buffer_unordered(AT_ONCE).try_collect::<()>().await?;
    Ok(v1::NackResponse {})
}

/// The same, of partitions of this broker only.
pub(crate) async fn nacked(edge: &ConsumeEdge, request: &v1::NackRequest) -> Result<(), Fault> {
    let (asked, delay) = nacks(request)?;
    let (subscription, partitions) = here(edge, &request.topic, &request.subscription, asked.keys()).await?;
    for (index, spans) in asked {
        nack_here(&partitions[&index], &subscription, spans, delay).await?;
    }
    Ok(())
}

/// What is acknowledged of a partition: runs, and everything before an offset.
type Acks = BTreeMap<PartitionIndex, (Vec<Span>, Option<Offset>)>;

fn acks(request: &v1::AcknowledgeRequest) -> Result<Acks, Fault> {
    let mut asked: Acks =
        request::ids("ids", &request.ids)?.into_iter().map(|(partition, spans)| (partition, (spans, None))).collect();
    for id in &request.up_to {
        let before = request::behind("up_to", id.offset)?;
        let (_, upto) = asked.entry(PartitionIndex::new(id.partition)).or_default();
        *upto = (*upto).max(Some(before));
    }
    if asked.is_empty() {
        return Err(Fault::invalid("ids", "EMPTY", "nothing is named to acknowledge"));
    }
    Ok(asked)
}

fn acks_of(request: &v1::AcknowledgeRequest, index: PartitionIndex) -> v1::AcknowledgeRequest {
    let of = |ids: &[v1::MessageId]| ids.iter().filter(|id| id.partition == index.get()).copied().collect();
    v1::AcknowledgeRequest { ids: of(&request.ids), up_to: of(&request.up_to), ..request.clone() }
}

fn nacks(request: &v1::NackRequest) -> Result<(BTreeMap<PartitionIndex, Vec<Span>>, Duration), Fault> {
    let asked = request::ids("ids", &request.ids)?;
    let delay = request::delay(request.delay_ms)?;
    if asked.is_empty() {
        return Err(Fault::invalid("ids", "EMPTY", "nothing is named to give back"));
    }
    Ok((asked, delay))
}

async fn acknowledge_here(
    handle: &PartitionHandle,
    subscription: &SubscriptionName,
    spans: Vec<Span>,
    before: Option<Offset>,
) -> Result<(), Fault> {
    let (reply, answer) = oneshot::channel();
    let target = AckTarget::Call(reply);
    handle.subscriptions(Input::Ack(AckRequest { subscription: subscription.clone(), spans, before, target })).await?;
    answered(answer, handle).await
}

async fn nack_here(
    handle: &PartitionHandle,
    subscription: &SubscriptionName,
    spans: Vec<Span>,
    delay: Duration,
) -> Result<(), Fault> {
    let (reply, answer) = oneshot::channel();
    let (subscription, reply) = (subscription.clone(), Some(reply));
    handle.subscriptions(Input::Nack { subscription, consumer: None, spans, delay, reply }).await?;
    answered(answer, handle).await
}

/// The topic and the subscription of a request that names partitions in these fields.
async fn find(
    edge: &ConsumeEdge,
    topic: &str,
    subscription: &str,
    named: &[(&str, &[v1::MessageId])],
) -> Result<(TopicInfo, SubscriptionInfo), Status> {
    let found = async {
        let (topic, subscription) = (TopicName::parse(topic)?, SubscriptionName::parse(subscription)?);
        let topic = edge.topic(&topic).await?;
        let subscription = edge.broker.subscription(&topic, &subscription, None, None).await?;
        let mut ids = named.iter().flat_map(|(field, ids)| ids.iter().map(move |id| (*field, id.partition)));
        if let Some((field, unknown)) = ids.find(|(_, partition)| *partition >= topic.partitions) {
            let text = format!("topic {} has {} partitions, and no partition {unknown}", topic.name, topic.partitions);
            return Err(Fault::invalid(field, "UNKNOWN_PARTITION", text));
        }
        Ok((topic, subscription))
    };
    found.await.map_err(|fault| to_status(&fault))
}

async fn here(
    edge: &ConsumeEdge,
    topic: &str,
    subscription: &str,
    named: impl Iterator<Item = &PartitionIndex>,
) -> Result<(SubscriptionName, Partitions), Fault> {
    let (topic, subscription) = (TopicName::parse(topic)?, SubscriptionName::parse(subscription)?);
    let wanted: Vec<PartitionIndex> = named.copied().collect();
    let topic = topic_with(&edge.broker, &topic, &wanted).await?;
    let subscription = edge.broker.subscription(&topic, &subscription, None, None).await?;
    let partitions = edge.partitions_of(&subscription, &topic, &wanted).await?;
    Ok((subscription.name, partitions))
}
