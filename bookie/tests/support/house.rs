//! A bookie as a process runs it: a folder, metadata in memory, tasks of its own for each life.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use alluvium_bookie::config::{Config, GcConfig};
use alluvium_bookie::metrics::Metrics;
use alluvium_bookie::start::{Running, StartError, Surroundings, start};
use alluvium_metadata::{MemoryStore, Metadata};
use alluvium_runtime::clock::Clock;
use alluvium_runtime::entropy::Entropy;
use alluvium_runtime::tasks::{Fatal, Tasks};
use tokio::sync::mpsc;

use super::small_log;

/// The longest that a test waits for anything.
pub const DEADLINE: Duration = Duration::from_secs(10);

pub struct House {
    dir: tempfile::TempDir,
    pub clock: Clock,
    pub entropy: Entropy,
    pub store: Arc<MemoryStore>,
    pub config: Config,
    /// Outlives the bookies' lives.
    own: Tasks,
}

/// One life of a bookie.
pub struct Life {
    pub running: Running,
    pub tasks: Tasks,
    pub fatal: mpsc::Receiver<Fatal>,
    pub metrics: Metrics,
}

impl House {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let clock = Clock::system();
        let (own, _) = Tasks::new();
        let config = Config {
            name: "b1".to_owned(),
            zone: "z1".to_owned(),
            data_dir: dir.path().join("data"),
            log: small_log(),
            session_ttl_ms: 1000,
            gc: GcConfig { grace_ms: 0, interval_ms: 3_600_000, ..GcConfig::default() },
            ..Config::default()
        };
        let store = Arc::new(MemoryStore::start(clock.clone(), &own));
        Self { dir, clock, entropy: Entropy::seeded(1), store, config, own }
    }

    pub fn data_dir(&self) -> &Path {
        &self.config.data_dir
    }

    pub fn outside(&self) -> &Path {
        self.dir.path()
    }

    /// Metadata as any process sees it.
    pub fn metadata(&self) -> Metadata {
        self.metadata_of(&self.own)
    }

    fn metadata_of(&self, tasks: &Tasks) -> Metadata {
        Metadata::new(self.store.clone(), self.clock.clone(), self.entropy.clone(), tasks.clone())
    }

    pub async fn try_start(&self) -> Result<Life, StartError> {
        let (tasks, fatal) = Tasks::new();
        let metrics = Metrics::unregistered();
        let around = Surroundings {
            metadata: self.metadata_of(&tasks),
            clock: self.clock.clone(),
            entropy: self.entropy.clone(),
            tasks: tasks.clone(),
            metrics: metrics.clone(),
        };
        let running = start(self.config.clone(), "127.0.0.1:7072".to_owned(), around).await?;
        Ok(Life { running, tasks, fatal, metrics })
    }

    pub async fn start(&self) -> Life {
        self.try_start().await.expect("it starts")
    }
}

impl Life {
    /// Ends as a crash does.
    pub async fn kill(self) {
        self.running.bookie.kill();
        self.tasks.stop();
        assert!(self.tasks.join(DEADLINE).await, "threads and tasks end");
    }

    /// Stops in good order.
    pub async fn stop(self) {
        self.tasks.stop();
        assert!(self.tasks.join(DEADLINE).await, "threads and tasks end");
    }
}

/// Waits until `level` holds.
pub async fn until(what: &str, clock: &Clock, mut level: impl AsyncFnMut() -> bool) {
    let deadline = clock.mono().after(DEADLINE);
    while !level().await {
        assert!(clock.mono() < deadline, "not within {DEADLINE:?}: {what}");
        clock.sleep(Duration::from_millis(2)).await;
    }
}

/// Goes on beside the test.
#[expect(clippy::disallowed_methods, reason = "a test awaits what it starts")]
pub fn beside<F>(future: F) -> tokio::task::JoinHandle<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    tokio::spawn(future)
}
