//! A filesystem in memory that can tear, lose, fill and rot.
//!
//! What was written and not synced is *pending*, sector by sector. A [`SimDisk::crash`] keeps any subset of pending sectors
//! and of name changes whose folder was not synced. All chance comes from one [`Entropy`]: a seed replays. Everything durable
//! can be forked at the price of some pointers, to look at several crashes of one moment, and has a [`SimDisk::durable_hash`].

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

use super::buf::check_aligned;
use super::{BLOCK_BYTES, Disk, DiskFile, Space, SyncMode};
use crate::entropy::Entropy;
use content::Content;

mod content;

/// What a write tears at.
pub const SECTOR_BYTES: usize = 512;

/// A cheap handle to a simulated disk.
#[derive(Clone, Debug)]
pub struct SimDisk(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    entropy: Entropy,
    capacity: u64,
    garbles: bool,
    /// Rises with each crash: files opened before it are closed.
    generation: u64,
    /// A crash struck in the middle of a call; nothing works until [`SimDisk::crash`].
    is_down: bool,
    faults: Faults,
    calls: u64,
    next_file: u64,
    folders: BTreeSet<PathBuf>,
    /// What a program sees.
    names: BTreeMap<PathBuf, u64>,
    /// What a crash leaves, apart from some of `name_changes`.
    durable_names: BTreeMap<PathBuf, u64>,
    name_changes: Vec<NameChange>,
    files: BTreeMap<u64, Content>,
}

#[derive(Clone, Debug)]
enum NameChange {
    Create(PathBuf, u64),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
}

/// Faults that wait for their call. Counts are of calls from now: 1 is the next.
#[derive(Clone, Debug, Default)]
struct Faults {
    crash_in: Option<u64>,
    fail_write_in: Option<u64>,
    fail_sync_in: Option<u64>,
    unreadable: Vec<(u64, Range<u64>)>,
}

fn strikes(countdown: &mut Option<u64>) -> bool {
    let Some(left) = countdown else { return false };
    *left = left.saturating_sub(1);
    if *left > 0 {
        return false;
    }
    *countdown = None;
    true
}

fn down() -> io::Error {
    io::Error::other("the simulated machine is down")
}

fn missing(path: &Path) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("no file {}", path.display()))
}

impl SimDisk {
    /// An empty disk of `capacity` bytes.
    pub fn new(entropy: Entropy, capacity: u64) -> Self {
        Self(Arc::new(Mutex::new(State {
            entropy,
            capacity,
            garbles: false,
            generation: 0,
            is_down: false,
            faults: Faults::default(),
            calls: 0,
            next_file: 0,
            folders: BTreeSet::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            name_changes: Vec::new(),
            files: BTreeMap::new(),
        })))
    }

    /// The power goes: of what is not durable, any part stays. Files opened before are dead; faults that waited are gone.
    pub fn crash(&self) {
        let mut state = self.0.lock();
        state.crash();
    }

    /// The process goes but the machine stays: nothing written is lost, open files are dead.
    pub fn kill_process(&self) {
        let mut state = self.0.lock();
        state.is_down = false;
        state.generation += 1;
        state.faults = Faults { unreadable: std::mem::take(&mut state.faults.unreadable), ..Faults::default() };
    }

    /// The `n`-th changing call from now (write, sync, set_len, create, rename, remove, sync_dir; 1 is the next) is struck in
    /// its middle: it fails, may have happened in part, and every call after it fails, until [`crash`](Self::crash).
    pub fn crash_in(&self, n: u64) {
        self.0.lock().faults.crash_in = Some(n);
    }

    /// Whether a crash has struck in the middle of a call.
    pub fn is_down(&self) -> bool {
        self.0.lock().is_down
    }

    /// Changing calls so far.
    pub fn calls(&self) -> u64 {
        self.0.lock().calls
    }

    /// The `n`-th write from now fails with `EIO`; any part of it may be there.
    pub fn fail_write_in(&self, n: u64) {
        self.0.lock().faults.fail_write_in = Some(n);
    }

    /// The `n`-th sync from now fails with `EIO` once; what it should have made durable is then any part of it, and later
    /// syncs don't make up for it, though they succeed.
    pub fn fail_sync_in(&self, n: u64) {
        self.0.lock().faults.fail_sync_in = Some(n);
    }

    /// Sets the size of the disk; what is over it stays, what is new is refused.
    pub fn set_capacity(&self, bytes: u64) {
        self.0.lock().capacity = bytes;
    }

    /// Whether a sector that was being written when the power went may hold anything afterwards, not only its old or its new
    /// bytes: what happens inside a drive that rewrites larger blocks. Off unless asked for.
    pub fn set_garbles(&self, garbles: bool) {
        self.0.lock().garbles = garbles;
    }

    /// Flips some bits, at least one, in a durable range of a file.
    ///
    /// # Panics
    /// If there is no such file or the range is empty.
    pub fn rot(&self, path: &Path, range: Range<u64>) {
        let mut state = self.0.lock();
        let flips = 1 + state.entropy.below(8);
        let places: Vec<(u64, u8)> = (0..flips)
            .map(|_| {
                let at = range.start + state.entropy.below(range.end - range.start);
                (at, 1 << state.entropy.below(8))
            })
            .collect();
        let content = state.content(path);
        // The same bit twice would be no rot at all.
        let mut seen = BTreeSet::new();
        for (at, mask) in places {
            if seen.insert((at, mask)) {
                let mut byte = [0];
                content.read_durable(at, &mut byte);
                content.write_durable(at, &[byte[0] ^ mask]);
            }
        }
    }

    /// Overwrites a durable range of a file.
    ///
    /// # Panics
    /// If there is no such file.
    pub fn overwrite(&self, path: &Path, offset: u64, bytes: &[u8]) {
        self.0.lock().content(path).write_durable(offset, bytes);
    }

    /// Reads a durable range of a file, whatever is pending or unreadable.
    ///
    /// # Panics
    /// If there is no such file.
    pub fn durable_bytes(&self, path: &Path, range: Range<u64>) -> Vec<u8> {
        let mut state = self.0.lock();
        let mut bytes = vec![0; usize::try_from(range.end - range.start).expect("a range of memory")];
        state.content(path).read_durable(range.start, &mut bytes);
        bytes
    }

    /// Reads of this range of a file fail with `EIO` from now on.
    ///
    /// # Panics
    /// If there is no such file.
    pub fn make_unreadable(&self, path: &Path, range: Range<u64>) {
        let mut state = self.0.lock();
        let file = *state.names.get(path).expect("a file of this name");
        state.faults.unreadable.push((file, range));
    }

    /// Takes everything away, as a replaced disk.
    pub fn wipe(&self) {
        let mut state = self.0.lock();
        state.generation += 1;
        state.is_down = false;
        state.faults = Faults::default();
        state.folders.clear();
        state.names.clear();
        state.durable_names.clear();
        state.name_changes.clear();
        state.files.clear();
    }

    /// Another disk with the same content, pending and durable, and chance of its own. Open files stay with this one.
    #[must_use]
    pub fn fork(&self, entropy: Entropy) -> Self {
        let state = self.0.lock();
        Self(Arc::new(Mutex::new(State {
            entropy,
            capacity: state.capacity,
            garbles: state.garbles,
            generation: state.generation + 1,
            is_down: state.is_down,
            faults: state.faults.clone(),
            calls: state.calls,
            next_file: state.next_file,
            folders: state.folders.clone(),
            names: state.names.clone(),
            durable_names: state.durable_names.clone(),
            name_changes: state.name_changes.clone(),
            files: state.files.clone(),
        })))
    }

    /// A hash of everything durable: names and bytes.
    pub fn durable_hash(&self) -> u64 {
        let state = self.0.lock();
        let mut hash = content::HASH_SEED;
        for (path, file) in &state.durable_names {
            for byte in path.as_os_str().as_encoded_bytes() {
                hash = content::mix(hash, u64::from(*byte));
            }
            let content = &state.files[file];
            hash = content::mix(hash, content.durable_hash());
        }
        hash
    }
}

impl State {
    fn crash(&mut self) {
        self.generation += 1;
        self.is_down = false;
        self.faults = Faults { unreadable: std::mem::take(&mut self.faults.unreadable), ..Faults::default() };
        for change in std::mem::take(&mut self.name_changes) {
            if self.entropy.below(2) == 0 {
                change.apply(&mut self.durable_names);
            }
        }
        self.names = self.durable_names.clone();
        let entropy = self.entropy.clone();
        let garbles = self.garbles;
        for content in self.files.values_mut() {
            content.crash(&entropy, garbles);
        }
        self.forget_nameless();
    }

    fn forget_nameless(&mut self) {
        if !self.name_changes.is_empty() {
            return;
        }
        let named: BTreeSet<u64> = self.names.values().chain(self.durable_names.values()).copied().collect();
        self.files.retain(|file, _| named.contains(file));
    }

    fn content(&mut self, path: &Path) -> &mut Content {
        let file = self.names.get(path).expect("a file of this name");
        self.files.get_mut(file).expect("a named file is there")
    }

    /// Begins a changing call: `Ok(true)` when the crash strikes in it.
    fn begin_change(&mut self) -> io::Result<bool> {
        if self.is_down {
            return Err(down());
        }
        self.calls += 1;
        let is_struck = strikes(&mut self.faults.crash_in);
        self.is_down |= is_struck;
        Ok(is_struck)
    }

    fn check_up(&self) -> io::Result<()> {
        if self.is_down { Err(down()) } else { Ok(()) }
    }

    fn used(&self) -> u64 {
        let named: BTreeSet<u64> = self.names.values().copied().collect();
        named.iter().map(|file| self.files[file].allocated()).sum()
    }

    fn change_names(&mut self, change: NameChange) -> io::Result<()> {
        let is_struck = self.begin_change()?;
        change.apply(&mut self.names);
        self.name_changes.push(change);
        if is_struck { Err(down()) } else { Ok(()) }
    }
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<PathBuf, u64>) {
        match self {
            Self::Create(path, file) => drop(names.insert(path.clone(), *file)),
            Self::Rename(from, to) => {
                if let Some(file) = names.remove(from) {
                    names.insert(to.clone(), file);
                }
            }
            Self::Remove(path) => drop(names.remove(path)),
        }
    }

    fn is_in(&self, dir: &Path) -> bool {
        match self {
            Self::Create(path, _) | Self::Remove(path) => path.parent() == Some(dir),
            Self::Rename(from, to) => from.parent() == Some(dir) || to.parent() == Some(dir),
        }
    }
}

impl Disk for SimDisk {
    fn create(&self, path: &Path, bytes: u64, mode: SyncMode) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.0.lock();
        if !path.parent().is_some_and(|dir| state.folders.contains(dir)) {
            return Err(missing(path));
        }
        if state.names.contains_key(path) {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the file exists"));
        }
        if state.used() + bytes > state.capacity {
            return Err(io::Error::new(io::ErrorKind::StorageFull, "the simulated disk is full"));
        }
        let file = state.next_file;
        state.next_file += 1;
        state.files.insert(file, Content::allocated_with(bytes));
        state.change_names(NameChange::Create(path.to_owned(), file))?;
        Ok(Box::new(SimFile { disk: self.clone(), generation: state.generation, file, mode }))
    }

    fn open(&self, path: &Path, mode: SyncMode) -> io::Result<Box<dyn DiskFile>> {
        let state = self.0.lock();
        state.check_up()?;
        let file = *state.names.get(path).ok_or_else(|| missing(path))?;
        Ok(Box::new(SimFile { disk: self.clone(), generation: state.generation, file, mode }))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        let state = self.0.lock();
        state.check_up()?;
        if !state.folders.contains(dir) {
            return Err(missing(dir));
        }
        Ok(state.names.keys().filter(|path| path.parent() == Some(dir)).cloned().collect())
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        state.check_up()?;
        // Folders are durable at once: nothing here is about losing one.
        for folder in dir.ancestors() {
            state.folders.insert(folder.to_owned());
        }
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        if !state.names.contains_key(from) {
            return Err(missing(from));
        }
        state.change_names(NameChange::Rename(from.to_owned(), to.to_owned()))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        if !state.names.contains_key(path) {
            return Err(missing(path));
        }
        state.change_names(NameChange::Remove(path.to_owned()))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        if state.begin_change()? {
            return Err(down());
        }
        if strikes(&mut state.faults.fail_sync_in) {
            return Err(io::Error::other("simulated EIO in a sync"));
        }
        let (here, elsewhere) = std::mem::take(&mut state.name_changes).into_iter().partition(|c| c.is_in(dir));
        state.name_changes = elsewhere;
        let here: Vec<NameChange> = here;
        for change in here {
            change.apply(&mut state.durable_names);
        }
        state.forget_nameless();
        Ok(())
    }

    fn space(&self, _path: &Path) -> io::Result<Space> {
        let state = self.0.lock();
        state.check_up()?;
        Ok(Space { total: state.capacity, available: state.capacity.saturating_sub(state.used()) })
    }
}

#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    generation: u64,
    file: u64,
    mode: SyncMode,
}

impl SimFile {
    fn state(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.disk.0.lock();
        if state.generation != self.generation {
            return Err(io::Error::other("the file was open before a crash"));
        }
        if !state.files.contains_key(&self.file) {
            return Err(io::Error::other("the file was removed"));
        }
        Ok(state)
    }
}

fn content_of(state: &mut State, file: u64) -> &mut Content {
    state.files.get_mut(&file).expect("checked when the lock was taken")
}

impl DiskFile for SimFile {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if self.mode == SyncMode::Direct {
            check_aligned(offset, bytes)?;
        }
        let mut state = self.state()?;
        let is_struck = state.begin_change()?;
        let end = offset + bytes.len() as u64;
        let growth = end.saturating_sub(state.files[&self.file].allocated());
        if growth > 0 && state.used() + growth > state.capacity {
            return Err(io::Error::new(io::ErrorKind::StorageFull, "the simulated disk is full"));
        }
        let fails = strikes(&mut state.faults.fail_write_in);
        let entropy = state.entropy.clone();
        let content = content_of(&mut state, self.file);
        content.write(offset, bytes);
        if fails {
            content.lose_some(&entropy, false);
            return Err(io::Error::other("simulated EIO in a write"));
        }
        if is_struck {
            // What of it arrives is decided when the power goes.
            return Err(down());
        }
        if self.mode == SyncMode::Direct {
            content.sync_range(offset, end);
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.state()?;
        if state.begin_change()? {
            return Err(down());
        }
        let fails = strikes(&mut state.faults.fail_sync_in);
        let entropy = state.entropy.clone();
        let content = content_of(&mut state, self.file);
        if fails {
            content.lose_some(&entropy, false);
            return Err(io::Error::other("simulated EIO in a sync"));
        }
        content.sync();
        Ok(())
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        if self.mode == SyncMode::Direct {
            check_aligned(offset, into)?;
        }
        let mut state = self.state()?;
        state.check_up()?;
        let end = offset + into.len() as u64;
        let hits = |(file, range): &(u64, Range<u64>)| *file == self.file && range.start < end && offset < range.end;
        if state.faults.unreadable.iter().any(hits) {
            return Err(io::Error::other("simulated EIO in a read"));
        }
        Ok(content_of(&mut state, self.file).read(offset, into))
    }

    fn len(&self) -> io::Result<u64> {
        let mut state = self.state()?;
        state.check_up()?;
        Ok(content_of(&mut state, self.file).length())
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        let mut state = self.state()?;
        let is_struck = state.begin_change()?;
        content_of(&mut state, self.file).set_length(bytes);
        if is_struck { Err(down()) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::conformance;
    use super::*;
    use crate::disk::AlignedBuf;

    const DIR: &str = "/data";

    fn disk(seed: u64) -> SimDisk {
        let disk = SimDisk::new(Entropy::seeded(seed), 1 << 20);
        disk.create_dir_all(Path::new(DIR)).unwrap();
        disk
    }

    fn path() -> PathBuf {
        Path::new(DIR).join("file")
    }

    fn created(disk: &SimDisk, bytes: u64, mode: SyncMode) -> Box<dyn DiskFile> {
        let file = disk.create(&path(), bytes, mode).unwrap();
        disk.sync_dir(Path::new(DIR)).unwrap();
        file
    }

    #[test]
    fn it_does_what_a_disk_does() {
        conformance::buffered_files(&disk(1), Path::new(DIR));
        conformance::direct_files(&disk(1), Path::new(DIR));
        conformance::names(&disk(1), Path::new(DIR));
    }

    #[test]
    fn a_crash_keeps_what_was_synced_and_any_sectors_of_the_rest() {
        let mut kept = BTreeSet::new();
        for seed in 0..40 {
            let disk = disk(seed);
            let file = created(&disk, 8192, SyncMode::Buffered);
            file.write_at(0, &[1; 512]).unwrap();
            file.sync().unwrap();
            file.write_at(512, &[2; 1024]).unwrap();
            disk.crash();
            assert!(file.len().is_err(), "a file that was open before the crash is dead");
            let bytes = disk.durable_bytes(&path(), 0..1536);
            assert_eq!(bytes[..512], [1; 512]);
            for sector in bytes.chunks(512) {
                assert!(sector.iter().all(|b| b == &sector[0]), "a sector is whole or not at all");
            }
            kept.insert((bytes[512], bytes[1024]));
        }
        assert_eq!(kept.len(), 4, "each subset of two sectors occurs");
    }

    #[test]
    fn a_direct_write_is_durable_on_return_and_torn_when_struck() {
        let mut outcomes = BTreeSet::new();
        for seed in 0..40 {
            let disk = disk(seed);
            let file = created(&disk, 8192, SyncMode::Direct);
            let mut buf = AlignedBuf::zeroed(4096);
            buf.fill(3);
            file.write_at(0, &buf).unwrap();
            disk.crash_in(1);
            assert!(file.write_at(4096, &buf).is_err());
            assert!(disk.is_down() && file.sync().is_err());
            disk.crash();
            let bytes = disk.durable_bytes(&path(), 0..8192);
            assert_eq!(bytes[..4096], [3; 4096]);
            outcomes.insert(bytes);
        }
        assert!(outcomes.len() > 10, "{} different tears", outcomes.len());
    }

    #[test]
    fn a_garbling_disk_leaves_anything_where_it_was_writing_and_nowhere_else() {
        let mut garbled = 0;
        for seed in 0..40 {
            let disk = disk(seed);
            disk.set_garbles(true);
            let file = created(&disk, 8192, SyncMode::Direct);
            let mut buf = AlignedBuf::zeroed(4096);
            buf.fill(3);
            file.write_at(0, &buf).unwrap();
            disk.crash_in(1);
            file.write_at(4096, &buf).unwrap_err();
            disk.crash();
            let bytes = disk.durable_bytes(&path(), 0..8192);
            assert_eq!(bytes[..4096], [3; 4096]);
            garbled += usize::from(bytes[4096..].iter().any(|&b| b != 0 && b != 3));
        }
        assert!((1..40).contains(&garbled));
    }

    #[test]
    fn a_name_is_lost_until_its_folder_is_synced() {
        let mut seen = BTreeSet::new();
        for seed in 0..20 {
            let disk = disk(seed);
            drop(disk.create(&path(), 0, SyncMode::Buffered).unwrap());
            disk.crash();
            seen.insert(disk.list(Path::new(DIR)).unwrap().len());
        }
        assert_eq!(seen, BTreeSet::from([0, 1]));
        let disk = disk(0);
        drop(created(&disk, 0, SyncMode::Buffered));
        disk.crash();
        assert_eq!(disk.list(Path::new(DIR)).unwrap(), [path()]);
    }

    #[test]
    fn a_full_disk_refuses_at_create_and_writes_into_allocated_space_go_on() {
        let disk = disk(0);
        let file = created(&disk, 8192, SyncMode::Buffered);
        disk.set_capacity(8192);
        let refused = disk.create(&Path::new(DIR).join("more"), 1, SyncMode::Buffered).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::StorageFull);
        file.write_at(0, &[1; 8192]).unwrap();
        assert_eq!(file.write_at(8192, &[1]).unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(disk.space(Path::new(DIR)).unwrap().available, 0);
    }

    #[test]
    fn a_failed_sync_loses_bytes_that_a_later_sync_does_not_bring_back() {
        let lost = (0..20).filter(|&seed| {
            let disk = disk(seed);
            let file = created(&disk, 8192, SyncMode::Buffered);
            file.write_at(0, &[5; 2048]).unwrap();
            disk.fail_sync_in(1);
            assert!(file.sync().is_err());
            file.sync().unwrap();
            disk.crash();
            disk.durable_bytes(&path(), 0..2048) != [5; 2048]
        });
        assert!(lost.count() > 5);
    }

    #[test]
    fn a_fork_has_the_same_bytes_and_goes_its_own_way() {
        let disk = disk(0);
        let file = created(&disk, 8192, SyncMode::Buffered);
        file.write_at(0, &[5; 2048]).unwrap();
        file.sync().unwrap();
        let fork = disk.fork(Entropy::seeded(9));
        assert_eq!(fork.durable_hash(), disk.durable_hash());
        fork.rot(&path(), 0..100);
        assert_ne!(fork.durable_hash(), disk.durable_hash());
        assert_eq!(disk.durable_bytes(&path(), 0..2048), [5; 2048]);
        fork.wipe();
        assert!(fork.open(&path(), SyncMode::Buffered).is_err());
    }

    #[test]
    fn the_hash_depends_on_content_not_on_the_way_there() {
        let ends = |parts: &[(u64, &[u8])]| {
            let disk = disk(0);
            let file = created(&disk, 8192, SyncMode::Buffered);
            for (offset, bytes) in parts {
                file.write_at(*offset, bytes).unwrap();
                file.sync().unwrap();
            }
            disk.durable_hash()
        };
        assert_eq!(ends(&[(0, &[1; 600]), (600, &[2; 5000])]), ends(&[(0, &[9; 5600]), (600, &[2; 5000]), (0, &[1; 600])]));
        assert_ne!(ends(&[(0, &[1; 600])]), ends(&[(1, &[1; 600])]));
        assert_eq!(ends(&[(0, &[0; 600])]), ends(&[]), "zeros are what allocated space holds");
    }

    #[test]
    fn unreadable_ranges_fail_reads_that_touch_them() {
        let disk = disk(0);
        let file = created(&disk, 8192, SyncMode::Buffered);
        disk.make_unreadable(&path(), 100..200);
        let mut buf = [0; 50];
        assert!(file.read_at(160, &mut buf).is_err());
        assert!(file.read_at(200, &mut buf).is_ok());
    }
}
