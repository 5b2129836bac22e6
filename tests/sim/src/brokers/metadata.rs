//! Metadata as a broker reaches it: calls take time, and are lost, there or back. What is committed is held against M1 and M2 as
//! it happens, by looking at the store itself.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use alluvium_metadata::keys::Key;
use alluvium_metadata::store::{At, KeyValue, Op, Page, Range, Txn, TxnOutcome, Watch};
use alluvium_metadata::{MemoryStore, Metadata, MetadataStore, PartitionId, StoreError};
use alluvium_runtime::clock::Clock;
use alluvium_runtime::tasks::{OnFailure, Tasks};
use alluvium_types::ids::{PartitionIndex, Revision, SessionId, TopicId};
use alluvium_types::time::Mono;
use async_trait::async_trait;
use bytes::Bytes;
use futures::FutureExt;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::history::History;
use crate::dice::Dice;

/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_millis(400);
/// How late the latest request arrives.
const LATE: Duration = Duration::from_millis(1500);

/// What all brokers' ways to metadata share.
pub(super) struct Plane {
    pub(super) store: MemoryStore,
    pub(super) clock: Clock,
    pub(super) tasks: Tasks,
    pub(super) history: Arc<History>,
    pub(super) hop: (Duration, Duration),
    pub(super) lost_once_in: u64,
    state: Mutex<State>,
}

struct State {
    dice: Dice,
    is_healed: bool,
    cut_until: Vec<Mono>,
    topic: Option<(TopicId, u32)>,
}

impl Plane {
    pub(super) fn new(
        store: MemoryStore,
        (clock, tasks): (Clock, Tasks),
        history: Arc<History>,
        (hop, lost_once_in): ((Duration, Duration), u64),
        (dice, brokers): (Dice, usize),
    ) -> Arc<Self> {
        let state = State { dice, is_healed: false, cut_until: vec![Mono::default(); brokers], topic: None };
        Arc::new(Self { store, clock, tasks, history, hop, lost_once_in, state: Mutex::new(state) })
    }

    /// The topic whose decisions are looked at.
    pub(super) fn watch_over(&self, topic: TopicId, partitions: u32) {
        self.state.lock().topic = Some((topic, partitions));
    }

    /// A broker does not reach metadata for a while.
    pub(super) fn cut(&self, broker: usize, span: Duration) {
        self.state.lock().cut_until[broker] = self.clock.mono().after(span);
    }

    /// Nothing goes wrong from now on.
    pub(super) fn heal(&self) {
        let mut state = self.state.lock();
        state.is_healed = true;
        state.cut_until.fill(Mono::default());
    }

    /// What the store holds, without delay.
    fn plain(&self) -> Metadata {
        let entropy = alluvium_runtime::entropy::Entropy::seeded(0);
        Metadata::new(Arc::new(self.store.clone()), self.clock.clone(), entropy, self.tasks.clone())
    }

    /// A transaction was applied: whoever decided for a partition owns it, in a session that lives (M1, M2).
    fn committed(&self, txn: &Txn) {
        let Some((topic, partitions)) = self.state.lock().topic else { return };
        for index in (0..partitions).map(PartitionIndex::new) {
            let owner_key = Key::Owner(topic, index).encode();
            let pointer = Key::StatePointer(topic, index).encode();
            let segments = Key::Segments(topic, index).encode();
            let puts = |wanted: &dyn Fn(&Bytes) -> bool| txn.ops.iter().map(Op::key).any(wanted);
            let claims = puts(&|key| *key == owner_key);
            if claims || puts(&|key| *key == pointer || key.starts_with(&segments)) {
                self.look(PartitionId { topic, index }, claims);
            }
        }
    }

    fn look(&self, partition: PartitionId, claims: bool) {
        let now = self.clock.mono();
        let metadata = self.plain();
        // The store in memory never waits.
        let owner = metadata.ownership().get(partition).now_or_never().and_then(Result::ok).flatten();
        let Some(owner) = owner else { return };
        let (number, epoch) = (partition.index.get(), owner.value.epoch.get());
        if claims {
            let holder = owner.value.holder.as_ref().map(|holder| holder.broker.as_str());
            self.history.claimed(now, number, epoch, holder);
        }
        let Some(holder) = owner.value.holder else { return };
        let lives = metadata.ownership().is_live(&holder).now_or_never().and_then(Result::ok).unwrap_or(false);
        self.history.check(now, lives, "M2", || {
            format!("{} decides for p{number} under e{epoch} in a session that is gone", holder.broker)
        });
    }
}

/// One broker's way to metadata.
#[derive(Clone)]
pub(super) struct Way {
    pub(super) plane: Arc<Plane>,
    pub(super) broker: usize,
}

impl std::fmt::Debug for Way {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "metadata of n{}", self.broker)
    }
}

/// What becomes of a call.
struct Fate {
    there: Duration,
    back: Duration,
    /// It never arrives.
    lost: bool,
    /// Its answer never does.
    unanswered: bool,
}

impl Way {
    fn fate(&self) -> Fate {
        let mut guard = self.plane.state.lock();
        let state = &mut *guard;
        let hop = self.plane.hop;
        let (mut there, back) = (state.dice.time(hop.0, hop.1), state.dice.time(hop.0, hop.1));
        let cut = self.plane.clock.mono() < state.cut_until[self.broker];
        let goes_wrong = !state.is_healed && self.plane.lost_once_in > 0 && state.dice.below(self.plane.lost_once_in) == 0;
        let which = if goes_wrong { state.dice.below(3) } else { 3 };
        if which == 2 {
            there += state.dice.time(Duration::ZERO, LATE);
        }
        Fate { there, back, lost: cut || which == 0, unanswered: which == 1 }
    }

    /// Carries a call, which goes on whatever becomes of the caller. `None`: no answer came.
    async fn call<T, F>(&self, call: impl FnOnce(Arc<Plane>) -> F + Send + 'static) -> Option<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let (tx, rx) = oneshot::channel();
        let (fate, plane) = (self.fate(), Arc::clone(&self.plane));
        if !fate.lost {
            self.plane.tasks.spawn("to-metadata", OnFailure::Log, async move {
                plane.clock.sleep(fate.there).await;
                let answer = call(Arc::clone(&plane)).await;
                plane.clock.sleep(fate.back).await;
                if !fate.unanswered {
                    // Who no longer waits has gone.
                    let _ = tx.send(answer);
                }
                Ok::<(), std::convert::Infallible>(())
            });
            return self.plane.clock.timeout(PATIENCE, rx).await.ok()?.ok();
        }
        self.plane.clock.sleep(PATIENCE).await;
        None
    }
}

fn unreached<T>(answer: Option<Result<T, StoreError>>) -> Result<T, StoreError> {
    answer.unwrap_or_else(|| Err(StoreError::unavailable("no answer")))
}

#[async_trait]
impl MetadataStore for Way {
    async fn get(&self, key: &Bytes) -> Result<At<Option<KeyValue>>, StoreError> {
        let key = key.clone();
        unreached(self.call(|plane| async move { plane.store.get(&key).await }).await)
    }

    async fn range(&self, range: &Range) -> Result<At<Page>, StoreError> {
        let range = range.clone();
        unreached(self.call(|plane| async move { plane.store.range(&range).await }).await)
    }

    async fn txn(&self, txn: &Txn) -> Result<TxnOutcome, StoreError> {
        let txn = txn.clone();
        let answer = self.call(|plane| async move {
            let outcome = plane.store.txn(&txn).await;
            if matches!(outcome, Ok(TxnOutcome::Committed { .. })) {
                plane.committed(&txn);
            }
            outcome
        });
        answer.await.unwrap_or(Err(StoreError::Unknown))
    }

    async fn watch(&self, prefix: &Bytes, from: Revision) -> Result<Watch, StoreError> {
        self.plane.store.watch(prefix, from).await
    }

    async fn create_session(&self, session: SessionId, ttl: Duration) -> Result<(), StoreError> {
        unreached(self.call(move |plane| async move { plane.store.create_session(session, ttl).await }).await)
    }

    async fn keep_alive(&self, session: SessionId) -> Result<(), StoreError> {
        unreached(self.call(move |plane| async move { plane.store.keep_alive(session).await }).await)
    }

    async fn end_session(&self, session: SessionId) -> Result<(), StoreError> {
        unreached(self.call(move |plane| async move { plane.store.end_session(session).await }).await)
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        unreached(self.call(move |plane| async move { plane.store.compact(revision).await }).await)
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        unreached(self.call(|plane| async move { plane.store.revision().await }).await)
    }
}
