//! The header of a log file: whose it is, which life it leads, and the salt of that life.

use alluvium_types::checksum::Crc32c;
use alluvium_types::ids::{ClusterId, Incarnation};
use uuid::Uuid;

use super::place::FileId;

/// The newest format that this version reads, and the one it writes.
pub(crate) const FORMAT: u16 = 1;
/// Bytes of a header.
pub(crate) const HEADER_BYTES: usize = 128;
/// Where its second copy is: in another sector, so that one bad sector takes not both.
pub(crate) const COPY_AT: usize = 3584;

const MAGIC: &[u8; 8] = b"ALLUVLOG";

/// Whose log it is; stands in every file (B11).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identity {
    /// The deployment.
    pub cluster: ClusterId,
    /// The life of the data directory.
    pub incarnation: Incarnation,
}

/// A file's header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Header {
    pub(crate) identity: Identity,
    pub(crate) file: FileId,
    pub(crate) bytes: u64,
    pub(crate) key: u32,
    pub(crate) salt: u32,
    pub(crate) group_bytes_max: u32,
}

/// What the first block of a file says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum FirstBlock {
    Header(Header),
    /// Written by a newer version.
    Newer(u16),
    /// Allocated and never used.
    Blank,
    Bad,
}

/// The salt of a life (C57): of two lives of one file it is never the same, as long as their ids differ in 32 bits, and
/// without the key it can't be guessed.
pub(crate) fn salt_of(key: u32, file: FileId) -> u32 {
    let mut x = u32::try_from(file.get() & u64::from(u32::MAX)).expect("32 bits");
    x ^= x >> 16;
    x = x.wrapping_mul(0x85EB_CA6B);
    x ^= x >> 13;
    x = x.wrapping_mul(0xC2B2_AE35);
    x ^= x >> 16;
    key ^ x
}

impl Header {
    pub(crate) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0..8].copy_from_slice(MAGIC);
        bytes[8..10].copy_from_slice(&FORMAT.to_le_bytes());
        bytes[16..32].copy_from_slice(self.identity.cluster.get().as_bytes());
        bytes[32..48].copy_from_slice(self.identity.incarnation.get().as_bytes());
        bytes[48..56].copy_from_slice(&self.file.get().to_le_bytes());
        bytes[56..64].copy_from_slice(&self.bytes.to_le_bytes());
        bytes[64..68].copy_from_slice(&self.key.to_le_bytes());
        bytes[68..72].copy_from_slice(&self.salt.to_le_bytes());
        bytes[72..76].copy_from_slice(&self.group_bytes_max.to_le_bytes());
        let sum = Crc32c::of(&bytes).get();
        bytes[12..16].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; HEADER_BYTES] = bytes.get(..HEADER_BYTES)?.try_into().expect("as many bytes");
        let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        let uuid_at = |at: usize| Uuid::from_bytes(bytes[at..at + 16].try_into().expect("sixteen bytes"));
        let mut summed = *bytes;
        summed[12..16].fill(0);
        let is_good = bytes[0..8] == *MAGIC && version(bytes) == FORMAT && Crc32c::of(&summed).get() == u32_at(12);
        is_good.then(|| Self {
            identity: Identity { cluster: ClusterId::new(uuid_at(16)), incarnation: Incarnation::new(uuid_at(32)) },
            file: FileId::new(u64_at(48)),
            bytes: u64_at(56),
            key: u32_at(64),
            salt: u32_at(68),
            group_bytes_max: u32_at(72),
        })
    }
}

fn version(bytes: &[u8; HEADER_BYTES]) -> u16 {
    u16::from_le_bytes([bytes[8], bytes[9]])
}

impl FirstBlock {
    /// Reads the first block of a file, whichever copy is good.
    pub(crate) fn decode(block: &[u8]) -> Self {
        let copies = [block.get(..HEADER_BYTES), block.get(COPY_AT..COPY_AT + HEADER_BYTES)];
        let copies = copies.map(|copy| copy.and_then(|c| <&[u8; HEADER_BYTES]>::try_from(c).ok()));
        let [Some(first), Some(second)] = copies else { return Self::Bad };
        // A header that tore between two lives: the new life had not begun.
        if let Some(header) = Header::decode(first).or_else(|| Header::decode(second)) {
            return Self::Header(header);
        }
        for copy in [first, second] {
            if copy[0..8] == *MAGIC && version(copy) > FORMAT {
                return Self::Newer(version(copy));
            }
        }
        if block.iter().all(|&b| b == 0) { Self::Blank } else { Self::Bad }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use alluvium_runtime::disk::BLOCK_BYTES;

    use super::*;

    fn block(header: &Header) -> Vec<u8> {
        let mut block = vec![0; BLOCK_BYTES];
        block[..HEADER_BYTES].copy_from_slice(&header.encode());
        block[COPY_AT..COPY_AT + HEADER_BYTES].copy_from_slice(&header.encode());
        block
    }

    fn sample() -> Header {
        Header {
            identity: Identity { cluster: ClusterId::new(Uuid::from_u128(1)), incarnation: Incarnation::new(Uuid::from_u128(2)) },
            file: FileId::new(77),
            bytes: 1 << 20,
            key: 5,
            salt: 6,
            group_bytes_max: 1 << 16,
        }
    }

    #[test]
    fn one_good_copy_is_enough_and_a_newer_version_is_refused_not_guessed() {
        let mut bytes = block(&sample());
        assert_eq!(FirstBlock::decode(&bytes), FirstBlock::Header(sample()));
        bytes[60] ^= 1;
        assert_eq!(FirstBlock::decode(&bytes), FirstBlock::Header(sample()));
        bytes[COPY_AT + 60] ^= 1;
        assert_eq!(FirstBlock::decode(&bytes), FirstBlock::Bad);
        bytes[8] = 2;
        assert_eq!(FirstBlock::decode(&bytes), FirstBlock::Newer(2));
        // A rotten bit of the version alone is no newer version.
        let mut bytes = block(&sample());
        bytes[8] = 3;
        assert_eq!(FirstBlock::decode(&bytes), FirstBlock::Header(sample()));
        assert_eq!(FirstBlock::decode(&vec![0; BLOCK_BYTES]), FirstBlock::Blank);
        assert_eq!(FirstBlock::decode(&[0; 100]), FirstBlock::Bad);
    }

    #[test]
    fn c57_no_two_lives_of_a_file_have_the_same_salt() {
        let salts: BTreeSet<u32> = (0..100_000).map(|id| salt_of(0xBEEF, FileId::new(id))).collect();
        assert_eq!(salts.len(), 100_000);
    }
}
