//! Schedules written by hand, for the bugs that chance finds too rarely: each leads straight into one of them.
//!
//! A schedule proves two things: with its bug planted an invariant breaks, and without it the same course of events ends well.

mod cas;
mod disk;
mod fence;
mod recovery;

use alluvium_bookie::mutation::Mutation as InBookie;
use alluvium_ledger::mutation::Mutation as InLedger;

use crate::bug::Bug;
use crate::plan::Shape;
use crate::trace::Detail;
use crate::world::{Astray, Outcome, Stage};

/// One schedule.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    /// What happens in it, as a sentence.
    pub name: &'static str,
    /// The corner case of `invariants.md`.
    pub case: &'static str,
    /// The bug that it leads into; none where it holds a bug of ours down that was found and mended.
    pub bug: Option<Bug>,
    shape: fn() -> Shape,
    script: fn(&mut Stage) -> Result<(), Astray>,
}

/// All schedules.
pub const SCHEDULES: [Schedule; 8] = [
    Schedule {
        name: "an add reaches the one bookie that recovery only read from",
        case: "C1",
        bug: Some(Bug::Ledger(InLedger::RecoveryReadsDoNotFence)),
        shape: Shape::calm,
        script: recovery::late_add_after_a_read,
    },
    Schedule {
        name: "a fenced bookie restarts while its writer still lives",
        case: "C8",
        bug: Some(Bug::Bookie(InBookie::FenceBitLostAtRestart)),
        shape: Shape::calm,
        script: fence::restart_between_fence_and_add,
    },
    Schedule {
        name: "a recovery changes its ensemble and the old one alone has an acked entry",
        case: "C11",
        bug: Some(Bug::Ledger(InLedger::RecoveryReadsChangedEnsemble)),
        shape: Shape::calm,
        script: recovery::evidence_is_on_the_old_ensemble,
    },
    Schedule {
        name: "an ensemble change is applied long after the writer gave up waiting",
        case: "C12",
        bug: Some(Bug::Ledger(InLedger::TimedOutCasResolvedByRead)),
        shape: Shape::calm,
        script: cas::change_applied_late,
    },
    Schedule {
        name: "a recovery dies after it copied to an ensemble of its own",
        case: "C13",
        bug: Some(Bug::Ledger(InLedger::RecoveryAddsCarryLac)),
        shape: Shape::calm,
        script: recovery::copies_of_a_dead_recovery,
    },
    Schedule {
        name: "two recoveries of the same pace take turns",
        case: "C14",
        bug: Some(Bug::Ledger(InLedger::RecoverersDoNotBackOff)),
        shape: recovery::even_pace,
        script: recovery::two_at_once,
    },
    Schedule {
        name: "a recovery asks spares again that failed it once",
        case: "L-liveness",
        bug: None,
        shape: Shape::calm,
        script: recovery::spares_that_were_silent,
    },
    Schedule {
        name: "a bookie is killed in a write, answers for what it finds, and loses power",
        case: "B1",
        bug: None,
        shape: disk::slow_disks,
        script: disk::killed_then_cut_off,
    },
];

/// How a schedule ended.
#[derive(Clone, Debug)]
pub enum Played {
    /// It went to its end and nothing broke.
    Clean(Outcome),
    /// An invariant broke.
    Broke(Outcome),
    /// It waited for something that did not come: the schedule itself is wrong.
    InVain(Outcome, &'static str),
}

impl Schedule {
    /// Plays it, with a bug or without.
    pub fn play(&self, bug: Option<Bug>, detail: Detail) -> Played {
        let mut stage = Stage::new((self.shape)(), 1, bug, detail);
        match stage.open().and_then(|()| (self.script)(&mut stage)).and_then(|()| stage.finish()) {
            Ok(()) => Played::Clean(stage.outcome(None)),
            Err(Astray::Broke(violation)) => Played::Broke(stage.outcome(Some(violation))),
            Err(Astray::InVain(what)) => Played::InVain(stage.outcome(None), what),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_schedule_breaks_something_with_its_bug_and_nothing_without() {
        for schedule in SCHEDULES {
            let name = schedule.name;
            match schedule.play(schedule.bug, Detail::Keep(60)) {
                Played::Broke(_) => {}
                Played::Clean(_) if schedule.bug.is_none() => {}
                Played::Clean(outcome) => panic!("{name}: the bug was not found\n{}", outcome.lines.join("\n")),
                Played::InVain(outcome, what) => {
                    panic!("{name}: waited for {what} in vain, with the bug\n{}", outcome.lines.join("\n"))
                }
            }
            match schedule.play(None, Detail::Keep(60)) {
                Played::Clean(_) => {}
                Played::Broke(outcome) => {
                    panic!("{name}: {:?}\n{}", outcome.failure, outcome.lines.join("\n"))
                }
                Played::InVain(outcome, what) => panic!("{name}: waited for {what} in vain\n{}", outcome.lines.join("\n")),
            }
        }
    }
}
