//! Three voters: that raft decides, and not one of them.

use std::time::Duration;

use alluvium_metadata::store::{Condition, MetadataStore, Txn, TxnOutcome};
use alluvium_metadata::{Metadata, StoreError};
use alluvium_runtime::entropy::Entropy;
use alluvium_types::ids::SessionId;
use bytes::Bytes;

use crate::cluster::Voters;

fn key(n: usize) -> Bytes {
    Bytes::from(format!("k/{n:05}"))
}

fn put(n: usize, bytes: usize) -> Txn {
    Txn::new().put(key(n), Bytes::from(vec![7; bytes]))
}

/// Puts through whoever leads, again while the outcome is not known: the same value, so twice is once.
async fn insist(store: &impl MetadataStore, txn: &Txn) {
    for _ in 0..100 {
        match store.txn(txn).await {
            Ok(TxnOutcome::Committed { .. }) => return,
            Err(StoreError::Unknown | StoreError::Unavailable { .. }) => {}
            other => panic!("{other:?}"),
        }
    }
    panic!("never decided");
}

#[tokio::test]
async fn what_was_answered_survives_the_leader() {
    let mut voters = Voters::start(3).await;
    let store = voters.store();
    for n in 0..50 {
        insist(&store, &put(n, 100)).await;
    }
    let first = voters.leader().await;
    voters.kill(first).await;
    let second = voters.leader().await;
    assert_ne!(first, second);
    for n in 0..50 {
        assert!(store.get(&key(n)).await.unwrap().value.is_some(), "{n}");
    }
    // Two of three go on; the third catches up from the log when it is back.
    for n in 50..60 {
        insist(&store, &put(n, 100)).await;
    }
    voters.start_one(first).await;
    voters.kill(second).await;
    voters.leader().await;
    for n in 0..60 {
        assert!(store.get(&key(n)).await.unwrap().value.is_some(), "{n}");
    }
}

#[tokio::test]
async fn a_voter_that_is_far_behind_catches_up_by_a_snapshot() {
    let mut voters = Voters::start(3).await;
    let store = voters.store();
    insist(&store, &put(0, 10)).await;
    let leader = voters.leader().await;
    let behind = leader % 3 + 1;
    // Cut off and not restarted: what it held before the snapshot is in the piece that it goes on with.
    voters.cut(behind);
    // Several times what the log keeps between snapshots, over the same few keys.
    for n in 0..24 {
        insist(&store, &put(n % 3, 1 << 20)).await;
    }
    let session = SessionId::new(Entropy::seeded(9).uuid());
    store.create_session(session, Duration::from_secs(60)).await.unwrap();
    insist(&store, &Txn::new().put_bound(key(100), Bytes::new(), session)).await;
    let dir = voters.config(leader).dir;
    let has_snapshot =
        || std::fs::read_dir(&dir).unwrap().any(|f| f.unwrap().file_name().to_string_lossy().starts_with("snapshot-"));
    voters.eventually("the leader has let its log go", has_snapshot).await;
    voters.heal(behind);
    let newest = store.revision().await.unwrap();
    voters.eventually_shows(behind, newest).await;
    // It is a full voter again: with it alone beside one other, all is there, sessions included.
    voters.kill(leader).await;
    voters.leader().await;
    assert_eq!(store.get(&key(100)).await.unwrap().value.and_then(|found| found.session), Some(session));
    store.end_session(session).await.unwrap();
    assert_eq!(store.get(&key(100)).await.unwrap().value, None);
    // And what it holds is on its own disk.
    voters.kill(behind).await;
    voters.start_one(behind).await;
    voters.leader().await;
    assert!(store.get(&key(2)).await.unwrap().value.is_some_and(|found| found.value.len() == 1 << 20));
}

/// M6: a leader that others have replaced does not know it yet, and must not answer from what it holds.
#[tokio::test]
async fn a_leader_that_is_cut_off_answers_no_read_and_no_keep_alive() {
    let voters = Voters::start(3).await;
    let store = voters.store();
    let session = SessionId::new(Entropy::seeded(9).uuid());
    store.create_session(session, Duration::from_secs(60)).await.unwrap();
    insist(&store, &put(1, 10)).await;
    let old = voters.leader().await;
    let cut_off = voters.voter(old);
    voters.cut(old);
    let (asked, lost) = (key(1), Txn::new().when(key(1), Condition::Present).put(key(1), Bytes::from_static(b"lost")));
    let (read, kept, written) = tokio::join!(cut_off.get(&asked), cut_off.keep_alive(session), cut_off.txn(&lost));
    assert!(matches!(read, Err(StoreError::Unavailable { .. })), "{read:?}");
    assert!(matches!(kept, Err(StoreError::Unavailable { .. })), "{kept:?}");
    assert_eq!(written, Err(StoreError::Unknown), "it may have been decided");
    voters.leader().await;
    insist(&store, &Txn::new().put(key(1), Bytes::from_static(b"new"))).await;
    voters.heal(old);
    voters.eventually_shows(old, store.revision().await.unwrap()).await;
    assert_eq!(store.get(&key(1)).await.unwrap().value.unwrap().value, Bytes::from_static(b"new"));
}

/// M3 across leaders: the repositories' way of deciding makes each decision once.
#[tokio::test]
async fn ids_are_given_out_once_while_leaders_change() {
    let mut voters = Voters::start(3).await;
    let metadata =
        Metadata::new(std::sync::Arc::new(voters.store()), voters.clock.clone(), Entropy::seeded(3), voters.tasks.clone());
    let mut given = Vec::new();
    for round in 0..3 {
        // Each repository takes blocks of its own.
        let (one, two) = (metadata.ledgers(), metadata.ledgers());
        let allocate = async {
            for _ in 0..10 {
                given.push(one.allocate().await.unwrap());
                given.push(two.allocate().await.unwrap());
                given.push(metadata.ledgers().allocate().await.unwrap());
            }
        };
        if round == 0 {
            allocate.await;
        } else {
            let leader = voters.leader().await;
            let net = voters.net.clone();
            net.cut(leader);
            allocate.await;
            net.heal(leader);
        }
    }
    let count = given.len();
    given.sort();
    given.dedup();
    assert_eq!(given.len(), count);
    voters.kill(1).await;
}
