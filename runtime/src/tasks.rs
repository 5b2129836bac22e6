//! The one place where tasks and threads begin: each has a name, an owner, and a meaning when it fails.

#![expect(clippy::disallowed_methods, reason = "this is where tasks begin")]

use std::borrow::Cow;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::simulation::Process;

/// What it means when a task panics or returns an error.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OnFailure {
    /// It is logged; the process goes on.
    Log,
    /// The process can't do its work: it shuts down.
    ShutDown,
}

/// Why a process has to stop by itself.
#[derive(Debug, thiserror::Error)]
#[error("task {task} failed: {reason}")]
pub struct Fatal {
    /// The task's name.
    pub task: String,
    /// What it said.
    pub reason: String,
}

/// A cheap handle to the tasks of one process, or of one part of it.
#[derive(Clone, Debug)]
pub struct Tasks {
    tracker: TaskTracker,
    stopping: CancellationToken,
    fatal: mpsc::Sender<Fatal>,
    /// `None`: on the present tokio runtime.
    simulated: Option<Process>,
}

/// Resolves once a task has ended, however that was. Dropping it changes nothing.
#[derive(Debug)]
pub struct Ended(oneshot::Receiver<()>);

impl Future for Ended {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.0).poll(context).map(|_| ())
    }
}

impl Tasks {
    /// The tasks of a process, and where their fatal failures arrive.
    pub fn new() -> (Self, mpsc::Receiver<Fatal>) {
        let (fatal, failures) = mpsc::channel(1);
        let (tracker, stopping) = (TaskTracker::new(), CancellationToken::new());
        (Self { tracker, stopping, fatal, simulated: None }, failures)
    }

    /// The tasks of a simulated process, which hears of no fatal failure: the simulation does, of panics.
    pub(crate) fn simulated(process: Process) -> Self {
        Self { simulated: Some(process), ..Self::new().0 }
    }

    /// A part that can be stopped and joined by itself, and stops with the whole.
    #[must_use]
    pub fn part(&self) -> Self {
        let (tracker, stopping) = (TaskTracker::new(), self.stopping.child_token());
        Self { tracker, stopping, fatal: self.fatal.clone(), simulated: self.simulated.clone() }
    }

    /// Starts a task on the current runtime, or in its simulated process.
    pub fn spawn<F, E>(&self, name: impl Into<Cow<'static, str>>, on_failure: OnFailure, future: F) -> Ended
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: std::fmt::Display + Send + 'static,
    {
        let name = name.into();
        let fatal = self.fatal.clone();
        let (ending, ended) = oneshot::channel();
        if let Some(process) = &self.simulated {
            let simulation = process.simulation().clone();
            let work = async move {
                match AssertUnwindSafe(future).catch_unwind().await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => report(&fatal, on_failure, &name, error.to_string()),
                    Err(panic) => {
                        let said = panic.downcast_ref::<String>().map(String::as_str);
                        let said = said.or(panic.downcast_ref::<&str>().copied()).unwrap_or("something");
                        simulation.panicked(format!("task {name} panicked: {said}"));
                    }
                }
                drop(ending);
            };
            process.spawn(self.tracker.track_future(work).boxed());
            return Ended(ended);
        }
        let work = tokio::spawn(future);
        self.tracker.spawn(async move {
            let abort = AbortOnDrop(work.abort_handle());
            let reason = match work.await {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(error.to_string()),
                Err(error) if error.is_cancelled() => None,
                Err(error) => Some(format!("panicked: {error}")),
            };
            drop(abort);
            if let Some(reason) = reason {
                report(&fatal, on_failure, &name, reason);
            }
            drop(ending);
        });
        Ended(ended)
    }

    /// Starts a thread that blocks, such as a log thread. It ends by itself when its queue closes.
    ///
    /// # Panics
    /// When the system gives no thread.
    pub fn thread<E: std::fmt::Display>(
        &self,
        name: &str,
        on_failure: OnFailure,
        work: impl FnOnce() -> Result<(), E> + Send + 'static,
    ) -> std::thread::JoinHandle<()> {
        let fatal = self.fatal.clone();
        let label = name.to_owned();
        // The token keeps `join` waiting for the thread.
        let running = self.tracker.token();
        std::thread::Builder::new()
            .name(name.chars().take(15).collect())
            .spawn(move || {
                let reason = match std::panic::catch_unwind(AssertUnwindSafe(work)) {
                    Ok(Ok(())) => None,
                    Ok(Err(error)) => Some(error.to_string()),
                    Err(_) => Some("panicked".to_owned()),
                };
                if let Some(reason) = reason {
                    report(&fatal, on_failure, &label, reason);
                }
                drop(running);
            })
            .expect("the system gives a thread at start")
    }

    /// Runs a short blocking call off the async threads.
    ///
    /// # Panics
    /// If the call panics.
    pub async fn block<T: Send + 'static>(&self, call: impl FnOnce() -> T + Send + 'static) -> T {
        tokio::task::spawn_blocking(call).await.expect("a blocking call does not panic")
    }

    /// Asks all tasks to stop.
    pub fn stop(&self) {
        self.stopping.cancel();
    }

    /// Resolves once the tasks are asked to stop. Cancel safe.
    pub async fn stopping(&self) {
        self.stopping.cancelled().await;
    }

    /// Whether the tasks were asked to stop.
    pub fn is_stopping(&self) -> bool {
        self.stopping.is_cancelled()
    }

    /// Waits for all tasks, at most `grace`; says whether they all ended.
    pub async fn join(&self, grace: Duration) -> bool {
        self.tracker.close();
        if let Some(process) = &self.simulated {
            return process.clock().timeout(grace, self.tracker.wait()).await.is_ok();
        }
        tokio::time::timeout(grace, self.tracker.wait()).await.is_ok()
    }
}

struct AbortOnDrop(tokio::task::AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn report(fatal: &mpsc::Sender<Fatal>, on_failure: OnFailure, name: &str, reason: String) {
    match on_failure {
        OnFailure::Log => tracing::warn!(task = name, reason, "task failed"),
        OnFailure::ShutDown => {
            tracing::error!(task = name, reason, "task failed; shutting down");
            // The first failure is enough.
            let _ = fatal.try_send(Fatal { task: name.to_owned(), reason });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_fatal_failure_is_reported_with_the_tasks_name() {
        let (tasks, mut failures) = Tasks::new();
        tasks.spawn("log", OnFailure::ShutDown, async { Err::<(), _>("disk gone") });
        let fatal = failures.recv().await.expect("reported");
        assert_eq!(fatal.to_string(), "task log failed: disk gone");
        assert!(tasks.join(Duration::from_secs(1)).await);
    }
}
