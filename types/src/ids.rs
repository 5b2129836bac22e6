//! Numbers and identities. Each is a type of its own; arithmetic is by named steps only.

use std::fmt;

use uuid::Uuid;

/// Makes a type of its own for a number: `number!(/** What it counts. */ Name, "n");` prints as `n7` in debug output.
#[macro_export]
macro_rules! number {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(u64);

        impl $name {
            /// The smallest one.
            pub const ZERO: Self = Self(0);

            /// Wraps a number that came from disk, wire or metadata.
            pub const fn new(value: u64) -> Self {
                Self(value)
            }

            /// The bare number, for encoding.
            pub const fn get(self) -> u64 {
                self.0
            }

            /// The one after this one.
            ///
            /// # Panics
            /// When the 64-bit space is used up, which no run reaches.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0 + 1)
            }

            /// The one before this one, if there is one.
            #[must_use]
            pub const fn previous(self) -> Option<Self> {
                match self.0.checked_sub(1) {
                    Some(value) => Some(Self(value)),
                    None => None,
                }
            }

            /// `count` steps on, or `None` past the end of the space.
            #[must_use]
            pub const fn checked_add(self, count: u64) -> Option<Self> {
                match self.0.checked_add(count) {
                    Some(value) => Some(Self(value)),
                    None => None,
                }
            }

            /// How far this one lies behind `later`; 0 when it doesn't.
            pub const fn distance_to(self, later: Self) -> u64 {
                later.0.saturating_sub(self.0)
            }
        }

        impl ::std::fmt::Display for $name {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                write!(f, "{}", self.0)
            }
        }

        impl ::std::fmt::Debug for $name {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }
    };
}

number!(
    /// A ledger, never reused (L8).
    LedgerId, "l"
);
number!(
    /// An entry of a ledger: dense, from 0.
    EntryId, "e"
);
number!(
    /// The number of a writer's claim on a partition. Every write to a bookie carries it; a bookie refuses an older one.
    Epoch, "ep"
);
number!(
    /// The number that a recovery's compare-and-set to `Recovering` raised in the ledger's record. It orders recoveries,
    /// apart from the writer's epoch (C69).
    RecoveryNumber, "r"
);
number!(
    /// The number of a message in its partition: dense, from 0, never reused (T1).
    Offset, "o"
);
number!(
    /// A place in the metadata store's history.
    Revision, "rev"
);

/// The index of a partition in its topic.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct PartitionIndex(u32);

impl PartitionIndex {
    /// Wraps an index.
    pub const fn new(value: u32) -> Self {
        Self(value)
    }

    /// The bare number.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for PartitionIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Debug for PartitionIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "p{}", self.0)
    }
}

macro_rules! identity {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Uuid);

        impl $name {
            /// Wraps a UUID that came from disk, wire, metadata or the entropy seam.
            pub const fn new(value: Uuid) -> Self {
                Self(value)
            }

            /// The bare UUID, for encoding.
            pub const fn get(self) -> Uuid {
                self.0
            }
        }

        impl ::std::fmt::Display for $name {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                self.0.fmt(f)
            }
        }

        impl ::std::fmt::Debug for $name {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                let short = self.0.as_u128() >> 96;
                write!(f, "{short:08x}")
            }
        }
    };
}

identity!(
    /// One deployment: stands in metadata and in every data directory.
    ClusterId
);
identity!(
    /// One life of a bookie's data directory (B11): an empty or changed directory gets a new one and is another bookie.
    Incarnation
);
identity!(
    /// A process's registration in metadata. A restart is a new session.
    SessionId
);
identity!(
    /// A topic, whatever it is called: a deleted and re-created topic is another one.
    TopicId
);
identity!(
    /// What makes one compare-and-set recognisable when its outcome was lost (M3).
    Nonce
);
