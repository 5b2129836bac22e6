//! Acknowledging and giving back, without a stream.

use std::collections::{BTreeMap, BTreeSet};

use alluvium_proto::v1;
use alluvium_types::fault::Fault;
use alluvium_types::ids::{Offset, PartitionIndex};
use alluvium_types::names::{SubscriptionName, TopicName};
use tokio::sync::oneshot;

use super::membership::{Partitions, answered};
use super::request;
use super::service::ConsumeEdge;
use crate::subscription::{AckRequest, AckTarget, Input, Span};

/// Answers once everything named is acknowledged and durable (S1). On a fault some of it may be; doing it again is harmless.
pub(super) async fn acknowledge(edge: &ConsumeEdge, request: v1::AcknowledgeRequest) -> Result<v1::AcknowledgeResponse, Fault> {
    let mut asked: BTreeMap<PartitionIndex, (Vec<Span>, Option<Offset>)> =
        request::ids("ids", &request.ids)?.into_iter().map(|(partition, spans)| (partition, (spans, None))).collect();
    for id in &request.up_to {
        let before = request::behind("up_to", id.offset)?;
        let (_, upto) = asked.entry(PartitionIndex::new(id.partition)).or_default();
        *upto = (*upto).max(Some(before));
    }
    if asked.is_empty() {
        return Err(Fault::invalid("ids", "EMPTY", "nothing is named to acknowledge"));
    }
    let (subscription, partitions) =
        find(edge, &request.topic, &request.subscription, [("ids", &request.ids), ("up_to", &request.up_to)]).await?;
    let mut answers = Vec::new();
    for (partition, (spans, before)) in asked {
        let handle = &partitions[&partition];
        let (reply, answer) = oneshot::channel();
        let target = AckTarget::Call(reply);
        let request = AckRequest { subscription: subscription.clone(), spans, before, target };
        handle.subscriptions(Input::Ack(request)).await?;
        answers.push((handle, answer));
    }
    for (handle, answer) in answers {
        answered(answer, handle).await?;
    }
    Ok(v1::AcknowledgeResponse {})
}

/// Gives messages back, whoever has them.
pub(super) async fn nack(edge: &ConsumeEdge, request: v1::NackRequest) -> Result<v1::NackResponse, Fault> {
    let asked = request::ids("ids", &request.ids)?;
    let delay = request::delay(request.delay_ms)?;
    if asked.is_empty() {
        return Err(Fault::invalid("ids", "EMPTY", "nothing is named to give back"));
    }
    let (subscription, partitions) = find(edge, &request.topic, &request.subscription, [("ids", &request.ids)]).await?;
    for (partition, spans) in asked {
        let handle = &partitions[&partition];
        let (reply, answer) = oneshot::channel();
        let (subscription, reply) = (subscription.clone(), Some(reply));
        handle.subscriptions(Input::Nack { subscription, consumer: None, spans, delay, reply }).await?;
        answered(answer, handle).await?;
    }
    Ok(v1::NackResponse {})
}

/// The partitions that are named in these fields of a request.
async fn find<const N: usize>(
    edge: &ConsumeEdge,
    topic: &str,
    subscription: &str,
    named: [(&str, &Vec<v1::MessageId>); N],
) -> Result<(SubscriptionName, Partitions), Fault> {
    let (topic, subscription) = (TopicName::parse(topic)?, SubscriptionName::parse(subscription)?);
    let topic = edge.topic(&topic).await?;
    let subscription = edge.broker.subscription(&topic, &subscription, None, None).await?;
    let mut wanted = BTreeSet::new();
    for (field, id) in named.iter().flat_map(|(field, ids)| ids.iter().map(move |id| (*field, id))) {
        if id.partition >= topic.partitions {
            let text = format!("topic {} has {} partitions, and no partition {}", topic.name, topic.partitions, id.partition);
            return Err(Fault::invalid(field, "UNKNOWN_PARTITION", text));
        }
        wanted.insert(PartitionIndex::new(id.partition));
    }
    let wanted: Vec<PartitionIndex> = wanted.into_iter().collect();
    let partitions = edge.partitions_of(&subscription, &topic, &wanted).await?;
    Ok((subscription.name, partitions))
}
