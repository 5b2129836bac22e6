//! All roles in one process: the quickstart, and what the tests of one machine start.
//!
//! Metadata is the embedded raft store with one voter, bookies keep their entries below the data folder, the broker reaches
//! them through the same ledger machines as in a cluster; only the transport is a call instead of a connection.

mod bookies;
mod config;
mod welcome;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use alluvium_bookie::metrics::Metrics as BookieMetrics;
use alluvium_bookie::service::Service;
use alluvium_bookie::start::{Running, Surroundings};
use alluvium_broker::broker::{Broker, Surroundings as BrokerSurroundings};
use alluvium_broker::metrics::Metrics as BrokerMetrics;
use alluvium_ledger::grpc::GrpcConnector;
use alluvium_ledger::{Connector, LedgerClient};
use alluvium_metadata::Metadata;
use alluvium_metadata::brokers::IfRegistered;
use alluvium_metadata::raft::{NoPeers, RaftConfig, RaftStore};
use alluvium_runtime::disk::Disk;
use alluvium_runtime::disk::real::{self, DirLock, RealDisk};
use alluvium_runtime::net::{self, Reach};
use alluvium_runtime::tasks::Tasks;
use alluvium_types::names::BrokerName;
use anyhow::Context;
use prometheus_client::registry::Registry;
use tonic::service::Routes;
use tonic_health::server::HealthReporter;

use self::bookies::InProcess;
pub use self::config::{Config, Listen, Transport};
use crate::cluster::create_first_namespace;
use crate::ports::{self, Port};
use crate::process::{Process, Serving};
use crate::settings;

struct Ports {
    client: Port,
    internal: Port,
    /// Where operators are answered already.
    http: SocketAddr,
}

/// Each part stops after those that need it: the connections, the broker, the bookies, then metadata, through which goodbyes are
/// said.
struct Parts {
    connections: Tasks,
    broker: Tasks,
    bookies: Tasks,
    metadata: Tasks,
}

/// A server that serves.
struct Up {
    broker: Broker,
    health: HealthReporter,
}

impl Serving for Up {
    async fn drain(&self, grace: Duration) -> bool {
        ports::stop_serving(&self.health).await;
        self.broker.drain(grace).await
    }
}

/// Runs a standalone server until it is told to stop, or can't go on.
async fn run(config: Config) -> anyhow::Result<()> {
    let (process, ending) = Process::begin(&config.log, config.limits(), settings::threads(config.threads))?;
    let _lock = lock(&config.data)?;
    let client = ports::bind("client", config.listen.client).await?;
    let internal = ports::bind("internal", config.listen.internal).await?;
    let http = ports::bind("http", config.listen.http).await?;
    let ports = Ports { client, internal, http: http.address };
    let parts = Parts {
        connections: process.tasks.part(),
        broker: process.tasks.part(),
        bookies: process.tasks.part(),
        metadata: process.tasks.part(),
    };
    let order = [&parts.connections, &parts.broker, &parts.bookies, &parts.metadata];
    let (config, around, grace) = (&config, process.clone(), Duration::from_secs(config.drain_seconds));
    let start = async |registry: &mut Registry| start(config, &around, &parts, ports, registry).await;
    process.live(ending, http.listener, &order, grace, start).await
}

/// Makes the data folder ours for as long as the process lives.
fn lock(data: &Path) -> anyhow::Result<DirLock> {
    RealDisk.create_dir_all(data).with_context(|| format!("cannot make the data folder {}", data.display()))?;
    Ok(real::lock(data, "standalone")?)
}

async fn start(config: &Config, process: &Process, parts: &Parts, ports: Ports, registry: &mut Registry) -> anyhow::Result<Up> {
    let Ports { client, internal, http } = ports;
    let addresses = (client.address, internal.address);
    let metadata = open_metadata(config, process, &parts.metadata, &parts.bookies).await?;
    let bookies = start_bookies(config, process, &metadata, &parts.bookies, internal, registry).await?;
    let broker = start_broker(config, process, &metadata, &bookies, &parts.broker, addresses, registry).await?;
    let (routes, health) = ports::public(&broker, registry).await?;
    let clients = net::Callers::Clients(net::Windows::within(config.memory().0));
    net::serve("clients", clients, &parts.connections, client.listener, routes, &process.lanes);
    let (client, internal) = addresses;
    tracing::info!(%client, %internal, %http, data = %config.data.display(), bookies = bookies.len(), "serving");
    welcome::print(client, http);
    Ok(Up { broker, health })
}

async fn open_metadata(config: &Config, process: &Process, store_tasks: &Tasks, user_tasks: &Tasks) -> anyhow::Result<Metadata> {
    let raft = RaftConfig::lone(config.data.join("metadata"), None);
    let (clock, entropy) = (process.clock.clone(), process.entropy.clone());
    let store = RaftStore::open(raft, Arc::new(RealDisk), clock.clone(), entropy.clone(), store_tasks, Arc::new(NoPeers)).await?;
    let cluster = store.cluster();
    let metadata = Metadata::new(Arc::new(store), clock, entropy, user_tasks.clone());
    metadata.clusters().init(Some(cluster)).await?;
    Ok(metadata)
}

/// Starts the bookies, each in a folder of its own. The first one listens on the internal port, the others on free ones.
async fn start_bookies(
    config: &Config,
    process: &Process,
    metadata: &Metadata,
    tasks: &Tasks,
    internal: Port,
    registry: &mut Registry,
) -> anyhow::Result<Vec<Running>> {
    let metrics = BookieMetrics::new(registry.sub_registry_with_prefix("bookie"));
    let mut running = Vec::with_capacity(config.bookies);
    let mut first = Some(internal);
    for number in 0..config.bookies {
        let Port { listener, address } = match first.take() {
            Some(port) => port,
            None => ports::bind("internal", SocketAddr::new(config.listen.internal.ip(), 0)).await?,
        };
        let name = format!("bookie-{number}");
        let own = alluvium_bookie::Config { data_dir: config.data.join(&name), name, listen: address, ..config.bookie() };
        let around = Surroundings {
            metadata: metadata.clone(),
            clock: process.clock.clone(),
            entropy: process.entropy.clone(),
            tasks: tasks.clone(),
            metrics: metrics.clone(),
        };
        let bookie = alluvium_bookie::start::start(own, address.to_string(), around).await?;
        let service = Service::server(bookie.bookie.clone(), bookie.reaper.clone(), process.limits);
        net::serve("bookie", net::Callers::Servers, tasks, listener, Routes::new(service), &process.lanes);
        running.push(bookie);
    }
    Ok(running)
}

/// Starts the broker over the bookies, by a call or by gRPC: the ledger machines are the same.
async fn start_broker(
    config: &Config,
    process: &Process,
    metadata: &Metadata,
    bookies: &[Running],
    tasks: &Tasks,
    (client, internal): (SocketAddr, SocketAddr),
    registry: &mut Registry,
) -> anyhow::Result<Broker> {
    create_first_namespace(metadata).await?;
    let connector: Arc<dyn Connector> = match config.transport {
        Transport::InProcess => Arc::new(InProcess::new(bookies)),
        Transport::Grpc => {
            let (clock, lanes) = (process.clock.clone(), process.lanes.clone());
            Arc::new(GrpcConnector::new(clock, tasks.clone(), lanes, process.limits))
        }
    };
    let ledger_config = alluvium_ledger::Config::default();
    let (entropy, limits) = (process.entropy.clone(), process.limits);
    let ledgers = LedgerClient::start(metadata, connector, entropy.clone(), tasks.clone(), limits, ledger_config).await?;
    let metrics = BrokerMetrics::default();
    metrics.register(registry.sub_registry_with_prefix("broker"));
    let around = BrokerSurroundings {
        config: config.broker(),
        name: BrokerName::parse("broker-0")?,
        address: client.to_string(),
        internal_address: internal.to_string(),
        // The lock of the data folder proves that a broker of this name is our own past.
        if_registered: IfRegistered::EndIt,
        reach: Reach::Sockets,
        metadata: metadata.clone(),
        ledgers,
        clock: process.clock.clone(),
        entropy,
        limits,
        metrics,
        tasks: tasks.clone(),
        lanes: process.lanes.clone(),
    };
    Ok(Broker::start(around).await?)
}
