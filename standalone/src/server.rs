//! The process: what starts in which order, and how it ends.

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
use alluvium_metadata::brokers::IfRegistered;
use alluvium_metadata::policies::Policies;
use alluvium_metadata::raft::{NoPeers, RaftConfig, RaftStore};
use alluvium_metadata::{Metadata, UpdateError};
use alluvium_runtime::clock::Clock;
use alluvium_runtime::disk::Disk;
use alluvium_runtime::disk::real::{self, DirLock, RealDisk};
use alluvium_runtime::entropy::Entropy;
use alluvium_runtime::tasks::{Fatal, Tasks};
use alluvium_runtime::{net, telemetry};
use alluvium_types::limits::Limits;
use alluvium_types::names::{BrokerName, NamespaceName};
use anyhow::Context;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tonic::service::Routes;

use crate::bookies::InProcess;
use crate::config::{Config, Transport};
use crate::http::Operators;
use crate::public;

/// The namespace that is there from the start, so that the first topic needs no administration.
const FIRST_NAMESPACE: &str = "public/default";
/// How long what lies below the broker may take to stop.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// Where a server listens: what it was told, or the free ports that it found.
#[derive(Clone, Copy, Debug)]
struct Addresses {
    client: SocketAddr,
    internal: SocketAddr,
    http: SocketAddr,
}

struct Listeners {
    client: TcpListener,
    internal: TcpListener,
    http: TcpListener,
    addresses: Addresses,
}

/// Time, chance, limits: what every part of the process is given.
#[derive(Clone)]
struct Process {
    clock: Clock,
    entropy: Entropy,
    limits: Limits,
    threads: usize,
}

/// Runs a standalone server until it is told to stop, or can't go on.
pub async fn run(config: Config) -> anyhow::Result<()> {
    telemetry::init(&config.log);
    let (tasks, mut fatal) = Tasks::new();
    let _lock = lock(&config.data)?;
    let listeners = bind(&config).await?;
    let addresses = listeners.addresses;
    let process =
        Process { clock: Clock::system(), entropy: Entropy::from_os(), limits: config.limits(), threads: threads(&config) };
    let mut registry = Registry::with_prefix("alluvium");

    // Each part stops after those that need it: the broker, the bookies, then metadata, through which goodbyes are said.
    let (client_tasks, broker_tasks) = (tasks.part(), tasks.part());
    let (bookie_tasks, metadata_tasks) = (tasks.part(), tasks.part());
    let metadata = open_metadata(&config, &process, &metadata_tasks, &bookie_tasks).await?;
    let bookies = start_bookies(&config, &process, &metadata, &bookie_tasks, listeners.internal, &mut registry).await?;
    let broker = start_broker(&config, &process, &metadata, &bookies, &broker_tasks, addresses, &mut registry).await?;
    let (routes, health) = public::routes(&broker, &mut registry).await?;
    net::serve("clients", &client_tasks, listeners.client, routes, process.threads);
    let operators = Operators::new(registry);
    operators.clone().serve(&tasks, listeners.http);
    operators.set_ready(true);
    welcome(&config, addresses, bookies.len());

    let failed = stopped(&mut fatal).await?;
    operators.set_ready(false);
    public::stop_serving(&health).await;
    if !broker.drain(Duration::from_secs(config.drain_seconds)).await {
        tracing::warn!(seconds = config.drain_seconds, "not everything was finished in time");
    }
    for (part, limit) in [
        (&client_tasks, STOP_LIMIT),
        (&broker_tasks, STOP_LIMIT),
        (&bookie_tasks, STOP_LIMIT),
        (&metadata_tasks, STOP_LIMIT),
        (&tasks, STOP_LIMIT),
    ] {
        part.stop();
        if !part.join(limit).await {
            tracing::warn!(?limit, "a part of the server did not stop in time");
        }
    }
    failed.map_or(Ok(()), |fatal| Err(fatal.into()))
}

/// Makes the data folder ours for as long as the process lives.
fn lock(data: &Path) -> anyhow::Result<DirLock> {
    RealDisk.create_dir_all(data).with_context(|| format!("cannot make the data folder {}", data.display()))?;
    Ok(real::lock(data, "standalone")?)
}

fn threads(config: &Config) -> usize {
    match config.threads {
        0 => std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get),
        threads => threads,
    }
}

async fn bind(config: &Config) -> anyhow::Result<Listeners> {
    let listen = |name: &'static str, address: SocketAddr| async move {
        let what = || format!("cannot listen on {address} (listen.{name}): is another server running?");
        let listener = net::bind(address).await.with_context(what)?;
        let bound = listener.local_addr().with_context(what)?;
        anyhow::Ok((listener, bound))
    };
    let (client, client_at) = listen("client", config.listen.client).await?;
    let (internal, internal_at) = listen("internal", config.listen.internal).await?;
    let (http, http_at) = listen("http", config.listen.http).await?;
    let addresses = Addresses { client: client_at, internal: internal_at, http: http_at };
    Ok(Listeners { client, internal, http, addresses })
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
    internal: TcpListener,
    registry: &mut Registry,
) -> anyhow::Result<Vec<Running>> {
    let metrics = BookieMetrics::new(registry.sub_registry_with_prefix("bookie"));
    let mut running = Vec::with_capacity(config.bookies);
    let mut first = Some(internal);
    for number in 0..config.bookies {
        let listener = match first.take() {
            Some(listener) => listener,
            None => net::bind(SocketAddr::new(config.listen.internal.ip(), 0)).await?,
        };
        let address = listener.local_addr()?;
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
        net::serve("bookie", tasks, listener, Routes::new(service), 1);
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
    addresses: Addresses,
    registry: &mut Registry,
) -> anyhow::Result<Broker> {
    create_first_namespace(metadata).await?;
    let connector: Arc<dyn Connector> = match config.transport {
        Transport::InProcess => Arc::new(InProcess::new(bookies)),
        Transport::Grpc => Arc::new(GrpcConnector::new(process.clock.clone(), tasks.clone(), process.limits)),
    };
    let ledger_config = alluvium_ledger::Config::default();
    let (entropy, limits) = (process.entropy.clone(), process.limits);
    let ledgers = LedgerClient::start(metadata, connector, entropy.clone(), tasks.clone(), limits, ledger_config).await?;
    let metrics = BrokerMetrics::default();
    metrics.register(registry.sub_registry_with_prefix("broker"));
    let around = BrokerSurroundings {
        config: config.broker(),
        name: BrokerName::parse("broker-0")?,
        address: addresses.client.to_string(),
        internal_address: addresses.internal.to_string(),
        // The lock of the data folder proves that a broker of this name is our own past.
        if_registered: IfRegistered::EndIt,
        metadata: metadata.clone(),
        ledgers,
        clock: process.clock.clone(),
        entropy,
        limits,
        metrics,
        tasks: tasks.clone(),
    };
    Ok(Broker::start(around).await?)
}

async fn create_first_namespace(metadata: &Metadata) -> anyhow::Result<()> {
    let name = NamespaceName::parse(FIRST_NAMESPACE)?;
    let created = [
        metadata.tenants().create(name.tenant(), Policies::default()).await.map(drop),
        metadata.namespaces().create(&name, Policies::default()).await.map(drop),
    ];
    for outcome in created {
        match outcome {
            Ok(()) | Err(UpdateError::Exists { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Resolves when the process is told to stop, or with the failure for which it must.
async fn stopped(fatal: &mut tokio::sync::mpsc::Receiver<Fatal>) -> anyhow::Result<Option<Fatal>> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    Ok(tokio::select! {
        failure = fatal.recv() => failure,
        _ = interrupt.recv() => None,
        _ = terminate.recv() => None,
    })
}

/// Says where it is and what to type next.
fn welcome(config: &Config, addresses: Addresses, bookies: usize) {
    let Addresses { client, internal, http } = addresses;
    tracing::info!(%client, %internal, %http, data = %config.data.display(), bookies, "serving");
    crate::welcome::print(client, http);
}
