//! Subscriptions over kills, takeovers and bad batches.

use std::time::Duration;

use alluvium_proto::v1::{self, subscribe_request, subscribe_response};
use alluvium_tests::{Options, Server, eventually};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use crate::wire::{LIMIT, Publishing, batch, consumer, create_topic, details, earliest, hello, publish, subscriptions};

const TOPIC: &str = "public/default/t";

/// A subscribe stream of messages.
struct Consuming {
    requests: mpsc::Sender<v1::SubscribeRequest>,
    responses: Streaming<v1::SubscribeResponse>,
}

impl Consuming {
    async fn open(server: &Server, name: &str, kind: v1::SubscriptionType, takeover: bool) -> Result<Self, Status> {
        let open = v1::SubscribeOpen {
            hello: hello(),
            topic: TOPIC.to_owned(),
            subscription: "s".to_owned(),
            r#type: kind.into(),
            start: earliest(),
            consumer: name.to_owned(),
            takeover,
            credit: Some(v1::Credit { messages: 1000, bytes: 1 << 30 }),
            ..Default::default()
        };
        let (requests, rx) = mpsc::channel(64);
        requests.send(v1::SubscribeRequest { request: Some(subscribe_request::Request::Open(open)) }).await.expect("room");
        let mut responses = consumer(server).await.subscribe(ReceiverStream::new(rx)).await?.into_inner();
        let first = responses.message().await?.expect("an answer").response;
        assert!(matches!(first, Some(subscribe_response::Response::Subscribed(_))), "{first:?}");
        Ok(Self { requests, responses })
    }

    async fn next(&mut self) -> Result<subscribe_response::Response, Status> {
        let response = tokio::time::timeout(LIMIT, self.responses.message()).await.expect("something comes in time")?;
        Ok(response.ok_or_else(|| Status::unavailable("the stream ended"))?.response.expect("one of them"))
    }

    /// The next `count` messages: (offset, attempt).
    async fn take(&mut self, count: usize) -> Vec<(u64, u32)> {
        let mut taken = Vec::new();
        while taken.len() < count {
            match self.next().await.expect("the stream lives") {
                subscribe_response::Response::Delivery(d) => taken.extend(d.messages.iter().map(|m| (m.offset, m.attempt))),
                other => panic!("{other:?}"),
            }
        }
        taken
    }

    /// Acknowledges and waits for the receipt.
    async fn ack(&mut self, ack: v1::Ack) -> Option<v1::Fault> {
        self.requests
            .send(v1::SubscribeRequest { request: Some(subscribe_request::Request::Ack(ack)) })
            .await
            .expect("the stream is open");
        loop {
            if let subscribe_response::Response::Receipts(receipts) = self.next().await.expect("the stream lives") {
                return receipts.receipts[0].fault.clone();
            }
        }
    }
}

fn ranges(runs: &[(u64, u64)]) -> Vec<v1::OffsetRange> {
    runs.iter().map(|&(first, last)| v1::OffsetRange { first, last }).collect()
}

async fn stats(server: &Server) -> v1::PartitionCursor {
    let request = v1::GetSubscriptionStatsRequest { topic: TOPIC.to_owned(), name: "s".to_owned() };
    subscriptions(server).await.get_subscription_stats(request).await.expect("stats").into_inner().partitions.remove(0)
}

#[tokio::test]
async fn a_confirmed_ack_survives_kill_and_the_rest_comes_again_s1_s4() {
    let mut server = Server::start(&Options::default());
    create_topic(&server, TOPIC, 1).await;
    let payloads: Vec<String> = (0..100).map(|n| n.to_string()).collect();
    publish(&server, TOPIC, &payloads.iter().map(String::as_str).collect::<Vec<_>>()).await.expect("stored");
    let mut consuming = Consuming::open(&server, "c", v1::SubscriptionType::Shared, false).await.expect("subscribed");
    assert_eq!(consuming.take(100).await.len(), 100);
    let fault = consuming.ack(v1::Ack { id: 1, ranges: ranges(&[(0, 9), (20, 29), (99, 99)]), ..Default::default() }).await;
    assert_eq!(fault, None);
    server.kill();
    server.restart();
    let mut consuming = Consuming::open(&server, "c", v1::SubscriptionType::Shared, false).await.expect("subscribed");
    let again: Vec<u64> = consuming.take(79).await.into_iter().map(|(offset, _)| offset).collect();
    let wanted: Vec<u64> = (10..20).chain(30..99).collect();
    assert_eq!(again, wanted);
    let found = stats(&server).await;
    assert_eq!((found.next_offset, found.end_offset, found.backlog, found.in_flight), (10, 100, 79, 79), "{found:?}");
}

#[tokio::test]
async fn an_exclusive_subscription_has_one_consumer_which_can_be_replaced() {
    let server = Server::start(&Options::default());
    create_topic(&server, TOPIC, 1).await;
    publish(&server, TOPIC, &["a", "b", "c"]).await.expect("stored");
    let mut first = Consuming::open(&server, "one", v1::SubscriptionType::Exclusive, false).await.expect("subscribed");
    assert_eq!(first.take(3).await, [(0, 1), (1, 1), (2, 1)]);
    assert_eq!(first.ack(v1::Ack { id: 1, up_to: Some(0), ..Default::default() }).await, None);
    let refused = Consuming::open(&server, "two", v1::SubscriptionType::Exclusive, false).await.err().expect("it is taken");
    assert_eq!(details(&refused).1, "SUBSCRIPTION_BUSY", "{refused}");
    let mut second = Consuming::open(&server, "two", v1::SubscriptionType::Exclusive, true).await.expect("taken over");
    let again: Vec<u64> = second.take(2).await.into_iter().map(|(offset, _)| offset).collect();
    assert_eq!(again, [1, 2]);
    let ended = loop {
        if let Err(status) = first.next().await {
            break status;
        }
    };
    assert_ne!(ended.code(), Code::Ok);
}

#[tokio::test]
async fn a_cumulative_ack_on_a_shared_subscription_is_refused() {
    let server = Server::start(&Options::default());
    create_topic(&server, TOPIC, 1).await;
    publish(&server, TOPIC, &["a"]).await.expect("stored");
    let mut consuming = Consuming::open(&server, "c", v1::SubscriptionType::Shared, false).await.expect("subscribed");
    consuming.take(1).await;
    let fault = consuming.ack(v1::Ack { id: 1, up_to: Some(0), ..Default::default() }).await.expect("refused");
    assert_eq!(fault.code, Code::InvalidArgument as i32, "{fault:?}");
    assert_eq!(stats(&server).await.backlog, 1);
}

#[tokio::test]
async fn a_batch_that_lies_about_its_inside_is_reported_and_does_not_stop_the_subscription_t6() {
    let server = Server::start(&Options::default());
    create_topic(&server, TOPIC, 1).await;
    let mut stream = Publishing::open(&server, TOPIC, "liar").await.expect("opens");
    let (epoch, _) = stream.claim().await;
    stream.batch(1, epoch, batch(&["good"], 0)).await;
    assert_eq!(stream.receipt().await.expect("a receipt").fault, None);
    // Two messages inside, three declared, and a checksum that fits the lie: nothing that is seen without opening it.
    let mut lie = batch(&["x", "y"], 1);
    lie.count = 3;
    let header = alluvium_types::batch::BatchHeader {
        count: 3,
        inflated_bytes: lie.inflated_bytes,
        first_sequence: 1,
        publish_time: alluvium_types::time::Timestamp::from_millis(1),
        ..Default::default()
    };
    lie.checksum = header.checksum(alluvium_types::checksum::Crc32c::of(&lie.blob), lie.blob.len()).get();
    stream.batch(2, epoch, lie).await;
    assert_eq!(stream.receipt().await.expect("a receipt").fault, None, "the broker never opens a batch");
    stream.batch(3, epoch, batch(&["after"], 4)).await;
    assert_eq!(stream.receipt().await.expect("a receipt").fault, None);

    let mut consuming = Consuming::open(&server, "c", v1::SubscriptionType::Exclusive, false).await.expect("subscribed");
    let mut offsets = Vec::new();
    let mut reported = None;
    while offsets.len() < 2 || reported.is_none() {
        match consuming.next().await.expect("the stream goes on") {
            subscribe_response::Response::Delivery(d) => offsets.extend(d.messages.iter().map(|m| m.offset)),
            subscribe_response::Response::Fault(fault) => reported = Some(fault),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(offsets, [0, 4]);
    let fault = reported.expect("reported");
    let run = fault.offsets.expect("the offsets are named");
    assert_eq!((fault.partition, run.first, run.last, fault.producer.as_str()), (0, 1, 3, "liar"));
}

#[tokio::test]
async fn when_a_consumer_goes_its_messages_go_to_another_s2() {
    let server = Server::start(&Options::default());
    create_topic(&server, TOPIC, 1).await;
    publish(&server, TOPIC, &["a", "b", "c", "d"]).await.expect("stored");
    let mut first = Consuming::open(&server, "one", v1::SubscriptionType::Shared, false).await.expect("subscribed");
    assert_eq!(first.take(4).await.len(), 4);
    assert_eq!(first.ack(v1::Ack { id: 1, ranges: ranges(&[(1, 1)]), ..Default::default() }).await, None);
    let mut second = Consuming::open(&server, "two", v1::SubscriptionType::Shared, false).await.expect("subscribed");
    drop(first);
    let mut again = second.take(3).await;
    again.sort_unstable();
    assert_eq!(again, [(0, 2), (2, 2), (3, 2)]);
}

#[tokio::test]
async fn a_seek_to_a_time_finds_the_first_message_of_it() {
    let server = Server::start(&Options::default());
    create_topic(&server, TOPIC, 1).await;
    publish(&server, TOPIC, &["a", "b"]).await.expect("stored");
    let pull = v1::PullRequest {
        topic: TOPIC.to_owned(),
        subscription: "s".to_owned(),
        messages_max: 10,
        wait_ms: 10_000,
        start: earliest(),
        ..Default::default()
    };
    let first = consumer(&server).await.pull(pull.clone()).await.expect("pulled").into_inner();
    let time = first.messages[0].message.as_ref().expect("present").server_time_ms;
    // The next server time is a later millisecond.
    eventually("the clock moves on", LIMIT, || async {
        let id = publish(&server, TOPIC, &["tick"]).await.expect("stored")[0].offset;
        let all = crate::wire::read_all(&server, TOPIC).await;
        (all.len() as u64 > id
            && std::time::SystemTime::now()
                .duration_since(std::time::UNIX_EPOCH)
                .is_ok_and(|t| t > Duration::from_millis(time + 2)))
        .then_some(())
    })
    .await;
    let seek = |ms| v1::SeekSubscriptionRequest {
        topic: TOPIC.to_owned(),
        name: "s".to_owned(),
        partitions: Vec::new(),
        position: Some(v1::Position { at: Some(v1::position::At::TimeMs(ms)) }),
    };
    let to = subscriptions(&server).await.seek_subscription(seek(time)).await.expect("sought").into_inner();
    assert_eq!(to.cursors[0].offset, 0);
    let to = subscriptions(&server).await.seek_subscription(seek(time + 1)).await.expect("sought").into_inner();
    assert_eq!(to.cursors[0].offset, 2, "the first message after the first two");
}
