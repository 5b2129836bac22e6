//! Drives the real engine, one operation at a time, over a disk that may be struck in any of them.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::Arc;

use alluvium_bookie::log::planted::Planted;
use alluvium_bookie::log::{
    AppendError, Compaction, Config, Doubts, FileId, GroupNumber, GroupWrite, Index, Location, Log, Mark, Marks, Placed, Reader,
    RecoverError, open,
};
use alluvium_runtime::disk::sim::SimDisk;
use alluvium_runtime::disk::{Disk, SyncMode};
use alluvium_runtime::entropy::Entropy;
use alluvium_types::bookie::Adder;
use alluvium_types::ids::{EntryId, Epoch, LedgerId, RecoveryNumber};

use super::model::{Entry, Model, body, closed, fenced, opened};
use super::{DIR, identity};

/// What one bench is run with.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) config: Config,
    pub(crate) mode: SyncMode,
    /// Compaction trusts its copies before they are durable (C29): a bug of the caller, planted here.
    pub(crate) releases_before_copies: bool,
}

/// What is done when its group is durable.
#[derive(Debug)]
enum Awaited {
    Entry(LedgerId, EntryId, Location),
    Deleted(LedgerId),
}

/// An open log, its disk, and the model beside it.
pub(crate) struct Bench {
    pub(crate) disk: SimDisk,
    pub(crate) plan: Plan,
    pub(crate) log: Log,
    pub(crate) model: Model,
    pub(crate) entropy: Entropy,
    reader: Reader,
    awaited: Vec<(GroupNumber, Awaited)>,
    in_flight: Option<GroupWrite>,
    compaction: Option<Compaction>,
    /// Files of earlier lives, by the id under which they were let go.
    pub(crate) former: BTreeSet<FileId>,
    pub(crate) active_is_recycled: bool,
    pub(crate) recoveries: u64,
    pub(crate) next_ledger: u64,
}

/// Opens the log of a disk.
pub(crate) fn open_log(disk: &SimDisk, plan: &Plan, entropy: &Entropy) -> Result<Log, RecoverError> {
    open(Arc::new(disk.clone()), Path::new(DIR), plan.mode, plan.config.clone(), identity(), entropy)
}

fn free_files(disk: &SimDisk) -> BTreeSet<FileId> {
    let names = disk.list(Path::new(DIR)).unwrap_or_default();
    let ids = names.iter().filter_map(|path| {
        let digits = path.file_name()?.to_str()?.strip_prefix("free-")?;
        u64::from_str_radix(digits, 16).ok().map(FileId::new)
    });
    ids.collect()
}

/// Opens a log and says whether its new file had an earlier life.
pub(crate) fn open_noting_life(
    disk: &SimDisk,
    plan: &Plan,
    entropy: &Entropy,
    former: &BTreeSet<FileId>,
) -> Result<(Log, bool), RecoverError> {
    let before = free_files(disk);
    let log = open_log(disk, plan, entropy)?;
    let after = free_files(disk);
    let is_recycled = before.difference(&after).any(|taken| former.contains(taken));
    Ok((log, is_recycled))
}

/// What one operation came to.
pub(crate) type Step = Result<(), io::Error>;

impl Bench {
    pub(crate) fn new(disk: SimDisk, plan: Plan, entropy: Entropy) -> Self {
        let log = open_log(&disk, &plan, &entropy).expect("an empty disk");
        Self::on(disk, plan, entropy, log, Model::default())
    }

    /// Goes on with a log that was opened and checked.
    pub(crate) fn on(disk: SimDisk, plan: Plan, entropy: Entropy, log: Log, model: Model) -> Self {
        let reader = Reader::new(log.files.clone());
        Self {
            disk,
            plan,
            log,
            model,
            entropy,
            reader,
            awaited: Vec::new(),
            in_flight: None,
            compaction: None,
            former: BTreeSet::new(),
            active_is_recycled: false,
            recoveries: 0,
            next_ledger: 1,
        }
    }

    fn chance(&self, of: u64) -> bool {
        self.entropy.below(of) == 0
    }

    /// One random operation.
    pub(crate) fn step(&mut self) -> Step {
        match self.entropy.below(100) {
            0..42 => self.add(),
            42..47 => self.add_lac(),
            47..53 => self.open_ledger(),
            53..57 => self.mark_a_ledger(),
            57..61 => self.delete_a_ledger(),
            61..74 => self.begin(),
            74..84 => self.finish(),
            84..87 => {
                let mark = if self.chance(8) { Mark::Shutdown } else { Mark::Idle };
                self.log.writer.mark(mark);
                self.flush()
            }
            87..90 => self.flush(),
            90..92 => self.seal(),
            92 => self.fill_pool(),
            93 => self.collect(),
            _ => self.compact(),
        }
    }

    /// Writes all that waits.
    pub(crate) fn flush(&mut self) -> Step {
        self.finish()?;
        while self.log.writer.has_work() {
            self.begin()?;
            if self.in_flight.is_none() {
                break;
            }
            self.finish()?;
        }
        Ok(())
    }

    pub(crate) fn begin(&mut self) -> Step {
        self.offer()?;
        if self.in_flight.is_none() && self.log.writer.has_work() {
            self.in_flight = self.log.writer.begin();
            self.acknowledge();
        }
        Ok(())
    }

    pub(crate) fn finish(&mut self) -> Step {
        let Some(write) = self.in_flight.take() else { return Ok(()) };
        if let Err(error) = self.log.files.write(&write) {
            self.log.writer.complete_failed(write, &error);
            return Err(error);
        }
        self.log.writer.complete(write);
        self.acknowledge();
        Ok(())
    }

    /// Does what waited for durability.
    fn acknowledge(&mut self) {
        let durable = self.log.writer.durable();
        self.model.durable(durable);
        let (done, waits): (Vec<_>, Vec<_>) = self.awaited.drain(..).partition(|(group, _)| *group <= durable);
        self.awaited = waits;
        for (_, awaited) in done {
            match awaited {
                Awaited::Entry(ledger, entry, location) => {
                    if self.log.writer.marks().get(ledger).is_none_or(|marks| marks.deleted) {
                        self.log.index.note_dead(ledger, location.file);
                    } else {
                        self.log.index.insert(ledger, entry, location);
                    }
                }
                Awaited::Deleted(ledger) => {
                    self.log.index.remove_ledger(ledger);
                    if let Some(model) = self.model.ledgers.get_mut(&ledger) {
                        model.entries.clear();
                    }
                }
            }
        }
        if let Some(compaction) = &mut self.compaction {
            compaction.durable(durable, &mut self.log.index);
        }
    }

    fn offer(&mut self) -> Step {
        if !self.log.writer.wants_file() {
            return Ok(());
        }
        let before = free_files(&self.disk);
        match self.log.files.prepare_next() {
            Ok(prepared) => {
                let after = free_files(&self.disk);
                self.active_is_recycled = before.difference(&after).any(|taken| self.former.contains(taken));
                self.log.writer.offer(prepared);
                Ok(())
            }
            Err(error) => ignore_full(error),
        }
    }

    /// Appends until it fits.
    fn append<T>(
        &mut self,
        append: impl Fn(&mut alluvium_bookie::log::Writer) -> Result<T, AppendError>,
    ) -> Result<T, io::Error> {
        for _ in 0..20 {
            match append(&mut self.log.writer) {
                Ok(placed) => return Ok(placed),
                Err(AppendError::NoFile) => self.offer()?,
                Err(AppendError::Full) => {
                    if self.in_flight.is_some() {
                        self.finish()?;
                    } else {
                        self.begin()?;
                    }
                }
                Err(error) => return Err(io::Error::other(error)),
            }
        }
        Err(io::Error::other("an append never fits"))
    }

    fn some_ledger(&self, is_fit: impl Fn(&Marks) -> bool) -> Option<LedgerId> {
        let fit = self.model.ledgers.iter().filter(|(_, ledger)| ledger.newest().is_some_and(|marks| is_fit(&marks)));
        let fit: Vec<LedgerId> = fit.map(|(id, _)| *id).collect();
        let choice = fit.len() as u64;
        (choice > 0).then(|| fit[usize::try_from(self.entropy.below(choice)).unwrap()])
    }

    fn add(&mut self) -> Step {
        // A writer adds where nothing stands against it; a recovery also where a fence does (C20), or a tear.
        let by_recovery = self.chance(8);
        let ledger = self.some_ledger(|marks| {
            let is_writable = marks.fenced.is_none() && marks.torn.is_none();
            !marks.deleted && !marks.in_doubt && marks.closed.is_none() && (by_recovery || is_writable)
        });
        let Some(id) = ledger else { return self.open_ledger() };
        let ledger = self.model.ledgers.get_mut(&id).unwrap();
        let mut entry = ledger.next_entry();
        if self.entropy.below(6) == 0 {
            entry = entry.checked_add(1 + self.entropy.below(3)).unwrap();
        }
        let version = ledger.versions.entry(entry).or_default();
        *version += 1;
        let body_bytes = match self.entropy.below(8) {
            0 => 0,
            1 => 2000,
            2..4 => self.entropy.below(2000),
            _ => self.entropy.below(200),
        };
        let adder =
            if by_recovery { Adder::Recovery { number: RecoveryNumber::new(7) } } else { Adder::Writer { epoch: Epoch::new(3) } };
        let lac = if by_recovery { None } else { entry.previous() };
        let appended = Entry { version: *version, body_bytes: usize::try_from(body_bytes).unwrap(), adder, lac, pending: None };
        ledger.lac_max = ledger.lac_max.max(lac);
        let head = appended.head(id, entry);
        let body = body(id, entry, appended.version, appended.body_bytes);
        let Placed { group, location } = self.append(|writer| writer.append_entry(&head, &body))?;
        let ledger = self.model.ledgers.get_mut(&id).unwrap();
        ledger.entries.insert(entry, Entry { pending: Some(group), ..appended });
        self.awaited.push((group, Awaited::Entry(id, entry, location)));
        Ok(())
    }

    fn add_lac(&mut self) -> Step {
        let Some(id) = self.some_ledger(|marks| !marks.deleted) else { return Ok(()) };
        let ledger = self.model.ledgers.get_mut(&id).unwrap();
        let Some(lac) = ledger.entries.keys().next_back().copied() else { return Ok(()) };
        ledger.lac_max = ledger.lac_max.max(Some(lac));
        self.append(|writer| writer.append_lac(id, lac)).map(drop)
    }

    fn marked(&mut self, id: LedgerId, marks: Marks) -> Result<GroupNumber, io::Error> {
        let group = self.append(|writer| writer.append_marks(id, marks))?;
        self.model.ledgers.entry(id).or_default().pending.push((group, Some(marks)));
        Ok(group)
    }

    pub(crate) fn open_ledger(&mut self) -> Step {
        let live = self.model.ledgers.values().filter(|l| l.newest().is_some_and(|m| !m.deleted)).count();
        if live >= 5 {
            return self.delete_a_ledger();
        }
        let id = LedgerId::new(self.next_ledger);
        self.next_ledger += 1;
        // What a loss cast doubt on existed before this ledger.
        let doubts = self.log.writer.marks().doubts();
        let lowered = Doubts {
            torn_below: doubts.torn_below.map(|below| below.min(id)),
            in_doubt_below: doubts.in_doubt_below.map(|below| below.min(id)),
        };
        if lowered != doubts {
            self.append(|writer| writer.append_doubts(lowered))?;
        }
        self.marked(id, opened(3)).map(drop)
    }

    fn mark_a_ledger(&mut self) -> Step {
        let Some(id) = self.some_ledger(|marks| !marks.deleted) else { return Ok(()) };
        let ledger = &self.model.ledgers[&id];
        let marks = ledger.newest().unwrap();
        let next = match self.entropy.below(3) {
            0 | 1 if marks.closed.is_none() => fenced(marks, marks.fenced.map_or(1, |f| f.get() + self.entropy.below(2))),
            _ if marks.closed.is_none() => closed(marks, ledger.entries.keys().next_back().copied()),
            _ => return Ok(()),
        };
        if next.closed.is_some() {
            // What was owed under a tear is the other bookies' now.
            let gone = |entry: &EntryId, log: &Log| log.index.get(id, *entry).is_none();
            let log = &self.log;
            let entries = &mut self.model.ledgers.get_mut(&id).unwrap().entries;
            entries.retain(|entry, e| e.pending.is_some() || !gone(entry, log));
        }
        self.marked(id, next).map(drop)
    }

    fn delete_a_ledger(&mut self) -> Step {
        let Some(id) = self.some_ledger(|marks| !marks.deleted) else { return Ok(()) };
        let marks = self.model.ledgers[&id].newest().unwrap();
        let group = self.marked(id, Marks { deleted: true, ..marks })?;
        self.awaited.push((group, Awaited::Deleted(id)));
        Ok(())
    }

    fn seal(&mut self) -> Step {
        match self.log.writer.take_seal() {
            Some(seal) => self.log.files.write_seal(&seal),
            None => Ok(()),
        }
    }

    fn fill_pool(&mut self) -> Step {
        if self.log.files.pool_len() > 0 { Ok(()) } else { self.log.files.fill_pool(false).map(drop).or_else(ignore_full) }
    }

    /// Empties the sparsest file and lets it go, and whatever else is dead.
    pub(crate) fn collect(&mut self) -> Step {
        self.compact()?;
        for _ in 0..100 {
            if self.compaction.is_none() {
                break;
            }
            self.compact()?;
            self.log.writer.mark(Mark::Idle);
            self.flush()?;
        }
        self.release_dead()?;
        self.forget()
    }

    /// A few steps of compaction, releases, forgetting.
    fn compact(&mut self) -> Step {
        match &mut self.compaction {
            None => {
                self.release_dead()?;
                self.forget()?;
                let active = self.log.writer.active_file();
                let sparse = self.log.index.files().filter(|(file, usage)| *file < active && usage.entries > 0);
                if let Some((file, _)) = sparse.min_by_key(|(_, usage)| usage.entries) {
                    self.compaction = Some(Compaction::of(file, &self.log.index));
                }
                Ok(())
            }
            Some(_) => {
                for _ in 0..6 {
                    self.copy_one()?;
                }
                if self.compaction.as_ref().is_some_and(Compaction::is_done) {
                    self.compaction = None;
                    self.release_dead()?;
                }
                Ok(())
            }
        }
    }

    fn copy_one(&mut self) -> Step {
        let Some(compaction) = &mut self.compaction else { return Ok(()) };
        let Some(next) = compaction.next(&self.log.index) else { return Ok(()) };
        let Ok(frame) = self.reader.read(next.ledger, next.entry, next.from) else {
            compaction.skipped();
            return Ok(());
        };
        let placed = self.append(|writer| writer.append_entry(&frame.head, &frame.body))?;
        let compaction = self.compaction.as_mut().expect("it is not ended meanwhile");
        compaction.copied(placed);
        if self.plan.releases_before_copies {
            compaction.durable(placed.group.next(), &mut self.log.index);
        }
        Ok(())
    }

    fn release_dead(&mut self) -> Step {
        let dead: Vec<FileId> = self.log.index.files().filter(|(_, usage)| usage.entries == 0).map(|(f, _)| f).collect();
        for file in dead {
            if let Ok(release) = self.log.writer.release(file, &self.log.index) {
                let released = self.log.files.release(release)?;
                self.log.index.remove_file(released);
                self.former.insert(file);
            }
        }
        Ok(())
    }

    fn forget(&mut self) -> Step {
        let deleted = self.model.ledgers.iter().filter(|(_, l)| l.pending.is_empty() && l.marks.is_some_and(|m| m.deleted));
        let gone: Vec<LedgerId> = deleted.map(|(id, _)| *id).filter(|id| !holds(&self.log.index, *id)).collect();
        for id in gone {
            for _ in 0..4 {
                match self.log.writer.forget(id, &self.log.index) {
                    Ok(group) => {
                        self.model.ledgers.get_mut(&id).unwrap().pending.push((group, None));
                        break;
                    }
                    Err(AppendError::NoFile) => self.offer()?,
                    Err(_) => self.flush()?,
                }
            }
        }
        Ok(())
    }

    /// Whether a group was handed out and is not known to be durable: the only time when a crash may tear.
    pub(crate) fn is_in_flight(&self) -> bool {
        self.in_flight.is_some() || self.log.writer.is_in_flight()
    }

    pub(crate) fn plants(&self, bug: Planted) -> bool {
        self.plan.config.planted == Some(bug)
    }
}

fn holds(index: &Index, ledger: LedgerId) -> bool {
    index.holds(ledger)
}

fn ignore_full(error: alluvium_bookie::log::PrepareError) -> Step {
    match error {
        alluvium_bookie::log::PrepareError::NoSpace => Ok(()),
        alluvium_bookie::log::PrepareError::Io { source, .. } => Err(source),
    }
}
