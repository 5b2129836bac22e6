//! What one sync makes durable: a group of records, in bytes and back. Pure.

use alluvium_types::checksum::Crc32c;
use raft::eraftpb::{Entry, EntryType, HardState};

use super::layout::{BLOCK, u32_at, u64_at};

/// What stands before the records of a group.
pub(crate) const GROUP_HEADER_BYTES: usize = 32;
const MAGIC: &[u8; 4] = b"ALVg";
const RECORD_HEADER_BYTES: usize = 5;
const ENTRY_HEADER_BYTES: usize = 21;

/// A record of the log.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum LogRecord {
    /// An entry; it replaces the one of its index and all behind it.
    Entry(Entry),
    /// Term, vote and commit.
    HardState(HardState),
    /// The log begins behind this index of this term: a snapshot was installed.
    Beginning { index: u64, term: u64 },
}

impl LogRecord {
    /// The bytes it takes in a group.
    pub(crate) fn bytes(&self) -> usize {
        RECORD_HEADER_BYTES
            + match self {
                Self::Entry(entry) => entry_bytes(entry),
                Self::HardState(_) => 24,
                Self::Beginning { .. } => 16,
            }
    }

    fn encode(&self, into: &mut Vec<u8>) {
        let kind = match self {
            Self::Entry(_) => 1,
            Self::HardState(_) => 2,
            Self::Beginning { .. } => 3,
        };
        into.push(kind);
        let length = u32::try_from(self.bytes() - RECORD_HEADER_BYTES).expect("a record fits a file");
        into.extend_from_slice(&length.to_le_bytes());
        match self {
            Self::Entry(entry) => {
                into.extend_from_slice(&entry.term.to_le_bytes());
                into.extend_from_slice(&entry.index.to_le_bytes());
                into.push(match entry.entry_type {
                    EntryType::EntryNormal => 0,
                    EntryType::EntryConfChange => 1,
                    EntryType::EntryConfChangeV2 => 2,
                });
                let context = u32::try_from(entry.context.len()).expect("a context is small");
                into.extend_from_slice(&context.to_le_bytes());
                into.extend_from_slice(&entry.context);
                into.extend_from_slice(&entry.data);
            }
            Self::HardState(hard) => {
                for number in [hard.term, hard.vote, hard.commit] {
                    into.extend_from_slice(&number.to_le_bytes());
                }
            }
            Self::Beginning { index, term } => {
                into.extend_from_slice(&index.to_le_bytes());
                into.extend_from_slice(&term.to_le_bytes());
            }
        }
    }

    fn decode(kind: u8, body: &[u8]) -> Option<Self> {
        match (kind, body.len()) {
            (1, ENTRY_HEADER_BYTES..) => {
                let context_end = ENTRY_HEADER_BYTES.checked_add(usize::try_from(u32_at(body, 17)).ok()?)?;
                let context = body.get(ENTRY_HEADER_BYTES..context_end)?;
                let mut entry = Entry::new();
                entry.term = u64_at(body, 0);
                entry.index = u64_at(body, 8);
                entry.entry_type = match body[16] {
                    0 => EntryType::EntryNormal,
                    1 => EntryType::EntryConfChange,
                    2 => EntryType::EntryConfChangeV2,
                    _ => return None,
                };
                entry.context = context.to_vec().into();
                entry.data = body[context_end..].to_vec().into();
                Some(Self::Entry(entry))
            }
            (2, 24) => {
                let mut hard = HardState::new();
                (hard.term, hard.vote, hard.commit) = (u64_at(body, 0), u64_at(body, 8), u64_at(body, 16));
                Some(Self::HardState(hard))
            }
            (3, 16) => Some(Self::Beginning { index: u64_at(body, 0), term: u64_at(body, 8) }),
            _ => None,
        }
    }
}

fn entry_bytes(entry: &Entry) -> usize {
    ENTRY_HEADER_BYTES + entry.context.len() + entry.data.len()
}

/// The bytes that a group of records of `bytes` takes in a file.
pub(crate) fn group_bytes(bytes: usize) -> u64 {
    (GROUP_HEADER_BYTES as u64 + bytes as u64).next_multiple_of(BLOCK)
}

/// A group's number and the piece it stands in: what its checksum is salted with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Place {
    pub(crate) number: u64,
    pub(crate) sequence: u64,
}

/// The bytes of a group, not padded.
pub(crate) fn encode(place: Place, records: &[LogRecord]) -> Vec<u8> {
    let length: usize = records.iter().map(LogRecord::bytes).sum();
    let mut bytes = Vec::with_capacity(GROUP_HEADER_BYTES + length);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&place.number.to_le_bytes());
    bytes.extend_from_slice(&place.sequence.to_le_bytes());
    bytes.extend_from_slice(&u32::try_from(length).expect("a group fits a file").to_le_bytes());
    bytes.extend_from_slice(&u32::try_from(records.len()).expect("few records").to_le_bytes());
    for record in records {
        record.encode(&mut bytes);
    }
    let checksum = Crc32c::of(&bytes[8..]);
    bytes[4..8].copy_from_slice(&checksum.get().to_le_bytes());
    bytes
}

/// What stands at a block's beginning.
#[derive(Debug, PartialEq)]
pub(crate) enum Found {
    /// A whole group.
    Good { place: Place, records: Vec<LogRecord>, bytes: u64 },
    /// Nothing, or a group that is not whole.
    Bad,
}

/// Reads the group at the beginning of `bytes`.
pub(crate) fn decode(bytes: &[u8]) -> Found {
    decode_good(bytes).unwrap_or(Found::Bad)
}

fn decode_good(bytes: &[u8]) -> Option<Found> {
    if bytes.len() < GROUP_HEADER_BYTES || &bytes[..4] != MAGIC {
        return None;
    }
    let length = usize::try_from(u32_at(bytes, 24)).ok()?;
    let end = GROUP_HEADER_BYTES.checked_add(length)?;
    let group = bytes.get(..end)?;
    if Crc32c::of(&group[8..]).get() != u32_at(group, 4) {
        return None;
    }
    let mut rest = &group[GROUP_HEADER_BYTES..];
    let mut records = Vec::new();
    while !rest.is_empty() {
        if rest.len() < RECORD_HEADER_BYTES {
            return None;
        }
        let body_end = RECORD_HEADER_BYTES.checked_add(usize::try_from(u32_at(rest, 1)).ok()?)?;
        records.push(LogRecord::decode(rest[0], rest.get(RECORD_HEADER_BYTES..body_end)?)?);
        rest = &rest[body_end..];
    }
    let counted = usize::try_from(u32_at(group, 28)).ok()?;
    let place = Place { number: u64_at(group, 8), sequence: u64_at(group, 16) };
    (counted == records.len()).then_some(Found::Good { place, records, bytes: group_bytes(length) })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(term: u64, index: u64, data: Vec<u8>) -> LogRecord {
        let mut entry = Entry::new();
        (entry.term, entry.index) = (term, index);
        entry.context = b"whose".to_vec().into();
        entry.data = data.into();
        LogRecord::Entry(entry)
    }

    fn some_group() -> (Place, Vec<LogRecord>, Vec<u8>) {
        let place = Place { number: 7, sequence: 3 };
        let mut hard = HardState::new();
        (hard.term, hard.vote, hard.commit) = (2, 1, 9);
        let records = vec![
            LogRecord::HardState(hard),
            entry(2, 10, vec![1; 300]),
            entry(2, 11, Vec::new()),
            LogRecord::Beginning { index: 4, term: 1 },
        ];
        let bytes = encode(place, &records);
        (place, records, bytes)
    }

    #[test]
    fn a_group_comes_back_as_it_was() {
        let (place, records, bytes) = some_group();
        assert_eq!(decode(&bytes), Found::Good { place, records, bytes: 4096 });
    }

    #[test]
    fn a_cut_or_flipped_group_is_bad() {
        let (_, _, bytes) = some_group();
        for end in 0..bytes.len() {
            assert_eq!(decode(&bytes[..end]), Found::Bad, "cut at {end}");
        }
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 0x10;
            assert_eq!(decode(&flipped), Found::Bad, "flipped at {at}");
        }
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), fix in any::<bool>()) {
            if fix && bytes.len() >= GROUP_HEADER_BYTES {
                // Past the checksum, so that the records' own lengths are tried.
                bytes[..4].copy_from_slice(MAGIC);
                let length = u32::try_from(bytes.len() - GROUP_HEADER_BYTES).expect("short");
                bytes[24..28].copy_from_slice(&length.to_le_bytes());
                let checksum = Crc32c::of(&bytes[8..]);
                bytes[4..8].copy_from_slice(&checksum.get().to_le_bytes());
            }
            decode(&bytes);
        }
    }
}
