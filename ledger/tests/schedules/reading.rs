//! Schedules of reading.

use alluvium_ledger::call::Request;
use alluvium_ledger::reader::{NotRead, RangeRead, ReadConfig, ReadFailure, ReadRange};
use alluvium_runtime::entropy::Entropy;
use alluvium_types::bookie::{Missing, StoredEntry};
use alluvium_types::ids::EntryId;
use alluvium_types::ledger::{Fragment, LedgerMetadata, LedgerState};
use alluvium_types::replication::Replication;
use alluvium_types::time::Mono;

use crate::world::{Driver, Gate, World, b, body, e, ledger, live, ms};

/// A closed ledger of 20 entries over bookies 0 to 2, all copies there.
fn closed() -> World {
    let mut world = World::new(6, ledger(&[0, 1, 2], Replication::DEFAULT));
    for number in 0..3 {
        world.store(number, 0..20, Some(18));
    }
    world.record.as_mut().unwrap().metadata.state = LedgerState::Closed { last: Some(e(19)) };
    world
}

fn range(first: u64, last: u64) -> ReadRange {
    ReadRange { first: e(first), last: e(last), bytes_max: 1 << 20, lac: None }
}

fn begin(world: &World, range: ReadRange, seed: u64) -> Driver<RangeRead> {
    let now = Mono::default();
    let metadata = world.metadata().clone();
    Driver::new(now, RangeRead::new(now, ReadConfig::default(), metadata, range, Entropy::seeded(seed)))
}

fn read(world: &mut World, range: ReadRange, seed: u64) -> Result<Vec<StoredEntry>, ReadFailure> {
    let mut reading = begin(world, range, seed);
    reading.pass(world, ms(60_000));
    reading.notices.pop().expect("it ends")
}

fn ids(entries: &[StoredEntry]) -> Vec<u64> {
    assert!(entries.iter().all(|stored| stored.body == body(stored.entry)));
    entries.iter().map(|stored| stored.entry.get()).collect()
}

#[test]
fn a_range_comes_from_one_replica_in_one_answer() {
    let mut world = closed();
    let mut reading = begin(&world, range(3, 15), 1);
    reading.run(&mut world);
    assert_eq!(reading.sent.len(), 1);
    assert_eq!(ids(reading.notices[0].as_ref().unwrap()), (3..=15).collect::<Vec<_>>());
}

#[test]
fn every_seed_reads_a_striped_ledger_across_fragments_whole_and_in_order() {
    let wide = Replication::new(5, 3, 2).unwrap();
    let mut world = World::new(6, ledger(&[0, 1, 2, 3, 4], wide));
    let metadata = &mut world.record.as_mut().unwrap().metadata;
    let ensemble = vec![b(0), b(5), b(2), b(3), b(4)];
    metadata.fragments.push(Fragment { first: e(23), ensemble, short: Vec::new() });
    metadata.state = LedgerState::Closed { last: Some(e(49)) };
    let metadata = metadata.clone();
    for entry in (0..50).map(EntryId::new) {
        for holder in metadata.holders_of(entry) {
            let number = (0..6).find(|number| b(*number) == *holder).unwrap();
            world.store(number, [entry.get()], None);
        }
    }
    // One bookie is away all the time.
    for seed in 0..20 {
        world.gates.clear();
        world.gate(seed % 6, Gate::Refuse);
        let entries = read(&mut world, range(0, 49), seed).unwrap();
        assert_eq!(ids(&entries), (0..50).collect::<Vec<_>>(), "seed {seed}");
    }
}

#[test]
fn it_fails_over_from_replicas_that_are_away_silent_rotten_or_without_the_entry() {
    for seed in 0..20 {
        let mut world = closed();
        world.gate(0, Gate::Refuse);
        world.at(1).rotten.insert(e(7));
        world.at(1).entries.remove(&e(11));
        let entries = read(&mut world, range(0, 19), seed).unwrap();
        assert_eq!(ids(&entries), (0..20).collect::<Vec<_>>(), "seed {seed}");
    }
}

#[test]
fn b4_a_body_that_does_not_match_its_checksum_is_never_given() {
    for seed in 0..20 {
        let mut world = closed();
        for number in 0..2 {
            world.at(number).entries.get_mut(&e(4)).unwrap().body = bytes::Bytes::from_static(b"rot");
        }
        assert_eq!(ids(&read(&mut world, range(4, 4), seed).unwrap()), [4]);
    }
}

#[test]
fn t6_an_entry_that_nobody_gives_is_named_and_never_skipped() {
    let mut world = closed();
    world.at(0).rotten.insert(e(5));
    world.at(1).entries.remove(&e(5));
    world.gate(2, Gate::Refuse);
    // What lies before it is given; then the error names it.
    assert_eq!(ids(&read(&mut world, range(2, 9), 3).unwrap()), [2, 3, 4]);
    let Err(ReadFailure::Unreadable { entry, mut reasons, .. }) = read(&mut world, range(5, 9), 3) else { panic!("read") };
    assert_eq!(entry, e(5));
    reasons.sort_by_key(|(bookie, _)| bookie.name.clone());
    let expected = [NotRead::Missing(Missing::Unknown), NotRead::Missing(Missing::Absent), NotRead::NoAnswer];
    assert_eq!(reasons.iter().map(|(_, reason)| *reason).collect::<Vec<_>>(), expected);
    assert_eq!(ids(&read(&mut world, range(6, 9), 3).unwrap()), [6, 7, 8, 9]);
}

#[test]
fn l7_a_reader_sees_nothing_past_the_lac_it_was_given() {
    let mut world = closed();
    world.record.as_mut().unwrap().metadata.state = LedgerState::Open;
    let with_lac = |first, lac: Option<u64>| ReadRange { lac: lac.map(e), ..range(first, 100) };
    assert_eq!(ids(&read(&mut world, with_lac(2, Some(6)), 1).unwrap()), [2, 3, 4, 5, 6]);
    assert_eq!(read(&mut world, with_lac(7, Some(6)), 1), Err(ReadFailure::Beyond { first: e(7) }));
    assert_eq!(read(&mut world, with_lac(0, None), 1), Err(ReadFailure::Beyond { first: e(0) }));
    let asked = |request: &Request| matches!(request, Request::Read(read) if read.last > e(6) || read.fence.is_some());
    let mut reading = begin(&world, with_lac(0, Some(6)), 1);
    reading.run(&mut world);
    assert!(!reading.sent.iter().any(|(_, request)| asked(request)));
}

#[test]
fn the_end_of_a_closed_ledger_bounds_a_read() {
    let mut world = closed();
    assert_eq!(ids(&read(&mut world, range(17, 40), 1).unwrap()), [17, 18, 19]);
    assert_eq!(read(&mut world, range(20, 40), 1), Err(ReadFailure::Beyond { first: e(20) }));
    assert_eq!(read(&mut world, range(5, 4), 1), Err(ReadFailure::Empty));
}

#[test]
fn a_byte_budget_bounds_an_answer_but_never_below_one_entry() {
    let mut world = closed();
    let one = body(e(0)).len();
    let budget = |bytes_max| ReadRange { bytes_max, ..range(0, 19) };
    assert_eq!(ids(&read(&mut world, budget(3 * one), 1).unwrap()), [0, 1, 2]);
    assert_eq!(ids(&read(&mut world, budget(1), 1).unwrap()), [0]);
    assert_eq!(read(&mut world, budget(0), 1), Err(ReadFailure::Empty));
}

#[test]
fn what_a_holder_gives_at_a_time_is_enough() {
    for seed in 0..10 {
        let mut world = closed();
        for number in 0..3 {
            world.at(number).gives_max = Some(7);
        }
        let mut reading = begin(&world, range(2, 19), seed);
        reading.run(&mut world);
        assert_eq!(reading.sent.len(), 1, "nobody is asked for the rest");
        assert_eq!(ids(reading.notices[0].as_ref().unwrap()), (2..9).collect::<Vec<_>>());
    }
}

#[test]
fn a_slow_replica_is_hedged() {
    for seed in 0..10 {
        let mut world = closed();
        for number in 0..3 {
            world.gate(number, Gate::Swallow);
        }
        let mut reading = begin(&world, range(0, 19), seed);
        reading.run(&mut world);
        world.gates.clear();
        reading.pass(&mut world, ms(300));
        assert_eq!(reading.sent.len(), 2, "another one was asked as well");
        assert_eq!(ids(reading.notices[0].as_ref().unwrap()).len(), 20);
    }
}

#[test]
fn a_hedge_that_fails_leaves_hope_in_the_first() {
    for seed in 0..10 {
        let mut world = closed();
        for number in 0..3 {
            world.gate(number, Gate::Hold);
        }
        let mut reading = begin(&world, range(0, 19), seed);
        reading.run(&mut world);
        for number in 0..3 {
            world.gate(number, Gate::Refuse);
        }
        reading.pass(&mut world, ms(1000));
        assert!(reading.notices.is_empty());
        reading.release(&mut world, |_, _| true);
        assert_eq!(ids(reading.notices[0].as_ref().unwrap()).len(), 20, "seed {seed}");
    }
}

#[test]
fn when_all_are_silent_the_read_ends_with_an_error() {
    let mut world = closed();
    for number in 0..3 {
        world.gate(number, Gate::Swallow);
    }
    let failure = read(&mut world, range(0, 19), 1).unwrap_err();
    assert!(failure.is_retryable(), "{failure}");
}

#[test]
fn c65_members_that_are_short_are_asked_last() {
    for seed in 0..20 {
        let mut world = closed();
        world.record.as_mut().unwrap().metadata.fragments[0].short = vec![0, 2];
        let mut reading = begin(&world, range(0, 19), seed);
        reading.run(&mut world);
        assert_eq!(reading.sent[0].0, b(1));
    }
}

#[test]
fn what_a_writer_wrote_and_a_recovery_closed_is_what_a_reader_reads() {
    let mut world = World::new(6, ledger(&[0, 1, 2], Replication::DEFAULT));
    let mut writer = Driver::writer(&world, live(0..6));
    writer.append(&mut world, 30);
    world.gate(2, Gate::Refuse);
    writer.append(&mut world, 30);
    writer.pass(&mut world, ms(20_000));
    writer.append(&mut world, 30);
    let mut recovery = Driver::recovery(live(0..6));
    recovery.pass(&mut world, ms(10_000));
    let metadata: &LedgerMetadata = world.metadata();
    assert_eq!(metadata.closed_at(), Some(Some(e(89))));
    assert!(world.holes().is_empty());
    assert_eq!(ids(&read(&mut world, range(0, 100), 1).unwrap()), (0..90).collect::<Vec<_>>());
}
