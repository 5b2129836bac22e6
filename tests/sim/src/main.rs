//! The simulator's command line.

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser;

use alluvium_sim::bug::Bug;
use alluvium_sim::campaign::Campaign;
use alluvium_sim::directed::{Played, SCHEDULES, Schedule};
use alluvium_sim::plan::Plan;
use alluvium_sim::trace::Detail;
use alluvium_sim::{brokers, power, report, world};

/// Runs the product's ledger machines and bookies under faults, by seed.
#[derive(Debug, Parser)]
#[command(name = "sim")]
struct Args {
    /// Run several brokers, instead of the machines of ledgers alone.
    #[arg(long)]
    brokers: bool,
    /// Run until so many seeds counted.
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Threads.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Run this seed alone.
    #[arg(long)]
    seed: Option<u64>,
    /// Print every line of its trace.
    #[arg(long, requires = "seed")]
    trace: bool,
    /// Plant this bug.
    #[arg(long, value_parser = parse_bug)]
    bug: Option<Bug>,
    /// Play the directed schedule of this corner case, such as C13, and print its trace.
    #[arg(long)]
    schedule: Option<String>,
    /// Plant every known bug in turn, and report which are found.
    #[arg(long)]
    mutations: bool,
}

fn parse_bug(name: &str) -> Result<Bug, String> {
    let known = || Bug::of_ledgers().chain(Bug::of_brokers()).map(Bug::name).collect::<Vec<_>>().join(", ");
    Bug::parse(name).ok_or_else(|| format!("no such bug; there are {}", known()))
}

fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    let mut out = std::io::stdout().lock();
    if args.mutations {
        return power_report(args.jobs, args.brokers, &mut out);
    }
    if args.brokers {
        return several_brokers(&args, &mut out);
    }
    if let Some(seed) = args.seed {
        if args.trace {
            let outcome = world::run(&Plan::draw(seed), args.bug, Detail::Keep(usize::MAX));
            for line in &outcome.lines {
                writeln!(out, "{line}")?;
            }
            writeln!(out, "trace-hash={:016x}", outcome.hash)?;
        }
        let outcome = world::run(&Plan::draw(seed), args.bug, Detail::Count);
        if outcome.failure.is_some() {
            write!(out, "{}", report::failure(seed, args.bug))?;
            return Ok(ExitCode::FAILURE);
        }
        writeln!(
            out,
            "seed {seed}: {} events, {} confirmed, {} faults, {} beside a live writer, {:.3} s; nothing broke",
            outcome.events,
            outcome.confirmed,
            outcome.faults,
            outcome.beside_live_writer,
            outcome.simulated.as_secs_f64()
        )?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(case) = &args.schedule {
        let schedule = SCHEDULES.iter().find(|s| s.case.eq_ignore_ascii_case(case));
        let schedule = schedule.ok_or_else(|| anyhow::anyhow!("there is no directed schedule for {case}"))?;
        return play(schedule, args.bug, &mut out);
    }
    let campaign = Campaign { from: args.from, counting: args.seeds, jobs: args.jobs, stop_at_violation: false, bug: args.bug };
    let totals = campaign.run(&|_| {});
    write!(out, "{}", report::figures(&totals))?;
    if !totals.violations.is_empty() {
        writeln!(out, "broke {:?}", totals.violations)?;
    }
    if let Some((seed, _)) = totals.violations.first() {
        write!(out, "{}", report::failure(*seed, args.bug))?;
    }
    let has_power = totals.has_power(args.seeds);
    if !has_power {
        writeln!(
            out,
            "too little happened: fewer seeds count than were asked for, or too few have a recovery beside a live writer"
        )?;
    }
    Ok(if totals.is_clean() && has_power { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn several_brokers(args: &Args, out: &mut impl std::io::Write) -> anyhow::Result<ExitCode> {
    if let Some(seed) = args.seed {
        let detail = if args.trace { Detail::Keep(usize::MAX) } else { Detail::Hash };
        let outcome = brokers::run(&brokers::plan::Plan::draw(seed), args.bug, detail);
        for line in &outcome.lines {
            writeln!(out, "{line}")?;
        }
        writeln!(out, "trace-hash={:016x}", outcome.hash)?;
        if outcome.violation.is_some() {
            write!(out, "{}", brokers::report::failure(seed, args.bug))?;
            return Ok(ExitCode::FAILURE);
        }
        writeln!(
            out,
            "seed {seed}: {} turns, {} confirmed, {} acknowledged, {} faults, {} takeovers under load, {:.3} s; nothing broke",
            outcome.steps,
            outcome.confirmed,
            outcome.acknowledged,
            outcome.faults,
            outcome.takeovers,
            outcome.simulated.as_secs_f64()
        )?;
        return Ok(ExitCode::SUCCESS);
    }
    let (from, counting, jobs, bug) = (args.from, args.seeds, args.jobs, args.bug);
    let totals = brokers::campaign::Campaign { from, counting, jobs, stop_at_violation: false, bug }.run();
    write!(out, "{}", brokers::report::figures(&totals))?;
    if !totals.violations.is_empty() || !totals.mismatches.is_empty() {
        writeln!(out, "broke {:?}, differed {:?}", totals.violations, totals.mismatches)?;
    }
    if let Some((seed, _)) = totals.violations.first() {
        write!(out, "{}", brokers::report::failure(*seed, bug))?;
    }
    let has_power = totals.has_power(counting);
    if !has_power {
        writeln!(out, "too little happened: fewer seeds count than were asked for")?;
    }
    Ok(if totals.is_clean() && has_power { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn power_report(jobs: usize, of_brokers: bool, out: &mut impl std::io::Write) -> anyhow::Result<ExitCode> {
    let bugs: Vec<Bug> = if of_brokers { Bug::of_brokers().collect() } else { Bug::of_ledgers().collect() };
    let mut planted = Vec::new();
    for bug in bugs {
        let one = power::look_for(bug, jobs);
        writeln!(out, "{}", report::planted(&one))?;
        out.flush()?;
        planted.push(one);
    }
    write!(out, "{}", report::power(&planted))?;
    Ok(if planted.iter().any(power::Planted::is_missed) { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn play(schedule: &Schedule, bug: Option<Bug>, out: &mut impl std::io::Write) -> anyhow::Result<ExitCode> {
    writeln!(out, "{}: {}", schedule.case, schedule.name)?;
    let (outcome, code) = match schedule.play(bug, Detail::Keep(usize::MAX)) {
        Played::Clean(outcome) => (outcome, ExitCode::SUCCESS),
        Played::Broke(outcome) => (outcome, ExitCode::FAILURE),
        Played::InVain(outcome, what) => {
            writeln!(out, "the schedule waited for {what} in vain")?;
            (outcome, ExitCode::FAILURE)
        }
    };
    for line in &outcome.lines {
        writeln!(out, "{line}")?;
    }
    writeln!(out, "{:?}", outcome.failure)?;
    Ok(code)
}
