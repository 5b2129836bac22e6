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
mod adds;
mod answer;
mod ends;
mod files;
mod reads;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::io;
use std::path::Path;
use std::sync::Arc;

use alluvium_runtime::disk::{Disk, SyncMode};
use alluvium_runtime::entropy::Entropy;
use alluvium_types::checksum::Crc32c;
use alluvium_types::ids::{EntryId, LedgerId};

pub use answer::{AddOutcome, Compared, Comparison, Outcome, VerifiedAdd};

use crate::log::{
    self, AppendError, Compaction, FileId, Files, GroupNumber, GroupWrite, Index, Location, Marks, Prepared, Writer,
};
#[cfg(feature = "mutations")]
use crate::mutation::Mutation;
use crate::mutation::Mutations;
use crate::rules::Ledger;
use crate::space::Admission;

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
