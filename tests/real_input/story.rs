//! The story: publish, kill on the way, consume twice, compare with a program of another language.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use alluvium_client::{Client, Consumer, Message, Producer, Start};
use alluvium_tests::{Options, Server, eventually};
use tokio::sync::mpsc;

use crate::flights::{Flight, folder, load, row};

const TOPIC: &str = "public/default/flights";
const PARTITIONS: u32 = 4;
/// The part of all flights that is acknowledged when the server is killed, in percent, in each run.
const KILLS: [usize; 5] = [28, 35, 43, 50, 58];
/// How many receipts may be open.
const OPEN_RECEIPTS: usize = 20_000;
/// How long a consumer may wait for its next message, a restart of the server included.
const NEXT_LIMIT: Duration = Duration::from_secs(60);

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

async fn run(percent: usize, flights: Arc<Vec<Flight>>) {
    let begun = Instant::now();
    let mut server = Server::start(&Options::default());
    server.tool(&["topic", "create", TOPIC, "--partitions", &PARTITIONS.to_string()]).ok();
    let client = Client::connect(server.url()).await.expect("connected");
    let through = client.consumer(TOPIC).subscription("through").exclusive().start(Start::Earliest).build().await.expect("built");
    let through = tokio::spawn(consume(through, flights.len(), server.folder().join("through")));

    let acknowledged = Arc::new(AtomicUsize::new(0));
    let producer = client.producer(TOPIC).name("importer").build().await.expect("built");
    let publishing = {
        let (flights, acknowledged) = (Arc::clone(&flights), Arc::clone(&acknowledged));
        tokio::spawn(async move {
            publish(&producer, &flights, acknowledged).await;
            producer.close().await.expect("closed");
        })
    };
    let point = flights.len() * percent / 100;
    eventually("the point of the kill", NEXT_LIMIT, || async { (acknowledged.load(Ordering::Relaxed) >= point).then_some(()) })
        .await;
    server.kill();
    let at_kill = acknowledged.load(Ordering::Relaxed);
    assert!((flights.len() / 4..=flights.len() * 3 / 4).contains(&at_kill), "killed too early or late: {at_kill}");
    server.restart();
    println!(
        "{percent} %: killed with {at_kill} of {} acknowledged; served again after {:?}",
        flights.len(),
        server.started_in()
    );
    publishing.await.expect("everything is published");
    assert_eq!(acknowledged.load(Ordering::Relaxed), flights.len());

    let after = client.consumer(TOPIC).subscription("after").shared().start(Start::Earliest).build().await.expect("built");
    let after = consume(after, flights.len(), server.folder().join("after")).await;
    let through = through.await.expect("the other one read all of it");
    let check = Command::new("python3")
        .arg(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("real_input/check.py"))
        .arg(folder().join("flights.csv"))
        .args([&through, &after])
        .output()
        .expect("python3 is there");
    assert!(check.status.success(), "{}\n{}", String::from_utf8_lossy(&check.stderr), server.log());
    print!("{}", String::from_utf8_lossy(&check.stdout));
    for name in ["through", "after"] {
        let stats = server.tool(&["subscription", "stats", TOPIC, name, "-o", "json"]).ok();
        let stats: serde_json::Value = serde_json::from_str(&stats).expect("json");
        let backlog: u64 = stats["partitions"].as_array().expect("a list").iter().filter_map(|p| p["backlog"].as_u64()).sum();
        assert_eq!(backlog, 0, "{stats}");
    }
    // No message stands in the log that nobody was told of: what the log holds is what was published.
    let topic = server.tool(&["topic", "get", TOPIC, "-o", "json"]).ok();
    let topic: serde_json::Value = serde_json::from_str(&topic).expect("json");
    let held: u64 = topic["partitions"].as_array().expect("a list").iter().filter_map(|p| p["end_offset"].as_u64()).sum();
    assert_eq!(held, flights.len() as u64, "{topic}");
    println!("{percent} %: {:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_flight_is_there_once_and_in_order_whenever_the_server_is_killed() {
    let flights = Arc::new(load());
    assert_eq!(flights.len(), 336_776);
    for percent in KILLS {
        run(percent, Arc::clone(&flights)).await;
    }
}
