//! The configuration of a standalone server: one TOML file, in which everything has a safe default.

use std::net::SocketAddr;
use std::path::PathBuf;

use alluvium_runtime::telemetry::LogConfig;
use serde::{Deserialize, Serialize};

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

impl Config {
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
        wrong.extend(self.log.validate().err());
        wrong.extend(self.broker.validate().into_iter().map(|e| format!("broker.{e}")));
        wrong.extend(self.bookie.validate().into_iter().map(|e| format!("bookie.{e}")));
        if wrong.is_empty() { Ok(()) } else { Err(wrong) }
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
