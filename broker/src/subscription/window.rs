//! Entries at hand: read by one consumer, shared by all of the subscription.

use std::collections::BTreeMap;

use alluvium_types::ids::Offset;

use super::input::Span;
use crate::topic::{LoadedEntry, PlacedBatch};

/// A batch, as far as dispatch needs it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Shape {
    /// Its messages.
    pub(crate) span: Span,
    /// What it costs of a consumer's credit, whole.
    pub(crate) bytes: u64,
}

/// The batches of an entry.
pub(crate) fn shapes(entry: &LoadedEntry) -> Vec<Shape> {
    let shape = |batch: PlacedBatch<'_>| Shape {
        span: Span::new(batch.first_offset, batch.end_offset()),
        bytes: u64::from(batch.descriptor.header.inflated_bytes),
    };
    entry.batches().map(shape).collect()
}

/// Where messages lie in batches, as far as it is known.
pub(crate) trait Layout {
    /// The batches from the one that holds `offset` to the end of its entry; `None` if that entry is not at hand.
    fn from(&self, offset: Offset) -> Option<&[Shape]>;
}

/// The entries of one subscription that are at hand: what is next, and about as much again read ahead (`Ahead::KEPT_MAX`).
#[derive(Default, Debug)]
pub(crate) struct Window {
    entries: BTreeMap<Offset, Held>,
    bytes: usize,
}

#[derive(Debug)]
struct Held {
    entry: LoadedEntry,
    shapes: Vec<Shape>,
}

impl Layout for Window {
    fn from(&self, offset: Offset) -> Option<&[Shape]> {
        let held = self.holding(offset)?;
        let at = held.shapes.partition_point(|s| s.span.end <= offset);
        Some(&held.shapes[at..])
    }
}

impl Window {
    /// Bytes of the entries at hand.
    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds an entry.
    pub(crate) fn insert(&mut self, entry: LoadedEntry) {
        let shapes = shapes(&entry);
        self.bytes += entry.bytes();
        if let Some(before) = self.entries.insert(entry.first_offset(), Held { entry, shapes }) {
            self.bytes -= before.entry.bytes();
        }
    }

    /// The entry that holds `offset`.
    pub(crate) fn entry(&self, offset: Offset) -> Option<&LoadedEntry> {
        self.holding(offset).map(|held| &held.entry)
    }

    /// The end of what is at hand without a hole from `offset` on.
    pub(crate) fn reach(&self, mut offset: Offset) -> Offset {
        while let Some(held) = self.holding(offset) {
            offset = held.entry.end_offset();
        }
        offset
    }

    /// Lets entries go for which `wanted` is false, and the last ones while there are more than `bytes_max`; the one that holds
    /// `first` stays.
    pub(crate) fn retain(&mut self, first: Offset, bytes_max: usize, wanted: impl Fn(Span) -> bool) {
        let mut bytes = 0;
        self.entries.retain(|_, held| {
            let span = Span::new(held.entry.first_offset(), held.entry.end_offset());
            let keep = span.contains(first) || (bytes < bytes_max && wanted(span));
            bytes += if keep { held.entry.bytes() } else { 0 };
            keep
        });
        self.bytes = bytes;
    }

    /// Lets all go.
    pub(crate) fn clear(&mut self) {
        self.entries.clear();
        self.bytes = 0;
    }

    fn holding(&self, offset: Offset) -> Option<&Held> {
        let (_, held) = self.entries.range(..=offset).next_back()?;
        (offset < held.entry.end_offset()).then_some(held)
    }
}
