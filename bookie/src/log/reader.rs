//! Reading entries back, verified.

use std::sync::Arc;

use alluvium_runtime::disk::{BLOCK_BYTES, BufPool};
use alluvium_types::entry::entry_checksum_over;
use alluvium_types::ids::{EntryId, LedgerId};
use bytes::Bytes;

use super::chunks::{CHUNK_BYTES, ChunkId, Chunks};
use super::error::ReadError;
use super::files::{Files, LogFile};
use super::frame::Frame;
use super::group::GroupWrite;
use super::head::{HEAD_BYTES, Head, Kind, frame_bytes};
use super::place::Location;
use super::tail::Tail;

/// How far apart two frames may lie to come in one transfer: reading over a gap costs less than another transfer.
const GAP_BYTES_MAX: u64 = 64 << 10;
/// How large a part of a chunk comes with all of it: what is larger is read by itself.
const CHUNK_SHARE_MAX: u64 = CHUNK_BYTES as u64 / 4;
/// Of a transfer that is less than this part of what it reads over, the chunks are asked for instead: others want what lies between.
const SPARSE_PART: u64 = 4;
/// Transfer buffers that are kept for use again.
const IDLE_BUFFERS: usize = 16;

/// Reads entries where the index says they are. Cheap to clone; calls block.
#[derive(Clone, Debug)]
pub struct Reader {
    files: Arc<Files>,
    buffers: BufPool,
    tail: Arc<Tail>,
    chunks: Arc<Chunks>,
    read_bytes: usize,
}

/// An entry, and where it is.
type Wanted = (EntryId, Location);

/// One answer: the frame, or why not.
type Answer = Result<Frame, ReadError>;

impl Reader {
    /// A reader of these files.
    pub fn new(files: Arc<Files>) -> Self {
        let read_bytes = files.config().read_bytes;
        let chunks = Arc::new(Chunks::new(files.config().chunk_cache_bytes));
        let tail = Arc::new(Tail::new(files.config().tail_cache_bytes));
        // A transfer is aligned outward at both ends.
        Self { files, buffers: BufPool::new(read_bytes + 2 * BLOCK_BYTES, IDLE_BUFFERS), tail, chunks, read_bytes }
    }

    /// One entry, if it can be had without asking the disk. Never blocks.
    pub fn peek(&self, ledger: LedgerId, entry: EntryId, location: Location) -> Option<Frame> {
        let file = self.files.get(location.file)?;
        if let Some(frame) = self.in_tail(&file, ledger, &(entry, location)) {
            return Some(frame);
        }
        let chunk = ChunkId::holding(location.file, location.offset(), end_of(location))?;
        decode(&file, &self.chunks.peek(chunk)?, chunk.start(), ledger, entry, location)
    }

    /// A group was written and is durable: it is likely to be read soon.
    pub fn wrote(&self, write: &GroupWrite) {
        self.tail.keep(write.file(), write.offset(), write.bytes());
    }

    fn in_tail(&self, file: &LogFile, ledger: LedgerId, (entry, location): &Wanted) -> Option<Frame> {
        let (start, bytes) = self.tail.find(location.file, location.offset())?;
        decode(file, &bytes, start, ledger, *entry, *location)
    }

    /// One entry.
    pub fn read(&self, ledger: LedgerId, entry: EntryId, location: Location) -> Answer {
        let mut answers = self.read_many(ledger, &[(entry, location)]);
        answers.pop().expect("one answer for each entry")
    }

    /// One entry, as it is on the disk now: for who decides by that whether it is there (C31), or reads what nobody else will.
    pub fn read_disk(&self, ledger: LedgerId, entry: EntryId, location: Location) -> Answer {
        let mut answers = Vec::with_capacity(1);
        match self.files.get(location.file) {
            Some(file) => self.transfer(&file, ledger, &[(entry, location)], &mut answers),
            None => answers.push(Err(ReadError::Moved(location))),
        }
        answers.pop().expect("one answer for each entry")
    }

    /// Several entries of a ledger, one answer each. Those that lie next to each other come in transfers of about 1 MiB, whose
    /// memory the bodies share; those that lie scattered among others come by chunks. The caller bounds the sum of their bytes, and of
    /// what lies between.
    pub fn read_many(&self, ledger: LedgerId, wanted: &[Wanted]) -> Vec<Answer> {
        let mut answers = Vec::with_capacity(wanted.len());
        let mut rest = wanted;
        while let Some((_, first)) = rest.first() {
            let mut end = end_of(*first);
            let run = 1 + rest[1..]
                .iter()
                .take_while(|(_, next)| {
                    let joins = next.file == first.file
                        && next.offset() >= end
                        && next.offset() - end <= GAP_BYTES_MAX
                        && end_of(*next) - first.offset() <= self.read_bytes as u64;
                    if joins {
                        end = end_of(*next);
                    }
                    joins
                })
                .count();
            let (run, after) = rest.split_at(run);
            rest = after;
            let Some(file) = self.files.get(first.file) else {
                answers.extend(run.iter().map(|(_, location)| Err(ReadError::Moved(*location))));
                continue;
            };
            let is_sparse = bytes_of(run) * SPARSE_PART < end - first.offset();
            let of_a_chunk = |a: &Wanted, b: &Wanted| !is_sparse || ChunkId::of(a.1) == ChunkId::of(b.1);
            for part in run.chunk_by(of_a_chunk) {
                let kept: Option<Vec<Frame>> = part.iter().map(|wanted| self.in_tail(&file, ledger, wanted)).collect();
                match kept.or_else(|| self.in_chunk(&file, ledger, part)) {
                    Some(frames) => answers.extend(frames.into_iter().map(Ok)),
                    None => self.transfer(&file, ledger, part, &mut answers),
                }
            }
        }
        answers
    }

    /// Reads frames that lie close to each other at once.
    fn transfer(&self, file: &Arc<LogFile>, ledger: LedgerId, run: &[Wanted], answers: &mut Vec<Answer>) {
        let (first, last) = (run[0].1, run[run.len() - 1].1);
        let block = BLOCK_BYTES as u64;
        let start = first.offset() / block * block;
        let bytes = end_of(last).next_multiple_of(block).min(file.header.bytes).saturating_sub(start);
        let bytes = usize::try_from(bytes).expect("a transfer fits in memory");
        let mut buf = self.buffers.take(bytes);
        match file.read(start, &mut buf[..bytes]) {
            Ok(filled) => {
                let bytes = Bytes::from_owner(buf).slice(..filled);
                for (entry, location) in run {
                    let frame = decode(file, &bytes, start, ledger, *entry, *location);
                    answers.push(frame.ok_or_else(|| self.blame(file, *location, ReadError::Corrupt(*location))));
                }
            }
            // One bad block must not take its neighbours with it.
            Err(_) if run.len() > 1 => {
                for one in run.chunks(1) {
                    self.transfer(file, ledger, one, answers);
                }
            }
            Err(source) => answers.push(Err(self.blame(file, first, ReadError::Io { location: first, source }))),
        }
    }

    /// Frames that lie in one chunk and are a small part of it, if others were asked for there.
    fn in_chunk(&self, file: &LogFile, ledger: LedgerId, run: &[Wanted]) -> Option<Vec<Frame>> {
        let (first, last) = (run[0].1, run[run.len() - 1].1);
        let chunk = ChunkId::holding(first.file, first.offset(), end_of(last))?;
        if bytes_of(run) > CHUNK_SHARE_MAX {
            return None;
        }
        let bytes = self.chunks.get(chunk, file)?;
        let frame = |(entry, location): &Wanted| decode(file, &bytes, chunk.start(), ledger, *entry, *location);
        let frames: Option<Vec<Frame>> = run.iter().map(frame).collect();
        if frames.is_none() {
            self.chunks.forget(chunk);
        }
        frames
    }

    /// A file that was released meanwhile may hold anything: that is no corruption.
    fn blame(&self, file: &Arc<LogFile>, location: Location, error: ReadError) -> ReadError {
        match self.files.get(location.file) {
            Some(now) if Arc::ptr_eq(&now, file) => error,
            _ => ReadError::Moved(location),
        }
    }
}

/// What all of these take in the log.
fn bytes_of(run: &[Wanted]) -> u64 {
    run.iter().map(|(_, location)| end_of(*location) - location.offset()).sum()
}

fn end_of(location: Location) -> u64 {
    location.offset() + frame_bytes(location.body_bytes as usize) as u64
}

/// The frame at a location, if both of its checksums and all that the index knows agree (B4).
fn decode(file: &LogFile, bytes: &Bytes, start: u64, ledger: LedgerId, entry: EntryId, at: Location) -> Option<Frame> {
    let from = usize::try_from(at.offset().checked_sub(start)?).ok()?;
    let body_from = from + HEAD_BYTES;
    let body_to = body_from + at.body_bytes as usize;
    let head = Head::decode(bytes.get(from..body_from)?, file.header.salt, at.unit)?;
    if head.kind != Kind::Entry || head.body_bytes != at.body_bytes || body_to > bytes.len() {
        return None;
    }
    let head = head.entry();
    let body = bytes.slice(body_from..body_to);
    let is_it = head.ledger == ledger && head.entry == entry && entry_checksum_over(ledger, entry, &body) == head.checksum;
    is_it.then_some(Frame { head, body })
}
