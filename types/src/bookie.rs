//! What a bookie is asked and what it answers: the ledger protocol's vocabulary, between the machines of `ledger` and the
//! store of `bookie`, whatever carries it.
//!
//! `Absent`, `Torn` and `Unknown` are different answers (B3, C59): only `Absent` is proof.

use bytes::Bytes;

use crate::checksum::Crc32c;
use crate::ids::{EntryId, Epoch, LedgerId, Offset, RecoveryNumber};
use crate::ledger::LedgerClass;
use crate::time::Timestamp;

/// Makes a ledger known to a bookie before its first add; an add to an unknown ledger is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OpenLedger {
    /// Which ledger.
    pub ledger: LedgerId,
    /// The claim under which it was created.
    pub epoch: Epoch,
    /// What it is for.
    pub class: LedgerClass,
}

/// Who adds an entry, and by which right.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Adder {
    /// The ledger's writer. Refused once the ledger is fenced.
    Writer {
        /// Its claim.
        epoch: Epoch,
    },
    /// A recovery or a repair. Allowed on a fenced ledger (C20); its LAC is ignored (C13).
    Recovery {
        /// Its number; an older one than the fence's is refused (C69).
        number: RecoveryNumber,
    },
}

/// Stores one entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AddEntry {
    /// Which ledger.
    pub ledger: LedgerId,
    /// Which entry.
    pub entry: EntryId,
    /// By which right.
    pub adder: Adder,
    /// The last add confirmed when this was sent; `None` before the first.
    pub lac: Option<EntryId>,
    /// The body.
    pub body: Bytes,
    /// The entry's checksum, over ledger, entry, length and body (B4).
    pub checksum: Crc32c,
}

/// Tells the LAC alone, when the writer idles. Delayed, sent once, and costs no sync.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AdvanceLac {
    /// Which ledger.
    pub ledger: LedgerId,
    /// The writer's claim.
    pub epoch: Epoch,
    /// The last add confirmed.
    pub lac: EntryId,
}

/// Why a bookie refuses to write. What the asker does about it differs for each.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, thiserror::Error)]
pub enum Refusal {
    /// The ledger is fenced: the writer is no longer its writer. It stops, and never confirms again (C19, L4).
    #[error("the ledger is fenced")]
    Fenced,
    /// A newer claim, or a newer recovery, has been here.
    #[error("a newer epoch or recovery has been here")]
    Stale,
    /// This bookie does not know the ledger, or is torn for it (C59): a fault of the bookie, replace it.
    #[error("the ledger is unknown here")]
    UnknownLedger,
    /// The ledger is deleted.
    #[error("the ledger is deleted")]
    Deleted,
    /// Another body is stored under this entry (B5). An alarm was raised.
    #[error("a different entry is stored under this id")]
    Conflict,
    /// The checksum does not match what arrived (B4).
    #[error("the entry's checksum does not match")]
    Corrupt,
    /// Larger than a frame. Permanent, and no fault of the bookie (C36).
    #[error("the entry is too large")]
    TooLarge,
    /// No space for what isn't essential (B10).
    #[error("the bookie is read-only")]
    ReadOnly,
    /// The queue is full; the same request may succeed soon.
    #[error("the bookie is busy")]
    Busy,
    /// The bookie is stopping, or its log failed (B8); nothing more will be acknowledged.
    #[error("the bookie is stopping")]
    Stopping,
}

/// Asks for a run of entries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReadEntries {
    /// Which ledger.
    pub ledger: LedgerId,
    /// The first entry.
    pub first: EntryId,
    /// The last entry, included.
    pub last: EntryId,
    /// Stop after this many bytes of bodies, but give at least one entry.
    pub bytes_max: usize,
    /// Fence the ledger for this recovery, durably, before answering (C1).
    pub fence: Option<RecoveryNumber>,
}

/// An entry as it is stored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoredEntry {
    /// Which entry.
    pub entry: EntryId,
    /// The last add confirmed that came with it; `None` for one that a recovery wrote.
    pub lac: Option<EntryId>,
    /// The body.
    pub body: Bytes,
    /// The entry's checksum, checked on the way out.
    pub checksum: Crc32c,
}

/// What a bookie knows of one entry it does not return.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Missing {
    /// Proof: this incarnation never acknowledged it (B3).
    Absent,
    /// It may have been in the group that a crash or rot took (C59).
    Torn,
    /// Corrupt, quarantined, unreadable: not known (C4).
    Unknown,
}

/// What a bookie says of one entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum EntryAnswer {
    /// It is here.
    Found(StoredEntry),
    /// It isn't, for this reason.
    Missing(EntryId, Missing),
}

/// The answer to [`ReadEntries`]: one answer for each entry from `first` on, densely, until the budget or `last` was reached.
/// Entries of other members' write sets are simply `Missing`: askers ask for what should be here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReadAnswer {
    /// In entry order.
    pub entries: Vec<EntryAnswer>,
    /// The highest LAC this bookie knows for the ledger.
    pub lac: Option<EntryId>,
}

/// Why a read gives nothing at all.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ReadRefusal {
    /// Proof that no add of this ledger was ever acknowledged here (B3). Not given to a fencing read, which makes the ledger
    /// known (C7).
    #[error("the ledger is unknown here")]
    NoSuchLedger,
    /// The ledger is deleted.
    #[error("the ledger is deleted")]
    Deleted,
    /// A newer recovery has been here (C69).
    #[error("a newer recovery has been here")]
    Stale,
    /// The queue is full; the same request may succeed soon.
    #[error("the bookie is busy")]
    Busy,
    /// The bookie is stopping or its log failed.
    #[error("the bookie is stopping")]
    Stopping,
    /// The request makes no sense: `last < first`, or a budget of 0.
    #[error("the range or the budget is empty")]
    Invalid,
}

/// The answer to a fence, given once the mark is on disk (B2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FenceAnswer {
    /// The highest LAC this bookie knows.
    pub lac: Option<EntryId>,
    /// The highest entry stored here, if any.
    pub last: Option<EntryId>,
}

/// What [`Find`] looks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FindKey {
    /// The entry that holds this offset.
    Offset(Offset),
    /// The first entry whose server time is this or later.
    Time(Timestamp),
}

/// Looks an entry up among those stored here. With striping, the answer is the best of this bookie's own entries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Find {
    /// Which ledger.
    pub ledger: LedgerId,
    /// What to look for.
    pub key: FindKey,
    /// Look no further than this entry: the asker's LAC (L7).
    pub up_to: EntryId,
}

/// What is known of a ledger on one bookie, for `List`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LedgerSummary {
    /// Which ledger.
    pub ledger: LedgerId,
    /// Entries stored here.
    pub entries: u64,
    /// Bytes of their bodies.
    pub bytes: u64,
    /// The highest entry stored here.
    pub last: Option<EntryId>,
    /// The highest LAC known.
    pub lac: Option<EntryId>,
    /// The fence, if there is one.
    pub fenced: Option<RecoveryNumber>,
    /// Whether what lies above the last entry is unknown because a group was lost (C59).
    pub torn: bool,
}
