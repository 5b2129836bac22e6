//! Changes come once, in order, whatever happens on the way (M5).

use std::time::Duration;

use alluvium_metadata::StoreError;
use alluvium_metadata::store::{Event, MetadataStore, Range, Txn};
use alluvium_runtime::tasks::OnFailure;
use alluvium_test_etcd::Etcd;
use alluvium_types::ids::Revision;
use bytes::Bytes;

use super::forwarder::Forwarder;
use super::{World, config_at, etcd_config, key, world};

/// Follows `prefix` and gives the keys of all changes, until one is of `last`.
async fn until(world: &World, from: Revision, last: &str) -> Vec<Bytes> {
    let mut watch = world.store.watch(&Bytes::new(), from).await.unwrap();
    let mut seen: Vec<Bytes> = Vec::new();
    while seen.last() != Some(&key(last)) {
        seen.extend(world.next(&mut watch).await.unwrap().iter().map(|event| event.key().clone()));
    }
    seen
}

fn numbered(count: usize) -> Vec<Bytes> {
    (0..count).map(|n| key(&format!("n/{n:04}"))).collect()
}

#[tokio::test]
async fn a_watch_resumes_behind_what_it_saw_when_etcd_was_killed() {
    let mut etcd = Etcd::start();
    let (watching, writing) = (world(&etcd_config(&etcd), 1).await, world(&etcd_config(&etcd), 2).await);
    let from = watching.store.revision().await.unwrap().next();
    let (one, two) = (until(&watching, from, "last"), until(&watching, from, "last"));
    let write = async {
        let mut n = 0;
        for _ in 0..4 {
            for _ in 0..25 {
                writing.put(&format!("n/{n:04}"), b"x").await;
                n += 1;
            }
            etcd.kill();
            etcd.restart();
            writing.answers_again().await;
        }
        writing.put("last", b"x").await;
    };
    let (one, two, ()) = futures::future::join3(one, two, write).await;
    let expected = [numbered(100), vec![key("last")]].concat();
    assert_eq!((one, two), (expected.clone(), expected));
}

/// C53: what happened behind the process's back was compacted before it could be seen. Every local watch is told, and a
/// listing with a watch behind it is whole.
#[tokio::test]
async fn a_watch_that_missed_compacted_history_says_so_and_a_listing_goes_on() {
    let etcd = Etcd::start();
    let wire = Forwarder::to(&etcd.url()).await;
    let (cut_off, other) = (world(&config_at(wire.url()), 1).await, world(&etcd_config(&etcd), 2).await);
    let first = other.put("k", b"1").await;
    let mut watch = cut_off.store.watch(&key("k"), first).await.unwrap();
    assert_eq!(cut_off.next(&mut watch).await.unwrap().len(), 1);
    wire.cut();
    other.put("k", b"2").await;
    other.delete("k").await;
    let newest = other.put("k", b"3").await;
    other.store.compact(newest).await.unwrap();
    wire.heal();
    let Err(StoreError::Compacted { oldest }) = cut_off.next(&mut watch).await else { panic!("two changes are gone") };
    assert!(oldest > newest);
    let all = Range { prefix: Bytes::new(), after: None, limit: 10 };
    let listed = cut_off.store.range(&all).await.unwrap();
    assert_eq!(listed.value.records[0].value, key("3"));
    let mut resumed = cut_off.store.watch(&key("k"), listed.revision.next()).await.unwrap();
    other.put("k", b"4").await;
    assert!(matches!(&cut_off.next(&mut resumed).await.unwrap()[..], [Event::Put(found)] if found.value == key("4")));
}

/// History is compacted up to the very change that was seen last: nothing was missed, and nothing is said to be. A removal
/// that a compaction falls on must not be lost.
#[tokio::test]
async fn a_compaction_of_what_was_seen_takes_nothing_away() {
    let etcd = Etcd::start();
    let wire = Forwarder::to(&etcd.url()).await;
    let (cut_off, other) = (world(&config_at(wire.url()), 1).await, world(&etcd_config(&etcd), 2).await);
    let first = other.put("k", b"1").await;
    let mut watch = cut_off.store.watch(&Bytes::new(), first).await.unwrap();
    cut_off.next(&mut watch).await.unwrap();
    wire.cut();
    other.store.compact(first).await.unwrap();
    let removed = other.delete("k").await;
    wire.heal();
    let events = cut_off.next(&mut watch).await.unwrap();
    assert_eq!(events, [Event::Delete { key: key("k"), revision: removed }]);
    // Compacted at the removal itself, which was not seen: it is said, not skipped.
    other.put("other", b"1").await;
    cut_off.next(&mut watch).await.unwrap();
    wire.cut();
    let removed = other.delete("other").await;
    other.store.compact(removed).await.unwrap();
    wire.heal();
    assert!(matches!(cut_off.next(&mut watch).await, Err(StoreError::Compacted { .. })));
}

/// Revisions larger than one message, and more of them than fit one: they come whole.
#[tokio::test]
async fn revisions_that_etcd_sends_in_pieces_come_whole() {
    let etcd = Etcd::start();
    let wire = Forwarder::to(&etcd.url()).await;
    let (cut_off, other) = (world(&config_at(wire.url()), 1).await, world(&etcd_config(&etcd), 2).await);
    let from = cut_off.store.revision().await.unwrap().next();
    let mut watch = cut_off.store.watch(&Bytes::new(), from).await.unwrap();
    wire.cut();
    for n in 0..6_u8 {
        let txn = (0..128).fold(Txn::new(), |txn, k| txn.put(key(&format!("k/{k:03}")), vec![n; 10_000].into()));
        other.commit(&txn).await;
    }
    wire.heal();
    let mut seen: Vec<(u64, usize)> = Vec::new();
    while seen.len() < 6 {
        let events = cut_off.next(&mut watch).await.unwrap();
        for one in events.chunk_by(|a, b| a.revision() == b.revision()) {
            seen.push((one[0].revision().get(), one.len()));
        }
    }
    let expected: Vec<(u64, usize)> = (from.get()..from.get() + 6).map(|revision| (revision, 128)).collect();
    assert_eq!(seen, expected);
}

/// One watch of etcd carries any number of ours, and a slow one holds up nobody.
#[tokio::test]
async fn a_process_has_one_watch_however_many_follow() {
    let etcd = Etcd::start();
    let world = world(&etcd_config(&etcd), 1).await;
    let from = world.store.revision().await.unwrap().next();
    let mut slow = world.store.watch(&key("n/"), from).await.unwrap();
    let mut watches = Vec::new();
    for n in 0..100 {
        watches.push(world.store.watch(&key(&format!("n/{n:04}")), from).await.unwrap());
    }
    for n in 0..100 {
        world.put(&format!("n/{n:04}"), b"x").await;
    }
    for watch in &mut watches {
        assert_eq!(world.next(watch).await.unwrap().len(), 1);
    }
    let metrics = etcd.metrics();
    let watchers = metrics.lines().find_map(|line| line.strip_prefix("etcd_debugging_mvcc_watcher_total ")).unwrap();
    assert_eq!(watchers, "1");
    let mut seen = Vec::new();
    while seen.len() < 100 {
        seen.extend(world.next(&mut slow).await.unwrap().iter().map(|event| event.key().clone()));
    }
    assert_eq!(seen, numbered(100));
}

#[tokio::test]
async fn watches_end_when_the_process_stops() {
    let etcd = Etcd::start();
    let world = world(&etcd_config(&etcd), 1).await;
    let mut watch = world.store.watch(&Bytes::new(), Revision::new(1 << 40)).await.unwrap();
    let stop = world.tasks.clone();
    world.tasks.spawn("stop", OnFailure::Log, async move {
        stop.stop();
        Ok::<(), String>(())
    });
    assert_eq!(world.next(&mut watch).await, Err(StoreError::Stopped));
    assert!(world.tasks.join(Duration::from_secs(5)).await);
    // Goodbyes are still said.
    world.put("goodbye", b"x").await;
}
