//! CRC-32C, computed once and *combined* from there on (B4): a body is passed over by whoever first sees it, and the
//! checksums of what is wrapped around it follow from the parts.

use std::fmt;

use crc_fast::CrcAlgorithm::Crc32Iscsi;
use crc_fast::Digest;

/// A CRC-32C (Castagnoli, reflected, as in iSCSI and SSE 4.2) of some bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Crc32c(u32);

impl Crc32c {
    /// The checksum of no bytes.
    pub const EMPTY: Self = Self(0);

    /// Wraps a value that came from disk or wire.
    pub const fn new(value: u32) -> Self {
        Self(value)
    }

    /// The bare value.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// Passes over `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(narrow(crc_fast::checksum(Crc32Iscsi, bytes)))
    }

    /// The checksum of these bytes followed by `length` bytes whose checksum is `next`, without seeing either.
    #[must_use]
    pub fn followed_by(self, next: Self, length: usize) -> Self {
        Self(narrow(crc_fast::checksum_combine(Crc32Iscsi, u64::from(self.0), u64::from(next.0), length as u64)))
    }

    /// The checksum of these bytes followed by `bytes`.
    #[must_use]
    pub fn then(self, bytes: &[u8]) -> Self {
        // Going on from a state costs a pass over `bytes` and nothing more; combining costs as much as some 100 KiB.
        let mut digest = Digest::new_with_init_state(Crc32Iscsi, u64::from(!self.0));
        digest.update(bytes);
        Self(narrow(digest.finalize()))
    }
}

#[expect(clippy::cast_possible_truncation, reason = "a CRC-32 has 32 bits; the library widens it")]
const fn narrow(value: u64) -> u32 {
    value as u32
}

impl fmt::Debug for Crc32c {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_castagnoli_crc() {
        // The check value of RFC 3720's CRC, over the digits 1 to 9.
        assert_eq!(Crc32c::of(b"123456789").get(), 0xE306_9283);
    }

    #[test]
    fn parts_combine_to_the_whole() {
        let bytes: Vec<u8> = (0..=255).cycle().take(5000).collect();
        for cut in [0, 1, 63, 64, 4096, 5000] {
            let (head, tail) = bytes.split_at(cut);
            assert_eq!(Crc32c::of(head).followed_by(Crc32c::of(tail), tail.len()), Crc32c::of(&bytes), "cut at {cut}");
            assert_eq!(Crc32c::of(head).then(tail), Crc32c::of(&bytes), "cut at {cut}");
        }
    }
}
