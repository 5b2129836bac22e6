//! A ledger over a quorum of bookies: the protocol's pure machines, and the async shell that drives them.
//!
//! The machines ([`open`], [`writer`], [`recovery`], [`reader`]) take `(now, event)` and give actions and notices
//! ([`call::Machine`]). They do no I/O and read no clock; the simulator drives the same code. The shell ([`client`]) drives them
//! over a [`bookie_client::BookieClient`], which is gRPC in a cluster and a direct call in one process.
//!
//! Read in this order: [`call`], [`writer`], [`recovery`], [`open`], [`reader`], then the shell.

mod ack_tracker;
pub mod call;
pub mod compare_and_set;
mod ensemble_change;
mod fence;
pub mod fragments;
mod member;
pub mod mutation;
pub mod open;
pub mod placement;
pub mod reader;
pub mod recovery;
#[cfg(test)]
mod testing;
pub mod writer;
