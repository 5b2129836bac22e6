//! What of a partition can be read, and what is known of the segment that is written.

use alluvium_types::ids::{LedgerId, Offset};
use alluvium_types::time::Timestamp;

/// The offsets that a partition keeps and that are confirmed: from `first`, without `end`. There may be gaps where segments
/// in between were trimmed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Bounds {
    /// The oldest message kept; equals `end` when there is none.
    pub first: Offset,
    /// The offset after the last *confirmed* message (L7); what is appended and not confirmed lies beyond.
    pub end: Offset,
}

impl Bounds {
    /// Whether there is nothing to read.
    pub fn is_empty(&self) -> bool {
        self.first >= self.end
    }

    /// `offset`, moved into what is kept: the oldest kept one if it is gone, the next one to come if it lies ahead.
    pub fn clamp(&self, offset: Offset) -> Offset {
        offset.max(self.first).min(self.end.max(self.first))
    }
}

/// What is confirmed of the segment that is written; metadata knows it once the segment is sealed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OpenSegment {
    /// Its ledger.
    pub ledger: LedgerId,
    /// Its first offset.
    pub first: Offset,
    /// Bytes of its entries.
    pub bytes: u64,
    /// Server times of its first and its last message; `None` while it is empty.
    pub times: Option<(Timestamp, Timestamp)>,
}
