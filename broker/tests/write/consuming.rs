//! Consuming as clients do: streams, pulls, and what both are told.

use std::collections::VecDeque;

use alluvium_proto::v1;
use alluvium_proto::v1::Guarantee;
use alluvium_proto::v1::consume_service_client::ConsumeServiceClient;
use alluvium_proto::v1::read_request::Request as ReadRequest;
use alluvium_proto::v1::read_response::Response as ReadResponse;
use alluvium_proto::v1::subscribe_request::Request;
use alluvium_proto::v1::subscribe_response::Response;
use alluvium_proto::v1::subscription_service_client::SubscriptionServiceClient;
use alluvium_runtime::clock::Clock;
use alluvium_types::batch::{BatchHeader, Codec};
use alluvium_types::checksum::Crc32c;
use alluvium_types::time::Timestamp;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Status, Streaming};
use tonic_types::StatusExt;

use crate::cluster::{Cluster, DEADLINE, Node, TOPIC, batch, config, limit};

fn earliest() -> Option<v1::Position> {
    Some(v1::Position { at: Some(v1::position::At::Earliest(v1::Earliest {})) })
}

fn hello() -> Option<v1::Hello> {
    Some(v1::Hello { protocol_version: 1, client: "test".to_owned() })
}

const CREDIT: Option<v1::Credit> = Some(v1::Credit { messages: 100_000, bytes: 1 << 30 });

pub(crate) fn consumer(node: &Node) -> ConsumeServiceClient<Channel> {
    ConsumeServiceClient::new(node.channel.clone()).max_decoding_message_size(limit())
}

pub(crate) fn pull(wait_ms: u64) -> v1::PullRequest {
    v1::PullRequest {
        topic: TOPIC.to_owned(),
        subscription: "s".to_owned(),
        messages_max: 100,
        wait_ms,
        start: earliest(),
        ..Default::default()
    }
}

pub(crate) fn subscriptions(node: &Node) -> SubscriptionServiceClient<Channel> {
    SubscriptionServiceClient::new(node.channel.clone())
}

/// The figures of each partition.
pub(crate) async fn all_stats(node: &Node) -> Vec<v1::PartitionCursor> {
    let request = v1::GetSubscriptionStatsRequest { topic: TOPIC.to_owned(), name: "s".to_owned() };
    subscriptions(node).get_subscription_stats(request).await.expect("known").into_inner().partitions
}

pub(crate) async fn stats(node: &Node) -> v1::PartitionCursor {
    all_stats(node).await.remove(0)
}

/// A subscription's stream.
pub(crate) struct Consuming {
    requests: mpsc::Sender<v1::SubscribeRequest>,
    responses: Streaming<v1::SubscribeResponse>,
    /// They may overtake messages, or be overtaken.
    faults: VecDeque<v1::DeliveryFault>,
    messages: VecDeque<(u32, u64)>,
}

impl Consuming {
    pub(crate) async fn open(node: &Node, name: &str, takeover: bool) -> Result<Self, Status> {
        Self::open_at(node.channel.clone(), "s", name, takeover).await
    }

    /// The same, of a subscription, by a connection.
    pub(crate) async fn open_at(channel: Channel, subscription: &str, name: &str, takeover: bool) -> Result<Self, Status> {
        let open = v1::SubscribeOpen {
            hello: hello(),
            topic: TOPIC.to_owned(),
            subscription: subscription.to_owned(),
            start: earliest(),
            consumer: name.to_owned(),
            takeover,
            credit: CREDIT,
            ..Default::default()
        };
        let (requests, rx) = mpsc::channel(64);
        requests.send(v1::SubscribeRequest { request: Some(Request::Open(open)) }).await.expect("room");
        let mut service = ConsumeServiceClient::new(channel).max_decoding_message_size(limit());
        let mut responses = service.subscribe(ReceiverStream::new(rx)).await?.into_inner();
        let first = responses.message().await?.and_then(|response| response.response);
        assert!(matches!(first, Some(Response::Subscribed(_))), "{first:?}");
        Ok(Self { requests, responses, faults: VecDeque::new(), messages: VecDeque::new() })
    }

    async fn next(&mut self) -> Response {
        let next = Clock::system().timeout(DEADLINE, self.responses.message()).await.expect("told in time");
        next.expect("the stream lives").and_then(|response| response.response).expect("one of them")
    }

    /// The next `count` messages: partition and offset.
    pub(crate) async fn take(&mut self, count: usize) -> Vec<(u32, u64)> {
        let mut taken: Vec<(u32, u64)> = self.messages.drain(..count.min(self.messages.len())).collect();
        while taken.len() < count {
            match self.next().await {
                Response::Delivery(d) => taken.extend(d.messages.iter().map(|m| (d.partition, m.offset))),
                Response::Fault(fault) => self.faults.push_back(fault),
                other => panic!("{other:?}"),
            }
        }
        taken
    }

    /// The messages that come next, if some do in time.
    pub(crate) async fn try_take(&mut self, within: std::time::Duration) -> Vec<(u32, u64)> {
        let next = Clock::system().timeout(within, self.responses.message()).await.expect("told in time");
        match next.expect("the stream lives").and_then(|response| response.response) {
            Some(Response::Delivery(d)) => d.messages.iter().map(|m| (d.partition, m.offset)).collect(),
            other => panic!("{other:?}"),
        }
    }

    /// The next fault: its reason, first and last offset.
    pub(crate) async fn fault(&mut self) -> (String, u64, u64) {
        loop {
            if let Some(fault) = self.faults.pop_front() {
                return of(fault);
            }
            match self.next().await {
                Response::Fault(fault) => return of(fault),
                Response::Delivery(d) => self.messages.extend(d.messages.iter().map(|m| (d.partition, m.offset))),
                other => panic!("{other:?}"),
            }
        }
    }

    /// Acknowledges runs of a partition, and waits for nothing.
    pub(crate) async fn send_ack(&self, id: u64, partition: u32, ranges: Vec<v1::OffsetRange>) {
        let ack = v1::Ack { id, partition, ranges, ..Default::default() };
        self.requests.send(v1::SubscribeRequest { request: Some(Request::Ack(ack)) }).await.expect("open");
    }

    /// The next receipts.
    pub(crate) async fn receipts(&mut self) -> Vec<v1::AckReceipt> {
        loop {
            match self.next().await {
                Response::Receipts(receipts) => return receipts.receipts,
                Response::Delivery(d) => self.messages.extend(d.messages.iter().map(|m| (d.partition, m.offset))),
                Response::Fault(fault) => self.faults.push_back(fault),
                Response::Subscribed(_) => panic!("subscribed twice"),
            }
        }
    }

    /// Acknowledges, and waits for the receipt.
    pub(crate) async fn ack(&mut self, first: u64, last: u64) -> Option<v1::Fault> {
        self.ack_of(0, first, last).await
    }

    /// The same, of a partition.
    pub(crate) async fn ack_of(&mut self, partition: u32, first: u64, last: u64) -> Option<v1::Fault> {
        self.send_ack(1, partition, vec![v1::OffsetRange { first, last }]).await;
        self.receipts().await[0].fault.clone()
    }
}

pub(crate) fn of(fault: v1::DeliveryFault) -> (String, u64, u64) {
    let run = fault.offsets.expect("its offsets are named");
    (fault.fault.expect("it says why").reason, run.first, run.last)
}

/// A reader's stream.
pub(crate) struct Reading {
    _requests: mpsc::Sender<v1::ReadRequest>,
    responses: Streaming<v1::ReadResponse>,
}

impl Reading {
    pub(crate) async fn open(node: &Node, start: Option<v1::Position>) -> Self {
        Self::open_at(node.channel.clone(), start).await
    }

    /// The same, by a connection.
    pub(crate) async fn open_at(channel: Channel, start: Option<v1::Position>) -> Self {
        Self::try_open_at(channel, start).await.expect("opens")
    }

    /// The same, if it is let in.
    pub(crate) async fn try_open_at(channel: Channel, start: Option<v1::Position>) -> Result<Self, Status> {
        let open = v1::ReadOpen { hello: hello(), topic: TOPIC.to_owned(), start, credit: CREDIT, ..Default::default() };
        let (requests, rx) = mpsc::channel(64);
        requests.send(v1::ReadRequest { request: Some(ReadRequest::Open(open)) }).await.expect("room");
        let mut service = ConsumeServiceClient::new(channel).max_decoding_message_size(limit());
        let mut responses = service.read(ReceiverStream::new(rx)).await?.into_inner();
        let first = responses.message().await?.and_then(|response| response.response);
        assert!(matches!(first, Some(ReadResponse::Opened(_))), "{first:?}");
        Ok(Self { _requests: requests, responses })
    }

    pub(crate) async fn next(&mut self) -> ReadResponse {
        let next = Clock::system().timeout(DEADLINE, self.responses.message()).await.expect("told in time");
        next.expect("the stream lives").and_then(|response| response.response).expect("one of them")
    }

    /// The next `count` messages: partition and offset.
    pub(crate) async fn take(&mut self, count: usize) -> Vec<(u32, u64)> {
        let mut taken = Vec::new();
        while taken.len() < count {
            match self.next().await {
                ReadResponse::Delivery(d) => taken.extend(d.messages.iter().map(|m| (d.partition, m.offset))),
                other => panic!("{other:?}"),
            }
        }
        taken
    }
}

/// Three said, two inside, and a checksum that fits: nothing that is seen without opening it.
fn lie() -> v1::Batch {
    let mut lie = batch(0, &["x", "y"]);
    lie.count = 3;
    let header = BatchHeader {
        count: 3,
        codec: Codec::None,
        inflated_bytes: lie.inflated_bytes,
        publish_time: Timestamp::from_millis(lie.publish_time_ms),
        ..BatchHeader::default()
    };
    lie.checksum = header.checksum(Crc32c::of(&lie.blob), lie.blob.len()).get();
    lie
}

#[tokio::test]
async fn partitions_that_a_topic_is_given_reach_streams_that_asked_for_all() {
    // They were never consumed by streams that were open.
    let cluster = Cluster::start(1).await;
    let node = cluster.broker(config()).await;
    node.make_topic(1, v1::Policies::default()).await;
    let mut consuming = Consuming::open(&node, "c", false).await.expect("subscribed");
    let latest = Some(v1::Position { at: Some(v1::position::At::Latest(v1::Latest {})) });
    let mut reading = Reading::open(&node, latest).await;
    // By another broker: nobody tells this one.
    let topics = cluster.metadata().topics();
    let name = alluvium_types::names::TopicName::parse(TOPIC).expect("valid");
    let record = topics.get(&name).await.expect("readable").expect("there");
    topics.set_partitions(&name, &record, 3).await.expect("changed");
    let mut stream = node.open(Guarantee::Quorum, "").await;
    stream.send(0, 0, 0, batch(0, &["old"])).await;
    assert_eq!(stream.outcome().await, (0, Ok(0)));
    assert_eq!(consuming.take(1).await, [(0, 0)]);
    assert_eq!(reading.take(1).await, [(0, 0)]);
    for partition in 1..3 {
        crate::cluster::eventually("this broker knows of it", async || {
            let mut stream = node.open(Guarantee::Quorum, "").await;
            stream.send(1, partition, 0, batch(0, &["new"])).await;
            stream.outcome().await.1.is_ok()
        })
        .await;
        assert_eq!(consuming.take(1).await, [(partition, 0)]);
        assert_eq!(reading.take(1).await, [(partition, 0)], "also by who began at the end: all of it came later");
    }
    assert_eq!(consuming.ack(0, 0).await, None);
    drop((stream, consuming, reading));
    node.drain().await;
}

#[tokio::test]
async fn t6_a_pull_reports_a_batch_that_contradicts_its_header_and_acknowledges_it_then() {
    // It was dropped and acknowledged, and nobody heard of it.
    let cluster = Cluster::start(1).await;
    let node = cluster.broker(config()).await;
    node.make_topic(1, v1::Policies::default()).await;
    let mut stream = node.open(Guarantee::Quorum, "").await;
    for (id, batch) in [batch(0, &["good"]), lie(), batch(0, &["after"])].into_iter().enumerate() {
        stream.send(id as u64, 0, 0, batch).await;
        stream.outcome().await.1.expect("the broker never opens a batch");
    }
    let pulled = consumer(&node).pull(pull(5_000)).await.expect("pulled").into_inner();
    let offsets: Vec<u64> = pulled.messages.iter().filter_map(|m| m.message.as_ref()).map(|m| m.offset).collect();
    assert_eq!(offsets, [0, 4]);
    let faults: Vec<_> = pulled.faults.into_iter().map(of).collect();
    assert_eq!(faults, [("BATCH_COUNT".to_owned(), 1, 3)]);
    let left = stats(&node).await;
    assert_eq!((left.backlog, left.in_flight, left.acknowledged_ranges), (2, 2, 1), "{left:?}");
    drop(stream);
    node.drain().await;
}

#[tokio::test]
async fn a_wrong_acknowledgement_is_told_in_the_words_of_its_request() {
    let cluster = Cluster::start(1).await;
    let node = cluster.broker(config()).await;
    node.make_topic(1, v1::Policies::default()).await;
    let mut consuming = Consuming::open(&node, "", false).await.expect("subscribed");
    let id = |partition, offset| v1::MessageId { partition, offset };
    let request = |ids: &[v1::MessageId], up_to: &[v1::MessageId]| v1::AcknowledgeRequest {
        topic: TOPIC.to_owned(),
        subscription: "s".to_owned(),
        ids: ids.to_vec(),
        up_to: up_to.to_vec(),
    };
    for (request, field) in [
        (request(&[id(0, 7)], &[]), "ids"),
        (request(&[id(9, 0)], &[]), "ids"),
        (request(&[], &[id(0, 7)]), "up_to"),
        (request(&[], &[id(9, 0)]), "up_to"),
    ] {
        let refused = consumer(&node).acknowledge(request).await.expect_err("nothing was published");
        let named = refused.get_error_details().bad_request().map(|bad| bad.field_violations[0].field.clone());
        assert_eq!(named.as_deref(), Some(field), "{refused}");
    }
    assert_eq!(consuming.ack(7, 7).await.expect("refused").field, "ack.ranges");
    let busy = Consuming::open(&node, "two", false).await.err().expect("it is taken");
    assert!(busy.message().contains("an unnamed consumer is connected"), "{busy}");
    drop(consuming);
    node.drain().await;
}

#[tokio::test]
async fn what_the_owner_knows_of_the_open_segment_is_shown_and_none_that_is_opened_ahead() {
    // It was shown as nothing, and the one ahead as a second one that begins at 0.
    let cluster = Cluster::start(1).await;
    let node = cluster.broker(config()).await;
    node.make_topic(1, v1::Policies { rollover_bytes: Some(1 << 20), ..Default::default() }).await;
    let mut stream = node.open(Guarantee::Quorum, "").await;
    let payload = "x".repeat(100 << 10);
    for id in 0..9 {
        stream.send(id, 0, 0, batch(0, &[&payload])).await;
        assert_eq!(stream.outcome().await, (id, Ok(id)));
    }
    let id = alluvium_metadata::PartitionId { topic: topic_id(&node).await, index: Default::default() };
    crate::cluster::eventually("the next one is opened ahead", async || {
        cluster.metadata().segments().all(id).await.expect("readable").len() == 2
    })
    .await;
    let found = node.topics().get_topic(v1::GetTopicRequest { name: TOPIC.to_owned() }).await.expect("there").into_inner();
    let partition = &found.partitions[0];
    assert_eq!(partition.segments.len(), 1, "{partition:?}");
    let segment = &partition.segments[0];
    assert!(segment.bytes > 9 * (100 << 10) && partition.bytes == segment.bytes, "{partition:?}");
    assert_eq!((segment.first_offset, segment.end_offset), (0, None));
    assert!(segment.first_time_ms > 0 && segment.last_time_ms >= segment.first_time_ms, "{segment:?}");
    drop(stream);
    node.drain().await;
}

async fn topic_id(node: &Node) -> alluvium_types::ids::TopicId {
    let name = alluvium_types::names::TopicName::parse(TOPIC).expect("valid");
    node.broker.topic(&name).await.expect("there").id
}
