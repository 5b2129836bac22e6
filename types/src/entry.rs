//! The body of an entry of a data ledger: a header, then the blobs of its batches.
//!
//! The format is `docs/formats/entry.md`. The header carries what the log itself must answer without decoding a blob:
//! offsets, server time, and who sent what with which sequence, so that the dedup map is a function of the log (D3, D7).

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::batch::BatchHeader;
use crate::checksum::Crc32c;
use crate::ids::{EntryId, LedgerId, Offset};
use crate::limits::ENTRY_BATCHES_MAX;
use crate::names::ProducerName;
use crate::time::Timestamp;

/// The first byte of a body: messages, in the first version of this format.
pub const KIND_MESSAGES: u8 = 1;
/// The first byte of a body in a state ledger.
pub const KIND_STATE: u8 = 2;

/// Bytes before the batches' descriptors.
const FIXED_BYTES: usize = 28;
/// Bytes of a descriptor without the producer's name.
const DESCRIPTOR_BYTES: usize = BatchHeader::BYTES + 4 + 4 + 8 + 1;

/// The producer that a batch came from, for dedup (D7).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProducerStamp {
    /// Its name.
    pub name: ProducerName,
    /// The number of its claim on the name; only the newest may append (D5).
    pub epoch: u64,
}

/// One batch, as the entry's header describes it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BatchDescriptor {
    /// What the client said.
    pub header: BatchHeader,
    /// The client's checksum over those fields and the blob.
    pub checksum: Crc32c,
    /// Bytes of the blob.
    pub blob_bytes: u32,
    /// Who sent it; `None` without idempotence.
    pub producer: Option<ProducerStamp>,
}

/// The header of an entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EntryHeader {
    /// The offset of the first message.
    pub first_offset: Offset,
    /// The broker's time for all of them; never goes back in a partition.
    pub server_time: Timestamp,
    /// The batches, in offset order; never empty.
    pub batches: Vec<BatchDescriptor>,
}

/// The part of a header that finds an entry by offset or time, read without the descriptors.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EntryRange {
    /// The offset of the first message.
    pub first_offset: Offset,
    /// Messages in the entry.
    pub count: u32,
    /// The broker's time for all of them.
    pub server_time: Timestamp,
}

impl EntryRange {
    /// The offset after the last message.
    pub fn end_offset(&self) -> Offset {
        Offset::new(self.first_offset.get() + u64::from(self.count))
    }

    /// Reads the range of a body; `None` if it does not hold messages.
    pub fn of(body: &[u8]) -> Option<Self> {
        if body.len() < FIXED_BYTES || body[0] != KIND_MESSAGES {
            return None;
        }
        let u64_at = |at: usize| u64::from_le_bytes(body[at..at + 8].try_into().expect("eight bytes"));
        Some(Self {
            first_offset: Offset::new(u64_at(8)),
            count: u32::from_le_bytes(body[24..28].try_into().expect("four bytes")),
            server_time: Timestamp::from_millis(u64_at(16)),
        })
    }
}

/// Why bytes are not the body of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// The first byte names no format that this version reads.
    #[error("entry kind {0} is not one this version reads")]
    Kind(u8),
    /// The bytes end before what they announce.
    #[error("the entry's header is cut short")]
    Short,
    /// A field contradicts another.
    #[error("the entry's {0} contradicts its other fields")]
    Contradiction(&'static str),
}

impl EntryHeader {
    /// Messages in the entry.
    pub fn count(&self) -> u32 {
        self.batches.iter().map(|b| b.header.count).sum()
    }

    /// Offsets and time.
    pub fn range(&self) -> EntryRange {
        EntryRange { first_offset: self.first_offset, count: self.count(), server_time: self.server_time }
    }

    /// Encodes the header; the blobs follow it in the same order.
    ///
    /// # Panics
    /// With more than [`ENTRY_BATCHES_MAX`] batches, or none.
    pub fn encode(&self) -> Bytes {
        assert!(
            !self.batches.is_empty() && self.batches.len() <= ENTRY_BATCHES_MAX,
            "the coalescer bounds the batches of an entry"
        );
        let names: usize = self.batches.iter().map(|b| b.producer.as_ref().map_or(0, |p| p.name.as_str().len())).sum();
        let header_bytes = FIXED_BYTES + self.batches.len() * DESCRIPTOR_BYTES + names;
        let mut out = BytesMut::with_capacity(header_bytes);
        out.put_u8(KIND_MESSAGES);
        out.put_u8(0);
        out.put_u16_le(u16::try_from(self.batches.len()).expect("bounded above"));
        out.put_u32_le(u32::try_from(header_bytes).expect("bounded by the batches"));
        out.put_u64_le(self.first_offset.get());
        out.put_u64_le(self.server_time.as_millis());
        out.put_u32_le(self.count());
        for batch in &self.batches {
            out.put_slice(&batch.header.to_bytes());
            out.put_u32_le(batch.checksum.get());
            out.put_u32_le(batch.blob_bytes);
            let (epoch, name) = batch.producer.as_ref().map_or((0, ""), |p| (p.epoch, p.name.as_str()));
            out.put_u64_le(epoch);
            out.put_u8(u8::try_from(name.len()).expect("a name has at most 64 bytes"));
            out.put_slice(name.as_bytes());
        }
        debug_assert_eq!(out.len(), header_bytes);
        out.freeze()
    }

    /// Decodes a body into its header and its blobs, which share the body's bytes. Never panics on any input.
    pub fn decode(body: &Bytes) -> Result<(Self, Vec<Bytes>), EntryError> {
        let mut at = body.clone();
        let kind = *body.first().ok_or(EntryError::Short)?;
        if kind != KIND_MESSAGES {
            return Err(EntryError::Kind(kind));
        }
        if at.len() < FIXED_BYTES {
            return Err(EntryError::Short);
        }
        at.advance(2);
        let batch_count = usize::from(at.get_u16_le());
        let header_bytes = at.get_u32_le() as usize;
        let first_offset = Offset::new(at.get_u64_le());
        let server_time = Timestamp::from_millis(at.get_u64_le());
        let count = at.get_u32_le();
        if batch_count == 0 || batch_count > ENTRY_BATCHES_MAX {
            return Err(EntryError::Contradiction("number of batches"));
        }
        if header_bytes < FIXED_BYTES || header_bytes > body.len() {
            return Err(EntryError::Short);
        }
        let mut blobs_at = body.slice(header_bytes..);
        at.truncate(header_bytes - FIXED_BYTES);
        let mut batches = Vec::with_capacity(batch_count);
        let mut blobs = Vec::with_capacity(batch_count);
        for _ in 0..batch_count {
            let batch = decode_descriptor(&mut at)?;
            let blob_bytes = batch.blob_bytes as usize;
            if blobs_at.len() < blob_bytes {
                return Err(EntryError::Short);
            }
            blobs.push(blobs_at.split_to(blob_bytes));
            batches.push(batch);
        }
        if at.has_remaining() || blobs_at.has_remaining() {
            return Err(EntryError::Contradiction("length"));
        }
        let header = Self { first_offset, server_time, batches };
        let total: u64 = header.batches.iter().map(|b| u64::from(b.header.count)).sum();
        if total != u64::from(count) || first_offset.checked_add(total).is_none() {
            return Err(EntryError::Contradiction("number of messages"));
        }
        Ok((header, blobs))
    }
}

fn decode_descriptor(at: &mut Bytes) -> Result<BatchDescriptor, EntryError> {
    if at.len() < DESCRIPTOR_BYTES {
        return Err(EntryError::Short);
    }
    let mut fields = [0; BatchHeader::BYTES];
    at.copy_to_slice(&mut fields);
    let header = BatchHeader::from_bytes(&fields).ok_or(EntryError::Contradiction("codec"))?;
    let checksum = Crc32c::new(at.get_u32_le());
    let blob_bytes = at.get_u32_le();
    let epoch = at.get_u64_le();
    let name_bytes = usize::from(at.get_u8());
    if at.len() < name_bytes {
        return Err(EntryError::Short);
    }
    let name = at.split_to(name_bytes);
    let producer = if name.is_empty() {
        None
    } else {
        let name = std::str::from_utf8(&name).ok().and_then(|n| ProducerName::parse(n).ok());
        Some(ProducerStamp { name: name.ok_or(EntryError::Contradiction("producer name"))?, epoch })
    };
    Ok(BatchDescriptor { header, checksum, blob_bytes, producer })
}

/// The entry's checksum (B4), the same on every copy for ever: over ledger, entry and length (little-endian), then the body.
pub fn entry_checksum(ledger: LedgerId, entry: EntryId, body: Crc32c, body_bytes: usize) -> Crc32c {
    entry_prefix(ledger, entry, body_bytes).followed_by(body, body_bytes)
}

/// The same, passing over the body: what a reader verifies with.
pub fn entry_checksum_over(ledger: LedgerId, entry: EntryId, body: &[u8]) -> Crc32c {
    entry_prefix(ledger, entry, body.len()).then(body)
}

fn entry_prefix(ledger: LedgerId, entry: EntryId, body_bytes: usize) -> Crc32c {
    let mut prefix = [0_u8; 20];
    prefix[0..8].copy_from_slice(&ledger.get().to_le_bytes());
    prefix[8..16].copy_from_slice(&entry.get().to_le_bytes());
    prefix[16..20].copy_from_slice(&u32::try_from(body_bytes).expect("an entry is smaller than 4 GiB").to_le_bytes());
    Crc32c::of(&prefix)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample() -> (EntryHeader, Bytes) {
        let batch = |count, producer: Option<&str>, blob_bytes| BatchDescriptor {
            header: BatchHeader { count, inflated_bytes: blob_bytes, first_sequence: 7, ..BatchHeader::default() },
            checksum: Crc32c::new(99),
            blob_bytes,
            producer: producer.map(|p| ProducerStamp { name: ProducerName::parse(p).expect("valid"), epoch: 3 }),
        };
        let header = EntryHeader {
            first_offset: Offset::new(1000),
            server_time: Timestamp::from_millis(5),
            batches: vec![batch(3, Some("alice"), 4), batch(1, None, 2)],
        };
        let mut body = BytesMut::from(&header.encode()[..]);
        body.put_slice(b"abcdef");
        (header, body.freeze())
    }

    #[test]
    fn a_body_decodes_to_what_was_encoded() {
        let (header, body) = sample();
        let (decoded, blobs) = EntryHeader::decode(&body).expect("valid");
        assert_eq!(decoded, header);
        assert_eq!(blobs, [Bytes::from_static(b"abcd"), Bytes::from_static(b"ef")]);
        assert_eq!(EntryRange::of(&body), Some(header.range()));
        assert_eq!(header.range().end_offset(), Offset::new(1004));
    }

    #[test]
    fn every_truncation_is_an_error() {
        let (_, body) = sample();
        for length in 0..body.len() {
            assert!(EntryHeader::decode(&body.slice(..length)).is_err(), "{length} bytes");
        }
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..300), kind in 0_u8..3) {
            if let Some(first) = bytes.first_mut() { *first = kind; }
            let _ = EntryHeader::decode(&Bytes::from(bytes));
        }
    }
}
