//! What is lost is reported and gone past (T6); what is only not answered is tried again, and said.

use alluvium_broker::topic::ReadFault;
use alluvium_proto::v1;
use alluvium_proto::v1::Guarantee;
use alluvium_proto::v1::read_response::Response as ReadResponse;
use alluvium_types::ids::{EntryId, Offset, PartitionIndex};
use alluvium_types::names::TopicName;

use crate::bookie::Mood;
use crate::cluster::{Cluster, Node, TOPIC, batch, config, eventually};
use crate::consuming::{Consuming, Reading, consumer, of, pull, stats};

const MESSAGES: u64 = 200;

/// A broker that has nothing in memory of a topic whose entries hold a message each; these are lost.
async fn with_losses(lost: impl IntoIterator<Item = u64>) -> (Cluster, Node) {
    let cluster = Cluster::start(1).await;
    let node = cluster.broker(config()).await;
    node.make_topic(1, v1::Policies::default()).await;
    let mut stream = node.open(Guarantee::Quorum, "").await;
    for n in 0..MESSAGES {
        stream.send(n, 0, 0, batch(0, &["m"])).await;
        assert_eq!(stream.outcome().await, (n, Ok(n)));
    }
    drop(stream);
    node.drain().await;
    let ledger = cluster.bookie().ledgers()[0].0;
    for entry in lost {
        cluster.bookie().lose(ledger, EntryId::new(entry));
    }
    let node = cluster.broker(config()).await;
    (cluster, node)
}

#[tokio::test]
async fn t6_a_loss_of_any_length_is_reported_wherever_reading_begins() {
    // Past 64 lost entries nobody looked for what lies behind, and who began within a loss read what lies before it for ever.
    let (_cluster, node) = with_losses((0..3).chain(50..150).chain(190..MESSAGES)).await;
    let topic = node.broker.topic(&TopicName::parse(TOPIC).expect("valid")).await.expect("there");
    for from in [0, 1, 50, 51, 100, 149, 190, 195] {
        let handle = node.broker.partition(&topic, PartitionIndex::default()).await.expect("opens");
        let end = [3, 150, MESSAGES].into_iter().find(|end| *end > from).expect("one of them");
        let fault = handle.reader().read(Offset::new(from), 1 << 20).await.expect_err("lost");
        let ReadFault::Lost { first, end: found, .. } = fault else { panic!("{from}: {fault}") };
        assert_eq!((first.get(), found.get()), (from, end));
    }
    assert!(node.metrics.unreadable_entries.get() > 100, "they are counted");
    let mut reading = Reading::open(&node, Some(v1::Position { at: Some(v1::position::At::Offset(0)) })).await;
    let (mut offsets, mut faults) = (Vec::new(), Vec::new());
    // A fault overtakes messages.
    while faults.len() < 3 || offsets.len() < 87 {
        match reading.next().await {
            ReadResponse::Delivery(d) => offsets.extend(d.messages.iter().map(|m| m.offset)),
            ReadResponse::Fault(fault) => faults.push(of(fault)),
            ReadResponse::Opened(_) => panic!("opened twice"),
        }
    }
    assert_eq!(offsets, (3..50).chain(150..190).collect::<Vec<u64>>());
    let reason = || "MESSAGES_UNREADABLE".to_owned();
    assert_eq!(faults, [(reason(), 0, 2), (reason(), 50, 149), (reason(), 190, MESSAGES - 1)]);
    drop(reading);
    node.drain().await;
}

#[tokio::test]
async fn t6_a_subscription_behind_a_loss_says_what_waits_and_for_what() {
    let (_cluster, node) = with_losses(50..150).await;
    let mut first = Consuming::open(&node, "one", false).await.expect("subscribed");
    assert_eq!(first.take(50).await.len(), 50);
    let lost = ("MESSAGES_UNREADABLE".to_owned(), 50, 149);
    assert_eq!(first.fault().await, lost);
    let found = stats(&node).await;
    assert_eq!((found.backlog, found.in_flight, found.delayed), (200, 50, 100), "{found:?}");
    assert_eq!((found.unreadable, found.blocked), (100, 50), "nothing is left to deliver: {found:?}");
    // Who comes later heard nothing until it was tried again, after a minute.
    let mut second = Consuming::open(&node, "two", true).await.expect("taken over");
    assert_eq!(second.fault().await, lost);
    assert_eq!(second.take(50).await.len(), 50);
    // The messages are given up: the others come.
    assert_eq!(second.ack(0, 149).await, None);
    assert_eq!(second.take(50).await, (150..200).map(|offset| (0, offset)).collect::<Vec<_>>());
    let found = stats(&node).await;
    assert_eq!((found.backlog, found.in_flight, found.unreadable, found.blocked), (50, 50, 0, 0), "{found:?}");
    drop((first, second));
    node.drain().await;
}

#[tokio::test]
async fn t6_pulls_report_a_loss_and_give_what_lies_behind_it() {
    let (_cluster, node) = with_losses(0..120).await;
    let mut found = Vec::new();
    for _ in 0..2 {
        let pulled = consumer(&node).pull(pull(10_000)).await.expect("pulled").into_inner();
        assert_eq!(of(pulled.faults[0].clone()), ("MESSAGES_UNREADABLE".to_owned(), 0, 119), "each is told");
        found.extend(pulled.messages.iter().filter_map(|m| m.message.as_ref()).map(|m| m.offset));
    }
    assert!(!found.is_empty() && found.iter().all(|offset| *offset >= 120), "{found:?}");
    node.drain().await;
}

#[tokio::test]
async fn a_bookie_that_is_away_is_waited_for_and_nothing_is_taken_as_lost() {
    let (cluster, node) = with_losses([]).await;
    let mut reading = Reading::open(&node, None).await;
    assert_eq!(reading.take(200).await.len(), 200);
    drop(reading);
    cluster.bookie().be(Mood::Away);
    let mut reading = Reading::open(&node, None).await;
    eventually("it is tried again", async || node.metrics.unanswered_reads.get() >= 3).await;
    assert_eq!(node.metrics.unreadable_entries.get(), 0);
    cluster.bookie().be(Mood::Well);
    assert_eq!(reading.take(200).await.len(), 200);
    drop(reading);
    node.drain().await;
}
