//! The consuming side: every message verified.

use std::sync::Arc;

use alluvium_client::{Client, Consumer, Delivery, Error as ClientError, Start};
use alluvium_runtime::tasks::Tasks;
use futures::FutureExt;
use futures::future::join_all;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{DRAIN_LIMIT, Plan};
use crate::error::Error;
use crate::ns;
use crate::verify::{Faults, Tally, Verifier};

/// Messages that are looked at together.
const CHUNK: usize = 256;
/// The fewest messages that may wait here.
const PREFETCH_MESSAGES_MIN: u64 = 1000;

/// What the subscriptions of all topics have delivered.
#[derive(Debug)]
pub(super) struct Groups {
    /// Of each topic, of each subscription.
    groups: Vec<Mutex<Group>>,
    /// Wakes who waits for the last message.
    done: Notify,
}

#[derive(Debug)]
struct Group {
    verifier: Verifier,
    topic: usize,
    /// What was sent to its topic, once that is known.
    sent: Option<Tally>,
}

impl Groups {
    pub(super) fn new(plan_topics: usize, load: &crate::Workload) -> Self {
        let group = |topic: usize| {
            let first = u32::try_from(topic).expect("topics are bounded") * load.producers;
            let verifier = Verifier::new(load.message_size, load.partitions, first, load.producers, load.is_ordered());
            Mutex::new(Group { verifier, topic, sent: None })
        };
        let groups = (0..plan_topics).flat_map(|topic| (0..load.readers()).map(move |_| topic)).map(group).collect();
        Self { groups, done: Notify::new() }
    }

    /// Says what was sent to each topic.
    pub(super) fn expect(&self, sent: &[Tally]) {
        for group in &self.groups {
            let mut group = group.lock();
            group.sent = sent.get(group.topic).copied();
        }
    }

    /// Whether as many have come as were sent.
    pub(super) fn are_complete(&self) -> bool {
        self.groups.iter().all(|group| group.lock().is_complete())
    }

    /// Resolves when a subscription may have become complete.
    pub(super) async fn advanced(&self) {
        self.done.notified().await;
    }

    /// How many messages came, all subscriptions together.
    pub(super) fn count(&self) -> u64 {
        self.groups.iter().map(|group| group.lock().verifier.count()).sum()
    }

    /// How many subscriptions there are.
    pub(super) const fn len(&self) -> usize {
        self.groups.len()
    }

    /// The verdict.
    pub(super) fn finish(&self) -> Faults {
        let mut faults = Faults::default();
        for group in &self.groups {
            let group = group.lock();
            faults.join(group.verifier.finish(group.sent.unwrap_or_default()));
        }
        faults
    }
}

impl Group {
    fn is_complete(&self) -> bool {
        self.sent.is_some_and(|sent| self.verifier.count() >= sent.count)
    }
}

/// Which of the consumers are those of one thread.
#[derive(Clone, Copy, Debug)]
pub(super) struct Share {
    /// The thread's number.
    pub(super) number: usize,
    /// How many threads there are.
    pub(super) of: usize,
}

/// The consumers of one thread, subscribed, on a connection of their own.
pub(super) struct Consumers {
    plan: Arc<Plan>,
    /// Each with the number of its subscription.
    consumers: Vec<(usize, Consumer)>,
}

impl Consumers {
    pub(super) async fn subscribe(plan: &Arc<Plan>, share: Share) -> Result<Self, Error> {
        let client = Client::connect(&plan.server).await.map_err(Error::client("cannot connect to consume"))?;
        let load = &plan.workload;
        let messages = (load.prefetch_bytes / load.message_size as u64).max(PREFETCH_MESSAGES_MIN);
        let mut consumers = Vec::new();
        let (mut group, mut turn) = (0, 0);
        for topic in &plan.topics {
            for subscription in 0..load.readers() {
                for number in 0..load.consumers {
                    turn += 1;
                    if turn % share.of != share.number {
                        continue;
                    }
                    let builder = client
                        .consumer(topic)
                        .subscription(format!("bench-{subscription}"))
                        .name(format!("bench-{number}"))
                        .start(Start::Earliest)
                        .prefetch(messages, load.prefetch_bytes);
                    let builder = if load.is_ordered() {
                        let mine = (0..load.partitions).filter(|partition| partition % load.consumers == number);
                        builder.exclusive().partitions(mine)
                    } else {
                        builder.shared()
                    };
                    let consumer = builder.build().await.map_err(Error::client(format!("cannot consume {topic}")))?;
                    consumers.push((group, consumer));
                }
                group += 1;
            }
        }
        Ok(Self { plan: Arc::clone(plan), consumers })
    }

    /// Consumes until told to stop.
    pub(super) async fn run(self, stop: &Tasks) {
        let plan = &self.plan;
        join_all(self.consumers.into_iter().map(|(group, consumer)| consume(plan, group, consumer, stop))).await;
    }
}

async fn consume(plan: &Plan, group: usize, mut consumer: Consumer, stop: &Tasks) {
    let mut chunk: Vec<Delivery> = Vec::with_capacity(CHUNK);
    let mut nanos: Vec<u64> = Vec::with_capacity(CHUNK);
    loop {
        let mut item = tokio::select! {
            biased;
            item = consumer.next() => Some(item),
            () = stop.stopping() => break,
        };
        while let Some(delivered) = item {
            match delivered {
                Some(Ok(delivery)) => chunk.push(delivery),
                Some(Err(error)) => {
                    plan.consumed.error(&error.to_string());
                    if !matches!(error, ClientError::Undeliverable { .. }) {
                        return;
                    }
                }
                None => return,
            }
            item = if chunk.len() < CHUNK { consumer.next().now_or_never() } else { None };
        }
        let now = plan.clock.mono();
        let is_complete = {
            let mut group = plan.groups.groups[group].lock();
            for delivery in &chunk {
                let head = group.verifier.check(delivery.partition, delivery.offset, delivery.payload());
                nanos.extend(head.map(|head| ns(now.as_duration()).saturating_sub(head.intended_ns)));
            }
            group.is_complete()
        };
        plan.consumed.add(|figures| {
            figures.messages += chunk.len() as u64;
            figures.last = now;
            for nanos in nanos.drain(..) {
                figures.latency.record(nanos, 1);
            }
        });
        for delivery in chunk.drain(..) {
            consumer.ack_later(&delivery);
        }
        if is_complete {
            plan.groups.done.notify_one();
        }
        // Others on this thread have their turn.
        tokio::task::yield_now().await;
    }
    match plan.clock.timeout(DRAIN_LIMIT, consumer.close()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => plan.consumed.error(&format!("acknowledgements were not confirmed: {error}")),
        Err(late) => plan.consumed.error(&format!("acknowledgements were not confirmed: {late}")),
    }
}
