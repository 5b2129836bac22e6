//! What can be set about a bookie.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use alluvium_runtime::disk::SyncMode;
use alluvium_types::limits::Limits;
use alluvium_types::names::{BookieName, ZoneName};
use serde::{Deserialize, Serialize};

use crate::log;
use crate::mutation::Mutations;
use crate::space::Thresholds;

/// A bookie.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// What operators call it. Its data directory remembers the name.
    pub name: String,
    /// Its failure domain; empty for none. Copies of an entry are spread over zones.
    pub zone: String,
    /// Where its entries are. Nobody else uses the folder.
    pub data_dir: PathBuf,
    /// Where brokers reach it. Never a port that clients reach.
    pub listen: SocketAddr,
    /// What brokers are told to connect to, as `host:port`; empty for the address it listens on.
    pub advertised_address: String,
    /// How long its session in metadata outlives its last sign of life, in milliseconds. Shorter ones find a dead bookie
    /// sooner and suspect a slow one more often.
    pub session_ttl_ms: u64,
    /// How writes become durable. `auto` tries direct synced writes and falls back where the filesystem refuses them.
    pub write_mode: WriteMode,
    /// The log's files and groups.
    pub log: log::Config,
    /// How long the log must have been idle, in milliseconds, before its last group is sealed by a mark. A crash before that
    /// can't be told from a lost group, so longer ones cost repairs, shorter ones a small write more often.
    pub idle_mark_ms: u64,
    /// The most bytes of entries that wait for room in a group. Past it, adds are answered with busy. 0: by the process's memory.
    pub queue_bytes_max: usize,
    /// The most bytes that are read from disk and not yet handed over, by all reads together. 0: by the process's memory.
    pub read_bytes_max: usize,
    /// The most bytes of bodies that one read gives, whatever it asks for.
    pub read_answer_bytes_max: usize,
    /// Reads that go on at a time; the rest wait.
    pub reads_max: usize,
    /// The most readers that wait for a LAC at a time. Past it, they are answered at once.
    pub lac_waiters_max: usize,
    /// The longest wait for a LAC, in milliseconds, whatever is asked for.
    pub lac_wait_max_ms: u64,
    /// Lanes: threads on which connections live. Of a bookie in a process of its own.
    pub serve_threads: usize,
    /// When the bookie turns read-only, and back.
    pub space: SpaceConfig,
    /// How dead ledgers are found and their space freed.
    pub gc: GcConfig,
    /// The known bug that a test plants.
    #[serde(skip)]
    pub mutations: Mutations,
}

/// How writes become durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WriteMode {
    /// Whatever a trial at start shows to work.
    #[default]
    Auto,
    /// Past the page cache.
    Direct,
    /// Through the page cache, then synced.
    Buffered,
}

/// When a bookie turns read-only. Zeros are derived from the size of a log file.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SpaceConfig {
    /// The most bytes that the bookie takes of its disk; 0 for all of it.
    pub capacity_bytes_max: u64,
    /// With fewer bytes left than this it takes only what is essential: state ledgers, recoveries, fences, deletions. 0 for
    /// four log files.
    pub read_only_below_bytes: u64,
    /// With this many bytes left it takes everything again. 0 for six log files.
    pub writable_above_bytes: u64,
    /// With fewer bytes left than this it takes only fences and deletions. 0 for one log file.
    pub marks_below_bytes: u64,
    /// Bytes of the disk that are never counted on, so that others on it can go on: a metadata store, logs. 0 for one log file.
    pub leave_bytes: u64,
}

/// How dead ledgers are found.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GcConfig {
    /// The pause between two rounds, in milliseconds.
    pub interval_ms: u64,
    /// How long a ledger must have been seen dead before its bytes go, in milliseconds of this process's monotonic clock. Time
    /// for whoever still reads it, and for an operator to notice.
    pub grace_ms: u64,
    /// A round asks metadata about at most this many ledgers.
    pub ledgers_per_round: usize,
    /// At most this share of the ledgers that a round asks about goes in it, in percent; the others go in later ones, so that an
    /// operator sees many deletions coming.
    pub share_max_percent: u8,
    /// This many may go in a round whatever their share.
    pub always_allowed: usize,
    /// Of ledgers that are not deleted, but closed and kept by other bookies, at most so many go in a round, whatever their share:
    /// many at once are more likely a mistake in their records.
    pub disowned_per_round: usize,
    /// A log file is compacted when at most this share of it is alive, in percent. A bookie that is short of space compacts
    /// whatever gives something back.
    pub compact_below_percent: u8,
    /// Compaction moves at most so many bytes a second, so that writers keep the disk. One that is short of space does not wait.
    pub compact_bytes_per_second: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            name: "bookie-0".to_owned(),
            zone: String::new(),
            data_dir: PathBuf::from("data/bookie"),
            listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7072),
            advertised_address: String::new(),
            session_ttl_ms: 10_000,
            write_mode: WriteMode::Auto,
            log: log::Config::default(),
            idle_mark_ms: 5,
            queue_bytes_max: 0,
            read_bytes_max: 0,
            read_answer_bytes_max: 4 << 20,
            reads_max: 16,
            lac_waiters_max: 16_384,
            lac_wait_max_ms: 30_000,
            serve_threads: 2,
            space: SpaceConfig::default(),
            gc: GcConfig::default(),
            mutations: Mutations::NONE,
        }
    }
}

impl Default for GcConfig {
    fn default() -> Self {
        Self {
            interval_ms: 30_000,
            grace_ms: 60_000,
            ledgers_per_round: 256,
            share_max_percent: 50,
            always_allowed: 64,
            disowned_per_round: 8,
            compact_below_percent: 20,
            compact_bytes_per_second: 32 << 20,
        }
    }
}

impl Config {
    /// The memory that a bookie bounds itself to where nothing else is said and there is so much, in bytes.
    pub const MEMORY_BYTES: usize = 256 << 20;

    /// With bounds on memory, where none is set, that come to half of `bytes`: the rest is for groups, chunks of the log, the index and
    /// what the transport holds. None is less than the largest entry needs: [`Config::with_limits`] comes first.
    #[must_use]
    pub fn with_memory(mut self, bytes: usize) -> Self {
        for bound in [&mut self.queue_bytes_max, &mut self.read_bytes_max] {
            if *bound == 0 {
                *bound = (bytes / 4).max(self.log.body_bytes_max);
            }
        }
        self
    }

    /// All that is wrong, one sentence each; empty when nothing is. What memory bounds is set.
    pub fn validate(&self) -> Vec<String> {
        let mut wrong: Vec<String> = self.log.validate().into_iter().map(|sentence| format!("log.{sentence}")).collect();
        if let Err(error) = BookieName::parse(&self.name) {
            wrong.push(format!("name: {}", error.problem));
        }
        if !self.zone.is_empty()
            && let Err(error) = ZoneName::parse(&self.zone)
        {
            wrong.push(format!("zone: {}", error.problem));
        }
        if self.data_dir.as_os_str().is_empty() {
            wrong.push("data_dir must name a folder".to_owned());
        }
        if !(100..=3_600_000).contains(&self.session_ttl_ms) {
            wrong.push("session_ttl_ms must be between 100 and 3600000".to_owned());
        }
        let largest = self.log.body_bytes_max;
        for (field, value) in [("queue_bytes_max", self.queue_bytes_max), ("read_bytes_max", self.read_bytes_max)] {
            if value < largest {
                wrong.push(format!("{field} must hold at least one largest entry, {largest} bytes"));
            }
        }
        let positive = [
            ("idle_mark_ms", self.idle_mark_ms),
            ("reads_max", self.reads_max as u64),
            ("read_answer_bytes_max", self.read_answer_bytes_max as u64),
            ("serve_threads", self.serve_threads as u64),
            ("gc.interval_ms", self.gc.interval_ms),
            ("gc.compact_bytes_per_second", self.gc.compact_bytes_per_second),
            ("gc.ledgers_per_round", self.gc.ledgers_per_round as u64),
            ("gc.always_allowed", self.gc.always_allowed as u64),
            ("gc.disowned_per_round", self.gc.disowned_per_round as u64),
        ];
        wrong.extend(positive.iter().filter(|(_, value)| *value == 0).map(|(field, _)| format!("{field} must not be 0")));
        if self.gc.share_max_percent > 100 || self.gc.compact_below_percent > 90 {
            wrong.push("gc.share_max_percent is at most 100, gc.compact_below_percent at most 90".to_owned());
        }
        let thresholds = self.thresholds();
        if thresholds.marks_below > thresholds.read_only_below || thresholds.read_only_below > thresholds.writable_above {
            wrong.push("space: marks_below_bytes <= read_only_below_bytes <= writable_above_bytes must hold".to_owned());
        }
        let least = thresholds.least_capacity(self.log.file_bytes);
        if thresholds.capacity_max.is_some_and(|capacity| capacity < least) {
            wrong.push(format!(
                "space.capacity_bytes_max must be at least {least}, or a bookie that got full stays so: raise it, or lower \
                 log.file_bytes"
            ));
        }
        wrong
    }

    /// With everything that follows from the largest message.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.log.body_bytes_max = limits.entry_bytes_max();
        self
    }

    /// When the bookie turns read-only, with what is not set derived.
    pub fn thresholds(&self) -> Thresholds {
        let or = |set: u64, files: u64| if set == 0 { self.log.file_bytes.saturating_mul(files) } else { set };
        Thresholds {
            capacity_max: (self.space.capacity_bytes_max > 0).then_some(self.space.capacity_bytes_max),
            read_only_below: or(self.space.read_only_below_bytes, 4),
            writable_above: or(self.space.writable_above_bytes, 6),
            marks_below: or(self.space.marks_below_bytes, 1),
            leave: or(self.space.leave_bytes, 1),
        }
    }

    /// How long a session outlives its bookie's last sign of life.
    pub const fn session_ttl(&self) -> Duration {
        Duration::from_millis(self.session_ttl_ms)
    }

    /// What brokers are told to connect to.
    pub fn address(&self, bound: SocketAddr) -> String {
        if self.advertised_address.is_empty() { bound.to_string() } else { self.advertised_address.clone() }
    }
}

impl WriteMode {
    /// The mode that is forced, if one is.
    pub const fn forced(self) -> Option<SyncMode> {
        match self {
            Self::Auto => None,
            Self::Direct => Some(SyncMode::Direct),
            Self::Buffered => Some(SyncMode::Buffered),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid() {
        assert_eq!(Config::default().with_memory(Config::MEMORY_BYTES).validate(), Vec::<String>::new());
        let little = Config { read_bytes_max: 7 << 20, ..Config::default() }.with_memory(1);
        assert_eq!((little.queue_bytes_max, little.read_bytes_max), (little.log.body_bytes_max, 7 << 20));
        assert_eq!(little.validate(), Vec::<String>::new());
    }

    #[test]
    fn all_that_is_wrong_is_said_at_once() {
        let config = Config {
            name: "a/b".to_owned(),
            reads_max: 0,
            session_ttl_ms: 1,
            space: SpaceConfig { read_only_below_bytes: 1, ..SpaceConfig::default() },
            ..Config::default().with_memory(Config::MEMORY_BYTES)
        };
        let wrong = config.validate();
        assert_eq!(wrong.len(), 4, "{wrong:?}");
        assert!(wrong[0].starts_with("name: "), "{wrong:?}");
    }
}
