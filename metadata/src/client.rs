//! The one way from a decision to the store: transactions are re-issued, unchanged, until their outcome is certain (M3, C12).

use std::time::Duration;

use alluvium_runtime::backoff::Backoff;
use alluvium_runtime::clock::Clock;
use alluvium_runtime::entropy::Entropy;
use alluvium_runtime::tasks::Tasks;
use alluvium_types::ids::{Nonce, Revision, SessionId};
use bytes::Bytes;

use crate::error::{ReadError, Refusal, StoreError, UpdateError};
use crate::keys::Key;
use crate::mutation::{Mutation, Mutations};
use crate::record::{self, Record, Versioned};
use crate::store::{At, Compare, Condition, KeyValue, Page, Range, Store, Txn, TxnOutcome};

/// How long a call that changed nothing so far is tried again before it fails.
const PATIENCE: Duration = Duration::from_secs(5);
/// How many records the first page of a whole listing asks for.
const FIRST_PAGE: usize = 64;
/// The pause between two tries.
const PAUSE: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(500));

/// A cheap handle to metadata: the store, and what waiting for it needs. The repositories are made from it.
#[derive(Clone, Debug)]
pub struct Metadata {
    store: Store,
    clock: Clock,
    entropy: Entropy,
    tasks: Tasks,
    patience: Duration,
    mutations: Mutations,
}

/// By what a transaction is recognised when its answer was lost.
#[derive(Clone, Debug)]
pub(crate) enum Witness {
    /// A key that it writes with this nonce.
    Nonce {
        /// The key.
        key: Bytes,
        /// The nonce in its value.
        nonce: Nonce,
    },
    /// A key that it removes, which nobody creates again.
    Gone {
        /// The key.
        key: Bytes,
    },
}

/// What became of a decision.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Decided {
    /// It stands.
    Committed(Revision),
    /// It does not, and never will: a compare failed, or another decision has taken its place.
    Conflict,
}

impl Metadata {
    /// Metadata in `store`. Waiting and keep-alives end when `tasks` are asked to stop: give it tasks of its own
    /// (`tasks.part()`) that stop after everything which uses it, so that what drains still has its session.
    pub const fn new(store: Store, clock: Clock, entropy: Entropy, tasks: Tasks) -> Self {
        Self { store, clock, entropy, tasks, patience: PATIENCE, mutations: Mutations::NONE }
    }

    /// The same with another patience: how long a call that changed nothing is tried again.
    #[must_use]
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// The same with a bug in it.
    #[must_use]
    pub const fn with_mutations(mut self, mutations: Mutations) -> Self {
        self.mutations = mutations;
        self
    }

    /// The store itself, for sessions, watches and compaction.
    pub const fn store(&self) -> &Store {
        &self.store
    }

    /// The clock that leases and waits are measured by.
    pub const fn clock(&self) -> &Clock {
        &self.clock
    }

    pub(crate) const fn tasks(&self) -> &Tasks {
        &self.tasks
    }

    /// A nonce that nobody else has.
    pub(crate) fn nonce(&self) -> Nonce {
        Nonce::new(self.entropy.uuid())
    }

    /// A session id that nobody else has.
    pub(crate) fn session_id(&self) -> SessionId {
        SessionId::new(self.entropy.uuid())
    }

    pub(crate) fn uuid(&self) -> uuid::Uuid {
        self.entropy.uuid()
    }

    pub(crate) const fn patience(&self) -> Duration {
        self.patience
    }

    pub(crate) fn backoff(&self) -> Backoff {
        Backoff::new(PAUSE.0, PAUSE.1, self.entropy.clone())
    }

    /// Waits before the next try; `false` when the process is stopping.
    pub(crate) async fn pause(&self, backoff: &mut Backoff) -> bool {
        tokio::select! {
            biased;
            () = self.tasks.stopping() => false,
            () = self.clock.sleep(backoff.delay()) => true,
        }
    }

    /// Applies a transaction and finds out, for certain, what became of it.
    ///
    /// While nothing of it can have been applied, it is tried for as long as the patience lasts. From the first lost answer
    /// on, the same transaction is issued again until it is decided: only the stop of the process ends that. A read that
    /// shows the old value proves nothing and is not looked at. After a refusal, the witness tells whether an earlier
    /// issue was the one that won: the revisions it compares never come back, so a refused transaction stays refused.
    ///
    /// Not cancel safe: a dropped call leaves the decision open.
    pub(crate) async fn commit(&self, txn: &Txn, witness: &Witness) -> Result<Decided, UpdateError> {
        let deadline = self.clock.mono().after(self.patience);
        let mut backoff = self.backoff();
        let mut open = false;
        let planted = self.mutations.has(Mutation::SessionKeyNotCompared).then(|| without_sessions(txn));
        let txn = planted.as_ref().unwrap_or(txn);
        loop {
            match self.store.txn(txn).await {
                Ok(TxnOutcome::Committed { revision }) => return Ok(Decided::Committed(revision)),
                Ok(TxnOutcome::Conflict) if open => return self.look_for(witness).await,
                Ok(TxnOutcome::Conflict) => return Ok(Decided::Conflict),
                Err(StoreError::Unknown) => {
                    if !open {
                        tracing::warn!("the answer to a transaction was lost; issuing it again");
                    }
                    open = true;
                }
                Err(StoreError::SessionGone(_)) if open => {
                    return match self.look_for(witness).await? {
                        Decided::Committed(revision) => Ok(Decided::Committed(revision)),
                        Decided::Conflict => Err(UpdateError::SessionGone),
                    };
                }
                Err(StoreError::SessionGone(_)) => return Err(UpdateError::SessionGone),
                Err(StoreError::Refused(refusal)) => return Err(UpdateError::Refused(refusal)),
                Err(error @ (StoreError::Unavailable { .. } | StoreError::Compacted { .. })) => {
                    if !open && self.clock.mono() >= deadline {
                        return Err(UpdateError::Unavailable(error));
                    }
                }
                Err(StoreError::Stopped) if open => return Err(UpdateError::Unresolved),
                Err(StoreError::Stopped) => return Err(UpdateError::Stopping),
            }
            if !self.pause(&mut backoff).await {
                return Err(if open { UpdateError::Unresolved } else { UpdateError::Stopping });
            }
        }
    }

    /// After a definite refusal of a re-issued transaction: did an earlier issue win?
    async fn look_for(&self, witness: &Witness) -> Result<Decided, UpdateError> {
        let key = match witness {
            Witness::Nonce { key, .. } | Witness::Gone { key } => key,
        };
        let mut backoff = self.backoff();
        loop {
            match self.store.get(key).await {
                Ok(At { revision, value }) => {
                    return Ok(match (witness, value) {
                        (Witness::Nonce { nonce, .. }, Some(found)) if record::nonce_of(&found.value) == Some(*nonce) => {
                            Decided::Committed(found.mod_revision)
                        }
                        (Witness::Gone { .. }, None) => Decided::Committed(revision),
                        _ => Decided::Conflict,
                    });
                }
                Err(StoreError::Stopped) => return Err(UpdateError::Unresolved),
                Err(_) => {}
            }
            if !self.pause(&mut backoff).await {
                return Err(UpdateError::Unresolved);
            }
        }
    }

    /// Reads a record, if it is there. Linearizable (M6).
    pub(crate) async fn read<R: Record>(&self, key: Key<'_>) -> Result<Option<Versioned<R>>, ReadError> {
        self.read_at(key).await.map(|at| at.value)
    }

    /// Reads a record, and the revision of the store at which it was so.
    pub(crate) async fn read_at<R: Record>(&self, key: Key<'_>) -> Result<At<Option<Versioned<R>>>, ReadError> {
        let key = key.encode();
        let at = self.patiently(|| self.store.get(&key)).await?;
        let value = at.value.as_ref().map(record::decode).transpose()?;
        Ok(At { revision: at.revision, value })
    }

    /// The newest revision of the store.
    pub(crate) async fn revision(&self) -> Result<Revision, ReadError> {
        self.patiently(|| self.store.revision()).await
    }

    /// Reads a page of keys.
    pub(crate) async fn page(&self, prefix: Key<'_>, after: Option<Bytes>, limit: usize) -> Result<At<Page>, ReadError> {
        let range = Range { prefix: prefix.encode(), after, limit: limit.max(1) };
        self.patiently(|| self.store.range(&range)).await
    }

    /// Reads all of a prefix, page by page, with the revision of the first page. Most are short, so pages begin small.
    pub(crate) async fn all(&self, prefix: Key<'_>) -> Result<At<Vec<KeyValue>>, ReadError> {
        let mut first = None;
        let mut records: Vec<KeyValue> = Vec::new();
        let mut limit = FIRST_PAGE;
        loop {
            let after = records.last().map(|record| record.key.clone());
            let page = self.page(prefix, after, limit).await?;
            limit = crate::store::PAGE_RECORDS_MAX;
            let revision = *first.get_or_insert(page.revision);
            records.extend(page.value.records);
            if !page.value.more {
                return Ok(At { revision, value: records });
            }
        }
    }

    async fn patiently<T, F>(&self, mut call: impl FnMut() -> F) -> Result<T, ReadError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let deadline = self.clock.mono().after(self.patience);
        let mut backoff = self.backoff();
        loop {
            match call().await {
                Ok(answer) => return Ok(answer),
                Err(StoreError::Stopped) => return Err(ReadError::Stopping),
                Err(error) if !error.is_retryable() || self.clock.mono() >= deadline => {
                    return Err(ReadError::Unavailable(error));
                }
                Err(_) => {}
            }
            if !self.pause(&mut backoff).await {
                return Err(ReadError::Stopping);
            }
        }
    }
}

/// A transaction that does not ask whether the decider lives.
fn without_sessions(txn: &Txn) -> Txn {
    let mut txn = txn.clone();
    let sessions = Key::LiveBrokers.encode();
    let is_session =
        |compare: &Compare| compare.key.starts_with(&sessions) && matches!(compare.condition, Condition::CreateRevision(_));
    txn.compares.retain(|compare| !is_session(compare));
    txn
}

impl From<Refusal> for UpdateError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}
