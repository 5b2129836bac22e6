//! What a producer has in flight, and what follows from what the server says. Plain code: requests come out, receipts,
//! lost streams and ticks go in, effects come out.
//!
//! With a name, every batch of a partition stays here, in order and with its sequence, until its fate is known (D6): after
//! a fault that passes, or on a new stream, it and everything behind it are sent again in order; what is in the log already
//! the server recognises, and says where. Without a name nothing tells a repetition from a first time, so what was sent on a lost
//! stream is reported as unresolved, unless the application prefers to have it sent again.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use alluvium_proto::status::RemoteFault;
use alluvium_proto::v1;
use alluvium_runtime::backoff::Backoff;
use alluvium_types::fault::FaultKind;
use alluvium_types::time::Mono;

use crate::error::{Error, transient};
use crate::producer::pending::Stored;

/// Refusals that say that the batch is in the log, only not where.
pub(in crate::producer) const STORED: [&str; 2] = ["DUPLICATE_TOO_OLD", "SEQUENCE_REBATCHED"];
/// Refusals that say that the server and this client see the producer's state differently: claiming anew settles it.
const UNSETTLED: [&str; 3] = ["SEQUENCE_GAP", "SEQUENCE_OVERLAP", "PRODUCER_UNKNOWN"];

/// In the log, from an earlier attempt; nobody remembers where.
const SOMEWHERE: Stored = Stored { first_offset: None, duplicate: true };

/// What does not change while a producer lives.
#[derive(Clone, Debug)]
pub(in crate::producer) struct Rules {
    /// The producer's name; `None`: not idempotent.
    pub(in crate::producer) name: Option<String>,
    /// Without a name: send again what may be stored.
    pub(in crate::producer) resend_unresolved: bool,
    /// How long a batch may take.
    pub(in crate::producer) timeout: Duration,
}

/// Something to be sent on the stream.
#[derive(Debug)]
pub(in crate::producer) enum Request {
    Claim { partition: u32, last_epoch: Option<u64> },
    Batch { id: u64, partition: u32, epoch: u64, batch: v1::Batch },
}

/// Something to be done or told. `T` stands for what is told of a batch's outcome.
#[derive(Debug)]
pub(in crate::producer) enum Effect<T> {
    /// A batch's fate.
    Told(T, Result<Stored, Error>),
    /// A partition was claimed; the next message there gets this sequence.
    Claimed { partition: u32, stored: Option<u64> },
    /// A claim was refused for good.
    Unclaimed { partition: u32, error: Error },
    /// Nothing in flight is left of a partition, and what is queued for it can't follow. The next message there gets
    /// sequence `next`, or a claim has to tell.
    Broken { partition: u32, cause: Error, next: Option<u64> },
    /// Nothing more can be learnt on this stream: open a new one.
    Reconnect(Error),
    /// A newer producer of this name has taken over.
    Over(Error),
}

/// A batch ready to be sent.
#[derive(Debug)]
pub(in crate::producer) struct Closed<T> {
    pub(in crate::producer) partition: u32,
    pub(in crate::producer) batch: v1::Batch,
    pub(in crate::producer) outcome: T,
    /// When its first message came.
    pub(in crate::producer) since: Mono,
}

/// All partitions of one producer.
#[derive(Debug)]
pub(in crate::producer) struct Session<T> {
    rules: Rules,
    lanes: Vec<Lane<T>>,
    next_id: u64,
    turn: usize,
    effects: Vec<Effect<T>>,
}

#[derive(Debug)]
struct Lane<T> {
    claim: Claim,
    last_epoch: Option<u64>,
    /// The sequence of the next batch to be added; `None` until a claim told.
    next_sequence: Option<u64>,
    /// Not resolved, in order.
    entries: VecDeque<Entry<T>>,
    paused_until: Option<Mono>,
    backoff: Backoff,
    /// What kept its batches from being stored, since the last one was.
    trouble: Option<Arc<Error>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Claim {
    /// Nobody needs it.
    Idle,
    /// To be asked for, from then on.
    Due(Mono),
    Asked,
    /// On this stream; 0 for a producer without a name.
    Held(u64),
}

#[derive(Debug)]
struct Entry<T> {
    batch: v1::Batch,
    outcome: T,
    /// Its number on this stream, if it was sent there.
    sent: Option<u64>,
    /// It may be in the log: it was sent where no receipt can come from any more.
    unsure: bool,
    /// A claim has shown that it is in the log. It is sent once more to learn where.
    known: bool,
    expires: Mono,
}

impl<T> Entry<T> {
    const fn first_sequence(&self) -> u64 {
        self.batch.first_sequence
    }

    fn end_sequence(&self) -> u64 {
        self.batch.first_sequence + u64::from(self.batch.count)
    }

    /// What is true of this batch when `error` ends it.
    fn fate(&self, error: Error) -> Result<Stored, Error> {
        if self.known {
            Ok(SOMEWHERE)
        } else if self.unsure || self.sent.is_some() {
            Err(error.unresolved())
        } else {
            Err(error)
        }
    }
}

impl<T> Lane<T> {
    fn can_send(&self, now: Mono) -> bool {
        matches!(self.claim, Claim::Held(_)) && self.paused_until.is_none_or(|until| now >= until)
    }

    fn pause(&mut self, fault: &RemoteFault, now: Mono) {
        self.paused_until = Some(now.after(self.backoff.delay().max(fault.retry_after.unwrap_or_default())));
        self.trouble = Some(Arc::new(Error::Refused(fault.clone())));
    }

    /// From `index` on, nothing counts as sent. Without `refused`, each of them may be in the log.
    fn withdraw(&mut self, index: usize, refused: bool) {
        for entry in self.entries.iter_mut().skip(index) {
            entry.unsure |= entry.sent.is_some() && !refused;
            entry.sent = None;
        }
    }
}

impl<T> Session<T> {
    pub(in crate::producer) fn new(rules: Rules, partitions: u32, backoff: &Backoff) -> Self {
        let claim = if rules.name.is_some() { Claim::Idle } else { Claim::Held(0) };
        let lane = |_| Lane {
            claim,
            last_epoch: None,
            next_sequence: None,
            entries: VecDeque::new(),
            paused_until: None,
            backoff: backoff.clone(),
            trouble: None,
        };
        let lanes = (0..partitions).map(lane).collect();
        Self { rules, lanes, next_id: 1, turn: 0, effects: Vec::new() }
    }

    /// What is to be done, in order, since the last call.
    pub(in crate::producer) fn effects(&mut self) -> Vec<Effect<T>> {
        std::mem::take(&mut self.effects)
    }

    /// Whether nothing is unresolved.
    pub(in crate::producer) fn is_empty(&self) -> bool {
        self.lanes.iter().all(|lane| lane.entries.is_empty())
    }

    /// Whether nothing of this partition is unresolved.
    pub(in crate::producer) fn is_idle(&self, partition: u32) -> bool {
        self.lanes[partition as usize].entries.is_empty()
    }

    /// Whether a batch of this partition would be sent at once, on a stream that stands.
    pub(in crate::producer) fn accepts(&self, partition: u32, now: Mono) -> bool {
        self.lanes[partition as usize].can_send(now)
    }

    /// The outcomes of all that is unresolved.
    pub(in crate::producer) fn outcomes(&self) -> impl Iterator<Item = &T> {
        self.lanes.iter().flat_map(|lane| lane.entries.iter().map(|entry| &entry.outcome))
    }

    /// Sees to it that a partition is claimed. [`Effect::Claimed`] or [`Effect::Unclaimed`] will tell, unless it is.
    pub(in crate::producer) fn want_claim(&mut self, partition: u32, now: Mono) {
        let lane = &mut self.lanes[partition as usize];
        if lane.claim == Claim::Idle {
            lane.claim = Claim::Due(now);
        }
    }

    /// Adds a batch behind those of its partition.
    pub(in crate::producer) fn add(&mut self, closed: Closed<T>) {
        let lane = &mut self.lanes[closed.partition as usize];
        let expires = closed.since.after(self.rules.timeout);
        let entry = Entry { batch: closed.batch, outcome: closed.outcome, sent: None, unsure: false, known: false, expires };
        if let Some(next) = &mut lane.next_sequence {
            assert_eq!(*next, entry.first_sequence(), "sequences of a partition are dense");
            *next = entry.end_sequence();
        }
        lane.entries.push_back(entry);
    }

    /// The next thing to be sent, the partitions in turn.
    pub(in crate::producer) fn next_request(&mut self, now: Mono) -> Option<Request> {
        let lanes = self.lanes.len();
        for step in 0..lanes {
            let index = (self.turn + step) % lanes;
            let lane = &mut self.lanes[index];
            let partition = u32::try_from(index).expect("partitions are counted in 32 bits");
            match lane.claim {
                Claim::Due(at) if now >= at => {
                    lane.claim = Claim::Asked;
                    return Some(Request::Claim { partition, last_epoch: lane.last_epoch });
                }
                Claim::Held(epoch) if lane.can_send(now) => {
                    let Some(entry) = lane.entries.iter_mut().find(|entry| entry.sent.is_none()) else { continue };
                    lane.paused_until = None;
                    let id = self.next_id;
                    self.next_id += 1;
                    entry.sent = Some(id);
                    self.turn = (index + 1) % lanes;
                    return Some(Request::Batch { id, partition, epoch, batch: entry.batch.clone() });
                }
                _ => {}
            }
        }
        None
    }

    /// When something becomes due by itself, that isn't yet.
    pub(in crate::producer) fn deadline(&self, now: Mono) -> Option<Mono> {
        let times = self.lanes.iter().flat_map(|lane| {
            let claim = if let Claim::Due(at) = lane.claim { Some(at).filter(|at| *at > now) } else { None };
            let resume = lane.paused_until.filter(|until| *until > now);
            [claim, resume, lane.entries.front().map(|entry| entry.expires)]
        });
        times.flatten().min()
    }

    /// The stream is gone; receipts for what was sent on it will not come.
    pub(in crate::producer) fn on_disconnected(&mut self, cause: &Error, now: Mono) {
        let keep = self.rules.name.is_some() || self.rules.resend_unresolved;
        self.on_trouble(cause);
        for lane in &mut self.lanes {
            if self.rules.name.is_some() {
                // A partition without unresolved batches is claimed again when it has one.
                lane.claim = if lane.entries.is_empty() { Claim::Idle } else { Claim::Due(now) };
            }
            if keep {
                lane.withdraw(0, false);
                continue;
            }
            for entry in std::mem::take(&mut lane.entries) {
                if entry.sent.is_some() {
                    self.effects.push(Effect::Told(entry.outcome, Err(cause.clone().unresolved())));
                } else {
                    lane.entries.push_back(entry);
                }
            }
        }
    }

    /// Something keeps every partition from going on.
    pub(in crate::producer) fn on_trouble(&mut self, cause: &Error) {
        // That this very session gave up explains nothing.
        if matches!(cause, Error::TimedOut { .. }) {
            return;
        }
        let cause = Arc::new(cause.clone());
        for lane in &mut self.lanes {
            lane.trouble = Some(Arc::clone(&cause));
        }
    }

    /// The answer to a claim.
    pub(in crate::producer) fn on_claimed(&mut self, claimed: v1::PublishClaimed, now: Mono) {
        let Some(lane) = self.lanes.get_mut(claimed.partition as usize) else { return };
        if lane.claim != Claim::Asked {
            return;
        }
        let partition = claimed.partition;
        if let Some(fault) = claimed.fault.map(RemoteFault::from) {
            if transient(&fault) {
                let delay = lane.backoff.delay().max(fault.retry_after.unwrap_or_default());
                lane.claim = Claim::Due(now.after(delay));
                lane.trouble = Some(Arc::new(Error::Refused(fault)));
            } else if fault.kind == FaultKind::Fenced {
                self.effects.push(Effect::Over(Error::Refused(fault)));
            } else {
                lane.claim = Claim::Idle;
                let error = Error::Refused(fault);
                self.effects.push(Effect::Unclaimed { partition, error: error.clone() });
                self.break_lane(partition, error, 0, None);
            }
            return;
        }
        let known = lane.last_epoch.replace(claimed.epoch).is_some();
        lane.claim = Claim::Held(claimed.epoch);
        lane.backoff.reset();
        let next = claimed.last_sequence.map_or(0, |last| last + 1);
        self.effects.push(Effect::Claimed { partition, stored: claimed.last_sequence });
        if claimed.forgotten && known {
            let producer = self.rules.name.clone().unwrap_or_default();
            self.break_lane(partition, Error::Forgotten { producer, partition }, 0, Some(next));
            return;
        }
        // The claim was answered from all of the log: each of them is in it or isn't.
        for entry in &mut lane.entries {
            entry.known |= entry.unsure && entry.end_sequence() <= next;
            entry.unsure = false;
        }
        let missing = lane.entries.iter().position(|entry| !entry.known).unwrap_or(lane.entries.len());
        let expected = lane.entries.get(missing).map(Entry::first_sequence).or(lane.next_sequence);
        match expected {
            Some(expected) if expected != next => {
                let (stored, expected) = (claimed.last_sequence, expected.checked_sub(1));
                self.break_lane(partition, Error::Diverged { partition, stored, expected }, missing, Some(next));
            }
            Some(_) => {}
            None => lane.next_sequence = Some(next),
        }
    }

    /// A receipt. One for an earlier attempt, since withdrawn, says nothing that the next one won't.
    pub(in crate::producer) fn on_receipt(&mut self, receipt: v1::PublishReceipt, now: Mono) {
        let named = self.rules.name.is_some();
        let partition = receipt.partition;
        let Some(lane) = self.lanes.get_mut(partition as usize) else { return };
        let Some(index) = lane.entries.iter().position(|entry| entry.sent == Some(receipt.id)) else { return };
        let fault = receipt.fault.map(RemoteFault::from);
        let stored = match &fault {
            None => Some(Stored { first_offset: Some(receipt.first_offset), duplicate: receipt.duplicate }),
            Some(fault) if named && STORED.contains(&fault.reason.as_ref()) => Some(SOMEWHERE),
            Some(_) => None,
        };
        if let Some(stored) = stored {
            lane.backoff.reset();
            lane.trouble = None;
            let entry = lane.entries.remove(index).expect("it was found there");
            self.effects.push(Effect::Told(entry.outcome, Ok(stored)));
            return;
        }
        let fault = fault.expect("without a fault it is stored");
        if named { self.on_named_fault(partition, index, fault, now) } else { self.on_fault(partition, index, fault, now) }
    }

    fn on_named_fault(&mut self, partition: u32, index: usize, fault: RemoteFault, now: Mono) {
        let lane = &mut self.lanes[partition as usize];
        let unsettled = UNSETTLED.contains(&fault.reason.as_ref());
        if fault.reason == "PRODUCER_FENCED" {
            // Nothing of this epoch is stored here from now on.
            lane.withdraw(index, true);
            self.effects.push(Effect::Over(Error::Refused(fault)));
        } else if unsettled || matches!(fault.kind, FaultKind::OutcomeUnknown | FaultKind::Fenced) {
            lane.pause(&fault, now);
            lane.withdraw(index, unsettled);
            self.effects.push(Effect::Reconnect(Error::Refused(fault)));
        } else if transient(&fault) {
            lane.pause(&fault, now);
            // Everything behind it leaves a gap and is refused as well (D6).
            lane.withdraw(index, true);
        } else {
            let next = lane.entries[index].first_sequence();
            lane.withdraw(index, true);
            self.break_lane(partition, Error::Refused(fault), index, Some(next));
        }
    }

    fn on_fault(&mut self, partition: u32, index: usize, fault: RemoteFault, now: Mono) {
        let lane = &mut self.lanes[partition as usize];
        let unknown = matches!(fault.kind, FaultKind::OutcomeUnknown | FaultKind::Fenced);
        let again = if unknown { self.rules.resend_unresolved } else { transient(&fault) };
        if again {
            lane.pause(&fault, now);
            lane.entries[index].unsure |= unknown;
            lane.entries[index].sent = None;
        } else {
            let mut entry = lane.entries.remove(index).expect("it was found there");
            entry.unsure |= unknown;
            entry.sent = None;
            let fate = entry.fate(Error::Refused(fault));
            self.effects.push(Effect::Told(entry.outcome, fate));
        }
    }

    /// Gives up what has taken too long.
    pub(in crate::producer) fn on_tick(&mut self, now: Mono) {
        let expired = |entry: &mut Entry<T>| entry.expires <= now;
        for partition in 0..u32::try_from(self.lanes.len()).expect("partitions are counted in 32 bits") {
            let lane = &mut self.lanes[partition as usize];
            if self.rules.name.is_some() {
                if lane.entries.front().is_some_and(|entry| entry.expires <= now) {
                    self.expire(partition);
                }
                continue;
            }
            while let Some(entry) = lane.entries.pop_front_if(expired) {
                let late = Error::TimedOut { limit: self.rules.timeout, last: lane.trouble.clone() };
                let fate = entry.fate(late);
                self.effects.push(Effect::Told(entry.outcome, fate));
            }
        }
    }

    /// Gives up everything of a partition because something there has taken too long. Where anything was sent under a name,
    /// what the log holds has to be learnt by a new claim, on a new stream.
    pub(in crate::producer) fn expire(&mut self, partition: u32) {
        let last = self.lanes[partition as usize].trouble.clone();
        let cause = Error::TimedOut { limit: self.rules.timeout, last };
        self.break_lane(partition, cause.clone(), 0, None);
        if self.rules.name.is_some() {
            self.effects.push(Effect::Reconnect(cause));
        }
    }

    /// Fails everything that is unresolved, because the producer ends; `cause` says why, for a partition.
    pub(in crate::producer) fn fail_all(&mut self, cause: impl Fn(u32) -> Error) {
        for (lane, partition) in self.lanes.iter_mut().zip(0..) {
            for entry in lane.entries.drain(..) {
                let fate = entry.fate(cause(partition));
                self.effects.push(Effect::Told(entry.outcome, fate));
            }
        }
    }

    fn break_lane(&mut self, partition: u32, cause: Error, index: usize, next: Option<u64>) {
        let lane = &mut self.lanes[partition as usize];
        lane.next_sequence = next;
        for (n, entry) in lane.entries.drain(index..).enumerate() {
            let behind = || Error::Behind { partition, source: Arc::new(cause.clone()) };
            let plain = if n == 0 && !matches!(cause, Error::Forgotten { .. }) { cause.clone() } else { behind() };
            let fate = match (&cause, entry.unsure) {
                (Error::Forgotten { .. }, true) => Err(cause.clone()),
                _ => entry.fate(plain),
            };
            self.effects.push(Effect::Told(entry.outcome, fate));
        }
        self.effects.push(Effect::Broken { partition, cause, next });
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
