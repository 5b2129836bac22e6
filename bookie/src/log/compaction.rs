//! Moving what is alive out of a mostly dead file (B6, C29).

use std::collections::VecDeque;

use alluvium_types::ids::{EntryId, LedgerId};

use super::index::Index;
use super::place::{FileId, GroupNumber, Location, Placed};

/// The compaction of one file: entries come out sorted by ledger, are appended like any other, and the index moves once they
/// are durable and sealed. Then, and only then, [`Writer::release`](super::Writer::release) lets the file go.
///
/// ```text
/// while let Some(next) = compaction.next(&index) { read it; writer.append_entry(&frame.head, &frame.body)?; compaction.copied(placed) }
/// after each completed group: compaction.durable(writer.durable(), &mut index)
/// when is_done(): writer.release(file, &index)
/// ```
#[derive(Debug)]
pub struct Compaction {
    file: FileId,
    left: VecDeque<Copy>,
    /// Copied, and not sealed yet, in the order of their groups.
    copied: VecDeque<(Copy, Placed)>,
    unreadable: usize,
}

/// An entry to copy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Copy {
    /// Which ledger.
    pub ledger: LedgerId,
    /// Which entry.
    pub entry: EntryId,
    /// Where it is now.
    pub from: Location,
}

impl Compaction {
    /// Plans to move what is alive in `file`.
    pub fn of(file: FileId, index: &Index) -> Self {
        let left = index.live_in(file).into_iter().map(|(ledger, entry, from)| Copy { ledger, entry, from }).collect();
        Self { file, left, copied: VecDeque::new(), unreadable: 0 }
    }

    /// The file that is emptied.
    pub const fn file(&self) -> FileId {
        self.file
    }

    /// The next entry to copy, the same one until [`copied`](Self::copied) or [`skipped`](Self::skipped) is said. Entries
    /// that died since are left out.
    pub fn next(&mut self, index: &Index) -> Option<Copy> {
        while let Some(next) = self.left.front() {
            if index.get(next.ledger, next.entry) == Some(next.from) {
                return Some(*next);
            }
            self.left.pop_front();
        }
        None
    }

    /// The entry was appended there.
    ///
    /// # Panics
    /// When no entry was asked for.
    pub fn copied(&mut self, placed: Placed) {
        let copy = self.left.pop_front().expect("an entry was asked for before it was copied");
        self.copied.push_back((copy, placed));
    }

    /// The entry could not be read: it stays where it is, and so does the file (C30).
    pub fn skipped(&mut self) {
        if self.left.pop_front().is_some() {
            self.unreadable += 1;
        }
    }

    /// The log is durable up to here: the index takes the new places of what was copied into *earlier* groups, unless the entry
    /// moved or died meanwhile. Earlier, because the last group could still pass for a torn one, and its entries for such that
    /// never were (C59); a copy replaces an old entry only once a later group, or a mark, seals it.
    pub fn durable(&mut self, up_to: GroupNumber, index: &mut Index) {
        while let Some((copy, placed)) = self.copied.pop_front_if(|(_, placed)| placed.group < up_to) {
            if index.get(copy.ledger, copy.entry) == Some(copy.from) {
                index.insert(copy.ledger, copy.entry, placed.location);
            } else {
                index.note_dead(copy.ledger, placed.location.file);
            }
        }
    }

    /// Whether all is copied, durable, and sealed.
    pub fn is_done(&self) -> bool {
        self.left.is_empty() && self.copied.is_empty()
    }

    /// Entries that could not be read and keep the file.
    pub const fn unreadable(&self) -> usize {
        self.unreadable
    }
}
