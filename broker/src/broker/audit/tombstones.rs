//! Tombstones of ledgers: forgotten once no bookie has anything of the ledger that could come back (C27). Bookies that find no
//! tombstone any more forget their own marks of it.

use std::collections::BTreeMap;
use std::time::Duration;

use alluvium_ledger::client::Deletion;
use alluvium_metadata::auditor::Audit;
use alluvium_metadata::{ReadError, UpdateError, Versioned};
use alluvium_types::ids::{Incarnation, LedgerId};
use alluvium_types::ledger::{BookieId, LedgerMetadata, LedgerState};
use alluvium_types::names::BookieName;
use alluvium_types::time::Mono;
use futures::future::join_all;
use futures::stream::{self, StreamExt};

use super::PAGE;
use super::census::Census;
use crate::broker::Broker;
use crate::error::chain;

/// How many records of ledgers are looked at in one round.
const LOOKED_AT_PER_ROUND: usize = 20 * PAGE;
/// About how many tombstones bookies are asked about in one round.
const ASKED_PER_ROUND: usize = 1000;
/// How many of them at a time.
const ASKED_AT_ONCE: usize = 16;
/// How many are remembered between rounds; further ones wait until some of these are gone.
const SEEN_MAX: usize = 100_000;

/// What the rounds remember.
#[derive(Debug)]
pub(super) struct Tombstones {
    /// How long one stays at least.
    forget_after: Duration,
    after: Option<LedgerId>,
    /// Since when each was seen, and in which pass through all of them last.
    seen: BTreeMap<LedgerId, (Mono, u64)>,
    pass: u64,
}

/// The bookies there are: who bears which name now.
type Bookies = BTreeMap<BookieName, Incarnation>;

/// What came of one tombstone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Outcome {
    Forgotten,
    Stays,
    /// A bookie is silent. Every tombstone needs its word, so none can go.
    Silence,
}

impl Tombstones {
    pub(super) const fn new(forget_after: Duration) -> Self {
        Self { forget_after, after: None, seen: BTreeMap::new(), pass: 0 }
    }

    /// Whether a record is a tombstone that was seen for long enough.
    fn is_due(&mut self, now: Mono, record: &Versioned<LedgerMetadata>) -> bool {
        if record.value.state != LedgerState::Deleting {
            return false;
        }
        let has_room = self.seen.len() < SEEN_MAX;
        let pass = self.pass;
        match self.seen.get_mut(&record.value.ledger) {
            Some((since, seen_in)) => {
                *seen_in = pass;
                now.since(*since) >= self.forget_after
            }
            None => {
                if has_room {
                    self.seen.insert(record.value.ledger, (now, pass));
                }
                has_room && self.forget_after.is_zero()
            }
        }
    }

    /// The next page begins here.
    fn turn(&mut self, next: Option<LedgerId>) {
        self.after = next;
        if next.is_none() {
            // What did not come up in a whole pass was forgotten by somebody else.
            let pass = self.pass;
            self.seen.retain(|_, (_, seen_in)| *seen_in == pass);
            self.pass += 1;
        }
    }
}

/// Who must have let a ledger go before its tombstone may: every bookie that there is, named by the record or not. A recovery that
/// was overtaken, or a change of ensemble that was, leaves adds on bookies that no record names. A directory whose name another one
/// bears is lost for good (B11). `None` if a bookie is named that is not among them: then nothing is certain.
fn who_must_answer(tombstone: &LedgerMetadata, bookies: &Bookies) -> Option<Vec<BookieId>> {
    let mut named = tombstone.fragments.iter().flat_map(|fragment| &fragment.ensemble);
    named
        .all(|bookie| bookies.contains_key(&bookie.name))
        .then(|| bookies.iter().map(|(name, incarnation)| BookieId { name: name.clone(), incarnation: *incarnation }).collect())
}

impl Broker {
    /// Looks at the next records of ledgers: counts them, and forgets the tombstones among them that nobody needs. Gives the count
    /// once all have been looked at.
    pub(super) async fn audit_ledgers(
        &self,
        tombstones: &mut Tombstones,
        census: &mut Census,
    ) -> Result<Option<Audit>, ReadError> {
        let ledgers = self.metadata().ledgers();
        let live = self.live_bookies();
        let mut counted = None;
        let now = self.clock().mono();
        let (mut looked_at, mut due) = (0, Vec::new());
        while looked_at < LOOKED_AT_PER_ROUND && due.len() < ASKED_PER_ROUND {
            let page = ledgers.list(tombstones.after, PAGE).await?;
            looked_at += page.records.len();
            page.records.iter().for_each(|record| census.count(&record.value, &live));
            due.extend(page.records.into_iter().filter(|record| tombstones.is_due(now, record)));
            tombstones.turn(page.next);
            if tombstones.after.is_none() {
                counted = Some(census.finish(self.clock().wall()));
                break;
            }
        }
        let metrics = &self.context().metrics;
        metrics.tombstones.set(i64::try_from(tombstones.seen.len()).unwrap_or(i64::MAX));
        if due.is_empty() {
            return Ok(counted);
        }
        let bookies = self.bookies_there_are().await?;
        let mut outcomes = stream::iter(due)
            .map(|record| {
                let bookies = &bookies;
                async move { (record.value.ledger, self.forget(&record, bookies).await) }
            })
            .buffer_unordered(ASKED_AT_ONCE);
        let mut forgotten = 0_u64;
        while let Some((ledger, outcome)) = outcomes.next().await {
            match outcome {
                Outcome::Forgotten => {
                    tombstones.seen.remove(&ledger);
                    forgotten += 1;
                }
                Outcome::Stays => {}
                Outcome::Silence => break,
            }
        }
        if forgotten > 0 {
            metrics.forgotten_ledgers.inc_by(forgotten);
            tracing::info!(ledgers = forgotten, "deleted ledgers are forgotten: no bookie has anything of them");
        }
        Ok(counted)
    }

    async fn forget(&self, tombstone: &Versioned<LedgerMetadata>, bookies: &Bookies) -> Outcome {
        let ledger = tombstone.value.ledger;
        let Some(bookies) = who_must_answer(&tombstone.value, bookies) else {
            tracing::warn!(%ledger, "a tombstone stays: it names a bookie that metadata does not know");
            return Outcome::Stays;
        };
        let client = &self.context().ledgers;
        let answers = join_all(bookies.iter().map(|bookie| client.delete_from(ledger, bookie))).await;
        if let Some(silent) = answers.iter().position(|answer| *answer == Deletion::NoAnswer) {
            tracing::warn!(bookie = %bookies[silent], "tombstones stay until this bookie answers, or its name is another directory's");
            return Outcome::Silence;
        }
        if answers.contains(&Deletion::NotYet) {
            return Outcome::Stays;
        }
        match self.metadata().ledgers().forget(tombstone).await {
            Ok(()) => Outcome::Forgotten,
            // Somebody else was faster.
            Err(UpdateError::Conflict { .. } | UpdateError::NotFound { .. }) => Outcome::Stays,
            Err(error) => {
                tracing::warn!(%ledger, error = chain(&error), "a tombstone is forgotten later");
                Outcome::Stays
            }
        }
    }

    async fn bookies_there_are(&self) -> Result<Bookies, ReadError> {
        let mut bookies = Bookies::new();
        let mut after = None;
        loop {
            let page = self.metadata().bookies().list(after.as_ref(), PAGE).await?;
            bookies.extend(page.records.into_iter().map(|(name, identity)| (name, identity.value.incarnation)));
            after = page.next;
            if after.is_none() {
                return Ok(bookies);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use alluvium_types::ids::{Epoch, Revision};
    use alluvium_types::ledger::LedgerClass;
    use alluvium_types::replication::Replication;
    use uuid::Uuid;

    use super::*;

    fn bookie(name: &str, incarnation: u128) -> BookieId {
        let incarnation = Incarnation::new(Uuid::from_u128(incarnation));
        BookieId { name: BookieName::parse(name).expect("valid"), incarnation }
    }

    fn record(ledger: u64, state: LedgerState) -> Versioned<LedgerMetadata> {
        let single = Replication::SINGLE;
        let (id, ensemble) = (LedgerId::new(ledger), vec![bookie("a", 1)]);
        let created = LedgerMetadata::create(id, Epoch::new(1), LedgerClass::Bulk, single, single, ensemble);
        let value = LedgerMetadata { state, ..created.expect("valid") };
        Versioned { value, mod_revision: Revision::new(2), create_revision: Revision::new(1) }
    }

    fn known(bookies: &[BookieId]) -> Bookies {
        bookies.iter().map(|bookie| (bookie.name.clone(), bookie.incarnation)).collect()
    }

    #[test]
    fn c27_every_bookie_that_there_is_must_have_let_a_ledger_go_before_its_tombstone_may() {
        let tombstone = record(1, LedgerState::Deleting).value;
        let all = [bookie("a", 1), bookie("b", 2)];
        assert_eq!(who_must_answer(&tombstone, &known(&all)), Some(all.to_vec()), "also those that it does not name");
        // B11: another directory bears the name, so the one that is named is lost for good.
        let replaced = [bookie("a", 9), bookie("b", 2)];
        assert_eq!(who_must_answer(&tombstone, &known(&replaced)), Some(replaced.to_vec()));
        // C26: that a listing lacks it is no proof that it is lost.
        assert_eq!(who_must_answer(&tombstone, &known(&all[1..])), None);
    }

    #[test]
    fn a_tombstone_is_due_once_it_was_seen_for_a_while_and_others_never() {
        let at = |second| Mono::from_duration(Duration::from_secs(second));
        let mut tombstones = Tombstones::new(Duration::from_secs(10));
        let (dead, closed) = (record(1, LedgerState::Deleting), record(2, LedgerState::Closed { last: None }));
        for (second, due) in [(0, false), (9, false), (10, true), (11, true)] {
            assert_eq!(tombstones.is_due(at(second), &dead), due, "{second}");
            assert!(!tombstones.is_due(at(second), &closed));
            tombstones.turn(None);
        }
        // One that is gone is not remembered.
        tombstones.turn(None);
        assert!(tombstones.seen.is_empty());
    }
}
