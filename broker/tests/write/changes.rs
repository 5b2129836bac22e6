//! What is changed at one broker reaches what another has loaded.

use std::time::Duration;

use alluvium_broker::broker::StartAt;
use alluvium_broker::subscription::Input;
use alluvium_broker::topic::{PartitionHandle, SubscriptionKind};
use alluvium_proto::v1;
use alluvium_proto::v1::Guarantee;
use alluvium_proto::v1::namespace_service_client::NamespaceServiceClient;
use alluvium_proto::v1::subscription_service_client::SubscriptionServiceClient;
use alluvium_runtime::clock::Clock;
use alluvium_types::ids::PartitionIndex;
use alluvium_types::names::{SubscriptionName, TopicName};
use tokio::sync::oneshot;

use crate::bookie::Mood;
use crate::cluster::{Cluster, DEADLINE, Node, TOPIC, batch, config, eventually};
use crate::consuming::{Consuming, Reading};
use crate::forwarding::place;

async fn knows(handle: &PartitionHandle, subscription: &SubscriptionName) -> bool {
    let (reply, answer) = oneshot::channel();
    handle.subscriptions(Input::Stats { subscription: subscription.clone(), reply }).await.expect("open");
    answer.await.expect("answered").is_ok()
}

async fn loaded(node: &Node) -> PartitionHandle {
    let topic = node.broker.topic(&TopicName::parse(TOPIC).expect("valid")).await.expect("there");
    node.broker.loaded(topic.id, PartitionIndex::new(0)).expect("it has it loaded")
}

/// 40 messages of 100 kB, three segments and the open one, in a partition that this broker owns.
async fn fill(node: &Node) {
    node.read(0, 0).await;
    let mut stream = node.open(Guarantee::Quorum, "").await;
    for n in 0..40 {
        stream.send(n, 0, 0, batch(0, &[&"x".repeat(100_000)])).await;
        assert_eq!(stream.outcome().await, (n, Ok(n)));
    }
}

fn rolling() -> v1::Policies {
    v1::Policies { rollover_bytes: Some(1 << 20), ..Default::default() }
}

#[tokio::test]
async fn a_subscription_that_comes_or_goes_at_one_broker_does_so_at_another() {
    let cluster = Cluster::start(1).await;
    let (here, there) = (cluster.named("here", config()).await, cluster.named("there", config()).await);
    here.make_topic(1, v1::Policies::default()).await;
    there.read(0, 0).await;
    let handle = loaded(&there).await;

    let topic = here.broker.topic(&TopicName::parse(TOPIC).expect("valid")).await.expect("there");
    let name = SubscriptionName::parse("s").expect("valid");
    let (kind, start) = (Some(SubscriptionKind::Shared), Some(StartAt::Earliest));
    here.broker.subscription(&topic, &name, kind, start).await.expect("made");
    eventually("the other knows it", async || knows(&handle, &name).await).await;

    let delete = v1::DeleteSubscriptionRequest { topic: TOPIC.to_owned(), name: name.to_string() };
    SubscriptionServiceClient::new(here.channel.clone()).delete_subscription(delete).await.expect("deleted");
    eventually("the other knows that it is gone", async || !knows(&handle, &name).await).await;
    assert!(!handle.is_over(), "nobody took the partition over for that");
    here.drain().await;
    there.drain().await;
}

#[tokio::test]
async fn policies_of_a_topic_and_of_its_namespace_reach_another_broker() {
    let cluster = Cluster::start(1).await;
    let (here, there) = (cluster.named("here", config()).await, cluster.named("there", config()).await);
    here.make_topic(1, rolling()).await;
    fill(&there).await;
    let handle = loaded(&there).await;
    assert_eq!(handle.bounds().first.get(), 0);

    let policies = v1::Policies { retention_bytes: Some(2 << 20), retention_ms: Some(600_000), ..rolling() };
    let update = v1::UpdateTopicRequest { name: TOPIC.to_owned(), partitions: 0, policies: Some(policies) };
    here.topics().update_topic(update).await.expect("changed");
    eventually("the oldest goes", async || handle.bounds().first.get() > 0).await;
    let kept = handle.bounds().first.get();
    assert!(kept < 40, "some of it fits");

    // What a topic doesn't say, its namespace does.
    let update = v1::UpdateTopicRequest { name: TOPIC.to_owned(), partitions: 0, policies: Some(rolling()) };
    here.topics().update_topic(update).await.expect("changed");
    let policies = v1::Policies { retention_ms: Some(1), ..Default::default() };
    let update = v1::UpdateNamespaceRequest { name: "t/n".to_owned(), policies: Some(policies) };
    NamespaceServiceClient::new(here.channel.clone()).update_namespace(update).await.expect("changed");
    eventually("more goes", async || handle.bounds().first.get() > kept).await;
    assert!(!handle.is_over(), "nobody took the partition over for that");
    here.drain().await;
    there.drain().await;
}

#[tokio::test]
async fn a_topic_that_is_deleted_at_one_broker_is_let_go_by_another() {
    let cluster = Cluster::start(1).await;
    let (here, there) = (cluster.named("here", config()).await, cluster.named("there", config()).await);
    here.make_topic(1, v1::Policies::default()).await;
    there.read(0, 0).await;
    let handle = loaded(&there).await;
    here.topics().delete_topic(v1::DeleteTopicRequest { name: TOPIC.to_owned() }).await.expect("deleted");
    Clock::system().timeout(DEADLINE, handle.over()).await.expect("let go");

    // Nor does it believe that the name is still that topic's.
    let topic = v1::CreateTopicRequest { name: TOPIC.to_owned(), partitions: 1, policies: None };
    let made = here.topics().create_topic(topic).await.expect("made").into_inner().topic.expect("it is said");
    eventually("the other knows which one it is", async || {
        let topic = there.broker.topic(&TopicName::parse(TOPIC).expect("valid")).await;
        topic.is_ok_and(|topic| topic.id.to_string() == made.id)
    })
    .await;
    here.drain().await;
    there.drain().await;
}

#[tokio::test]
async fn a_publish_stream_reaches_partitions_that_its_topic_is_given_meanwhile() {
    // It went by the number of partitions that there were when it was opened, for as long as it lived.
    let cluster = Cluster::start(1).await;
    let (here, there) = (cluster.named("here", config()).await, cluster.named("there", config()).await);
    here.make_topic(1, v1::Policies::default()).await;
    let mut stream = there.open(Guarantee::Quorum, "").await;
    stream.send(0, 1, 0, batch(0, &["x"])).await;
    assert_eq!(stream.outcome().await, (0, Err("UNKNOWN_PARTITION".to_owned())));
    let update = v1::UpdateTopicRequest { name: TOPIC.to_owned(), partitions: 2, policies: None };
    here.topics().update_topic(update).await.expect("changed");
    let mut sent = 0;
    eventually("the new partition takes messages", async || {
        sent += 1;
        stream.send(sent, 1, 0, batch(0, &["x"])).await;
        stream.outcome().await == (sent, Ok(0))
    })
    .await;
    stream.send(sent + 1, 2, 0, batch(0, &["x"])).await;
    assert_eq!(stream.outcome().await, (sent + 1, Err("UNKNOWN_PARTITION".to_owned())));
    here.drain().await;
    there.drain().await;
}

#[tokio::test]
async fn a_broker_that_has_not_heard_of_a_new_partition_serves_it_to_one_that_has() {
    // It was refused as unknown, and with it the streams that had begun at the others.
    let cluster = Cluster::start(1).await;
    let (there, deaf) = cluster.deaf("there", config()).await;
    there.make_topic(1, v1::Policies::default()).await;
    place(&cluster, &["there"]).await;
    there.read(0, 0).await;
    let (topics, name) = (cluster.metadata().topics(), TopicName::parse(TOPIC).expect("valid"));
    let known = async || there.broker.topic(&name).await.expect("there").partitions;
    for partitions in 2..5 {
        assert_eq!(known().await, partitions - 1);
        // The one that believes what it read does not hear of it; the other one begins by reading.
        deaf.send_replace(true);
        let record = topics.get(&name).await.expect("readable").expect("there");
        topics.set_partitions(&name, &record, partitions).await.expect("changed");
        place(&cluster, &["there"; 4][..partitions as usize]).await;
        let here = cluster.named("here", config()).await;
        eventually("it sees the other", async || here.broker.live_brokers().len() == 2).await;
        match partitions {
            2 => {
                let mut stream = here.open(Guarantee::Quorum, "").await;
                stream.send(0, 1, 0, batch(0, &["x"])).await;
                assert_eq!(stream.outcome().await, (0, Ok(0)));
            }
            3 => assert_eq!(Consuming::open(&here, "", false).await.expect("opens").take(1).await, [(1, 0)]),
            _ => drop(Reading::open(&here, None).await),
        }
        deaf.send_replace(false);
        here.drain().await;
    }
    there.drain().await;
}

#[tokio::test]
async fn what_changes_while_a_partition_is_being_opened_is_known_when_it_is_open() {
    // Its policies were read before, and whoever changed them found nobody to tell.
    let cluster = Cluster::start(1).await;
    let (here, there) = (cluster.named("here", config()).await, cluster.named("there", config()).await);
    here.make_topic(1, rolling()).await;
    fill(&there).await;
    there.crash().await;
    let there = cluster.named("there", config()).await;
    cluster.bookie().be(Mood::Silent);
    let waiting = cluster.bookie().waiting();
    let topic = there.broker.topic(&TopicName::parse(TOPIC).expect("valid")).await.expect("there");
    let opening = there.broker.partition(&topic, PartitionIndex::new(0));
    let changing = async {
        eventually("it fences what the last owner left", async || cluster.bookie().waiting() > waiting).await;
        let mut changes = cluster.metadata().topic_changes().await.expect("followed");
        let policies = v1::Policies { retention_ms: Some(1), ..rolling() };
        let update = v1::UpdateTopicRequest { name: TOPIC.to_owned(), partitions: 0, policies: Some(policies) };
        here.topics().update_topic(update).await.expect("changed");
        let seen = Clock::system().timeout(Duration::from_secs(5), changes.next()).await.expect("soon");
        assert!(seen.expect("it goes on").governs(&topic.name));
        cluster.bookie().be(Mood::Well);
    };
    let (opened, ()) = futures::future::join(opening, changing).await;
    let handle = opened.expect("opened");
    eventually("what is old goes", async || handle.bounds().first.get() > 0).await;
    here.drain().await;
    there.drain().await;
}
