//! An entry as readers get it: decoded header, blobs that share the body's bytes.

use std::sync::Arc;

use alluvium_runtime::budget::BytesHeld;
use alluvium_types::entry::{BatchDescriptor, EntryError, EntryHeader};
use alluvium_types::ids::{EntryId, LedgerId, Offset};
use alluvium_types::time::Timestamp;
use bytes::Bytes;

/// An entry, shared by all who read it. What it holds of the process's memory goes back when the last holder lets go (Q6).
#[derive(Clone, Debug)]
pub struct LoadedEntry(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    ledger: LedgerId,
    entry: EntryId,
    header: EntryHeader,
    blobs: Vec<Bytes>,
    end: Offset,
    bytes: usize,
    #[expect(dead_code, reason = "held for its drop")]
    held: Option<Arc<BytesHeld>>,
}

/// One batch of an entry, in its place.
#[derive(Clone, Copy, Debug)]
pub struct PlacedBatch<'a> {
    /// The offset of its first message.
    pub first_offset: Offset,
    /// What its client said of it.
    pub descriptor: &'a BatchDescriptor,
    /// Its blob, as the client sent it.
    pub blob: &'a Bytes,
}

impl PlacedBatch<'_> {
    /// The offset after its last message.
    pub fn end_offset(&self) -> Offset {
        Offset::new(self.first_offset.get() + u64::from(self.descriptor.header.count))
    }
}

impl LoadedEntry {
    /// Decodes a body. `held` is what was taken for it from a budget.
    pub fn decode(place: (LedgerId, EntryId), body: &Bytes, held: Option<Arc<BytesHeld>>) -> Result<Self, EntryError> {
        let (header, blobs) = EntryHeader::decode(body)?;
        Ok(Self::new(place, header, blobs, body.len(), held))
    }

    /// From a body and its header, which is at hand already.
    pub(crate) fn of_parts(place: (LedgerId, EntryId), header: EntryHeader, body: &Bytes, held: Option<Arc<BytesHeld>>) -> Self {
        let blob_bytes: usize = header.batches.iter().map(|batch| batch.blob_bytes as usize).sum();
        let mut at = body.len() - blob_bytes;
        let mut blobs = Vec::with_capacity(header.batches.len());
        for batch in &header.batches {
            let end = at + batch.blob_bytes as usize;
            blobs.push(body.slice(at..end));
            at = end;
        }
        Self::new(place, header, blobs, body.len(), held)
    }

    fn new(
        (ledger, entry): (LedgerId, EntryId),
        header: EntryHeader,
        blobs: Vec<Bytes>,
        bytes: usize,
        held: Option<Arc<BytesHeld>>,
    ) -> Self {
        let end = header.range().end_offset();
        Self(Arc::new(Inner { ledger, entry, header, blobs, end, bytes, held }))
    }

    /// Where it is stored: the ledger and its place there. For messages to operators, not to users.
    pub fn place(&self) -> (LedgerId, EntryId) {
        (self.0.ledger, self.0.entry)
    }

    /// Its header.
    pub fn header(&self) -> &EntryHeader {
        &self.0.header
    }

    /// The offset of its first message.
    pub fn first_offset(&self) -> Offset {
        self.0.header.first_offset
    }

    /// The offset after its last message.
    pub fn end_offset(&self) -> Offset {
        self.0.end
    }

    /// The broker's time for all of its messages.
    pub fn server_time(&self) -> Timestamp {
        self.0.header.server_time
    }

    /// Bytes of its body.
    pub fn bytes(&self) -> usize {
        self.0.bytes
    }

    /// About the memory that it takes: its body, and what was decoded of it.
    pub(crate) fn cost(&self) -> usize {
        Self::cost_of(self.0.bytes, self.0.header.batches.len())
    }

    /// The same, of an entry with such a body.
    pub(crate) const fn cost_of(body_bytes: usize, batches: usize) -> usize {
        body_bytes + size_of::<Inner>() + batches * (size_of::<BatchDescriptor>() + size_of::<Bytes>())
    }

    /// Its batches with their offsets.
    pub fn batches(&self) -> impl Iterator<Item = PlacedBatch<'_>> {
        let mut next = self.first_offset();
        self.0.header.batches.iter().zip(&self.0.blobs).map(move |(descriptor, blob)| {
            let batch = PlacedBatch { first_offset: next, descriptor, blob };
            next = batch.end_offset();
            batch
        })
    }
}
