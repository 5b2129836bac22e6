//! Many seeds on a few threads, and what can be said of them together.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use alluvium_runtime::clock::Clock;

use crate::bug::Bug;
use crate::plan::Plan;
use crate::trace::Detail;
use crate::world::{Outcome, run};

/// What a seed must have to count.
pub const EVENTS_MIN: u64 = 300;
/// Entries that callers were told are safe, at least, for a seed to count.
pub const CONFIRMED_MIN: u64 = 20;
/// Faults that struck, at least, for a seed to count.
pub const FAULTS_MIN: u64 = 3;
/// One seed in so many is run twice.
pub const TWICE_EVERY: u64 = 100;

/// Which seeds to run.
#[derive(Clone, Copy, Debug)]
pub struct Campaign {
    /// The first seed.
    pub from: u64,
    /// Run until so many seeds counted, but never more than twice as many.
    pub counting: u64,
    /// Threads.
    pub jobs: usize,
    /// Stop at the first violation.
    pub stop_at_violation: bool,
    /// The bug that is planted.
    pub bug: Option<Bug>,
}

/// What the seeds of a campaign showed.
#[derive(Debug, Default)]
pub struct Totals {
    /// Seeds that were run.
    pub seeds: u64,
    /// Seeds that count.
    pub counting: u64,
    /// Of those that count, how many had a recovery beside a live writer.
    pub beside_live_writer: u64,
    /// Events of each counting seed.
    pub events: Vec<u64>,
    /// Confirmed entries of each counting seed.
    pub confirmed: Vec<u64>,
    /// Faults that struck in each counting seed.
    pub faults: Vec<u64>,
    /// Facts that were checked.
    pub checks: u64,
    /// Virtual time of all runs.
    pub simulated: Duration,
    /// Real time.
    pub took: Duration,
    /// Seeds that were run twice.
    pub twice: u64,
    /// Of those, how many differed: must be none.
    pub mismatches: Vec<u64>,
    /// Seeds that broke an invariant, in order, with its id.
    pub violations: Vec<(u64, &'static str)>,
}

impl Outcome {
    /// Whether the run was eventful enough to prove something.
    pub const fn counts(&self) -> bool {
        self.events >= EVENTS_MIN && self.confirmed >= CONFIRMED_MIN && self.faults >= FAULTS_MIN
    }
}

impl Totals {
    fn add(&mut self, seed: u64, outcome: &Outcome) {
        self.seeds += 1;
        self.simulated += outcome.simulated;
        self.checks += outcome.checks;
        if outcome.counts() {
            self.counting += 1;
            self.beside_live_writer += u64::from(outcome.beside_live_writer > 0);
            self.events.push(outcome.events);
            self.confirmed.push(outcome.confirmed);
            self.faults.push(outcome.faults);
        }
        if let Some(failure) = &outcome.failure {
            self.violations.push((seed, failure.invariant));
        }
    }

    /// Whether nothing broke.
    pub fn is_clean(&self) -> bool {
        self.violations.is_empty() && self.mismatches.is_empty()
    }

    /// Whether the runs were eventful enough to prove something: so many seeds count, half of them with a recovery beside a live
    /// writer.
    pub const fn has_power(&self, counting: u64) -> bool {
        self.counting >= counting && self.beside_live_writer * 2 >= self.counting
    }
}

/// The value below which a tenth, a half, nine tenths lie.
pub fn deciles(values: &[u64]) -> [u64; 3] {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let at = |tenths: usize| sorted.get(sorted.len() * tenths / 10).or(sorted.last()).copied().unwrap_or(0);
    [at(1), at(5), at(9)]
}

impl Campaign {
    /// Runs it. `progress` is told now and then how many seeds were run.
    pub fn run(&self, progress: &(dyn Fn(u64) + Sync)) -> Totals {
        let clock = Clock::system();
        let began = clock.mono();
        let next = AtomicU64::new(0);
        let totals = Mutex::new(Totals::default());
        std::thread::scope(|scope| {
            for _ in 0..self.jobs.max(1) {
                scope.spawn(|| self.work(&next, &totals, progress));
            }
        });
        let mut totals = totals.into_inner().expect("no job panicked");
        totals.took = clock.mono().since(began);
        totals.violations.sort_unstable();
        totals.mismatches.sort_unstable();
        totals
    }

    fn work(&self, next: &AtomicU64, totals: &Mutex<Totals>, progress: &(dyn Fn(u64) + Sync)) {
        loop {
            let n = next.fetch_add(1, Ordering::Relaxed);
            if n >= self.counting.saturating_mul(2) {
                return;
            }
            {
                let totals = totals.lock().expect("no job panicked");
                let stop = self.stop_at_violation && !totals.violations.is_empty();
                if stop || totals.counting >= self.counting {
                    return;
                }
            }
            let seed = self.from + n;
            let plan = Plan::draw(seed);
            let twice = self.bug.is_none() && seed.is_multiple_of(TWICE_EVERY);
            let detail = if twice { Detail::Hash } else { Detail::Count };
            let outcome = run(&plan, self.bug, detail);
            let same = !twice || run(&plan, self.bug, detail).hash == outcome.hash;
            let mut totals = totals.lock().expect("no job panicked");
            totals.twice += u64::from(twice);
            if !same {
                totals.mismatches.push(seed);
            }
            totals.add(seed, &outcome);
            if totals.seeds.is_multiple_of(1000) {
                progress(totals.seeds);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deciles_of_few_and_many() {
        assert_eq!(deciles(&[]), [0, 0, 0]);
        assert_eq!(deciles(&[7]), [7, 7, 7]);
        assert_eq!(deciles(&(0..100).collect::<Vec<_>>()), [10, 50, 90]);
    }
}
