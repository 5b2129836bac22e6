//! What metadata knows of a ledger: its replication, its fragments, its state (L3, L6, L8).

use std::fmt;

use crate::ids::{EntryId, Epoch, Incarnation, LedgerId, RecoveryNumber};
use crate::names::BookieName;
use crate::replication::Replication;

/// A bookie as ensembles name it: the name *and* the life of its data directory (B11).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BookieId {
    /// What operators call it.
    pub name: BookieName,
    /// The life of its data directory.
    pub incarnation: Incarnation,
}

impl fmt::Display for BookieId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{:?}", self.name, self.incarnation)
    }
}

impl fmt::Debug for BookieId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a ledger is for. Read-only bookies still take essential ones, from their reserve (C61).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum LedgerClass {
    /// Messages.
    Bulk,
    /// A partition's state: cursors, attempts, producer sequences.
    Essential,
}

/// Where a ledger is in its life: `Open → Recovering → Closed → Deleting`, never back (L8). `Open → Closed` when its own
/// writer closes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum LedgerState {
    /// Its writer may append.
    Open,
    /// Somebody finds out where it ends.
    Recovering {
        /// The newest recovery (C69).
        by: RecoveryNumber,
    },
    /// It ends here, for ever (L3).
    Closed {
        /// The last entry; `None` when there is none.
        last: Option<EntryId>,
    },
    /// A tombstone: its bytes may go (B9).
    Deleting,
}

/// A run of entries written to one ensemble.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fragment {
    /// Its first entry. Strictly increases from fragment to fragment (L6).
    pub first: EntryId,
    /// The bookies, in striping order.
    pub ensemble: Vec<BookieId>,
    /// Members not known to hold all of their share (C65): indices into `ensemble`, ascending.
    pub short: Vec<usize>,
}

/// The record of a ledger.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LedgerMetadata {
    /// Which ledger.
    pub ledger: LedgerId,
    /// The claim under which it was created; the only epoch that may write to it.
    pub epoch: Epoch,
    /// What it is for.
    pub class: LedgerClass,
    /// What its ensembles are built with.
    pub replication: Replication,
    /// What it should have been; differs from `replication` when it was created degraded (C63).
    pub wanted: Replication,
    /// Where it is in its life.
    pub state: LedgerState,
    /// The number of the newest recovery that was begun; `ZERO` before the first.
    pub recovery: RecoveryNumber,
    /// Its runs, in order; never empty.
    pub fragments: Vec<Fragment>,
}

/// Why a ledger's record makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the record of ledger {ledger} is invalid: {problem}")]
pub struct LedgerMetadataError {
    /// Which ledger.
    pub ledger: LedgerId,
    /// What is wrong.
    pub problem: &'static str,
}

impl LedgerMetadata {
    /// A new ledger over `ensemble`.
    pub fn create(
        ledger: LedgerId,
        epoch: Epoch,
        class: LedgerClass,
        replication: Replication,
        wanted: Replication,
        ensemble: Vec<BookieId>,
    ) -> Result<Self, LedgerMetadataError> {
        let metadata = Self {
            ledger,
            epoch,
            class,
            replication,
            wanted,
            state: LedgerState::Open,
            recovery: RecoveryNumber::ZERO,
            fragments: vec![Fragment { first: EntryId::ZERO, ensemble, short: Vec::new() }],
        };
        metadata.validate()?;
        Ok(metadata)
    }

    /// Checks L6 and the shapes; what comes from metadata goes through here.
    pub fn validate(&self) -> Result<(), LedgerMetadataError> {
        let wrong = |problem| Err(LedgerMetadataError { ledger: self.ledger, problem });
        if self.fragments.first().is_none_or(|f| f.first != EntryId::ZERO) {
            return wrong("the first fragment does not begin at entry 0");
        }
        if self.fragments.windows(2).any(|pair| pair[0].first >= pair[1].first) {
            return wrong("first entries of fragments do not increase");
        }
        for fragment in &self.fragments {
            if fragment.ensemble.len() != self.replication.ensemble() {
                return wrong("an ensemble has the wrong size");
            }
            let mut members: Vec<_> = fragment.ensemble.iter().collect();
            members.sort();
            members.dedup();
            if members.len() != fragment.ensemble.len() {
                return wrong("an ensemble names a bookie twice");
            }
            if fragment.short.iter().any(|&index| index >= fragment.ensemble.len()) {
                return wrong("a short member is not in its ensemble");
            }
        }
        Ok(())
    }

    /// The fragment that `entry` is, or would be, in.
    pub fn fragment_of(&self, entry: EntryId) -> &Fragment {
        self.fragments.iter().rev().find(|f| f.first <= entry).expect("the first fragment begins at entry 0")
    }

    /// The fragment that is written now.
    pub fn last_fragment(&self) -> &Fragment {
        self.fragments.last().expect("a ledger has a fragment")
    }

    /// The bookies that should hold `entry`, in read order: members known to be short last (C65).
    pub fn holders_of(&self, entry: EntryId) -> Vec<&BookieId> {
        let fragment = self.fragment_of(entry);
        let (whole, short): (Vec<usize>, Vec<usize>) =
            self.replication.write_set(entry).partition(|index| !fragment.short.contains(index));
        whole.into_iter().chain(short).map(|index| &fragment.ensemble[index]).collect()
    }

    /// Whether fewer copies are known than were wanted: created degraded, or a member is short.
    pub fn is_under_replicated(&self) -> bool {
        self.replication != self.wanted || self.fragments.iter().any(|f| !f.short.is_empty())
    }

    /// The last entry of a closed ledger; `None` while it isn't closed.
    pub const fn closed_at(&self) -> Option<Option<EntryId>> {
        match self.state {
            LedgerState::Closed { last } => Some(last),
            _ => None,
        }
    }

    /// Whether `incarnation` is named by any fragment.
    pub fn names(&self, bookie: &BookieId) -> bool {
        self.fragments.iter().any(|f| f.ensemble.contains(bookie))
    }
}
