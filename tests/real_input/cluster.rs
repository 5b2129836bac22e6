//! A cluster of etcd, three bookies and two brokers behind one address: a bookie, the owner and the other broker go, one after the
//! other, each when a further fifth is acknowledged.

use std::sync::Arc;
use std::time::{Duration, Instant};

use alluvium_client::Client;
use alluvium_tests::Cluster;

use crate::flights::{Flight, load};
use crate::story::{NEXT_LIMIT, PARTITIONS, Run, TOPIC};

const RUNS: usize = 5;
/// How long the owner stays away.
const AWAY: Duration = Duration::from_secs(10);

/// Waits until so many are acknowledged; the owner comes back meanwhile, once its time has come.
async fn reach(run: &Run, count: usize, cluster: &mut Cluster, back_at: &mut Option<Instant>) {
    let begun = Instant::now();
    while run.acknowledged() < count {
        if back_at.take_if(|at| *at <= Instant::now()).is_some() {
            cluster.restart("broker-0");
            println!("  broker-0 is back with {} acknowledged", run.acknowledged());
        }
        assert!(begun.elapsed() < NEXT_LIMIT, "{} of {count} are acknowledged:\n{}", run.acknowledged(), cluster.logs());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn run(number: usize, flights: Arc<Vec<Flight>>) {
    let begun = Instant::now();
    let mut cluster = Cluster::prepare(3, 2);
    cluster.configure("broker-1", "weight = 0\n");
    cluster.start_members();
    let total = flights.len();
    let fifth = |count: usize| total * count / 5;
    cluster.tool("broker-0", &["topic", "create", TOPIC, "--partitions", &PARTITIONS.to_string()]).ok();
    // At first the only broker that clients reach owns nothing.
    let client = Client::connect(cluster.reach(&["broker-1"])).await.expect("connected");
    let run = Run::begin(client, flights, cluster.folder()).await;
    let mut back_at = None;
    reach(&run, fifth(1), &mut cluster, &mut back_at).await;
    cluster.kill("bookie-1");
    reach(&run, fifth(2), &mut cluster, &mut back_at).await;
    cluster.reach_in_turn(&["broker-0", "broker-1"]);
    cluster.kill("broker-0");
    back_at = Some(Instant::now() + AWAY);
    println!("run {number}: broker-0 killed with {} acknowledged", run.acknowledged());
    reach(&run, fifth(3), &mut cluster, &mut back_at).await;
    cluster.restart("bookie-1");
    reach(&run, fifth(4), &mut cluster, &mut back_at).await;
    cluster.kill("broker-1");
    println!("run {number}: broker-1 killed with {} acknowledged", run.acknowledged());
    reach(&run, total, &mut cluster, &mut back_at).await;
    if back_at.is_some() {
        cluster.restart("broker-0");
    }
    run.end(|args| cluster.tool("broker-0", args)).await;
    println!("run {number}: {:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_flight_is_there_once_and_in_order_while_a_clusters_processes_go() {
    let flights = Arc::new(load());
    for number in 1..=RUNS {
        run(number, Arc::clone(&flights)).await;
    }
}
