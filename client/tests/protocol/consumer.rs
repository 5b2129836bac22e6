//! Consumers and readers, over connections that are lost.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::peer::{Peer, TOPIC, soon};
use alluvium_client::{Message, Start};
use futures::FutureExt;

async fn published(partitions: usize, count: u32) -> Peer {
    let peer = Peer::start(partitions).await;
    let producer = peer.client().await.producer(TOPIC).build().await.expect("built");
    let modulus = u32::try_from(partitions).expect("few");
    for n in 0..count {
        let message = Message::new(n.to_string()).partition(n % modulus);
        let _pending = soon(producer.queue(message)).await.expect("queued");
    }
    soon(producer.close()).await.expect("stored");
    peer
}

#[tokio::test]
async fn what_is_acknowledged_is_durable_and_does_not_come_again() {
    let peer = published(1, 10).await;
    let client = peer.client().await;
    let mut consumer = client.consumer(TOPIC).subscription("s").start(Start::Earliest).build().await.expect("built");
    for offset in 0..5 {
        let delivery = soon(consumer.next()).await.expect("there").expect("sound");
        assert_eq!((delivery.offset, delivery.payload().as_ref()), (offset, offset.to_string().as_bytes()));
        soon(consumer.ack(&delivery)).await.expect("durable");
        assert!(peer.store.lock().acknowledged.contains(&(0, offset)));
    }
    soon(consumer.close()).await.expect("nothing is left");
    let mut again = client.consumer(TOPIC).subscription("s").build().await.expect("built");
    assert_eq!(soon(again.next()).await.expect("there").expect("sound").offset, 5);
}

/// S4: only what was not acknowledged comes again.
#[tokio::test]
async fn a_consumer_goes_on_over_lost_connections() {
    let peer = published(2, 2000).await;
    let mut consumer =
        peer.client().await.consumer(TOPIC).subscription("s").shared().prefetch(50, 1 << 20).build().await.expect("built");
    let mut seen = BTreeSet::new();
    let mut deliveries = 0;
    while seen.len() < 2000 {
        let delivery = soon(consumer.next()).await.expect("it goes on").expect("sound");
        deliveries += 1;
        consumer.ack_later(&delivery);
        seen.insert((delivery.partition, delivery.offset));
        if deliveries % 600 == 0 {
            peer.cut();
        }
    }
    soon(consumer.close()).await.expect("all acknowledgements are durable");
    assert_eq!(peer.store.lock().acknowledged.len(), 2000);
    assert!(peer.store.lock().streams > 3, "connections were lost");
}

#[tokio::test]
async fn closing_has_what_was_acknowledged_last_stored_over_a_lost_connection() {
    let peer = published(1, 100).await;
    let mut consumer = peer.client().await.consumer(TOPIC).subscription("s").build().await.expect("built");
    for _ in 0..100 {
        let delivery = soon(consumer.next()).await.expect("there").expect("sound");
        consumer.ack_later(&delivery);
    }
    peer.cut();
    soon(consumer.close()).await.expect("it reconnects to leave");
    assert_eq!(peer.store.lock().acknowledged.len(), 100);
}

#[tokio::test]
async fn a_credit_of_one_means_one() {
    let peer = published(1, 3).await;
    let mut consumer = peer.client().await.consumer(TOPIC).subscription("s").prefetch(1, 1 << 20).build().await.expect("built");
    let first = soon(consumer.next()).await.expect("there").expect("sound");
    soon(consumer.ack(&first)).await.expect("durable");
    // The application has one: no other is granted before it comes back, so the second can't be here yet.
    assert!(consumer.next().now_or_never().is_none());
    assert_eq!(soon(consumer.next()).await.expect("there").expect("sound").offset, 1);
}

#[tokio::test]
async fn what_is_given_back_comes_again() {
    let peer = published(1, 2).await;
    let mut consumer = peer.client().await.consumer(TOPIC).subscription("s").prefetch(1, 1 << 20).build().await.expect("built");
    let first = soon(consumer.next()).await.expect("there").expect("sound");
    consumer.nack(&first, Duration::ZERO);
    assert_eq!(soon(consumer.next()).await.expect("there").expect("sound").offset, first.offset);
}

#[tokio::test]
async fn acknowledging_goes_on_while_nobody_takes_deliveries() {
    let peer = published(1, 1000).await;
    let mut consumer = peer.client().await.consumer(TOPIC).subscription("s").build().await.expect("built");
    let acker = consumer.acker();
    let first = soon(consumer.next()).await.expect("there").expect("sound");
    // The window is full of others by now or soon; the receipt gets past them.
    soon(acker.ack(&first)).await.expect("durable");
}

#[tokio::test]
async fn a_reader_sees_every_message_once_and_in_order_over_lost_connections() {
    let peer = published(2, 3000).await;
    let client = peer.client().await;
    let mut reader = client.reader(TOPIC).prefetch(100, 1 << 20).stop_at_end().build().await.expect("built");
    let mut next = [0_u64; 2];
    let mut count = 0;
    while let Some(delivery) = soon(reader.next()).await {
        let delivery = delivery.expect("sound");
        let expected = &mut next[delivery.partition as usize];
        assert_eq!(delivery.offset, *expected);
        *expected += 1;
        count += 1;
        if count % 700 == 0 {
            peer.cut();
        }
    }
    assert_eq!(next, [1500, 1500], "it ends at what was the end");
}

#[tokio::test]
async fn a_reader_follows_what_comes_later() {
    let peer = published(1, 5).await;
    let client = peer.client().await;
    let mut reader = client.reader(TOPIC).start(Start::Latest).build().await.expect("built");
    let producer = client.producer(TOPIC).build().await.expect("built");
    soon(producer.send(Message::new("new"))).await.expect("stored");
    let delivery = soon(reader.next()).await.expect("there").expect("sound");
    assert_eq!((delivery.offset, delivery.payload().as_ref()), (5, b"new".as_slice()));
}
