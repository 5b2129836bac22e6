//! A broker's claims on partitions: made by compare-and-set under its session (M1, M2), and what a claim may decide.

use std::sync::Arc;

use alluvium_metadata::brokers::Decider;
use alluvium_metadata::ownership::{Owner, OwnerHolder, Right};
use alluvium_metadata::{Authority, Metadata, PartitionId, UpdateError, Versioned};
use alluvium_types::ids::Epoch;

/// A claim on a partition. Every decision that it makes compares it; a lost compare means that somebody newer owns it.
#[derive(Clone, Debug)]
pub(crate) struct Claim(Arc<Parts>);

#[derive(Debug)]
struct Parts {
    partition: PartitionId,
    owner: Versioned<Owner>,
    decider: Decider,
}

impl Claim {
    /// Raises the epoch of the partition: the first step of a takeover (C62). Whoever owned it before is refused from the moment
    /// its ledgers are fenced. `current` is the record that was read when it was decided that this is right.
    pub(crate) async fn make(
        metadata: &Metadata,
        right: Right<'_>,
        partition: PartitionId,
        current: Option<Versioned<Owner>>,
        decider: &Decider,
        address: &str,
    ) -> Result<Self, UpdateError> {
        let owner = metadata.ownership().claim(partition.index, right, current.as_ref(), decider, address).await?;
        Ok(Self(Arc::new(Parts { partition, owner, decider: decider.clone() })))
    }

    /// Whoever held the partition in another session, has not let it go, and lived when this claim was made.
    pub(crate) fn former(&self) -> &[OwnerHolder] {
        &self.0.owner.value.former
    }

    /// Which partition.
    pub(crate) fn partition(&self) -> PartitionId {
        self.0.partition
    }

    /// Its number.
    pub(crate) fn epoch(&self) -> Epoch {
        self.0.owner.value.epoch
    }

    /// What its decisions compare.
    pub(crate) fn authority(&self) -> Authority<'_> {
        Authority { partition: self.0.partition, owner: &self.0.owner, decider: &self.0.decider }
    }

    /// Lets the partition go.
    pub(crate) async fn release(&self, metadata: &Metadata) -> Result<(), UpdateError> {
        metadata.ownership().release(self.0.partition, &self.0.owner, &self.0.decider).await.map(|_| ())
    }
}
