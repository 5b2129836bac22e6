//! Who follows what changed of topics hears of each change that somebody must look at, and of no other.

use std::time::Duration;

use alluvium_metadata::policies::Policies;
use alluvium_metadata::store::MetadataStore;
use alluvium_metadata::subscriptions::SubscriptionKind;
use alluvium_metadata::topic_changes::{Affected, TopicChanges};
use alluvium_types::names::SubscriptionName;
use alluvium_types::policy::Rollover;

use crate::repositories::{World, topic_name, world};

async fn next(world: &World, changes: &mut TopicChanges) -> Affected {
    world.clock.timeout(Duration::from_secs(5), changes.next()).await.expect("soon").expect("it goes on")
}

#[tokio::test]
async fn what_must_be_looked_at_again_is_told_and_new_topics_are_not() {
    let world = world();
    let (name, topic) = world.topic("t").await;
    let mut changes = world.metadata.topic_changes().await.unwrap();
    let rollover = Some(Rollover { bytes: 5 << 20, age: Duration::from_secs(7) });
    let policies = Policies { rollover, ..Policies::default() };
    let (topics, subscriptions) = (world.metadata.topics(), world.metadata.subscriptions());

    for n in 0..100 {
        world.topic(&format!("new-{n}")).await;
    }
    let of = |name| SubscriptionName::parse(name).unwrap();
    let made = subscriptions.create((&name, &topic), &of("s"), SubscriptionKind::Shared, vec![]).await.unwrap();
    let subscribed = Affected { subscribed: [topic.value.id].into(), ..Affected::default() };
    assert_eq!(next(&world, &mut changes).await, subscribed);
    subscriptions.delete(topic.value.id, &of("s"), &made).await.unwrap();
    assert_eq!(next(&world, &mut changes).await, subscribed);

    let topic = topics.set_partitions(&name, &topic, 5).await.unwrap();
    let told = next(&world, &mut changes).await;
    assert_eq!(told, Affected { topics: [name.clone()].into(), ..Affected::default() });
    assert!(told.governs(&name) && !told.governs(&topic_name("new-1")) && !told.subscribes(topic.value.id));

    let (tenants, namespaces) = (world.metadata.tenants(), world.metadata.namespaces());
    let (tenant, namespace) = (name.namespace().tenant(), name.namespace());
    namespaces.set_policies(namespace, &namespaces.get(namespace).await.unwrap().unwrap(), policies).await.unwrap();
    let told = next(&world, &mut changes).await;
    assert!(told.governs(&name) && told.namespaces.contains(namespace));
    tenants.set_policies(tenant, &tenants.get(tenant).await.unwrap().unwrap(), policies).await.unwrap();
    let told = next(&world, &mut changes).await;
    assert!(told.governs(&name) && told.tenants.contains(tenant));

    topics.delete(&name, &topic).await.unwrap();
    let told = next(&world, &mut changes).await;
    assert_eq!((told.deleted, told.topics), ([topic.value.id].into(), [name].into()));
}

/// M5: what a compaction took away may have been anything.
#[tokio::test]
async fn m5_after_a_gap_everything_is_looked_at_again() {
    let world = world();
    let (name, topic) = world.topic("t").await;
    let mut changes = world.metadata.topic_changes().await.unwrap();
    let topic = world.metadata.topics().set_partitions(&name, &topic, 5).await.unwrap();
    world.store.compact(topic.mod_revision).await.unwrap();
    let told = next(&world, &mut changes).await;
    assert!(told.anything && told.governs(&name) && told.subscribes(topic.value.id));
    world.metadata.topics().set_partitions(&name, &topic, 6).await.unwrap();
    assert_eq!(next(&world, &mut changes).await, Affected { topics: [name].into(), ..Affected::default() });
}
