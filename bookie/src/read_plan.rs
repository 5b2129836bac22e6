//! A read that is decided and not yet done: what is here, where, and what is said of the rest.

use alluvium_types::bookie::{EntryAnswer, Missing, ReadAnswer, ReadEntries, StoredEntry};
use alluvium_types::ids::{EntryId, LedgerId};
use bytes::Bytes;

use crate::log::{Frame, Index, Location, ReadError, Reader};

/// What an answer costs of a read's budget beside its body, so that a range of nothing is bounded as well.
const ANSWER_BYTES: usize = 64;
/// The most answers of one read.
const ANSWERS_MAX: usize = 4096;
/// The most that is read without a thread of its own: in bytes of bodies, and in entries.
const PEEK_BYTES_MAX: usize = 128 << 10;
const PEEK_ENTRIES_MAX: usize = 256;
/// How far apart two entries may lie to be read in one transfer.
const GAP_BYTES_MAX: u64 = 64 << 10;

/// How much of the log may lie between the entries of one answer. A ledger that is written slowly lies scattered among the others, and
/// an answer that takes long is asked for again, elsewhere.
const BETWEEN_BYTES_MAX: u64 = 4 << 20;

/// A read to be done. Any thread may: it holds no lock and no part of the store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReadPlan {
    ledger: LedgerId,
    first: EntryId,
    /// How many entries are answered, from `first` on.
    count: usize,
    found: Vec<(EntryId, Location)>,
    /// How `found` is read: one transfer each.
    transfers: Vec<Transfer>,
    missing: Missing,
    lac: Option<EntryId>,
}

/// Entries that lie close to each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Transfer {
    entries: usize,
    body_bytes: usize,
    /// The bodies are copied out, so that small ones don't hold the memory of a whole transfer (Q6).
    copies: bool,
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
    /// Plans a read of what is durable. `transfer_bytes` is the size of a transfer.
    pub(crate) fn new(read: &ReadEntries, missing: Missing, index: &Index, transfer_bytes: usize) -> Self {
        let mut plan = Self {
            ledger: read.ledger,
            first: read.first,
            count: 0,
            found: Vec::new(),
            transfers: Vec::new(),
            missing,
            lac: index.stored(read.ledger).lac,
        };
        let mut left = read.bytes_max;
        let mut between = Between::default();
        let mut here = index.range(read.ledger, read.first, read.last).peekable();
        let mut entry = read.first;
        while plan.count < ANSWERS_MAX {
            let location = here.next_if(|(found, _)| *found == entry).map(|(_, location)| location);
            let body_bytes = location.map_or(0, |location| location.body_bytes as usize);
            let far = location.is_some_and(|location| between.and(location) > BETWEEN_BYTES_MAX);
            // At least one entry, however large.
            if plan.count > 0 && (body_bytes + ANSWER_BYTES > left || far) {
                break;
            }
            left = left.saturating_sub(body_bytes + ANSWER_BYTES);
            plan.found.extend(location.map(|location| (entry, location)));
            plan.count += 1;
            if entry >= read.last {
                break;
            }
            entry = entry.next();
        }
        plan.transfers = transfers(&plan.found, transfer_bytes);
        plan
    }

    /// Bytes that the answer will hold: of its bodies, and of what is read with them.
    pub fn memory_bytes(&self) -> usize {
        self.transfers.iter().map(|transfer| if transfer.copies { transfer.body_bytes } else { 2 * transfer.body_bytes }).sum()
    }

    /// Reads what can be had without asking the disk: all of it, or nothing. Never blocks; does no more than a little.
    pub fn peek(&self, reader: &Reader) -> Option<ReadDone> {
        let bytes: usize = self.transfers.iter().map(|transfer| transfer.body_bytes).sum();
        if bytes > PEEK_BYTES_MAX || self.found.len() > PEEK_ENTRIES_MAX {
            return None;
        }
        let mut entries = Vec::with_capacity(self.count);
        let mut entry = self.first;
        for (found, location) in &self.found {
            let frame = reader.peek(self.ledger, *found, *location)?;
            while entry < *found {
                entries.push(EntryAnswer::Missing(entry, self.missing));
                entry = entry.next();
            }
            entries.push(EntryAnswer::Found(stored(frame, true)));
            entry = entry.checked_add(1).unwrap_or(entry);
        }
        self.fill(&mut entries, entry);
        Some(ReadDone { answer: ReadAnswer { entries, lac: self.lac }, unreadable: Vec::new() })
    }

    /// Says of the rest that it is not here.
    fn fill(&self, entries: &mut Vec<EntryAnswer>, mut entry: EntryId) {
        while entries.len() < self.count {
            entries.push(EntryAnswer::Missing(entry, self.missing));
            entry = entry.checked_add(1).unwrap_or(entry);
        }
    }

    /// Reads. Blocks.
    pub fn run(&self, reader: &Reader) -> Result<ReadDone, Moved> {
        let mut entries = Vec::with_capacity(self.count);
        let mut unreadable = Vec::new();
        let mut rest = &self.found[..];
        let mut entry = self.first;
        for transfer in &self.transfers {
            let (wanted, after) = rest.split_at(transfer.entries);
            rest = after;
            for ((found, _), frame) in wanted.iter().zip(reader.read_many(self.ledger, wanted)) {
                while entry < *found {
                    entries.push(EntryAnswer::Missing(entry, self.missing));
                    entry = entry.next();
                }
                entries.push(match frame {
                    Ok(frame) => EntryAnswer::Found(stored(frame, transfer.copies)),
                    Err(ReadError::Moved(_)) => return Err(Moved),
                    Err(ReadError::Corrupt(_) | ReadError::Io { .. }) => {
                        unreadable.push(entry);
                        EntryAnswer::Missing(entry, Missing::Unknown)
                    }
                });
                entry = entry.checked_add(1).unwrap_or(entry);
            }
        }
        self.fill(&mut entries, entry);
        Ok(ReadDone { answer: ReadAnswer { entries, lac: self.lac }, unreadable })
    }
}

fn stored(frame: Frame, copies: bool) -> StoredEntry {
    let body = if copies { Bytes::copy_from_slice(&frame.body) } else { frame.body };
    StoredEntry { entry: frame.head.entry, lac: frame.head.lac, body, checksum: frame.head.checksum }
}

/// What lies between entries, as far as it costs something.
#[derive(Default)]
struct Between {
    bytes: u64,
    last: Option<Location>,
}

impl Between {
    /// With one entry more. What is too far to be read over costs another transfer, about as much as the furthest that is not.
    fn and(&mut self, next: Location) -> u64 {
        let gap = |last: Location| {
            let is_behind = last.file == next.file && next.offset() >= end_of(last);
            if is_behind { (next.offset() - end_of(last)).min(GAP_BYTES_MAX) } else { GAP_BYTES_MAX }
        };
        self.bytes += self.last.map_or(0, gap);
        self.last = Some(next);
        self.bytes
    }
}

fn end_of(location: Location) -> u64 {
    location.offset() + u64::from(location.body_bytes)
}

/// Splits what is wanted into transfers of about `transfer_bytes`.
fn transfers(found: &[(EntryId, Location)], transfer_bytes: usize) -> Vec<Transfer> {
    let mut transfers: Vec<Transfer> = Vec::new();
    let mut last: Option<(Location, u64)> = None;
    for (_, location) in found {
        let body_bytes = location.body_bytes as usize;
        let joins = last.is_some_and(|(before, start)| {
            before.file == location.file
                && location.offset() >= end_of(before)
                && location.offset() - end_of(before) <= GAP_BYTES_MAX
                && end_of(*location) - start <= transfer_bytes as u64
        });
        match transfers.last_mut().filter(|_| joins) {
            Some(transfer) => {
                transfer.entries += 1;
                transfer.body_bytes += body_bytes;
            }
            None => transfers.push(Transfer { entries: 1, body_bytes, copies: false }),
        }
        let start = last.filter(|_| joins).map_or(location.offset(), |(_, start)| start);
        last = Some((*location, start));
    }
    for transfer in &mut transfers {
        transfer.copies = transfer.body_bytes * 2 < transfer_bytes;
    }
    transfers
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::FileId;

    const fn at(file: u64, unit: u32, body_bytes: u32) -> (EntryId, Location) {
        (EntryId::ZERO, Location { file: FileId::new(file), unit, body_bytes })
    }

    #[test]
    fn neighbours_come_together_and_strangers_apart() {
        let found = [at(1, 512, 4000), at(1, 1024, 4000), at(1, 100_000, 4000), at(2, 512, 4000)];
        let entries: Vec<_> = transfers(&found, 1 << 20).iter().map(|transfer| transfer.entries).collect();
        assert_eq!(entries, [2, 1, 1]);
    }

    #[test]
    fn what_lies_between_entries_counts_up_to_another_transfer() {
        let mut between = Between::default();
        let [(_, first), (_, near), (_, far), (_, elsewhere)] =
            [at(1, 0, 4000), at(1, 1000, 4000), at(1, 1_000_000, 4000), at(2, 0, 4000)];
        assert_eq!(between.and(first), 0);
        let gap = near.offset() - end_of(first);
        assert_eq!(between.and(near), gap);
        assert_eq!(between.and(far), gap + GAP_BYTES_MAX);
        assert_eq!(between.and(elsewhere), gap + 2 * GAP_BYTES_MAX);
    }

    #[test]
    fn q6_small_bodies_do_not_hold_the_memory_of_large_transfers() {
        let small = transfers(&[at(1, 512, 1000)], 1 << 20);
        let large = transfers(&[at(1, 512, 900_000)], 1 << 20);
        assert!(small[0].copies && !large[0].copies);
    }
}
