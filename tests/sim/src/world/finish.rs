//! The end of a run: when nothing goes wrong any more, everything must come to an end, and what was promised must be there.

use std::time::Duration;

use alluvium_ledger::reader::{ReadFailure, ReadRange};
use alluvium_types::bookie::StoredEntry;
use alluvium_types::ids::{EntryId, LedgerId};
use alluvium_types::ledger::LedgerMetadata;

use super::client::Part;
use super::story::{Chapter, Step};
use super::{Event, World};
use crate::bookie::End;
use crate::history::{Checked, Violation};
use crate::network::{ClientId, Slot};

/// Within this time from the end of the faults, everything is closed and every recovery has ended.
const LIVENESS_LIMIT: Duration = Duration::from_secs(60);

/// More than are ever appended to a ledger.
const ENTRIES_MAX: u64 = 100;

/// Reads that may fail for want of an answer, though nothing goes wrong any more: patience is short in this world.
const RETRIES_MAX: u32 = 20;

const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn stuck<T>(what: String) -> Result<T, Violation> {
    Err(Violation { invariant: "LIVE", what })
}

impl World {
    /// Writers must have come to rest by now; what is open is recovered, by several at once.
    pub(super) fn close_all(&mut self) -> Checked {
        for client in (0..self.clients.len()).map(ClientId) {
            let c = &self.clients[client.0];
            let Part::Writer(writer) = &c.part else { continue };
            let unconfirmed = writer.next_entry().get() - writer.lac().map_or(0, |lac| lac.get() + 1);
            if c.is_alive() && unconfirmed > 0 && self.is_undisturbed(c.ledger) {
                return stuck(format!("{} has {unconfirmed} entries unconfirmed, and nothing is in its way", c.name));
            }
        }
        let open: Vec<LedgerId> = self.open_ledgers();
        for ledger in open {
            for _ in 0..self.plan.shape.closers {
                self.recover(ledger)?;
            }
        }
        self.queue.put(millis(50), Event::Story(Step::Look));
        Ok(())
    }

    fn open_ledgers(&self) -> Vec<LedgerId> {
        self.history.ledgers().filter(|&l| !self.history.is_ended(l)).collect()
    }

    /// Ends the run once everything is closed; says what is stuck if it never is.
    pub(super) fn look_for_the_end(&mut self) -> Checked {
        let open = self.open_ledgers();
        let busy: Vec<ClientId> = self.story.recoveries.iter().copied().filter(|r| self.clients[r.0].is_alive()).collect();
        let is_late = self.now().since(self.story.healed_at) > LIVENESS_LIMIT;
        if open.is_empty() && busy.is_empty() {
            return self.begin_to_verify();
        }
        // Where a disk is gone for good and another bookie is torn, nobody can prove where the ledger ends, and C59 has it that
        // nobody guesses.
        let hopeless: Vec<LedgerId> = open.iter().copied().filter(|&l| self.lacks_evidence(l)).collect();
        if hopeless.len() == open.len() && busy.iter().all(|r| hopeless.contains(&self.clients[r.0].ledger)) {
            self.story.without_evidence += hopeless.len() as u64;
            return self.begin_to_verify();
        }
        if is_late {
            // The same of one entry: its only copy rotted, and who else might prove that it was never safe is torn.
            let hopeless: Vec<LedgerId> = open.iter().copied().filter(|&l| self.lacks_evidence_of_an_entry(l)).collect();
            if hopeless.len() == open.len() {
                self.story.without_evidence += hopeless.len() as u64;
                return self.begin_to_verify();
            }
            let names: Vec<String> = busy.iter().map(|r| self.clients[r.0].name.to_string()).collect();
            return stuck(format!("{LIVENESS_LIMIT:?} after the faults: open are {open:?}, at work are {names:?}"));
        }
        self.queue.put(millis(50), Event::Story(Step::Look));
        Ok(())
    }

    /// Whether some write set of the last ensemble has too few members that can still prove an absence: some are gone, and of
    /// the others too many are torn (C59) or in doubt (C31).
    fn lacks_evidence(&mut self, ledger: LedgerId) -> bool {
        let Some(record) = self.history.record(ledger).cloned() else { return false };
        let LedgerMetadata { replication, .. } = record;
        // Beyond everything that was ever appended, nothing is found: how it is missing is what a bookie can prove.
        let far = EntryId::new(1 << 40);
        let members: Vec<Evidence> = record.last_fragment().ensemble.iter().map(|b| self.evidence_of(b, ledger, far)).collect();
        replication.write_sets().any(|set| {
            let set: Vec<Evidence> = set.into_iter().map(|place| members[place]).collect();
            is_undecidable(&set, replication.coverage())
        })
    }

    /// Whether there is an entry of the last ensemble of which that is true, and that nobody has.
    fn lacks_evidence_of_an_entry(&mut self, ledger: LedgerId) -> bool {
        let Some(record) = self.history.record(ledger).cloned() else { return false };
        let LedgerMetadata { replication, .. } = record;
        let fragment = record.last_fragment();
        (0..ENTRIES_MAX).filter_map(|n| fragment.first.checked_add(n)).any(|entry| {
            let set: Vec<Evidence> =
                replication.write_set(entry).map(|place| self.evidence_of(&fragment.ensemble[place], ledger, entry)).collect();
            !set.contains(&Evidence::Held) && is_undecidable(&set, replication.coverage())
        })
    }

    /// What a bookie can prove about an entry.
    fn evidence_of(&mut self, bookie: &alluvium_types::ledger::BookieId, ledger: LedgerId, entry: EntryId) -> Evidence {
        let slot = self.slot_of(bookie);
        if self.bookies[slot.0].id() != Some(bookie) {
            return Evidence::Gone;
        }
        match self.bookies[slot.0].look(ledger, entry, entry) {
            Some(Ok(answer)) => match answer.entries.first() {
                Some(alluvium_types::bookie::EntryAnswer::Found(_)) => Evidence::Held,
                Some(alluvium_types::bookie::EntryAnswer::Missing(_, alluvium_types::bookie::Missing::Absent)) => Evidence::Clean,
                Some(alluvium_types::bookie::EntryAnswer::Missing(_, alluvium_types::bookie::Missing::Torn)) => Evidence::Torn,
                _ => Evidence::Gone,
            },
            Some(Err(_)) => Evidence::Clean,
            None => Evidence::Gone,
        }
    }

    fn begin_to_verify(&mut self) -> Checked {
        self.story.chapter = Chapter::Verifying;
        if self.plan.shape.final_crash {
            // The last power cut: what was promised is on disks, not in memories.
            let now = self.now();
            self.trace.note(now, format_args!("--- the last power cut"));
            for slot in (0..self.bookies.len()).map(Slot) {
                self.bookies[slot.0].crash(1, End::PowerCut);
                for (client, connection, at) in self.network.drop_bookie(now, slot) {
                    self.queue.put_at(at, Event::Noticed(client, slot, connection));
                }
                self.bookie_up(slot)?;
            }
        }
        let closed: Vec<LedgerId> =
            self.history.ledgers().filter(|&l| self.history.record(l).is_some_and(|r| r.closed_at().is_some())).collect();
        self.story.to_verify = closed.len();
        for ledger in closed {
            self.queue.put(Duration::ZERO, Event::Story(Step::Verify { ledger, from: EntryId::ZERO }));
        }
        self.maybe_over();
        Ok(())
    }

    fn maybe_over(&mut self) {
        if self.story.to_verify == 0 {
            self.story.chapter = Chapter::Over;
        }
    }

    /// Reads a closed ledger on, with the product's own reader.
    pub(super) fn verify(&mut self, ledger: LedgerId, from: EntryId) -> Checked {
        let record = self.history.record(ledger).expect("it is closed").clone();
        let end = record.closed_at().flatten().map_or(0, |last| last.get() + 1);
        if from.get() >= end {
            self.story.to_verify -= 1;
            self.maybe_over();
            return Ok(());
        }
        let range = ReadRange { first: from, last: EntryId::new(end - 1), bytes_max: 8000, lac: None };
        self.read(record, range)
    }

    /// A read came back: readers see only what they may, and at the end they see everything (L1, L7).
    pub(super) fn read_done(
        &mut self,
        ledger: LedgerId,
        from: EntryId,
        bound: Option<EntryId>,
        outcome: Result<Vec<StoredEntry>, ReadFailure>,
    ) -> Checked {
        let now = self.now();
        let mut next = from;
        match outcome {
            Ok(entries) => {
                self.trace.note(now, format_args!("a reader sees {} entries of {ledger:?} from {from:?}", entries.len()));
                for stored in entries {
                    if stored.entry != next {
                        return Err(Violation {
                            invariant: "L7",
                            what: format!("a reader was given {:?} for {next:?}", stored.entry),
                        });
                    }
                    self.history.shown(ledger, stored.entry, &stored.body, bound)?;
                    next = next.next();
                }
            }
            Err(failure)
                if failure.is_retryable() && self.story.chapter == Chapter::Verifying && self.story.retries < RETRIES_MAX =>
            {
                self.story.retries += 1;
                self.trace.note(now, format_args!("a reader will try again: {failure}"));
            }
            Err(failure) if self.story.chapter == Chapter::Verifying => {
                let invariant = if from.get() < self.history.promised_in(ledger) { "L1" } else { "L5" };
                return Err(Violation { invariant, what: failure.to_string() });
            }
            Err(failure) => self.trace.note(now, format_args!("a reader sees nothing of {ledger:?}: {failure}")),
        }
        match self.story.chapter {
            Chapter::Verifying => self.queue.put(Duration::ZERO, Event::Story(Step::Verify { ledger, from: next })),
            Chapter::Faults => {
                let again = self.dice.time(millis(20), millis(120));
                self.queue.put(again, Event::Story(Step::Follow { ledger, from: next }));
            }
            Chapter::Healed | Chapter::Over => {}
        }
        Ok(())
    }
}

/// Whether the members of a write set together prove nothing: C59's rule, and the coverage of clean absences.
fn is_undecidable(set: &[Evidence], coverage: usize) -> bool {
    let count = |kind| set.iter().filter(|&&evidence| evidence == kind).count();
    let (clean, torn) = (count(Evidence::Clean), count(Evidence::Torn));
    clean < coverage && clean + torn < set.len()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Evidence {
    Held,
    Clean,
    Torn,
    Gone,
}
