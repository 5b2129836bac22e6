//! What the owner task hosts: the pure machine that knows all subscriptions of its partition.
//!
//! The owner is the only caller. It feeds the machine inputs and what happened to the log, appends the records it gives to
//! the partition's state ledger (in order, one quorum append for all that came together), and performs its outputs: `now`
//! ones at once, `when_durable` ones once every record given so far is durable (S1). Records are opaque bytes to the owner.
//!
//! When ownership ends, the machine is told once ([`Hosted::ended`]) and dropped; what was not durable has no receipt.

pub use alluvium_metadata::subscriptions::SubscriptionKind;
use alluvium_types::fault::Fault;
use alluvium_types::ids::{Offset, Revision};
use alluvium_types::names::SubscriptionName;
use alluvium_types::time::Mono;
use bytes::Bytes;

use super::bounds::Bounds;

/// A subscription as metadata knows it. The same name with another `id` is another subscription: the old one's state is void.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SubscriptionSpec {
    /// Its name.
    pub name: SubscriptionName,
    /// The revision that created its record.
    pub id: Revision,
    /// Its type.
    pub kind: SubscriptionKind,
    /// Where it starts in this partition, if there is no state of it yet.
    pub start: Offset,
}

/// Something that the owner carries out for the machine, such as sending to a consumer's or a caller's channel.
pub trait Output: Send + 'static {
    /// Does it. Never blocks: it sends into channels whose room is bounded by credit, and forgets what nobody waits for.
    fn perform(self);
}

/// What the machine wants done after a call. Handed in empty or with what earlier calls of the same round put there.
#[derive(Debug)]
pub struct Effects<O> {
    /// To be appended to the state ledger, in this order; each at most [`RECORD_BYTES_MAX`].
    pub records: Vec<Bytes>,
    /// To be performed at once.
    pub now: Vec<O>,
    /// To be performed once all records so far, these included, are durable. In order.
    pub when_durable: Vec<O>,
}

/// The largest record of the state ledger that a machine may give.
pub const RECORD_BYTES_MAX: usize = 1 << 20;

impl<O> Default for Effects<O> {
    fn default() -> Self {
        Self { records: Vec::new(), now: Vec::new(), when_durable: Vec::new() }
    }
}

/// The records of a state ledger make no sense: the partition must not be served (C42: fail loudly).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a record of the subscriptions' state makes no sense: {0}")]
pub struct CorruptState(pub String);

/// All subscriptions of one partition, as plain code: no clock, no chance, no I/O but what is handed in.
pub trait Hosted: Sized + Send + 'static {
    /// What sessions and administrators ask; carries the channels that answers go to.
    type Input: Send + 'static;
    /// What is done for them.
    type Output: Output;

    /// From the records of the newest snapshot and the deltas behind it, in order.
    fn restore(records: &[Bytes]) -> Result<Self, CorruptState>;

    /// The subscriptions that exist now, by metadata. Creates those without state at their start, drops the state of those that
    /// are no longer there (their consumers get a fault). Called once after [`Hosted::restore`], before anything else, and again
    /// whenever the topic's subscriptions change.
    fn configure(&mut self, now: Mono, specs: &[SubscriptionSpec], bounds: Bounds, effects: &mut Effects<Self::Output>);

    /// A request.
    fn apply(&mut self, now: Mono, input: Self::Input, effects: &mut Effects<Self::Output>);

    /// More messages are confirmed, or some were trimmed (cursors move past what is gone, T5).
    fn log_moved(&mut self, now: Mono, bounds: Bounds, effects: &mut Effects<Self::Output>);

    /// The time of [`Hosted::next_wakeup`] has come. Harmless at any other time.
    fn tick(&mut self, now: Mono, effects: &mut Effects<Self::Output>);

    /// When it wants a tick if nothing happens before.
    fn next_wakeup(&self) -> Option<Mono>;

    /// Its whole state, as records that [`Hosted::restore`] understands.
    fn snapshot(&self) -> Vec<Bytes>;

    /// Whether any subscription still needs a message of `first..end`. The owner trims only once every record given before it
    /// asked is durable (T4, C41).
    fn needs(&self, first: Offset, end: Offset) -> bool;

    /// Whether nobody is connected and nothing is on its way: the partition may be let go when it is idle.
    fn is_idle(&self) -> bool;

    /// Ownership is over: consumers and callers that wait are told `fault`.
    fn ended(&mut self, fault: &Fault, effects: &mut Effects<Self::Output>);
}
