//! Producers.
//!
//! A message's way: [`handle`] waits for room and puts it into its partition's open batch ([`accumulator`], [`router`]); the
//! task in [`drive`] keeps a [`link`] open, takes batches out when they are due and owns the [`session`], which knows what is
//! in flight, what must be sent again and in which order; the receipt resolves the batch's [`pending`] outcome, on which all
//! of its messages wait. Accumulator, router and session are plain code: no clock, no task, no wire.
//! Beside it stands [`history`]: what earlier runs of a name have stored.

mod accumulator;
mod builder;
mod drive;
mod handle;
mod history;
mod link;
mod pending;
mod router;
mod session;
mod window;

pub use builder::{Guarantee, ProducerBuilder};
pub use handle::Producer;
pub use history::History;
pub use pending::Pending;
