//! A read that is decided and not yet done: what is here, where, and what is said of the rest.

use alluvium_types::bookie::{EntryAnswer, Missing, ReadAnswer, ReadEntries, StoredEntry};
use alluvium_types::ids::{EntryId, LedgerId};

use crate::log::{Index, Location, ReadError, Reader};

/// What an answer costs of a read's budget beside its body, so that a range of nothing is bounded as well.
const ANSWER_BYTES: usize = 64;
/// The most answers of one read.
const ANSWERS_MAX: usize = 4096;

/// A read to be done. Any thread may: it holds no lock and no part of the store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReadPlan {
    ledger: LedgerId,
    first: EntryId,
    /// How many entries are answered, from `first` on.
    count: usize,
    found: Vec<(EntryId, Location)>,
    missing: Missing,
    lac: Option<EntryId>,
    body_bytes: usize,
}

/// A read that was done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReadDone {
    /// The answer.
    pub answer: ReadAnswer,
    /// Entries that should be here and can't be read (C4): each is an alarm.
    pub unreadable: Vec<EntryId>,
}

/// Entries were moved while they were to be read: plan the read again.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("entries were moved while they were read")]
pub struct Moved;

impl ReadPlan {
    pub(crate) fn new(read: &ReadEntries, missing: Missing, index: &Index) -> Self {
        let mut plan = Self {
            ledger: read.ledger,
            first: read.first,
            count: 0,
            found: Vec::new(),
            missing,
            lac: index.stored(read.ledger).lac,
            body_bytes: 0,
        };
        let mut left = read.bytes_max;
        let mut here = index.range(read.ledger, read.first, read.last).peekable();
        let mut entry = read.first;
        while plan.count < ANSWERS_MAX {
            let location = here.next_if(|(found, _)| *found == entry).map(|(_, location)| location);
            let body_bytes = location.map_or(0, |location| location.body_bytes as usize);
            // At least one entry, however large.
            if plan.count > 0 && body_bytes + ANSWER_BYTES > left {
                break;
            }
            left = left.saturating_sub(body_bytes + ANSWER_BYTES);
            plan.body_bytes += body_bytes;
            plan.found.extend(location.map(|location| (entry, location)));
            plan.count += 1;
            if entry >= read.last {
                break;
            }
            entry = entry.next();
        }
        plan
    }

    /// Bytes of bodies that the answer will hold.
    pub const fn body_bytes(&self) -> usize {
        self.body_bytes
    }

    /// Reads. Blocks.
    pub fn run(&self, reader: &Reader) -> Result<ReadDone, Moved> {
        let mut frames = self.found.iter().map(|(entry, _)| *entry).zip(reader.read_many(self.ledger, &self.found)).peekable();
        let mut entries = Vec::with_capacity(self.count);
        let mut unreadable = Vec::new();
        let mut entry = self.first;
        for _ in 0..self.count {
            entries.push(match frames.next_if(|(found, _)| *found == entry) {
                None => EntryAnswer::Missing(entry, self.missing),
                Some((_, Ok(frame))) => EntryAnswer::Found(StoredEntry {
                    entry,
                    lac: frame.head.lac,
                    body: frame.body,
                    checksum: frame.head.checksum,
                }),
                Some((_, Err(ReadError::Moved(_)))) => return Err(Moved),
                Some((_, Err(ReadError::Corrupt(_) | ReadError::Io { .. }))) => {
                    unreadable.push(entry);
                    EntryAnswer::Missing(entry, Missing::Unknown)
                }
            });
            entry = entry.checked_add(1).unwrap_or(entry);
        }
        Ok(ReadDone { answer: ReadAnswer { entries, lac: self.lac }, unreadable })
    }
}
