//! Recovery: finds out where a ledger ends, and closes it there, whatever its writer still does.
//!
//! A pure machine ([`Machine`]). Read the record; claim it by compare-and-set under a new number (C69); fence until no ack quorum
//! is left unfenced (C1, C21); read forward from the highest LAC with reads that fence too; bring what is found to an ack quorum;
//! end at the first entry that is *proved* absent (C2, C3); close by compare-and-set. What it keeps:
//! - L5: every entry of the closed ledger is on an ack quorum of the ensemble that the closing record names.
//! - C9: it never starts before the last fragment. C10: a changed ensemble stays its own until the closing record. C11: it reads
//!   from the ensemble as it was. C13: its adds carry no LAC.
//! - C69: a newer recovery is one that the record knows of; a bookie that tells of another one is left out ([`distrust`]).
//! - C14: who loses a compare-and-set waits, at random and longer each time; two at once converge. A ledger found closed is an
//!   answer.
//! - Its memory is bounded: a window of entries, whatever the writer had in flight.

mod copying;
mod distrust;
mod evidence;
mod forward;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use alluvium_runtime::backoff::Backoff;
use alluvium_runtime::entropy::Entropy;
use alluvium_types::bookie::ReadRefusal;
use alluvium_types::ids::{EntryId, LedgerId, RecoveryNumber};
use alluvium_types::ledger::{BookieId, LedgerMetadata, LedgerState};
use alluvium_types::time::Mono;

use crate::ack_tracker::after;
use crate::call::{Action, Answer, CallId, Calls, CasOutcome, Event, FenceLedger, Machine, Record, Request, Unavailable};
use crate::compare_and_set::{CasPatience, Definite, PendingCas};
use crate::ensemble_change::{EnsembleChange, Rejected};
use crate::fence::{FencePhase, FenceVerdict};
use crate::fragments;
use crate::mutation::{Mutation, Mutations};
use crate::placement::Candidate;
use copying::Copying;
use distrust::Distrust;
use evidence::Evidence;
use forward::Forward;

pub(crate) use evidence::is_sound;

/// How a recovery behaves.
#[derive(Clone, Debug)]
pub struct RecoveryConfig {
    /// A question that is not answered in this time is asked again, and an add makes its bookie suspect.
    pub answer_timeout: Duration,
    /// The pause before a bookie that failed is asked again: the shortest and the longest.
    pub retry: (Duration, Duration),
    /// The pause after another recovery was met: the shortest and the longest (C14).
    pub duel: (Duration, Duration),
    /// How often a spare is looked for where there was none.
    pub spare_retry: Duration,
    /// After this time without an end the recovery gives up; nothing is lost, another one may begin.
    pub give_up_after: Duration,
    /// How many entries a member is asked for at a time.
    pub window_entries: u64,
    /// How many bytes a member answers at a time, at most, beyond its first entry.
    pub read_bytes_max: usize,
    /// How many bytes may be on their way to an ack quorum before more is read.
    pub copy_bytes_max: usize,
    /// How patient changes of metadata are.
    pub cas: CasPatience,
    /// Planted bugs, for tests.
    pub mutations: Mutations,
}

impl Default for RecoveryConfig {
    fn default() -> Self {
        Self {
            answer_timeout: Duration::from_secs(2),
            retry: (Duration::from_millis(20), Duration::from_secs(1)),
            duel: (Duration::from_millis(50), Duration::from_secs(5)),
            spare_retry: Duration::from_millis(500),
            give_up_after: Duration::from_secs(60),
            window_entries: 64,
            read_bytes_max: 1 << 20,
            copy_bytes_max: 8 << 20,
            cas: CasPatience::default(),
            mutations: Mutations::NONE,
        }
    }
}

/// What came of a recovery; its only notice, and its last.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Notice {
    /// The ledger is closed: by this recovery, by another one, or by its writer (C14).
    Closed(Record),
    /// It is not known where the ledger ends.
    Failed(RecoveryFailure),
}

/// Why a recovery ended without the ledger's end.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RecoveryFailure {
    /// There is no such ledger.
    #[error("the ledger has no record")]
    NoRecord,
    /// It is deleted.
    #[error("the ledger is deleted")]
    Deleted,
    /// Metadata refuses the ledger's next record for good: a person must look.
    #[error("metadata refuses the ledger's next record")]
    RecordRefused,
    /// It took too long. Nothing was decided.
    #[error("gave up: {0}")]
    GaveUp(Stuck),
}

impl RecoveryFailure {
    /// Whether another attempt may succeed.
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::NoRecord | Self::Deleted | Self::RecordRefused => false,
            Self::GaveUp(_) => true,
        }
    }
}

/// What a recovery was waiting for when it gave up.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Stuck {
    /// Metadata.
    #[error("metadata gave no definite answer")]
    Metadata,
    /// Other recoveries.
    #[error("other recoveries kept interfering")]
    Duel,
    /// Bookies to fence.
    #[error("only {answered} bookies were fenced, too few to stop the writer")]
    Fence {
        /// How many are fenced.
        answered: usize,
    },
    /// Bookies that know whether this entry exists (C3): no guess is made.
    #[error("too few bookies can tell whether entry {entry} exists")]
    Evidence {
        /// Which entry.
        entry: EntryId,
    },
    /// Bookies that take this entry.
    #[error("too few bookies can take entry {entry}")]
    Copy {
        /// Which entry.
        entry: EntryId,
    },
}

#[derive(Debug)]
enum Phase {
    /// The record is to be read, now or after a rest.
    Resting { until: Mono, stuck: Stuck },
    /// The record is being read.
    Reading { call: CallId, ask_again_at: Mono },
    /// The record is being changed to `Recovering`.
    Claiming(PendingCas),
    /// The last ensemble is being fenced.
    Fencing { record: Record, fence: FencePhase },
    /// What lies behind the LAC is read and copied.
    Copying(Box<Forward>),
    /// The planted bug of C10: the changed ensemble goes to metadata before the end is known.
    Committing { cas: PendingCas, forward: Box<Forward> },
    /// The record is being changed to `Closed`.
    Closing(PendingCas),
    /// Over.
    Ended,
}

/// The machine. See the module.
#[derive(Debug)]
pub struct Recovery {
    config: RecoveryConfig,
    ledger: LedgerId,
    candidates: Arc<[Candidate]>,
    entropy: Entropy,
    phase: Phase,
    rest: Backoff,
    distrust: Distrust,
    give_up_at: Mono,
    /// The time of the last event.
    seen: Mono,
    calls: Calls,
    actions: VecDeque<Action>,
    notice: Option<Notice>,
}

impl Recovery {
    /// Begins to recover a ledger.
    pub fn new(now: Mono, config: RecoveryConfig, ledger: LedgerId, candidates: Arc<[Candidate]>, entropy: Entropy) -> Self {
        let rest = Backoff::new(config.duel.0, config.duel.1, entropy.clone());
        let give_up_at = now.after(config.give_up_after);
        let mut recovery = Self {
            config,
            ledger,
            candidates,
            entropy,
            phase: Phase::Resting { until: now, stuck: Stuck::Metadata },
            rest,
            distrust: Distrust::default(),
            give_up_at,
            seen: now,
            calls: Calls::default(),
            actions: VecDeque::new(),
            notice: None,
        };
        recovery.drive(now);
        recovery
    }

    /// Whether it is over.
    pub const fn is_ended(&self) -> bool {
        matches!(self.phase, Phase::Ended)
    }

    /// The number under which it recovers, once it has one (C69).
    pub fn number(&self) -> Option<RecoveryNumber> {
        match &self.phase {
            Phase::Fencing { record, .. } => Some(record.metadata.recovery),
            Phase::Copying(forward) | Phase::Committing { forward, .. } => Some(forward.record.metadata.recovery),
            Phase::Closing(cas) => Some(cas.proposed().recovery),
            Phase::Resting { .. } | Phase::Reading { .. } | Phase::Claiming(_) | Phase::Ended => None,
        }
    }

    fn retry(&self) -> impl Fn() -> Backoff + use<> {
        let ((min, max), entropy) = (self.config.retry, self.entropy.clone());
        move || Backoff::new(min, max, entropy.clone())
    }

    /// Cancels what is open, and begins again from the record after a rest (C14).
    fn begin_again(&mut self, now: Mono, stuck: Stuck) {
        self.cancel_all();
        let rest = if self.config.mutations.has(Mutation::RecoverersDoNotBackOff) { Duration::ZERO } else { self.rest.delay() };
        self.phase = Phase::Resting { until: now.after(rest), stuck };
    }

    fn end(&mut self, notice: Notice) {
        self.cancel_all();
        self.phase = Phase::Ended;
        self.notice = Some(notice);
    }

    fn cancel_all(&mut self) {
        let calls: Vec<CallId> = match &self.phase {
            Phase::Fencing { fence, .. } => fence.open_calls().collect(),
            Phase::Copying(forward) => forward.open_calls(),
            _ => Vec::new(),
        };
        self.actions.extend(calls.into_iter().map(Action::Cancel));
    }

    fn on_record(&mut self, now: Mono, record: Result<Option<Record>, Unavailable>) {
        let record = match record {
            Err(Unavailable) => {
                self.phase = Phase::Resting { until: now.after(self.rest.delay()), stuck: Stuck::Metadata };
                return;
            }
            Ok(None) => return self.end(Notice::Failed(RecoveryFailure::NoRecord)),
            Ok(Some(record)) => record,
        };
        self.distrust.on_record(record.metadata.recovery);
        match record.metadata.state {
            LedgerState::Closed { .. } => self.end(Notice::Closed(record)),
            LedgerState::Deleting => self.end(Notice::Failed(RecoveryFailure::Deleted)),
            LedgerState::Open | LedgerState::Recovering { .. } => self.claim(now, record),
        }
    }

    fn claim(&mut self, now: Mono, record: Record) {
        let by = record.metadata.recovery.next();
        let new = LedgerMetadata { state: LedgerState::Recovering { by }, recovery: by, ..record.metadata.clone() };
        let cas = self.change_record(now, record, new);
        self.phase = Phase::Claiming(cas);
    }

    fn change_record(&mut self, now: Mono, expected: Record, new: LedgerMetadata) -> PendingCas {
        let call = self.calls.next();
        let blind = self.config.mutations.has(Mutation::CasWithoutCompare);
        let (cas, action) = PendingCas::start(now, call, expected, new, blind, self.config.cas, &self.entropy);
        self.actions.push_back(action);
        cas
    }

    fn on_cas(&mut self, now: Mono, call: CallId, outcome: CasOutcome) {
        let (Phase::Claiming(cas) | Phase::Closing(cas) | Phase::Committing { cas, .. }) = &mut self.phase else { return };
        if !cas.is(call) {
            return;
        }
        let Some(definite) = cas.outcome(now, outcome) else { return };
        if let Definite::NotApplied = definite {
            return cas.postpone(now);
        }
        match (definite, std::mem::replace(&mut self.phase, Phase::Ended)) {
            (Definite::Lost(_) | Definite::NotApplied, _) => self.begin_again(now, Stuck::Duel),
            (Definite::Refused, _) => self.end(Notice::Failed(RecoveryFailure::RecordRefused)),
            (Definite::Applied(record), Phase::Claiming(_)) => self.fence(now, record),
            (Definite::Applied(record), Phase::Committing { mut forward, .. }) => {
                forward.record = record;
                self.phase = Phase::Copying(forward);
            }
            (Definite::Applied(record), _) => self.end(Notice::Closed(record)),
        }
    }

    fn fence(&mut self, now: Mono, record: Record) {
        let fragment = record.metadata.last_fragment();
        let fence =
            FencePhase::new(now, record.metadata.replication, &fragment.ensemble, self.config.answer_timeout, &self.retry());
        self.phase = Phase::Fencing { record, fence };
    }

    /// Enough are fenced: the way forward begins behind the highest LAC they knew, but never before the last fragment (C9).
    fn go_forward(&mut self, now: Mono, record: Record, lac: Option<EntryId>) {
        let first = record.metadata.last_fragment().first;
        let clamped = after(lac.max(first.previous()));
        let start = if self.config.mutations.has(Mutation::LacNotClamped) { after(lac) } else { clamped };
        let ensemble = record.metadata.last_fragment().ensemble.clone();
        let forward = self.forward(now, record, start, &ensemble, Vec::new());
        self.phase = Phase::Copying(Box::new(forward));
    }

    fn forward(&self, now: Mono, record: Record, start: EntryId, ensemble: &[BookieId], avoid: Vec<BookieId>) -> Forward {
        let LedgerMetadata { ledger, replication, recovery, .. } = record.metadata;
        let read_from = if self.config.mutations.has(Mutation::RecoveryReadsChangedEnsemble) {
            ensemble
        } else {
            // As it was when this recovery began, whatever has been replaced since (C11).
            &record.metadata.last_fragment().ensemble
        };
        let evidence = Evidence::new(
            now,
            ledger,
            replication,
            read_from,
            start,
            self.config.window_entries,
            self.config.answer_timeout,
            self.config.mutations,
            &self.retry(),
        );
        let copying = Copying::new(ledger, recovery, replication, ensemble, &self.retry());
        Forward { record, start, evidence, copying, ended: false, change: None, spare_retry_at: None, avoid }
    }

    fn on_answer(&mut self, now: Mono, call: CallId, answer: Answer) {
        let asked = match &self.phase {
            Phase::Fencing { record, fence } => fence.asked(call).map(|bookie| (bookie, record.metadata.recovery)),
            Phase::Copying(forward) => forward.asked(call).map(|bookie| (bookie, forward.record.metadata.recovery)),
            _ => None,
        };
        let Some((from, number)) = asked else { return };
        let answer = self.distrust.weigh(from, number, answer);
        let verdict = match &mut self.phase {
            Phase::Fencing { fence, .. } => fence.answered(now, call, fence_answer(answer)),
            Phase::Copying(forward) => forward.on_answer(now, call, answer, &self.config),
            _ => return,
        };
        match verdict {
            FenceVerdict::Noted => {}
            FenceVerdict::Superseded | FenceVerdict::Deleted => self.begin_again(now, Stuck::Duel),
        }
    }

    /// Takes every step that is possible now.
    fn drive(&mut self, now: Mono) {
        if matches!(self.phase, Phase::Ended) {
            return;
        }
        if now >= self.give_up_at {
            let stuck = self.stuck();
            return self.end(Notice::Failed(RecoveryFailure::GaveUp(stuck)));
        }
        match &mut self.phase {
            Phase::Resting { until, .. } if now >= *until => self.read_record(now),
            Phase::Reading { ask_again_at, .. } if now >= *ask_again_at => self.read_record(now),
            Phase::Claiming(cas) | Phase::Closing(cas) | Phase::Committing { cas, .. } => {
                self.actions.extend(cas.tick(now));
            }
            Phase::Fencing { .. } => self.drive_fence(now),
            Phase::Copying(_) => self.drive_forward(now),
            Phase::Resting { .. } | Phase::Reading { .. } | Phase::Ended => {}
        }
    }

    fn read_record(&mut self, now: Mono) {
        let call = self.calls.next();
        self.actions.push_back(Action::ReadRecord { call, ledger: self.ledger });
        self.phase = Phase::Reading { call, ask_again_at: now.after(self.config.cas.answer_timeout) };
    }

    fn drive_fence(&mut self, now: Mono) {
        let Phase::Fencing { record, fence } = &mut self.phase else { return };
        let ask = FenceLedger { ledger: self.ledger, number: record.metadata.recovery };
        for (call, to) in fence.due(now, || self.calls.next()) {
            self.actions.push_back(Action::Send { call, to, request: Request::Fence(ask) });
        }
        let one_reply = self.config.mutations.has(Mutation::FencePhaseWithOneReply) && fence.answers() > 0;
        if fence.is_covered() || one_reply {
            self.cancel_all();
            if let Phase::Fencing { record, fence } = std::mem::replace(&mut self.phase, Phase::Ended) {
                self.go_forward(now, record, fence.lac());
            }
            self.drive_forward(now);
        }
    }

    fn drive_forward(&mut self, now: Mono) {
        let Phase::Copying(forward) = &mut self.phase else { return };
        forward.decide(now, &self.config, &mut self.calls, &mut self.actions);
        if !forward.ended {
            forward.ask(now, &self.config, &mut self.calls, &mut self.actions);
        }
        forward.copying.resend(now, &self.config, &mut self.calls, &mut self.actions);
        forward.copying.shed(self.config.copy_bytes_max, &mut self.actions);
        if forward.ended && forward.copying.first_unsafe().is_none() {
            return self.close(now);
        }
        self.replace_the_dead(now);
    }

    /// Enlists replacements for members without which an entry does not reach its ack quorum. The new ensemble stays local (C10);
    /// the copying begins anew for it, from the LAC, so that all that was found is on the ensemble that will be named.
    fn replace_the_dead(&mut self, now: Mono) {
        let Phase::Copying(forward) = &mut self.phase else { return };
        if forward.change.is_none() {
            let blocking = forward.copying.blocking(now, &self.config);
            if blocking.is_empty() {
                forward.spare_retry_at = None;
                return;
            }
            if forward.spare_retry_at.is_some_and(|at| now < at) {
                return;
            }
            forward.spare_retry_at = Some(now.after(self.config.spare_retry));
            let ensemble = forward.copying.ensemble();
            forward.change = Some(EnsembleChange::default());
            for place in blocking {
                self.actions.push_back(Action::Suspect(ensemble[place].clone()));
                forward.avoid.push(ensemble[place].clone());
                forward.enlist(now, place, &self.candidates, &self.config, &self.entropy, &mut self.calls, &mut self.actions);
            }
        }
        let overdue = forward.change.as_mut().map(|change| change.overdue(now)).unwrap_or_default();
        for rejected in overdue {
            self.actions.extend(rejected.call.map(Action::Cancel));
            self.reject(now, rejected);
        }
        let Phase::Copying(forward) = &mut self.phase else { return };
        let Some(change) = forward.change.take_if(|change| change.is_settled()) else { return };
        let replacements = change.replacements();
        if replacements.is_empty() {
            // Nobody is left who was not found wanting; what was wrong with them may be over by the next look.
            forward.avoid.clear();
            return;
        }
        let mut ensemble = forward.copying.ensemble();
        for (place, bookie) in replacements {
            ensemble[place] = bookie;
        }
        self.copy_to(now, &ensemble);
    }

    fn reject(&mut self, now: Mono, rejected: Rejected) {
        let Phase::Copying(forward) = &mut self.phase else { return };
        self.actions.push_back(Action::Suspect(rejected.candidate.clone()));
        forward.avoid.push(rejected.candidate);
        forward.enlist(now, rejected.place, &self.candidates, &self.config, &self.entropy, &mut self.calls, &mut self.actions);
    }

    fn copy_to(&mut self, now: Mono, ensemble: &[BookieId]) {
        self.cancel_all();
        let Phase::Copying(forward) = std::mem::replace(&mut self.phase, Phase::Ended) else { return };
        let Forward { record, start, avoid, .. } = *forward;
        let forward = Box::new(self.forward(now, record.clone(), start, ensemble, avoid));
        if self.config.mutations.has(Mutation::EnsembleChangeCommittedInRecovery) {
            let first = start.max(record.metadata.last_fragment().first);
            let new = fragments::changed(&record.metadata, first, ensemble.to_vec(), Vec::new());
            let cas = self.change_record(now, record, new);
            self.phase = Phase::Committing { cas, forward };
        } else {
            self.phase = Phase::Copying(forward);
            self.drive_forward(now);
        }
    }

    /// Every entry before the absent one is on an ack quorum: the ledger ends there.
    fn close(&mut self, now: Mono) {
        let Phase::Copying(forward) = std::mem::replace(&mut self.phase, Phase::Ended) else { return };
        self.actions.extend(forward.open_calls().into_iter().map(Action::Cancel));
        let new = forward.closed_record();
        let cas = self.change_record(now, forward.record, new);
        self.phase = Phase::Closing(cas);
    }

    fn stuck(&self) -> Stuck {
        match &self.phase {
            Phase::Resting { stuck, .. } => *stuck,
            Phase::Fencing { fence, .. } => Stuck::Fence { answered: fence.answers() },
            Phase::Copying(forward) => match forward.copying.first_unsafe() {
                Some(entry) => Stuck::Copy { entry },
                None => Stuck::Evidence { entry: forward.evidence.next() },
            },
            Phase::Reading { .. } | Phase::Claiming(_) | Phase::Closing(_) | Phase::Committing { .. } | Phase::Ended => {
                Stuck::Metadata
            }
        }
    }
}

fn fence_answer(answer: Answer) -> Option<Result<alluvium_types::bookie::FenceAnswer, ReadRefusal>> {
    match answer {
        Answer::Fence(answer) => Some(answer),
        _ => None,
    }
}

impl Machine for Recovery {
    type Notice = Notice;

    fn on_event(&mut self, now: Mono, event: Event) {
        self.seen = now;
        match event {
            Event::Tick => {}
            Event::Answer { call, answer } => self.on_answer(now, call, answer),
            Event::Cas { call, outcome } => self.on_cas(now, call, outcome),
            Event::Record { call, record } => {
                if matches!(self.phase, Phase::Reading { call: asked, .. } if asked == call) {
                    self.on_record(now, record);
                }
            }
            Event::Bookies(candidates) => self.candidates = candidates,
        }
        self.drive(now);
    }

    fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    fn poll_notice(&mut self) -> Option<Notice> {
        self.notice.take()
    }

    fn next_wakeup(&self) -> Option<Mono> {
        let step = match &self.phase {
            Phase::Ended => return None,
            Phase::Resting { until, .. } => Some(*until),
            Phase::Reading { ask_again_at, .. } => Some(*ask_again_at),
            Phase::Claiming(cas) | Phase::Closing(cas) | Phase::Committing { cas, .. } => Some(cas.wakeup()),
            Phase::Fencing { fence, .. } => fence.wakeup(),
            Phase::Copying(forward) => forward.wakeup(self.seen, &self.config),
        };
        step.into_iter().chain([self.give_up_at]).min()
    }
}
