//! Bad input gets the right code, the field and the limit, and changes nothing.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use alluvium_proto::v1::topic_service_client::TopicServiceClient;
use alluvium_proto::v1::{self, subscribe_request};
use alluvium_tests::{Options, Server};
use alluvium_types::key_hash::key_hash;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use crate::wire::{Publishing, batch, channel, consumer, create_topic, details, earliest, hello, message, publish, read_all};

const TOPIC: &str = "public/default/t";

async fn server() -> Server {
    let server = Server::start(&Options::default());
    create_topic(&server, TOPIC, 1).await;
    server
}

/// What is kept of the topic: what every bad request must leave as it is.
async fn kept(server: &Server) -> usize {
    read_all(server, TOPIC).await.len()
}

#[tokio::test]
async fn bad_names_are_refused_with_their_field() {
    let server = server().await;
    let long = format!("public/default/{}", "x".repeat(10_000));
    for name in ["public/default/a/b", "public/default/..", "public/default/a\0b", "public/default/", "t", &long] {
        let status = publish(&server, name, &["x"]).await.expect_err(name);
        assert_eq!((status.code(), details(&status).0.as_str()), (Code::InvalidArgument, "topic"), "{name:?}: {status}");
        let request = v1::CreateTopicRequest { name: name.to_owned(), ..Default::default() };
        let status = TopicServiceClient::new(channel(&server).await).create_topic(request).await.expect_err(name);
        assert_eq!(status.code(), Code::InvalidArgument, "{name:?}: {status}");
        assert!(status.message().len() < 500, "a refusal does not repeat a giant name");
    }
    let topics = server.tool(&["topic", "list", "public/default", "-o", "json"]).ok();
    assert_eq!(topics.matches("public/default/").count(), 1, "{topics}");
}

#[tokio::test]
async fn an_unknown_and_a_deleted_topic_are_not_found() {
    let server = server().await;
    publish(&server, TOPIC, &["x"]).await.expect("stored");
    let status = publish(&server, "public/default/nowhere", &["x"]).await.expect_err("unknown");
    assert_eq!((status.code(), details(&status).1.as_str()), (Code::NotFound, "TOPIC_NOT_FOUND"), "{status}");
    let delete = v1::DeleteTopicRequest { name: TOPIC.to_owned() };
    TopicServiceClient::new(channel(&server).await).delete_topic(delete).await.expect("deleted");
    let status = publish(&server, TOPIC, &["x"]).await.expect_err("deleted");
    assert_eq!(status.code(), Code::NotFound, "{status}");
    // The same name is another topic: offsets begin anew.
    create_topic(&server, TOPIC, 1).await;
    assert_eq!(publish(&server, TOPIC, &["y"]).await.expect("stored")[0].offset, 0);
}

#[tokio::test]
async fn a_message_over_the_limit_is_refused_and_one_at_the_limit_is_stored() {
    let server = server().await;
    let limit = 5 << 20;
    // A payload's own framing is part of the message: field, length.
    let fits = vec![7_u8; limit - 5];
    let ids = crate::wire::publish_messages(&server, TOPIC, vec![message(fits)]).await.expect("a message at the limit is stored");
    assert_eq!(ids.len(), 1);
    for size in [limit - 4, limit, limit + 1, limit + 100_000] {
        let status = crate::wire::publish_messages(&server, TOPIC, vec![message(vec![7_u8; size])]).await.expect_err("too large");
        let (field, reason, _) = details(&status);
        assert_eq!(
            (status.code(), field.as_str(), reason.as_str()),
            (Code::InvalidArgument, "messages", "MESSAGE_TOO_LARGE"),
            "{size}: {status}"
        );
        assert!(status.message().contains(&limit.to_string()), "the limit is named: {status}");
    }
    assert_eq!(kept(&server).await, 1);
}

#[tokio::test]
async fn a_batch_that_contradicts_itself_is_refused_unopened() {
    let server = server().await;
    type Spoil = fn(&mut v1::Batch);
    let cases: [(&str, Spoil); 8] = [
        ("BATCH_CHECKSUM", |b| b.checksum ^= 1),
        ("BATCH_CHECKSUM", |b| b.publish_time_ms += 1),
        ("UNKNOWN_CODEC", |b| b.codec = 77),
        ("BATCH_COUNT", |b| b.count = 0),
        ("BATCH_COUNT", |b| b.count = 1 << 20),
        ("BATCH_TOO_LARGE", |b| b.inflated_bytes = u32::MAX),
        ("BATCH_INFLATED_BYTES", |b| b.inflated_bytes += 1),
        ("BATCH_INFLATED_BYTES", |b| {
            b.codec = 2;
            b.inflated_bytes = 5_000_000;
        }),
    ];
    for (reason, spoil) in cases {
        let mut stream = Publishing::open(&server, TOPIC, "").await.expect("opens");
        let mut bad = batch(&["a", "b"], 0);
        spoil(&mut bad);
        stream.batch(1, 0, bad).await;
        let fault = stream.receipt().await.expect("a receipt").fault.expect("a fault");
        assert_eq!((fault.code, fault.reason.as_str()), (Code::InvalidArgument as i32, reason), "{fault:?}");
        assert!(fault.field.starts_with("batch."), "{fault:?}");
        // The stream goes on: one bad batch is one fault.
        stream.batch(2, 0, batch(&["good"], 0)).await;
        assert_eq!(stream.receipt().await.expect("a receipt").fault, None);
    }
    assert_eq!(kept(&server).await, cases.len());
}

#[tokio::test]
async fn a_request_that_is_too_long_ends_its_stream_and_says_why() {
    let server = server().await;
    let mut stream = Publishing::open(&server, TOPIC, "").await.expect("opens");
    stream.batch(1, 0, batch(&["good"], 0)).await;
    assert_eq!(stream.receipt().await.expect("a receipt").fault, None);
    let long = v1::Batch { blob: vec![7; 16 << 20].into(), ..batch(&["x"], 0) };
    stream.batch(2, 0, long).await;
    let status = stream.receipt().await.expect_err("it is not read");
    let (field, reason, _) = details(&status);
    assert_eq!((status.code(), field.as_str(), reason.as_str()), (Code::InvalidArgument, "request", "UNREADABLE"), "{status}");
    assert!(status.message().contains("longer than the limit"), "{status}");
    assert_eq!(kept(&server).await, 1);
}

#[tokio::test]
async fn a_gap_in_sequences_is_refused_and_a_repetition_answered_with_the_original_d6() {
    let server = server().await;
    let mut stream = Publishing::open(&server, TOPIC, "p").await.expect("opens");
    let (epoch, last) = stream.claim().await;
    assert_eq!(last, None);
    stream.batch(1, epoch, batch(&["0", "1"], 0)).await;
    assert_eq!(stream.receipt().await.expect("stored").fault, None);
    stream.batch(2, epoch, batch(&["5"], 5)).await;
    let fault = stream.receipt().await.expect("a receipt").fault.expect("a gap");
    assert_eq!(fault.reason, "SEQUENCE_GAP", "{fault:?}");
    stream.batch(3, epoch, batch(&["0", "1"], 0)).await;
    let receipt = stream.receipt().await.expect("a receipt");
    assert_eq!((receipt.fault.clone(), receipt.duplicate, receipt.first_offset), (None, true, 0), "{receipt:?}");
    assert_eq!(kept(&server).await, 2);
}

/// A unary call whose request is these bytes, to this method.
async fn raw_call(server: &Server, method: &str, request: &'static [u8]) -> Status {
    let mut body = vec![0];
    body.extend(u32::try_from(request.len()).expect("short").to_be_bytes());
    body.extend(request);
    let request = axum::http::Request::post(format!("{}{method}", server.url()))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(tonic::body::Body::new(axum::body::Body::from(body)))
        .expect("a request");
    let mut channel = channel(server).await;
    std::future::poll_fn(|cx| tower_service::Service::poll_ready(&mut channel, cx)).await.expect("ready");
    let response = tower_service::Service::call(&mut channel, request).await.expect("answers");
    Status::from_header_map(response.headers()).expect("a status without a body")
}

#[tokio::test]
async fn what_is_refused_before_a_service_sees_it_has_a_reason_too() {
    let server = server().await;
    let messages = (0..3).map(|_| message(vec![7_u8; 4 << 20])).collect();
    let status = crate::wire::publish_messages(&server, TOPIC, messages).await.expect_err("too large");
    assert_eq!((status.code(), details(&status).1.as_str()), (Code::InvalidArgument, "REQUEST_TOO_LARGE"), "{status}");
    let status = raw_call(&server, "/alluvium.v1.PublishService/Publish", b"\xff\xff\xff").await;
    assert_eq!((status.code(), details(&status).1.as_str()), (Code::InvalidArgument, "REQUEST_MALFORMED"), "{status}");
    let status = raw_call(&server, "/alluvium.v1.PublishService/Publich", b"").await;
    assert_eq!((status.code(), details(&status).1.as_str()), (Code::Unimplemented, "METHOD_UNKNOWN"), "{status}");
    assert_eq!(kept(&server).await, 0);
}

async fn subscribe(server: &Server, open: v1::SubscribeOpen) -> Result<(), Status> {
    let (requests, rx) = mpsc::channel(1);
    requests.send(v1::SubscribeRequest { request: Some(subscribe_request::Request::Open(open)) }).await.expect("room");
    let mut responses = consumer(server).await.subscribe(ReceiverStream::new(rx)).await?.into_inner();
    responses.message().await.map(|_| ())
}

#[tokio::test]
async fn senseless_credit_is_refused() {
    let server = server().await;
    for (messages, bytes, field) in [(0, 0, "credit"), (1 << 63, 1, "credit.messages"), (1, 1 << 63, "credit.bytes")] {
        let open = v1::SubscribeOpen {
            hello: hello(),
            topic: TOPIC.to_owned(),
            subscription: "s".to_owned(),
            start: earliest(),
            credit: Some(v1::Credit { messages, bytes }),
            ..Default::default()
        };
        let status = subscribe(&server, open).await.expect_err("refused");
        let found = details(&status).0;
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        assert!(found.starts_with(field), "{found} for {messages}, {bytes}: {status}");
    }
}

#[tokio::test]
async fn a_stream_must_begin_with_hello_and_a_known_version() {
    let server = server().await;
    let open = v1::SubscribeOpen { topic: TOPIC.to_owned(), subscription: "s".to_owned(), ..Default::default() };
    let status = subscribe(&server, open.clone()).await.expect_err("no hello");
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    let hello = Some(v1::Hello { protocol_version: 0, client: String::new() });
    let status = subscribe(&server, v1::SubscribeOpen { hello, ..open }).await.expect_err("no version");
    assert_eq!(details(&status).1, "PROTOCOL_VERSION", "{status}");
}

#[tokio::test]
async fn random_and_truncated_bytes_on_every_port_leave_it_serving() {
    let server = server().await;
    publish(&server, TOPIC, &["before"]).await.expect("stored");
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    for port in server.ports() {
        for seed in 0..40_u32 {
            let mut socket = TcpStream::connect(("127.0.0.1", port)).expect("accepts");
            socket.set_read_timeout(Some(Duration::from_millis(200))).expect("settable");
            let mut bytes: Vec<u8> = if seed % 2 == 0 { preface.to_vec() } else { Vec::new() };
            // A generator of its own, so that a failure repeats.
            bytes.extend((0..200_u32).flat_map(|n| key_hash(&[seed.to_le_bytes(), n.to_le_bytes()].concat()).to_le_bytes()));
            bytes.truncate(bytes.len() - seed as usize * 7);
            // The server may close at once.
            let _ = socket.write_all(&bytes);
            let mut answer = [0; 1024];
            let _ = socket.read(&mut answer);
        }
    }
    publish(&server, TOPIC, &["after"]).await.expect("stored");
    assert_eq!(kept(&server).await, 2);
}

/// Connections that find no descriptor left are not accepted; those that come afterwards are.
#[tokio::test]
async fn the_server_survives_running_out_of_descriptors_c56() {
    let server = server().await;
    publish(&server, TOPIC, &["before"]).await.expect("stored");
    let pid = server.pid().expect("it runs").to_string();
    let limit = |count: usize| {
        let status = std::process::Command::new("prlimit").args(["--pid", &pid, &format!("--nofile={count}:4096")]).status();
        assert!(status.expect("util-linux is there").success());
    };
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("readable").count();
    limit(open + 8);
    let crowd: Vec<TcpStream> =
        (0..100).map(|_| TcpStream::connect(("127.0.0.1", server.ports()[0])).expect("the backlog takes it")).collect();
    alluvium_tests::eventually("an accept fails", crate::wire::LIMIT, || async {
        server.log().contains("accept failed").then_some(())
    })
    .await;
    drop(crowd);
    limit(open + 1000);
    publish(&server, TOPIC, &["after"]).await.expect("stored");
    assert_eq!(kept(&server).await, 2);
}
