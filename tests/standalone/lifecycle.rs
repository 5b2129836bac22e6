//! Starting, stopping, being killed.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use alluvium_client::{Client, Message};
use alluvium_tests::{Options, Server};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use crate::wire::{channel, create_topic, publish, read_all};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_is_read_back_after_kill_and_after_a_graceful_stop() {
    let mut server = Server::start(&Options::default());
    create_topic(&server, "public/default/t", 1).await;
    publish(&server, "public/default/t", &["one", "two"]).await.expect("stored");
    server.kill();
    server.restart();
    println!("served {:?} after kill -9", server.started_in());
    publish(&server, "public/default/t", &["three"]).await.expect("stored");
    assert_eq!(server.terminate(), Some(0), "{}", server.log());
    server.restart();
    println!("served {:?} after a graceful stop", server.started_in());
    let all = read_all(&server, "public/default/t").await;
    let found: Vec<(u64, &[u8])> = all.iter().map(|(_, offset, payload)| (*offset, payload.as_ref())).collect();
    assert_eq!(found, [(0, b"one".as_slice()), (1, b"two"), (2, b"three")]);
}

#[tokio::test]
async fn operators_see_health_readiness_and_metrics() {
    let server = Server::start(&Options::default());
    create_topic(&server, "public/default/t", 1).await;
    publish(&server, "public/default/t", &["one"]).await.expect("stored");
    assert_eq!(server.http("/healthz").expect("answers").0, 200);
    let (status, metrics) = server.http("/metrics").expect("answers");
    assert_eq!(status, 200);
    for name in ["alluvium_broker_", "alluvium_bookie_"] {
        assert!(metrics.contains(name), "{name} is missing in:\n{metrics}");
    }
    assert!(metrics.trim_end().ends_with("# EOF"));
}

#[tokio::test]
async fn it_says_what_to_type_next() {
    let server = Server::start(&Options::default());
    let log = server.log();
    for part in ["alluvium topic create", "alluvium produce", "alluvium consume"] {
        assert!(log.contains(part), "{part} is missing in:\n{log}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_under_load_is_orderly_and_a_named_producer_goes_on_behind_it() {
    const MESSAGES: usize = 20_000;
    let mut server = Server::start(&Options::default());
    create_topic(&server, "public/default/t", 1).await;
    let client = Client::connect(server.url()).await.expect("connected");
    let producer = client.producer("public/default/t").name("loader").build().await.expect("built");
    let stored = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&stored);
    let load = tokio::spawn(async move {
        let mut receipts = Vec::with_capacity(MESSAGES);
        for number in 0..MESSAGES {
            let counter = Arc::clone(&counter);
            let pending = producer.queue(Message::new(number.to_string())).await.expect("queued");
            receipts.push(tokio::spawn(async move {
                pending.await.expect("stored, by this server or the next");
                counter.fetch_add(1, Ordering::Relaxed);
            }));
            if number % 50 == 0 {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
        for receipt in receipts {
            receipt.await.expect("stored");
        }
    });
    while stored.load(Ordering::Relaxed) < MESSAGES / 10 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(server.terminate(), Some(0), "{}", server.log());
    let before = stored.load(Ordering::Relaxed);
    println!("stopped when {before} of {MESSAGES} were stored");
    assert!(before < MESSAGES, "the load goes on");
    server.restart();
    load.await.expect("all is stored");
    let all = read_all(&server, "public/default/t").await;
    let found: Vec<usize> =
        all.iter().map(|(_, _, payload)| std::str::from_utf8(payload).expect("text").parse().expect("a number")).collect();
    assert!(found.iter().copied().eq(0..MESSAGES), "each once and in order: {} of {MESSAGES}", found.len());
}

#[tokio::test]
async fn health_and_reflection_are_on() {
    let server = Server::start(&Options::default());
    let check = HealthCheckRequest::default();
    let health = HealthClient::new(channel(&server).await).check(check).await.expect("answers").into_inner();
    assert_eq!(health.status(), ServingStatus::Serving);
    let list =
        ServerReflectionRequest { message_request: Some(MessageRequest::ListServices(String::new())), ..Default::default() };
    let mut answers = ServerReflectionClient::new(channel(&server).await)
        .server_reflection_info(tokio_stream::once(list))
        .await
        .expect("answers")
        .into_inner();
    let answer = answers.message().await.expect("alive").expect("an answer").message_response;
    let Some(MessageResponse::ListServicesResponse(services)) = answer else { panic!("{answer:?}") };
    let names: Vec<&str> = services.service.iter().map(|service| service.name.as_str()).collect();
    for name in ["alluvium.v1.PublishService", "alluvium.v1.ConsumeService", "alluvium.v1.TopicService"] {
        assert!(names.contains(&name), "{name} is missing in {names:?}");
    }
    assert!(!names.iter().any(|name| name.contains("internal")), "the internal services are on another port: {names:?}");
}
