//! What one file holds, group by group, found by reading all of it. Judges nothing: that takes all files (`chain`).

use alluvium_runtime::disk::BLOCK_BYTES;
use alluvium_types::checksum::Crc32c;
use alluvium_types::entry::entry_checksum_over;
use alluvium_types::ids::{EntryId, LedgerId};

use super::files::LogFile;
use super::footer::Row;
use super::group::{Directory, GroupHead, MARK, SNAPSHOT, SNAPSHOT_END};
use super::head::{HEAD_BYTES, Head, Kind, frame_bytes, unit_at};
use super::marks::{Doubts, FORGET, Marks, ROW_BYTES};
use super::place::{FileId, GroupNumber, UNIT_BYTES};
use super::window::Window;

/// A change of marks that a frame says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Change {
    Marks(LedgerId, Option<Marks>),
    Doubts(Doubts),
}

/// Good frames, in the order in which they lie there.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    pub(crate) rows: Vec<(Row, Option<EntryId>)>,
    pub(crate) lacs: Vec<(LedgerId, EntryId)>,
    pub(crate) changes: Vec<Change>,
    /// Entries whose head is good and whose body is not.
    pub(crate) bad_rows: Vec<Row>,
    /// Of a snapshot: which file came before this one.
    previous: Option<FileId>,
}

impl Frames {
    /// Of a snapshot: which file came before this one.
    pub(crate) const fn previous(&self) -> Option<FileId> {
        self.previous
    }
}

/// A group, or a trace of one.
#[derive(Debug)]
pub(crate) struct Sighting {
    pub(crate) number: GroupNumber,
    pub(crate) sealed: GroupNumber,
    pub(crate) flags: u8,
    pub(crate) offset: u64,
    pub(crate) end: u64,
    /// Whether its head and all of its frames are good.
    pub(crate) is_whole: bool,
    /// The ledgers of the group before; `None` if not all are known. Kept only where that group is not whole.
    pub(crate) directory: Option<Vec<LedgerId>>,
    pub(crate) frames: Frames,
}

/// What was found in a file.
#[derive(Debug)]
pub(crate) struct Scan {
    pub(crate) file: FileId,
    /// In order of their offsets.
    pub(crate) sightings: Vec<Sighting>,
    /// Whether the snapshot at its head is whole.
    pub(crate) has_snapshot: bool,
    /// The file before this one, as its snapshot says: `None` if that is not known, or there was none.
    pub(crate) previous: Option<FileId>,
}

impl Scan {
    /// Whether all groups are whole and there is none missing between them, up to the one of this number.
    pub(crate) fn is_unbroken_to(&self, last: GroupNumber) -> bool {
        self.sightings.iter().all(|sighting| sighting.is_whole)
            && self.sightings.windows(2).all(|pair| pair[1].sealed == pair[0].number)
            && self.sightings.last().is_some_and(|sighting| sighting.number == last)
    }

    /// Whether something follows the snapshot.
    pub(crate) fn has_more_than_a_snapshot(&self) -> bool {
        self.sightings.iter().any(|sighting| sighting.flags & SNAPSHOT == 0)
    }
}

/// Reads a file from its first group to its end.
pub(crate) fn scan(file: &LogFile, read_ahead: usize) -> Scan {
    let mut scanner = Scanner { file, window: Window::new(file, read_ahead) };
    let mut scan = Scan { file: file.header.file, sightings: Vec::new(), has_snapshot: false, previous: None };
    let mut at = BLOCK_BYTES as u64;
    let mut is_in_snapshot = true;
    while at + BLOCK_BYTES as u64 <= file.header.bytes {
        let last = scan.sightings.last().map(|sighting| sighting.number);
        let last_whole = scan.sightings.last().filter(|sighting| sighting.is_whole).map(|sighting| sighting.number);
        let (sighting, next) = match scanner.group_at(at) {
            Some(head) => scanner.group(at, &head, last_whole),
            None => match scanner.hunt(at, last) {
                (Some(trace), next) => (trace, next),
                (None, Some(next)) => {
                    at = next;
                    continue;
                }
                (None, None) => break,
            },
        };
        if is_in_snapshot {
            let is_next = last.map_or(sighting.offset == BLOCK_BYTES as u64, |last| sighting.sealed == last);
            let is_part = is_next && sighting.is_whole && sighting.flags & SNAPSHOT != 0;
            scan.has_snapshot = is_part && sighting.flags & SNAPSHOT_END != 0;
            is_in_snapshot = is_part && !scan.has_snapshot;
        }
        scan.previous = scan.previous.or(sighting.frames.previous);
        scan.sightings.push(sighting);
        let Some(next) = next else { break };
        at = next;
    }
    scan
}

/// The first group of a file, if it is where it should be and its head is good.
pub(crate) fn first_group(file: &LogFile, read_ahead: usize) -> Option<Sighting> {
    let mut scanner = Scanner { file, window: Window::new(file, read_ahead) };
    let head = scanner.group_at(BLOCK_BYTES as u64)?;
    Some(scanner.group(BLOCK_BYTES as u64, &head, None).0)
}

struct Scanner<'a> {
    file: &'a LogFile,
    window: Window<'a>,
}

/// What hunting for structure in bad bytes came upon.
#[derive(Default)]
struct Hunt {
    frames: Frames,
    /// The end of the last good head, and of what it begins.
    traced: Option<u64>,
    end: Option<GroupHead>,
}

impl Scanner<'_> {
    fn head_at(&mut self, offset: u64) -> Option<Head> {
        let salt = self.file.header.salt;
        Head::decode(self.window.at(offset, HEAD_BYTES), salt, unit_at(offset))
    }

    /// The head of a group that lies in this block and makes sense there.
    fn group_at(&mut self, offset: u64) -> Option<Head> {
        let head = self.head_at(offset).filter(|head| head.kind == Kind::Group)?;
        let group = GroupHead::of(&head);
        let fits = (group.bytes as usize).is_multiple_of(BLOCK_BYTES)
            && group.bytes > 0
            && offset + u64::from(group.bytes) <= self.file.header.bytes
            && group.frames_end as usize + HEAD_BYTES <= group.bytes as usize
            && frame_bytes(head.body_bytes as usize) <= group.frames_end as usize;
        fits.then_some(head)
    }

    /// Reads a group whose head is good.
    fn group(&mut self, offset: u64, head: &Head, last_whole: Option<GroupNumber>) -> (Sighting, Option<u64>) {
        let group = GroupHead::of(head);
        let directory_bytes = head.body_bytes as usize;
        let frames_at = offset + frame_bytes(directory_bytes) as u64;
        let end = offset + u64::from(group.bytes);
        let mut hunt = Hunt::default();
        let is_unbroken = self.frames(frames_at, offset + u64::from(group.frames_end), &mut hunt);
        let frames = hunt.frames;
        let is_whole = is_unbroken && frames.bad_rows.is_empty();
        // The usual case: the group before is there, so nobody will ask what it held.
        let directory = if last_whole == Some(group.sealed) {
            None
        } else {
            let body = self.window.at(offset + HEAD_BYTES as u64, directory_bytes);
            (Crc32c::of(body) == head.body_sum).then(|| Directory::decode(head.flags, body)).flatten()
        };
        let sighting =
            Sighting { number: group.number, sealed: group.sealed, flags: head.flags, offset, end, is_whole, directory, frames };
        (sighting, Some(end))
    }

    /// Takes the frames from `at` to `end`; returns whether they lie there one after the other, all of them.
    fn frames(&mut self, mut at: u64, end: u64, hunt: &mut Hunt) -> bool {
        let mut is_unbroken = true;
        while at < end {
            match self.head_at(at) {
                Some(head) if is_frame(head.kind) => at = self.frame(at, &head, hunt, &mut is_unbroken),
                _ => {
                    is_unbroken = false;
                    at = self.next_salt(at + UNIT_BYTES as u64, end);
                }
            }
        }
        is_unbroken
    }

    /// Takes one frame; returns where the next one is.
    fn frame(&mut self, at: u64, head: &Head, hunt: &mut Hunt, is_unbroken: &mut bool) -> u64 {
        let body_bytes = head.body_bytes as usize;
        let next = at + frame_bytes(body_bytes) as u64;
        hunt.traced = Some(next);
        let body = self.window.at(at + HEAD_BYTES as u64, body_bytes);
        let is_complete = body.len() == body_bytes;
        let ledger = LedgerId::new(head.words[0]);
        let frames = &mut hunt.frames;
        match head.kind {
            Kind::Entry => {
                let entry = head.entry();
                let row = Row { ledger, entry: entry.entry, unit: unit_at(at), body_bytes: head.body_bytes };
                if is_complete && entry_checksum_over(ledger, entry.entry, body) == entry.checksum {
                    frames.rows.push((row, entry.lac));
                } else {
                    frames.bad_rows.push(row);
                }
            }
            Kind::Lac => frames.lacs.push((ledger, EntryId::new(head.words[3]))),
            Kind::Doubts => {
                let (doubts, previous) = Doubts::of_head(head);
                frames.changes.push(Change::Doubts(doubts));
                frames.previous = frames.previous.or(previous);
            }
            Kind::Marks if head.flags & FORGET != 0 => frames.changes.push(Change::Marks(ledger, None)),
            Kind::Marks | Kind::Snapshot => {
                if is_complete && Crc32c::of(body) == head.body_sum {
                    let (rows, _) = body.as_chunks::<ROW_BYTES>();
                    let decoded = rows.iter().map(Marks::decode);
                    frames.changes.extend(decoded.map(|(ledger, marks)| Change::Marks(ledger, Some(marks))));
                } else {
                    *is_unbroken = false;
                }
            }
            Kind::Group | Kind::End | Kind::Footer => {}
        }
        next
    }

    /// Where no good group begins: looks on for one, for as long as there are traces of anything, or could be. Returns the
    /// traces as a group that is not whole, if there are any, and the place of the next good group.
    fn hunt(&mut self, from: u64, last: Option<GroupNumber>) -> (Option<Sighting>, Option<u64>) {
        let reach = 2 * u64::from(self.file.header.group_bytes_max) + BLOCK_BYTES as u64;
        let bytes = self.file.header.bytes;
        let mut hunt = Hunt::default();
        let mut at = from;
        let mut next = None;
        loop {
            let until = bytes.min(hunt.traced.unwrap_or(from) + reach);
            if at + HEAD_BYTES as u64 > until {
                break;
            }
            if at > from && at.is_multiple_of(BLOCK_BYTES as u64) && self.group_at(at).is_some() {
                next = Some(at);
                break;
            }
            let mut is_unbroken = true;
            match self.head_at(at) {
                Some(head) if is_frame(head.kind) => at = self.frame(at, &head, &mut hunt, &mut is_unbroken),
                Some(head) if head.kind == Kind::End => {
                    hunt.end = Some(GroupHead::of(&head));
                    at += HEAD_BYTES as u64;
                    hunt.traced = Some(at);
                }
                _ => {
                    let skipped_to = self.next_salt(at + UNIT_BYTES as u64, until);
                    if self.window.is_unreadable(at, skipped_to) {
                        hunt.traced = Some(skipped_to);
                    }
                    at = skipped_to;
                }
            }
        }
        let Some(traced) = hunt.traced else { return (None, next) };
        // Without an end nobody knows its number; it is above the last one, and vouches for nothing.
        let (number, sealed, flags) = match hunt.end {
            Some(end) => (end.number, end.sealed, end.flags),
            None => (last.unwrap_or_default().next(), GroupNumber::ZERO, 0),
        };
        // The first group of a file is a snapshot, whatever is left of it.
        let flags = flags | if from == BLOCK_BYTES as u64 && hunt.frames.rows.is_empty() { SNAPSHOT } else { 0 };
        let is_whole = hunt.end.is_some_and(|end| end.flags & MARK != 0) && hunt.frames.rows.is_empty();
        let end = next.unwrap_or(traced);
        let sighting = Sighting { number, sealed, flags, offset: from, end, is_whole, directory: None, frames: hunt.frames };
        (Some(sighting), next)
    }

    /// The first place from `at` on where the salt stands at a unit, or `end`.
    fn next_salt(&mut self, mut at: u64, end: u64) -> u64 {
        let salt = self.file.header.salt.to_le_bytes();
        while at < end {
            let bytes = self.window.rest(at, HEAD_BYTES);
            let (units, _) = bytes.as_chunks::<UNIT_BYTES>();
            if units.is_empty() {
                return end;
            }
            if let Some(place) = units.iter().position(|unit| unit[..4] == salt) {
                return (at + (place * UNIT_BYTES) as u64).min(end);
            }
            at += (units.len() * UNIT_BYTES) as u64;
        }
        end
    }
}

const fn is_frame(kind: Kind) -> bool {
    match kind {
        Kind::Entry | Kind::Marks | Kind::Doubts | Kind::Lac | Kind::Snapshot => true,
        Kind::Group | Kind::End | Kind::Footer => false,
    }
}
