//! The log over real files, in both modes.

#![expect(clippy::unwrap_used, reason = "a test ends where something is not as it must be")]

use std::path::Path;
use std::sync::Arc;

use alluvium_bookie::log::{Config, EntryHead, Identity, Log, Mark, Reader, open};
use alluvium_runtime::disk::SyncMode;
use alluvium_runtime::disk::real::{RealDisk, probe};
use alluvium_runtime::entropy::Entropy;
use alluvium_types::bookie::Adder;
use alluvium_types::entry::entry_checksum_over;
use alluvium_types::ids::{ClusterId, EntryId, Epoch, Incarnation, LedgerId};
use uuid::Uuid;

const LEDGER: LedgerId = LedgerId::new(1);

fn open_in(dir: &Path, mode: SyncMode) -> Log {
    let config = Config { file_bytes: 24 << 20, group_bytes: 1 << 20, pool_files: 2, ..Config::default() };
    let identity = Identity { cluster: ClusterId::new(Uuid::from_u128(1)), incarnation: Incarnation::new(Uuid::from_u128(2)) };
    open(Arc::new(RealDisk), dir, mode, config, identity, &Entropy::seeded(1)).unwrap()
}

fn write(log: &mut Log) {
    while log.writer.has_work() {
        let write = log.writer.begin().unwrap();
        log.files.write(&write).unwrap();
        log.writer.complete(write);
    }
}

fn body(entry: u64) -> Vec<u8> {
    let bytes = match entry % 4 {
        0 => 5 << 20,
        1 => 0,
        2 => 64 << 10,
        _ => 1000,
    };
    vec![u8::try_from(entry % 251).unwrap(); bytes]
}

#[test]
fn entries_of_all_sizes_are_read_back_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let mut modes = vec![SyncMode::Buffered];
    if probe(dir.path(), None).unwrap().mode == SyncMode::Direct {
        modes.push(SyncMode::Direct);
    }
    for mode in modes {
        let dir = dir.path().join(format!("{mode:?}"));
        let mut log = open_in(&dir, mode);
        for entry in 0..12 {
            let body = body(entry);
            let head = EntryHead {
                ledger: LEDGER,
                entry: EntryId::new(entry),
                adder: Adder::Writer { epoch: Epoch::new(1) },
                lac: None,
                checksum: entry_checksum_over(LEDGER, EntryId::new(entry), &body),
            };
            // The largest is a group of its own, in several writes under one number.
            while log.writer.append_entry(&head, &body).is_err() {
                if log.writer.wants_file() {
                    let next = log.files.prepare_next().unwrap();
                    log.writer.offer(next);
                }
                write(&mut log);
            }
        }
        log.writer.mark(Mark::Shutdown);
        write(&mut log);
        drop(log);
        let log = open_in(&dir, mode);
        assert!(log.report.clean_shutdown);
        assert_eq!(log.report.losses, []);
        let wanted: Vec<_> = log.index.range(LEDGER, EntryId::ZERO, EntryId::new(100)).collect();
        assert_eq!(wanted.len(), 12);
        let frames = Reader::new(log.files.clone()).read_many(LEDGER, &wanted);
        for (entry, frame) in frames.into_iter().enumerate() {
            assert_eq!(frame.unwrap().body, body(entry as u64), "{mode:?}");
        }
    }
}
