//! Traffic on many partitions at a fixed rate: idempotent producers, a consumer for each partition that checks its order, and when
//! each message was acknowledged.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use alluvium_client::{Client, Consumer, Message, Pending, Producer, Start};
use alluvium_tests::{Cluster, eventually};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use crate::load::LIMIT;

/// How many producers share the partitions.
const PRODUCERS: u32 = 4;
/// How many receipts of a partition may be open.
const OPEN_RECEIPTS: usize = 10_000;
/// How many bytes a message has at least: its number, and padding.
const MESSAGE_BYTES: usize = 100;

/// How much is published.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rate {
    pub(crate) topic: &'static str,
    pub(crate) partitions: u32,
    /// Messages a second, over all partitions.
    pub(crate) messages: u32,
}

impl Rate {
    /// Between two messages of a partition.
    pub(crate) fn interval(&self) -> Duration {
        Duration::from_secs(1) * self.partitions / self.messages
    }
}

/// Producers and consumers at work. Whatever they are told that is no message and no receipt fails the test.
pub(crate) struct Traffic {
    rate: Rate,
    enough: Arc<AtomicBool>,
    acknowledged: Vec<Arc<AtomicU64>>,
    publishing: Vec<JoinHandle<()>>,
    collecting: Vec<JoinHandle<Vec<Instant>>>,
    consuming: Vec<JoinHandle<Consumed>>,
}

/// What a consumer saw of its partition.
struct Consumed {
    messages: u64,
    again: u64,
}

/// What became of it all.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// When each message was acknowledged, for each partition in order.
    pub(crate) acknowledged: Vec<Vec<Instant>>,
    /// How many deliveries were repeated.
    pub(crate) again: u64,
}

impl Outcome {
    /// How many messages were acknowledged.
    pub(crate) fn total(&self) -> usize {
        self.acknowledged.iter().map(Vec::len).sum()
    }
}

impl Traffic {
    /// Creates the topic and begins.
    pub(crate) async fn start(client: &Client, rate: Rate) -> Self {
        client.admin().create_topic(rate.topic, rate.partitions, Default::default()).await.expect("created");
        let mut traffic = Self {
            rate,
            enough: Arc::default(),
            acknowledged: (0..rate.partitions).map(|_| Arc::default()).collect(),
            publishing: Vec::new(),
            collecting: Vec::new(),
            consuming: Vec::new(),
        };
        for partition in 0..rate.partitions {
            let consumer = client.consumer(rate.topic).subscription("s").exclusive().partitions([partition]);
            let consumer = consumer.start(Start::Earliest).build().await.expect("built");
            traffic.consuming.push(tokio::spawn(consume(consumer, partition)));
        }
        let mut receipts = Vec::new();
        for counter in &traffic.acknowledged {
            let (tx, rx) = mpsc::channel(OPEN_RECEIPTS);
            receipts.push(tx);
            traffic.collecting.push(tokio::spawn(collect(rx, Arc::clone(counter))));
        }
        for number in 0..PRODUCERS {
            let producer = client.producer(rate.topic).name(format!("loader-{number}")).build().await.expect("built");
            let own = (0..).zip(&receipts).filter(|(partition, _)| partition % PRODUCERS == number);
            let own = own.map(|(partition, receipts)| (partition, receipts.clone())).collect();
            traffic.publishing.push(tokio::spawn(publish(producer, own, rate.interval(), Arc::clone(&traffic.enough))));
        }
        traffic
    }

    /// Waits until each partition has acknowledged something more.
    pub(crate) async fn flows(&self, what: &str) {
        let counts = || self.acknowledged.iter().map(|count| count.load(Ordering::Relaxed)).collect::<Vec<_>>();
        let before = counts();
        let all = || counts().iter().zip(&before).all(|(now, before)| now > before);
        eventually(&format!("every partition acknowledges {what}"), LIMIT, || async { all().then_some(()) }).await;
    }

    /// Ends it once all that was published is acknowledged and consumed, and compares the log with what was published: nothing
    /// acknowledged is lost, nothing stands twice, all is in order.
    pub(crate) async fn end(self, client: &Client) -> Outcome {
        self.enough.store(true, Ordering::Relaxed);
        for publishing in self.publishing {
            tokio::time::timeout(LIMIT, publishing).await.expect("in time").expect("all is published");
        }
        let mut outcome = Outcome { acknowledged: Vec::new(), again: 0 };
        for collecting in self.collecting {
            outcome.acknowledged.push(tokio::time::timeout(LIMIT, collecting).await.expect("in time").expect("all has receipts"));
        }
        for (consuming, acknowledged) in self.consuming.into_iter().zip(&outcome.acknowledged) {
            let consumed = tokio::time::timeout(LIMIT, consuming).await.expect("in time").expect("all is in order");
            assert_eq!(consumed.messages, acknowledged.len() as u64, "all was consumed");
            outcome.again += consumed.again;
        }
        let mut reader = client.reader(self.rate.topic).start(Start::Earliest).stop_at_end().build().await.expect("readable");
        let mut held = vec![0; self.rate.partitions as usize];
        while let Some(delivery) = tokio::time::timeout(LIMIT, reader.next()).await.expect("in time") {
            let delivery = delivery.expect("readable");
            let held = &mut held[delivery.partition as usize];
            assert_eq!((delivery.offset, number(delivery.payload()).0), (*held, *held), "partition {}", delivery.partition);
            *held += 1;
        }
        let acknowledged: Vec<u64> = outcome.acknowledged.iter().map(|acknowledged| acknowledged.len() as u64).collect();
        assert_eq!(held, acknowledged, "the log holds what was acknowledged, each once");
        outcome
    }
}

/// The payload of a message: its number in its partition, and whether it is the last one.
fn payload(number: u64, is_last: bool) -> String {
    format!("{number} {:MESSAGE_BYTES$}", if is_last { "last" } else { "more" })
}

fn number(payload: &[u8]) -> (u64, bool) {
    let text = std::str::from_utf8(payload).expect("text");
    let (number, rest) = text.split_once(' ').expect("a number and a word");
    (number.parse().expect("a number"), rest.trim_end() == "last")
}

/// Publishes a message to each of the partitions at each interval, however late the ones before are.
async fn publish(producer: Producer, own: Vec<(u32, mpsc::Sender<Pending>)>, interval: Duration, enough: Arc<AtomicBool>) {
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    for count in 0.. {
        ticks.tick().await;
        let is_last = enough.load(Ordering::Relaxed);
        for (partition, receipts) in &own {
            let message = Message::new(payload(count, is_last)).partition(*partition);
            receipts.send(producer.queue(message).await.expect("queued")).await.expect("the collector runs");
        }
        if is_last {
            break;
        }
    }
    producer.close().await.expect("closed");
}

async fn collect(mut receipts: mpsc::Receiver<Pending>, counter: Arc<AtomicU64>) -> Vec<Instant> {
    let mut times = Vec::new();
    while let Some(pending) = receipts.recv().await {
        let receipt = pending.await.expect("an idempotent producer resolves every message");
        assert!(receipt.offset.is_none_or(|offset| offset == times.len() as u64), "{receipt:?} for message {}", times.len());
        times.push(Instant::now());
        counter.fetch_add(1, Ordering::Relaxed);
    }
    times
}

/// Consumes a partition to its last message: none may be left out, and what comes again was there before.
async fn consume(mut consumer: Consumer, partition: u32) -> Consumed {
    let (mut next, mut again, mut is_last) = (0, 0, false);
    while !is_last {
        let delivery = tokio::time::timeout(LIMIT, consumer.next()).await;
        let delivery = delivery.unwrap_or_else(|_| panic!("partition {partition}: nothing comes behind {next}"));
        let delivery = delivery.expect("the stream goes on").expect("a delivery");
        let number = number(delivery.payload());
        assert!(delivery.offset == number.0 && delivery.offset <= next, "partition {partition}: {delivery:?}, not {next}");
        if delivery.offset == next {
            (next, is_last) = (next + 1, number.1);
        } else {
            again += 1;
        }
        consumer.ack_later(&delivery);
    }
    consumer.close().await.expect("acknowledgements are durable");
    Consumed { messages: next, again }
}

/// The partitions of a topic that a broker owns.
pub(crate) fn owned(cluster: &Cluster, topic: &str, broker: &str) -> Vec<usize> {
    let told = cluster.tool(broker, &["topic", "get", topic, "-o", "json"]).ok();
    let told: serde_json::Value = serde_json::from_str(&told).expect("json");
    let partitions = told["partitions"].as_array().expect("it has some");
    (0..).zip(partitions).filter(|(_, partition)| partition["owner"] == *broker).map(|(index, _)| index).collect()
}
