//! The result of a run, in the names of OpenMessaging's benchmark, so that its chart tools work.
//!
//! Latencies are in milliseconds, schedule delays (`publishDelayLatency…`) in microseconds, rates in messages a second. Fields
//! without a prefix are lists, one value a second; `aggregated…` is of the whole measured time.

use serde_json::{Map, Value, json};

use crate::latency::{Latencies, QUANTILES};
use crate::load::{Second, Setting, Summary, Totals};
use crate::verify::Faults;
use crate::workload::Workload;

/// What a run came to.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The load.
    pub workload: Workload,
    /// The topics' names. They are gone unless they were to be kept.
    pub topics: Vec<String>,
    /// Where it took place.
    pub setting: Setting,
    /// When it began: milliseconds since 1970.
    pub begin_ms: u64,
    /// When it was over, everything drained: milliseconds since 1970.
    pub end_ms: u64,
    /// Messages that were handed to producers, in the whole run.
    pub sent: u64,
    /// Messages that were delivered in the whole run, all subscriptions together.
    pub delivered: u64,
    /// The measured seconds.
    pub seconds: Vec<Second>,
    /// Their sum.
    pub totals: Totals,
    /// What is wrong with what was delivered.
    pub faults: Faults,
    /// Whether anybody looked.
    pub is_verified: bool,
    /// Whether it was ended before its time.
    pub is_interrupted: bool,
}

impl Outcome {
    /// Messages a second that got their receipt.
    pub fn publish_rate(&self) -> f64 {
        self.totals.published as f64 / self.totals.publish_time.as_secs_f64().max(1e-9)
    }

    /// Messages a second that were delivered, all subscriptions together.
    pub fn consume_rate(&self) -> f64 {
        self.totals.consumed as f64 / self.totals.consume_time.as_secs_f64().max(1e-9)
    }

    /// What makes the run a failure, if anything does: messages that failed, or that were not delivered as they were sent.
    pub fn verdict(&self) -> Result<(), String> {
        let Totals { publish_errors, consume_errors, first_error, .. } = &self.totals;
        if !self.faults.is_empty() {
            return Err(format!("what was delivered is not what was sent: {}", self.faults));
        }
        let first = first_error.as_deref().unwrap_or_default();
        match (publish_errors, consume_errors) {
            (0, 0) => Ok(()),
            (0, consumed) => Err(format!("{consumed} errors of consumers; first, {first}")),
            (published, _) => Err(format!("{published} messages failed; first, {first}")),
        }
    }

    /// The document.
    pub fn to_json(&self) -> Value {
        let Self { workload: load, setting, totals, .. } = self;
        let mut fields = Map::new();
        let mut put = |name: &str, value: Value| drop(fields.insert(name.to_owned(), value));
        put("workload", load.describe().into());
        put("driver", "Alluvium".into());
        put("topics", load.topics.into());
        put("partitions", load.partitions.into());
        put("messageSize", load.message_size.into());
        put("producersPerTopic", load.producers.into());
        put("consumersPerTopic", (load.readers() * load.consumers).into());
        put("beginTime", self.begin_ms.into());
        put("endTime", self.end_ms.into());
        let rates = |count: fn(&Second) -> u64| -> Value {
            let rate = |second: &Second| count(second) as f64 / second.length.as_secs_f64().max(1e-9);
            self.seconds.iter().map(rate).collect::<Vec<f64>>().into()
        };
        put("publishRate", rates(|second| second.published));
        put("publishErrorRate", rates(|second| second.publish_errors));
        put("consumeRate", rates(|second| second.consumed));
        put("backlog", self.seconds.iter().map(|second| second.backlog).collect::<Vec<u64>>().into());
        let kinds: [Kind<'_>; 3] = [
            ("publishLatency", Unit::Millis, |second| &second.publish, &totals.publish),
            ("publishDelayLatency", Unit::Micros, |second| &second.delay, &totals.delay),
            ("endToEndLatency", Unit::Millis, |second| &second.end_to_end, &totals.end_to_end),
        ];
        for (name, unit, of, whole) in kinds {
            let list = |value: &dyn Fn(&Summary) -> Value| -> Value {
                self.seconds.iter().map(|second| value(of(second))).collect::<Vec<Value>>().into()
            };
            put(&format!("{name}Avg"), list(&|summary| unit.mean(summary.mean_micros)));
            let aggregated = format!("aggregated{}{}", name[..1].to_uppercase(), &name[1..]);
            put(&format!("{aggregated}Avg"), unit.mean(whole.mean_micros()));
            for (at, (quantile, suffix)) in QUANTILES.iter().enumerate() {
                put(&format!("{name}{suffix}"), list(&|summary| unit.of(summary.micros[at])));
                put(&format!("{aggregated}{suffix}"), unit.of(whole.micros(*quantile)));
            }
            let curve: Map<String, Value> =
                whole.curve().map(|(percent, micros)| (percent.to_string(), unit.of(micros))).collect();
            put(&format!("{aggregated}Quantiles"), curve.into());
        }
        put("aggregatedPublishRate", self.publish_rate().into());
        put("aggregatedConsumeRate", self.consume_rate().into());
        put("alluvium", self.beside(setting));
        fields.into()
    }

    /// What OpenMessaging has no name for.
    fn beside(&self, setting: &Setting) -> Value {
        let Setting { machine, busy_before, server, server_version, cluster, durability } = setting;
        let Faults { corrupt, out_of_order, missing, surplus, exchanged, first } = &self.faults;
        let Totals { publish_errors, consume_errors, first_error, publish_time, consume_time, .. } = &self.totals;
        json!({
            "clientVersion": env!("CARGO_PKG_VERSION"),
            "serverVersion": server_version,
            "server": server,
            "cluster": cluster,
            "durability": durability,
            "host": machine.host,
            "kernel": machine.kernel,
            "processor": machine.processor,
            "cpus": machine.cpus,
            "memoryBytes": machine.memory_bytes,
            "busyBefore": busy_before,
            "wasIdle": setting.was_idle(),
            "rate": self.workload.rate,
            "publishSeconds": publish_time.as_secs_f64(),
            "consumeSeconds": consume_time.as_secs_f64(),
            "sent": self.sent,
            "delivered": self.delivered,
            "publishErrors": publish_errors,
            "consumeErrors": consume_errors,
            "firstError": first_error,
            "verified": self.is_verified,
            "interrupted": self.is_interrupted,
            "faults": {
                "corrupt": corrupt, "outOfOrder": out_of_order, "missing": missing, "surplus": surplus, "exchanged": exchanged,
                "first": first,
            },
        })
    }
}

/// A kind of latency: its name, its unit, and where it stands in a second and in the whole.
type Kind<'a> = (&'static str, Unit, fn(&Second) -> &Summary, &'a Latencies);

/// In what OpenMessaging tells a latency.
#[derive(Clone, Copy)]
enum Unit {
    Millis,
    Micros,
}

impl Unit {
    fn of(self, micros: u64) -> Value {
        match self {
            Self::Millis => (micros as f64 / 1000.0).into(),
            Self::Micros => micros.into(),
        }
    }

    fn mean(self, micros: f64) -> Value {
        match self {
            Self::Millis => (micros / 1000.0).into(),
            Self::Micros => micros.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use alluvium_runtime::machine::Machine;

    use super::*;

    fn outcome() -> Outcome {
        let machine = Machine { host: "h".into(), kernel: "k".into(), processor: "p".into(), cpus: 2, memory_bytes: 1 };
        let mut totals = Totals {
            publish_time: Duration::from_secs(2),
            consume_time: Duration::from_secs(2),
            published: 10,
            consumed: 20,
            ..Totals::default()
        };
        for micros in [1000, 2000, 3000] {
            totals.publish.record(micros * 1000, 1);
            totals.delay.record(micros * 1000, 1);
        }
        let length = Duration::from_secs(1);
        let second = Second { length, published: 5, consumed: 10, publish: Summary::of(&totals.publish), ..Second::default() };
        Outcome {
            workload: Workload::default(),
            topics: vec!["t".into()],
            setting: Setting {
                machine,
                busy_before: 0.02,
                server: "s".into(),
                server_version: "v".into(),
                cluster: "c".into(),
                durability: "d".into(),
            },
            begin_ms: 1,
            end_ms: 2,
            sent: 10,
            delivered: 20,
            seconds: vec![second, second],
            totals,
            faults: Faults::default(),
            is_verified: true,
            is_interrupted: false,
        }
    }

    #[test]
    fn names_and_units_are_open_messagings() {
        let json = outcome().to_json();
        let lists = [
            "publishRate",
            "publishErrorRate",
            "consumeRate",
            "backlog",
            "publishLatencyAvg",
            "publishLatency50pct",
            "publishLatency75pct",
            "publishLatency95pct",
            "publishLatency99pct",
            "publishLatency999pct",
            "publishLatency9999pct",
            "publishLatencyMax",
            "publishDelayLatencyAvg",
            "publishDelayLatency50pct",
            "publishDelayLatencyMax",
            "endToEndLatencyAvg",
            "endToEndLatency50pct",
            "endToEndLatency9999pct",
            "endToEndLatencyMax",
        ];
        for name in lists {
            assert_eq!(json[name].as_array().map(Vec::len), Some(2), "{name}: {json}");
        }
        let numbers = [
            "aggregatedPublishLatencyAvg",
            "aggregatedPublishLatency50pct",
            "aggregatedPublishLatency75pct",
            "aggregatedPublishLatency95pct",
            "aggregatedPublishLatency99pct",
            "aggregatedPublishLatency999pct",
            "aggregatedPublishLatency9999pct",
            "aggregatedPublishLatencyMax",
            "aggregatedPublishDelayLatencyAvg",
            "aggregatedPublishDelayLatency50pct",
            "aggregatedPublishDelayLatencyMax",
            "aggregatedEndToEndLatencyAvg",
            "aggregatedEndToEndLatency50pct",
            "aggregatedEndToEndLatencyMax",
        ];
        for name in numbers {
            assert!(json[name].is_number(), "{name}: {json}");
        }
        for name in
            ["aggregatedPublishLatencyQuantiles", "aggregatedPublishDelayLatencyQuantiles", "aggregatedEndToEndLatencyQuantiles"]
        {
            assert!(json[name].is_object(), "{name}: {json}");
        }
        let about = |name: &str, expected: f64| {
            let found = json[name].as_f64().unwrap_or_default();
            assert!((found - expected).abs() <= expected / 500.0, "{name}: {found}");
        };
        about("aggregatedPublishLatency50pct", 2.0);
        about("aggregatedPublishDelayLatency50pct", 2000.0);
        about("aggregatedPublishRate", 5.0);
        assert_eq!(json["publishRate"][1], 5.0);
    }

    #[test]
    fn whatever_went_wrong_is_a_failure() {
        assert_eq!(outcome().verdict(), Ok(()));
        let mut lost = outcome();
        lost.faults.missing = 3;
        assert!(lost.verdict().is_err_and(|why| why.contains("3 missing")));
        let mut failed = outcome();
        failed.totals.publish_errors = 2;
        failed.totals.first_error = Some("no room".to_owned());
        assert_eq!(failed.verdict(), Err("2 messages failed; first, no room".to_owned()));
        let mut deaf = outcome();
        deaf.totals.consume_errors = 1;
        assert!(deaf.verdict().is_err());
    }
}
