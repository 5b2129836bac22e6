//! What operators see of brokers and partitions, and what they say.

use alluvium_broker::config::Config;
use alluvium_proto::v1;
use alluvium_proto::v1::cluster_service_client::ClusterServiceClient;
use alluvium_proto::v1::{Health, OwnerReason};
use tonic::transport::Channel;

use crate::cluster::{Cluster, Node, TOPIC, config, eventually};

fn cluster_of(node: &Node) -> ClusterServiceClient<Channel> {
    ClusterServiceClient::new(node.channel.clone())
}

async fn partition(node: &Node) -> v1::TopicPartition {
    let found = node.topics().get_topic(v1::GetTopicRequest { name: TOPIC.to_owned() }).await.expect("there").into_inner();
    found.partitions.into_iter().next().expect("it has one")
}

async fn move_to(node: &Node, broker: &str) -> Result<v1::TopicPartition, tonic::Status> {
    let request = v1::MovePartitionRequest { topic: TOPIC.to_owned(), partition: 0, broker: broker.to_owned() };
    Ok(node.topics().move_partition(request).await?.into_inner().partition.expect("it is said"))
}

async fn drain(node: &Node, name: &str, undo: bool) -> Result<v1::Broker, tonic::Status> {
    let request = v1::DrainBrokerRequest { name: name.to_owned(), undo };
    Ok(cluster_of(node).drain_broker(request).await?.into_inner().broker.expect("it is said"))
}

async fn owned(node: &Node, broker: &str) -> Vec<(String, u32)> {
    let request = v1::ListBrokerPartitionsRequest { broker: broker.to_owned(), page: None };
    let answer = cluster_of(node).list_broker_partitions(request).await.expect("listed").into_inner();
    assert_eq!(answer.next_token, "");
    answer.partitions.into_iter().map(|partition| (partition.topic, partition.partition)).collect()
}

#[tokio::test]
async fn a_partition_says_who_owns_it_and_why() {
    let cluster = Cluster::start(1).await;
    let light = Config { weight: 0, ..config() };
    let (a, b) = (cluster.named("a", config()).await, cluster.named("b", light.clone()).await);
    eventually("both see both", async || a.broker.live_brokers().len() == 2 && b.broker.live_brokers().len() == 2).await;
    a.make_topic(1, v1::Policies::default()).await;
    let found = partition(&a).await;
    assert_eq!((found.reason(), found.owner.as_str(), found.preferred.as_str()), (OwnerReason::NeverClaimed, "", "a"));
    assert_eq!(owned(&b, "a").await, []);

    a.read(0, 0).await;
    let found = partition(&b).await;
    assert_eq!((found.reason(), found.owner.as_str(), found.epoch), (OwnerReason::Preferred, "a", 1));
    assert!(found.since_ms > 0);
    assert_eq!(owned(&b, "a").await, [(TOPIC.to_owned(), 0)]);

    let wrong = move_to(&a, "c").await.expect_err("there is no such broker");
    assert_eq!(wrong.code(), tonic::Code::NotFound);
    let moved = move_to(&b, "b").await.expect("known");
    assert_eq!((moved.placed_at.as_str(), moved.preferred.as_str()), ("b", "b"));
    eventually("it is where it was placed", async || partition(&a).await.owner == "b").await;
    let moved = partition(&a).await;
    assert_eq!((moved.reason(), moved.placed_at.as_str()), (OwnerReason::Placed, "b"));
    move_to(&b, "a").await.expect("known");
    eventually("it is back", async || partition(&b).await.owner == "a").await;
    let cleared = move_to(&a, "").await.expect("known");
    assert_eq!((cleared.placed_at.as_str(), cleared.preferred.as_str()), ("", "a"));

    // Its owner goes without a word, and another takes it over when it is asked for.
    a.crash().await;
    cluster.named("a", light).await.drain().await;
    eventually("its end is seen", async || b.broker.live_brokers().len() == 1).await;
    assert_eq!(partition(&b).await.reason(), OwnerReason::OwnerGone);
    b.read(0, 0).await;
    let found = partition(&b).await;
    assert_eq!((found.owner.as_str(), found.taken_from.as_str(), found.epoch), ("b", "a", 4));
    assert!(b.metrics.takeovers.get() >= 1);
    b.drain().await;
}

#[tokio::test]
async fn a_broker_is_drained_by_any_other_and_never_the_last_one() {
    let cluster = Cluster::start(1).await;
    let (a, b) = (cluster.named("a", config()).await, cluster.named("b", config()).await);
    eventually("both see both", async || a.broker.live_brokers().len() == 2 && b.broker.live_brokers().len() == 2).await;
    assert!(drain(&a, "b", false).await.expect("known").draining);
    eventually("it is seen", async || a.broker.live_brokers().values().any(|broker| broker.draining)).await;
    let last = drain(&a, "", false).await.expect_err("nobody is left to take anything");
    assert_eq!(last.code(), tonic::Code::FailedPrecondition);
    assert!(!drain(&a, "b", true).await.expect("known").draining);
    let nobody = drain(&a, "c", false).await.expect_err("there is no such broker");
    assert_eq!(nobody.code(), tonic::Code::NotFound);
    let listed = cluster_of(&a).list_brokers(v1::ListBrokersRequest {}).await.expect("listed").into_inner().brokers;
    let shown: Vec<(&str, u32, Option<u64>)> =
        listed.iter().map(|broker| (broker.name.as_str(), broker.weight, broker.partitions)).collect();
    assert_eq!(shown, [("a", 100, Some(0)), ("b", 100, None)]);
    a.drain().await;
    b.drain().await;
}

#[tokio::test]
async fn the_cluster_says_what_is_not_well() {
    let mut cluster = Cluster::start(3).await;
    let node = cluster.named("a", Config { replication: (3, 3, 2), audit_interval_ms: 20, ..config() }).await;
    let status = async || {
        let answer = cluster_of(&node).get_cluster_status(v1::GetClusterStatusRequest {}).await.expect("answered");
        let status = answer.into_inner();
        let reasons: Vec<String> = status.findings.iter().map(|finding| finding.reason.clone()).collect();
        (status, reasons)
    };
    let (well, reasons) = status().await;
    assert_eq!((well.health(), reasons, well.answered_by.as_str()), (Health::Healthy, vec![], "a"));
    let metadata = well.metadata.expect("it is said");
    assert!(metadata.reachable && metadata.revision > 0);
    eventually("the auditor has looked", async || {
        let (status, _) = status().await;
        status.auditor == "a" && status.ledgers.is_some_and(|ledgers| ledgers.ledgers == 0)
    })
    .await;
    for (left, expected) in [(2, Health::Degraded), (1, Health::Down)] {
        cluster.registrations.pop().expect("another").end().await.expect("ended");
        eventually("it is seen", async || node.broker.live_bookies().len() == left).await;
        let (status, reasons) = status().await;
        assert_eq!((status.health(), status.absent_bookies.len()), (expected, 3 - left), "{reasons:?}");
        assert!(reasons.contains(&"BOOKIES_AWAY".to_owned()), "{reasons:?}");
    }
    node.drain().await;
}
