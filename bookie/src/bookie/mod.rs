//! The bookie as others hold it: a cheap handle, a short lock per request, one thread that writes groups and two that keep
//! files ready. Reads run elsewhere and never hold the lock while they touch the disk.

mod add_stream;
mod adds;
mod files_thread;
mod find;
mod log_thread;
mod pool_thread;
mod reads;
mod shared;
mod waiters;

use std::sync::Arc;

use alluvium_metadata::bookies::BookieInfo;
use alluvium_runtime::budget::ByteBudget;
use alluvium_runtime::clock::Clock;
use alluvium_runtime::disk::real::DirLock;
use alluvium_runtime::disk::{Disk, Space, SyncMode};
use alluvium_runtime::entropy::Entropy;
use alluvium_runtime::tasks::{OnFailure, Tasks};
use alluvium_types::bookie::{OpenLedger, Refusal};
use alluvium_types::names::ZoneName;
use parking_lot::{Condvar, Mutex};
use tokio::sync::{Notify, Semaphore, watch};

pub use add_stream::{AddAnswers, AddStream};
use shared::{Life, Shared, State};
pub use waiters::Added;
use waiters::Waiters;

use crate::config::Config;
use crate::identity::{Identity, LOG_DIR};
use crate::log::{GroupNumber, Reader, RecoverError, Report};
use crate::metrics::Metrics;
use crate::space::{Admission, SpaceGauge};
use crate::store::{Outcome, Store};

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
    /// The lock of the directory; it is held until all threads have ended.
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

impl Bookie {
    /// Recovers the log and starts the threads. Blocks.
    pub fn open(parts: Parts) -> Result<Self, RecoverError> {
        let Parts { config, identity, disk, mode, lock, clock, entropy, tasks, metrics } = parts;
        // What the process did not say.
        let config = config.with_memory(Config::MEMORY_BYTES);
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
            is_filling: false,
            files_wanted: true,
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            log_wakes: Condvar::new(),
            files_wake: Condvar::new(),
            pool_wakes: Condvar::new(),
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
        // The directory stays locked until nobody writes to it any more.
        let lock = Arc::new(lock);
        let thread = |name, run: fn(&Shared) -> Result<(), String>| {
            let (shared, lock) = (Arc::clone(&shared), Arc::clone(&lock));
            tasks.thread(name, OnFailure::ShutDown, move || {
                let ended = run(&shared);
                drop(lock);
                ended
            });
        };
        thread("bookie-log", |shared| log_thread::run(shared).map_err(|error| whole(&error)));
        thread("bookie-files", |shared| files_thread::run(shared).map_err(|error| whole(&error)));
        thread("bookie-pool", |shared| pool_thread::run(shared).map_err(|error| whole(&error)));
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
}

/// An error with its causes, for a report that has room for one sentence.
fn whole(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |said, cause| format!("{said}: {cause}"))
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
