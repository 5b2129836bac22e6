//! Processes are killed under load.

use std::time::Instant;

use alluvium_tests::Cluster;

use crate::load::{Load, assert_whole, create_topic};

/// How many are acknowledged between two events.
const STEP: usize = 5_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_doubled_or_reordered_when_a_bookie_and_the_broker_are_killed() {
    let mut cluster = Cluster::start(3, 1);
    let client = create_topic(&cluster).await;
    let load = Load::start(&client).await;

    load.reach(STEP).await;
    cluster.kill("bookie-1");
    let (at_kill, begun) = (load.acknowledged(), Instant::now());
    load.reach(at_kill + STEP).await;
    println!("bookie-1 killed at {at_kill}; {STEP} further ones were acknowledged in {:?}", begun.elapsed());
    cluster.restart("bookie-1");

    load.reach(load.acknowledged() + STEP).await;
    cluster.kill("broker-0");
    let (at_kill, begun) = (load.acknowledged(), Instant::now());
    cluster.restart("broker-0");
    println!("broker-0 killed at {at_kill}; it served again after {:?}", begun.elapsed());
    load.reach(at_kill + 1).await;
    println!("acknowledgements again after {:?}", begun.elapsed());
    load.reach(at_kill + STEP).await;
    let total = load.end().await;

    assert_whole(&client, total).await;
    let ledgers = client.admin().list_ledgers(false).await.expect("listed");
    let wanted = ledgers.iter().filter_map(|ledger| ledger.wanted_replication.as_ref());
    assert!(wanted.clone().all(|r| (r.ensemble, r.write_quorum, r.ack_quorum) == (3, 3, 2)), "{ledgers:?}");
    assert_eq!(cluster.process("broker-0").terminate(), Some(0), "{}", cluster.logs());
    assert_eq!(cluster.process("bookie-0").terminate(), Some(0), "{}", cluster.logs());
}
