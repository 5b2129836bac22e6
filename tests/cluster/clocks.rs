//! Wall clocks that are an hour apart decide nothing (C55): what is stored, delivered and taken over is as ever, and what may go goes
//! by the label that it bears, never too early.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use alluvium_client::admin::Policies;
use alluvium_client::{Client, Message, Start};
use alluvium_tests::{Cluster, eventually};

use crate::load::{LIMIT, Load, PARTITIONS, TOPIC, assert_whole, create_topic_at, number};

/// Loses what is older than some seconds.
const BRIEF: &str = "public/default/brief";
/// Loses what is too much.
const SMALL: &str = "public/default/small";
/// How far ahead the labels of the first broker are at least.
const AHEAD_LEAST: Duration = Duration::from_secs(30 * 60);
/// How many are acknowledged between two events.
const STEP: usize = 2_000;

async fn first_offset(client: &Client, topic: &str) -> u64 {
    client.admin().get_topic(topic).await.expect("there").1[0].first_offset
}

async fn publish_mebibytes(client: &Client, topic: &str, count: u64) {
    let producer = client.producer(topic).name("p").build().await.expect("built");
    for _ in 0..count * 4 {
        producer.send(Message::new(vec![1_u8; 256 << 10])).await.expect("stored");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c55_clocks_an_hour_apart_decide_nothing() {
    let mut cluster = Cluster::prepare(3, 2);
    cluster.set_clock("broker-0", "+1h");
    cluster.set_clock("bookie-0", "-1h");
    for broker in ["broker-0", "broker-1"] {
        cluster.configure(broker, "retention_interval_ms = 300\naudit_interval_ms = 500\n");
    }
    cluster.start_members();
    let client = create_topic_at(cluster.reach(&["broker-0", "broker-1"])).await;
    let brief = Policies { retention_ms: Some(3_000), rollover_ms: Some(1_000), ..Default::default() };
    client.admin().create_topic(BRIEF, 1, brief).await.expect("created");
    let small = Policies { retention_bytes: Some(3 << 20), rollover_bytes: Some(1 << 20), ..Default::default() };
    client.admin().create_topic(SMALL, 1, small).await.expect("created");
    let consumer = client.consumer(TOPIC).subscription("s").exclusive().start(Start::Earliest);
    let mut consumer = consumer.build().await.expect("built");
    let load = Load::start(&client).await;
    load.reach(STEP).await;

    // By one clock, ages are what they are.
    publish_mebibytes(&client, BRIEF, 1).await;
    eventually("what is too old goes", LIMIT, || async { (first_offset(&client, BRIEF).await == 4).then_some(()) }).await;
    publish_mebibytes(&client, BRIEF, 1).await;

    cluster.kill("broker-0");
    let at_kill = load.acknowledged();
    load.reach(at_kill + STEP).await;
    // The successor's clock is an hour behind the labels: nothing has an age yet, and what is too much goes all the same.
    publish_mebibytes(&client, BRIEF, 1).await;
    publish_mebibytes(&client, SMALL, 10).await;
    eventually("what is too much goes", LIMIT, || async { (first_offset(&client, SMALL).await >= 20).then_some(()) }).await;
    assert!(first_offset(&client, BRIEF).await <= 8, "nothing goes before its time");

    cluster.restart("broker-0");
    cluster.kill("broker-1");
    let at_kill = load.acknowledged();
    load.reach(at_kill + STEP).await;
    let total = load.end().await;

    // Back at the first clock, an age is an age.
    eventually("what is too old goes", LIMIT, || async { (first_offset(&client, BRIEF).await == 12).then_some(()) }).await;

    let mut found = [(0, 0); PARTITIONS as usize];
    while found.iter().map(|(count, _)| count).sum::<usize>() < total {
        let delivery = tokio::time::timeout(LIMIT, consumer.next()).await.expect("in time").expect("the stream goes on");
        let delivery = delivery.expect("a delivery");
        let partition = delivery.partition as usize;
        let (next, label) = &mut found[partition];
        let number = number(delivery.payload());
        assert!(number <= *next * PARTITIONS as usize + partition, "in order");
        // What comes again bears the label that it bore.
        if number == *next * PARTITIONS as usize + partition {
            *next += 1;
            assert!(delivery.server_time_ms >= *label, "a label never goes back");
            *label = delivery.server_time_ms;
        }
        consumer.ack_later(&delivery);
    }
    consumer.close().await.expect("closed");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970") + AHEAD_LEAST;
    assert!(found.iter().all(|(_, label)| u128::from(*label) > now.as_millis()), "the first clock was ahead: {found:?}");
    assert_whole(&client, total).await;
}
