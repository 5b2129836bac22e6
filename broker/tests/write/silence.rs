//! An owner that stands still holds up what concerns it, and nothing else of the same stream.

use std::collections::BTreeMap;
use std::time::Duration;

use alluvium_proto::v1;
use alluvium_proto::v1::Guarantee;
use alluvium_runtime::clock::Clock;

use crate::cluster::{Cluster, Node, batch, config, eventually};
use crate::consuming::Consuming;
use crate::forwarding::place;
use crate::path::Path;

/// How long owners that are well may take, whoever is not.
const SOON: Duration = Duration::from_secs(1);
/// Requests to the owner that is silent: more than the way to it takes in.
const HELD_UP: u64 = 200;
/// The partition of the one that is silent, of the one that the client talks to, and of another one.
const SILENT: u32 = 0;
const HERE: u32 = 1;
const THERE: u32 = 2;

/// Three brokers, each with a partition of its own; the way to the first is a path.
async fn three(cluster: &Cluster) -> (Path, [Node; 3]) {
    let path = Path::new();
    let silent = cluster.behind(&path, "silent", config()).await;
    let (here, there) = (cluster.named("here", config()).await, cluster.named("there", config()).await);
    here.make_topic(3, v1::Policies::default()).await;
    place(cluster, &["silent", "here", "there"]).await;
    let nodes = [silent, here, there];
    eventually("all see all", async || nodes.iter().all(|node| node.broker.live_brokers().len() == 3)).await;
    (path, nodes)
}

async fn drain(nodes: [Node; 3]) {
    for node in nodes {
        node.drain().await;
    }
}

#[tokio::test]
async fn batches_for_a_silent_owner_hold_up_no_others() {
    // The stream waited for room on the way to the one that is silent, and heard and sent nothing meanwhile.
    let cluster = Cluster::start(1).await;
    let (path, nodes) = three(&cluster).await;
    let mut stream = nodes[1].open(Guarantee::Quorum, "p").await;
    let mut epochs = Vec::new();
    for partition in 0..3 {
        epochs.push(stream.claim(partition, None).await.epoch);
    }
    path.be_silent(true);
    let payload = "x".repeat(48 << 10);
    for id in 0..HELD_UP {
        stream.send(id, SILENT, epochs[0], batch(id, &[&payload])).await;
    }
    let answered = async {
        for id in 0..20 {
            for partition in [HERE, THERE] {
                stream.send(id, partition, epochs[partition as usize], batch(id, &["x"])).await;
            }
            for _ in 0..2 {
                let receipt = stream.receipt().await;
                assert_eq!((receipt.id, receipt.first_offset, receipt.fault), (id, id, None));
            }
        }
    };
    Clock::system().timeout(SOON, answered).await.expect("the other owners answer");
    path.be_silent(false);
    for id in 0..HELD_UP {
        let receipt = stream.receipt().await;
        assert_eq!((receipt.partition, receipt.id, receipt.first_offset, receipt.fault), (SILENT, id, id, None));
    }
    drop(stream);
    drain(nodes).await;
}

#[tokio::test]
async fn acknowledgements_for_a_silent_owner_hold_up_no_others() {
    // All that was asked went out one after the other, whomever it was for, and credit with it.
    let cluster = Cluster::start(1).await;
    let (path, nodes) = three(&cluster).await;
    let mut stream = nodes[1].open(Guarantee::Quorum, "").await;
    for partition in 0..3 {
        for id in 0..30 {
            stream.send(id, partition, 0, batch(0, &["x"])).await;
            stream.outcome().await.1.expect("stored");
        }
    }
    let mut consuming = Consuming::open(&nodes[1], "", false).await.expect("opens");
    assert_eq!(consuming.take(90).await.len(), 90);
    path.be_silent(true);
    // Many runs, so that they fill the connection.
    let run = v1::OffsetRange { first: 7, last: 7 };
    for id in 0..HELD_UP {
        consuming.send_ack(id, SILENT, vec![run; 10_000]).await;
    }
    let answered = async {
        for offset in 0..20 {
            for partition in [HERE, THERE] {
                assert_eq!(consuming.ack_of(partition, offset, offset).await, None);
            }
            // What is granted reaches them as well.
            for partition in [HERE, THERE] {
                stream.send(offset, partition, 0, batch(0, &["x"])).await;
                stream.outcome().await.1.expect("stored");
            }
            assert_eq!(consuming.take(2).await.len(), 2);
        }
    };
    Clock::system().timeout(SOON, answered).await.expect("the other owners answer");
    path.be_silent(false);
    let mut answered = BTreeMap::new();
    while answered.len() < usize::try_from(HELD_UP).expect("small") {
        answered.extend(consuming.receipts().await.into_iter().map(|receipt| (receipt.id, receipt.fault)));
    }
    assert!(answered.values().all(Option::is_none), "{answered:?}");
    drop((stream, consuming));
    drain(nodes).await;
}
