//! The conformance suite, against every backend.

use std::sync::Arc;
use std::time::Duration;

use alluvium_metadata::conformance::{self, Subject};
use alluvium_metadata::etcd::EtcdStore;
use alluvium_metadata::raft::{NoPeers, RaftConfig, RaftStore};
use alluvium_metadata::{MemoryStore, Store};
use alluvium_runtime::clock::Clock;
use alluvium_runtime::disk::real::RealDisk;
use alluvium_runtime::entropy::Entropy;
use alluvium_runtime::tasks::Tasks;
use alluvium_test_etcd::Etcd;

use crate::cluster::Voters;
use crate::etcd::etcd_config;

fn subject(store: Store, clock: Clock, tasks: &Tasks) -> Subject {
    Subject { store, clock, entropy: Entropy::seeded(1), tasks: tasks.clone() }
}

#[tokio::test]
async fn the_memory_store_does_what_every_store_does() {
    let (tasks, _failures) = Tasks::new();
    let clock = Clock::system();
    let store = Arc::new(MemoryStore::start(clock.clone(), &tasks));
    conformance::run(&subject(store, clock, &tasks)).await;
}

#[tokio::test]
async fn a_lone_voter_does_what_every_store_does() {
    let (tasks, mut failures) = Tasks::new();
    let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::system());
    let config = RaftConfig::lone(dir.path().join("metadata"), None);
    let part = tasks.part();
    let store = RaftStore::open(config, Arc::new(RealDisk), clock.clone(), Entropy::seeded(2), &part, Arc::new(NoPeers));
    let store = Arc::new(store.await.unwrap());
    conformance::run(&subject(store, clock, &tasks)).await;
    part.stop();
    assert!(part.join(Duration::from_secs(5)).await);
    assert!(failures.try_recv().is_err());
}

#[tokio::test]
async fn three_voters_do_what_every_store_does() {
    let voters = Voters::start(3).await;
    conformance::run(&subject(Arc::new(voters.store()), voters.clock.clone(), &voters.tasks)).await;
}

#[tokio::test]
async fn a_real_etcd_does_what_every_store_does() {
    let (tasks, mut failures) = Tasks::new();
    let (etcd, clock) = (Etcd::start(), Clock::system());
    let part = tasks.part();
    let store = EtcdStore::connect(&etcd_config(&etcd), clock.clone(), Entropy::seeded(3), &part).await.unwrap();
    conformance::run(&subject(Arc::new(store), clock, &tasks)).await;
    part.stop();
    assert!(part.join(Duration::from_secs(5)).await);
    assert!(failures.try_recv().is_err());
}
