//! Between the partitions' machines and one consumer: credit shared by all partitions of a stream, and what waits to be sent.
//!
//! A bounded channel with two kinds of bound: deliveries are taken only against credit and room (in bytes and number), and
//! everything else answers something that the session limits itself: acknowledgements in flight, one read for each
//! partition. The credit is the stream's, so one permit serves whichever partition has a message (1 means 1).

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;

use alluvium_types::fault::Fault;
use alluvium_types::ids::{Offset, PartitionIndex};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::credit::{Account, Allowance, Grant};
use super::input::Span;
use crate::topic::LoadedEntry;

/// Bytes of deliveries that may wait in a mailbox; the last one may exceed it.
pub const WAITING_BYTES_MAX: u64 = 1 << 20;
/// Deliveries that may wait in a mailbox.
pub const WAITING_MAX: usize = 1024;

/// What a partition's machine tells a consumer.
#[derive(Debug)]
pub enum Event {
    /// Messages.
    Delivery(Delivery),
    /// An acknowledgement is durable (S1), or refused.
    Receipt {
        /// The client's number for it.
        id: u64,
        /// Why it is refused.
        fault: Option<Fault>,
    },
    /// Read from the partition and hand the entries to the machine ([`super::Input::Entries`]), whatever else waits.
    Read {
        /// From here.
        from: Offset,
        /// About so many bytes.
        bytes_max: usize,
    },
    /// These messages can't be delivered now (T6); the stream goes on.
    Problem {
        /// Which.
        span: Span,
        /// Why.
        fault: Fault,
    },
    /// This consumer is no longer one of the subscription: nothing more comes from this partition.
    Ended(Fault),
}

/// Messages of one entry, due to this consumer.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// Where they are.
    pub entry: LoadedEntry,
    /// Which of them.
    pub span: Span,
    /// 1 for the first time.
    pub attempt: u32,
    /// The credit taken for them: whole batches at their inflated size, parts of one at their share of it.
    pub taken: Grant,
}

/// The session's end.
#[derive(Clone)]
pub struct Mailbox(Arc<Shared>);

/// A partition's end.
#[derive(Clone)]
pub struct Slot {
    shared: Arc<Shared>,
    partition: PartitionIndex,
}

struct Shared {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    account: Account,
    events: VecDeque<(PartitionIndex, Event)>,
    /// Deliveries taken and not yet released by the session.
    waiting: Grant,
    waiting_deliveries: usize,
    /// Counts what makes credit or room.
    version: u64,
    /// Partitions that had something and found too little credit or room, and the version at which they did.
    starved: BTreeMap<PartitionIndex, u64>,
    suspended: bool,
    closed: bool,
}

impl State {
    fn allowance(&self) -> Option<Allowance> {
        if self.is_full() { None } else { self.credit() }
    }

    /// What the credit allows once there is room.
    fn credit(&self) -> Option<Allowance> {
        if self.closed || self.suspended { None } else { self.account.allowance() }
    }

    fn is_full(&self) -> bool {
        self.waiting.bytes >= WAITING_BYTES_MAX || self.waiting_deliveries >= WAITING_MAX
    }

    /// Whether nobody was starved before: then whoever could have credit granted is to hear of it.
    fn starve(&mut self, partition: PartitionIndex) -> bool {
        let first = self.starved.is_empty();
        self.starved.insert(partition, self.version);
        first
    }
}

impl Default for Mailbox {
    fn default() -> Self {
        Self::new()
    }
}

impl Mailbox {
    /// An empty one, without credit.
    pub fn new() -> Self {
        Self(Arc::new(Shared { state: Mutex::new(State::default()), changed: Notify::new() }))
    }

    /// The end for a partition.
    pub fn slot(&self, partition: PartitionIndex) -> Slot {
        Slot { shared: Arc::clone(&self.0), partition }
    }

    /// Opens credit.
    pub fn grant(&self, more: Grant) -> Result<(), Fault> {
        let mut state = self.0.state.lock();
        state.account.grant(more)?;
        state.version += 1;
        Ok(())
    }

    /// The next event that waits.
    pub fn pop(&self) -> Option<(PartitionIndex, Event)> {
        self.0.state.lock().events.pop_front()
    }

    /// Resolves once something was posted or settled since the last call. Cancel safe.
    pub async fn changed(&self) {
        self.0.changed.notified().await;
    }

    /// So many messages of a delivery went out, or never will.
    pub fn sent(&self, messages: u64) {
        let mut state = self.0.state.lock();
        state.waiting.messages = state.waiting.messages.saturating_sub(messages);
    }

    /// All of a delivery went out: its room is free again.
    pub fn release(&self, taken: Grant) {
        let mut state = self.0.state.lock();
        state.waiting_deliveries = state.waiting_deliveries.saturating_sub(1);
        state.waiting.bytes = state.waiting.bytes.saturating_sub(taken.bytes);
        state.version += 1;
    }

    /// Credit taken for what was not delivered after all goes back.
    pub fn refund(&self, unused: Grant) {
        let mut state = self.0.state.lock();
        state.account.refund(unused);
        state.version += 1;
    }

    /// Takes `bytes` more for a delivery that turns out larger than was taken for it. Given if that much is left, or
    /// if nothing but what waits here is on its way and something is left.
    pub fn take_more(&self, bytes: u64) -> bool {
        let mut state = self.0.state.lock();
        let alone = state.account.on_their_way() <= state.waiting.messages;
        state.account.take_more(bytes, alone)
    }

    /// Takes the credit back that is left; answers how much it was. A measure that does not bound has nothing left.
    pub fn reclaim(&self) -> Grant {
        self.0.state.lock().account.reclaim()
    }

    /// Whether a partition had something for which there is too little credit, and there still is.
    pub fn wants_credit(&self) -> bool {
        let state = self.0.state.lock();
        // With some credit it may have become enough since: then the partition is told, and says so again if not.
        let none = state.account.allowance().is_none();
        let lacks = state.starved.values().any(|seen| none || *seen == state.version);
        lacks && !state.closed && !state.suspended && !state.is_full()
    }

    /// The partitions to be told that there is more credit or room than when they found too little: once each time.
    pub fn refilled(&self) -> Vec<PartitionIndex> {
        let mut state = self.0.state.lock();
        if state.starved.is_empty() || state.allowance().is_none() {
            return Vec::new();
        }
        let version = state.version;
        state.starved.extract_if(.., |_, seen| *seen < version).map(|(partition, _)| partition).collect()
    }

    /// Takes nothing for now, or goes on.
    pub fn suspend(&self, suspended: bool) {
        let mut state = self.0.state.lock();
        state.version += u64::from(state.suspended != suspended);
        state.suspended = suspended;
    }

    /// Takes nothing more. What waits can still be popped.
    pub fn close(&self) {
        self.0.state.lock().closed = true;
    }

    /// The credit, as sums.
    pub fn account(&self) -> Account {
        self.0.state.lock().account
    }
}

impl Slot {
    /// Lets `choose` take what the credit and room allow, and charges what it says: in one step, so that partitions that share
    /// the credit can't both take its last message. Without credit or room, or when it declines what there is, the partition
    /// is told later that there is more.
    pub(crate) fn take<T>(&self, choose: impl FnOnce(Option<Allowance>) -> Choice<T>) -> Option<T> {
        let mut state = self.shared.state.lock();
        match choose(state.allowance()) {
            Choice::Take(used, chosen) => {
                state.account.take(used);
                state.waiting.messages += used.messages;
                state.waiting.bytes += used.bytes;
                state.waiting_deliveries += 1;
                Some(chosen)
            }
            Choice::TooLittle => {
                if state.starve(self.partition) {
                    self.shared.changed.notify_one();
                }
                None
            }
            Choice::Pass(answer) => Some(answer),
        }
    }

    /// Whether there is credit and room. Without, the partition is told later that there is.
    pub(crate) fn is_ready(&self) -> bool {
        let mut state = self.shared.state.lock();
        let ready = state.allowance().is_some();
        if !ready && state.starve(self.partition) {
            self.shared.changed.notify_one();
        }
        ready
    }

    /// Whether it takes more as soon as there is room, so that it is worth reading for.
    pub(crate) fn goes_on(&self) -> bool {
        self.shared.state.lock().credit().is_some()
    }

    /// Hands an event over. [`Event::Ended`] takes the place of deliveries that still wait: their messages are no longer this
    /// consumer's.
    pub(crate) fn post(&self, event: Event) {
        let mut state = self.shared.state.lock();
        if matches!(event, Event::Ended(_)) {
            state.events.retain(|(p, e)| *p != self.partition || !matches!(e, Event::Delivery(_) | Event::Read { .. }));
        }
        state.events.push_back((self.partition, event));
        drop(state);
        self.shared.changed.notify_one();
    }

    /// So many of this consumer's messages are acknowledged or given back.
    pub(crate) fn settle(&self, messages: u64) {
        let mut state = self.shared.state.lock();
        state.account.settle(messages);
        state.version += 1;
        drop(state);
        self.shared.changed.notify_one();
    }

    /// What is left of the credit.
    pub(crate) fn credit(&self) -> Grant {
        self.shared.state.lock().account.left()
    }
}

/// What came of an offer to take.
pub(crate) enum Choice<T> {
    /// Taken, for so much credit.
    Take(Grant, T),
    /// There is something, and too little credit or room for it.
    TooLittle,
    /// Nothing is taken, for another reason.
    Pass(T),
}

impl fmt::Debug for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.0.state.lock();
        write!(f, "Mailbox({} waiting, {:?})", state.events.len(), state.account)
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Slot({:?})", self.partition)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partition(number: u32) -> PartitionIndex {
        PartitionIndex::new(number)
    }

    /// Takes one message of ten bytes, if the offer allows it.
    fn take_one(slot: &Slot) -> bool {
        let taken = slot.take(|allowance| match allowance {
            Some(a) if a.left.bytes >= 10 || a.alone => Choice::Take(Grant { messages: 1, bytes: 10 }, ()),
            _ => Choice::TooLittle,
        });
        taken.is_some()
    }

    #[test]
    fn one_permit_serves_whichever_partition_has_a_message_and_only_one() {
        // S3: two partitions share the stream's credit.
        let mailbox = Mailbox::new();
        let (left, right) = (mailbox.slot(partition(0)), mailbox.slot(partition(1)));
        mailbox.grant(Grant { messages: 1, bytes: 100 }).expect("fine");
        assert!(take_one(&right) && !take_one(&left));
        mailbox.grant(Grant { messages: 1, bytes: 0 }).expect("fine");
        assert_eq!(mailbox.refilled(), [partition(0)], "who found nothing is told");
        assert!(take_one(&left));
        let account = mailbox.account();
        assert_eq!(account.granted().messages, account.taken().messages + account.left().messages);
    }

    #[test]
    fn a_partition_that_found_too_little_is_told_once_for_each_change() {
        let mailbox = Mailbox::new();
        let slot = mailbox.slot(partition(0));
        mailbox.grant(Grant { messages: 10, bytes: 15 }).expect("fine");
        assert!(take_one(&slot) && !take_one(&slot), "five bytes are left, and one message is on its way");
        assert!(mailbox.refilled().is_empty(), "nothing has changed since it looked");
        slot.settle(1);
        assert_eq!(mailbox.refilled(), [partition(0)], "alone now");
        assert!(mailbox.refilled().is_empty(), "told already");
        assert!(take_one(&slot));
    }

    #[test]
    fn a_session_that_sends_nothing_is_given_no_more_than_its_room() {
        let mailbox = Mailbox::new();
        let slot = mailbox.slot(partition(0));
        mailbox.grant(Grant { messages: 1 << 31, bytes: 1 << 40 }).expect("fine");
        let taken = (0..2 * WAITING_MAX).filter(|_| take_one(&slot)).count();
        assert_eq!(taken, WAITING_MAX);
        assert!(!slot.is_ready() && slot.goes_on(), "it is worth reading for, and has no room");
        mailbox.suspend(true);
        assert!(!slot.goes_on());
        mailbox.suspend(false);
        mailbox.release(Grant { messages: 1, bytes: 10 });
        assert_eq!(mailbox.refilled(), [partition(0)]);
        assert!(take_one(&slot) && !take_one(&slot));
    }

    #[test]
    fn what_was_taken_and_not_delivered_gives_its_permit_back() {
        // C44
        let mailbox = Mailbox::new();
        let slot = mailbox.slot(partition(0));
        mailbox.grant(Grant { messages: 1, bytes: 100 }).expect("fine");
        assert!(take_one(&slot) && !take_one(&slot));
        mailbox.refund(Grant { messages: 1, bytes: 10 });
        assert_eq!(mailbox.refilled(), [partition(0)]);
        assert!(take_one(&slot));
    }

    #[test]
    fn an_end_overtakes_what_is_no_longer_the_consumers() {
        let mailbox = Mailbox::new();
        let slot = mailbox.slot(partition(0));
        slot.post(Event::Read { from: Offset::ZERO, bytes_max: 1 });
        slot.post(Event::Receipt { id: 1, fault: None });
        slot.post(Event::Ended(Fault::not_found("subscription", "SUBSCRIPTION_NOT_FOUND", "s")));
        assert!(matches!(mailbox.pop(), Some((_, Event::Receipt { id: 1, .. }))));
        assert!(matches!(mailbox.pop(), Some((_, Event::Ended(_)))));
    }
}
