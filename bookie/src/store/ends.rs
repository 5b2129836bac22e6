//! How ledgers end, and what is known of their ends: closed, deleted, forgotten, in doubt.

use alluvium_types::bookie::Refusal;
use alluvium_types::ids::{EntryId, LedgerId};

use super::Store;
use super::answer::{Outcome, append_failed};
use crate::log::{self, Marks};
use crate::rules::{self, Ledger};

impl Store {
    /// Drops a ledger's entries and refuses it from then on. The caller has the proof of B9. Goes on while the bookie is
    /// read-only, and answers once the mark is durable.
    pub fn delete(&mut self, ledger: LedgerId) -> Outcome<Result<(), Refusal>> {
        let marks = match self.ledger(ledger) {
            // Nothing to drop, and nothing to remember: the tombstone stands in metadata.
            Ledger::Unknown => return Outcome::Now(Ok(())),
            Ledger::Known(marks) | Ledger::Doubtful(marks) => marks,
        };
        if marks.deleted {
            return self.answer_after_marks(ledger, Ok(()));
        }
        match self.mark(ledger, Marks { deleted: true, torn: None, in_doubt: false, ..marks }) {
            Ok(group) => {
                self.deletions.push_back((group, ledger));
                Outcome::After(group)
            }
            Err(error) => append_failed(error, self.out_of_files, |refusal| refusal),
        }
    }

    /// Metadata shows the ledger to be Closed: torn ends (C59).
    pub fn close(&mut self, ledger: LedgerId, last: Option<EntryId>) -> Outcome<Result<(), Refusal>> {
        let Ledger::Known(marks) = self.ledger(ledger) else { return Outcome::Now(Ok(())) };
        if marks.deleted || marks.closed.is_some() {
            return self.answer_after_marks(ledger, Ok(()));
        }
        let last = last.map_or(log::LastEntry::None, log::LastEntry::At);
        match self.mark(ledger, rules::closed(&marks, last)) {
            Ok(group) => Outcome::After(group),
            Err(error) => append_failed(error, self.out_of_files, |refusal| refusal),
        }
    }

    /// Forgets a deleted ledger's marks, once no file holds a frame of it. The caller knows that its tombstone is gone (C27).
    pub fn forget(&mut self, ledger: LedgerId) -> Outcome<Result<(), Refusal>> {
        let Some(Marks { deleted: true, .. }) = self.writer.marks().get(ledger) else { return Outcome::Now(Ok(())) };
        if let Some(marked) = self.marked.get(&ledger) {
            return Outcome::After(marked.newest);
        }
        if self.index.holds(ledger) {
            return Outcome::Now(Err(Refusal::Busy));
        }
        match self.writer.forget(ledger, &self.index) {
            Ok(group) => Outcome::After(group),
            Err(error) => append_failed(error, self.out_of_files, |refusal| refusal),
        }
    }

    /// Ledgers that metadata will create from now on have ids of `next` or more, so a group that was lost before held none of
    /// theirs. Called after a recovery for which [`needs_bound`](Self::needs_bound): until then no unknown ledger is opened.
    pub fn bound_doubts(&mut self, next: LedgerId) -> Outcome<Result<(), Refusal>> {
        let doubts = self.writer.marks().doubts();
        let lower = |bound: Option<LedgerId>| bound.map(|bound| bound.min(next));
        let bounded = log::Doubts { torn_below: lower(doubts.torn_below), in_doubt_below: lower(doubts.in_doubt_below) };
        if bounded == doubts {
            return Outcome::Now(Ok(()));
        }
        match self.writer.append_doubts(bounded) {
            Ok(group) => Outcome::After(group),
            Err(error) => append_failed(error, self.out_of_files, |refusal| refusal),
        }
    }

    /// Whether a loss put every unknown ledger in doubt, for want of a bound on their ids.
    pub fn needs_bound(&self) -> bool {
        let doubts = self.writer.marks().doubts();
        let unbounded = Some(LedgerId::new(u64::MAX));
        doubts.torn_below == unbounded || doubts.in_doubt_below == unbounded
    }
}
