//! Any broker takes any request: what it doesn't own it hands to the owner.

use alluvium_proto::v1;
use alluvium_proto::v1::Guarantee;
use alluvium_types::ids::PartitionIndex;
use alluvium_types::names::{BrokerName, TopicName};

use crate::cluster::{Cluster, Node, TOPIC, batch, config, eventually};

/// Says which broker shall own each partition.
async fn place(cluster: &Cluster, brokers: &[&str]) {
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
    (0..4).filter(|index| node.broker.loaded(topic.id, PartitionIndex::new(*index)).is_some()).collect()
}

#[tokio::test]
async fn what_is_published_anywhere_is_stored_by_its_owner() {
    let cluster = Cluster::start(1).await;
    let (a, b) = two(&cluster).await;
    for (node, name) in [(&a, "p"), (&b, "q"), (&a, "")] {
        let mut stream = node.open(Guarantee::Quorum, name).await;
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
