//! A cluster as processes: etcd, bookies and a broker, each the real binary, killed and started again.

#![expect(clippy::disallowed_methods, reason = "a test of processes looks at the outside world directly")]
#![expect(clippy::print_stdout, reason = "a figure of a run is part of its result")]

mod guide;
mod kills;
mod load;
mod metadata_away;
mod operate;
mod ports;
mod scale;
mod start;
