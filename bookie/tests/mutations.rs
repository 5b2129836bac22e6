//! The planted bugs bite: what each breaks holds without it. The simulator has to find them.

mod support;

use alluvium_bookie::identity::{Claim, Identity, decide};
use alluvium_bookie::mutation::{Mutation, Mutations};
use alluvium_bookie::store::AddOutcome;
use alluvium_runtime::entropy::Entropy;
use alluvium_types::bookie::Refusal;
use alluvium_types::ids::{ClusterId, Incarnation};
use alluvium_types::names::BookieName;
use support::rig::Rig;
use support::{L, add, body, e, open, read};

#[test]
fn ack_before_sync_loses_what_was_acknowledged() {
    let mut rig = Rig::with(Mutations::plant(Mutation::AckBeforeSync)).opened(L);
    assert_eq!(rig.try_add(add(L, 0, body(L, 0, 10))), AddOutcome::Now(Ok(())));
    let rig = rig.crash();
    assert_eq!(rig.store.index().get(L, e(0)), None);
}

#[test]
fn an_unknown_ledger_that_is_not_fenced_takes_the_late_writer() {
    let mut rig = Rig::with(Mutations::plant(Mutation::UnknownLedgerNotFenced));
    assert!(rig.fence(L, 1).is_ok());
    assert_eq!(rig.ask(|store| store.open(&open(L))), Ok(()));
    assert_eq!(rig.add(add(L, 0, body(L, 0, 10))), Ok(()));
}

#[test]
fn a_fence_that_is_lost_at_a_restart_takes_the_late_writer() {
    let mut rig = Rig::with(Mutations::plant(Mutation::FenceBitLostAtRestart)).opened(L);
    rig.fence(L, 1).expect("fenced");
    assert_eq!(rig.add(add(L, 0, body(L, 0, 10))), Err(Refusal::Fenced));
    let mut rig = rig.crash();
    assert_eq!(rig.add(add(L, 0, body(L, 0, 10))), Ok(()));
    // It can be fenced again, until the next restart.
    rig.fence(L, 2).expect("fenced");
    assert_eq!(rig.add(add(L, 1, body(L, 1, 10))), Err(Refusal::Fenced));
    assert!(rig.read(read(L, 0, 0)).is_ok());
}

#[test]
fn a_wiped_bookie_that_rejoins_takes_the_incarnation_that_was() {
    let entropy = Entropy::seeded(1);
    let wanted = Identity {
        cluster: ClusterId::new(entropy.uuid()),
        bookie: BookieName::parse("b1").expect("valid"),
        incarnation: Incarnation::new(entropy.uuid()),
        log_begun: false,
    };
    let known = Incarnation::new(entropy.uuid());
    let decided = |mutations| decide(std::path::Path::new("/data"), None, &wanted, Some(known), mutations).expect("joins");
    assert_eq!(decided(Mutations::NONE), (wanted.clone(), Claim::Replaces(known)));
    let (identity, claim) = decided(Mutations::plant(Mutation::WipedBookieRejoins));
    assert_eq!((identity.incarnation, claim), (known, Claim::Known));
}
