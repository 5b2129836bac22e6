//! What can be set about the log.

use alluvium_runtime::disk::BLOCK_BYTES;
use alluvium_types::limits::Limits;
use serde::{Deserialize, Serialize};

/// The most that may be kept of the log in memory, in chunks and of what is new: chunks are looked through one by one.
const CHUNK_CACHE_BYTES_MAX: usize = 256 << 20;

/// The log of one data directory.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Bytes of a log file, allocated ahead. Smaller ones are found dead sooner, larger ones cost fewer pauses.
    pub file_bytes: u64,
    /// Bytes after which a group takes no further frame. Half of what may be in flight to this bookie.
    pub group_bytes: usize,
    /// Files kept ready, allocated, and written before while the log leaves the disk time for that, so that neither a full disk nor a
    /// fresh block slows an append. They are also the reserve: a start, fences and compaction need at most two.
    pub pool_files: usize,
    /// Bytes of one transfer when history is read.
    pub read_bytes: usize,
    /// Bytes of the log that are kept, in chunks of 256 KiB, while entries of many ledgers are read among each other; 0 for none.
    pub chunk_cache_bytes: usize,
    /// Bytes of small groups that are kept in memory once they are written, for whoever reads what is new; 0 for none.
    pub tail_cache_bytes: usize,
    /// Whether files are written with zeros before their first use; while the log is busy they are not.
    pub prewrite: bool,
    /// The largest body of an entry. Not configured: derived from the largest message.
    #[serde(skip)]
    pub body_bytes_max: usize,
    /// Bugs of this field's past, for the tests that must find them.
    #[cfg(feature = "planted")]
    #[serde(skip)]
    pub planted: Option<super::planted::Planted>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            file_bytes: 256 << 20,
            group_bytes: 4 << 20,
            pool_files: 3,
            read_bytes: 1 << 20,
            chunk_cache_bytes: 32 << 20,
            tail_cache_bytes: 16 << 20,
            prewrite: true,
            body_bytes_max: Limits::default().entry_bytes_max(),
            #[cfg(feature = "planted")]
            planted: None,
        }
    }
}

impl Config {
    /// All that is wrong, one sentence each; empty when nothing is.
    pub fn validate(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        let block = BLOCK_BYTES as u64;
        if !self.file_bytes.is_multiple_of(block) || self.file_bytes > 32 << 30 {
            wrong.push(format!("file_bytes must be a multiple of {block} and at most 32 GiB"));
        }
        if self.file_bytes < 2 * self.group_bytes_max() as u64 + 8 * block {
            wrong.push("file_bytes must hold at least two largest groups: raise it, or lower group_bytes".to_owned());
        }
        if self.group_bytes < BLOCK_BYTES {
            wrong.push(format!("group_bytes must be at least {BLOCK_BYTES}"));
        }
        if self.pool_files < 2 {
            wrong.push("pool_files must be at least 2: they are the reserve of a full disk".to_owned());
        }
        let (chunk, chunks) = (super::chunks::CHUNK_BYTES, self.chunk_cache_bytes);
        if chunks != 0 && !(chunk..=CHUNK_CACHE_BYTES_MAX).contains(&chunks) {
            wrong.push(format!("chunk_cache_bytes must be 0, or from {chunk} to {CHUNK_CACHE_BYTES_MAX}"));
        }
        if self.tail_cache_bytes > CHUNK_CACHE_BYTES_MAX {
            wrong.push(format!("tail_cache_bytes must be at most {CHUNK_CACHE_BYTES_MAX}"));
        }
        if self.read_bytes < BLOCK_BYTES {
            wrong.push(format!("read_bytes must be at least {BLOCK_BYTES}"));
        }
        wrong
    }

    /// The most bytes that one group takes on disk: the soft limit, one whole frame past it, and what a group adds.
    pub(crate) fn group_bytes_max(&self) -> usize {
        let frame = super::head::frame_bytes(self.body_bytes_max);
        (self.group_bytes + frame + super::group::GROUP_OVERHEAD_MAX).next_multiple_of(BLOCK_BYTES)
    }

    /// Whether a bug is planted.
    #[cfg(feature = "planted")]
    pub(crate) fn plants(&self, bug: super::planted::Planted) -> bool {
        self.planted == Some(bug)
    }
}
