//! The store: all that a bookie decides about writing, single-owned, synchronous and without threads.
//!
//! A shell (`bookie.rs` in production, the event loop in the simulator) brings requests and moves groups to the disk:
//!
//! ```text
//! request → Outcome::Now(answer)                      answer at once
//!         → Outcome::After(group)                     once that group is durable, ask the same again: it answers
//!         → AddOutcome::Durable(group)                once that group is durable, the add is
//!         → Outcome::Full                             nothing was done: ask again when a group was taken or a file offered
//! begin() → write it (Files::write) → complete(write) or complete_failed(write, error)
//! wants_file() → Files::prepare_next() → offer(file) or out_of_files()
//! ```
//! A crash is to drop the store; [`Store::recover`] is what comes after it. Reading needs no owner: [`Store::read`] gives a
//! [`ReadPlan`] that any thread runs.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::io;
use std::path::Path;
use std::sync::Arc;

use alluvium_runtime::disk::{Disk, SyncMode};
use alluvium_runtime::entropy::Entropy;
use alluvium_types::bookie::{
    AddEntry, Adder, AdvanceLac, FenceAnswer, LedgerSummary, OpenLedger, ReadEntries, ReadRefusal, Refusal,
};
use alluvium_types::checksum::Crc32c;
use alluvium_types::entry::entry_checksum;
use alluvium_types::ids::{EntryId, LedgerId, RecoveryNumber};
use alluvium_types::ledger::LedgerClass;

use crate::log::{
    self, AppendError, Compaction, EntryHead, FileId, Files, Frame, GroupNumber, GroupWrite, Index, Location, Marks, Prepared,
    Release, Released, Writer,
};
use crate::mutation::{Mutation, Mutations};
use crate::read_plan::ReadPlan;
use crate::rules::{self, Ledger, Need};
use crate::space::Admission;

/// What becomes of a request.
#[derive(Clone, PartialEq, Eq, Debug)]
#[must_use]
pub enum Outcome<A> {
    /// The answer.
    Now(A),
    /// Once this group is durable, ask the same again.
    After(GroupNumber),
    /// There is no room in the group being filled, or no next file yet. Nothing was done: ask again when a group was taken or
    /// a file was offered.
    Full,
}

/// What becomes of an add.
#[derive(Clone, PartialEq, Eq, Debug)]
#[must_use]
pub enum AddOutcome {
    /// The answer.
    Now(Result<(), Refusal>),
    /// `Ok`, once this group is durable (B1).
    Durable(GroupNumber),
    /// An entry of this id is on disk already: compare it (B5).
    Compare(Comparison),
    /// As [`Outcome::Full`].
    Full,
}

/// An entry whose checksum was verified against its body (B4), in the one pass over the body that a bookie makes.
#[derive(Clone, Debug)]
pub struct VerifiedAdd(AddEntry);

impl VerifiedAdd {
    /// Checks size and checksum. Costs a pass over the body: done before any lock is taken.
    pub fn check(add: AddEntry, body_bytes_max: usize) -> Result<Self, Refusal> {
        // Permanent, and the same everywhere: the limit is derived downward from the largest message (C36).
        if add.body.len() > body_bytes_max {
            return Err(Refusal::TooLarge);
        }
        let found = entry_checksum(add.ledger, add.entry, Crc32c::of(&add.body), add.body.len());
        if found == add.checksum { Ok(Self(add)) } else { Err(Refusal::Corrupt) }
    }

    /// What was asked.
    pub const fn get(&self) -> &AddEntry {
        &self.0
    }
}

/// A re-added entry that has to be compared with the one on disk (B5).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Comparison {
    ledger: LedgerId,
    entry: EntryId,
    location: Location,
}

/// What a comparison showed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Compared {
    /// The same entry: ok.
    Same,
    /// Another one: refuse it, and raise an alarm.
    Different,
    /// What is on disk can't be read: [`Store::replace`] it.
    Unreadable,
    /// It was moved meanwhile: [`Store::add`] again.
    Moved,
}

impl Comparison {
    /// Reads what is on disk. Blocks.
    pub fn run(&self, reader: &log::Reader, add: &VerifiedAdd) -> Compared {
        match reader.read(self.ledger, self.entry, self.location) {
            Ok(frame) if frame.head.checksum == add.0.checksum && frame.body == add.0.body => Compared::Same,
            Ok(_) => Compared::Different,
            Err(log::ReadError::Moved(_)) => Compared::Moved,
            Err(log::ReadError::Corrupt(_) | log::ReadError::Io { .. }) => Compared::Unreadable,
        }
    }
}

/// An entry that is appended and not durable yet.
#[derive(Clone, Copy, Debug)]
struct Pending {
    group: GroupNumber,
    checksum: Crc32c,
    body_bytes: usize,
}

/// A ledger with marks that are not durable yet.
#[derive(Clone, Copy, Debug)]
struct Marked {
    /// Where the newest of them is.
    newest: GroupNumber,
    /// Where the first ever is, if that is not durable either: until then the ledger takes no adds, so that a group that is
    /// lost never holds adds of a ledger that nothing else knows (B3).
    first: Option<GroupNumber>,
}

/// The state of one bookie.
#[derive(Debug)]
pub struct Store {
    writer: Writer,
    index: Index,
    files: Arc<Files>,
    report: log::Report,
    admission: Admission,
    out_of_files: bool,
    /// Where entries will be found once they are durable, in the order of their groups.
    placed: VecDeque<(GroupNumber, LedgerId, EntryId, Location)>,
    pending: HashMap<(LedgerId, EntryId), Pending>,
    marked: BTreeMap<LedgerId, Marked>,
    deletions: VecDeque<(GroupNumber, LedgerId)>,
    /// The file that is emptied, and how far that is.
    compaction: Option<(FileId, Compaction)>,
    /// The group of what was copied last.
    last_copy: GroupNumber,
    /// Files that hold entries that can't be read; they are not emptied again.
    not_movable: BTreeSet<FileId>,
    /// Files that were given up and are not gone yet.
    releasing: BTreeSet<FileId>,
    mutations: Mutations,
    #[cfg(feature = "mutations")]
    forgotten_fences: BTreeSet<LedgerId>,
}

impl Store {
    /// Opens what is in `dir`, or begins anew in an empty folder. The caller holds the folder's lock. Blocks; may be
    /// interrupted anywhere and called again.
    pub fn recover(
        disk: Arc<dyn Disk>,
        dir: &Path,
        mode: SyncMode,
        config: log::Config,
        identity: log::Identity,
        entropy: &Entropy,
        mutations: Mutations,
    ) -> Result<Self, log::RecoverError> {
        let log = log::open(disk, dir, mode, config, identity, entropy)?;
        #[cfg(feature = "mutations")]
        let forgotten_fences = match mutations.has(Mutation::FenceBitLostAtRestart) {
            true => log.writer.marks().iter().filter(|(_, m)| m.fenced.is_some()).map(|(ledger, _)| ledger).collect(),
            false => BTreeSet::new(),
        };
        Ok(Self {
            writer: log.writer,
            index: log.index,
            files: log.files,
            report: log.report,
            admission: Admission::All,
            out_of_files: false,
            placed: VecDeque::new(),
            pending: HashMap::new(),
            marked: BTreeMap::new(),
            deletions: VecDeque::new(),
            compaction: None,
            last_copy: GroupNumber::ZERO,
            not_movable: BTreeSet::new(),
            releasing: BTreeSet::new(),
            mutations,
            #[cfg(feature = "mutations")]
            forgotten_fences,
        })
    }

    /// What recovery found.
    pub const fn report(&self) -> &log::Report {
        &self.report
    }

    /// Makes a ledger known, durably.
    pub fn open(&mut self, open: &OpenLedger) -> Outcome<Result<(), Refusal>> {
        if self.writer.is_failed() {
            return Outcome::Now(Err(Refusal::Stopping));
        }
        match self.ledger(open.ledger).open(open) {
            Err(refusal) => Outcome::Now(Err(refusal)),
            Ok(_) if self.refuses(open.class) => Outcome::Now(Err(Refusal::ReadOnly)),
            Ok(Need::Nothing) => self.answer_after_marks(open.ledger, Ok(())),
            Ok(Need::Marks(marks)) => match self.mark(open.ledger, marks) {
                Ok(group) => Outcome::After(group),
                Err(error) => append_failed(error, self.out_of_files, |refusal| refusal),
            },
        }
    }

    /// Stores an entry.
    pub fn add(&mut self, add: &VerifiedAdd) -> AddOutcome {
        let AddEntry { ledger, entry, .. } = *add.get();
        if let Err(refusal) = self.admit(add.get()) {
            return AddOutcome::Now(Err(refusal));
        }
        if let Some(pending) = self.pending.get(&(ledger, entry)) {
            // Checksum and length stand for the body, which is in the group and not read back.
            return match pending.checksum == add.get().checksum && pending.body_bytes == add.get().body.len() {
                true => AddOutcome::Durable(pending.group),
                false => AddOutcome::Now(Err(Refusal::Conflict)),
            };
        }
        match self.index.get(ledger, entry) {
            Some(location) => AddOutcome::Compare(Comparison { ledger, entry, location }),
            None => self.append(add.get()),
        }
    }

    /// Stores an entry in place of one that can't be read.
    pub fn replace(&mut self, add: &VerifiedAdd) -> AddOutcome {
        if let Err(refusal) = self.admit(add.get()) {
            return AddOutcome::Now(Err(refusal));
        }
        match self.pending.contains_key(&(add.get().ledger, add.get().entry)) {
            true => self.add(add),
            false => self.append(add.get()),
        }
    }

    /// The LAC alone. It waits for the next group and costs no sync.
    pub fn advance_lac(&mut self, lac: &AdvanceLac) -> Result<(), Refusal> {
        if self.writer.is_failed() {
            return Err(Refusal::Stopping);
        }
        self.ledger(lac.ledger).admit_writer(lac.epoch)?;
        if self.lac(lac.ledger) < Some(lac.lac) {
            self.index.note_lac(lac.ledger, lac.lac);
            // Where there is no room it is kept in memory alone: the next entry brings a later one.
            let _ = self.writer.append_lac(lac.ledger, lac.lac);
        }
        Ok(())
    }

    /// Fences a ledger, durably (B2). One that was never seen is created, fenced (C7). Goes on while the bookie is read-only
    /// (B10).
    pub fn fence(&mut self, ledger: LedgerId, number: RecoveryNumber) -> Outcome<Result<FenceAnswer, ReadRefusal>> {
        match self.put_fence(ledger, number) {
            Outcome::Now(Ok(())) => {
                let stored = self.index.stored(ledger);
                Outcome::Now(Ok(FenceAnswer { lac: stored.lac, last: stored.last }))
            }
            Outcome::Now(Err(refusal)) => Outcome::Now(Err(refusal)),
            Outcome::After(group) => Outcome::After(group),
            Outcome::Full => Outcome::Full,
        }
    }

    /// Plans a read. A fencing one fences first (C1), and looks at what is here once the fence is durable: whatever the
    /// writer brought before it is durable by then as well, and nothing comes after it.
    pub fn read(&mut self, read: &ReadEntries) -> Outcome<Result<ReadPlan, ReadRefusal>> {
        if read.last < read.first || read.bytes_max == 0 {
            return Outcome::Now(Err(ReadRefusal::Invalid));
        }
        if let Some(number) = read.fence {
            match self.put_fence(read.ledger, number) {
                Outcome::Now(Ok(())) => {}
                Outcome::Now(Err(refusal)) => return Outcome::Now(Err(refusal)),
                Outcome::After(group) => return Outcome::After(group),
                Outcome::Full => return Outcome::Full,
            }
        }
        let ledger = self.ledger(read.ledger);
        let refused = self.mutations.has(Mutation::UnknownLedgerNotFenced) && read.fence.is_some();
        match ledger {
            Ledger::Known(Marks { deleted: true, .. }) => Outcome::Now(Err(ReadRefusal::Deleted)),
            Ledger::Unknown if !refused => Outcome::Now(Err(ReadRefusal::NoSuchLedger)),
            _ => Outcome::Now(Ok(ReadPlan::new(read, ledger.missing(), &self.index))),
        }
    }

    /// The highest LAC known.
    pub fn read_lac(&self, ledger: LedgerId) -> Result<Option<EntryId>, ReadRefusal> {
        match self.ledger(ledger) {
            Ledger::Known(Marks { deleted: true, .. }) => Err(ReadRefusal::Deleted),
            Ledger::Unknown => Err(ReadRefusal::NoSuchLedger),
            _ => Ok(self.lac(ledger)),
        }
    }

    /// Where an entry is, or the next one that is here.
    pub(crate) fn at_or_after(&self, ledger: LedgerId, entry: EntryId) -> Option<(EntryId, Location)> {
        self.index.at_or_after(ledger, entry)
    }

    /// Drops a ledger's entries and refuses it from then on. The caller has the proof of B9. Goes on while the bookie is
    /// read-only, and answers once the mark is durable.
    pub fn delete(&mut self, ledger: LedgerId) -> Outcome<Result<(), Refusal>> {
        let marks = match self.ledger(ledger) {
            // Nothing to drop, and nothing to remember: the tombstone stands in metadata.
            Ledger::Unknown => return Outcome::Now(Ok(())),
            Ledger::Known(marks) | Ledger::Doubtful(marks) => marks,
        };
        if marks.deleted {
            return self.answer_after_marks(ledger, Ok(()));
        }
        match self.mark(ledger, Marks { deleted: true, torn: None, in_doubt: false, ..marks }) {
            Ok(group) => {
                self.deletions.push_back((group, ledger));
                Outcome::After(group)
            }
            Err(error) => append_failed(error, self.out_of_files, |refusal| refusal),
        }
    }

    /// Metadata shows the ledger to be Closed: torn ends (C59).
    pub fn close(&mut self, ledger: LedgerId, last: Option<EntryId>) -> Outcome<Result<(), Refusal>> {
        let Ledger::Known(marks) = self.ledger(ledger) else { return Outcome::Now(Ok(())) };
        if marks.deleted || marks.closed.is_some() {
            return self.answer_after_marks(ledger, Ok(()));
        }
        let last = last.map_or(log::LastEntry::None, log::LastEntry::At);
        match self.mark(ledger, rules::closed(&marks, last)) {
            Ok(group) => Outcome::After(group),
            Err(error) => append_failed(error, self.out_of_files, |refusal| refusal),
        }
    }

    /// Ledgers that metadata will create from now on have ids of `next` or more, so a group that was lost before held none of
    /// theirs. Called after a recovery for which [`needs_bound`](Self::needs_bound): until then no unknown ledger is opened.
    pub fn bound_doubts(&mut self, next: LedgerId) -> Outcome<Result<(), Refusal>> {
        let doubts = self.writer.marks().doubts();
        let lower = |bound: Option<LedgerId>| bound.map(|bound| bound.min(next));
        let bounded = log::Doubts { torn_below: lower(doubts.torn_below), in_doubt_below: lower(doubts.in_doubt_below) };
        if bounded == doubts {
            return Outcome::Now(Ok(()));
        }
        match self.writer.append_doubts(bounded) {
            Ok(group) => Outcome::After(group),
            Err(error) => append_failed(error, self.out_of_files, |refusal| refusal),
        }
    }

    /// Whether a loss put every unknown ledger in doubt, for want of a bound on their ids.
    pub fn needs_bound(&self) -> bool {
        let doubts = self.writer.marks().doubts();
        let unbounded = Some(LedgerId::new(u64::MAX));
        doubts.torn_below == unbounded || doubts.in_doubt_below == unbounded
    }

    /// What is known of the ledgers after `after`, at most `limit` of them.
    pub fn list(&self, after: Option<LedgerId>, limit: usize) -> Vec<LedgerSummary> {
        let wanted = |ledger: &LedgerId| after.is_none_or(|after| *ledger > after);
        let mut ledgers: Vec<LedgerId> =
            self.writer.marks().iter().filter(|(_, marks)| !marks.deleted).map(|(ledger, _)| ledger).filter(wanted).collect();
        ledgers.truncate(limit);
        ledgers.into_iter().map(|ledger| self.summary(ledger)).collect()
    }

    /// What is known of one ledger.
    pub fn summary(&self, ledger: LedgerId) -> LedgerSummary {
        let stored = self.index.stored(ledger);
        let marks = self.writer.marks().get(ledger).copied().unwrap_or_default();
        LedgerSummary {
            ledger,
            entries: stored.entries,
            bytes: stored.bytes,
            last: stored.last,
            lac: stored.lac,
            fenced: marks.fenced,
            torn: marks.torn.is_some(),
        }
    }

    /// Forgets a deleted ledger's marks, once no file holds a frame of it. The caller knows that its tombstone is gone (C27).
    pub fn forget(&mut self, ledger: LedgerId) -> Outcome<Result<(), Refusal>> {
        let Some(Marks { deleted: true, .. }) = self.writer.marks().get(ledger) else { return Outcome::Now(Ok(())) };
        if let Some(marked) = self.marked.get(&ledger) {
            return Outcome::After(marked.newest);
        }
        if self.index.holds(ledger) {
            return Outcome::Now(Err(Refusal::Busy));
        }
        match self.writer.forget(ledger, &self.index) {
            Ok(group) => Outcome::After(group),
            Err(error) => append_failed(error, self.out_of_files, |refusal| refusal),
        }
    }

    /// The rights to let go of files in which nothing is alive and whose marks stand in a later one.
    pub fn release_dead(&mut self) -> Vec<Release> {
        let moving = self.compaction.as_ref().map(|(file, _)| *file);
        let dead = self.index.files().filter(|(file, usage)| usage.entries == 0 && Some(*file) != moving);
        let rights: Vec<Release> = dead
            .filter(|(file, _)| !self.releasing.contains(file))
            .filter_map(|(file, _)| self.writer.release(file, &self.index).ok())
            .collect();
        self.releasing.extend(rights.iter().map(|release| release.file));
        rights
    }

    /// A file went.
    pub fn released(&mut self, released: Released) {
        self.releasing.remove(&released.file);
        self.index.remove_file(released);
    }

    /// Begins to move what is alive out of the file of which the least is, if that is at most `share_percent` of
    /// `file_bytes` and it isn't the active one. Says which; one that is being emptied is gone on with.
    pub fn begin_compaction(&mut self, file_bytes: u64, share_percent: u8) -> Option<FileId> {
        if let Some((file, _)) = &self.compaction {
            return Some(*file);
        }
        let active = self.writer.active_file();
        let limit = file_bytes / 100 * u64::from(share_percent);
        let (file, _) = self
            .index
            .files()
            .filter(|(file, usage)| *file < active && usage.entries > 0 && usage.bytes <= limit)
            .filter(|(file, _)| !self.not_movable.contains(file))
            .min_by_key(|(_, usage)| usage.bytes)?;
        self.compaction = Some((file, Compaction::of(file, &self.index)));
        Some(file)
    }

    /// The next entry to move, to be read by the caller.
    pub fn next_copy(&mut self) -> Option<log::Copy> {
        self.compaction.as_mut()?.1.next(&self.index)
    }

    /// The entry was read: it is appended like any other.
    pub fn copy(&mut self, frame: &Frame) -> Outcome<Result<(), Refusal>> {
        let Some((_, compaction)) = &mut self.compaction else { return Outcome::Now(Ok(())) };
        match self.writer.append_entry(&frame.head, &frame.body) {
            Ok(placed) => {
                self.last_copy = placed.group;
                compaction.copied(placed);
                Outcome::Now(Ok(()))
            }
            Err(error) => append_failed(error, self.out_of_files, |refusal| refusal),
        }
    }

    /// The entry can't be read: it stays, and its file with it (C30).
    pub fn skip_copy(&mut self) {
        if let Some((_, compaction)) = &mut self.compaction {
            compaction.skipped();
        }
    }

    /// Ends a compaction, once all that was copied is durable.
    pub fn finish_compaction(&mut self) -> Outcome<Result<(), Refusal>> {
        if let Some((file, compaction)) = &self.compaction {
            if !compaction.is_done() {
                return Outcome::After(self.last_copy);
            }
            if compaction.unreadable() > 0 {
                self.not_movable.insert(*file);
            }
        }
        self.compaction = None;
        Outcome::Now(Ok(()))
    }

    /// What the disk leaves room for from now on.
    pub const fn set_admission(&mut self, admission: Admission) {
        self.admission = admission;
    }

    /// What is taken at the moment.
    pub const fn admission(&self) -> Admission {
        self.admission
    }

    /// Takes the group to be written next, if none is being written and there is something to write.
    pub fn begin(&mut self) -> Option<GroupWrite> {
        self.writer.begin()
    }

    /// The group is durable, and with it all that waited for it or for earlier ones. Its entries can be read from now on.
    pub fn complete(&mut self, write: GroupWrite) -> GroupNumber {
        let durable = self.writer.complete(write);
        while let Some((_, ledger, entry, location)) = self.placed.pop_front_if(|(group, ..)| *group <= durable) {
            self.index.insert(ledger, entry, location);
            self.pending.remove(&(ledger, entry));
        }
        while let Some((_, ledger)) = self.deletions.pop_front_if(|(group, _)| *group <= durable) {
            self.index.remove_ledger(ledger);
        }
        self.marked.retain(|_, marked| {
            marked.first = marked.first.filter(|first| *first > durable);
            marked.newest > durable
        });
        if let Some((_, compaction)) = &mut self.compaction {
            compaction.durable(durable, &mut self.index);
        }
        durable
    }

    /// The group's write or sync failed: nothing is acknowledged any more, ever, by this store (B8). The process ends.
    pub fn complete_failed(&mut self, write: GroupWrite, error: &io::Error) {
        self.writer.complete_failed(write, error);
    }

    /// Up to where everything is durable.
    pub fn durable(&self) -> GroupNumber {
        self.writer.durable()
    }

    /// Gives the file that comes after the active one, where [`wants_file`](Self::wants_file).
    pub fn offer(&mut self, next: Prepared) {
        self.out_of_files = false;
        self.writer.offer(next);
    }

    /// There is no room for a next file: what needs one is refused instead of put off, until one is offered.
    pub const fn out_of_files(&mut self) {
        self.out_of_files = true;
    }

    /// Whether the next file should be prepared.
    pub fn wants_file(&self) -> bool {
        self.writer.wants_file()
    }

    /// The log's end: marks, seals, and what to do when idle.
    pub const fn writer_mut(&mut self) -> &mut Writer {
        &mut self.writer
    }

    /// The log's end, to look at.
    pub const fn writer(&self) -> &Writer {
        &self.writer
    }

    /// Where every entry is.
    pub const fn index(&self) -> &Index {
        &self.index
    }

    /// The log's files.
    pub const fn files(&self) -> &Arc<Files> {
        &self.files
    }

    fn ledger(&self, ledger: LedgerId) -> Ledger {
        let has_entries = self.index.stored(ledger).entries > 0;
        let known = Ledger::of(self.writer.marks(), ledger, has_entries);
        #[cfg(feature = "mutations")]
        if let Ledger::Known(marks) = known
            && self.forgotten_fences.contains(&ledger)
        {
            return Ledger::Known(Marks { fenced: None, ..marks });
        }
        known
    }

    fn lac(&self, ledger: LedgerId) -> Option<EntryId> {
        self.index.stored(ledger).lac
    }

    /// Whether a ledger of this class is not written to at the moment by its writer.
    fn refuses(&self, class: LedgerClass) -> bool {
        match class {
            LedgerClass::Bulk => self.admission > Admission::All,
            LedgerClass::Essential => self.admission > Admission::Essential,
        }
    }

    fn admit(&self, add: &AddEntry) -> Result<(), Refusal> {
        if self.writer.is_failed() {
            return Err(Refusal::Stopping);
        }
        let ledger = self.ledger(add.ledger);
        ledger.admit(&add.adder)?;
        if self.marked.get(&add.ledger).is_some_and(|marked| marked.first.is_some()) {
            return Err(Refusal::UnknownLedger);
        }
        let refused = match add.adder {
            Adder::Writer { .. } => self.refuses(ledger.class()),
            // What makes a ledger whole again lives on the reserve, whatever it is for (B10).
            Adder::Recovery { .. } => self.refuses(LedgerClass::Essential),
        };
        if refused { Err(Refusal::ReadOnly) } else { Ok(()) }
    }

    fn append(&mut self, add: &AddEntry) -> AddOutcome {
        let lac = match add.adder {
            Adder::Writer { .. } => add.lac,
            Adder::Recovery { .. } if self.mutations.has(Mutation::RecoveryLacCounts) => add.lac,
            // A recovery's LAC may run ahead of what is on Qa members of the real ensemble (C13).
            Adder::Recovery { .. } => None,
        };
        let head = EntryHead { lac, ..EntryHead::from(add) };
        let placed = match self.writer.append_entry(&head, &add.body) {
            Ok(placed) => placed,
            Err(error) => {
                return match append_failed::<(), Refusal>(error, self.out_of_files, |refusal| refusal) {
                    Outcome::Now(answer) => AddOutcome::Now(answer),
                    Outcome::After(_) | Outcome::Full => AddOutcome::Full,
                };
            }
        };
        if let Some(lac) = lac {
            self.index.note_lac(add.ledger, lac);
        }
        self.placed.push_back((placed.group, add.ledger, add.entry, placed.location));
        let pending = Pending { group: placed.group, checksum: add.checksum, body_bytes: add.body.len() };
        self.pending.insert((add.ledger, add.entry), pending);
        if self.mutations.has(Mutation::AckBeforeSync) {
            return AddOutcome::Now(Ok(()));
        }
        AddOutcome::Durable(placed.group)
    }

    /// Fences; `Now(Ok)` once the fence is durable.
    fn put_fence(&mut self, ledger: LedgerId, number: RecoveryNumber) -> Outcome<Result<(), ReadRefusal>> {
        if self.writer.is_failed() {
            return Outcome::Now(Err(ReadRefusal::Stopping));
        }
        let known = self.ledger(ledger);
        if self.mutations.has(Mutation::UnknownLedgerNotFenced) && known == Ledger::Unknown {
            return Outcome::Now(Ok(()));
        }
        match known.fence(number) {
            Err(refusal) => Outcome::Now(Err(refusal)),
            Ok(Need::Nothing) => self.answer_after_marks(ledger, Ok(())),
            Ok(Need::Marks(marks)) => match self.mark(ledger, marks) {
                Ok(group) => Outcome::After(group),
                Err(error) => append_failed(error, self.out_of_files, |refusal| match refusal {
                    Refusal::Stopping => ReadRefusal::Stopping,
                    _ => ReadRefusal::Busy,
                }),
            },
        }
    }

    /// Makes these the marks of a ledger.
    fn mark(&mut self, ledger: LedgerId, marks: Marks) -> Result<GroupNumber, AppendError> {
        let is_new = self.writer.marks().get(ledger).is_none();
        #[cfg(feature = "mutations")]
        let marks = match self.writer.marks().get(ledger) {
            // The log never takes a fence back, not even a forgotten one.
            Some(before) => Marks { fenced: marks.fenced.max(before.fenced), ..marks },
            None => marks,
        };
        let group = self.writer.append_marks(ledger, marks)?;
        #[cfg(feature = "mutations")]
        if marks.fenced.is_some() {
            self.forgotten_fences.remove(&ledger);
        }
        let first = is_new.then_some(group);
        self.marked.entry(ledger).and_modify(|marked| marked.newest = group).or_insert(Marked { newest: group, first });
        Ok(group)
    }

    /// The answer, once the ledger's newest marks are durable.
    fn answer_after_marks<A>(&self, ledger: LedgerId, answer: A) -> Outcome<A> {
        match self.marked.get(&ledger) {
            Some(marked) => Outcome::After(marked.newest),
            None => Outcome::Now(answer),
        }
    }
}

/// What a failed append means to the asker.
fn append_failed<A, E>(error: AppendError, out_of_files: bool, refusal: impl Fn(Refusal) -> E) -> Outcome<Result<A, E>> {
    match error {
        AppendError::NoFile if out_of_files => Outcome::Now(Err(refusal(Refusal::ReadOnly))),
        AppendError::Full | AppendError::NoFile => Outcome::Full,
        AppendError::TooLarge { .. } => Outcome::Now(Err(refusal(Refusal::TooLarge))),
        AppendError::TooManyLedgers => Outcome::Now(Err(refusal(Refusal::ReadOnly))),
        AppendError::Failed => Outcome::Now(Err(refusal(Refusal::Stopping))),
    }
}
