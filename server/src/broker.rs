//! A broker as a process: it takes what clients publish, and keeps it on the bookies of its cluster.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use alluvium_broker::broker::{Broker, StartError, Surroundings};
use alluvium_broker::forward::ForwardEdge;
use alluvium_broker::metrics::Metrics;
use alluvium_ledger::{GrpcConnector, LedgerClient};
use alluvium_metadata::brokers::IfRegistered;
use alluvium_metadata::etcd::EtcdConfig;
use alluvium_metadata::{Metadata, ReadError, UpdateError};
use alluvium_runtime::net::{self, Reach};
use alluvium_runtime::tasks::Tasks;
use alluvium_runtime::telemetry::LogConfig;
use alluvium_types::limits::{Limits, MESSAGE_BYTES_MAX};
use alluvium_types::names::BrokerName;
use anyhow::Context;
use prometheus_client::registry::Registry;
use serde::{Deserialize, Serialize};
use tonic_health::server::HealthReporter;

use crate::ports::{self, ClosedPort, reached_at};
use crate::process::{Process, Serving};
use crate::settings::{self, Role, Wrong};
use crate::{cluster, name};

/// The configuration of a broker: one TOML file.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The id of the cluster it belongs to, as `alluvium cluster init` prints it.
    pub cluster: String,
    /// What operators call it. It stays the same over restarts; no other broker of the cluster has it.
    pub name: String,
    /// Lanes: threads on which connections and partitions live; 0 is one for each core.
    pub threads: usize,
    /// The largest message, in bytes, with its key and headers: the same in all processes of a cluster (C36).
    pub message_bytes_max: usize,
    /// The memory that the process bounds what it holds to, in bytes, beside about 50 MiB for itself; 0 for half of what its control
    /// group lets it have, or a quarter of the machine's, at most 1 GiB. Single bounds may be set below.
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
    /// The broker.
    pub broker: alluvium_broker::config::Config,
    /// The ledgers that it writes and reads.
    pub ledger: alluvium_ledger::Config,
}

/// Where a broker listens.
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

/// What others are told to connect to, as `host:port`; empty for the address it listens on.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Advertise {
    /// Clients.
    pub client: String,
    /// Our own processes.
    pub internal: String,
}

impl Default for Listen {
    fn default() -> Self {
        let [client, internal, http] = [7650, 7651, 7652].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        Self { client, internal, http }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            cluster: String::new(),
            name: "broker-0".to_owned(),
            threads: 0,
            message_bytes_max: MESSAGE_BYTES_MAX,
            memory_bytes_max: 0,
            drain_seconds: 10,
            listen: Listen::default(),
            advertise: Advertise::default(),
            log: LogConfig::default(),
            metadata: EtcdConfig::default(),
            broker: alluvium_broker::config::Config::default(),
            ledger: alluvium_ledger::Config::default(),
        }
    }
}

impl Config {
    fn limits(&self) -> Limits {
        settings::limits(self.message_bytes_max)
    }

    /// The broker's settings, fitted to limits and memory.
    fn broker(&self) -> alluvium_broker::config::Config {
        self.broker.clone().with_memory(self.memory(), self.limits())
    }

    fn memory(&self) -> usize {
        settings::memory(self.memory_bytes_max, alluvium_broker::config::Config::MEMORY_BYTES)
    }

    const fn session_ttl(&self) -> Duration {
        Duration::from_millis(self.broker.session_ttl_ms)
    }
}

impl Role for Config {
    fn validate(&self) -> Result<(), Vec<String>> {
        let mut wrong = Wrong::default();
        wrong.membership(&self.cluster, &self.metadata, ("broker.session_ttl_ms", self.broker.session_ttl_ms));
        if let Err(error) = BrokerName::parse(&self.name) {
            wrong.refuse(true, || format!("name: {}", error.problem));
        }
        wrong.range("threads", self.threads, 0..=256);
        wrong.process(self.message_bytes_max, self.drain_seconds, &self.log);
        wrong.advertised("client", &self.advertise.client, self.listen.client);
        wrong.advertised("internal", &self.advertise.internal, self.listen.internal);
        wrong.memory(self.memory_bytes_max);
        wrong.section("broker", self.broker().validate(self.limits()));
        wrong.section("ledger", self.ledger.validate());
        wrong.end()
    }

    fn take_secrets(&mut self, variable: impl Fn(&str) -> Option<String>) {
        settings::take_password(&mut self.metadata, variable);
    }

    async fn run(self) -> anyhow::Result<()> {
        let (process, ending) = Process::begin(&self.log, self.limits(), settings::threads(self.threads))?;
        let ports = Ports {
            client: ClosedPort::take("client", self.listen.client)?,
            internal: ClosedPort::take("internal", self.listen.internal)?,
        };
        let http = ports::bind("http", self.listen.http).await?;
        let parts = Parts {
            connections: process.tasks.part(),
            broker: process.tasks.part(),
            session: process.tasks.part(),
            store: process.tasks.part(),
        };
        let order = [&parts.connections, &parts.broker, &parts.session, &parts.store];
        let (config, around, grace) = (&self, process.clone(), Duration::from_secs(self.drain_seconds));
        let start = async |registry: &mut Registry| start(config, &around, &parts, ports, registry).await;
        process.live(ending, http.listener, &order, grace, start).await
    }
}

struct Ports {
    client: ClosedPort,
    internal: ClosedPort,
}

/// Each part stops after those that need it: the connections, the broker with its ledgers, the session, then metadata, through
/// which goodbyes are said.
struct Parts {
    connections: Tasks,
    broker: Tasks,
    session: Tasks,
    store: Tasks,
}

/// A broker that serves.
struct Up {
    broker: Broker,
    health: [HealthReporter; 2],
}

impl Serving for Up {
    async fn drain(&self, grace: Duration) -> bool {
        for reporter in &self.health {
            ports::stop_serving(reporter).await;
        }
        self.broker.drain(grace).await
    }
}

async fn start(config: &Config, process: &Process, parts: &Parts, ports: Ports, registry: &mut Registry) -> anyhow::Result<Up> {
    let metadata = cluster::join(&config.metadata, &config.cluster, process, &parts.store, &parts.session).await?;
    let addresses = (
        reached_at(&config.advertise.client, ports.client.address),
        reached_at(&config.advertise.internal, ports.internal.address),
    );
    // As long as the name's last bearer looks alive, connections are refused: that tells others that it has ended.
    let name = BrokerName::parse(&config.name)?;
    name::vacant(&name, config.session_ttl(), &metadata, process).await?;
    // Who is registered is reached: whoever asks between the two is put off, and does not take it for one that ended.
    let (internal, internal_health) = ports::internal().await;
    ports::stop_serving(&internal_health).await;
    let forwarded = ForwardEdge::new(process.limits);
    let internal = ports::explaining(internal.add_service(forwarded.service()));
    net::serve("internal", net::Callers::Servers, &parts.connections, ports.internal.open()?, internal, &process.lanes);
    let broker = register(config, process, parts, &metadata, name, addresses.clone(), registry).await?;
    forwarded.serve(broker.clone());
    let (public, public_health) = ports::public(&broker, registry).await?;
    let clients = net::Callers::Clients(net::Windows::within(config.memory()));
    net::serve("clients", clients, &parts.connections, ports.client.open()?, public, &process.lanes);
    ports::serving(&internal_health).await;
    let (client, internal) = addresses;
    tracing::info!(broker = config.name, cluster = config.cluster, client, internal, "serving");
    Ok(Up { broker, health: [public_health, internal_health] })
}

/// Starts the broker, under a name that nobody else bears.
async fn register(
    config: &Config,
    process: &Process,
    parts: &Parts,
    metadata: &Metadata,
    name: BrokerName,
    (address, internal_address): (String, String),
    registry: &mut Registry,
) -> anyhow::Result<Broker> {
    let waiting = "waiting for metadata";
    let connector =
        Arc::new(GrpcConnector::new(process.clock.clone(), parts.broker.clone(), process.lanes.clone(), process.limits));
    let (entropy, tasks, limits) = (&process.entropy, &parts.broker, process.limits);
    let ledgers = async || {
        let (connector, ledger) = (connector.clone(), config.ledger.clone());
        LedgerClient::start(metadata, connector, entropy.clone(), tasks.clone(), limits, ledger).await
    };
    let ledgers = process.patiently(waiting, ReadError::is_retryable, ledgers).await?;
    ledgers.metrics().register(registry.sub_registry_with_prefix("ledger"));
    let metrics = Metrics::default();
    metrics.register(registry.sub_registry_with_prefix("broker"));
    let start = async || {
        let around = Surroundings {
            config: config.broker(),
            name: name.clone(),
            address: address.clone(),
            internal_address: internal_address.clone(),
            if_registered: IfRegistered::Refuse,
            reach: Reach::Sockets,
            metadata: metadata.clone(),
            ledgers: ledgers.clone(),
            clock: process.clock.clone(),
            entropy: entropy.clone(),
            limits,
            metrics: metrics.clone(),
            tasks: tasks.clone(),
            lanes: process.lanes.clone(),
        };
        Broker::start(around).await
    };
    match process.patiently(waiting, StartError::is_retryable, start).await {
        // Somebody was faster.
        Err(StartError::Register(UpdateError::Exists { .. })) => {
            let other = metadata.brokers().get(&name).await?;
            Err(name::taken(&name, &other.map_or_else(|| "an address unknown".to_owned(), |other| other.value.address)))
        }
        started => started.context("the broker does not start"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_is_wrong_with_a_broker_is_said_at_once() {
        let wrong = Config::parse(
            "name = 'a/b'\nthreads = 999\n[listen]\nclient = '0.0.0.0:7650'\n[metadata]\nprefix = ''\nrequest_timeout_ms = 5000\n\
             [broker]\nwindow_bytes = 1\n[ledger]\nslow_after_ms = 0",
        );
        let wrong = wrong.expect("TOML").validate().expect_err("all of it is wrong");
        let named: Vec<&str> = wrong.iter().filter_map(|sentence| sentence.split(':').next()).collect();
        let expected = [
            "cluster",
            "metadata.prefix",
            "metadata.request_timeout_ms",
            "name",
            "threads",
            "advertise.client",
            "broker.window_bytes",
            "ledger.slow_after_ms",
        ];
        assert_eq!(named, expected, "{wrong:?}");
        assert!(Config::parse("[metadata]\nprefx = 'a/'").expect_err("unknown").to_string().contains("line 2"));
        let sound = Config::parse("cluster = '6d3bcd51-7a3f-4b6e-9f0e-0d9b3c1a2b4c'").expect("TOML");
        assert_eq!(sound.validate(), Ok(()), "all but the cluster has a default");
    }
}
