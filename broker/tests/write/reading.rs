//! Reading what is stored, within the memory that there is for it.

use std::time::Duration;

use alluvium_broker::config::Config;
use alluvium_proto::v1;
use alluvium_proto::v1::Guarantee;
use alluvium_runtime::clock::Clock;
use alluvium_types::ids::{Offset, PartitionIndex};
use alluvium_types::names::TopicName;
use futures::stream::{FuturesUnordered, StreamExt};

use crate::cluster::{Cluster, TOPIC, batch, config};

const READ_BYTES_MAX: usize = 16 << 20;
/// Longer than a read from memory takes.
const A_WHILE: Duration = Duration::from_millis(300);

#[tokio::test]
async fn q6_large_entries_on_their_way_to_readers_stay_within_the_budget() {
    // What was asked for was counted, half a MiB each, and at least one entry came, however large.
    let cluster = Cluster::start(1).await;
    let node = cluster.broker(Config { read_bytes_max: READ_BYTES_MAX, cache_partition_bytes_max: 1 << 20, ..config() }).await;
    node.make_topic(1, v1::Policies::default()).await;
    let mut stream = node.open(Guarantee::Quorum, "").await;
    let large = "x".repeat(4 << 20);
    stream.send(0, 0, 0, batch(0, &[&large])).await;
    assert_eq!(stream.outcome().await, (0, Ok(0)));
    let topic = node.broker.topic(&TopicName::parse(TOPIC).expect("valid")).await.expect("it is there");
    let handle = node.broker.partition(&topic, PartitionIndex::new(0)).await.expect("it is open");
    let read = || {
        let reader = handle.reader().clone();
        async move { reader.read(Offset::ZERO, 512 << 10).await.expect("readable") }
    };
    let mut reads: FuturesUnordered<_> = (0..12).map(|_| read()).collect();
    let mut held = Vec::new();
    while let Ok(Some(entries)) = Clock::system().timeout(A_WHILE, reads.next()).await {
        held.extend(entries);
    }
    let bytes: usize = held.iter().map(|entry| entry.bytes()).sum();
    assert!(bytes > READ_BYTES_MAX / 4 && bytes <= READ_BYTES_MAX, "{bytes} bytes are held");
    let mut came = held.len();
    drop(held);
    while let Some(entries) = reads.next().await {
        came += entries.len();
    }
    assert_eq!(came, 12, "the others go on");
    drop(stream);
    node.drain().await;
}
