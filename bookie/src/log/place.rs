//! Where things are: files, groups, and the place of a frame in them.

/// What positions of frames are counted in, and what frames begin at.
pub(crate) const UNIT_BYTES: usize = 8;

alluvium_types::number!(
    /// One life of a log file. A recycled file gets a new one; no number is used twice in a data directory (C57).
    FileId,
    "f"
);
alluvium_types::number!(
    /// The number of a group: rises over the whole log, through files and restarts. Zero is before the first.
    GroupNumber,
    "g"
);

/// Where the frame of an entry is: what the index keeps and a reader needs.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Location {
    /// In which life of which file.
    pub file: FileId,
    /// The frame's offset there, in units of 8 bytes.
    pub unit: u32,
    /// Bytes of the entry's body.
    pub body_bytes: u32,
}

impl Location {
    /// The frame's offset in its file, in bytes.
    pub const fn offset(self) -> u64 {
        self.unit as u64 * UNIT_BYTES as u64
    }
}

/// Where an appended entry will be once its group is durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use = "an appended entry is durable only with its group"]
pub struct Placed {
    /// It may be acknowledged once [`Writer::durable`](super::Writer::durable) has reached this (B1).
    pub group: GroupNumber,
    /// What the index should say from then on.
    pub location: Location,
}
