//! Generated stubs and short ways to say common things with them.

use std::time::Duration;

use alluvium_proto::batch::BatchBuilder;
use alluvium_proto::v1::consume_service_client::ConsumeServiceClient;
use alluvium_proto::v1::publish_service_client::PublishServiceClient;
use alluvium_proto::v1::subscription_service_client::SubscriptionServiceClient;
use alluvium_proto::v1::topic_service_client::TopicServiceClient;
use alluvium_proto::v1::{
    self, Batch, CreateTopicRequest, Hello, Message, MessageId, Position, PublishBatch, PublishClaim, PublishOpen,
    PublishReceipt, PublishRequest, PublishStreamRequest, PublishStreamResponse, position, publish_stream_request,
    publish_stream_response, read_request, read_response,
};
use alluvium_tests::Server;
use alluvium_types::batch::Codec;
use alluvium_types::time::Timestamp;
use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};
use tonic_types::StatusExt;

pub(crate) const LIMIT: Duration = Duration::from_secs(30);

pub(crate) async fn channel(server: &Server) -> Channel {
    Endpoint::from_shared(server.url()).expect("a url").timeout(LIMIT).connect().await.expect("the server accepts")
}

pub(crate) fn message(payload: impl Into<Bytes>) -> Message {
    Message { payload: payload.into(), ..Message::default() }
}

pub(crate) fn batch(payloads: &[&str], first_sequence: u64) -> Batch {
    let mut builder = BatchBuilder::with_capacity(0);
    for payload in payloads {
        builder.push(&message((*payload).to_owned()));
    }
    builder.finish(Codec::None, first_sequence, Timestamp::from_millis(1))
}

pub(crate) fn hello() -> Option<Hello> {
    Some(Hello { protocol_version: 1, client: "tests".to_owned() })
}

pub(crate) fn earliest() -> Option<Position> {
    Some(Position { at: Some(position::At::Earliest(v1::Earliest {})) })
}

pub(crate) async fn create_topic(server: &Server, name: &str, partitions: u32) {
    let request = CreateTopicRequest { name: name.to_owned(), partitions, policies: None };
    TopicServiceClient::new(channel(server).await).create_topic(request).await.expect("the topic is created");
}

pub(crate) async fn publish(server: &Server, topic: &str, payloads: &[&str]) -> Result<Vec<MessageId>, Status> {
    let messages = payloads.iter().map(|p| message((*p).to_owned())).collect();
    publish_messages(server, topic, messages).await
}

pub(crate) async fn publish_messages(server: &Server, topic: &str, messages: Vec<Message>) -> Result<Vec<MessageId>, Status> {
    let request = PublishRequest { topic: topic.to_owned(), messages, ..PublishRequest::default() };
    Ok(publisher(server).await.publish(request).await?.into_inner().ids)
}

pub(crate) async fn publisher(server: &Server) -> PublishServiceClient<Channel> {
    PublishServiceClient::new(channel(server).await).max_encoding_message_size(256 << 20)
}

pub(crate) async fn consumer(server: &Server) -> ConsumeServiceClient<Channel> {
    ConsumeServiceClient::new(channel(server).await).max_decoding_message_size(256 << 20)
}

pub(crate) async fn subscriptions(server: &Server) -> SubscriptionServiceClient<Channel> {
    SubscriptionServiceClient::new(channel(server).await)
}

/// Everything that a topic keeps, by a reader: (partition, offset, payload), in order of arrival.
pub(crate) async fn read_all(server: &Server, topic: &str) -> Vec<(u32, u64, Bytes)> {
    let mut reading = Reading::open(server, topic, Some(PLENTY)).await;
    let (mut all, mut faults) = (Vec::new(), Vec::new());
    reading.read_on(&mut all, &mut faults).await;
    assert_eq!(faults, []);
    all
}

/// More credit than any test uses.
pub(crate) const PLENTY: v1::Credit = v1::Credit { messages: 1 << 30, bytes: 1 << 38 };

/// A reader's stream from the earliest message to what is the end when it is opened.
pub(crate) struct Reading {
    requests: mpsc::Sender<v1::ReadRequest>,
    responses: Streaming<v1::ReadResponse>,
}

impl Reading {
    pub(crate) async fn open(server: &Server, topic: &str, credit: Option<v1::Credit>) -> Self {
        let topic = topic.to_owned();
        let open = v1::ReadOpen { hello: hello(), topic, start: earliest(), credit, stop_at_end: true, ..Default::default() };
        let (requests, rx) = mpsc::channel(16);
        requests.send(v1::ReadRequest { request: Some(read_request::Request::Open(open)) }).await.expect("room for one");
        let mut responses = consumer(server).await.read(ReceiverStream::new(rx)).await.expect("readable").into_inner();
        let first = responses.message().await.expect("it lives").expect("an answer").response;
        assert!(matches!(first, Some(read_response::Response::Opened(_))), "{first:?}");
        Self { requests, responses }
    }

    pub(crate) async fn grant(&self, credit: v1::Credit) {
        let request = v1::ReadRequest { request: Some(read_request::Request::Credit(credit)) };
        self.requests.send(request).await.expect("the stream lives");
    }

    /// One response: its messages, or its fault, if it doesn't end.
    pub(crate) async fn next(&mut self, all: &mut Vec<(u32, u64, Bytes)>, faults: &mut Vec<v1::DeliveryFault>) -> bool {
        let response = tokio::time::timeout(LIMIT, self.responses.message()).await.expect("it goes on").expect("it lives");
        let Some(response) = response else { return false };
        match response.response.expect("one of them") {
            read_response::Response::Opened(_) => panic!("a stream is opened once"),
            read_response::Response::Delivery(delivery) => {
                let payload = |m: v1::DeliveredMessage| m.message.expect("present").payload;
                all.extend(delivery.messages.into_iter().map(|m| (delivery.partition, m.offset, payload(m))));
            }
            read_response::Response::Fault(fault) => faults.push(fault),
        }
        true
    }

    pub(crate) async fn read_on(&mut self, all: &mut Vec<(u32, u64, Bytes)>, faults: &mut Vec<v1::DeliveryFault>) {
        while self.next(all, faults).await {}
    }
}

/// A publish stream.
pub(crate) struct Publishing {
    requests: mpsc::Sender<PublishStreamRequest>,
    responses: Streaming<PublishStreamResponse>,
    receipts: std::collections::VecDeque<PublishReceipt>,
}

impl Publishing {
    pub(crate) async fn open(server: &Server, topic: &str, producer: &str) -> Result<Self, Status> {
        let open =
            PublishOpen { hello: hello(), topic: topic.to_owned(), producer: producer.to_owned(), ..PublishOpen::default() };
        let (requests, rx) = mpsc::channel(64);
        requests
            .send(PublishStreamRequest { request: Some(publish_stream_request::Request::Open(open)) })
            .await
            .expect("room for one");
        let mut responses = publisher(server).await.publish_stream(ReceiverStream::new(rx)).await?.into_inner();
        let first = responses.message().await?.expect("an answer to open").response;
        assert!(matches!(first, Some(publish_stream_response::Response::Opened(_))), "{first:?}");
        Ok(Self { requests, responses, receipts: Default::default() })
    }

    /// Claims the producer's name on partition 0: the epoch, and the last sequence.
    pub(crate) async fn claim(&mut self) -> (u64, Option<u64>) {
        let claim = PublishClaim { partition: 0, last_epoch: None };
        self.send(publish_stream_request::Request::Claim(claim)).await;
        match self.responses.message().await.expect("alive").expect("an answer").response {
            Some(publish_stream_response::Response::Claimed(claimed)) => {
                assert_eq!(claimed.fault, None);
                (claimed.epoch, claimed.last_sequence)
            }
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn batch(&mut self, id: u64, producer_epoch: u64, batch: Batch) {
        let batch = PublishBatch { id, partition: 0, producer_epoch, batch: Some(batch) };
        self.send(publish_stream_request::Request::Batch(batch)).await;
    }

    async fn send(&self, request: publish_stream_request::Request) {
        self.requests.send(PublishStreamRequest { request: Some(request) }).await.expect("the stream is open");
    }

    pub(crate) async fn receipt(&mut self) -> Result<PublishReceipt, Status> {
        while self.receipts.is_empty() {
            match self.responses.message().await?.expect("the stream is open").response {
                Some(publish_stream_response::Response::Receipts(receipts)) => self.receipts.extend(receipts.receipts),
                other => panic!("{other:?}"),
            }
        }
        Ok(self.receipts.pop_front().expect("not empty"))
    }
}

/// The field, the reason and the retry advice that a status carries.
pub(crate) fn details(status: &Status) -> (String, String, Option<Duration>) {
    let details = status.get_error_details();
    let field = details.bad_request().and_then(|b| b.field_violations.first()).map(|v| v.field.clone()).unwrap_or_default();
    let reason = details.error_info().map(|i| i.reason.clone()).unwrap_or_default();
    (field, reason, details.retry_info().and_then(|r| r.retry_delay))
}
