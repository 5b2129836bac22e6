//! A broker as a process: started, killed, paused, drained; and its doors, through which clients come.

use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use alluvium_broker::broker::{Broker, Surroundings};
use alluvium_broker::config::Config;
use alluvium_broker::deliver::ConsumeEdge;
use alluvium_broker::metrics::Metrics;
use alluvium_broker::publish::PublishEdge;
use alluvium_ledger::LedgerClient;
use alluvium_metadata::Metadata;
use alluvium_metadata::brokers::IfRegistered;
use alluvium_metadata::subscriptions::SubscriptionKind;
use alluvium_proto::status::to_status;
use alluvium_proto::v1;
use alluvium_proto::v1::subscribe_response::Response;
use alluvium_runtime::backoff::Backoff;
use alluvium_runtime::clock::Clock;
use alluvium_runtime::entropy::Entropy;
use alluvium_runtime::lanes::Lanes;
use alluvium_runtime::net::Reach;
use alluvium_runtime::simulation::Process;
use alluvium_runtime::tasks::{OnFailure, Tasks};
use alluvium_types::ids::PartitionIndex;
use alluvium_types::limits::Limits;
use alluvium_types::names::BrokerName;
use alluvium_types::time::Timestamp;
use parking_lot::Mutex;

use super::bookie_client::Dialler;
use super::history::{Partition, StreamOf};
use super::link::{Call, stream};
use super::metadata::Way;
use super::plan::{Shape, stream as chance};
use super::world::World;
use crate::bug::Bug;

/// How long a broker may take to stop in an orderly way.
const GRACE: Duration = Duration::from_secs(3);
/// How far the wall clocks of brokers differ (C55).
const SKEW: Duration = Duration::from_secs(3600);

/// One broker's place.
#[derive(Default)]
pub(super) struct Node(Mutex<State>);

#[derive(Default)]
struct State {
    process: Option<Process>,
    lives: u64,
    doors: Option<Doors>,
}

/// The way in.
#[derive(Clone)]
pub(super) struct Doors {
    pub(super) broker: Broker,
    publish: PublishEdge,
    consume: ConsumeEdge,
    tasks: Tasks,
}

/// Settings under which a run is short.
pub(super) fn config(shape: &Shape) -> Config {
    Config {
        session_ttl_ms: 1200,
        dispatch_margin_ms: 300,
        stall_after_ms: 2000,
        answer_after_ms: 3000,
        idle_close_ms: if shape.rolls { 700 } else { 60_000 },
        retention_interval_ms: 5000,
        audit_interval_ms: 2500,
        replication: shape.replication,
        snapshot_entries: shape.snapshot_entries,
        state_entry_bytes: shape.state_entry_bytes,
        ..Config::default()
    }
}

fn ledger_config() -> alluvium_ledger::Config {
    alluvium_ledger::Config {
        slow_after_ms: 150,
        bad_after_ms: 500,
        open_timeout_ms: 300,
        quarantine_ms: 500,
        hedge_after_ms: 50,
        read_timeout_ms: 400,
        recovery_timeout_ms: 4000,
        ..alluvium_ledger::Config::default()
    }
}

impl Node {
    /// Its doors, once it serves.
    pub(super) fn doors(&self) -> Option<Doors> {
        self.0.lock().doors.clone()
    }

    /// Whether a process is there, whatever it does.
    pub(super) fn is_up(&self) -> bool {
        self.0.lock().process.is_some()
    }

    pub(super) fn pause(&self) {
        if let Some(process) = &self.0.lock().process {
            process.pause();
        }
    }

    pub(super) fn wake(&self) {
        if let Some(process) = &self.0.lock().process {
            process.wake();
        }
    }

    /// Its process is gone at once. Whether there was one.
    pub(super) fn kill(&self) -> bool {
        let process = {
            let mut state = self.0.lock();
            state.doors = None;
            state.process.take()
        };
        // What goes with it may ask for this place.
        process.inspect(Process::kill).is_some()
    }
}

/// Starts a broker where none runs.
pub(super) fn start(world: &Arc<World>, number: usize) {
    let (process, life) = {
        let mut state = world.nodes[number].0.lock();
        if state.process.is_some() {
            return;
        }
        let process = world.simulation.process();
        state.process = Some(process.clone());
        state.lives += 1;
        (process, state.lives)
    };
    let tasks = process.tasks();
    let seed = chance::BROKERS.wrapping_mul(1000).wrapping_add(number as u64 * 100 + life);
    let entropy = Entropy::seeded(world.plan.seed ^ seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    let wall = Timestamp::from_millis((1 << 40) + number as u64 * u64::try_from(SKEW.as_millis()).unwrap_or(0));
    let (world, clock) = (Arc::clone(world), world.simulation.clock(wall));
    process.tasks().spawn("start", OnFailure::Log, async move {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_millis(400), entropy.clone());
        loop {
            if let Some(broker) = try_start(&world, number, (&clock, &entropy, &tasks)).await {
                world.history.note(world.clock.mono(), format_args!("n{number} serves"));
                let (publish, consume) = (PublishEdge::new(broker.clone()), ConsumeEdge::new(broker.clone()));
                world.nodes[number].0.lock().doors = Some(Doors { broker, publish, consume, tasks });
                return Ok::<(), std::convert::Infallible>(());
            }
            clock.sleep(backoff.delay()).await;
        }
    });
}

async fn try_start(world: &Arc<World>, number: usize, (clock, entropy, tasks): (&Clock, &Entropy, &Tasks)) -> Option<Broker> {
    let way = Way { plane: Arc::clone(&world.plane), broker: number };
    let metadata = Metadata::new(Arc::new(way), clock.clone(), entropy.clone(), tasks.part());
    let metadata = metadata.with_mutations(Bug::in_metadata(world.bug));
    let dialler = Arc::new(Dialler { bookies: Arc::clone(&world.bookies), broker: number });
    let ledgers =
        LedgerClient::start(&metadata, dialler, entropy.clone(), tasks.part(), Limits::default(), ledger_config()).await.ok()?;
    let surroundings = Surroundings {
        config: config(&world.plan.shape),
        name: BrokerName::parse(&format!("n{number}")).expect("a valid name"),
        address: format!("http://n{number}"),
        internal_address: format!("http://n{number}"),
        if_registered: IfRegistered::Refuse,
        reach: Reach::Nobody,
        metadata,
        ledgers,
        clock: clock.clone(),
        entropy: entropy.clone(),
        limits: Limits::default(),
        metrics: Metrics::default(),
        tasks: tasks.part(),
        lanes: Lanes::here(),
    };
    Broker::start_with(surroundings, Bug::in_broker(world.bug)).await.ok()
}

/// Stops a broker in an orderly way, and takes its process away then.
pub(super) async fn drain(world: &Arc<World>, number: usize) {
    let Some(doors) = world.nodes[number].doors() else { return };
    let broker = doors.broker.clone();
    let drained = doors.tasks.spawn("drain", OnFailure::Log, async move {
        broker.drain(GRACE).await;
        Ok::<(), std::convert::Infallible>(())
    });
    // A process that stands still meanwhile is not waited for.
    let _ = world.clock.timeout(2 * GRACE, drained).await;
}

impl World {
    /// Opens a publish stream; `None` when nobody is there.
    pub(super) fn publish(&self, node: usize) -> Option<Call<v1::PublishStreamRequest, v1::PublishStreamResponse>> {
        let doors = self.nodes[node].doors()?;
        let (call, accepted) = stream(&self.network);
        doors.tasks.clone().spawn("publish-door", OnFailure::Log, async move {
            match doors.publish.stream(accepted.requests).await {
                Ok(responses) => accepted.answers.carry(responses, |_| {}).await,
                Err(fault) => accepted.answers.refuse(to_status(&fault)).await,
            }
            Ok::<(), std::convert::Infallible>(())
        });
        Some(call)
    }

    /// Opens a subscription's stream to one partition; `None` when nobody is there.
    pub(super) fn subscribe(
        &self,
        node: usize,
        (subscription, kind): (&'static str, SubscriptionKind),
        partition: Partition,
    ) -> Option<(Call<v1::SubscribeRequest, v1::SubscribeResponse>, StreamOf)> {
        let doors = self.nodes[node].doors()?;
        let number = self.streams.fetch_add(1, Ordering::Relaxed);
        let of = StreamOf { subscription, kind, partition, number, epoch: Arc::new(OnceLock::new()), broker: node };
        let (call, accepted) = stream(&self.network);
        let (history, clock, seen_by, topic) = (Arc::clone(&self.history), self.clock.clone(), of.clone(), self.topic());
        doors.tasks.clone().spawn("consume-door", OnFailure::Log, async move {
            let responses = match doors.consume.subscription_here(accepted.requests).await {
                Ok(responses) => responses,
                Err(fault) => {
                    accepted.answers.refuse(to_status(&fault)).await;
                    return Ok::<(), std::convert::Infallible>(());
                }
            };
            if let Some(handle) = doors.broker.loaded(topic, PartitionIndex::new(partition)) {
                seen_by.epoch.get_or_init(|| handle.epoch().get());
            }
            let seen = |response: &v1::SubscribeResponse| {
                let Some(Response::Delivery(delivery)) = &response.response else { return };
                for one in &delivery.messages {
                    let payload = one.message.as_ref().map(|message| message.payload.clone()).unwrap_or_default();
                    history.delivered(clock.mono(), &seen_by, one.offset, &String::from_utf8_lossy(&payload));
                }
            };
            accepted.answers.carry(responses, seen).await;
            Ok(())
        });
        Some((call, of))
    }
}
