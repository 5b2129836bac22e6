//! The writer of one ledger: pipelined adds to each entry's write set, confirmed in order at the ack quorum.
//!
//! A pure machine ([`Machine`]). It owns the ledger from the first add to a definite end: closed, or dead. What it keeps:
//! - L2, C17: entries are confirmed in order. L4, C19: once fenced, superseded or without its record, it never confirms again.
//! - C15, C16: from the moment a new ensemble is proposed until metadata names it, nothing is confirmed and nothing is sent to
//!   the new members. C12: without an outcome, that moment lasts.
//! - Q6, C54: a slow bookie costs a bounded number of bytes; past it, what it owes is left to repair and marked (C65).
//! - C63: without a spare it stays while an ack quorum of every write set answers; else it closes the ledger at its last
//!   confirmed entry and hands the rest back.
//!
//! Read in this order: [`Writer`] (the routes), [`ensemble`], [`ending`], and beside this folder `ack_tracker`, `member` (one bookie),
//! `ensemble_change`, `compare_and_set`, `fragments`.

mod ending;
mod ensemble;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use alluvium_runtime::backoff::Backoff;
use alluvium_runtime::entropy::Entropy;
use alluvium_types::bookie::{AddEntry, Adder, AdvanceLac, Refusal};
use alluvium_types::checksum::Crc32c;
use alluvium_types::entry::entry_checksum;
use alluvium_types::ids::EntryId;
use alluvium_types::ledger::{BookieId, LedgerState};
use alluvium_types::limits::Limits;
use alluvium_types::time::Mono;
use bytes::Bytes;

use crate::ack_tracker::AckTracker;
use crate::call::{Action, Answer, CallId, Calls, Event, Machine, Record, Request};
use crate::compare_and_set::{CasPatience, PendingCas};
use crate::ensemble_change::EnsembleChange;
use crate::member::Member;
use crate::mutation::{Mutation, Mutations};
use crate::placement::Candidate;

pub use ending::{Death, HandBack, HandedBack};

/// How a writer behaves.
#[derive(Clone, Debug)]
pub struct WriterConfig {
    /// The largest body; larger ones are refused before they get an id (C36).
    pub entry_bytes_max: usize,
    /// The most unconfirmed entries. Bytes are bounded by who appends.
    pub unconfirmed_max: usize,
    /// The most bytes of confirmed entries that one bookie may owe (Q6); past it they are left to repair.
    pub background_bytes_max: usize,
    /// A member that owes an add for this long, which its peers would have answered, is replaced if there is a spare (C54).
    pub slow_after: Duration,
    /// A member that owes an add for this long is not counted on.
    pub bad_after: Duration,
    /// A bookie to which adds got lost for this long, with none answered, is not counted on where without it a write set has no ack
    /// quorum.
    pub gone_after: Duration,
    /// A replacement that has not opened the ledger in this time is passed over (C68).
    pub open_timeout: Duration,
    /// The pause before adds that were lost or met a busy bookie are sent again: the shortest and the longest.
    pub resend: (Duration, Duration),
    /// How long a bookie that failed is not chosen again.
    pub quarantine: Duration,
    /// How often a spare is looked for where there was none; with an ack quorum up to four times as seldom, at random.
    pub spare_retry: Duration,
    /// The LAC goes alone when no add has carried it for this long.
    pub lac_idle: Duration,
    /// How long a close waits for the last copies before it marks who lacks them.
    pub close_linger: Duration,
    /// The most fragments of a ledger; past it a failing one is ended rather than changed.
    pub fragments_max: usize,
    /// How patient changes of metadata are.
    pub cas: CasPatience,
    /// Planted bugs, for tests.
    pub mutations: Mutations,
}

impl Default for WriterConfig {
    fn default() -> Self {
        Self {
            entry_bytes_max: Limits::default().entry_bytes_max(),
            unconfirmed_max: 4096,
            background_bytes_max: 8 << 20,
            slow_after: Duration::from_millis(1000),
            bad_after: Duration::from_secs(5),
            gone_after: Duration::from_millis(100),
            open_timeout: Duration::from_secs(1),
            resend: (Duration::from_millis(10), Duration::from_secs(1)),
            quarantine: Duration::from_secs(15),
            spare_retry: Duration::from_secs(1),
            lac_idle: Duration::from_millis(100),
            close_linger: Duration::from_millis(500),
            fragments_max: 64,
            cas: CasPatience::default(),
            mutations: Mutations::NONE,
        }
    }
}

/// What a writer tells the log that it works for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Notice {
    /// Every unconfirmed entry up to this one is on at least one disk: the LEADER promise, which a failover may take back.
    Led {
        /// The last of them.
        up_to: EntryId,
    },
    /// Every entry up to this one is confirmed.
    Confirmed {
        /// The new LAC.
        up_to: EntryId,
    },
    /// The ledger's record is now this: another ensemble, or marks.
    Changed(Record),
    /// The ledger is closed, by this writer; the last notice.
    Closed {
        /// Its record.
        record: Record,
        /// Why, if nobody asked for it; the entries after its last one were never part of it, and can be appended elsewhere.
        hand_back: Option<(HandBack, Vec<HandedBack>)>,
    },
    /// The writer is not the writer any more (L4); the last notice. The outcome of these entries is unknown: a recovery decides it.
    Died {
        /// Why.
        death: Death,
        /// The entries whose outcome is unknown.
        unresolved: Vec<EntryId>,
    },
}

/// Why an entry was not taken. None of these has any effect.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AppendRefusal {
    /// Permanent for this entry, whoever asks (C36).
    #[error("the entry has {bytes} bytes, the limit is {limit}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// Too many are unconfirmed; room comes with confirmations.
    #[error("too many entries are unconfirmed")]
    Full,
    /// The ledger is being closed or is at its end; the next one takes it.
    #[error("the ledger takes no more entries")]
    Ended,
}

/// A body and its checksums, kept until no copy is on its way any more.
#[derive(Debug)]
struct Kept {
    body: Bytes,
    body_crc: Crc32c,
    checksum: Crc32c,
}

/// Why a change of the record is under way.
#[derive(Debug)]
enum Purpose {
    Change(Vec<(usize, BookieId)>),
    Mark,
    Close,
    HandBack(HandBack),
}

#[derive(Debug)]
struct Cas {
    pending: PendingCas,
    purpose: Purpose,
    /// The planted bug of C12: the read that shall tell what the change did.
    asking: Option<CallId>,
}

/// A member that was still owing entries of a fragment when that ended; not short of it if they land before the close (C65).
#[derive(Debug)]
struct Late {
    first: EntryId,
    last: EntryId,
    place: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// Takes entries.
    Open,
    /// Takes no more; ends once those taken are confirmed.
    Closing {
        /// When the wait for the last copies is over; set once everything is confirmed.
        linger_until: Option<Mono>,
    },
    /// Over.
    Ended,
}

/// The machine. See the module.
#[derive(Debug)]
pub struct Writer {
    config: WriterConfig,
    entropy: Entropy,
    record: Record,
    phase: Phase,
    tracker: AckTracker,
    entries: BTreeMap<EntryId, Kept>,
    members: Vec<Member>,
    adds: BTreeMap<CallId, (usize, EntryId)>,
    late: Vec<Late>,
    candidates: Arc<[Candidate]>,
    avoid: Vec<(BookieId, Mono)>,
    change: Option<EnsembleChange>,
    cas: Option<Cas>,
    ending: Option<HandBack>,
    spare_retry_at: Option<Mono>,
    /// How much later that is while nobody waits for it.
    spare_leisure: Duration,
    lac_told: Option<EntryId>,
    lac_due: Option<Mono>,
    /// The time of the last event.
    seen: Mono,
    calls: Calls,
    actions: VecDeque<Action>,
    notices: VecDeque<Notice>,
}

impl Writer {
    /// A writer of a ledger whose record was committed as `record`, over an ensemble that has opened it.
    ///
    /// # Panics
    /// If the ledger isn't open and fresh: nobody continues another's ledger.
    pub fn new(config: WriterConfig, record: Record, candidates: Arc<[Candidate]>, entropy: Entropy) -> Self {
        let metadata = &record.metadata;
        assert!(metadata.state == LedgerState::Open && metadata.fragments.len() == 1, "only a fresh ledger has a writer");
        let backoff = || Backoff::new(config.resend.0, config.resend.1, entropy.clone());
        let members = metadata.last_fragment().ensemble.iter().map(|bookie| Member::new(bookie.clone(), backoff())).collect();
        Self {
            tracker: AckTracker::new(metadata.replication),
            members,
            record,
            config,
            entropy,
            phase: Phase::Open,
            entries: BTreeMap::new(),
            adds: BTreeMap::new(),
            late: Vec::new(),
            candidates,
            avoid: Vec::new(),
            change: None,
            cas: None,
            ending: None,
            spare_retry_at: None,
            spare_leisure: Duration::ZERO,
            lac_told: None,
            lac_due: None,
            seen: Mono::default(),
            calls: Calls::default(),
            actions: VecDeque::new(),
            notices: VecDeque::new(),
        }
    }

    /// The record as last changed.
    pub const fn record(&self) -> &Record {
        &self.record
    }

    /// The last entry that is confirmed.
    pub const fn lac(&self) -> Option<EntryId> {
        self.tracker.lac()
    }

    /// The id that the next entry gets.
    pub fn next_entry(&self) -> EntryId {
        self.tracker.next()
    }

    /// Bytes of bodies held: unconfirmed, or owed by a bookie.
    pub fn bytes_held(&self) -> usize {
        self.entries.values().map(|kept| kept.body.len()).sum()
    }

    /// The largest body it takes (C36).
    pub const fn entry_bytes_max(&self) -> usize {
        self.config.entry_bytes_max
    }

    /// Whether it takes an entry now.
    pub fn has_room(&self) -> bool {
        self.phase == Phase::Open && self.ending.is_none() && self.tracker.len() < self.config.unconfirmed_max
    }

    /// Whether it was asked to close.
    pub const fn is_closing(&self) -> bool {
        matches!(self.phase, Phase::Closing { .. })
    }

    /// Whether it is over.
    pub fn is_ended(&self) -> bool {
        self.phase == Phase::Ended
    }

    /// Takes an entry, whose body has the checksum `body_crc`, and sends it to its write set. The body is shared, never changed
    /// (C37).
    pub fn append(&mut self, now: Mono, body: Bytes, body_crc: Crc32c) -> Result<EntryId, AppendRefusal> {
        if body.len() > self.config.entry_bytes_max {
            return Err(AppendRefusal::TooLarge { bytes: body.len(), limit: self.config.entry_bytes_max });
        }
        if self.phase != Phase::Open || self.ending.is_some() {
            return Err(AppendRefusal::Ended);
        }
        if self.tracker.len() >= self.config.unconfirmed_max {
            return Err(AppendRefusal::Full);
        }
        self.forgive_own_pause(now);
        let entry = self.tracker.push();
        let checksum = entry_checksum(self.record.metadata.ledger, entry, body_crc, body.len());
        self.entries.insert(entry, Kept { body, body_crc, checksum });
        for place in self.record.metadata.replication.write_set(entry) {
            self.send(now, place, entry);
        }
        Ok(entry)
    }

    /// Takes no more entries; closes the ledger once those taken are confirmed.
    pub fn close(&mut self, now: Mono) {
        if self.phase == Phase::Open {
            self.phase = Phase::Closing { linger_until: None };
            self.review(now);
        }
    }

    fn send(&mut self, now: Mono, place: usize, entry: EntryId) {
        let Some(kept) = self.entries.get(&entry) else { return };
        if self.members[place].owe(now, entry, kept.body.len()) {
            self.send_add(place, entry);
        }
    }

    fn send_add(&mut self, place: usize, entry: EntryId) {
        let Some(kept) = self.entries.get(&entry) else { return };
        let call = self.calls.next();
        let add = AddEntry {
            ledger: self.record.metadata.ledger,
            entry,
            adder: Adder::Writer { epoch: self.record.metadata.epoch },
            lac: self.tracker.lac(),
            body: kept.body.clone(),
            checksum: kept.checksum,
        };
        self.lac_told = self.tracker.lac();
        self.lac_due = None;
        self.adds.insert(call, (place, entry));
        self.members[place].sent(entry, call);
        let to = self.members[place].bookie.clone();
        self.actions.push_back(Action::Send { call, to, request: Request::Add(add) });
    }

    fn on_add(&mut self, now: Mono, place: usize, entry: EntryId, answer: Answer) {
        match answer {
            Answer::Add(Ok(())) => {
                self.members[place].is_stranger = false;
                self.members[place].landed(entry);
                self.tracker.acked(entry, place);
                self.confirm(now);
                self.release(entry);
            }
            Answer::Add(Err(refusal)) => self.on_refusal(now, place, entry, refusal),
            _ => self.members[place].lose(now, entry),
        }
    }

    fn on_refusal(&mut self, now: Mono, place: usize, entry: EntryId, refusal: Refusal) {
        match refusal {
            Refusal::Fenced if self.config.mutations.has(Mutation::FencedIsBookieFault) => {
                self.members[place].refuse(now, entry);
            }
            Refusal::Fenced => self.die(Death::Fenced),
            Refusal::Stale => self.die(Death::Superseded),
            Refusal::Deleted => self.die(Death::Deleted),
            Refusal::Conflict => self.die(Death::Conflict { entry }),
            Refusal::TooLarge => self.hand_back(now, HandBack::TooLarge { entry }),
            // What arrived broken may arrive whole the next time; a bookie to which it never does is late in the end.
            Refusal::Busy | Refusal::Corrupt => self.members[place].put_off(now, entry),
            Refusal::UnknownLedger | Refusal::ReadOnly | Refusal::Stopping => {
                self.members[place].is_stranger = refusal == Refusal::UnknownLedger;
                self.members[place].refuse(now, entry);
            }
        }
    }

    /// Whether confirmations wait for a change of the record (C15).
    fn is_held(&self) -> bool {
        self.cas.as_ref().is_some_and(|cas| match cas.purpose {
            Purpose::Change(_) => {
                !self.config.mutations.has(Mutation::LacMovesDuringEnsembleChange)
                    && !self.config.mutations.has(Mutation::NewEnsembleBeforeCas)
            }
            Purpose::HandBack(_) => true,
            Purpose::Mark | Purpose::Close => false,
        })
    }

    fn confirm(&mut self, now: Mono) {
        if let Some(up_to) = self.tracker.lead() {
            self.notices.push_back(Notice::Led { up_to });
        }
        if self.is_held() {
            return;
        }
        let before = self.tracker.first_unconfirmed();
        let moved = if self.config.mutations.has(Mutation::OutOfOrderAcks) {
            self.tracker.confirm_with_gaps()
        } else {
            self.tracker.confirm()
        };
        let Some(up_to) = moved else { return };
        self.notices.push_back(Notice::Confirmed { up_to });
        self.lac_due = Some(now.after(self.config.lac_idle));
        self.shed(up_to);
        for entry in (before.get()..=up_to.get()).map(EntryId::new) {
            self.release(entry);
        }
    }

    /// Gives up what members owe past their budget (Q6); they are short of it (C65).
    fn shed(&mut self, lac: EntryId) {
        for place in 0..self.members.len() {
            let limit = self.config.background_bytes_max;
            if self.members[place].background_bytes(lac, limit) <= limit {
                continue;
            }
            self.late.retain(|late| late.place != place);
            for (entry, add) in self.members[place].shed(lac) {
                self.cancel(add.call);
                self.release(entry);
            }
        }
    }

    fn cancel(&mut self, call: Option<CallId>) {
        if let Some(call) = call {
            self.adds.remove(&call);
            self.actions.push_back(Action::Cancel(call));
        }
    }

    /// Lets a body go once it is confirmed and nobody owes it.
    fn release(&mut self, entry: EntryId) {
        if Some(entry) <= self.tracker.lac() && !self.members.iter().any(|member| member.owes(entry)) {
            self.entries.remove(&entry);
        }
    }

    fn tell_lac(&mut self, now: Mono) {
        if self.lac_due.is_none_or(|at| now < at) {
            return;
        }
        self.lac_due = None;
        let Some(lac) = self.tracker.lac().filter(|lac| self.lac_told < Some(*lac)) else { return };
        self.lac_told = Some(lac);
        let request = AdvanceLac { ledger: self.record.metadata.ledger, epoch: self.record.metadata.epoch, lac };
        for member in &self.members {
            let call = self.calls.next();
            self.actions.push_back(Action::Send { call, to: member.bookie.clone(), request: Request::AdvanceLac(request) });
        }
    }

    /// If this process stood still, what bookies owe meanwhile is no fault of theirs.
    fn forgive_own_pause(&mut self, now: Mono) {
        if self.next_wakeup().is_some_and(|due| now.since(due) >= self.config.slow_after / 2) {
            for member in &mut self.members {
                member.forgive(now);
            }
        }
        self.seen = now;
    }

    fn resend(&mut self, now: Mono) {
        for place in 0..self.members.len() {
            for entry in self.members[place].due(now) {
                self.send_add(place, entry);
            }
        }
    }
}

impl Machine for Writer {
    type Notice = Notice;

    fn on_event(&mut self, now: Mono, event: Event) {
        if self.phase == Phase::Ended {
            return;
        }
        self.forgive_own_pause(now);
        match event {
            Event::Tick => {}
            Event::Answer { call, answer } => {
                if let Some((place, entry)) = self.adds.remove(&call) {
                    self.on_add(now, place, entry, answer);
                } else if self.change.as_ref().is_some_and(|change| change.asked(call)) {
                    self.on_open(now, call, answer);
                }
            }
            Event::Cas { call, outcome } => self.on_cas(now, call, outcome),
            Event::Record { call, record } => self.on_record(now, call, record),
            Event::Bookies(candidates) => {
                self.candidates = candidates;
                self.bookies_changed(now);
            }
        }
        if self.phase == Phase::Ended {
            return;
        }
        self.resend(now);
        self.tell_lac(now);
        if let Some(action) = self.cas.as_mut().and_then(|cas| cas.pending.tick(now)) {
            self.actions.push_back(action);
        }
        self.review(now);
    }

    fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    fn poll_notice(&mut self) -> Option<Notice> {
        self.notices.pop_front()
    }

    fn next_wakeup(&self) -> Option<Mono> {
        let linger = match self.phase {
            Phase::Ended => return None,
            Phase::Closing { linger_until } if self.cas.is_none() => linger_until,
            Phase::Closing { .. } | Phase::Open => None,
        };
        let members = self.members.iter().filter_map(|m| m.wakeup(self.seen, self.config.slow_after, self.config.bad_after));
        let change = self.change.as_ref().and_then(EnsembleChange::wakeup);
        let cas = self.cas.as_ref().map(|cas| cas.pending.wakeup());
        // A spare is looked for only while nothing else is under way.
        let spare = self.spare_due(self.seen).filter(|_| change.is_none() && cas.is_none());
        members.chain([linger, change, cas, spare, self.lac_due].into_iter().flatten()).min()
    }
}
