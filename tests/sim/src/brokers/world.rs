//! The world of one run, and its story: a cluster begins, is used while things go wrong, is healed, and is looked at.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use alluvium_metadata::bookies::{BookieInfo, BookieRegistration};
use alluvium_metadata::policies::Policies;
use alluvium_metadata::subscriptions::SubscriptionKind;
use alluvium_metadata::{MemoryStore, Metadata};
use alluvium_runtime::clock::Clock;
use alluvium_runtime::entropy::Entropy;
use alluvium_runtime::simulation::Simulation;
use alluvium_runtime::tasks::{Ended, OnFailure, Tasks};
use alluvium_types::ids::{ClusterId, Offset, TopicId};
use alluvium_types::names::{NamespaceName, SubscriptionName, TenantName, TopicName};
use alluvium_types::policy::Rollover;
use alluvium_types::time::Timestamp;
use parking_lot::Mutex;

use super::bookies::Bookies;
use super::consumer::Consumer;
use super::history::{Figures, History, Violation};
use super::link::Network;
use super::metadata::Plane;
use super::node::{self, Node};
use super::plan::{Plan, stream};
use super::producer::Producer;
use super::{faults, finish};
use crate::bug::Bug;
use crate::dice::Dice;
use crate::trace::Detail;

/// The topic that everybody uses.
pub(super) const TOPIC: &str = "t/n/topic";
/// Its subscriptions.
pub(super) const SUBSCRIPTIONS: [(&str, SubscriptionKind); 2] =
    [("ordered", SubscriptionKind::Exclusive), ("shared", SubscriptionKind::Shared)];
/// Longer than any run takes, healing included.
const LIMIT: Duration = Duration::from_secs(300);

/// Everything of one run.
pub(super) struct World {
    pub(super) plan: Plan,
    pub(super) bug: Option<Bug>,
    pub(super) simulation: Simulation,
    pub(super) clock: Clock,
    pub(super) history: Arc<History>,
    pub(super) bookies: Arc<Bookies>,
    pub(super) plane: Arc<Plane>,
    pub(super) network: Network,
    /// Metadata as nothing disturbs it.
    pub(super) metadata: Metadata,
    pub(super) nodes: Vec<Node>,
    pub(super) streams: AtomicU64,
    topic: OnceLock<TopicId>,
    /// The broker that clients are told.
    favourite: AtomicUsize,
    is_healed: AtomicBool,
}

/// What a run showed.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// What broke first.
    pub violation: Option<Violation>,
    /// Events of the trace.
    pub events: u64,
    /// Turns that tasks were given.
    pub steps: u64,
    /// The order in which tasks went on, as a number.
    pub course: u64,
    /// The trace as a number.
    pub hash: u64,
    /// The lines that were to be kept.
    pub lines: Vec<String>,
    /// Messages that their senders were told are safe.
    pub confirmed: u64,
    /// Acks that their consumers were told are safe.
    pub acknowledged: u64,
    /// Faults that struck.
    pub faults: u64,
    /// Takeovers while messages were on their way.
    pub takeovers: u64,
    /// Facts that were checked.
    pub checks: u64,
    /// Virtual time.
    pub simulated: Duration,
}

/// Runs a plan.
pub fn run(plan: &Plan, bug: Option<Bug>, detail: Detail) -> Outcome {
    let simulation = Simulation::new(Entropy::seeded(Dice::new(plan.seed, stream::TURNS).bits()));
    let history = Arc::new(History::new(detail));
    let world = World::new(plan, bug, &simulation, &history);
    let clock = world.clock.clone();
    let story = tell(Arc::clone(&world));
    drop(world);
    if simulation.run(LIMIT, story).is_none() {
        history.broken(clock.mono(), "liveness", "the run did not end");
    }
    if let Some(said) = simulation.panics().first() {
        history.broken(clock.mono(), "panic", said);
    }
    let Figures { events, hash, confirmed, checks, faults, takeovers, acknowledged } = history.figures();
    Outcome {
        violation: history.violation(),
        events,
        steps: simulation.steps(),
        course: simulation.course(),
        hash,
        lines: history.lines(),
        confirmed,
        acknowledged,
        faults,
        takeovers,
        checks,
        simulated: clock.mono().as_duration(),
    }
}

async fn tell(world: Arc<World>) {
    let _registered = world.set_up().await;
    (0..world.nodes.len()).for_each(|number| node::start(&world, number));
    let producers = world.begin_clients();
    faults::strike(&world).await;
    finish::heal(&world).await;
    finish::finish(&world, producers).await;
}

impl World {
    fn new(plan: &Plan, bug: Option<Bug>, simulation: &Simulation, history: &Arc<History>) -> Arc<Self> {
        let clock = simulation.clock(Timestamp::from_millis(1 << 40));
        let tasks = simulation.process().tasks();
        let store = MemoryStore::start(clock.clone(), &tasks);
        let metadata =
            Metadata::new(Arc::new(store.clone()), clock.clone(), Entropy::seeded(plan.seed ^ 1), simulation.process().tasks());
        let around = || (clock.clone(), tasks.clone());
        let losses = (plan.shape.hop, plan.shape.lost_once_in);
        let chance = (Dice::new(plan.seed, stream::METADATA), plan.shape.brokers);
        let dice = Arc::new(Mutex::new(Dice::new(plan.seed, stream::CLIENTS)));
        Arc::new(Self {
            plan: plan.clone(),
            bug,
            simulation: simulation.clone(),
            history: Arc::clone(history),
            bookies: Bookies::start(plan, clock.clone(), tasks.clone(), bug),
            plane: Plane::new(store, around(), Arc::clone(history), losses, chance),
            network: Network { clock: clock.clone(), tasks: tasks.clone(), hop: plan.shape.hop, dice },
            metadata,
            nodes: (0..plan.shape.brokers).map(|_| Node::default()).collect(),
            streams: AtomicU64::new(0),
            topic: OnceLock::new(),
            favourite: AtomicUsize::new(0),
            is_healed: AtomicBool::new(false),
            clock,
        })
    }

    /// Registers the bookies, makes the topic and its subscriptions.
    async fn set_up(&self) -> Vec<BookieRegistration> {
        let metadata = &self.metadata;
        let cluster = ClusterId::new(uuid::Uuid::from_u128(1));
        metadata.clusters().init(Some(cluster)).await.expect("nothing disturbs it");
        let mut registered = Vec::new();
        for id in self.bookies.ids() {
            metadata.bookies().claim_identity(&id, cluster).await.expect("nothing disturbs it");
            let info = BookieInfo {
                zone: None,
                address: "simulated".to_owned(),
                writable: true,
                total_bytes: 1 << 40,
                available_bytes: 1 << 39,
            };
            let ttl = Duration::from_secs(3000);
            registered.push(metadata.bookies().register(&id, &info, ttl).await.expect("nothing disturbs it"));
        }
        let name = TopicName::parse(TOPIC).expect("a valid name");
        let tenant = TenantName::parse("t").expect("a valid name");
        let namespace = NamespaceName::parse("t/n").expect("a valid name");
        metadata.tenants().create(&tenant, Policies::default()).await.expect("nothing disturbs it");
        let namespace = metadata.namespaces().create(&namespace, Policies::default()).await.expect("nothing disturbs it");
        let rollover = self.plan.shape.rolls.then(|| Rollover { bytes: 1 << 20, age: Duration::from_millis(1500) });
        let policies = Policies { rollover, ..Policies::default() };
        let partitions = self.plan.shape.partitions;
        let topic = metadata.topics().create(&name, partitions, policies, &namespace).await.expect("nothing disturbs it");
        for (subscription, kind) in SUBSCRIPTIONS {
            let subscription = SubscriptionName::parse(subscription).expect("a valid name");
            let starts = (0..partitions).map(|_| Offset::ZERO).collect();
            metadata.subscriptions().create((&name, &topic), &subscription, kind, starts).await.expect("nothing disturbs it");
        }
        self.plane.watch_over(topic.value.id, partitions);
        self.topic.get_or_init(|| topic.value.id);
        registered
    }

    /// The topic, once it is made.
    pub(super) fn topic(&self) -> TopicId {
        *self.topic.get().expect("the topic is made before anybody uses it")
    }

    /// Begins to publish and to consume; gives the ends of the producers.
    fn begin_clients(self: &Arc<Self>) -> Vec<Ended> {
        let tasks: &Tasks = &self.network.tasks;
        let mut dice = Dice::new(self.plan.seed, stream::CLIENTS + 1000);
        let mut ends = Vec::new();
        for partition in 0..self.plan.shape.partitions {
            let idempotent = (0..self.plan.shape.producers).map(|n| format!("i{n}p{partition}"));
            for name in idempotent.chain([format!("x0p{partition}")]) {
                let own = Dice::new(dice.bits(), 0);
                let producer = Producer::new(Arc::clone(self), name, partition, own);
                ends.push(tasks.spawn("producer", OnFailure::Log, async move {
                    producer.run().await;
                    Ok::<(), std::convert::Infallible>(())
                }));
            }
            for subscription in SUBSCRIPTIONS.into_iter().chain([SUBSCRIPTIONS[1]]) {
                let consumer = Consumer { world: Arc::clone(self), subscription, partition, dice: Dice::new(dice.bits(), 0) };
                tasks.spawn("consumer", OnFailure::Log, async move {
                    consumer.run().await;
                    Ok::<(), std::convert::Infallible>(())
                });
            }
        }
        ends
    }

    /// Where a client goes.
    pub(super) fn choose(&self, dice: &mut Dice) -> usize {
        let astray = self.plan.shape.astray_once_in;
        if !self.is_healed() && astray > 0 && dice.below(astray) == 0 {
            return dice.index(self.nodes.len());
        }
        self.favourite.load(Ordering::Relaxed)
    }

    /// A broker did not do: clients are told another one, if it was told so far.
    pub(super) fn complain(&self, node: usize, dice: &mut Dice) {
        if !self.is_healed() && self.favourite.load(Ordering::Relaxed) == node {
            let others = self.nodes.len() - 1;
            self.favour((node + 1 + dice.index(others)) % self.nodes.len());
        }
    }

    /// Clients are told this broker from now on.
    pub(super) fn favour(&self, node: usize) {
        self.history.note(self.clock.mono(), format_args!("clients are told n{node}"));
        self.favourite.store(node, Ordering::Relaxed);
    }

    /// The broker that clients are told.
    pub(super) fn favourite(&self) -> usize {
        self.favourite.load(Ordering::Relaxed)
    }

    /// Whether nothing goes wrong any more.
    pub(super) fn is_healed(&self) -> bool {
        self.is_healed.load(Ordering::Relaxed)
    }

    pub(super) fn set_healed(&self) {
        self.is_healed.store(true, Ordering::Relaxed);
    }
}
