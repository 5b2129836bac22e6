//! How processes of a cluster start: what they wait for, and what they refuse.

use std::time::{Duration, Instant};

use alluvium_client::{Client, Message};
use alluvium_tests::Cluster;

/// Waits until a member's log says this.
fn wait_log(cluster: &mut Cluster, name: &str, said: &str) {
    let begun = Instant::now();
    while !cluster.process(name).log().contains(said) {
        assert!(begun.elapsed() < Duration::from_secs(20), "{name} does not say {said:?}:\n{}", cluster.logs());
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_wait_for_etcd_say_so_and_go_on_by_themselves() {
    let mut cluster = Cluster::prepare(2, 1);
    cluster.add_broker("given-up", "given-up", "alluvium/");
    cluster.etcd.kill();
    for name in ["bookie-0", "bookie-1", "broker-0", "given-up"] {
        cluster.spawn(name);
    }
    for name in ["bookie-0", "bookie-1", "broker-0", "given-up"] {
        wait_log(&mut cluster, name, "waiting for metadata");
        let process = cluster.process(name);
        assert_eq!(process.http("/healthz").map(|(status, _)| status), Some(200), "it lives");
        assert_eq!(process.http("/readyz"), Some((503, "not ready: waiting for metadata\n".to_owned())), "and does not serve");
    }
    assert_eq!(cluster.process("given-up").terminate(), Some(0), "who waits can be stopped:\n{}", cluster.logs());
    cluster.etcd.restart();
    for name in ["bookie-0", "bookie-1", "broker-0"] {
        cluster.process(name).wait_ready();
    }
    cluster.wait_bookies("broker-0", 2);
    let client = Client::connect(cluster.url("broker-0")).await.expect("connected");
    assert_eq!(client.cluster_id(), cluster.id);
    client.admin().create_topic("public/default/t", 1, Default::default()).await.expect("created");
    let producer = client.producer("public/default/t").build().await.expect("built");
    let stored = tokio::time::timeout(Duration::from_secs(20), producer.send(Message::new("x"))).await;
    stored.expect("in time").expect("stored");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_clusters_prefix_and_a_name_that_is_taken_are_refused() {
    let mut cluster = Cluster::start(1, 1);
    let other = cluster.init_other("other/");
    assert_ne!(other, cluster.id);
    assert_eq!(cluster.init_other("other/"), other, "making it again changes nothing");
    cluster.add_broker("astray", "astray", "other/");
    cluster.add_broker("nowhere", "nowhere", "empty/");
    cluster.add_broker("double", "broker-0", "alluvium/");
    cluster.add_bookie("stray-bookie", "other/");
    cluster.add_bookie("lost-bookie", "empty/");
    for name in ["astray", "nowhere", "double", "stray-bookie", "lost-bookie"] {
        cluster.spawn(name);
    }
    let id = cluster.id.clone();
    for (name, said) in [
        ("astray", format!("metadata is of cluster {other}, not of {id}")),
        ("nowhere", format!("metadata holds no cluster, but should hold {id}")),
        ("stray-bookie", format!("metadata is of cluster {other}, not of {id}")),
        ("lost-bookie", format!("metadata holds no cluster, but should hold {id}")),
        ("double", "a broker broker-0 is alive at 127.0.0.1".to_owned()),
    ] {
        assert_eq!(cluster.process(name).wait_end(), Some(1), "{name} is refused:\n{}", cluster.logs());
        let log = cluster.process(name).log();
        assert!(log.contains(&said), "{name}: {log}");
    }
    let client = Client::connect(cluster.url("broker-0")).await.expect("the first one lives on");
    client.admin().create_topic("public/default/t", 1, Default::default()).await.expect("and decides");
    let listed = cluster.tool("broker-0", &["cluster", "get", "-o", "json"]).ok();
    assert!(listed.contains(r#""brokers":1"#), "nobody else was registered: {listed}");
    cluster.wait_bookies("broker-0", 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_was_killed_and_is_back_at_once_is_done_without_until_its_old_session_ends() {
    const TOPIC: &str = "public/default/t";
    let mut cluster = Cluster::start(3, 2);
    cluster.tool("broker-0", &["topic", "create", TOPIC]).ok();
    cluster.tool("broker-0", &["topic", "move", TOPIC, "--partition", "0", "--to", "broker-1"]).ok();
    let client = Client::connect(cluster.url("broker-0")).await.expect("connected");
    let producer = client.producer(TOPIC).build().await.expect("built");
    producer.send(Message::new("before")).await.expect("stored");

    cluster.kill("broker-1");
    cluster.spawn("broker-1");
    wait_log(&mut cluster, "broker-1", "waiting for the end of the last session of this broker's name");
    let stored = tokio::time::timeout(Duration::from_secs(20), producer.send(Message::new("after"))).await;
    stored.expect("in time").expect("stored");
    let log = cluster.process("broker-1").log();
    let (_, since) = log.rsplit_once("waiting for the end of the last session").expect("it was said");
    assert!(!since.contains("registered"), "nobody waited for the old session: {log}");
    cluster.process("broker-1").wait_ready();
}
