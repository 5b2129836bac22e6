//! Segments roll and go; topics are deleted; nothing that is deleted stays on a bookie.

use std::time::Duration;

use alluvium_broker::config::Config;
use alluvium_metadata::Versioned;
use alluvium_proto::v1;
use alluvium_proto::v1::Guarantee;
use alluvium_runtime::clock::Clock;
use alluvium_types::ledger::{LedgerMetadata, LedgerState};

use crate::cluster::{Cluster, Node, TOPIC, batch, config, eventually, info};

async fn publish(node: &Node, count: u64, producer: &str) {
    let mut stream = node.open(Guarantee::Quorum, producer).await;
    let claimed = if producer.is_empty() { None } else { Some(stream.claim(0, None).await) };
    let next = claimed.as_ref().and_then(|c| c.last_sequence).map_or(0, |last| last + 1);
    let epoch = claimed.map_or(0, |c| c.epoch);
    let text = "x".repeat(100_000);
    for n in 0..count {
        stream.send(n, 0, epoch, batch(next + n, &[&text])).await;
    }
    for n in 0..count {
        let (id, outcome) = stream.outcome().await;
        assert!(id == n && outcome.is_ok(), "{id} {outcome:?}");
    }
}

async fn partition(node: &Node) -> v1::TopicPartition {
    let found = node.topics().get_topic(v1::GetTopicRequest { name: TOPIC.to_owned() }).await.expect("there").into_inner();
    found.partitions.into_iter().next().expect("it has one")
}

#[tokio::test]
async fn c66_segments_follow_one_another_without_a_gap() {
    let cluster = Cluster::start(1).await;
    let node = cluster.broker(config()).await;
    node.make_topic(1, v1::Policies { rollover_bytes: Some(1 << 20), ..Default::default() }).await;
    publish(&node, 60, "").await;
    let found = partition(&node).await;
    assert!(found.segments.len() >= 4, "{} segments", found.segments.len());
    for pair in found.segments.windows(2) {
        if let Some(end) = pair[0].end_offset {
            assert_eq!(pair[1].first_offset, end, "{:?}", found.segments);
        }
    }
    assert_eq!(node.read(0, 0).await.len(), 60);
    let offsets: Vec<u64> = node.read(0, 17).await.into_iter().map(|(offset, _)| offset).collect();
    assert_eq!(offsets, (17..60).collect::<Vec<_>>());
    node.crash().await;
    // All of it is read back from the ledgers, without a cache.
    let node = cluster.broker(config()).await;
    assert_eq!(node.read(0, 0).await.len(), 60);
    node.drain().await;
}

#[tokio::test]
async fn retention_by_size_trims_the_oldest_and_bookies_let_them_go() {
    let cluster = Cluster::start(1).await;
    let node = cluster.broker(config()).await;
    let policies = v1::Policies { rollover_bytes: Some(1 << 20), retention_bytes: Some(3 << 20), ..Default::default() };
    node.make_topic(1, policies).await;
    publish(&node, 100, "p").await;
    eventually("segments go", async || partition(&node).await.first_offset > 40).await;
    let found = partition(&node).await;
    assert_eq!(found.end_offset, 100);
    let offsets: Vec<u64> = node.read(0, 0).await.into_iter().map(|(offset, _)| offset).collect();
    assert_eq!(offsets, (found.first_offset..100).collect::<Vec<_>>(), "reading begins at what is kept");
    eventually("bookies let them go", async || {
        let listed = partition(&node).await.segments.len();
        // The state ledger is beside them.
        cluster.bookie().ledgers().len() <= listed + 2
    })
    .await;
    // C67: producers are known although their segments are gone.
    node.crash().await;
    let node = cluster.broker(config()).await;
    let mut stream = node.open(Guarantee::Quorum, "p").await;
    let claimed = stream.claim(0, Some(1)).await;
    assert_eq!((claimed.last_sequence, claimed.forgotten), (Some(99), false));
    node.drain().await;
}

#[tokio::test]
async fn t1_retention_reaches_partitions_that_nobody_has_loaded() {
    let cluster = Cluster::start(1).await;
    let node = cluster.broker(config()).await;
    node.make_topic(1, v1::Policies { rollover_bytes: Some(1 << 20), ..Default::default() }).await;
    publish(&node, 40, "").await;
    let policies = v1::Policies { rollover_bytes: Some(1 << 20), retention_ms: Some(50), ..Default::default() };
    let update = v1::UpdateTopicRequest { name: TOPIC.to_owned(), partitions: 0, policies: Some(policies) };
    node.drain().await;
    let node = cluster.broker(Config { audit_interval_ms: 600_000, ..config() }).await;
    node.topics().update_topic(update).await.expect("changed");
    assert_eq!(partition(&node).await.owner, "", "nobody has loaded it");
    node.drain().await;

    let node = cluster.broker(Config { audit_interval_ms: 30, release_after_ms: 100, ..config() }).await;
    eventually("segments go", async || {
        let found = partition(&node).await;
        (found.first_offset, found.end_offset, found.segments.len()) == (40, 40, 1)
    })
    .await;
    eventually("and so do their ledgers", async || cluster.bookie().ledgers().iter().all(|(_, entries)| *entries == 0)).await;
    eventually("it is let go again", async || partition(&node).await.owner.is_empty()).await;
    // What is gone is not counted anew.
    let mut stream = node.open(Guarantee::Quorum, "").await;
    stream.send(1, 0, 0, batch(0, &["next"])).await;
    assert_eq!(stream.outcome().await, (1, Ok(40)));
    node.drain().await;
}

#[tokio::test]
async fn a_deleted_topic_leaves_no_ledgers_behind() {
    let cluster = Cluster::start(1).await;
    let node = cluster.broker(config()).await;
    node.make_topic(1, v1::Policies { rollover_bytes: Some(1 << 20), ..Default::default() }).await;
    publish(&node, 20, "p").await;
    assert!(cluster.bookie().ledgers().len() >= 2);
    node.topics().delete_topic(v1::DeleteTopicRequest { name: TOPIC.to_owned() }).await.expect("deleted");
    eventually("its ledgers are gone", async || cluster.bookie().ledgers().is_empty()).await;
    eventually("nothing is left to clean up", async || {
        cluster.metadata().topics().list_deleted(None, 10).await.expect("readable").records.is_empty()
    })
    .await;
    // The name is free for another topic, which begins at 0.
    let topic = v1::CreateTopicRequest { name: TOPIC.to_owned(), partitions: 1, policies: None };
    node.topics().create_topic(topic).await.expect("made");
    let mut stream = node.open(Guarantee::Quorum, "").await;
    stream.send(1, 0, 0, batch(0, &["a"])).await;
    assert_eq!(stream.outcome().await, (1, Ok(0)));
    node.drain().await;
}

/// Every ledger that ever was stayed as a record in metadata, was asked for by each bookie in each of its rounds, and took a row in each
/// of its files.
#[tokio::test]
async fn c27_deleted_ledgers_are_forgotten_once_every_bookie_has_let_them_go() {
    let mut cluster = Cluster::start(2).await;
    // One that no record may name, and that may hold something all the same.
    let (silent, silent_id) =
        (cluster.registrations.pop().expect("two"), cluster.bookies.keys().next_back().expect("two").clone());
    silent.end().await.expect("ended");
    let node = cluster.broker(Config { audit_interval_ms: 20, forget_after_ms: 60, ..config() }).await;
    node.make_topic(1, v1::Policies { rollover_bytes: Some(1 << 20), ..Default::default() }).await;
    publish(&node, 30, "p").await;
    node.topics().delete_topic(v1::DeleteTopicRequest { name: TOPIC.to_owned() }).await.expect("deleted");
    let records = async || cluster.metadata().ledgers().list(None, 100).await.expect("readable").records;
    let dead = |records: &[Versioned<LedgerMetadata>]| records.iter().all(|r| r.value.state == LedgerState::Deleting);
    eventually("only tombstones are left", async || dead(&records().await)).await;
    let left = records().await;
    assert!(left.len() >= 3, "segments and state: {left:?}");
    // Many rounds later.
    Clock::system().sleep(Duration::from_millis(400)).await;
    assert_eq!(records().await.len(), left.len(), "one bookie is silent");
    let registered = cluster.metadata().bookies().register(&silent_id, &info(true), Duration::from_secs(60)).await;
    let _registered = registered.expect("it is back");
    eventually("nothing is left of them", async || records().await.is_empty()).await;
    node.drain().await;
}

#[tokio::test]
async fn t6_a_lost_entry_is_reported_and_reading_goes_on_behind_it() {
    let cluster = Cluster::start(1).await;
    let node = cluster.broker(config()).await;
    node.make_topic(1, v1::Policies::default()).await;
    let mut stream = node.open(Guarantee::Quorum, "").await;
    for n in 0..5 {
        stream.send(n, 0, 0, batch(0, &["a", "b"])).await;
        assert_eq!(stream.outcome().await, (n, Ok(2 * n)));
    }
    node.drain().await;
    let ledger = cluster.bookie().ledgers()[0].0;
    cluster.bookie().lose(ledger, alluvium_types::ids::EntryId::new(2));
    let node = cluster.broker(config()).await;
    let name = alluvium_types::names::TopicName::parse(TOPIC).expect("valid");
    let topic = node.broker.topic(&name).await.expect("there");
    let handle = node.broker.partition(&topic, alluvium_types::ids::PartitionIndex::default()).await.expect("opens");
    let at = alluvium_types::ids::Offset::new;
    let read = async |from| handle.reader().read(at(from), 1 << 20).await;
    let before = read(0).await.expect("readable");
    assert_eq!(before.last().expect("some").end_offset(), at(4));
    let fault = read(4).await.expect_err("lost");
    let alluvium_broker::topic::ReadFault::Lost { first, end, .. } = fault else { panic!("{fault}") };
    assert_eq!((first, end), (at(4), at(6)));
    assert_eq!(read(6).await.expect("readable").len(), 2);
    node.drain().await;
}
