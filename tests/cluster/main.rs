//! A cluster as processes: etcd, bookies and a broker, each the real binary, killed and started again.

#![expect(clippy::disallowed_methods, reason = "a test of processes looks at the outside world directly")]
#![expect(clippy::print_stdout, reason = "a figure of a run is part of its result")]

mod clocks;
mod drain;
mod forwarded_input;
mod gaps;
mod guide;
mod internal_garbage;
mod internal_input;
mod kills;
mod languages;
mod load;
mod many_kills;
mod metadata_away;
mod operate;
mod paused_owner;
mod ports;
mod rolling;
mod scale;
mod small_memory;
mod start;
mod traffic;
mod wire;
