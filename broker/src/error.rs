//! Why a partition is not served, and how that is told.

use alluvium_ledger::client::{FindError, PrepareError, RecoverError};
use alluvium_ledger::reader::ReadFailure;
use alluvium_metadata::{ReadError, UpdateError};
use alluvium_types::fault::{Fault, FaultKind};
use alluvium_types::ids::LedgerId;
use alluvium_types::names::{BrokerName, PartitionName};

use crate::topic::handle::{moved, owned};
use crate::topic::hosted::CorruptState;

/// Why a partition could not be taken over.
#[derive(Debug, Clone, thiserror::Error)]
pub enum OpenError {
    /// Its topic is not there, or not any more.
    #[error("the topic does not exist")]
    NoTopic,
    /// Another broker owns it, and lives.
    #[error("broker {0} owns it")]
    Owned(BrokerName),
    /// Somebody else claimed it at the same time, or this broker's session is gone.
    #[error("the claim was lost")]
    Lost(#[source] UpdateError),
    /// Metadata could not be read.
    #[error("metadata could not be read")]
    Metadata(#[source] ReadError),
    /// Metadata could not be changed.
    #[error("metadata could not be changed")]
    Update(#[source] UpdateError),
    /// A ledger could not be recovered.
    #[error("ledger {0} could not be recovered")]
    Recover(LedgerId, #[source] RecoverError),
    /// A recovered ledger could not be read.
    #[error("ledger {0} could not be read")]
    Read(LedgerId, #[source] ReadFailure),
    /// An offset could not be looked up.
    #[error("an offset could not be looked up")]
    Find(#[source] FindError),
    /// What is stored makes no sense: it is not served rather than served wrongly (C42).
    #[error("the partition's state makes no sense")]
    Corrupt(#[source] CorruptState),
    /// The broker is stopping.
    #[error("the broker is stopping")]
    Stopping,
}

impl OpenError {
    /// Whether the same may succeed later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::NoTopic | Self::Corrupt(_) => false,
            Self::Owned(_) | Self::Lost(_) | Self::Stopping | Self::Find(_) => true,
            Self::Metadata(error) => error.is_retryable(),
            Self::Update(error) => error.is_retryable(),
            Self::Recover(_, error) => error.is_retryable(),
            Self::Read(_, error) => error.is_retryable(),
        }
    }

    /// As a caller is told.
    pub fn to_fault(&self, partition: &PartitionName) -> Fault {
        let chain = chain(self);
        match self {
            Self::NoTopic => Fault::not_found("topic", "TOPIC_NOT_FOUND", &partition.topic),
            Self::Owned(owner) => owned(partition, owner),
            Self::Lost(_) | Self::Stopping => moved(partition),
            Self::Corrupt(_) => {
                Fault::new(FaultKind::DataLoss, "STATE_CORRUPT", format!("partition {partition} can't be served: {chain}"))
            }
            Self::Read(_, error) if !error.is_retryable() => {
                Fault::new(FaultKind::DataLoss, "LEDGER_UNREADABLE", format!("partition {partition} can't be served: {chain}"))
            }
            _ => Fault::new(
                FaultKind::Unavailable,
                "PARTITION_UNAVAILABLE",
                format!("partition {partition} can't be served now: {chain}"),
            ),
        }
    }
}

impl From<ReadError> for OpenError {
    fn from(error: ReadError) -> Self {
        Self::Metadata(error)
    }
}

impl From<UpdateError> for OpenError {
    fn from(error: UpdateError) -> Self {
        match error {
            error @ (UpdateError::NotOwner | UpdateError::SessionGone | UpdateError::Conflict { .. }) => Self::Lost(error),
            UpdateError::NotFound { .. } => Self::NoTopic,
            error => Self::Update(error),
        }
    }
}

/// Whether an update that failed leaves its owner an owner: nothing was changed, and nobody else has taken over.
pub(crate) const fn still_owner(error: &UpdateError) -> bool {
    match error {
        UpdateError::Unavailable(_) | UpdateError::Read(_) => true,
        UpdateError::Conflict { .. }
        | UpdateError::Exists { .. }
        | UpdateError::NotFound { .. }
        | UpdateError::NotEmpty { .. }
        | UpdateError::Illegal { .. }
        | UpdateError::NotOwner
        | UpdateError::SessionGone
        | UpdateError::Refused(_)
        | UpdateError::Stopping
        | UpdateError::Unresolved => false,
    }
}

/// Whether a creation that failed leaves its owner an owner.
pub(crate) const fn may_create_again(error: &PrepareError) -> bool {
    match error {
        PrepareError::Id(error) => still_owner(error),
        PrepareError::Bookies(_) => error.is_retryable(),
    }
}

/// An error and all its sources in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
