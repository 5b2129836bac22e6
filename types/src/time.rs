//! Two kinds of time that must not be mixed: labels people read, and the clock that decides.

use std::fmt;
use std::time::Duration;

/// A wall-clock label: milliseconds since 1970. It may jump; nothing is decided by it alone (C55).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Timestamp(u64);

impl Timestamp {
    /// Wraps milliseconds since 1970.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// Milliseconds since 1970.
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// The time from `earlier` to this; zero if the label went back.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// A reading of a process's monotonic clock. Only readings of one process compare.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Mono(Duration);

impl Mono {
    /// Wraps the time since the clock's own zero.
    pub const fn from_duration(since_zero: Duration) -> Self {
        Self(since_zero)
    }

    /// The time since the clock's own zero.
    pub const fn as_duration(self) -> Duration {
        self.0
    }

    /// The reading `by` later.
    #[must_use]
    pub fn after(self, by: Duration) -> Self {
        Self(self.0.saturating_add(by))
    }

    /// The time from `earlier` to this; zero if there is none.
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Debug for Mono {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "t={:.6}s", self.0.as_secs_f64())
    }
}
