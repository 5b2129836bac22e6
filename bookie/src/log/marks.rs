//! What is durable about a ledger beside its entries: opened, fenced, torn, in doubt, closed, deleted.
//!
//! A frame of marks carries *all* marks of its ledger, so the last one is the truth whatever was lost before it. All ledgers'
//! marks stand, as a snapshot, at the head of each log file.

use std::collections::BTreeMap;
use std::ops::Bound;

use alluvium_types::ids::{EntryId, Epoch, LedgerId, RecoveryNumber};
use alluvium_types::ledger::LedgerClass;

use super::head::{Head, Kind};
use super::place::FileId;

/// Bytes of a ledger's marks on disk, the ledger included.
pub(crate) const ROW_BYTES: usize = 48;

/// All that is durable about one ledger beside its entries.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Marks {
    /// The newest claim that opened it, and what it is for.
    pub opened: Option<Opened>,
    /// The newest recovery that fenced it. Never goes back (B2, C69).
    pub fenced: Option<RecoveryNumber>,
    /// A crash took a group that may have held entries of it (C59): what is not here and above this is `Torn`, not `Absent`,
    /// and non-recovery adds are refused as for an unknown ledger.
    pub torn: Option<Above>,
    /// A durable group that may have held entries of it rotted (C31): what is not here is `Unknown`, and it takes no new adds.
    pub in_doubt: bool,
    /// It is known to be Closed, with this last entry. Whoever sets this clears `torn`, and takes no writer's add from then on:
    /// a tear does not mark closed ledgers, though it may take a later fence.
    pub closed: Option<LastEntry>,
    /// A tombstone was seen in metadata (B9). Its entries are dead; no add or open brings it back (C27).
    pub deleted: bool,
}

/// An open.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Opened {
    /// The claim.
    pub epoch: Epoch,
    /// What the ledger is for.
    pub class: LedgerClass,
}

/// From where on entries that are not here may have been torn away.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Above {
    /// All of them.
    Nothing,
    /// Those after this one.
    Entry(EntryId),
}

impl Above {
    /// Whether `entry` lies above.
    pub fn covers(self, entry: EntryId) -> bool {
        match self {
            Self::Nothing => true,
            Self::Entry(last) => entry > last,
        }
    }
}

/// The last entry of a closed ledger.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LastEntry {
    /// It has no entries.
    None,
    /// It ends here.
    At(EntryId),
}

/// What is in doubt about ledgers that have *no* marks here. `None`: nothing, an unknown ledger is provably unknown.
///
/// A lost group may have held the very open of a ledger. So after a loss "unknown here" is no proof (B3) for ledgers that
/// existed then; a bound on their ids says which. Whoever learns a bound (ids are given out in ascending order: the next id
/// that metadata would give at a moment after the loss) lowers it with [`Writer::append_doubts`](super::Writer::append_doubts);
/// `LedgerId::new(u64::MAX)` means all.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Doubts {
    /// Unknown ledgers below this answer `Torn`, and refuse adds and opens as unknown (C59).
    pub torn_below: Option<LedgerId>,
    /// Unknown ledgers below this answer `Unknown`, and refuse adds and opens as unknown (C31).
    pub in_doubt_below: Option<LedgerId>,
}

/// The marks of all ledgers that are not forgotten.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MarkTable {
    rows: BTreeMap<LedgerId, Marks>,
    doubts: Doubts,
}

impl MarkTable {
    /// What is marked about a ledger; `None` if nothing ever was, or it was forgotten.
    pub fn get(&self, ledger: LedgerId) -> Option<&Marks> {
        self.rows.get(&ledger)
    }

    /// All of them, by ledger.
    pub fn iter(&self) -> impl Iterator<Item = (LedgerId, &Marks)> {
        self.rows.iter().map(|(ledger, marks)| (*ledger, marks))
    }

    /// Those behind `after`, by ledger.
    pub fn after(&self, after: Option<LedgerId>) -> impl Iterator<Item = (LedgerId, &Marks)> {
        let behind = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.rows.range((behind, Bound::Unbounded)).map(|(ledger, marks)| (*ledger, marks))
    }

    /// How many ledgers have marks.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether no ledger has marks.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// What is in doubt about ledgers without marks.
    pub const fn doubts(&self) -> Doubts {
        self.doubts
    }

    pub(crate) fn set(&mut self, ledger: LedgerId, marks: Option<Marks>) {
        match marks {
            Some(marks) => drop(self.rows.insert(ledger, marks)),
            None => drop(self.rows.remove(&ledger)),
        }
    }

    pub(crate) fn set_doubts(&mut self, doubts: Doubts) {
        self.doubts = doubts;
    }
}

/// A frame of marks with this flag has no row: the ledger's marks are forgotten.
pub(crate) const FORGET: u8 = 1;

const OPENED: u32 = 1;
const ESSENTIAL: u32 = 2;
const FENCED: u32 = 4;
const TORN: u32 = 8;
const TORN_ABOVE_ENTRY: u32 = 16;
const IN_DOUBT: u32 = 32;
const CLOSED: u32 = 64;
const CLOSED_AT_ENTRY: u32 = 128;
const DELETED: u32 = 256;

impl Marks {
    /// Whether these may replace `old`: a fence never goes back, a deletion is never undone (B2, C27).
    pub(crate) fn may_replace(&self, old: &Self) -> bool {
        self.fenced >= old.fenced && (self.deleted || !old.deleted)
    }

    /// Whether nothing more is to be learned about the ledger's end: a tear is of no consequence.
    pub(crate) const fn is_settled(&self) -> bool {
        self.closed.is_some() || self.deleted
    }

    pub(crate) fn encode(&self, ledger: LedgerId) -> [u8; ROW_BYTES] {
        let mut bits = 0;
        let mut epoch = 0;
        if let Some(opened) = self.opened {
            bits |= OPENED | if opened.class == LedgerClass::Essential { ESSENTIAL } else { 0 };
            epoch = opened.epoch.get();
        }
        bits |= if self.fenced.is_some() { FENCED } else { 0 };
        let (torn_bits, torn_above) = match self.torn {
            None => (0, 0),
            Some(Above::Nothing) => (TORN, 0),
            Some(Above::Entry(entry)) => (TORN | TORN_ABOVE_ENTRY, entry.get()),
        };
        let (closed_bits, closed_at) = match self.closed {
            None => (0, 0),
            Some(LastEntry::None) => (CLOSED, 0),
            Some(LastEntry::At(entry)) => (CLOSED | CLOSED_AT_ENTRY, entry.get()),
        };
        bits |= torn_bits | closed_bits;
        bits |= if self.in_doubt { IN_DOUBT } else { 0 };
        bits |= if self.deleted { DELETED } else { 0 };
        let mut row = [0; ROW_BYTES];
        row[0..8].copy_from_slice(&ledger.get().to_le_bytes());
        row[8..12].copy_from_slice(&bits.to_le_bytes());
        row[16..24].copy_from_slice(&epoch.to_le_bytes());
        row[24..32].copy_from_slice(&self.fenced.map_or(0, RecoveryNumber::get).to_le_bytes());
        row[32..40].copy_from_slice(&torn_above.to_le_bytes());
        row[40..48].copy_from_slice(&closed_at.to_le_bytes());
        row
    }

    pub(crate) fn decode(row: &[u8; ROW_BYTES]) -> (LedgerId, Self) {
        let u64_at = |at: usize| u64::from_le_bytes(row[at..at + 8].try_into().expect("eight bytes"));
        let bits = u32::from_le_bytes(row[8..12].try_into().expect("four bytes"));
        let has = |bit: u32| bits & bit != 0;
        let class = if has(ESSENTIAL) { LedgerClass::Essential } else { LedgerClass::Bulk };
        let marks = Self {
            opened: has(OPENED).then(|| Opened { epoch: Epoch::new(u64_at(16)), class }),
            fenced: has(FENCED).then(|| RecoveryNumber::new(u64_at(24))),
            torn: has(TORN).then(|| if has(TORN_ABOVE_ENTRY) { Above::Entry(EntryId::new(u64_at(32))) } else { Above::Nothing }),
            in_doubt: has(IN_DOUBT),
            closed: has(CLOSED)
                .then(|| if has(CLOSED_AT_ENTRY) { LastEntry::At(EntryId::new(u64_at(40))) } else { LastEntry::None }),
            deleted: has(DELETED),
        };
        (LedgerId::new(u64_at(0)), marks)
    }
}

const DOUBTS_TORN: u8 = 1;
const DOUBTS_IN_DOUBT: u8 = 2;
const DOUBTS_PREVIOUS: u8 = 4;

impl Doubts {
    /// The frame that says this, and in a snapshot which file came before.
    pub(crate) fn head(self, previous: Option<FileId>) -> Head {
        let flags = if self.torn_below.is_some() { DOUBTS_TORN } else { 0 }
            | if self.in_doubt_below.is_some() { DOUBTS_IN_DOUBT } else { 0 }
            | if previous.is_some() { DOUBTS_PREVIOUS } else { 0 };
        let below = |bound: Option<LedgerId>| bound.map_or(0, LedgerId::get);
        let words = [below(self.torn_below), below(self.in_doubt_below), previous.map_or(0, FileId::get), 0];
        Head::bodiless(Kind::Doubts, flags, words)
    }

    pub(crate) fn of_head(head: &Head) -> (Self, Option<FileId>) {
        let has = |flag: u8| head.flags & flag != 0;
        let doubts = Self {
            torn_below: has(DOUBTS_TORN).then(|| LedgerId::new(head.words[0])),
            in_doubt_below: has(DOUBTS_IN_DOUBT).then(|| LedgerId::new(head.words[1])),
        };
        (doubts, has(DOUBTS_PREVIOUS).then(|| FileId::new(head.words[2])))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn marks() -> impl Strategy<Value = Marks> {
        let opened = proptest::option::of((any::<u64>(), any::<bool>())).prop_map(|o| {
            o.map(|(epoch, essential)| Opened {
                epoch: Epoch::new(epoch),
                class: if essential { LedgerClass::Essential } else { LedgerClass::Bulk },
            })
        });
        let torn = proptest::option::of(proptest::option::of(any::<u64>()))
            .prop_map(|t| t.map(|above| above.map_or(Above::Nothing, |e| Above::Entry(EntryId::new(e)))));
        let closed = proptest::option::of(proptest::option::of(any::<u64>()))
            .prop_map(|c| c.map(|last| last.map_or(LastEntry::None, |e| LastEntry::At(EntryId::new(e)))));
        (opened, proptest::option::of(any::<u64>()), torn, any::<bool>(), closed, any::<bool>()).prop_map(
            |(opened, fenced, torn, in_doubt, closed, deleted)| Marks {
                opened,
                fenced: fenced.map(RecoveryNumber::new),
                torn,
                in_doubt,
                closed,
                deleted,
            },
        )
    }

    proptest! {
        #[test]
        fn marks_survive_their_row(ledger: u64, marks in marks()) {
            prop_assert_eq!(Marks::decode(&marks.encode(LedgerId::new(ledger))), (LedgerId::new(ledger), marks));
        }

        #[test]
        fn doubts_survive_their_frame(torn: Option<u64>, doubt: Option<u64>, previous: Option<u64>) {
            let doubts = Doubts { torn_below: torn.map(LedgerId::new), in_doubt_below: doubt.map(LedgerId::new) };
            let previous = previous.map(FileId::new);
            prop_assert_eq!(Doubts::of_head(&doubts.head(previous)), (doubts, previous));
        }
    }

    #[test]
    fn a_fence_never_goes_back_and_a_deletion_is_never_undone() {
        let fenced = |n| Marks { fenced: Some(RecoveryNumber::new(n)), ..Marks::default() };
        assert!(fenced(2).may_replace(&fenced(1)) && fenced(2).may_replace(&fenced(2)));
        assert!(!fenced(1).may_replace(&fenced(2)) && !Marks::default().may_replace(&fenced(0)));
        let deleted = Marks { deleted: true, ..Marks::default() };
        assert!(!Marks::default().may_replace(&deleted));
    }
}
