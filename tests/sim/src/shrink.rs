//! A failing run with as few faults as it takes: items are deleted from its list as long as the same invariant breaks.

use crate::bug::Bug;
use crate::plan::Plan;
use crate::trace::Detail;
use crate::world::run;

/// The most runs that shrinking may cost.
const RUNS_MAX: usize = 400;

/// A plan that breaks `invariant` and from which no single item can be deleted, as far as the budget of runs allows.
pub fn shrink(plan: &Plan, bug: Option<Bug>, invariant: &'static str) -> Plan {
    let items = shrink_list(&plan.items, |items| {
        let smaller = Plan { items: items.to_vec(), ..plan.clone() };
        run(&smaller, bug, Detail::Count).failure.is_some_and(|f| f.invariant == invariant)
    });
    Plan { items, ..plan.clone() }
}

/// As few of these as still `fail`, by single deletions, as far as the budget of runs allows.
pub fn shrink_list<T: Clone>(items: &[T], mut fail: impl FnMut(&[T]) -> bool) -> Vec<T> {
    let mut runs = 0;
    let mut fails = |items: &[T]| {
        runs += 1;
        runs <= RUNS_MAX && fail(items)
    };
    let mut best = items.to_vec();
    // Halves first, then smaller pieces, then single items.
    let mut piece = best.len().div_ceil(2);
    while piece > 0 {
        let mut at = 0;
        while at < best.len() {
            let mut smaller = best.clone();
            smaller.drain(at..(at + piece).min(best.len()));
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
