//! A file seen through a buffer that moves along it: sequential reads of some MiB, whatever is looked at.

use std::io;

use alluvium_runtime::disk::{AlignedBuf, BLOCK_BYTES};

use super::files::LogFile;

/// A view of a file for a scan. A block that the disk does not give reads as zeros and is remembered.
pub(crate) struct Window<'a> {
    file: &'a LogFile,
    buf: AlignedBuf,
    read_ahead: usize,
    /// Where the buffer's first byte is in the file, and how many follow it.
    start: u64,
    filled: usize,
    unreadable: Vec<u64>,
}

impl<'a> Window<'a> {
    pub(crate) fn new(file: &'a LogFile, read_ahead: usize) -> Self {
        let read_ahead = read_ahead.next_multiple_of(BLOCK_BYTES);
        Self { file, buf: AlignedBuf::zeroed(read_ahead), read_ahead, start: 0, filled: 0, unreadable: Vec::new() }
    }

    /// The file's bytes from `offset` on: `bytes` of them, fewer only at its end.
    pub(crate) fn at(&mut self, offset: u64, bytes: usize) -> &[u8] {
        let end = offset.saturating_add(bytes as u64).min(self.file.header.bytes);
        let is_inside = offset >= self.start && end <= self.start + self.filled as u64;
        if !is_inside && offset < end {
            self.fill(offset, end);
        }
        let (from, to) = (offset.saturating_sub(self.start), end.saturating_sub(self.start));
        let place = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(self.filled);
        let (from, to) = (place(from), place(to));
        &self.buf[from.min(to)..to]
    }

    /// All that is in the buffer from `offset` on, at least a head's bytes unless the file ends.
    pub(crate) fn rest(&mut self, offset: u64, at_least: usize) -> &[u8] {
        let _ = self.at(offset, at_least);
        let from = usize::try_from(offset.saturating_sub(self.start)).unwrap_or(usize::MAX).min(self.filled);
        &self.buf[from..self.filled]
    }

    /// Whether a block between these offsets could not be read.
    pub(crate) fn is_unreadable(&self, from: u64, to: u64) -> bool {
        self.unreadable.iter().any(|&at| at + BLOCK_BYTES as u64 > from && at < to)
    }

    fn fill(&mut self, offset: u64, end: u64) {
        let block = BLOCK_BYTES as u64;
        let start = offset / block * block;
        let needed = usize::try_from(end - start).expect("a part of a file fits in memory").next_multiple_of(BLOCK_BYTES);
        let wanted = needed.max(self.read_ahead);
        if wanted > self.buf.len() {
            self.buf = AlignedBuf::zeroed(wanted);
        }
        let left = usize::try_from(self.file.header.bytes - start).unwrap_or(usize::MAX);
        let wanted = wanted.min(left);
        self.start = start;
        self.filled = match self.file.read(start, &mut self.buf[..wanted]) {
            Ok(filled) => filled,
            Err(error) => self.fill_by_block(wanted, &error),
        };
    }

    /// A transfer failed: the blocks one by one, so that a bad one takes no others with it.
    fn fill_by_block(&mut self, wanted: usize, error: &io::Error) -> usize {
        tracing::warn!(file = %self.file.header.file, offset = self.start, error = error as &dyn std::error::Error, "a read failed");
        for at in (0..wanted).step_by(BLOCK_BYTES) {
            let block = &mut self.buf[at..at + BLOCK_BYTES];
            if self.file.read(self.start + at as u64, block).is_err() {
                block.fill(0);
                let place = self.start + at as u64;
                if !self.unreadable.contains(&place) {
                    self.unreadable.push(place);
                }
            }
        }
        wanted
    }
}
