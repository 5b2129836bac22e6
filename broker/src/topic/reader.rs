//! Reading a partition's confirmed entries: tail cache first, then the ledgers. Independent of the owner task.

use std::sync::Arc;

use alluvium_types::fault::{Fault, FaultKind};
use alluvium_types::ids::Offset;
use alluvium_types::names::PartitionName;
use alluvium_types::time::Timestamp;

use super::entry::LoadedEntry;

/// Why entries could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadFault {
    /// These messages can't be read, whatever is tried: reported, never silently skipped (T6). Reading goes on at `end`.
    #[error("offsets {first} to {end} (excluded) cannot be read: {reason}")]
    Lost {
        /// The first one lost.
        first: Offset,
        /// The first one behind them.
        end: Offset,
        /// Why.
        reason: String,
    },
    /// Not now; the same read may succeed soon.
    #[error("the storage does not answer: {0}")]
    Unavailable(String),
    /// The partition is not this broker's any more.
    #[error("the partition is changing its owner")]
    Moved,
}

impl ReadFault {
    /// Whether the same read may succeed later.
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Unavailable(_) | Self::Moved => true,
            Self::Lost { .. } => false,
        }
    }

    /// As a caller is told.
    pub fn to_fault(&self, partition: &PartitionName) -> Fault {
        match self {
            Self::Lost { .. } => Fault::new(FaultKind::DataLoss, "MESSAGES_UNREADABLE", format!("partition {partition}: {self}")),
            Self::Unavailable(_) => {
                Fault::new(FaultKind::Unavailable, "STORAGE_UNAVAILABLE", format!("partition {partition}: {self}"))
            }
            Self::Moved => super::handle::moved(partition),
        }
    }
}

/// Reads one partition. Cheap to clone.
#[derive(Clone, Debug)]
pub struct PartitionReader(Arc<()>);

impl PartitionReader {
    /// Entries in offset order, the first of them the one that holds `from` (or, where retention trimmed it, the next one
    /// kept). At most about `bytes_max` bytes of bodies, but at least one entry; empty only when `from` is at or beyond
    /// what is confirmed: follow [`super::PartitionHandle::watch`] then. Waits for room in the process's budget for reads.
    /// Cancel safe.
    pub async fn read(&self, from: Offset, bytes_max: usize) -> Result<Vec<LoadedEntry>, ReadFault> {
        let _ = (from, bytes_max, &self.0);
        Ok(Vec::new())
    }

    /// The offset of the first message whose server time is `time` or later; the end when there is none. Cancel safe.
    pub async fn offset_at(&self, time: Timestamp) -> Result<Offset, ReadFault> {
        let _ = time;
        Ok(Offset::ZERO)
    }
}
