//! The bookie as others hold it: a cheap handle, a short lock per request, one thread that writes groups and one that keeps
//! files ready. Reads run elsewhere and never hold the lock while they touch the disk.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use alluvium_metadata::bookies::BookieInfo;
use alluvium_runtime::budget::{ByteBudget, BytesHeld};
use alluvium_runtime::clock::Clock;
use alluvium_runtime::disk::real::DirLock;
use alluvium_runtime::disk::{Disk, Space, SyncMode};
use alluvium_runtime::entropy::Entropy;
use alluvium_runtime::tasks::{OnFailure, Tasks};
use alluvium_types::bookie::{
    AddEntry, AdvanceLac, FenceAnswer, Find, LedgerSummary, OpenLedger, ReadAnswer, ReadEntries, ReadRefusal, Refusal,
};
use alluvium_types::entry::EntryRange;
use alluvium_types::ids::{EntryId, LedgerId, RecoveryNumber};
use alluvium_types::names::ZoneName;
use parking_lot::{Condvar, Mutex};
use tokio::sync::{Notify, Semaphore, oneshot, watch};

use crate::add_stream::AddStream;
use crate::config::Config;
use crate::files_thread;
use crate::find::Search;
use crate::identity::{Identity, LOG_DIR};
use crate::log::{GroupNumber, ReadError, Reader, RecoverError, Report};
use crate::log_thread;
use crate::metrics::Metrics;
use crate::read_plan::ReadDone;
use crate::shared::{Life, Shared, State};
use crate::space::{Admission, SpaceGauge};
use crate::store::{AddOutcome, Compared, Comparison, Outcome, Store, VerifiedAdd};
use crate::waiters::{Waiter, Waiters};

/// How often a read is planned again because compaction moved what it wanted.
const MOVED_TRIES: usize = 16;

/// What a bookie is made of.
#[derive(Debug)]
pub struct Parts {
    /// Its settings, valid.
    pub config: Config,
    /// Whose directory it is, decided.
    pub identity: Identity,
    /// Where its directory is.
    pub disk: Arc<dyn Disk>,
    /// How writes become durable there.
    pub mode: SyncMode,
    /// The lock of the directory; it is held until both threads have ended.
    pub lock: Option<DirLock>,
    /// Time.
    pub clock: Clock,
    /// Chance.
    pub entropy: Entropy,
    /// Whose stop is the bookie's.
    pub tasks: Tasks,
    /// Its figures.
    pub metrics: Metrics,
}

/// A cheap handle to a running bookie.
#[derive(Clone, Debug)]
pub struct Bookie {
    shared: Arc<Shared>,
}

/// A bookie in a few figures.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stats {
    /// Whose directory it is.
    pub identity: Identity,
    /// What the last start found.
    pub report: Report,
    /// What is taken at the moment.
    pub admission: Admission,
    /// The room.
    pub space: Space,
    /// Ledgers with marks here.
    pub ledgers: usize,
    /// Up to where the log is durable.
    pub durable: GroupNumber,
}

/// What the first try of an add came to.
enum Tried {
    Answered(Result<(), Refusal>),
    Waits,
    Compare(Comparison),
    Full,
}

impl Bookie {
    /// Recovers the log and starts the threads. Blocks.
    pub fn open(parts: Parts) -> Result<Self, RecoverError> {
        let Parts { config, identity, disk, mode, lock, clock, entropy, tasks, metrics } = parts;
        let log_dir = config.data_dir.join(LOG_DIR);
        let owner = crate::log::Identity { cluster: identity.cluster, incarnation: identity.incarnation };
        let store = Store::recover(Arc::clone(&disk), &log_dir, mode, config.log.clone(), owner, &entropy, config.mutations)?;
        report(store.report(), &metrics);
        let files = Arc::clone(store.files());
        let info = BookieInfo {
            zone: ZoneName::parse(&config.zone).ok(),
            address: String::new(),
            writable: true,
            total_bytes: 0,
            available_bytes: 0,
        };
        let state = State {
            store,
            life: Life::Running,
            waiters: Waiters::default(),
            lac_waiters: std::collections::BTreeMap::new(),
            lac_waiting: 0,
            gauge: SpaceGauge::new(config.thresholds()),
            free_bytes: 0,
            releases: std::collections::VecDeque::new(),
            log_sleeps: false,
            files_wanted: true,
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            log_wakes: Condvar::new(),
            files_wake: Condvar::new(),
            room: Notify::new(),
            life: watch::Sender::new(Life::Running),
            reader: Reader::new(Arc::clone(&files)),
            files,
            queue: ByteBudget::new(config.queue_bytes_max),
            read_bytes: ByteBudget::new(config.read_bytes_max),
            reads: Arc::new(Semaphore::new(config.reads_max)),
            info: watch::Sender::new(info),
            config,
            identity,
            disk,
            log_dir: log_dir.clone(),
            clock,
            tasks: tasks.clone(),
            metrics,
        });
        let failed = |source| RecoverError::Io { path: log_dir.clone(), source };
        // What is taken is known before the first request.
        shared.observe_space().map_err(failed)?;
        let lock = Arc::new(lock);
        let (log, log_lock) = (Arc::clone(&shared), Arc::clone(&lock));
        tasks.thread("bookie-log", OnFailure::ShutDown, move || {
            let ended = log_thread::run(&log).map_err(|error| whole(&error));
            drop(log_lock);
            ended
        });
        let files = Arc::clone(&shared);
        tasks.thread("bookie-files", OnFailure::ShutDown, move || {
            let ended = files_thread::run(&files).map_err(|error| whole(&error));
            drop(lock);
            ended
        });
        Ok(Self { shared })
    }

    /// Takes nothing new, finishes what was taken, and marks the log: the next start finds it whole. Returns at once; the
    /// tasks' join waits for it.
    pub fn drain(&self) {
        self.shared.end(Life::Draining);
    }

    /// Ends as a crash does: what is not on disk is lost, and nobody hears anything more. For tests.
    pub fn kill(&self) {
        self.shared.end(Life::Dead);
    }

    /// Resolves once the bookie takes nothing new. Cancel safe.
    pub async fn ended(&self) {
        self.life_is(|life| life != Life::Running).await;
    }

    /// Resolves once nothing is answered any more. Cancel safe.
    pub(crate) async fn dead(&self) {
        self.life_is(|life| life == Life::Dead).await;
    }

    async fn life_is(&self, wanted: impl Fn(Life) -> bool) {
        let mut life = self.shared.life.subscribe();
        // The sender lives in this very handle.
        let _ = life.wait_for(|life| wanted(*life)).await;
    }

    /// Whose directory it is.
    pub fn identity(&self) -> &Identity {
        &self.shared.identity
    }

    /// What metadata is told of it.
    pub(crate) fn info(&self) -> &watch::Sender<BookieInfo> {
        &self.shared.info
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Makes a ledger known; resolves once that is durable.
    pub async fn open_ledger(&self, open: OpenLedger) -> Result<(), Refusal> {
        self.ask(|store| store.open(&open), || Err(Refusal::Stopping)).await
    }

    /// Stores an entry; resolves once it is durable. The entry is on its way when this returns, unless there is no room for it
    /// at the moment: then it waits its turn as the future is polled. Dropping the future does not undo the add.
    pub fn add(&self, add: AddEntry) -> impl Future<Output = Result<(), Refusal>> + Send + 'static + use<> {
        let bookie = self.clone();
        let checked = VerifiedAdd::check(add, self.shared.config.log.body_bytes_max);
        let (tx, rx) = oneshot::channel();
        let mut reply = Some(Waiter::Add(tx));
        let tried = checked.map(|add| (self.try_add(&add, &mut reply, false), add));
        async move {
            let answer = match tried {
                Err(refusal) => Err(refusal),
                Ok((tried, add)) => match bookie.settle(tried, &add, &mut reply).await {
                    Some(answer) => answer,
                    // Its sender is dropped unanswered when the log ends.
                    None => rx.await.unwrap_or(Err(Refusal::Stopping)),
                },
            };
            if let Err(refusal) = answer {
                bookie.shared.metrics.refused(refusal);
            }
            answer
        }
    }

    /// A stream of adds whose answers come together, group by group.
    pub fn add_stream(&self) -> AddStream {
        AddStream::new(self.clone())
    }

    /// The LAC alone. Costs no sync, and is not answered to the writer.
    pub fn advance_lac(&self, lac: &AdvanceLac) -> Result<(), Refusal> {
        let mut state = self.shared.state.lock();
        if state.life != Life::Running {
            return Err(Refusal::Stopping);
        }
        state.store.advance_lac(lac)?;
        wake_lac_waiters(&mut state, lac.ledger);
        Ok(())
    }

    /// Reads a run of entries; a fencing read answers once the fence is durable (C1).
    pub async fn read(&self, read: ReadEntries) -> Result<ReadAnswer, ReadRefusal> {
        self.read_held(read).await.map(|(answer, _)| answer)
    }

    /// The same, with the bytes' share of the budget: whoever hands them on lets it go when they are handed over (Q6).
    pub async fn read_held(&self, mut read: ReadEntries) -> Result<(ReadAnswer, BytesHeld), ReadRefusal> {
        let shared = &self.shared;
        read.bytes_max = read.bytes_max.min(shared.config.read_answer_bytes_max);
        for _ in 0..MOVED_TRIES {
            let plan = self.ask(|store| store.read(&read), || Err(ReadRefusal::Stopping)).await?;
            let held = shared.read_bytes.take(plan.memory_bytes()).await;
            let turn = Arc::clone(&shared.reads).acquire_owned().await.map_err(|_| ReadRefusal::Stopping)?;
            let reader = shared.reader.clone();
            let done = shared
                .tasks
                .block(move || {
                    let _turn = turn;
                    plan.run(&reader)
                })
                .await;
            if let Ok(ReadDone { answer, unreadable }) = done {
                for entry in unreadable {
                    shared.metrics.unreadable_entries.inc();
                    tracing::error!(ledger = %read.ledger, %entry, "a stored entry can't be read back");
                }
                count_read(&shared.metrics, &answer);
                return Ok((answer, held));
            }
        }
        Err(ReadRefusal::Busy)
    }

    /// Fences a ledger; resolves once the mark is durable (B2).
    pub async fn fence(&self, ledger: LedgerId, number: RecoveryNumber) -> Result<FenceAnswer, ReadRefusal> {
        let answer = self.ask(|store| store.fence(ledger, number), || Err(ReadRefusal::Stopping)).await;
        if answer.is_ok() {
            self.shared.metrics.fences.inc();
        }
        answer
    }

    /// The highest LAC known, once it is past `after`, or after `wait`, whichever comes first. Cancel safe.
    pub async fn read_lac(
        &self,
        ledger: LedgerId,
        after: Option<EntryId>,
        wait: Duration,
    ) -> Result<Option<EntryId>, ReadRefusal> {
        let shared = &self.shared;
        let wait = wait.min(Duration::from_millis(shared.config.lac_wait_max_ms));
        let deadline = shared.clock.mono().after(wait);
        loop {
            let moved = {
                let mut state = shared.state.lock();
                if state.life != Life::Running {
                    return Err(ReadRefusal::Stopping);
                }
                let lac = state.store.read_lac(ledger)?;
                let past = lac > after || shared.clock.mono() >= deadline;
                if past || state.lac_waiting >= shared.config.lac_waiters_max {
                    return Ok(lac);
                }
                let (tx, rx) = oneshot::channel();
                let waiting = state.lac_waiters.entry(ledger).or_default();
                // Those who gave up make room for the next.
                let before = waiting.len();
                waiting.retain(|waiter| !waiter.is_closed());
                let gone = before - waiting.len();
                waiting.push(tx);
                state.lac_waiting = state.lac_waiting + 1 - gone;
                rx
            };
            tokio::select! {
                biased;
                _ = moved => {}
                () = shared.clock.sleep_until(deadline) => {}
            }
        }
    }

    /// Looks an entry up by offset or time among those stored here: by offset the last one that begins there or before, by
    /// time the first one of that time or later.
    pub async fn find(&self, find: Find) -> Result<Option<EntryId>, ReadRefusal> {
        let shared = Arc::clone(&self.shared);
        self.shared.state.lock().store.read_lac(find.ledger)?;
        let turn = Arc::clone(&shared.reads).acquire_owned().await.map_err(|_| ReadRefusal::Stopping)?;
        let tasks = shared.tasks.clone();
        tasks
            .block(move || {
                let _turn = turn;
                let mut search = Search::new(&find);
                while let Some(probe) = search.probe() {
                    search.tell(probe, look(&shared, find.ledger, probe)?);
                }
                Ok(search.best())
            })
            .await
    }

    /// What is known of the ledgers after `after`, at most `limit` of them.
    pub fn list(&self, after: Option<LedgerId>, limit: usize) -> Vec<LedgerSummary> {
        self.shared.state.lock().store.list(after, limit)
    }

    /// A few figures.
    pub fn stats(&self) -> Stats {
        let state = self.shared.state.lock();
        Stats {
            identity: self.shared.identity.clone(),
            report: state.store.report().clone(),
            admission: state.store.admission(),
            space: state.gauge.space(),
            ledgers: state.store.writer().marks().len(),
            durable: state.store.durable(),
        }
    }

    /// Asks the store until it answers: when a group is durable, or when there is room.
    pub(crate) async fn ask<A>(&self, mut request: impl FnMut(&mut Store) -> Outcome<A>, stopping: impl Fn() -> A) -> A {
        let shared = &self.shared;
        loop {
            let mut room = std::pin::pin!(shared.room.notified());
            room.as_mut().enable();
            let durable = {
                let mut state = shared.state.lock();
                if state.life != Life::Running {
                    return stopping();
                }
                match request(&mut state.store) {
                    Outcome::Now(answer) => return answer,
                    Outcome::After(group) => Some(shared.wait_for(&mut state, group)),
                    Outcome::Full => {
                        shared.appended(&mut state);
                        None
                    }
                }
            };
            match durable {
                Some(durable) => {
                    if durable.await.is_err() {
                        return stopping();
                    }
                }
                None => room.await,
            }
        }
    }

    /// One try to add; `reply` is taken when it waits for a group.
    pub(crate) fn try_add(&self, add: &VerifiedAdd, reply: &mut Option<Waiter>, replace: bool) -> TriedAdd {
        let shared = &self.shared;
        let mut state = shared.state.lock();
        if state.life != Life::Running {
            return TriedAdd(Tried::Answered(Err(Refusal::Stopping)));
        }
        let outcome = if replace { state.store.replace(add) } else { state.store.add(add) };
        TriedAdd(match outcome {
            AddOutcome::Now(answer) => Tried::Answered(answer),
            AddOutcome::Compare(comparison) => Tried::Compare(comparison),
            AddOutcome::Full => {
                shared.appended(&mut state);
                Tried::Full
            }
            AddOutcome::Durable(group) => {
                let reply = reply.take().expect("an add waits for a group once");
                state.waiters.push(group, reply);
                wake_lac_waiters(&mut state, add.get().ledger);
                shared.appended(&mut state);
                drop(state);
                shared.metrics.adds.inc();
                shared.metrics.added_bytes.inc_by(add.get().body.len() as u64);
                Tried::Waits
            }
        })
    }

    /// Goes on from the first try until the add is answered, or waits for its group: then `None`.
    pub(crate) async fn settle(
        &self,
        first: TriedAdd,
        add: &VerifiedAdd,
        reply: &mut Option<Waiter>,
    ) -> Option<Result<(), Refusal>> {
        let shared = &self.shared;
        let mut tried = first.0;
        let mut held: Option<BytesHeld> = None;
        let mut replace = false;
        loop {
            match tried {
                Tried::Answered(answer) => return Some(answer),
                Tried::Waits => return None,
                Tried::Compare(comparison) => {
                    let (reader, again) = (shared.reader.clone(), add.clone());
                    match shared.tasks.block(move || comparison.run(&reader, &again)).await {
                        Compared::Same => return Some(Ok(())),
                        Compared::Different => return Some(Err(Refusal::Conflict)),
                        Compared::Moved => {}
                        Compared::Unreadable => replace = true,
                    }
                }
                Tried::Full if held.is_none() => match shared.queue.try_take(add.get().body.len()) {
                    Some(bytes) => held = Some(bytes),
                    None => return Some(Err(Refusal::Busy)),
                },
                Tried::Full => {}
            }
            let mut room = std::pin::pin!(shared.room.notified());
            room.as_mut().enable();
            tried = self.try_add(add, reply, replace).0;
            if let Tried::Full = tried
                && held.is_some()
            {
                room.await;
            }
        }
    }
}

/// What the first try of an add came to, for [`Bookie::settle`].
pub(crate) struct TriedAdd(Tried);

/// An error with its causes, for a report that has room for one sentence.
fn whole(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |said, cause| format!("{said}: {cause}"))
}

/// Those who wait for a ledger's LAC look again.
fn wake_lac_waiters(state: &mut State, ledger: LedgerId) {
    if state.lac_waiters.is_empty() {
        return;
    }
    if let Some(waiting) = state.lac_waiters.remove(&ledger) {
        state.lac_waiting -= waiting.len();
        for waiter in waiting {
            // Who hung up does not want to know.
            let _ = waiter.send(());
        }
    }
}

/// The entry at or after a place, and the range that its header says.
fn look(shared: &Shared, ledger: LedgerId, probe: EntryId) -> Result<Option<(EntryId, EntryRange)>, ReadRefusal> {
    let mut from = probe;
    for _ in 0..MOVED_TRIES {
        let Some((entry, location)) = shared.state.lock().store.at_or_after(ledger, from) else { return Ok(None) };
        match shared.reader.read(ledger, entry, location) {
            Ok(frame) => match EntryRange::of(&frame.body) {
                Some(range) => return Ok(Some((entry, range))),
                // Not messages: nothing to find by.
                None => return Ok(None),
            },
            Err(ReadError::Moved(_)) => {}
            Err(ReadError::Corrupt(_) | ReadError::Io { .. }) => {
                shared.metrics.unreadable_entries.inc();
                tracing::error!(%ledger, %entry, "a stored entry can't be read back");
                from = entry.next();
            }
        }
    }
    Err(ReadRefusal::Busy)
}

fn count_read(metrics: &Metrics, answer: &ReadAnswer) {
    let bodies = answer.entries.iter().filter_map(|entry| match entry {
        alluvium_types::bookie::EntryAnswer::Found(found) => Some(found.body.len() as u64),
        alluvium_types::bookie::EntryAnswer::Missing(..) => None,
    });
    let (entries, bytes) = bodies.fold((0, 0), |(count, sum), bytes| (count + 1, sum + bytes));
    metrics.reads.inc();
    metrics.read_entries.inc_by(entries);
    metrics.read_bytes.inc_by(bytes);
}

/// Says what a start found; what a person must look at as errors.
fn report(report: &Report, metrics: &Metrics) {
    let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
    metrics.lost_groups.set(count(report.losses.len()));
    metrics.unreadable_files.set(count(report.unreadable.len()));
    metrics.torn.set(i64::from(report.torn.is_some()));
    tracing::info!(files = report.files, scanned = report.scanned, clean = report.clean_shutdown, "log recovered");
    if let Some(cut) = report.torn {
        tracing::warn!(file = %cut.file, offset = cut.offset, "the log's last group was lost; open ledgers are torn");
    }
    for loss in &report.losses {
        tracing::error!(file = %loss.file, from = loss.offset, to = loss.end, "a durable group is not readable: repair is due");
    }
    for file in &report.unreadable {
        tracing::error!(%file, "a log file's header is not readable; the file is kept");
    }
}
