//! A full disk: writes are refused, acknowledgements and reads go on, and room comes back by itself.

use std::time::{Duration, Instant};

use alluvium_proto::v1::topic_service_client::TopicServiceClient;
use alluvium_proto::v1::{AcknowledgeRequest, DeleteTopicRequest, MessageId, PullRequest};
use alluvium_tests::{Options, Server, can_have_disks};
use tonic::Code;

use crate::wire::{channel, consumer, create_topic, details, earliest, message, publish, publish_messages};

#[tokio::test]
async fn a_full_capacity_refuses_writes_serves_the_rest_and_comes_back_by_itself_b10_c35_c61() {
    let server = Server::start(&options("[bookie.space]\ncapacity_bytes_max = 335544320\n", None));
    fills_and_comes_back(server).await;
}

#[tokio::test]
async fn a_full_disk_refuses_writes_serves_the_rest_and_comes_back_by_itself_b10_c35_c61() {
    if !can_have_disks() {
        println!("SKIPPED: this machine gives a process no filesystem of its own");
        return;
    }
    let server = Server::start(&options("", Some(400)));
    fills_and_comes_back(server).await;
}

fn options(space: &str, disk_mib: Option<u64>) -> Options {
    let sections = "[broker]\nanswer_after_ms = 2000\nretention_interval_ms = 300\naudit_interval_ms = 500\n\
                    [bookie.gc]\ninterval_ms = 300\ngrace_ms = 300\n";
    Options { sections: format!("{sections}{space}"), disk_mib, ..Options::default() }
}

async fn fills_and_comes_back(server: Server) {
    create_topic(&server, "public/default/queue", 1).await;
    publish(&server, "public/default/queue", &["a", "b"]).await.expect("stored");
    create_topic(&server, "public/default/filler", 1).await;
    let (mut waited, mut filled) = (0, 0);
    let refused = loop {
        let messages = (0..4).map(|_| message(vec![1_u8; 256 << 10])).collect();
        match publish_messages(&server, "public/default/filler", messages).await {
            Ok(_) => filled += 1,
            // What was on its way when the disk became full may be stored later; what comes later is refused.
            Err(status) if details(&status).1 == "CONFIRMATION_LATE" => waited += 1,
            Err(status) => break status,
        }
        assert!(filled < 500 && waited < 3, "{filled} MiB fit into the disk, {waited} calls waited");
    };
    let (_, reason, retry) = details(&refused);
    assert_eq!((refused.code(), reason.as_str()), (Code::ResourceExhausted, "STORAGE_FULL"), "{refused}");
    assert!(retry.is_some(), "{reason}: it says when to try again: {refused}");

    // Reads and acknowledgements go on (C61: else nothing could ever be freed).
    let pull = PullRequest {
        topic: "public/default/queue".to_owned(),
        subscription: "s".to_owned(),
        messages_max: 2,
        wait_ms: 10_000,
        start: earliest(),
        ..Default::default()
    };
    let pulled = consumer(&server).await.pull(pull).await.expect("reads are served").into_inner();
    assert!(!pulled.messages.is_empty());
    let ids = pulled
        .messages
        .iter()
        .map(|m| MessageId { partition: m.partition, offset: m.message.as_ref().expect("present").offset })
        .collect();
    let ack =
        AcknowledgeRequest { topic: "public/default/queue".to_owned(), subscription: "s".to_owned(), ids, ..Default::default() };
    consumer(&server).await.acknowledge(ack).await.expect("acknowledgements are served");

    // Room comes back by itself once something is deleted.
    TopicServiceClient::new(channel(&server).await)
        .delete_topic(DeleteTopicRequest { name: "public/default/filler".to_owned() })
        .await
        .expect("deleted");
    let begun = Instant::now();
    while let Err(status) = publish(&server, "public/default/queue", &["c"]).await {
        assert!(begun.elapsed() < Duration::from_secs(60), "no room yet: {status}\n{}", server.log());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
