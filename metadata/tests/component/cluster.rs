//! Several voters over a transport in memory that can be cut.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use alluvium_metadata::StoreError;
use alluvium_metadata::raft::{RaftConfig, RaftStore, Transport, VoterId};
use alluvium_metadata::store::{At, KeyValue, MetadataStore, Page, Range, Txn, TxnOutcome, Watch};
use alluvium_runtime::clock::Clock;
use alluvium_runtime::disk::real::RealDisk;
use alluvium_runtime::entropy::Entropy;
use alluvium_runtime::tasks::Tasks;
use alluvium_types::ids::{ClusterId, Revision, SessionId};
use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;

/// Who is reachable.
#[derive(Clone, Debug, Default)]
pub(crate) struct Net(Arc<Mutex<Wires>>);

impl Net {
    pub(crate) fn cut(&self, id: u64) {
        self.0.lock().cut.insert(id);
    }

    pub(crate) fn heal(&self, id: u64) {
        self.0.lock().cut.remove(&id);
    }
}

#[derive(Debug, Default)]
struct Wires {
    stores: BTreeMap<u64, RaftStore>,
    cut: BTreeSet<u64>,
}

#[derive(Debug)]
struct Wire {
    from: VoterId,
    net: Net,
}

impl Transport for Wire {
    fn send(&self, to: VoterId, message: Bytes) {
        let store = {
            let wires = self.net.0.lock();
            if wires.cut.contains(&to.get()) || wires.cut.contains(&self.from.get()) {
                return;
            }
            wires.stores.get(&to.get()).cloned()
        };
        if let Some(store) = store {
            store.receive(message);
        }
    }
}

/// A cluster of voters.
pub(crate) struct Voters {
    pub(crate) clock: Clock,
    pub(crate) tasks: Tasks,
    pub(crate) net: Net,
    cluster: ClusterId,
    count: u64,
    dir: tempfile::TempDir,
    parts: BTreeMap<u64, Tasks>,
}

impl Voters {
    /// Starts them, and waits until one leads.
    pub(crate) async fn start(count: u64) -> Self {
        let (tasks, _failures) = Tasks::new();
        let mut voters = Self {
            clock: Clock::system(),
            tasks,
            net: Net::default(),
            cluster: ClusterId::new(Entropy::seeded(7).uuid()),
            count,
            dir: tempfile::tempdir().unwrap(),
            parts: BTreeMap::new(),
        };
        for id in 1..=count {
            voters.start_one(id).await;
        }
        voters.leader().await;
        voters
    }

    pub(crate) fn config(&self, id: u64) -> RaftConfig {
        let mut config = RaftConfig::lone(self.dir.path().join(format!("voter-{id}")), Some(self.cluster));
        config.voter = VoterId::new(id).unwrap();
        config.voters = (1..=self.count).map(|id| VoterId::new(id).unwrap()).collect();
        config.tick = Duration::from_millis(10);
        config.log_file_bytes = 4 << 20;
        config.snapshot_after_bytes = 8 << 20;
        config.trailing_entries = 10;
        config
    }

    pub(crate) async fn start_one(&mut self, id: u64) {
        let part = self.tasks.part();
        let wire = Arc::new(Wire { from: VoterId::new(id).unwrap(), net: self.net.clone() });
        let entropy = Entropy::seeded(100 + id);
        let store = RaftStore::open(self.config(id), Arc::new(RealDisk), self.clock.clone(), entropy, &part, wire).await.unwrap();
        self.net.0.lock().stores.insert(id, store);
        self.parts.insert(id, part);
    }

    /// Stops a voter, as if its process had ended.
    pub(crate) async fn kill(&mut self, id: u64) {
        self.net.0.lock().stores.remove(&id);
        let part = self.parts.remove(&id).unwrap();
        part.stop();
        assert!(part.join(Duration::from_secs(5)).await);
    }

    /// Cuts a voter off, both ways.
    pub(crate) fn cut(&self, id: u64) {
        self.net.cut(id);
    }

    pub(crate) fn heal(&self, id: u64) {
        self.net.heal(id);
    }

    /// Waits until `holds`.
    pub(crate) async fn eventually(&self, what: &str, holds: impl Fn() -> bool) {
        let wait = async {
            while !holds() {
                self.clock.sleep(Duration::from_millis(5)).await;
            }
        };
        self.clock.timeout(Duration::from_secs(10), wait).await.unwrap_or_else(|_| panic!("not in time: {what}"));
    }

    /// Waits until a voter has applied a revision.
    pub(crate) async fn eventually_shows(&self, id: u64, revision: Revision) {
        let store = self.voter(id);
        self.eventually("the voter catches up", || store.applied_revision() >= revision).await;
    }

    pub(crate) fn voter(&self, id: u64) -> RaftStore {
        self.net.0.lock().stores[&id].clone()
    }

    /// Waits until one that is not cut off leads and serves.
    pub(crate) async fn leader(&self) -> u64 {
        let wait = async {
            loop {
                let serving = {
                    let wires = self.net.0.lock();
                    wires
                        .stores
                        .iter()
                        .find(|(id, store)| !wires.cut.contains(id) && store.role().borrow().is_serving)
                        .map(|(id, _)| *id)
                };
                if let Some(id) = serving {
                    return id;
                }
                self.clock.sleep(Duration::from_millis(5)).await;
            }
        };
        self.clock.timeout(Duration::from_secs(10), wait).await.expect("a leader is elected")
    }

    /// A store that asks whoever leads, like a client of several voters.
    pub(crate) fn store(&self) -> Routed {
        Routed { net: self.net.clone(), clock: self.clock.clone() }
    }
}

/// Asks one voter after the other while nothing was applied.
#[derive(Clone, Debug)]
pub(crate) struct Routed {
    net: Net,
    clock: Clock,
}

impl Routed {
    async fn route<T, F: Future<Output = Result<T, StoreError>>>(&self, call: impl Fn(RaftStore) -> F) -> Result<T, StoreError> {
        for _ in 0..1000 {
            let stores: Vec<RaftStore> = self.net.0.lock().stores.values().cloned().collect();
            for store in stores {
                if !store.role().borrow().is_serving {
                    continue;
                }
                match call(store).await {
                    Err(StoreError::Unavailable { .. }) => {}
                    answer => return answer,
                }
            }
            self.clock.sleep(Duration::from_millis(5)).await;
        }
        Err(StoreError::unavailable("nobody leads"))
    }
}

#[async_trait]
impl MetadataStore for Routed {
    async fn get(&self, key: &Bytes) -> Result<At<Option<KeyValue>>, StoreError> {
        self.route(|store| async move { store.get(key).await }).await
    }

    async fn range(&self, range: &Range) -> Result<At<Page>, StoreError> {
        self.route(|store| async move { store.range(range).await }).await
    }

    async fn txn(&self, txn: &Txn) -> Result<TxnOutcome, StoreError> {
        self.route(|store| async move { store.txn(txn).await }).await
    }

    async fn watch(&self, prefix: &Bytes, from: Revision) -> Result<Watch, StoreError> {
        self.route(|store| async move { store.watch(prefix, from).await }).await
    }

    async fn create_session(&self, session: SessionId, ttl: Duration) -> Result<(), StoreError> {
        self.route(|store| async move { store.create_session(session, ttl).await }).await
    }

    async fn keep_alive(&self, session: SessionId) -> Result<(), StoreError> {
        self.route(|store| async move { store.keep_alive(session).await }).await
    }

    async fn end_session(&self, session: SessionId) -> Result<(), StoreError> {
        self.route(|store| async move { store.end_session(session).await }).await
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.route(|store| async move { store.compact(revision).await }).await
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        self.route(|store| async move { store.revision().await }).await
    }
}
