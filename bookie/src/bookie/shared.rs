//! What the handle and the two threads of a bookie share: one lock, held shortly.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;

use alluvium_metadata::bookies::BookieInfo;
use alluvium_runtime::budget::ByteBudget;
use alluvium_runtime::clock::Clock;
use alluvium_runtime::disk::{Disk, Space};
use alluvium_runtime::tasks::Tasks;
use alluvium_types::ids::LedgerId;
use parking_lot::{Condvar, Mutex};
use tokio::sync::{Notify, Semaphore, oneshot, watch};

use super::waiters::{Waiter, Waiters};
use crate::config::Config;
use crate::identity::Identity;
use crate::log::{Files, GroupNumber, Reader, Release};
use crate::metrics::Metrics;
use crate::space::{Admission, SpaceGauge};
use crate::store::Store;

/// How a bookie ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Life {
    /// It serves.
    Running,
    /// It takes nothing new, finishes what it took, and marks its log.
    Draining,
    /// It stops where it is: a crash, or a failed log.
    Dead,
}

/// What the lock protects.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) store: Store,
    pub(crate) life: Life,
    pub(crate) waiters: Waiters,
    /// Those who wait for a ledger's LAC to move.
    pub(crate) lac_waiters: BTreeMap<LedgerId, Vec<oneshot::Sender<()>>>,
    /// How many of them there are.
    pub(crate) lac_waiting: usize,
    pub(crate) gauge: SpaceGauge,
    /// What the disk had left at the last reading, whoever may have it.
    pub(crate) free_bytes: u64,
    /// Files to let go, by the thread that has the disk.
    pub(crate) releases: VecDeque<Release>,
    /// The log thread waits for work.
    pub(crate) log_sleeps: bool,
    /// A file is being made for the pool: its room is taken, and is room still.
    pub(crate) is_filling: bool,
    /// Somebody wants the files thread to look now.
    pub(crate) files_wanted: bool,
}

/// Shared by the handle's clones and the threads.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) state: Mutex<State>,
    /// The log thread sleeps here.
    pub(crate) log_wakes: Condvar,
    /// The files thread sleeps here.
    pub(crate) files_wake: Condvar,
    /// The pool thread sleeps here.
    pub(crate) pool_wakes: Condvar,
    /// A group was taken, a file offered, or the bookie ends: who was told `Full` asks again.
    pub(crate) room: Notify,
    pub(crate) life: watch::Sender<Life>,
    pub(crate) config: Config,
    pub(crate) identity: Identity,
    pub(crate) files: Arc<Files>,
    pub(crate) reader: Reader,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) log_dir: PathBuf,
    pub(crate) clock: Clock,
    pub(crate) tasks: Tasks,
    pub(crate) metrics: Metrics,
    /// Bytes of entries that wait for room in a group.
    pub(crate) queue: ByteBudget,
    /// Bytes that were read and not handed over.
    pub(crate) read_bytes: ByteBudget,
    pub(crate) reads: Arc<Semaphore>,
    pub(crate) info: watch::Sender<BookieInfo>,
}

impl Shared {
    /// Something was appended: the log thread is woken if it sleeps, and only then.
    pub(crate) fn appended(&self, state: &mut State) {
        if state.log_sleeps {
            state.log_sleeps = false;
            self.log_wakes.notify_one();
        }
        self.want_file(state);
    }

    /// Wakes the files thread if there is something for it.
    pub(crate) fn want_file(&self, state: &mut State) {
        if state.store.wants_file() && !state.files_wanted {
            self.want_files_thread(state);
        }
    }

    /// Wakes the files thread.
    pub(crate) fn want_files_thread(&self, state: &mut State) {
        state.files_wanted = true;
        self.files_wake.notify_one();
    }

    /// Waits for a group; an error when it will never be durable.
    pub(crate) fn wait_for(&self, state: &mut State, group: GroupNumber) -> oneshot::Receiver<()> {
        let (tx, rx) = oneshot::channel();
        state.waiters.push(group, Waiter::Group(tx));
        self.appended(state);
        rx
    }

    /// The bookie ends, in good order or not.
    pub(crate) fn end(&self, how: Life) {
        let mut state = self.state.lock();
        if state.life == Life::Dead || how == Life::Running {
            return;
        }
        state.life = how;
        let given_up = match how {
            Life::Dead => state.waiters.take_all(),
            Life::Draining | Life::Running => Vec::new(),
        };
        state.lac_waiters.clear();
        state.lac_waiting = 0;
        state.log_sleeps = false;
        state.files_wanted = true;
        drop(state);
        self.log_wakes.notify_all();
        self.files_wake.notify_all();
        self.pool_wakes.notify_all();
        self.room.notify_waiters();
        // Watchers may all be gone.
        self.life.send_replace(how);
        // After a crash nobody hears anything.
        drop(given_up);
    }

    /// Takes a reading of the room; the world is told when what is taken changes.
    pub(crate) fn observe_space(&self) -> std::io::Result<()> {
        let disk = self.disk.space(&self.log_dir)?;
        let mut state = self.state.lock();
        let reusable = (self.files.pool_len() as u64 + u64::from(state.is_filling)) * self.config.log.file_bytes;
        state.free_bytes = disk.available;
        let before = state.gauge.admission();
        let admission = state.gauge.observe(disk, self.files.disk_bytes(), reusable);
        let space = state.gauge.space();
        state.store.set_admission(admission);
        drop(state);
        if admission != before {
            match admission {
                Admission::All => tracing::info!(available = space.available, "writable again"),
                Admission::Essential | Admission::Marks => {
                    tracing::warn!(available = space.available, ?admission, "low on space: read-only");
                }
            }
        }
        self.tell_space(admission, space);
        Ok(())
    }

    fn tell_space(&self, admission: Admission, space: Space) {
        let gauge = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        self.metrics.read_only.set(i64::from(admission != Admission::All));
        self.metrics.space_total_bytes.set(gauge(space.total));
        self.metrics.space_available_bytes.set(gauge(space.available));
        let writable = admission == Admission::All;
        // Metadata hears of what changes by much, not of every group.
        self.info.send_if_modified(|info| {
            let step = space.total / 20;
            let moved = info.available_bytes.abs_diff(space.available) > step;
            let news = info.writable != writable || info.total_bytes != space.total || moved;
            if news {
                info.writable = writable;
                info.total_bytes = space.total;
                info.available_bytes = space.available;
            }
            news
        });
    }
}
