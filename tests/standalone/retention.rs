//! Retention, and what happens when the disk is full all the same.

use std::time::Duration;

use alluvium_proto::v1::topic_service_client::TopicServiceClient;
use alluvium_proto::v1::{CreateTopicRequest, GetTopicRequest, Policies};
use alluvium_tests::{Options, Server, eventually};

use crate::wire::{channel, message, publish_messages};

const LIMIT: Duration = Duration::from_secs(60);

async fn create(server: &Server, name: &str, policies: Policies) {
    let request = CreateTopicRequest { name: name.to_owned(), partitions: 1, policies: Some(policies) };
    TopicServiceClient::new(channel(server).await).create_topic(request).await.expect("created");
}

async fn first_offset(server: &Server, name: &str) -> u64 {
    let request = GetTopicRequest { name: name.to_owned() };
    let topic = TopicServiceClient::new(channel(server).await).get_topic(request).await.expect("there").into_inner();
    topic.partitions[0].first_offset
}

async fn publish_mebibytes(server: &Server, name: &str, count: usize) {
    for _ in 0..count {
        let messages = (0..4).map(|_| message(vec![1_u8; 256 << 10])).collect();
        publish_messages(server, name, messages).await.expect("stored");
    }
}

fn quick() -> Options {
    Options { sections: "[broker]\nretention_interval_ms = 300\naudit_interval_ms = 500\n".to_owned(), ..Options::default() }
}

#[tokio::test]
async fn the_oldest_segments_go_when_a_topic_is_too_large() {
    let server = Server::start(&quick());
    let name = "public/default/small";
    create(&server, name, Policies { retention_bytes: Some(3 << 20), rollover_bytes: Some(1 << 20), ..Default::default() }).await;
    publish_mebibytes(&server, name, 10).await;
    eventually("old segments are trimmed", LIMIT, || async { (first_offset(&server, name).await >= 20).then_some(()) }).await;
    // What is kept is read from where it begins then, while retention goes on.
    let before = first_offset(&server, name).await;
    let kept = crate::wire::read_all(&server, name).await;
    let after = first_offset(&server, name).await;
    assert_eq!(kept.last().map(|(_, offset, _)| *offset), Some(39));
    assert!((before..=after).contains(&kept[0].1), "{} is not within {before} and {after}", kept[0].1);
    assert!(kept.windows(2).all(|pair| pair[1].1 == pair[0].1 + 1), "the offsets of what is kept follow each other");
}

#[tokio::test]
async fn a_partition_that_nobody_loads_is_trimmed_by_age() {
    let mut server = Server::start(&quick());
    let name = "public/default/forgotten";
    let policies = Policies { retention_ms: Some(3_000), rollover_ms: Some(1_000), ..Default::default() };
    create(&server, name, policies).await;
    publish_mebibytes(&server, name, 2).await;
    server.kill();
    server.restart();
    // GetTopic answers from metadata and loads nothing.
    eventually("an unloaded partition is trimmed", LIMIT, || async { (first_offset(&server, name).await == 8).then_some(()) })
        .await;
}
