//! Partitions that a topic is given while a stream that asked for all of them is open.

use std::time::Duration;

use alluvium_types::ids::PartitionIndex;

use super::service::ConsumeEdge;
use crate::broker::TopicInfo;

/// How often a stream looks. Its broker believes a topic's record for a while, whoever asks, so that this is cheap.
const LOOK: Duration = Duration::from_secs(2);

/// What a stream looks after.
#[derive(Clone, Debug)]
pub(super) struct Growth {
    edge: ConsumeEdge,
    topic: TopicInfo,
    known: u32,
}

/// What a topic has been given.
#[derive(Clone, Debug)]
pub(super) struct Grown {
    /// The topic as it is now.
    pub(super) topic: TopicInfo,
    /// Its new partitions.
    pub(super) partitions: Vec<PartitionIndex>,
}

impl Growth {
    /// For a stream that asked for these partitions; nothing to look after if it named some.
    pub(super) fn of(edge: &ConsumeEdge, topic: &TopicInfo, asked: &[PartitionIndex]) -> Option<Self> {
        asked.is_empty().then(|| Self { edge: edge.clone(), topic: topic.clone(), known: topic.partitions })
    }

    /// These are served now.
    pub(super) fn grown(&mut self, partitions: &[PartitionIndex]) {
        let behind = partitions.iter().map(|index| index.get() + 1).max();
        self.known = self.known.max(behind.unwrap_or(0));
    }

    /// The partitions behind those that are known, once there are some. Cancel safe.
    pub(super) async fn behind(self) -> Grown {
        loop {
            self.edge.broker.clock().sleep(LOOK).await;
            // A topic that is gone ends the stream by its partitions.
            if let Ok(now) = self.edge.broker.topic(&self.topic.name).await
                && now.id == self.topic.id
                && now.partitions > self.known
            {
                let partitions = (self.known..now.partitions).map(PartitionIndex::new).collect();
                return Grown { topic: now, partitions };
            }
        }
    }
}
