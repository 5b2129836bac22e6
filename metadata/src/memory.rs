//! The store in memory, for tests and the simulator: the state machine behind a lock, its leases driven by the clock.
//!
//! Calls never wait. Sessions expire when anything is asked after their time, and by the task of [`MemoryStore::start`].

use std::sync::Arc;
use std::time::Duration;

use alluvium_runtime::clock::Clock;
use alluvium_runtime::tasks::{OnFailure, Tasks};
use alluvium_types::ids::{Revision, SessionId};
use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::error::StoreError;
use crate::leases::Leases;
use crate::shared::{self, History};
use crate::state::{Applied, Command, State};
use crate::store::{At, KeyValue, MetadataStore, Page, Range, Txn, TxnOutcome, Watch};

/// A metadata store in memory.
#[derive(Clone, Debug)]
pub struct MemoryStore(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    clock: Clock,
    core: Mutex<Core>,
    revision: watch::Sender<Revision>,
    /// Wakes the task that waits for the next deadline.
    renewed: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct Core {
    state: State,
    leases: Leases,
}

impl MemoryStore {
    /// An empty store whose sessions expire lazily, when something is asked. For simulators, which have no tasks.
    pub fn new(clock: Clock) -> Self {
        Self(Arc::new(Inner {
            clock,
            core: Mutex::default(),
            revision: watch::Sender::new(Revision::ZERO),
            renewed: watch::Sender::new(()),
        }))
    }

    /// An empty store with a task that lets sessions expire on time.
    pub fn start(clock: Clock, tasks: &Tasks) -> Self {
        let store = Self::new(clock);
        let (expiring, stop) = (store.clone(), tasks.clone());
        tasks.spawn("metadata-memory", OnFailure::ShutDown, async move {
            let mut renewed = expiring.0.renewed.subscribe();
            loop {
                let deadline = expiring.with(|core| core.leases.next_deadline());
                let due = async {
                    match deadline {
                        Some(deadline) => expiring.0.clock.sleep_until(deadline).await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    biased;
                    () = stop.stopping() => return Ok::<(), String>(()),
                    () = due => {}
                    // The sender lives in the store.
                    _ = renewed.changed() => {}
                }
            }
        });
        store
    }

    /// Runs `call` on the state as it is now, expired sessions gone.
    fn with<T>(&self, call: impl FnOnce(&mut Core) -> T) -> T {
        let mut core = self.0.core.lock();
        for session in core.leases.expire(self.0.clock.mono()) {
            core.state.apply(&Command::EndSession { session }).expect("ending a session never fails");
            core.leases.forget(session);
        }
        let answer = call(&mut core);
        let revision = core.state.revision();
        drop(core);
        self.0.revision.send_if_modified(|known| std::mem::replace(known, revision) != revision);
        answer
    }
}

impl History for MemoryStore {
    fn read(
        &self,
        prefix: &Bytes,
        from: Revision,
        events_max: usize,
    ) -> Result<(Vec<crate::store::Event>, Revision), StoreError> {
        self.with(|core| core.state.events(prefix, from, events_max))
    }
}

#[async_trait]
impl MetadataStore for MemoryStore {
    async fn get(&self, key: &Bytes) -> Result<At<Option<KeyValue>>, StoreError> {
        Ok(self.with(|core| core.state.get(key)))
    }

    async fn range(&self, range: &Range) -> Result<At<Page>, StoreError> {
        self.with(|core| core.state.range(range))
    }

    async fn txn(&self, txn: &Txn) -> Result<TxnOutcome, StoreError> {
        match self.with(|core| core.state.apply(&Command::Txn(txn.clone())))? {
            Applied::Txn(outcome) => Ok(outcome),
            Applied::Done => unreachable!("a transaction is answered by its outcome"),
        }
    }

    async fn watch(&self, prefix: &Bytes, from: Revision) -> Result<Watch, StoreError> {
        shared::watch(self.clone(), self.0.revision.subscribe(), prefix.clone(), from)
    }

    async fn create_session(&self, session: SessionId, ttl: Duration) -> Result<(), StoreError> {
        let now = self.0.clock.mono();
        self.with(|core| {
            core.state.apply(&Command::CreateSession { session, ttl })?;
            core.leases.renew(session, ttl, now);
            Ok::<(), StoreError>(())
        })?;
        self.0.renewed.send_replace(());
        Ok(())
    }

    async fn keep_alive(&self, session: SessionId) -> Result<(), StoreError> {
        let now = self.0.clock.mono();
        self.with(|core| match core.state.session_ttl(session) {
            Some(ttl) if core.leases.renew(session, ttl, now) => Ok(()),
            _ => Err(StoreError::SessionGone(session)),
        })
    }

    async fn end_session(&self, session: SessionId) -> Result<(), StoreError> {
        self.with(|core| {
            core.leases.forget(session);
            core.state.apply(&Command::EndSession { session }).map(|_| ())
        })
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.with(|core| core.state.apply(&Command::Compact { revision }).map(|_| ()))
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        Ok(self.with(|core| core.state.revision()))
    }
}
