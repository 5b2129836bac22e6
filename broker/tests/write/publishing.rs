//! Batches in, receipts out, messages back.

use alluvium_proto::status::RemoteFault;
use alluvium_proto::v1;
use alluvium_proto::v1::Guarantee;
use bytes::Bytes;

use crate::bookie::Mood;
use crate::cluster::{Cluster, TOPIC, batch, config, eventually, info};

#[tokio::test]
async fn a_message_goes_to_a_ledger_and_comes_back() {
    let cluster = Cluster::start(1).await;
    let node = cluster.broker(config()).await;
    node.make_topic(1, v1::Policies::default()).await;
    assert_eq!(cluster.bookie().ledgers(), [], "nothing exists before it is needed");
    let mut stream = node.open(Guarantee::Quorum, "").await;
    stream.send(1, 0, 0, batch(0, &["a", "b"])).await;
    stream.send(2, 0, 0, batch(0, &["c"])).await;
    assert_eq!(stream.outcome().await, (1, Ok(0)));
    assert_eq!(stream.outcome().await, (2, Ok(2)));
    let texts = |found: Vec<(u64, Bytes)>| found.into_iter().map(|(offset, text)| (offset, text.to_vec())).collect::<Vec<_>>();
    assert_eq!(texts(node.read(0, 0).await), [(0, b"a".to_vec()), (1, b"b".to_vec()), (2, b"c".to_vec())]);
    assert_eq!(texts(node.read(0, 1).await).len(), 2);
    node.drain().await;
}

#[tokio::test]
async fn every_guarantee_is_receipted() {
    let cluster = Cluster::start(3).await;
    let node = cluster.broker(alluvium_broker::config::Config { replication: (3, 3, 2), ..config() }).await;
    node.make_topic(2, v1::Policies::default()).await;
    for guarantee in [Guarantee::None, Guarantee::Leader, Guarantee::Quorum] {
        let mut stream = node.open(guarantee, "").await;
        for id in 0..20 {
            stream.send(id, 1, 0, batch(0, &["x"])).await;
        }
        for id in 0..20 {
            assert_eq!(stream.outcome().await.0, id, "{guarantee:?}");
        }
    }
    eventually("all are stored", async || node.read(1, 0).await.len() == 60).await;
    node.drain().await;
}

#[tokio::test]
async fn the_unary_call_spreads_keys_and_keeps_the_order_of_ids() {
    let cluster = Cluster::start(1).await;
    let node = cluster.broker(config()).await;
    node.make_topic(4, v1::Policies::default()).await;
    let message = |key: &'static str, n: u32| v1::Message {
        key: Some(Bytes::from_static(key.as_bytes())),
        payload: Bytes::from(n.to_string()),
        ..Default::default()
    };
    let keys = ["a", "b", "c", "d", "e"];
    let messages: Vec<v1::Message> = (0..50).map(|n| message(keys[n as usize % keys.len()], n)).collect();
    let request = v1::PublishRequest { topic: TOPIC.to_owned(), messages, ..Default::default() };
    let ids = node.publisher().publish(request).await.expect("stored").into_inner().ids;
    assert_eq!(ids.len(), 50);
    for (n, id) in ids.iter().enumerate() {
        assert_eq!(id.partition, ids[n % keys.len()].partition, "a key stays in its partition");
        let found = node.read(id.partition, id.offset).await;
        assert_eq!(found[0], (id.offset, Bytes::from(n.to_string())));
    }
    node.drain().await;
}

#[tokio::test]
async fn bad_batches_are_refused_in_their_turn_with_field_and_reason_and_change_nothing() {
    let cluster = Cluster::start(1).await;
    let node = cluster.broker(config()).await;
    node.make_topic(1, v1::Policies::default()).await;
    let mut stream = node.open(Guarantee::Quorum, "").await;
    let good = batch(0, &["a"]);
    let spoiled = |spoil: fn(&mut v1::Batch)| {
        let mut bad = good.clone();
        spoil(&mut bad);
        bad
    };
    stream.send(1, 0, 0, good.clone()).await;
    stream.send(2, 0, 0, spoiled(|b| b.checksum ^= 1)).await;
    stream.send(3, 0, 0, spoiled(|b| b.codec = 7)).await;
    stream.send(4, 0, 0, spoiled(|b| b.count = 0)).await;
    stream.send(5, 0, 0, spoiled(|b| b.inflated_bytes = u32::MAX)).await;
    stream.send(6, 9, 0, good.clone()).await;
    stream.send(7, 0, 0, good.clone()).await;
    let mut outcomes = Vec::new();
    for _ in 0..7 {
        outcomes.push(stream.receipt().await);
    }
    outcomes.sort_by_key(|receipt| receipt.id);
    let said: Vec<(u64, String, String)> = outcomes
        .iter()
        .map(|r| {
            (
                r.id,
                r.fault.as_ref().map_or(String::new(), |f| f.reason.clone()),
                r.fault.clone().map_or(String::new(), |f| f.field),
            )
        })
        .collect();
    let expected = [
        (1, "", ""),
        (2, "BATCH_CHECKSUM", "batch.checksum"),
        (3, "UNKNOWN_CODEC", "batch.codec"),
        (4, "BATCH_COUNT", "batch.count"),
        (5, "BATCH_TOO_LARGE", "batch.inflated_bytes"),
    ];
    for (found, (id, reason, field)) in said.iter().zip(expected) {
        assert_eq!((found.0, found.1.as_str(), found.2.as_str()), (id, reason, field));
    }
    assert!(outcomes[5].fault.is_some(), "no such partition");
    assert_eq!(outcomes[6].first_offset, 1);
    assert_eq!(node.read(0, 0).await.len(), 2);
    node.drain().await;
}

#[tokio::test]
async fn d2_a_repeated_batch_is_told_its_offset_also_by_another_stream() {
    let cluster = Cluster::start(1).await;
    let node = cluster.broker(config()).await;
    node.make_topic(1, v1::Policies::default()).await;
    let mut old = node.open(Guarantee::Quorum, "p").await;
    let first = old.claim(0, None).await;
    assert_eq!((first.epoch, first.last_sequence, first.forgotten), (1, None, false));
    old.send(1, 0, first.epoch, batch(0, &["a", "b"])).await;
    assert_eq!(old.outcome().await, (1, Ok(0)));

    let mut new = node.open(Guarantee::Quorum, "p").await;
    let second = new.claim(0, Some(first.epoch)).await;
    assert_eq!((second.epoch, second.last_sequence, second.forgotten), (2, Some(1), false));
    new.send(1, 0, second.epoch, batch(0, &["a", "b"])).await;
    let receipt = new.receipt().await;
    assert!(receipt.duplicate && receipt.first_offset == 0 && receipt.fault.is_none());
    new.send(2, 0, second.epoch, batch(2, &["c"])).await;
    assert_eq!(new.outcome().await, (2, Ok(2)));
    old.send(2, 0, first.epoch, batch(2, &["z"])).await;
    assert_eq!(old.outcome().await, (2, Err("PRODUCER_FENCED".to_owned())));
    assert_eq!(node.read(0, 0).await.len(), 3);
    node.drain().await;
}

#[tokio::test]
async fn an_idempotent_producer_asks_for_quorum() {
    let cluster = Cluster::start(1).await;
    let node = cluster.broker(config()).await;
    node.make_topic(1, v1::Policies::default()).await;
    let refused = node.try_open(Guarantee::Leader, "p").await.err().expect("refused");
    assert_eq!(refused.code(), tonic::Code::InvalidArgument);
    node.drain().await;
}

#[tokio::test]
async fn a_full_storage_refuses_messages_and_serves_again_by_itself() {
    let cluster = Cluster::start(1).await;
    let node = cluster.broker(config()).await;
    node.make_topic(1, v1::Policies::default()).await;
    let request = |text: &'static str| v1::PublishRequest {
        topic: TOPIC.to_owned(),
        messages: vec![v1::Message { payload: Bytes::from_static(text.as_bytes()), ..Default::default() }],
        ..Default::default()
    };
    node.publisher().publish(request("a")).await.expect("stored");
    cluster.registrations[0].update(&info(false)).await.expect("said");
    eventually("the broker knows", async || !node.broker.live_bookies().values().any(|b| b.info.writable)).await;
    cluster.bookie().be(Mood::Full);
    let mut fault = None;
    eventually("messages are refused", async || {
        fault = node.publisher().publish(request("b")).await.err().map(|status| RemoteFault::from(&status));
        fault.is_some()
    })
    .await;
    let fault = fault.expect("refused");
    assert_eq!(fault.reason, "STORAGE_FULL");
    assert!(fault.retry_after.is_some());
    assert_eq!(node.read(0, 0).await.len(), 1, "reads are served");
    cluster.bookie().be(Mood::Well);
    cluster.registrations[0].update(&info(true)).await.expect("said");
    eventually("messages are taken", async || node.publisher().publish(request("c")).await.is_ok()).await;
    let texts: Vec<Bytes> = node.read(0, 0).await.into_iter().map(|(_, text)| text).collect();
    assert_eq!((&texts[0], texts.last().expect("some")), (&Bytes::from_static(b"a"), &Bytes::from_static(b"c")));
    node.drain().await;
}
