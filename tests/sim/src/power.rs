//! How strong the simulator is: the known bugs of this protocol are planted one at a time, and must be found.

use alluvium_bookie::mutation::Mutation as InBookie;
use alluvium_ledger::mutation::Mutation as InLedger;

use crate::brokers;
use crate::bug::Bug;
use crate::campaign::Campaign;
use crate::directed::{Played, SCHEDULES};
use crate::trace::Detail;

/// How a bug is looked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Search {
    /// By random seeds, from 0 on, at most so many.
    Seeds(u64),
    /// By its directed schedule: chance finds it too rarely.
    Directed,
    /// Not expected to be found: something else in the protocol makes up for it. Seeds are run all the same.
    Equivalent(u64),
}

/// What came of a search.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Found {
    /// After so many seeds, by breaking this invariant.
    AfterSeeds(u64, &'static str),
    /// By its schedule, by breaking this invariant.
    ByItsSchedule(&'static str),
    /// Not at all.
    No,
}

/// One planted bug and what came of the search for it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Planted {
    /// Which.
    pub bug: Bug,
    /// How it was looked for.
    pub search: Search,
    /// What came of it.
    pub found: Found,
}

impl Planted {
    /// Whether it should have been found and was not.
    pub const fn is_missed(&self) -> bool {
        matches!((self.search, &self.found), (Search::Seeds(_) | Search::Directed, Found::No))
    }
}

/// How this bug is looked for. Seeds are for those that the study in `invariants.md` found 100 times or more in 100,000.
pub const fn search_for(bug: Bug) -> Search {
    match bug {
        Bug::Ledger(
            InLedger::RecoveryReadsDoNotFence
            | InLedger::RecoveryReadsChangedEnsemble
            | InLedger::TimedOutCasResolvedByRead
            | InLedger::RecoveryAddsCarryLac
            | InLedger::RecoverersDoNotBackOff,
        )
        | Bug::Bookie(InBookie::FenceBitLostAtRestart) => Search::Directed,
        Bug::Ledger(InLedger::FencePhaseWithOneReply) => Search::Equivalent(500),
        Bug::Ledger(_) | Bug::Bookie(_) => Search::Seeds(20_000),
        Bug::Broker(_) | Bug::Metadata(_) => Search::Seeds(5_000),
    }
}

/// Plants a bug and looks for it.
pub fn look_for(bug: Bug, jobs: usize) -> Planted {
    let search = search_for(bug);
    let found = match search {
        Search::Seeds(most) | Search::Equivalent(most) => by_seeds(bug, most, jobs),
        Search::Directed => by_schedule(bug),
    };
    Planted { bug, search, found }
}

fn by_seeds(bug: Bug, most: u64, jobs: usize) -> Found {
    let (counting, planted) = (most.div_ceil(2), Some(bug));
    let violations = match bug {
        Bug::Ledger(_) | Bug::Bookie(_) => {
            Campaign { from: 0, counting, jobs, stop_at_violation: true, bug: planted }.run(&|_| {}).violations
        }
        Bug::Broker(_) | Bug::Metadata(_) => {
            brokers::campaign::Campaign { from: 0, counting, jobs, stop_at_violation: true, bug: planted }.run().violations
        }
    };
    match violations.first() {
        Some((seed, invariant)) => Found::AfterSeeds(seed + 1, invariant),
        None => Found::No,
    }
}

fn by_schedule(bug: Bug) -> Found {
    for schedule in SCHEDULES.iter().filter(|schedule| schedule.bug == Some(bug)) {
        if let Played::Broke(outcome) = schedule.play(Some(bug), Detail::Count)
            && let Some(failure) = outcome.failure
        {
            return Found::ByItsSchedule(failure.invariant);
        }
    }
    Found::No
}
