//! What operators see of a cluster and tell it, by the real binary.

use std::time::Duration;

use alluvium_client::{Client, Message};
use alluvium_tests::{Cluster, Output, eventually};
use serde_json::Value;

use crate::load::LIMIT;

const TOPIC: &str = "public/default/t";

fn json(output: &Output) -> Value {
    serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

fn partition(cluster: &Cluster, broker: &str) -> Value {
    json(&cluster.tool(broker, &["topic", "get", TOPIC, "-o", "json"]))["partitions"][0].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operators_see_what_is_where_and_what_is_not_well() {
    let mut cluster = Cluster::start(3, 2);
    let well = async || {
        let status = cluster.tool("broker-1", &["cluster", "status", "-o", "json"]);
        (status.code == Some(0) && json(&status)["brokers"].as_array()?.len() == 2).then_some(status)
    };
    let status = json(&eventually("all is well", LIMIT, well).await);
    assert_eq!((status["health"].as_str(), status["findings"].as_array().map(Vec::len)), (Some("healthy"), Some(0)));
    assert!(status["metadata"]["revision"].as_u64() > Some(0) && status["metadata"]["reachable"] == true);
    let table = cluster.tool("broker-1", &["cluster", "status"]).ok();
    for shown in ["HEALTH", "healthy", "broker-0", "broker-1", "bookie-2", "writable"] {
        assert!(table.contains(shown), "{shown}:\n{table}");
    }

    cluster.tool("broker-0", &["topic", "create", TOPIC]).ok();
    assert_eq!(partition(&cluster, "broker-0")["why"], "never-claimed");
    let moves = |args: &[&str]| cluster.tool("broker-0", &[&["topic", "move", TOPIC, "--partition", "0"], args].concat());
    assert_eq!(moves(&[]).code, Some(2), "it says where, or that it is left");
    let nowhere = moves(&["--to", "broker-9"]);
    assert!(nowhere.code == Some(1) && nowhere.stderr.contains("alluvium broker list"), "{nowhere:?}");
    moves(&["--to", "broker-1"]).ok();
    let client = Client::connect(cluster.url("broker-1")).await.expect("connected");
    let producer = client.producer(TOPIC).build().await.expect("built");
    producer.send(Message::new("x")).await.expect("stored");
    let found = partition(&cluster, "broker-0");
    assert_eq!((found["owner"].as_str(), found["why"].as_str(), &found["epoch"]), (Some("broker-1"), Some("placed"), &1.into()));
    assert!(found["since_ms"].as_u64() > Some(0));
    let owned = cluster.tool("broker-0", &["broker", "partitions", "broker-1"]).ok();
    assert!(owned.contains(TOPIC), "{owned}");
    moves(&["--clear"]).ok();
    assert!(partition(&cluster, "broker-0")["placed_at"].is_null());

    // Of two, one may go.
    cluster.tool("broker-0", &["broker", "drain", "broker-0"]).ok();
    let listed = cluster.tool("broker-0", &["broker", "list"]).ok();
    assert!(listed.contains("draining"), "{listed}");
    let last = async || (cluster.tool("broker-1", &["broker", "drain", "broker-1"]).code == Some(1)).then_some(());
    eventually("the last one is not drained", LIMIT, last).await;
    cluster.tool("broker-1", &["broker", "drain", "broker-0", "--undo"]).ok();
    cluster.tool("broker-1", &["broker", "drain", "broker-1", "--undo"]).ok();

    // A bookie goes: what it holds and what is written from now on is short of copies, and somebody should look.
    let complete = json(&cluster.tool("broker-1", &["ledger", "list", "--under-replicated", "-o", "json"]));
    assert!(complete["ledgers"].as_array().expect("listed").is_empty(), "{complete}");
    let held = json(&cluster.tool("broker-1", &["ledger", "list", "-o", "json"]));
    cluster.kill("bookie-2");
    eventually("its copies are missed", LIMIT, async || {
        let short = json(&cluster.tool("broker-1", &["ledger", "list", "--under-replicated", "-o", "json"]));
        let short = short["ledgers"].as_array()?;
        let missed = |ledger: &Value| ledger["fragments"][0]["absent"][0].as_str().is_some_and(|id| id.starts_with("bookie-2@"));
        let all = held["ledgers"].as_array()?.iter().all(|had| short.iter().any(|now| now["id"] == had["id"] && missed(now)));
        all.then_some(())
    })
    .await;
    eventually("ledgers are short of copies", LIMIT, async || {
        tokio::time::timeout(Duration::from_secs(10), producer.send(Message::new("y"))).await.expect("in time").expect("stored");
        let short = cluster.tool("broker-1", &["ledger", "list", "--under-replicated", "-o", "json"]);
        (!json(&short)["ledgers"].as_array()?.is_empty()).then_some(())
    })
    .await;
    let degraded = async || {
        let status = cluster.tool("broker-1", &["cluster", "status", "-o", "json"]);
        (status.code == Some(3) && json(&status)["absent_bookies"][0] == "bookie-2").then_some(status)
    };
    let status = json(&eventually("it is seen", LIMIT, degraded).await);
    assert_eq!(status["health"], "degraded");

    // What is begun meanwhile is on fewer; what is begun when the bookie is back is on all of them (C63).
    let later = "public/default/later";
    cluster.tool("broker-1", &["topic", "create", later, "--rollover", "1s"]).ok();
    let later = client.producer(later).build().await.expect("built");
    let begun = async |cluster: &Cluster, bookies: usize| {
        later.send(Message::new("z")).await.expect("stored");
        let ledgers = json(&cluster.tool("broker-1", &["ledger", "list", "-o", "json"]));
        let newest = ledgers["ledgers"].as_array()?.iter().max_by_key(|ledger| ledger["id"].as_u64())?.clone();
        (newest["fragments"][0]["bookies"].as_array()?.len() == bookies).then_some(())
    };
    eventually("a ledger on two", LIMIT, || begun(&cluster, 2)).await;
    cluster.restart("bookie-2");
    eventually("a ledger on three", LIMIT, || begun(&cluster, 3)).await;
    cluster.kill("bookie-2");
    cluster.kill("bookie-1");
    let down = async || (cluster.tool("broker-1", &["cluster", "status"]).code == Some(69)).then_some(());
    eventually("nothing can be stored", LIMIT, down).await;
}
