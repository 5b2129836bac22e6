//! The durable log: pieces of groups, one sync a group. Blocking; the node's thread owns it.

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::sync::Arc;

use alluvium_runtime::disk::{BLOCK_BYTES, BufPool, Disk, DiskFile, SyncMode};
use alluvium_types::ids::ClusterId;
use raft::eraftpb::HardState;

use super::group::{self, Found, LogRecord, Place, group_bytes};
use super::layout::{BLOCK, Folder, Header, Kind};
use super::transport::VoterId;
use crate::error::OpenError;

/// The most bytes of records in a group.
const GROUP_RECORD_BYTES_MAX: usize = 2 << 20;
/// Kept free for hard states and the ends of sessions when nothing else is accepted any more.
const RESERVE_BYTES: u64 = 64 << 10;

/// Where a log lies and whose it is.
#[derive(Clone, Debug)]
pub(crate) struct Home {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) folder: Folder,
    pub(crate) cluster: ClusterId,
    pub(crate) voter: VoterId,
    pub(crate) sync: SyncMode,
    pub(crate) file_bytes: u64,
}

/// A log that is appended to.
#[derive(Debug)]
pub(crate) struct Log {
    home: Home,
    file: Box<dyn DiskFile>,
    /// The pieces with the highest index that each holds; the last one is appended to.
    pieces: VecDeque<(u64, u64)>,
    /// Where the next group begins.
    at: u64,
    /// Its number.
    next_group: u64,
    spare: bool,
    hard: HardState,
    /// Whether the last group is a mark that seals the one before (C59).
    sealed: bool,
    buffers: BufPool,
}

/// What a log holds when it is opened.
#[derive(Debug)]
pub(crate) struct Read {
    /// In order.
    pub(crate) records: Vec<LogRecord>,
    pub(crate) end: End,
}

/// Where a log that was read is gone on with.
#[derive(Debug)]
pub(crate) struct End {
    pieces: VecDeque<(u64, u64)>,
    next_group: u64,
    hard: HardState,
}

impl Log {
    /// Begins the log of a new folder.
    pub(crate) fn create(home: Home) -> Result<Self, OpenError> {
        remove_if_there(&home, &home.folder.spare()).map_err(|e| failed(&home.folder.spare(), e))?;
        Self::resume(home, End { pieces: VecDeque::new(), next_group: 1, hard: HardState::new() }, false)
    }

    /// Reads the pieces `sequences`, leaves a torn tail out, and refuses what is not a log. Changes nothing.
    pub(crate) fn read(home: &Home, sequences: &[u64]) -> Result<Read, OpenError> {
        let (mut all, mut pieces) = (Vec::new(), VecDeque::new());
        let mut expected = None;
        let mut hard = HardState::new();
        for (position, &sequence) in sequences.iter().enumerate() {
            let path = home.folder.log(sequence);
            let is_newest = position + 1 == sequences.len();
            if sequence != sequences[0] + position as u64 {
                let dir = home.folder.0.clone();
                return Err(OpenError::HalfWritten { dir, problem: format!("a piece before {path:?} is missing") });
            }
            let found = read_piece(home, sequence, is_newest)?;
            if expected.is_some_and(|number| number != found.first_group) {
                let problem = format!("its first group is {}, not the one behind the piece before", found.first_group);
                return Err(OpenError::Corrupt { path, problem });
            }
            expected = Some(found.first_group + found.groups.len() as u64);
            let mut last_index = 0;
            for records in found.groups {
                for record in records {
                    match &record {
                        LogRecord::Entry(entry) => last_index = last_index.max(entry.index),
                        LogRecord::HardState(found) => hard = found.clone(),
                        LogRecord::Beginning { index, .. } => last_index = last_index.max(*index),
                    }
                    all.push(record);
                }
            }
            pieces.push_back((sequence, last_index));
        }
        let Some(next_group) = expected else {
            let dir = home.folder.0.clone();
            return Err(OpenError::HalfWritten { dir, problem: "it has an identity but no log".to_owned() });
        };
        Ok(Read { records: all, end: End { pieces, next_group, hard } })
    }

    /// Goes on behind what was read, in a new piece: nothing is ever appended behind a cut (C58).
    pub(crate) fn resume(home: Home, end: End, spare: bool) -> Result<Self, OpenError> {
        let End { pieces, next_group, hard } = end;
        let sequence = pieces.back().map_or(1, |newest| newest.0 + 1);
        let buffers = BufPool::new(64 << 10, 1);
        let at_fault = home.folder.log(sequence);
        if !spare {
            take_spare(&home).map_err(|e| failed(&at_fault, e))?;
        }
        let file = begin_piece(&home, &buffers, sequence, next_group).map_err(|e| failed(&at_fault, e))?;
        let mut log = Self { home, file, pieces, at: BLOCK, next_group, spare: false, hard, sealed: true, buffers };
        log.pieces.push_back((sequence, 0));
        log.write(&[LogRecord::HardState(log.hard.clone())]).map_err(|e| failed(&at_fault, e))?;
        log.prepare();
        Ok(log)
    }

    /// Makes records durable, in groups of a bounded size. An error means that it is not known which of them are (B8): nothing
    /// is ever appended again.
    pub(crate) fn append(&mut self, records: &[LogRecord]) -> io::Result<()> {
        let mut rest = records;
        while !rest.is_empty() {
            let mut bytes = 0;
            let count = rest
                .iter()
                .take_while(|record| {
                    bytes += record.bytes();
                    bytes <= GROUP_RECORD_BYTES_MAX
                })
                .count()
                .max(1);
            let (group, behind) = rest.split_at(count);
            let needed = group_bytes(group.iter().map(LogRecord::bytes).sum());
            if self.at + needed > self.home.file_bytes {
                self.roll()?;
            }
            self.write(group)?;
            rest = behind;
        }
        Ok(())
    }

    /// Writes a mark behind the last group, if there is none: rot of that group is then told from a torn tail (C59). `hard` is
    /// what it carries.
    pub(crate) fn seal(&mut self, hard: &HardState) -> io::Result<()> {
        if self.sealed {
            return Ok(());
        }
        self.append(&[LogRecord::HardState(hard.clone())])?;
        self.sealed = true;
        Ok(())
    }

    /// Whether records of `bytes` surely find room, without asking the disk for more.
    pub(crate) fn has_room(&self, bytes: usize) -> bool {
        let needed = group_bytes(bytes) + RESERVE_BYTES;
        self.at + needed <= self.home.file_bytes || (self.spare && BLOCK * 2 + needed <= self.home.file_bytes)
    }

    /// Whether the room kept for what must go on is not used up.
    pub(crate) fn has_reserve(&self) -> bool {
        self.spare || self.at + 2 * BLOCK <= self.home.file_bytes
    }

    /// Takes space for the next piece ahead, if there is none. A full disk is no error: it shows in
    /// [`Log::has_room`], and the next call tries again. Says whether there is a spare.
    pub(crate) fn prepare(&mut self) -> bool {
        if !self.spare {
            match take_spare(&self.home) {
                Ok(()) => self.spare = true,
                Err(error) => tracing::warn!(%error, "no space for the next piece of the metadata log"),
            }
        }
        self.spare
    }

    /// The space that the pieces take.
    pub(crate) fn bytes(&self) -> u64 {
        self.pieces.len() as u64 * self.home.file_bytes
    }

    /// Lets pieces go whose entries are all covered by a durable snapshot of `index`.
    pub(crate) fn release(&mut self, index: u64) -> io::Result<()> {
        while self.pieces.len() > 1
            && let Some(&(sequence, last_index)) = self.pieces.front()
            && last_index <= index
        {
            let path = self.home.folder.log(sequence);
            if self.spare {
                self.home.disk.remove(&path)?;
            } else {
                self.home.disk.rename(&path, &self.home.folder.spare())?;
                self.spare = true;
            }
            // One by one: a crash must not leave a gap between pieces.
            self.home.disk.sync_dir(&self.home.folder.0)?;
            self.pieces.pop_front();
        }
        Ok(())
    }

    fn roll(&mut self) -> io::Result<()> {
        if !self.spare {
            take_spare(&self.home)?;
        }
        let sequence = self.pieces.back().expect("there is a piece").0 + 1;
        self.file = begin_piece(&self.home, &self.buffers, sequence, self.next_group)?;
        self.spare = false;
        self.pieces.push_back((sequence, 0));
        self.at = BLOCK;
        self.write(&[LogRecord::HardState(self.hard.clone())])
    }

    fn write(&mut self, records: &[LogRecord]) -> io::Result<()> {
        let piece = self.pieces.back_mut().expect("there is a piece");
        let place = Place { number: self.next_group, sequence: piece.0 };
        let bytes = group::encode(place, records);
        let length = bytes.len().next_multiple_of(BLOCK_BYTES);
        let mut buffer = self.buffers.take(length);
        buffer[..bytes.len()].copy_from_slice(&bytes);
        buffer[bytes.len()..length].fill(0);
        self.file.write_at(self.at, &buffer[..length])?;
        if self.home.sync == SyncMode::Buffered {
            self.file.sync()?;
        }
        for record in records {
            match record {
                LogRecord::Entry(entry) => piece.1 = piece.1.max(entry.index),
                LogRecord::HardState(hard) => self.hard = hard.clone(),
                LogRecord::Beginning { index, .. } => piece.1 = piece.1.max(*index),
            }
        }
        self.at += length as u64;
        self.next_group += 1;
        self.sealed = false;
        Ok(())
    }
}

fn failed(path: &Path, source: io::Error) -> OpenError {
    OpenError::Disk { path: path.to_owned(), source }
}

/// Removes a file of the voter's folder that an earlier attempt may have left.
pub(crate) fn remove_if_there(home: &Home, path: &Path) -> io::Result<()> {
    if home.disk.list(&home.folder.0)?.iter().any(|found| found.file_name() == path.file_name()) {
        home.disk.remove(path)?;
    }
    Ok(())
}

fn take_spare(home: &Home) -> io::Result<()> {
    let unfinished = home.folder.unfinished("spare");
    remove_if_there(home, &unfinished)?;
    drop(home.disk.create(&unfinished, home.file_bytes, home.sync)?);
    home.disk.rename(&unfinished, &home.folder.spare())?;
    home.disk.sync_dir(&home.folder.0)
}

/// Turns the spare into a piece: its header is durable before it bears the name of one.
fn begin_piece(home: &Home, buffers: &BufPool, sequence: u64, first_group: u64) -> io::Result<Box<dyn DiskFile>> {
    let spare = home.folder.spare();
    let file = home.disk.open(&spare, home.sync)?;
    let header = Header { first: sequence, second: first_group, ..Header::new(Kind::Log, home.cluster, home.voter) };
    let mut block = buffers.take(BLOCK_BYTES);
    header.encode(&mut block);
    file.write_at(0, &block[..BLOCK_BYTES])?;
    file.sync()?;
    home.disk.rename(&spare, &home.folder.log(sequence))?;
    home.disk.sync_dir(&home.folder.0)?;
    Ok(file)
}

#[derive(Debug)]
struct Piece {
    first_group: u64,
    groups: Vec<Vec<LogRecord>>,
}

fn read_piece(home: &Home, sequence: u64, is_newest: bool) -> Result<Piece, OpenError> {
    let path = home.folder.log(sequence);
    let bytes = read_file(home.disk.as_ref(), &path, is_newest)?;
    let header = Header::decode(Kind::Log, &path, &bytes)?;
    header.check_whose(&path, home.cluster, home.voter)?;
    let corrupt = |problem: String| Err(OpenError::Corrupt { path: path.clone(), problem });
    if header.first != sequence {
        return corrupt(format!("it says that it is piece {}", header.first));
    }
    let mut piece = Piece { first_group: header.second, groups: Vec::new() };
    let mut expected = header.second;
    let mut at = BLOCK_BYTES;
    while at < bytes.len() {
        let Found::Good { place, records, bytes: length } = group::decode(&bytes[at..]) else { break };
        if place != (Place { number: expected, sequence }) {
            break;
        }
        piece.groups.push(records);
        expected += 1;
        at += usize::try_from(length).expect("it lies in the file");
    }
    // Behind the last good group there may be one torn group, of any content, but no good later one (C31).
    let mut behind = at;
    while is_newest && behind < bytes.len() {
        if let Found::Good { place, .. } = group::decode(&bytes[behind..])
            && place.sequence == sequence
            && place.number >= expected
        {
            return corrupt(format!("group {expected} at byte {at} is bad, and group {} behind it is good", place.number));
        }
        behind += BLOCK_BYTES;
    }
    Ok(piece)
}

/// Reads a file, made durable first if it was written by a process that may have died: what is acted on must not vanish.
pub(crate) fn read_file(disk: &dyn Disk, path: &Path, sync: bool) -> Result<Vec<u8>, OpenError> {
    let read = || -> io::Result<Vec<u8>> {
        let file = disk.open(path, SyncMode::Buffered)?;
        if sync {
            file.sync()?;
        }
        let length = usize::try_from(file.len()?).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let mut bytes = vec![0; length];
        let mut filled = 0;
        while filled < length {
            let read = file.read_at(filled as u64, &mut bytes[filled..])?;
            if read == 0 {
                break;
            }
            filled += read;
        }
        bytes.truncate(filled);
        Ok(bytes)
    };
    read().map_err(|source| failed(path, source))
}

/// Whether any piece of a folder without an identity holds a group: then it lost its identity, and is not new.
pub(crate) fn holds_groups(disk: &dyn Disk, folder: &Folder, sequences: &[u64]) -> Result<bool, OpenError> {
    for &sequence in sequences {
        let bytes = read_file(disk, &folder.log(sequence), false)?;
        let first = bytes.get(BLOCK_BYTES..).unwrap_or_default();
        let entries = match group::decode(first) {
            // The first group of a new folder's first piece is its empty hard state.
            Found::Good { records, bytes: length, .. } => {
                let more = usize::try_from(length).ok().and_then(|length| first.get(length..)).unwrap_or_default();
                sequence > 1 || records.len() > 1 || group::decode(more) != Found::Bad
            }
            Found::Bad => sequence > 1,
        };
        if entries {
            return Ok(true);
        }
    }
    Ok(false)
}
