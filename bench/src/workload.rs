//! What load is put on a server, in OpenMessaging's words.

use std::time::Duration;

use alluvium_client::Guarantee;

use crate::content::HEAD_BYTES;

/// The finest tick of an open loop: finer ones cost a processor, and make outliers of their own.
pub const TICK_MIN: Duration = Duration::from_micros(250);
/// The longest run: its figures are kept for each second.
pub const DURATION_MAX: Duration = Duration::from_secs(24 * 3600);
/// The most producers, and the most consumers.
const CLIENTS_MAX: u32 = 10_000;
/// The most topics.
const TOPICS_MAX: u32 = 1_000;
/// The most partitions of a topic: what a server takes.
const PARTITIONS_MAX: u32 = 1_024;
/// The most pairs of producer and partition: order is followed for each.
const LANES_MAX: u64 = 1 << 20;
/// The most keys.
const KEYS_MAX: u32 = 1 << 20;
/// The most bytes in flight of one producer.
const WINDOW_BYTES_MAX: usize = 1 << 30;

/// A load.
#[derive(Clone, Debug)]
pub struct Workload {
    /// Messages a second of all producers together; 0 for as many as go.
    pub rate: u64,
    /// How often messages that are due are sent, where there is a rate.
    pub tick: Duration,
    /// Bytes of a message's payload.
    pub message_size: usize,
    /// Topics.
    pub topics: u32,
    /// Partitions of each topic.
    pub partitions: u32,
    /// Producers of each topic.
    pub producers: u32,
    /// Subscriptions of each topic; each gets every message.
    pub subscriptions: u32,
    /// Consumers of each subscription. More of them than partitions share it, without an order.
    pub consumers: u32,
    /// Different keys, in turn; 0 for messages without one.
    pub keys: u32,
    /// Bytes at which a producer closes a batch.
    pub batch_bytes: usize,
    /// How long a batch that isn't full waits for company.
    pub linger: Duration,
    /// The most bytes of each producer that are queued or in flight.
    pub window_bytes: usize,
    /// The most bytes of each consumer that are on their way or wait.
    pub prefetch_bytes: u64,
    /// What a receipt promises.
    pub guarantee: Guarantee,
    /// How long is measured.
    pub duration: Duration,
    /// How long the load runs before it is measured.
    pub warm_up: Duration,
    /// Payload that is published first, as fast as it goes; what is measured then is how fast it is read back. 0 for none.
    pub backlog_bytes: u64,
    /// Where the topics are made: `tenant/namespace`.
    pub namespace: String,
    /// Leave the topics there.
    pub keep: bool,
}

impl Default for Workload {
    fn default() -> Self {
        Self {
            rate: 0,
            tick: TICK_MIN,
            message_size: 1 << 10,
            topics: 1,
            partitions: 1,
            producers: 1,
            subscriptions: 1,
            consumers: 1,
            keys: 0,
            batch_bytes: 64 << 10,
            linger: Duration::ZERO,
            window_bytes: 8 << 20,
            prefetch_bytes: 8 << 20,
            guarantee: Guarantee::Quorum,
            duration: Duration::from_secs(30),
            warm_up: Duration::from_secs(5),
            backlog_bytes: 0,
            namespace: "public/default".to_owned(),
            keep: false,
        }
    }
}

impl Workload {
    /// All that is wrong, one sentence each; empty when nothing is.
    pub fn validate(&self, message_bytes_max: usize) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut within = |field: &str, value: u64, least: u64, most: u64| {
            if value < least || value > most {
                wrong.push(format!("{field} is {value}: it must be {least} to {most}"));
            }
        };
        // The largest message counts key and framing too.
        let size_max = message_bytes_max.saturating_sub(64);
        within("message-size", self.message_size as u64, HEAD_BYTES as u64, size_max as u64);
        within("topics", self.topics.into(), 1, TOPICS_MAX.into());
        within("partitions", self.partitions.into(), 1, PARTITIONS_MAX.into());
        within("producers", self.producers.into(), 1, CLIENTS_MAX.into());
        within("producers of all topics", self.all_producers(), 1, CLIENTS_MAX.into());
        within("consumers of all subscriptions and topics", self.all_consumers(), 0, CLIENTS_MAX.into());
        within("producers of all topics times partitions", self.all_producers() * u64::from(self.partitions), 1, LANES_MAX);
        within("keys", self.keys.into(), 0, KEYS_MAX.into());
        within("batch-bytes", self.batch_bytes as u64, 1, message_bytes_max as u64);
        within("window-bytes", self.window_bytes as u64, 1, WINDOW_BYTES_MAX as u64);
        within("prefetch-bytes", self.prefetch_bytes, 1, WINDOW_BYTES_MAX as u64);
        within("rate", self.rate, 0, 1_000_000_000);
        within("tick in us", micros(self.tick), micros(TICK_MIN), 1_000_000);
        within("duration in ms", millis(self.duration), 1, millis(DURATION_MAX));
        within("warm-up in ms", millis(self.warm_up), 0, millis(DURATION_MAX));
        if self.backlog_bytes > 0 && self.all_consumers() == 0 && !self.keep {
            wrong.push("backlog is read back by consumers, or kept: there are none, and it is not".to_owned());
        }
        if self.backlog_bytes > 0 && self.rate > 0 {
            wrong.push("backlog is published as fast as it goes: rate must be 0".to_owned());
        }
        wrong
    }

    /// Producers of all topics.
    pub fn all_producers(&self) -> u64 {
        u64::from(self.topics) * u64::from(self.producers)
    }

    /// Consumers of all subscriptions of all topics.
    pub fn all_consumers(&self) -> u64 {
        u64::from(self.topics) * u64::from(self.subscriptions) * u64::from(self.consumers)
    }

    /// Subscriptions of each topic that somebody consumes.
    pub const fn readers(&self) -> u32 {
        if self.consumers == 0 { 0 } else { self.subscriptions }
    }

    /// Whether each partition of a subscription goes to one consumer, so that it has an order.
    pub const fn is_ordered(&self) -> bool {
        self.consumers <= self.partitions
    }

    /// The load in a line.
    pub fn describe(&self) -> String {
        let rate = if self.rate == 0 { "as fast as it goes".to_owned() } else { format!("{} a second", self.rate) };
        let count = |count: u32, noun: &str| format!("{count} {noun}{}", if count == 1 { "" } else { "s" });
        let Self { topics, partitions, producers, subscriptions, consumers, .. } = self;
        let readers = if self.all_consumers() == 0 {
            "no consumers".to_owned()
        } else {
            format!("{}, {} each", count(*subscriptions, "subscription"), count(*consumers, "consumer"))
        };
        format!(
            "{} B, {rate}: {}, {}, {}, {readers}",
            self.message_size,
            count(*topics, "topic"),
            count(*partitions, "partition"),
            count(*producers, "producer"),
        )
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LARGEST: usize = 5 << 20;

    #[test]
    fn what_is_wrong_is_named_with_its_limit() {
        assert_eq!(Workload::default().validate(LARGEST), Vec::<String>::new());
        let small = Workload { message_size: 8, tick: Duration::from_micros(50), ..Workload::default() };
        let wrong = small.validate(LARGEST);
        assert_eq!(wrong.len(), 2, "{wrong:?}");
        assert!(wrong[0].starts_with("message-size is 8: it must be 32 to ") && wrong[1].contains("250"), "{wrong:?}");
        let unread = Workload { backlog_bytes: 1, subscriptions: 0, rate: 5, ..Workload::default() };
        assert_eq!(unread.validate(LARGEST).len(), 2);
        let many = Workload { topics: 1000, producers: 1000, ..Workload::default() };
        assert!(many.validate(LARGEST).iter().any(|wrong| wrong.contains("producers of all topics is 1000000")));
    }

    #[test]
    fn it_is_described_in_words() {
        let load = Workload { rate: 20_000, partitions: 16, producers: 50, subscriptions: 0, ..Workload::default() };
        assert_eq!(load.describe(), "1024 B, 20000 a second: 1 topic, 16 partitions, 50 producers, no consumers");
    }
}
