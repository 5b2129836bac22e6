//! What an administrator asks for, in force from the topic upward to the cluster's default.

use std::time::Duration;

/// When segments may go. Both bounds apply; what is not set does not bound.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Retention {
    /// A segment goes once all of it is older than this.
    pub age: Option<Duration>,
    /// The oldest segments go while the partition holds more than this.
    pub bytes: Option<u64>,
}

/// When a segment is sealed and the next one begun.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rollover {
    /// At this size.
    pub bytes: u64,
    /// At this age, if it holds anything.
    pub age: Duration,
}

impl Default for Rollover {
    fn default() -> Self {
        Self { bytes: 1 << 30, age: Duration::from_secs(4 * 3600) }
    }
}
