//! 336,776 flights through a topic of four partitions, with processes killed on the way.
#![expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a test of processes looks at the outside world, and shows its figures"
)]

mod flights;
mod one_machine;
mod story;
