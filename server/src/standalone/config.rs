//! The configuration of a standalone server: one TOML file, in which everything has a safe default.

use std::net::SocketAddr;
use std::path::PathBuf;

use alluvium_runtime::telemetry::LogConfig;
use alluvium_types::limits::{Limits, MESSAGE_BYTES_MAX};
use serde::{Deserialize, Serialize};

use crate::settings::{self, Role, Wrong};

/// How the broker reaches the bookies of its own process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Transport {
    /// By a call.
    #[default]
    InProcess,
    /// By gRPC over loopback, as in a cluster.
    Grpc,
}

/// Where a standalone server listens.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Listen {
    /// Clients: gRPC.
    pub client: SocketAddr,
    /// Our own processes: gRPC. Never exposed to clients.
    pub internal: SocketAddr,
    /// Operators: `/metrics`, `/healthz`, `/readyz`.
    pub http: SocketAddr,
}

impl Default for Listen {
    fn default() -> Self {
        Self {
            client: SocketAddr::from(([127, 0, 0, 1], 7650)),
            internal: SocketAddr::from(([127, 0, 0, 1], 7651)),
            http: SocketAddr::from(([127, 0, 0, 1], 7652)),
        }
    }
}

/// The configuration of a standalone server: one TOML file.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The folder that holds everything.
    pub data: PathBuf,
    /// Where it listens; loopback unless told otherwise.
    pub listen: Listen,
    /// How many bookies, each with a folder of its own below `data`. With three, entries are kept three times.
    pub bookies: usize,
    /// How the broker reaches them.
    pub transport: Transport,
    /// Lanes: threads on which connections and partitions live; 0 is one for each core.
    pub threads: usize,
    /// The largest message, in bytes, with its key and headers. Batches, entries and frames follow from it (C36). It may be raised
    /// at any time; lowered, larger messages that are stored can't be delivered.
    pub message_bytes_max: usize,
    /// The memory that the process bounds what it holds to, in bytes, beside about 50 MiB for itself; 0 for half of what its control
    /// group lets it have, or a quarter of the machine's, at most 1.3 GiB. Single bounds may be set below.
    pub memory_bytes_max: usize,
    /// Seconds that a stop may take to finish what was promised.
    pub drain_seconds: u64,
    /// Logs.
    pub log: LogConfig,
    /// The broker. With fewer than three bookies, entries are kept as often as there are bookies, unless it says otherwise.
    pub broker: alluvium_broker::config::Config,
    /// Each bookie. Its name, folder and addresses are the server's to choose.
    pub bookie: alluvium_bookie::config::Config,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data: PathBuf::from("alluvium-data"),
            listen: Listen::default(),
            bookies: 1,
            transport: Transport::default(),
            threads: 0,
            message_bytes_max: MESSAGE_BYTES_MAX,
            memory_bytes_max: 0,
            drain_seconds: 10,
            log: LogConfig::default(),
            broker: alluvium_broker::config::Config::default(),
            bookie: bookie(),
        }
    }
}

/// A bookie that shares its machine with everything else: what it keeps ready is a part of what a server would.
fn bookie() -> alluvium_bookie::config::Config {
    let mut bookie = alluvium_bookie::config::Config::default();
    bookie.log.file_bytes = 64 << 20;
    bookie
}

impl Role for Config {
    fn validate(&self) -> Result<(), Vec<String>> {
        let mut wrong = Wrong::default();
        wrong.refuse(self.data.as_os_str().is_empty(), || "data: the folder's name is empty".to_owned());
        wrong.range("bookies", self.bookies, 1..=7);
        wrong.range("threads", self.threads, 0..=256);
        wrong.process(self.message_bytes_max, self.drain_seconds, &self.log);
        wrong.memory(self.memory_bytes_max);
        wrong.section("broker", self.broker().validate(self.limits()));
        wrong.section("bookie", self.bookie().validate());
        // Names, folders and addresses of bookies are the server's to choose.
        let ours = alluvium_bookie::Config::default();
        for (field, is_set) in [
            ("name", self.bookie.name != ours.name),
            ("data_dir", self.bookie.data_dir != ours.data_dir),
            ("listen", self.bookie.listen != ours.listen),
            ("advertised_address", self.bookie.advertised_address != ours.advertised_address),
        ] {
            let instead = "bookies of a standalone server are named and placed by it; leave it out";
            wrong.refuse(is_set, || format!("bookie.{field}: {instead}"));
        }
        wrong.end()
    }

    fn take_secrets(&mut self, _variable: impl Fn(&str) -> Option<String>) {}

    async fn run(self) -> anyhow::Result<()> {
        super::run(self).await
    }
}

impl Config {
    /// All that follows from the largest message.
    pub(crate) fn limits(&self) -> Limits {
        settings::limits(self.message_bytes_max)
    }

    /// What the broker bounds its memory to, and each bookie: three parts of four, and a share of the fourth.
    pub(crate) fn memory(&self) -> (usize, usize) {
        let broker = alluvium_broker::config::Config::MEMORY_BYTES;
        let all = settings::memory(self.memory_bytes_max, broker / 3 * 4);
        (all / 4 * 3, all / 4 / self.bookies.max(1))
    }

    /// The settings of each bookie, fitted to limits and memory.
    pub(crate) fn bookie(&self) -> alluvium_bookie::Config {
        self.bookie.clone().with_limits(self.limits()).with_memory(self.memory().1)
    }

    /// The broker's settings, fitted to limits and memory, and to the bookies there are.
    pub(crate) fn broker(&self) -> alluvium_broker::config::Config {
        let mut broker = self.broker.clone().with_memory(self.memory().0, self.limits());
        if broker.replication == alluvium_broker::config::Config::default().replication {
            broker.replication = match self.bookies {
                1 => (1, 1, 1),
                2 => (2, 2, 2),
                _ => broker.replication,
            };
        }
        broker
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_that_says_one_thing_leaves_the_others_as_they_are() {
        let config = Config::parse("[bookie.log]\npool_files = 2\n[bookie.gc]\ninterval_ms = 5").expect("sound");
        assert_eq!((config.bookie.log.pool_files, config.bookie.gc.interval_ms), (2, 5));
        assert_eq!(config.bookie.log.file_bytes, Config::default().bookie.log.file_bytes);
        assert!(Config::parse("[bookie.log]\npol_files = 2").expect_err("unknown").to_string().contains("line 2"));
    }

    #[test]
    fn c36_one_limit_reaches_every_layer() {
        let config = Config::parse("message_bytes_max = 8388608").expect("sound");
        assert_eq!(config.validate(), Ok(()));
        assert_eq!(config.bookie().log.body_bytes_max, config.limits().entry_bytes_max());
        assert!(config.limits().entry_bytes_max() > 8 << 20);
        let wrong = Config::parse("message_bytes_max = 1\n[bookie]\nname = 'x'").expect("sound").validate().expect_err("wrong");
        assert!(wrong[0].starts_with("message_bytes_max") && wrong[1].starts_with("bookie.name"), "{wrong:?}");
    }
}
