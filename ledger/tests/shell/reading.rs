//! Reading, tailing and finding through the shell.

use std::time::Duration;

use alluvium_ledger::reader::{ReadFailure, ReadRange};
use alluvium_types::batch::BatchHeader;
use alluvium_types::bookie::FindKey;
use alluvium_types::checksum::Crc32c;
use alluvium_types::entry::{BatchDescriptor, EntryHeader};
use alluvium_types::ids::Offset;
use alluvium_types::replication::Replication;
use alluvium_types::time::Timestamp;
use bytes::BytesMut;

use crate::bookie::e;
use crate::cluster::{Cluster, Mood, soon, until};
use crate::writing::{all, fill};

#[tokio::test]
async fn an_open_ledger_is_read_up_to_the_lac_that_its_bookies_tell() {
    let cluster = Cluster::start(3).await;
    let writer = cluster.ledger(Replication::DEFAULT).await;
    let metadata = writer.record().value;
    fill(&writer, 3).await;
    let lac = soon(cluster.ledgers.wait_for_lac(&metadata, Some(e(1)), Duration::from_secs(5))).await;
    assert_eq!(lac, Some(e(2)));
    let entries = soon(cluster.ledgers.read(&metadata, ReadRange { lac, ..all(100) })).await.unwrap();
    assert_eq!(entries.len(), 3);
    let nothing_new = soon(cluster.ledgers.wait_for_lac(&metadata, lac, Duration::from_millis(20))).await;
    assert_eq!(nothing_new, lac);
    let beyond = soon(cluster.ledgers.read(&metadata, ReadRange { first: e(3), lac, ..all(100) })).await;
    assert_eq!(beyond, Err(ReadFailure::Beyond { first: e(3) }));
}

#[tokio::test]
async fn a_read_survives_a_frozen_and_a_dead_bookie() {
    let cluster = Cluster::start(3).await;
    let writer = cluster.ledger(Replication::DEFAULT).await;
    fill(&writer, 5).await;
    until(|| writer.bytes_held() == 0).await;
    soon(writer.close()).await;
    cluster.bookie(0).be(Mood::Frozen);
    cluster.bookie(1).be(Mood::Dead);
    let entries = soon(cluster.ledgers.read(&writer.record().value, all(100))).await.unwrap();
    assert_eq!(entries.len(), 5);
}

#[tokio::test]
async fn an_entry_is_found_by_offset_and_by_time_whichever_bookies_hold_it() {
    let cluster = Cluster::start(5).await;
    let writer = cluster.ledger(Replication::new(5, 3, 2).unwrap()).await;
    // Ten messages an entry, one entry a second.
    for number in 0..20_u64 {
        let header = EntryHeader {
            first_offset: Offset::new(1000 + number * 10),
            server_time: Timestamp::from_millis(number * 1000),
            batches: vec![BatchDescriptor {
                header: BatchHeader { count: 10, ..BatchHeader::default() },
                checksum: Crc32c::EMPTY,
                blob_bytes: 0,
                producer: None,
            }],
        };
        let body = BytesMut::from(&header.encode()[..]).freeze();
        let crc = Crc32c::of(&body);
        soon(writer.append(body, crc).unwrap()).await.unwrap();
    }
    let metadata = writer.record().value;
    let ledgers = &cluster.ledgers;
    let find = |key| async move { soon(ledgers.find(&metadata, key, e(19))).await };
    let by_offset = |offset| FindKey::Offset(Offset::new(offset));
    let by_time = |millis| FindKey::Time(Timestamp::from_millis(millis));
    for (key, expected) in [
        (by_offset(1000), Some(e(0))),
        (by_offset(1057), Some(e(5))),
        (by_offset(999), None),
        (by_offset(9999), Some(e(19))),
        (by_time(0), Some(e(0))),
        (by_time(6500), Some(e(7))),
        (by_time(19_001), None),
    ] {
        assert_eq!(find.clone()(key).await, Ok(expected), "{key:?}");
    }
    cluster.bookie(0).be(Mood::Dead);
    assert_eq!(find.clone()(by_offset(1057)).await, Ok(Some(e(5))));
    cluster.bookie(1).be(Mood::Dead);
    assert!(find(by_offset(1057)).await.is_err(), "two of three that hold some entries are away: it is not certain");
}

#[tokio::test]
async fn t6_what_is_left_behind_a_loss_is_found_however_far_it_lies() {
    let cluster = Cluster::start(3).await;
    let writer = cluster.ledger(Replication::DEFAULT).await;
    fill(&writer, 300).await;
    until(|| writer.bytes_held() == 0).await;
    soon(writer.close()).await;
    let metadata = writer.record().value;
    // Each bookie still has something else; entry 250 is the first that anybody has behind 20.
    for (number, kept) in (0..).zip([290, 250, 270]) {
        cluster.bookie(number).with(metadata.ledger, |table| {
            table.entries.retain(|entry, _| *entry <= e(20) || *entry >= e(kept));
        });
    }
    let next = async |first, up_to| soon(cluster.ledgers.next_stored(&metadata, e(first), e(up_to))).await;
    assert_eq!(next(20, 299).await, Ok(Some(e(20))));
    assert_eq!(next(21, 299).await, Ok(Some(e(250))));
    assert_eq!(next(21, 249).await, Ok(None));
    // Whoever is away might have an earlier one.
    cluster.bookie(0).be(Mood::Dead);
    assert!(next(21, 299).await.is_err());
    assert_eq!(next(20, 299).await, Ok(Some(e(20))), "nothing comes before it");
}
