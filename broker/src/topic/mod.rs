//! A partition: its owner task, its log, its state, and reading it.
//!
//! One task owns each partition: plain code decides (`owner`), a thin shell waits. Others hold a [`PartitionHandle`]. The task
//! hosts the partition's subscriptions ([`Hosted`]): their inputs go through the handle, their records into the partition's
//! state ledger. Reading ([`PartitionReader`]) goes past the task, through a cache of the newest entries, then to the ledgers.
//!
//! Read in this order: [`handle`], [`hosted`], [`reader`], `owner`, `log`, `state_ledger`, `retention`.

pub mod bounds;
pub(crate) mod command;
pub mod entry;
pub mod handle;
pub mod hosted;
pub(crate) mod lease;
pub(crate) mod log;
pub(crate) mod owner;
pub mod reader;
pub(crate) mod retention;
pub(crate) mod state_ledger;

pub use bounds::Bounds;
pub use entry::{LoadedEntry, PlacedBatch};
pub use handle::PartitionHandle;
pub use hosted::{CorruptState, Effects, Hosted, Output, SubscriptionKind, SubscriptionSpec};
pub use reader::{PartitionReader, ReadFault};
