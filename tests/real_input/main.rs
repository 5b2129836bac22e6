//! 336,776 flights through a topic of four partitions, with processes killed on the way: one machine's only one, a cluster's one
//! after the other.
#![expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a test of processes looks at the outside world, and shows its figures"
)]

mod cluster;
mod flights;
mod one_machine;
mod story;
