//! Metadata that a broker hears nothing of for a while: what it reads is true, and what changes reaches it late.

use std::time::Duration;

use alluvium_metadata::StoreError;
use alluvium_metadata::store::{At, KeyValue, MetadataStore, Page, Range, Store, Txn, TxnOutcome, Watch};
use alluvium_types::ids::{Revision, SessionId};
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream;
use tokio::sync::watch;

#[derive(Debug)]
pub(crate) struct DeafStore {
    inner: Store,
    deaf: watch::Receiver<bool>,
}

impl DeafStore {
    /// In front of `inner`, deaf while the other end says so.
    pub(crate) fn new(inner: Store) -> (Self, watch::Sender<bool>) {
        let (tell, deaf) = watch::channel(false);
        (Self { inner, deaf }, tell)
    }
}

#[async_trait]
impl MetadataStore for DeafStore {
    async fn get(&self, key: &Bytes) -> Result<At<Option<KeyValue>>, StoreError> {
        self.inner.get(key).await
    }

    async fn range(&self, range: &Range) -> Result<At<Page>, StoreError> {
        self.inner.range(range).await
    }

    async fn txn(&self, txn: &Txn) -> Result<TxnOutcome, StoreError> {
        self.inner.txn(txn).await
    }

    async fn watch(&self, prefix: &Bytes, from: Revision) -> Result<Watch, StoreError> {
        let heard = (self.inner.watch(prefix, from).await?, self.deaf.clone());
        Ok(Watch::new(stream::unfold(heard, async |(mut watch, mut deaf)| {
            let events = watch.next().await;
            // Whoever told has ended with the test.
            let _ = deaf.wait_for(|deaf| !deaf).await;
            Some((events, (watch, deaf)))
        })))
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
