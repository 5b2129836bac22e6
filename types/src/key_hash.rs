//! Which partition a key goes to: MurmurHash3 (x86, 32 bit, seed 0), as `message.proto` specifies it for every client.
//!
//! Algorithm: Austin Appleby, MurmurHash3, 2011 (public domain).

use crate::ids::PartitionIndex;

/// The hash of a key.
pub fn key_hash(key: &[u8]) -> u32 {
    const C1: u32 = 0xcc9e_2d51;
    const C2: u32 = 0x1b87_3593;
    let mix = |k: u32| k.wrapping_mul(C1).rotate_left(15).wrapping_mul(C2);
    let mut hash = 0_u32;
    let mut blocks = key.chunks_exact(4);
    for block in blocks.by_ref() {
        let k = u32::from_le_bytes(block.try_into().expect("a block has four bytes"));
        hash = (hash ^ mix(k)).rotate_left(13).wrapping_mul(5).wrapping_add(0xe654_6b64);
    }
    let tail = blocks.remainder();
    if !tail.is_empty() {
        let mut last = [0_u8; 4];
        last[..tail.len()].copy_from_slice(tail);
        hash ^= mix(u32::from_le_bytes(last));
    }
    #[expect(clippy::cast_possible_truncation, reason = "the algorithm takes the length modulo 2^32")]
    let length = key.len() as u32;
    hash ^= length;
    hash = (hash ^ (hash >> 16)).wrapping_mul(0x85eb_ca6b);
    hash = (hash ^ (hash >> 13)).wrapping_mul(0xc2b2_ae35);
    hash ^ (hash >> 16)
}

/// The partition of a key among `partitions`: the hash modulo their number.
///
/// # Panics
/// If `partitions` is 0.
pub fn partition_of(key: &[u8], partitions: u32) -> PartitionIndex {
    PartitionIndex::new(key_hash(key) % partitions)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_matches_the_vectors_in_the_proto() {
        for (key, hash) in [
            ("", 0),
            ("a", 0x3c25_69b2),
            ("abc", 0xb3dd_93fa),
            ("Hello, world!", 0xc036_3e43),
            ("The quick brown fox jumps over the lazy dog", 0x2e4f_f723),
        ] {
            assert_eq!(key_hash(key.as_bytes()), hash, "{key:?}");
        }
    }
}
