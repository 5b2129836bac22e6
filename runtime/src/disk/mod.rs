//! The disk seam. *Written* and *durable* are different: only what was synced survives a crash.
//!
//! The calls block; whoever must not be blocked has a thread for them. [`real`] is the operating system, [`sim`] keeps
//! pending sectors apart and can tear, lose, fill and rot them.

use std::fmt::Debug;
use std::io;
use std::path::{Path, PathBuf};

mod buf;
#[cfg(test)]
mod conformance;
pub mod real;
pub mod sim;

pub use buf::{AlignedBuf, BufPool, PooledBuf};

/// What a direct transfer's offset, length and memory must be multiples of.
pub const BLOCK_BYTES: usize = 4096;

/// How writes to a file become durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SyncMode {
    /// Past the page cache; durable when the write returns (`O_DIRECT | O_DSYNC`). Offsets, lengths and memory are aligned
    /// to [`BLOCK_BYTES`].
    Direct,
    /// Through the page cache; durable after [`DiskFile::sync`].
    Buffered,
}

/// Room on a filesystem, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Space {
    /// All of it.
    pub total: u64,
    /// What may still be taken.
    pub available: u64,
}

/// A filesystem.
pub trait Disk: Send + Sync + Debug {
    /// Creates a file that must not exist, with `bytes` of space allocated (`ENOSPC` arises here, never at a write into
    /// that space). Its name is durable after [`Disk::sync_dir`].
    fn create(&self, path: &Path, bytes: u64, mode: SyncMode) -> io::Result<Box<dyn DiskFile>>;
    /// Opens a file that exists.
    fn open(&self, path: &Path, mode: SyncMode) -> io::Result<Box<dyn DiskFile>>;
    /// The names of a folder's files, in order.
    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>>;
    /// Makes a folder and those above it.
    fn create_dir_all(&self, dir: &Path) -> io::Result<()>;
    /// Gives a file another name, replacing what bore it. Durable after [`Disk::sync_dir`].
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file's name. Durable after [`Disk::sync_dir`].
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes creations, renames and removals in a folder durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// The room of the filesystem that holds `path`.
    fn space(&self, path: &Path) -> io::Result<Space>;
}

/// An open file.
pub trait DiskFile: Send + Sync + Debug {
    /// Writes all of `bytes`. Durable on return in [`SyncMode::Direct`], after [`DiskFile::sync`] otherwise.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Makes earlier writes durable. An error means that it is not known which of them are, ever (B8).
    fn sync(&self) -> io::Result<()>;
    /// Reads up to `into.len()` bytes; fewer only at the end of the file.
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize>;
    /// The file's length.
    fn len(&self) -> io::Result<u64>;
    /// Whether the file has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Cuts or lengthens the file. Durable after [`DiskFile::sync`].
    fn set_len(&self, bytes: u64) -> io::Result<()>;
}
