//! Seconds, and their sum.

use std::time::Duration;

use alluvium_types::time::Mono;

use super::figures::Figures;
use crate::latency::{Latencies, QUANTILES};

/// What is told of some latencies.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Summary {
    /// The mean, in microseconds.
    pub mean_micros: f64,
    /// In microseconds, in the order of [`QUANTILES`].
    pub micros: [u64; QUANTILES.len()],
}

/// A second of a run, or what was left of one.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Second {
    /// From the beginning of the load to its end.
    pub elapsed: Duration,
    /// Whether it counts; during the warm-up it does not.
    pub is_measured: bool,
    /// How long it was.
    pub length: Duration,
    /// Messages that got their receipt.
    pub published: u64,
    /// Messages that failed.
    pub publish_errors: u64,
    /// Messages that were delivered, all subscriptions together.
    pub consumed: u64,
    /// Messages that have a receipt and were not delivered to a subscription yet, all subscriptions together.
    pub backlog: u64,
    /// From when a message was meant to be sent to its receipt.
    pub publish: Summary,
    /// From when a message was meant to be sent to when the producer had it.
    pub delay: Summary,
    /// From when a message was meant to be sent to its delivery.
    pub end_to_end: Summary,
}

/// What a whole run came to.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    /// How long publishing was measured.
    pub publish_time: Duration,
    /// How long consuming was measured.
    pub consume_time: Duration,
    /// Messages that got their receipt in that time.
    pub published: u64,
    /// Messages that were delivered in that time.
    pub consumed: u64,
    /// Messages that failed, in the whole run.
    pub publish_errors: u64,
    /// Consumers' errors, in the whole run.
    pub consume_errors: u64,
    /// What failed first.
    pub first_error: Option<String>,
    /// As [`Second::publish`].
    pub publish: Latencies,
    /// As [`Second::delay`].
    pub delay: Latencies,
    /// As [`Second::end_to_end`].
    pub end_to_end: Latencies,
}

impl Summary {
    pub(crate) fn of(latencies: &Latencies) -> Self {
        Self { mean_micros: latencies.mean_micros(), micros: QUANTILES.map(|(quantile, _)| latencies.micros(quantile)) }
    }
}

impl Totals {
    /// Notes errors, which count whenever they happen.
    pub(super) fn errors(&mut self, published: &Figures, consumed: &Figures) {
        self.publish_errors += published.errors;
        self.consume_errors += consumed.errors;
        for figures in [published, consumed] {
            if self.first_error.is_none() {
                self.first_error.clone_from(&figures.first_error);
            }
        }
    }

    /// Adds latencies: also of what came after the end, as leaving out the slowest would flatter.
    pub(super) fn latencies(&mut self, published: &Figures, consumed: &Figures) {
        self.publish.join(&published.latency);
        self.delay.join(&published.delay);
        self.end_to_end.join(&consumed.latency);
    }
}

/// Makes seconds of figures.
#[derive(Debug)]
pub(super) struct Meter {
    begin: Mono,
    last: Mono,
    /// Messages that each subscription's consumers owe.
    owed: u64,
    readers: u64,
}

impl Meter {
    /// From `begin` on; each message is delivered to `readers` subscriptions.
    pub(super) const fn new(begin: Mono, readers: u64, owed: u64) -> Self {
        Self { begin, last: begin, owed, readers }
    }

    /// What came since the last second.
    pub(super) fn second(&mut self, now: Mono, is_measured: bool, published: &Figures, consumed: &Figures) -> Second {
        self.owed = (self.owed + published.messages * self.readers).saturating_sub(consumed.messages);
        let second = Second {
            elapsed: now.since(self.begin),
            is_measured,
            length: now.since(self.last),
            published: published.messages,
            publish_errors: published.errors,
            consumed: consumed.messages,
            backlog: self.owed,
            publish: Summary::of(&published.latency),
            delay: Summary::of(&published.delay),
            end_to_end: Summary::of(&consumed.latency),
        };
        self.last = now;
        second
    }
}
