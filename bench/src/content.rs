//! What is in a message: who sent it, which it is, when it was meant to be sent, and a body whose checksum it names.
//!
//! ```text
//! 0 producer u32 | 4 checksum of the body u32 | 8 sequence u64 | 16 intended ns u64 | 24 magic u32 | 28 checksum of 0..28 | body
//! ```
//! The body is one for each producer, half of it random; the first half compresses.

use alluvium_runtime::entropy::Entropy;
use alluvium_types::checksum::Crc32c;
use bytes::{BufMut, Bytes, BytesMut};

/// Bytes before the body.
pub const HEAD_BYTES: usize = 32;
const MAGIC: u32 = 0x616c_7576;
/// Bytes that are taken from the system at once; messages are cut from them.
const ARENA_BYTES: usize = 256 << 10;

/// What a message says of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Head {
    /// Who sent it: a number among all producers of the run.
    pub producer: u32,
    /// Which of this producer's messages it is: dense, from 0.
    pub sequence: u64,
    /// When it was meant to be sent: nanoseconds of the run's clock.
    pub intended_ns: u64,
}

/// Why a message is not what was sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Corrupt {
    /// It has another length than all messages of the run.
    #[error("it has {found} bytes, not {expected}")]
    Length {
        /// What came.
        found: usize,
        /// What was sent.
        expected: usize,
    },
    /// Its head is none of ours, or was changed.
    #[error("its head is wrong")]
    Head,
    /// Its body was changed.
    #[error("its body is wrong")]
    Body,
}

/// Makes one producer's messages.
#[derive(Debug)]
pub struct Writer {
    producer: u32,
    body: Bytes,
    body_sum: u32,
    arena: BytesMut,
}

impl Writer {
    /// For messages of `message_size` bytes, at least [`HEAD_BYTES`].
    pub fn new(producer: u32, message_size: usize, entropy: &Entropy) -> Self {
        let bytes = message_size.saturating_sub(HEAD_BYTES);
        let random = std::iter::repeat_with(|| entropy.bits().to_le_bytes()).flatten();
        let body: Bytes = std::iter::repeat_n(b'a', bytes - bytes / 2).chain(random.take(bytes / 2)).collect();
        let body_sum = Crc32c::of(&body).get();
        Self { producer, body, body_sum, arena: BytesMut::with_capacity(ARENA_BYTES.max(message_size)) }
    }

    /// The message of this number. Its memory is used again once nobody holds it.
    pub fn message(&mut self, sequence: u64, intended_ns: u64) -> Bytes {
        let mut head = [0; HEAD_BYTES];
        head[0..4].copy_from_slice(&self.producer.to_le_bytes());
        head[4..8].copy_from_slice(&self.body_sum.to_le_bytes());
        head[8..16].copy_from_slice(&sequence.to_le_bytes());
        head[16..24].copy_from_slice(&intended_ns.to_le_bytes());
        head[24..28].copy_from_slice(&MAGIC.to_le_bytes());
        let sum = Crc32c::of(&head[..28]).get();
        head[28..32].copy_from_slice(&sum.to_le_bytes());
        let bytes = HEAD_BYTES + self.body.len();
        if self.arena.capacity() < bytes {
            self.arena.reserve(ARENA_BYTES.max(bytes));
        }
        self.arena.put_slice(&head);
        self.arena.put_slice(&self.body);
        self.arena.split().freeze()
    }
}

/// Reads a message of `message_size` bytes, every byte of it.
pub fn read(payload: &[u8], message_size: usize) -> Result<Head, Corrupt> {
    if payload.len() != message_size || message_size < HEAD_BYTES {
        return Err(Corrupt::Length { found: payload.len(), expected: message_size });
    }
    let (head, body) = payload.split_at(HEAD_BYTES);
    let u32_at = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().expect("four bytes"));
    let u64_at = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("eight bytes"));
    if u32_at(24) != MAGIC || u32_at(28) != Crc32c::of(&head[..28]).get() {
        return Err(Corrupt::Head);
    }
    if u32_at(4) != Crc32c::of(body).get() {
        return Err(Corrupt::Body);
    }
    Ok(Head { producer: u32_at(0), sequence: u64_at(8), intended_ns: u64_at(16) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_says_what_it_is() {
        for size in [HEAD_BYTES, 100, 1 << 10, 1 << 20] {
            let mut writer = Writer::new(7, size, &Entropy::seeded(1));
            for sequence in [0, 1, u64::MAX] {
                let message = writer.message(sequence, 99);
                assert_eq!(read(&message, size), Ok(Head { producer: 7, sequence, intended_ns: 99 }));
            }
        }
    }

    #[test]
    fn every_changed_byte_is_noticed() {
        let mut writer = Writer::new(7, 100, &Entropy::seeded(1));
        let message = writer.message(3, 4).to_vec();
        for at in 0..message.len() {
            let mut changed = message.clone();
            changed[at] ^= 0x10;
            let expected = if at < HEAD_BYTES { Corrupt::Head } else { Corrupt::Body };
            assert_eq!(read(&changed, 100), Err(expected), "byte {at}");
        }
        assert_eq!(read(&message[1..], 100), Err(Corrupt::Length { found: 99, expected: 100 }));
        assert_eq!(read(&[], 0), Err(Corrupt::Length { found: 0, expected: 0 }));
    }

    #[test]
    fn half_of_the_body_is_random_and_memory_is_used_again() {
        let mut writer = Writer::new(0, 1 << 10, &Entropy::seeded(1));
        let first = writer.message(0, 0);
        let plain = first[HEAD_BYTES..].iter().filter(|byte| **byte == b'a').count();
        assert!((450..560).contains(&plain), "{plain}");
        let at = first.as_ptr();
        drop(first);
        let again = (0..10_000).filter(|n| writer.message(*n, 0).as_ptr() == at).count();
        assert!(again > 10, "{again}");
    }
}
