//! The writer: the one owner of the log's end. Plain code without I/O.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use alluvium_runtime::disk::{AlignedBuf, BLOCK_BYTES};
use alluvium_types::ids::{EntryId, LedgerId};

use super::config::Config;
use super::error::{AppendError, KeepReason};
use super::files::{LogFile, Prepared, Release};
use super::footer::{FileIndex, Row, Seal};
use super::frame::EntryHead;
use super::group::{Directory, Filling, GROUP_OVERHEAD_MAX, GroupPlace, GroupWrite, MARK, SHUTDOWN, SNAPSHOT, SNAPSHOT_END};
use super::head::{Head, Kind, frame_bytes};
use super::index::Index;
use super::marks::{Doubts, MarkTable, Marks, ROW_BYTES};
use super::place::{FileId, GroupNumber, Location, Placed};

/// Kept behind the last group of a file, so that it can be sealed even when no next file is ready: an idle mark with the
/// largest directory, and a shutdown's.
pub(crate) const MARKS_RESERVE: usize = GROUP_OVERHEAD_MAX.next_multiple_of(BLOCK_BYTES) + BLOCK_BYTES;

/// Why an empty group is written (C59).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mark {
    /// The log went idle: what was written last is sealed by this.
    Idle,
    /// The process stops in good order.
    Shutdown,
}

/// The end of the log: fills one group while another is written.
///
/// ```text
/// append… → begin() → [the shell writes: Files::write] → complete() → what was placed in that group may be acknowledged
/// ```
/// One group is in flight at a time. A shell does, whenever a group came back or something was appended while none was in
/// flight: `begin()` and write it; after each completion: `take_seal()` for whoever is idle, and [`offer`](Self::offer) a file
/// while [`wants_file`](Self::wants_file).
#[derive(Debug)]
pub struct Writer {
    config: Config,
    active: Active,
    /// The file before the active one.
    previous: Option<FileId>,
    next: Option<Prepared>,
    /// The group that takes frames; `None` while there is no room for one.
    filling: Option<Filling>,
    spare: Option<AlignedBuf>,
    /// Snapshots of a new file: they are written before anything else in it.
    snapshots: VecDeque<GroupWrite>,
    in_flight: Option<GroupNumber>,
    seals: VecDeque<Seal>,
    marks: MarkTable,
    mark: Option<Mark>,
    /// The last group that was handed a number, and what it held.
    last: GroupNumber,
    last_held: Directory,
    last_is_mark: Option<Mark>,
    durable: GroupNumber,
    /// The newest group that holds a deletion or a forgetting.
    last_deletion: GroupNumber,
    is_failed: bool,
    #[cfg(feature = "planted")]
    rewritten: Option<super::planted::Rewritten>,
}

/// The file that is appended to.
#[derive(Debug)]
struct Active {
    file: Arc<LogFile>,
    /// Where the next group begins.
    end: u64,
    first: GroupNumber,
    index: FileIndex,
}

impl Writer {
    /// A writer that goes on after `last`, in a new file that begins with a snapshot of these marks. The first group names
    /// `sealed` as the one before it.
    pub(crate) fn start(
        config: Config,
        file: Prepared,
        previous: Option<FileId>,
        marks: MarkTable,
        last: GroupNumber,
        sealed: GroupNumber,
    ) -> Self {
        let mut writer = Self {
            spare: Some(AlignedBuf::zeroed(config.group_bytes_max())),
            config,
            active: Active { file: Arc::clone(&file.file), end: 0, first: last.next(), index: FileIndex::default() },
            previous,
            next: None,
            filling: None,
            snapshots: VecDeque::new(),
            in_flight: None,
            seals: VecDeque::new(),
            marks,
            mark: None,
            last,
            last_held: Directory::default(),
            last_is_mark: None,
            durable: sealed,
            last_deletion: GroupNumber::ZERO,
            is_failed: false,
            #[cfg(feature = "planted")]
            rewritten: None,
        };
        writer.begin_file(file, sealed);
        writer.start_filling();
        writer
    }

    /// Copies an entry once into the group being filled.
    pub fn append_entry(&mut self, head: &EntryHead, body: &[u8]) -> Result<Placed, AppendError> {
        if body.len() > self.config.body_bytes_max {
            return Err(AppendError::TooLarge { bytes: body.len(), bytes_max: self.config.body_bytes_max });
        }
        let body_bytes = u32::try_from(body.len()).expect("the largest body is smaller than 4 GiB");
        let filling = self.room_for(body.len())?;
        let unit = filling.push(Some(head.ledger), &Head::of_entry(head, body_bytes), body);
        filling.is_urgent = true;
        let group = filling.place().number;
        let location = Location { file: filling.place().file, unit, body_bytes };
        self.active.index.add(Row { ledger: head.ledger, entry: head.entry, unit, body_bytes }, head.lac);
        Ok(Placed { group, location })
    }

    /// Makes these all the marks of a ledger. They count at once in [`marks`](Self::marks), and may be acted upon towards
    /// others once the group is durable (B2).
    ///
    /// # Panics
    /// When a fence or a deletion would be taken back: a bug of the caller.
    pub fn append_marks(&mut self, ledger: LedgerId, marks: Marks) -> Result<GroupNumber, AppendError> {
        let old = self.marks.get(ledger);
        assert!(old.is_none_or(|old| marks.may_replace(old)), "the fence or deletion of {ledger:?} would be taken back");
        let was_deleted = old.is_some_and(|old| old.deleted);
        if old.is_none() && self.marks.len() as u64 >= self.rows_max() {
            return Err(AppendError::TooManyLedgers);
        }
        let row = marks.encode(ledger);
        let head = Head::with_body(Kind::Marks, 0, [ledger.get(), 0, 0, 0], &row);
        let group = self.append_own(Some(ledger), &head, &row)?;
        self.marks.set(ledger, Some(marks));
        if marks.deleted && !was_deleted {
            self.last_deletion = group;
        }
        Ok(group)
    }

    /// Forgets the marks of a deleted ledger: allowed once no file holds a frame of it ([`Index::holds`]) and its tombstone
    /// may go (C27, B9).
    ///
    /// # Panics
    /// When the ledger is not deleted, or a file holds frames of it: they would come back to life.
    pub fn forget(&mut self, ledger: LedgerId, index: &Index) -> Result<GroupNumber, AppendError> {
        let is_deleted = self.marks.get(ledger).is_some_and(|marks| marks.deleted);
        assert!(is_deleted && !index.holds(ledger), "frames of {ledger:?} would come back to life");
        let head = Head::bodiless(Kind::Marks, super::marks::FORGET, [ledger.get(), 0, 0, 0]);
        let group = self.append_own(Some(ledger), &head, &[])?;
        self.marks.set(ledger, None);
        Ok(group)
    }

    /// Replaces what is in doubt about ledgers without marks.
    pub fn append_doubts(&mut self, doubts: Doubts) -> Result<GroupNumber, AppendError> {
        let group = self.append_own(None, &doubts.head(None), &[])?;
        self.marks.set_doubts(doubts);
        Ok(group)
    }

    /// Notes a LAC that came alone. It waits for the next group that somebody needs, and costs no write of its own.
    pub fn append_lac(&mut self, ledger: LedgerId, lac: EntryId) -> Result<GroupNumber, AppendError> {
        let filling = self.room_for(0)?;
        // No directory names it: a lost LAC is no loss.
        let _ = filling.push(None, &Head::bodiless(Kind::Lac, 0, [ledger.get(), 0, 0, lac.get()]), &[]);
        let group = filling.place().number;
        self.active.index.note_lac(ledger, lac);
        Ok(group)
    }

    fn append_own(&mut self, ledger: Option<LedgerId>, head: &Head, body: &[u8]) -> Result<GroupNumber, AppendError> {
        let filling = self.room_for(body.len())?;
        let _ = filling.push(ledger, head, body);
        filling.is_urgent = true;
        Ok(filling.place().number)
    }

    /// The group that takes one more frame of this size.
    fn room_for(&mut self, body_bytes: usize) -> Result<&mut Filling, AppendError> {
        if self.is_failed {
            return Err(AppendError::Failed);
        }
        let footer = self.active.index.footer_bytes_with_one_more();
        let file_bytes = self.active.file.header.bytes;
        let Some(filling) = &mut self.filling else {
            return Err(if self.next.is_none() { AppendError::NoFile } else { AppendError::Full });
        };
        let frame = frame_bytes(body_bytes);
        // The limit is soft: a group takes one whole frame, whatever its size; there was room for that when it was started.
        let is_full = filling.has_frames() && filling.used() >= self.config.group_bytes || !filling.buffer_takes(frame);
        let end = filling.place().offset + (filling.bytes_with(frame) + MARKS_RESERVE) as u64;
        if is_full || end + footer > file_bytes {
            return Err(AppendError::Full);
        }
        Ok(filling)
    }

    /// Asks for a mark group (C59), to be taken with [`begin`](Self::begin). Nothing happens if the log ends with that mark
    /// already and nothing waits.
    pub fn mark(&mut self, mark: Mark) {
        let is_marked = match mark {
            Mark::Idle => self.last_is_mark.is_some(),
            Mark::Shutdown => self.last_is_mark == Some(Mark::Shutdown),
        };
        let is_waiting = self.filling.as_ref().is_some_and(|filling| filling.has_frames()) || !self.snapshots.is_empty();
        if !is_marked || is_waiting {
            self.mark = Some(mark);
        }
    }

    /// Hands out the next group to write, if none is in flight and there is something to write: a snapshot of a new file, what
    /// was appended, or a mark. From then on appends fill the other buffer.
    pub fn begin(&mut self) -> Option<GroupWrite> {
        if self.is_failed || self.in_flight.is_some() {
            return None;
        }
        let write = match self.snapshots.pop_front() {
            Some(snapshot) => snapshot,
            None => self.close_filling()?,
        };
        self.in_flight = Some(write.number());
        #[cfg(feature = "planted")]
        if self.config.plants(super::planted::Planted::AckBeforeSync) {
            self.durable = write.number();
        }
        Some(write)
    }

    fn close_filling(&mut self) -> Option<GroupWrite> {
        let has_frames = self.filling.as_ref().is_some_and(|filling| filling.has_frames());
        let mark = if has_frames { None } else { Some(self.mark.take()?) };
        let flags = match mark {
            None => 0,
            Some(Mark::Idle) => MARK,
            Some(Mark::Shutdown) => MARK | SHUTDOWN,
        };
        // Without room for a frame there is still what is kept for marks.
        let filling = match self.filling.take() {
            Some(filling) => filling,
            None => self.new_filling()?,
        };
        let held_before = std::mem::take(&mut self.last_held);
        let (write, held) = filling.finish(flags);
        drop(held_before);
        self.last = write.number();
        self.last_held = held;
        self.last_is_mark = mark;
        self.active.end = write.offset() + write.length as u64;
        #[cfg(feature = "planted")]
        if self.config.plants(super::planted::Planted::RewriteBlock) && has_frames {
            self.rewritten = super::planted::Rewritten::of(&write);
        }
        self.start_filling();
        Some(write)
    }

    #[cfg(feature = "planted")]
    pub(crate) fn go_back_to(&mut self, last: GroupNumber, end: u64, seal: Seal) {
        self.snapshots.clear();
        self.filling = None;
        self.last = last;
        self.active.end = end;
        self.active.first = seal.first;
        self.active.index = seal.index;
        self.start_filling();
    }

    /// Starts the next group, in the active file if a largest frame fits there, else in the next.
    fn start_filling(&mut self) {
        debug_assert!(self.filling.is_none(), "a group is closed before the next is started");
        let largest =
            (GROUP_OVERHEAD_MAX + frame_bytes(self.config.body_bytes_max)).next_multiple_of(BLOCK_BYTES) + MARKS_RESERVE;
        let footer = self.active.index.footer_bytes_with_one_more();
        if self.active.end + largest as u64 + footer > self.active.file.header.bytes {
            let Some(next) = self.next.take() else { return };
            #[cfg(feature = "planted")]
            drop(self.rewritten.take());
            self.leave_file();
            self.begin_file(next, self.last);
        }
        self.filling = self.new_filling();
    }

    fn new_filling(&mut self) -> Option<Filling> {
        let buf = self.spare.take().unwrap_or_else(|| AlignedBuf::zeroed(self.config.group_bytes_max()));
        let place = GroupPlace {
            file: self.active.file.header.file,
            salt: self.active.file.header.salt,
            offset: self.active.end,
            number: self.last.next(),
            sealed: self.last,
        };
        #[cfg(feature = "planted")]
        if let Some(rewritten) = self.rewritten.take() {
            return Some(rewritten.start(place, buf));
        }
        Some(Filling::start(place, buf, &self.last_held))
    }

    /// The active file is full: its footer may be written once its last group is durable.
    fn leave_file(&mut self) {
        let index = std::mem::take(&mut self.active.index);
        let file = Arc::clone(&self.active.file);
        self.previous = Some(file.header.file);
        self.seals.push_back(Seal { file, first: self.active.first, last: self.last, index });
    }

    /// Makes a file the active one and puts the snapshot of all marks at its head (C27). It is as large as it must be: marks
    /// are bounded by a quarter of a file.
    fn begin_file(&mut self, next: Prepared, sealed: GroupNumber) {
        let file = next.file;
        let rows: Vec<u8> = self.snapshot_rows();
        let rows_per_group = (self.config.group_bytes / ROW_BYTES).max(1) * ROW_BYTES;
        let mut pieces: Vec<&[u8]> = rows.chunks(rows_per_group).collect();
        if pieces.is_empty() {
            pieces.push(&[]);
        }
        self.active =
            Active { file: Arc::clone(&file), end: BLOCK_BYTES as u64, first: self.last.next(), index: FileIndex::default() };
        let mut sealed = sealed;
        let doubts = self.marks.doubts().head(self.previous);
        for (piece_number, piece) in pieces.iter().enumerate() {
            let place = GroupPlace {
                file: file.header.file,
                salt: file.header.salt,
                offset: self.active.end,
                number: self.last.next(),
                sealed,
            };
            let bytes = GROUP_OVERHEAD_MAX + frame_bytes(0) + frame_bytes(piece.len());
            let before = std::mem::take(&mut self.last_held);
            let mut group = Filling::start(place, AlignedBuf::zeroed(bytes), &before);
            if piece_number == 0 {
                let _ = group.push(None, &doubts, &[]);
            }
            let count = (piece.len() / ROW_BYTES) as u64;
            let _ = group.push(None, &Head::with_body(Kind::Snapshot, 0, [count, 0, 0, 0], piece), piece);
            let is_end = piece_number + 1 == pieces.len();
            let (write, _) = group.finish(SNAPSHOT | if is_end { SNAPSHOT_END } else { 0 });
            self.active.end += write.length as u64;
            self.last = write.number();
            self.last_is_mark = None;
            sealed = self.last;
            self.snapshots.push_back(write);
        }
    }

    fn snapshot_rows(&self) -> Vec<u8> {
        #[cfg(feature = "planted")]
        if self.config.plants(super::planted::Planted::NoSnapshot) {
            return Vec::new();
        }
        self.marks.iter().flat_map(|(ledger, marks)| marks.encode(ledger)).collect()
    }

    /// The group is durable; so is everything before it. Returns its number.
    pub fn complete(&mut self, write: GroupWrite) -> GroupNumber {
        let number = write.number();
        assert_eq!(self.in_flight.take(), Some(number), "groups come back as they were handed out");
        self.durable = number;
        if write.buf.len() == self.config.group_bytes_max() {
            self.spare = Some(write.buf);
        }
        number
    }

    /// The group's write or sync failed. It is not known what of it is on disk, so this writer takes nothing more, ever, and
    /// nothing that was not durable may be acknowledged (B8, C34).
    pub fn complete_failed(&mut self, write: GroupWrite, error: &io::Error) {
        tracing::error!(
            group = %write.number(), file = %write.file(), error = error as &dyn std::error::Error,
            "a write of the log failed; nothing more is taken"
        );
        self.fail();
    }

    /// Another write of the directory failed (a footer, a file's preparation): the same as
    /// [`complete_failed`](Self::complete_failed).
    pub fn fail(&mut self) {
        self.is_failed = true;
    }

    /// Whether a write failed.
    pub const fn is_failed(&self) -> bool {
        self.is_failed
    }

    /// Up to where the log is durable.
    pub const fn durable(&self) -> GroupNumber {
        self.durable
    }

    /// Whether something waits that somebody needs durable: entries or marks, a snapshot, a mark group. LACs alone don't
    /// count.
    pub fn has_work(&self) -> bool {
        let is_urgent = self.filling.as_ref().is_some_and(|filling| filling.is_urgent);
        !self.is_failed && (is_urgent || !self.snapshots.is_empty() || self.mark.is_some())
    }

    /// Whether the last group is no mark and is durable, and nothing waits: time for [`Mark::Idle`] when that lasts.
    pub fn is_unmarked(&self) -> bool {
        self.last_is_mark.is_none() && self.durable == self.last && !self.has_work()
    }

    /// Whether a group is in flight.
    pub const fn is_in_flight(&self) -> bool {
        self.in_flight.is_some()
    }

    /// Whether the next file should be prepared: none is waiting.
    pub const fn wants_file(&self) -> bool {
        self.next.is_none()
    }

    /// Gives the file that comes after the active one.
    ///
    /// # Panics
    /// When one is waiting already.
    pub fn offer(&mut self, next: Prepared) {
        assert!(self.next.is_none(), "one next file is enough");
        self.next = Some(next);
        if self.filling.is_none() && !self.is_failed {
            self.start_filling();
        }
    }

    /// The footer of a file that was left and is durable, to be written by whoever is idle
    /// ([`Files::write_seal`](super::Files::write_seal)). The log is right without it; a start is faster with it. A failed
    /// write is [`fail`](Self::fail).
    pub fn take_seal(&mut self) -> Option<Seal> {
        self.seals.pop_front_if(|seal| seal.last <= self.durable)
    }

    /// The marks of all ledgers, those included that are not durable yet.
    pub const fn marks(&self) -> &MarkTable {
        &self.marks
    }

    /// How many ledgers can have marks: as many as fill a quarter of a file at its head. Past it no new one is taken.
    pub fn rows_max(&self) -> u64 {
        self.active.file.header.bytes / 4 / ROW_BYTES as u64
    }

    /// The file that is appended to.
    pub fn active_file(&self) -> FileId {
        self.active.file.header.file
    }

    /// The right to let a file go ([`Files::release`](super::Files::release)): nothing in it is live, and a later durable
    /// snapshot holds its marks (C27, B6).
    pub fn release(&self, file: FileId, index: &Index) -> Result<Release, KeepReason> {
        // The file before the active one has a durable snapshot, so all older ones' marks are held by it. It stays itself, to
        // make up for a snapshot that rots.
        if self.previous.is_none_or(|previous| file >= previous) || self.next.as_ref().is_some_and(|n| n.file.header.file == file)
        {
            return Err(KeepReason::Marks(file));
        }
        if !index.knows(file) {
            return Err(KeepReason::Unreadable(file));
        }
        if index.usage(file).entries > 0 {
            return Err(KeepReason::Live(file));
        }
        if self.last_deletion > self.durable {
            return Err(KeepReason::NotDurable(file));
        }
        Ok(Release { file })
    }
}
