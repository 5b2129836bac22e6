//! The store, driven by hand on a real folder: what is answered when, and what a crash leaves.

mod support;

use alluvium_bookie::log::ReadError;
use alluvium_bookie::space::Admission;
use alluvium_bookie::store::{AddOutcome, Outcome};
use alluvium_types::bookie::{AdvanceLac, Missing, OpenLedger, ReadRefusal, Refusal};
use alluvium_types::ids::Epoch;
use alluvium_types::ledger::LedgerClass;
use bytes::Bytes;
use support::rig::Rig;
use support::{EPOCH, L, add, body, e, fencing_read, l, open, r, read, recovery_add};

#[test]
fn b1_an_add_is_answered_and_read_once_its_group_is_durable_and_not_before() {
    let mut rig = Rig::new().opened(L);
    let AddOutcome::Durable(group) = rig.try_add(add(L, 0, body(L, 0, 1000))) else { panic!("it waits for its group") };
    assert!(rig.store.durable() < group);
    assert_eq!(rig.seen(read(L, 0, 0)), [Err(Missing::Absent)]);
    let write = rig.begin().expect("there is something to write");
    assert!(rig.store.durable() < group, "begun is not durable");
    rig.store.files().write(&write).expect("written");
    assert_eq!(rig.store.complete(write), group);
    assert_eq!(rig.seen(read(L, 0, 0)), [Ok(0)]);
}

#[test]
fn b1_what_was_acknowledged_is_there_after_a_crash_and_after_another() {
    let mut rig = Rig::new().opened(L);
    for entry in 0..50 {
        rig.add(add(L, entry, body(L, entry, 700))).expect("added");
    }
    for _ in 0..2 {
        rig = rig.crash();
        let answer = rig.read(read(L, 0, 49)).expect("known");
        assert_eq!(answer.lac, Some(e(48)));
        for (entry, answer) in answer.entries.iter().enumerate() {
            let alluvium_types::bookie::EntryAnswer::Found(found) = answer else { panic!("entry {entry} is lost") };
            assert_eq!(found.body, body(L, entry as u64, 700));
        }
    }
}

#[test]
fn b2_c8_a_fence_is_durable_before_its_answer_and_outlives_crashes_and_files() {
    let mut rig = Rig::new().opened(L);
    rig.add(add(L, 0, body(L, 0, 100))).expect("added");
    assert!(matches!(rig.store.fence(L, r(1)), Outcome::After(_)), "not answered before it is durable");
    let answer = rig.fence(L, 1).expect("fenced");
    assert_eq!((answer.lac, answer.last), (None, Some(e(0))));
    // Files come and go; the marks stand at the head of each.
    rig = rig.opened(l(8));
    for entry in 0..150 {
        rig.add(add(l(8), entry, body(l(8), entry, 60_000))).expect("added");
    }
    for _ in 0..3 {
        rig = rig.crash();
        assert_eq!(rig.add(add(L, 1, body(L, 1, 100))), Err(Refusal::Fenced));
        assert_eq!(rig.ask(|store| store.open(&open(L))), Err(Refusal::Fenced));
    }
}

#[test]
fn b3_only_what_was_never_acknowledged_is_absent() {
    let mut rig = Rig::new().opened(L);
    assert_eq!(rig.read(read(l(99), 0, 0)), Err(ReadRefusal::NoSuchLedger));
    rig.add(add(L, 1, body(L, 1, 10))).expect("added");
    assert_eq!(rig.seen(read(L, 0, 2)), [Err(Missing::Absent), Ok(1), Err(Missing::Absent)]);
}

#[test]
fn b4_a_body_that_does_not_match_its_checksum_is_refused() {
    let mut rig = Rig::new().opened(L);
    let bad = alluvium_types::bookie::AddEntry { body: Bytes::from_static(b"other"), ..add(L, 0, body(L, 0, 5)) };
    assert_eq!(rig.add(bad), Err(Refusal::Corrupt));
    // The checksum covers the ledger and the entry as well.
    let moved = alluvium_types::bookie::AddEntry { entry: e(1), ..add(L, 0, body(L, 0, 5)) };
    assert_eq!(rig.add(moved), Err(Refusal::Corrupt));
}

#[test]
fn b5_the_same_entry_again_is_ok_and_a_different_one_is_a_conflict() {
    let mut rig = Rig::new().opened(L);
    let first = add(L, 0, body(L, 0, 100));
    let AddOutcome::Durable(group) = rig.try_add(first.clone()) else { panic!("it waits") };
    assert_eq!(rig.try_add(first.clone()), AddOutcome::Durable(group), "while it is on its way");
    assert_eq!(rig.try_add(add(L, 0, body(L, 9, 100))), AddOutcome::Now(Err(Refusal::Conflict)));
    rig.flush();
    for _ in 0..2 {
        // LAC, epoch and who adds it don't count.
        assert_eq!(rig.add(recovery_add(L, 0, 1, body(L, 0, 100))), Ok(()));
        assert_eq!(rig.add(add(L, 0, body(L, 9, 100))), Err(Refusal::Conflict));
        assert_eq!(rig.add(add(L, 0, body(L, 0, 101))), Err(Refusal::Conflict));
        rig = rig.crash();
    }
}

#[test]
fn b10_c61_a_read_only_bookie_serves_what_is_essential_from_its_reserve() {
    let mut rig = Rig::new().opened(L);
    let essential = OpenLedger { ledger: l(8), epoch: EPOCH, class: LedgerClass::Essential };
    rig.store.set_admission(Admission::Essential);
    assert_eq!(rig.add(add(L, 0, body(L, 0, 10))), Err(Refusal::ReadOnly));
    assert_eq!(rig.ask(|store| store.open(&open(l(9)))), Err(Refusal::ReadOnly));
    assert_eq!(rig.ask(|store| store.open(&essential)), Ok(()));
    assert_eq!(rig.add(add(l(8), 0, body(l(8), 0, 10))), Ok(()));
    assert_eq!(rig.add(recovery_add(L, 0, 1, body(L, 0, 10))), Ok(()));
    rig.store.set_admission(Admission::Marks);
    assert_eq!(rig.add(recovery_add(L, 1, 1, body(L, 1, 10))), Err(Refusal::ReadOnly));
    assert!(rig.fence(L, 2).is_ok());
    assert_eq!(rig.ask(|store| store.delete(L)), Ok(()));
    rig.store.set_admission(Admission::All);
    assert_eq!(rig.ask(|store| store.open(&open(l(9)))), Ok(()));
}

#[test]
fn c1_a_fencing_read_answers_after_its_fence_is_durable_and_sees_what_came_before() {
    let mut rig = Rig::new().opened(L);
    // On its way when the fence comes: durable with it, and seen.
    assert!(matches!(rig.try_add(add(L, 0, body(L, 0, 10))), AddOutcome::Durable(_)));
    assert!(matches!(rig.store.read(&fencing_read(L, 0, 1, 1)), Outcome::After(_)));
    assert_eq!(rig.try_add(add(L, 1, body(L, 1, 10))), AddOutcome::Now(Err(Refusal::Fenced)), "from the very request on");
    assert_eq!(rig.seen(fencing_read(L, 0, 1, 1)), [Ok(0), Err(Missing::Absent)]);
    let mut rig = rig.crash();
    assert_eq!(rig.add(add(L, 1, body(L, 1, 10))), Err(Refusal::Fenced));
}

#[test]
fn c7_fencing_a_ledger_that_was_never_seen_creates_it_fenced() {
    let mut rig = Rig::new();
    let answer = rig.fence(L, 1).expect("fenced");
    assert_eq!((answer.lac, answer.last), (None, None));
    for _ in 0..2 {
        assert_eq!(rig.ask(|store| store.open(&open(L))), Err(Refusal::Fenced));
        assert_eq!(rig.add(add(L, 0, body(L, 0, 10))), Err(Refusal::Fenced));
        assert_eq!(rig.seen(read(L, 0, 0)), [Err(Missing::Absent)]);
        rig = rig.crash();
    }
    assert_eq!(rig.seen(fencing_read(l(8), 0, 0, 1)), [Err(Missing::Absent)], "a fencing read does the same");
    assert_eq!(rig.ask(|store| store.open(&open(l(8)))), Err(Refusal::Fenced));
}

#[test]
fn c13_the_lac_of_a_recovery_add_is_not_believed() {
    let mut rig = Rig::new().opened(L);
    rig.add(add(L, 0, body(L, 0, 10))).expect("added");
    rig.fence(L, 1).expect("fenced");
    let ahead = alluvium_types::bookie::AddEntry { lac: Some(e(40)), ..recovery_add(L, 1, 1, body(L, 1, 10)) };
    rig.add(ahead).expect("added");
    for _ in 0..2 {
        let answer = rig.read(read(L, 0, 1)).expect("known");
        assert_eq!(answer.lac, None);
        let alluvium_types::bookie::EntryAnswer::Found(found) = &answer.entries[1] else { panic!("it is here") };
        assert_eq!(found.lac, None);
        rig = rig.crash();
    }
}

#[test]
fn c20_c69_recoveries_write_to_a_fenced_ledger_in_the_order_of_their_numbers() {
    let mut rig = Rig::new().opened(L);
    rig.fence(L, 5).expect("fenced");
    assert_eq!(rig.add(recovery_add(L, 0, 5, body(L, 0, 10))), Ok(()));
    rig.fence(L, 6).expect("the newer supersedes");
    let mut rig = rig.crash();
    assert_eq!(rig.add(recovery_add(L, 1, 5, body(L, 1, 10))), Err(Refusal::Stale));
    assert_eq!(rig.fence(L, 5), Err(ReadRefusal::Stale));
    assert_eq!(rig.read(fencing_read(L, 0, 0, 5)), Err(ReadRefusal::Stale));
    assert_eq!(rig.add(recovery_add(L, 1, 6, body(L, 1, 10))), Ok(()));
}

#[test]
fn c27_a_deleted_ledger_stays_deleted_for_a_zombie_across_crashes() {
    let mut rig = Rig::new().opened(L);
    rig.add(add(L, 0, body(L, 0, 10))).expect("added");
    rig.fence(L, 1).expect("fenced");
    assert!(matches!(rig.store.delete(L), Outcome::After(_)), "durable before it is answered");
    assert_eq!(rig.ask(|store| store.delete(L)), Ok(()));
    for _ in 0..2 {
        assert_eq!(rig.ask(|store| store.open(&open(L))), Err(Refusal::Deleted));
        assert_eq!(rig.add(add(L, 1, body(L, 1, 10))), Err(Refusal::Deleted));
        assert_eq!(rig.read(read(L, 0, 0)), Err(ReadRefusal::Deleted));
        assert_eq!(rig.fence(L, 9), Err(ReadRefusal::Deleted));
        assert_eq!(rig.store.list(None, 10), []);
        rig = rig.crash();
    }
}

#[test]
fn c28_an_add_in_the_same_group_as_a_deletion_does_not_come_back() {
    let mut rig = Rig::new().opened(L);
    assert!(matches!(rig.try_add(add(L, 0, body(L, 0, 10))), AddOutcome::Durable(_)));
    assert!(matches!(rig.store.delete(L), Outcome::After(_)));
    rig.flush();
    assert_eq!(rig.store.index().stored(L).entries, 0);
    let rig = rig.crash();
    assert_eq!(rig.store.index().stored(L).entries, 0);
}

#[test]
fn c31_c4_an_entry_that_rots_is_unknown_and_never_absent_and_may_be_written_again() {
    let mut rig = Rig::new().opened(L);
    let marker = Bytes::from_static(b"the one and only body that is looked for");
    rig.add(add(L, 0, marker.clone())).expect("added");
    rig.add(add(L, 1, body(L, 1, 10))).expect("a later group");
    rot(rig.dir(), &marker);
    let done = rig.ask(|store| store.read(&read(L, 0, 1))).expect("planned").run(&rig.reader()).expect("nothing moves");
    assert_eq!(done.unreadable, [e(0)]);
    assert_eq!(rig.seen(read(L, 0, 1)), [Err(Missing::Unknown), Ok(1)]);
    let location = rig.store.index().get(L, e(0)).expect("it should be here");
    assert!(matches!(rig.reader().read(L, e(0), location), Err(ReadError::Corrupt(_))));
    // Repair brings it back.
    assert_eq!(rig.add(recovery_add(L, 0, 1, marker)), Ok(()));
    assert_eq!(rig.seen(read(L, 0, 1)), [Ok(0), Ok(1)]);
}

#[test]
fn c34_after_one_failed_sync_nothing_is_acknowledged_though_the_next_would_succeed() {
    let disk = support::disk::FaultyDisk::new(1 << 30);
    let mut rig = Rig::on(std::sync::Arc::new(disk.clone()), alluvium_bookie::mutation::Mutations::NONE).opened(L);
    rig.add(add(L, 0, body(L, 0, 10))).expect("added");
    assert!(matches!(rig.try_add(add(L, 1, body(L, 1, 10))), AddOutcome::Durable(_)));
    let write = rig.begin().expect("there is something to write");
    disk.0.fail_once.store(true, std::sync::atomic::Ordering::SeqCst);
    let error = rig.store.files().write(&write).expect_err("the disk fails");
    rig.store.complete_failed(write, &error);
    assert_eq!(rig.try_add(add(L, 1, body(L, 1, 10))), AddOutcome::Now(Err(Refusal::Stopping)));
    assert_eq!(rig.store.open(&open(l(8))), Outcome::Now(Err(Refusal::Stopping)));
    assert_eq!(rig.store.fence(L, r(1)), Outcome::Now(Err(ReadRefusal::Stopping)));
    assert!(rig.begin().is_none());
    let mut rig = rig.crash();
    assert_eq!(rig.seen(read(L, 0, 0)), [Ok(0)]);
}

#[test]
fn c36_an_entry_at_the_limit_is_taken_and_one_byte_more_is_too_large_for_good() {
    let limit = support::small_log().body_bytes_max;
    let mut rig = Rig::new().opened(L);
    assert_eq!(rig.add(add(L, 0, body(L, 0, limit))), Ok(()));
    assert_eq!(rig.add(add(L, 1, body(L, 1, limit + 1))), Err(Refusal::TooLarge));
    assert_eq!(rig.add(add(L, 1, body(L, 1, limit))), Ok(()));
}

#[test]
fn c59_a_torn_bookie_says_torn_refuses_its_writers_as_unknown_and_ends_with_the_close() {
    let mut rig = Rig::new().opened(L);
    let marker = Bytes::from_static(b"acknowledged, and then rotten at the end");
    rig.add(add(L, 0, body(L, 0, 10))).expect("added");
    rig.add(add(L, 1, marker.clone())).expect("acknowledged");
    rot(rig.dir(), &marker);
    let mut rig = rig.crash();
    assert!(rig.store.report().torn.is_some(), "{:?}", rig.store.report());
    for _ in 0..2 {
        assert_eq!(rig.seen(read(L, 0, 1)), [Ok(0), Err(Missing::Torn)]);
        assert_eq!(rig.add(add(L, 2, body(L, 2, 10))), Err(Refusal::UnknownLedger));
        assert_eq!(rig.ask(|store| store.open(&open(L))), Err(Refusal::UnknownLedger));
        assert!(rig.store.summary(L).torn);
        rig = rig.crash();
    }
    // Recoveries go on, and so does the doubt.
    rig.fence(L, 1).expect("fenced");
    assert_eq!(rig.add(recovery_add(L, 2, 1, body(L, 2, 10))), Ok(()));
    assert_eq!(rig.seen(fencing_read(L, 1, 2, 1)), [Err(Missing::Torn), Ok(2)]);
    assert_eq!(rig.ask(|store| store.close(L, Some(e(2)))), Ok(()));
    let mut rig = rig.crash();
    assert!(!rig.store.summary(L).torn);
    assert_eq!(rig.seen(read(L, 1, 2)), [Err(Missing::Unknown), Ok(2)], "what was torn away is not proved absent");
}

#[test]
fn c59_after_a_loss_unknown_ledgers_are_in_doubt_until_a_bound_on_their_ids_is_known() {
    let mut rig = Rig::new().opened(L);
    let marker = Bytes::from_static(b"the last group, which may have held a fence");
    rig.add(add(L, 0, marker.clone())).expect("acknowledged");
    rot(rig.dir(), &marker);
    let mut rig = rig.crash();
    assert!(rig.store.needs_bound());
    assert_eq!(rig.ask(|store| store.open(&open(l(50)))), Err(Refusal::UnknownLedger));
    assert_eq!(rig.ask(|store| store.bound_doubts(l(50))), Ok(()));
    for below in [48, 49] {
        assert!(!rig.store.needs_bound());
        assert_eq!(rig.ask(|store| store.open(&open(l(below)))), Err(Refusal::UnknownLedger));
        assert_eq!(rig.seen(fencing_read(l(below), 0, 0, 1)), [Err(Missing::Torn)]);
        assert_eq!(rig.ask(|store| store.open(&open(l(50)))), Ok(()));
        rig = rig.crash();
    }
}

#[test]
fn c68_a_ledger_takes_no_add_before_its_open_is_durable() {
    let mut rig = Rig::new();
    assert_eq!(rig.add(add(L, 0, body(L, 0, 10))), Err(Refusal::UnknownLedger));
    assert!(matches!(rig.store.open(&open(L)), Outcome::After(_)));
    assert_eq!(rig.try_add(add(L, 0, body(L, 0, 10))), AddOutcome::Now(Err(Refusal::UnknownLedger)));
    assert_eq!(rig.ask(|store| store.open(&open(L))), Ok(()));
    assert_eq!(rig.add(add(L, 0, body(L, 0, 10))), Ok(()));
}

#[test]
fn an_older_epoch_is_refused_and_a_newer_one_takes_over_by_opening() {
    let mut rig = Rig::new().opened(L);
    let newer = OpenLedger { epoch: Epoch::new(4), ..open(L) };
    assert_eq!(rig.ask(|store| store.open(&newer)), Ok(()));
    let mut rig = rig.crash();
    assert_eq!(rig.add(add(L, 0, body(L, 0, 10))), Err(Refusal::Stale));
    assert_eq!(rig.ask(|store| store.open(&open(L))), Err(Refusal::Stale));
}

#[test]
fn a_lac_alone_is_known_at_once_and_never_moves_back() {
    let mut rig = Rig::new().opened(L);
    let lac = |entry| AdvanceLac { ledger: L, epoch: EPOCH, lac: e(entry) };
    assert_eq!(rig.store.advance_lac(&lac(5)), Ok(()));
    assert_eq!(rig.store.advance_lac(&lac(4)), Ok(()));
    assert_eq!(rig.store.read_lac(L), Ok(Some(e(5))));
    let stale = AdvanceLac { epoch: Epoch::new(2), ..lac(9) };
    assert_eq!(rig.store.advance_lac(&stale), Err(Refusal::Stale));
    // It went with the next group that somebody needed.
    rig.add(add(L, 0, body(L, 0, 10))).expect("added");
    assert_eq!(rig.crash().store.read_lac(L), Ok(Some(e(5))));
}

#[test]
fn a_read_gives_at_least_one_entry_and_stops_at_its_budget() {
    let mut rig = Rig::new().opened(L);
    for entry in 0..10 {
        rig.add(add(L, entry, body(L, entry, 10_000))).expect("added");
    }
    let within = |bytes_max| alluvium_types::bookie::ReadEntries { bytes_max, ..read(L, 0, 9) };
    assert_eq!(rig.seen(within(1)), [Ok(0)]);
    assert_eq!(rig.seen(within(25_000)), [Ok(0), Ok(1)]);
    assert_eq!(rig.seen(within(1 << 20)).len(), 10);
    assert_eq!(rig.read(within(0)), Err(ReadRefusal::Invalid));
    assert_eq!(rig.read(read(L, 5, 4)), Err(ReadRefusal::Invalid));
    let nothing = rig.seen(alluvium_types::bookie::ReadEntries { bytes_max: usize::MAX, ..read(L, 10, u64::MAX) });
    assert!(nothing.len() <= 4096, "a range of nothing is bounded as well");
}

#[test]
fn list_pages_through_the_ledgers() {
    let mut rig = Rig::new();
    for ledger in [3, 1, 2] {
        rig = rig.opened(l(ledger));
    }
    rig.add(add(l(2), 0, body(l(2), 0, 123))).expect("added");
    let page = rig.store.list(Some(l(1)), 1);
    assert_eq!((page[0].ledger, page[0].entries, page[0].bytes, page[0].last), (l(2), 1, 123, Some(e(0))));
    assert_eq!(rig.store.list(None, 10).iter().map(|s| s.ledger.get()).collect::<Vec<_>>(), [1, 2, 3]);
}

#[test]
fn b6_compaction_keeps_what_lives_and_frees_the_file_through_a_crash_at_any_step() {
    for crash_after in 0..4 {
        let mut rig = Rig::new().opened(L).opened(l(8));
        rig.add(add(L, 0, body(L, 0, 5000))).expect("added");
        for entry in 0..80 {
            rig.add(add(l(8), entry, body(l(8), entry, 60_000))).expect("added");
        }
        assert_eq!(rig.ask(|store| store.delete(l(8))), Ok(()));
        let file = rig.store.begin_compaction(2 << 20, 50).expect("a file is mostly dead");
        let mut steps = 0;
        while let Some(copy) = rig.store.next_copy() {
            if steps == crash_after {
                break;
            }
            steps += 1;
            let frame = rig.reader().read(copy.ledger, copy.entry, copy.from).expect("readable");
            assert!(matches!(rig.store.copy(&frame), Outcome::Now(Ok(()))));
        }
        assert!(rig.store.release_dead().iter().all(|release| format!("{release:?}") != format!("{file:?}")));
        if crash_after == 1 {
            rig = rig.crash();
        } else if crash_after > 1 {
            assert_eq!(rig.ask(alluvium_bookie::store::Store::finish_compaction), Ok(()));
            for release in rig.store.release_dead() {
                let released = rig.store.files().release(release).expect("let go");
                rig.store.released(released);
            }
            if crash_after == 2 {
                rig = rig.crash();
            }
        }
        assert_eq!(rig.seen(read(L, 0, 0)), [Ok(0)], "crash after {crash_after}");
        assert_eq!(rig.read(read(l(8), 0, 0)), Err(ReadRefusal::Deleted));
    }
}

/// Flips a bit of what stands behind `marker` in the folder's files.
#[expect(clippy::disallowed_methods, reason = "rot comes from outside the program")]
fn rot(dir: &std::path::Path, marker: &Bytes) {
    for entry in std::fs::read_dir(dir).expect("readable") {
        let path = entry.expect("readable").path();
        let mut bytes = std::fs::read(&path).expect("readable");
        if let Some(at) = bytes.windows(marker.len()).position(|window| window == marker.as_ref()) {
            bytes[at] ^= 1;
            std::fs::write(&path, bytes).expect("writable");
            return;
        }
    }
    panic!("the marker is in no file");
}
