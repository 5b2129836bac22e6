//! Who may append to a partition: one record, raised by compare-and-set, valid while its holder's session lives (M1, M2).

use alluvium_proto::internal::v1 as wire;
use alluvium_types::ids::{Epoch, PartitionIndex, Revision, SessionId, TopicId};
use alluvium_types::names::{BrokerName, TopicName};
use alluvium_types::time::Timestamp;

use crate::brokers::Decider;
use crate::client::{Decided, Metadata, Witness};
use crate::error::{ReadError, UpdateError};
use crate::keys::{self, Key};
use crate::record::{self, Listing, Record, Versioned, uuid_bytes, uuid_from};
use crate::store::{Condition, Txn};
use crate::topics::{DeletedTopic, Topic};

/// A partition, whatever its topic is called.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PartitionId {
    /// The topic.
    pub topic: TopicId,
    /// Which of its partitions.
    pub index: PartitionIndex,
}

impl std::fmt::Display for PartitionId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}#{}", self.topic, self.index)
    }
}

/// The broker that holds a partition.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OwnerHolder {
    /// The broker.
    pub broker: BrokerName,
    /// Its session.
    pub session: SessionId,
    /// The revision that created its session's key.
    pub session_revision: Revision,
    /// Where it is reached by other servers.
    pub address: String,
}

/// Who may append to a partition.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Owner {
    /// The number of the newest claim. It never falls.
    pub epoch: Epoch,
    /// Who made it; `None` once released.
    pub holder: Option<OwnerHolder>,
    /// When it was made, or released, by the clock of the broker that did so.
    pub since: Timestamp,
    /// Who held it in another session, and had not let it go when it was claimed.
    pub taken_from: Option<BrokerName>,
    /// Who held it before and did not let it go, as far as their sessions lived when the newest claim was made: any of them may
    /// still dispatch until its session is gone (M4), however many claims came after its own.
    pub former: Vec<OwnerHolder>,
}

/// By what right a partition is claimed.
#[derive(Clone, Copy, Debug)]
pub enum Right<'a> {
    /// Its topic exists.
    Topic(&'a TopicName, &'a Versioned<Topic>),
    /// Its topic is deleted and is being cleaned up.
    Deleted(TopicId, &'a Versioned<DeletedTopic>),
}

/// The repository of ownership.
#[derive(Clone, Debug)]
pub struct Ownership(Metadata);

impl Metadata {
    /// Ownership of partitions.
    pub fn ownership(&self) -> Ownership {
        Ownership(self.clone())
    }
}

impl Ownership {
    /// The owner's record, if the partition was ever claimed. Linearizable (M6).
    pub async fn get(&self, partition: PartitionId) -> Result<Option<Versioned<Owner>>, ReadError> {
        self.0.read(Key::Owner(partition.topic, partition.index)).await
    }

    /// Owners' records of all partitions that were ever claimed, in key order, behind `after`.
    pub async fn list(
        &self,
        after: Option<PartitionId>,
        limit: usize,
    ) -> Result<Listing<(PartitionId, Versioned<Owner>), PartitionId>, ReadError> {
        let after = after.map(|partition| Key::Owner(partition.topic, partition.index).encode());
        let page = self.0.page(Key::AllOwners, after, limit).await?.value;
        record::listing(page, |found| keys::parse_partition(&keys::rest_of(&found.key, &Key::AllOwners)?))
    }

    /// Whether the session of the holder still lives, by a linearizable read. `false` also means that ordered subscriptions
    /// may be dispatched by a successor (M4): it said goodbye, or its time has passed in metadata.
    pub async fn is_live(&self, holder: &OwnerHolder) -> Result<bool, ReadError> {
        let found = self.0.brokers().get(&holder.broker).await?;
        Ok(found.is_some_and(|broker| broker.create_revision == holder.session_revision))
    }

    /// Claims a partition: raises the epoch over `current`, which was read (`None`: never claimed). One transaction compares
    /// that record, the decider's session and the topic (M2). Then, before anything is appended: fence and recover (C62). Former
    /// holders whose sessions live go over into the new record: at most one for each session that lives.
    pub async fn claim(
        &self,
        index: PartitionIndex,
        right: Right<'_>,
        current: Option<&Versioned<Owner>>,
        decider: &Decider,
        address: &str,
    ) -> Result<Versioned<Owner>, UpdateError> {
        let (topic, topic_key, topic_condition) = match right {
            Right::Topic(name, topic) => {
                if index.get() >= topic.value.partitions {
                    return Err(UpdateError::NotFound { what: "the partition" });
                }
                (topic.value.id, Key::Topic(name).encode(), Condition::CreateRevision(topic.create_revision))
            }
            Right::Deleted(id, deleted) => {
                (id, Key::DeletedTopic(id).encode(), Condition::CreateRevision(deleted.create_revision))
            }
        };
        let taken_from = current.and_then(|current| current.value.holder.as_ref());
        let mut before = current.map_or_else(Vec::new, |current| current.value.former.clone());
        before.extend(current.and_then(|current| current.value.holder.clone()));
        let mut former: Vec<OwnerHolder> = Vec::new();
        for holder in before {
            // A session that is gone never comes back.
            if holder.session != decider.session && !former.contains(&holder) && self.is_live(&holder).await? {
                former.push(holder);
            }
        }
        let owner = Owner {
            since: self.0.clock().wall(),
            taken_from: taken_from.filter(|before| before.session != decider.session).map(|before| before.broker.clone()),
            epoch: current.map_or(Epoch::ZERO, |c| c.value.epoch).next(),
            holder: Some(OwnerHolder {
                broker: decider.broker.clone(),
                session: decider.session,
                session_revision: decider.create_revision,
                address: address.to_owned(),
            }),
            former,
        };
        let condition = current.map_or(Condition::Absent, |c| Condition::ModRevision(c.mod_revision));
        let (key, nonce) = (Key::Owner(topic, index).encode(), self.0.nonce());
        let txn = Txn::new()
            .when(key.clone(), condition)
            .when(topic_key.clone(), topic_condition)
            .put(key.clone(), record::encode(&owner, nonce));
        match self.0.commit(&decider.guard(txn), &Witness::Nonce { key, nonce }).await? {
            Decided::Committed(revision) => Ok(match current {
                Some(current) => current.rewritten(owner, revision),
                None => Versioned::created(owner, revision),
            }),
            Decided::Conflict => {
                self.0.check_session(decider).await?;
                let partition = PartitionId { topic, index };
                let now = self.get(partition).await?;
                if now.map(|n| n.mod_revision) == current.map(|c| c.mod_revision) {
                    return Err(UpdateError::NotFound { what: "the topic" });
                }
                Err(UpdateError::Conflict { what: "the owner" })
            }
        }
    }

    /// Lets a partition go: the epoch stays, nobody holds it.
    pub async fn release(
        &self,
        partition: PartitionId,
        owner: &Versioned<Owner>,
        decider: &Decider,
    ) -> Result<Versioned<Owner>, UpdateError> {
        let released = Owner { holder: None, since: self.0.clock().wall(), taken_from: None, ..owner.value.clone() };
        let (key, nonce) = (Key::Owner(partition.topic, partition.index).encode(), self.0.nonce());
        let txn = decider.guard(
            Txn::new()
                .when(key.clone(), Condition::ModRevision(owner.mod_revision))
                .put(key.clone(), record::encode(&released, nonce)),
        );
        match self.0.commit(&txn, &Witness::Nonce { key, nonce }).await? {
            Decided::Committed(revision) => Ok(owner.rewritten(released, revision)),
            Decided::Conflict => Err(self.0.why_not_owner(partition, owner, decider, "the owner").await),
        }
    }
}

/// An owner's right to decide for its partition: what each decision compares (M1, M2).
#[derive(Clone, Copy, Debug)]
pub struct Authority<'a> {
    /// The partition.
    pub partition: PartitionId,
    /// Its claim.
    pub owner: &'a Versioned<Owner>,
    /// Who decides.
    pub decider: &'a Decider,
}

impl Authority<'_> {
    /// Adds the compares to a transaction. The record's revision stands for its epoch: neither changes without the other.
    pub(crate) fn guard(&self, txn: Txn) -> Txn {
        let key = Key::Owner(self.partition.topic, self.partition.index).encode();
        self.decider.guard(txn.when(key, Condition::ModRevision(self.owner.mod_revision)))
    }
}

impl Metadata {
    /// After a conflict: is the decider's session the reason?
    async fn check_session(&self, decider: &Decider) -> Result<(), UpdateError> {
        let session = self.brokers().get(&decider.broker).await?;
        if session.is_some_and(|s| s.create_revision == decider.create_revision) {
            return Ok(());
        }
        Err(UpdateError::SessionGone)
    }

    /// After a conflict of an owner's decision: the session, the claim, or the record itself.
    pub(crate) async fn why_not_owner(
        &self,
        partition: PartitionId,
        owner: &Versioned<Owner>,
        decider: &Decider,
        what: &'static str,
    ) -> UpdateError {
        if let Err(error) = self.check_session(decider).await {
            return error;
        }
        match self.ownership().get(partition).await {
            Ok(Some(now)) if now.mod_revision == owner.mod_revision => UpdateError::Conflict { what },
            Ok(_) => UpdateError::NotOwner,
            Err(error) => error.into(),
        }
    }

    /// The same, for a decision under an authority.
    pub(crate) async fn why_not(&self, authority: Authority<'_>, what: &'static str) -> UpdateError {
        self.why_not_owner(authority.partition, authority.owner, authority.decider, what).await
    }
}

impl Record for Owner {
    type Wire = wire::OwnerRecord;

    fn to_wire(&self) -> Self::Wire {
        let holder = |holder: &OwnerHolder| wire::OwnerHolder {
            broker: holder.broker.to_string(),
            session_id: uuid_bytes(holder.session.get()),
            session_revision: holder.session_revision.get(),
            address: holder.address.clone(),
        };
        wire::OwnerRecord {
            epoch: self.epoch.get(),
            holder: self.holder.as_ref().map(holder),
            since_ms: self.since.as_millis(),
            taken_from: self.taken_from.as_ref().map(ToString::to_string).unwrap_or_default(),
            former: self.former.iter().map(holder).collect(),
        }
    }

    fn from_wire(wire: Self::Wire) -> Result<Self, String> {
        let holder = |holder: wire::OwnerHolder| -> Result<OwnerHolder, String> {
            Ok(OwnerHolder {
                broker: BrokerName::parse(&holder.broker).map_err(|error| error.to_string())?,
                session: SessionId::new(uuid_from(&holder.session_id)?),
                session_revision: Revision::new(holder.session_revision),
                address: holder.address,
            })
        };
        let taken_from = Some(wire.taken_from).filter(|name| !name.is_empty());
        let taken_from = taken_from.map(|name| BrokerName::parse(&name)).transpose().map_err(|error| error.to_string())?;
        let former = wire.former.into_iter().map(holder).collect::<Result<_, _>>()?;
        Ok(Self {
            epoch: Epoch::new(wire.epoch),
            holder: wire.holder.map(holder).transpose()?,
            since: Timestamp::from_millis(wire.since_ms),
            taken_from,
            former,
        })
    }
}
