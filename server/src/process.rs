//! What every process has: time, chance, tasks, the operators' port; and how it begins, waits and ends.

use std::error::Error;
use std::time::Duration;

use alluvium_runtime::backoff::Backoff;
use alluvium_runtime::clock::Clock;
use alluvium_runtime::entropy::Entropy;
use alluvium_runtime::lanes::Lanes;
use alluvium_runtime::tasks::{Fatal, Tasks};
use alluvium_runtime::telemetry::{self, LogConfig};
use alluvium_types::limits::Limits;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use crate::http::Operators;

/// What all figures are named for.
const PREFIX: &str = "alluvium";
/// How long each part of a process may take to stop.
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// The pause between two tries of what is waited for.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// What every part of the process is given.
#[derive(Clone)]
pub(crate) struct Process {
    pub(crate) clock: Clock,
    pub(crate) entropy: Entropy,
    pub(crate) limits: Limits,
    pub(crate) tasks: Tasks,
    /// Where connections and partitions live.
    pub(crate) lanes: Lanes,
    pub(crate) operators: Operators,
}

/// From where the process is told to end. Signals are taken from its beginning on.
pub(crate) struct Ending {
    fatal: mpsc::Receiver<Fatal>,
    interrupt: Signal,
    terminate: Signal,
}

/// A process that serves.
pub(crate) trait Serving {
    /// Takes nothing new and finishes what was promised; says whether it all was in time.
    async fn drain(&self, grace: Duration) -> bool;
}

impl Process {
    /// Begins, with logs, and so many lanes.
    pub(crate) fn begin(log: &LogConfig, limits: Limits, lanes: usize) -> anyhow::Result<(Self, Ending)> {
        telemetry::init(log);
        let (tasks, fatal) = Tasks::new();
        let ending = Ending { fatal, interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? };
        let (clock, entropy) = (Clock::system(), Entropy::from_os());
        let lanes = Lanes::start(&tasks, "lane", lanes)?;
        Ok((Self { clock, entropy, limits, tasks, lanes, operators: Operators::new() }, ending))
    }

    /// Lives: starts, serves until it is told to end or can't go on, drains within `grace`, and stops its parts in the order given,
    /// each after those that need it. Operators are answered from the first moment to the last.
    pub(crate) async fn live<S: Serving>(
        self,
        mut ending: Ending,
        http: TcpListener,
        parts: &[&Tasks],
        grace: Duration,
        start: impl AsyncFnOnce(&mut Registry) -> anyhow::Result<S>,
    ) -> anyhow::Result<()> {
        self.operators.clone().serve(&self.tasks, http);
        let mut registry = Registry::with_prefix(PREFIX);
        let started = tokio::select! {
            biased;
            told = ending.told() => Err(told.map_or(Ok(()), |fatal| Err(fatal.into()))),
            started = start(&mut registry) => started.map_err(Err),
        };
        let outcome = match started {
            Ok(serving) => {
                self.operators.ready(registry);
                let told = ending.told().await;
                self.operators.not_ready("stopping");
                if !serving.drain(grace).await {
                    tracing::warn!(?grace, "not everything was finished in time");
                }
                told.map_or(Ok(()), |fatal| Err(fatal.into()))
            }
            Err(outcome) => outcome,
        };
        for part in parts.iter().copied().chain([&self.tasks]) {
            part.stop();
            if !part.join(STOP_LIMIT).await {
                tracing::warn!(limit = ?STOP_LIMIT, "a part of the process did not stop in time");
            }
        }
        outcome
    }

    /// Tries until it works, or can't by waiting. Says so while it waits, to the log and at `/readyz`.
    pub(crate) async fn patiently<T, E: Error + 'static>(
        &self,
        waiting: &'static str,
        is_retryable: impl Fn(&E) -> bool,
        mut step: impl AsyncFnMut() -> Result<T, E>,
    ) -> Result<T, E> {
        let mut backoff = Backoff::new(PAUSE.0, PAUSE.1, self.entropy.clone());
        loop {
            match step().await {
                Err(error) if is_retryable(&error) => {
                    let pause = backoff.delay();
                    let attempt = backoff.attempt();
                    tracing::warn!(attempt, ?pause, error = &error as &(dyn Error + 'static), "{waiting}");
                    self.operators.not_ready(waiting);
                    self.clock.sleep(pause).await;
                }
                done => {
                    self.operators.not_ready("starting");
                    return done;
                }
            }
        }
    }
}

impl Ending {
    /// Resolves when the process is told to stop, or with the failure for which it must. Cancel safe.
    async fn told(&mut self) -> Option<Fatal> {
        tokio::select! {
            failure = self.fatal.recv() => failure,
            _ = self.interrupt.recv() => None,
            _ = self.terminate.recv() => None,
        }
    }
}
