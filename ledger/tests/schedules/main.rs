//! Directed schedules of the ledger protocol: for each corner case, the order of events in which systems of this kind have
//! failed, and what must happen instead. The rows are those of `invariants.md`.

#![expect(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod bookie;
mod creation;
mod reading;
mod recovery;
mod world;
mod writer;
