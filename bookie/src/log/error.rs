//! What can go wrong in the log, by what the caller should do about it.

use std::io;
use std::path::PathBuf;

use super::place::{FileId, Location};

/// Why a frame was not taken. Nothing of it is in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// The group being filled is full. Take it with [`begin`](super::Writer::begin), or wait for the one in flight.
    #[error("the group being filled is full")]
    Full,
    /// The file is full and no next one was offered. Prepare one; if that fails for want of space, so does this append.
    #[error("no next log file is ready")]
    NoFile,
    /// Larger than the largest frame. Permanent (C36).
    #[error("a body of {bytes} bytes is larger than a frame holds, {bytes_max}")]
    TooLarge {
        /// Of the body.
        bytes: usize,
        /// The largest.
        bytes_max: usize,
    },
    /// The marks of one more ledger would not fit the head of a file.
    #[error("the log holds the marks of as many ledgers as fit")]
    TooManyLedgers,
    /// A write or sync failed before; this writer takes nothing more, ever (B8).
    #[error("the log has failed")]
    Failed,
}

impl AppendError {
    /// Whether the same append may succeed soon, on this writer.
    pub const fn is_retryable(self) -> bool {
        match self {
            Self::Full | Self::NoFile => true,
            Self::TooLarge { .. } | Self::TooManyLedgers | Self::Failed => false,
        }
    }
}

/// Why a frame was not read. All but [`Moved`](Self::Moved) mean *unknown* to whoever asked, never *absent* (B3, B4).
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file was released: the index has, or will shortly have, another location, or the ledger is deleted. Look again.
    #[error("the file of {0:?} was released")]
    Moved(Location),
    /// What is there is not that entry (B4). An alarm, and work for repair.
    #[error("what is at {0:?} is not the entry that was written there")]
    Corrupt(Location),
    /// The disk does not give the bytes.
    #[error("cannot read at {location:?}")]
    Io {
        /// Where.
        location: Location,
        /// What the disk says.
        source: io::Error,
    },
}

impl ReadError {
    /// Whether looking the entry up again may give it.
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Moved(_) => true,
            Self::Corrupt(_) | Self::Io { .. } => false,
        }
    }
}

/// Why there is no next file.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// The disk is full and the pool empty. The only place where that can arise (C61).
    #[error("no space for another log file")]
    NoSpace,
    /// The disk failed. Fatal for the directory (B8).
    #[error("cannot prepare a log file at {path:?}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the disk says.
        source: io::Error,
    },
}

impl PrepareError {
    /// Whether it may succeed once there is space.
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::NoSpace => true,
            Self::Io { .. } => false,
        }
    }
}

/// Why a file may not go yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeepReason {
    /// The index still points into it.
    #[error("file {0} still holds live entries")]
    Live(FileId),
    /// It is the active file, or the one before, or no later durable snapshot holds its marks (C27).
    #[error("no later durable snapshot holds the marks of file {0}")]
    Marks(FileId),
    /// A mark that made its entries dead is not durable yet.
    #[error("the deletion that emptied file {0} is not durable yet")]
    NotDurable(FileId),
    /// It was never read: its header is bad. Unknown means keep (C30).
    #[error("file {0} could not be read, so nobody knows what it holds")]
    Unreadable(FileId),
}

/// Why a log did not open.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// Written by a newer version. Nothing was changed.
    #[error("{path:?} has format {version}; this version reads up to {known}")]
    NewerFormat {
        /// Which file.
        path: PathBuf,
        /// Its format.
        version: u16,
        /// The newest that is known here.
        known: u16,
    },
    /// It belongs to another cluster or another life of the directory (B11). Nothing was changed.
    #[error("{path:?} belongs to another cluster or incarnation")]
    Foreign {
        /// Which file.
        path: PathBuf,
    },
    /// There is no room for the file that a start begins.
    #[error("no space for the log file that a start begins")]
    NoSpace,
    /// The disk failed.
    #[error("cannot recover the log at {path:?}")]
    Io {
        /// Where.
        path: PathBuf,
        /// What the disk says.
        source: io::Error,
    },
}

impl RecoverError {
    /// Whether another try may succeed without a person's help.
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::NoSpace => true,
            Self::NewerFormat { .. } | Self::Foreign { .. } | Self::Io { .. } => false,
        }
    }
}
