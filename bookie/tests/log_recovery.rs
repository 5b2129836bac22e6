//! What a start concludes from what it finds: directed cases (C30, C31, C57–C60, B11).

mod log_model;

use std::path::Path;

use alluvium_bookie::log::{Above, Doubts, Held, KeepReason, Mark, ReadError, RecoverError};
use alluvium_runtime::disk::{Disk, SyncMode};
use alluvium_runtime::entropy::Entropy;
use alluvium_types::ids::LedgerId;

use log_model::DIR;
use log_model::model::{closed, fenced, opened};
use log_model::rig::{Rig, e, l, open_log};

const ALL: LedgerId = LedgerId::new(u64::MAX);

#[test]
fn what_was_synced_is_there_after_any_number_of_restarts() {
    for mode in [SyncMode::Direct, SyncMode::Buffered] {
        let mut rig = Rig::with(log_model::small(), mode);
        rig.open_ledger(1);
        rig.add(1, 0, b"one");
        rig.add(1, 1, &[9; 2000]);
        rig.mark(2, fenced(opened(5), 4));
        rig.flush();
        for _ in 0..5 {
            rig.reopen();
            assert_eq!(rig.body(1, 0).unwrap(), b"one");
            assert_eq!(rig.body(1, 1).unwrap(), [9; 2000]);
            assert_eq!(rig.log.index.stored(l(1)).lac, Some(e(0)));
            assert_eq!(rig.marks(1), Some(opened(3)));
            assert_eq!(rig.marks(2), Some(fenced(opened(5), 4)), "B2: a fence outlives restarts");
            assert_eq!(rig.log.report.torn, None);
            assert_eq!(rig.log.report.losses, []);
        }
    }
}

#[test]
fn an_append_that_was_not_synced_may_be_gone_and_tears_nothing() {
    let mut rig = Rig::new();
    rig.open_ledger(1);
    rig.add(1, 0, b"never written");
    rig.reopen();
    assert_eq!(rig.log.index.get(l(1), e(0)), None);
    assert_eq!(rig.log.report.torn, None);
}

#[test]
fn a_shutdown_says_so() {
    let mut rig = Rig::new();
    rig.open_ledger(1);
    rig.log.writer.mark(Mark::Shutdown);
    rig.flush();
    rig.reopen();
    assert!(rig.log.report.clean_shutdown);
    rig.reopen();
    assert!(!rig.log.report.clean_shutdown, "the second start found the first one's file");
}

#[test]
fn c59_a_bad_last_group_tears_what_is_not_closed() {
    let mut rig = Rig::new();
    for ledger in [1, 2, 3] {
        rig.open_ledger(ledger);
    }
    rig.add_durable(1, 0, b"kept");
    rig.mark(2, closed(opened(3), None));
    rig.flush();
    let last = rig.add_durable(1, 1, b"acknowledged, then rotten");
    let path = rig.path(last.file);
    rig.disk.rot(&path, last.offset()..last.offset() + 56);
    rig.reopen();
    assert_eq!(rig.log.report.torn.map(|cut| cut.file), Some(last.file));
    assert_eq!(rig.log.report.losses, []);
    assert_eq!(rig.body(1, 0).unwrap(), b"kept");
    assert_eq!(rig.log.index.get(l(1), e(1)), None);
    assert_eq!(rig.marks(1).unwrap().torn, Some(Above::Entry(e(0))));
    assert_eq!(rig.marks(3).unwrap().torn, Some(Above::Nothing));
    assert_eq!(rig.marks(2).unwrap().torn, None, "it was known to be closed");
    assert_eq!(rig.log.writer.marks().doubts(), Doubts { torn_below: Some(ALL), in_doubt_below: None });
    // The conclusion is durable: the next start finds nothing new and remembers it.
    rig.reopen();
    assert_eq!(rig.log.report.torn, None);
    assert_eq!(rig.marks(1).unwrap().torn, Some(Above::Entry(e(0))));
    rig.mark(1, closed(rig.marks(1).unwrap(), Some(e(1))));
    rig.flush();
    rig.reopen();
    assert_eq!(rig.marks(1).unwrap().torn, None, "torn ends when the ledger is closed");
}

#[test]
fn c59_a_bad_last_group_with_a_mark_behind_it_is_a_loss() {
    let mut rig = Rig::new();
    for ledger in [1, 2] {
        rig.open_ledger(ledger);
    }
    let last = rig.add_durable(1, 0, b"acknowledged, then rotten");
    rig.idle_mark();
    rig.disk.rot(&rig.path(last.file), last.offset()..last.offset() + 56);
    rig.reopen();
    assert_eq!(rig.log.report.torn, None);
    assert_eq!(rig.log.report.losses.len(), 1);
    assert_eq!(rig.log.report.losses[0].held, Held::Ledgers(vec![l(1)]));
    assert!(rig.marks(1).unwrap().in_doubt && !rig.marks(2).unwrap().in_doubt);
}

#[test]
fn c59_every_rotten_sector_of_a_last_group_is_noticed() {
    for sector in 0..8 {
        let mut rig = Rig::new();
        rig.open_ledger(1);
        let last = rig.add_durable(1, 0, &[5; 1900]);
        let start = last.offset() / 4096 * 4096 + sector * 512;
        let whole = rig.disk.durable_bytes(&rig.path(last.file), start..start + 512);
        rig.disk.overwrite(&rig.path(last.file), start, &[0xEE; 512]);
        rig.reopen();
        let is_here = rig.log.index.get(l(1), e(0)).is_some();
        let is_torn = rig.marks(1).is_some_and(|marks| marks.torn.is_some());
        assert!(is_here && rig.body(1, 0).is_some() || is_torn, "sector {sector}, which began {:?}", &whole[..8]);
    }
}

#[test]
fn c31_a_bad_group_with_a_good_one_behind_it_is_a_loss_never_skipped() {
    let mut rig = Rig::new();
    for ledger in [1, 2, 3] {
        rig.open_ledger(ledger);
    }
    rig.add(1, 0, b"in the lost group");
    let lost = rig.add(2, 0, b"in the lost group, its body rots");
    rig.flush();
    rig.add_durable(3, 0, b"behind");
    let body_at = lost.offset() + 60;
    rig.disk.rot(&rig.path(lost.file), body_at..body_at + 10);
    rig.reopen();
    let report = &rig.log.report;
    assert_eq!(report.torn, None);
    assert_eq!(report.losses.len(), 1);
    assert_eq!(report.losses[0].entries, [(l(2), e(0))]);
    assert_eq!(report.losses[0].held, Held::Ledgers(vec![l(1), l(2)]));
    // What is good in it is still served; what is not is unknown, and so are absences.
    assert_eq!(rig.body(1, 0).unwrap(), b"in the lost group");
    assert!(matches!(rig.read(2, 0), Some(Err(ReadError::Corrupt(_)))));
    assert_eq!(rig.body(3, 0).unwrap(), b"behind");
    assert!(rig.marks(1).unwrap().in_doubt && rig.marks(2).unwrap().in_doubt);
    assert_eq!(rig.marks(3), Some(opened(3)));
    rig.reopen();
    assert!(matches!(rig.read(2, 0), Some(Err(ReadError::Corrupt(_)))), "the loss is remembered");
    assert!(rig.marks(2).unwrap().in_doubt);
}

#[test]
fn c31_zeros_short_reads_and_wrong_lengths_in_the_middle_are_losses() {
    type Damage = fn(&Rig, u64);
    let damage: [(&str, Damage); 3] = [
        ("a zeroed block", |rig, at| rig.disk.overwrite(&rig.path(rig.log.writer.active_file()), at, &[0; 4096])),
        ("a torn length", |rig, at| rig.disk.overwrite(&rig.path(rig.log.writer.active_file()), at + 8, &[0xFF; 4])),
        ("an unreadable block", |rig, at| rig.disk.make_unreadable(&rig.path(rig.log.writer.active_file()), at..at + 4096)),
    ];
    for (what, damage) in damage {
        let mut rig = Rig::new();
        rig.open_ledger(1);
        let lost = rig.add_durable(1, 0, b"lost");
        rig.add_durable(1, 1, b"behind");
        damage(&rig, lost.offset() / 4096 * 4096);
        rig.reopen();
        assert_eq!(rig.log.report.losses.len(), 1, "{what}");
        assert!(rig.marks(1).unwrap().in_doubt, "{what}");
        assert_eq!(rig.body(1, 1).unwrap(), b"behind", "{what}");
        assert_eq!(rig.log.writer.marks().doubts(), Doubts::default(), "{what}: the group behind names what it held");
    }
}

#[test]
fn c31_two_lost_groups_leave_all_ledgers_in_doubt() {
    let mut rig = Rig::new();
    rig.open_ledger(1);
    let first = rig.add_durable(1, 0, b"lost");
    rig.open_ledger(2);
    rig.add_durable(1, 1, b"behind");
    let start = first.offset() / 4096 * 4096;
    rig.disk.overwrite(&rig.path(first.file), start, &[0; 8192]);
    rig.reopen();
    assert_eq!(rig.log.report.losses[0].held, Held::Any);
    assert!(rig.marks(1).unwrap().in_doubt);
    assert_eq!(rig.marks(2), None, "its open is lost");
    assert_eq!(rig.log.writer.marks().doubts().in_doubt_below, Some(ALL), "so unknown is no proof");
}

#[test]
fn c31_a_rotten_group_before_a_torn_one_is_a_loss_and_not_taken_for_cut() {
    // Behind the rotten group there was nothing but frames of the torn one: no head that says what it seals.
    let mut rig = Rig::new();
    rig.open_ledger(1);
    let rotten = rig.add_durable(1, 0, &[5; 1900]);
    let torn = rig.add_durable(1, 1, &[6; 1900]);
    let path = rig.path(rotten.file);
    rig.disk.rot(&path, rotten.offset() + 600..rotten.offset() + 700);
    rig.disk.overwrite(&path, torn.offset() / 4096 * 4096, &[0; 56]);
    rig.disk.overwrite(&path, torn.offset() / 4096 * 4096 + 4040, &[0; 56]);
    rig.reopen();
    assert_eq!(rig.log.report.losses.len(), 1);
    assert_eq!(rig.log.report.losses[0].entries, [(l(1), e(0))]);
    assert!(rig.log.report.torn.is_some());
    assert!(rig.marks(1).unwrap().in_doubt && rig.marks(1).unwrap().torn.is_some());
    assert_eq!(rig.body(1, 1).unwrap(), [6; 1900], "what is good in the torn one stays");
}

#[test]
fn c58_nothing_is_appended_behind_a_cut() {
    let mut rig = Rig::new();
    rig.open_ledger(1);
    rig.add_durable(1, 0, b"first life");
    let before = rig.log.writer.active_file();
    // A group whose head is torn away, with frames that would look like a continuation.
    rig.add(1, 1, b"never acknowledged");
    rig.disk.crash_in(1);
    let write = rig.log.writer.begin().unwrap();
    rig.log.files.write(&write).unwrap_err();
    rig.reopen();
    assert_ne!(rig.log.writer.active_file(), before);
    let old: Vec<u8> = rig.disk.durable_bytes(&rig.path(before), 0..rig.config.file_bytes - 8192);
    rig.add_durable(1, 2, b"second life");
    rig.reopen();
    rig.add_durable(1, 3, b"third life");
    assert_eq!(rig.disk.durable_bytes(&rig.path(before), 0..rig.config.file_bytes - 8192), old);
}

#[test]
fn c57_frames_of_a_former_life_do_not_come_back() {
    let mut rig = Rig::new();
    rig.open_ledger(1);
    let first = rig.log.writer.active_file();
    rig.fill_past(first, 1);
    let second = rig.log.writer.active_file();
    rig.open_ledger(2);
    rig.fill_past(second, 1);
    // The first file is let go and used again; of its old groups all but the first are still there, byte for byte.
    rig.mark(1, alluvium_bookie::log::Marks { deleted: true, ..opened(3) });
    rig.flush();
    rig.log.index.remove_ledger(l(1));
    rig.release(first);
    assert!(!rig.log.index.holds(l(2)));
    let third = rig.log.writer.active_file();
    rig.fill_past(third, 2);
    while !rig.names().iter().all(|name| name != &format!("free-{:016x}", first.get())) {
        let active = rig.log.writer.active_file();
        rig.fill_past(active, 2);
    }
    // The file is active or waiting to be, and holds a new header at most; a start sees none of the old frames.
    let active = rig.log.writer.active_file();
    rig.fill_past(active, 2);
    rig.add_durable(2, 500, b"in a recycled file");
    rig.reopen();
    assert_eq!(rig.log.report.losses, []);
    assert_eq!(rig.log.report.torn, None);
    assert_eq!(rig.body(2, 500).unwrap(), b"in a recycled file");
    assert_eq!(rig.log.index.stored(l(1)).entries, 0);
}

#[test]
fn c60_a_group_begins_on_a_fresh_block() {
    let mut rig = Rig::new();
    rig.open_ledger(1);
    let mut blocks = std::collections::BTreeSet::new();
    for entry in 0..20 {
        let location = rig.add_durable(1, entry, b"small");
        assert!(blocks.insert((location.file, location.offset() / 4096)), "a block is written once in a life");
    }
}

#[test]
fn c30_a_file_with_a_bad_header_is_kept_and_everything_is_in_doubt() {
    let mut rig = Rig::new();
    rig.open_ledger(1);
    let first = rig.log.writer.active_file();
    rig.fill_past(first, 1);
    rig.seal();
    rig.disk.overwrite(&rig.path(first), 0, &[0xAB; 4096]);
    rig.reopen();
    assert_eq!(rig.log.report.unreadable, [first]);
    assert!(rig.marks(1).unwrap().in_doubt);
    assert_eq!(rig.log.writer.marks().doubts().in_doubt_below, Some(ALL));
    assert!(rig.names().contains(&format!("log-{:016x}", first.get())), "it stays where it is");
    assert_eq!(rig.log.writer.release(first, &rig.log.index).unwrap_err(), KeepReason::Unreadable(first));
}

#[test]
fn c30_one_bad_copy_of_a_header_is_no_harm() {
    let mut rig = Rig::new();
    rig.open_ledger(1);
    let location = rig.add_durable(1, 0, b"kept");
    rig.disk.overwrite(&rig.path(location.file), 0, &[0xAB; 512]);
    rig.reopen();
    assert_eq!(rig.log.report.unreadable, []);
    assert_eq!(rig.body(1, 0).unwrap(), b"kept");
}

#[test]
fn c30_a_bad_footer_means_a_scan_with_the_same_result() {
    let mut rig = Rig::new();
    rig.open_ledger(1);
    let first = rig.log.writer.active_file();
    rig.fill_past(first, 1);
    rig.seal();
    let entries = rig.log.index.stored(l(1)).entries;
    rig.disk.rot(&rig.path(first), rig.config.file_bytes - 56..rig.config.file_bytes);
    rig.reopen();
    assert_eq!(rig.log.index.stored(l(1)).entries, entries);
    assert_eq!(rig.log.report.losses, []);
    assert_eq!(rig.log.report.scanned, 2);
    rig.reopen();
    assert_eq!(rig.log.report.scanned, 1, "the start has written it anew");
}

/// B7 too: an old file may go because all that it still says stands elsewhere, durably.
#[test]
fn c27_the_marks_of_old_files_stand_at_the_head_of_the_new_one() {
    let mut rig = Rig::new();
    rig.mark(1, fenced(opened(9), 2));
    rig.open_ledger(2);
    let first = rig.log.writer.active_file();
    rig.fill_past(first, 2);
    let second = rig.log.writer.active_file();
    rig.fill_past(second, 2);
    // Of the first file not a byte is left.
    rig.mark(2, alluvium_bookie::log::Marks { deleted: true, ..opened(3) });
    rig.flush();
    rig.log.index.remove_ledger(l(2));
    rig.release(first);
    rig.reopen();
    assert_eq!(rig.marks(1), Some(fenced(opened(9), 2)));
}

/// C32 too: what is known never goes back to an older mark, and the file before is still there to say so.
#[test]
fn c27_a_rotten_snapshot_is_made_up_for_by_the_file_before() {
    let mut rig = Rig::new();
    rig.mark(1, fenced(opened(9), 2));
    rig.open_ledger(2);
    let first = rig.log.writer.active_file();
    rig.fill_past(first, 2);
    rig.add_durable(2, 900, b"behind the snapshot");
    let second = rig.log.writer.active_file();
    rig.disk.overwrite(&rig.path(second), 4096, &[0xCD; 4096]);
    rig.reopen();
    assert_eq!(rig.log.report.losses.len(), 1);
    assert_eq!(rig.marks(1), Some(fenced(opened(9), 2)));
    assert_eq!(rig.body(2, 900).unwrap(), b"behind the snapshot");
}

#[test]
fn a_newer_format_is_refused_and_nothing_is_changed() {
    let mut rig = Rig::new();
    rig.open_ledger(1);
    let file = rig.log.writer.active_file();
    for at in [0, 3584] {
        rig.disk.overwrite(&rig.path(file), at + 8, &9_u16.to_le_bytes());
    }
    rig.disk.crash();
    let before = rig.disk.durable_hash();
    let refused = open_log(&rig.disk, &rig.config, rig.mode).unwrap_err();
    assert!(matches!(refused, RecoverError::NewerFormat { version: 9, known: 1, .. }), "{refused}");
    assert_eq!(rig.disk.durable_hash(), before);
}

#[test]
fn b11_another_incarnations_log_is_refused() {
    let rig = Rig::new();
    rig.disk.crash();
    let before = rig.disk.durable_hash();
    let mut other = log_model::identity();
    other.incarnation = alluvium_types::ids::Incarnation::new(uuid::Uuid::from_u128(99));
    let refused = alluvium_bookie::log::open(
        std::sync::Arc::new(rig.disk.clone()),
        Path::new(DIR),
        rig.mode,
        rig.config.clone(),
        other,
        &Entropy::seeded(3),
    );
    assert!(matches!(refused.unwrap_err(), RecoverError::Foreign { .. }));
    assert_eq!(rig.disk.durable_hash(), before);
}

#[test]
fn files_of_other_names_are_left_alone() {
    let mut rig = Rig::new();
    let other = Path::new(DIR).join("IDENTITY");
    drop(rig.disk.create(&other, 0, SyncMode::Buffered).unwrap());
    rig.disk.sync_dir(Path::new(DIR)).unwrap();
    rig.reopen();
    assert!(rig.names().contains(&"IDENTITY".to_owned()));
}

#[test]
fn any_damage_opens_or_is_refused_and_opens_the_same_way_again() {
    for seed in 0..150 {
        let entropy = Entropy::seeded(seed);
        let mut rig = Rig::new();
        for ledger in 1..4 {
            rig.open_ledger(ledger);
        }
        let first = rig.log.writer.active_file();
        rig.fill_past(first, 1);
        for entry in 0..10 {
            rig.add_durable(2, entry, &[8; 700]);
        }
        if seed % 2 == 0 {
            rig.seal();
        }
        rig.disk.crash();
        let files: Vec<_> = rig.disk.list(Path::new(DIR)).unwrap();
        for _ in 0..1 + entropy.below(6) {
            let path = &files[usize::try_from(entropy.below(files.len() as u64)).unwrap()];
            let bytes = usize::try_from(1 + entropy.below(6000)).unwrap();
            let at = entropy.below(rig.config.file_bytes - bytes as u64);
            let garbage: Vec<u8> = match entropy.below(3) {
                0 => vec![0; bytes],
                // Bytes of another place: a write that went astray.
                1 => {
                    let from = entropy.below(rig.config.file_bytes - bytes as u64);
                    rig.disk.durable_bytes(path, from..from + bytes as u64)
                }
                _ => (0..bytes).map(|_| u8::try_from(entropy.below(256)).unwrap()).collect(),
            };
            rig.disk.overwrite(path, at, &garbage);
        }
        rig.reopen();
        // Nothing is served that was not written.
        for ledger in 1..4 {
            let wanted: Vec<_> = rig.log.index.range(l(ledger), e(0), e(1000)).collect();
            for (entry, _) in wanted {
                let expected: &[u8] = if ledger == 1 { &[7; 1500] } else { &[8; 700] };
                match rig.read(ledger, entry.get()).unwrap() {
                    Ok(frame) => assert_eq!(&frame.body[..], expected, "seed {seed}"),
                    Err(error) => assert!(matches!(error, ReadError::Corrupt(_)), "seed {seed}: {error}"),
                }
            }
        }
        let marks = rig.log.writer.marks().clone();
        rig.reopen();
        assert_eq!(rig.log.report.torn, None, "seed {seed}");
        assert_eq!(rig.log.report.losses, [], "seed {seed}");
        assert_eq!(*rig.log.writer.marks(), marks, "seed {seed}");
    }
}
