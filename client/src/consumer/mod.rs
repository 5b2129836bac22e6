//! Consumers: messages of a subscription, whose place the server keeps.
//!
//! Deliveries come through the [`crate::inbox`]; acknowledgements go through [`acks`], plain code that collects them, keeps
//! each until its receipt and sends it again on a new stream. The task in [`drive`] joins both to the stream.

mod acker;
mod acks;
mod builder;
mod drive;
mod handle;

pub use acker::Acker;
pub use builder::ConsumerBuilder;
pub use handle::Consumer;
