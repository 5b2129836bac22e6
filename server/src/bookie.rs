//! A bookie as a process: it keeps entries in a folder of its own, and serves nobody but our own processes.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use alluvium_bookie::metrics::Metrics;
use alluvium_bookie::service::Service;
use alluvium_bookie::start::{StartError, Surroundings};
use alluvium_metadata::etcd::EtcdConfig;
use alluvium_runtime::net;
use alluvium_runtime::tasks::Tasks;
use alluvium_runtime::telemetry::LogConfig;
use alluvium_types::limits::{Limits, MESSAGE_BYTES_MAX};
use anyhow::Context;
use prometheus_client::registry::Registry;
use serde::{Deserialize, Serialize};
use tonic_health::server::HealthReporter;

use crate::cluster;
use crate::ports::{self, Port, reached_at};
use crate::process::{Process, Serving};
use crate::settings::{self, Role, Wrong};

/// The configuration of a bookie: one TOML file.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The id of the cluster it belongs to, as `alluvium cluster init` prints it.
    pub cluster: String,
    /// What operators call it. Its folder remembers the name.
    pub name: String,
    /// Its failure domain; empty for none. Copies of an entry are spread over zones.
    pub zone: String,
    /// The folder that holds its entries. Nobody else uses it.
    pub data: PathBuf,
    /// The largest message, in bytes, with its key and headers: the same in all processes of a cluster (C36).
    pub message_bytes_max: usize,
    /// The memory that the process bounds what it holds to, in bytes, beside about 50 MiB for itself; 0 for half of what its control
    /// group lets it have, or a quarter of the machine's, at most 256 MiB. Single bounds may be set below.
    pub memory_bytes_max: usize,
    /// Seconds that a stop may take to finish what was promised.
    pub drain_seconds: u64,
    /// Where it listens; loopback unless told otherwise.
    pub listen: Listen,
    /// What others are told to connect to.
    pub advertise: Advertise,
    /// Logs.
    pub log: LogConfig,
    /// Where the cluster's metadata is.
    pub metadata: EtcdConfig,
    /// The bookie. What stands above is left out here.
    pub bookie: alluvium_bookie::Config,
}

/// Where a bookie listens.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Listen {
    /// Our own processes: gRPC. Never exposed to clients.
    pub internal: SocketAddr,
    /// Operators: `/metrics`, `/healthz`, `/readyz`.
    pub http: SocketAddr,
}

/// What others are told to connect to, as `host:port`; empty for the address it listens on.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Advertise {
    /// Our own processes.
    pub internal: String,
}

impl Default for Listen {
    fn default() -> Self {
        // Beside a broker on the same machine.
        let [internal, http] = [7661, 7662].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        Self { internal, http }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            cluster: String::new(),
            name: "bookie-0".to_owned(),
            zone: String::new(),
            data: PathBuf::from("alluvium-bookie"),
            message_bytes_max: MESSAGE_BYTES_MAX,
            memory_bytes_max: 0,
            drain_seconds: 10,
            listen: Listen::default(),
            advertise: Advertise::default(),
            log: LogConfig::default(),
            metadata: EtcdConfig::default(),
            bookie: alluvium_bookie::Config::default(),
        }
    }
}

impl Config {
    fn limits(&self) -> Limits {
        settings::limits(self.message_bytes_max)
    }

    /// The bookie's own settings, with what stands above them.
    fn bookie(&self) -> alluvium_bookie::Config {
        let (name, zone, data_dir) = (self.name.clone(), self.zone.clone(), self.data.clone());
        let memory = settings::memory(self.memory_bytes_max, alluvium_bookie::Config::MEMORY_BYTES);
        let bookie = self.bookie.clone().with_limits(self.limits()).with_memory(memory);
        alluvium_bookie::Config { name, zone, data_dir, ..bookie }
    }
}

impl Role for Config {
    fn validate(&self) -> Result<(), Vec<String>> {
        let mut wrong = Wrong::default();
        wrong.membership(&self.cluster, &self.metadata, ("bookie.session_ttl_ms", self.bookie.session_ttl_ms));
        wrong.process(self.message_bytes_max, self.drain_seconds, &self.log);
        wrong.advertised("internal", &self.advertise.internal, self.listen.internal);
        let above = ["name:", "zone:", "data_dir"];
        let (top, own): (Vec<_>, Vec<_>) =
            self.bookie().validate().into_iter().partition(|problem| above.iter().any(|field| problem.starts_with(field)));
        for problem in top {
            wrong.refuse(true, || problem.replace("data_dir", "data"));
        }
        wrong.section("bookie", own);
        let (said, ours) = (&self.bookie, alluvium_bookie::Config::default());
        for (field, is_set, instead) in [
            ("name", said.name != ours.name, "name"),
            ("zone", said.zone != ours.zone, "zone"),
            ("data_dir", said.data_dir != ours.data_dir, "data"),
            ("listen", said.listen != ours.listen, "listen.internal"),
            ("advertised_address", said.advertised_address != ours.advertised_address, "advertise.internal"),
        ] {
            wrong.refuse(is_set, || format!("bookie.{field}: leave it out; {instead} says it"));
        }
        wrong.end()
    }

    fn take_secrets(&mut self, variable: impl Fn(&str) -> Option<String>) {
        settings::take_password(&mut self.metadata, variable);
    }

    async fn run(self) -> anyhow::Result<()> {
        let (process, ending) = Process::begin(&self.log, self.limits(), self.bookie.serve_threads)?;
        let internal = ports::bind("internal", self.listen.internal).await?;
        let http = ports::bind("http", self.listen.http).await?;
        let parts = Parts { bookie: process.tasks.part(), store: process.tasks.part() };
        let (config, around, grace) = (&self, process.clone(), Duration::from_secs(self.drain_seconds));
        let start = async |registry: &mut Registry| start(config, &around, &parts, internal, registry).await;
        process.live(ending, http.listener, &[&parts.bookie, &parts.store], grace, start).await
    }
}

/// Each part stops after those that need it: the bookie, then metadata, through which goodbyes are said.
struct Parts {
    bookie: Tasks,
    store: Tasks,
}

/// A bookie that serves.
struct Up {
    health: HealthReporter,
}

impl Serving for Up {
    /// What was promised is on disk before it is promised: the stop of its tasks closes the log.
    async fn drain(&self, _grace: Duration) -> bool {
        ports::stop_serving(&self.health).await;
        true
    }
}

async fn start(config: &Config, process: &Process, parts: &Parts, port: Port, registry: &mut Registry) -> anyhow::Result<Up> {
    let metadata = cluster::join(&config.metadata, &config.cluster, process, &parts.store, &parts.bookie).await?;
    let metrics = Metrics::new(registry.sub_registry_with_prefix("bookie"));
    let address = reached_at(&config.advertise.internal, port.address);
    let start = async || {
        let around = Surroundings {
            metadata: metadata.clone(),
            clock: process.clock.clone(),
            entropy: process.entropy.clone(),
            tasks: parts.bookie.clone(),
            metrics: metrics.clone(),
        };
        alluvium_bookie::start::start(config.bookie(), address.clone(), around).await
    };
    let running = process.patiently("waiting for metadata", StartError::is_retryable, start).await;
    let running = running.context("the bookie does not start")?;
    let (internal, health) = ports::internal().await;
    let service = Service::server(running.bookie, running.reaper, process.limits);
    let routes = ports::explaining(internal.add_service(service));
    net::serve("internal", net::Callers::Servers, &parts.bookie, port.listener, routes, &process.lanes);
    tracing::info!(bookie = config.name, cluster = config.cluster, internal = address, data = %config.data.display(), "serving");
    Ok(Up { health })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_is_wrong_with_a_bookie_is_said_at_once() {
        let wrong = Config::parse(
            "cluster = 'x'\nname = 'a/b'\ndata = ''\ndrain_seconds = 0\n[advertise]\ninternal = 'nowhere'\n\
             [bookie]\nreads_max = 0\ndata_dir = '/d'",
        );
        let wrong = wrong.expect("TOML").validate().expect_err("all of it is wrong");
        for field in ["cluster", "name", "data", "drain_seconds", "advertise.internal", "bookie.reads_max", "bookie.data_dir"] {
            assert!(wrong.iter().any(|sentence| sentence.starts_with(field)), "{field}: {wrong:?}");
        }
        assert_eq!(wrong.len(), 7, "{wrong:?}");
        let sound =
            Config::parse("cluster = '6d3bcd51-7a3f-4b6e-9f0e-0d9b3c1a2b4c'\n[bookie.log]\npool_files = 2").expect("TOML");
        assert_eq!(sound.validate(), Ok(()), "all but the cluster has a default");
        let again = Config::parse(&toml::to_string(&sound).expect("TOML")).expect("what is printed is sound");
        assert_eq!(again.validate(), Ok(()));
        assert_eq!(again.bookie.log.pool_files, 2);
    }
}
