//! A log over a simulated disk, driven by hand.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use alluvium_bookie::log::{
    AppendError, Compaction, Config, EntryHead, FileId, Frame, GroupNumber, Location, Log, Mark, Marks, ReadError, Reader,
    RecoverError, open,
};
use alluvium_runtime::disk::sim::SimDisk;
use alluvium_runtime::disk::{Disk, SyncMode};
use alluvium_runtime::entropy::Entropy;
use alluvium_types::bookie::Adder;
use alluvium_types::entry::entry_checksum_over;
use alluvium_types::ids::{EntryId, Epoch, LedgerId};

use super::model::opened;
use super::{DIR, identity, small};

pub(crate) const fn l(ledger: u64) -> LedgerId {
    LedgerId::new(ledger)
}

pub(crate) const fn e(entry: u64) -> EntryId {
    EntryId::new(entry)
}

/// A writer's entry with this body.
pub(crate) fn head(ledger: u64, entry: u64, body: &[u8]) -> EntryHead {
    EntryHead {
        ledger: l(ledger),
        entry: e(entry),
        adder: Adder::Writer { epoch: Epoch::new(3) },
        lac: e(entry).previous(),
        checksum: entry_checksum_over(l(ledger), e(entry), body),
    }
}

/// A log over a simulated disk.
pub(crate) struct Rig {
    pub(crate) disk: SimDisk,
    pub(crate) config: Config,
    pub(crate) mode: SyncMode,
    pub(crate) log: Log,
    placed: Vec<(GroupNumber, LedgerId, EntryId, Location)>,
}

impl Rig {
    pub(crate) fn new() -> Self {
        Self::with(small(), SyncMode::Direct)
    }

    pub(crate) fn with(config: Config, mode: SyncMode) -> Self {
        let disk = SimDisk::new(Entropy::seeded(1), 8 << 20);
        let log = open_log(&disk, &config, mode).unwrap();
        Self { disk, config, mode, log, placed: Vec::new() }
    }

    /// Opens the disk again, as after a power cut or, when nothing is pending, as after a kill.
    pub(crate) fn reopen(&mut self) {
        self.try_reopen().unwrap();
    }

    pub(crate) fn try_reopen(&mut self) -> Result<(), RecoverError> {
        self.disk.crash();
        self.placed.clear();
        self.log = open_log(&self.disk, &self.config, self.mode)?;
        Ok(())
    }

    fn offer(&mut self) {
        if self.log.writer.wants_file() {
            let next = self.log.files.prepare_next().unwrap();
            self.log.writer.offer(next);
        }
    }

    /// Appends until it fits.
    pub(crate) fn append<T>(&mut self, append: impl Fn(&mut Log) -> Result<T, AppendError>) -> T {
        loop {
            match append(&mut self.log) {
                Ok(done) => return done,
                Err(AppendError::NoFile) => self.offer(),
                Err(AppendError::Full) => self.write_one(),
                Err(error) => panic!("{error}"),
            }
        }
    }

    pub(crate) fn mark(&mut self, ledger: u64, marks: Marks) -> GroupNumber {
        self.append(|log| log.writer.append_marks(l(ledger), marks))
    }

    pub(crate) fn open_ledger(&mut self, ledger: u64) {
        self.mark(ledger, opened(3));
        self.flush();
    }

    pub(crate) fn add(&mut self, ledger: u64, entry: u64, body: &[u8]) -> Location {
        let placed = self.append(|log| log.writer.append_entry(&head(ledger, entry, body), body));
        self.placed.push((placed.group, l(ledger), e(entry), placed.location));
        placed.location
    }

    /// Adds an entry in a group of its own.
    pub(crate) fn add_durable(&mut self, ledger: u64, entry: u64, body: &[u8]) -> Location {
        let location = self.add(ledger, entry, body);
        self.flush();
        location
    }

    fn write_one(&mut self) {
        let write = self.log.writer.begin().expect("nothing is in flight");
        self.log.files.write(&write).unwrap();
        self.log.writer.complete(write);
        let durable = self.log.writer.durable();
        for (_, ledger, entry, location) in self.placed.extract_if(.., |(group, ..)| *group <= durable) {
            self.log.index.insert(ledger, entry, location);
        }
    }

    /// Writes all that waits.
    pub(crate) fn flush(&mut self) {
        self.offer();
        while self.log.writer.has_work() {
            self.write_one();
        }
    }

    pub(crate) fn idle_mark(&mut self) {
        self.log.writer.mark(Mark::Idle);
        self.flush();
    }

    /// Writes footers that wait.
    pub(crate) fn seal(&mut self) {
        while let Some(seal) = self.log.writer.take_seal() {
            self.log.files.write_seal(&seal).unwrap();
        }
    }

    pub(crate) fn read(&self, ledger: u64, entry: u64) -> Option<Result<Frame, ReadError>> {
        let location = self.log.index.get(l(ledger), e(entry))?;
        Some(Reader::new(self.log.files.clone()).read(l(ledger), e(entry), location))
    }

    pub(crate) fn body(&self, ledger: u64, entry: u64) -> Option<Vec<u8>> {
        self.read(ledger, entry).map(|answer| answer.unwrap().body.to_vec())
    }

    pub(crate) fn marks(&self, ledger: u64) -> Option<Marks> {
        self.log.writer.marks().get(l(ledger)).copied()
    }

    /// Fills files with entries of a ledger until this one is active.
    pub(crate) fn fill_past(&mut self, file: FileId, ledger: u64) {
        let mut entry = self.log.index.stored(l(ledger)).last.map_or(0, |last| last.get() + 1);
        while self.log.writer.active_file() <= file {
            self.add_durable(ledger, entry, &[7; 1500]);
            entry += 1;
        }
        self.flush();
    }

    /// Copies what is alive in a file to the end of the log; the copies are durable on return.
    pub(crate) fn compact(&mut self, file: FileId) -> Compaction {
        let mut compaction = Compaction::of(file, &self.log.index);
        let reader = Reader::new(self.log.files.clone());
        while let Some(next) = compaction.next(&self.log.index) {
            let Ok(frame) = reader.read(next.ledger, next.entry, next.from) else {
                compaction.skipped();
                continue;
            };
            let placed = self.append(|log| log.writer.append_entry(&frame.head, &frame.body));
            compaction.copied(placed);
        }
        self.flush();
        compaction
    }

    pub(crate) fn release(&mut self, file: FileId) {
        let release = self.log.writer.release(file, &self.log.index).unwrap();
        let released = self.log.files.release(release).unwrap();
        self.log.index.remove_file(released);
    }

    pub(crate) fn path(&self, file: FileId) -> PathBuf {
        Path::new(DIR).join(format!("log-{:016x}", file.get()))
    }

    pub(crate) fn names(&self) -> Vec<String> {
        let paths = self.disk.list(Path::new(DIR)).unwrap();
        paths.iter().map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect()
    }
}

/// Opens the log of a disk.
pub(crate) fn open_log(disk: &SimDisk, config: &Config, mode: SyncMode) -> Result<Log, RecoverError> {
    open(Arc::new(disk.clone()), Path::new(DIR), mode, config.clone(), identity(), &Entropy::seeded(2))
}
