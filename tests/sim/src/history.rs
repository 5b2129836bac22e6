//! What really happened in a run, and the invariants over it.
//!
//! The simulator sees more than any process: what every bookie answered, what every caller was told, every change of
//! metadata. Each method is told one fact when it becomes one, and checks it against all earlier ones.

use std::collections::BTreeMap;

use alluvium_types::bookie::{Adder, EntryAnswer, Missing, ReadAnswer, ReadRefusal};
use alluvium_types::ids::{EntryId, LedgerId};
use alluvium_types::ledger::{BookieId, LedgerMetadata, LedgerState};
use alluvium_types::time::Mono;
use bytes::Bytes;

/// A broken promise.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// The id that `invariants.md` gives it.
    pub invariant: &'static str,
    /// Who did what.
    pub what: String,
}

/// Either all is well, or it is told what isn't.
pub type Checked = Result<(), Violation>;

fn broken<T>(invariant: &'static str, what: String) -> Result<T, Violation> {
    Err(Violation { invariant, what })
}

/// One ledger, as it really is.
#[derive(Debug, Default)]
struct LedgerTruth {
    /// What the client appended, by entry.
    appended: Vec<Bytes>,
    /// How many of them the client was told are safe: always the first so many (L2).
    acked: u64,
    /// Who answered that an entry is on disk, ever.
    stored: BTreeMap<EntryId, Vec<BookieId>>,
    /// The state of metadata; `None` before it was created.
    record: Option<LedgerMetadata>,
    /// Why its writer may not confirm any more (L4).
    silenced: Option<&'static str>,
    /// One past the last entry that a reader was shown.
    seen: u64,
    /// Where it was closed, even if it was deleted since.
    closed: Option<Option<EntryId>>,
}

/// Everything that is known of one run.
#[derive(Debug, Default)]
pub struct History {
    ledgers: BTreeMap<LedgerId, LedgerTruth>,
    /// When a bookie first answered that a ledger is fenced.
    fenced: BTreeMap<(BookieId, LedgerId), Mono>,
    checks: u64,
}

impl History {
    fn ledger(&mut self, ledger: LedgerId) -> &mut LedgerTruth {
        self.checks += 1;
        self.ledgers.entry(ledger).or_default()
    }

    /// Facts that were checked so far.
    pub const fn checks(&self) -> u64 {
        self.checks
    }

    /// Entries that callers were told are safe, over all ledgers.
    pub fn confirmed(&self) -> u64 {
        self.ledgers.values().map(|l| l.acked).sum()
    }

    /// Entries of one ledger that its caller was told are safe.
    pub fn confirmed_in(&self, ledger: LedgerId) -> u64 {
        self.ledgers.get(&ledger).map_or(0, |l| l.acked)
    }

    /// The entries of a ledger that somebody must still be able to read: those acked, those shown to a reader.
    pub fn promised_in(&self, ledger: LedgerId) -> u64 {
        self.ledgers.get(&ledger).map_or(0, |l| l.acked.max(l.seen))
    }

    /// Whether a bookie may have dropped what it had of a ledger (B9): it is deleted, or closed without this bookie.
    pub fn may_drop(&self, bookie: &BookieId, ledger: LedgerId) -> bool {
        is_dead(self.record(ledger), bookie)
    }

    /// Whether a ledger has come to its end: closed, or deleted since.
    pub fn is_ended(&self, ledger: LedgerId) -> bool {
        self.ledgers.get(&ledger).is_some_and(|truth| truth.closed.is_some())
    }

    /// The record of a ledger as metadata holds it.
    pub fn record(&self, ledger: LedgerId) -> Option<&LedgerMetadata> {
        self.ledgers.get(&ledger)?.record.as_ref()
    }

    /// All ledgers that metadata knows.
    pub fn ledgers(&self) -> impl Iterator<Item = LedgerId> {
        self.ledgers.iter().filter(|(_, l)| l.record.is_some()).map(|(&id, _)| id)
    }

    /// The client hands an entry to its writer.
    pub fn appended(&mut self, ledger: LedgerId, entry: EntryId, body: Bytes) -> Checked {
        let truth = self.ledger(ledger);
        if truth.appended.len() as u64 != entry.get() {
            return broken("L2", format!("append {} of {ledger:?} was given {entry:?}", truth.appended.len()));
        }
        truth.appended.push(body);
        Ok(())
    }

    /// The client is told that an entry is safe (L1, L2, L4).
    pub fn acked(&mut self, ledger: LedgerId, entry: EntryId) -> Checked {
        let truth = self.ledger(ledger);
        if truth.acked != entry.get() {
            return broken("L2", format!("ack of {entry:?} of {ledger:?} while {} are acked", truth.acked));
        }
        if let Some(why) = truth.silenced {
            return broken("L4", format!("ack of {entry:?} of {ledger:?} by a writer that had seen {why}"));
        }
        truth.acked = entry.get() + 1;
        let Some(record) = &truth.record else {
            return broken("L1", format!("ack of {entry:?} of {ledger:?} that metadata does not know"));
        };
        if let Some(last) = truth.closed
            && last.is_none_or(|last| entry > last)
        {
            return broken("L4", format!("ack of {entry:?} after {ledger:?} closed at {last:?}"));
        }
        let copies = copies(truth, record, entry);
        if copies < record.replication.ack() {
            let fragment = record.fragment_of(entry);
            return broken("L1", format!("ack of {entry:?} of {ledger:?} with {copies} copies in {fragment:?}"));
        }
        Ok(())
    }

    /// Something reached the writer after which it may not confirm (L4): a fence, a lost compare-and-set.
    pub fn silenced(&mut self, ledger: LedgerId, why: &'static str) {
        self.ledger(ledger).silenced.get_or_insert(why);
    }

    /// A bookie answers that an entry is on its disk (B2, B4, B5).
    pub fn stored(
        &mut self,
        now: Mono,
        bookie: &BookieId,
        ledger: LedgerId,
        entry: EntryId,
        adder: Adder,
        body: &Bytes,
    ) -> Checked {
        if matches!(adder, Adder::Writer { .. })
            && let Some(&since) = self.fenced.get(&(bookie.clone(), ledger))
            && since < now
        {
            return broken("B2", format!("{bookie} took {entry:?} of {ledger:?} from its writer, fenced since {since:?}"));
        }
        let truth = self.ledger(ledger);
        right_bytes(truth, ledger, entry, body, bookie)?;
        let holders = truth.stored.entry(entry).or_default();
        if !holders.contains(bookie) {
            holders.push(bookie.clone());
        }
        Ok(())
    }

    /// A bookie answers that a ledger is fenced.
    pub fn fenced(&mut self, now: Mono, bookie: &BookieId, ledger: LedgerId) {
        self.checks += 1;
        self.fenced.entry((bookie.clone(), ledger)).or_insert(now);
    }

    /// Whether this bookie once answered that the ledger is fenced.
    pub fn was_fenced(&self, bookie: &BookieId, ledger: LedgerId) -> bool {
        self.fenced.contains_key(&(bookie.clone(), ledger))
    }

    /// A bookie answers what it has (B1, B3, B4).
    pub fn answered(&mut self, bookie: &BookieId, ledger: LedgerId, answer: &ReadAnswer) -> Checked {
        let truth = self.ledger(ledger);
        for answer in &answer.entries {
            match answer {
                EntryAnswer::Found(found) => right_bytes(truth, ledger, found.entry, &found.body, bookie)?,
                EntryAnswer::Missing(entry, Missing::Absent) => {
                    if truth.stored.get(entry).is_some_and(|holders| holders.contains(bookie)) {
                        return broken("B3", format!("{bookie} says that it never had {entry:?} of {ledger:?}"));
                    }
                }
                EntryAnswer::Missing(_, Missing::Torn | Missing::Unknown) => {}
            }
        }
        Ok(())
    }

    /// A bookie refuses a read (B3, B9).
    pub fn refused(&mut self, bookie: &BookieId, ledger: LedgerId, refusal: ReadRefusal) -> Checked {
        let truth = self.ledger(ledger);
        if refusal == ReadRefusal::Deleted && !is_dead(truth.record.as_ref(), bookie) {
            return broken("B9", format!("{bookie} has dropped {ledger:?}, which is not dead: {:?}", truth.record));
        }
        if refusal == ReadRefusal::NoSuchLedger && truth.stored.values().any(|holders| holders.contains(bookie)) {
            return broken("B3", format!("{bookie} says that it never had anything of {ledger:?}"));
        }
        Ok(())
    }

    /// Whether this bookie once answered that the entry is on its disk.
    pub fn has_stored(&self, bookie: &BookieId, ledger: LedgerId, entry: EntryId) -> bool {
        let truth = self.ledgers.get(&ledger);
        truth.and_then(|l| l.stored.get(&entry)).is_some_and(|holders| holders.contains(bookie))
    }

    /// The entries that a bookie said it has, by ledger: what a restart may not lose (B1).
    pub fn held_by(&self, bookie: &BookieId) -> Vec<(LedgerId, Vec<EntryId>)> {
        self.ledgers
            .iter()
            .map(|(&ledger, truth)| {
                let held = truth.stored.iter().filter(|(_, holders)| holders.contains(bookie)).map(|(&entry, _)| entry);
                (ledger, held.collect::<Vec<_>>())
            })
            .filter(|(_, entries)| !entries.is_empty())
            .collect()
    }

    /// The ledgers that a bookie said are fenced: what a restart may not lose (B2).
    pub fn fenced_at(&self, bookie: &BookieId) -> Vec<LedgerId> {
        self.fenced.keys().filter(|(b, _)| b == bookie).map(|&(_, ledger)| ledger).collect()
    }

    /// A reader is shown an entry, having been given `lac` (L7). `lac` of a closed ledger is its last entry.
    pub fn shown(&mut self, ledger: LedgerId, entry: EntryId, body: &Bytes, lac: Option<EntryId>) -> Checked {
        let truth = self.ledger(ledger);
        if lac.is_none_or(|lac| entry > lac) {
            return broken("L7", format!("a reader saw {entry:?} of {ledger:?} beyond its LAC {lac:?}"));
        }
        if truth.appended.get(usize::try_from(entry.get()).expect("small")) != Some(body) {
            return broken("L7", format!("a reader saw other bytes as {entry:?} of {ledger:?}"));
        }
        if let Some(last) = truth.closed
            && last.is_none_or(|last| entry > last)
        {
            return broken("L7", format!("a reader saw {entry:?} of {ledger:?}, closed at {last:?}"));
        }
        truth.seen = truth.seen.max(entry.get() + 1);
        Ok(())
    }

    /// Somebody is told where a ledger ended (L3).
    pub fn told_closed(&mut self, ledger: LedgerId, last: Option<EntryId>) -> Checked {
        let truth = self.ledger(ledger);
        match truth.closed {
            Some(closed) if closed == last => Ok(()),
            other => broken("L3", format!("somebody is told that {ledger:?} is closed at {last:?}, it is {other:?}")),
        }
    }

    /// Metadata takes a record, new or in place of the one it had (L3, L5, L6, L8).
    pub fn recorded(&mut self, after: &LedgerMetadata) -> Checked {
        let ledger = after.ledger;
        let truth = self.ledger(ledger);
        after.validate().or_else(|e| broken("L6", e.to_string()))?;
        if let Some(before) = truth.record.take() {
            states(&before, after)?;
            fragments(truth, &before, after)?;
        } else if after.state != LedgerState::Open || after.fragments.len() != 1 {
            return broken("L8", format!("{ledger:?} was created as {:?} with {:?}", after.state, after.fragments));
        }
        if let LedgerState::Closed { last } = after.state {
            closed(truth, after, last)?;
            truth.closed = Some(last);
        }
        truth.record = Some(after.clone());
        Ok(())
    }
}

/// Whether what `bookie` has of a ledger with this record is proved to be of no use (B9).
fn is_dead(record: Option<&LedgerMetadata>, bookie: &BookieId) -> bool {
    record.is_some_and(|record| match record.state {
        LedgerState::Deleting => true,
        LedgerState::Closed { .. } => !record.names(bookie),
        LedgerState::Open | LedgerState::Recovering { .. } => false,
    })
}

/// How many members of `entry`'s write set said that they have it.
fn copies(truth: &LedgerTruth, record: &LedgerMetadata, entry: EntryId) -> usize {
    let Some(holders) = truth.stored.get(&entry) else { return 0 };
    let ensemble = &record.fragment_of(entry).ensemble;
    record.replication.write_set(entry).filter(|&member| holders.contains(&ensemble[member])).count()
}

fn right_bytes(truth: &LedgerTruth, ledger: LedgerId, entry: EntryId, body: &Bytes, bookie: &BookieId) -> Checked {
    match truth.appended.get(usize::try_from(entry.get()).expect("small")) {
        Some(appended) if appended == body => Ok(()),
        Some(_) => broken("B4", format!("{bookie} has other bytes as {entry:?} of {ledger:?}")),
        None => broken("B4", format!("{bookie} has {entry:?} of {ledger:?}, which nobody appended")),
    }
}

/// `Open → Recovering → Closed`, never back; what is closed stays as it is (L3, L8).
fn states(before: &LedgerMetadata, after: &LedgerMetadata) -> Checked {
    use LedgerState::{Closed, Deleting, Open, Recovering};
    let allowed = match (before.state, after.state) {
        (Open, Open | Recovering { .. } | Closed { .. }) | (Closed { .. } | Deleting, Deleting) => true,
        (Recovering { by: old }, Recovering { by: new }) => new >= old,
        (Recovering { .. }, Closed { .. }) => true,
        (Closed { last: old }, Closed { last: new }) => {
            if old != new {
                return broken("L3", format!("{:?} closed at {old:?} is now closed at {new:?}", before.ledger));
            }
            true
        }
        _ => false,
    };
    if !allowed || after.recovery < before.recovery {
        return broken("L8", format!("{:?} went from {:?} to {:?}", before.ledger, before.state, after.state));
    }
    Ok(())
}

/// Only the last fragment changes, and only from the first entry that nobody was told is safe (L6).
fn fragments(truth: &LedgerTruth, before: &LedgerMetadata, after: &LedgerMetadata) -> Checked {
    let ledger = before.ledger;
    let same = |b: &alluvium_types::ledger::Fragment, a: &alluvium_types::ledger::Fragment| {
        b.first == a.first && b.ensemble == a.ensemble
    };
    let kept = before.fragments.iter().zip(&after.fragments).take_while(|(b, a)| same(b, a)).count();
    if matches!(before.state, LedgerState::Closed { .. }) {
        if kept != before.fragments.len() || kept != after.fragments.len() {
            return broken("L6", format!("the fragments of {ledger:?} changed after it was closed"));
        }
        return Ok(());
    }
    // Those that begin behind the end of a ledger that is being closed may go: nothing is in them.
    let end = after.closed_at().map(|last| last.map_or(EntryId::ZERO, EntryId::next));
    let empty = |f: &alluvium_types::ledger::Fragment| end.is_some_and(|end| f.first >= end);
    for fragment in &before.fragments[kept..] {
        let is_last = fragment.first == before.last_fragment().first;
        if !is_last && !empty(fragment) {
            return broken("L6", format!("{fragment:?} of {ledger:?} changed and is not the last one"));
        }
    }
    for fragment in &after.fragments[kept..] {
        if fragment.first < before.last_fragment().first && !empty(fragment) {
            return broken("L6", format!("{fragment:?} of {ledger:?} begins before the last one"));
        }
        if matches!(after.state, LedgerState::Open) && fragment.first.get() < truth.acked {
            return broken("L6", format!("{fragment:?} of {ledger:?} replaces entries that were acked up to {}", truth.acked));
        }
    }
    Ok(())
}

/// What was promised is inside, and each entry is on Qa members of the ensemble that this very record names (L3, L5, L7).
fn closed(truth: &LedgerTruth, record: &LedgerMetadata, last: Option<EntryId>) -> Checked {
    let ledger = record.ledger;
    let end = last.map_or(0, |last| last.get() + 1);
    if end < truth.acked {
        return broken("L3", format!("{ledger:?} closed at {last:?} while {} entries were acked", truth.acked));
    }
    if end < truth.seen {
        return broken("L7", format!("{ledger:?} closed at {last:?} while readers saw {} entries", truth.seen));
    }
    if end > truth.appended.len() as u64 {
        return broken("L3", format!("{ledger:?} closed at {last:?} while {} entries were appended", truth.appended.len()));
    }
    for entry in (0..end).map(EntryId::new) {
        let copies = copies(truth, record, entry);
        if copies < record.replication.ack() {
            let fragment = record.fragment_of(entry);
            return broken("L5", format!("{ledger:?} closed at {last:?}: {entry:?} has {copies} copies in {fragment:?}"));
        }
    }
    Ok(())
}
