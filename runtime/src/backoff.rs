//! How long to wait before trying again: exponential, with full jitter, bounded.

use std::time::Duration;

use crate::entropy::Entropy;

/// A bounded exponential backoff with full jitter (C14).
#[derive(Clone, Debug)]
pub struct Backoff {
    min: Duration,
    max: Duration,
    attempt: u32,
    entropy: Entropy,
}

impl Backoff {
    /// Waits between `min` and a ceiling that doubles from `2 × min` up to `max`.
    pub const fn new(min: Duration, max: Duration, entropy: Entropy) -> Self {
        Self { min, max, attempt: 0, entropy }
    }

    /// How often [`Backoff::delay`] was asked since the last reset.
    pub const fn attempt(&self) -> u32 {
        self.attempt
    }

    /// How long to wait before the next attempt.
    pub fn delay(&mut self) -> Duration {
        self.attempt = self.attempt.saturating_add(1);
        let ceiling = self.min.saturating_mul(2_u32.saturating_pow(self.attempt.min(20))).min(self.max).max(self.min);
        self.min + (ceiling - self.min).mul_f64(self.entropy.unit())
    }

    /// Begins anew, after a success.
    pub const fn reset(&mut self) {
        self.attempt = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_stay_between_their_bounds() {
        let (min, max) = (Duration::from_millis(10), Duration::from_secs(1));
        let mut backoff = Backoff::new(min, max, Entropy::seeded(1));
        let delays: Vec<Duration> = (0..50).map(|_| backoff.delay()).collect();
        assert!(delays.iter().all(|d| (min..=max).contains(d)));
        assert!(delays[0] <= 2 * min);
        assert!(delays.iter().any(|d| *d > max / 2));
    }
}
