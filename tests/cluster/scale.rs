//! A hundred thousand topics, and the end of a broker that owns ten thousand partitions. Prints figures; takes minutes:
//! `cargo test -p alluvium-tests --test cluster -- --ignored --nocapture a_hundred_thousand_topics`.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use alluvium_client::Client;
use alluvium_proto::v1;
use alluvium_proto::v1::publish_service_client::PublishServiceClient;
use alluvium_tests::{Cluster, Etcd};
use futures::{StreamExt, stream};
use tonic::transport::Channel;

/// How many calls are under way at a time.
const AT_ONCE: usize = 64;
/// How long one message may take to be stored while a broker is gone.
const PATIENCE: Duration = Duration::from_secs(60);

/// A count that may be set for a shorter run.
fn count(variable: &str, default: usize) -> usize {
    std::env::var(variable).ok().map_or(default, |text| text.parse().expect("a number"))
}

fn name(number: usize) -> String {
    format!("public/default/topic-{number:06}")
}

/// The keys of an etcd: how many there are, and their bytes with those of their values; by the first part of the key.
fn keys(etcd: &Etcd) -> Vec<(String, usize, usize)> {
    let address = etcd.url();
    let address = address.strip_prefix("http://").expect("plain");
    let body = r#"{"key":"AA==","range_end":"AA=="}"#;
    let mut connection = TcpStream::connect(address).expect("it listens");
    // Of HTTP/1.0 the answer is all that comes, without chunks.
    write!(connection, "POST /v3/kv/range HTTP/1.0\r\nContent-Length: {}\r\n\r\n{body}", body.len()).expect("sent");
    let mut answer = String::new();
    connection.read_to_string(&mut answer).expect("answered");
    let (_, body) = answer.split_once("\r\n\r\n").expect("an answer has a body");
    let found: serde_json::Value = serde_json::from_str(body).expect("json");
    let decoded = |text: &str| text.len() / 4 * 3 - text.bytes().rev().take_while(|byte| *byte == b'=').count();
    let mut kinds = std::collections::BTreeMap::<String, (usize, usize)>::new();
    for record in found["kvs"].as_array().expect("there are some") {
        let text = |field: &str| record[field].as_str().unwrap_or_default().to_owned();
        let kind: String = text("key").chars().take(24).collect();
        let one = kinds.entry(kind).or_default();
        *one = (one.0 + 1, one.1 + decoded(&text("key")) + decoded(&text("value")));
    }
    kinds.into_iter().map(|(kind, (count, bytes))| (kind, count, bytes)).collect()
}

/// The size of etcd's file, in bytes.
fn db_bytes(etcd: &Etcd) -> f64 {
    let metrics = etcd.metrics();
    let line = metrics.lines().find(|line| line.starts_with("etcd_mvcc_db_total_size_in_bytes ")).expect("it is said");
    line.rsplit(' ').next().expect("a value").parse().expect("a number")
}

/// How many reads and transactions etcd has answered.
fn asked(etcd: &Etcd) -> [f64; 2] {
    let metrics = etcd.metrics();
    ["Range", "Txn"].map(|method| {
        let method = format!("grpc_method=\"{method}\"");
        let answered = metrics.lines().filter(|line| line.starts_with("grpc_server_handled_total{") && line.contains(&method));
        answered.map(|line| line.rsplit(' ').next().expect("a value").parse::<f64>().expect("a number")).sum()
    })
}

/// Prints what one of so many cost in calls of etcd, and gives the count to go on from.
fn cost(etcd: &Etcd, before: [f64; 2], of: usize) -> [f64; 2] {
    let now = asked(etcd);
    let each = [0, 1].map(|method| (now[method] - before[method]) / of as f64);
    println!("  {:.1} reads and {:.1} transactions of metadata each", each[0], each[1]);
    now
}

async fn publish(channel: &Channel, number: usize) -> Result<(), tonic::Status> {
    let message = v1::Message { payload: "x".into(), ..Default::default() };
    let request = v1::PublishRequest { topic: name(number), partition: Some(0), messages: vec![message], ..Default::default() };
    PublishServiceClient::new(channel.clone()).publish(request).await.map(|_| ())
}

/// Publishes one message to each of these topics; until each is stored.
async fn publish_to_all(channel: &Channel, topics: usize) -> usize {
    let published = stream::iter(0..topics).map(async |number| {
        let begun = Instant::now();
        let mut again = 0;
        while let Err(status) = publish(channel, number).await {
            assert!(begun.elapsed() < PATIENCE, "{}: {status}", name(number));
            again += 1;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        again
    });
    published.buffer_unordered(AT_ONCE).fold(0, async |sum, again| sum + again).await
}

async fn channel(cluster: &Cluster, broker: &str) -> Channel {
    Channel::from_shared(cluster.url(broker)).expect("valid").connect().await.expect("connected")
}

#[ignore = "takes minutes, and prints figures rather than asserting them"]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_topics() {
    let (topics, loaded) = (count("TOPICS", 100_000), count("LOADED", 10_000));
    let mut cluster = Cluster::prepare(3, 2);
    for member in ["bookie-0", "bookie-1", "bookie-2", "broker-0"] {
        cluster.restart(member);
    }
    cluster.wait_bookies("broker-0", 3);
    let client = Client::connect(cluster.url("broker-0")).await.expect("connected");
    let before = db_bytes(&cluster.etcd);
    let calls = asked(&cluster.etcd);
    let begun = Instant::now();
    let made = stream::iter(0..topics)
        .map(|number| {
            let admin = client.admin();
            async move { admin.create_topic(&name(number), 1, Default::default()).await.map(|_| ()) }
        })
        .buffer_unordered(AT_ONCE);
    made.for_each(async |made| made.expect("created")).await;
    let took = begun.elapsed().as_secs_f64();
    println!("created {topics} topics in {took:.1} s: {:.0} a second", topics as f64 / took);
    cost(&cluster.etcd, calls, topics);
    let grown = db_bytes(&cluster.etcd) - before;
    println!("etcd's file grew by {:.1} MB: {:.0} bytes a topic", grown / 1e6, grown / topics as f64);
    for (kind, count, bytes) in keys(&cluster.etcd).into_iter().filter(|(_, count, _)| *count > 1) {
        println!("  keys {kind}…: {count}, {} bytes each with its value", bytes / count);
    }
    let begun = Instant::now();
    let listed = client.admin().list_topics("public/default").await.expect("listed").len();
    let took = begun.elapsed();
    assert_eq!(listed, topics);
    println!("listed {listed} topics, 1000 a page, in {:.2} s", took.as_secs_f64());

    let first = channel(&cluster, "broker-0").await;
    let calls = asked(&cluster.etcd);
    let begun = Instant::now();
    publish_to_all(&first, loaded).await;
    let took = begun.elapsed().as_secs_f64();
    println!("loaded {loaded} partitions, a message each, in {took:.1} s: {:.0} a second", loaded as f64 / took);
    cost(&cluster.etcd, calls, loaded);
    cluster.restart("broker-1");
    let calls = asked(&cluster.etcd);
    let second = channel(&cluster, "broker-1").await;
    cluster.kill("broker-0");
    let begun = Instant::now();
    while publish(&second, 0).await.is_err() {
        assert!(begun.elapsed() < PATIENCE, "nobody takes it over");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    println!("a partition of the broker that was killed is served after {:.0} ms", begun.elapsed().as_secs_f64() * 1e3);
    let again = publish_to_all(&second, loaded).await;
    let took = begun.elapsed().as_secs_f64();
    cost(&cluster.etcd, calls, loaded);
    println!("all {loaded} after {took:.1} s: {:.0} a second, {again} calls repeated", loaded as f64 / took);
}
