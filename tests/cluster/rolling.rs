//! Every process of a cluster is stopped and started again, one after the other, as for a new version.

use std::time::Instant;

use alluvium_client::Client;
use alluvium_tests::Cluster;

use crate::gaps::{Event, Gaps};
use crate::traffic::{Rate, Traffic, owned};

const RATE: Rate = Rate { topic: "public/default/rolling", partitions: 100, messages: 5_000 };
const BROKERS: [&str; 2] = ["broker-0", "broker-1"];
const BOOKIES: [&str; 3] = ["bookie-0", "bookie-1", "bookie-2"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_fails_no_client() {
    let mut cluster = Cluster::start(BOOKIES.len(), BROKERS.len());
    let client = Client::connect(cluster.reach_in_turn(&BROKERS)).await.expect("connected");
    let traffic = Traffic::start(&client, RATE).await;
    traffic.flows("at first").await;
    let mut events = Vec::new();
    let members = BROKERS.map(|name| ("broker", name)).into_iter().chain(BOOKIES.map(|name| ("bookie", name)));
    for (kind, name) in members {
        let of = (kind == "broker").then(|| owned(&cluster, RATE.topic, name));
        events.push(Event { at: Instant::now(), kind, of });
        cluster.stop(name);
        cluster.restart(name);
        traffic.flows(&format!("after {name} was restarted")).await;
        for broker in BROKERS {
            cluster.wait_bookies(broker, BOOKIES.len());
        }
    }
    let outcome = traffic.end(&client).await;
    let gaps = Gaps::measure(&events, &outcome.acknowledged, RATE.interval());
    println!("rolling restart: {} acknowledged, all there once and in order, and no error", outcome.total());
    println!("unavailability of a partition at its publisher, by what was restarted:\n{}", gaps.lines());
}
