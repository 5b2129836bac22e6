//! Subscriptions by name, so that they can be listed, and begin in all partitions at once, also where no broker has loaded
//! them. Their cursors are in the partitions' state ledgers, never here.

use alluvium_proto::internal::v1 as wire;
use alluvium_types::ids::{Offset, PartitionIndex, TopicId};
use alluvium_types::names::{SubscriptionName, TopicName};
use alluvium_types::time::Timestamp;

use crate::client::{Decided, Metadata, Witness};
use crate::error::{ReadError, UpdateError};
use crate::keys::{self, Key};
use crate::record::{self, Listing, Record, Versioned};
use crate::store::{Condition, Txn};
use crate::topics::Topic;

/// How an error names a subscription.
const SUBSCRIPTION: &str = "the subscription";

/// How a subscription shares out messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SubscriptionKind {
    /// One consumer at a time, in order.
    Exclusive,
    /// Many consumers, a message to one of them.
    Shared,
}

/// A named group of readers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Subscription {
    /// How it shares out messages.
    pub kind: SubscriptionKind,
    /// When it was made.
    pub created: Timestamp,
    /// Where it starts in each partition, by index.
    pub starts: Vec<Offset>,
}

impl Subscription {
    /// Where it starts in a partition; one that was added later is read from its beginning.
    pub fn start_of(&self, partition: PartitionIndex) -> Offset {
        let index = usize::try_from(partition.get()).unwrap_or(usize::MAX);
        self.starts.get(index).copied().unwrap_or(Offset::ZERO)
    }
}

/// The repository of subscriptions.
#[derive(Clone, Debug)]
pub struct Subscriptions(Metadata);

impl Metadata {
    /// Subscriptions.
    pub fn subscriptions(&self) -> Subscriptions {
        Subscriptions(self.clone())
    }
}

impl Subscriptions {
    /// Makes a subscription of a topic that still exists, for all its partitions at once.
    pub async fn create(
        &self,
        topic: (&TopicName, &Versioned<Topic>),
        name: &SubscriptionName,
        kind: SubscriptionKind,
        starts: Vec<Offset>,
    ) -> Result<Versioned<Subscription>, UpdateError> {
        let (topic_name, topic) = topic;
        let subscription = Subscription { kind, created: self.0.clock().wall(), starts };
        let (key, nonce) = (Key::Subscription(topic.value.id, name).encode(), self.0.nonce());
        let txn = Txn::new()
            .when(key.clone(), Condition::Absent)
            .when(Key::Topic(topic_name).encode(), Condition::CreateRevision(topic.create_revision))
            .put(key.clone(), record::encode(&subscription, nonce));
        match self.0.commit(&txn, &Witness::Nonce { key, nonce }).await? {
            Decided::Committed(revision) => Ok(Versioned::created(subscription, revision)),
            Decided::Conflict if self.get(topic.value.id, name).await?.is_some() => {
                Err(UpdateError::Exists { what: SUBSCRIPTION })
            }
            Decided::Conflict => Err(UpdateError::NotFound { what: "the topic" }),
        }
    }

    /// A subscription, if there is one.
    pub async fn get(&self, topic: TopicId, name: &SubscriptionName) -> Result<Option<Versioned<Subscription>>, ReadError> {
        self.0.read(Key::Subscription(topic, name)).await
    }

    /// Subscriptions of a topic in name order, behind `after`.
    pub async fn list(
        &self,
        topic: TopicId,
        after: Option<&SubscriptionName>,
        limit: usize,
    ) -> Result<Listing<(SubscriptionName, Versioned<Subscription>), SubscriptionName>, ReadError> {
        let after = after.map(|name| Key::Subscription(topic, name).encode());
        let page = self.0.page(Key::Subscriptions(topic), after, limit).await?.value;
        record::listing(page, |found| {
            let name = keys::rest_of(&found.key, &Key::Subscriptions(topic))?;
            SubscriptionName::parse(&name).ok()
        })
    }

    /// Deletes a subscription. Another one of the same name may be made at once; cursors tell them apart by the revision that
    /// created the record.
    pub async fn delete(
        &self,
        topic: TopicId,
        name: &SubscriptionName,
        read: &Versioned<Subscription>,
    ) -> Result<(), UpdateError> {
        let key = Key::Subscription(topic, name).encode();
        let txn = Txn::new().when(key.clone(), Condition::ModRevision(read.mod_revision)).delete(key.clone());
        match self.0.commit(&txn, &Witness::Gone { key }).await? {
            Decided::Committed(_) => Ok(()),
            Decided::Conflict => Err(UpdateError::Conflict { what: SUBSCRIPTION }),
        }
    }
}

impl Record for Subscription {
    type Wire = wire::SubscriptionRecord;

    fn to_wire(&self) -> Self::Wire {
        let kind = match self.kind {
            SubscriptionKind::Exclusive => wire::SubscriptionKind::Exclusive,
            SubscriptionKind::Shared => wire::SubscriptionKind::Shared,
        };
        wire::SubscriptionRecord {
            kind: kind.into(),
            created_ms: self.created.as_millis(),
            starts: self.starts.iter().map(|offset| offset.get()).collect(),
        }
    }

    fn from_wire(wire: Self::Wire) -> Result<Self, String> {
        let kind = match wire.kind() {
            wire::SubscriptionKind::Exclusive => SubscriptionKind::Exclusive,
            wire::SubscriptionKind::Shared => SubscriptionKind::Shared,
            wire::SubscriptionKind::Unspecified => return Err("a subscription of no known kind".to_owned()),
        };
        Ok(Self {
            kind,
            created: Timestamp::from_millis(wire.created_ms),
            starts: wire.starts.into_iter().map(Offset::new).collect(),
        })
    }
}
