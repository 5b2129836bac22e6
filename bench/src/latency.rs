//! Latencies, as histograms and as what is told of them.

use std::fmt;

use hdrhistogram::Histogram;

/// The longest latency that is told apart, in microseconds: an hour.
const MICROS_MAX: u64 = 3_600_000_000;
/// What is told of a histogram: the quantile, and how OpenMessaging's results call it.
pub const QUANTILES: [(f64, &str); 8] = [
    (0.5, "50pct"),
    (0.75, "75pct"),
    (0.9, "90pct"),
    (0.95, "95pct"),
    (0.99, "99pct"),
    (0.999, "999pct"),
    (0.9999, "9999pct"),
    (1.0, "Max"),
];

/// Latencies: three significant digits, from a microsecond to an hour, in fixed memory.
#[derive(Clone)]
pub struct Latencies(Histogram<u64>);

impl fmt::Debug for Latencies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Latencies({} of {} to {} us)", self.count(), self.0.min(), self.0.max())
    }
}

impl Default for Latencies {
    fn default() -> Self {
        Self(Histogram::new_with_bounds(1, MICROS_MAX, 3).expect("the bounds are sound"))
    }
}

impl Latencies {
    /// Adds `count` of one latency.
    pub fn record(&mut self, nanos: u64, count: u64) {
        self.0.saturating_record_n((nanos / 1000).max(1), count);
    }

    /// Adds all of another's.
    pub fn join(&mut self, other: &Self) {
        self.0.add(&other.0).expect("all have the same bounds");
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.0.reset();
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The mean, in microseconds; 0 of none.
    pub fn mean_micros(&self) -> f64 {
        if self.0.is_empty() { 0.0 } else { self.0.mean() }
    }

    /// A quantile, in microseconds; 0 of none. Of 1 it is the largest.
    pub fn micros(&self, quantile: f64) -> u64 {
        if self.0.is_empty() {
            0
        } else if quantile >= 1.0 {
            self.0.max()
        } else {
            self.0.value_at_quantile(quantile)
        }
    }

    /// The curve: quantiles as percents, and microseconds, finer towards the end.
    pub fn curve(&self) -> impl Iterator<Item = (f64, u64)> {
        self.0.iter_quantiles(5).map(|step| (step.quantile_iterated_to() * 100.0, step.value_iterated_to()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_told_to_three_digits() {
        let mut latencies = Latencies::default();
        assert_eq!((latencies.micros(0.5), latencies.micros(1.0)), (0, 0));
        for micros in 1..=10_000 {
            latencies.record(micros * 1000, 1);
        }
        for (quantile, _) in QUANTILES {
            let (found, exact) = (latencies.micros(quantile) as f64, quantile * 10_000.0);
            assert!((found - exact).abs() <= exact / 1000.0 + 1.0, "{quantile}: {found}");
        }
        let mut sum = Latencies::default();
        sum.join(&latencies);
        sum.join(&latencies);
        assert_eq!(sum.count(), 20_000);
        assert!((sum.mean_micros() - 5000.5).abs() < 10.0);
        sum.record(u64::MAX, 1);
        assert!(sum.micros(1.0) >= MICROS_MAX, "what is longer than all is told as the longest");
    }
}
