//! Schedules of recovery.

use alluvium_ledger::call::{Event, Machine, Record, Request};
use alluvium_ledger::recovery::{Notice, Recovery, RecoveryConfig, RecoveryFailure, Stuck};
use alluvium_types::bookie::Adder;
use alluvium_types::ids::{Nonce, RecoveryNumber};
use alluvium_types::ledger::{BookieId, Fragment, LedgerMetadata, LedgerState};
use alluvium_types::replication::Replication;

use crate::world::{CasGate, Driver, Gate, World, b, e, ledger, live, ms};

fn three() -> World {
    World::new(6, ledger(&[0, 1, 2], Replication::DEFAULT))
}

/// A ledger whose second fragment begins at 5, over bookies 3, 1 and 2, with 0 to 4 in the first.
fn two_fragments() -> World {
    let mut world = three();
    let record = world.record.as_mut().unwrap();
    let ensemble = vec![b(3), b(1), b(2)];
    record.metadata.fragments.push(Fragment { first: e(5), ensemble, short: Vec::new() });
    for number in 0..3 {
        world.store(number, 0..5, Some(3));
    }
    world.at(3).known = true;
    world
}

fn closed(world: &World) -> Option<u64> {
    world.metadata().closed_at().expect("closed").map(|entry| entry.get())
}

fn is_read(request: &Request) -> bool {
    matches!(request, Request::Read(_))
}

fn is_recovery_add(request: &Request) -> bool {
    matches!(request, Request::Add(add) if matches!(add.adder, Adder::Recovery { .. }))
}

fn recover(world: &mut World, live_bookies: impl IntoIterator<Item = u64>) -> Driver<Recovery> {
    let mut recovery = Driver::recovery(live(live_bookies));
    recovery.run(world);
    recovery
}

#[test]
fn it_closes_at_the_last_entry_that_one_live_bookie_has() {
    let mut world = three();
    for number in 0..3 {
        world.store(number, 0..10, Some(8));
    }
    world.store(1, 10..12, Some(9));
    let recovery = recover(&mut world, 0..6);
    assert_eq!(closed(&world), Some(11));
    assert!(world.holes().is_empty());
    assert!(matches!(&recovery.notices[..], [Notice::Closed(_)]));
    assert_eq!(world.metadata().recovery, RecoveryNumber::new(1));
}

#[test]
fn an_empty_ledger_is_closed_empty() {
    let mut world = three();
    recover(&mut world, 0..6);
    assert_eq!(closed(&world), None);
}

#[test]
fn more_entries_than_a_window_are_found_and_copied() {
    let mut world = World::new(5, ledger(&[0, 1, 2, 3, 4], Replication::new(5, 3, 2).unwrap()));
    for entry in 0..500 {
        // An ack quorum of each, and no copy more.
        world.store(entry % 5, [entry], None);
        world.store((entry + 2) % 5, [entry], None);
    }
    for number in 0..5 {
        world.at(number).known = true;
    }
    let recovery = recover(&mut world, 0..5);
    assert_eq!(closed(&world), Some(499));
    assert!(world.holes().is_empty());
    assert!(recovery.sent.len() < 3_000, "{} requests", recovery.sent.len());
}

#[test]
fn c1_a_late_write_to_an_unfenced_bookie_cannot_be_acked_after_the_reads() {
    // Bookies 0 and 1 are fenced: coverage. Entry 0 is on bookie 0's peer 1 only; the add to bookie 2 is on its way.
    let mut world = three();
    world.gate(0, Gate::Swallow);
    world.gate(2, Gate::Hold);
    let mut writer = Driver::writer(&world, live(0..3));
    writer.append(&mut world, 1);
    assert!(world.at(1).entries.contains_key(&e(0)));
    assert_eq!(writer.lac(), None);
    // The recovery fences 0 and 1; its reads reach 0 and 2, not 1.
    world.gates.clear();
    world.gate(2, Gate::Hold);
    let mut recovery = Driver::recovery(live(0..3));
    recovery.run(&mut world);
    // Coverage is reached by 0 and 1, and 1 has the entry: it is found.
    assert!(world.at(0).fenced.is_some() && world.at(1).fenced.is_some() && world.at(2).fenced.is_none());
    world.gate(1, Gate::Swallow);
    recovery.release(&mut world, |to, request| *to == b(2) && is_read(request));
    assert!(world.at(2).fenced.is_some(), "the read fenced it");
    writer.release(&mut world, |_, _| true);
    assert_eq!(writer.lac(), None, "the late write was refused");
    assert_eq!(closed(&world), Some(0));
}

/// The schedule of BK-2614: the fence reached 0 and 1, entry 0 lies on 1 alone, 1 is cut off, and the reads reach 0 and 2 while the
/// writer's add to 2 is still on its way.
fn bk_2614(config: RecoveryConfig) -> (World, Option<u64>) {
    let mut world = three();
    world.gate(0, Gate::Swallow);
    world.gate(2, Gate::Hold);
    let mut writer = Driver::writer(&world, live(0..3));
    writer.append(&mut world, 1);
    world.gates.clear();
    world.gate(2, Gate::Hold);
    let mut recovery = Driver::recovery_with(live(0..3), config, 2);
    // The fence goes to 0 and 1; from then on 1 is cut off before a read reaches it.
    while world.at(0).fenced.is_none() || world.at(1).fenced.is_none() {
        recovery.step(&mut world);
    }
    world.gate(1, Gate::Swallow);
    recovery.run(&mut world);
    recovery.release(&mut world, |to, request| *to == b(2) && is_read(request));
    writer.release(&mut world, |_, _| true);
    (world, writer.lac())
}

#[test]
fn c1_recovery_reads_fence_before_they_answer() {
    let (world, acked) = bk_2614(RecoveryConfig::default());
    assert_eq!(acked, None, "the add that arrived late was refused");
    assert_eq!(closed(&world), None, "so the ledger may end before it");
}

#[test]
fn c2_one_absent_answer_is_no_end() {
    let mut world = three();
    // Acked on 1 and 2; bookie 0 never had it, and answers first.
    world.store(1, 0..1, None);
    world.store(2, 0..1, None);
    recover(&mut world, 0..3);
    assert_eq!(closed(&world), Some(0));
}

#[test]
fn c3_silence_is_no_absence() {
    let mut world = three();
    world.store(1, 0..1, None);
    world.store(2, 0..1, None);
    let mut recovery = Driver::recovery(live(0..3));
    while world.at(0).fenced.is_none() || world.at(1).fenced.is_none() {
        recovery.step(&mut world);
    }
    world.gate(1, Gate::Refuse);
    world.gate(2, Gate::Swallow);
    recovery.pass(&mut world, ms(120_000));
    let failed = Notice::Failed(RecoveryFailure::GaveUp(Stuck::Evidence { entry: e(0) }));
    assert_eq!(recovery.notices, [failed], "it gives up rather than guess");
    assert!(matches!(world.metadata().state, LedgerState::Recovering { .. }));
    // Another one, when they are back.
    world.gates.clear();
    recover(&mut world, 0..3);
    assert_eq!(closed(&world), Some(0));
}

#[test]
fn c4_an_entry_that_rotted_is_not_absent() {
    let mut world = three();
    world.store(1, 0..1, None);
    world.at(1).rotten.insert(e(0));
    world.at(2).rotten.insert(e(0));
    let mut recovery = Driver::recovery(live(0..3));
    recovery.pass(&mut world, ms(120_000));
    assert!(matches!(recovery.notices[..], [Notice::Failed(RecoveryFailure::GaveUp(Stuck::Evidence { .. }))]));
    // One clean copy settles it.
    world.store(0, 0..1, None);
    recover(&mut world, 0..3);
    assert_eq!(closed(&world), Some(0));
}

#[test]
fn a_copy_with_a_wrong_checksum_is_no_evidence() {
    let mut world = three();
    for number in 0..3 {
        world.store(number, 0..1, None);
    }
    world.at(0).entries.get_mut(&e(0)).unwrap().body = bytes::Bytes::from_static(b"rot");
    recover(&mut world, 0..6);
    assert_eq!(closed(&world), Some(0));
    assert!(world.holes().is_empty());
}

#[test]
fn c7_a_bookie_that_never_saw_the_ledger_is_fenced_and_counts() {
    let mut world = three();
    world.at(0).known = false;
    world.at(1).known = false;
    world.gate(2, Gate::Refuse);
    recover(&mut world, 0..3);
    assert_eq!(closed(&world), None);
    assert!(world.at(0).known && world.at(0).fenced.is_some());
}

#[test]
fn c9_it_never_starts_before_the_last_fragment() {
    // No bookie of the last fragment knows a LAC past 3, and bookie 3 never had entry 4.
    let mut world = two_fragments();
    world.store(3, 5..6, None);
    let recovery = recover(&mut world, 0..6);
    assert_eq!(closed(&world), Some(5));
    let firsts = recovery.sent.iter().filter_map(|(_, request)| match request {
        Request::Read(read) => Some(read.first),
        _ => None,
    });
    assert!(firsts.min() >= Some(e(5)));
    assert!(world.holes().is_empty());
    assert_eq!(world.metadata().fragments[0].ensemble, [b(0), b(1), b(2)], "L6: earlier fragments stay");
}

/// A 2/2/2 ledger of which one member is up: found entries need a replacement.
fn half_gone() -> World {
    let mut world = World::new(6, ledger(&[0, 1], Replication::new(2, 2, 2).unwrap()));
    world.store(0, 0..4, Some(1));
    world.store(1, 0..4, Some(1));
    world.gate(1, Gate::Refuse);
    world
}

#[test]
fn c63_recovery_brings_what_it_found_to_an_ack_quorum_on_replacements() {
    let mut world = half_gone();
    let mut recovery = Driver::recovery(live([0, 2]));
    recovery.pass(&mut world, ms(30_000));
    assert_eq!(closed(&world), Some(3));
    let fragments: Vec<(u64, Vec<BookieId>)> =
        world.metadata().fragments.iter().map(|f| (f.first.get(), f.ensemble.clone())).collect();
    assert_eq!(fragments, [(0, vec![b(0), b(1)]), (2, vec![b(0), b(2)])]);
    assert!(world.holes().is_empty(), "L5");
    assert!(world.at(2).fenced.is_some(), "the replacement is closed to the old writer");
}

/// The first recovery enlists bookie 2 for the dead bookie 1, and dies while its adds are on their way; the second one finds
/// bookie 0 away and bookie 1 back.
fn dies_after_a_change(config: RecoveryConfig) -> World {
    let mut world = half_gone();
    world.gate(2, Gate::Hold);
    let mut recovery = Driver::recovery_with(live([0, 2]), config.clone(), 2);
    recovery.pass(&mut world, ms(2_500));
    recovery.release(&mut world, |_, request| matches!(request, Request::Fence(_)));
    assert!(recovery.sent.iter().any(|(to, request)| *to == b(2) && is_recovery_add(request)));
    drop(recovery);
    world.gates.clear();
    world.gate(0, Gate::Refuse);
    let mut next = Driver::recovery_with(live([1, 2, 3]), config, 3);
    next.pass(&mut world, ms(30_000));
    world
}

#[test]
fn c10_a_changed_ensemble_stays_local_until_the_closing_change() {
    let world = dies_after_a_change(RecoveryConfig::default());
    assert_eq!(closed(&world), Some(3));
    assert!(world.holes().is_empty());
}

/// Entry 2 is on 0 and 1 alone, the third member is down and replaced by 3, whose adds never arrive: bookie 3 has nothing. What
/// does the recovery read from after the change?
fn reads_after_a_change(config: RecoveryConfig) -> Driver<Recovery> {
    let mut world = half_gone();
    let mut recovery = Driver::recovery_with(live([0, 2]), config, 2);
    recovery.pass(&mut world, ms(30_000));
    recovery
}

#[test]
fn c11_reads_go_to_the_ensemble_as_it_was() {
    let recovery = reads_after_a_change(RecoveryConfig::default());
    assert!(recovery.sent.iter().any(|(to, request)| *to == b(2) && is_recovery_add(request)));
    assert!(!recovery.sent.iter().any(|(to, request)| *to == b(2) && is_read(request)));
}

/// The schedule of C13: the first recovery copies entry 1 to bookie 0 and its local replacement, and entry 2, which only bookie 0
/// had, so that bookie 0 stores it anew; then it loses the closing change. The second recovery starts from what bookies know.
fn lac_of_a_dead_recovery(config: RecoveryConfig) -> World {
    let mut world = World::new(6, ledger(&[0, 1], Replication::new(2, 2, 2).unwrap()));
    for number in 0..6 {
        world.at(number).heeds_recovery_lac = true;
    }
    world.store(0, 0..3, None);
    world.store(1, 0..1, None);
    world.gate(1, Gate::Refuse);
    world.cas_gate = CasGate::Pass;
    let mut first = Driver::recovery_with(live([0, 2]), config.clone(), 2);
    // It dies once its adds are done, before it can close.
    for _ in 0..10_000 {
        if world.at(2).entries.len() == 3 {
            break;
        }
        first.tick_or_step(&mut world);
    }
    assert_eq!(world.at(2).entries.len(), 3);
    drop(first);
    world.gates.clear();
    let mut second = Driver::recovery_with(live([0, 1, 2]), config, 3);
    second.pass(&mut world, ms(30_000));
    world
}

#[test]
fn c13_recovery_adds_carry_no_lac_so_the_next_recovery_skips_nothing() {
    let world = lac_of_a_dead_recovery(RecoveryConfig::default());
    assert_eq!(closed(&world), Some(2));
    assert!(world.holes().is_empty(), "{:?}", world.holes());
}

/// Two recoveries, each of which sees the other's change first, over and over.
fn duel(config: &RecoveryConfig) -> (World, Vec<Driver<Recovery>>) {
    let mut world = three();
    for number in 0..3 {
        world.store(number, 0..4, Some(1));
    }
    let mut duellists: Vec<_> = (0..3).map(|seed| Driver::recovery_with(live(0..6), config.clone(), 100 + seed)).collect();
    for _ in 0..50_000 {
        if duellists.iter().all(|recovery| recovery.machine.is_ended()) {
            break;
        }
        // In lockstep, one message each, and a millisecond passes with each round of messages.
        for recovery in &mut duellists {
            recovery.tick_or_step_within(&mut world, ms(1));
        }
    }
    for recovery in &mut duellists {
        recovery.run(&mut world);
    }
    (world, duellists)
}

#[test]
fn c14_duelling_recoveries_converge() {
    let (world, duellists) = duel(&RecoveryConfig::default());
    assert_eq!(closed(&world), Some(3));
    for recovery in duellists {
        assert!(matches!(&recovery.notices[..], [Notice::Closed(record)] if record.metadata == *world.metadata()));
    }
}

#[test]
fn c14_a_ledger_found_closed_is_an_answer() {
    let mut world = three();
    world.store(0, 0..2, None);
    world.store(1, 0..2, None);
    recover(&mut world, 0..3);
    let before = world.record.clone();
    let second = recover(&mut world, 0..3);
    assert_eq!(world.record, before);
    assert!(matches!(&second.notices[..], [Notice::Closed(record)] if Some(record) == before.as_ref()));
    assert!(second.sent.is_empty());
}

#[test]
fn m3_a_closing_change_without_outcome_is_repeated_until_it_has_one() {
    let mut world = three();
    world.store(0, 0..2, None);
    let mut recovery = Driver::recovery(live(0..3));
    while recovery.machine.number().is_none() {
        recovery.step(&mut world);
    }
    world.cas_gate = CasGate::LoseAnswer;
    recovery.pass(&mut world, ms(1000));
    assert!(recovery.notices.is_empty(), "applied, but not known");
    world.cas_gate = CasGate::Pass;
    recovery.pass(&mut world, ms(5000));
    assert!(matches!(&recovery.notices[..], [Notice::Closed(_)]));
    let closing: Vec<Nonce> = world.changes.iter().skip(1).map(|(_, _, nonce)| *nonce).collect();
    assert!(closing.len() > 1 && closing.iter().all(|nonce| *nonce == closing[0]));
    assert_eq!(world.metadata().recovery, RecoveryNumber::new(1), "it did not begin again");
}

#[test]
fn c20_a_fence_does_not_keep_a_recovery_out() {
    let mut world = three();
    world.store(0, 0..1, None);
    recover(&mut world, 0..3);
    assert!((0..3).all(|number| world.at(number).entries.contains_key(&e(0))), "added behind its own fence");
}

#[test]
fn c21_coverage_is_enough() {
    let mut world = three();
    world.store(0, 0..3, Some(1));
    world.store(1, 0..3, Some(1));
    world.gate(2, Gate::Swallow);
    let recovery = recover(&mut world, 0..3);
    assert_eq!(closed(&world), Some(2));
    assert_eq!(recovery.now, alluvium_types::time::Mono::default(), "nobody was waited for");
}

#[test]
fn it_does_not_begin_with_less_than_coverage() {
    let mut world = three();
    world.store(0, 0..3, Some(1));
    world.gate(1, Gate::Swallow);
    world.gate(2, Gate::Refuse);
    let mut recovery = Driver::recovery(live(0..3));
    recovery.pass(&mut world, ms(120_000));
    let failed = RecoveryFailure::GaveUp(Stuck::Fence { answered: 1 });
    assert_eq!(recovery.notices, [Notice::Failed(failed)]);
    assert!(!recovery.sent.iter().any(|(_, request)| is_read(request)));
    assert!(failed.is_retryable());
}

#[test]
fn c59_torn_is_no_absence_unless_the_whole_write_set_says_absent_or_torn() {
    // (torn, silent) members of three, and whether the end is proved: two clean absents, or nobody but torn and absent.
    for (torn, silent, proved) in [(1, 0, true), (1, 1, false), (2, 0, true), (0, 1, true), (2, 1, false), (3, 0, true)] {
        let mut world = three();
        for number in 0..torn {
            world.at(number).torn = true;
        }
        let mut recovery = Driver::recovery(live(0..3));
        while (0..3).any(|number| world.at(number).fenced.is_none()) {
            recovery.step(&mut world);
        }
        for number in 3 - silent..3 {
            world.gate(number, Gate::Swallow);
        }
        recovery.pass(&mut world, ms(120_000));
        let ended = matches!(recovery.notices[..], [Notice::Closed(_)]);
        assert_eq!(ended, proved, "{torn} torn, {silent} silent");
    }
}

#[test]
fn c65_a_recovered_ledger_is_unverified_where_not_every_copy_was_seen() {
    let mut world = three();
    for number in 0..3 {
        world.store(number, 0..5, Some(3));
    }
    recover(&mut world, 0..3);
    assert_eq!(world.metadata().last_fragment().short, [0, 1, 2], "who has entries 0 to 3 is not known");

    let mut world = World::new(1, ledger(&[0], Replication::SINGLE));
    world.store(0, 0..5, Some(3));
    recover(&mut world, 0..1);
    assert!(world.metadata().last_fragment().short.is_empty(), "every ack quorum is the whole write set");

    let mut world = three();
    world.store(0, 0..5, None);
    world.gate(2, Gate::Swallow);
    recover(&mut world, 0..3);
    assert!(world.metadata().last_fragment().short.contains(&2), "it answered no add");
}

#[test]
fn c69_a_newer_recovery_supersedes_and_the_older_one_finds_its_result() {
    let mut world = three();
    for number in 0..3 {
        world.store(number, 0..2, None);
    }
    let mut older = Driver::recovery_with(live(0..3), RecoveryConfig::default(), 2);
    while older.machine.number().is_none() {
        older.step(&mut world);
    }
    let newer = recover(&mut world, 0..3);
    assert_eq!(closed(&world), Some(1));
    assert_eq!(world.metadata().recovery, RecoveryNumber::new(2));
    older.pass(&mut world, ms(10_000));
    assert_eq!(older.notices, newer.notices);
    // The writer's epoch has no part in it.
    assert_eq!(world.metadata().epoch, crate::world::EPOCH);
}

#[test]
fn c69_a_recovery_whose_number_is_older_is_refused_by_bookies() {
    let mut world = three();
    world.store(0, 0..1, None);
    let mut older = Driver::recovery_with(live(0..3), RecoveryConfig::default(), 2);
    while older.machine.number().is_none() {
        older.step(&mut world);
    }
    for number in 0..3 {
        world.at(number).fenced = Some(RecoveryNumber::new(9));
    }
    older.run(&mut world);
    assert!(older.notices.is_empty());
    assert!((1..3).all(|number| world.at(number).entries.is_empty()), "nothing was written under the old number");
}

#[test]
fn c69_a_bookie_that_tells_of_a_recovery_that_never_was_stops_none() {
    for liar in 0..3 {
        let mut world = three();
        for number in 0..3 {
            world.store(number, 0..3, Some(1));
        }
        let mut recovery = Driver::recovery(live(0..6));
        while recovery.machine.number().is_none() {
            recovery.step(&mut world);
        }
        world.at(liar).fenced = Some(RecoveryNumber::new(u64::MAX));
        recovery.pass(&mut world, ms(10_000));
        assert_eq!(closed(&world), Some(2), "liar {liar}");
        assert!(world.holes().is_empty());
        assert!(matches!(&recovery.notices[..], [Notice::Closed(_)]));
    }
}

#[test]
fn c69_a_recovery_that_the_record_knows_of_is_believed() {
    let mut world = three();
    world.store(0, 0..2, None);
    world.store(1, 0..2, None);
    let mut older = Driver::recovery_with(live(0..3), RecoveryConfig::default(), 2);
    while older.machine.number().is_none() {
        older.step(&mut world);
    }
    // A newer one has claimed the ledger and fenced a bookie, and is not heard of again.
    let mut newer = Driver::recovery_with(live(0..3), RecoveryConfig::default(), 3);
    while newer.machine.number().is_none() {
        newer.step(&mut world);
    }
    world.at(2).fenced = newer.machine.number();
    older.pass(&mut world, ms(10_000));
    assert_eq!(closed(&world), Some(1));
    assert_eq!(world.metadata().recovery, RecoveryNumber::new(3), "it came back as a newer one itself");
    assert_eq!(world.at(2).fenced, Some(RecoveryNumber::new(3)), "and nobody was left out");
}

#[test]
fn a_deleted_ledger_and_an_unknown_one_are_told_apart() {
    let mut world = three();
    let record = world.record.clone().unwrap();
    let metadata = LedgerMetadata { state: LedgerState::Deleting, ..record.metadata.clone() };
    world.record = Some(Record { metadata, ..record });
    assert_eq!(recover(&mut world, 0..3).notices, [Notice::Failed(RecoveryFailure::Deleted)]);
    world.record = None;
    assert_eq!(recover(&mut world, 0..3).notices, [Notice::Failed(RecoveryFailure::NoRecord)]);
}

#[test]
fn metadata_that_is_away_is_waited_for() {
    let mut world = three();
    let mut recovery = Driver::recovery(live(0..3));
    recovery.cut_metadata = true;
    recovery.pass(&mut world, ms(10_000));
    assert!(recovery.notices.is_empty());
    recovery.cut_metadata = false;
    recovery.pass(&mut world, ms(10_000));
    assert_eq!(closed(&world), None);
    assert_eq!(recovery.machine.next_wakeup(), None);
    recovery.tell(&mut world, Event::Tick);
}

/// The planted bugs that random seeds find rarely or never: each schedule, run with its bug, shows it.
#[cfg(feature = "mutations")]
mod planted {
    use alluvium_ledger::mutation::{Mutation, Mutations};

    use super::*;

    fn with(mutation: Mutation) -> RecoveryConfig {
        RecoveryConfig { mutations: Mutations::plant(mutation), ..RecoveryConfig::default() }
    }

    #[test]
    fn c1_reads_that_do_not_fence_lose_an_acked_entry() {
        let (world, acked) = bk_2614(with(Mutation::RecoveryReadsDoNotFence));
        assert_eq!((closed(&world), acked), (None, Some(0)), "acked, and not in the ledger");
    }

    #[test]
    fn c10_a_change_committed_early_loses_acked_entries() {
        let world = dies_after_a_change(with(Mutation::EnsembleChangeCommittedInRecovery));
        assert!(closed(&world) < Some(3), "the bookies that the record named never had them");
    }

    #[test]
    fn c11_reads_from_the_changed_ensemble() {
        let recovery = reads_after_a_change(with(Mutation::RecoveryReadsChangedEnsemble));
        assert!(recovery.sent.iter().any(|(to, request)| *to == b(2) && is_read(request)));
    }

    #[test]
    fn c13_recovery_adds_with_a_lac_make_a_hole() {
        let world = lac_of_a_dead_recovery(with(Mutation::RecoveryAddsCarryLac));
        assert!(!world.holes().is_empty(), "{:?}", world.metadata());
    }

    #[test]
    fn c14_without_backoff_duellists_raise_the_number_far_more_often() {
        let numbers = |config: &RecoveryConfig| duel(config).0.metadata().recovery.get();
        let (good, bad) = (numbers(&RecoveryConfig::default()), numbers(&with(Mutation::RecoverersDoNotBackOff)));
        println!("{good} claims with backoff, {bad} without");
        assert!(bad >= 10 * good, "{good} claims with backoff, {bad} without");
    }
}
