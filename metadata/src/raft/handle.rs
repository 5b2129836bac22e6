//! The store as others hold it: requests to the node's thread, reads of the state it has applied.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use alluvium_runtime::clock::Clock;
use alluvium_runtime::disk::Disk;
use alluvium_runtime::entropy::Entropy;
use alluvium_runtime::tasks::{OnFailure, Tasks};
use alluvium_types::ids::{ClusterId, Revision, SessionId};
use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::RwLock;
use tokio::sync::{mpsc, oneshot, watch};

use super::node::{Inputs, Node, Surroundings};
use super::pending::{Reply, Request};
use super::transport::{Transport, VoterId};
use super::{RaftConfig, open};
use crate::error::{OpenError, StoreError};
use crate::shared::{self, History};
use crate::state::{Applied, Command, State};
use crate::store::{At, Event, KeyValue, MetadataStore, Page, Range, Txn, TxnOutcome, Watch};

/// Requests that wait for the thread.
const REQUESTS_MAX: usize = 1024;
/// Other voters' messages that wait for the thread; more are dropped, and sent again by raft.
const MESSAGES_MAX: usize = 1024;
/// How long a call waits for the thread.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Who leads, as far as this voter knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Role {
    /// The voter that leads.
    pub leader: Option<VoterId>,
    /// Whether that is this one, and it answers.
    pub is_serving: bool,
}

/// What the node's thread shows to everybody.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    pub(crate) state: RwLock<State>,
    pub(crate) role: watch::Sender<Role>,
    revision: watch::Sender<Revision>,
    stopped: AtomicBool,
}

impl Shared {
    /// Wakes the watches.
    pub(crate) fn show(&self, revision: Revision) {
        self.revision.send_if_modified(|known| std::mem::replace(known, revision) != revision);
    }

    /// Ends the watches.
    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        self.role.send_replace(Role::default());
        self.revision.send_modify(|_| {});
    }
}

/// The embedded store: a voter of its own. Cheap to clone; the voter stops with the tasks it was given, or when the last
/// handle goes.
#[derive(Clone, Debug)]
pub struct RaftStore {
    cluster: ClusterId,
    clock: Clock,
    requests: mpsc::Sender<Request>,
    messages: mpsc::Sender<Bytes>,
    shared: Arc<Shared>,
}

impl RaftStore {
    /// Opens a voter's folder and starts it. A lone voter serves when this returns; others once they have found a leader.
    ///
    /// Give it tasks of its own (`tasks.part()`), stopped last: goodbyes are said through it.
    pub async fn open(
        config: RaftConfig,
        disk: Arc<dyn Disk>,
        clock: Clock,
        entropy: Entropy,
        tasks: &Tasks,
        transport: Arc<dyn Transport>,
    ) -> Result<Self, OpenError> {
        let (requests, requests_rx) = mpsc::channel(REQUESTS_MAX);
        let (messages, messages_rx) = mpsc::channel(MESSAGES_MAX);
        let inputs = Inputs { requests: requests_rx, messages: messages_rx };
        let shared = Arc::new(Shared::default());
        let (started, start) = oneshot::channel();
        let around = Surroundings { clock: clock.clone(), tasks: tasks.clone(), transport, shared: Arc::clone(&shared) };
        tasks.thread("metadata-raft", OnFailure::ShutDown, move || run(&config, &disk, &entropy, around, inputs, started));
        match start.await {
            Ok(Ok(cluster)) => Ok(Self { cluster, clock, requests, messages, shared }),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(OpenError::Voters { problem: "the voter ended while it started".to_owned() }),
        }
    }

    /// Which cluster the folder belongs to.
    pub const fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// How far this voter has applied what was decided; others may be further.
    pub fn applied_revision(&self) -> Revision {
        self.shared.state.read().revision()
    }

    /// Takes a message of another, authenticated voter. Dropped when there is no room.
    pub fn receive(&self, message: Bytes) {
        if self.messages.try_send(message).is_err() {
            tracing::debug!("a voter's message was dropped");
        }
    }

    /// Who leads, as far as this voter knows.
    pub fn role(&self) -> watch::Receiver<Role> {
        self.shared.role.subscribe()
    }

    /// Hands a request over. `late` is the answer when it was handed over and none came.
    async fn call<T>(&self, request: impl FnOnce(Reply<T>) -> Request, late: StoreError) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        match self.clock.timeout(CALL_TIMEOUT, self.requests.send(request(reply))).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err(StoreError::Stopped),
            Err(_) => return Err(StoreError::unavailable("the metadata log does not keep up")),
        }
        match self.clock.timeout(CALL_TIMEOUT, answer).await {
            Ok(Ok(answer)) => answer,
            // The thread ended with the request in its hands, or has it still.
            Ok(Err(_)) | Err(_) => Err(late),
        }
    }

    async fn propose(&self, command: Command) -> Result<Applied, StoreError> {
        self.call(|reply| Request::Propose { command, reply }, StoreError::Unknown).await
    }

    /// Resolves once the applied state holds all that was answered before this was called (M6).
    async fn confirm(&self) -> Result<(), StoreError> {
        let late = StoreError::unavailable("it is not known who leads");
        self.call(|reply| Request::Read { reply }, late).await
    }
}

fn run(
    config: &RaftConfig,
    disk: &Arc<dyn Disk>,
    entropy: &Entropy,
    around: Surroundings,
    inputs: Inputs,
    started: oneshot::Sender<Result<ClusterId, OpenError>>,
) -> Result<(), String> {
    let opened = open::open(config, disk, entropy).and_then(|opened| {
        let cluster = opened.home.cluster;
        Ok((cluster, Node::new(opened, config, around, entropy)?))
    });
    let (cluster, mut node) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            // Whoever opens it reports it.
            let _ = started.send(Err(error));
            return Ok(());
        }
    };
    node.settle().map_err(|error| error.to_string())?;
    if started.send(Ok(cluster)).is_err() {
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().map_err(|e| e.to_string())?;
    runtime.block_on(node.run(inputs)).map_err(|error| error.to_string())
}

impl History for Arc<Shared> {
    fn read(&self, prefix: &Bytes, from: Revision, events_max: usize) -> Result<(Vec<Event>, Revision), StoreError> {
        if self.stopped.load(Ordering::Acquire) {
            return Err(StoreError::Stopped);
        }
        self.state.read().events(prefix, from, events_max)
    }
}

#[async_trait]
impl MetadataStore for RaftStore {
    async fn get(&self, key: &Bytes) -> Result<At<Option<KeyValue>>, StoreError> {
        self.confirm().await?;
        Ok(self.shared.state.read().get(key))
    }

    async fn range(&self, range: &Range) -> Result<At<Page>, StoreError> {
        self.confirm().await?;
        self.shared.state.read().range(range)
    }

    async fn txn(&self, txn: &Txn) -> Result<TxnOutcome, StoreError> {
        txn.check()?;
        match self.propose(Command::Txn(txn.clone())).await? {
            Applied::Txn(outcome) => Ok(outcome),
            Applied::Done => unreachable!("a transaction is answered by its outcome"),
        }
    }

    async fn watch(&self, prefix: &Bytes, from: Revision) -> Result<Watch, StoreError> {
        shared::watch(Arc::clone(&self.shared), self.shared.revision.subscribe(), prefix.clone(), from)
    }

    async fn create_session(&self, session: SessionId, ttl: Duration) -> Result<(), StoreError> {
        self.propose(Command::CreateSession { session, ttl }).await.map(|_| ())
    }

    async fn keep_alive(&self, session: SessionId) -> Result<(), StoreError> {
        let late = StoreError::unavailable("it is not known who leads");
        self.call(|reply| Request::KeepAlive { session, reply }, late).await
    }

    async fn end_session(&self, session: SessionId) -> Result<(), StoreError> {
        self.propose(Command::EndSession { session }).await.map(|_| ())
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.propose(Command::Compact { revision }).await.map(|_| ())
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        self.confirm().await?;
        Ok(self.shared.state.read().revision())
    }
}
