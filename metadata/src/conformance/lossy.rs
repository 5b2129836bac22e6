//! A store whose answers get lost: every way in which a transaction's outcome can be unknown (M3).

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use alluvium_types::ids::{Revision, SessionId};
use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;

use crate::error::StoreError;
use crate::store::{At, KeyValue, MetadataStore, Page, Range, Store, Txn, TxnOutcome, Watch};

/// What happens to a transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// It is answered.
    Answered,
    /// It is applied; the answer is lost.
    AppliedUnknown,
    /// It never arrives; the caller can't tell.
    LostUnknown,
    /// It is on its way, and arrives just before the next transaction; the answer is lost.
    DelayedUnknown,
    /// It is refused for now, for certain.
    Unavailable,
}

/// A store in front of another one that loses answers as it is told.
#[derive(Clone, Debug)]
pub struct LossyStore {
    inner: Store,
    fates: Arc<Mutex<VecDeque<Fate>>>,
    delayed: Arc<Mutex<Vec<Txn>>>,
}

impl LossyStore {
    /// In front of `inner`; answers everything until it is told otherwise.
    pub fn new(inner: Store) -> Self {
        Self { inner, fates: Arc::default(), delayed: Arc::default() }
    }

    /// What happens to the next transactions, one after the other; those behind are answered.
    pub fn next(&self, fates: impl IntoIterator<Item = Fate>) {
        self.fates.lock().extend(fates);
    }
}

#[async_trait]
impl MetadataStore for LossyStore {
    async fn get(&self, key: &Bytes) -> Result<At<Option<KeyValue>>, StoreError> {
        self.inner.get(key).await
    }

    async fn range(&self, range: &Range) -> Result<At<Page>, StoreError> {
        self.inner.range(range).await
    }

    async fn txn(&self, txn: &Txn) -> Result<TxnOutcome, StoreError> {
        let delayed = std::mem::take(&mut *self.delayed.lock());
        for late in delayed {
            // Nobody waits for this answer any more.
            let _ = self.inner.txn(&late).await;
        }
        let fate = self.fates.lock().pop_front().unwrap_or(Fate::Answered);
        match fate {
            Fate::Answered => self.inner.txn(txn).await,
            Fate::AppliedUnknown => {
                let _ = self.inner.txn(txn).await;
                Err(StoreError::Unknown)
            }
            Fate::LostUnknown => Err(StoreError::Unknown),
            Fate::DelayedUnknown => {
                self.delayed.lock().push(txn.clone());
                Err(StoreError::Unknown)
            }
            Fate::Unavailable => Err(StoreError::unavailable("told so")),
        }
    }

    async fn watch(&self, prefix: &Bytes, from: Revision) -> Result<Watch, StoreError> {
        self.inner.watch(prefix, from).await
    }

    async fn create_session(&self, session: SessionId, ttl: Duration) -> Result<(), StoreError> {
        self.inner.create_session(session, ttl).await
    }

    async fn keep_alive(&self, session: SessionId) -> Result<(), StoreError> {
        self.inner.keep_alive(session).await
    }

    async fn end_session(&self, session: SessionId) -> Result<(), StoreError> {
        self.inner.end_session(session).await
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.inner.compact(revision).await
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        self.inner.revision().await
    }
}
