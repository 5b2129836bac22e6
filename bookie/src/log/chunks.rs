//! Chunks of log files, kept while entries in them are asked for again and again.
//!
//! Entries of a ledger that is written slowly lie far apart, among those of others. Who reads many such ledgers, as a broker that takes
//! another one's partitions over, asks for all of a stretch of the log in tiny pieces: a chunk is read once for all of them. A piece
//! that nobody asked for the neighbours of is read by itself.
//!
//! What is durable in a file never changes while the file lives, and a file's id is never used again, so a chunk never goes stale; but one
//! that was read before an entry in it was durable lacks that entry. Whoever finds nothing sound in a chunk forgets it and looks on the disk.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, OnceLock};

use alluvium_runtime::disk::{AlignedBuf, BLOCK_BYTES};
use bytes::Bytes;
use parking_lot::Mutex;

use super::files::LogFile;
use super::place::{FileId, Location};

/// Bytes of a chunk.
pub(crate) const CHUNK_BYTES: usize = 256 << 10;
const _: () = assert!(CHUNK_BYTES.is_multiple_of(BLOCK_BYTES));
/// How many chunks are remembered to have been asked for once.
const ASKED_ONCE: usize = 256;

/// A chunk's place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct ChunkId {
    file: FileId,
    number: u64,
}

impl ChunkId {
    /// The chunk that holds all of these bytes of a file, if one does.
    pub(super) const fn holding(file: FileId, from: u64, to: u64) -> Option<Self> {
        let number = from / CHUNK_BYTES as u64;
        if to <= (number + 1) * CHUNK_BYTES as u64 { Some(Self { file, number }) } else { None }
    }

    /// The chunk in which an entry begins.
    pub(super) const fn of(location: Location) -> Self {
        Self { file: location.file, number: location.offset() / CHUNK_BYTES as u64 }
    }

    /// Where in its file it begins.
    pub(super) const fn start(self) -> u64 {
        self.number * CHUNK_BYTES as u64
    }
}

/// Filled by the first who asks; the others wait for it. Empty if it can't be read: what is wanted there is read by itself.
type Cell = Arc<OnceLock<Bytes>>;

#[derive(Debug, Default)]
struct State {
    /// The newest at the back.
    kept: VecDeque<(ChunkId, Cell)>,
    asked_once: VecDeque<ChunkId>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Chunks {
    kept_max: usize,
    state: Mutex<State>,
}

impl Chunks {
    /// Keeps at most so many bytes.
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { kept_max: bytes_max / CHUNK_BYTES, state: Mutex::default() }
    }

    /// The chunk, if it is here. Never blocks.
    pub(super) fn peek(&self, id: ChunkId) -> Option<Bytes> {
        let mut state = self.state.lock();
        let at = state.kept.iter().rposition(|(kept, _)| *kept == id)?;
        let found = state.kept[at].1.get().filter(|bytes| !bytes.is_empty()).cloned();
        state.touch(at);
        found
    }

    /// The chunk, read if it was asked for before. `None` if it was not, or can't be read. Blocks.
    pub(super) fn get(&self, id: ChunkId, file: &LogFile) -> Option<Bytes> {
        let cell = self.cell(id)?;
        // One that can't be read is remembered as such, or a bad block would be tried again by all who want its neighbours.
        let bytes = cell.get_or_init(|| read(id, file).unwrap_or_default());
        (!bytes.is_empty()).then(|| bytes.clone())
    }

    fn cell(&self, id: ChunkId) -> Option<Cell> {
        let mut state = self.state.lock();
        if let Some(at) = state.kept.iter().rposition(|(kept, _)| *kept == id) {
            let cell = Arc::clone(&state.kept[at].1);
            state.touch(at);
            return Some(cell);
        }
        let Some(at) = state.asked_once.iter().rposition(|asked| *asked == id) else {
            if state.asked_once.len() == ASKED_ONCE {
                state.asked_once.pop_front();
            }
            state.asked_once.push_back(id);
            return None;
        };
        state.asked_once.remove(at);
        if self.kept_max == 0 {
            return None;
        }
        let gone = if state.kept.len() == self.kept_max { state.kept.pop_front() } else { None };
        let cell = Cell::default();
        state.kept.push_back((id, Arc::clone(&cell)));
        // Its memory is given back where nobody waits for that.
        drop(state);
        drop(gone);
        Some(cell)
    }

    /// Lets a chunk go that lacked what was wanted of it, or could not be read.
    pub(super) fn forget(&self, id: ChunkId) {
        self.state.lock().kept.retain(|(kept, _)| *kept != id);
    }
}

impl State {
    /// One was asked for: it stays longest.
    fn touch(&mut self, at: usize) {
        if let Some(chunk) = self.kept.remove(at) {
            self.kept.push_back(chunk);
        }
    }
}

fn read(id: ChunkId, file: &LogFile) -> io::Result<Bytes> {
    let left = file.header.bytes.saturating_sub(id.start());
    let bytes = usize::try_from(left).map_or(CHUNK_BYTES, |left| left.min(CHUNK_BYTES));
    let mut buf = AlignedBuf::zeroed(bytes);
    let filled = file.read(id.start(), &mut buf[..bytes])?;
    Ok(Bytes::from_owner(buf).slice(..filled))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_holds_what_lies_in_it_whole() {
        let chunk = CHUNK_BYTES as u64;
        let file = FileId::new(7);
        assert_eq!(ChunkId::holding(file, 0, chunk), Some(ChunkId { file, number: 0 }));
        assert_eq!(ChunkId::holding(file, chunk, chunk + 1), Some(ChunkId { file, number: 1 }));
        assert_eq!(ChunkId::holding(file, chunk - 1, chunk + 1), None, "it lies in two");
    }

    #[test]
    fn a_chunk_is_kept_once_it_was_asked_for_twice_and_the_least_used_goes() {
        let chunks = Chunks::new(2 * CHUNK_BYTES);
        let id = |number| ChunkId { file: FileId::new(1), number };
        let ask = |number| chunks.cell(id(number)).map(|cell| cell.get_or_init(|| Bytes::from(vec![1; 8])).clone());
        assert_eq!((ask(0), chunks.peek(id(0))), (None, None), "nobody asked for it before");
        assert!(ask(0).is_some() && chunks.peek(id(0)).is_some());
        for number in 1..3 {
            assert!(ask(number).is_none() && ask(number).is_some());
            assert!(chunks.peek(id(0)).is_some(), "it is in use");
        }
        assert!(chunks.peek(id(1)).is_none(), "two are kept");
        chunks.forget(id(0));
        assert!(chunks.peek(id(0)).is_none());
    }
}
