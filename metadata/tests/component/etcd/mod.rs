//! The store on etcd, and what befalls a real one.

mod access;
mod forwarder;
mod leaders;
mod outcomes;
mod reads;
mod sessions;
mod watches;

use std::sync::Arc;
use std::time::Duration;

use alluvium_metadata::etcd::{EtcdConfig, EtcdStore};
use alluvium_metadata::store::{MetadataStore, Txn, TxnOutcome, Watch};
use alluvium_metadata::{Metadata, StoreError};
use alluvium_runtime::clock::Clock;
use alluvium_runtime::entropy::Entropy;
use alluvium_runtime::tasks::Tasks;
use alluvium_test_etcd::Etcd;
use alluvium_types::ids::Revision;
use bytes::Bytes;

/// How long anything may take.
const LIMIT: Duration = Duration::from_secs(30);

pub(crate) fn etcd_config(etcd: &Etcd) -> EtcdConfig {
    config_at(etcd.url())
}

fn config_at(url: String) -> EtcdConfig {
    EtcdConfig { endpoints: vec![url], ..EtcdConfig::default() }
}

/// One process that has its metadata in etcd.
struct World {
    clock: Clock,
    tasks: Tasks,
    store: EtcdStore,
    metadata: Metadata,
}

async fn world(config: &EtcdConfig, seed: u64) -> World {
    let (tasks, _failures) = Tasks::new();
    let (clock, entropy) = (Clock::system(), Entropy::seeded(seed));
    let store = EtcdStore::connect(config, clock.clone(), entropy.clone(), &tasks.part()).await.unwrap();
    let metadata = Metadata::new(Arc::new(store.clone()), clock.clone(), entropy, tasks.clone());
    World { clock, tasks, store, metadata }
}

impl World {
    async fn put(&self, key: &str, value: &[u8]) -> Revision {
        let txn = Txn::new().put(Bytes::copy_from_slice(key.as_bytes()), Bytes::copy_from_slice(value));
        self.commit(&txn).await
    }

    async fn delete(&self, key: &str) -> Revision {
        self.commit(&Txn::new().delete(Bytes::copy_from_slice(key.as_bytes()))).await
    }

    async fn commit(&self, txn: &Txn) -> Revision {
        match self.store.txn(txn).await.unwrap() {
            TxnOutcome::Committed { revision } => revision,
            TxnOutcome::Conflict => panic!("nothing is compared"),
        }
    }

    /// Asks until etcd answers again.
    async fn answers_again(&self) -> Revision {
        self.within("etcd answers again", async {
            loop {
                match self.store.revision().await {
                    Ok(revision) => return revision,
                    Err(error) => assert!(error.is_retryable(), "{error}"),
                }
                self.clock.sleep(Duration::from_millis(20)).await;
            }
        })
        .await
    }

    async fn within<T>(&self, what: &str, future: impl Future<Output = T>) -> T {
        self.clock.timeout(LIMIT, future).await.unwrap_or_else(|_| panic!("not within {LIMIT:?}: {what}"))
    }

    async fn next(&self, watch: &mut Watch) -> Result<Vec<alluvium_metadata::store::Event>, StoreError> {
        self.within("a change", watch.next()).await
    }
}

fn key(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}
