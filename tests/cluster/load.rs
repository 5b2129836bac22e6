//! A load of numbered messages, and what must be found of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use alluvium_client::{Client, Message, Pending, Start};
use alluvium_tests::{Cluster, eventually};
use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

pub(crate) const TOPIC: &str = "public/default/t";
pub(crate) const PARTITIONS: u32 = 2;
/// How long anything may take, failures of processes included.
pub(crate) const LIMIT: Duration = Duration::from_secs(40);
/// How many receipts may be open.
const OPEN_RECEIPTS: usize = 10_000;
/// So many messages are queued between two pauses.
const BURST: usize = 50;

/// An idempotent producer at work.
pub(crate) struct Load {
    acknowledged: Arc<AtomicUsize>,
    enough: Arc<AtomicBool>,
    /// Gives how many it has published.
    work: JoinHandle<usize>,
}

pub(crate) async fn create_topic(cluster: &Cluster) -> Client {
    create_topic_at(cluster.url("broker-0")).await
}

pub(crate) async fn create_topic_at(url: String) -> Client {
    let client = Client::connect(url).await.expect("connected");
    client.admin().create_topic(TOPIC, PARTITIONS, Default::default()).await.expect("created");
    client
}

impl Load {
    /// Publishes messages, the number of each its payload, to the partitions in turn, until it ends.
    pub(crate) async fn start(client: &Client) -> Self {
        let producer = client.producer(TOPIC).name("loader").build().await.expect("built");
        let acknowledged = Arc::new(AtomicUsize::new(0));
        let enough = Arc::new(AtomicBool::new(false));
        let (counter, until) = (Arc::clone(&acknowledged), Arc::clone(&enough));
        let work = tokio::spawn(async move {
            let (open, mut receipts) = mpsc::channel::<Pending>(OPEN_RECEIPTS);
            let collector = tokio::spawn(async move {
                while let Some(pending) = receipts.recv().await {
                    pending.await.expect("an idempotent producer resolves every message");
                    counter.fetch_add(1, Ordering::Relaxed);
                }
            });
            let mut number = 0;
            while !until.load(Ordering::Relaxed) {
                let partition = u32::try_from(number).expect("small") % PARTITIONS;
                let message = Message::new(number.to_string()).partition(partition);
                open.send(producer.queue(message).await.expect("queued")).await.expect("the collector runs");
                number += 1;
                if number % BURST == 0 {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
            drop(open);
            collector.await.expect("every receipt came");
            producer.close().await.expect("closed");
            number
        });
        Self { acknowledged, enough, work }
    }

    /// How many are acknowledged.
    pub(crate) fn acknowledged(&self) -> usize {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Waits until so many are acknowledged.
    pub(crate) async fn reach(&self, count: usize) {
        eventually("acknowledgements", LIMIT, || async { (self.acknowledged() >= count).then_some(()) }).await;
    }

    /// Ends the load; gives how many messages there are, all acknowledged.
    pub(crate) async fn end(self) -> usize {
        self.enough.store(true, Ordering::Relaxed);
        let total = tokio::time::timeout(LIMIT, self.work).await.expect("in time").expect("all is published");
        assert_eq!(self.acknowledged.load(Ordering::Relaxed), total);
        total
    }
}

/// What the topic holds must be these numbers, each once, in order for each partition.
pub(crate) async fn assert_whole(client: &Client, total: usize) {
    let mut reader = client.reader(TOPIC).start(Start::Earliest).stop_at_end().build().await.expect("readable");
    let mut found = vec![Vec::new(); PARTITIONS as usize];
    while let Some(delivery) = tokio::time::timeout(LIMIT, reader.next()).await.expect("in time") {
        let delivery = delivery.expect("readable");
        assert_eq!(delivery.offset, found[delivery.partition as usize].len() as u64, "offsets are dense");
        found[delivery.partition as usize].push(number(delivery.payload()));
    }
    for (partition, found) in found.iter().enumerate() {
        let wanted = (partition..total).step_by(PARTITIONS as usize);
        assert!(found.iter().copied().eq(wanted), "partition {partition}: each once and in order; {} found", found.len());
    }
}

pub(crate) fn number(payload: &Bytes) -> usize {
    std::str::from_utf8(payload).expect("text").parse().expect("a number")
}
