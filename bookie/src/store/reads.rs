//! Fencing and reading.

use alluvium_types::bookie::{FenceAnswer, LedgerSummary, ReadEntries, ReadRefusal, Refusal};
use alluvium_types::ids::{EntryId, LedgerId, RecoveryNumber};

use super::Store;
use super::answer::{Outcome, append_failed};
use crate::log::{Location, Marks};
use crate::mutation::Mutation;
use crate::read_plan::ReadPlan;
use crate::rules::{Ledger, Need};

impl Store {
    /// Fences a ledger, durably (B2). One that was never seen is created, fenced (C7). Goes on while the bookie is read-only
    /// (B10).
    pub fn fence(&mut self, ledger: LedgerId, number: RecoveryNumber) -> Outcome<Result<FenceAnswer, ReadRefusal>> {
        match self.put_fence(ledger, number) {
            Outcome::Now(Ok(())) => {
                let stored = self.index.stored(ledger);
                Outcome::Now(Ok(FenceAnswer { lac: stored.lac, last: stored.last }))
            }
            Outcome::Now(Err(refusal)) => Outcome::Now(Err(refusal)),
            Outcome::After(group) => Outcome::After(group),
            Outcome::Full => Outcome::Full,
        }
    }

    /// Plans a read. A fencing one fences first (C1), and looks at what is here once the fence is durable: whatever the
    /// writer brought before it is durable by then as well, and nothing comes after it.
    pub fn read(&mut self, read: &ReadEntries) -> Outcome<Result<ReadPlan, ReadRefusal>> {
        if read.last < read.first || read.bytes_max == 0 {
            return Outcome::Now(Err(ReadRefusal::Invalid));
        }
        if let Some(number) = read.fence {
            match self.put_fence(read.ledger, number) {
                Outcome::Now(Ok(())) => {}
                Outcome::Now(Err(refusal)) => return Outcome::Now(Err(refusal)),
                Outcome::After(group) => return Outcome::After(group),
                Outcome::Full => return Outcome::Full,
            }
        }
        let ledger = self.ledger(read.ledger);
        let refused = self.mutations.has(Mutation::UnknownLedgerNotFenced) && read.fence.is_some();
        match ledger {
            Ledger::Known(Marks { deleted: true, .. }) => Outcome::Now(Err(ReadRefusal::Deleted)),
            Ledger::Unknown if !refused => Outcome::Now(Err(ReadRefusal::NoSuchLedger)),
            _ => Outcome::Now(Ok(ReadPlan::new(read, ledger.missing(), &self.index, self.files.config().read_bytes))),
        }
    }

    /// The highest LAC known.
    pub fn read_lac(&self, ledger: LedgerId) -> Result<Option<EntryId>, ReadRefusal> {
        match self.ledger(ledger) {
            Ledger::Known(Marks { deleted: true, .. }) => Err(ReadRefusal::Deleted),
            Ledger::Unknown => Err(ReadRefusal::NoSuchLedger),
            _ => Ok(self.lac(ledger)),
        }
    }

    /// Where an entry is, or the next one that is here.
    pub(crate) fn at_or_after(&self, ledger: LedgerId, entry: EntryId) -> Option<(EntryId, Location)> {
        self.index.at_or_after(ledger, entry)
    }

    /// What is known of the ledgers after `after`, at most `limit` of them.
    pub fn list(&self, after: Option<LedgerId>, limit: usize) -> Vec<LedgerSummary> {
        let known = self.writer.marks().after(after).filter(|(_, marks)| !marks.deleted);
        known.take(limit).map(|(ledger, _)| self.summary(ledger)).collect()
    }

    /// Whether nothing of a ledger is here, nor remembered, provably (B3).
    pub fn is_unknown(&self, ledger: LedgerId) -> bool {
        self.ledger(ledger) == Ledger::Unknown
    }

    /// What is known of one ledger.
    pub fn summary(&self, ledger: LedgerId) -> LedgerSummary {
        let stored = self.index.stored(ledger);
        let marks = self.writer.marks().get(ledger).copied().unwrap_or_default();
        LedgerSummary {
            ledger,
            entries: stored.entries,
            bytes: stored.bytes,
            last: stored.last,
            lac: stored.lac,
            fenced: marks.fenced,
            torn: marks.torn.is_some(),
        }
    }

    /// Fences; `Now(Ok)` once the fence is durable.
    fn put_fence(&mut self, ledger: LedgerId, number: RecoveryNumber) -> Outcome<Result<(), ReadRefusal>> {
        if self.writer.is_failed() {
            return Outcome::Now(Err(ReadRefusal::Stopping));
        }
        let known = self.ledger(ledger);
        if self.mutations.has(Mutation::UnknownLedgerNotFenced) && known == Ledger::Unknown {
            return Outcome::Now(Ok(()));
        }
        match known.fence(number) {
            Err(refusal) => Outcome::Now(Err(refusal)),
            Ok(Need::Nothing) => self.answer_after_marks(ledger, Ok(())),
            Ok(Need::Marks(marks)) => match self.mark(ledger, marks) {
                Ok(group) => Outcome::After(group),
                Err(error) => append_failed(error, self.out_of_files, |refusal| match refusal {
                    Refusal::Stopping => ReadRefusal::Stopping,
                    _ => ReadRefusal::Busy,
                }),
            },
        }
    }
}
