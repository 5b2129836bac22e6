//! What can go wrong, by family of operation. Every error says whether the same call may succeed later.

use std::borrow::Cow;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use alluvium_types::ids::{ClusterId, Revision, SessionId};

use crate::raft::VoterId;

/// Why a store did not answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The transaction may have been applied, may be applied later, or never (M3). Only the *same* transaction, or one that
    /// supersedes it, settles it: [`crate::Metadata`]'s repositories do so by themselves.
    #[error("the outcome is not known")]
    Unknown,
    /// Nothing was applied, and nothing of this call ever will be. The same call may succeed later.
    #[error("metadata is unavailable: {reason}")]
    Unavailable {
        /// What stands in the way, and where.
        reason: Cow<'static, str>,
    },
    /// The session does not exist (any more); nothing was applied.
    #[error("session {0} is gone")]
    SessionGone(SessionId),
    /// The history from the asked revision on is gone: list, and watch from there (M5).
    #[error("history before revision {oldest} is compacted")]
    Compacted {
        /// The oldest revision that can still be watched from.
        oldest: Revision,
    },
    /// Refused as it stands, for ever; nothing was applied.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The store has stopped; nothing of this call was applied.
    #[error("the metadata store has stopped")]
    Stopped,
}

impl StoreError {
    /// Nothing was applied; what stands in the way is known beforehand.
    pub const fn unavailable(reason: &'static str) -> Self {
        Self::Unavailable { reason: Cow::Borrowed(reason) }
    }

    /// Whether the same call may succeed later.
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Unknown | Self::Unavailable { .. } => true,
            Self::SessionGone(_) | Self::Compacted { .. } | Self::Refused(_) | Self::Stopped => false,
        }
    }
}

/// What a store never does.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// More operations, or more compares, than a transaction may hold.
    #[error("a transaction of {found} {what} is past the limit of {limit}")]
    TooMany {
        /// Operations or compares.
        what: &'static str,
        /// How many there are.
        found: usize,
        /// How many there may be.
        limit: usize,
    },
    /// More bytes than a request may hold.
    #[error("a request of {found} bytes is past the limit of {limit}")]
    TooLarge {
        /// How many there are.
        found: usize,
        /// How many there may be.
        limit: usize,
    },
    /// One transaction writes a key twice.
    #[error("a transaction writes one key twice")]
    DuplicateKey,
    /// A transaction that writes nothing.
    #[error("a transaction writes nothing")]
    Empty,
    /// A session that would expire at once, or never.
    #[error("a session's time to live of {0:?} is out of bounds")]
    TimeToLive(Duration),
    /// A page of no records.
    #[error("a page has no room for a record")]
    EmptyPage,
    /// Within our limits, but past those that the store's servers were given.
    #[error("{reason}: its servers must take what they take by default")]
    Server {
        /// Which server, and what it said.
        reason: String,
    },
}

/// Why a record could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Metadata did not answer within the patience of this process. What was asked for is *unknown*: an absent or default
    /// value must not be put in its place.
    #[error("cannot read metadata")]
    Unavailable(#[source] StoreError),
    /// The record is there, and makes no sense to this version of the program.
    #[error("cannot make sense of the record at {key}: {problem}")]
    Corrupt {
        /// Which key, as text.
        key: String,
        /// What is wrong.
        problem: String,
    },
    /// The process is stopping.
    #[error("stopping")]
    Stopping,
}

impl ReadError {
    /// Whether the same call may succeed later.
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Unavailable(_) => true,
            Self::Corrupt { .. } | Self::Stopping => false,
        }
    }
}

/// Why a record was not changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UpdateError {
    /// The record is not at the version that was read (C18): read again and decide again.
    #[error("{what} has changed since it was read")]
    Conflict {
        /// Which kind of record.
        what: &'static str,
    },
    /// There is one already.
    #[error("{what} exists already")]
    Exists {
        /// Which kind of record.
        what: &'static str,
    },
    /// There is none.
    #[error("{what} does not exist")]
    NotFound {
        /// Which kind of record.
        what: &'static str,
    },
    /// It still holds others.
    #[error("{what} is not empty")]
    NotEmpty {
        /// Which kind of record.
        what: &'static str,
    },
    /// The change is not one that this record may take.
    #[error("{what} may not change so: {problem}")]
    Illegal {
        /// Which kind of record.
        what: &'static str,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The broker that decides does not own the partition any more (M1).
    #[error("the partition has another owner")]
    NotOwner,
    /// The session under which this was decided is gone (M2).
    #[error("the session of the one who decides is gone")]
    SessionGone,
    /// Nothing was changed, and nothing of this call ever will be; metadata did not answer within the patience of this
    /// process.
    #[error("cannot change metadata")]
    Unavailable(#[source] StoreError),
    /// Refused as it stands.
    #[error(transparent)]
    Refused(Refusal),
    /// A record that this depends on could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The process is stopping, and nothing was changed.
    #[error("stopping")]
    Stopping,
    /// The process is stopping before the outcome was known (M3): whoever comes next finds out.
    #[error("stopping before the outcome was known")]
    Unresolved,
}

impl UpdateError {
    /// Whether the same call may succeed later. A conflict is not retried: it is decided again.
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Unavailable(_) => true,
            Self::Read(read) => read.is_retryable(),
            Self::Conflict { .. }
            | Self::Exists { .. }
            | Self::NotFound { .. }
            | Self::NotEmpty { .. }
            | Self::Illegal { .. }
            | Self::NotOwner
            | Self::SessionGone
            | Self::Refused(_)
            | Self::Stopping
            | Self::Unresolved => false,
        }
    }
}

/// Why metadata is not that of the cluster it should be of.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClusterError {
    /// There is no cluster in this store, or none at its prefix.
    #[error("metadata holds no cluster, but should hold {expected}: is its address or prefix another cluster's to be?")]
    Missing {
        /// Which it should be of.
        expected: ClusterId,
    },
    /// There is another one.
    #[error("metadata is of cluster {found}, not of {expected}: its address or prefix is another cluster's")]
    Other {
        /// Which it is of.
        found: ClusterId,
        /// Which it should be of.
        expected: ClusterId,
    },
    /// It could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

impl ClusterError {
    /// Whether the same call may succeed later, by itself.
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Missing { .. } | Self::Other { .. } => false,
            Self::Read(read) => read.is_retryable(),
        }
    }
}

/// Why the store on etcd did not open.
#[derive(Debug, thiserror::Error)]
pub enum EtcdError {
    /// Its configuration can't be meant so.
    #[error("the configuration of etcd makes no sense: {problems}")]
    Config {
        /// All that is wrong.
        problems: String,
    },
    /// A file of certificates or keys could not be read.
    #[error("cannot read {path:?}")]
    Pem {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No member answered in time.
    #[error("no etcd answers: {reasons}")]
    Unreachable {
        /// Each endpoint, and why.
        reasons: String,
    },
    /// A member does not let us in.
    #[error("etcd refuses: {reason}")]
    Refused {
        /// Which endpoint, and why.
        reason: String,
    },
}

impl EtcdError {
    /// Whether the same call may succeed later, by itself.
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Config { .. } | Self::Pem { .. } | Self::Refused { .. } => false,
        }
    }
}

/// Why the embedded store did not open. None of these is retried: a person must look.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The folder is another cluster's.
    #[error("{path:?} belongs to cluster {found}, not to {expected}")]
    OtherCluster {
        /// The file that says so.
        path: PathBuf,
        /// Whose it is.
        found: ClusterId,
        /// Whose it should be.
        expected: ClusterId,
    },
    /// The folder is another voter's.
    #[error("{path:?} belongs to voter {found}, not to {expected}")]
    OtherVoter {
        /// The file that says so.
        path: PathBuf,
        /// Whose it is.
        found: VoterId,
        /// Whose it should be.
        expected: VoterId,
    },
    /// A newer program wrote it.
    #[error("{path:?} has format {found}; this program knows formats up to {known}: use a newer one")]
    NewerFormat {
        /// Which file.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The newest that is known.
        known: u32,
    },
    /// Parts are missing that were there once, or never came to be.
    #[error("{dir:?} is half-written: {problem}")]
    HalfWritten {
        /// The folder.
        dir: PathBuf,
        /// What is missing.
        problem: String,
    },
    /// What is there is not what was written.
    #[error("{path:?} is corrupt: {problem}")]
    Corrupt {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The disk did not answer.
    #[error("cannot use {path:?}")]
    Disk {
        /// Which file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Raft refuses its configuration.
    #[error("the voters make no sense: {problem}")]
    Voters {
        /// What is wrong.
        problem: String,
    },
}

impl OpenError {
    /// Whether the same call may succeed later, by itself.
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::OtherCluster { .. }
            | Self::OtherVoter { .. }
            | Self::NewerFormat { .. }
            | Self::HalfWritten { .. }
            | Self::Corrupt { .. }
            | Self::Disk { .. }
            | Self::Voters { .. } => false,
        }
    }
}
