//! Subscriptions come into being, whatever else is under way.

use std::pin::pin;
use std::time::Duration;

use alluvium_broker::broker::StartAt;
use alluvium_broker::subscription::Input;
use alluvium_broker::topic::SubscriptionKind;
use alluvium_proto::v1;
use alluvium_proto::v1::Guarantee;
use alluvium_runtime::clock::Clock;
use alluvium_types::ids::PartitionIndex;
use alluvium_types::names::{SubscriptionName, TopicName};
use futures::future::join_all;
use tokio::sync::oneshot;

use crate::bookie::Mood;
use crate::cluster::{Cluster, TOPIC, batch, config};

fn name(text: &str) -> SubscriptionName {
    SubscriptionName::parse(text).expect("valid")
}

#[tokio::test]
async fn a_partition_that_can_not_be_opened_holds_up_no_subscription_of_another_topic() {
    // All creations of a broker waited for one another, and for the partitions that each of them opened.
    let cluster = Cluster::start(1).await;
    let node = cluster.broker(config()).await;
    node.make_topic(1, v1::Policies::default()).await;
    let other = v1::CreateTopicRequest { name: "t/n/other".to_owned(), partitions: 1, policies: None };
    node.topics().create_topic(other).await.expect("made");
    let mut stream = node.open(Guarantee::Quorum, "").await;
    stream.send(0, 0, 0, batch(0, &["x"])).await;
    stream.receipt().await;
    node.crash().await;

    let node = cluster.broker(config()).await;
    cluster.bookie().be(Mood::Silent);
    let (topic, other) = (TopicName::parse(TOPIC).expect("valid"), TopicName::parse("t/n/other").expect("valid"));
    let (topic, other) = (node.broker.topic(&topic).await.expect("there"), node.broker.topic(&other).await.expect("there"));
    let subscription = name("s");
    let broker = node.broker.clone();
    let mut stuck = pin!(broker.subscription(&topic, &subscription, None, Some(StartAt::Latest)));
    let soon = async {
        let created = node.broker.subscription(&other, &subscription, None, Some(StartAt::Latest));
        Clock::system().timeout(Duration::from_secs(3), created).await.expect("at once").expect("made");
    };
    tokio::select! {
        biased;
        made = &mut stuck => panic!("its partition is not open: {made:?}"),
        () = soon => {}
    }
    cluster.bookie().be(Mood::Well);
    stuck.await.expect("made, once the partition is open");
    node.drain().await;
}

#[tokio::test]
async fn t2_subscriptions_that_are_created_together_are_all_known_to_the_partition() {
    let cluster = Cluster::start(1).await;
    let node = cluster.broker(config()).await;
    node.make_topic(1, v1::Policies::default()).await;
    let topic = node.broker.topic(&TopicName::parse(TOPIC).expect("valid")).await.expect("there");
    let broker = &node.broker;
    let names: Vec<SubscriptionName> = (0..40).map(|n| name(&format!("s{}", n / 2))).collect();
    let kind = Some(SubscriptionKind::Shared);
    let topic = &topic;
    let made = names.iter().map(async |name| {
        // Some while the partition is being opened, some twice.
        let subscription = broker.subscription(topic, name, kind, Some(StartAt::Earliest)).await.expect("made");
        let handle = broker.partition(topic, PartitionIndex::new(0)).await.expect("it opens");
        broker.acquaint(&handle, &subscription).await.expect("known");
        let (reply, answer) = oneshot::channel();
        handle.subscriptions(Input::Stats { subscription: name.clone(), reply }).await.expect("open");
        answer.await.expect("answered").map(|_| ()).map_err(|fault| fault.reason)
    });
    assert_eq!(join_all(made).await, vec![Ok(()); names.len()]);
    node.drain().await;
}
