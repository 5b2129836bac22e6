//! What can be set about ledgers.

use std::time::Duration;

use alluvium_types::limits::Limits;
use serde::{Deserialize, Serialize};

use crate::open::OpenConfig;
use crate::reader::ReadConfig;
use crate::recovery::RecoveryConfig;
use crate::writer::WriterConfig;

/// Ledgers, as a broker writes and reads them.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The most bytes of entries that one ledger holds in this process: unconfirmed, or still on their way to a bookie. Larger
    /// ones carry more over long links, smaller ones bound memory.
    pub writer_bytes_max: usize,
    /// The most bytes of confirmed entries that one bookie may owe a ledger; past it they are left to repair.
    pub background_bytes_max: usize,
    /// A bookie that owes an add for this long, in milliseconds, while its peers answer, is replaced if there is a spare.
    pub slow_after_ms: u64,
    /// A bookie that owes an add for this long, in milliseconds, is not counted on any more. One that refuses connections is not for
    /// a tenth of a second where nothing can be confirmed without it.
    pub bad_after_ms: u64,
    /// A bookie that has not opened a new ledger in this time, in milliseconds, is passed over.
    pub open_timeout_ms: u64,
    /// How long a bookie that was slow or failed is avoided, in milliseconds.
    pub quarantine_ms: u64,
    /// Another replica is asked as well when a read is not answered in this time, in milliseconds.
    pub hedge_after_ms: u64,
    /// A read that is not answered in this time, in milliseconds, has failed at that replica.
    pub read_timeout_ms: u64,
    /// A recovery that found no end in this time, in milliseconds, gives up; it is begun again when it is needed.
    pub recovery_timeout_ms: u64,
}

impl Default for Config {
    fn default() -> Self {
        let (writer, open, read, recovery) =
            (WriterConfig::default(), OpenConfig::default(), ReadConfig::default(), RecoveryConfig::default());
        Self {
            writer_bytes_max: 32 << 20,
            background_bytes_max: writer.background_bytes_max,
            slow_after_ms: millis(writer.slow_after),
            bad_after_ms: millis(writer.bad_after),
            open_timeout_ms: millis(open.open_timeout),
            quarantine_ms: millis(writer.quarantine),
            hedge_after_ms: millis(read.hedge_after),
            read_timeout_ms: millis(read.answer_timeout),
            recovery_timeout_ms: millis(recovery.give_up_after),
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Config {
    /// Says all that is wrong; nothing, if it can be used.
    pub fn validate(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        if self.writer_bytes_max < (1 << 20) {
            wrong.push(format!("writer_bytes_max: {} is less than 1 MiB", self.writer_bytes_max));
        }
        if self.background_bytes_max > self.writer_bytes_max {
            wrong.push("background_bytes_max: it is more than writer_bytes_max".to_owned());
        }
        if self.bad_after_ms < self.slow_after_ms {
            wrong.push("bad_after_ms: it is less than slow_after_ms".to_owned());
        }
        let times = [
            ("slow_after_ms", self.slow_after_ms),
            ("open_timeout_ms", self.open_timeout_ms),
            ("hedge_after_ms", self.hedge_after_ms),
            ("read_timeout_ms", self.read_timeout_ms),
            ("recovery_timeout_ms", self.recovery_timeout_ms),
        ];
        wrong.extend(times.iter().filter(|(_, value)| *value == 0).map(|(name, _)| format!("{name}: it is 0")));
        wrong
    }

    pub(crate) fn writer(&self, limits: Limits) -> WriterConfig {
        WriterConfig {
            entry_bytes_max: limits.entry_bytes_max(),
            background_bytes_max: self.background_bytes_max,
            slow_after: Duration::from_millis(self.slow_after_ms),
            bad_after: Duration::from_millis(self.bad_after_ms),
            open_timeout: Duration::from_millis(self.open_timeout_ms),
            quarantine: Duration::from_millis(self.quarantine_ms),
            ..WriterConfig::default()
        }
    }

    pub(crate) fn open(&self) -> OpenConfig {
        OpenConfig { open_timeout: Duration::from_millis(self.open_timeout_ms), ..OpenConfig::default() }
    }

    pub(crate) fn read(&self) -> ReadConfig {
        ReadConfig {
            hedge_after: Duration::from_millis(self.hedge_after_ms),
            answer_timeout: Duration::from_millis(self.read_timeout_ms),
            ..ReadConfig::default()
        }
    }

    pub(crate) fn recovery(&self) -> RecoveryConfig {
        RecoveryConfig { give_up_after: Duration::from_millis(self.recovery_timeout_ms), ..RecoveryConfig::default() }
    }
}
