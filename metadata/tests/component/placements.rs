//! Where operators want partitions.

use std::time::Duration;

use alluvium_metadata::{PartitionId, UpdateError};
use alluvium_types::ids::PartitionIndex;
use alluvium_types::names::BrokerName;

use crate::repositories::world;

#[tokio::test]
async fn a_partition_is_wanted_where_it_was_said_last_until_its_topic_is_cleaned_up() {
    let world = world();
    let placements = world.metadata.placements();
    let [a, b] = ["a", "b"].map(|name| BrokerName::parse(name).unwrap());
    let index = PartitionIndex::new;
    let (name, topic) = world.topic("t").await;
    let of = |n| PartitionId { topic: topic.value.id, index: index(n) };
    let mut seen = placements.watch().await.unwrap();

    assert_eq!(placements.get(of(1)).await.unwrap(), None);
    placements.set((&name, &topic), index(1), &a).await.unwrap();
    let first = placements.get(of(1)).await.unwrap().unwrap();
    placements.set((&name, &topic), index(1), &a).await.unwrap();
    assert_eq!(placements.get(of(1)).await.unwrap().unwrap(), first, "nothing was said that was not known");
    placements.set((&name, &topic), index(1), &b).await.unwrap();
    placements.set((&name, &topic), index(3), &a).await.unwrap();
    let no_such = placements.set((&name, &topic), index(4), &a).await;
    assert_eq!(no_such, Err(UpdateError::NotFound { what: "the partition" }));

    let page = placements.list(topic.value.id, None, 1).await.unwrap();
    assert_eq!((page.records[0].0, &page.records[0].1.value.broker), (index(1), &b));
    let page = placements.list(topic.value.id, page.next, 1).await.unwrap();
    assert_eq!((page.records[0].0, page.next), (index(3), None));
    let both = |live: &alluvium_metadata::live::Live<_, _>| live.members.len() == 2;
    let live = world.clock.timeout(Duration::from_secs(5), seen.wait_for(both)).await.unwrap().unwrap().clone();
    assert_eq!(live.members[&of(1)], placements.get(of(1)).await.unwrap().unwrap().value);

    placements.clear(of(1)).await.unwrap();
    placements.clear(of(1)).await.unwrap();
    assert_eq!(placements.get(of(1)).await.unwrap(), None);

    // Nothing is wanted of a topic that is gone, and nothing that was is left.
    let topics = world.metadata.topics();
    topics.delete(&name, &topic).await.unwrap();
    let gone = placements.set((&name, &topic), index(0), &a).await;
    assert_eq!(gone, Err(UpdateError::NotFound { what: "the topic" }));
    let tombstone = topics.deleted(topic.value.id).await.unwrap().unwrap();
    topics.forget(topic.value.id, &tombstone).await.unwrap();
    assert_eq!(placements.get(of(3)).await.unwrap(), None);
}
