//! Several brokers on one topic, and what goes wrong between them.
//!
//! Linked as they are: [`alluvium_broker`] with all its tasks, the ledger's client, metadata's repositories over the store in
//! memory, and the bookies' stores over simulated disks. Around them is only what production has from its machines: time, chance,
//! processes that die and stand still, a network, and clients.
//!
//! Read in this order: `plan`, `world`, `node`, `bookies`, `bookie_client`, `metadata`, `link`, `producer`, `consumer`, `faults`,
//! `history`, `finish`, then [`campaign`], [`report`].

mod bookie_client;
mod bookies;
pub mod campaign;
mod consumer;
mod faults;
mod finish;
mod history;
mod link;
mod metadata;
mod node;
pub mod plan;
mod producer;
pub mod report;
mod world;

pub use history::Violation;
pub use world::{Outcome, run};
