//! CRC-32C, computed once and *combined* from there on (B4): a body is passed over by whoever first sees it, and the
//! checksums of what is wrapped around it follow from the parts.

use std::fmt;

use crc_fast::CrcAlgorithm::Crc32Iscsi;
use crc_fast::Digest;

/// The polynomial, reflected: the highest bit is the lowest power.
const POLYNOMIAL: u32 = 0x82F6_3B78;
/// What `k` squarings make of x: x^(2^k), modulo the polynomial. So many that any length in bits is a product of some.
const POWERS: [u32; 67] = {
    let mut powers = [1 << 30; 67];
    let mut at = 1;
    while at < powers.len() {
        powers[at] = product(powers[at - 1], powers[at - 1]);
        at += 1;
    }
    powers
};

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
    ///
    /// A checksum is a remainder modulo the polynomial, so bytes behind it multiply it by a power of x: a product for each bit of
    /// `length` that is set, as in zlib's `crc32_combine`. The library squares matrices, which costs as much as some 100 KiB.
    #[must_use]
    pub fn followed_by(self, next: Self, length: usize) -> Self {
        let (mut shifted, mut bytes, mut power) = (self.0, length, 3);
        while bytes > 0 {
            if bytes & 1 == 1 {
                shifted = product(shifted, POWERS[power]);
            }
            bytes >>= 1;
            power += 1;
        }
        Self(shifted ^ next.0)
    }

    /// The checksum of these bytes followed by `bytes`.
    #[must_use]
    pub fn then(self, bytes: &[u8]) -> Self {
        let mut digest = Digest::new_with_init_state(Crc32Iscsi, u64::from(!self.0));
        digest.update(bytes);
        Self(narrow(digest.finalize()))
    }
}

/// The product of two remainders, without a branch that depends on them.
const fn product(mut left: u32, mut right: u32) -> u32 {
    let (mut sum, mut bit) = (0, 0);
    while bit < u32::BITS {
        sum ^= right & 0_u32.wrapping_sub(left >> 31);
        left <<= 1;
        right = (right >> 1) ^ (POLYNOMIAL & 0_u32.wrapping_sub(right & 1));
        bit += 1;
    }
    sum
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

    #[test]
    fn any_length_combines_as_the_library_combines_it() {
        for length in (0..64).map(|bit| 1_usize << bit).chain([3, 1021, 65_537, usize::MAX]) {
            for (head, tail) in [(0, 0), (1, 0), (0x8000_0000, 7), (0xDEAD_BEEF, 0x0123_4567), (u32::MAX, u32::MAX)] {
                let expected = crc_fast::checksum_combine(Crc32Iscsi, u64::from(head), u64::from(tail), length as u64);
                let combined = Crc32c::new(head).followed_by(Crc32c::new(tail), length);
                assert_eq!(u64::from(combined.get()), expected, "{head:08x} and {tail:08x} of {length} bytes");
            }
        }
    }
}
