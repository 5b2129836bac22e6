//! Writing: opens, entries, LACs.

use alluvium_types::bookie::{AddEntry, Adder, AdvanceLac, OpenLedger, Refusal};
use alluvium_types::ledger::LedgerClass;

use super::answer::{AddOutcome, Comparison, Outcome, VerifiedAdd, append_failed};
use super::{Pending, Store};
use crate::log::EntryHead;
use crate::mutation::Mutation;
use crate::rules::Need;
use crate::space::Admission;

impl Store {
    /// Makes a ledger known, durably.
    pub fn open(&mut self, open: &OpenLedger) -> Outcome<Result<(), Refusal>> {
        if self.writer.is_failed() {
            return Outcome::Now(Err(Refusal::Stopping));
        }
        match self.ledger(open.ledger).open(open) {
            Err(refusal) => Outcome::Now(Err(refusal)),
            Ok(_) if self.refuses(open.class) => Outcome::Now(Err(Refusal::ReadOnly)),
            Ok(Need::Nothing) => self.answer_after_marks(open.ledger, Ok(())),
            Ok(Need::Marks(marks)) => match self.mark(open.ledger, marks) {
                Ok(group) => Outcome::After(group),
                Err(error) => append_failed(error, self.out_of_files, |refusal| refusal),
            },
        }
    }

    /// Stores an entry.
    pub fn add(&mut self, add: &VerifiedAdd) -> AddOutcome {
        let AddEntry { ledger, entry, .. } = *add.get();
        if let Err(refusal) = self.admit(add.get()) {
            return AddOutcome::Now(Err(refusal));
        }
        if let Some(pending) = self.pending.get(&(ledger, entry)) {
            // Checksum and length stand for the body, which is in the group and not read back.
            return match pending.checksum == add.get().checksum && pending.body_bytes == add.get().body.len() {
                true => AddOutcome::Durable(pending.group),
                false => AddOutcome::Now(Err(Refusal::Conflict)),
            };
        }
        match self.index.get(ledger, entry) {
            Some(location) => AddOutcome::Compare(Comparison { ledger, entry, location }),
            None => self.append(add.get()),
        }
    }

    /// Stores an entry in place of one that can't be read.
    pub fn replace(&mut self, add: &VerifiedAdd) -> AddOutcome {
        if let Err(refusal) = self.admit(add.get()) {
            return AddOutcome::Now(Err(refusal));
        }
        match self.pending.contains_key(&(add.get().ledger, add.get().entry)) {
            true => self.add(add),
            false => self.append(add.get()),
        }
    }

    /// The LAC alone. It waits for the next group and costs no sync.
    pub fn advance_lac(&mut self, lac: &AdvanceLac) -> Result<(), Refusal> {
        if self.writer.is_failed() {
            return Err(Refusal::Stopping);
        }
        self.ledger(lac.ledger).admit_writer(lac.epoch)?;
        if self.lac(lac.ledger) < Some(lac.lac) {
            self.index.note_lac(lac.ledger, lac.lac);
            // Where there is no room it is kept in memory alone: the next entry brings a later one.
            let _ = self.writer.append_lac(lac.ledger, lac.lac);
        }
        Ok(())
    }

    fn admit(&self, add: &AddEntry) -> Result<(), Refusal> {
        if self.writer.is_failed() {
            return Err(Refusal::Stopping);
        }
        let ledger = self.ledger(add.ledger);
        ledger.admit(&add.adder)?;
        if self.marked.get(&add.ledger).is_some_and(|marked| marked.first.is_some()) {
            return Err(Refusal::UnknownLedger);
        }
        let refused = match add.adder {
            Adder::Writer { .. } => self.refuses(ledger.class()),
            // What makes a ledger whole again lives on the reserve, whatever it is for (B10).
            Adder::Recovery { .. } => self.refuses(LedgerClass::Essential),
        };
        if refused { Err(Refusal::ReadOnly) } else { Ok(()) }
    }

    /// Whether a ledger of this class is not written to at the moment by its writer.
    fn refuses(&self, class: LedgerClass) -> bool {
        match class {
            LedgerClass::Bulk => self.admission > Admission::All,
            LedgerClass::Essential => self.admission > Admission::Essential,
        }
    }

    fn append(&mut self, add: &AddEntry) -> AddOutcome {
        let lac = match add.adder {
            Adder::Writer { .. } => add.lac,
            Adder::Recovery { .. } if self.mutations.has(Mutation::RecoveryLacCounts) => add.lac,
            // A recovery's LAC may run ahead of what is on Qa members of the real ensemble (C13).
            Adder::Recovery { .. } => None,
        };
        let head = EntryHead { lac, ..EntryHead::from(add) };
        let placed = match self.writer.append_entry(&head, &add.body) {
            Ok(placed) => placed,
            Err(error) => {
                return match append_failed::<(), Refusal>(error, self.out_of_files, |refusal| refusal) {
                    Outcome::Now(answer) => AddOutcome::Now(answer),
                    Outcome::After(_) | Outcome::Full => AddOutcome::Full,
                };
            }
        };
        if let Some(lac) = lac {
            self.index.note_lac(add.ledger, lac);
        }
        self.placed.push_back((placed.group, add.ledger, add.entry, placed.location));
        let pending = Pending { group: placed.group, checksum: add.checksum, body_bytes: add.body.len() };
        self.pending.insert((add.ledger, add.entry), pending);
        if self.mutations.has(Mutation::AckBeforeSync) {
            return AddOutcome::Now(Ok(()));
        }
        AddOutcome::Durable(placed.group)
    }
}
