//! What becomes of a request.

use alluvium_types::bookie::{AddEntry, Refusal};
use alluvium_types::checksum::Crc32c;
use alluvium_types::entry::entry_checksum;
use alluvium_types::ids::{EntryId, LedgerId};

use crate::log::{self, AppendError, GroupNumber, Location};

/// What becomes of a request.
#[derive(Clone, PartialEq, Eq, Debug)]
#[must_use]
pub enum Outcome<A> {
    /// The answer.
    Now(A),
    /// Once this group is durable, ask the same again.
    After(GroupNumber),
    /// There is no room in the group being filled, or no next file yet. Nothing was done: ask again when a group was taken or
    /// a file was offered.
    Full,
}

/// What becomes of an add.
#[derive(Clone, PartialEq, Eq, Debug)]
#[must_use]
pub enum AddOutcome {
    /// The answer.
    Now(Result<(), Refusal>),
    /// `Ok`, once this group is durable (B1).
    Durable(GroupNumber),
    /// An entry of this id is on disk already: compare it (B5).
    Compare(Comparison),
    /// As [`Outcome::Full`].
    Full,
}

/// An entry whose checksum was verified against its body (B4), in the one pass over the body that a bookie makes.
#[derive(Clone, Debug)]
pub struct VerifiedAdd(AddEntry);

impl VerifiedAdd {
    /// Checks size and checksum. Costs a pass over the body: done before any lock is taken.
    pub fn check(add: AddEntry, body_bytes_max: usize) -> Result<Self, Refusal> {
        // Permanent, and the same everywhere: the limit is derived downward from the largest message (C36).
        if add.body.len() > body_bytes_max {
            return Err(Refusal::TooLarge);
        }
        let found = entry_checksum(add.ledger, add.entry, Crc32c::of(&add.body), add.body.len());
        if found == add.checksum { Ok(Self(add)) } else { Err(Refusal::Corrupt) }
    }

    /// What was asked.
    pub const fn get(&self) -> &AddEntry {
        &self.0
    }
}

/// A re-added entry that has to be compared with the one on disk (B5).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Comparison {
    pub(super) ledger: LedgerId,
    pub(super) entry: EntryId,
    pub(super) location: Location,
}

/// What a comparison showed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Compared {
    /// The same entry: ok.
    Same,
    /// Another one: refuse it, and raise an alarm.
    Different,
    /// What is on disk can't be read: [`Store::replace`] it.
    Unreadable,
    /// It was moved meanwhile: [`Store::add`] again.
    Moved,
}

impl Comparison {
    /// Reads what is on disk. Blocks.
    pub fn run(&self, reader: &log::Reader, add: &VerifiedAdd) -> Compared {
        match reader.read_disk(self.ledger, self.entry, self.location) {
            Ok(frame) if frame.head.checksum == add.0.checksum && frame.body == add.0.body => Compared::Same,
            Ok(_) => Compared::Different,
            Err(log::ReadError::Moved(_)) => Compared::Moved,
            Err(log::ReadError::Corrupt(_) | log::ReadError::Io { .. }) => Compared::Unreadable,
        }
    }
}

/// What a failed append means to the asker.
pub(super) fn append_failed<A, E>(
    error: AppendError,
    out_of_files: bool,
    refusal: impl Fn(Refusal) -> E,
) -> Outcome<Result<A, E>> {
    match error {
        AppendError::NoFile if out_of_files => Outcome::Now(Err(refusal(Refusal::ReadOnly))),
        AppendError::Full | AppendError::NoFile => Outcome::Full,
        AppendError::TooLarge { .. } => Outcome::Now(Err(refusal(Refusal::TooLarge))),
        AppendError::TooManyLedgers => Outcome::Now(Err(refusal(Refusal::ReadOnly))),
        AppendError::Failed => Outcome::Now(Err(refusal(Refusal::Stopping))),
    }
}
