//! A broker: its session, its memory, and the partitions it owns. The one place where a partition's owner is looked up.

mod audit;
mod changes;
mod context;
mod moves;
mod partitions;
mod placement;
mod registration;
mod routes;
mod subscriptions;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use alluvium_ledger::LedgerClient;
use alluvium_metadata::bookies::LiveBookie;
use alluvium_metadata::brokers::IfRegistered;
use alluvium_metadata::live::Live;
use alluvium_metadata::placements::Placement;
use alluvium_metadata::policies::Policies;
use alluvium_metadata::topics::Topic;
use alluvium_metadata::{Metadata, PartitionId, ReadError, UpdateError, Versioned};
use alluvium_runtime::budget::ByteBudget;
use alluvium_runtime::clock::Clock;
use alluvium_runtime::entropy::Entropy;
use alluvium_runtime::lanes::Lanes;
use alluvium_runtime::net::Reach;
use alluvium_runtime::tasks::{OnFailure, Tasks};
use alluvium_types::fault::{Fault, FaultKind};
use alluvium_types::ids::{Offset, PartitionIndex, TopicId};
use alluvium_types::limits::Limits;
use alluvium_types::names::{BookieName, BrokerName, TopicName};
use alluvium_types::time::{Mono, Timestamp};
use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};

pub(crate) use context::{Context, Session};
pub(crate) use partitions::specs_of;
use partitions::{Opener, Partitions};
use routes::Remembered;
pub(crate) use routes::{Route, Scope};
pub use subscriptions::SubscriptionInfo;

use crate::config::Config;
use crate::deliver::DeliverMetrics;
use crate::forward::Peers;
use crate::metrics::Metrics;
use crate::mutation::Mutations;
use crate::topic::PartitionHandle;
use crate::topic::cache::Tails;
use crate::topic::command::Command;
use crate::topic::recent::Recent;

/// How long a topic's record is believed without looking again. What is decided by it compares it.
const TOPIC_BELIEVED: Duration = Duration::from_secs(5);
/// How long a partition may take to know which subscriptions there are.
const CONFIGURE_PATIENCE: Duration = Duration::from_secs(10);
/// Which part of `publish_bytes_max` there is beside it for requests that are being received.
const INTAKE_SHARE: usize = 4;
/// Which part of `publish_bytes_max` there is beside it for what other brokers hand on.
const FORWARDED_SHARE: usize = 2;
/// Which part of `read_bytes_max` there is beside it for what takeovers read back: they wait for no reader.
const TAKEOVER_SHARE: usize = 4;
/// Which part of `read_bytes_max` may be kept for other readers.
const RECENT_SHARE: usize = 4;
/// How long metadata may take to answer before what was known is believed.
const METADATA_PATIENCE: Duration = Duration::from_millis(500);
/// Why something can't be known.
const METADATA_UNAVAILABLE: &str = "METADATA_UNAVAILABLE";
/// How many topics' records are kept.
const TOPICS_MAX: usize = 4096;

/// A cheap handle to this broker.
#[derive(Clone)]
pub struct Broker(Arc<Inner>);

struct Inner {
    context: Arc<Context>,
    opener: Opener,
    topics: Mutex<HashMap<TopicName, (TopicInfo, Mono)>>,
    bookies: watch::Receiver<Live<BookieName, LiveBookie>>,
    peers: Peers,
    placed: watch::Receiver<Live<PartitionId, Placement>>,
    /// Since when others have been there.
    seen: Mutex<moves::Seen>,
    remembered: Remembered,
    subscriptions: subscriptions::UsedSubscriptions,
    deliver_metrics: DeliverMetrics,
    consumers: AtomicU64,
}

impl fmt::Debug for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Broker({})", self.0.context.name)
    }
}

/// What a broker is started with.
#[derive(Debug)]
pub struct Surroundings {
    /// Its settings, which were validated.
    pub config: Config,
    /// What operators call it.
    pub name: BrokerName,
    /// Where clients reach it.
    pub address: String,
    /// Where other servers reach it.
    pub internal_address: String,
    /// Whether a registration of the same name is its own former one: so where it holds the lock of a data directory.
    pub if_registered: IfRegistered,
    /// Metadata. Its tasks must go on until [`Broker::drain`] has returned.
    pub metadata: Metadata,
    /// Ledgers. Their tasks must go on until [`Broker::drain`] has returned.
    pub ledgers: LedgerClient,
    /// Time.
    pub clock: Clock,
    /// Chance.
    pub entropy: Entropy,
    /// Sizes in force.
    pub limits: Limits,
    /// The figures to keep.
    pub metrics: Metrics,
    /// How it reaches other brokers.
    pub reach: Reach,
    /// Its tasks; the present runtime has those of the background.
    pub tasks: Tasks,
    /// Where its partitions and its connections to other brokers live.
    pub lanes: Lanes,
}

/// Why a broker does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// It could not be registered.
    #[error("the broker could not be registered")]
    Register(#[source] UpdateError),
    /// Metadata could not be read.
    #[error("metadata could not be read")]
    Metadata(#[from] ReadError),
}

impl StartError {
    /// Whether the same may succeed later.
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Register(error) => error.is_retryable(),
            Self::Metadata(error) => error.is_retryable(),
        }
    }
}

/// A topic, as far as those who reach its partitions need it.
#[derive(Clone, Debug)]
pub struct TopicInfo {
    /// Its name.
    pub name: TopicName,
    /// Its identity.
    pub id: TopicId,
    /// How many partitions it has.
    pub partitions: u32,
    /// Its record.
    pub(crate) record: Versioned<Topic>,
}

/// Where a new subscription begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StartAt {
    /// Before the oldest message kept.
    Earliest,
    /// After the newest message.
    Latest,
    /// At this offset, moved into what is kept.
    Offset(Offset),
    /// At the first message of this server time or later.
    Time(Timestamp),
}

impl Broker {
    /// Registers the broker and begins to serve. Partitions are opened when they are asked for.
    pub async fn start(surroundings: Surroundings) -> Result<Self, StartError> {
        Self::start_with(surroundings, Mutations::NONE).await
    }

    /// The same with a bug in it.
    pub async fn start_with(surroundings: Surroundings, mutations: Mutations) -> Result<Self, StartError> {
        let Surroundings { config, name, address, internal_address, if_registered, metadata, ledgers, .. } = surroundings;
        let Surroundings { clock, entropy, limits, metrics, reach, tasks, lanes, .. } = surroundings;
        // What the process did not say.
        let config = config.with_memory(Config::MEMORY_BYTES, limits);
        let context = Arc::new(Context {
            default_policies: config.default_policies(),
            intake_budget: ByteBudget::new(config.publish_bytes_max / INTAKE_SHARE),
            publish_budget: ByteBudget::new(config.publish_bytes_max),
            forwarded_budget: ByteBudget::new(config.publish_bytes_max / FORWARDED_SHARE),
            tails: Tails::new(ByteBudget::new(config.cache_bytes_max)),
            read_budget: ByteBudget::new(config.read_bytes_max),
            recent: Recent::new(recent_bytes(config.read_bytes_max, limits)),
            takeover_budget: ByteBudget::new(config.read_bytes_max / TAKEOVER_SHARE),
            delivery_budget: ByteBudget::new(config.delivery_bytes_max),
            session_tasks: tasks.part(),
            partition_tasks: tasks.part(),
            own_tasks: tasks.part(),
            background: tokio::runtime::Handle::current(),
            lanes,
            storage_full: AtomicBool::new(false),
            leaving: AtomicBool::new(false),
            mutations,
            reach,
            config,
            name,
            address: address.clone(),
            internal_address,
            metadata,
            ledgers,
            clock,
            entropy,
            limits,
            metrics,
        });
        // Before anything is loaded that they could concern.
        let changes = context.metadata.topic_changes().await?;
        let bookies = context.metadata.bookies().watch().await?;
        let brokers = context.metadata.brokers().watch().await?;
        let placed = context.metadata.placements().watch().await?;
        let new = registration::new(&context, &address);
        let session = registration::register(&context, &new, if_registered).await.map_err(StartError::Register)?;
        let (session_tx, session) = watch::channel(session);
        let opener = Opener { context: Arc::clone(&context), partitions: Arc::new(Partitions::default()), session };
        let peers = Peers::new(brokers, context.limits, reach, context.lanes.clone());
        let inner = Inner {
            context: Arc::clone(&context),
            opener,
            topics: Mutex::default(),
            bookies: bookies.clone(),
            peers,
            placed,
            seen: Mutex::default(),
            remembered: Remembered::default(),
            subscriptions: subscriptions::UsedSubscriptions::default(),
            deliver_metrics: DeliverMetrics::default(),
            consumers: AtomicU64::new(1),
        };
        let broker = Self(Arc::new(inner));
        let keeper = registration::keep(Arc::clone(&context), new, broker.0.peers.view(), session_tx);
        context.own_tasks.spawn("broker-session", OnFailure::ShutDown, async move {
            keeper.await;
            Ok::<(), std::convert::Infallible>(())
        });
        let watcher = Arc::clone(&context);
        context.own_tasks.spawn("broker-storage", OnFailure::ShutDown, async move {
            watch_storage(&watcher, bookies).await;
            Ok::<(), std::convert::Infallible>(())
        });
        let mover = broker.clone();
        context.own_tasks.spawn("broker-moves", OnFailure::ShutDown, async move {
            mover.keep_moving().await;
            Ok::<(), std::convert::Infallible>(())
        });
        let follower = broker.clone();
        context.own_tasks.spawn("broker-changes", OnFailure::ShutDown, async move {
            follower.follow_changes(changes).await;
            Ok::<(), std::convert::Infallible>(())
        });
        let auditor = broker.clone();
        context.own_tasks.spawn("broker-auditor", OnFailure::ShutDown, async move {
            auditor.audit().await;
            Ok::<(), std::convert::Infallible>(())
        });
        Ok(broker)
    }

    /// Stops: hands its partitions to other brokers if there are any, takes nothing new, stores what was taken, writes the
    /// partitions' state down, lets them go and says goodbye. At most about `grace`; says whether everything was done in time.
    pub async fn drain(&self, grace: Duration) -> bool {
        let context = self.context();
        let until = context.clock.mono().after(grace);
        self.leave(grace / 2).await;
        context.session_tasks.stop();
        let done = async {
            for handle in self.0.opener.partitions.of_topic(None).await {
                // One that is over needs no telling.
                let _ = handle.commands().send(Command::Drain).await;
            }
            for handle in self.0.opener.partitions.of_topic(None).await {
                handle.over().await;
            }
        };
        let left = || until.since(context.clock.mono()).max(Duration::from_millis(500));
        let in_time = context.clock.timeout(left(), done).await.is_ok();
        let sessions = context.session_tasks.join(left()).await;
        context.partition_tasks.stop();
        let partitions = context.partition_tasks.join(left()).await;
        context.own_tasks.stop();
        let own = context.own_tasks.join(left()).await;
        let last = self.0.opener.session.borrow().clone();
        // What is still queued is not handed over: others may dispatch as soon as the session is known to be gone (M4, T3).
        last.lease().end();
        let ended = matches!(context.clock.timeout(left(), last.registration().session.clone().end()).await, Ok(Ok(())));
        in_time && sessions && partitions && own && ended
    }

    pub(crate) fn context(&self) -> &Arc<Context> {
        &self.0.context
    }

    /// What is counted of deliveries.
    pub(crate) fn deliver_metrics(&self) -> &DeliverMetrics {
        &self.0.deliver_metrics
    }

    /// A number that no other consumer of this process has had.
    pub(crate) fn consumer_number(&self) -> u64 {
        self.0.consumers.fetch_add(1, Ordering::Relaxed)
    }

    /// Where clients reach it.
    pub(crate) fn address(&self) -> &str {
        &self.0.context.address
    }

    /// The metadata plane.
    pub fn metadata(&self) -> &Metadata {
        &self.0.context.metadata
    }

    /// Time.
    pub fn clock(&self) -> &Clock {
        &self.0.context.clock
    }

    /// Chance.
    pub fn entropy(&self) -> &Entropy {
        &self.0.context.entropy
    }

    /// Where sessions of clients begin their tasks. They are asked to stop first when the broker drains.
    pub fn tasks(&self) -> &Tasks {
        &self.0.context.session_tasks
    }

    /// Sizes in force.
    pub fn limits(&self) -> Limits {
        self.0.context.limits
    }

    /// What batches on their way in are taken from.
    pub(crate) fn publish_budget(&self) -> &ByteBudget {
        &self.0.context.publish_budget
    }

    /// What batches that other brokers hand on are taken from.
    pub(crate) fn forwarded_budget(&self) -> &ByteBudget {
        &self.0.context.forwarded_budget
    }

    /// What decoded messages on their way to consumers are taken from.
    pub fn delivery_budget(&self) -> &ByteBudget {
        &self.0.context.delivery_budget
    }

    /// What is in force where no tenant, namespace or topic says otherwise.
    pub fn default_policies(&self) -> Policies {
        self.0.context.default_policies
    }

    /// The bookies that live now, by this broker's view of metadata.
    pub fn live_bookies(&self) -> Arc<BTreeMap<BookieName, LiveBookie>> {
        Arc::clone(&self.0.bookies.borrow().members)
    }

    /// The brokers that live now, by this broker's view of metadata.
    pub fn live_brokers(&self) -> Arc<BTreeMap<BrokerName, alluvium_metadata::brokers::Broker>> {
        self.0.peers.live()
    }

    /// What operators call this broker.
    pub(crate) fn name(&self) -> &BrokerName {
        &self.0.context.name
    }

    /// How many partitions this broker serves.
    pub(crate) fn partitions_served(&self) -> u64 {
        u64::try_from(self.0.context.metrics.partitions.get()).unwrap_or(0)
    }

    /// The broker that a partition is handed to when it is free, by this broker's view of who lives.
    pub(crate) fn preferred(&self, partition: PartitionId, placed: Option<&BrokerName>) -> Option<BrokerName> {
        placement::preferred(partition, placed, &self.0.peers.live(), &[]).map(|(name, _)| name.clone())
    }

    /// The topic, by a linearizable read the first time and from a short-lived cache later; a fault when there is none. While
    /// metadata doesn't answer, what was known is believed on (M7): whoever owns its partitions is fenced if it is gone.
    pub async fn topic(&self, name: &TopicName) -> Result<TopicInfo, Fault> {
        let known = self.0.topics.lock().get(name).cloned();
        let Some((known, read_at)) = known else { return self.topic_now(name).await };
        if self.clock().mono().since(read_at) < TOPIC_BELIEVED {
            return Ok(known);
        }
        if let Some(found) = self.unless_away(self.topic_now(name)).await {
            return found;
        }
        if let Some((_, read_at)) = self.0.topics.lock().get_mut(name) {
            *read_at = self.clock().mono();
        }
        Ok(known)
    }

    /// What metadata says; nothing if it doesn't answer soon.
    async fn unless_away<T>(&self, read: impl Future<Output = Result<T, Fault>>) -> Option<Result<T, Fault>> {
        match self.clock().timeout(METADATA_PATIENCE, read).await {
            Ok(Err(fault)) if fault.reason == METADATA_UNAVAILABLE => None,
            Ok(answer) => Some(answer),
            Err(_) => None,
        }
    }

    /// The topic, by a linearizable read.
    pub(crate) async fn topic_now(&self, name: &TopicName) -> Result<TopicInfo, Fault> {
        let found = self.metadata().topics().get(name).await.map_err(unreadable)?;
        let Some(record) = found else {
            self.0.topics.lock().remove(name);
            return Err(Fault::not_found("topic", "TOPIC_NOT_FOUND", name));
        };
        let info = TopicInfo { name: name.clone(), id: record.value.id, partitions: record.value.partitions, record };
        let mut topics = self.0.topics.lock();
        if topics.len() >= TOPICS_MAX {
            topics.clear();
        }
        topics.insert(name.clone(), (info.clone(), self.clock().mono()));
        Ok(info)
    }

    /// The handle of a partition that this broker shall serve; claims and opens it if it does not own it yet. Waits until it can
    /// be used. A fault (`PARTITION_MOVED`) while another broker owns it; [`Broker::route`] finds out where to ask.
    pub async fn partition(&self, topic: &TopicInfo, index: PartitionIndex) -> Result<PartitionHandle, Fault> {
        self.0.opener.get(topic, index).await
    }

    /// The handle of a partition, if this broker has it loaded; loads nothing.
    pub fn loaded(&self, topic: TopicId, index: PartitionIndex) -> Option<PartitionHandle> {
        self.0.opener.partitions.loaded(PartitionId { topic, index })
    }

    /// Ends what this broker has loaded of a topic that was deleted: streams get a fault, its ledgers become tombstones.
    pub async fn topic_deleted(&self, topic: TopicId) {
        self.0.topics.lock().retain(|_, (info, _)| info.id != topic);
        for handle in self.0.opener.partitions.of_topic(Some(topic)).await {
            let _ = handle.commands().send(Command::Abandon).await;
            handle.over().await;
        }
        self.clean_up_soon(topic);
    }

    /// Tells a partition that its subscriptions changed, and waits until it knows them.
    async fn configure(&self, handle: &PartitionHandle) -> Result<(), Fault> {
        let told = async {
            let (done, known) = oneshot::channel();
            // One that is over knows when it is opened again.
            if handle.commands().send(Command::Configure(Some(done))).await.is_err() {
                return Ok(());
            }
            known.await.unwrap_or(Ok(())).map_err(unreadable)
        };
        self.clock().timeout(CONFIGURE_PATIENCE, told).await.unwrap_or_else(|_| {
            let text = format!("partition {} does not know yet which subscriptions there are; try again", handle.name());
            Err(Fault::new(FaultKind::Unavailable, "PARTITION_UNAVAILABLE", text))
        })
    }
}

fn unreadable(error: ReadError) -> Fault {
    let text = format!("metadata can't be read now: {}", crate::error::chain(&error));
    Fault::new(FaultKind::Unavailable, METADATA_UNAVAILABLE, text)
}

fn unchanged(error: UpdateError) -> Fault {
    let text = format!("metadata can't be changed now: {}", crate::error::chain(&error));
    let kind = if matches!(error, UpdateError::Unresolved) { FaultKind::OutcomeUnknown } else { FaultKind::Unavailable };
    Fault::new(kind, "METADATA_UNAVAILABLE", text)
}

/// Knows whether any bookie takes messages: when all that live are read-only, batches are refused at once.
async fn watch_storage(context: &Context, mut bookies: watch::Receiver<Live<BookieName, LiveBookie>>) {
    loop {
        let full = {
            let live = bookies.borrow_and_update();
            !live.members.is_empty() && live.members.values().all(|bookie| !bookie.info.writable)
        };
        if context.storage_full.swap(full, Ordering::Relaxed) != full {
            context.metrics.storage_full.set(i64::from(full));
            if full {
                tracing::error!("no bookie takes more messages: the storage is full");
            } else {
                tracing::info!("there is room for messages again");
            }
        }
        tokio::select! {
            biased;
            () = context.own_tasks.stopping() => return,
            changed = bookies.changed() => if changed.is_err() { return },
        }
    }
}

/// How much of what was read may be kept: reads always have room for an entry, and another.
fn recent_bytes(read_bytes_max: usize, limits: Limits) -> usize {
    (read_bytes_max / RECENT_SHARE).min(read_bytes_max.saturating_sub(2 * limits.entry_bytes_max()))
}
