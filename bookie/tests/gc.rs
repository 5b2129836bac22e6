//! What frees space: proof, grace, a limit on how much at once, and files that are used again.

mod support;

use alluvium_metadata::Versioned;
use alluvium_types::bookie::{ReadRefusal, Refusal};
use alluvium_types::ids::{EntryId, LedgerId};
use alluvium_types::ledger::{BookieId, LedgerClass, LedgerMetadata, LedgerState};
use alluvium_types::replication::Replication;
use support::house::{House, Life, until};
use support::{EPOCH, L, add, body, l, open, r, read};

fn id_of(life: &Life) -> BookieId {
    let identity = life.running.bookie.identity();
    BookieId { name: identity.bookie.clone(), incarnation: identity.incarnation }
}

/// Creates a ledger's record over this bookie and opens it there with `entries` entries of 60 kB.
async fn create(house: &House, life: &Life, ledger: LedgerId, entries: u64) -> Versioned<LedgerMetadata> {
    let single = Replication::SINGLE;
    let record = LedgerMetadata::create(ledger, EPOCH, LedgerClass::Bulk, single, single, vec![id_of(life)]);
    let record = house.metadata().ledgers().create(record.expect("valid")).await.expect("created");
    let bookie = &life.running.bookie;
    bookie.open_ledger(open(ledger)).await.expect("opened");
    for entry in 0..entries {
        bookie.add(add(ledger, entry, body(ledger, entry, 60_000))).await.expect("added");
    }
    record
}

async fn close(house: &House, record: &Versioned<LedgerMetadata>, last: u64) -> Versioned<LedgerMetadata> {
    let closed = LedgerMetadata { state: LedgerState::Closed { last: Some(EntryId::new(last)) }, ..record.value.clone() };
    house.metadata().ledgers().update(record, closed).await.expect("closed")
}

async fn tombstone(house: &House, record: &Versioned<LedgerMetadata>) -> Versioned<LedgerMetadata> {
    let closed = close(house, record, 0).await;
    house.metadata().ledgers().tombstone(&closed).await.expect("tombstoned")
}

#[tokio::test]
async fn b9_only_a_tombstone_lets_a_ledger_go_and_its_files_are_used_again() {
    let house = House::new();
    let life = house.start().await;
    // A ledger of several files, and one that lives.
    let dead = create(&house, &life, L, 120).await;
    create(&house, &life, l(8), 1).await;
    let (bookie, reaper) = (&life.running.bookie, &life.running.reaper);
    assert_eq!(reaper.round().await.expect("metadata answers").dropped, 0, "nothing is proved");
    assert!(!reaper.delete(L).await);
    tombstone(&house, &dead).await;
    let round = reaper.round().await.expect("metadata answers");
    assert_eq!((round.asked, round.dropped), (2, 1));
    assert_eq!(bookie.read(read(L, 0, 0)).await, Err(ReadRefusal::Deleted));
    assert!(bookie.read(read(l(8), 0, 0)).await.is_ok());
    // The last files hold marks that no later one has yet; the others go.
    until("files go", &house.clock, async || life.metrics.files_released.get() >= 2).await;
    life.kill().await;
    let life = house.start().await;
    assert_eq!(life.running.bookie.add(add(L, 200, body(L, 200, 10))).await, Err(Refusal::Deleted));
    life.stop().await;
}

#[tokio::test]
async fn b9_c26_what_no_record_shows_is_kept() {
    let house = House::new();
    let life = house.start().await;
    life.running.bookie.open_ledger(open(L)).await.expect("opened");
    life.running.bookie.add(add(L, 0, body(L, 0, 10))).await.expect("added");
    for _ in 0..3 {
        assert_eq!(life.running.reaper.round().await.expect("metadata answers").dropped, 0);
    }
    assert!(!life.running.reaper.delete(L).await, "no record is no proof");
    assert!(life.running.bookie.read(read(L, 0, 0)).await.is_ok());
    life.stop().await;
}

/// Deleting a topic of many partitions deletes most of what a small cluster holds. A round that refused because of that, refused for
/// ever, and the disk stayed full.
#[tokio::test]
async fn b9_any_number_of_tombstones_drains_however_large_their_share() {
    let mut house = House::new();
    house.config.gc.always_allowed = 64;
    house.config.gc.share_max_percent = 50;
    let life = house.start().await;
    let mut records = Vec::new();
    for ledger in 1..=1000 {
        records.push(create(&house, &life, l(ledger), 0).await);
    }
    for record in &records {
        tombstone(&house, record).await;
    }
    let first = life.running.reaper.round().await.expect("metadata answers");
    assert_eq!((first.asked, first.dropped, first.put_off), (256, 128, 128), "half of them, and the rest later");
    assert_eq!(life.metrics.gc_put_off.get(), 128);
    let mut dropped = first.dropped;
    for _ in 0..20 {
        dropped += life.running.reaper.round().await.expect("metadata answers").dropped;
    }
    assert_eq!(dropped, 1000);
    assert_eq!(life.metrics.gc_put_off.get(), 0);
    life.stop().await;
}

#[tokio::test]
async fn c26_of_closed_ledgers_that_name_others_few_go_in_a_round_and_all_in_the_end() {
    let mut house = House::new();
    house.config.gc.disowned_per_round = 2;
    let life = house.start().await;
    let single = Replication::SINGLE;
    let other = BookieId { name: id_of(&life).name, incarnation: alluvium_types::ids::Incarnation::new(house.entropy.uuid()) };
    for ledger in 1..=5 {
        let record = LedgerMetadata::create(l(ledger), EPOCH, LedgerClass::Bulk, single, single, vec![other.clone()]);
        let record = house.metadata().ledgers().create(record.expect("valid")).await.expect("created");
        life.running.bookie.open_ledger(open(l(ledger))).await.expect("opened");
        close(&house, &record, 0).await;
    }
    let mut rounds = Vec::new();
    for _ in 0..4 {
        let round = life.running.reaper.round().await.expect("metadata answers");
        rounds.push((round.dropped, round.put_off));
    }
    assert_eq!(rounds, [(2, 3), (2, 1), (1, 0), (0, 0)]);
    life.stop().await;
}

/// What a tombstone is forgotten on: the bookie says that a ledger is gone only when nothing brings it back.
#[tokio::test]
async fn c27_a_ledger_is_said_to_be_gone_once_its_deletion_is_durable_and_not_before() {
    let mut house = House::new();
    house.config.gc.grace_ms = 50;
    let life = house.start().await;
    let record = create(&house, &life, L, 1).await;
    let reaper = &life.running.reaper;
    assert!(!reaper.delete(L).await, "it lives");
    tombstone(&house, &record).await;
    assert!(!reaper.delete(L).await, "the grace begins");
    until("the grace is over", &house.clock, async || reaper.delete(L).await).await;
    assert!(reaper.delete(L).await, "and it says so again");
    assert!(reaper.delete(l(9)).await, "so it does of what it never knew");
    life.kill().await;
    let life = house.start().await;
    assert!(life.running.reaper.delete(L).await);
    assert_eq!(life.running.bookie.open_ledger(open(L)).await, Err(Refusal::Deleted));
    life.stop().await;
}

/// Every ledger that ever was took a row at the head of each log file, until there was no room for another one.
#[tokio::test]
async fn c27_rows_of_ledgers_whose_tombstones_are_gone_are_used_again() {
    let house = House::new();
    let life = house.start().await;
    let reaper = &life.running.reaper;
    for ledger in 1..=20 {
        let record = create(&house, &life, l(ledger), 0).await;
        let tombstone = tombstone(&house, &record).await;
        reaper.round().await.expect("metadata answers");
        assert!(reaper.delete(l(ledger)).await);
        house.metadata().ledgers().forget(&tombstone).await.expect("forgotten");
    }
    let neighbour = create(&house, &life, l(30), 120).await;
    tombstone(&house, &neighbour).await;
    create(&house, &life, l(31), 120).await;
    until("forgotten", &house.clock, async || {
        reaper.round().await.expect("metadata answers");
        life.running.bookie.stats().ledgers <= 2
    })
    .await;
    assert_eq!(life.metrics.ledgers.get(), 2);
    assert!(life.metrics.ledgers_max.get() > 1000);
    life.stop().await;
}

#[tokio::test]
async fn c55_the_grace_is_of_the_monotonic_clock_and_begins_when_the_proof_is_first_seen() {
    let mut house = House::new();
    house.config.gc.grace_ms = 3_600_000;
    let life = house.start().await;
    let record = create(&house, &life, L, 1).await;
    tombstone(&house, &record).await;
    for _ in 0..3 {
        assert_eq!(life.running.reaper.round().await.expect("metadata answers").dropped, 0);
    }
    assert!(!life.running.reaper.delete(L).await);
    assert!(life.running.bookie.read(read(L, 0, 0)).await.is_ok());
    life.stop().await;
}

#[tokio::test]
async fn c27_the_marks_of_a_deleted_ledger_are_forgotten_once_its_tombstone_and_its_frames_are_gone() {
    let house = House::new();
    let life = house.start().await;
    let record = create(&house, &life, L, 40).await;
    let (bookie, reaper) = (&life.running.bookie, &life.running.reaper);
    bookie.fence(L, r(1)).await.expect("fenced");
    let tombstone = tombstone(&house, &record).await;
    assert_eq!(reaper.round().await.expect("metadata answers").dropped, 1);
    house.metadata().ledgers().forget(&tombstone).await.expect("forgotten");
    reaper.round().await.expect("metadata answers");
    assert_eq!(bookie.open_ledger(open(L)).await, Err(Refusal::Deleted), "files still hold its frames");
    // New files begin with later snapshots; once all that shared a file with it is dead too, the marks may follow.
    let neighbour = create(&house, &life, l(8), 120).await;
    self::tombstone(&house, &neighbour).await;
    create(&house, &life, l(9), 120).await;
    until("forgotten", &house.clock, async || {
        reaper.round().await.expect("metadata answers");
        bookie.read(read(L, 0, 0)).await == Err(ReadRefusal::NoSuchLedger)
    })
    .await;
    life.stop().await;
}

#[tokio::test]
async fn a_closed_ledger_that_names_other_bookies_goes_and_one_that_names_this_one_stays() {
    let house = House::new();
    let life = house.start().await;
    let single = Replication::SINGLE;
    let other = BookieId { name: id_of(&life).name, incarnation: alluvium_types::ids::Incarnation::new(house.entropy.uuid()) };
    let record = LedgerMetadata::create(L, EPOCH, LedgerClass::Bulk, single, single, vec![other]).expect("valid");
    let record = house.metadata().ledgers().create(record).await.expect("created");
    life.running.bookie.open_ledger(open(L)).await.expect("opened");
    let ours = create(&house, &life, l(8), 1).await;
    assert_eq!(life.running.reaper.round().await.expect("metadata answers").dropped, 0, "B9: it is open");
    close(&house, &record, 0).await;
    close(&house, &ours, 0).await;
    assert_eq!(life.running.reaper.round().await.expect("metadata answers").dropped, 1);
    assert!(life.running.bookie.read(read(l(8), 0, 0)).await.is_ok());
    life.stop().await;
}

#[tokio::test]
async fn b6_a_mostly_dead_file_is_emptied_and_what_lived_in_it_is_read_from_elsewhere() {
    let mut house = House::new();
    house.config.gc.compact_below_percent = 20;
    let life = house.start().await;
    create(&house, &life, l(8), 2).await;
    let dead = create(&house, &life, L, 120).await;
    tombstone(&house, &dead).await;
    let (bookie, reaper) = (&life.running.bookie, &life.running.reaper);
    until("compacted", &house.clock, async || {
        reaper.round().await.expect("metadata answers");
        life.metrics.compacted_bytes.get() >= 120_000
    })
    .await;
    let answer = bookie.read(read(l(8), 0, 1)).await.expect("known");
    assert!(answer.entries.iter().all(|entry| matches!(entry, alluvium_types::bookie::EntryAnswer::Found(_))));
    life.kill().await;
    let life = house.start().await;
    let answer = life.running.bookie.read(read(l(8), 0, 1)).await.expect("known");
    assert!(answer.entries.iter().all(|entry| matches!(entry, alluvium_types::bookie::EntryAnswer::Found(_))));
    life.stop().await;
}
