//! What the auditor knows of ledgers.

use alluvium_broker::config::Config;
use alluvium_metadata::auditor::Audit;
use alluvium_proto::v1;
use alluvium_proto::v1::Guarantee;

use crate::cluster::{Cluster, batch, config, eventually};

#[tokio::test]
async fn the_auditor_counts_ledgers_that_are_short_of_copies_or_of_bookies() {
    let mut cluster = Cluster::start(2).await;
    // Three copies are wanted of each, where there are two bookies (C63).
    let node = cluster.named("auditor", Config { audit_interval_ms: 20, replication: (3, 3, 2), ..config() }).await;
    let audit = async |done: fn(Audit) -> bool| {
        let found = cluster.metadata().auditors().get().await.expect("readable");
        found.and_then(|found| found.value.audit).is_some_and(done)
    };
    eventually("it has looked", async || audit(|audit| audit.ledgers == 0).await).await;
    node.make_topic(1, v1::Policies::default()).await;
    let mut stream = node.open(Guarantee::Quorum, "").await;
    stream.send(0, 0, 0, batch(0, &["x"])).await;
    assert_eq!(stream.outcome().await, (0, Ok(0)));
    eventually("it counts them", async || {
        audit(|audit| audit.under_replicated > 0 && audit.ledgers >= audit.under_replicated && audit.on_absent_bookies == 0).await
    })
    .await;
    let gauges = || (node.metrics.ledgers_under_replicated.get(), node.metrics.ledgers_on_absent_bookies.get());
    assert!(gauges().0 > 0 && gauges().1 == 0, "{:?}", gauges());

    let gone = cluster.registrations.pop().expect("two");
    gone.end().await.expect("ended");
    eventually("it sees which bookie is away", async || gauges().1 > 0).await;
    node.drain().await;
}
