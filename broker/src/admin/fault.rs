//! What metadata could not do, as a caller needs to know it.

use std::error::Error;

use alluvium_metadata::{ReadError, UpdateError};
use alluvium_proto::status::to_status;
use alluvium_types::fault::{Fault, FaultKind};
use alluvium_types::names::NameError;
use tonic::Status;

/// Why an administrator's call fails.
#[derive(Debug)]
pub(super) enum Refused {
    /// By this broker.
    Here(Fault),
    /// By the owner of a partition.
    AtOwner(Status),
}

impl From<Fault> for Refused {
    fn from(fault: Fault) -> Self {
        Self::Here(fault)
    }
}

impl From<Status> for Refused {
    fn from(status: Status) -> Self {
        Self::AtOwner(status)
    }
}

impl From<NameError> for Refused {
    fn from(error: NameError) -> Self {
        Self::Here(error.into())
    }
}

impl From<ReadError> for Refused {
    fn from(error: ReadError) -> Self {
        Self::Here(match &error {
            ReadError::Unavailable(_) | ReadError::Stopping => {
                Fault::new(FaultKind::Unavailable, "METADATA_UNAVAILABLE", told(&error))
            }
            ReadError::Corrupt { .. } => Fault::new(FaultKind::DataLoss, "METADATA_CORRUPT", told(&error)),
        })
    }
}

impl From<UpdateError> for Refused {
    fn from(error: UpdateError) -> Self {
        let (kind, reason) = match error {
            UpdateError::Read(error) => return error.into(),
            UpdateError::Conflict { .. } | UpdateError::NotOwner | UpdateError::SessionGone => {
                (FaultKind::Unavailable, "CHANGED_MEANWHILE")
            }
            UpdateError::Exists { .. } => (FaultKind::AlreadyExists, "EXISTS"),
            UpdateError::NotFound { .. } => (FaultKind::NotFound, "NOT_FOUND"),
            UpdateError::NotEmpty { .. } => (FaultKind::FailedPrecondition, "NOT_EMPTY"),
            UpdateError::Illegal { .. } | UpdateError::Refused(_) => (FaultKind::InvalidArgument, "ILLEGAL_CHANGE"),
            UpdateError::Unavailable(_) | UpdateError::Stopping => (FaultKind::Unavailable, "METADATA_UNAVAILABLE"),
            UpdateError::Unresolved => (FaultKind::OutcomeUnknown, "OUTCOME_UNKNOWN"),
        };
        Self::Here(Fault::new(kind, reason, told(&error)))
    }
}

impl From<Refused> for Status {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Here(fault) => to_status(&fault),
            Refused::AtOwner(status) => status,
        }
    }
}

/// An error with its causes, in one line.
fn told(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// Nothing of that name.
pub(super) fn absent(what: &'static str, reason: &'static str, name: impl std::fmt::Display) -> Refused {
    Refused::Here(Fault::not_found(what, reason, name))
}
