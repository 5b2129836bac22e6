//! When messages are meant to be sent, in an open loop: whatever the server does, the load does not wait for it, and a message
//! that had to wait is measured from when it was meant to go.

use std::time::Duration;

use crate::ns;

/// A rate, kept from the beginning: what one tick could not send is due at the next.
#[derive(Clone, Debug)]
pub struct Schedule {
    rate: u64,
    tick_ns: u64,
    sent: u64,
}

/// Messages that are due together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Due {
    /// The number of the first.
    pub first: u64,
    /// How many.
    pub count: u64,
    /// When they were meant to go: nanoseconds since the beginning.
    pub intended_ns: u64,
}

impl Schedule {
    /// `rate` messages a second, in bursts at each `tick`.
    pub fn new(rate: u64, tick: Duration) -> Self {
        Self { rate, tick_ns: ns(tick).max(1), sent: 0 }
    }

    /// What is due next, if it is due `since_begin_ns` after the beginning: the messages of one tick. Called again until it gives
    /// none, it catches up tick by tick, so that a late tick is no excuse for its messages.
    pub fn next(&mut self, since_begin_ns: u64) -> Option<Due> {
        let tick = self.tick_of(self.sent);
        let intended_ns = tick * self.tick_ns;
        if intended_ns > since_begin_ns {
            return None;
        }
        // All messages that fall due up to this tick.
        let until = u128::from(intended_ns) * u128::from(self.rate) / 1_000_000_000;
        let until = u64::try_from(until).unwrap_or(u64::MAX).max(self.sent + 1);
        let due = Due { first: self.sent, count: until - self.sent, intended_ns };
        self.sent = until;
        Some(due)
    }

    /// The tick at which message `number` is due: the first one at or after its own time, which is the end of its share of the rate.
    fn tick_of(&self, number: u64) -> u64 {
        let at_ns = (u128::from(number) + 1) * 1_000_000_000 / u128::from(self.rate.max(1));
        u64::try_from(at_ns.div_ceil(u128::from(self.tick_ns))).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TICK: Duration = Duration::from_micros(250);

    fn all(schedule: &mut Schedule, at_ns: u64) -> Vec<Due> {
        std::iter::from_fn(|| schedule.next(at_ns)).collect()
    }

    #[test]
    fn bursts_of_five_every_250_us_are_20_000_a_second() {
        let mut schedule = Schedule::new(20_000, TICK);
        assert_eq!(schedule.next(249_999), None);
        assert_eq!(schedule.next(250_000), Some(Due { first: 0, count: 5, intended_ns: 250_000 }));
        assert_eq!(schedule.next(250_000), None);
        let late = all(&mut schedule, 1_000_000);
        let intended: Vec<u64> = late.iter().map(|due| due.intended_ns).collect();
        assert_eq!(intended, [500_000, 750_000, 1_000_000], "each from its own tick");
        assert_eq!(late.iter().map(|due| due.count).sum::<u64>(), 15);
    }

    #[test]
    fn a_rate_slower_than_the_ticks_sends_one_at_a_time() {
        let mut schedule = Schedule::new(10, TICK);
        assert!(all(&mut schedule, 99_000_000).is_empty());
        assert_eq!(all(&mut schedule, 100_000_000), [Due { first: 0, count: 1, intended_ns: 100_000_000 }]);
    }

    proptest! {
        #[test]
        fn the_rate_is_kept_whatever_the_calls(
            rate in 1_u64..5_000_000, tick_us in 250_u64..10_000, mut calls in proptest::collection::vec(0_u64..3_000_000_000, 1..20)
        ) {
            calls.sort_unstable();
            let tick = Duration::from_micros(tick_us);
            let mut schedule = Schedule::new(rate, tick);
            let (mut sent, mut last) = (0, 0);
            for at in calls {
                for due in all(&mut schedule, at) {
                    prop_assert_eq!(due.first, sent);
                    prop_assert!(due.count > 0 && due.intended_ns <= at && due.intended_ns >= last);
                    sent += due.count;
                    last = due.intended_ns;
                }
                // Nothing ahead of the rate, nothing behind it by more than a tick (and what rounding takes).
                let at = u128::from(at);
                prop_assert!(u128::from(sent) * 1_000_000_000 <= at * u128::from(rate) + 1_000_000_000, "{} at {}", sent, at);
                let owed = at.saturating_sub(u128::from(tick_us) * 1000) * u128::from(rate) / 1_000_000_000;
                prop_assert!(u128::from(sent) + 1 >= owed, "{} at {}, owed {}", sent, at, owed);
            }
        }
    }
}
