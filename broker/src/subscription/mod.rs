//! Who has what: a partition's subscriptions as plain code.
//!
//! [`Machine`] knows all subscriptions of one partition; the owner task hosts it ([`crate::topic::Hosted`]) and is its only
//! caller. Everybody else sends it an [`Input`]. What it decides goes out as records for the state ledger and as [`Output`]s;
//! messages for a consumer go into the consumer's [`Mailbox`], as far as its credit reaches. It never reads the log itself:
//! it asks a consumer that has credit to read ([`Event::Read`]) and shares what comes back among all of the subscription.
//!
//! Read in this order: `runs` (sets of offsets), `cursor` (what is acknowledged), `fates` (who has what), `state` (one
//! subscription, by its type's `discipline`), `credit` and `mailbox` (one consumer), `window` (entries at hand), `place` (a
//! subscription and its consumers), `machine` (all of them), `record` (what is kept).

mod ahead;
pub mod credit;
pub mod cursor;
pub(crate) mod discipline;
mod exclusive;
pub(crate) mod fates;
pub mod input;
pub mod machine;
pub mod mailbox;
#[cfg(test)]
mod model;
pub(crate) mod place;
pub mod record;
pub(crate) mod runs;
mod shared;
pub(crate) mod state;
pub(crate) mod window;

pub use credit::Grant;
pub use input::{AckRequest, AckTarget, ConsumerId, ConsumerStats, CursorStats, Input, JoinRequest, Output, Reply, Span};
pub use machine::Machine;
pub use mailbox::{Delivery, Event, Mailbox, Slot};
