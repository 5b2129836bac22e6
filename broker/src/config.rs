//! What can be set about a broker.

use std::time::Duration;

use alluvium_metadata::brokers::{WEIGHT_DEFAULT, WEIGHT_MAX};
use alluvium_metadata::policies::Policies;
use alluvium_types::limits::{ENTRY_BYTES_TARGET, Limits};
use alluvium_types::policy::{Retention, Rollover};
use alluvium_types::replication::Replication;
use serde::{Deserialize, Serialize};

use crate::publish::dedup::DedupLimits;
use crate::topic::owner::OwnerConfig;
use crate::topic::state_ledger::Snapshots;

/// The least bytes of a cache.
const LEAST_CACHE: usize = 1 << 20;

/// A broker.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The broker's share of the partitions, beside those of other brokers: one of 200 is preferred for twice as many as one of
    /// 100, one of 0 for none. At most 1000.
    pub weight: u32,
    /// How long the broker's session in metadata outlives its last sign of life, in milliseconds: how long others wait before they
    /// take over what must not have two owners.
    pub session_ttl_ms: u64,
    /// How long before that the broker stops dispatching to subscriptions by itself, in milliseconds.
    pub dispatch_margin_ms: u64,
    /// A broker that has been there for so long, in milliseconds, is given the partitions that it is preferred for, a few at a time. 0:
    /// they stay where they are until their owner goes.
    pub rebalance_after_ms: u64,
    /// The most bytes of messages on their way in, until the last copy has left. Past it streams are not read. A quarter of it comes
    /// on top for large messages that are being received, and half of it for what other brokers hand on. 0: by the process's memory.
    pub publish_bytes_max: usize,
    /// The most bytes of the newest entries kept for readers, over all partitions. 0: by the process's memory.
    pub cache_bytes_max: usize,
    /// The most bytes of those kept of one partition. 0: by the process's memory.
    pub cache_partition_bytes_max: usize,
    /// The most bytes of older entries on their way to readers. A quarter of it comes on top for what takeovers read back. 0: by the
    /// process's memory.
    pub read_bytes_max: usize,
    /// The most bytes of decoded messages on their way to consumers. 0: by the process's memory.
    pub delivery_bytes_max: usize,
    /// Bytes that a partition has in flight to its bookies at most. More carries more over slow disks and long links; less is
    /// latency.
    pub window_bytes: usize,
    /// When nothing of a partition was stored for so long, in milliseconds, its messages are refused rather than queued.
    pub stall_after_ms: u64,
    /// When nothing of a partition was stored for so long, in milliseconds, who waits for what is on its way is told that its
    /// outcome is unknown: it may be stored later.
    pub answer_after_ms: u64,
    /// An idle ledger is closed after this time, in milliseconds.
    pub idle_close_ms: u64,
    /// A partition that nobody has used for so long, in milliseconds, is let go.
    pub release_after_ms: u64,
    /// How often a loaded partition looks for segments that may go, in milliseconds.
    pub retention_interval_ms: u64,
    /// How often partitions that nobody has loaded are looked at, in milliseconds.
    pub audit_interval_ms: u64,
    /// How long the tombstone of a deleted ledger stays at least, in milliseconds, after which it goes once no bookie has anything
    /// of the ledger. Longer than whatever was sent to a bookie before the deletion may be on its way.
    pub forget_after_ms: u64,
    /// After so many bytes of messages what is known of idempotent producers is written down: what a takeover reads at most. An
    /// entry counts for 256 KiB at least.
    pub checkpoint_bytes: u64,
    /// After so many changes that were written down one by one, all that is known of a partition's subscriptions and producers is
    /// written down as a whole: a takeover reads from there on. A large state is written less often.
    pub snapshot_entries: u64,
    /// About how large an entry of a state ledger becomes. Not configured: tests make them small.
    #[serde(skip)]
    pub state_entry_bytes: usize,
    /// The most bytes of memory for what is known of one partition's idempotent producers.
    pub producers_bytes_max: usize,
    /// A producer that was silent for so long, in seconds, is forgotten.
    pub producer_expiry_s: u64,
    /// Where no tenant, namespace or topic says otherwise: segments go once they are older than this, in seconds. 0: they stay.
    pub retention_s: u64,
    /// Where nobody says otherwise: the oldest segments go while a partition holds more than this. 0: they stay.
    pub retention_bytes: u64,
    /// Where nobody says otherwise: a segment is sealed at this size.
    pub rollover_bytes: u64,
    /// Where nobody says otherwise: a segment is sealed at this age, in seconds.
    pub rollover_s: u64,
    /// Where nobody says otherwise: ensemble, write quorum and ack quorum of ledgers.
    pub replication: (u8, u8, u8),
}

impl Default for Config {
    fn default() -> Self {
        Self {
            weight: WEIGHT_DEFAULT,
            session_ttl_ms: 10_000,
            dispatch_margin_ms: 2_000,
            rebalance_after_ms: 60_000,
            publish_bytes_max: 0,
            cache_bytes_max: 0,
            cache_partition_bytes_max: 0,
            read_bytes_max: 0,
            delivery_bytes_max: 0,
            window_bytes: 16 << 20,
            stall_after_ms: 5_000,
            answer_after_ms: 30_000,
            idle_close_ms: 600_000,
            release_after_ms: 600_000,
            retention_interval_ms: 30_000,
            audit_interval_ms: 60_000,
            forget_after_ms: 600_000,
            checkpoint_bytes: 16 << 20,
            snapshot_entries: 64,
            state_entry_bytes: ENTRY_BYTES_TARGET,
            producers_bytes_max: 4 << 20,
            producer_expiry_s: 7 * 24 * 3600,
            retention_s: 7 * 24 * 3600,
            retention_bytes: 0,
            rollover_bytes: Rollover::default().bytes,
            rollover_s: Rollover::default().age.as_secs(),
            replication: (3, 3, 2),
        }
    }
}

impl Config {
    /// The memory that a broker bounds itself to where nothing else is said and there is so much, in bytes.
    pub const MEMORY_BYTES: usize = 1 << 30;

    /// With bounds on memory, where none is set, that come to `bytes` together: 13 of 16 parts in what is named here, the rest is for
    /// what the transport holds. None is less than these limits need.
    #[must_use]
    pub fn with_memory(mut self, bytes: usize, limits: Limits) -> Self {
        let least = least_budget(limits);
        for (bound, part, least) in [
            // With what comes on top of it, 7 of 16.
            (&mut self.publish_bytes_max, bytes / 4, least),
            (&mut self.cache_bytes_max, bytes / 8, LEAST_CACHE),
            (&mut self.cache_partition_bytes_max, bytes / 32, LEAST_CACHE),
            (&mut self.read_bytes_max, bytes / 8, least),
            (&mut self.delivery_bytes_max, bytes / 8, least),
        ] {
            if *bound == 0 {
                *bound = part.max(least);
            }
        }
        self
    }

    /// Says all that is wrong; nothing, if it can be used with these limits. What memory bounds is set.
    pub fn validate(&self, limits: Limits) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut at_least = |name: &str, value: u64, least: u64| {
            if value < least {
                wrong.push(format!("{name}: {value} is less than {least}"));
            }
        };
        at_least("session_ttl_ms", self.session_ttl_ms, 500);
        let mib = 1 << 20;
        let budget = least_budget(limits);
        for (name, bytes, least) in [
            ("publish_bytes_max", self.publish_bytes_max, budget),
            ("cache_bytes_max", self.cache_bytes_max, LEAST_CACHE),
            ("cache_partition_bytes_max", self.cache_partition_bytes_max, LEAST_CACHE),
            ("read_bytes_max", self.read_bytes_max, budget),
            ("delivery_bytes_max", self.delivery_bytes_max, budget),
            ("window_bytes", self.window_bytes, 1 << 20),
        ] {
            at_least(name, bytes as u64, least as u64);
        }
        for (name, value) in [
            ("stall_after_ms", self.stall_after_ms),
            ("answer_after_ms", self.answer_after_ms),
            ("idle_close_ms", self.idle_close_ms),
            ("release_after_ms", self.release_after_ms),
            ("retention_interval_ms", self.retention_interval_ms),
            ("audit_interval_ms", self.audit_interval_ms),
            ("producer_expiry_s", self.producer_expiry_s),
            ("rollover_s", self.rollover_s),
            ("snapshot_entries", self.snapshot_entries),
        ] {
            at_least(name, value, 1);
        }
        at_least("checkpoint_bytes", self.checkpoint_bytes, mib);
        at_least("producers_bytes_max", self.producers_bytes_max as u64, 64 << 10);
        at_least("rollover_bytes", self.rollover_bytes, mib);
        if self.weight > WEIGHT_MAX {
            wrong.push(format!("weight: {} is more than {WEIGHT_MAX}", self.weight));
        }
        if self.dispatch_margin_ms >= self.session_ttl_ms {
            wrong.push("dispatch_margin_ms: it is not less than session_ttl_ms".to_owned());
        }
        if let Err(error) = self.replication() {
            wrong.push(format!("replication: {error}"));
        }
        wrong
    }

    fn replication(&self) -> Result<Replication, alluvium_types::replication::ReplicationError> {
        let (ensemble, write, ack) = self.replication;
        Replication::new(usize::from(ensemble), usize::from(write), usize::from(ack))
    }

    /// What is in force where nobody says otherwise.
    ///
    /// # Panics
    /// If the configuration is not valid.
    pub fn default_policies(&self) -> Policies {
        Policies {
            retention: Some(Retention {
                age: (self.retention_s > 0).then(|| Duration::from_secs(self.retention_s)),
                bytes: (self.retention_bytes > 0).then_some(self.retention_bytes),
            }),
            rollover: Some(Rollover { bytes: self.rollover_bytes, age: Duration::from_secs(self.rollover_s) }),
            replication: Some(self.replication().expect("it was validated")),
        }
    }

    pub(crate) const fn owner(&self) -> OwnerConfig {
        OwnerConfig {
            window_bytes: self.window_bytes,
            stall_after: Duration::from_millis(self.stall_after_ms),
            answer_after: Duration::from_millis(self.answer_after_ms),
            retention_interval: Duration::from_millis(self.retention_interval_ms),
            checkpoint_bytes: self.checkpoint_bytes,
            release_after: Duration::from_millis(self.release_after_ms),
            snapshots: self.snapshots(),
        }
    }

    pub(crate) const fn snapshots(&self) -> Snapshots {
        Snapshots { entries: self.snapshot_entries, entry_bytes: self.state_entry_bytes }
    }

    pub(crate) const fn dedup(&self) -> DedupLimits {
        DedupLimits { bytes_max: self.producers_bytes_max, expiry: Duration::from_secs(self.producer_expiry_s) }
    }
}

/// Of what messages go through: two of the largest entries, so that one that is stuck doesn't stop all others.
fn least_budget(limits: Limits) -> usize {
    (2 * limits.entry_bytes_max()).max(16 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_of_memory_stays_and_the_rest_follows_from_all_of_it() {
        let config = Config { cache_bytes_max: 5 << 20, ..Config::default() }.with_memory(128 << 20, Limits::default());
        assert_eq!((config.publish_bytes_max, config.cache_bytes_max, config.read_bytes_max), (32 << 20, 5 << 20, 16 << 20));
        assert_eq!(config.clone().with_memory(1 << 30, Limits::default()), config, "all of it is set");
        assert_eq!(config.validate(Limits::default()), Vec::<String>::new(), "so little is enough");
    }

    #[test]
    fn the_defaults_are_valid_and_all_that_is_wrong_is_said_at_once() {
        let config = Config::default().with_memory(Config::MEMORY_BYTES, Limits::default());
        assert_eq!(config.validate(Limits::default()), Vec::<String>::new());
        let config = Config { weight: 1001, session_ttl_ms: 1, window_bytes: 5, replication: (1, 2, 3), ..config };
        assert_eq!(config.validate(Limits::default()).len(), 5, "{:?}", config.validate(Limits::default()));
    }
}
