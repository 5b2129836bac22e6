//! A batch as the write path sees it: one opaque blob and a small header beside it.

use std::fmt;

use crate::checksum::Crc32c;
use crate::time::Timestamp;

/// How a blob is compressed. Brokers and bookies never inflate one on the write path.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Default)]
#[repr(u8)]
pub enum Codec {
    /// Not at all.
    #[default]
    None = 0,
    /// LZ4 block format.
    Lz4 = 1,
    /// Zstandard, one frame.
    Zstd = 2,
}

impl Codec {
    /// The codec of a number from disk or wire.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::None),
            1 => Some(Self::Lz4),
            2 => Some(Self::Zstd),
            _ => None,
        }
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        })
    }
}

/// What a client says of its batch. The checksum covers these fields and the blob (B4), so that a consumer checks what the
/// producer computed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BatchHeader {
    /// Messages in the blob; at least 1.
    pub count: u32,
    /// How the blob is compressed.
    pub codec: Codec,
    /// Bytes of the blob once inflated; equals its length when the codec is `None`.
    pub inflated_bytes: u32,
    /// The producer's number of the first message; the others follow densely. 0 without idempotence.
    pub first_sequence: u64,
    /// When the producer closed the batch, by its own clock.
    pub publish_time: Timestamp,
    /// The smallest event time among the messages; 0 when none has one.
    pub event_time_min: Timestamp,
    /// The largest event time among the messages; 0 when none has one.
    pub event_time_max: Timestamp,
}

impl BatchHeader {
    /// Bytes of [`BatchHeader::to_bytes`].
    pub const BYTES: usize = 41;

    /// The fields as they are checksummed and stored: little-endian, in the order of the struct.
    pub fn to_bytes(&self) -> [u8; Self::BYTES] {
        let mut out = [0; Self::BYTES];
        out[0..4].copy_from_slice(&self.count.to_le_bytes());
        out[4] = self.codec as u8;
        out[5..9].copy_from_slice(&self.inflated_bytes.to_le_bytes());
        out[9..17].copy_from_slice(&self.first_sequence.to_le_bytes());
        out[17..25].copy_from_slice(&self.publish_time.as_millis().to_le_bytes());
        out[25..33].copy_from_slice(&self.event_time_min.as_millis().to_le_bytes());
        out[33..41].copy_from_slice(&self.event_time_max.as_millis().to_le_bytes());
        out
    }

    /// Reads the fields back; `None` for a codec of no known number.
    pub fn from_bytes(bytes: &[u8; Self::BYTES]) -> Option<Self> {
        let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        Some(Self {
            count: u32_at(0),
            codec: Codec::from_number(bytes[4])?,
            inflated_bytes: u32_at(5),
            first_sequence: u64_at(9),
            publish_time: Timestamp::from_millis(u64_at(17)),
            event_time_min: Timestamp::from_millis(u64_at(25)),
            event_time_max: Timestamp::from_millis(u64_at(33)),
        })
    }

    /// The batch's checksum, from that of its blob: the fields, then the blob.
    pub fn checksum(&self, blob: Crc32c, blob_bytes: usize) -> Crc32c {
        Crc32c::of(&self.to_bytes()).followed_by(blob, blob_bytes)
    }
}
