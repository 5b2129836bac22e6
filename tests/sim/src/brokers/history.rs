//! What clients were told and what consumers were given, held against the invariants as it happens.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, OnceLock};

use alluvium_metadata::subscriptions::SubscriptionKind;
use alluvium_types::time::Mono;
use parking_lot::Mutex;

use crate::trace::{Detail, Trace};

/// A broken promise.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// Its id.
    pub invariant: &'static str,
    /// What happened.
    pub what: String,
}

/// A partition's number.
pub(super) type Partition = u32;

/// A stream of a subscription to one partition, at one broker.
#[derive(Clone, Debug)]
pub(super) struct StreamOf {
    pub(super) subscription: &'static str,
    pub(super) kind: SubscriptionKind,
    pub(super) partition: Partition,
    /// Which stream of the run.
    pub(super) number: u64,
    /// The claim under which its broker serves it: known once it is open, and never if the claim was lost in that moment.
    pub(super) epoch: Arc<OnceLock<u64>>,
    pub(super) broker: usize,
}

/// Facts of one run.
pub(super) struct History {
    inner: Mutex<Inner>,
}

struct Inner {
    trace: Trace,
    violation: Option<Violation>,
    checks: u64,
    faults: u64,
    /// Takeovers while something was on its way.
    takeovers: u64,
    /// What was sent and has no outcome.
    unresolved: u64,
    sent: BTreeSet<(Partition, String)>,
    confirmed: BTreeMap<(Partition, String), u64>,
    epochs: BTreeMap<Partition, u64>,
    subscriptions: BTreeMap<(&'static str, Partition), Cursor>,
    /// The last offset that a stream was given.
    streams: BTreeMap<u64, u64>,
    /// The log of each partition, as far as it is known without a gap.
    logs: BTreeMap<Partition, Log>,
}

/// A partition's log from its beginning, as it was seen.
#[derive(Default)]
struct Log {
    texts: Vec<String>,
    places: BTreeMap<String, u64>,
    /// The sequence that is due of each producer.
    next: BTreeMap<String, u64>,
}

/// What is known of a subscription in a partition.
#[derive(Default)]
struct Cursor {
    delivered: BTreeSet<u64>,
    /// Receipts of acks: when they came, and under which claim.
    acknowledged: BTreeMap<u64, (Mono, Option<u64>)>,
    /// The newest claim under which something was delivered, and by whom.
    newest: Option<(u64, usize)>,
}

/// Figures of a run so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Figures {
    pub(super) events: u64,
    pub(super) hash: u64,
    pub(super) confirmed: u64,
    pub(super) checks: u64,
    pub(super) faults: u64,
    pub(super) takeovers: u64,
    pub(super) acknowledged: u64,
}

impl History {
    pub(super) fn new(detail: Detail) -> Self {
        let inner = Inner {
            trace: Trace::new(detail),
            violation: None,
            checks: 0,
            faults: 0,
            takeovers: 0,
            unresolved: 0,
            sent: BTreeSet::new(),
            confirmed: BTreeMap::new(),
            epochs: BTreeMap::new(),
            subscriptions: BTreeMap::new(),
            streams: BTreeMap::new(),
            logs: BTreeMap::new(),
        };
        Self { inner: Mutex::new(inner) }
    }

    /// Something happened that is no fact to check.
    pub(super) fn note(&self, now: Mono, line: fmt::Arguments<'_>) {
        self.inner.lock().trace.note(now, line);
    }

    /// A fault struck.
    pub(super) fn fault(&self, now: Mono, line: fmt::Arguments<'_>) {
        let mut inner = self.inner.lock();
        inner.faults += 1;
        inner.trace.note(now, line);
    }

    /// A promise was broken; the first is kept.
    pub(super) fn broken(&self, now: Mono, invariant: &'static str, what: impl Into<String>) {
        self.inner.lock().broken(now, invariant, what.into());
    }

    /// A fact that must hold.
    pub(super) fn check(&self, now: Mono, holds: bool, invariant: &'static str, what: impl FnOnce() -> String) {
        let mut inner = self.inner.lock();
        inner.checks += 1;
        if !holds {
            inner.broken(now, invariant, what());
        }
    }

    pub(super) fn is_broken(&self) -> bool {
        self.inner.lock().violation.is_some()
    }

    pub(super) fn violation(&self) -> Option<Violation> {
        self.inner.lock().violation.clone()
    }

    pub(super) fn lines(&self) -> Vec<String> {
        self.inner.lock().trace.lines().map(ToOwned::to_owned).collect()
    }

    pub(super) fn figures(&self) -> Figures {
        let inner = self.inner.lock();
        Figures {
            events: inner.trace.events(),
            hash: inner.trace.hash(),
            confirmed: inner.confirmed.len() as u64,
            checks: inner.checks,
            faults: inner.faults,
            takeovers: inner.takeovers,
            acknowledged: inner.subscriptions.values().map(|cursor| cursor.acknowledged.len() as u64).sum(),
        }
    }

    /// A message is on its way for the first time.
    pub(super) fn sent(&self, now: Mono, partition: Partition, text: &str) {
        let mut inner = self.inner.lock();
        inner.trace.note(now, format_args!("{text} -> p{partition}"));
        inner.unresolved += 1;
        inner.sent.insert((partition, text.to_owned()));
    }

    /// A message's sender gave it up: it may be in the log or not.
    pub(super) fn given_up(&self, now: Mono, text: &str) {
        let mut inner = self.inner.lock();
        inner.trace.note(now, format_args!("{text} is unknown"));
        inner.unresolved = inner.unresolved.saturating_sub(1);
    }

    /// A message's receipt reached its sender, whoever it came from and however late (L1, T1, C38).
    pub(super) fn confirmed(&self, now: Mono, partition: Partition, text: &str, offset: u64) {
        let mut inner = self.inner.lock();
        inner.trace.note(now, format_args!("{text} is confirmed at p{partition} {offset}"));
        inner.checks += 1;
        match inner.confirmed.insert((partition, text.to_owned()), offset) {
            None => inner.unresolved = inner.unresolved.saturating_sub(1),
            Some(before) if before != offset => {
                inner.broken(now, "T1", format!("{text} was confirmed at {before} and at {offset}"));
            }
            Some(_) => {}
        }
    }

    /// A claim on a partition was committed (M1).
    pub(super) fn claimed(&self, now: Mono, partition: Partition, epoch: u64, holder: Option<&str>) {
        let mut inner = self.inner.lock();
        inner.trace.note(now, format_args!("p{partition} is {} under e{epoch}", holder.unwrap_or("nobody's")));
        inner.checks += 1;
        let before = inner.epochs.insert(partition, epoch).unwrap_or(0);
        let rises = if holder.is_some() { epoch > before } else { epoch == before };
        if !rises {
            inner.broken(now, "M1", format!("the epoch of p{partition} went from {before} to {epoch}"));
        }
        if before > 0 && holder.is_some() && inner.unresolved > 0 {
            inner.takeovers += 1;
        }
    }

    /// A broker hands a message over to a consumer: when, not when it arrives (M4, S1, T3).
    pub(super) fn delivered(&self, now: Mono, stream: &StreamOf, offset: u64, text: &str) {
        let mut inner = self.inner.lock();
        let StreamOf { subscription, kind, partition, number, broker, .. } = stream;
        let epoch = stream.epoch.get().copied();
        inner.trace.note(now, format_args!("n{broker} delivers p{partition} {offset} {text} to {subscription} #{number}"));
        inner.checks += 3;
        let last = inner.streams.insert(*number, offset);
        let cursor = inner.subscriptions.entry((*subscription, *partition)).or_default();
        cursor.delivered.insert(offset);
        let mut wrong = None;
        if let Some((receipt, under)) = cursor.acknowledged.get(&offset)
            // A fenced owner's late deliveries to a shared subscription are duplicates.
            && (*kind == SubscriptionKind::Exclusive || epoch >= *under)
        {
            let text =
                format!("{subscription} p{partition} {offset} was receipted at {receipt:?} and is delivered again by n{broker}");
            wrong = Some(("S1", text));
        }
        if *kind == SubscriptionKind::Exclusive
            && let Some(epoch) = epoch
        {
            match cursor.newest {
                Some((newest, by)) if newest > epoch => {
                    let text = format!(
                        "n{broker} (e{epoch}) delivers p{partition} {offset} on {subscription} after n{by} (e{newest}) did"
                    );
                    wrong = wrong.or(Some(("M4", text)));
                }
                _ => cursor.newest = Some((epoch, *broker)),
            }
        }
        if *kind == SubscriptionKind::Exclusive && last.is_some_and(|last| last >= offset) {
            wrong = wrong.or(Some(("T3", format!("stream #{number} is given {offset} after {last:?}"))));
        }
        if let Some((invariant, what)) = wrong {
            inner.broken(now, invariant, what);
        }
        inner.seen(now, *partition, offset, text);
    }

    /// The receipt of an ack reached its consumer.
    pub(super) fn acknowledged(&self, now: Mono, stream: &StreamOf, offset: u64) {
        let mut inner = self.inner.lock();
        let StreamOf { subscription, partition, number, .. } = stream;
        let epoch = stream.epoch.get().copied();
        inner.trace.note(now, format_args!("{subscription} #{number} has the receipt of p{partition} {offset}"));
        let cursor = inner.subscriptions.entry((*subscription, *partition)).or_default();
        cursor.acknowledged.entry(offset).or_insert((now, epoch));
    }

    /// The first offset below `end` that was not delivered. An ack whose receipt was lost may count all the same, so receipts are
    /// not waited for.
    pub(super) fn undelivered(&self, subscription: &'static str, partition: Partition, end: u64) -> Option<u64> {
        let inner = self.inner.lock();
        let cursor = inner.subscriptions.get(&(subscription, partition));
        (0..end).find(|offset| cursor.is_none_or(|cursor| !cursor.delivered.contains(offset)))
    }

    /// Holds a partition's whole log against all that was said of it (L1, T1, D1, D6).
    pub(super) fn log_is(&self, now: Mono, partition: Partition, log: &[(u64, String)]) {
        let mut inner = self.inner.lock();
        inner.trace.note(now, format_args!("the log of p{partition} has {} messages", log.len()));
        for (n, (offset, text)) in log.iter().enumerate() {
            inner.checks += 1;
            if *offset != n as u64 {
                return inner.broken(now, "T1", format!("offset {offset} of p{partition} stands where {n} belongs"));
            }
            inner.seen(now, partition, *offset, text);
        }
        let at: BTreeMap<&str, u64> = log.iter().map(|(offset, text)| (text.as_str(), *offset)).collect();
        let lost = inner.confirmed.iter().find(|((p, text), offset)| *p == partition && at.get(text.as_str()) != Some(offset));
        let lost = lost.map(|((_, text), offset)| {
            format!("{text} was confirmed at p{partition} {offset} and is at {:?}", at.get(text.as_str()))
        });
        inner.checks += 1;
        if let Some(what) = lost {
            inner.broken(now, "L1", what);
        }
    }
}

impl Inner {
    /// A message stands at an offset: always the same one, sent by somebody, once, in its producer's order (T1, D1, D6).
    fn seen(&mut self, now: Mono, partition: Partition, offset: u64, text: &str) {
        self.checks += 4;
        let log = self.logs.entry(partition).or_default();
        let end = log.texts.len() as u64;
        if let Some(before) = usize::try_from(offset).ok().and_then(|at| log.texts.get(at)) {
            if before != text {
                let what = format!("p{partition} {offset} was {before} and is {text}");
                self.broken(now, "T1", what);
            }
            return;
        }
        // What comes before it was not seen yet: it is seen again at the end.
        if offset > end {
            return;
        }
        log.texts.push(text.to_owned());
        let twice = log.places.insert(text.to_owned(), offset);
        // A producer that is not idempotent leaves out what it gave up, and may be overtaken by itself.
        let (producer, sequence) = text.split_once(':').unwrap_or((text, "0"));
        let sequence = sequence.parse().unwrap_or(u64::MAX);
        let due = log.next.entry(producer.to_owned()).or_default();
        let wanted = std::mem::replace(due, sequence.saturating_add(1));
        let is_in_order = !producer.starts_with('i') || sequence == wanted;
        if !self.sent.contains(&(partition, text.to_owned())) {
            self.broken(now, "T1", format!("{text} at p{partition} {offset} was never sent"));
        }
        if let Some(before) = twice {
            self.broken(now, "D1", format!("{text} is in p{partition} at {before} and at {offset}"));
        }
        if !is_in_order {
            self.broken(now, "D6", format!("{text} is at p{partition} {offset} where {producer}:{wanted} belongs"));
        }
    }

    fn broken(&mut self, now: Mono, invariant: &'static str, what: String) {
        self.trace.note(now, format_args!("BROKEN {invariant}: {what}"));
        self.violation.get_or_insert(Violation { invariant, what });
    }
}
