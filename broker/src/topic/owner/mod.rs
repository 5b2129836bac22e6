//! All that the owner of a partition decides, as plain code: no clock, no chance, no I/O but what is handed in.
//!
//! It routes between parts that each own their state: `dedup` and `coalesce` take batches in, `log` appends them, the
//! subscriptions ([`Hosted`]) say who gets them, `state_ledger` makes what they say durable, `retention` lets segments go.
//! Whoever drives it hands events in, calls [`Owner::step`], and does what it asks for, in order.

use std::time::Duration;

use alluvium_metadata::segments::{Sealed, SegmentNumber};
use alluvium_types::entry::EntryHeader;
use alluvium_types::fault::{Fault, FaultKind};
use alluvium_types::ids::{EntryId, Offset, PartitionIndex};
use alluvium_types::names::PartitionName;
use alluvium_types::policy::{Retention, Rollover};
use alluvium_types::time::{Mono, Timestamp};
use bytes::Bytes;

use super::bounds::Bounds;
use super::command::PublishCommand;
use super::handle::{OWNERSHIP_LOST, moved};
use super::hosted::{Effects, Hosted, SubscriptionSpec};
use super::log::{Log, LogAction};
use super::retention::{self, Candidate, ClockGuard};
use super::state_ledger::{Snapshots, StateAction, StateLedger, StateRecord};
use crate::publish::coalesce::{Admitted, Coalescer};
use crate::publish::dedup::{Claim, Dedup, Granted, Verdict};
use crate::publish::receipt::{Answers, Claimed, Guarantee, Stored, Ticket, Waiting, tell, tell_fault};

/// What an entry counts for at least, in bytes: to a takeover a small one, among those of other partitions, is a transfer of its own.
const ENTRY_COST: u64 = 256 << 10;

/// How an owner behaves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OwnerConfig {
    /// Bytes that may be in flight; past it batches wait, and past twice that they are not taken from the queue.
    pub(crate) window_bytes: usize,
    /// When nothing in flight was confirmed for so long, batches are refused rather than queued.
    pub(crate) stall_after: Duration,
    /// When nothing in flight was confirmed for so long, who waits for it is told that its outcome is unknown.
    pub(crate) answer_after: Duration,
    /// How often segments are looked at.
    pub(crate) retention_interval: Duration,
    /// After so many bytes what is known of producers is written down, which bounds the replay of a takeover. A small entry counts
    /// for [`ENTRY_COST`].
    pub(crate) checkpoint_bytes: u64,
    /// A partition that nobody has used for so long is let go.
    pub(crate) release_after: Duration,
    /// How what is known is written down.
    pub(crate) snapshots: Snapshots,
}

/// The policies in force for a partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct PartitionPolicy {
    /// When segments may go.
    pub(crate) retention: Retention,
    /// When segments are sealed.
    pub(crate) rollover: Rollover,
}

impl PartitionPolicy {
    /// Rolling no later than retention needs: only sealed segments go.
    pub(crate) fn effective_rollover(&self) -> Rollover {
        Rollover {
            bytes: self.retention.bytes.map_or(u64::MAX, |bytes| (bytes / 2).max(1 << 20)).min(self.rollover.bytes),
            age: self.retention.age.unwrap_or(Duration::MAX).max(Duration::from_secs(1)).min(self.rollover.age),
        }
    }
}

/// A message of the log that is confirmed from now on.
#[derive(Debug)]
pub(crate) struct Visible {
    /// Its entry in the ledger that is written.
    pub(crate) entry: EntryId,
    /// The entry's header.
    pub(crate) header: EntryHeader,
    /// The entry's body.
    pub(crate) body: Bytes,
}

/// Something to be done by whoever drives the owner, in the order given.
#[derive(Debug)]
pub(crate) enum OwnerAction<O> {
    /// With the data ledgers.
    Data(LogAction),
    /// With the state ledgers.
    State(StateAction),
    /// Let readers see these entries and this.
    Show(Vec<Visible>, Bounds),
    /// Tell publishing sessions.
    Tell(Vec<Waiting>),
    /// For the subscriptions.
    Perform(Vec<O>),
    /// Remove these segments from metadata. Answered by [`Owner::trimmed`].
    Trim(Vec<SegmentNumber>),
    /// Everything is stored and closed: let the partition go.
    Release,
}

/// What waits for records to be durable.
#[derive(Debug)]
pub(crate) enum WhenDurable<O> {
    /// Perform this.
    Output(O),
    /// A claim is granted.
    Claim {
        /// The claim.
        claim: Claim,
        /// Whether what its client has not resolved is forgotten.
        forgotten: bool,
        /// Who hears.
        answers: Answers,
        /// Where it was sent.
        partition: PartitionIndex,
    },
    /// Producers are known up to here.
    Covered(Offset),
    /// Everything that was known when these were found to be due.
    Trim(Vec<SegmentNumber>),
}

/// Why ownership is over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Lost {
    /// Somebody else owns the partition, or may.
    Fenced,
    /// This entry is larger than a bookie takes (C36).
    TooLarge(EntryId),
}

/// The machine. See the module.
#[derive(Debug)]
pub(crate) struct Owner<H: Hosted> {
    name: PartitionName,
    config: OwnerConfig,
    policy: PartitionPolicy,
    coalescer: Coalescer,
    dedup: Dedup,
    /// The offset that the next message gets.
    next_offset: Offset,
    log: Log,
    state: StateLedger<WhenDurable<H::Output>>,
    subscriptions: H,
    effects: Effects<H::Output>,
    segments: Vec<Candidate>,
    /// What is known of producers up to here is durable.
    covered: Offset,
    covering: Offset,
    bytes_since_checkpoint: u64,
    server_time: Timestamp,
    progress_at: Mono,
    storage_full: bool,
    clock_guard: ClockGuard,
    retention_at: Mono,
    trimming: bool,
    used_at: Mono,
    metadata_certain: bool,
    drain: Drain,
    stepped_at: Mono,
    shown: Bounds,
    told: Vec<Waiting>,
    actions: Vec<OwnerAction<H::Output>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Drain {
    No,
    /// What was taken is being stored.
    Emptying,
    /// The last state is being stored, the last ledger closed.
    Closing,
    Released,
}

/// What a takeover found.
#[derive(Debug)]
pub(crate) struct OwnerStart<H> {
    pub(crate) name: PartitionName,
    pub(crate) policy: PartitionPolicy,
    /// The sealed segments, in order.
    pub(crate) segments: Vec<Candidate>,
    /// The producers, with the log replayed from `covered` on.
    pub(crate) dedup: Dedup,
    pub(crate) covered: Offset,
    /// Where the log ends.
    pub(crate) end: Offset,
    /// The server time of its last message.
    pub(crate) server_time: Timestamp,
    pub(crate) subscriptions: H,
    /// Whether state ledgers are retired and to be dropped.
    pub(crate) retired: bool,
    /// When an idle ledger closes, and how long until a creation is tried again.
    pub(crate) idle_close: Duration,
    pub(crate) retry_after: Duration,
}

impl<H: Hosted> Owner<H> {
    pub(crate) fn new(now: Mono, config: OwnerConfig, start: OwnerStart<H>) -> Self {
        let rollover = start.policy.effective_rollover();
        let mut owner = Self {
            name: start.name,
            config,
            policy: start.policy,
            coalescer: Coalescer::default(),
            dedup: start.dedup,
            next_offset: start.end,
            log: Log::new(start.end, rollover, start.idle_close, start.retry_after),
            state: StateLedger::new(config.snapshots, start.retired, start.retry_after),
            subscriptions: start.subscriptions,
            effects: Effects::default(),
            segments: start.segments,
            covered: start.covered,
            covering: start.covered,
            bytes_since_checkpoint: 0,
            server_time: start.server_time,
            progress_at: now,
            storage_full: false,
            clock_guard: ClockGuard::default(),
            retention_at: now,
            trimming: false,
            used_at: now,
            metadata_certain: true,
            drain: Drain::No,
            stepped_at: now,
            shown: Bounds::default(),
            told: Vec::new(),
            actions: Vec::new(),
        };
        owner.shown = owner.bounds();
        owner
    }

    /// What can be read.
    pub(crate) fn bounds(&self) -> Bounds {
        let end = self.log.confirmed_end();
        let first = self.segments.first().map(|segment| segment.first).or(self.log.open_first()).unwrap_or(end);
        Bounds { first: first.min(end), end }
    }

    /// Where the segment that is written begins, and what is confirmed of it.
    pub(crate) const fn open_segment(&self) -> Option<(Offset, Sealed)> {
        self.log.open_segment()
    }

    /// Whether another batch may be taken from the queue.
    pub(crate) fn takes_batches(&self) -> bool {
        self.coalescer.bytes() + self.log.in_flight_bytes() < 2 * self.config.window_bytes
    }

    /// The next things to do.
    pub(crate) fn take_actions(&mut self) -> Vec<OwnerAction<H::Output>> {
        std::mem::take(&mut self.actions)
    }

    /// Whether bookies take no more data.
    pub(crate) const fn set_storage_full(&mut self, full: bool) {
        self.storage_full = full;
    }

    /// The policies changed.
    pub(crate) fn set_policy(&mut self, now: Mono, policy: PartitionPolicy) {
        self.policy = policy;
        self.log.set_rollover(policy.effective_rollover());
        self.retention_at = now;
    }

    // Publishing.

    /// A request of a publishing session.
    pub(crate) fn publish(&mut self, now: Mono, wall: Timestamp, command: PublishCommand) {
        self.used_at = now;
        match command {
            PublishCommand::Batch(ticket, Err(fault)) => self.answer(Waiting::Batch(Some(ticket), Err(fault))),
            PublishCommand::Batch(ticket, Ok(admitted)) => match self.refusal(now) {
                Some(fault) => self.answer(Waiting::Batch(Some(ticket), Err(fault))),
                None => self.batch(now, wall, ticket, admitted),
            },
            PublishCommand::Claim { answers, partition, name, last_epoch } => {
                if self.drain != Drain::No {
                    let fault = moved(&self.name);
                    self.answer(Waiting::Claim(answers, partition, Err(fault)));
                    return;
                }
                // Whoever claims is about to publish: the ledger for it is made while the claim becomes durable.
                if !self.storage_full {
                    self.log.want_ledger(now);
                }
                // While no producer was known the log needed no replay; from here on it does.
                let begins = self.dedup.is_empty().then(|| self.log.confirmed_end());
                let Granted { claim, forgotten, gone } = self.dedup.claim(&name, last_epoch, (now, wall));
                let gone = gone.into_iter().map(StateRecord::Forgotten);
                let records = begins.map(StateRecord::Covered).into_iter().chain(gone).chain([StateRecord::Claim(claim.clone())]);
                let then = WhenDurable::Claim { claim, forgotten, answers, partition };
                self.state.push(records, begins.map(WhenDurable::Covered).into_iter().chain([then]));
            }
        }
    }

    fn batch(&mut self, now: Mono, wall: Timestamp, ticket: Ticket, admitted: Admitted) {
        let at = self.next_offset;
        if let Some(stamp) = &admitted.producer {
            match self.dedup.judge(stamp, &admitted.header, at, (now, wall)) {
                Verdict::Append => {}
                Verdict::Duplicate { first_offset } => {
                    // Behind everything in flight: by then its original is durable (D2, D6).
                    self.answer(Waiting::Batch(Some(ticket), Ok(Stored { first_offset, duplicate: true })));
                    return;
                }
                Verdict::Refused(fault) => {
                    self.answer(Waiting::Batch(Some(ticket), Err(fault)));
                    return;
                }
            }
        }
        if !self.is_waiting() {
            self.progress_at = now;
        }
        self.next_offset = Offset::new(at.get() + u64::from(admitted.header.count));
        let stored = Stored { first_offset: at, duplicate: false };
        let waiting = if ticket.guarantee == Guarantee::None {
            let unplaced = Stored { first_offset: Offset::ZERO, duplicate: false };
            self.told.push(Waiting::Batch(Some(ticket), Ok(unplaced)));
            Waiting::Batch(None, Ok(stored))
        } else {
            Waiting::Batch(Some(ticket), Ok(stored))
        };
        self.coalescer.push(admitted, at, waiting);
    }

    /// Tells something once everything before it is stored as far as its session wants.
    fn answer(&mut self, waiting: Waiting) {
        if waiting.guarantee() == Some(Guarantee::None) {
            self.told.push(waiting);
            return;
        }
        let left = self.coalescer.attach(waiting).err().and_then(|waiting| self.log.attach(waiting).err());
        self.told.extend(left);
    }

    fn refusal(&self, now: Mono) -> Option<Fault> {
        if self.drain != Drain::No {
            return Some(moved(&self.name));
        }
        if self.storage_full {
            let text = "the storage is full: messages are refused until there is room; reading and acknowledging go on";
            return Some(Fault::new(FaultKind::Busy, "STORAGE_FULL", text).retry_after(Duration::from_secs(1)));
        }
        (self.is_stalled(now) || self.log.is_held_up(now)).then(|| {
            let text = if self.log.is_open() {
                "too few bookies answer to store messages; nothing of this was stored"
            } else {
                "no ledger can be begun, because etcd doesn't answer or too few bookies do; nothing of this was stored"
            };
            Fault::new(FaultKind::Unavailable, "STORAGE_UNAVAILABLE", text).retry_after(Duration::from_secs(1))
        })
    }

    fn is_waiting(&self) -> bool {
        !self.coalescer.is_empty() || !self.log.nothing_in_flight()
    }

    fn is_stalled(&self, now: Mono) -> bool {
        self.is_waiting() && now.since(self.progress_at) >= self.config.stall_after
    }

    /// Refuses what is not appended yet, as if it had never come.
    fn refuse_unappended(&mut self, fault: &Fault) {
        if self.coalescer.is_empty() {
            return;
        }
        let waiting = self.coalescer.abandon();
        self.next_offset = self.log.end();
        self.dedup.forget_after(self.next_offset);
        tell_fault(waiting, fault);
    }

    // Subscriptions.

    /// A request to the subscriptions.
    pub(crate) fn apply(&mut self, now: Mono, input: H::Input) {
        self.used_at = now;
        if matches!(self.drain, Drain::No | Drain::Emptying) {
            self.subscriptions.apply(now, input, &mut self.effects);
        }
    }

    /// The subscriptions that exist now.
    pub(crate) fn configure(&mut self, now: Mono, specs: &[SubscriptionSpec]) {
        let bounds = self.bounds();
        self.subscriptions.configure(now, specs, bounds, &mut self.effects);
    }

    // The data ledgers.

    /// A ledger that was asked for exists, or does not.
    pub(crate) fn data_created(&mut self, now: Mono, created: bool) {
        self.log.created(now, created);
        if created {
            // What said where the log ends may be due.
            self.retention_at = now;
        }
        if !created && self.log.nothing_in_flight() {
            let fault = self.refusal(now);
            if let Some(fault) = fault {
                self.refuse_unappended(&fault);
            }
        }
    }

    /// See [`Log::led`].
    pub(crate) fn led(&mut self, up_to: EntryId) {
        let told = self.log.led(up_to);
        self.told.extend(told);
    }

    /// See [`Log::confirmed`].
    pub(crate) fn confirmed(&mut self, now: Mono, up_to: EntryId) {
        let confirmed = self.log.confirmed(up_to);
        if confirmed.is_empty() {
            return;
        }
        self.progress_at = now;
        self.dedup.confirmed(self.log.confirmed_end());
        let mut visible = Vec::with_capacity(confirmed.len());
        for one in confirmed {
            self.bytes_since_checkpoint += ENTRY_COST.max(one.body.len() as u64);
            self.told.extend(one.waiting);
            visible.push(Visible { entry: one.entry, header: one.header, body: one.body });
        }
        self.show(now, visible);
        if self.bytes_since_checkpoint >= self.config.checkpoint_bytes {
            self.checkpoint();
        }
    }

    fn show(&mut self, now: Mono, visible: Vec<Visible>) {
        self.shown = self.bounds();
        self.actions.push(OwnerAction::Show(visible, self.shown));
        self.subscriptions.log_moved(now, self.shown, &mut self.effects);
    }

    /// See [`Log::closed`].
    pub(crate) fn data_closed(&mut self) {
        self.log.closed();
    }

    /// The segment of the ledger that was closed is sealed under this number.
    pub(crate) fn sealed(&mut self, now: Mono, number: SegmentNumber) {
        if let Some((first, sealed)) = self.log.sealed(now) {
            self.segments.push(Candidate { number, first, sealed });
            // One for each segment at least (C67).
            self.checkpoint();
            self.retention_at = now;
        }
    }

    /// Writes down what is known of producers, up to the confirmed end.
    fn checkpoint(&mut self) {
        self.bytes_since_checkpoint = 0;
        let end = self.log.confirmed_end();
        if self.dedup.is_empty() || self.covering >= end {
            return;
        }
        self.covering = end;
        let rows = self.dedup.changed(end).into_iter().map(StateRecord::Producer);
        self.state.push(rows.chain([StateRecord::Covered(end)]), [WhenDurable::Covered(end)]);
    }

    // The state ledgers.

    /// The machine of the state ledgers, for what happened to them.
    pub(crate) const fn state(&mut self) -> &mut StateLedger<WhenDurable<H::Output>> {
        &mut self.state
    }

    fn durable(&mut self, now: Mono, done: WhenDurable<H::Output>, outputs: &mut Vec<H::Output>) {
        match done {
            WhenDurable::Output(output) => outputs.push(output),
            WhenDurable::Covered(offset) => self.covered = self.covered.max(offset),
            WhenDurable::Claim { claim, forgotten, answers, partition } => {
                let result = match self.dedup.claim_durable(&claim) {
                    Some(last_sequence) => Ok(Claimed { epoch: claim.epoch, last_sequence, forgotten }),
                    None => {
                        let text = format!("a newer producer named {} has claimed this partition", claim.name);
                        Err(Fault::new(FaultKind::Fenced, "PRODUCER_FENCED", text))
                    }
                };
                self.answer(Waiting::Claim(answers, partition, result));
            }
            WhenDurable::Trim(numbers) => {
                // Asked again: somebody may have moved a cursor back meanwhile.
                let due = self.segments.iter().filter(|segment| numbers.contains(&segment.number));
                let free: Vec<SegmentNumber> =
                    due.filter(|s| !self.is_needed(s.first, s.sealed.end)).map(|segment| segment.number).collect();
                self.trimming = !free.is_empty();
                if self.trimming {
                    self.actions.push(OwnerAction::Trim(free));
                }
                self.retention_at = self.retention_at.max(now.after(self.config.retention_interval));
            }
        }
    }

    // Retention.

    fn is_needed(&self, first: Offset, end: Offset) -> bool {
        let uncovered = !self.dedup.is_empty() && end > self.covered;
        uncovered || self.subscriptions.needs(first, end)
    }

    fn retain(&mut self, now: Mono, wall: Timestamp) {
        if now < self.retention_at || self.trimming || self.drain != Drain::No {
            return;
        }
        self.retention_at = now.after(self.config.retention_interval);
        let wall = self.clock_guard.trusted(now, wall);
        let policy = self.policy.retention;
        let mut due = retention::due(&self.segments, self.log.open_bytes(), policy, wall, |first, end| {
            self.subscriptions.needs(first, end)
        });
        // T1: the last segment says where the log ends, so it goes only once another one says so.
        if self.log.open_first().is_none()
            && let Some(last) = self.segments.last().filter(|last| due.last() == Some(&last.number))
        {
            if last.sealed.messages > 0 {
                self.log.want_ledger(now);
            }
            due.pop();
        }
        if due.is_empty() {
            return;
        }
        if due.iter().any(|number| self.segments.iter().any(|s| s.number == *number && self.covered < s.sealed.end)) {
            self.checkpoint();
        }
        self.trimming = true;
        self.state.push([], [WhenDurable::Trim(due)]);
    }

    /// These segments are gone from metadata; the others of what was asked for are not.
    pub(crate) fn trimmed(&mut self, now: Mono, gone: &[SegmentNumber]) {
        self.trimming = false;
        self.segments.retain(|segment| !gone.contains(&segment.number));
        self.show(now, Vec::new());
    }

    // Going on, and ending.

    /// Stores what was taken, then closes and lets go. Nothing new is taken.
    pub(crate) fn drain(&mut self) {
        if self.drain == Drain::No {
            self.drain = Drain::Emptying;
        }
    }

    /// Whether metadata is certain to be there. While it isn't, nothing is closed or let go because it is idle (M7).
    pub(crate) const fn set_metadata_certain(&mut self, certain: bool) {
        self.log.set_metadata_certain(certain);
        self.metadata_certain = certain;
    }

    /// Whether nobody has used it for long, and nothing is under way.
    fn is_idle(&self, now: Mono) -> bool {
        now.since(self.used_at) >= self.config.release_after
            && !self.is_waiting()
            && !self.trimming
            && self.state.is_settled()
            && self.subscriptions.is_idle()
    }

    /// Goes on as far as it can; called after anything that changed it, and at its wakeup.
    pub(crate) fn step(&mut self, now: Mono, wall: Timestamp) {
        self.stepped_at = now;
        if self.drain == Drain::Released {
            return;
        }
        if self.subscriptions.next_wakeup().is_some_and(|at| at <= now) && self.drain != Drain::Closing {
            self.subscriptions.tick(now, &mut self.effects);
        }
        self.append(now, wall);
        self.retain(now, wall);
        self.take_effects();
        self.step_state(now);
        self.step_log(now);
        self.step_drain(now);
        if !self.told.is_empty() {
            self.actions.push(OwnerAction::Tell(std::mem::take(&mut self.told)));
        }
    }

    fn append(&mut self, now: Mono, wall: Timestamp) {
        if !self.is_waiting() {
            self.progress_at = now;
            return;
        }
        if self.is_stalled(now) || (self.storage_full && !self.log.takes(self.config.window_bytes)) {
            if let Some(fault) = self.refusal(now) {
                self.refuse_unappended(&fault);
            }
            self.answer_late(now);
            return;
        }
        if !self.coalescer.is_empty() {
            self.log.want_ledger(now);
        }
        while self.log.takes(self.config.window_bytes) {
            let Some(filling) = self.coalescer.next(self.log.nothing_in_flight()) else { break };
            // C55: a label that never goes back.
            self.server_time = self.server_time.max(wall);
            self.log.append(now, filling.build(self.server_time));
        }
    }

    /// Nobody waits without an end: what has been in flight for too long may still be stored, and is not waited for any more.
    fn answer_late(&mut self, now: Mono) {
        if now.since(self.progress_at) < self.config.answer_after {
            return;
        }
        let why = if self.log.is_open() {
            "too few bookies store messages now"
        } else {
            "a ledger has to be ended or begun, and etcd or too many bookies don't answer"
        };
        let after = self.config.answer_after.as_secs_f32();
        let text = format!("not confirmed for {after} s, because {why}: it may be stored later, or not");
        let fault = Fault::new(FaultKind::OutcomeUnknown, "CONFIRMATION_LATE", text).retry_after(Duration::from_secs(1));
        self.told.extend(self.log.take_all_waiting().map(|one| one.failed(&fault)));
    }

    fn take_effects(&mut self) {
        let Effects { records, now, when_durable } = std::mem::take(&mut self.effects);
        if !now.is_empty() {
            self.actions.push(OwnerAction::Perform(now));
        }
        if !records.is_empty() || !when_durable.is_empty() {
            let records = records.into_iter().map(StateRecord::Subscriptions);
            self.state.push(records, when_durable.into_iter().map(WhenDurable::Output));
        }
    }

    fn step_state(&mut self, now: Mono) {
        let end = self.log.confirmed_end();
        let (dedup, subscriptions) = (&self.dedup, &self.subscriptions);
        let mut cut = false;
        self.state.step(now, || {
            cut = true;
            let begin = StateRecord::Begin { covers: end, last_epoch: dedup.last_epoch() };
            let producers = dedup.snapshot(end).into_iter().map(StateRecord::Producer);
            (begin, producers.chain(subscriptions.snapshot().into_iter().map(StateRecord::Subscriptions)).collect())
        });
        if cut {
            self.bytes_since_checkpoint = 0;
            self.covering = self.covering.max(end);
            self.state.push([], [WhenDurable::Covered(end)]);
        }
        while let Some(action) = self.state.poll_action() {
            self.actions.push(OwnerAction::State(action));
        }
        let done = self.state.take_done();
        if done.is_empty() {
            return;
        }
        let mut outputs = Vec::new();
        for one in done {
            self.durable(now, one, &mut outputs);
        }
        if !outputs.is_empty() {
            self.actions.push(OwnerAction::Perform(outputs));
        }
    }

    fn step_log(&mut self, now: Mono) {
        self.log.step(now);
        while let Some(action) = self.log.poll_action() {
            self.actions.push(OwnerAction::Data(action));
        }
    }

    fn step_drain(&mut self, now: Mono) {
        if self.drain == Drain::No && self.is_idle(now) {
            if self.metadata_certain {
                self.drain = Drain::Emptying;
            } else {
                self.used_at = now;
            }
        }
        if self.drain == Drain::Emptying && !self.is_waiting() {
            self.drain = Drain::Closing;
            self.checkpoint();
            self.log.close();
            let fault = moved(&self.name);
            self.subscriptions.ended(&fault, &mut self.effects);
            self.take_effects();
            self.step_state(now);
            self.step_log(now);
        }
        if self.drain == Drain::Closing && self.log.is_settled() && self.state.is_settled() && !self.trimming {
            self.drain = Drain::Released;
            self.actions.push(OwnerAction::Release);
        }
    }

    /// When it wants [`Owner::step`] if nothing happens before.
    pub(crate) fn next_wakeup(&self) -> Option<Mono> {
        let stall = [self.config.stall_after, self.config.answer_after]
            .map(|after| self.is_waiting().then(|| self.progress_at.after(after)).filter(|at| *at > self.stepped_at));
        let idle =
            (self.drain == Drain::No && self.subscriptions.is_idle()).then(|| self.used_at.after(self.config.release_after));
        let retention = (!self.trimming && self.drain == Drain::No).then_some(self.retention_at);
        let parts = [self.subscriptions.next_wakeup(), self.log.next_wakeup(), self.state.next_wakeup()];
        // What is due already waits for something that will happen.
        parts.into_iter().chain(stall).chain([idle, retention]).flatten().filter(|at| *at > self.stepped_at).min()
    }

    /// Ownership is over: everyone who waits is told. What was appended may have been stored; what wasn't, was not.
    pub(crate) fn lost(&mut self, why: Lost) {
        self.drain = Drain::Released;
        let unknown = Fault::new(
            FaultKind::OutcomeUnknown,
            OWNERSHIP_LOST,
            format!("partition {} changed its owner before this was confirmed; it may or may not be stored", self.name),
        );
        tell(std::mem::take(&mut self.told));
        if let Lost::TooLarge(entry) = why {
            let fault = Fault::new(FaultKind::InvalidArgument, "MESSAGE_TOO_LARGE", "larger than a bookie's configured limit");
            tell_fault(self.log.take_waiting(entry), &fault);
        }
        tell_fault(self.log.abandon(), &unknown);
        tell_fault(self.coalescer.abandon(), &moved(&self.name));
        let claims = self.state.abandon().into_iter().filter_map(|waiting| match waiting {
            WhenDurable::Claim { answers, partition, .. } => Some(Waiting::Claim(answers, partition, Err(moved(&self.name)))),
            // Their callers are told by the subscriptions, or find the partition's task gone.
            WhenDurable::Output(_) | WhenDurable::Covered(_) | WhenDurable::Trim(_) => None,
        });
        tell(claims);
        self.effects = Effects::default();
        self.subscriptions.ended(&moved(&self.name), &mut self.effects);
        let outputs = std::mem::take(&mut self.effects).now;
        self.actions = vec![OwnerAction::Perform(outputs)];
    }
}

#[cfg(test)]
pub(crate) mod tests;
