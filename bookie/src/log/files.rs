//! The files of a data directory: which are in use, which are free, and their lives.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use alluvium_runtime::disk::{AlignedBuf, BLOCK_BYTES, Disk, DiskFile, SyncMode};
use alluvium_runtime::entropy::Entropy;
use parking_lot::Mutex;

use super::blocks::{prewrite, write_blocks};
use super::config::Config;
use super::error::PrepareError;
use super::file::{COPY_AT, FirstBlock, HEADER_BYTES, Header, Identity, salt_of};
use super::footer::Seal;
use super::group::GroupWrite;
use super::place::FileId;

/// A file with a new life, its header durable, ready to be offered to the writer (C57).
#[derive(Debug)]
pub struct Prepared {
    pub(crate) file: Arc<LogFile>,
}

/// The right to let a file go. Only [`Writer::release`](super::Writer::release) gives it.
#[derive(Debug)]
#[must_use = "the file stays until this is handed to Files::release"]
pub struct Release {
    pub(crate) file: FileId,
}

/// A file that went, durably; the index forgets it.
#[derive(Debug)]
#[must_use = "the index must forget the file: Index::remove_file"]
pub struct Released {
    pub(crate) file: FileId,
}

/// An open log file.
#[derive(Debug)]
pub(crate) struct LogFile {
    pub(crate) header: Header,
    pub(crate) path: PathBuf,
    handle: Box<dyn DiskFile>,
    mode: SyncMode,
    /// Whether it was released. A footer is written under this lock, so that it never lands in the next life.
    is_gone: Mutex<bool>,
}

impl LogFile {
    pub(crate) fn new(header: Header, path: PathBuf, handle: Box<dyn DiskFile>, mode: SyncMode) -> Self {
        Self { header, path, handle, mode, is_gone: Mutex::new(false) }
    }

    /// Writes whole blocks, a piece at a time, and makes them durable.
    fn write(&self, offset: u64, bytes: &[u8], piece_bytes: usize) -> io::Result<()> {
        write_blocks(&*self.handle, self.mode, offset, bytes, piece_bytes)
    }

    /// Makes durable whatever was written.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.handle.sync()
    }

    /// Reads up to `into.len()` bytes; whole blocks at a block.
    pub(crate) fn read(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        self.handle.read_at(offset, into)
    }
}

/// A file of the pool.
#[derive(Debug)]
struct Free {
    path: PathBuf,
    /// Of its former lives; `None` if it has none.
    key: Option<u32>,
}

#[derive(Debug)]
struct State {
    used: BTreeMap<FileId, Arc<LogFile>>,
    free: Vec<Free>,
    /// Free files that can't be used again.
    useless: Vec<PathBuf>,
    next: FileId,
}

/// The files of a log, shared by the thread that writes, those that read and the one that is idle.
#[derive(Debug)]
pub struct Files {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    mode: SyncMode,
    config: Config,
    identity: Identity,
    entropy: Entropy,
    state: Mutex<State>,
}

/// What [`Files::open`] found beside usable files.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Log files whose header is bad.
    pub(crate) unreadable: Vec<FileId>,
}

/// Why the files of a directory don't open.
#[derive(Debug)]
pub(crate) enum OpenFilesError {
    Newer(PathBuf, u16),
    Foreign(PathBuf),
    Io(PathBuf, io::Error),
}

fn named(prefix: &str, id: FileId) -> String {
    format!("{prefix}-{:016x}", id.get())
}

/// The id in a name such as `log-0000000000000001`.
fn id_in(path: &Path, prefix: &str) -> Option<FileId> {
    let digits = path.file_name()?.to_str()?.strip_prefix(prefix)?.strip_prefix('-')?;
    if digits.len() != 16 {
        return None;
    }
    u64::from_str_radix(digits, 16).ok().map(FileId::new)
}

fn is_no_space(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn is_right_length(file: &dyn DiskFile, config: &Config) -> bool {
    file.len().is_ok_and(|bytes| bytes == config.file_bytes)
}

impl Files {
    /// Opens all files of a directory. Changes nothing.
    pub(crate) fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        mode: SyncMode,
        config: Config,
        identity: Identity,
        entropy: Entropy,
    ) -> Result<(Self, Found), OpenFilesError> {
        let at = |path: &Path| {
            let path = path.to_owned();
            move |error| OpenFilesError::Io(path, error)
        };
        let mut state = State { used: BTreeMap::new(), free: Vec::new(), useless: Vec::new(), next: FileId::new(1) };
        let mut found = Found::default();
        let mut block = AlignedBuf::zeroed(BLOCK_BYTES);
        for path in disk.list(dir).map_err(at(dir))? {
            let (id, is_free) = match (id_in(&path, "log"), id_in(&path, "free")) {
                (Some(id), _) => (id, false),
                (_, Some(id)) => (id, true),
                _ => continue,
            };
            state.next = state.next.max(id.next());
            let handle = disk.open(&path, mode).map_err(at(&path))?;
            block.fill(0);
            // A block that the disk does not give is as bad as a rotten one.
            let first = match handle.read_at(0, &mut block) {
                Ok(_) => FirstBlock::decode(&block),
                Err(_) => FirstBlock::Bad,
            };
            match first {
                FirstBlock::Newer(version) => return Err(OpenFilesError::Newer(path, version)),
                FirstBlock::Header(header) if header.identity != identity => return Err(OpenFilesError::Foreign(path)),
                FirstBlock::Header(header) => {
                    state.next = state.next.max(header.file.next());
                    if is_free && is_right_length(&*handle, &config) {
                        state.free.push(Free { path, key: Some(header.key) });
                    } else if is_free {
                        state.useless.push(path);
                    } else if header.file == id && handle.len().map_err(at(&path))? == header.bytes {
                        state.used.insert(id, Arc::new(LogFile::new(header, path, handle, mode)));
                    } else {
                        found.unreadable.push(id);
                    }
                }
                FirstBlock::Blank if is_free && is_right_length(&*handle, &config) => {
                    state.free.push(Free { path, key: None });
                }
                // Its former salts are not known, so it can't be used again (C57).
                FirstBlock::Blank | FirstBlock::Bad if is_free => state.useless.push(path),
                FirstBlock::Blank | FirstBlock::Bad => found.unreadable.push(id),
            }
        }
        let state = Mutex::new(state);
        Ok((Self { disk, dir: dir.to_owned(), mode, config, identity, entropy, state }, found))
    }

    /// Removes free files that can't be used again.
    pub(crate) fn remove_useless(&self) -> io::Result<()> {
        let useless = std::mem::take(&mut self.state.lock().useless);
        for path in &useless {
            self.disk.remove(path)?;
        }
        if useless.is_empty() { Ok(()) } else { self.disk.sync_dir(&self.dir) }
    }

    /// The files in use, in log order.
    pub(crate) fn used(&self) -> Vec<Arc<LogFile>> {
        self.state.lock().used.values().cloned().collect()
    }

    pub(crate) fn get(&self, file: FileId) -> Option<Arc<LogFile>> {
        self.state.lock().used.get(&file).cloned()
    }

    /// Writes a group, in several writes if it is large, and syncs it: durable on return. Blocks.
    pub fn write(&self, write: &GroupWrite) -> io::Result<()> {
        let file = self.get(write.file()).ok_or_else(|| io::Error::other("the group's file is gone"))?;
        file.write(write.offset(), write.bytes(), self.config.group_bytes)
    }

    /// Writes a file's footer, unless the file was released meanwhile. Blocks.
    pub fn write_seal(&self, seal: &Seal) -> io::Result<()> {
        let (offset, bytes) = seal.encode();
        let is_gone = seal.file.is_gone.lock();
        if *is_gone { Ok(()) } else { seal.file.write(offset, &bytes, self.config.group_bytes) }
    }

    /// Takes a free file, or allocates one, and begins its next life. Blocks.
    pub fn prepare_next(&self) -> Result<Prepared, PrepareError> {
        let free = self.state.lock().free.pop();
        let free = match free {
            Some(free) => free,
            None => self.allocate(false)?,
        };
        let id = self.draw_id();
        let path = self.dir.join(named("log", id));
        let file = self.begin_life(free, id, &path).map_err(|source| PrepareError::Io { path, source })?;
        let file = Arc::new(file);
        self.state.lock().used.insert(id, Arc::clone(&file));
        Ok(Prepared { file })
    }

    /// The order matters: the header of the new life is durable before the name, the name before the first group (C57).
    fn begin_life(&self, free: Free, id: FileId, path: &Path) -> io::Result<LogFile> {
        let key = free.key.unwrap_or_else(|| u32::try_from(self.entropy.bits() >> 32).expect("32 bits"));
        let header = Header {
            identity: self.identity,
            file: id,
            bytes: self.config.file_bytes,
            key,
            salt: self.salt(key, id),
            group_bytes_max: u32::try_from(self.config.group_bytes_max()).expect("a group is smaller than 4 GiB"),
        };
        let handle = self.disk.open(&free.path, self.mode)?;
        let mut block = AlignedBuf::zeroed(BLOCK_BYTES);
        block[..HEADER_BYTES].copy_from_slice(&header.encode());
        block[COPY_AT..COPY_AT + HEADER_BYTES].copy_from_slice(&header.encode());
        let file = LogFile::new(header, path.to_owned(), handle, self.mode);
        file.write(0, &block, BLOCK_BYTES)?;
        self.disk.rename(&free.path, path)?;
        self.disk.sync_dir(&self.dir)?;
        Ok(file)
    }

    #[cfg(feature = "planted")]
    fn salt(&self, key: u32, id: FileId) -> u32 {
        if self.config.planted == Some(super::planted::Planted::NoSalt) { 0x5A17 } else { salt_of(key, id) }
    }

    #[cfg(not(feature = "planted"))]
    #[expect(clippy::unused_self, reason = "the tests' build needs it")]
    fn salt(&self, key: u32, id: FileId) -> u32 {
        salt_of(key, id)
    }

    fn draw_id(&self) -> FileId {
        let mut state = self.state.lock();
        let id = state.next;
        state.next = id.next();
        id
    }

    /// Allocates a file: the one call of the log that may find the disk full (C61).
    fn allocate(&self, is_prewritten: bool) -> Result<Free, PrepareError> {
        let path = self.dir.join(named("free", self.draw_id()));
        let bytes = self.config.file_bytes;
        let handle = match self.disk.create(&path, bytes, self.mode) {
            Ok(handle) => handle,
            Err(error) if is_no_space(&error) => return Err(PrepareError::NoSpace),
            Err(source) => return Err(PrepareError::Io { path, source }),
        };
        if is_prewritten && let Err(source) = prewrite(&*handle, self.mode, bytes) {
            return Err(PrepareError::Io { path, source });
        }
        Ok(Free { path, key: None })
    }

    /// Adds one file to the pool if it is not full; returns whether it did. The file is written ahead, unless the log is busy: its own
    /// writes would then have half of the disk.
    pub fn fill_pool(&self, is_busy: bool) -> Result<bool, PrepareError> {
        if self.pool_len() >= self.config.pool_files {
            return Ok(false);
        }
        let free = self.allocate(self.config.prewrite && !is_busy)?;
        if let Err(source) = self.disk.sync_dir(&self.dir) {
            return Err(PrepareError::Io { path: free.path, source });
        }
        self.state.lock().free.push(free);
        Ok(true)
    }

    /// Files that are ready to be used.
    pub fn pool_len(&self) -> usize {
        self.state.lock().free.len()
    }

    /// Lets a file go: into the pool, or off the disk when that is full. Blocks. An error is fatal for the directory (B8).
    /// Readers that hold an old location get [`ReadError::Moved`](super::ReadError::Moved).
    pub fn release(&self, release: Release) -> io::Result<Released> {
        let (file, goes_to_pool) = {
            let mut state = self.state.lock();
            let file = state.used.remove(&release.file).ok_or_else(|| io::Error::other("the file is not in use"))?;
            let goes_to_pool = state.free.len() < self.config.pool_files && file.header.bytes == self.config.file_bytes;
            (file, goes_to_pool)
        };
        *file.is_gone.lock() = true;
        // Its new name is durable before anybody may begin another life in it.
        if goes_to_pool {
            let path = self.dir.join(named("free", release.file));
            self.disk.rename(&file.path, &path)?;
            self.disk.sync_dir(&self.dir)?;
            self.state.lock().free.push(Free { path, key: Some(file.header.key) });
        } else {
            self.disk.remove(&file.path)?;
            self.disk.sync_dir(&self.dir)?;
        }
        Ok(Released { file: release.file })
    }

    /// Bytes of all log files on the disk, free ones included.
    pub fn disk_bytes(&self) -> u64 {
        let state = self.state.lock();
        let used: u64 = state.used.values().map(|file| file.header.bytes).sum();
        used + state.free.len() as u64 * self.config.file_bytes
    }

    /// What it was opened with.
    pub const fn config(&self) -> &Config {
        &self.config
    }
}
