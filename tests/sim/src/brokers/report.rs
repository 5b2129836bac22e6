//! What people read: the figures of a campaign of brokers, and a failing run.

use std::fmt::Write as _;

use super::campaign::{CONFIRMED_MIN, FAULTS_MIN, TAKEOVERS_MIN, Totals};
use super::plan::Plan;
use super::world::run;
use crate::bug::Bug;
use crate::campaign::deciles;
use crate::report::commit;
use crate::shrink::shrink_list;
use crate::trace::Detail;

/// Lines of a failing run's trace that are printed with it.
const LAST_EVENTS: usize = 60;

/// The figures of a campaign, a line each.
pub fn figures(totals: &Totals) -> String {
    let mut out = String::new();
    let seconds = totals.took.as_secs_f64().max(1e-9);
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    let rate = totals.seeds as f64 / seconds;
    let mut line = |name: &str, value: String| writeln!(out, "{name:<44} {value}").expect("a string takes all");
    line("seeds run", totals.seeds.to_string());
    let counts = format!("counting (>={CONFIRMED_MIN} conf, >={FAULTS_MIN} faults, >={TAKEOVERS_MIN} takeovers)");
    line(&counts, totals.counting.to_string());
    for (name, values) in [
        ("turns of tasks        p10/p50/p90", &totals.steps),
        ("confirmed messages    p10/p50/p90", &totals.confirmed),
        ("receipted acks        p10/p50/p90", &totals.acknowledged),
        ("faults that struck    p10/p50/p90", &totals.faults),
        ("takeovers under load  p10/p50/p90", &totals.takeovers),
    ] {
        let [low, middle, high] = deciles(values);
        line(name, format!("{low}/{middle}/{high}"));
    }
    line("faults that struck, in all", totals.faults.iter().sum::<u64>().to_string());
    line("takeovers under load, in all", totals.takeovers.iter().sum::<u64>().to_string());
    line("facts checked", totals.checks.to_string());
    line("simulated hours", format!("{:.1}", totals.simulated.as_secs_f64() / 3600.0));
    line("took", format!("{seconds:.1} s, {rate:.0} seeds/s"));
    line("run twice / that differ", format!("{} / {}", totals.twice, totals.mismatches.len()));
    line("violations", totals.violations.len().to_string());
    out
}

/// A failing seed as a person needs it: what broke, how to see it again, and what happened last, with as few faults as it
/// takes.
pub fn failure(seed: u64, bug: Option<Bug>) -> String {
    let plan = Plan::draw(seed);
    let first = run(&plan, bug, Detail::Count);
    let Some(violation) = first.violation else {
        return format!("seed {seed} breaks nothing\n");
    };
    let items = shrink_list(&plan.items, |items| {
        let smaller = Plan { items: items.to_vec(), ..plan.clone() };
        run(&smaller, bug, Detail::Count).violation.is_some_and(|found| found.invariant == violation.invariant)
    });
    let small = Plan { items, ..plan.clone() };
    let shown = run(&small, bug, Detail::Keep(LAST_EVENTS));
    let violation = shown.violation.clone().unwrap_or(violation);
    let mut out = String::new();
    writeln!(
        out,
        "SIM FAIL invariant={} {:?} seed={seed} commit={} t={:.3}s faults={} (shrunk from {})",
        violation.invariant,
        violation.what,
        commit(),
        shown.simulated.as_secs_f64(),
        small.items.len(),
        plan.items.len(),
    )
    .expect("a string takes all");
    let planted = bug.map(|bug| format!(" --bug {}", bug.name())).unwrap_or_default();
    writeln!(
        out,
        "replay: cargo run -p alluvium-sim -- --brokers --seed {seed} --trace{planted}    trace-hash={:016x}",
        shown.hash
    )
    .expect("a string takes all");
    for planned in &small.items {
        writeln!(out, "  item {:>9.3}ms {:?}", planned.at.as_duration().as_secs_f64() * 1e3, planned.item)
            .expect("a string takes all");
    }
    for line in &shown.lines {
        writeln!(out, "{line}").expect("a string takes all");
    }
    out
}
