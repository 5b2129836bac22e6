//! The log engine against a reference model, over many states that a crash may leave: in appends, group writes, rolls,
//! footers, recycling, compaction, and in recovery itself (B1, B2, B4, B6, C27, C29, C31, C57–C60).
//!
//! A state counts if its durable bytes differ from those of all others. `ALLUVIUM_CRASH_STATES` sets how many are looked at,
//! `ALLUVIUM_CRASH_SEED` the seed of the first run: a violation names the seed of its run.

#![expect(clippy::unwrap_used, reason = "a test's helpers are tests")]

mod log_model;

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

use alluvium_bookie::log::Stored;
use alluvium_bookie::log::planted::Planted;
use alluvium_runtime::disk::sim::SimDisk;
use alluvium_runtime::disk::{Disk, SyncMode};
use alluvium_runtime::entropy::Entropy;

use log_model::bench::{Bench, Plan, open_log, open_noting_life};
use log_model::model::Model;
use log_model::{DIR, small};

/// What was looked at.
#[derive(Debug, Default)]
struct Tally {
    distinct: BTreeSet<u64>,
    seen: u64,
    recycled: u64,
    after_recovery: u64,
    in_recovery: u64,
    killed: u64,
    torn: u64,
    rotten: u64,
    losses: u64,
    reopened: u64,
    runs: u64,
}

/// How a search is done.
#[derive(Clone, Copy)]
struct Search {
    states: u64,
    planted: Option<Planted>,
    releases_before_copies: bool,
    rots: bool,
}

/// A state that the log did not survive.
struct Violation {
    what: String,
    seed: u64,
    states: u64,
}

impl fmt::Debug for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, seed, states } = self;
        write!(
            f,
            "after {states} states: {what}\nreplay: ALLUVIUM_CRASH_SEED={seed} ALLUVIUM_CRASH_STATES=600 cargo test -p alluvium-bookie --test log_crash_states"
        )
    }
}

struct Run<'a> {
    bench: Bench,
    tally: &'a mut Tally,
    search: Search,
    seed: u64,
}

fn search(search: Search, tally: &mut Tally) -> Result<(), Violation> {
    let first = number_in("ALLUVIUM_CRASH_SEED").unwrap_or(0);
    for seed in first.. {
        if tally.distinct.len() as u64 >= search.states {
            return Ok(());
        }
        tally.runs += 1;
        run(search, seed, tally)?;
    }
    Ok(())
}

/// One disk, many crashes one after the other.
fn run(search: Search, seed: u64, tally: &mut Tally) -> Result<(), Violation> {
    let entropy = Entropy::seeded(seed);
    let mode = if entropy.below(4) == 0 { SyncMode::Buffered } else { SyncMode::Direct };
    let mut config = small();
    config.planted = search.planted;
    let plan = Plan { config, mode, releases_before_copies: search.releases_before_copies };
    let disk = SimDisk::new(Entropy::seeded(seed ^ 0xD15C), 4 << 20);
    disk.set_garbles(entropy.below(2) == 0);
    let bench = Bench::new(disk, plan, entropy);
    let mut run = Run { bench, tally, search, seed };
    // The first life fills some files, so that later ones are recycled.
    run.work(150);
    for _ in 0..24 {
        run.crash()?;
    }
    Ok(())
}

impl Run<'_> {
    /// Operations until the disk is struck or there were enough of them.
    fn work(&mut self, steps: u64) {
        for _ in 0..steps {
            if self.bench.step().is_err() {
                return;
            }
        }
    }

    fn violation(&self, what: String) -> Violation {
        Violation { what, seed: self.seed, states: self.tally.seen }
    }

    fn crash(&mut self) -> Result<(), Violation> {
        let entropy = self.bench.entropy.clone();
        // Enough is let go that files are used again.
        for _ in 0..2 {
            let _ = self.bench.collect();
        }
        let strike = entropy.below(16);
        if strike < 14 {
            self.bench.disk.crash_in(1 + strike);
        }
        let steps = 10 + entropy.below(50);
        self.work(steps);
        let forks = 6;
        let keep = entropy.below(forks);
        let mut kept = None;
        for number in 0..forks {
            // A chance of its own, so that a run is the same whatever others have looked at.
            let entropy = Entropy::seeded(entropy.bits());
            let fork = self.bench.disk.fork(Entropy::seeded(entropy.bits()));
            let is_killed = entropy.below(6) == 0;
            if is_killed {
                // Only the process goes: what it wrote and never synced is there to be read, and is not on the disk.
                fork.kill_process();
                self.tally.killed += 1;
            } else {
                fork.crash();
            }
            let mut model = self.bench.model.clone();
            if self.search.rots && !is_killed && entropy.below(4) == 0 {
                rot(&fork, &entropy);
                model.is_rotten = true;
                self.tally.rotten += 1;
            }
            // The same bytes once more teach nothing.
            if number == keep || is_killed || !self.tally.distinct.contains(&fork.durable_hash()) {
                let next = self.look_at(&fork, &model, &entropy, is_killed)?;
                if number == keep {
                    kept = Some(next);
                }
            }
        }
        if let Some(next) = kept {
            self.bench = next;
        }
        Ok(())
    }

    fn count(&mut self, disk: &SimDisk) {
        self.tally.seen += 1;
        if self.tally.distinct.insert(disk.durable_hash()) {
            self.tally.recycled += u64::from(self.bench.active_is_recycled);
            self.tally.after_recovery += u64::from(self.bench.recoveries > 0);
        }
    }

    /// Opens one crash state, perhaps through further crashes, and checks what it finds.
    fn look_at(&mut self, disk: &SimDisk, model: &Model, entropy: &Entropy, is_killed: bool) -> Result<Bench, Violation> {
        self.count(disk);
        let plan = &self.bench.plan.clone();
        let was_in_flight = self.bench.is_in_flight();
        let mut disk = disk.clone();
        while entropy.below(3) == 0 {
            disk.crash_in(1 + entropy.below(10));
            let opened = open_log(&disk, plan, entropy);
            if opened.is_ok() {
                // It was through before the blow fell: that is a restart.
                self.tally.reopened += 1;
            }
            disk = disk.fork(Entropy::seeded(entropy.bits()));
            disk.crash();
            self.count(&disk);
            self.tally.in_recovery += 1;
        }
        let (log, is_recycled) = open_noting_life(&disk, plan, entropy, &self.bench.former)
            .map_err(|error| self.violation(format!("it does not open: {error}")))?;
        model.check(&log).map_err(|what| self.violation(what))?;
        self.tally.torn += u64::from(log.report.torn.is_some());
        self.tally.losses += u64::from(!log.report.losses.is_empty());
        if log.report.torn.is_some() && !was_in_flight && !model.is_rotten {
            return Err(self.violation(format!("nothing was in flight, but the log is torn: {:?}", log.report)));
        }
        // Whoever appends behind a cut keeps no note of it; that is found by what comes back.
        let is_looked_at_again = is_killed || entropy.below(6) == 0;
        if is_looked_at_again && self.search.planted != Some(Planted::AppendBehindCut) {
            self.check_stable(&disk, entropy, &log)?;
        }
        let mut model = model.clone();
        model.adopt(&log);
        let mut next = Bench::on(disk, plan.clone(), entropy.clone(), log, model);
        next.former = self.bench.former.clone();
        next.active_is_recycled = is_recycled;
        next.recoveries = self.bench.recoveries + 1;
        next.next_ledger = self.bench.next_ledger;
        Ok(next)
    }

    /// Recovery of recovery: opening once more changes nothing and finds nothing new.
    fn check_stable(&self, disk: &SimDisk, entropy: &Entropy, log: &alluvium_bookie::log::Log) -> Result<(), Violation> {
        let again = disk.fork(Entropy::seeded(entropy.bits()));
        again.crash();
        let second = open_log(&again, &self.bench.plan, entropy)
            .map_err(|error| self.violation(format!("it does not open again: {error}")))?;
        let report = &second.report;
        if report.torn.is_some() || !report.losses.is_empty() {
            return Err(self.violation(format!("the second opening finds what the first did not: {report:?}")));
        }
        let marks = |log: &alluvium_bookie::log::Log| log.writer.marks().clone();
        if marks(log) != marks(&second) {
            return Err(self.violation("the second opening has other marks".to_owned()));
        }
        let entries = |log: &alluvium_bookie::log::Log| {
            // A LAC that came alone may go with its file.
            let ledgers = log.index.ledgers().map(|id| (id, Stored { lac: None, ..log.index.stored(id) }));
            ledgers.filter(|(_, stored)| stored.entries > 0).collect::<Vec<_>>()
        };
        if entries(log) != entries(&second) {
            let (first, second) = (entries(log), entries(&second));
            return Err(self.violation(format!("the second opening has other entries: {first:?}, then {second:?}")));
        }
        Ok(())
    }
}

/// Flips bits within one sector that was written, in a file that is in use, somewhere or near its end.
fn rot(disk: &SimDisk, entropy: &Entropy) {
    let files: Vec<PathBuf> =
        disk.list(Path::new(DIR)).unwrap().into_iter().filter(|p| p.to_str().unwrap().contains("log-")).collect();
    let Some(last) = files.last() else { return };
    let path = if entropy.below(2) == 0 { last } else { &files[usize::try_from(entropy.below(files.len() as u64)).unwrap()] };
    let written: Vec<u64> = (0..small().file_bytes / 512)
        .filter(|sector| disk.durable_bytes(path, sector * 512..(sector + 1) * 512).iter().any(|&b| b != 0))
        .collect();
    if written.is_empty() {
        return;
    }
    let place = if entropy.below(2) == 0 {
        written.len() - 1 - usize::try_from(entropy.below(16.min(written.len() as u64))).unwrap()
    } else {
        usize::try_from(entropy.below(written.len() as u64)).unwrap()
    };
    let sector = written[place];
    disk.rot(path, sector * 512..(sector + 1) * 512);
}

fn number_in(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|number| number.parse().expect("a number"))
}

#[test]
fn b1_b2_b4_b6_every_crash_state_keeps_what_was_acknowledged_and_nothing_else() {
    let wanted = number_in("ALLUVIUM_CRASH_STATES").unwrap_or(100_000);
    let mut tally = Tally::default();
    let sound = Search { states: wanted / 2, planted: None, releases_before_copies: false, rots: false };
    search(sound, &mut tally).unwrap_or_else(|violation| panic!("{violation:?}"));
    let rotten = Search { states: wanted, rots: true, ..sound };
    search(rotten, &mut tally).unwrap_or_else(|violation| panic!("{violation:?}"));
    let distinct = tally.distinct.len() as u64;
    println!(
        "{distinct} distinct crash states ({} looked at, {} runs): {} in recycled files, {} after an earlier recovery, \
         {} in a recovery, {} restarts on top; {} of a killed process whose recovery met a power cut; {} torn, {} rotten, {} with losses found",
        tally.seen,
        tally.runs,
        tally.recycled,
        tally.after_recovery,
        tally.in_recovery,
        tally.reopened,
        tally.killed,
        tally.torn,
        tally.rotten,
        tally.losses,
    );
    assert!(distinct >= wanted);
    assert!(tally.recycled * 3 >= distinct, "a third in recycled files");
    assert!(tally.killed * 20 >= distinct, "one in twenty left by a killed process");
    assert!(tally.after_recovery * 3 >= distinct, "a third after an earlier recovery");
}

#[test]
fn planted_bugs_are_found() {
    let sound = Search { states: 3_000, planted: None, releases_before_copies: false, rots: false };
    let planted = |bug| Search { planted: Some(bug), ..sound };
    let searches = [
        ("C57 no salt", planted(Planted::NoSalt)),
        ("C58 append behind a cut", planted(Planted::AppendBehindCut)),
        ("C60 rewrite of a partly filled block", planted(Planted::RewriteBlock)),
        ("C59 a bad last group taken as absence", Search { rots: true, ..planted(Planted::TornIsAbsent) }),
        ("B1 ack before sync", planted(Planted::AckBeforeSync)),
        ("C29 release before the copies are durable", Search { releases_before_copies: true, ..sound }),
        ("C31 a bad group skipped in silence", Search { rots: true, ..planted(Planted::SkipBadGroup) }),
        ("C27 no snapshot of marks", planted(Planted::NoSnapshot)),
    ];
    let mut found = 0;
    for (name, wanted) in searches {
        let mut tally = Tally::default();
        match search(wanted, &mut tally) {
            Err(violation) => {
                found += 1;
                println!("{name}: found after {} states: {}", violation.states, violation.what);
            }
            Ok(()) => println!("{name}: NOT FOUND in {} states", tally.seen),
        }
    }
    println!("{found} of {} planted bugs found", searches.len());
    assert_eq!(found, searches.len());
}
