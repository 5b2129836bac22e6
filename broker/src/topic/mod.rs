//! A partition: its owner task, its log, its state, and reading it.
//!
//! One task owns each partition: plain code decides (`owner`), a thin shell (`task`) waits. Others hold a [`PartitionHandle`]. The
//! task hosts the partition's subscriptions ([`Hosted`]): their inputs go through the handle, their records into the partition's
//! state ledger. Reading ([`PartitionReader`]) goes past the task, through a cache of the newest entries, then to the ledgers.
//!
//! Read in this order: [`handle`], [`hosted`], [`reader`], `owner` with its parts `log`, `state_ledger` and `retention`; then the
//! shells: `takeover`, `task`, `specs`, `data_ledgers`, `state_ledgers`.

pub mod bounds;
pub(crate) mod cache;
pub(crate) mod command;
pub(crate) mod complaints;
mod data_ledgers;
pub mod entry;
pub mod handle;
pub mod hosted;
pub(crate) mod lease;
pub(crate) mod log;
pub(crate) mod owner;
mod planted;
pub mod reader;
pub(crate) mod recent;
pub(crate) mod retention;
mod slot;
mod specs;
pub(crate) mod state_ledger;
mod state_ledgers;
pub(crate) mod takeover;
pub(crate) mod task;

pub use bounds::{Bounds, OpenSegment};
pub(crate) use data_ledgers::drop_ledgers;
pub use entry::{LoadedEntry, PlacedBatch};
pub use handle::PartitionHandle;
pub use hosted::{CorruptState, Effects, Hosted, Output, SubscriptionKind, SubscriptionSpec};
pub use reader::{PartitionReader, ReadFault};
