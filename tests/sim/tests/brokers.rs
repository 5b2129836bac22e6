//! Few seeds of several brokers: what the campaign of CI does with many thousands.

use alluvium_sim::brokers::campaign::Campaign;
use alluvium_sim::brokers::plan::Plan;
use alluvium_sim::brokers::{report, run};
use alluvium_sim::bug::Bug;
use alluvium_sim::power::{self, Found};
use alluvium_sim::trace::Detail;

/// Invariants L1, M1, M2, M4, T1 to T3, S1, D1, D3, D5 to D7, C38, C39, C62, and liveness, over whole brokers.
#[test]
fn several_brokers_keep_every_invariant_while_owners_die_and_stand_still() {
    let campaign = Campaign { from: 1_000_000, counting: 60, jobs: 2, stop_at_violation: true, bug: None };
    let totals = campaign.run();
    if let Some((seed, _)) = totals.violations.first() {
        panic!("{}", report::failure(*seed, None));
    }
    assert!(totals.mismatches.is_empty(), "seeds {:?} ran differently the second time", totals.mismatches);
    assert!(totals.has_power(60), "{} of {} seeds count", totals.counting, totals.seeds);
}

#[test]
fn a_seed_of_brokers_replays_line_by_line() {
    for seed in [3, 14, 159] {
        let lines = |detail| run(&Plan::draw(seed), None, detail);
        let (first, second) = (lines(Detail::Keep(usize::MAX)), lines(Detail::Keep(usize::MAX)));
        assert_eq!(first.lines, second.lines, "seed {seed}");
        assert_eq!((first.hash, first.steps), (lines(Detail::Hash).hash, second.steps), "seed {seed}");
    }
}

#[test]
fn c62_a_state_ledger_that_is_not_fenced_is_found_and_reported() {
    let bug = Bug::parse("StateLedgerNotFenced").expect("it is known");
    let planted = power::look_for(bug, 2);
    let Found::AfterSeeds(..) = planted.found else { panic!("{planted:?}") };
    let campaign = Campaign { from: 0, counting: 100, jobs: 1, stop_at_violation: true, bug: Some(bug) };
    let (seed, _) = campaign.run().violations[0];
    let told = report::failure(seed, Some(bug));
    assert!(told.starts_with("SIM FAIL invariant="), "{told}");
    assert!(told.contains(&format!("--brokers --seed {seed} --trace --bug StateLedgerNotFenced")), "{told}");
    assert!(told.contains("trace-hash="), "{told}");
}
