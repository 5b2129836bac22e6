//! What a server takes that has nothing to do, empty and with many topics. Prints figures; takes minutes:
//! `ALLUVIUM_BINARY=target/release/alluvium cargo test -p alluvium-tests --test standalone -- --ignored --nocapture idle_server`.

use std::time::{Duration, Instant};

use alluvium_client::Client;
use alluvium_tests::{Options, Server};
use futures::{StreamExt, stream};

/// How many calls are under way at a time.
const AT_ONCE: usize = 64;
/// How long an idle server is watched, once it has settled for as long.
const WATCHED: Duration = Duration::from_secs(20);
/// How many times a command is timed.
const TIMES: usize = 5;

/// How many topics; may be set for another run.
fn topics() -> usize {
    std::env::var("TOPICS").ok().map_or(10_000, |text| text.parse().expect("a number"))
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// Waits until it has settled; gives its memory, and says what it takes.
fn rest(server: &Server, what: &str) -> (u64, String) {
    std::thread::sleep(WATCHED);
    let (begun, before) = (Instant::now(), server.processor_time());
    std::thread::sleep(WATCHED);
    let busy = (server.processor_time() - before).as_secs_f64() / begun.elapsed().as_secs_f64();
    let resident = server.resident_bytes();
    (resident, format!("{what}: {:.1} MiB resident, {:.2} % of a processor", mib(resident), busy * 100.0))
}

async fn create(client: &Client, namespace: &str, count: usize) {
    let made = stream::iter(0..count).map(|number| {
        let (admin, name) = (client.admin(), format!("{namespace}/topic-{number:06}"));
        async move { admin.create_topic(&name, 1, Default::default()).await.map(|_| ()) }
    });
    made.buffer_unordered(AT_ONCE).for_each(async |made| made.expect("created")).await;
}

#[ignore = "takes minutes, and prints figures rather than asserting them"]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_server_takes_little() {
    let mut server = Server::start(&Options::default());
    let (empty, said) = rest(&server, "empty");
    println!("{said}");
    let client = Client::connect(server.url()).await.expect("connected");
    client.admin().create_namespace("public/many", Default::default()).await.expect("created");
    client.admin().create_namespace("public/thousand", Default::default()).await.expect("created");
    create(&client, "public/thousand", 1000).await;
    let begun = Instant::now();
    let count = topics();
    create(&client, "public/many", count).await;
    let took = begun.elapsed().as_secs_f64();
    println!("created {count} topics in {took:.1} s: {:.0} a second", count as f64 / took);
    let begun = Instant::now();
    assert_eq!(client.admin().list_topics("public/many").await.expect("listed").len(), count);
    println!("listed {count} topics, 1000 a page, in {:.2} s", begun.elapsed().as_secs_f64());
    drop(client);
    let (with_topics, said) = rest(&server, "with these topics");
    println!("{said}");
    let each = with_topics.saturating_sub(empty) as f64 / (count + 1000) as f64;
    println!("a topic: {each:.0} bytes of memory");
    let mut listed: Vec<Duration> = (0..TIMES)
        .map(|_| {
            let begun = Instant::now();
            let names = server.tool(&["topic", "list", "public/thousand"]).ok();
            let took = begun.elapsed();
            assert!(names.lines().filter(|line| line.contains("topic-")).count() == 1000, "{names}");
            took
        })
        .collect();
    listed.sort();
    println!("`alluvium topic list` of 1000: {:.0} ms, the median of {TIMES}", listed[TIMES / 2].as_secs_f64() * 1e3);
    assert_eq!(server.terminate(), Some(0), "{}", server.log());
    let begun = Instant::now();
    server.restart();
    println!("ready again after {:.0} ms", begun.elapsed().as_secs_f64() * 1e3);
    let client = Client::connect(server.url()).await.expect("connected");
    assert_eq!(client.admin().list_topics("public/many").await.expect("listed").len(), count);
    drop(client);
    println!("{}", rest(&server, "restarted").1);
}
