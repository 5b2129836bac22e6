//! Partitions that a topic is given while a stream that asked for all of them is open.

use std::time::Duration;

use alluvium_types::fault::Fault;
use alluvium_types::ids::PartitionIndex;

use super::membership::Partitions;
use super::service::ConsumeEdge;
use crate::broker::{SubscriptionInfo, TopicInfo};

/// How often a stream looks. Its broker believes a topic's record for a while, whoever asks, so that this is cheap.
const LOOK: Duration = Duration::from_secs(2);

/// What a stream looks after.
#[derive(Clone, Debug)]
pub(super) struct Growth {
    edge: ConsumeEdge,
    topic: TopicInfo,
    /// The partitions must know it.
    subscription: Option<SubscriptionInfo>,
}

impl Growth {
    /// For a stream that asked for these partitions; nothing to look after if it named some.
    pub(super) fn of(
        edge: &ConsumeEdge,
        topic: &TopicInfo,
        asked: &[PartitionIndex],
        subscription: Option<&SubscriptionInfo>,
    ) -> Option<Self> {
        let growth = || Self { edge: edge.clone(), topic: topic.clone(), subscription: subscription.cloned() };
        asked.is_empty().then(growth)
    }

    /// The partitions behind the first `known` ones, opened, once there are some. Cancel safe.
    pub(super) async fn behind(self, known: usize) -> Partitions {
        let known = u32::try_from(known).unwrap_or(u32::MAX);
        loop {
            self.edge.broker.clock().sleep(LOOK).await;
            match self.look(known).await {
                Ok(found) if found.is_empty() => {}
                Ok(found) => return found,
                // A topic that is gone ends the stream by its partitions.
                Err(fault) => tracing::debug!(topic = %self.topic.name, %fault, "new partitions are looked for again"),
            }
        }
    }

    async fn look(&self, known: u32) -> Result<Partitions, Fault> {
        let now = self.edge.topic(&self.topic.name).await?;
        if now.id != self.topic.id || now.partitions <= known {
            return Ok(Partitions::new());
        }
        let new: Vec<PartitionIndex> = (known..now.partitions).map(PartitionIndex::new).collect();
        match &self.subscription {
            Some(subscription) => self.edge.partitions_of(subscription, &now, &new).await,
            None => self.edge.partitions(&now, &new).await,
        }
    }
}
