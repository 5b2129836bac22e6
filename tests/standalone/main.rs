//! One machine, end to end: the real binary as a process, spoken to over the wire.

#![expect(clippy::disallowed_methods, reason = "a test of processes looks at the outside world directly")]

mod bad_input;
mod bench;
mod commands;
mod damaged_folder;
mod footprint;
mod full_disk;
mod languages;
mod lifecycle;
mod lost_file;
mod quorum;
mod rates;
mod reading;
mod readme;
mod retention;
mod subscriptions;
mod wire;
