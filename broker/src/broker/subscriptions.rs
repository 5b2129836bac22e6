//! Subscriptions come into being: their record in metadata first, then every loaded partition is told.

use alluvium_metadata::{PartitionId, UpdateError};
use alluvium_types::fault::{Fault, FaultKind};
use alluvium_types::ids::{Offset, PartitionIndex};
use alluvium_types::names::SubscriptionName;

use super::{Broker, StartAt, TopicInfo, unchanged, unreadable};
use crate::topic::SubscriptionKind;

impl Broker {
    /// Makes sure that a subscription exists: the record in metadata, and its state in every loaded partition. With `create`
    /// absent, a missing one is a fault (`SUBSCRIPTION_NOT_FOUND`); an existing one of another kind is a fault
    /// (`SUBSCRIPTION_TYPE`) when `kind` is given. When this answers, an `Input` that names it is understood by every partition's
    /// machine. A durable record; nothing per consumer.
    pub async fn subscription(
        &self,
        topic: &TopicInfo,
        name: &SubscriptionName,
        kind: Option<SubscriptionKind>,
        create: Option<StartAt>,
    ) -> Result<SubscriptionKind, Fault> {
        if let Some(found) = self.subscription_kind(topic, name).await? {
            return agreed(name, found, kind);
        }
        let Some(start) = create else { return Err(Fault::not_found("subscription", "SUBSCRIPTION_NOT_FOUND", name)) };
        let _one_at_a_time = self.0.creating.lock().await;
        let wanted = kind.unwrap_or(SubscriptionKind::Exclusive);
        let starts = self.starts(topic, start).await?;
        let subscriptions = self.metadata().subscriptions();
        match subscriptions.create((&topic.name, &topic.record), name, wanted, starts).await {
            Ok(_) => {}
            Err(UpdateError::Exists { .. }) => {
                let found = self.subscription_kind(topic, name).await?;
                let found = found.ok_or_else(|| Fault::not_found("subscription", "SUBSCRIPTION_NOT_FOUND", name))?;
                return agreed(name, found, kind);
            }
            Err(UpdateError::NotFound { .. }) => return Err(Fault::not_found("topic", "TOPIC_NOT_FOUND", &topic.name)),
            Err(error) => return Err(unchanged(error)),
        }
        for handle in self.0.opener.partitions.of_topic(Some(topic.id)).await {
            self.configure(&handle).await.map_err(unreadable)?;
        }
        Ok(wanted)
    }

    async fn subscription_kind(&self, topic: &TopicInfo, name: &SubscriptionName) -> Result<Option<SubscriptionKind>, Fault> {
        let found = self.metadata().subscriptions().get(topic.id, name).await.map_err(unreadable)?;
        Ok(found.map(|found| found.value.kind))
    }

    /// Where it starts in each partition. What was never used is not loaded for it.
    async fn starts(&self, topic: &TopicInfo, start: StartAt) -> Result<Vec<Offset>, Fault> {
        let mut starts = Vec::new();
        if start == StartAt::Earliest {
            return Ok(starts);
        }
        for index in (0..topic.partitions).map(PartitionIndex::new) {
            let id = PartitionId { topic: topic.id, index };
            let unused =
                !self.0.opener.partitions.has(id) && self.metadata().segments().all(id).await.map_err(unreadable)?.is_empty();
            starts.push(if unused { Offset::ZERO } else { self.partition(topic, index).await?.resolve(start).await? });
        }
        Ok(starts)
    }
}

fn agreed(name: &SubscriptionName, found: SubscriptionKind, wanted: Option<SubscriptionKind>) -> Result<SubscriptionKind, Fault> {
    match wanted {
        Some(wanted) if wanted != found => {
            let text = format!("subscription {name} is of type {found:?}, not {wanted:?}");
            Err(Fault::new(FaultKind::FailedPrecondition, "SUBSCRIPTION_TYPE", text))
        }
        _ => Ok(found),
    }
}
