//! What the disk gives: synced writes in every way that the bookie knows, and sequential reads.

use std::io;
use std::path::Path;
use std::time::Duration;

use alluvium_runtime::clock::Clock;
use alluvium_runtime::disk::{AlignedBuf, SyncMode};

use super::files::{Blocks, Files};
use crate::latency::Latencies;

/// Small writes would take minutes for all bytes: each size has so long at most.
const TIME_MAX: Duration = Duration::from_secs(3);
/// The sizes of writes.
pub(super) const WRITE_BYTES: [usize; 5] = [4 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20];
/// The size of a read: that of the bookie's.
const READ_BYTES: usize = 1 << 20;

/// One way of using the disk.
#[derive(Clone, Debug)]
pub struct DiskRow {
    /// Whether it was read.
    pub is_read: bool,
    /// How: past the page cache, or through it and synced.
    pub mode: SyncMode,
    /// What the blocks had seen before.
    pub blocks: Blocks,
    /// Bytes of one transfer.
    pub transfer_bytes: usize,
    /// Bytes of all transfers.
    pub bytes: u64,
    /// Megabytes a second.
    pub megabytes: f64,
    /// Of one transfer.
    pub latency: Latencies,
}

/// Writes up to `bytes`, one transfer at a time, each durable before the next. Blocks.
pub(super) fn write(dir: &Path, bytes: u64, mode: SyncMode, blocks: Blocks, transfer_bytes: usize) -> io::Result<DiskRow> {
    let mut files = Files::open(dir, bytes, mode, blocks)?;
    let mut buffer = AlignedBuf::zeroed(transfer_bytes.max(2 << 20));
    buffer.fill(0x5a);
    measure(bytes, transfer_bytes, |_| files.append(&buffer[..transfer_bytes])).map(|(bytes, megabytes, latency)| DiskRow {
        is_read: false,
        mode,
        blocks,
        transfer_bytes,
        bytes,
        megabytes,
        latency,
    })
}

/// Reads up to `bytes` of what was written. Blocks.
pub(super) fn read(dir: &Path, bytes: u64, mode: SyncMode) -> io::Result<DiskRow> {
    let files = Files::open(dir, bytes, mode, Blocks::Recycled)?;
    let mut buffer = AlignedBuf::zeroed(2 << 20);
    let bytes = bytes.min(files.bytes());
    measure(bytes, READ_BYTES, |place| files.read_at(place, &mut buffer[..READ_BYTES]).map(drop)).map(
        |(bytes, megabytes, latency)| DiskRow {
            is_read: true,
            mode,
            blocks: Blocks::Recycled,
            transfer_bytes: READ_BYTES,
            bytes,
            megabytes,
            latency,
        },
    )
}

fn measure(
    bytes: u64,
    transfer_bytes: usize,
    mut transfer: impl FnMut(u64) -> io::Result<()>,
) -> io::Result<(u64, f64, Latencies)> {
    let (clock, mut latency) = (Clock::system(), Latencies::default());
    let begin = clock.mono();
    let (mut done, mut last) = (0, begin);
    while done < bytes && last.since(begin) < TIME_MAX {
        transfer(done)?;
        let now = clock.mono();
        latency.record(crate::ns(now.since(last)), 1);
        last = now;
        done += transfer_bytes as u64;
    }
    Ok((done, done as f64 / 1e6 / last.since(begin).as_secs_f64().max(1e-9), latency))
}
