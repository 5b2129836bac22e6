//! Which broker an operator wants to own a partition, whatever its weight says.
//!
//! A key of its own beside the owner's: what an owner decides compares the revision of the owner's record, and a wish must not
//! take that away from it.

use std::marker::PhantomData;

use alluvium_proto::internal::v1 as wire;
use alluvium_types::ids::{PartitionIndex, TopicId};
use alluvium_types::names::{BrokerName, TopicName};
use tokio::sync::watch;

use crate::client::{Decided, Metadata, Witness};
use crate::error::{ReadError, UpdateError};
use crate::keys::{self, Key};
use crate::live::{Live, View};
use crate::ownership::PartitionId;
use crate::record::{self, Listing, Record, Versioned};
use crate::store::{Condition, Txn};
use crate::topics::Topic;

/// How an error names a placement.
const PLACEMENT: &str = "the placement";

/// Who shall own a partition.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Placement {
    /// The broker, alive or not.
    pub broker: BrokerName,
}

/// The repository of placements.
#[derive(Clone, Debug)]
pub struct Placements(Metadata);

impl Metadata {
    /// Placements.
    pub fn placements(&self) -> Placements {
        Placements(self.clone())
    }
}

impl Placements {
    /// Who shall own a partition; `None` where its topic's name and the brokers' weights decide.
    pub async fn get(&self, partition: PartitionId) -> Result<Option<Versioned<Placement>>, ReadError> {
        self.0.read(Key::Placement(partition.topic, partition.index)).await
    }

    /// Wants a partition of a topic that still exists at a broker; [`UpdateError::NotFound`] when the topic or the partition
    /// is not there. To want what is wanted already changes nothing.
    pub async fn set(
        &self,
        topic: (&TopicName, &Versioned<Topic>),
        index: PartitionIndex,
        broker: &BrokerName,
    ) -> Result<(), UpdateError> {
        let (name, topic) = topic;
        if index.get() >= topic.value.partitions {
            return Err(UpdateError::NotFound { what: "the partition" });
        }
        let partition = PartitionId { topic: topic.value.id, index };
        loop {
            let read = self.get(partition).await?;
            if read.as_ref().is_some_and(|read| read.value.broker == *broker) {
                return Ok(());
            }
            let (key, nonce) = (Key::Placement(partition.topic, index).encode(), self.0.nonce());
            let condition = read.as_ref().map_or(Condition::Absent, |read| Condition::ModRevision(read.mod_revision));
            let txn = Txn::new()
                .when(key.clone(), condition)
                .when(Key::Topic(name).encode(), Condition::CreateRevision(topic.create_revision))
                .put(key.clone(), record::encode(&Placement { broker: broker.clone() }, nonce));
            match self.0.commit(&txn, &Witness::Nonce { key, nonce }).await? {
                Decided::Committed(_) => return Ok(()),
                Decided::Conflict => {
                    let found = self.0.topics().get(name).await?;
                    if found.map(|found| found.create_revision) != Some(topic.create_revision) {
                        return Err(UpdateError::NotFound { what: "the topic" });
                    }
                    // Somebody else wanted something meanwhile: look again, the last one is heard.
                }
            }
        }
    }

    /// Wants a partition nowhere in particular. One that is wanted nowhere is fine.
    pub async fn clear(&self, partition: PartitionId) -> Result<(), UpdateError> {
        let Some(read) = self.get(partition).await? else { return Ok(()) };
        let key = Key::Placement(partition.topic, partition.index).encode();
        let txn = Txn::new().when(key.clone(), Condition::ModRevision(read.mod_revision)).delete(key.clone());
        match self.0.commit(&txn, &Witness::Gone { key }).await? {
            Decided::Committed(_) => Ok(()),
            Decided::Conflict => Err(UpdateError::Conflict { what: PLACEMENT }),
        }
    }

    /// The placements of a topic's partitions in their order, behind `after`.
    pub async fn list(
        &self,
        topic: TopicId,
        after: Option<PartitionIndex>,
        limit: usize,
    ) -> Result<Listing<(PartitionIndex, Versioned<Placement>), PartitionIndex>, ReadError> {
        let after = after.map(|index| Key::Placement(topic, index).encode());
        let page = self.0.page(Key::Placements(topic), after, limit).await?.value;
        record::listing(page, |found| {
            let index = keys::rest_of(&found.key, &Key::Placements(topic))?;
            u32::from_str_radix(&index, 16).ok().map(PartitionIndex::new)
        })
    }

    /// Follows the placements of all topics, which are as few as what operators have asked for. The view may be behind and
    /// decides nothing.
    pub async fn watch(&self) -> Result<watch::Receiver<Live<PartitionId, Placement>>, ReadError> {
        let view = View { prefix: Key::AllPlacements, name: keys::parse_partition, record: PhantomData };
        view.follow(&self.0).await
    }
}

impl Record for Placement {
    type Wire = wire::PlacementRecord;

    fn to_wire(&self) -> Self::Wire {
        wire::PlacementRecord { broker: self.broker.to_string() }
    }

    fn from_wire(wire: Self::Wire) -> Result<Self, String> {
        Ok(Self { broker: BrokerName::parse(&wire.broker).map_err(|error| error.to_string())? })
    }
}
