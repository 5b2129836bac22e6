//! Letting files go, and full or failing disks: directed cases (B6, B8, C27, C29, C34, C35, C61).

mod log_model;

use std::path::Path;

use alluvium_bookie::log::{AppendError, KeepReason, Location, Marks, PrepareError, ReadError, Reader, RecoverError};
use alluvium_runtime::disk::{Disk, SyncMode};
use alluvium_types::ids::EntryId;

use log_model::DIR;
use log_model::model::opened;
use log_model::rig::{Rig, e, head, l};

fn deleted() -> Marks {
    Marks { deleted: true, ..opened(3) }
}

/// A log whose first file holds one live entry among dead ones, and is two files back.
fn sparse() -> Rig {
    let mut rig = Rig::new();
    rig.open_ledger(1);
    rig.open_ledger(2);
    rig.add_durable(2, 0, b"alive");
    let first = rig.log.writer.active_file();
    rig.fill_past(first, 1);
    let second = rig.log.writer.active_file();
    rig.fill_past(second, 1);
    rig.mark(1, deleted());
    rig.flush();
    rig.log.index.remove_ledger(l(1));
    rig
}

#[test]
fn c29_a_compacted_file_goes_only_after_its_copies_are_durable_and_sealed() {
    let mut rig = sparse();
    let (first, _) = rig.log.index.files().next().unwrap();
    assert_eq!(rig.log.index.usage(first).entries, 1);
    let mut compaction = rig.compact(first);
    assert_eq!(rig.log.writer.release(first, &rig.log.index).unwrap_err(), KeepReason::Live(first));
    let durable = rig.log.writer.durable();
    compaction.durable(durable, &mut rig.log.index);
    assert!(!compaction.is_done(), "the last group could still pass for a torn one");
    rig.idle_mark();
    compaction.durable(rig.log.writer.durable(), &mut rig.log.index);
    assert!(compaction.is_done());
    rig.release(first);
    assert_eq!(rig.body(2, 0).unwrap(), b"alive");
    rig.reopen();
    assert_eq!(rig.body(2, 0).unwrap(), b"alive");
    assert_eq!(rig.log.index.stored(l(1)).entries, 0);
}

#[test]
fn c29_an_unreadable_entry_keeps_its_file() {
    let mut rig = sparse();
    let at = rig.log.index.get(l(2), e(0)).unwrap();
    rig.disk.rot(&rig.path(at.file), at.offset()..at.offset() + 60);
    let mut compaction = rig.compact(at.file);
    compaction.durable(rig.log.writer.durable(), &mut rig.log.index);
    assert_eq!(compaction.unreadable(), 1);
    assert_eq!(rig.log.writer.release(at.file, &rig.log.index).unwrap_err(), KeepReason::Live(at.file));
}

#[test]
fn c27_the_two_newest_files_and_undurable_deletions_keep_files() {
    let mut rig = sparse();
    let active = rig.log.writer.active_file();
    assert_eq!(rig.log.writer.release(active, &rig.log.index).unwrap_err(), KeepReason::Marks(active));
    let files: Vec<_> = rig.log.index.files().map(|(file, _)| file).collect();
    let before = files.iter().copied().rfind(|file| *file < active).unwrap();
    assert_eq!(rig.log.writer.release(before, &rig.log.index).unwrap_err(), KeepReason::Marks(before));
    rig.mark(2, deleted());
    rig.log.index.remove_ledger(l(2));
    let first = files[0];
    assert_eq!(rig.log.writer.release(first, &rig.log.index).unwrap_err(), KeepReason::NotDurable(first));
    rig.flush();
    rig.release(first);
}

#[test]
fn c27_a_deleted_ledger_is_forgotten_only_when_no_file_holds_a_frame_of_it() {
    let mut rig = sparse();
    assert!(rig.log.index.holds(l(1)));
    let forgotten = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| rig.log.writer.forget(l(1), &rig.log.index)));
    assert!(forgotten.is_err());
}

#[test]
fn a_released_file_is_used_again_under_another_id_and_old_locations_have_moved() {
    let mut rig = sparse();
    let at = rig.log.index.get(l(2), e(0)).unwrap();
    let reader = Reader::new(rig.log.files.clone());
    rig.mark(2, deleted());
    rig.flush();
    rig.log.index.remove_ledger(l(2));
    rig.release(at.file);
    assert!(rig.names().contains(&format!("free-{:016x}", at.file.get())));
    let moved = reader.read(l(2), e(0), at).unwrap_err();
    assert!(matches!(moved, ReadError::Moved(_)) && moved.is_retryable());
    let pool = rig.log.files.pool_len();
    let next = rig.log.files.prepare_next().unwrap();
    assert_eq!(rig.log.files.pool_len(), pool - 1);
    drop(next);
}

#[test]
fn a_late_footer_never_lands_in_the_next_life_of_a_file() {
    let mut rig = sparse();
    let first = rig.log.index.files().next().unwrap().0;
    let late = rig.log.writer.take_seal().unwrap();
    assert_eq!(late.file(), first);
    rig.mark(2, deleted());
    rig.flush();
    rig.log.index.remove_ledger(l(2));
    rig.release(first);
    let path = Path::new(DIR).join(format!("free-{:016x}", first.get()));
    let before = rig.disk.durable_bytes(&path, 0..rig.config.file_bytes);
    rig.log.files.write_seal(&late).unwrap();
    assert_eq!(rig.disk.durable_bytes(&path, 0..rig.config.file_bytes), before);
}

#[test]
fn the_pool_is_bounded() {
    let rig = Rig::new();
    while rig.log.files.fill_pool(false).unwrap() {}
    assert_eq!(rig.log.files.pool_len(), rig.config.pool_files);
}

#[test]
fn a_file_is_written_ahead_unless_the_log_is_busy() {
    let rig = Rig::with(alluvium_bookie::log::Config { prewrite: true, ..log_model::small() }, SyncMode::Direct);
    let calls_of = |is_busy| {
        let before = rig.disk.calls();
        assert!(rig.log.files.fill_pool(is_busy).unwrap());
        rig.disk.calls() - before
    };
    let (busy, idle) = (calls_of(true), calls_of(false));
    assert!(busy < idle, "{busy} calls while busy, {idle} while idle");
}

#[test]
fn c34_b8_a_failed_sync_stops_the_writer_for_ever_though_the_next_one_succeeds() {
    for mode in [SyncMode::Direct, SyncMode::Buffered] {
        let mut rig = Rig::with(log_model::small(), mode);
        rig.open_ledger(1);
        rig.add_durable(1, 0, b"durable");
        rig.add(1, 1, b"in the failed group");
        let durable = rig.log.writer.durable();
        match mode {
            SyncMode::Direct => rig.disk.fail_write_in(1),
            SyncMode::Buffered => rig.disk.fail_sync_in(1),
        }
        let write = rig.log.writer.begin().unwrap();
        let error = rig.log.files.write(&write).unwrap_err();
        rig.log.writer.complete_failed(write, &error);
        assert!(rig.log.writer.is_failed() && !rig.log.writer.has_work());
        assert_eq!(rig.log.writer.durable(), durable, "nothing of it was acknowledged");
        assert_eq!(rig.log.writer.append_entry(&head(1, 2, b"x"), b"x").unwrap_err(), AppendError::Failed);
        assert_eq!(rig.log.writer.append_marks(l(1), opened(3)).unwrap_err(), AppendError::Failed);
        assert!(rig.log.writer.begin().is_none());
        assert_eq!(rig.body(1, 0).unwrap(), b"durable", "reads go on");
    }
}

#[test]
fn c61_a_full_disk_shows_when_a_file_is_prepared_never_at_an_append() {
    let mut rig = Rig::new();
    rig.open_ledger(1);
    while rig.log.files.fill_pool(false).unwrap() {}
    rig.disk.set_capacity(0);
    assert!(matches!(rig.log.files.fill_pool(false), Ok(false)));
    // The pool is the reserve: it is used up first, and every append into it succeeds.
    let mut entry = 0;
    let full = loop {
        match rig.log.writer.append_entry(&head(1, entry, &[1; 1500]), &[1; 1500]) {
            Ok(_) => entry += 1,
            Err(AppendError::Full) => {
                let write = rig.log.writer.begin().unwrap();
                rig.log.files.write(&write).unwrap();
                rig.log.writer.complete(write);
            }
            Err(AppendError::NoFile) => match rig.log.files.prepare_next() {
                Ok(next) => rig.log.writer.offer(next),
                Err(error) => break error,
            },
            Err(error) => panic!("{error}"),
        }
    };
    assert!(matches!(full, PrepareError::NoSpace) && full.is_retryable());
    assert!(entry > 40, "{entry} entries fit the reserve");
    assert!(!rig.log.writer.is_failed());
    // What was appended can still be made durable and sealed.
    rig.log.writer.mark(alluvium_bookie::log::Mark::Idle);
    while let Some(write) = rig.log.writer.begin() {
        rig.log.files.write(&write).unwrap();
        rig.log.writer.complete(write);
    }
    // With room again, it goes on.
    rig.disk.set_capacity(8 << 20);
    rig.add_durable(1, 900, b"room again");
    assert_eq!(rig.body(1, 900).unwrap(), b"room again");
}

#[test]
fn c35_a_start_on_a_full_disk_needs_one_free_file_or_a_dead_one() {
    let mut rig = sparse();
    rig.mark(2, deleted());
    rig.flush();
    // Nothing is alive any more, but no file was let go, and the disk is full.
    rig.disk.crash();
    for path in rig.disk.list(Path::new(DIR)).unwrap() {
        if path.to_str().unwrap().contains("free-") {
            rig.disk.remove(&path).unwrap();
        }
    }
    rig.disk.sync_dir(Path::new(DIR)).unwrap();
    rig.disk.set_capacity(0);
    rig.reopen();
    assert_eq!(rig.log.index.stored(l(2)).entries, 0);
}

#[test]
fn c35_a_start_without_any_room_says_so_and_starts_when_there_is_some() {
    let mut rig = Rig::new();
    rig.open_ledger(1);
    rig.add_durable(1, 0, b"alive");
    let active = rig.path(rig.log.writer.active_file());
    rig.disk.crash();
    for path in rig.disk.list(Path::new(DIR)).unwrap() {
        if path != active {
            rig.disk.remove(&path).unwrap();
        }
    }
    rig.disk.sync_dir(Path::new(DIR)).unwrap();
    rig.disk.set_capacity(0);
    assert!(matches!(rig.try_reopen(), Err(RecoverError::NoSpace)));
    rig.disk.set_capacity(8 << 20);
    rig.reopen();
    assert_eq!(rig.body(1, 0).unwrap(), b"alive");
}

#[test]
fn c36_an_entry_over_the_limit_is_refused_for_good() {
    let mut rig = Rig::new();
    let body = vec![0; rig.config.body_bytes_max + 1];
    let refused = rig.log.writer.append_entry(&head(1, 0, &body), &body).unwrap_err();
    assert_eq!(refused, AppendError::TooLarge { bytes: 2001, bytes_max: 2000 });
    assert!(!refused.is_retryable());
    rig.open_ledger(1);
    rig.add_durable(1, 0, &body[1..]);
    assert_eq!(rig.body(1, 0).unwrap(), body[1..]);
}

#[test]
fn b1_one_group_is_in_flight_and_the_next_fills_meanwhile() {
    let mut rig = Rig::new();
    rig.open_ledger(1);
    let first = rig.log.writer.append_entry(&head(1, 0, b"a"), b"a").unwrap();
    let write = rig.log.writer.begin().unwrap();
    let second = rig.log.writer.append_entry(&head(1, 1, b"b"), b"b").unwrap();
    assert!(first.group < second.group);
    assert!(rig.log.writer.begin().is_none(), "one is in flight");
    assert!(rig.log.writer.durable() < first.group);
    rig.log.files.write(&write).unwrap();
    assert_eq!(rig.log.writer.complete(write), first.group);
    assert!(rig.log.writer.durable() < second.group);
}

#[test]
fn b4_rot_is_corrupt_never_data() {
    let mut rig = Rig::new();
    rig.open_ledger(1);
    for entry in 0..4 {
        rig.add(1, entry, &[u8::try_from(entry).unwrap(); 300]);
    }
    rig.flush();
    let wanted: Vec<_> = rig.log.index.range(l(1), e(0), e(9)).collect();
    let at = wanted[2].1;
    rig.disk.rot(&rig.path(at.file), at.offset() + 100..at.offset() + 101);
    let answers = Reader::new(rig.log.files.clone()).read_many(l(1), &wanted);
    for (place, answer) in answers.iter().enumerate() {
        match answer {
            Ok(frame) => assert!(place != 2 && frame.body == vec![u8::try_from(place).unwrap(); 300]),
            Err(error) => assert!(place == 2 && matches!(error, ReadError::Corrupt(_))),
        }
    }
    // Another entry's frame is not the entry either.
    let other = Reader::new(rig.log.files.clone()).read(l(1), e(3), wanted[1].1);
    assert!(matches!(other, Err(ReadError::Corrupt(_))));
}

/// A log with small entries, and a reader that keeps the chunk they are in.
fn kept() -> (Rig, Reader, Vec<(EntryId, Location)>) {
    let mut rig = Rig::new();
    rig.open_ledger(1);
    for entry in 0..4 {
        rig.add(1, entry, &[u8::try_from(entry).expect("small"); 300]);
    }
    rig.flush();
    let places: Vec<_> = rig.log.index.range(l(1), e(0), e(9)).collect();
    let reader = Reader::new(rig.log.files.clone());
    assert!(reader.peek(l(1), e(0), places[0].1).is_none());
    reader.read(l(1), e(0), places[0].1).expect("sound");
    assert!(reader.peek(l(1), e(0), places[0].1).is_none(), "a lone read is one");
    reader.read(l(1), e(1), places[1].1).expect("sound");
    assert_eq!(reader.peek(l(1), e(0), places[0].1).expect("kept").body, vec![0; 300]);
    (rig, reader, places)
}

#[test]
fn b4_c31_what_is_kept_in_memory_is_no_proof_of_what_is_on_disk() {
    let (rig, reader, places) = kept();
    let (entry, at) = places[2];
    rig.disk.rot(&rig.path(at.file), at.offset() + 100..at.offset() + 101);
    assert_eq!(reader.read(l(1), entry, at).unwrap().body, vec![2; 300], "it was sound when it was read");
    assert!(matches!(reader.read_disk(l(1), entry, at), Err(ReadError::Corrupt(_))));
}

#[test]
fn what_came_after_a_chunk_was_read_is_read_from_the_disk() {
    let (mut rig, reader, _) = kept();
    rig.add(1, 4, &[4; 300]);
    rig.flush();
    let at = rig.log.index.get(l(1), e(4)).unwrap();
    assert!(reader.peek(l(1), e(4), at).is_none());
    assert_eq!(reader.read(l(1), e(4), at).unwrap().body, vec![4; 300]);
}

#[test]
fn a_chunk_of_a_file_that_was_released_answers_nothing() {
    let mut rig = sparse();
    let at = rig.log.index.get(l(2), e(0)).unwrap();
    let reader = Reader::new(rig.log.files.clone());
    for _ in 0..2 {
        reader.read(l(2), e(0), at).unwrap();
    }
    assert!(reader.peek(l(2), e(0), at).is_some());
    rig.mark(2, deleted());
    rig.flush();
    rig.log.index.remove_ledger(l(2));
    rig.release(at.file);
    assert!(reader.peek(l(2), e(0), at).is_none());
    assert!(matches!(reader.read(l(2), e(0), at), Err(ReadError::Moved(_))));
}
