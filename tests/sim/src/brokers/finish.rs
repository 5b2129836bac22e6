//! The end of a run: everything is healed, all that was to be published is, all of it is consumed, and the log is read.

use std::sync::Arc;
use std::time::Duration;

use alluvium_metadata::PartitionId;
use alluvium_runtime::tasks::Ended;
use alluvium_types::ids::{Offset, PartitionIndex};
use alluvium_types::names::TopicName;
use futures::future::join_all;

use super::history::Partition;
use super::world::{SUBSCRIPTIONS, TOPIC, World};
use super::{faults, node};

/// From the end of the last fault on, all that can be done is done in this time.
const WITHIN: Duration = Duration::from_secs(60);
/// How often that is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// Nothing goes wrong from now on.
pub(super) async fn heal(world: &Arc<World>) {
    if world.history.is_broken() {
        return;
    }
    world.history.note(world.clock.mono(), format_args!("all is healed"));
    world.set_healed();
    world.plane.heal();
    world.bookies.heal();
    for bookie in 0..world.plan.shape.bookies {
        faults::restart(world, bookie).await;
    }
    // Whoever lost a partition and lives keeps what promises order waiting for as long as its session lasts (M4), and doesn't know
    // that it lost it while it writes nothing. So all go, and the one that clients are told begins anew, with nothing but what is
    // stored.
    let favourite = world.favourite();
    for number in 0..world.nodes.len() {
        world.nodes[number].kill();
        world.bookies.gone(number);
    }
    node::start(world, favourite);
}

/// Waits for what is left, and looks at what there is.
pub(super) async fn finish(world: &Arc<World>, producers: Vec<Ended>) {
    let until = world.clock.mono().after(WITHIN);
    let published = async {
        let mut producers = join_all(producers);
        loop {
            if world.clock.timeout(LOOK, &mut producers).await.is_ok() || world.history.is_broken() {
                return;
            }
        }
    };
    if world.clock.timeout(WITHIN, published).await.is_err() {
        return world.history.broken(world.clock.mono(), "liveness", "not all is published in time");
    }
    for partition in 0..world.plan.shape.partitions {
        let log = loop {
            if world.history.is_broken() {
                return;
            }
            if let Some(log) = read(world, partition).await {
                break log;
            }
            if world.clock.mono() >= until {
                return world.history.broken(world.clock.mono(), "liveness", format!("p{partition} is not readable in time"));
            }
            world.clock.sleep(LOOK).await;
        };
        world.history.log_is(world.clock.mono(), partition, &log);
        for (subscription, _) in SUBSCRIPTIONS {
            let end = log.len() as u64;
            while let Some(first) = world.history.undelivered(subscription, partition, end) {
                if world.history.is_broken() {
                    return;
                }
                if world.clock.mono() >= until {
                    let missing = format!("{first} of {end} in p{partition} is not delivered on {subscription} in time");
                    return world.history.broken(world.clock.mono(), "T2", missing);
                }
                world.clock.sleep(LOOK).await;
            }
        }
        segments(world, partition, log.len() as u64).await;
    }
}

/// A partition's whole log, as the broker that clients are told serves it; `None` if it does not now.
async fn read(world: &Arc<World>, partition: Partition) -> Option<Vec<(u64, String)>> {
    let broker = world.nodes[world.favourite()].doors()?.broker;
    let topic = broker.topic(&TopicName::parse(TOPIC).expect("a valid name")).await.ok()?;
    let handle = broker.partition(&topic, PartitionIndex::new(partition)).await.ok()?;
    let mut log = Vec::new();
    let mut at = Offset::ZERO;
    loop {
        let entries = handle.reader().read(at, 1 << 20).await.ok()?;
        let Some(last) = entries.last() else { break };
        at = last.end_offset();
        for batch in entries.iter().flat_map(|entry| entry.batches()) {
            let messages = alluvium_proto::batch::decode(&batch.descriptor.header, batch.blob).ok()?;
            for (offset, message) in (batch.first_offset.get()..).zip(messages) {
                log.push((offset, String::from_utf8_lossy(&message.payload).into_owned()));
            }
        }
    }
    (at == handle.bounds().end).then_some(log)
}

/// The list of segments says of each ledger what the ledger itself says (C62, M1).
async fn segments(world: &Arc<World>, partition: Partition, end: u64) {
    let id = PartitionId { topic: world.topic(), index: PartitionIndex::new(partition) };
    let Ok(segments) = world.metadata.segments().all(id).await else { return };
    let now = world.clock.mono();
    let mut next = Offset::ZERO;
    for segment in segments {
        let number = segment.value.number;
        if let Some(first) = segment.value.first {
            world.history.check(now, first == next, "C62", || {
                format!("segment {number} of p{partition} begins at {first} and not at {next}")
            });
        }
        let record = world.metadata.ledgers().get(segment.value.ledger).await.ok().flatten();
        world.history.check(now, record.is_some(), "T5", || format!("segment {number} of p{partition} has no ledger"));
        if let (Some(sealed), Some(record)) = (segment.value.sealed, record) {
            let is_empty = record.value.closed_at().map(|last| last.is_none());
            world.history.check(now, is_empty == Some(sealed.messages == 0), "C62", || {
                format!(
                    "segment {number} of p{partition} holds {} messages, its ledger is {:?}",
                    sealed.messages, record.value.state
                )
            });
            next = sealed.end;
        }
    }
    world.history.check(now, next.get() <= end, "C62", || format!("p{partition} is sealed up to {next} and ends at {end}"));
}
