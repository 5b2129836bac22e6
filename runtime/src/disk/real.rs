//! The operating system's filesystem.

#![expect(clippy::disallowed_methods, reason = "this is where files are opened")]

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, FlockOperation, OFlags};

use super::buf::check_aligned;
use super::{AlignedBuf, BLOCK_BYTES, Disk, DiskFile, Space, SyncMode};

/// The operating system's filesystem. All of them are the same one.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

/// What [`probe`] found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Probed {
    /// The mode to use.
    pub mode: SyncMode,
    /// Why, for the log of the start.
    pub reason: String,
}

/// Finds out by trying whether a folder's filesystem takes direct synced writes. `force` skips the trial.
pub fn probe(dir: &Path, force: Option<SyncMode>) -> io::Result<Probed> {
    if let Some(mode) = force {
        return Ok(Probed { mode, reason: "as configured".to_owned() });
    }
    let path = dir.join(".probe");
    let outcome = probe_at(&path);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    match outcome {
        Ok(()) => Ok(Probed { mode: SyncMode::Direct, reason: "the filesystem takes direct synced writes".to_owned() }),
        // Only a refusal of the way of writing is an answer; a full or failing disk is a failure.
        Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => {
            Ok(Probed { mode: SyncMode::Buffered, reason: format!("the filesystem refuses direct writes ({error})") })
        }
        Err(error) => Err(error),
    }
}

fn probe_at(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut block = AlignedBuf::zeroed(BLOCK_BYTES);
    block.fill(0xA5);
    let file = RealDisk.create(path, 2 * BLOCK_BYTES as u64, SyncMode::Direct)?;
    file.write_at(BLOCK_BYTES as u64, &block)?;
    let mut back = AlignedBuf::zeroed(BLOCK_BYTES);
    let read = file.read_at(BLOCK_BYTES as u64, &mut back)?;
    if read == BLOCK_BYTES && *back == *block {
        Ok(())
    } else {
        Err(io::Error::new(io::ErrorKind::Unsupported, "a direct write is not read back"))
    }
}

/// The lock of a data directory, held until it is dropped or the process ends.
#[derive(Debug)]
pub struct DirLock(#[expect(dead_code, reason = "held for its lock")] File);

/// Why a data directory is not ours.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process has it.
    #[error("{dir:?} is in use by another process ({holder})")]
    Held {
        /// Which folder.
        dir: PathBuf,
        /// What the holder wrote about itself.
        holder: String,
    },
    /// The lock file can't be opened or locked.
    #[error("cannot lock {dir:?}")]
    Io {
        /// Which folder.
        dir: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// Locks a data directory for this process, and notes in the file `LOCK` who holds it. Does not wait.
pub fn lock(dir: &Path, role: &str) -> Result<DirLock, LockError> {
    let failed = |source| LockError::Io { dir: dir.to_owned(), source };
    let path = dir.join("LOCK");
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(failed)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let holder = fs::read_to_string(&path).map_err(failed)?.trim().chars().take(200).collect();
            return Err(LockError::Held { dir: dir.to_owned(), holder });
        }
        Err(error) => return Err(failed(error.into())),
    }
    let note = format!("{role}, process {}\n", std::process::id());
    file.set_len(0).and_then(|()| file.write_all_at(note.as_bytes(), 0)).map_err(failed)?;
    Ok(DirLock(file))
}

impl RealDisk {
    fn open_with(path: &Path, mode: SyncMode, options: &mut OpenOptions) -> io::Result<RealFile> {
        options.read(true).write(true);
        if mode == SyncMode::Direct {
            let flags = (OFlags::DIRECT | OFlags::DSYNC).bits();
            options.custom_flags(flags.cast_signed());
        }
        Ok(RealFile { file: options.open(path)?, mode })
    }
}

impl Disk for RealDisk {
    fn create(&self, path: &Path, bytes: u64, mode: SyncMode) -> io::Result<Box<dyn DiskFile>> {
        let file = Self::open_with(path, mode, OpenOptions::new().create_new(true))?;
        if bytes > 0 {
            let allocated = rustix::fs::fallocate(&file.file, FallocateFlags::empty(), 0, bytes)
                .map_err(io::Error::from)
                .and_then(|()| file.file.sync_all());
            if let Err(error) = allocated {
                drop(file);
                // What was allocated so far must not stay behind; the first error is the one that counts.
                let _ = fs::remove_file(path);
                return Err(error);
            }
        }
        Ok(Box::new(file))
    }

    fn open(&self, path: &Path, mode: SyncMode) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(Self::open_with(path, mode, &mut OpenOptions::new())?))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                files.push(entry.path());
            }
        }
        files.sort();
        Ok(files)
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        if dir.is_dir() {
            return Ok(());
        }
        let parent = dir.parent().filter(|p| !p.as_os_str().is_empty());
        if let Some(parent) = parent {
            self.create_dir_all(parent)?;
        }
        match fs::create_dir(dir) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            other => other?,
        }
        // A folder whose own name is lost in a crash takes its files with it.
        self.sync_dir(parent.unwrap_or(Path::new(".")))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    fn space(&self, path: &Path) -> io::Result<Space> {
        let stat = rustix::fs::statvfs(path)?;
        Ok(Space { total: stat.f_blocks * stat.f_frsize, available: stat.f_bavail * stat.f_frsize })
    }
}

/// An open file of the operating system.
#[derive(Debug)]
struct RealFile {
    file: File,
    mode: SyncMode,
}

impl DiskFile for RealFile {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if self.mode == SyncMode::Direct {
            check_aligned(offset, bytes)?;
        }
        self.file.write_all_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        // Direct writes are durable by themselves; a changed length is not.
        self.file.sync_data()
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        if self.mode == SyncMode::Direct {
            check_aligned(offset, into)?;
        }
        let mut filled = 0;
        while filled < into.len() {
            match self.file.read_at(&mut into[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            // A direct read that ends off a block has met the end of the file.
            if self.mode == SyncMode::Direct && !filled.is_multiple_of(BLOCK_BYTES) {
                break;
            }
        }
        Ok(filled)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.file.set_len(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::super::conformance;
    use super::*;

    #[test]
    fn it_does_what_a_disk_does() {
        let dir = tempfile::tempdir().unwrap();
        conformance::buffered_files(&RealDisk, dir.path());
        conformance::names(&RealDisk, &dir.path().join("names"));
        if probe(dir.path(), None).unwrap().mode == SyncMode::Direct {
            conformance::direct_files(&RealDisk, &dir.path().join("direct"));
        }
    }

    #[test]
    fn a_probe_leaves_nothing_behind_and_can_be_forced() {
        let dir = tempfile::tempdir().unwrap();
        probe(dir.path(), None).unwrap();
        assert_eq!(RealDisk.list(dir.path()).unwrap(), Vec::<PathBuf>::new());
        assert_eq!(probe(dir.path(), Some(SyncMode::Buffered)).unwrap().mode, SyncMode::Buffered);
    }

    #[test]
    fn a_locked_directory_says_who_holds_it() {
        let dir = tempfile::tempdir().unwrap();
        let held = lock(dir.path(), "bookie").unwrap();
        let refused = lock(dir.path(), "standalone").unwrap_err().to_string();
        assert!(refused.contains(&format!("bookie, process {}", std::process::id())), "{refused}");
        drop(held);
        lock(dir.path(), "standalone").unwrap();
    }
}
