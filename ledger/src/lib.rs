//! A ledger over a quorum of bookies: the protocol's pure machines, and the async shell that drives them.
//!
//! The machines ([`open`], [`writer`], [`recovery`], [`reader`]) take `(now, event)` and give actions and notices
//! ([`call::Machine`]). They do no I/O and read no clock; the simulator drives the same code. The shell ([`client`]) drives them
//! over a [`bookie_client::BookieClient`], which is gRPC in a cluster and a direct call in one process.
//!
//! Read in this order: [`call`], [`writer`], [`recovery`], [`open`], [`reader`], then the shell.

mod ack_tracker;
pub mod bookie_client;
pub mod call;
pub mod client;
pub mod compare_and_set;
pub mod config;
mod drive;
mod ensemble_change;
mod fence;
pub mod fragments;
pub mod grpc;
mod member;
pub mod metrics;
pub mod mutation;
pub mod open;
pub mod placement;
pub mod pool;
pub mod reader;
pub mod recovery;
#[cfg(test)]
mod testing;
pub mod writer;

pub use bookie_client::{BookieClient, CallError, Connector, Unreachable};
pub use client::{LedgerClient, LedgerWriter};
pub use config::Config;
pub use grpc::GrpcConnector;
pub use metrics::Metrics;
pub use pool::BookiePool;
