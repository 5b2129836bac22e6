//! Any broker takes any request: what it doesn't own it hands to the owner.

use alluvium_metadata::PartitionId;
use alluvium_proto::v1;
use alluvium_proto::v1::Guarantee;
use alluvium_types::ids::{EntryId, PartitionIndex};
use alluvium_types::names::{BrokerName, TopicName};

use crate::cluster::{Cluster, Node, TOPIC, batch, config, eventually};
use crate::consuming::{Consuming, Reading, all_stats, consumer, pull, subscriptions};

/// Says which broker shall own each partition.
pub(crate) async fn place(cluster: &Cluster, brokers: &[&str]) {
    let name = TopicName::parse(TOPIC).expect("valid");
    let topic = cluster.metadata().topics().get(&name).await.expect("readable").expect("there");
    for (index, broker) in (0..).zip(brokers) {
        let broker = BrokerName::parse(broker).expect("valid");
        let index = PartitionIndex::new(index);
        cluster.metadata().placements().set((&name, &topic), index, &broker).await.expect("placed");
    }
}

/// Two brokers, and a topic of four partitions, two for each.
async fn two(cluster: &Cluster) -> (Node, Node) {
    let (a, b) = (cluster.named("a", config()).await, cluster.named("b", config()).await);
    a.make_topic(4, v1::Policies::default()).await;
    place(cluster, &["a", "a", "b", "b"]).await;
    eventually("both see both", async || a.broker.live_brokers().len() == 2 && b.broker.live_brokers().len() == 2).await;
    (a, b)
}

async fn loaded(node: &Node) -> Vec<u32> {
    let topic = node.broker.topic(&TopicName::parse(TOPIC).expect("valid")).await.expect("there");
    (0..16).filter(|index| node.broker.loaded(topic.id, PartitionIndex::new(*index)).is_some()).collect()
}

#[tokio::test]
async fn what_is_published_anywhere_is_stored_by_its_owner() {
    let cluster = Cluster::start(1).await;
    let (a, b) = two(&cluster).await;
    for (node, name) in [(&a, "p"), (&b, "q"), (&a, "")] {
        let mut stream = node.open(Guarantee::Quorum, name).await;
        let owners: Vec<(u32, &str)> = stream.owners.iter().map(|owner| (owner.partition, owner.broker.as_str())).collect();
        assert_eq!(owners, [(0, "a"), (1, "a"), (2, "b"), (3, "b")]);
        assert!(stream.owners.iter().all(|owner| owner.address.starts_with("http://127.0.0.1")), "{:?}", stream.owners);
        for partition in 0..4 {
            let epoch = if name.is_empty() { 0 } else { stream.claim(partition, None).await.epoch };
            for n in 0..3 {
                stream.send(u64::from(partition) * 10 + n, partition, epoch, batch(2 * n, &["x", "y"])).await;
            }
        }
        let mut outcomes = Vec::new();
        for _ in 0..12 {
            let (id, outcome) = stream.outcome().await;
            outcomes.push((id, outcome.expect("stored") % 6));
        }
        outcomes.sort_unstable();
        let expected: Vec<(u64, u64)> = (0..4).flat_map(|p| (0..3).map(move |n| (p * 10 + n, n * 2))).collect();
        assert_eq!(outcomes, expected, "{name}");
    }
    assert_eq!((loaded(&a).await, loaded(&b).await), (vec![0, 1], vec![2, 3]));
    assert!(a.metrics.forwarded_batches.get() >= 12 && b.metrics.forwarded_batches.get() >= 6);
    a.drain().await;
    b.drain().await;
}

#[tokio::test]
async fn a_named_producers_stream_outlives_the_owner_of_its_partitions_d1() {
    let cluster = Cluster::start(1).await;
    let (a, b) = two(&cluster).await;
    let mut b = Some(b);
    let mut stream = a.open(Guarantee::Quorum, "p").await;
    let mut epochs = Vec::new();
    for partition in 0..4 {
        epochs.push(stream.claim(partition, None).await.epoch);
    }
    for n in 0..50 {
        if let Some(b) = b.take_if(|_| n == 20) {
            // Its session lives on: whoever is asked finds that its host refuses connections.
            b.crash().await;
        }
        for (partition, epoch) in (0..).zip(&epochs) {
            stream.send(n, partition, *epoch, batch(n, &["x"])).await;
        }
    }
    let mut found = vec![Vec::new(); 4];
    for _ in 0..200 {
        let receipt = stream.receipt().await;
        assert_eq!(receipt.fault, None);
        found[receipt.partition as usize].push((receipt.id, receipt.first_offset));
    }
    for receipts in found {
        assert!(receipts.iter().copied().eq((0..50).map(|n| (n, n))), "each once and in order: {receipts:?}");
    }
    assert_eq!(loaded(&a).await, [0, 1, 2, 3]);
    a.drain().await;
}

/// Publishes so many messages to each partition, one after the other.
async fn fill(node: &Node, count: u64) {
    let mut stream = node.open(Guarantee::Quorum, "").await;
    for partition in 0..4 {
        for n in 0..count {
            stream.send(n, partition, 0, batch(0, &[&format!("{partition}-{n}")])).await;
        }
    }
    for _ in 0..4 * count {
        stream.outcome().await.1.expect("stored");
    }
}

/// All of the topic, each once and in order within its partition.
fn assert_whole(taken: &[(u32, u64)], count: u64) {
    for partition in 0..4 {
        let offsets = taken.iter().filter(|(p, _)| *p == partition).map(|(_, offset)| *offset);
        assert!(offsets.eq(0..count), "partition {partition}: {taken:?}");
    }
}

#[tokio::test]
async fn a_stream_anywhere_is_served_by_all_owners() {
    let cluster = Cluster::start(1).await;
    let (a, b) = two(&cluster).await;
    fill(&b, 25).await;
    for node in [&a, &b] {
        assert_whole(&Reading::open(node, None).await.take(100).await, 25);
    }
    let mut consuming = Consuming::open(&a, "", false).await.expect("opens");
    assert_whole(&consuming.take(100).await, 25);
    for partition in 0..4 {
        assert_eq!(consuming.ack_of(partition, 0, 19).await, None);
    }
    drop(consuming);
    for node in [&b, &a] {
        eventually("what is not acknowledged is with nobody", async || {
            all_stats(node).await.iter().all(|cursor| (cursor.backlog, cursor.in_flight) == (5, 0))
        })
        .await;
    }
    a.drain().await;
    b.drain().await;
}

#[tokio::test]
async fn calls_anywhere_are_answered_by_the_owners() {
    let cluster = Cluster::start(1).await;
    let (a, b) = two(&cluster).await;
    fill(&a, 10).await;
    let mut pulled = Vec::new();
    while pulled.len() < 40 {
        let request = v1::PullRequest { messages_max: 15, ..pull(1000) };
        let answer = consumer(&a).pull(request).await.expect("answered").into_inner();
        assert!(!answer.messages.is_empty() && answer.messages.len() <= 15);
        pulled.extend(answer.messages.iter().map(|m| (m.partition, m.message.as_ref().expect("set").offset)));
    }
    assert_whole(&pulled, 10);
    let ids = |partitions: std::ops::Range<u32>| -> Vec<v1::MessageId> {
        partitions.flat_map(|partition| (0..10).map(move |offset| v1::MessageId { partition, offset })).collect()
    };
    let (topic, subscription) = (TOPIC.to_owned(), "s".to_owned());
    let ack = v1::AcknowledgeRequest { topic: topic.clone(), subscription: subscription.clone(), ids: ids(1..4), up_to: vec![] };
    consumer(&b).acknowledge(ack).await.expect("durable");
    let nack = v1::NackRequest { topic: topic.clone(), subscription, ids: ids(0..1), delay_ms: 0 };
    consumer(&b).nack(nack).await.expect("given back");
    let again = consumer(&b).pull(pull(1000)).await.expect("answered").into_inner();
    assert!(again.messages.iter().all(|m| m.partition == 0) && again.messages.len() == 10, "{again:?}");
    let seek = v1::SeekSubscriptionRequest {
        topic,
        name: "s".to_owned(),
        partitions: vec![],
        position: Some(v1::Position { at: Some(v1::position::At::Offset(4)) }),
    };
    let cursors = subscriptions(&a).seek_subscription(seek).await.expect("moved").into_inner().cursors;
    assert_eq!(cursors, (0..4).map(|partition| v1::MessageId { partition, offset: 4 }).collect::<Vec<_>>());
    assert!(all_stats(&b).await.iter().all(|cursor| (cursor.next_offset, cursor.backlog) == (4, 6)));
    let topic = v1::GetTopicRequest { name: TOPIC.to_owned() };
    let found = a.topics().get_topic(topic).await.expect("found").into_inner().partitions;
    let owners: Vec<(&str, u64)> = found.iter().map(|p| (p.owner.as_str(), p.end_offset)).collect();
    assert_eq!(owners, [("a", 10), ("a", 10), ("b", 10), ("b", 10)]);
    a.drain().await;
    b.drain().await;
}

#[tokio::test]
async fn streams_resume_at_the_next_owner_and_what_the_client_has_stays_with_it_s2_s4() {
    let cluster = Cluster::start(1).await;
    let (a, b) = two(&cluster).await;
    fill(&a, 10).await;
    let mut reading = Reading::open(&a, None).await;
    assert_whole(&reading.take(40).await, 10);
    let mut consuming = Consuming::open(&a, "", false).await.expect("opens");
    assert_whole(&consuming.take(40).await, 10);
    assert_eq!(consuming.ack_of(2, 0, 4).await, None);
    // Ordered subscriptions wait until the old session is gone for certain (M4); it says goodbye.
    b.drain().await;
    let mut stream = a.open(Guarantee::Quorum, "").await;
    for partition in 0..4 {
        stream.send(0, partition, 0, batch(0, &["more"])).await;
        stream.outcome().await.1.expect("stored");
    }
    let more: Vec<(u32, u64)> = sorted(consuming.take(4).await);
    assert_eq!(more, [(0, 10), (1, 10), (2, 10), (3, 10)], "nothing comes twice");
    assert_eq!(sorted(reading.take(4).await), more);
    assert_eq!(consuming.ack_of(2, 5, 10).await, None);
    assert_eq!(consuming.ack_of(3, 0, 10).await, None);
    let cursors = all_stats(&a).await;
    assert_eq!(cursors.iter().map(|c| (c.backlog, c.in_flight)).collect::<Vec<_>>(), [(11, 11), (11, 11), (0, 0), (0, 0)]);
    a.drain().await;
}

/// Ends `node`, which owns this partition, and nobody can take that over.
async fn lose(cluster: &Cluster, node: Node, partition: u32) {
    let topic = node.broker.topic(&TopicName::parse(TOPIC).expect("valid")).await.expect("there").id;
    node.open(Guarantee::Quorum, "p").await.claim(partition, None).await;
    let lost = PartitionId { topic, index: PartitionIndex::new(partition) };
    let state = cluster.metadata().state_pointers().get(lost).await.expect("readable").expect("there is one");
    cluster.bookie().lose(state.value.current.expect("it was swapped"), EntryId::ZERO);
    node.crash().await;
}

#[tokio::test]
async fn a_consumer_is_let_in_while_one_of_its_partitions_can_not_be_served() {
    let cluster = Cluster::start(1).await;
    let (a, b) = two(&cluster).await;
    fill(&a, 2).await;
    drop(Consuming::open(&a, "", false).await.expect("opens: the subscription is there"));
    lose(&cluster, b, 2).await;
    // It was told that a partition is damaged, and given nothing of the three others.
    let mut consuming = Consuming::open(&a, "", false).await.expect("opens");
    // What was the other broker's waits until its session is gone for certain (M4).
    let taken = sorted(consuming.take(4).await);
    assert_eq!(taken, [(0, 0), (0, 1), (1, 0), (1, 1)]);
    for partition in [0, 1] {
        assert_eq!(consuming.ack_of(partition, 0, 1).await, None);
    }
    drop(consuming);
    // A reader is told where each partition ends, so it has all or none.
    let refused = Reading::try_open_at(a.channel.clone(), None).await.err().map(|status| status.code());
    assert_eq!(refused, Some(tonic::Code::DataLoss));
    a.crash().await;
}

#[tokio::test]
async fn a_partition_that_nobody_can_serve_holds_up_none_of_the_others_of_its_last_owner() {
    let cluster = Cluster::start(1).await;
    let (a, b) = two(&cluster).await;
    fill(&a, 1).await;
    let mut reading = Reading::open(&a, None).await;
    assert_whole(&reading.take(4).await, 1);
    lose(&cluster, b, 2).await;
    // They were looked for together, and found together or not at all: the stream ended.
    let mut stream = a.open(Guarantee::Quorum, "").await;
    for (id, partition) in [(0, 3), (1, 2)] {
        stream.send(id, partition, 0, batch(0, &["more"])).await;
        let (_, outcome) = stream.outcome().await;
        assert_eq!(outcome.is_ok(), partition == 3, "{outcome:?}");
    }
    assert_eq!(reading.take(1).await, [(3, 1)]);
    for partition in [0, 1] {
        stream.send(2, partition, 0, batch(0, &["more"])).await;
        stream.outcome().await.1.expect("stored");
    }
    assert_eq!(sorted(reading.take(2).await), [(0, 1), (1, 1)], "the stream goes on");
    a.crash().await;
}

fn sorted(mut taken: Vec<(u32, u64)>) -> Vec<(u32, u64)> {
    taken.sort_unstable();
    taken
}

#[tokio::test]
async fn what_was_taken_over_goes_back_once_its_broker_has_come_to_stay() {
    const PARTITIONS: u32 = 16;
    let cluster = Cluster::start(1).await;
    let rebalances = |after| alluvium_broker::config::Config { rebalance_after_ms: after, ..config() };
    let a = cluster.named("a", rebalances(200)).await;
    a.make_topic(PARTITIONS, v1::Policies::default()).await;
    let mut consuming = Consuming::open(&a, "", false).await.expect("opens");
    let mut stream = a.open(Guarantee::Quorum, "p").await;
    let mut epochs = Vec::new();
    for partition in 0..PARTITIONS {
        epochs.push(stream.claim(partition, None).await.epoch);
    }
    let b = cluster.named("b", rebalances(0)).await;
    let mut published = 0;
    eventually("some of sixteen are preferred at the new one", async || {
        for (partition, epoch) in (0..).zip(&epochs) {
            stream.send(published, partition, *epoch, batch(published, &["x"])).await;
            stream.outcome().await.1.expect("refused by nobody");
        }
        published += 1;
        !loaded(&b).await.is_empty()
    })
    .await;
    eventually("each is at one of them", async || loaded(&a).await.len() + loaded(&b).await.len() == PARTITIONS as usize).await;
    assert!(a.metrics.moves.get() >= 1 && b.metrics.moves.get() == 0);
    let taken = consuming.take(PARTITIONS as usize * usize::try_from(published).expect("few")).await;
    for partition in 0..PARTITIONS {
        let offsets = taken.iter().filter(|(p, _)| *p == partition).map(|(_, offset)| *offset);
        assert!(offsets.eq(0..published), "each once and in order: {taken:?}");
    }
    // One that lives by its session alone is given nothing.
    let held = loaded(&b).await;
    b.crash().await;
    for partition in &held {
        let epoch = epochs[*partition as usize];
        stream.send(published, *partition, epoch, batch(published, &["x"])).await;
        stream.outcome().await.1.expect("taken over");
    }
    let moves = a.metrics.moves.get();
    alluvium_runtime::clock::Clock::system().sleep(std::time::Duration::from_millis(600)).await;
    assert_eq!((loaded(&a).await.len(), a.metrics.moves.get()), (PARTITIONS as usize, moves));
    a.drain().await;
}

#[tokio::test]
async fn a_partition_goes_where_it_is_placed_and_nobody_notices() {
    let cluster = Cluster::start(1).await;
    let (a, b) = two(&cluster).await;
    fill(&a, 1).await;
    let mut consuming = Consuming::open(&b, "", false).await.expect("opens");
    consuming.take(4).await;
    let (mut nameless, mut named) = (a.open(Guarantee::Quorum, "").await, b.open(Guarantee::Quorum, "p").await);
    let epoch = named.claim(1, None).await.epoch;
    for n in 0..60 {
        if n == 20 {
            place(&cluster, &["b", "b", "b", "b"]).await;
        }
        nameless.send(n, 0, 0, batch(0, &["x"])).await;
        named.send(n, 1, epoch, batch(n, &["x"])).await;
        if n % 10 == 9 {
            for _ in 0..10 {
                assert!(nameless.outcome().await.1.is_ok(), "refused by nobody");
                assert!(named.outcome().await.1.is_ok());
            }
        }
        if n == 29 {
            eventually("it has moved", async || loaded(&b).await == [0, 1, 2, 3]).await;
        }
    }
    assert_eq!(loaded(&a).await, [0; 0]);
    assert_eq!(a.metrics.moves.get(), 2);
    let taken = consuming.take(120).await;
    for partition in 0..2 {
        let offsets = taken.iter().filter(|(p, _)| *p == partition).map(|(_, offset)| *offset);
        assert!(offsets.eq(1..61), "each once and in order: {taken:?}");
    }
    a.drain().await;
    b.drain().await;
}
