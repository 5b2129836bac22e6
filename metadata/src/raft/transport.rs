//! How voters talk: opaque messages, that may be lost, doubled and reordered.

use std::fmt::{self, Debug};
use std::num::NonZeroU64;

use bytes::Bytes;

/// A voter's number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VoterId(NonZeroU64);

impl VoterId {
    /// Wraps a number; there is no voter 0.
    pub fn new(value: u64) -> Option<Self> {
        NonZeroU64::new(value).map(Self)
    }

    /// The bare number.
    pub const fn get(self) -> u64 {
        self.0.get()
    }
}

impl fmt::Display for VoterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl Debug for VoterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v{}", self.0)
    }
}

/// Carries messages to other voters, whose [`super::RaftStore::receive`] takes them. Only authenticated voters may reach it.
pub trait Transport: Send + Sync + Debug + 'static {
    /// Hands a message over, at once: never blocks, and drops it when there is no room. Raft sends again what matters.
    fn send(&self, to: VoterId, message: Bytes);
}

/// The transport of a lone voter.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoPeers;

impl Transport for NoPeers {
    fn send(&self, to: VoterId, _message: Bytes) {
        tracing::warn!(%to, "a lone voter has nobody to talk to");
    }
}
