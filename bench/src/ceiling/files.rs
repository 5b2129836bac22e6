//! Files of a bare log: as large as a bookie's, made and written by the bookie's own policy.

use std::io;
use std::path::{Path, PathBuf};

use alluvium_bookie::log::{Config, prewrite, write_blocks};
use alluvium_runtime::disk::real::{RealDisk, probe};
use alluvium_runtime::disk::{Disk, DiskFile, SyncMode};

/// What a file's blocks have seen before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Blocks {
    /// Written before, as those of files that a bookie made while it had time, or that were used before.
    Recycled,
    /// Allocated, never written: what a bookie has that is too busy to write files ahead.
    Fresh,
}

/// Files that are written one behind the other, and again from the first.
#[derive(Debug)]
pub(super) struct Files {
    files: Vec<Box<dyn DiskFile>>,
    mode: SyncMode,
    file_bytes: u64,
    piece_bytes: usize,
    file: usize,
    offset: u64,
}

/// The mode that a bookie would use in this folder.
pub(super) fn mode_of(dir: &Path) -> io::Result<SyncMode> {
    RealDisk.create_dir_all(dir)?;
    Ok(probe(dir, None)?.mode)
}

impl Files {
    /// Files that hold at least `bytes` together. Recycled ones that are there already are used again, as they are.
    pub(super) fn open(dir: &Path, bytes: u64, mode: SyncMode, blocks: Blocks) -> io::Result<Self> {
        let config = Config::default();
        let (disk, file_bytes) = (RealDisk, config.file_bytes);
        disk.create_dir_all(dir)?;
        let count = bytes.div_ceil(file_bytes).max(1);
        let mut files = Vec::new();
        for number in 0..count {
            let path = dir.join(name(number));
            let is_there = disk.open(&path, mode).and_then(|file| file.len()).is_ok_and(|length| length == file_bytes);
            if is_there && blocks == Blocks::Fresh {
                disk.remove(&path)?;
            }
            let file = if is_there && blocks == Blocks::Recycled {
                disk.open(&path, mode)?
            } else {
                let file = disk.create(&path, file_bytes, mode)?;
                if blocks == Blocks::Recycled {
                    prewrite(&*file, mode, file_bytes)?;
                }
                file
            };
            files.push(file);
        }
        disk.sync_dir(dir)?;
        Ok(Self { files, mode, file_bytes, piece_bytes: config.group_bytes, file: 0, offset: 0 })
    }

    /// Writes whole blocks behind what was written last, durable on return.
    pub(super) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.offset + bytes.len() as u64 > self.file_bytes {
            self.file = (self.file + 1) % self.files.len();
            self.offset = 0;
        }
        write_blocks(&*self.files[self.file], self.mode, self.offset, bytes, self.piece_bytes)?;
        self.offset += bytes.len() as u64;
        Ok(())
    }

    /// Reads what stands at this place of all files together.
    pub(super) fn read_at(&self, place: u64, into: &mut [u8]) -> io::Result<usize> {
        let file = usize::try_from(place / self.file_bytes).unwrap_or(usize::MAX);
        let file = self.files.get(file).ok_or(io::ErrorKind::UnexpectedEof)?;
        file.read_at(place % self.file_bytes, into)
    }

    /// Bytes of all files.
    pub(super) fn bytes(&self) -> u64 {
        self.files.len() as u64 * self.file_bytes
    }
}

/// Removes the files that measurements left in folders of `dir`; the folders, and `dir` itself, go where nothing else is in them.
pub(super) fn remove(dir: &Path, folders: &[&str]) -> io::Result<()> {
    let disk = RealDisk;
    for folder in folders.iter().map(|folder| dir.join(folder)).filter(|folder| folder.is_dir()) {
        for path in disk.list(&folder)? {
            if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(PREFIX)) {
                disk.remove(&path)?;
            }
        }
        // Whatever else is in there is somebody's.
        let _ = std::fs::remove_dir(&folder);
    }
    let _ = std::fs::remove_dir(dir);
    Ok(())
}

const PREFIX: &str = "ceiling-";

fn name(number: u64) -> PathBuf {
    format!("{PREFIX}{number:04}").into()
}
