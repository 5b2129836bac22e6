//! Starting, stopping, being killed.

use alluvium_tests::{Options, Server};

use crate::wire::{create_topic, publish, read_all};

#[tokio::test]
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
