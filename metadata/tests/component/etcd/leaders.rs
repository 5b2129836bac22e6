//! etcd as three members, of which the leader goes.

use std::time::Duration;

use alluvium_metadata::StoreError;
use alluvium_metadata::etcd::EtcdConfig;
use alluvium_metadata::store::{Condition, MetadataStore, Txn, TxnOutcome};
use alluvium_test_etcd::{Etcd, Options};
use alluvium_types::ids::Revision;
use bytes::Bytes;

use super::{World, key, world};

const ROUNDS: u64 = 3;

/// Which member leads, asked of one that runs.
async fn leader(world: &World, members: &[Etcd]) -> usize {
    let asking = async {
        loop {
            for (n, member) in members.iter().enumerate() {
                let Ok(mut client) = etcd_client::Client::connect([member.url()], None).await else { continue };
                let Ok(Ok(status)) = world.clock.timeout(Duration::from_secs(1), client.status()).await else { continue };
                if status.header().is_some_and(|header| header.member_id() == status.leader()) {
                    return n;
                }
            }
            world.clock.sleep(Duration::from_millis(50)).await;
        }
    };
    world.within("somebody leads", Box::pin(asking)).await
}

/// Adds one to a counter, whatever becomes of the answers; what it holds tells whether an unknown one was applied, because
/// nobody else writes it and the same transaction was refused or taken since.
async fn count_up(world: &World, before: Revision, to: u64) -> Revision {
    let condition = if before == Revision::ZERO { Condition::Absent } else { Condition::ModRevision(before) };
    let txn = Txn::new().when(key("counter"), condition).put(key("counter"), Bytes::from(to.to_string()));
    let mut open = false;
    loop {
        match world.store.txn(&txn).await {
            Ok(TxnOutcome::Committed { revision }) => return revision,
            Ok(TxnOutcome::Conflict) => {
                assert!(open, "nobody else counts");
                if let Ok(found) = world.store.get(&key("counter")).await {
                    let found = found.value.expect("counted");
                    assert_eq!(found.value, Bytes::from(to.to_string()));
                    return found.mod_revision;
                }
            }
            Err(StoreError::Unknown) => open = true,
            Err(error) => assert!(error.is_retryable(), "{error}"),
        }
        world.clock.sleep(Duration::from_millis(20)).await;
    }
}

/// The leader is killed, and comes back; or is paused, and wakes. Decisions are made once, every change is seen once, and the
/// session lives: its certainty never ends while two members go on.
async fn goes_on_while_leaders_go(go: fn(&mut Etcd), come_back: fn(&mut Etcd)) {
    let mut members = Etcd::start_members(3, &Options::default());
    let config =
        EtcdConfig { endpoints: members.iter().map(Etcd::url).collect(), request_timeout_ms: 700, ..EtcdConfig::default() };
    let world = world(&config, 1).await;
    let session = world.metadata.begin_session(Duration::from_secs(12)).await.unwrap();
    let mut watch = world.store.watch(&key("counter"), world.store.revision().await.unwrap().next()).await.unwrap();
    let (mut counted, mut revision, mut uncertain) = (0, Revision::ZERO, false);
    for _ in 0..ROUNDS {
        let leader = leader(&world, &members).await;
        go(&mut members[leader]);
        let until = world.clock.mono().after(Duration::from_secs(4));
        while world.clock.mono() < until {
            counted += 1;
            revision = world.within("it is counted", count_up(&world, revision, counted)).await;
            uncertain |= session.lease().certain_until < world.clock.mono();
        }
        come_back(&mut members[leader]);
        counted += 1;
        revision = world.within("it is counted", count_up(&world, revision, counted)).await;
    }
    assert!(!session.lease().gone && !uncertain);
    assert_eq!(world.store.get(&key("counter")).await.unwrap().value.unwrap().version, counted);
    let mut seen = 0;
    while seen < counted {
        for event in world.next(&mut watch).await.unwrap() {
            let alluvium_metadata::store::Event::Put(found) = event else { panic!("nothing is removed") };
            seen += 1;
            assert_eq!((found.version, found.value), (seen, Bytes::from(seen.to_string())));
        }
    }
    assert!(counted > 10 * ROUNDS, "only {counted}");
    session.end().await.unwrap();
}

#[tokio::test]
async fn a_cluster_goes_on_while_leaders_are_killed() {
    goes_on_while_leaders_go(Etcd::kill, Etcd::restart).await;
}

/// C52: a leader that wakes does not know yet that it was deposed.
#[tokio::test]
async fn a_cluster_goes_on_while_leaders_are_paused() {
    goes_on_while_leaders_go(|etcd| etcd.pause(), |etcd| etcd.resume()).await;
}
