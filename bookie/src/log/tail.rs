//! What was written a moment ago, kept for whoever reads it back: a broker that takes another one's partitions over wants the last few
//! entries of each, and so does who reads right behind a writer.
//!
//! Small groups alone: they are what many slow ledgers make, whose entries lie far apart by the time that they are wanted. Of a large one
//! the entries come with few transfers, and keeping it would cost a copy of all that is written.
//!
//! What is durable in a file never changes while the file lives, and a file's id is never used again, so nothing here goes stale.

use std::collections::VecDeque;

use bytes::Bytes;
use parking_lot::Mutex;

use super::place::FileId;

/// The largest group that is kept.
const GROUP_BYTES_MAX: usize = 256 << 10;

/// A durable group.
#[derive(Debug)]
struct Piece {
    file: FileId,
    start: u64,
    bytes: Bytes,
}

#[derive(Debug, Default)]
struct State {
    /// In the order of the log.
    pieces: VecDeque<Piece>,
    bytes: usize,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Tail {
    bytes_max: usize,
    state: Mutex<State>,
}

impl Tail {
    /// Keeps at most so many bytes.
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { bytes_max, state: Mutex::default() }
    }

    /// A group is durable.
    pub(super) fn keep(&self, file: FileId, start: u64, group: &[u8]) {
        if group.len() > GROUP_BYTES_MAX.min(self.bytes_max) {
            return;
        }
        let bytes = Bytes::copy_from_slice(group);
        let mut gone = Vec::new();
        let mut state = self.state.lock();
        if state.pieces.back().is_some_and(|last| (last.file, last.start) >= (file, start)) {
            return;
        }
        while state.bytes + bytes.len() > self.bytes_max {
            let Some(oldest) = state.pieces.pop_front() else { break };
            state.bytes -= oldest.bytes.len();
            gone.push(oldest);
        }
        state.bytes += bytes.len();
        state.pieces.push_back(Piece { file, start, bytes });
        // Their memory is given back where nobody waits for that.
        drop(state);
        drop(gone);
    }

    /// The group that holds this place of a file, and where it begins.
    pub(super) fn find(&self, file: FileId, offset: u64) -> Option<(u64, Bytes)> {
        let state = self.state.lock();
        let after = state.pieces.partition_point(|piece| (piece.file, piece.start) <= (file, offset));
        let piece = state.pieces.get(after.checked_sub(1)?)?;
        let holds = piece.file == file && offset - piece.start < piece.bytes.len() as u64;
        holds.then(|| (piece.start, piece.bytes.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn q6_the_newest_small_groups_are_found_by_any_place_in_them() {
        let tail = Tail::new(3 * 4096);
        let file = FileId::new;
        let keep = |of: u64, start: u64, byte: u8| tail.keep(file(of), start, &[byte; 4096]);
        let find = |of: u64, offset: u64| tail.find(file(of), offset).map(|(start, bytes)| (start, bytes[0]));
        assert_eq!(find(1, 0), None);
        keep(1, 0, 1);
        keep(1, 8192, 2);
        keep(2, 0, 3);
        assert_eq!([find(1, 0), find(1, 4095), find(1, 4096)], [Some((0, 1)), Some((0, 1)), None]);
        assert_eq!([find(1, 9000), find(2, 4095), find(2, 4096)], [Some((8192, 2)), Some((0, 3)), None]);
        keep(2, 4096, 4);
        assert_eq!([find(1, 0), find(1, 8192), find(2, 5000)], [None, Some((8192, 2)), Some((4096, 4))], "the oldest went");
        tail.keep(file(2), 8192, &[5; 4 * 4096]);
        assert_eq!([find(2, 8192), find(2, 4096)], [None, Some((4096, 4))], "what is too large is not kept");
        keep(2, 0, 6);
        assert_eq!(find(2, 0), Some((0, 3)), "it was there");
    }
}
