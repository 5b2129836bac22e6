//! The cluster's identity.

use alluvium_proto::internal::v1 as wire;
use alluvium_types::ids::ClusterId;
use alluvium_types::time::Timestamp;

use crate::client::{Decided, Metadata, Witness};
use crate::error::{ClusterError, ReadError, UpdateError};
use crate::keys::Key;
use crate::record::{self, Record, Versioned, uuid_bytes, uuid_from};
use crate::store::{Condition, Txn};

/// One deployment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cluster {
    /// What data directories and peers are checked against.
    pub id: ClusterId,
    /// When it was made.
    pub created: Timestamp,
}

/// The repository of the cluster's identity.
#[derive(Clone, Debug)]
pub struct Clusters(Metadata);

impl Metadata {
    /// The cluster's identity.
    pub fn clusters(&self) -> Clusters {
        Clusters(self.clone())
    }
}

impl Clusters {
    /// The cluster's identity, made now if there is none. Any number of processes may do this at once: all get the same
    /// answer, whoever wins. `proposed` is the identity to make; without one it is drawn.
    pub async fn init(&self, proposed: Option<ClusterId>) -> Result<Versioned<Cluster>, UpdateError> {
        let id = proposed.unwrap_or_else(|| ClusterId::new(self.0.uuid()));
        loop {
            if let Some(found) = self.get().await? {
                return Ok(found);
            }
            let cluster = Cluster { id, created: self.0.clock().wall() };
            let (key, nonce) = (Key::Cluster.encode(), self.0.nonce());
            let txn = Txn::new().when(key.clone(), Condition::Absent).put(key.clone(), record::encode(&cluster, nonce));
            if let Decided::Committed(revision) = self.0.commit(&txn, &Witness::Nonce { key, nonce }).await? {
                return Ok(Versioned::created(cluster, revision));
            }
            // Another one made it, and nobody removes it: the next read finds it.
        }
    }

    /// The cluster's identity, which must be `expected`: a process that was given another cluster's address or prefix ends
    /// here, before it has changed anything.
    pub async fn require(&self, expected: ClusterId) -> Result<Versioned<Cluster>, ClusterError> {
        match self.get().await? {
            None => Err(ClusterError::Missing { expected }),
            Some(found) if found.value.id != expected => Err(ClusterError::Other { found: found.value.id, expected }),
            Some(found) => Ok(found),
        }
    }

    /// The cluster's identity, if it was made.
    pub async fn get(&self) -> Result<Option<Versioned<Cluster>>, ReadError> {
        self.0.read(Key::Cluster).await
    }
}

impl Record for Cluster {
    type Wire = wire::ClusterRecord;

    fn to_wire(&self) -> Self::Wire {
        wire::ClusterRecord { cluster_id: uuid_bytes(self.id.get()), created_ms: self.created.as_millis() }
    }

    fn from_wire(wire: Self::Wire) -> Result<Self, String> {
        Ok(Self { id: ClusterId::new(uuid_from(&wire.cluster_id)?), created: Timestamp::from_millis(wire.created_ms) })
    }
}
