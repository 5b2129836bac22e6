//! All roles in one process: the quickstart, and what the tests of the whole start.
//!
//! Metadata is the embedded raft store with one voter, bookies keep their entries below the data folder, the broker reaches
//! them through the same ledger machines as in a cluster; only the transport is a call instead of a connection.

mod bookies;
mod config;
mod http;
mod public;
mod server;
mod welcome;

pub use config::{Config, Listen, Transport};
pub use server::run;
