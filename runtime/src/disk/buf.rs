//! Memory that direct transfers accept: aligned to blocks, in huge pages when it is large, and used again.

use std::fmt;
use std::io;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use memmap2::{Advice, MmapMut};
use parking_lot::Mutex;

use super::BLOCK_BYTES;

/// From this size on a buffer is a mapping of its own, aligned to and advised as huge pages: with 4 KiB pages the disk's
/// queue splits a large write.
const HUGE_BYTES: usize = 2 << 20;

enum Memory {
    Mapped(MmapMut),
    Heap(Vec<u8>),
}

/// Zeroed memory of a fixed length, a multiple of [`BLOCK_BYTES`], aligned to blocks (to 2 MiB when it is that large).
pub struct AlignedBuf {
    memory: Memory,
    start: usize,
    length: usize,
}

impl AlignedBuf {
    /// Zeroed memory of at least `bytes`.
    ///
    /// # Panics
    /// When the system gives no memory, as any allocation does.
    pub fn zeroed(bytes: usize) -> Self {
        let length = bytes.next_multiple_of(BLOCK_BYTES);
        if length >= HUGE_BYTES {
            let mapped = MmapMut::map_anon(length + HUGE_BYTES).expect("the system gives memory");
            // Only advice: without huge pages the buffer is slower, not wrong.
            let _ = mapped.advise(Advice::HugePage);
            let start = mapped.as_ptr().align_offset(HUGE_BYTES);
            Self { memory: Memory::Mapped(mapped), start, length }
        } else {
            let heap = vec![0; length + BLOCK_BYTES];
            let start = heap.as_ptr().align_offset(BLOCK_BYTES);
            Self { memory: Memory::Heap(heap), start, length }
        }
    }
}

impl Deref for AlignedBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.memory {
            Memory::Mapped(mapped) => &mapped[self.start..self.start + self.length],
            Memory::Heap(heap) => &heap[self.start..self.start + self.length],
        }
    }
}

impl DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        match &mut self.memory {
            Memory::Mapped(mapped) => &mut mapped[self.start..self.start + self.length],
            Memory::Heap(heap) => &mut heap[self.start..self.start + self.length],
        }
    }
}

impl AsRef<[u8]> for AlignedBuf {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for AlignedBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AlignedBuf({} bytes)", self.length)
    }
}

/// Buffers of one size that come back when they are dropped, so that memory is touched once.
#[derive(Clone, Debug)]
pub struct BufPool {
    bytes: usize,
    idle_max: usize,
    idle: Arc<Mutex<Vec<AlignedBuf>>>,
}

impl BufPool {
    /// A pool of buffers of `bytes`; at most `idle_max` wait in it.
    pub fn new(bytes: usize, idle_max: usize) -> Self {
        Self { bytes: bytes.next_multiple_of(BLOCK_BYTES), idle_max, idle: Arc::default() }
    }

    /// A buffer of at least `bytes`: one of the pool's if that is large enough, else one of its own. What it holds is
    /// whatever was in it.
    pub fn take(&self, bytes: usize) -> PooledBuf {
        if bytes > self.bytes {
            return PooledBuf { buf: Some(AlignedBuf::zeroed(bytes)), home: None };
        }
        let idle = self.idle.lock().pop();
        let buf = idle.unwrap_or_else(|| AlignedBuf::zeroed(self.bytes));
        PooledBuf { buf: Some(buf), home: Some(self.clone()) }
    }
}

/// A buffer of a pool, lent.
#[derive(Debug)]
pub struct PooledBuf {
    buf: Option<AlignedBuf>,
    home: Option<BufPool>,
}

impl Deref for PooledBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.buf.as_ref().expect("the buffer is there until the drop")
    }
}

impl DerefMut for PooledBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.buf.as_mut().expect("the buffer is there until the drop")
    }
}

impl AsRef<[u8]> for PooledBuf {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Drop for PooledBuf {
    fn drop(&mut self) {
        if let (Some(buf), Some(home)) = (self.buf.take(), &self.home) {
            let mut idle = home.idle.lock();
            if idle.len() < home.idle_max {
                idle.push(buf);
            }
        }
    }
}

/// Refuses what the kernel refuses of a direct transfer: an offset, length or memory that is not on block boundaries.
pub(super) fn check_aligned(offset: u64, bytes: &[u8]) -> io::Result<()> {
    let block = BLOCK_BYTES as u64;
    let aligned =
        offset.is_multiple_of(block) && bytes.len().is_multiple_of(BLOCK_BYTES) && bytes.as_ptr().align_offset(BLOCK_BYTES) == 0;
    if aligned { Ok(()) } else { Err(io::Error::new(io::ErrorKind::InvalidInput, "a direct transfer is not aligned")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_aligned_zeroed_and_of_whole_blocks() {
        for bytes in [1, BLOCK_BYTES, BLOCK_BYTES + 1, HUGE_BYTES, 3 * HUGE_BYTES + 5] {
            let buf = AlignedBuf::zeroed(bytes);
            assert!(buf.len() >= bytes && buf.len().is_multiple_of(BLOCK_BYTES));
            assert!(check_aligned(0, &buf).is_ok());
            assert!(buf.iter().all(|&b| b == 0));
        }
        assert!(check_aligned(512, &AlignedBuf::zeroed(1)).is_err());
    }

    #[test]
    fn a_dropped_buffer_is_used_again_and_a_large_request_gets_its_own() {
        let pool = BufPool::new(8192, 1);
        let mut first = pool.take(100);
        first[0] = 7;
        let at = first.as_ptr();
        drop(first);
        assert_eq!(pool.take(8192).as_ptr(), at);
        assert!(pool.take(8193).len() >= 8193);
    }
}
