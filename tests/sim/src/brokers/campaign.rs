//! Many seeds of brokers on a few threads, and what can be said of them together.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use alluvium_runtime::clock::Clock;

use super::plan::Plan;
use super::world::{Outcome, run};
use crate::bug::Bug;
use crate::trace::Detail;

/// Messages whose senders were told that they are safe, at least, for a seed to count.
pub const CONFIRMED_MIN: u64 = 20;
/// Faults that struck, at least, for a seed to count.
pub const FAULTS_MIN: u64 = 2;
/// Takeovers while messages were on their way, at least, for a seed to count.
pub const TAKEOVERS_MIN: u64 = 1;
/// One seed in so many is run twice.
pub const TWICE_EVERY: u64 = 20;

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
    /// Turns of tasks of each counting seed.
    pub steps: Vec<u64>,
    /// Confirmed messages of each counting seed.
    pub confirmed: Vec<u64>,
    /// Receipted acks of each counting seed.
    pub acknowledged: Vec<u64>,
    /// Faults that struck in each counting seed.
    pub faults: Vec<u64>,
    /// Takeovers under load of each counting seed.
    pub takeovers: Vec<u64>,
    /// Facts that were checked.
    pub checks: u64,
    /// Virtual time of all runs.
    pub simulated: Duration,
    /// Real time.
    pub took: Duration,
    /// Seeds that were run twice.
    pub twice: u64,
    /// Of those, which differed: must be none.
    pub mismatches: Vec<u64>,
    /// Seeds that broke an invariant, in order, with its id.
    pub violations: Vec<(u64, &'static str)>,
}

impl Outcome {
    /// Whether the run was eventful enough to prove something.
    pub const fn counts(&self) -> bool {
        self.confirmed >= CONFIRMED_MIN && self.faults >= FAULTS_MIN && self.takeovers >= TAKEOVERS_MIN
    }
}

impl Totals {
    fn add(&mut self, seed: u64, outcome: &Outcome) {
        self.seeds += 1;
        self.simulated += outcome.simulated;
        self.checks += outcome.checks;
        if outcome.counts() {
            self.counting += 1;
            self.steps.push(outcome.steps);
            self.confirmed.push(outcome.confirmed);
            self.acknowledged.push(outcome.acknowledged);
            self.faults.push(outcome.faults);
            self.takeovers.push(outcome.takeovers);
        }
        if let Some(violation) = &outcome.violation {
            self.violations.push((seed, violation.invariant));
        }
    }

    /// Whether nothing broke.
    pub fn is_clean(&self) -> bool {
        self.violations.is_empty() && self.mismatches.is_empty()
    }

    /// Whether so many runs were eventful enough to prove something.
    pub const fn has_power(&self, counting: u64) -> bool {
        self.counting >= counting
    }
}

impl Campaign {
    /// Runs it.
    pub fn run(&self) -> Totals {
        let clock = Clock::system();
        let began = clock.mono();
        let next = AtomicU64::new(0);
        let totals = Mutex::new(Totals::default());
        std::thread::scope(|scope| {
            for _ in 0..self.jobs.max(1) {
                scope.spawn(|| self.work(&next, &totals));
            }
        });
        let mut totals = totals.into_inner().expect("no job panicked");
        totals.took = clock.mono().since(began);
        totals.violations.sort_unstable();
        totals.mismatches.sort_unstable();
        totals
    }

    fn work(&self, next: &AtomicU64, totals: &Mutex<Totals>) {
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
            let same = !twice || {
                let again = run(&plan, self.bug, detail);
                (again.hash, again.course) == (outcome.hash, outcome.course)
            };
            let mut totals = totals.lock().expect("no job panicked");
            totals.twice += u64::from(twice);
            if !same {
                totals.mismatches.push(seed);
            }
            totals.add(seed, &outcome);
        }
    }
}
