//! The real disk, until a test turns a switch: then writes fail, or there is no more room.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use alluvium_runtime::disk::real::RealDisk;
use alluvium_runtime::disk::{Disk, DiskFile, Space, SyncMode};

/// The switches.
#[derive(Debug, Default)]
pub struct Switches {
    /// The next write or sync fails, and only that one.
    pub fail_once: AtomicBool,
    /// Room that is said to be left, and enforced when files are made.
    pub available: AtomicU64,
}

#[derive(Clone, Debug)]
pub struct FaultyDisk(pub Arc<Switches>);

impl FaultyDisk {
    /// A disk with `available` bytes left.
    pub fn new(available: u64) -> Self {
        let switches = Switches { available: AtomicU64::new(available), ..Switches::default() };
        Self(Arc::new(switches))
    }
}

#[derive(Debug)]
struct FaultyFile(Box<dyn DiskFile>, Arc<Switches>);

impl FaultyDisk {
    fn wrap(&self, file: Box<dyn DiskFile>) -> Box<dyn DiskFile> {
        Box::new(FaultyFile(file, Arc::clone(&self.0)))
    }
}

impl Disk for FaultyDisk {
    fn create(&self, path: &Path, bytes: u64, mode: SyncMode) -> io::Result<Box<dyn DiskFile>> {
        let taken = self.0.available.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(bytes));
        if taken.is_err() {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        Ok(self.wrap(RealDisk.create(path, bytes, mode)?))
    }

    fn open(&self, path: &Path, mode: SyncMode) -> io::Result<Box<dyn DiskFile>> {
        Ok(self.wrap(RealDisk.open(path, mode)?))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        RealDisk.list(dir)
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        RealDisk.create_dir_all(dir)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealDisk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let bytes = RealDisk.open(path, SyncMode::Buffered)?.len()?;
        RealDisk.remove(path)?;
        self.0.available.fetch_add(bytes, Ordering::SeqCst);
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        RealDisk.sync_dir(dir)
    }

    fn space(&self, _: &Path) -> io::Result<Space> {
        Ok(Space { total: 1 << 30, available: self.0.available.load(Ordering::SeqCst) })
    }
}

impl FaultyFile {
    fn fail(&self) -> io::Result<()> {
        if self.1.fail_once.swap(false, Ordering::SeqCst) { Err(io::Error::other("the disk is broken")) } else { Ok(()) }
    }
}

impl DiskFile for FaultyFile {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_at(offset, bytes)
    }

    fn sync(&self) -> io::Result<()> {
        self.fail()?;
        self.0.sync()
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        self.0.read_at(offset, into)
    }

    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.0.set_len(bytes)
    }
}
