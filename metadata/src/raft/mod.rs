//! The embedded store: raft decides, a log of its own makes it durable, the state machine of [`crate::state`] applies it.
//!
//! One thread owns everything that changes: raft, the log, the leases. Others hold a [`RaftStore`], which sends it requests
//! and reads the applied state once the thread has said that it is new enough. `docs/formats/raft.md` is what lies on disk.
//!
//! Read in this order: `layout` and `group` (bytes, pure), `log`, `snapshot`, `replica` (raft's view of them), `node` (the
//! thread), `handle` (the store), [`transport`].

mod codec;
mod group;
mod handle;
mod layout;
mod log;
mod node;
mod open;
mod pending;
mod replica;
mod snapshot;
pub mod transport;

use std::path::PathBuf;
use std::time::Duration;

use alluvium_runtime::disk::SyncMode;
use alluvium_types::ids::ClusterId;

pub use handle::{RaftStore, Role};
pub use transport::{NoPeers, Transport, VoterId};

/// How a voter is set up.
#[derive(Clone, Debug)]
pub struct RaftConfig {
    /// Its folder; made if it isn't there.
    pub dir: PathBuf,
    /// Which cluster it must belong to. `None`: whichever it belongs to; a new folder draws a cluster id.
    pub cluster: Option<ClusterId>,
    /// Which voter this is.
    pub voter: VoterId,
    /// All voters, this one included, when the folder is new. What stands in the folder counts afterwards.
    pub voters: Vec<VoterId>,
    /// How groups become durable.
    pub sync: SyncMode,
    /// Raft's unit of time: a leader is missed after 10 to 20 of them.
    pub tick: Duration,
    /// The size of a piece of the log, in bytes: at least twice the largest request.
    pub log_file_bytes: u64,
    /// How much log is written between snapshots, in bytes, at least.
    pub snapshot_after_bytes: u64,
    /// How many applied entries are kept for voters that lag; further behind, they get a snapshot.
    pub trailing_entries: u64,
}

impl RaftConfig {
    /// A lone voter in `dir`.
    pub fn lone(dir: PathBuf, cluster: Option<ClusterId>) -> Self {
        let voter = VoterId::new(1).expect("1 is not 0");
        Self {
            dir,
            cluster,
            voter,
            voters: vec![voter],
            sync: SyncMode::Buffered,
            tick: Duration::from_millis(50),
            log_file_bytes: 8 << 20,
            snapshot_after_bytes: 32 << 20,
            trailing_entries: 0,
        }
    }
}
