//! What is measured of a server, what it is held against, and where the bar is.

use std::time::Duration;

use super::spread::Bar;
use crate::Outcome;
use crate::ceiling::{Kind, PipelineRow};
use crate::latency::Latencies;
use crate::workload::Workload;

/// The bound of the second row's latencies.
const PROMPT_MICROS: u64 = 2000;

/// Messages of 1 KiB a second that are fanned out: a hundred times as many are more than the transport carries. As fast as they can be
/// published, what is left to be delivered at the end would take minutes.
const FAN_OUT_RATE: u64 = 25_000;

/// The least bytes of partitions that are written together: of fewer, one of a thousand is nothing.
const TOGETHER_BYTES_MIN: u64 = 4 << 30;

/// How long, and how much.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Scale {
    /// How often server and ceilings alternate.
    pub rounds: u32,
    /// How long each load is measured.
    pub duration: Duration,
    /// How long it runs before.
    pub warm_up: Duration,
    /// Bytes of the backlog that is read back.
    pub backlog_bytes: u64,
}

/// What a server's figure is told as a share of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Against {
    /// A bare pipeline, or the transport.
    Pipeline(Kind),
    /// Direct sequential reads.
    Reads,
    /// The same load without what is beside it.
    Itself,
}

/// How a server's figure comes about.
#[derive(Clone, Debug)]
pub enum Measure {
    /// The best of these loads counts.
    BestOf(Vec<Workload>),
    /// A publish at half its maximum beside a replay of so many bytes.
    BesideAReplay(Workload, u64),
    /// Partitions of a topic that was written like this, each replayed by itself.
    ReplayOfOne(Workload),
}

/// What is compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Figure {
    /// Messages a second that were published.
    Published,
    /// The same, of the loads whose 99th percentile is below 2 ms, if there is one.
    PublishedPromptly,
    /// The median from when a message was meant to be sent to its receipt, in microseconds.
    Median,
    /// The 90th percentile of the same.
    NinetiethPercentile,
    /// Megabytes a second that were delivered.
    Delivered,
    /// Messages a second that were delivered.
    DeliveredMessages,
}

/// One row.
#[derive(Clone, Debug)]
pub struct Row {
    /// What it is called.
    pub name: &'static str,
    /// What is compared.
    pub figure: Figure,
    /// With what.
    pub against: Against,
    /// Where the bar is.
    pub bar: Bar,
    /// Whether it is one of a cluster with three bookies, Qw = 3 and Qa = 2.
    pub of_a_cluster: bool,
    /// How.
    pub measure: Measure,
}

/// All rows.
pub fn rows(scale: Scale) -> Vec<Row> {
    let publish = Workload { consumers: 0, duration: scale.duration, warm_up: scale.warm_up, ..Workload::default() };
    let read = Workload { consumers: 1, ..publish.clone() };
    let new = |name, figure, against, bar, measure| Row { name, figure, against, bar, of_a_cluster: false, measure };
    let row = |name, figure, against, bar, loads| new(name, figure, against, bar, Measure::BestOf(loads));
    let together =
        Workload { partitions: 1000, backlog_bytes: scale.backlog_bytes.max(TOGETHER_BYTES_MIN), keep: true, ..publish.clone() };
    let windows = [512 << 10, 1 << 20, 2 << 20];
    vec![
        row("1 KiB, saturated", Figure::Published, Kind::Saturated.into(), Bar::high(0.4, 0.65), vec![publish.clone()]),
        row(
            "1 KiB, p99 under 2 ms",
            Figure::PublishedPromptly,
            Kind::Prompt.into(),
            Bar::high(0.35, 0.6),
            windows.map(|window_bytes| Workload { window_bytes, ..publish.clone() }).into(),
        ),
        row(
            "100 B, one send a message",
            Figure::Published,
            Kind::Small.into(),
            Bar::high(0.3, 0.55),
            vec![Workload { message_size: 100, ..publish.clone() }],
        ),
        Row {
            of_a_cluster: true,
            ..row("1 KiB, three bookies, 3/2", Figure::Published, Kind::Quorum.into(), Bar::high(0.4, 0.7), vec![publish.clone()])
        },
        row(
            "one in flight, median",
            Figure::Median,
            Kind::OneInFlight.into(),
            Bar::low(2.0, 1.2),
            vec![Workload { window_bytes: 1, ..publish.clone() }],
        ),
        row(
            "20,000 a second, open loop, median",
            Figure::Median,
            Kind::OpenLoop.into(),
            Bar::low(2.0, 1.3),
            vec![Workload { rate: 20_000, ..publish.clone() }],
        ),
        row(
            "1 KiB, 50 producers, 16 partitions",
            Figure::Published,
            Kind::Saturated.into(),
            Bar::high(0.35, 0.6),
            vec![Workload { producers: 50, partitions: 16, window_bytes: 256 << 10, ..publish.clone() }],
        ),
        row(
            "reading back a backlog",
            Figure::Delivered,
            Against::Reads,
            Bar::high(0.4, 0.7),
            vec![Workload { backlog_bytes: scale.backlog_bytes, ..read.clone() }],
        ),
        row(
            "published and consumed at once, 1 KiB",
            Figure::DeliveredMessages,
            Kind::Saturated.into(),
            Bar::high(0.25, 0.5),
            vec![read.clone()],
        ),
        row(
            "fan-out: 100 subscriptions, delivered",
            Figure::Delivered,
            Kind::Blobs.into(),
            Bar::high(0.4, 0.8),
            vec![Workload { subscriptions: 100, rate: FAN_OUT_RATE, prefetch_bytes: 1 << 20, ..read }],
        ),
        new(
            "publish at half its maximum beside a replay, p90",
            Figure::NinetiethPercentile,
            Against::Itself,
            Bar::low(1.5, 1.1),
            Measure::BesideAReplay(publish, scale.backlog_bytes),
        ),
        new(
            "replay of one partition of 1,000",
            Figure::Delivered,
            Against::Reads,
            Bar::high(0.0, 0.3),
            Measure::ReplayOfOne(together),
        ),
    ]
}

impl From<Kind> for Against {
    fn from(kind: Kind) -> Self {
        Self::Pipeline(kind)
    }
}

impl Figure {
    /// In what it is told.
    pub const fn unit(self) -> &'static str {
        match self {
            Self::Published | Self::PublishedPromptly | Self::DeliveredMessages => "messages/s",
            Self::Median | Self::NinetiethPercentile => "us",
            Self::Delivered => "MB/s",
        }
    }

    /// A server's; `None` where the load did not do what counts.
    pub fn of(self, outcome: &Outcome) -> Option<f64> {
        let is_prompt = |latencies: &Latencies| latencies.micros(0.99) < PROMPT_MICROS;
        match self {
            Self::Published => Some(outcome.publish_rate()),
            Self::PublishedPromptly => is_prompt(&outcome.totals.publish).then(|| outcome.publish_rate()),
            Self::Median => Some(outcome.totals.publish.micros(0.5) as f64),
            Self::NinetiethPercentile => Some(outcome.totals.publish.micros(0.9) as f64),
            Self::Delivered => Some(outcome.consume_rate() * outcome.workload.message_size as f64 / 1e6),
            Self::DeliveredMessages => Some(outcome.consume_rate()),
        }
    }

    /// A pipeline's.
    pub fn of_pipeline(self, row: &PipelineRow) -> f64 {
        match self {
            Self::Published | Self::PublishedPromptly | Self::DeliveredMessages => row.measured.rate(),
            Self::Median => row.measured.latency.micros(0.5) as f64,
            Self::NinetiethPercentile => row.measured.latency.micros(0.9) as f64,
            Self::Delivered => row.measured.megabytes(),
        }
    }
}

impl Against {
    /// What it is called.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pipeline(kind) => kind.name(),
            Self::Reads => "sequential reads",
            Self::Itself => "without",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_can_be_run() {
        let second = Duration::from_secs(1);
        let rows = rows(Scale { rounds: 1, duration: second, warm_up: second, backlog_bytes: 1 << 20 });
        assert!(rows.len() >= 10);
        for row in rows {
            let loads = match &row.measure {
                Measure::BestOf(loads) => loads.as_slice(),
                Measure::BesideAReplay(load, _) | Measure::ReplayOfOne(load) => std::slice::from_ref(load),
            };
            for load in loads {
                assert_eq!(load.validate(5 << 20), Vec::<String>::new(), "{}", row.name);
            }
            assert_eq!(row.figure.unit() == "us", row.bar.lower_is_better, "{}", row.name);
        }
    }
}
