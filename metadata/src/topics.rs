//! Topics: one small record each, by name; nothing else exists of a topic before it is used.

use alluvium_proto::internal::v1 as wire;
use alluvium_types::ids::TopicId;
use alluvium_types::names::{NamespaceName, TopicName, TopicPart};
use alluvium_types::time::Timestamp;

use crate::client::{Decided, Metadata, Witness};
use crate::error::{ReadError, UpdateError};
use crate::keys::{self, Key};
use crate::policies::Policies;
use crate::record::{self, Listing, Record, Versioned, uuid_bytes, uuid_from};
use crate::store::{Condition, Txn};
use crate::tenants::Holder;

/// The most partitions of a topic.
pub const PARTITIONS_MAX: u32 = 4096;
/// How an error names a topic.
const TOPIC: &str = "the topic";

/// A topic.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Topic {
    /// Its id; a deleted and re-created topic has another one.
    pub id: TopicId,
    /// How many partitions it has: never fewer than before.
    pub partitions: u32,
    /// Its own settings.
    pub policies: Policies,
    /// When it was made.
    pub created: Timestamp,
}

/// What is left to clean up of a deleted topic.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeletedTopic {
    /// What it was called.
    pub name: TopicName,
    /// How many partitions it had.
    pub partitions: u32,
    /// When it was deleted.
    pub deleted: Timestamp,
}

/// The name behind a topic's id.
#[derive(Clone, PartialEq, Eq, Debug)]
struct NameOf(TopicName);

/// The repository of topics.
#[derive(Clone, Debug)]
pub struct Topics(Metadata);

impl Metadata {
    /// Topics.
    pub fn topics(&self) -> Topics {
        Topics(self.clone())
    }
}

impl Topics {
    /// Makes a topic of 1 to [`PARTITIONS_MAX`] partitions in a namespace, whose record was `read`: it is read again only if it
    /// has moved on since.
    pub async fn create(
        &self,
        name: &TopicName,
        partitions: u32,
        policies: Policies,
        read: &Versioned<Holder>,
    ) -> Result<Versioned<Topic>, UpdateError> {
        check_partitions(partitions)?;
        let mut namespace = Some(read.clone());
        loop {
            let holds = namespace.filter(|n| !n.value.deleting).ok_or(UpdateError::NotFound { what: "the namespace" })?;
            let id = TopicId::new(self.0.uuid());
            let topic = Topic { id, partitions, policies, created: self.0.clock().wall() };
            let (key, nonce) = (Key::Topic(name).encode(), self.0.nonce());
            let txn = Txn::new()
                .when(key.clone(), Condition::Absent)
                .when(Key::Namespace(name.namespace()).encode(), Condition::ModRevision(holds.mod_revision))
                .put(key.clone(), record::encode(&topic, nonce))
                .put(Key::TopicId(id).encode(), record::encode(&NameOf(name.clone()), nonce));
            match self.0.commit(&txn, &Witness::Nonce { key, nonce }).await? {
                Decided::Committed(revision) => return Ok(Versioned::created(topic, revision)),
                Decided::Conflict if self.get(name).await?.is_some() => {
                    return Err(UpdateError::Exists { what: TOPIC });
                }
                // The namespace's record moved on: look at it again.
                Decided::Conflict => namespace = self.0.read::<Holder>(Key::Namespace(name.namespace())).await?,
            }
        }
    }

    /// A topic, if there is one of this name.
    pub async fn get(&self, name: &TopicName) -> Result<Option<Versioned<Topic>>, ReadError> {
        self.0.read(Key::Topic(name)).await
    }

    /// What a topic id is or was called; `None` once it is cleaned up. The name may belong to a newer topic by now.
    pub async fn name_of(&self, id: TopicId) -> Result<Option<TopicName>, ReadError> {
        Ok(self.0.read::<NameOf>(Key::TopicId(id)).await?.map(|found| found.value.0))
    }

    /// Topics of a namespace in name order, behind `after`.
    pub async fn list(
        &self,
        namespace: &NamespaceName,
        after: Option<&TopicName>,
        limit: usize,
    ) -> Result<Listing<(TopicName, Versioned<Topic>), TopicName>, ReadError> {
        let after = after.map(|name| Key::Topic(name).encode());
        let page = self.0.page(Key::Topics(namespace), after, limit).await?.value;
        record::listing(page, |found| {
            let part = keys::rest_of(&found.key, &Key::Topics(namespace))?;
            Some(TopicName::new(namespace.clone(), TopicPart::parse(&part).ok()?))
        })
    }

    /// Changes a topic's settings.
    pub async fn set_policies(
        &self,
        name: &TopicName,
        read: &Versioned<Topic>,
        policies: Policies,
    ) -> Result<Versioned<Topic>, UpdateError> {
        self.put(name, read, Topic { policies, ..read.value }).await
    }

    /// Raises a topic's number of partitions. Fewer are refused: offsets would vanish.
    pub async fn set_partitions(
        &self,
        name: &TopicName,
        read: &Versioned<Topic>,
        partitions: u32,
    ) -> Result<Versioned<Topic>, UpdateError> {
        check_partitions(partitions)?;
        if partitions < read.value.partitions {
            return Err(UpdateError::Illegal { what: TOPIC, problem: "partitions are never taken away" });
        }
        self.put(name, read, Topic { partitions, ..read.value }).await
    }

    /// Deletes a topic by name. Its id goes to the deleted ones, whose partitions are claimed and trimmed before
    /// [`Topics::forget`]; the name is free at once, for a topic of another id.
    pub async fn delete(&self, name: &TopicName, read: &Versioned<Topic>) -> Result<(), UpdateError> {
        let Topic { id, partitions, .. } = read.value;
        let (key, nonce) = (Key::Topic(name).encode(), self.0.nonce());
        let deleted = DeletedTopic { name: name.clone(), partitions, deleted: self.0.clock().wall() };
        let tombstone = Key::DeletedTopic(id).encode();
        let txn = Txn::new()
            .when(key.clone(), Condition::ModRevision(read.mod_revision))
            .delete(key)
            .put(tombstone.clone(), record::encode(&deleted, nonce));
        match self.0.commit(&txn, &Witness::Nonce { key: tombstone, nonce }).await? {
            Decided::Committed(_) => Ok(()),
            Decided::Conflict => Err(UpdateError::Conflict { what: TOPIC }),
        }
    }

    /// A deleted topic that is not cleaned up.
    pub async fn deleted(&self, id: TopicId) -> Result<Option<Versioned<DeletedTopic>>, ReadError> {
        self.0.read(Key::DeletedTopic(id)).await
    }

    /// Deleted topics that are not cleaned up, behind `after`.
    pub async fn list_deleted(
        &self,
        after: Option<TopicId>,
        limit: usize,
    ) -> Result<Listing<(TopicId, Versioned<DeletedTopic>), TopicId>, ReadError> {
        let after = after.map(|id| Key::DeletedTopic(id).encode());
        let page = self.0.page(Key::DeletedTopics, after, limit).await?.value;
        record::listing(page, |found| {
            let id = keys::rest_of(&found.key, &Key::DeletedTopics)?;
            id.parse().ok().map(TopicId::new)
        })
    }

    /// Removes what is left of a deleted topic: its subscriptions, its partitions' owners and placements, its name. Refused
    /// ([`UpdateError::NotEmpty`]) while a partition has segments or state ledgers.
    pub async fn forget(&self, id: TopicId, read: &Versioned<DeletedTopic>) -> Result<(), UpdateError> {
        for index in 0..read.value.partitions {
            let partition = alluvium_types::ids::PartitionIndex::new(index);
            let segments = self.0.page(Key::Segments(id, partition), None, 1).await?;
            let state = self.0.read::<crate::state_pointer::StatePointer>(Key::StatePointer(id, partition)).await?;
            if !segments.value.records.is_empty() || state.is_some_and(|s| !s.value.is_empty()) {
                return Err(UpdateError::NotEmpty { what: TOPIC });
            }
        }
        let tombstone = Key::DeletedTopic(id).encode();
        let guard = Condition::ModRevision(read.mod_revision);
        let mut parts: Vec<bytes::Bytes> = Vec::new();
        for kind in [Key::Subscriptions(id), Key::Placements(id)] {
            parts.extend(self.0.all(kind).await?.value.into_iter().map(|found| found.key));
        }
        for index in 0..read.value.partitions {
            let partition = alluvium_types::ids::PartitionIndex::new(index);
            parts.extend([Key::Owner(id, partition).encode(), Key::StatePointer(id, partition).encode()]);
        }
        parts.push(Key::TopicId(id).encode());
        for chunk in parts.chunks(crate::store::TXN_OPS_MAX) {
            let mut txn = Txn::new().when(tombstone.clone(), guard);
            for key in chunk {
                txn = txn.delete(key.clone());
            }
            // Removing twice is the same as once, so no witness is needed but the one that is still there.
            if self.0.commit(&txn, &Witness::Gone { key: chunk[0].clone() }).await? == Decided::Conflict {
                return Err(UpdateError::Conflict { what: TOPIC });
            }
        }
        let txn = Txn::new().when(tombstone.clone(), guard).delete(tombstone.clone());
        match self.0.commit(&txn, &Witness::Gone { key: tombstone }).await? {
            Decided::Committed(_) => Ok(()),
            Decided::Conflict => Err(UpdateError::Conflict { what: TOPIC }),
        }
    }

    async fn put(&self, name: &TopicName, read: &Versioned<Topic>, new: Topic) -> Result<Versioned<Topic>, UpdateError> {
        let (key, nonce) = (Key::Topic(name).encode(), self.0.nonce());
        let txn =
            Txn::new().when(key.clone(), Condition::ModRevision(read.mod_revision)).put(key.clone(), record::encode(&new, nonce));
        match self.0.commit(&txn, &Witness::Nonce { key, nonce }).await? {
            Decided::Committed(revision) => Ok(read.rewritten(new, revision)),
            Decided::Conflict => Err(UpdateError::Conflict { what: TOPIC }),
        }
    }
}

const fn check_partitions(partitions: u32) -> Result<(), UpdateError> {
    if partitions == 0 || partitions > PARTITIONS_MAX {
        return Err(UpdateError::Illegal { what: TOPIC, problem: "a topic has 1 to 4096 partitions" });
    }
    Ok(())
}

impl Record for Topic {
    type Wire = wire::TopicRecord;

    fn to_wire(&self) -> Self::Wire {
        wire::TopicRecord {
            topic_id: uuid_bytes(self.id.get()),
            partitions: self.partitions,
            policies: Some(self.policies.to_wire()),
            created_ms: self.created.as_millis(),
        }
    }

    fn from_wire(wire: Self::Wire) -> Result<Self, String> {
        check_partitions(wire.partitions).map_err(|error| error.to_string())?;
        Ok(Self {
            id: TopicId::new(uuid_from(&wire.topic_id)?),
            partitions: wire.partitions,
            policies: Policies::from_wire(wire.policies)?,
            created: Timestamp::from_millis(wire.created_ms),
        })
    }
}

impl Record for NameOf {
    type Wire = wire::TopicNameRecord;

    fn to_wire(&self) -> Self::Wire {
        wire::TopicNameRecord { name: self.0.to_string() }
    }

    fn from_wire(wire: Self::Wire) -> Result<Self, String> {
        TopicName::parse(&wire.name).map(Self).map_err(|error| error.to_string())
    }
}

impl Record for DeletedTopic {
    type Wire = wire::DeletedTopicRecord;

    fn to_wire(&self) -> Self::Wire {
        wire::DeletedTopicRecord {
            name: self.name.to_string(),
            partitions: self.partitions,
            deleted_ms: self.deleted.as_millis(),
        }
    }

    fn from_wire(wire: Self::Wire) -> Result<Self, String> {
        Ok(Self {
            name: TopicName::parse(&wire.name).map_err(|error| error.to_string())?,
            partitions: wire.partitions,
            deleted: Timestamp::from_millis(wire.deleted_ms),
        })
    }
}
