//! What people read: the figures of a campaign, and a failing run.

use std::fmt::Write as _;
use std::process::Command;
use std::time::Duration;

use crate::bug::Bug;
use crate::campaign::{CONFIRMED_MIN, EVENTS_MIN, FAULTS_MIN, Totals, deciles};
use crate::plan::Plan;
use crate::power::{Found, Planted, Search};
use crate::shrink::shrink;
use crate::trace::Detail;
use crate::world::run;

/// Lines of a failing run's trace that are printed with it.
const LAST_EVENTS: usize = 40;

/// The figures of a campaign, a line each.
pub fn figures(totals: &Totals) -> String {
    let mut out = String::new();
    let seconds = totals.took.as_secs_f64().max(1e-9);
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    let rate = totals.seeds as f64 / seconds;
    let mut line = |name: &str, value: String| writeln!(out, "{name:<34} {value}").expect("a string takes all");
    line("seeds run", totals.seeds.to_string());
    line(&format!("counting (>={EVENTS_MIN} ev, >={CONFIRMED_MIN} conf, >={FAULTS_MIN} faults)"), totals.counting.to_string());
    line("of them beside a live writer", totals.beside_live_writer.to_string());
    for (name, values) in [
        ("events             p10/p50/p90", &totals.events),
        ("confirmed entries  p10/p50/p90", &totals.confirmed),
        ("faults that struck p10/p50/p90", &totals.faults),
    ] {
        let [low, middle, high] = deciles(values);
        line(name, format!("{low}/{middle}/{high}"));
    }
    line("faults that struck, in all", totals.faults.iter().sum::<u64>().to_string());
    line("facts checked", totals.checks.to_string());
    line("simulated hours", format!("{:.1}", totals.simulated.as_secs_f64() / 3600.0));
    line("took", format!("{seconds:.1} s, {rate:.0} seeds/s"));
    line("run twice / traces that differ", format!("{} / {}", totals.twice, totals.mismatches.len()));
    line("violations", totals.violations.len().to_string());
    out
}

/// What came of the search for one bug, as a line.
pub fn planted(planted: &Planted) -> String {
    let name = planted.bug.name();
    match (&planted.found, planted.search) {
        (Found::AfterSeeds(seeds, invariant), _) => format!("found  {name:<36} {invariant:<5} after {seeds} seeds"),
        (Found::ByItsSchedule(invariant), _) => format!("found  {name:<36} {invariant:<5} by its directed schedule"),
        (Found::No, Search::Equivalent(seeds)) => {
            format!("equal  {name:<36}       not found in {seeds} seeds: made up for elsewhere, as expected")
        }
        (Found::No, Search::Seeds(seeds)) => format!("MISSED {name:<36}       in {seeds} seeds"),
        (Found::No, Search::Directed) => format!("MISSED {name:<36}       by its directed schedule"),
    }
}

/// The power of the simulator: found out of planted.
pub fn power(all: &[Planted]) -> String {
    let expected = all.iter().filter(|p| !matches!(p.search, Search::Equivalent(_)));
    let found = expected.clone().filter(|p| p.found != Found::No).count();
    let mut seeds: Vec<u64> = all
        .iter()
        .filter_map(|p| match p.found {
            Found::AfterSeeds(seeds, _) => Some(seeds),
            _ => None,
        })
        .collect();
    seeds.sort_unstable();
    let median = seeds.get(seeds.len() / 2).copied().unwrap_or(0);
    format!("planted bugs found / planted       {found} / {}, median seeds to find {median}\n", expected.count())
}

/// A failing seed as a person needs it: what broke, how to see it again, and what happened last, with as few faults as it
/// takes.
pub fn failure(seed: u64, bug: Option<Bug>) -> String {
    let plan = Plan::draw(seed);
    let first = run(&plan, bug, Detail::Count);
    let Some(failure) = first.failure else {
        return format!("seed {seed} breaks nothing\n");
    };
    let small = shrink(&plan, bug, failure.invariant);
    let shown = run(&small, bug, Detail::Keep(LAST_EVENTS));
    let failure = shown.failure.clone().unwrap_or(failure);
    let mut out = String::new();
    writeln!(
        out,
        "SIM FAIL invariant={} {:?} seed={seed} commit={} t={} events={} faults={} (shrunk from {})",
        failure.invariant,
        failure.what,
        commit(),
        seconds(shown.simulated),
        shown.events,
        small.items.len(),
        plan.items.len(),
    )
    .expect("a string takes all");
    let planted = bug.map(|bug| format!(" --bug {}", bug.name())).unwrap_or_default();
    writeln!(out, "replay: cargo run -p alluvium-sim -- --seed {seed} --trace{planted}    trace-hash={:016x}", shown.hash)
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

fn seconds(time: Duration) -> String {
    format!("{:.3}s", time.as_secs_f64())
}

/// The commit that is checked out, for the replay to be of the same code.
pub(crate) fn commit() -> String {
    let output = Command::new("git").args(["rev-parse", "--short", "HEAD"]).output();
    match output {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        _ => "unknown".to_owned(),
    }
}
