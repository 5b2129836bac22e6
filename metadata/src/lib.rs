//! The metadata plane: small, slowly changing facts, changed by compare-and-set only. Never anything per message, ack or
//! cursor move.
//!
//! One trait, [`MetadataStore`], with its backends; typed repositories above it, made from a [`Metadata`] handle. Nobody
//! else builds keys or encodes values. Read in this order: [`store`], [`state`], [`keys`], `client` (how a decision becomes
//! certain, M3), [`ownership`], [`segments`], [`ledgers`], then [`raft`].

pub mod auditor;
pub mod bookies;
pub mod brokers;
mod changes;
mod client;
pub mod clusters;
pub mod conformance;
pub mod error;
pub mod etcd;
pub mod keys;
mod leases;
mod ledger_steps;
pub mod ledgers;
pub mod live;
pub mod memory;
pub mod mutation;
pub mod ownership;
pub mod placements;
pub mod policies;
pub mod raft;
mod record;
pub mod segments;
pub mod session;
mod shared;
pub mod state;
pub mod state_pointer;
pub mod store;
pub mod subscriptions;
pub mod tenants;
pub mod topic_changes;
pub mod topics;

pub use client::Metadata;
pub use error::{ReadError, StoreError, UpdateError};
pub use memory::MemoryStore;
pub use ownership::{Authority, PartitionId};
pub use record::{Listing, Versioned};
pub use segments::Segments;
pub use state_pointer::StatePointers;
pub use store::{MetadataStore, Store};
