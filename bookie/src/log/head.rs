//! The head that every structure behind a file's header begins with (`docs/formats/log-file.md`).
//!
//! Its checksum covers the salt of the file's life (C57), its own place, and the checksum of its body; so a body is passed
//! over once, by whoever made that checksum (B4).

use alluvium_types::bookie::Adder;
use alluvium_types::checksum::Crc32c;
use alluvium_types::ids::{EntryId, Epoch, LedgerId, RecoveryNumber};

use super::frame::EntryHead;
use super::place::UNIT_BYTES;

/// Bytes of a head.
pub(crate) const HEAD_BYTES: usize = 56;

/// What a head begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Group,
    End,
    Entry,
    Marks,
    Doubts,
    Lac,
    Snapshot,
    Footer,
}

impl Kind {
    const fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Group,
            2 => Self::End,
            3 => Self::Entry,
            4 => Self::Marks,
            5 => Self::Doubts,
            6 => Self::Lac,
            7 => Self::Snapshot,
            8 => Self::Footer,
            _ => return None,
        })
    }

    const fn byte(self) -> u8 {
        match self {
            Self::Group => 1,
            Self::End => 2,
            Self::Entry => 3,
            Self::Marks => 4,
            Self::Doubts => 5,
            Self::Lac => 6,
            Self::Snapshot => 7,
            Self::Footer => 8,
        }
    }
}

const ENTRY_HAS_LAC: u8 = 1;
const ENTRY_BY_RECOVERY: u8 = 2;

/// A head, decoded; its checksum was good, or will be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Head {
    pub(crate) kind: Kind,
    pub(crate) flags: u8,
    pub(crate) body_bytes: u32,
    pub(crate) words: [u64; 4],
    pub(crate) body_sum: Crc32c,
}

/// The number of a unit that begins at `offset` of a file.
pub(crate) fn unit_at(offset: u64) -> u32 {
    u32::try_from(offset / UNIT_BYTES as u64).expect("a file has at most 32 GiB")
}

/// Bytes that a frame takes: head, body, padding.
pub(crate) const fn frame_bytes(body_bytes: usize) -> usize {
    (HEAD_BYTES + body_bytes).next_multiple_of(UNIT_BYTES)
}

impl Head {
    pub(crate) const fn bodiless(kind: Kind, flags: u8, words: [u64; 4]) -> Self {
        Self { kind, flags, body_bytes: 0, words, body_sum: Crc32c::EMPTY }
    }

    pub(crate) fn with_body(kind: Kind, flags: u8, words: [u64; 4], body: &[u8]) -> Self {
        let body_bytes = u32::try_from(body.len()).expect("bodies of the log's own are small");
        Self { kind, flags, body_bytes, words, body_sum: Crc32c::of(body) }
    }

    pub(crate) fn of_entry(head: &EntryHead, body_bytes: u32) -> Self {
        let (by_recovery, number) = match head.adder {
            Adder::Writer { epoch } => (0, epoch.get()),
            Adder::Recovery { number } => (ENTRY_BY_RECOVERY, number.get()),
        };
        let (has_lac, lac) = head.lac.map_or((0, 0), |lac| (ENTRY_HAS_LAC, lac.get()));
        Self {
            kind: Kind::Entry,
            flags: by_recovery | has_lac,
            body_bytes,
            words: [head.ledger.get(), head.entry.get(), number, lac],
            body_sum: head.checksum,
        }
    }

    /// The entry that this head begins. Only for [`Kind::Entry`].
    pub(crate) fn entry(&self) -> EntryHead {
        debug_assert_eq!(self.kind, Kind::Entry);
        let [ledger, entry, number, lac] = self.words;
        EntryHead {
            ledger: LedgerId::new(ledger),
            entry: EntryId::new(entry),
            adder: if self.flags & ENTRY_BY_RECOVERY == 0 {
                Adder::Writer { epoch: Epoch::new(number) }
            } else {
                Adder::Recovery { number: RecoveryNumber::new(number) }
            },
            lac: (self.flags & ENTRY_HAS_LAC != 0).then_some(EntryId::new(lac)),
            checksum: self.body_sum,
        }
    }

    /// Writes the head at the start of `into`, for a life of this salt and this place in the file.
    pub(crate) fn encode(&self, salt: u32, unit: u32, into: &mut [u8]) {
        let mut bytes = [0; HEAD_BYTES];
        bytes[0..4].copy_from_slice(&salt.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.body_bytes.to_le_bytes());
        bytes[12] = self.kind.byte();
        bytes[13] = self.flags;
        for (slot, word) in bytes[16..48].chunks_exact_mut(8).zip(self.words) {
            slot.copy_from_slice(&word.to_le_bytes());
        }
        bytes[48..52].copy_from_slice(&self.body_sum.get().to_le_bytes());
        bytes[52..56].copy_from_slice(&unit.to_le_bytes());
        let sum = Crc32c::of(&bytes).get();
        bytes[4..8].copy_from_slice(&sum.to_le_bytes());
        into[..HEAD_BYTES].copy_from_slice(&bytes);
    }

    /// The head at the start of `bytes`, if it is a good one of this life and this place.
    pub(crate) fn decode(bytes: &[u8], salt: u32, unit: u32) -> Option<Self> {
        let bytes: &[u8; HEAD_BYTES] = bytes.get(..HEAD_BYTES)?.try_into().expect("as many bytes");
        let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        if u32_at(0) != salt || u32_at(52) != unit {
            return None;
        }
        let mut summed = *bytes;
        summed[4..8].fill(0);
        if Crc32c::of(&summed).get() != u32_at(4) {
            return None;
        }
        Some(Self {
            kind: Kind::from_byte(bytes[12])?,
            flags: bytes[13],
            body_bytes: u32_at(8),
            words: [u64_at(16), u64_at(24), u64_at(32), u64_at(40)],
            body_sum: Crc32c::new(u32_at(48)),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample() -> Head {
        Head::of_entry(
            &EntryHead {
                ledger: LedgerId::new(7),
                entry: EntryId::new(9),
                adder: Adder::Recovery { number: RecoveryNumber::new(3) },
                lac: Some(EntryId::new(8)),
                checksum: Crc32c::new(0xABCD),
            },
            1000,
        )
    }

    #[test]
    fn a_head_is_good_only_with_its_salt_and_in_its_place() {
        let mut bytes = [0; HEAD_BYTES];
        sample().encode(5, 600, &mut bytes);
        assert_eq!(Head::decode(&bytes, 5, 600), Some(sample()));
        assert_eq!(Head::decode(&bytes, 6, 600), None);
        assert_eq!(Head::decode(&bytes, 5, 601), None);
        assert_eq!(Head::decode(&bytes[..HEAD_BYTES - 1], 5, 600), None);
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let mut bytes = [0; HEAD_BYTES];
        sample().encode(5, 600, &mut bytes);
        for bit in 0..HEAD_BYTES * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Head::decode(&bytes, 5, 600), None, "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }

    proptest! {
        #[test]
        fn an_entry_survives_its_head(ledger: u64, entry: u64, number: u64, lac: Option<u64>, by_recovery: bool, sum: u32) {
            let adder = if by_recovery {
                Adder::Recovery { number: RecoveryNumber::new(number) }
            } else {
                Adder::Writer { epoch: Epoch::new(number) }
            };
            let head = EntryHead {
                ledger: LedgerId::new(ledger), entry: EntryId::new(entry), adder,
                lac: lac.map(EntryId::new), checksum: Crc32c::new(sum),
            };
            let mut bytes = [0; HEAD_BYTES];
            Head::of_entry(&head, 12).encode(1, 2, &mut bytes);
            prop_assert_eq!(Head::decode(&bytes, 1, 2).unwrap().entry(), head);
        }

        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let salt = bytes.get(..4).map_or(0, |b| u32::from_le_bytes(b.try_into().unwrap()));
            let _ = Head::decode(&bytes, salt, 0);
        }
    }
}
