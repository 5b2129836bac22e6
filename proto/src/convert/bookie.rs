//! The bookie protocol (`internal/v1/bookie.proto`) and its domain types (`types::bookie`).

use alluvium_types::bookie::{
    AddEntry, Adder, AdvanceLac, EntryAnswer, FenceAnswer, Find, FindKey, LedgerSummary, Missing, OpenLedger, ReadAnswer,
    ReadEntries, ReadRefusal, Refusal, StoredEntry,
};
use alluvium_types::checksum::Crc32c;
use alluvium_types::ids::{EntryId, Epoch, Incarnation, LedgerId, Offset, RecoveryNumber};
use alluvium_types::ledger::LedgerClass;
use alluvium_types::time::Timestamp;
use bytes::Bytes;
use uuid::Uuid;

use crate::internal::v1 as wire;

/// A wire message that no peer of ours sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the field {0} is missing or makes no sense")]
pub struct Malformed(pub &'static str);

/// The incarnation that a request is meant for.
pub fn incarnation(bytes: &[u8]) -> Result<Incarnation, Malformed> {
    Uuid::from_slice(bytes).map(Incarnation::new).map_err(|_| Malformed("incarnation"))
}

/// The bytes of an incarnation.
pub fn incarnation_bytes(incarnation: Incarnation) -> Bytes {
    Bytes::copy_from_slice(incarnation.get().as_bytes())
}

/// An `Open` as it is sent.
pub fn open_to_wire(to: Incarnation, open: &OpenLedger) -> wire::OpenRequest {
    let class = match open.class {
        LedgerClass::Bulk => wire::LedgerClass::Bulk,
        LedgerClass::Essential => wire::LedgerClass::Essential,
    };
    wire::OpenRequest {
        incarnation: incarnation_bytes(to),
        ledger: open.ledger.get(),
        epoch: open.epoch.get(),
        class: class.into(),
    }
}

/// An `Open` as it is received.
pub fn open_from_wire(open: &wire::OpenRequest) -> Result<OpenLedger, Malformed> {
    let class = match open.class() {
        wire::LedgerClass::Bulk => LedgerClass::Bulk,
        wire::LedgerClass::Essential => LedgerClass::Essential,
        wire::LedgerClass::Unspecified => return Err(Malformed("class")),
    };
    Ok(OpenLedger { ledger: LedgerId::new(open.ledger), epoch: Epoch::new(open.epoch), class })
}

/// What travels on an `Add` stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AddItem {
    /// An entry.
    Entry(AddEntry),
    /// The LAC alone.
    Lac(AdvanceLac),
}

/// An item of an `Add` stream as it is sent.
pub fn add_to_wire(to: Incarnation, item: AddItem) -> wire::AddRequest {
    let (ledger, add) = match item {
        AddItem::Entry(add) => {
            let adder = match add.adder {
                Adder::Writer { epoch } => wire::add_entry::Adder::WriterEpoch(epoch.get()),
                Adder::Recovery { number } => wire::add_entry::Adder::RecoveryNumber(number.get()),
            };
            let entry = wire::AddEntry {
                entry: add.entry.get(),
                adder: Some(adder),
                lac: add.lac.map(EntryId::get),
                checksum: add.checksum.get(),
                body: add.body,
            };
            (add.ledger, wire::add_request::Add::Entry(entry))
        }
        AddItem::Lac(lac) => {
            (lac.ledger, wire::add_request::Add::Lac(wire::AdvanceLac { epoch: lac.epoch.get(), lac: lac.lac.get() }))
        }
    };
    wire::AddRequest { incarnation: incarnation_bytes(to), ledger: ledger.get(), add: Some(add) }
}

/// An item of an `Add` stream as it is received.
pub fn add_from_wire(request: wire::AddRequest) -> Result<AddItem, Malformed> {
    let ledger = LedgerId::new(request.ledger);
    match request.add.ok_or(Malformed("add"))? {
        wire::add_request::Add::Entry(entry) => {
            let adder = match entry.adder.ok_or(Malformed("adder"))? {
                wire::add_entry::Adder::WriterEpoch(epoch) => Adder::Writer { epoch: Epoch::new(epoch) },
                wire::add_entry::Adder::RecoveryNumber(number) => Adder::Recovery { number: RecoveryNumber::new(number) },
            };
            Ok(AddItem::Entry(AddEntry {
                ledger,
                entry: EntryId::new(entry.entry),
                adder,
                lac: entry.lac.map(EntryId::new),
                body: entry.body,
                checksum: Crc32c::new(entry.checksum),
            }))
        }
        wire::add_request::Add::Lac(lac) => {
            Ok(AddItem::Lac(AdvanceLac { ledger, epoch: Epoch::new(lac.epoch), lac: EntryId::new(lac.lac) }))
        }
    }
}

/// What became of an add, as it is sent.
pub fn added_to_wire(ledger: LedgerId, entry: EntryId, outcome: Result<(), Refusal>) -> wire::Added {
    wire::Added { ledger: ledger.get(), entry: entry.get(), refusal: refusal_to_wire(outcome) }
}

/// An outcome's number: `UNSPECIFIED` for success.
pub fn refusal_to_wire(outcome: Result<(), Refusal>) -> i32 {
    let refusal = match outcome {
        Ok(()) => wire::Refusal::Unspecified,
        Err(Refusal::Fenced) => wire::Refusal::Fenced,
        Err(Refusal::Stale) => wire::Refusal::Stale,
        Err(Refusal::UnknownLedger) => wire::Refusal::UnknownLedger,
        Err(Refusal::Deleted) => wire::Refusal::Deleted,
        Err(Refusal::Conflict) => wire::Refusal::Conflict,
        Err(Refusal::Corrupt) => wire::Refusal::Corrupt,
        Err(Refusal::TooLarge) => wire::Refusal::TooLarge,
        Err(Refusal::ReadOnly) => wire::Refusal::ReadOnly,
        Err(Refusal::Busy) => wire::Refusal::Busy,
        Err(Refusal::Stopping) => wire::Refusal::Stopping,
    };
    refusal.into()
}

/// The outcome behind a number.
pub fn refusal_from_wire(number: i32) -> Result<Result<(), Refusal>, Malformed> {
    let refusal = wire::Refusal::try_from(number).map_err(|_| Malformed("refusal"))?;
    Ok(Err(match refusal {
        wire::Refusal::Unspecified => return Ok(Ok(())),
        wire::Refusal::Fenced => Refusal::Fenced,
        wire::Refusal::Stale => Refusal::Stale,
        wire::Refusal::UnknownLedger => Refusal::UnknownLedger,
        wire::Refusal::Deleted => Refusal::Deleted,
        wire::Refusal::Conflict => Refusal::Conflict,
        wire::Refusal::Corrupt => Refusal::Corrupt,
        wire::Refusal::TooLarge => Refusal::TooLarge,
        wire::Refusal::ReadOnly => Refusal::ReadOnly,
        wire::Refusal::Busy => Refusal::Busy,
        wire::Refusal::Stopping => Refusal::Stopping,
    }))
}

/// A read as it is sent.
pub fn read_to_wire(to: Incarnation, read: &ReadEntries) -> wire::ReadRequest {
    wire::ReadRequest {
        incarnation: incarnation_bytes(to),
        ledger: read.ledger.get(),
        first: read.first.get(),
        last: read.last.get(),
        bytes_max: read.bytes_max as u64,
        fence: read.fence.map(RecoveryNumber::get),
    }
}

/// A read as it is received.
pub fn read_from_wire(read: &wire::ReadRequest) -> ReadEntries {
    ReadEntries {
        ledger: LedgerId::new(read.ledger),
        first: EntryId::new(read.first),
        last: EntryId::new(read.last),
        bytes_max: usize::try_from(read.bytes_max).unwrap_or(usize::MAX),
        fence: read.fence.map(RecoveryNumber::new),
    }
}

/// A read's outcome as it is sent.
pub fn read_answer_to_wire(outcome: Result<ReadAnswer, ReadRefusal>) -> wire::ReadResponse {
    match outcome {
        Err(refusal) => wire::ReadResponse { refusal: read_refusal_to_wire(Some(refusal)), ..Default::default() },
        Ok(answer) => wire::ReadResponse {
            refusal: read_refusal_to_wire(None),
            entries: answer.entries.into_iter().map(entry_to_wire).collect(),
            lac: answer.lac.map(EntryId::get),
        },
    }
}

/// A read's outcome as it is received.
pub fn read_answer_from_wire(response: wire::ReadResponse) -> Result<Result<ReadAnswer, ReadRefusal>, Malformed> {
    if let Some(refusal) = read_refusal_from_wire(response.refusal)? {
        return Ok(Err(refusal));
    }
    let entries = response.entries.into_iter().map(entry_from_wire).collect::<Result<_, _>>()?;
    Ok(Ok(ReadAnswer { entries, lac: response.lac.map(EntryId::new) }))
}

fn entry_to_wire(answer: EntryAnswer) -> wire::EntryAnswer {
    match answer {
        EntryAnswer::Found(entry) => wire::EntryAnswer {
            entry: entry.entry.get(),
            missing: wire::Missing::Unspecified.into(),
            lac: entry.lac.map(EntryId::get),
            checksum: entry.checksum.get(),
            body: entry.body,
        },
        EntryAnswer::Missing(entry, why) => {
            let missing = match why {
                Missing::Absent => wire::Missing::Absent,
                Missing::Torn => wire::Missing::Torn,
                Missing::Unknown => wire::Missing::Unknown,
            };
            wire::EntryAnswer { entry: entry.get(), missing: missing.into(), ..Default::default() }
        }
    }
}

fn entry_from_wire(answer: wire::EntryAnswer) -> Result<EntryAnswer, Malformed> {
    let entry = EntryId::new(answer.entry);
    let missing = wire::Missing::try_from(answer.missing).map_err(|_| Malformed("missing"))?;
    Ok(match missing {
        wire::Missing::Unspecified => EntryAnswer::Found(StoredEntry {
            entry,
            lac: answer.lac.map(EntryId::new),
            body: answer.body,
            checksum: Crc32c::new(answer.checksum),
        }),
        wire::Missing::Absent => EntryAnswer::Missing(entry, Missing::Absent),
        wire::Missing::Torn => EntryAnswer::Missing(entry, Missing::Torn),
        wire::Missing::Unknown => EntryAnswer::Missing(entry, Missing::Unknown),
    })
}

/// A refusal's number: `UNSPECIFIED` for none.
pub fn read_refusal_to_wire(refusal: Option<ReadRefusal>) -> i32 {
    let refusal = match refusal {
        None => wire::ReadRefusal::Unspecified,
        Some(ReadRefusal::NoSuchLedger) => wire::ReadRefusal::NoSuchLedger,
        Some(ReadRefusal::Deleted) => wire::ReadRefusal::Deleted,
        Some(ReadRefusal::Stale) => wire::ReadRefusal::Stale,
        Some(ReadRefusal::Busy) => wire::ReadRefusal::Busy,
        Some(ReadRefusal::Stopping) => wire::ReadRefusal::Stopping,
        Some(ReadRefusal::Invalid) => wire::ReadRefusal::Invalid,
    };
    refusal.into()
}

/// The refusal behind a number.
pub fn read_refusal_from_wire(number: i32) -> Result<Option<ReadRefusal>, Malformed> {
    let refusal = wire::ReadRefusal::try_from(number).map_err(|_| Malformed("refusal"))?;
    Ok(Some(match refusal {
        wire::ReadRefusal::Unspecified => return Ok(None),
        wire::ReadRefusal::NoSuchLedger => ReadRefusal::NoSuchLedger,
        wire::ReadRefusal::Deleted => ReadRefusal::Deleted,
        wire::ReadRefusal::Stale => ReadRefusal::Stale,
        wire::ReadRefusal::Busy => ReadRefusal::Busy,
        wire::ReadRefusal::Stopping => ReadRefusal::Stopping,
        wire::ReadRefusal::Invalid => ReadRefusal::Invalid,
    }))
}

/// A fence's outcome as it is sent.
pub fn fence_answer_to_wire(outcome: Result<FenceAnswer, ReadRefusal>) -> wire::FenceResponse {
    match outcome {
        Err(refusal) => wire::FenceResponse { refusal: read_refusal_to_wire(Some(refusal)), lac: None, last: None },
        Ok(answer) => wire::FenceResponse {
            refusal: read_refusal_to_wire(None),
            lac: answer.lac.map(EntryId::get),
            last: answer.last.map(EntryId::get),
        },
    }
}

/// A fence's outcome as it is received.
pub fn fence_answer_from_wire(response: &wire::FenceResponse) -> Result<Result<FenceAnswer, ReadRefusal>, Malformed> {
    Ok(match read_refusal_from_wire(response.refusal)? {
        Some(refusal) => Err(refusal),
        None => Ok(FenceAnswer { lac: response.lac.map(EntryId::new), last: response.last.map(EntryId::new) }),
    })
}

/// A `Find` as it is sent.
pub fn find_to_wire(to: Incarnation, find: &Find) -> wire::FindRequest {
    let key = match find.key {
        FindKey::Offset(offset) => wire::find_request::Key::Offset(offset.get()),
        FindKey::Time(time) => wire::find_request::Key::TimeMs(time.as_millis()),
    };
    wire::FindRequest { incarnation: incarnation_bytes(to), ledger: find.ledger.get(), key: Some(key), up_to: find.up_to.get() }
}

/// A `Find` as it is received.
pub fn find_from_wire(find: &wire::FindRequest) -> Result<Find, Malformed> {
    let key = match find.key.as_ref().ok_or(Malformed("key"))? {
        wire::find_request::Key::Offset(offset) => FindKey::Offset(Offset::new(*offset)),
        wire::find_request::Key::TimeMs(time) => FindKey::Time(Timestamp::from_millis(*time)),
    };
    Ok(Find { ledger: LedgerId::new(find.ledger), key, up_to: EntryId::new(find.up_to) })
}

/// A summary as it is sent.
pub fn summary_to_wire(summary: &LedgerSummary) -> wire::LedgerSummary {
    wire::LedgerSummary {
        ledger: summary.ledger.get(),
        entries: summary.entries,
        bytes: summary.bytes,
        last: summary.last.map(EntryId::get),
        lac: summary.lac.map(EntryId::get),
        fenced: summary.fenced.map(RecoveryNumber::get),
        torn: summary.torn,
    }
}

/// A summary as it is received.
pub fn summary_from_wire(summary: &wire::LedgerSummary) -> LedgerSummary {
    LedgerSummary {
        ledger: LedgerId::new(summary.ledger),
        entries: summary.entries,
        bytes: summary.bytes,
        last: summary.last.map(EntryId::new),
        lac: summary.lac.map(EntryId::new),
        fenced: summary.fenced.map(RecoveryNumber::new),
        torn: summary.torn,
    }
}
