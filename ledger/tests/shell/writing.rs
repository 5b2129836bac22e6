//! Writing through the shell.

use std::sync::Arc;
use std::time::Duration;

use alluvium_ledger::client::{AppendError, End, Lost, NewLedger, NotClosed, Predecessor, PrepareError, Unconfirmed};
use alluvium_ledger::open::CreationFailure;
use alluvium_ledger::reader::ReadRange;
use alluvium_ledger::writer::{Death, HandBack};
use alluvium_ledger::{Config, LedgerWriter};
use alluvium_types::bookie::Refusal;
use alluvium_types::checksum::Crc32c;
use alluvium_types::ids::Epoch;
use alluvium_types::ledger::{LedgerClass, LedgerState};
use alluvium_types::replication::Replication;
use bytes::Bytes;

use crate::bookie::{b, body, e};
use crate::cluster::{Cluster, Mood, soon, until};

pub(crate) async fn fill(writer: &LedgerWriter, count: u64) {
    for number in 0..count {
        let body = body(e(number));
        let crc = Crc32c::of(&body);
        let confirmed = soon(writer.append(body, crc).unwrap()).await.unwrap();
        assert_eq!(confirmed.entry, e(number));
    }
}

pub(crate) fn all(last: u64) -> ReadRange {
    ReadRange { first: e(0), last: e(last), bytes_max: 1 << 20, lac: None }
}

fn append(writer: &LedgerWriter, bytes: usize) -> Result<alluvium_ledger::client::Append, AppendError> {
    let body = Bytes::from(vec![1; bytes]);
    let crc = Crc32c::of(&body);
    writer.append(body, crc)
}

#[tokio::test]
async fn what_is_appended_is_confirmed_in_order_closed_and_read_back() {
    let cluster = Cluster::start(4).await;
    let writer = cluster.ledger(Replication::DEFAULT).await;
    let mut lac = writer.follow_lac();
    let appends: Vec<_> = (0..50)
        .map(|number| {
            let body = body(e(number));
            let crc = Crc32c::of(&body);
            writer.append(body, crc).unwrap()
        })
        .collect();
    for (number, append) in (0..).zip(appends) {
        assert_eq!(soon(append).await.unwrap().entry, e(number));
    }
    soon(lac.wait_for(|lac| *lac == Some(e(49)))).await.unwrap();
    let end = soon(writer.close()).await;
    let End::Closed(record) = &*end else { panic!("{end:?}") };
    assert_eq!(record.value.state, LedgerState::Closed { last: Some(e(49)) });
    assert_eq!(cluster.ledgers.ledgers().get(writer.ledger()).await.unwrap().unwrap(), *record);
    assert_eq!(append(&writer, 1).unwrap_err(), AppendError::Ended);
    let entries = soon(cluster.ledgers.read(&record.value, all(100))).await.unwrap();
    assert_eq!(entries.len(), 50);
    assert!((0..).zip(&entries).all(|(number, stored)| stored.entry == e(number) && stored.body == body(e(number))));
}

#[tokio::test]
async fn a_leader_receipt_comes_with_the_first_disk() {
    let cluster = Cluster::start(3).await;
    let writer = cluster.ledger(Replication::DEFAULT).await;
    cluster.bookie(0).be(Mood::Frozen);
    cluster.bookie(1).be(Mood::Frozen);
    let mut append = append(&writer, 10).unwrap();
    assert_eq!(soon(append.leader()).await, Ok(e(0)));
    assert_eq!(writer.lac(), None);
    cluster.bookie(0).be(Mood::Well);
    assert_eq!(soon(append).await.unwrap().entry, e(0));
}

#[tokio::test]
async fn q6_bytes_are_counted_until_the_last_copy_is_released_and_a_full_writer_says_busy() {
    let config = Config { writer_bytes_max: 1 << 20, background_bytes_max: 1 << 20, ..Config::default() };
    let cluster = Cluster::start_with(3, config).await;
    let writer = cluster.ledger(Replication::DEFAULT).await;
    cluster.bookie(2).be(Mood::Frozen);
    for _ in 0..2 {
        soon(append(&writer, 400 << 10).unwrap()).await.unwrap();
    }
    assert!(writer.bytes_held() >= 800 << 10, "confirmed, and still on its way to one");
    assert_eq!(append(&writer, 400 << 10).unwrap_err(), AppendError::Busy);
    let waits = {
        let writer = writer.clone();
        async move {
            let body = Bytes::from(vec![2; 400 << 10]);
            let crc = Crc32c::of(&body);
            writer.append_in_turn(body, crc).await.unwrap().await
        }
    };
    cluster.bookie(2).be(Mood::Well);
    assert_eq!(soon(waits).await.unwrap().entry, e(2));
    until(|| writer.bytes_held() == 0).await;
}

#[tokio::test]
async fn c36_an_entry_past_the_limit_is_refused_at_once() {
    let cluster = Cluster::start(1).await;
    let writer = cluster.ledger(Replication::SINGLE).await;
    assert!(matches!(append(&writer, 40 << 20).unwrap_err(), AppendError::TooLarge { .. }));
    fill(&writer, 1).await;
}

#[tokio::test]
async fn c19_a_writer_whose_ledger_is_recovered_is_lost_and_its_entries_are_unknown() {
    let cluster = Cluster::start(3).await;
    let writer = cluster.ledger(Replication::DEFAULT).await;
    fill(&writer, 3).await;
    let record = soon(cluster.ledgers.recover(writer.ledger())).await.unwrap();
    assert_eq!(record.value.state, LedgerState::Closed { last: Some(e(2)) });
    assert_eq!(soon(append(&writer, 10).unwrap()).await, Err(Unconfirmed::Unknown));
    let end = soon(writer.ended()).await;
    assert!(matches!(&*end, End::Lost(Lost::Dead(Death::Fenced))), "{end:?}");
    assert_eq!(append(&writer, 10).unwrap_err(), AppendError::Ended);
    // A close of it says the same.
    assert!(Arc::ptr_eq(&soon(writer.close()).await, &end));
    assert_eq!(soon(cluster.ledgers.recover(writer.ledger())).await.unwrap(), record, "found closed");
}

#[tokio::test]
async fn a_dead_bookie_is_replaced_and_nothing_is_lost() {
    let cluster = Cluster::start(4).await;
    let writer = cluster.ledger(Replication::DEFAULT).await;
    fill(&writer, 3).await;
    let member = writer.record().value.last_fragment().ensemble[0].clone();
    cluster.bookies[&member].with(writer.ledger(), |table| table.refuses = Some(Refusal::ReadOnly));
    for _ in 0..3 {
        soon(append(&writer, 10).unwrap()).await.unwrap();
    }
    until(|| writer.record().value.fragments.len() == 2).await;
    let metrics = cluster.ledgers.metrics();
    assert_eq!((metrics.writers.get(), metrics.record_changes.get(), metrics.ensemble_changes.get()), (1, 1, 1));
    assert_eq!(
        (metrics.confirmed.get(), metrics.writers_under_replicated.get()),
        (6, i64::from(writer.record().value.is_under_replicated()))
    );
    assert!(!writer.record().value.last_fragment().ensemble.contains(&member));
    assert!(cluster.ledgers.pool().candidates().iter().any(|c| c.bookie == member && c.suspect));
    let end = soon(writer.close()).await;
    assert!(matches!(&*end, End::Closed(_)), "{end:?}");
}

#[tokio::test]
async fn c54_a_suspect_that_begins_anew_is_no_suspect() {
    let cluster = Cluster::start(3).await;
    let pool = cluster.ledgers.pool();
    let is_suspect = || pool.candidates().iter().any(|c| c.bookie == b(0) && c.suspect);
    pool.suspect(&b(0));
    assert!(is_suspect());
    let info = cluster.metadata.bookies().live(&b(0).name).await.unwrap().unwrap().value.info;
    let again = cluster.metadata.bookies().register(&b(0), &info, Duration::from_secs(60)).await.unwrap();
    until(|| !is_suspect()).await;
    pool.suspect(&b(0));
    assert!(is_suspect(), "the new one can be suspected too");
    drop(again);
}

#[tokio::test]
async fn c63_what_cannot_be_confirmed_is_handed_back_with_what_had_not_had_its_turn() {
    let cluster = Cluster::start(3).await;
    let writer = cluster.ledger(Replication::DEFAULT).await;
    fill(&writer, 2).await;
    for number in 0..3 {
        cluster.bookie(number).with(writer.ledger(), |table| table.refuses = Some(Refusal::TooLarge));
    }
    let appends: Vec<_> = (0..5).map(|_| append(&writer, 10).unwrap()).collect();
    for append in appends {
        assert_eq!(soon(append).await, Err(Unconfirmed::HandedBack));
    }
    let end = soon(writer.ended()).await;
    let End::HandedBack { record, why, entries } = &*end else { panic!("{end:?}") };
    assert_eq!(*why, HandBack::TooLarge { entry: e(2) });
    assert_eq!(record.value.state, LedgerState::Closed { last: Some(e(1)) });
    assert_eq!(entries.iter().map(|back| back.entry).collect::<Vec<_>>(), (2..7).map(e).collect::<Vec<_>>());
    assert!(entries.iter().all(|back| back.body.len() == 10));
}

#[tokio::test]
async fn c68_c63_a_ledger_is_prepared_on_those_that_answer() {
    let config = Config { open_timeout_ms: 50, ..Config::default() };
    let cluster = Cluster::start_with(3, config).await;
    cluster.bookie(1).be(Mood::Frozen);
    let writer = cluster.ledger(Replication::DEFAULT).await;
    assert_eq!(writer.record().value.replication, Replication::new(2, 2, 2).unwrap());
    fill(&writer, 2).await;
    cluster.bookie(2).be(Mood::Dead);
    let new = NewLedger { epoch: Epoch::new(1), class: LedgerClass::Bulk, wanted: Replication::DEFAULT };
    let failed = soon(cluster.ledgers.prepare(new)).await.unwrap_err();
    assert!(matches!(failed, PrepareError::Bookies(CreationFailure::TooFewBookies(_))), "{failed}");
    assert!(failed.is_retryable());
}

#[tokio::test]
async fn c66_a_ledger_that_continues_another_needs_proof_that_it_is_closed() {
    let cluster = Cluster::start(3).await;
    let first = cluster.ledger(Replication::DEFAULT).await;
    // Opened ahead, listed, and waiting.
    let new = NewLedger { epoch: Epoch::new(3), class: LedgerClass::Bulk, wanted: Replication::DEFAULT };
    let ahead = soon(cluster.ledgers.prepare(new)).await.unwrap();
    let listed = cluster.ledgers.ledgers().create(ahead.metadata().clone()).await.unwrap();
    fill(&first, 1).await;
    assert_eq!(Predecessor::closed(&first.record()), Err(NotClosed(first.ledger())));
    let end = soon(first.close()).await;
    let End::Closed(record) = &*end else { panic!("{end:?}") };
    let second = ahead.start(listed, Predecessor::closed(record).unwrap());
    fill(&second, 1).await;
}

#[tokio::test]
async fn an_abandoned_ledger_leaves_the_bookies() {
    let cluster = Cluster::start(3).await;
    let new = NewLedger { epoch: Epoch::new(3), class: LedgerClass::Bulk, wanted: Replication::DEFAULT };
    let prepared = soon(cluster.ledgers.prepare(new)).await.unwrap();
    let ledger = prepared.metadata().ledger;
    assert!(cluster.bookie(0).with(ledger, |table| table.known));
    soon(prepared.abandon()).await;
    assert!(!cluster.bookie(0).with(ledger, |table| table.known));
    let tombstone = cluster.ledgers.ledgers().get(ledger).await.unwrap().unwrap();
    assert_eq!(tombstone.value.state, LedgerState::Deleting, "the bookies' proof");

    // One whose record was committed after all is left alone.
    let prepared = soon(cluster.ledgers.prepare(new)).await.unwrap();
    let record = cluster.ledgers.ledgers().create(prepared.metadata().clone()).await.unwrap();
    let ledger = record.value.ledger;
    soon(prepared.abandon()).await;
    assert_eq!(cluster.ledgers.ledgers().get(ledger).await.unwrap(), Some(record));
    assert!((0..3).any(|number| cluster.bookie(number).with(ledger, |table| table.known)));
}

#[tokio::test]
async fn a_dropped_writer_finishes_what_it_took_and_leaves_the_ledger_open() {
    let cluster = Cluster::start(3).await;
    let writer = cluster.ledger(Replication::DEFAULT).await;
    let ledger = writer.ledger();
    for number in 0..3 {
        cluster.bookie(number).be(Mood::Frozen);
    }
    let taken = append(&writer, 10).unwrap();
    drop(writer);
    for number in 0..3 {
        cluster.bookie(number).be(Mood::Well);
    }
    assert_eq!(soon(taken).await.unwrap().entry, e(0));
    assert_eq!(cluster.ledgers.ledgers().get(ledger).await.unwrap().unwrap().value.state, LedgerState::Open);
    assert_eq!(soon(cluster.ledgers.recover(ledger)).await.unwrap().value.closed_at(), Some(Some(e(0))));
}

#[tokio::test]
async fn when_the_process_stops_waiting_appends_are_unknown() {
    let cluster = Cluster::start(3).await;
    let writer = cluster.ledger(Replication::DEFAULT).await;
    for number in 0..3 {
        cluster.bookie(number).be(Mood::Frozen);
    }
    let taken = append(&writer, 10).unwrap();
    cluster.tasks.stop();
    assert_eq!(soon(taken).await, Err(Unconfirmed::Unknown));
    assert!(matches!(&*soon(writer.ended()).await, End::Lost(Lost::Left)));
}

#[tokio::test]
async fn m7_appends_leave_metadata_alone() {
    let cluster = Cluster::start(3).await;
    let writer = cluster.ledger(Replication::DEFAULT).await;
    let before = cluster.ledgers.ledgers().get(writer.ledger()).await.unwrap();
    fill(&writer, 100).await;
    assert_eq!(cluster.ledgers.ledgers().get(writer.ledger()).await.unwrap(), before, "nothing per entry in metadata");
}

#[tokio::test]
async fn the_bookies_learn_the_lac_when_the_writer_idles() {
    let cluster = Cluster::start(3).await;
    let writer = cluster.ledger(Replication::DEFAULT).await;
    fill(&writer, 2).await;
    until(|| (0..3).all(|number| cluster.bookie(number).with(writer.ledger(), |table| table.lac) == Some(e(1)))).await;
}
