//! The metadata seam: a linearizable map of ledger records, reached over a network that delays, and loses answers after the
//! commit (C12, M3).
//!
//! Requests overtake each other: what a client gave up on may be applied long after it asked again.

use std::collections::BTreeMap;
use std::time::Duration;

use alluvium_ledger::call::{CasOutcome, Record};
use alluvium_types::ids::{LedgerId, Nonce, Revision};
use alluvium_types::ledger::LedgerMetadata;
use alluvium_types::time::Mono;

use crate::dice::Dice;

/// What metadata is asked.
#[derive(Clone, Debug)]
pub enum Ask {
    /// Change a record.
    CompareAndSet {
        /// What it must be; `None` puts blindly, which only a planted bug does (C18).
        expected: Option<Revision>,
        /// What it shall be.
        new: LedgerMetadata,
        /// Makes the change recognisable.
        nonce: Nonce,
    },
    /// Read a record.
    Read(LedgerId),
}

/// What metadata answers.
#[derive(Clone, Debug)]
pub enum Told {
    /// To [`Ask::CompareAndSet`].
    Outcome(CasOutcome),
    /// To [`Ask::Read`].
    Record(Option<Record>),
}

/// How the way to metadata and back behaves.
#[derive(Clone, Copy, Debug)]
pub struct Manners {
    /// The shortest and the longest time of one way.
    pub time: (Duration, Duration),
    /// How likely an answer is lost after the commit.
    pub lost: f64,
    /// How likely a change arrives long after it was sent.
    pub late: f64,
}

/// The metadata store.
#[derive(Debug)]
pub struct Metadata {
    dice: Dice,
    manners: Manners,
    dark_until: Mono,
    revision: Revision,
    records: BTreeMap<LedgerId, (Record, Nonce)>,
    struck: u64,
}

impl Metadata {
    /// An empty store.
    pub const fn new(dice: Dice, manners: Manners) -> Self {
        Self {
            dice,
            manners,
            dark_until: Mono::from_duration(Duration::ZERO),
            revision: Revision::ZERO,
            records: BTreeMap::new(),
            struck: 0,
        }
    }

    /// Answers that were lost and changes that came late.
    pub const fn struck(&self) -> u64 {
        self.struck
    }

    /// From now on nothing is lost or late.
    pub const fn heal(&mut self) {
        self.manners.lost = 0.0;
        self.manners.late = 0.0;
        self.dark_until = Mono::from_duration(Duration::ZERO);
    }

    /// Answers nobody until then.
    pub fn darken(&mut self, until: Mono) {
        self.dark_until = self.dark_until.max(until);
    }

    /// When something that is sent now arrives.
    pub fn arrives(&mut self, now: Mono, change: bool) -> Mono {
        let way = self.dice.time(self.manners.time.0, self.manners.time.1);
        let mut at = now.after(way);
        if change && self.dice.chance(self.manners.late) {
            self.struck += 1;
            at = at.after(self.dice.time(Duration::from_millis(20), Duration::from_millis(1500)));
        }
        if now < self.dark_until && self.dice.chance(0.5) {
            self.struck += 1;
            at = at.max(self.dark_until.after(way));
        }
        at
    }

    /// How long the answer that is given now takes; `None` when it is lost.
    pub fn answer_time(&mut self, now: Mono) -> Option<Duration> {
        if now < self.dark_until || self.dice.chance(self.manners.lost) {
            self.struck += 1;
            return None;
        }
        Some(self.dice.time(self.manners.time.0, self.manners.time.1))
    }

    /// What stands there now.
    pub fn record(&self, ledger: LedgerId) -> Option<&Record> {
        self.records.get(&ledger).map(|(record, _)| record)
    }

    /// Creates a ledger's record, which the broker does in a transaction of its own.
    ///
    /// # Panics
    /// If there is one: ids are never reused (L8).
    pub fn create(&mut self, metadata: LedgerMetadata, nonce: Nonce) -> Record {
        assert!(!self.records.contains_key(&metadata.ledger), "ledger {} exists", metadata.ledger);
        self.put(metadata, nonce)
    }

    /// Does what was asked. The second is the record as it now is, if it was changed.
    pub fn apply(&mut self, ask: &Ask) -> (Told, Option<LedgerMetadata>) {
        match ask {
            Ask::Read(ledger) => (Told::Record(self.record(*ledger).cloned()), None),
            Ask::CompareAndSet { expected, new, nonce } => {
                let Some((current, last)) = self.records.get(&new.ledger) else {
                    return (Told::Outcome(CasOutcome::Lost(None)), None);
                };
                if last == nonce {
                    return (Told::Outcome(CasOutcome::Applied(current.revision)), None);
                }
                if expected.is_some_and(|expected| expected != current.revision) {
                    return (Told::Outcome(CasOutcome::Lost(Some(current.clone()))), None);
                }
                let record = self.put(new.clone(), *nonce);
                (Told::Outcome(CasOutcome::Applied(record.revision)), Some(record.metadata))
            }
        }
    }

    fn put(&mut self, metadata: LedgerMetadata, nonce: Nonce) -> Record {
        self.revision = self.revision.next();
        let record = Record { metadata, revision: self.revision };
        self.records.insert(record.metadata.ledger, (record.clone(), nonce));
        record
    }
}
