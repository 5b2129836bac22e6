//! The publishing side: one thread, all producers on it.

use std::pin::pin;
use std::sync::Arc;

use alluvium_client::{Client, Message, Pending, Producer, QUEUED_BYTES_MAX};
use alluvium_runtime::clock::Clock;
use alluvium_runtime::tasks::{OnFailure, Tasks};
use alluvium_runtime::ticker::Ticker;
use alluvium_types::time::Mono;
use bytes::Bytes;
use futures::future::join_all;
use futures::{FutureExt, poll};
use tokio::sync::mpsc;

use super::{DRAIN_LIMIT, Plan};
use crate::content::Writer;
use crate::error::Error;
use crate::ns;
use crate::schedule::Schedule;
use crate::verify::Tally;

/// Messages that are handed over together, at most.
const CHUNK: usize = 1024;
/// After how many messages a reading of the clock is too old to go by.
const READING_LASTS: usize = 64;

/// What was sent, once all of it has a receipt or none will come.
#[derive(Debug, Default)]
pub(super) struct Published {
    /// Of each topic.
    pub(super) tallies: Vec<Tally>,
}

/// A message that was handed to the producer.
#[derive(Debug)]
struct Sent {
    since: Mono,
    pending: Pending,
}

/// One producer, and where its receipts are awaited: in order for each partition, as that is how they come.
struct Sender {
    plan: Arc<Plan>,
    producer: Producer,
    topic: usize,
    number: u32,
    content: Writer,
    keys: Arc<[Bytes]>,
    sequence: u64,
    limit: u64,
    tally: Tally,
    receipts: Receipts,
}

/// Where the receipts of one producer are awaited. What is sent is handed over many at a time, as a hand-over for each message costs
/// as much as the message.
struct Receipts {
    plan: Arc<Plan>,
    tasks: Tasks,
    lanes: Vec<Lane>,
    /// The partitions that have something to hand over.
    filled: Vec<u32>,
}

/// One partition of a producer: what was sent and not yet handed to whoever awaits its receipts.
#[derive(Default)]
struct Lane {
    sent: Vec<Sent>,
    collector: Option<mpsc::Sender<Vec<Sent>>>,
}

/// All producers, connected.
pub(super) struct Publishers {
    plan: Arc<Plan>,
    senders: Vec<Sender>,
    receipts: Tasks,
}

impl Publishers {
    pub(super) async fn connect(plan: &Arc<Plan>, tasks: &Tasks) -> Result<Self, Error> {
        let load = &plan.workload;
        let client = Client::builder(&plan.server).queued_bytes_max(QUEUED_BYTES_MAX.max(load.window_bytes));
        let client = client.connect().await.map_err(Error::client("cannot connect to publish"))?;
        let keys: Arc<[Bytes]> = (0..load.keys).map(|key| Bytes::from(format!("key-{key:07}"))).collect();
        let receipts = tasks.part();
        let mut senders = Vec::new();
        for (topic, name) in plan.topics.iter().enumerate() {
            for _ in 0..load.producers {
                let producer = client
                    .producer(name)
                    .batch_bytes(load.batch_bytes)
                    .linger(load.linger)
                    .window_bytes(load.window_bytes)
                    .guarantee(load.guarantee)
                    .build()
                    .await
                    .map_err(Error::client(format!("cannot publish to {name}")))?;
                let number = u32::try_from(senders.len()).expect("producers are bounded");
                let lanes = (0..producer.partitions()).map(|_| Lane::default()).collect();
                senders.push(Sender {
                    plan: Arc::clone(plan),
                    topic,
                    number,
                    content: Writer::new(number, load.message_size, &plan.entropy),
                    keys: Arc::clone(&keys),
                    sequence: 0,
                    limit: plan.messages_max(number),
                    tally: Tally::default(),
                    receipts: Receipts { plan: Arc::clone(plan), tasks: receipts.clone(), lanes, filled: Vec::new() },
                    producer,
                });
            }
        }
        Ok(Self { plan: Arc::clone(plan), senders, receipts })
    }

    /// Sends until told to stop, or all is sent; then waits for what is on its way.
    pub(super) async fn run(mut self, begin: Mono, stop: &Tasks) -> Result<Published, Error> {
        let load = &self.plan.workload;
        if load.rate == 0 {
            join_all(self.senders.iter_mut().map(|sender| sender.as_fast_as_it_goes(stop))).await;
        } else {
            let schedule = Schedule::new(load.rate, load.tick);
            on_schedule(&mut self.senders, schedule, load.tick, begin, stop).await?;
        }
        let mut tallies = vec![Tally::default(); self.plan.topics.len()];
        let mut producers = Vec::with_capacity(self.senders.len());
        for mut sender in self.senders {
            sender.receipts.hand_over().await;
            tallies[sender.topic].join(sender.tally);
            // The lanes go, so that who awaits their receipts ends with the last one.
            producers.push(sender.producer);
        }
        let closing = join_all(producers.iter().map(Producer::close));
        if self.plan.clock.timeout(DRAIN_LIMIT, closing).await.is_err() {
            self.plan.published.error(&format!("receipts did not come within {DRAIN_LIMIT:?}"));
        }
        self.receipts.join(DRAIN_LIMIT).await;
        Ok(Published { tallies })
    }
}

/// One pace for all producers, in turn.
async fn on_schedule(
    senders: &mut [Sender],
    mut schedule: Schedule,
    tick: std::time::Duration,
    begin: Mono,
    stop: &Tasks,
) -> Result<(), Error> {
    let Some(plan) = senders.first().map(|sender| Arc::clone(&sender.plan)) else { return Ok(()) };
    let mut ticker = Ticker::every(tick).map_err(Error::system("cannot have a timer"))?;
    let mut turn = 0;
    while !stop.is_stopping() {
        tokio::select! {
            biased;
            () = stop.stopping() => break,
            ticked = ticker.tick() => ticked.map_err(Error::system("cannot wait for a timer"))?,
        };
        while let Some(due) = schedule.next(ns(plan.clock.mono().since(begin))) {
            let intended = begin.after(std::time::Duration::from_nanos(due.intended_ns));
            for _ in 0..due.count {
                let sent = senders[turn].send(intended, true, stop).await;
                turn = (turn + 1) % senders.len();
                if !sent {
                    return Ok(());
                }
            }
            let late = plan.clock.mono().since(intended);
            plan.published.add(|figures| figures.delay.record(ns(late), due.count));
            if stop.is_stopping() {
                return Ok(());
            }
            // What is due must not keep what was sent from the connection.
            tokio::task::yield_now().await;
        }
    }
    Ok(())
}

impl Sender {
    async fn as_fast_as_it_goes(&mut self, stop: &Tasks) {
        // As many as fill a batch; then the connection has its turn.
        let load = &self.plan.workload;
        let burst = (load.batch_bytes / load.message_size).clamp(1, CHUNK);
        while !stop.is_stopping() {
            let now = self.plan.clock.mono();
            for _ in 0..burst {
                if self.sequence >= self.limit || !self.send(now, false, stop).await {
                    return;
                }
            }
            self.receipts.hand_over().await;
            tokio::task::yield_now().await;
        }
    }

    /// Hands one message to the producer, waiting while its window is full. `false` when nothing more can be sent. Measured is from
    /// `intended`; without a schedule, from when the window had room.
    async fn send(&mut self, intended: Mono, is_scheduled: bool, stop: &Tasks) -> bool {
        let payload = self.content.message(self.sequence, ns(intended.as_duration()));
        let mut message = Message::new(payload);
        if !self.keys.is_empty() {
            let turn = self.sequence % self.keys.len() as u64;
            message = message.key(self.keys[usize::try_from(turn).expect("keys are in memory")].clone());
        }
        let mut since = intended;
        let queued = {
            let mut queue = pin!(self.producer.queue(message));
            match poll!(&mut queue) {
                std::task::Poll::Ready(queued) => queued,
                std::task::Poll::Pending => {
                    // Their receipts are what it waits for.
                    self.receipts.hand_over().await;
                    let queued = tokio::select! {
                        biased;
                        queued = &mut queue => queued,
                        () = stop.stopping() => return false,
                    };
                    if !is_scheduled {
                        since = self.plan.clock.mono();
                    }
                    queued
                }
            }
        };
        let pending = match queued {
            Ok(pending) => pending,
            Err(error) => {
                self.plan.published.error(&error.to_string());
                return false;
            }
        };
        self.tally.add(self.number, self.sequence);
        self.sequence += 1;
        self.receipts.add(Sent { since, pending });
        if is_scheduled {
            // Others may be sent late before this one's turn comes again: it is looked at now.
            self.receipts.hand_over().await;
        }
        true
    }
}

impl Receipts {
    fn add(&mut self, sent: Sent) {
        let partition = sent.pending.partition();
        let lane = &mut self.lanes[partition as usize];
        if lane.sent.is_empty() {
            self.filled.push(partition);
        }
        lane.sent.push(sent);
    }

    /// Hands what was sent to whoever awaits its receipts.
    async fn hand_over(&mut self) {
        let Self { plan, tasks, lanes, filled } = self;
        for partition in filled.drain(..) {
            let Lane { sent, collector } = &mut lanes[partition as usize];
            let collector = collector.get_or_insert_with(|| begin_to_collect(plan, tasks));
            let room = Vec::with_capacity(sent.len());
            // Nobody awaits them once the time to wait for the last ones is over.
            let _ = collector.send(std::mem::replace(sent, room)).await;
        }
    }
}

/// Begins to await the receipts of one producer and partition.
fn begin_to_collect(plan: &Arc<Plan>, tasks: &Tasks) -> mpsc::Sender<Vec<Sent>> {
    // As many as the window holds, also where each is handed over alone: the producer's bound is the one that is met.
    let load = &plan.workload;
    let (lane, sent) = mpsc::channel((load.window_bytes / load.message_size).clamp(CHUNK, 1 << 17));
    let plan = Arc::clone(plan);
    tasks.spawn("receipts", OnFailure::Log, async move {
        collect(&plan, sent).await;
        Ok::<(), std::convert::Infallible>(())
    });
    lane
}

/// Awaits the receipts of one producer and partition, in order.
async fn collect(plan: &Plan, mut sent: mpsc::Receiver<Vec<Sent>>) {
    let mut told = Told { plan, now: plan.clock.mono(), age: 0, nanos: Vec::with_capacity(CHUNK) };
    while let Some(chunk) = sent.recv().await {
        told.age = READING_LASTS;
        for Sent { since, mut pending } in chunk {
            let receipt = if let Some(receipt) = (&mut pending).now_or_never() {
                receipt
            } else {
                told.flush();
                let receipt = pending.await;
                told.age = READING_LASTS;
                receipt
            };
            match receipt {
                Ok(_) => told.message(since, &plan.clock),
                Err(error) => plan.published.error(&error.to_string()),
            }
        }
        told.flush();
    }
}

/// Receipts that came together.
struct Told<'a> {
    plan: &'a Plan,
    now: Mono,
    /// Messages since the clock was read.
    age: usize,
    nanos: Vec<u64>,
}

impl Told<'_> {
    fn message(&mut self, since: Mono, clock: &Clock) {
        if self.age >= READING_LASTS {
            self.now = clock.mono();
            self.age = 0;
        }
        self.age += 1;
        self.nanos.push(ns(self.now.since(since)));
    }

    fn flush(&mut self) {
        if self.nanos.is_empty() {
            return;
        }
        let (nanos, now) = (&mut self.nanos, self.now);
        self.plan.published.add(|figures| {
            figures.messages += nanos.len() as u64;
            figures.last = now;
            for nanos in nanos.drain(..) {
                figures.latency.record(nanos, 1);
            }
        });
    }
}
