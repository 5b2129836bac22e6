//! The simulator's command line.

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser;

use alluvium_sim::bug::Bug;
use alluvium_sim::campaign::Campaign;
use alluvium_sim::plan::Plan;
use alluvium_sim::trace::Detail;
use alluvium_sim::{report, world};

/// Runs the product's ledger machines and bookies under faults, by seed.
#[derive(Debug, Parser)]
#[command(name = "sim")]
struct Args {
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
}

fn parse_bug(name: &str) -> Result<Bug, String> {
    let known = || Bug::all().map(Bug::name).collect::<Vec<_>>().join(", ");
    Bug::parse(name).ok_or_else(|| format!("no such bug; there are {}", known()))
}

fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    let mut out = std::io::stdout().lock();
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
    let campaign =
        Campaign { from: args.from, counting: args.seeds, jobs: args.jobs, stop_at_violation: false, bug: args.bug };
    let totals = campaign.run(&|_| {});
    write!(out, "{}", report::figures(&totals))?;
    if let Some((seed, _)) = totals.violations.first() {
        write!(out, "{}", report::failure(*seed, args.bug))?;
    }
    Ok(if totals.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
