//! etcd is away: what is open goes on (M7), deliveries to subscriptions pause and resume by themselves (M4).

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use alluvium_client::admin::Policies;
use alluvium_client::{Client, Message, MessageId, Start};
use alluvium_tests::{Cluster, eventually};

use crate::load::{LIMIT, Load, PARTITIONS, TOPIC, assert_whole, create_topic, number};

/// How many are acknowledged before etcd goes.
const FIRST: usize = 2_000;
/// When at the latest a broker dispatches no more that can't renew its session of two seconds, and what it sent has come.
const PAUSED_WITHIN: Duration = Duration::from_millis(2_500);

/// A topic that is in use, and whose clients come anew while etcd is away. Its ledgers come of age then.
struct Aside {
    ids: Vec<MessageId>,
}

const ASIDE: &str = "public/default/aside";
const ASIDE_PARTITIONS: u32 = 4;
const ASIDE_SUBSCRIPTION: &str = "s";

impl Aside {
    async fn start(client: &Client) -> Self {
        let policies = Policies { rollover_ms: Some(3_000), ..Policies::default() };
        client.admin().create_topic(ASIDE, ASIDE_PARTITIONS, policies).await.expect("created");
        let consumer =
            client.consumer(ASIDE).subscription(ASIDE_SUBSCRIPTION).start(Start::Earliest).build().await.expect("built");
        let ids = Self::publish(client).await;
        client.admin().acknowledge(ASIDE, ASIDE_SUBSCRIPTION, &ids[..1]).await.expect("acknowledged");
        consumer.close().await.expect("closed");
        Self { ids }
    }

    /// A message to each partition, by a new producer.
    async fn publish(client: &Client) -> Vec<MessageId> {
        let producer = client.producer(ASIDE).build().await.expect("a new producer is let in");
        let mut ids = Vec::new();
        for partition in 0..ASIDE_PARTITIONS {
            let receipt = producer.send(Message::new("x").partition(partition)).await.expect("stored");
            ids.push(receipt.id().expect("the server says where"));
        }
        producer.close().await.expect("closed");
        ids
    }

    async fn goes_on(&self, client: &Client) {
        let new = Self::publish(client).await;
        let mut reader = client.reader(ASIDE).start(Start::Earliest).build().await.expect("a new reader is let in");
        for _ in 0..self.ids.len() + new.len() {
            let read = tokio::time::timeout(LIMIT, reader.next()).await.expect("in time");
            read.expect("the stream goes on").expect("readable");
        }
        client.admin().acknowledge(ASIDE, ASIDE_SUBSCRIPTION, &self.ids[1..]).await.expect("acknowledged while etcd is away");
    }
}

async fn open_partitions_go_on(away: Duration, brokers: usize) {
    let mut cluster = Cluster::start(3, brokers);
    let client = create_topic(&cluster).await;
    let aside = Aside::start(&client).await;
    let mut consumer = client.consumer(TOPIC).subscription("s").exclusive().start(Start::Earliest).build().await.expect("built");
    let mut reader = client.reader(TOPIC).start(Start::Earliest).build().await.expect("built");
    // One that takes all that comes, and remembers when.
    let mut taking =
        client.consumer(TOPIC).subscription("pauses").exclusive().start(Start::Earliest).build().await.expect("built");
    let taken = Arc::new(Mutex::new(Vec::new()));
    let times = Arc::clone(&taken);
    let taker = tokio::spawn(async move {
        while let Some(delivery) = taking.next().await {
            taking.ack_later(&delivery.expect("a delivery"));
            times.lock().expect("nobody panics").push(Instant::now());
        }
    });
    let load = Load::start(&client).await;
    load.reach(FIRST).await;

    let gone = Instant::now();
    cluster.etcd.kill();
    let (begun, mut last) = (Instant::now(), (load.acknowledged(), 0));
    let (mut read, mut seconds) = (0, 0);
    while begun.elapsed() < away {
        // Without a pause, also when nobody's session can be alive any more.
        let delivery = tokio::time::timeout(Duration::from_secs(2), reader.next()).await.expect("reads go on");
        delivery.expect("the stream goes on").expect("readable");
        read += 1;
        if begun.elapsed().as_secs() > seconds {
            seconds = begun.elapsed().as_secs();
            let now = (load.acknowledged(), read);
            assert!(now.0 > last.0 && now.1 > last.1, "publishes and reads go on in second {seconds}: {last:?}, {now:?}");
            last = now;
        }
    }
    aside.goes_on(&client).await;
    println!("etcd was away for {away:?}: {} are acknowledged, {read} were read meanwhile", load.acknowledged());
    let back = Instant::now();
    cluster.etcd.restart();
    let total = load.end().await;
    let all = async || (taken.lock().expect("nobody panics").len() >= total).then_some(());
    eventually("deliveries resume by themselves", LIMIT, all).await;
    taker.abort();
    let while_away = |at: &&Instant| (gone + PAUSED_WITHIN..back).contains(*at);
    assert_eq!(taken.lock().expect("nobody panics").iter().filter(while_away).count(), 0, "deliveries pause (M4)");

    let mut found = vec![0; PARTITIONS as usize];
    for _ in 0..total {
        let delivery = tokio::time::timeout(LIMIT, consumer.next()).await.expect("deliveries resume by themselves");
        let delivery = delivery.expect("the stream goes on").expect("a delivery");
        let partition = delivery.partition as usize;
        assert_eq!(number(delivery.payload()), found[partition] * PARTITIONS as usize + partition, "in order");
        found[partition] += 1;
        consumer.ack_later(&delivery);
    }
    consumer.close().await.expect("closed");
    assert_whole(&client, total).await;
    // The sessions are those of before, or new ones: either way new decisions are made.
    client.admin().create_topic("public/default/later", 1, Default::default()).await.expect("created");
    client.producer("public/default/later").build().await.expect("built").send(Message::new("x")).await.expect("stored");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn m7_open_partitions_go_on_while_etcd_is_away_and_deliveries_resume() {
    open_partitions_go_on(Duration::from_secs(6), 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn m7_open_partitions_of_several_brokers_go_on_while_etcd_is_away() {
    open_partitions_go_on(Duration::from_secs(8), 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the long form of the one above: cargo test -p alluvium-tests --test cluster -- --ignored"]
async fn m7_open_partitions_go_on_while_etcd_is_away_for_a_minute() {
    open_partitions_go_on(Duration::from_secs(60), 3).await;
}
