//! Producers, over connections that are lost.

use std::time::Duration;

use crate::peer::{Peer, TOPIC, soon};
use alluvium_client::{Codec, Error, Message};
use futures::FutureExt;

#[tokio::test]
async fn a_message_gets_its_place_and_its_key_decides_the_partition() {
    let peer = Peer::start(4).await;
    let producer = peer.client().await.producer(TOPIC).codec(Codec::Zstd).build().await.expect("built");
    for offset in 0..3 {
        let receipt = soon(producer.send(Message::new("hello").key("abc").header("h", "v"))).await.expect("stored");
        assert_eq!(receipt.id().map(|id| (id.partition, id.offset)), Some((0xb3dd_93fa % 4, offset)));
    }
    assert_eq!(peer.payloads(0xb3dd_93fa % 4).len(), 3);
}

#[tokio::test]
async fn queued_messages_share_batches_and_keep_their_order() {
    let peer = Peer::start(1).await;
    let producer = peer.client().await.producer(TOPIC).build().await.expect("built");
    let mut pending = Vec::new();
    for n in 0..5000 {
        pending.push(soon(producer.queue(Message::new(n.to_string()))).await.expect("queued"));
    }
    for (n, pending) in pending.into_iter().enumerate() {
        assert_eq!(soon(pending).await.expect("stored").offset, Some(n as u64));
    }
    let expected: Vec<String> = (0..5000).map(|n| n.to_string()).collect();
    assert_eq!(peer.payloads(0), expected);
}

/// D1, D6: the receipts of some batches are lost with the connection, again and again.
#[tokio::test]
async fn a_named_producer_stores_each_message_once_over_lost_connections() {
    let peer = Peer::start(2).await;
    let producer = peer.client().await.producer(TOPIC).name("ingest").batch_bytes(200).build().await.expect("built");
    let mut pending = Vec::new();
    for n in 0..2000_u32 {
        if n % 500 == 250 {
            peer.store.lock().swallow = Some(3);
        }
        let message = Message::new(n.to_string()).partition(n % 2);
        pending.push(soon(producer.queue(message)).await.expect("queued"));
        if n % 500 == 499 {
            soon(producer.flush()).await.expect("all are stored");
        }
    }
    soon(producer.close()).await.expect("all are stored");
    for (n, pending) in pending.into_iter().enumerate() {
        // Also of those whose first receipt was lost.
        assert_eq!(soon(pending).await.expect("stored").offset, Some(n as u64 / 2));
    }
    for partition in [0, 1] {
        let expected: Vec<String> = (0..2000_usize).filter(|n| n % 2 == partition).map(|n| n.to_string()).collect();
        assert_eq!(peer.payloads(partition), expected);
    }
    assert!(peer.store.lock().streams >= 5, "connections were lost");
}

#[tokio::test]
async fn without_a_name_a_lost_receipt_is_an_unknown_outcome() {
    let peer = Peer::start(1).await;
    let producer = peer.client().await.producer(TOPIC).build().await.expect("built");
    peer.store.lock().swallow = Some(1);
    let error = soon(producer.send(Message::new("once"))).await.expect_err("nobody can know");
    assert!(error.outcome_unknown(), "{error}");
    soon(producer.send(Message::new("next"))).await.expect("it reconnects");
    assert_eq!(peer.payloads(0), ["once", "next"]);
}

#[tokio::test]
async fn nothing_follows_a_message_that_failed_if_the_application_asked_for_it() {
    let peer = Peer::start(1).await;
    let producer = peer.client().await.producer(TOPIC).batch_bytes(1).stop_on_failure().build().await.expect("built");
    soon(producer.send(Message::new("first"))).await.expect("stored");
    peer.store.lock().swallow = Some(1);
    let lost = soon(producer.queue(Message::new("lost"))).await.expect("queued");
    assert!(soon(lost).await.expect_err("nobody can know").outcome_unknown());
    let error = soon(producer.send(Message::new("next"))).await.expect_err("it would leave a hole");
    assert!(matches!(error, Error::Behind { .. }) && !error.outcome_unknown(), "{error}");
    assert!(soon(producer.close()).await.is_err());
    assert_eq!(peer.payloads(0), ["first", "lost"]);
}

#[tokio::test]
async fn history_knows_where_earlier_runs_have_stored_a_message() {
    let peer = Peer::start(2).await;
    let client = peer.client().await;
    let builder = || client.producer(TOPIC).name("file");
    assert_eq!(soon(builder().history()).await.expect("claimed").last_sequence(1), None);
    let producer = builder().build().await.expect("built");
    for n in 0..10_u32 {
        soon(producer.send(Message::new(n.to_string()).partition(1))).await.expect("stored");
    }
    let mut history = soon(builder().history()).await.expect("claimed");
    assert_eq!((history.partitions(), history.last_sequence(0), history.last_sequence(1)), (2, None, Some(9)));
    assert_eq!(soon(history.offset(1, 7, &Message::new("7"))).await.expect("it is there"), Some(7));
    let error = soon(history.offset(1, 10, &Message::new("10"))).await.expect_err("it is not stored");
    assert!(matches!(error, Error::Sequence { partition: 1, expected: 10, given: 10 }), "{error}");
    assert_eq!(peer.payloads(1).len(), 10, "what is asked about is not stored again");
    let error = client.producer(TOPIC).history().await.expect_err("nobody's");
    assert_eq!(error.reason(), "PRODUCER_WITHOUT_NAME");
}

/// A program that publishes a fixed input is killed somewhere and begins anew.
#[tokio::test]
async fn a_restarted_program_goes_on_where_the_log_ends() {
    let peer = Peer::start(2).await;
    let client = peer.client().await;
    for run in 0..3_u32 {
        let producer = client.producer(TOPIC).name("file").build().await.expect("built");
        let mut sequences = [0_u64; 2];
        for line in 0..100_u32 * (run + 1) {
            let partition = line % 2;
            let sequence = sequences[partition as usize];
            sequences[partition as usize] += 1;
            let message = Message::new(line.to_string()).partition(partition).sequence(sequence);
            let pending = soon(producer.queue(message)).await.expect("queued");
            if line < 100 * run {
                assert!(soon(pending).await.expect("known").duplicate);
            }
        }
        // An application may as well ask, and skip by itself.
        let known = (run > 0).then(|| u64::from(run) * 50 - 1);
        assert_eq!(soon(producer.last_sequence(1)).await.expect("claimed"), known);
        soon(producer.flush()).await.expect("stored");
    }
    let odd: Vec<String> = (0..300_u32).filter(|n| n % 2 == 1).map(|n| n.to_string()).collect();
    assert_eq!(peer.payloads(1), odd);
}

#[tokio::test]
async fn a_sequence_that_is_not_next_is_refused_here() {
    let peer = Peer::start(1).await;
    let client = peer.client().await;
    let producer = client.producer(TOPIC).name("p").build().await.expect("built");
    let error = soon(producer.queue(Message::new("x").sequence(3))).await.expect_err("a gap");
    assert!(matches!(error, Error::Sequence { partition: 0, expected: 0, given: 3 }));
    let unnamed = client.producer(TOPIC).build().await.expect("built");
    let error = soon(unnamed.queue(Message::new("x").sequence(0))).await.expect_err("no name");
    assert_eq!(error.reason(), "SEQUENCE_WITHOUT_NAME");
}

/// D5.
#[tokio::test]
async fn of_two_producers_of_one_name_the_newer_wins() {
    let peer = Peer::start(1).await;
    let client = peer.client().await;
    let old = client.producer(TOPIC).name("p").build().await.expect("built");
    soon(old.send(Message::new("old"))).await.expect("stored");
    let new = client.producer(TOPIC).name("p").build().await.expect("built");
    soon(new.send(Message::new("new"))).await.expect("stored");
    let error = soon(old.send(Message::new("late"))).await.expect_err("fenced");
    assert_eq!(error.reason(), "PRODUCER_FENCED");
    assert!(soon(old.queue(Message::new("later"))).await.is_err(), "it takes no more");
    assert_eq!(peer.payloads(0), ["old", "new"]);
}

#[tokio::test]
async fn what_is_too_large_is_refused_here_with_its_limit() {
    let peer = Peer::start(1).await;
    let producer = peer.client().await.producer(TOPIC).build().await.expect("built");
    let error = soon(producer.queue(Message::new(vec![0; 6 << 20]))).await.expect_err("too large");
    assert_eq!(error.reason(), "MESSAGE_TOO_LARGE");
    assert!(error.to_string().contains(&(5 << 20).to_string()), "{error}");
    soon(producer.send(Message::new(vec![0; 5 << 20 >> 1]))).await.expect("a large one goes alone");
}

#[tokio::test]
async fn queueing_waits_while_the_window_is_full() {
    let peer = Peer::start(1).await;
    peer.store.lock().withhold = true;
    let producer = peer.client().await.producer(TOPIC).window_bytes(64 << 10).build().await.expect("built");
    let mut pending = Vec::new();
    let mut room = 0;
    while let Some(queued) = producer.queue(Message::new(vec![0; 1024])).now_or_never() {
        pending.push(queued.expect("queued"));
        room += 1;
        assert!(room < 100, "the window has an end");
    }
    assert!(room >= 40, "{room}");
    peer.store.lock().withhold = false;
    peer.cut();
    for pending in pending {
        let error = soon(pending).await.err();
        assert!(error.is_none_or(|e| e.outcome_unknown()));
    }
    soon(producer.send(Message::new("room again"))).await.expect("stored");
}

#[tokio::test]
async fn a_message_is_given_up_after_its_time() {
    let peer = Peer::start(1).await;
    peer.store.lock().withhold = true;
    let client = peer.client().await;
    let producer = client.producer(TOPIC).name("p").timeout(Duration::from_millis(50)).build().await.expect("built");
    let error = soon(producer.send(Message::new("x"))).await.expect_err("no receipt comes");
    assert!(error.outcome_unknown() && error.is_retryable(), "{error}");
    peer.store.lock().withhold = false;
    let error = soon(producer.send(Message::new("y"))).await;
    assert!(error.is_ok(), "it goes on: {error:?}");
    assert_eq!(peer.payloads(0), ["x", "y"]);
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named() {
    let error = alluvium_client::Client::connect("http://127.0.0.1:1").await.expect_err("nobody listens there");
    assert!(matches!(&error, Error::Unreachable { server, .. } if server == "http://127.0.0.1:1"));
    assert!(error.is_retryable() && !error.outcome_unknown());
}
