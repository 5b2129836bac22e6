//! Both sides' threads: when they are ready, when they begin, and what they say at the end.

use std::sync::Arc;

use alluvium_runtime::clock::Clock;
use alluvium_runtime::tasks::Tasks;
use alluvium_types::time::Mono;
use tokio::sync::oneshot;

use super::consume::{Consumers, Share};
use super::publish::{Published, Publishers};
use super::{DRAIN_LIMIT, Plan};
use crate::error::Error;
use crate::own_thread;

/// The thread of the producers.
pub(super) struct Publishing {
    tasks: Tasks,
    go: Option<oneshot::Sender<Mono>>,
    ended: oneshot::Receiver<Result<Published, Error>>,
    /// What it said when it ended.
    result: Option<Result<Published, Error>>,
}

impl Publishing {
    /// Starts it; all producers are connected when this returns.
    pub(super) async fn start(plan: &Arc<Plan>) -> Result<Self, Error> {
        let (tasks, _failures) = Tasks::new();
        let (go, gone) = oneshot::channel();
        let (ready, is_ready) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        let (plan, parts) = (Arc::clone(plan), tasks.clone());
        own_thread(&tasks, "publish", async move {
            let publishers = match Publishers::connect(&plan, &parts).await {
                Ok(publishers) => publishers,
                Err(error) => return drop(ready.send(Err(error))),
            };
            let _ = ready.send(Ok(()));
            let Ok(begin) = gone.await else { return };
            // Whoever waits for it may have failed meanwhile.
            let _ = end.send(publishers.run(begin, &parts).await);
        });
        is_ready.await.map_err(|_| Error::Stopped("producers' thread"))??;
        Ok(Self { tasks, go: Some(go), ended, result: None })
    }

    /// Begins to send; when that is.
    pub(super) fn go(&mut self, clock: &Clock) -> Mono {
        let begin = clock.mono();
        if let Some(go) = self.go.take() {
            // A thread that is gone says so when it is asked for its result.
            let _ = go.send(begin);
        }
        begin
    }

    pub(super) fn has_ended(&mut self) -> bool {
        if self.result.is_none() {
            self.result = match self.ended.try_recv() {
                Ok(result) => Some(result),
                Err(oneshot::error::TryRecvError::Empty) => None,
                Err(oneshot::error::TryRecvError::Closed) => Some(Err(Error::Stopped("producers' thread"))),
            };
        }
        self.result.is_some()
    }

    /// Resolves once it has ended by itself.
    pub(super) async fn ended(&mut self) {
        if !self.has_ended() {
            self.result = Some((&mut self.ended).await.unwrap_or(Err(Error::Stopped("producers' thread"))));
        }
    }

    /// Ends it, and waits for what is on its way.
    pub(super) async fn finish(mut self) -> Result<Published, Error> {
        self.tasks.stop();
        self.ended().await;
        self.result.unwrap_or(Err(Error::Stopped("producers' thread")))
    }
}

/// The most threads of consumers.
const THREADS_MAX: usize = 4;

/// The threads of the consumers.
pub(super) struct Consuming {
    tasks: Tasks,
    ended: parking_lot::Mutex<Vec<oneshot::Receiver<()>>>,
}

impl Consuming {
    /// Starts them, as many as there are processors if there are so many consumers; all consumers are subscribed when this returns.
    pub(super) async fn start(plan: &Arc<Plan>) -> Result<Self, Error> {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let load = &plan.workload;
        let consumers = plan.groups.len() * usize::try_from(load.consumers).expect("consumers are bounded");
        let threads = processors.min(THREADS_MAX).min(consumers).max(1);
        let (tasks, _failures) = Tasks::new();
        let mut ended = Vec::new();
        for number in 0..threads {
            ended.push(begin(plan, &tasks, Share { number, of: threads }).await?);
        }
        Ok(Self { tasks, ended: parking_lot::Mutex::new(ended) })
    }

    /// Whether the consumers of a thread have ended by themselves.
    pub(super) fn has_ended(&self) -> bool {
        self.ended.lock().iter_mut().any(|ended| !matches!(ended.try_recv(), Err(oneshot::error::TryRecvError::Empty)))
    }

    /// Ends them, once all acknowledgements are durable.
    pub(super) async fn finish(self) -> Result<(), Error> {
        self.tasks.stop();
        if self.tasks.join(2 * DRAIN_LIMIT).await { Ok(()) } else { Err(Error::Stopped("consumers' thread")) }
    }
}

/// Starts a thread of consumers; they are subscribed when this returns. What it gives resolves when they have ended.
async fn begin(plan: &Arc<Plan>, tasks: &Tasks, share: Share) -> Result<oneshot::Receiver<()>, Error> {
    let (ready, is_ready) = oneshot::channel();
    let (end, ended) = oneshot::channel();
    let (plan, parts) = (Arc::clone(plan), tasks.clone());
    own_thread(tasks, "consume", async move {
        match Consumers::subscribe(&plan, share).await {
            Ok(consumers) => {
                let _ = ready.send(Ok(()));
                consumers.run(&parts).await;
            }
            Err(error) => drop(ready.send(Err(error))),
        }
        // Whoever waits for it may have failed meanwhile.
        let _ = end.send(());
    });
    is_ready.await.map_err(|_| Error::Stopped("consumers' thread"))??;
    Ok(ended)
}
