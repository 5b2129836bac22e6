//! Subscriptions come into being: their record in metadata first, by one compare-and-set, then every loaded partition is told.
//!
//! Nothing orders creations but metadata: whoever comes second finds the record. Who uses a subscription makes sure that its
//! partition knows it ([`Broker::acquaint`]), whoever created it, and however far that has come.

use std::collections::HashMap;
use std::time::Duration;

use alluvium_metadata::{PartitionId, UpdateError};
use alluvium_proto::internal::v1 as wire;
use alluvium_proto::status::to_status;
use alluvium_proto::v1;
use alluvium_types::fault::{Fault, FaultKind};
use alluvium_types::ids::{Offset, PartitionIndex, Revision, TopicId};
use alluvium_types::names::SubscriptionName;
use futures::future::try_join_all;
use futures::{StreamExt, TryStreamExt, stream};
use parking_lot::Mutex;
use tonic::Status;

use super::{Broker, Route, StartAt, TopicInfo, unchanged, unreadable};
use crate::forward::{Asking, answered};
use crate::topic::{PartitionHandle, SubscriptionKind};

/// How long it may take to find out where a new subscription begins.
const STARTS_PATIENCE: Duration = Duration::from_secs(30);
/// How many subscriptions that were used here are kept in mind.
const USED_MAX: usize = 16_384;
/// How many partitions are asked for that at a time.
const STARTS_AT_ONCE: usize = 16;

/// A subscription that exists.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SubscriptionInfo {
    /// Its name.
    pub name: SubscriptionName,
    /// Its type.
    pub kind: SubscriptionKind,
    /// The revision that created its record.
    id: Revision,
}

/// The subscriptions that were used here, for when metadata doesn't answer.
#[derive(Debug, Default)]
pub(super) struct UsedSubscriptions(Mutex<HashMap<(TopicId, SubscriptionName), SubscriptionInfo>>);

impl UsedSubscriptions {
    fn get(&self, topic: TopicId, name: &SubscriptionName) -> Option<SubscriptionInfo> {
        self.0.lock().get(&(topic, name.clone())).cloned()
    }

    fn put(&self, topic: TopicId, name: &SubscriptionName, found: Option<SubscriptionInfo>) {
        let (mut used, key) = (self.0.lock(), (topic, name.clone()));
        let Some(found) = found else {
            used.remove(&key);
            return;
        };
        if used.len() >= USED_MAX {
            used.clear();
        }
        used.insert(key, found);
    }
}

impl Broker {
    /// Makes sure that a subscription exists: the record in metadata, and its state in every loaded partition. With `create`
    /// absent, a missing one is a fault (`SUBSCRIPTION_NOT_FOUND`); an existing one of another kind is a fault
    /// (`SUBSCRIPTION_TYPE`) when `kind` is given. A durable record; nothing per consumer.
    pub async fn subscription(
        &self,
        topic: &TopicInfo,
        name: &SubscriptionName,
        kind: Option<SubscriptionKind>,
        create: Option<StartAt>,
    ) -> Result<SubscriptionInfo, Fault> {
        if let Some(found) = self.find_subscription(topic, name).await? {
            return agreed(found, kind);
        }
        let Some(start) = create else { return Err(Fault::not_found("subscription", "SUBSCRIPTION_NOT_FOUND", name)) };
        let wanted = kind.unwrap_or(SubscriptionKind::Exclusive);
        let starts = self.clock().timeout(STARTS_PATIENCE, self.starts(topic, start)).await.unwrap_or_else(|_| {
            let text = format!("it is not known yet where {} ends; try again", topic.name);
            Err(Fault::new(FaultKind::Unavailable, "PARTITION_UNAVAILABLE", text))
        })?;
        let subscriptions = self.metadata().subscriptions();
        let created = match subscriptions.create((&topic.name, &topic.record), name, wanted, starts).await {
            Ok(created) => SubscriptionInfo { name: name.clone(), kind: wanted, id: created.create_revision },
            Err(UpdateError::Exists { .. }) => {
                let found = self.find_subscription(topic, name).await?;
                return agreed(found.ok_or_else(|| Fault::not_found("subscription", "SUBSCRIPTION_NOT_FOUND", name))?, kind);
            }
            Err(UpdateError::NotFound { .. }) => return Err(Fault::not_found("topic", "TOPIC_NOT_FOUND", &topic.name)),
            Err(error) => return Err(unchanged(error)),
        };
        let open = self.0.opener.partitions.changed(|handle| handle.topic_id() == topic.id);
        try_join_all(open.iter().map(|handle| self.acquaint(handle, &created))).await?;
        Ok(created)
    }

    /// Makes sure that a partition's machine understands an `Input` that names this subscription, unless it is deleted meanwhile.
    pub async fn acquaint(&self, partition: &PartitionHandle, subscription: &SubscriptionInfo) -> Result<(), Fault> {
        if partition.knows(&subscription.name, subscription.id) {
            return Ok(());
        }
        self.configure(partition).await
    }

    /// By a linearizable read. While metadata doesn't answer, what was known is believed (M7): partitions know better.
    async fn find_subscription(&self, topic: &TopicInfo, name: &SubscriptionName) -> Result<Option<SubscriptionInfo>, Fault> {
        let read = async {
            let found = self.metadata().subscriptions().get(topic.id, name).await.map_err(unreadable)?;
            Ok(found.map(|found| SubscriptionInfo { name: name.clone(), kind: found.value.kind, id: found.create_revision }))
        };
        let Some(known) = self.0.subscriptions.get(topic.id, name) else {
            let found = read.await?;
            self.0.subscriptions.put(topic.id, name, found.clone());
            return Ok(found);
        };
        let Some(found) = self.unless_away(read).await else { return Ok(Some(known)) };
        let found = found?;
        self.0.subscriptions.put(topic.id, name, found.clone());
        Ok(found)
    }

    /// What a position means in a partition, by its owner.
    async fn resolved(&self, topic: &TopicInfo, index: PartitionIndex, start: StartAt) -> Result<Offset, Fault> {
        let unknown = |status: Status| {
            let text = format!("it is not known yet where partition {index} of {} ends: {}", topic.name, status.message());
            Fault::new(FaultKind::Unavailable, "PARTITION_UNAVAILABLE", text)
        };
        let mut asking = Asking::new(self, topic, index);
        loop {
            let answer = match asking.whom().await.map_err(unknown)? {
                Route::Here(partition) => partition.resolve(start).await.map_err(|fault| to_status(&fault)),
                Route::There(peer) => {
                    let (topic, position) = (topic.name.to_string(), Some(position(start)));
                    let request = wire::ResolvePositionRequest { topic, partition: index.get(), position };
                    let found = answered(&peer, peer.calling().resolve_position(request)).await;
                    found.map(|found| Offset::new(found.offset))
                }
            };
            if let Some(answer) = asking.settled(answer).await {
                return answer.map_err(unknown);
            }
        }
    }

    /// Where it starts in each partition. What was never used is not loaded for it.
    async fn starts(&self, topic: &TopicInfo, start: StartAt) -> Result<Vec<Offset>, Fault> {
        if start == StartAt::Earliest {
            return Ok(Vec::new());
        }
        let found = (0..topic.partitions).map(PartitionIndex::new).map(async |index| {
            let id = PartitionId { topic: topic.id, index };
            let unused =
                !self.0.opener.partitions.has(id) && self.metadata().segments().all(id).await.map_err(unreadable)?.is_empty();
            if unused { Ok(Offset::ZERO) } else { self.resolved(topic, index, start).await }
        });
        stream::iter(found).buffered(STARTS_AT_ONCE).try_collect().await
    }
}

const fn position(start: StartAt) -> v1::Position {
    use v1::position::At;
    let at = match start {
        StartAt::Earliest => At::Earliest(v1::Earliest {}),
        StartAt::Latest => At::Latest(v1::Latest {}),
        StartAt::Offset(offset) => At::Offset(offset.get()),
        StartAt::Time(time) => At::TimeMs(time.as_millis()),
    };
    v1::Position { at: Some(at) }
}

fn agreed(found: SubscriptionInfo, wanted: Option<SubscriptionKind>) -> Result<SubscriptionInfo, Fault> {
    match wanted {
        Some(wanted) if wanted != found.kind => {
            let text = format!("subscription {} is of type {:?}, not {wanted:?}", found.name, found.kind);
            Err(Fault::new(FaultKind::FailedPrecondition, "SUBSCRIPTION_TYPE", text))
        }
        _ => Ok(found),
    }
}
