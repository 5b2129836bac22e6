//! One machine, whose only process is killed on the way.

use std::sync::Arc;
use std::time::Instant;

use alluvium_client::Client;
use alluvium_tests::{Options, Server};

use crate::flights::{Flight, load};
use crate::story::{PARTITIONS, Run, TOPIC};

/// The part of all flights that is acknowledged when the server is killed, in percent, in each run.
const KILLS: [usize; 5] = [28, 35, 43, 50, 58];

async fn run(percent: usize, flights: Arc<Vec<Flight>>) {
    let begun = Instant::now();
    let mut server = Server::start(&Options::default());
    server.tool(&["topic", "create", TOPIC, "--partitions", &PARTITIONS.to_string()]).ok();
    let client = Client::connect(server.url()).await.expect("connected");
    let total = flights.len();
    let run = Run::begin(client, flights, server.folder()).await;
    run.reach(total * percent / 100).await;
    server.kill();
    let at_kill = run.acknowledged();
    assert!((total / 4..=total * 3 / 4).contains(&at_kill), "killed too early or late: {at_kill}");
    server.restart();
    println!("{percent} %: killed with {at_kill} of {total} acknowledged; served again after {:?}", server.started_in());
    run.end(|args| server.tool(args)).await;
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
