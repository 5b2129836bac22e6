//! The index that a file ends with once it is left.

use std::collections::BTreeMap;
use std::sync::Arc;

use alluvium_runtime::disk::{AlignedBuf, BLOCK_BYTES};
use alluvium_types::checksum::Crc32c;
use alluvium_types::ids::{EntryId, LedgerId};

use super::file::HEADER_BYTES;
use super::files::LogFile;
use super::head::{HEAD_BYTES, Head, Kind, unit_at};
use super::place::{FileId, GroupNumber, Location};

const LEDGER_BYTES: usize = 24;
const ROW_BYTES: usize = 16;
const HAS_LAC: u32 = 1;

/// Where one entry is in a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Row {
    pub(crate) ledger: LedgerId,
    pub(crate) entry: EntryId,
    pub(crate) unit: u32,
    pub(crate) body_bytes: u32,
}

impl Row {
    pub(crate) const fn location(&self, file: FileId) -> Location {
        Location { file, unit: self.unit, body_bytes: self.body_bytes }
    }
}

/// What a file holds, in the order in which it was appended.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct FileIndex {
    rows: Vec<Row>,
    ledgers: BTreeMap<LedgerId, Option<EntryId>>,
}

impl FileIndex {
    pub(crate) fn add(&mut self, row: Row, lac: Option<EntryId>) {
        self.rows.push(row);
        let known = self.ledgers.entry(row.ledger).or_default();
        *known = (*known).max(lac);
    }

    /// Notes that there are frames of a ledger, though none that counts.
    pub(crate) fn note_ledger(&mut self, ledger: LedgerId) {
        self.ledgers.entry(ledger).or_default();
    }

    pub(crate) fn note_lac(&mut self, ledger: LedgerId, lac: EntryId) {
        let known = self.ledgers.entry(ledger).or_default();
        *known = (*known).max(Some(lac));
    }

    pub(crate) fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// The ledgers, with the highest LAC of each.
    pub(crate) fn ledgers(&self) -> impl Iterator<Item = (LedgerId, Option<EntryId>)> {
        self.ledgers.iter().map(|(ledger, lac)| (*ledger, *lac))
    }

    /// Bytes of the footer if one more frame comes, of whatever ledger.
    pub(crate) fn footer_bytes_with_one_more(&self) -> u64 {
        footer_bytes(self.ledgers.len() + 1, self.rows.len() + 1) as u64
    }
}

const fn body_bytes(ledgers: usize, rows: usize) -> usize {
    HEADER_BYTES + ledgers * LEDGER_BYTES + rows * ROW_BYTES
}

const fn footer_bytes(ledgers: usize, rows: usize) -> usize {
    (body_bytes(ledgers, rows) + HEAD_BYTES).next_multiple_of(BLOCK_BYTES)
}

/// A file's footer, to be written.
#[derive(Debug)]
#[must_use = "a start scans files without a footer"]
pub struct Seal {
    pub(crate) file: Arc<LogFile>,
    pub(crate) first: GroupNumber,
    pub(crate) last: GroupNumber,
    pub(crate) index: FileIndex,
}

impl Seal {
    /// The file that it seals.
    pub fn file(&self) -> FileId {
        self.file.header.file
    }

    /// The footer's bytes, whole blocks, and where they go. The writer has kept room for them.
    pub(crate) fn encode(&self) -> (u64, AlignedBuf) {
        let header = &self.file.header;
        let mut rows = self.index.rows.clone();
        // Stable: of two frames of one entry the later stays the later.
        rows.sort_by_key(|row| (row.ledger, row.entry));
        let length = body_bytes(self.index.ledgers.len(), rows.len());
        let mut buf = AlignedBuf::zeroed(footer_bytes(self.index.ledgers.len(), rows.len()));
        let mut at = 0;
        let mut put = |bytes: &[u8]| {
            buf[at..at + bytes.len()].copy_from_slice(bytes);
            at += bytes.len();
        };
        put(&header.encode());
        let mut rest = &rows[..];
        for (ledger, lac) in &self.index.ledgers {
            let (own, others) = rest.split_at(rest.partition_point(|row| row.ledger <= *ledger));
            rest = others;
            put(&ledger.get().to_le_bytes());
            put(&lac.map_or(0, EntryId::get).to_le_bytes());
            put(&u32::try_from(own.len()).expect("a file holds fewer frames than units").to_le_bytes());
            put(&if lac.is_some() { HAS_LAC } else { 0 }.to_le_bytes());
            for row in own {
                put(&row.entry.get().to_le_bytes());
                put(&row.unit.to_le_bytes());
                put(&row.body_bytes.to_le_bytes());
            }
        }
        debug_assert_eq!(at, length);
        let offset = header.bytes - buf.len() as u64;
        let head = Head {
            kind: Kind::Footer,
            flags: 0,
            body_bytes: u32::try_from(length).expect("a footer is smaller than 4 GiB"),
            words: [self.first.get(), self.last.get(), offset, rows.len() as u64],
            body_sum: Crc32c::of(&buf[..length]),
        };
        let head_at = buf.len() - HEAD_BYTES;
        head.encode(header.salt, unit_at(header.bytes - HEAD_BYTES as u64), &mut buf[head_at..]);
        (offset, buf)
    }
}

/// A footer that was read and is good.
#[derive(Debug)]
pub(crate) struct Footer {
    pub(crate) last: GroupNumber,
    pub(crate) index: FileIndex,
}

impl Footer {
    /// Where the body of a footer is, by the last bytes of its file; `None` if the file has no good footer.
    pub(crate) fn find(file: &LogFile, last_block: &[u8]) -> Option<Head> {
        let at = last_block.len().checked_sub(HEAD_BYTES)?;
        let bytes = file.header.bytes;
        let head = Head::decode(&last_block[at..], file.header.salt, unit_at(bytes - HEAD_BYTES as u64))?;
        let fits = head.words[2].checked_add(u64::from(head.body_bytes)).is_some_and(|end| end <= bytes - HEAD_BYTES as u64);
        (head.kind == Kind::Footer && fits).then_some(head)
    }

    /// Decodes the body; `None` if it is not the one that the head vouches for.
    pub(crate) fn decode(head: &Head, body: &[u8]) -> Option<Self> {
        if Crc32c::of(body) != head.body_sum {
            return None;
        }
        let mut rest = body.get(HEADER_BYTES..)?;
        let mut index = FileIndex::default();
        while !rest.is_empty() {
            let (of_ledger, after) = rest.split_first_chunk::<LEDGER_BYTES>()?;
            let u64_at = |at: usize| u64::from_le_bytes(of_ledger[at..at + 8].try_into().expect("eight bytes"));
            let u32_at = |at: usize| u32::from_le_bytes(of_ledger[at..at + 4].try_into().expect("four bytes"));
            let ledger = LedgerId::new(u64_at(0));
            let lac = (u32_at(20) & HAS_LAC != 0).then(|| EntryId::new(u64_at(8)));
            let rows_bytes = (u32_at(16) as usize).checked_mul(ROW_BYTES)?;
            let (rows, _) = after.get(..rows_bytes)?.as_chunks::<ROW_BYTES>();
            rest = &after[rows_bytes..];
            index.ledgers.insert(ledger, lac);
            index.rows.extend(rows.iter().map(|row| Row {
                ledger,
                entry: EntryId::new(u64::from_le_bytes(row[0..8].try_into().expect("eight bytes"))),
                unit: u32::from_le_bytes(row[8..12].try_into().expect("four bytes")),
                body_bytes: u32::from_le_bytes(row[12..16].try_into().expect("four bytes")),
            }));
        }
        Some(Self { last: GroupNumber::new(head.words[1]), index })
    }
}
