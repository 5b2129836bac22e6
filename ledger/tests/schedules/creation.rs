//! Schedules of creation.

use alluvium_ledger::call::Request;
use alluvium_ledger::open::{Creation, CreationFailure, LedgerSpec, Notice, OpenConfig};
use alluvium_ledger::placement::TooFewBookies;
use alluvium_runtime::entropy::Entropy;
use alluvium_types::bookie::Refusal;
use alluvium_types::ids::RecoveryNumber;
use alluvium_types::ledger::{LedgerClass, LedgerMetadata};
use alluvium_types::replication::Replication;
use alluvium_types::time::Mono;

use crate::world::{Driver, EPOCH, Gate, LEDGER, World, b, ledger, live, ms};

/// A world in which nobody knows the ledger yet.
fn nowhere(count: u64) -> World {
    let mut world = World::new(count, ledger(&[0], Replication::SINGLE));
    world.record = None;
    world.at(0).known = false;
    world
}

fn create(world: &mut World, live_bookies: u64, wanted: Replication) -> Driver<Creation> {
    let spec = LedgerSpec { ledger: LEDGER, epoch: EPOCH, class: LedgerClass::Bulk, wanted };
    let now = Mono::default();
    let machine = Creation::new(now, OpenConfig::default(), spec, live(0..live_bookies), Entropy::seeded(4));
    let mut creation = Driver::new(now, machine);
    creation.run(world);
    creation
}

fn opened(creation: &Driver<Creation>) -> &LedgerMetadata {
    match &creation.notices[..] {
        [Notice::Opened { metadata, .. }] => metadata,
        other => panic!("{other:?}"),
    }
}

#[test]
fn it_is_open_on_every_member_before_its_record_exists() {
    let mut world = nowhere(5);
    let creation = create(&mut world, 5, Replication::DEFAULT);
    let metadata = opened(&creation);
    assert_eq!((metadata.replication, metadata.wanted), (Replication::DEFAULT, Replication::DEFAULT));
    assert!(metadata.last_fragment().ensemble.iter().all(|bookie| world.bookies[bookie].known));
    assert!(world.record.is_none(), "the caller commits it");
}

#[test]
fn c68_a_frozen_bookie_with_a_live_session_is_replaced() {
    let mut world = nowhere(4);
    let chosen = opened(&create(&mut nowhere(4), 4, Replication::DEFAULT)).last_fragment().ensemble[1].clone();
    world.gates.insert(chosen.clone(), Gate::Swallow);
    let mut creation = create(&mut world, 4, Replication::DEFAULT);
    assert!(creation.notices.is_empty());
    creation.pass(&mut world, ms(1100));
    let metadata = opened(&creation);
    assert_eq!(metadata.replication, Replication::DEFAULT);
    assert!(!metadata.names(&chosen));
    assert_eq!(creation.suspects, [chosen]);
}

#[test]
fn c68_c63_without_a_spare_it_is_left_out_and_gets_no_add_before_its_open() {
    let mut world = nowhere(3);
    world.gate(1, Gate::Swallow);
    let mut creation = create(&mut world, 3, Replication::DEFAULT);
    creation.pass(&mut world, ms(1100));
    let metadata = opened(&creation);
    assert_eq!(metadata.replication, Replication::new(2, 2, 2).unwrap());
    assert_eq!(metadata.wanted, Replication::DEFAULT);
    assert!(metadata.is_under_replicated());
    assert!(!metadata.names(&b(1)));
}

#[test]
fn c63_who_is_slow_and_needed_is_waited_for_until_the_creation_gives_up() {
    let mut world = nowhere(3);
    world.gate(0, Gate::Swallow);
    world.gate(1, Gate::Swallow);
    let mut creation = create(&mut world, 3, Replication::DEFAULT);
    creation.pass(&mut world, ms(1100));
    assert!(creation.notices.is_empty() && creation.suspects.is_empty(), "none can be told from the other");
    creation.pass(&mut world, ms(3800));
    assert!(creation.notices.is_empty());
    creation.pass(&mut world, ms(200));
    let few = CreationFailure::TooFewBookies(TooFewBookies { live: 1, needed: 2 });
    assert_eq!(creation.notices, [Notice::Failed(few)]);
    assert_eq!(creation.suspects.len(), 2);

    // One of the slow ones answers: the other is not needed any more, and not waited for much longer.
    let mut world = nowhere(3);
    world.gate(0, Gate::Swallow);
    world.gate(1, Gate::Hold);
    let mut creation = create(&mut world, 3, Replication::DEFAULT);
    creation.pass(&mut world, ms(2000));
    creation.release(&mut world, |to, _| *to == b(1));
    creation.pass(&mut world, ms(300));
    assert_eq!(opened(&creation).replication, Replication::new(2, 2, 2).unwrap());
    assert_eq!(creation.suspects, [b(0)]);

    // The only one there is has a slow disk.
    let mut world = nowhere(1);
    world.gate(0, Gate::Hold);
    let mut creation = create(&mut world, 1, Replication::SINGLE);
    creation.pass(&mut world, ms(3000));
    creation.release(&mut world, |_, _| true);
    assert!(opened(&creation).names(&b(0)));
    assert!(creation.suspects.is_empty());
}

#[test]
fn c63_a_dead_bookie_costs_no_time_and_too_few_are_an_error_that_says_so() {
    let mut world = nowhere(3);
    world.gate(1, Gate::Refuse);
    let creation = create(&mut world, 3, Replication::DEFAULT);
    assert_eq!(opened(&creation).replication, Replication::new(2, 2, 2).unwrap());

    world.gate(2, Gate::Refuse);
    let creation = create(&mut world, 3, Replication::DEFAULT);
    let few = CreationFailure::TooFewBookies(TooFewBookies { live: 1, needed: 2 });
    assert_eq!(creation.notices, [Notice::Failed(few)]);
}

#[test]
fn a_bookie_that_refuses_is_replaced_and_a_fenced_id_is_the_end() {
    let mut world = nowhere(4);
    world.at(2).refuses = Some(Refusal::ReadOnly);
    let creation = create(&mut world, 4, Replication::DEFAULT);
    assert!(!opened(&creation).names(&b(2)));
    assert_eq!(opened(&creation).replication, Replication::DEFAULT);

    let mut world = nowhere(3);
    world.at(0).fenced = Some(RecoveryNumber::new(1));
    let creation = create(&mut world, 3, Replication::DEFAULT);
    assert_eq!(creation.notices, [Notice::Failed(CreationFailure::Superseded)]);
}

#[test]
fn nothing_but_opens_is_sent() {
    let mut world = nowhere(5);
    let creation = create(&mut world, 5, Replication::new(5, 3, 2).unwrap());
    assert!(creation.sent.iter().all(|(_, request)| matches!(request, Request::Open(_))));
    assert_eq!(creation.sent.len(), 5);
}
