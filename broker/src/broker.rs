//! The one place where a partition's owner is looked up.

use std::sync::Arc;

use alluvium_types::fault::Fault;
use alluvium_types::ids::PartitionIndex;
use alluvium_types::names::{SubscriptionName, TopicName};

use crate::topic::{PartitionHandle, SubscriptionKind};

/// A cheap handle to this broker.
#[derive(Clone, Debug)]
pub struct Broker(Arc<()>);

/// A topic, as far as those who reach its partitions need it.
#[derive(Clone, Debug)]
pub struct TopicInfo {
    /// Its name.
    pub name: TopicName,
    /// Its identity.
    pub id: alluvium_types::ids::TopicId,
    /// How many partitions it has.
    pub partitions: u32,
}

/// Where a new subscription begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StartAt {
    /// Before the oldest message kept.
    Earliest,
    /// After the newest message.
    Latest,
    /// At this offset, moved into what is kept.
    Offset(alluvium_types::ids::Offset),
    /// At the first message of this server time or later.
    Time(alluvium_types::time::Timestamp),
}

impl Broker {
    /// The metadata plane.
    pub fn metadata(&self) -> &alluvium_metadata::Metadata {
        unreachable!("not built yet")
    }

    /// What is in force where no tenant, namespace or topic says otherwise.
    pub fn default_policies(&self) -> alluvium_metadata::policies::Policies {
        unreachable!("not built yet")
    }

    /// What of a partition can be read, if this broker has it loaded; loads nothing.
    pub fn loaded(&self, topic: alluvium_types::ids::TopicId, index: PartitionIndex) -> Option<crate::topic::Bounds> {
        let _ = (topic, index);
        unreachable!("not built yet")
    }

    /// Ends what this broker has loaded of a topic that was deleted: streams get a fault, ledgers go by the auditor.
    pub async fn topic_deleted(&self, topic: alluvium_types::ids::TopicId) {
        let _ = topic;
        unreachable!("not built yet")
    }

    /// Tells the loaded partitions of a topic that its subscriptions or policies changed in metadata.
    pub async fn topic_changed(&self, topic: &TopicName) {
        let _ = topic;
        unreachable!("not built yet")
    }

    /// The bookies that live now, by this broker's view of metadata.
    pub fn live_bookies(
        &self,
    ) -> Arc<std::collections::BTreeMap<alluvium_types::names::BookieName, alluvium_metadata::bookies::LiveBookie>> {
        unreachable!("not built yet")
    }

    /// How many brokers live now, by this broker's view of metadata.
    pub fn live_brokers(&self) -> usize {
        unreachable!("not built yet")
    }

    /// Time.
    pub fn clock(&self) -> &alluvium_runtime::clock::Clock {
        unreachable!("not built yet")
    }

    /// Chance.
    pub fn entropy(&self) -> &alluvium_runtime::entropy::Entropy {
        unreachable!("not built yet")
    }

    /// Where sessions begin their tasks.
    pub fn tasks(&self) -> &alluvium_runtime::tasks::Tasks {
        unreachable!("not built yet")
    }

    /// Sizes in force.
    pub fn limits(&self) -> alluvium_types::limits::Limits {
        unreachable!("not built yet")
    }

    /// What decoded messages on their way to consumers are taken from.
    pub fn delivery_budget(&self) -> &alluvium_runtime::budget::ByteBudget {
        unreachable!("not built yet")
    }

    /// The topic, by a linearizable read the first time and from a short-lived cache later; a fault when there is none.
    pub async fn topic(&self, name: &TopicName) -> Result<TopicInfo, Fault> {
        let _ = &self.0;
        Err(Fault::not_found("topic", "TOPIC_NOT_FOUND", name))
    }

    /// The handle of a partition; claims and opens it if this broker does not own it yet. Waits until it can be used.
    /// Single-broker for now: whatever is asked for is claimed here. Forwarding will hang on this one function.
    pub async fn partition(&self, topic: &TopicInfo, index: PartitionIndex) -> Result<PartitionHandle, Fault> {
        let _ = (topic, index);
        Err(Fault::new(alluvium_types::fault::FaultKind::Unavailable, "STARTING", "starting"))
    }

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
        let _ = (topic, kind, create);
        Err(Fault::not_found("subscription", "SUBSCRIPTION_NOT_FOUND", name))
    }
}
