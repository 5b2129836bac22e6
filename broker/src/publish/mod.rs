//! Taking messages in: one producer's stream to a partition.
//!
//! What comes has room before it is there (`intake`), and memory of its own (`messages`). A batch is checked and paid for (`admission`), told from what is in the log already (`dedup`), and joined with others into an
//! entry (`coalesce`); its `receipt` comes back when the guarantee asked for holds. `session` is a stream of batches; its `lanes` are
//! one for each partition (`lane`), which go through `doors` to the owners, here or by an `upstream` to another broker; `unary` is a
//! call with a few messages.

mod admission;
pub(crate) mod coalesce;
#[cfg(test)]
mod costs;
pub(crate) mod dedup;
mod doors;
pub(crate) mod intake;
mod lane;
mod lanes;
pub(crate) mod messages;
mod news;
pub(crate) mod receipt;
mod service;
mod session;
mod unary;
mod upstream;
mod way;

pub use messages::Taken;
pub(crate) use service::open;
pub use service::{PublishEdge, Responses};
