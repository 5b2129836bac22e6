//! A broker is drained before somebody works on its machine, by the real binary.

use alluvium_client::{Client, Message, Producer};
use alluvium_tests::{Cluster, Output, eventually};
use serde_json::Value;

use crate::load::LIMIT;

const TOPIC: &str = "public/default/drained";
const PARTITIONS: usize = 8;

fn json(output: &Output) -> Value {
    serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// A broker as the other one lists it, if it lives.
fn listed(cluster: &Cluster, name: &str) -> Option<Value> {
    let brokers = json(&cluster.tool("broker-0", &["broker", "list", "-o", "json"]))["brokers"].take();
    brokers.as_array()?.iter().find(|broker| broker["name"] == name).cloned()
}

fn owned(cluster: &Cluster, name: &str) -> usize {
    let owned = json(&cluster.tool("broker-0", &["broker", "partitions", name, "-o", "json"]));
    owned["partitions"].as_array().map_or(0, Vec::len)
}

/// Publishes to every partition.
async fn publish(producer: &Producer) {
    for n in 0..PARTITIONS * 8 {
        producer.send(Message::new("x").key(n.to_string())).await.expect("stored");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drained_broker_owns_nothing_until_it_is_told_otherwise() {
    let mut cluster = Cluster::start(3, 2);
    cluster.tool("broker-0", &["topic", "create", TOPIC, "--partitions", &PARTITIONS.to_string()]).ok();
    for index in 0..PARTITIONS {
        let to = format!("broker-{}", index % 2);
        cluster.tool("broker-0", &["topic", "move", TOPIC, "--partition", &index.to_string(), "--to", &to]).ok();
    }
    let client = Client::connect(cluster.url("broker-0")).await.expect("connected");
    let producer = client.producer(TOPIC).build().await.expect("built");
    publish(&producer).await;
    assert_eq!((owned(&cluster, "broker-0"), owned(&cluster, "broker-1")), (PARTITIONS / 2, PARTITIONS / 2));

    let drained = cluster.tool("broker-0", &["broker", "drain", "broker-1", "--wait", "--timeout", "60s", "-o", "json"]);
    assert_eq!((drained.code, &json(&drained)["empty"]), (Some(0), &Value::Bool(true)), "{drained:?}");
    assert_eq!(owned(&cluster, "broker-1"), 0);
    publish(&producer).await;
    assert_eq!((owned(&cluster, "broker-0"), owned(&cluster, "broker-1")), (PARTITIONS, 0));

    // It loses its session, and what it was told holds in the next one.
    let before = listed(&cluster, "broker-1").expect("lives")["since_ms"].as_u64();
    cluster.pause("broker-1");
    eventually("its session ends", LIMIT, async || listed(&cluster, "broker-1").is_none().then_some(())).await;
    cluster.resume("broker-1");
    let again = eventually("it is back", LIMIT, async || listed(&cluster, "broker-1")).await;
    assert!(again["since_ms"].as_u64() > before && again["draining"] == true, "{again}");

    // A new process begins anew.
    cluster.stop("broker-1");
    cluster.restart("broker-1");
    let anew = eventually("it serves", LIMIT, async || listed(&cluster, "broker-1").filter(|broker| broker["draining"] == false));
    anew.await;
    publish(&producer).await;
    let back = async || (owned(&cluster, "broker-1") == PARTITIONS / 2).then_some(());
    eventually("it has again what was placed there", LIMIT, back).await;
}
