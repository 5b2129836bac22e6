//! The way forward from the LAC: what is there is copied, until something is proved not to be.

use std::collections::VecDeque;

use alluvium_runtime::entropy::Entropy;
use alluvium_types::bookie::{ReadEntries, ReadRefusal};
use alluvium_types::ids::EntryId;
use alluvium_types::ledger::{BookieId, LedgerMetadata};
use alluvium_types::time::Mono;

use super::RecoveryConfig;
use super::copying::{CopyVerdict, Copying};
use super::evidence::{Evidence, Proof, Question};
use crate::call::{Action, Answer, CallId, Calls, FenceLedger, Record, Request};
use crate::ensemble_change::EnsembleChange;
use crate::fence::FenceVerdict;
use crate::fragments;
use crate::mutation::Mutation;
use crate::placement::{self, Candidate, Need};

/// The way forward from the LAC.
#[derive(Debug)]
pub(super) struct Forward {
    pub(super) record: Record,
    /// The first entry that may not be confirmed.
    pub(super) start: EntryId,
    pub(super) evidence: Evidence,
    pub(super) copying: Copying,
    /// The end, once an entry is proved absent.
    pub(super) ended: bool,
    pub(super) change: Option<EnsembleChange>,
    pub(super) spare_retry_at: Option<Mono>,
    pub(super) avoid: Vec<BookieId>,
}

impl Forward {
    /// Decides entries as far as there is proof, and sends on what is present.
    pub(super) fn decide(&mut self, now: Mono, config: &RecoveryConfig, calls: &mut Calls, out: &mut VecDeque<Action>) {
        while !self.ended && self.copying.unsafe_bytes() <= config.copy_bytes_max {
            match self.evidence.proof() {
                Proof::Present(stored) => {
                    self.copying.copy(now, stored, config, calls, out);
                    self.evidence.advance();
                }
                Proof::Absent => {
                    self.ended = true;
                    out.extend(self.evidence.open_calls().map(Action::Cancel));
                }
                Proof::Open => return,
            }
        }
    }

    /// Asks on. The reads fence too, durably, before they answer: an `Absent` stays true (C1).
    pub(super) fn ask(&mut self, now: Mono, config: &RecoveryConfig, calls: &mut Calls, out: &mut VecDeque<Action>) {
        let LedgerMetadata { ledger, recovery, .. } = self.record.metadata;
        let fence = (!config.mutations.has(Mutation::RecoveryReadsDoNotFence)).then_some(recovery);
        for Question { call, bookie, first, last } in self.evidence.due(now, || calls.next()) {
            let read = ReadEntries { ledger, first, last, bytes_max: config.read_bytes_max, fence };
            out.push_back(Action::Send { call, to: bookie, request: Request::Read(read) });
        }
    }

    /// Whom this question was put to.
    pub(super) fn asked(&self, call: CallId) -> Option<&BookieId> {
        let spare = || self.change.as_ref().and_then(|change| change.candidate(call));
        self.evidence.asked(call).or_else(|| self.copying.asked(call)).or_else(spare)
    }

    pub(super) fn on_answer(&mut self, now: Mono, call: CallId, answer: Answer, config: &RecoveryConfig) -> FenceVerdict {
        if self.evidence.asked(call).is_some() {
            match answer {
                Answer::Read(Ok(answer)) => self.evidence.answered(now, call, answer),
                Answer::Read(Err(ReadRefusal::Stale)) => return FenceVerdict::Superseded,
                Answer::Read(Err(ReadRefusal::Deleted)) => return FenceVerdict::Deleted,
                // A fencing read makes the ledger known (C7); only one that does not fence may say this, and it is true then.
                Answer::Read(Err(ReadRefusal::NoSuchLedger)) if config.mutations.has(Mutation::RecoveryReadsDoNotFence) => {
                    self.evidence.nothing_here(now, call);
                }
                _ => self.evidence.no_answer(now, call),
            }
        } else if self.copying.asked(call).is_some() {
            match self.copying.answered(now, call, &answer) {
                CopyVerdict::Noted => {}
                CopyVerdict::Superseded => return FenceVerdict::Superseded,
                CopyVerdict::Deleted => return FenceVerdict::Deleted,
            }
        } else if let Some(change) = self.change.as_mut().filter(|change| change.asked(call)) {
            match answer {
                Answer::Fence(Ok(_)) => change.opened(call),
                Answer::Fence(Err(ReadRefusal::Stale)) => return FenceVerdict::Superseded,
                Answer::Fence(Err(ReadRefusal::Deleted)) => return FenceVerdict::Deleted,
                _ => {
                    // Another one is looked for when there is time.
                    if let Some(rejected) = change.refused(call) {
                        self.avoid.push(rejected.candidate);
                        self.spare_retry_at = None;
                    }
                }
            }
        }
        FenceVerdict::Noted
    }

    /// Asks a spare to stand at `place`: a fence makes the ledger known to it (C7), and closes it to the old writer.
    pub(super) fn enlist(
        &mut self,
        now: Mono,
        place: usize,
        candidates: &[Candidate],
        config: &RecoveryConfig,
        entropy: &Entropy,
        calls: &mut Calls,
        out: &mut VecDeque<Action>,
    ) {
        let Some(change) = &mut self.change else { return };
        let LedgerMetadata { ledger, recovery, replication, class, .. } = self.record.metadata;
        let mut ensemble = self.copying.ensemble();
        for (other, candidate) in change.candidates() {
            ensemble[other] = candidate.clone();
        }
        // Without a replacement the ledger has no end.
        let need = Need::Must;
        let spare = placement::replace(candidates, class, replication, &ensemble, place, &self.avoid, need, entropy);
        let Some(candidate) = spare else { return };
        let call = calls.next();
        let request = Request::Fence(FenceLedger { ledger, number: recovery });
        out.push_back(Action::Send { call, to: candidate.clone(), request });
        change.seat(now, place, candidate, call, config.answer_timeout);
    }

    /// The record as it shall be closed. Members that are not known to hold their share are marked (C65): all of a fragment of
    /// which a part was not copied here, since its confirmed entries may be on any ack quorum.
    pub(super) fn closed_record(&self) -> LedgerMetadata {
        let metadata = &self.record.metadata;
        let (replication, fragment) = (metadata.replication, metadata.last_fragment());
        let last = self.evidence.next().previous();
        let everyone: Vec<usize> = (0..replication.ensemble()).collect();
        let unverified = if replication.ack() == replication.write() { Vec::new() } else { everyone };
        let copied = last >= Some(self.start);
        let ensemble = self.copying.ensemble();
        let start = self.start.max(fragment.first);
        let whole = fragment.first == start;
        let new = if copied && ensemble != fragment.ensemble {
            let changed = fragments::changed(metadata, start, ensemble, unverified);
            fragments::marked(&changed, self.copying.short())
        } else if last < Some(fragment.first) {
            metadata.clone()
        } else if whole {
            fragments::marked(metadata, self.copying.short())
        } else {
            fragments::marked(metadata, unverified)
        };
        fragments::closed(&new, last)
    }

    pub(super) fn open_calls(&self) -> Vec<CallId> {
        let change = self.change.iter().flat_map(EnsembleChange::open_calls);
        self.evidence.open_calls().chain(self.copying.open_calls()).chain(change).collect()
    }

    pub(super) fn wakeup(&self, seen: Mono, config: &RecoveryConfig) -> Option<Mono> {
        let evidence = if self.ended { None } else { self.evidence.wakeup() };
        let change = self.change.as_ref().and_then(EnsembleChange::wakeup);
        let spare = self.spare_retry_at.filter(|_| self.change.is_none() && self.copying.first_unsafe().is_some());
        [evidence, self.copying.wakeup(seen, config), change, spare].into_iter().flatten().min()
    }
}
