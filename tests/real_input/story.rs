//! The story, whoever serves: publish, consume twice, compare with a program of another language.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use alluvium_client::{Client, Consumer, Message, Producer, Start};
use alluvium_tests::{Output, eventually};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::flights::{Flight, folder, row};

pub(crate) const TOPIC: &str = "public/default/flights";
pub(crate) const PARTITIONS: u32 = 4;
/// How many receipts may be open.
const OPEN_RECEIPTS: usize = 20_000;
/// How long a consumer may wait for its next message, restarts included.
pub(crate) const NEXT_LIMIT: Duration = Duration::from_secs(60);

/// A run on its way: everything is published, and consumed meanwhile.
pub(crate) struct Run {
    flights: Arc<Vec<Flight>>,
    client: Client,
    folder: PathBuf,
    acknowledged: Arc<AtomicUsize>,
    publishing: JoinHandle<()>,
    through: JoinHandle<PathBuf>,
}

impl Run {
    /// Begins. The topic is there and empty; what consumers see is written below `folder`.
    pub(crate) async fn begin(client: Client, flights: Arc<Vec<Flight>>, folder: &Path) -> Self {
        let through =
            client.consumer(TOPIC).subscription("through").exclusive().start(Start::Earliest).build().await.expect("built");
        let through = tokio::spawn(consume(through, flights.len(), folder.join("through")));
        let acknowledged = Arc::new(AtomicUsize::new(0));
        let producer = client.producer(TOPIC).name("importer").build().await.expect("built");
        let publishing = {
            let (flights, acknowledged) = (Arc::clone(&flights), Arc::clone(&acknowledged));
            tokio::spawn(async move {
                publish(&producer, &flights, acknowledged).await;
                producer.close().await.expect("closed");
            })
        };
        Self { flights, client, folder: folder.to_owned(), acknowledged, publishing, through }
    }

    /// How many are acknowledged.
    pub(crate) fn acknowledged(&self) -> usize {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Waits until so many are acknowledged.
    pub(crate) async fn reach(&self, count: usize) {
        eventually("acknowledgements", NEXT_LIMIT, || async { (self.acknowledged() >= count).then_some(()) }).await;
    }

    /// Waits until all is published, consumes it once more, and compares both with the input and with what `tool` says of the topic.
    pub(crate) async fn end(self, tool: impl Fn(&[&str]) -> Output) {
        self.publishing.await.expect("everything is published");
        let total = self.flights.len();
        assert_eq!(self.acknowledged.load(Ordering::Relaxed), total);
        let after =
            self.client.consumer(TOPIC).subscription("after").shared().start(Start::Earliest).build().await.expect("built");
        let after = consume(after, total, self.folder.join("after")).await;
        let through = self.through.await.expect("the other one read all of it");
        let check = Command::new("python3")
            .arg(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("real_input/check.py"))
            .arg(folder().join("flights.csv"))
            .args([&through, &after])
            .output()
            .expect("python3 is there");
        assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stderr));
        print!("{}", String::from_utf8_lossy(&check.stdout));
        for name in ["through", "after"] {
            let stats = tool(&["subscription", "stats", TOPIC, name, "-o", "json"]).ok();
            let stats: serde_json::Value = serde_json::from_str(&stats).expect("json");
            let backlog: u64 = stats["partitions"].as_array().expect("a list").iter().filter_map(|p| p["backlog"].as_u64()).sum();
            assert_eq!(backlog, 0, "{stats}");
        }
        // No message stands in the log that nobody was told of: what the log holds is what was published.
        let topic = tool(&["topic", "get", TOPIC, "-o", "json"]).ok();
        let topic: serde_json::Value = serde_json::from_str(&topic).expect("json");
        let held: u64 = topic["partitions"].as_array().expect("a list").iter().filter_map(|p| p["end_offset"].as_u64()).sum();
        assert_eq!(held, total as u64, "{topic}");
    }
}

async fn publish(producer: &Producer, flights: &[Flight], acknowledged: Arc<AtomicUsize>) {
    let (open, mut receipts) = mpsc::channel::<alluvium_client::Pending>(OPEN_RECEIPTS);
    let collector = tokio::spawn(async move {
        while let Some(pending) = receipts.recv().await {
            pending.await.expect("an idempotent producer resolves every message");
            acknowledged.fetch_add(1, Ordering::Relaxed);
        }
    });
    for flight in flights {
        let message = Message::new(flight.line.clone());
        let message = match &flight.key {
            Some(key) => message.key(key.clone()),
            None => message,
        };
        open.send(producer.queue(message).await.expect("queued")).await.expect("the collector runs");
    }
    drop(open);
    collector.await.expect("every receipt came");
}

/// Consumes until `count` distinct messages came; writes `partition offset row` for every delivery.
async fn consume(mut consumer: Consumer, count: usize, to: PathBuf) -> PathBuf {
    let (mut seen, mut text) = (std::collections::HashSet::new(), String::new());
    while seen.len() < count {
        let next = tokio::time::timeout(NEXT_LIMIT, consumer.next()).await;
        let next = next.unwrap_or_else(|_| panic!("nothing comes after {} of {count} messages", seen.len()));
        let delivery = next.expect("the stream goes on").expect("a delivery");
        writeln!(text, "{} {} {}", delivery.partition, delivery.offset, row(delivery.payload())).expect("strings take text");
        seen.insert((delivery.partition, delivery.offset));
        consumer.acker().ack_later(&delivery);
    }
    consumer.acker().flush().await.expect("acknowledgements are durable");
    consumer.close().await.expect("closed");
    std::fs::write(&to, text).expect("writable");
    to
}
