//! A broker with little memory under a load that would fill much more.

use std::time::{Duration, Instant};

use alluvium_client::{Client, Message};
use alluvium_tests::{Cluster, MemoryGroup};
use bytes::Bytes;
use futures::future::join_all;

/// What the broker's process may have.
const MEMORY_BYTES: u64 = 256 << 20;
const TOPIC: &str = "public/default/large";
const PARTITIONS: u32 = 8;
const PRODUCERS: usize = 200;
const MESSAGE_BYTES: usize = 1 << 20;
/// Messages of each producer, all of them on their way at once.
const MESSAGES: usize = 4;
/// How long one message may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// How many messages of each producer; may be set for a longer run.
fn messages() -> usize {
    std::env::var("MESSAGES").ok().map_or(MESSAGES, |text| text.parse().expect("a number"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn q6_a_broker_with_little_memory_serves_two_hundred_large_producers_while_a_bookie_stands_still() {
    let Some(group) = MemoryGroup::new(MEMORY_BYTES) else {
        println!("this machine gives a test no control group: not run");
        return;
    };
    let mut cluster = Cluster::prepare(3, 1);
    cluster.set_memory("broker-0", group);
    cluster.start_members();
    let pid = cluster.process("broker-0").pid();
    let client = Client::connect(cluster.url("broker-0")).await.expect("connected");
    client.admin().create_topic(TOPIC, PARTITIONS, Default::default()).await.expect("created");
    let body = Bytes::from(vec![7; MESSAGE_BYTES]);
    // Each with a connection of its own, so that each may have as much on its way as the transport lets it.
    let connecting = (0..PRODUCERS).map(|_| async { client.producer(TOPIC).timeout(PATIENCE).build().await.expect("built") });
    let producers = join_all(connecting).await;
    cluster.pause("bookie-2");
    let begun = Instant::now();
    let publishing = producers.iter().map(async |producer| {
        let sent = (0..messages()).map(|_| producer.send(Message::new(body.clone())));
        for sent in join_all(sent).await {
            sent.expect("it keeps serving");
        }
    });
    join_all(publishing).await;
    let took = begun.elapsed();
    let broker = cluster.process("broker-0");
    assert!(broker.is_ready() && broker.pid() == pid, "it is the same process");
    let peak = broker.peak_bytes();
    let total = PRODUCERS * messages();
    println!(
        "{total} messages of 1 MiB by {PRODUCERS} producers in {:.1} s; the broker's memory: {:.0} MiB at most, of {} MiB",
        took.as_secs_f64(),
        peak as f64 / f64::from(1 << 20),
        MEMORY_BYTES >> 20
    );
    assert!(peak < MEMORY_BYTES, "{peak}");
    cluster.resume("bookie-2");
    let (_, partitions) = client.admin().get_topic(TOPIC).await.expect("there");
    let stored: u64 = partitions.iter().map(|partition| partition.end_offset - partition.first_offset).sum();
    assert_eq!(stored, total as u64);
}
