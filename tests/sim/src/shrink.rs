//! A failing run with as few faults as it takes: items are deleted from its list as long as the same invariant breaks.

use crate::bug::Bug;
use crate::plan::Plan;
use crate::trace::Detail;
use crate::world::run;

/// The most runs that shrinking may cost.
const RUNS_MAX: usize = 400;

/// A plan that breaks `invariant` and from which no single item can be deleted, as far as the budget of runs allows.
pub fn shrink(plan: &Plan, bug: Option<Bug>, invariant: &'static str) -> Plan {
    let mut runs = 0;
    let mut fails = |plan: &Plan| {
        runs += 1;
        runs <= RUNS_MAX && run(plan, bug, Detail::Count).failure.is_some_and(|f| f.invariant == invariant)
    };
    let mut best = plan.clone();
    // Halves first, then smaller pieces, then single items.
    let mut piece = best.items.len().div_ceil(2);
    while piece > 0 {
        let mut at = 0;
        while at < best.items.len() {
            let mut smaller = best.clone();
            smaller.items.drain(at..(at + piece).min(best.items.len()));
            if fails(&smaller) {
                best = smaller;
            } else {
                at += piece;
            }
        }
        piece = if piece == 1 { 0 } else { piece.div_ceil(2) };
    }
    best
}
