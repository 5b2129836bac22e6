//! A bookie: the product's store and log on a disk that loses what was not synced, with time for every group.
//!
//! This is the shell around [`Store`] that `bookie.rs` is in production: it parks what has to wait, moves groups to the disk,
//! and decides nothing.

use std::collections::VecDeque;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use alluvium_bookie::identity::{self, Identity, LOG_DIR};
use alluvium_bookie::log::{self, GroupNumber, GroupWrite, Mark, Marks, PrepareError};
use alluvium_bookie::mutation::Mutations;
use alluvium_bookie::space::Admission;
use alluvium_bookie::store::{AddOutcome, Compared, Outcome, Store, VerifiedAdd};
use alluvium_ledger::call::{Answer, Request};
use alluvium_runtime::disk::sim::SimDisk;
use alluvium_runtime::disk::{Disk, SyncMode};
use alluvium_runtime::entropy::Entropy;
use alluvium_types::bookie::{AddEntry, Adder, LedgerSummary, ReadAnswer, ReadEntries, ReadRefusal, Refusal};
use alluvium_types::checksum::Crc32c;
use alluvium_types::entry::entry_checksum;
use alluvium_types::ids::{ClusterId, EntryId, Incarnation, LedgerId};
use alluvium_types::ledger::BookieId;
use alluvium_types::names::BookieName;

/// The largest body of a run; the limits of the simulated log follow from it.
pub(crate) const BODY_BYTES_MAX: usize = 6000;
/// What a group is closed at.
const GROUP_BYTES: usize = 8192;
/// Room on the disk: more than a run can fill.
const DISK_BYTES: u64 = 4 << 30;
const DIR: &str = "/bookie";

/// A request that has arrived, with the way back.
#[derive(Clone, Debug)]
pub(crate) struct Arrived<F> {
    pub(crate) from: F,
    pub(crate) request: Request,
}

/// An answer on its way out.
#[derive(Debug)]
pub(crate) struct Outgoing<F> {
    pub(crate) to: Arrived<F>,
    pub(crate) answer: Answer,
}

/// How a process ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum End {
    /// With its machine.
    PowerCut,
    /// Alone.
    Kill,
}

/// What metadata's record of a ledger means to one bookie.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// It stays.
    Keep,
    /// It stays, and ends here.
    Closed(Option<EntryId>),
    /// It may go (B9).
    Dead,
}

/// One bookie; `F` is how it names who asks.
pub(crate) struct Bookie<F> {
    name: BookieName,
    disk: SimDisk,
    mode: SyncMode,
    config: log::Config,
    mutations: Mutations,
    entropy: Entropy,
    /// What metadata knows of the name: the last incarnation that started.
    registered: Option<Incarnation>,
    running: Option<Running<F>>,
    /// Rises with each start, so that what was under way before it is recognised.
    pub(crate) boot: u64,
    /// Whether durable bytes of this incarnation were changed under it.
    pub(crate) rotted: bool,
}

impl<F> fmt::Debug for Bookie<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.name)
    }
}

struct Running<F> {
    id: BookieId,
    store: Store,
    reader: log::Reader,
    in_flight: Option<GroupWrite>,
    /// Answered `Ok` once their groups are durable.
    durable_then_ok: VecDeque<(GroupNumber, Arrived<F>)>,
    /// Asked again once their groups are durable.
    durable_then_again: VecDeque<(GroupNumber, Arrived<F>)>,
    /// Asked again once there is room.
    full: VecDeque<Arrived<F>>,
    answers: VecDeque<Outgoing<F>>,
}

impl<F: Clone> Bookie<F> {
    pub(crate) fn new(name: BookieName, mode: SyncMode, file_bytes: usize, mutations: Mutations, entropy: Entropy) -> Self {
        let config = log::Config {
            file_bytes: file_bytes as u64,
            group_bytes: GROUP_BYTES,
            pool_files: 2,
            read_bytes: 64 << 10,
            prewrite: false,
            body_bytes_max: BODY_BYTES_MAX,
            ..log::Config::default()
        };
        assert_eq!(config.validate(), Vec::<String>::new(), "the simulated log is well configured");
        Self {
            name,
            disk: SimDisk::new(entropy.clone(), DISK_BYTES),
            mode,
            config,
            mutations,
            entropy,
            registered: None,
            running: None,
            boot: 0,
            rotted: false,
        }
    }

    pub(crate) const fn is_up(&self) -> bool {
        self.running.is_some()
    }

    /// Who answers here now.
    pub(crate) fn id(&self) -> Option<&BookieId> {
        self.running.as_ref().map(|running| &running.id)
    }

    /// The last incarnation that started here, whether it is up or not.
    pub(crate) fn last_id(&self) -> Option<BookieId> {
        self.registered.map(|incarnation| BookieId { name: self.name.clone(), incarnation })
    }

    /// Starts: takes its identity, recovers its log. A crash in the middle of it, `struck` calls on, is survived by another
    /// start.
    pub(crate) fn start(&mut self, struck: Option<u64>) {
        if let Some(calls) = struck {
            self.disk.crash_in(calls);
            if self.try_start().is_ok() {
                // It was done before the crash struck.
                self.running = None;
            }
            self.disk.crash();
        }
        let running = self.try_start().or_else(|_| {
            // A disk that fails once is a process that ends once (B8).
            self.disk.kill_process();
            self.try_start()
        });
        self.running = Some(running.expect("nothing keeps a bookie from starting twice"));
        self.boot += 1;
    }

    fn try_start(&mut self) -> Result<Running<F>, String> {
        let dir = Path::new(DIR);
        let said = |error: &dyn std::error::Error| format!("{error} ({:?})", error.source().map(ToString::to_string));
        let found = Identity::read(&self.disk, dir).map_err(|e| said(&e))?;
        let is_new = found.is_none();
        let wanted = Identity {
            cluster: ClusterId::new(uuid::Uuid::from_u128(1)),
            bookie: self.name.clone(),
            incarnation: Incarnation::new(self.entropy.uuid()),
            log_begun: false,
        };
        let (identity, _) = identity::decide(dir, found, &wanted, self.registered, self.mutations).map_err(|e| said(&e))?;
        if is_new {
            identity.write(&self.disk, dir).map_err(|e| said(&e))?;
        }
        // Metadata is told before the log is begun.
        self.registered = Some(identity.incarnation);
        let log_dir: PathBuf = dir.join(LOG_DIR);
        let log_identity = log::Identity { cluster: identity.cluster, incarnation: identity.incarnation };
        let store = Store::recover(
            Arc::new(self.disk.clone()),
            &log_dir,
            self.mode,
            self.config.clone(),
            log_identity,
            &self.entropy,
            self.mutations,
        )
        .map_err(|e| said(&e))?;
        if !identity.log_begun {
            Identity { log_begun: true, ..identity.clone() }.write(&self.disk, dir).map_err(|e| said(&e))?;
        }
        let reader = log::Reader::new(Arc::clone(store.files()));
        Ok(Running {
            id: BookieId { name: identity.bookie, incarnation: identity.incarnation },
            store,
            reader,
            in_flight: None,
            durable_then_ok: VecDeque::new(),
            durable_then_again: VecDeque::new(),
            full: VecDeque::new(),
            answers: VecDeque::new(),
        })
    }

    /// The process ends in the middle of things: a group on its way to the disk is struck at the `calls`-th call that writes it.
    /// With the machine's power goes what was written and not synced; without, it stays, as it does after a kill.
    pub(crate) fn crash(&mut self, calls: u64, end: End) {
        if let Some(Running { store, in_flight: Some(write), .. }) = &self.running {
            self.disk.crash_in(calls);
            // It fails where it is struck.
            let _ = store.files().write(write);
        }
        self.running = None;
        match end {
            End::PowerCut => self.disk.crash(),
            End::Kill => self.disk.kill_process(),
        }
    }

    /// The next group does not get to the disk: the disk says so, once.
    pub(crate) fn fail_next_write(&self) {
        match self.mode {
            SyncMode::Direct => self.disk.fail_write_in(1),
            SyncMode::Buffered => self.disk.fail_sync_in(1),
        }
    }

    /// Whether a group is on its way to the disk.
    pub(crate) fn is_writing(&self) -> bool {
        self.running.as_ref().is_some_and(|running| running.in_flight.is_some())
    }

    /// Whether the disk failed under the log, so that the process has to end (B8).
    pub(crate) fn has_failed(&self) -> bool {
        self.running.as_ref().is_some_and(|running| running.store.writer().is_failed())
    }

    /// Takes only what is essential from now on, as if the disk were nearly full; or everything again (B10).
    pub(crate) fn set_read_only(&mut self, is_read_only: bool) {
        if let Some(running) = &mut self.running {
            running.store.set_admission(if is_read_only { Admission::Essential } else { Admission::All });
        }
    }

    /// One round of housekeeping, by what metadata says of each ledger: dead ones are dropped, closed ones noted, files without
    /// life go, and of mostly dead ones the rest is moved.
    pub(crate) fn tidy(&mut self, verdict: impl Fn(LedgerId) -> Verdict, compact: bool) {
        let file_bytes = self.config.file_bytes;
        if let Some(running) = &mut self.running {
            running.tidy(verdict);
            if compact {
                running.compact(file_bytes);
            }
        }
    }

    /// Tries to put another body in the place of an entry that is on disk. Whether it was taken, which breaks B5.
    pub(crate) fn takes_another_body(&mut self, ledger: LedgerId, entry: EntryId, adder: Adder) -> bool {
        let Some(running) = &mut self.running else { return false };
        let body = bytes::Bytes::from_static(b"not what was appended");
        let checksum = entry_checksum(ledger, entry, Crc32c::of(&body), body.len());
        let add = AddEntry { ledger, entry, adder, lac: None, body, checksum };
        let add = VerifiedAdd::check(add, BODY_BYTES_MAX).expect("a sound entry");
        match running.store.add(&add) {
            AddOutcome::Now(answer) => answer.is_ok(),
            AddOutcome::Durable(_) => true,
            AddOutcome::Compare(comparison) => comparison.run(&running.reader, &add) == Compared::Same,
            AddOutcome::Full => false,
        }
    }

    /// The disk is replaced by an empty one.
    pub(crate) fn wipe(&mut self) {
        self.running = None;
        self.disk.wipe();
        self.rotted = false;
    }

    /// Flips bits somewhere in the log. Whether there was something to flip.
    pub(crate) fn rot(&mut self) -> bool {
        let log_dir = Path::new(DIR).join(LOG_DIR);
        let Ok(files) = self.disk.list(&log_dir) else { return false };
        if files.is_empty() {
            return false;
        }
        let file = &files[usize::try_from(self.entropy.below(files.len() as u64)).expect("few files")];
        // Where nothing was written yet, rot changes nothing.
        let blocks: Vec<u64> = (0..self.config.file_bytes / 512)
            .filter(|block| self.disk.durable_bytes(file, block * 512..(block + 1) * 512).iter().any(|byte| *byte != 0))
            .collect();
        if blocks.is_empty() {
            return false;
        }
        let block = blocks[usize::try_from(self.entropy.below(blocks.len() as u64)).expect("few blocks")];
        self.disk.rot(file, block * 512..(block + 1) * 512);
        self.rotted = true;
        true
    }

    /// Takes a request.
    pub(crate) fn ask(&mut self, arrived: Arrived<F>) {
        if let Some(running) = &mut self.running {
            running.ask(arrived);
        }
    }

    /// Begins to write the next group, if it is time. Returns whether one is on its way to the disk from now on.
    pub(crate) fn begin(&mut self) -> bool {
        self.running.as_mut().is_some_and(Running::begin)
    }

    /// The group that was on its way is on the disk.
    pub(crate) fn complete(&mut self) {
        if let Some(running) = &mut self.running {
            running.complete();
        }
    }

    /// The next answer that is due.
    pub(crate) fn poll_answer(&mut self) -> Option<Outgoing<F>> {
        self.running.as_mut()?.answers.pop_front()
    }

    /// Whether the log has been idle and its last group is not sealed by a mark.
    pub(crate) fn wants_idle_mark(&self) -> bool {
        self.running.as_ref().is_some_and(|running| running.in_flight.is_none() && running.store.writer().is_unmarked())
    }

    /// Marks the end of the log as durable (C59).
    pub(crate) fn mark_idle(&mut self) {
        if let Some(running) = &mut self.running {
            running.store.writer_mut().mark(Mark::Idle);
        }
    }

    /// Whether a loss leaves every unknown ledger in doubt until a bound on their ids is known.
    pub(crate) fn needs_bound(&self) -> bool {
        self.running.as_ref().is_some_and(|running| running.store.needs_bound())
    }

    /// Ledgers created from now on have ids of `next` or more.
    pub(crate) fn bound_doubts(&mut self, next: LedgerId) {
        if let Some(running) = &mut self.running {
            // Where there is no room now, the next start asks again: until then it is only more careful than it has to be.
            let _ = running.store.bound_doubts(next);
        }
    }

    /// What is on the disk of a ledger, without a fence: for checks.
    pub(crate) fn look(&mut self, ledger: LedgerId, first: EntryId, last: EntryId) -> Option<Result<ReadAnswer, ReadRefusal>> {
        self.running.as_mut().map(|running| running.look(ledger, first, last))
    }

    /// The LAC that this bookie would tell a reader.
    pub(crate) fn lac(&self, ledger: LedgerId) -> Option<EntryId> {
        self.running.as_ref().and_then(|running| running.store.read_lac(ledger).ok().flatten())
    }

    /// Ledgers in id order, behind `after`.
    pub(crate) fn list(&self, after: Option<LedgerId>, limit: usize) -> Vec<LedgerSummary> {
        self.running.as_ref().map_or_else(Vec::new, |running| running.store.list(after, limit))
    }

    /// Whether the ledger is marked as fenced here.
    pub(crate) fn is_fenced(&self, ledger: LedgerId) -> bool {
        self.running.as_ref().is_some_and(|running| running.store.summary(ledger).fenced.is_some())
    }
}

impl<F: Clone> Running<F> {
    fn ask(&mut self, arrived: Arrived<F>) {
        match &arrived.request {
            Request::Open(open) => match self.store.open(open) {
                Outcome::Now(answer) => self.answer(arrived, Answer::Open(answer)),
                Outcome::After(group) => wait(&mut self.durable_then_again, group, arrived),
                Outcome::Full => self.full.push_back(arrived),
            },
            Request::Add(add) => match VerifiedAdd::check(add.clone(), BODY_BYTES_MAX) {
                Err(refusal) => self.answer(arrived, Answer::Add(Err(refusal))),
                Ok(add) => {
                    let outcome = self.store.add(&add);
                    self.added(arrived, &add, outcome);
                }
            },
            // Not answered, and of no consequence where it is refused.
            Request::AdvanceLac(lac) => drop(self.store.advance_lac(lac)),
            Request::Read(read) => match self.store.read(read) {
                Outcome::Now(Ok(plan)) => match plan.run(&self.reader) {
                    Ok(done) => self.answer(arrived, Answer::Read(Ok(done.answer))),
                    Err(_) => self.ask(arrived),
                },
                Outcome::Now(Err(refusal)) => self.answer(arrived, Answer::Read(Err(refusal))),
                Outcome::After(group) => wait(&mut self.durable_then_again, group, arrived),
                Outcome::Full => self.full.push_back(arrived),
            },
            Request::Fence(fence) => match self.store.fence(fence.ledger, fence.number) {
                Outcome::Now(answer) => self.answer(arrived, Answer::Fence(answer)),
                Outcome::After(group) => wait(&mut self.durable_then_again, group, arrived),
                Outcome::Full => self.full.push_back(arrived),
            },
        }
    }

    fn added(&mut self, arrived: Arrived<F>, add: &VerifiedAdd, outcome: AddOutcome) {
        match outcome {
            AddOutcome::Now(answer) => self.answer(arrived, Answer::Add(answer)),
            AddOutcome::Durable(group) => wait(&mut self.durable_then_ok, group, arrived),
            AddOutcome::Full => self.full.push_back(arrived),
            AddOutcome::Compare(comparison) => match comparison.run(&self.reader, add) {
                Compared::Same => self.answer(arrived, Answer::Add(Ok(()))),
                Compared::Different => self.answer(arrived, Answer::Add(Err(Refusal::Conflict))),
                Compared::Moved => self.ask(arrived),
                Compared::Unreadable => {
                    let outcome = self.store.replace(add);
                    self.added(arrived, add, outcome);
                }
            },
        }
    }

    fn answer(&mut self, to: Arrived<F>, answer: Answer) {
        self.answers.push_back(Outgoing { to, answer });
    }

    fn begin(&mut self) -> bool {
        self.provide_file();
        if self.in_flight.is_some() {
            return false;
        }
        self.in_flight = self.store.begin();
        for waiting in std::mem::take(&mut self.full) {
            self.ask(waiting);
        }
        self.in_flight.is_some()
    }

    fn provide_file(&mut self) {
        while !self.store.writer().is_failed() && self.store.wants_file() {
            match self.store.files().prepare_next() {
                Ok(next) => self.store.offer(next),
                Err(PrepareError::NoSpace) => unreachable!("the disk has room"),
                Err(PrepareError::Io { .. }) => self.store.writer_mut().fail(),
            }
        }
    }

    fn complete(&mut self) {
        let Some(write) = self.in_flight.take() else { return };
        let durable = match self.store.files().write(&write) {
            Ok(()) => self.store.complete(write),
            Err(error) => return self.store.complete_failed(write, &error),
        };
        while let Some((_, arrived)) = self.durable_then_ok.pop_front_if(|(group, _)| *group <= durable) {
            self.answer(arrived, Answer::Add(Ok(())));
        }
        while let Some((_, arrived)) = self.durable_then_again.pop_front_if(|(group, _)| *group <= durable) {
            self.ask(arrived);
        }
        if let Some(seal) = self.store.writer_mut().take_seal()
            && self.store.files().write_seal(&seal).is_err()
        {
            self.store.writer_mut().fail();
        }
    }

    fn tidy(&mut self, verdict: impl Fn(LedgerId) -> Verdict) {
        let marks: Vec<(LedgerId, Marks)> = self.store.writer().marks().iter().map(|(l, marks)| (l, *marks)).collect();
        for (ledger, marks) in marks {
            // What finds no room now is found again in the next round.
            let _ = match verdict(ledger) {
                Verdict::Dead if !marks.deleted => self.store.delete(ledger),
                Verdict::Closed(last) if !marks.deleted && marks.closed.is_none() => self.store.close(ledger, last),
                Verdict::Dead | Verdict::Closed(_) | Verdict::Keep => continue,
            };
        }
        for release in self.store.release_dead() {
            match self.store.files().release(release) {
                Ok(released) => self.store.released(released),
                Err(_) => self.store.writer_mut().fail(),
            }
        }
    }

    /// Moves what lives in the emptiest file, as far as there is room; the next round goes on.
    fn compact(&mut self, file_bytes: u64) {
        if self.store.begin_compaction(file_bytes, 60).is_none() {
            return;
        }
        while let Some(copy) = self.store.next_copy() {
            match self.reader.read(copy.ledger, copy.entry, copy.from) {
                Err(_) => self.store.skip_copy(),
                Ok(frame) => {
                    if self.store.copy(&frame) != Outcome::Now(Ok(())) {
                        return;
                    }
                }
            }
        }
        // If the copies are not durable yet, the next round ends it.
        let _ = self.store.finish_compaction();
    }

    fn look(&mut self, ledger: LedgerId, first: EntryId, last: EntryId) -> Result<ReadAnswer, ReadRefusal> {
        let read = ReadEntries { ledger, first, last, bytes_max: usize::MAX / 2, fence: None };
        match self.store.read(&read) {
            Outcome::Now(plan) => plan.map(|plan| plan.run(&self.reader).expect("nothing moves while we look").answer),
            Outcome::After(_) | Outcome::Full => unreachable!("a read without a fence writes nothing"),
        }
    }
}

/// A repeated request may wait for an earlier group than the last one; it is then told with that one.
fn wait<F>(queue: &mut VecDeque<(GroupNumber, Arrived<F>)>, group: GroupNumber, arrived: Arrived<F>) {
    let group = queue.back().map_or(group, |(last, _)| group.max(*last));
    queue.push_back((group, arrived));
}
