//! A running bookie: pipelined adds, streams, reads beside them, crashes and restarts, a disk that fails or fills.

mod support;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use alluvium_bookie::bookie::{Bookie, Parts};
use alluvium_bookie::config::SpaceConfig;
use alluvium_bookie::identity::Identity;
use alluvium_bookie::metrics::Metrics;
use alluvium_bookie::space::Admission;
use alluvium_runtime::clock::Clock;
use alluvium_runtime::disk::SyncMode;
use alluvium_runtime::entropy::Entropy;
use alluvium_runtime::tasks::Tasks;
use alluvium_types::batch::BatchHeader;
use alluvium_types::bookie::{AdvanceLac, EntryAnswer, Find, FindKey, Missing, OpenLedger, ReadEntries, ReadRefusal, Refusal};
use alluvium_types::checksum::Crc32c;
use alluvium_types::entry::{BatchDescriptor, EntryHeader};
use alluvium_types::ids::{ClusterId, Incarnation, Offset};
use alluvium_types::ledger::LedgerClass;
use alluvium_types::names::BookieName;
use alluvium_types::time::Timestamp;
use bytes::{BufMut, Bytes, BytesMut};
use futures::future::join_all;
use support::disk::FaultyDisk;
use support::house::{DEADLINE, House, beside, until};
use support::{EPOCH, L, add, body, e, fencing_read, l, open, r, read, recovery_add};

/// A bookie on a disk that a test breaks or fills.
async fn on_faulty_disk(house: &House, disk: &FaultyDisk, tasks: &Tasks) -> Bookie {
    let identity = Identity {
        cluster: ClusterId::new(house.entropy.uuid()),
        bookie: BookieName::parse("b1").expect("valid"),
        incarnation: Incarnation::new(house.entropy.uuid()),
        log_begun: false,
    };
    let parts = Parts {
        config: house.config.clone(),
        identity,
        disk: Arc::new(disk.clone()),
        mode: SyncMode::Buffered,
        lock: None,
        clock: Clock::system(),
        entropy: Entropy::seeded(2),
        tasks: tasks.clone(),
        metrics: Metrics::unregistered(),
    };
    tasks.block(move || Bookie::open(parts)).await.expect("it opens")
}

async fn open_in(bookie: &Bookie, ledgers: impl IntoIterator<Item = u64>) {
    for ledger in ledgers {
        bookie.open_ledger(open(l(ledger))).await.expect("opened");
    }
}

#[tokio::test]
async fn b1_pipelined_adds_are_all_there_after_a_kill() {
    let house = House::new();
    let life = house.start().await;
    let bookie = &life.running.bookie;
    open_in(bookie, [7]).await;
    let adds = (0..300).map(|entry| bookie.add(add(L, entry, body(L, entry, 3000))));
    assert!(join_all(adds).await.into_iter().all(|answer| answer == Ok(())));
    life.kill().await;
    let life = house.start().await;
    let answer = life.running.bookie.read(read(L, 0, 299)).await.expect("known");
    assert!(answer.entries.iter().take(200).all(|entry| matches!(entry, EntryAnswer::Found(_))));
    life.stop().await;
}

#[tokio::test]
async fn a_stop_in_good_order_finishes_what_was_taken_and_leaves_a_whole_log() {
    let house = House::new();
    let life = house.start().await;
    let bookie = life.running.bookie.clone();
    open_in(&bookie, [7]).await;
    let taken: Vec<_> = (0..50).map(|entry| bookie.add(add(L, entry, body(L, entry, 2000)))).collect();
    life.stop().await;
    assert!(join_all(taken).await.into_iter().all(|answer| answer == Ok(())));
    assert_eq!(bookie.add(add(L, 50, body(L, 50, 10))).await, Err(Refusal::Stopping));
    assert_eq!(bookie.read(read(L, 0, 0)).await, Err(ReadRefusal::Stopping));
    let life = house.start().await;
    let report = life.running.bookie.stats().report;
    assert!(report.clean_shutdown && report.torn.is_none(), "{report:?}");
    life.stop().await;
}

#[tokio::test]
async fn a_streams_answers_come_together_and_end_with_the_stream() {
    let house = House::new();
    let life = house.start().await;
    let bookie = &life.running.bookie;
    open_in(bookie, [7]).await;
    let mut stream = bookie.add_stream();
    let mut answers = stream.answers();
    let taking = beside(async move {
        let (mut added, mut times) = (Vec::new(), 0);
        while let Some(more) = answers.next().await {
            added.extend(more);
            times += 1;
        }
        (added, times)
    });
    for entry in 0..200 {
        stream.push(add(L, entry, body(L, entry, 5000))).await;
        stream.advance_lac(&AdvanceLac { ledger: L, epoch: EPOCH, lac: e(entry) });
    }
    stream.push(add(l(99), 0, body(l(99), 0, 10))).await;
    drop(stream);
    let (added, times) = taking.await.expect("it ends");
    assert_eq!(added.len(), 201);
    assert!(times < 201, "{times} times for 201 answers");
    assert!(added.iter().filter(|a| a.ledger == L).all(|a| a.outcome == Ok(())));
    assert!(added.iter().any(|a| a.ledger == l(99) && a.outcome == Err(Refusal::UnknownLedger)));
    life.stop().await;
}

#[tokio::test]
async fn b8_c34_a_failed_sync_ends_the_process_and_nothing_more_is_acknowledged() {
    let house = House::new();
    let (tasks, mut fatal) = Tasks::new();
    let disk = FaultyDisk::new(1 << 30);
    let bookie = on_faulty_disk(&house, &disk, &tasks).await;
    open_in(&bookie, [7]).await;
    assert_eq!(bookie.add(add(L, 0, body(L, 0, 10))).await, Ok(()));
    // The idle mark is a write as well: whichever comes first meets the broken disk.
    disk.0.fail_once.store(true, Ordering::SeqCst);
    assert_eq!(bookie.add(add(L, 1, body(L, 1, 10))).await, Err(Refusal::Stopping));
    assert_eq!(bookie.add(add(L, 2, body(L, 2, 10))).await, Err(Refusal::Stopping));
    assert_eq!(bookie.open_ledger(open(l(8))).await, Err(Refusal::Stopping));
    assert_eq!(bookie.fence(L, r(1)).await, Err(ReadRefusal::Stopping));
    let fatal = house.clock.timeout(DEADLINE, fatal.recv()).await.expect("in time").expect("reported");
    assert!(fatal.to_string().contains("the disk is broken"), "{fatal}");
    assert!(tasks.join(DEADLINE).await, "the threads end");
}

#[tokio::test]
async fn c35_c61_a_full_disk_stops_bulk_writes_alone_and_the_bookie_recovers_by_itself() {
    let mut house = House::new();
    let file = house.config.log.file_bytes;
    house.config.space = SpaceConfig {
        read_only_below_bytes: 4 * file,
        writable_above_bytes: 5 * file,
        marks_below_bytes: file / 2,
        ..SpaceConfig::default()
    };
    let (tasks, _fatal) = Tasks::new();
    let disk = FaultyDisk::new(10 * file);
    let bookie = on_faulty_disk(&house, &disk, &tasks).await;
    let essential = OpenLedger { ledger: l(8), epoch: EPOCH, class: LedgerClass::Essential };
    open_in(&bookie, [7]).await;
    bookie.open_ledger(essential).await.expect("opened");
    let mut entry = 0;
    let refused = loop {
        match bookie.add(add(L, entry, body(L, entry, 60_000))).await {
            Ok(()) => entry += 1,
            Err(refusal) => break refusal,
        }
    };
    assert_eq!(refused, Refusal::ReadOnly, "after {entry} entries");
    assert_eq!(bookie.stats().admission, Admission::Essential);
    // What keeps the cluster alive goes on.
    for own in 0..10 {
        assert_eq!(bookie.add(add(l(8), own, body(l(8), own, 10_000))).await, Ok(()));
    }
    assert_eq!(bookie.add(recovery_add(L, entry, 1, body(L, entry, 1000))).await, Ok(()));
    assert!(bookie.fence(L, r(1)).await.is_ok());
    assert!(matches!(bookie.read(read(L, 0, 0)).await.expect("served").entries[0], EntryAnswer::Found(_)));
    // Somebody makes room.
    disk.0.available.fetch_add(8 * file, Ordering::SeqCst);
    until("writable again", &house.clock, async || bookie.stats().admission == Admission::All).await;
    assert_eq!(bookie.open_ledger(open(l(9))).await, Ok(()));
    bookie.kill();
    assert!(tasks.join(DEADLINE).await);
}

#[tokio::test]
async fn b2_c1_fences_and_fencing_reads_hold_after_a_kill() {
    let house = House::new();
    let life = house.start().await;
    let bookie = &life.running.bookie;
    open_in(bookie, [7, 8]).await;
    assert_eq!(bookie.add(add(L, 0, body(L, 0, 10))).await, Ok(()));
    assert_eq!(bookie.fence(L, r(1)).await.expect("fenced").last, Some(e(0)));
    let answer = bookie.read(fencing_read(l(8), 0, 0, 1)).await.expect("fenced");
    assert_eq!(answer.entries, [EntryAnswer::Missing(e(0), Missing::Absent)]);
    life.kill().await;
    let life = house.start().await;
    for ledger in [L, l(8)] {
        assert_eq!(life.running.bookie.add(add(ledger, 1, body(ledger, 1, 10))).await, Err(Refusal::Fenced));
    }
    life.stop().await;
}

#[tokio::test]
async fn q6_bytes_that_wait_and_bytes_that_are_read_stay_within_their_budgets() {
    let mut house = House::new();
    house.config.queue_bytes_max = 128 << 10;
    house.config.read_bytes_max = 128 << 10;
    let life = house.start().await;
    let bookie = &life.running.bookie;
    open_in(bookie, [7]).await;
    // Far more than fits the groups and the queue, at once: what does not fit is told, not kept.
    let adds: Vec<_> = (0..200).map(|entry| bookie.add(add(L, entry, body(L, entry, 60_000)))).collect();
    let answers = join_all(adds).await;
    assert!(answers.contains(&Ok(())));
    assert!(answers.iter().all(|answer| matches!(answer, Ok(()) | Err(Refusal::Busy))), "{answers:?}");
    let stored = answers.iter().filter(|answer| answer.is_ok()).count();
    assert_eq!(bookie.list(None, 1)[0].entries, stored as u64);
    // One answer holds most of the budget; the next read waits until it is handed over.
    let big = ReadEntries { bytes_max: 125_000, ..read(L, 0, 199) };
    let (first, held) = bookie.read_held(big).await.expect("read");
    assert!(!first.entries.is_empty());
    let waiting = bookie.read(big);
    assert!(house.clock.timeout(Duration::from_millis(50), waiting).await.is_err(), "it waits");
    drop(held);
    assert!(bookie.read(big).await.is_ok());
    life.stop().await;
}

#[tokio::test]
async fn reads_go_on_beside_the_log_while_it_writes() {
    let house = House::new();
    let life = house.start().await;
    let bookie = life.running.bookie.clone();
    open_in(&bookie, [7]).await;
    for entry in 0..20 {
        bookie.add(add(L, entry, body(L, entry, 20_000))).await.expect("added");
    }
    let writing = {
        let bookie = bookie.clone();
        beside(async move {
            for entry in 20..200 {
                bookie.add(add(L, entry, body(L, entry, 20_000))).await.expect("added");
            }
        })
    };
    let reads = (0..20).map(|entry| bookie.read(read(L, entry, entry)));
    for answer in join_all(reads).await {
        assert!(matches!(answer.expect("read").entries[0], EntryAnswer::Found(_)));
    }
    writing.await.expect("written");
    life.stop().await;
}

#[tokio::test]
async fn a_ledger_that_lies_scattered_is_read_a_little_at_a_time() {
    // An answer read over all that lay between its entries, a hundred times their size: with a hundred readers none came in time, all were
    // asked for again, and nobody got on.
    const ENTRIES: u64 = 200;
    let house = House::new();
    let life = house.start().await;
    let bookie = &life.running.bookie;
    open_in(bookie, [7, 8]).await;
    for entry in 0..ENTRIES {
        assert_eq!(bookie.add(add(l(8), entry, body(l(8), entry, 60_000))).await, Ok(()));
        assert_eq!(bookie.add(add(L, entry, body(L, entry, 50))).await, Ok(()));
    }
    let (mut next, mut answers) = (0, 0);
    while next < ENTRIES {
        let answer = bookie.read(read(L, next, ENTRIES - 1)).await.expect("known");
        assert!((1..=ENTRIES / 2).contains(&(answer.entries.len() as u64)), "{} entries in one answer", answer.entries.len());
        for found in answer.entries {
            let EntryAnswer::Found(found) = found else { panic!("{found:?}") };
            assert_eq!((found.entry, found.body), (e(next), body(L, next, 50)));
            next += 1;
        }
        answers += 1;
    }
    assert!(answers <= 8, "{answers} answers");
    life.stop().await;
}

#[tokio::test]
async fn a_lac_is_awaited_and_told_as_soon_as_it_moves() {
    let house = House::new();
    let life = house.start().await;
    let bookie = life.running.bookie.clone();
    open_in(&bookie, [7]).await;
    let second = Duration::from_secs(1);
    assert_eq!(bookie.read_lac(l(99), None, second).await, Err(ReadRefusal::NoSuchLedger));
    assert_eq!(bookie.read_lac(L, None, Duration::ZERO).await, Ok(None), "the wait is over");
    let waiting = {
        let bookie = bookie.clone();
        beside(async move { bookie.read_lac(L, Some(e(3)), DEADLINE).await })
    };
    tokio::task::yield_now().await;
    let told = |lac| bookie.advance_lac(&AdvanceLac { ledger: L, epoch: EPOCH, lac: e(lac) });
    told(3).expect("told");
    told(4).expect("told");
    assert_eq!(waiting.await.expect("it ends"), Ok(Some(e(4))));
    // One that waits when the bookie ends is let go.
    let waiting = {
        let bookie = bookie.clone();
        beside(async move { bookie.read_lac(L, Some(e(9)), DEADLINE).await })
    };
    tokio::task::yield_now().await;
    life.stop().await;
    assert_eq!(waiting.await.expect("it ends"), Err(ReadRefusal::Stopping));
}

/// The body of an entry of one batch: `count` messages from `first` on, at `time`.
fn messages(first: u64, count: u32, time: u64) -> Bytes {
    let header = EntryHeader {
        first_offset: Offset::new(first),
        server_time: Timestamp::from_millis(time),
        batches: vec![BatchDescriptor {
            header: BatchHeader { count, inflated_bytes: 4, ..BatchHeader::default() },
            checksum: Crc32c::of(b"blob"),
            blob_bytes: 4,
            producer: None,
        }],
    };
    let mut body = BytesMut::from(&header.encode()[..]);
    body.put_slice(b"blob");
    body.freeze()
}

#[tokio::test]
async fn an_entry_is_found_by_offset_and_by_time() {
    let house = House::new();
    let life = house.start().await;
    let bookie = &life.running.bookie;
    open_in(bookie, [7]).await;
    for entry in 0..40 {
        bookie.add(add(L, entry, messages(1000 + entry * 10, 10, 5000 + entry / 2))).await.expect("added");
    }
    let find = async |key, up_to| bookie.find(Find { ledger: L, key, up_to: e(up_to) }).await.expect("known").map(|e| e.get());
    assert_eq!(find(FindKey::Offset(Offset::new(1000)), 39).await, Some(0));
    assert_eq!(find(FindKey::Offset(Offset::new(1257)), 39).await, Some(25));
    assert_eq!(find(FindKey::Offset(Offset::new(1257)), 20).await, Some(20), "L7: no further than the asker's LAC");
    assert_eq!(find(FindKey::Offset(Offset::new(999)), 39).await, None);
    assert_eq!(find(FindKey::Time(Timestamp::from_millis(5006)), 39).await, Some(12));
    assert_eq!(find(FindKey::Time(Timestamp::from_millis(9000)), 39).await, None);
    let unknown = Find { ledger: l(99), key: FindKey::Offset(Offset::new(0)), up_to: e(0) };
    assert_eq!(bookie.find(unknown).await, Err(ReadRefusal::NoSuchLedger));
    life.stop().await;
}

#[tokio::test]
async fn b5_a_conflict_raises_an_alarm() {
    let house = House::new();
    let life = house.start().await;
    let bookie = &life.running.bookie;
    open_in(bookie, [7]).await;
    assert_eq!(bookie.add(add(L, 0, body(L, 0, 100))).await, Ok(()));
    assert_eq!(bookie.add(add(L, 0, body(L, 0, 100))).await, Ok(()));
    assert_eq!(life.metrics.conflicts.get(), 0);
    assert_eq!(bookie.add(add(L, 0, body(L, 1, 100))).await, Err(Refusal::Conflict));
    assert_eq!(life.metrics.conflicts.get(), 1);
    life.stop().await;
}

#[tokio::test]
async fn b1_whatever_was_acknowledged_to_whomever_is_there_after_every_kill() {
    let house = House::new();
    let mut acknowledged: Vec<(u64, u64)> = Vec::new();
    for round in 0..5 {
        let life = house.start().await;
        let bookie = life.running.bookie.clone();
        open_in(&bookie, [1, 2, 3]).await;
        let writers: Vec<_> = [1, 2, 3]
            .map(|ledger| {
                let bookie = bookie.clone();
                beside(async move {
                    let adds = (0..200).map(|n| (round * 200 + n, 500 + n * 13 % 4000));
                    let adds: Vec<_> = adds
                        .map(|(entry, bytes)| {
                            (entry, add(l(ledger), entry, body(l(ledger), entry, usize::try_from(bytes).expect("small"))))
                        })
                        .map(|(entry, add)| (entry, bookie.add(add)))
                        .collect();
                    let mut done = Vec::new();
                    for (entry, answer) in adds {
                        match answer.await {
                            Ok(()) => done.push((ledger, entry)),
                            Err(refusal) => assert_eq!(refusal, Refusal::Stopping),
                        }
                    }
                    done
                })
            })
            .into();
        let enough = round * 60;
        until("some are acknowledged", &house.clock, async || life.metrics.adds.get() > enough).await;
        life.kill().await;
        for writer in writers {
            acknowledged.extend(writer.await.expect("it ends"));
        }
        let life = house.start().await;
        for (ledger, entry) in &acknowledged {
            let answer = life.running.bookie.read(read(l(*ledger), *entry, *entry)).await.expect("known");
            assert!(matches!(answer.entries[0], EntryAnswer::Found(_)), "round {round}: {ledger}/{entry} is lost");
        }
        life.kill().await;
    }
    assert!(!acknowledged.is_empty());
}
