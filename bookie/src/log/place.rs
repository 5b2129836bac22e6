//! Where things are: files, groups, and the place of a frame in them.

use std::fmt;

/// What positions of frames are counted in, and what frames begin at.
pub(crate) const UNIT_BYTES: usize = 8;

/// One life of a log file. A recycled file gets a new one; no number is used twice in a data directory (C57).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId(u64);

impl FileId {
    /// Wraps a number that came from disk.
    pub const fn new(value: u64) -> Self {
        Self(value)
    }

    /// The bare number, for encoding.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The one after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for FileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Debug for FileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "f{}", self.0)
    }
}

/// The number of a group: rises over the whole log, through files and restarts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct GroupNumber(u64);

impl GroupNumber {
    /// Before the first group.
    pub const ZERO: Self = Self(0);

    /// Wraps a number that came from disk.
    pub const fn new(value: u64) -> Self {
        Self(value)
    }

    /// The bare number, for encoding.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The one after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for GroupNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Debug for GroupNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "g{}", self.0)
    }
}

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
