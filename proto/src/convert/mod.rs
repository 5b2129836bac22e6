//! Between wire messages and the shared words. What comes from the wire is checked here; nothing panics.

pub mod bookie;
