//! Nonsense that looks like what one broker forwards to another is refused for what it is, and stores nothing.

use alluvium_client::Message;
use alluvium_proto::batch::BatchBuilder;
use alluvium_proto::internal::v1 as internal;
use alluvium_proto::internal::v1::forward_service_client::ForwardServiceClient;
use alluvium_proto::v1::{self, publish_stream_request as request, publish_stream_response as response};
use alluvium_tests::Cluster;
use alluvium_types::batch::Codec;
use alluvium_types::time::Timestamp;
use tonic::{Code, Status};

use crate::load::{LIMIT, TOPIC, assert_whole, create_topic};
use crate::wire::{channel, reason};

fn open(topic: &str) -> request::Request {
    let hello = Some(v1::Hello { protocol_version: 1, client: "tests".to_owned() });
    request::Request::Open(v1::PublishOpen { hello, topic: topic.to_owned(), ..Default::default() })
}

fn batch(partition: u32, producer_epoch: u64, spoil: impl Fn(&mut v1::Batch)) -> request::Request {
    let mut builder = BatchBuilder::with_capacity(0);
    builder.push(&v1::Message { payload: "nonsense".into(), ..Default::default() });
    let mut batch = builder.finish(Codec::None, 0, Timestamp::from_millis(1));
    spoil(&mut batch);
    request::Request::Batch(v1::PublishBatch { id: 1, partition, producer_epoch, batch: Some(batch) })
}

/// Forwards these to a broker; how the last of them was refused, as a fault of a receipt or of the stream.
async fn forward(url: &str, requests: Vec<Option<request::Request>>) -> Result<(), (Code, String)> {
    let refused = |status: Status| (status.code(), reason(&status).0);
    let wrapped = requests.into_iter().map(|request| internal::ForwardPublishRequest {
        request: request.map(|request| v1::PublishStreamRequest { request: Some(request) }),
    });
    let wrapped: Vec<_> = wrapped.collect();
    let mut service = ForwardServiceClient::new(channel(url.to_owned()).await);
    let mut answers = service.forward_publish(futures::stream::iter(wrapped)).await.map_err(refused)?.into_inner();
    loop {
        let answer = tokio::time::timeout(LIMIT, answers.message()).await.expect("in time").map_err(refused)?;
        let Some(answer) = answer else { return Ok(()) };
        let fault = match answer.response.and_then(|answer| answer.response) {
            Some(response::Response::Receipts(receipts)) => receipts.receipts.into_iter().find_map(|receipt| receipt.fault),
            Some(response::Response::Claimed(claimed)) => claimed.fault,
            _ => None,
        };
        if let Some(fault) = fault {
            return Err((Code::from_i32(fault.code), fault.reason));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_broker_would_forward_is_refused() {
    let mut cluster = Cluster::prepare(3, 2);
    cluster.configure("broker-1", "weight = 0\n");
    cluster.start_members();
    let client = create_topic(&cluster).await;
    let producer = client.producer(TOPIC).build().await.expect("built");
    producer.send(Message::new("0").partition(0)).await.expect("stored, and the partition has its owner");
    let (owner, other) = (cluster.internal_url("broker-0"), cluster.internal_url("broker-1"));
    let plain = |partition| batch(partition, 0, |_| {});
    let claim = request::Request::Claim(v1::PublishClaim { partition: 0, last_epoch: None });
    for (what, url, requests, code, said) in [
        ("nothing to begin with", &owner, vec![None], Code::InvalidArgument, ""),
        ("a batch before all else", &owner, vec![Some(plain(0))], Code::InvalidArgument, ""),
        ("an unknown topic", &owner, vec![Some(open("public/default/nowhere"))], Code::NotFound, "TOPIC_NOT_FOUND"),
        ("no name of a topic", &owner, vec![Some(open("../.."))], Code::InvalidArgument, ""),
        ("no such partition", &owner, vec![Some(open(TOPIC)), Some(plain(u32::MAX))], Code::InvalidArgument, ""),
        ("another's partition", &other, vec![Some(open(TOPIC)), Some(plain(0))], Code::Unavailable, "PARTITION_MOVED"),
        ("a claim without a name", &owner, vec![Some(open(TOPIC)), Some(claim)], Code::InvalidArgument, ""),
        (
            "a batch that was damaged",
            &owner,
            vec![Some(open(TOPIC)), Some(batch(0, 0, |batch| batch.checksum ^= 1))],
            Code::InvalidArgument,
            "BATCH_CHECKSUM",
        ),
    ] {
        let refused = forward(url, requests).await.expect_err(what);
        println!("{what}: {refused:?}");
        assert_eq!(refused.0, code, "{what}: {refused:?}");
        assert!(said.is_empty() || refused.1 == said, "{what}: {refused:?}");
    }
    assert_whole(&client, 1).await;
}
