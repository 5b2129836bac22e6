//! How whole blocks get to the disk: the one policy of the log's files, which whoever measures a disk for the log goes by too.

use std::io;

use alluvium_runtime::disk::{AlignedBuf, BLOCK_BYTES, DiskFile, SyncMode};

/// Bytes that are written at once before a file's first use.
const PREWRITE_BYTES: usize = 1 << 20;

/// Writes whole blocks at `offset`, `piece_bytes` at a time, and makes them durable. Blocks.
pub fn write_blocks(handle: &dyn DiskFile, mode: SyncMode, offset: u64, bytes: &[u8], piece_bytes: usize) -> io::Result<()> {
    let mut at = offset;
    for piece in bytes.chunks(piece_bytes.next_multiple_of(BLOCK_BYTES)) {
        handle.write_at(at, piece)?;
        at += piece.len() as u64;
    }
    match mode {
        SyncMode::Direct => Ok(()),
        SyncMode::Buffered => handle.sync(),
    }
}

/// Writes the first `bytes` of a file, whole blocks, with zeros and makes them durable, so that no write into them has to make a block
/// of the file first. Blocks.
pub fn prewrite(handle: &dyn DiskFile, mode: SyncMode, bytes: u64) -> io::Result<()> {
    let zeros = AlignedBuf::zeroed(PREWRITE_BYTES);
    let mut at = 0;
    while at < bytes {
        let count = (bytes - at).min(PREWRITE_BYTES as u64);
        handle.write_at(at, &zeros[..usize::try_from(count).expect("a piece fits in memory")])?;
        at += count;
    }
    match mode {
        SyncMode::Direct => Ok(()),
        SyncMode::Buffered => handle.sync(),
    }
}
