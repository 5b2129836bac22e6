//! A group while it is filled, and while it is written.

use alluvium_runtime::disk::{AlignedBuf, BLOCK_BYTES};
use alluvium_types::ids::LedgerId;

use super::head::{HEAD_BYTES, Head, Kind, frame_bytes, unit_at};
use super::place::{FileId, GroupNumber};

/// An empty group that seals the one before (C59).
pub(crate) const MARK: u8 = 1;
/// With [`MARK`]: the process stops in good order.
pub(crate) const SHUTDOWN: u8 = 2;
/// Part of a file's snapshot.
pub(crate) const SNAPSHOT: u8 = 4;
/// The snapshot ends here.
pub(crate) const SNAPSHOT_END: u8 = 8;
/// The directory does not name all ledgers of the group before.
const DIRECTORY_INCOMPLETE: u8 = 16;

/// The most ledgers that a directory names.
const DIRECTORY_MAX: usize = 512;

/// The most that a group adds to its frames: its head with the directory of the group before, and its end.
pub(crate) const GROUP_OVERHEAD_MAX: usize = frame_bytes(DIRECTORY_MAX * 8) + HEAD_BYTES;

/// The ledgers of which a group held frames; the next group carries it (C31).
#[derive(Clone, Debug, Default)]
pub(crate) struct Directory {
    ledgers: Vec<LedgerId>,
}

impl Directory {
    fn add(&mut self, ledger: LedgerId) {
        if self.ledgers.last() != Some(&ledger) {
            self.ledgers.push(ledger);
        }
    }

    fn encode(&self) -> (u8, Vec<u8>) {
        if self.ledgers.len() > DIRECTORY_MAX {
            return (DIRECTORY_INCOMPLETE, Vec::new());
        }
        (0, self.ledgers.iter().flat_map(|ledger| ledger.get().to_le_bytes()).collect())
    }

    /// The ledgers that a group's directory names; `None` if it doesn't name all.
    pub(crate) fn decode(flags: u8, body: &[u8]) -> Option<Vec<LedgerId>> {
        let (rows, _) = body.as_chunks::<8>();
        (flags & DIRECTORY_INCOMPLETE == 0).then(|| rows.iter().map(|r| LedgerId::new(u64::from_le_bytes(*r))).collect())
    }
}

/// The head of a group, as far as it concerns where things are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GroupHead {
    pub(crate) number: GroupNumber,
    pub(crate) sealed: GroupNumber,
    /// All of it, whole blocks.
    pub(crate) bytes: u32,
    /// Up to the end of its last frame.
    pub(crate) frames_end: u32,
    pub(crate) frames: u64,
    pub(crate) flags: u8,
}

impl GroupHead {
    pub(crate) fn of(head: &Head) -> Self {
        let [number, sealed, bytes, frames] = head.words;
        let low = |word: u64| u32::try_from(word & u64::from(u32::MAX)).expect("32 bits");
        Self {
            number: GroupNumber::new(number),
            sealed: GroupNumber::new(sealed),
            bytes: low(bytes),
            frames_end: low(bytes >> 32),
            frames,
            flags: head.flags,
        }
    }

    fn head(&self, directory: &[u8]) -> Head {
        let bytes = u64::from(self.bytes) | u64::from(self.frames_end) << 32;
        Head::with_body(Kind::Group, self.flags, [self.number.get(), self.sealed.get(), bytes, self.frames], directory)
    }

    fn end(&self) -> Head {
        Head::bodiless(Kind::End, self.flags, [self.number.get(), self.sealed.get(), u64::from(self.bytes), 0])
    }
}

/// Which group is filled, and where.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GroupPlace {
    pub(crate) file: FileId,
    pub(crate) salt: u32,
    pub(crate) offset: u64,
    pub(crate) number: GroupNumber,
    pub(crate) sealed: GroupNumber,
}

/// A group that takes frames.
#[derive(Debug)]
pub(crate) struct Filling {
    place: GroupPlace,
    buf: AlignedBuf,
    directory_flags: u8,
    directory_bytes: Vec<u8>,
    used: usize,
    frames: u64,
    /// Frames that it began with: none, unless a planted bug rewrites the last group.
    inherited: u64,
    held: Directory,
    /// Whether somebody waits for a frame of it.
    pub(crate) is_urgent: bool,
}

impl Filling {
    pub(crate) fn start(place: GroupPlace, buf: AlignedBuf, before: &Directory) -> Self {
        let (directory_flags, directory_bytes) = before.encode();
        let mut filling = Self {
            place,
            buf,
            directory_flags,
            used: frame_bytes(directory_bytes.len()),
            directory_bytes,
            frames: 0,
            inherited: 0,
            held: Directory::default(),
            is_urgent: false,
        };
        let directory_end = HEAD_BYTES + filling.directory_bytes.len();
        filling.buf[HEAD_BYTES..directory_end].copy_from_slice(&filling.directory_bytes);
        filling.buf[directory_end..filling.used].fill(0);
        filling
    }

    /// Begins with all frames of a group that was written, in its place.
    #[cfg(feature = "planted")]
    pub(crate) fn resume(place: GroupPlace, mut buf: AlignedBuf, written: &[u8]) -> Self {
        let head = Head::decode(written, place.salt, unit_at(place.offset)).expect("it was just written");
        let group = GroupHead::of(&head);
        let directory_bytes = head.body_bytes as usize;
        buf[..written.len()].copy_from_slice(written);
        Self {
            place,
            buf,
            directory_flags: head.flags & DIRECTORY_INCOMPLETE,
            directory_bytes: written[HEAD_BYTES..HEAD_BYTES + directory_bytes].to_vec(),
            used: group.frames_end as usize,
            frames: group.frames,
            inherited: group.frames,
            held: Directory::default(),
            is_urgent: false,
        }
    }

    pub(crate) const fn place(&self) -> &GroupPlace {
        &self.place
    }

    pub(crate) const fn used(&self) -> usize {
        self.used
    }

    pub(crate) const fn has_frames(&self) -> bool {
        self.frames > self.inherited
    }

    /// Whole blocks that the group takes with one more frame of this many bytes.
    pub(crate) const fn bytes_with(&self, frame_bytes: usize) -> usize {
        (self.used + frame_bytes + HEAD_BYTES).next_multiple_of(BLOCK_BYTES)
    }

    pub(crate) fn buffer_takes(&self, frame_bytes: usize) -> bool {
        self.bytes_with(frame_bytes) <= self.buf.len()
    }

    /// Copies a frame into the group, the one copy of its body; returns its place in the file. The caller has checked that it
    /// fits.
    pub(crate) fn push(&mut self, ledger: Option<LedgerId>, head: &Head, body: &[u8]) -> u32 {
        let unit = unit_at(self.place.offset + self.used as u64);
        let body_at = self.used + HEAD_BYTES;
        let body_end = body_at + body.len();
        head.encode(self.place.salt, unit, &mut self.buf[self.used..body_at]);
        self.buf[body_at..body_end].copy_from_slice(body);
        self.used += frame_bytes(body.len());
        self.buf[body_end..self.used].fill(0);
        self.frames += 1;
        if let Some(ledger) = ledger {
            self.held.add(ledger);
        }
        unit
    }

    /// Closes the group: its head, its padding, its end. Returns what it held.
    pub(crate) fn finish(mut self, flags: u8) -> (GroupWrite, Directory) {
        let length = self.bytes_with(0);
        let group = GroupHead {
            number: self.place.number,
            sealed: self.place.sealed,
            bytes: u32::try_from(length).expect("a group is smaller than 4 GiB"),
            frames_end: u32::try_from(self.used).expect("a group is smaller than 4 GiB"),
            frames: self.frames,
            flags: flags | self.directory_flags,
        };
        let place = self.place;
        group.head(&self.directory_bytes).encode(place.salt, unit_at(place.offset), &mut self.buf[..HEAD_BYTES]);
        let end_at = length - HEAD_BYTES;
        self.buf[self.used..end_at].fill(0);
        group.end().encode(place.salt, unit_at(place.offset + end_at as u64), &mut self.buf[end_at..length]);
        self.held.ledgers.sort_unstable();
        self.held.ledgers.dedup();
        (GroupWrite { place, length, buf: self.buf }, self.held)
    }
}

/// A filled group on its way to the disk. Whoever holds it writes it ([`Files::write`](super::Files::write)) and brings it
/// back with [`Writer::complete`](super::Writer::complete) or [`Writer::complete_failed`](super::Writer::complete_failed).
#[derive(Debug)]
#[must_use = "a group that is not brought back stops the log"]
pub struct GroupWrite {
    pub(crate) place: GroupPlace,
    pub(crate) length: usize,
    pub(crate) buf: AlignedBuf,
}

impl GroupWrite {
    /// Its number.
    pub const fn number(&self) -> GroupNumber {
        self.place.number
    }

    /// The file it goes to.
    pub const fn file(&self) -> FileId {
        self.place.file
    }

    /// Its offset there, on a block.
    pub const fn offset(&self) -> u64 {
        self.place.offset
    }

    /// Its bytes: whole blocks, aligned.
    pub fn bytes(&self) -> &[u8] {
        &self.buf[..self.length]
    }
}
