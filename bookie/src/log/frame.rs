//! An entry on its way into the log, and out of it.

use alluvium_types::bookie::{AddEntry, Adder};
use alluvium_types::checksum::Crc32c;
use alluvium_types::ids::{EntryId, LedgerId};
use bytes::Bytes;

/// An entry to append, without its body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EntryHead {
    /// Which ledger.
    pub ledger: LedgerId,
    /// Which entry.
    pub entry: EntryId,
    /// By which right it came.
    pub adder: Adder,
    /// The last add confirmed that came with it; `None` for one that a recovery wrote.
    pub lac: Option<EntryId>,
    /// The entry's checksum, as [`alluvium_types::entry::entry_checksum`] makes it. The caller has verified it against the
    /// body, or will before the group is durable: appending does not pass over the body again (B4).
    pub checksum: Crc32c,
}

impl From<&AddEntry> for EntryHead {
    fn from(add: &AddEntry) -> Self {
        Self { ledger: add.ledger, entry: add.entry, adder: add.adder, lac: add.lac, checksum: add.checksum }
    }
}

/// An entry that was read, both of its checksums verified. The body shares the memory of the whole transfer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frame {
    /// What was appended with it.
    pub head: EntryHead,
    /// The entry.
    pub body: Bytes,
}
