//! What the component tests share: entries, a store driven by hand, a bookie with metadata around it, a disk that fails.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses its part")]

pub mod disk;
pub mod house;
pub mod rig;

use alluvium_bookie::log;
use alluvium_types::bookie::{AddEntry, Adder, OpenLedger, ReadEntries};
use alluvium_types::checksum::Crc32c;
use alluvium_types::entry::entry_checksum;
use alluvium_types::ids::{EntryId, Epoch, LedgerId, RecoveryNumber};
use alluvium_types::ledger::LedgerClass;
use bytes::Bytes;

pub const L: LedgerId = LedgerId::new(7);
pub const EPOCH: Epoch = Epoch::new(3);

/// A log of small files and groups.
pub fn small_log() -> log::Config {
    log::Config {
        file_bytes: 2 << 20,
        group_bytes: 128 << 10,
        pool_files: 2,
        read_bytes: 64 << 10,
        prewrite: false,
        body_bytes_max: 64 << 10,
        ..log::Config::default()
    }
}

pub const fn e(entry: u64) -> EntryId {
    EntryId::new(entry)
}

pub const fn l(ledger: u64) -> LedgerId {
    LedgerId::new(ledger)
}

pub const fn r(number: u64) -> RecoveryNumber {
    RecoveryNumber::new(number)
}

pub const fn open(ledger: LedgerId) -> OpenLedger {
    OpenLedger { ledger, epoch: EPOCH, class: LedgerClass::Bulk }
}

/// The body of an entry: says which it is.
pub fn body(ledger: LedgerId, entry: u64, bytes: usize) -> Bytes {
    let word = format!("{ledger}/{entry} ");
    Bytes::from(word.repeat(bytes / word.len() + 1).into_bytes()).slice(..bytes)
}

/// An add by the ledger's writer, with the entry before as its LAC.
pub fn add(ledger: LedgerId, entry: u64, body: Bytes) -> AddEntry {
    let checksum = entry_checksum(ledger, e(entry), Crc32c::of(&body), body.len());
    AddEntry { ledger, entry: e(entry), adder: Adder::Writer { epoch: EPOCH }, lac: e(entry).previous(), body, checksum }
}

/// The same by a recovery.
pub fn recovery_add(ledger: LedgerId, entry: u64, number: u64, body: Bytes) -> AddEntry {
    AddEntry { adder: Adder::Recovery { number: r(number) }, ..add(ledger, entry, body) }
}

pub const fn read(ledger: LedgerId, first: u64, last: u64) -> ReadEntries {
    ReadEntries { ledger, first: e(first), last: e(last), bytes_max: 1 << 20, fence: None }
}

pub const fn fencing_read(ledger: LedgerId, first: u64, last: u64, number: u64) -> ReadEntries {
    ReadEntries { fence: Some(r(number)), ..read(ledger, first, last) }
}
