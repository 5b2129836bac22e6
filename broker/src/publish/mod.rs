//! Taking messages in: one producer's stream to a partition.
//!
//! What comes has room before it is there (`intake`). A batch is checked and paid for (`admission`), told from what is in the log already (`dedup`), and joined with others into an
//! entry (`coalesce`); its `receipt` comes back when the guarantee asked for holds. `session` is a stream of batches, `unary` a call
//! with a few messages.

mod admission;
pub(crate) mod coalesce;
pub(crate) mod dedup;
pub(crate) mod intake;
pub(crate) mod receipt;
mod service;
mod session;
mod unary;

pub use service::{PublishEdge, Responses};
