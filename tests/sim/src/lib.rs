//! The simulator: the product's own machines, unchanged, on a world that goes wrong by seed.
//!
//! There are two campaigns. The first drives machines, event by event; the second, [`brokers`], runs whole brokers as processes of
//! [`alluvium_runtime::simulation`].
//!
//! Linked as they are in the first: the ledger's machines (`alluvium_ledger::{open, writer, recovery, reader}`) and the bookie's store with
//! its log and its identity (`alluvium_bookie::{store, log, identity}`) over `runtime::disk::sim`. Around them is only what a
//! shell is in production: a network, a metadata store, time. A run is a [`plan`] drawn from its seed; what really happened in
//! it is held against the invariants in [`history`].
//!
//! Read in this order: [`plan`], [`world`], [`history`], [`network`], [`metadata`], then [`campaign`], [`shrink`], [`directed`],
//! [`power`], [`report`]; then [`brokers`].

#[cfg(not(tokio_unstable))]
compile_error!(
    "tokio's randomness can't be seeded without `--cfg tokio_unstable`: RUSTFLAGS, or rustflags of a target in a configuration of \
     cargo's, hide what .cargo/config.toml says"
);

mod bookie;
pub mod brokers;
pub mod bug;
pub mod campaign;
pub mod dice;
pub mod directed;
pub mod history;
pub mod metadata;
pub mod network;
pub mod plan;
pub mod power;
pub mod queue;
pub mod report;
pub mod shrink;
pub mod trace;
pub mod world;
