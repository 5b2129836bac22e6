//! The configuration of a standalone server: one TOML file, in which everything has a safe default.

use std::net::SocketAddr;
use std::path::PathBuf;

use alluvium_runtime::telemetry::LogConfig;
use alluvium_types::limits::{Limits, MESSAGE_BYTES_CEILING, MESSAGE_BYTES_MAX};
use serde::{Deserialize, Serialize};

/// Less than this is a mistake in the unit.
const MESSAGE_BYTES_LEAST: usize = 1024;

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

/// The configuration of a standalone server.
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
    /// Threads that serve clients' connections; 0 is one for each core.
    pub threads: usize,
    /// The largest message, in bytes, with its key and headers. Batches, entries and frames follow from it (C36). It may be raised
    /// at any time; lowered, larger messages that are stored can't be delivered.
    pub message_bytes_max: usize,
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

/// What is said goes over what was there.
fn merge(base: &mut toml::Table, over: toml::Table) {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (Some(toml::Value::Table(base)), toml::Value::Table(over)) => merge(base, over),
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

impl Config {
    /// Reads a TOML file; what it doesn't say is as [`Config::default`] has it, in sections that it begins, too.
    pub fn parse(text: &str) -> Result<Self, toml::de::Error> {
        // Faults are told with the line of the file itself.
        toml::from_str::<Self>(text)?;
        let mut merged = toml::Table::try_from(Self::default()).expect("the defaults are TOML");
        merge(&mut merged, toml::from_str(text)?);
        Self::deserialize(merged)
    }

    /// Says all that is wrong at once, each with the field's name.
    pub fn validate(&self) -> Result<(), Vec<String>> {
        let mut wrong = Vec::new();
        if self.data.as_os_str().is_empty() {
            wrong.push("data: the folder's name is empty".to_owned());
        }
        if !(1..=7).contains(&self.bookies) {
            wrong.push(format!("bookies: {} is not between 1 and 7", self.bookies));
        }
        if self.threads > 256 {
            wrong.push(format!("threads: {} is more than 256", self.threads));
        }
        if !(1..=600).contains(&self.drain_seconds) {
            wrong.push(format!("drain_seconds: {} is not between 1 and 600", self.drain_seconds));
        }
        if !(MESSAGE_BYTES_LEAST..=MESSAGE_BYTES_CEILING).contains(&self.message_bytes_max) {
            let range = format!("between {MESSAGE_BYTES_LEAST} and {MESSAGE_BYTES_CEILING}");
            wrong.push(format!("message_bytes_max: {} is not {range}", self.message_bytes_max));
        }
        wrong.extend(self.log.validate().err());
        wrong.extend(self.broker.validate(self.limits()).into_iter().map(|e| format!("broker.{e}")));
        wrong.extend(self.bookie().validate().into_iter().map(|e| format!("bookie.{e}")));
        // Names, folders and addresses of bookies are the server's to choose.
        let ours = alluvium_bookie::Config::default();
        for (field, is_set) in [
            ("name", self.bookie.name != ours.name),
            ("data_dir", self.bookie.data_dir != ours.data_dir),
            ("listen", self.bookie.listen != ours.listen),
            ("advertised_address", self.bookie.advertised_address != ours.advertised_address),
        ] {
            if is_set {
                wrong.push(format!("bookie.{field}: bookies of a standalone server are named and placed by it; leave it out"));
            }
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong) }
    }

    /// All that follows from the largest message.
    pub(crate) fn limits(&self) -> Limits {
        Limits::new(self.message_bytes_max).unwrap_or_default()
    }

    /// The settings of each bookie, fitted to the limits.
    pub(crate) fn bookie(&self) -> alluvium_bookie::Config {
        self.bookie.clone().with_limits(self.limits())
    }

    /// The broker's settings, fitted to the bookies there are.
    pub(crate) fn broker(&self) -> alluvium_broker::config::Config {
        let mut broker = self.broker.clone();
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
