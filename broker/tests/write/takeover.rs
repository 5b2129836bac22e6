//! Brokers come and go; what was confirmed stays.

use alluvium_proto::v1;
use alluvium_proto::v1::Guarantee;
use bytes::Bytes;

use crate::bookie::Mood;
use crate::cluster::{Cluster, Node, TOPIC, batch, config, eventually};
use crate::consuming::{consumer, pull, stats};

async fn texts(node: &Node) -> Vec<String> {
    node.read(0, 0).await.into_iter().map(|(_, text): (u64, Bytes)| String::from_utf8_lossy(&text).into_owned()).collect()
}

#[tokio::test]
async fn c62_t1_a_successor_keeps_what_was_confirmed_and_goes_on_behind_it() {
    let cluster = Cluster::start(3).await;
    let replicated = || alluvium_broker::config::Config { replication: (3, 3, 2), ..config() };
    let mut node = cluster.broker(replicated()).await;
    node.make_topic(1, v1::Policies::default()).await;
    for life in 0..4 {
        let mut stream = node.open(Guarantee::Quorum, "").await;
        for n in 0..5 {
            stream.send(n, 0, 0, batch(0, &[&format!("{life}-{n}")])).await;
            assert_eq!(stream.outcome().await, (n, Ok(life * 5 + n)), "offsets are dense and never go back");
        }
        // Half of them go without a goodbye.
        if life % 2 == 0 {
            node.crash().await
        } else {
            node.drain().await
        }
        node = cluster.broker(replicated()).await;
    }
    let expected: Vec<String> = (0..4).flat_map(|life| (0..5).map(move |n| format!("{life}-{n}"))).collect();
    assert_eq!(texts(&node).await, expected);
    node.drain().await;
}

#[tokio::test]
async fn d3_a_retry_after_a_crash_is_a_duplicate_of_what_the_log_holds() {
    let cluster = Cluster::start(1).await;
    let node = cluster.broker(config()).await;
    node.make_topic(1, v1::Policies::default()).await;
    let mut stream = node.open(Guarantee::Quorum, "p").await;
    let epoch = stream.claim(0, None).await.epoch;
    for n in 0..10 {
        stream.send(n, 0, epoch, batch(n, &["x"])).await;
        assert_eq!(stream.outcome().await, (n, Ok(n)));
    }
    node.crash().await;

    let node = cluster.broker(config()).await;
    let mut stream = node.open(Guarantee::Quorum, "p").await;
    let claimed = stream.claim(0, Some(epoch)).await;
    assert_eq!((claimed.last_sequence, claimed.forgotten), (Some(9), false));
    assert!(claimed.epoch > epoch);
    stream.send(100, 0, claimed.epoch, batch(7, &["x"])).await;
    let receipt = stream.receipt().await;
    assert!(receipt.duplicate && receipt.first_offset == 7, "{receipt:?}");
    stream.send(101, 0, claimed.epoch, batch(11, &["x"])).await;
    assert_eq!(stream.outcome().await, (101, Err("SEQUENCE_GAP".to_owned())));
    stream.send(102, 0, claimed.epoch, batch(10, &["x"])).await;
    assert_eq!(stream.outcome().await, (102, Ok(10)));
    // An epoch that was never given, and an unknown name.
    stream.send(103, 0, claimed.epoch + 5, batch(11, &["x"])).await;
    assert_eq!(stream.outcome().await, (103, Err("PRODUCER_UNKNOWN".to_owned())));
    node.drain().await;

    // Also after a goodbye, from the state ledger alone.
    let node = cluster.broker(config()).await;
    let mut stream = node.open(Guarantee::Quorum, "p").await;
    let claimed = stream.claim(0, Some(claimed.epoch)).await;
    assert_eq!((claimed.last_sequence, claimed.forgotten), (Some(10), false));
    node.drain().await;
}

#[tokio::test]
async fn c42_what_snapshots_of_many_entries_and_what_follows_them_say_is_all_there_after_a_crash() {
    // A snapshot has more entries than a takeover reads at first, and more bytes than it makes room for; many follow it.
    let many = || alluvium_broker::config::Config { snapshot_entries: 4, state_entry_bytes: 64, ..config() };
    let producers: Vec<String> = (0..240).map(|number| format!("{number:060}")).collect();
    let cluster = Cluster::start(1).await;
    let mut node = cluster.broker(many()).await;
    node.make_topic(1, v1::Policies::default()).await;
    let mut epochs = vec![None; producers.len()];
    let subscription = || "s".to_owned();
    for life in 0_u64..3 {
        for (name, epoch) in producers.iter().zip(&mut epochs) {
            let mut stream = node.open(Guarantee::Quorum, name).await;
            let claimed = stream.claim(0, *epoch).await;
            assert_eq!((claimed.last_sequence, claimed.forgotten), (life.checked_sub(1), false), "{name} in life {life}");
            stream.send(0, 0, claimed.epoch, batch(life, &["x"])).await;
            stream.outcome().await.1.expect("stored");
            *epoch = Some(claimed.epoch);
        }
        // Every other message: one after the other, each a change of its own.
        let first = life * producers.len() as u64;
        let end = first + producers.len() as u64;
        let pulled = consumer(&node).pull(pull(1000)).await.expect("answered").into_inner();
        assert!(!pulled.messages.is_empty());
        for offset in (first..end).step_by(2) {
            let ids = vec![v1::MessageId { partition: 0, offset }];
            let ack = v1::AcknowledgeRequest { topic: TOPIC.to_owned(), subscription: subscription(), ids, up_to: vec![] };
            consumer(&node).acknowledge(ack).await.expect("durable");
        }
        node.crash().await;
        node = cluster.broker(many()).await;
        assert_eq!(stats(&node).await.backlog, end / 2, "half of all are acknowledged");
    }
    node.drain().await;
}

#[tokio::test]
async fn c38_c39_an_owner_that_was_replaced_confirms_nothing_more() {
    let cluster = Cluster::start(1).await;
    let old = cluster.hidden("old", config()).await;
    old.make_topic(1, v1::Policies::default()).await;
    let mut stream = old.open(Guarantee::Quorum, "").await;
    stream.send(1, 0, 0, batch(0, &["a"])).await;
    assert_eq!(stream.outcome().await, (1, Ok(0)));

    // Its next append hangs, as if it were paused; another broker takes the partition over meanwhile.
    cluster.bookie().be(Mood::Slow);
    stream.send(2, 0, 0, batch(0, &["b"])).await;
    let new = cluster.named("new", config()).await;
    assert_eq!(texts(&new).await, ["a"], "reading takes the partition over");
    cluster.bookie().be(Mood::Well);
    let receipt = stream.receipt().await;
    assert_eq!(receipt.id, 2);
    assert!(receipt.fault.expect("not confirmed").outcome_unknown);
    let mut stream = new.open(Guarantee::Quorum, "").await;
    stream.send(3, 0, 0, batch(0, &["c"])).await;
    assert_eq!(stream.outcome().await, (3, Ok(1)));
    assert_eq!(texts(&new).await, ["a", "c"]);
    new.drain().await;
    old.crash().await;
}

#[tokio::test]
async fn draining_confirms_what_was_taken_and_says_goodbye() {
    let cluster = Cluster::start(1).await;
    let node = cluster.broker(config()).await;
    node.make_topic(1, v1::Policies::default()).await;
    let mut stream = node.open(Guarantee::Quorum, "").await;
    stream.send(0, 0, 0, batch(0, &["0"])).await;
    stream.receipt().await;
    cluster.bookie().be(Mood::Slow);
    for n in 1..10 {
        stream.send(n, 0, 0, batch(0, &["x"])).await;
    }
    let bookie = cluster.bookie().clone();
    futures::future::join(node.drain(), async {
        tokio::task::yield_now().await;
        bookie.be(Mood::Well);
    })
    .await;
    let mut confirmed = 0;
    let mut refused = 0;
    while let Some(response) = stream.next().await {
        let v1::publish_stream_response::Response::Receipts(receipts) = response else { continue };
        for receipt in receipts.receipts {
            match receipt.fault {
                None => confirmed += 1,
                Some(fault) => {
                    assert!(!fault.outcome_unknown, "{fault:?}");
                    refused += 1;
                }
            }
        }
    }
    assert!(confirmed + refused <= 9);
    let holder = cluster.metadata().brokers().get(&"broker".parse_name()).await.expect("readable");
    assert!(holder.is_none(), "its registration is gone");
    let node = cluster.broker(config()).await;
    assert_eq!(node.read(0, 0).await.len(), 1 + confirmed);
    node.drain().await;
}

#[tokio::test]
async fn a_partition_that_nobody_uses_is_let_go_and_comes_back() {
    let cluster = Cluster::start(1).await;
    let node = cluster.broker(alluvium_broker::config::Config { release_after_ms: 30, ..config() }).await;
    node.make_topic(1, v1::Policies::default()).await;
    let mut stream = node.open(Guarantee::Quorum, "").await;
    stream.send(1, 0, 0, batch(0, &["a"])).await;
    assert_eq!(stream.outcome().await, (1, Ok(0)));
    let name = alluvium_types::names::TopicName::parse(TOPIC).expect("valid");
    let topic = node.broker.topic(&name).await.expect("there");
    let index = alluvium_types::ids::PartitionIndex::default();
    eventually("it is let go", async || node.broker.loaded(topic.id, index).is_none()).await;
    let owner = cluster
        .metadata()
        .ownership()
        .get(alluvium_metadata::PartitionId { topic: topic.id, index })
        .await
        .expect("readable")
        .expect("it was claimed");
    eventually("its record says so", async || {
        let id = alluvium_metadata::PartitionId { topic: topic.id, index };
        let now = cluster.metadata().ownership().get(id).await.expect("readable").expect("it was claimed");
        now.value.holder.is_none()
    })
    .await;
    stream.send(2, 0, 0, batch(0, &["b"])).await;
    assert_eq!(stream.outcome().await, (2, Ok(1)));
    assert_eq!(texts(&node).await, ["a", "b"]);
    drop(owner);
    node.drain().await;
}

trait ParseName {
    fn parse_name(&self) -> alluvium_types::names::BrokerName;
}

impl ParseName for str {
    fn parse_name(&self) -> alluvium_types::names::BrokerName {
        alluvium_types::names::BrokerName::parse(self).expect("valid")
    }
}
