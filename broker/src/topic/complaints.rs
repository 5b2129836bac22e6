//! What people hear of reads that fail: each is counted, and one is said now and then, so that none is silent and no log overflows.

use std::time::Duration;

use alluvium_runtime::clock::Clock;
use alluvium_types::ids::Offset;
use alluvium_types::names::PartitionName;
use alluvium_types::time::Mono;
use parking_lot::Mutex;

use crate::metrics::Metrics;

/// How often the same is said of one partition.
const EVERY: Duration = Duration::from_secs(30);

/// The complaints about one partition.
#[derive(Debug)]
pub(crate) struct Complaints {
    partition: PartitionName,
    clock: Clock,
    metrics: Metrics,
    lost: Mutex<Said>,
    unanswered: Mutex<Said>,
}

/// What was said of one kind.
#[derive(Debug, Default)]
struct Said {
    at: Option<Mono>,
    /// How often there was something to say since.
    unsaid: u64,
}

impl Said {
    /// Whether it is to be said now, and how often it was not since the last time.
    fn now(&mut self, now: Mono) -> Option<u64> {
        if self.at.is_some_and(|at| now.since(at) < EVERY) {
            self.unsaid += 1;
            return None;
        }
        self.at = Some(now);
        Some(std::mem::take(&mut self.unsaid))
    }
}

impl Complaints {
    pub(crate) fn new(partition: PartitionName, clock: Clock, metrics: Metrics) -> Self {
        Self { partition, clock, metrics, lost: Mutex::default(), unanswered: Mutex::default() }
    }

    /// So many entries, with the messages `first..end`, are on none of the bookies that should hold them.
    pub(crate) fn lost(&self, (first, end): (Offset, Offset), entries: u64, reason: &str) {
        self.metrics.unreadable_entries.inc_by(entries);
        if let Some(unsaid) = self.lost.lock().now(self.clock.mono()) {
            tracing::warn!(partition = %self.partition, %first, %end, entries, reason, unsaid, "messages can't be read from any bookie");
        }
    }

    /// A read brought nothing; it is tried again.
    pub(crate) fn unanswered(&self, from: Offset, reason: &str) {
        self.metrics.unanswered_reads.inc();
        if let Some(unsaid) = self.unanswered.lock().now(self.clock.mono()) {
            tracing::warn!(partition = %self.partition, %from, reason, unsaid, "messages can't be read now, trying again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_on_is_said_now_and_then_and_never_forgotten() {
        let (mut said, begun) = (Said::default(), Mono::default());
        let heard: Vec<Option<u64>> =
            (0..100).map(|n| said.now(begun.after(Duration::from_secs(n)))).filter(Option::is_some).collect();
        assert_eq!(heard, [Some(0), Some(29), Some(29), Some(29)]);
    }
}
