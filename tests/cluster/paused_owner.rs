//! An owner that stood still past its lease, and goes on as if nothing had been (M4, L4).

use alluvium_client::{Client, Message, Start};
use alluvium_proto::v1::consume_service_client::ConsumeServiceClient;
use alluvium_proto::v1::publish_service_client::PublishServiceClient;
use alluvium_proto::v1::{self, publish_stream_request, publish_stream_response, subscribe_request, subscribe_response};
use alluvium_tests::{Cluster, eventually};
use alluvium_types::batch::Codec;
use alluvium_types::time::Timestamp;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::load::LIMIT;
use crate::wire::channel;

const TOPIC: &str = "public/default/paused";
/// How many messages there are before, and how many are brought to the successor.
const MESSAGES: usize = 100;
/// How many the consumer at the owner may take before the pause.
const CREDIT: u64 = 10;
/// How many batches lie in front of the owner when it wakes.
const WAITING: u64 = 10;

fn hello() -> Option<v1::Hello> {
    Some(v1::Hello { protocol_version: 1, client: "tests".to_owned() })
}

/// A publish stream without a client: nothing is sent twice, nothing is hidden.
struct Publishing {
    requests: mpsc::Sender<v1::PublishStreamRequest>,
    responses: Streaming<v1::PublishStreamResponse>,
}

impl Publishing {
    async fn open(url: String) -> Self {
        let (requests, rx) = mpsc::channel(64);
        let open = v1::PublishOpen { hello: hello(), topic: TOPIC.to_owned(), ..Default::default() };
        let open = publish_stream_request::Request::Open(open);
        requests.send(v1::PublishStreamRequest { request: Some(open) }).await.expect("room");
        let mut service = PublishServiceClient::new(channel(url).await);
        let responses = service.publish_stream(ReceiverStream::new(rx)).await.expect("opens").into_inner();
        Self { requests, responses }
    }

    async fn send(&self, id: u64, payload: String) {
        let mut builder = alluvium_proto::batch::BatchBuilder::with_capacity(0);
        builder.push(&v1::Message { payload: payload.into(), ..Default::default() });
        let batch = Some(builder.finish(Codec::None, 0, Timestamp::from_millis(1)));
        let batch = v1::PublishBatch { id, partition: 0, producer_epoch: 0, batch };
        let batch = publish_stream_request::Request::Batch(batch);
        self.requests.send(v1::PublishStreamRequest { request: Some(batch) }).await.expect("the stream is open");
    }

    /// Receipts, until the last of `ids` is answered or the stream ends: of each that is confirmed, its id and its offset.
    async fn confirmed(&mut self, mut ids: Vec<u64>) -> Vec<(u64, u64)> {
        let mut confirmed = Vec::new();
        while !ids.is_empty() {
            let response = tokio::time::timeout(LIMIT, self.responses.message()).await.expect("in time");
            let Ok(Some(v1::PublishStreamResponse { response: Some(response) })) = response else { break };
            let publish_stream_response::Response::Receipts(receipts) = response else { continue };
            for receipt in receipts.receipts {
                ids.retain(|id| *id != receipt.id);
                if receipt.fault.is_none() {
                    confirmed.push((receipt.id, receipt.first_offset));
                }
            }
        }
        confirmed
    }
}

/// A subscribe stream without a client.
struct Subscribing {
    requests: mpsc::Sender<v1::SubscribeRequest>,
    responses: Streaming<v1::SubscribeResponse>,
}

impl Subscribing {
    async fn open(url: String) -> Self {
        let (requests, rx) = mpsc::channel(8);
        let open = v1::SubscribeOpen {
            hello: hello(),
            topic: TOPIC.to_owned(),
            subscription: "s".to_owned(),
            r#type: v1::SubscriptionType::Exclusive.into(),
            start: Some(v1::Position { at: Some(v1::position::At::Earliest(v1::Earliest {})) }),
            consumer: "asleep".to_owned(),
            credit: Some(v1::Credit { messages: CREDIT, bytes: 0 }),
            ..Default::default()
        };
        let open = subscribe_request::Request::Open(open);
        requests.send(v1::SubscribeRequest { request: Some(open) }).await.expect("room");
        let mut service = ConsumeServiceClient::new(channel(url).await);
        let responses = service.subscribe(ReceiverStream::new(rx)).await.expect("opens").into_inner();
        Self { requests, responses }
    }

    async fn grant(&self, messages: u64) {
        let credit = subscribe_request::Request::Credit(v1::Credit { messages, bytes: 0 });
        self.requests.send(v1::SubscribeRequest { request: Some(credit) }).await.expect("the stream is open");
    }

    /// The offsets of what is delivered next; what ends the stream.
    async fn next(&mut self) -> Result<Vec<u64>, Option<Status>> {
        let response = self.responses.message().await.map_err(Some)?.ok_or(None)?;
        match response.response {
            Some(subscribe_response::Response::Delivery(delivery)) => Ok(delivery.messages.iter().map(|m| m.offset).collect()),
            _ => Ok(Vec::new()),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn m4_l4_an_owner_that_slept_past_its_lease_confirms_and_delivers_nothing() {
    let mut cluster = Cluster::prepare(3, 2);
    cluster.configure("broker-1", "weight = 0\n");
    cluster.start_members();
    let [owner, successor] = ["broker-0", "broker-1"].map(|broker| cluster.url(broker));
    let before = Client::connect(owner.clone()).await.expect("connected");
    before.admin().create_topic(TOPIC, 1, Default::default()).await.expect("created");
    let producer = before.producer(TOPIC).build().await.expect("built");
    for number in 0..MESSAGES {
        producer.send(Message::new(format!("before {number}"))).await.expect("stored");
    }
    let mut subscribing = Subscribing::open(owner.clone()).await;
    let mut taken = Vec::new();
    while (taken.len() as u64) < CREDIT {
        taken.extend(tokio::time::timeout(LIMIT, subscribing.next()).await.expect("in time").expect("delivers"));
    }
    assert_eq!(taken, (0..CREDIT).collect::<Vec<_>>(), "and waits for credit");
    let mut publishing = Publishing::open(owner.clone()).await;
    publishing.send(0, "waiting 0".to_owned()).await;
    assert_eq!(publishing.confirmed(vec![0]).await, [(0, MESSAGES as u64)]);

    cluster.pause("broker-0");
    // What reaches a host whose process stands still lies in front of it until it wakes.
    for id in 1..=WAITING {
        publishing.send(id, format!("waiting {id}")).await;
    }
    subscribing.grant(1 << 20).await;
    let after = Client::connect(successor).await.expect("connected");
    let producer = after.producer(TOPIC).name("after").build().await.expect("built");
    let mut stored = Vec::new();
    for number in 0..MESSAGES {
        stored.push(producer.send(Message::new(format!("after {number}"))).await.expect("the successor stores it"));
    }
    let consumer = after.consumer(TOPIC).subscription("s").exclusive().takeover().start(Start::Earliest);
    let mut consumer = consumer.build().await.expect("built");
    let mut delivered = Vec::new();
    while delivered.len() <= 2 * MESSAGES {
        let delivery = tokio::time::timeout(LIMIT, consumer.next()).await.expect("the successor delivers");
        let delivery = delivery.expect("the stream goes on").expect("a delivery");
        assert_eq!(delivery.offset, delivered.len() as u64, "nothing was acknowledged, all comes in order");
        delivered.push(delivery.payload().clone());
        consumer.ack_later(&delivery);
    }
    consumer.acker().flush().await.expect("acknowledgements are durable");

    cluster.resume("broker-0");
    let slept = tokio::spawn(async move {
        let mut late = Vec::new();
        while let Ok(offsets) = subscribing.next().await {
            late.extend(offsets);
            assert!(late.is_empty(), "delivered after the sleep: {late:?}");
        }
    });
    let confirmed = publishing.confirmed((1..=WAITING).collect()).await;
    // It is awake when it serves again, by whatever it has learnt.
    eventually("the one that slept serves", LIMIT, || async {
        let client = Client::connect(owner.clone()).await.ok()?;
        let producer = client.producer(TOPIC).name("awake").build().await.ok()?;
        producer.send(Message::new("awake")).await.ok()
    })
    .await;
    println!("after the sleep {} of {WAITING} batches were confirmed", confirmed.len());

    let mut reader = after.reader(TOPIC).start(Start::Earliest).stop_at_end().build().await.expect("readable");
    let mut log = Vec::new();
    while let Some(delivery) = tokio::time::timeout(LIMIT, reader.next()).await.expect("in time") {
        log.push(delivery.expect("readable").payload().clone());
    }
    assert_eq!(log[..delivered.len()], delivered, "what the successor delivered is what the log holds");
    for (number, receipt) in stored.iter().enumerate() {
        let at = usize::try_from(receipt.offset.expect("an offset")).expect("small");
        assert_eq!(log[at], format!("after {number}"), "the successor's messages are intact");
    }
    // What was still confirmed was stored by the successor, to which the one that slept had it brought.
    for (id, offset) in confirmed {
        assert_eq!(log[usize::try_from(offset).expect("small")], format!("waiting {id}"), "at {offset}");
    }
    assert!(!slept.is_finished() || slept.await.is_ok(), "nothing was delivered after the sleep");
}
