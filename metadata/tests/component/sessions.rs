//! Registrations under sessions, and who others believe to be alive.

use std::time::Duration;

use alluvium_metadata::UpdateError;
use alluvium_metadata::auditor::Audit;
use alluvium_metadata::bookies::BookieInfo;
use alluvium_metadata::brokers::{Broker, IfRegistered, WEIGHT_MAX};
use alluvium_metadata::live::Live;
use alluvium_metadata::store::MetadataStore;
use alluvium_runtime::clock::Clock;
use alluvium_runtime::entropy::Entropy;
use alluvium_runtime::tasks::OnFailure;
use alluvium_types::ids::{ClusterId, Incarnation};
use alluvium_types::ledger::BookieId;
use alluvium_types::names::{BookieName, BrokerName, ZoneName};
use alluvium_types::time::Timestamp;
use tokio::sync::watch;

use crate::repositories::{weighing, world, world_at};

const TTL: Duration = Duration::from_secs(30);

fn id(name: &str, life: u64) -> BookieId {
    BookieId { name: BookieName::parse(name).unwrap(), incarnation: Incarnation::new(Entropy::seeded(life).uuid()) }
}

fn info(available_bytes: u64) -> BookieInfo {
    BookieInfo {
        zone: Some(ZoneName::parse("z1").unwrap()),
        address: "127.0.0.1:1".to_owned(),
        writable: true,
        total_bytes: 100,
        available_bytes,
    }
}

fn cluster() -> ClusterId {
    ClusterId::new(Entropy::seeded(77).uuid())
}

/// B11: a name belongs to a data directory; another one doesn't get it unless an operator says so.
#[tokio::test]
async fn a_bookies_name_belongs_to_one_data_directory() {
    let world = world();
    let bookies = world.metadata.bookies();
    assert!(matches!(bookies.register(&id("b", 1), &info(1), TTL).await, Err(UpdateError::NotFound { .. })));
    let claimed = bookies.claim_identity(&id("b", 1), cluster()).await.unwrap();
    assert_eq!(bookies.claim_identity(&id("b", 1), cluster()).await.unwrap(), claimed, "the same directory again");
    let other = bookies.claim_identity(&id("b", 2), cluster()).await;
    assert_eq!(other, Err(UpdateError::Exists { what: "the bookie" }));
    assert!(matches!(bookies.register(&id("b", 2), &info(1), TTL).await, Err(UpdateError::Exists { .. })));
    bookies.register(&id("b", 1), &info(1), TTL).await.unwrap();
    bookies.replace_identity(&id("b", 2), &claimed).await.unwrap();
    assert!(matches!(bookies.register(&id("b", 1), &info(1), TTL).await, Err(UpdateError::Exists { .. })));
    bookies.register(&id("b", 2), &info(1), TTL).await.unwrap();
    assert_eq!(bookies.live(&id("b", 2).name).await.unwrap().unwrap().value.incarnation, id("b", 2).incarnation);
    assert_eq!(bookies.list(None, 10).await.unwrap().records.len(), 1);
}

#[tokio::test]
async fn a_restarted_bookie_replaces_its_registration_and_outlives_the_old_session() {
    let world = world();
    let bookies = world.metadata.bookies();
    bookies.claim_identity(&id("b", 1), cluster()).await.unwrap();
    let before = bookies.register(&id("b", 1), &info(1), TTL).await.unwrap();
    let after = bookies.register(&id("b", 1), &info(2), TTL).await.unwrap();
    before.end().await.unwrap();
    let live = bookies.live(&id("b", 1).name).await.unwrap().unwrap();
    assert_eq!((live.value.session, live.value.info), (after.session().id(), info(2)));
    after.update(&info(3)).await.unwrap();
    assert_eq!(bookies.live(&id("b", 1).name).await.unwrap().unwrap().value.info, info(3));
}

#[tokio::test]
async fn a_bookie_registers_again_when_its_session_was_lost() {
    let world = world();
    let bookies = world.metadata.bookies();
    bookies.claim_identity(&id("b", 1), cluster()).await.unwrap();
    let mut alive = bookies.watch().await.unwrap();
    let (say, said) = watch::channel(info(1));
    let keeping = bookies.clone();
    let ttl = Duration::from_millis(150);
    let kept = world.tasks.spawn("keep", OnFailure::Log, async move { keeping.keep_registered(&id("b", 1), said, ttl).await });
    let name = id("b", 1).name;
    let seen = alive.wait_for(|live| live.members.contains_key(&name)).await.unwrap().clone();
    let first = seen.members[&name].session;
    world.metadata.end_session(first).await.unwrap();
    let again = |live: &Live<_, alluvium_metadata::bookies::LiveBookie>| {
        live.members.get(&name).is_some_and(|bookie| bookie.session != first)
    };
    world.clock.timeout(Duration::from_secs(5), alive.wait_for(again)).await.unwrap().unwrap();
    say.send_replace(info(7));
    let said = |live: &Live<_, alluvium_metadata::bookies::LiveBookie>| {
        live.members.get(&name).is_some_and(|bookie| bookie.info == info(7))
    };
    world.clock.timeout(Duration::from_secs(5), alive.wait_for(said)).await.unwrap().unwrap();
    drop(alive);
    world.tasks.stop();
    kept.await;
    assert!(bookies.live(&name).await.is_err() || bookies.live(&name).await.unwrap().is_none());
    let found = world.store.get(&alluvium_metadata::keys::Key::LiveBookie(&name).encode()).await.unwrap();
    assert_eq!(found.value, None, "it said goodbye");
}

/// M5, C53: a view that fell behind a compaction lists anew, and shows neither ghosts nor gaps.
#[tokio::test]
async fn a_view_of_who_is_alive_survives_compaction() {
    let world = world();
    let bookies = world.metadata.bookies();
    let mut registered = Vec::new();
    let mut alive = bookies.watch().await.unwrap();
    assert!(alive.borrow().members.is_empty());
    for n in 0..5 {
        let id = id(&format!("b{n}"), n);
        bookies.claim_identity(&id, cluster()).await.unwrap();
        registered.push(bookies.register(&id, &info(n), TTL).await.unwrap());
        // The view's task has not run since: this test's thread is the only one.
        let newest = world.store.revision().await.unwrap();
        world.store.compact(newest).await.unwrap();
    }
    registered.remove(1).end().await.unwrap();
    let newest = world.store.revision().await.unwrap();
    world.store.compact(newest).await.unwrap();
    let four = |live: &Live<_, _>| live.members.len() == 4 && live.revision >= newest;
    let seen = world.clock.timeout(Duration::from_secs(5), alive.wait_for(four)).await.unwrap().unwrap().clone();
    let names: Vec<String> = seen.members.keys().map(|name: &BookieName| name.to_string()).collect();
    assert_eq!(names, ["b0", "b2", "b3", "b4"]);
    // And it goes on from there.
    registered.remove(0).end().await.unwrap();
    let three = |live: &Live<_, _>| live.members.len() == 3;
    world.clock.timeout(Duration::from_secs(5), alive.wait_for(three)).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_broker_ends_its_own_earlier_session_only_when_it_may() {
    let world = world();
    let brokers = world.metadata.brokers();
    let name = BrokerName::parse("a").unwrap();
    let first = brokers.register(&name, &weighing(100), TTL, IfRegistered::Refuse).await.unwrap();
    let refused = brokers.register(&name, &weighing(100), TTL, IfRegistered::Refuse).await;
    assert!(matches!(refused, Err(UpdateError::Exists { .. })));
    assert!(!first.session.lease().gone);
    let second = brokers.register(&name, &weighing(100), TTL, IfRegistered::EndIt).await.unwrap();
    assert_ne!(first.session.id(), second.session.id());
    assert!(second.decider.create_revision > first.decider.create_revision);
    assert_eq!(brokers.get(&name).await.unwrap().unwrap().value.session, second.session.id());
    assert_eq!(brokers.watch().await.unwrap().borrow().members.len(), 1);
}

/// M2: what is said of a broker is said of the session it was decided for, and others see it.
#[tokio::test]
async fn m2_a_drain_is_said_of_a_session_that_lives_and_of_no_other() {
    let world = world();
    let brokers = world.metadata.brokers();
    let name = BrokerName::parse("a").unwrap();
    let too_heavy = brokers.register(&name, &weighing(WEIGHT_MAX + 1), TTL, IfRegistered::Refuse).await;
    assert!(matches!(too_heavy, Err(UpdateError::Illegal { .. })));
    let first = brokers.register(&name, &weighing(7), TTL, IfRegistered::Refuse).await.unwrap();
    let mut alive = brokers.watch().await.unwrap();
    brokers.set_draining(&first.decider, true).await.unwrap();
    let drains = |live: &Live<BrokerName, Broker>| live.members.get(&name).is_some_and(|broker| broker.draining);
    world.clock.timeout(Duration::from_secs(5), alive.wait_for(drains)).await.unwrap().unwrap();
    let found = brokers.get(&name).await.unwrap().unwrap();
    assert_eq!((found.value.weight, found.value.draining), (7, true));
    assert_eq!(found.create_revision, first.decider.create_revision, "what it decides is decided by the same session");
    brokers.set_draining(&first.decider, true).await.unwrap();
    assert_eq!(brokers.get(&name).await.unwrap().unwrap(), found, "nothing was said that was not known");

    let second = brokers.register(&name, &weighing(7), TTL, IfRegistered::EndIt).await.unwrap();
    assert_eq!(brokers.set_draining(&first.decider, true).await, Err(UpdateError::SessionGone));
    assert!(!brokers.get(&name).await.unwrap().unwrap().value.draining, "another life begins as it says");
    second.session.end().await.unwrap();
    assert_eq!(brokers.set_draining(&second.decider, true).await, Err(UpdateError::SessionGone));
    assert_eq!(brokers.get(&name).await.unwrap(), None, "the record goes with the session that it was bound to");
}

/// M4: certainty ends a time to live after the *send* time of the last keep-alive that was confirmed, by the monotonic clock.
#[tokio::test]
async fn a_lease_is_certain_from_the_send_time_of_the_last_confirmed_keep_alive() {
    let clock = Clock::manual(Timestamp::from_millis(0));
    let world = world_at(clock.clone());
    let session = world.metadata.begin_session(TTL).await.unwrap();
    assert_eq!(session.lease().certain_until, clock.mono().after(TTL));
    let mut lease = session.watch();
    // Wall time decides nothing (C55).
    clock.set_wall(Timestamp::from_millis(1 << 40));
    tokio::task::yield_now().await;
    clock.advance(TTL / 3);
    let sent = clock.mono();
    lease.wait_for(|lease| lease.certain_until == sent.after(TTL)).await.unwrap();
    // It is gone in metadata before this process has noticed.
    world.store.end_session(session.id()).await.unwrap();
    assert!(!session.lease().gone);
    clock.advance(TTL / 3);
    session.gone().await;
    assert_eq!(session.lease().certain_until, sent.after(TTL), "nothing was confirmed since");
}

#[tokio::test]
async fn one_broker_holds_the_auditors_office_while_its_session_lives() {
    let world = world();
    let (brokers, auditors) = (world.metadata.brokers(), world.metadata.auditors());
    let named = |name: &str| BrokerName::parse(name).unwrap();
    let a = brokers.register(&named("a"), &weighing(100), TTL, IfRegistered::Refuse).await.unwrap();
    let b = brokers.register(&named("b"), &weighing(100), TTL, IfRegistered::Refuse).await.unwrap();
    assert!(auditors.run_for(&a.decider).await.unwrap());
    assert!(!auditors.run_for(&b.decider).await.unwrap());
    assert!(auditors.run_for(&a.decider).await.unwrap(), "it still holds it");
    let audit = Audit { finished: Timestamp::from_millis(7), ledgers: 9, under_replicated: 2, on_absent_bookies: 1 };
    assert_eq!(auditors.report(&b.decider, audit).await, Err(UpdateError::SessionGone), "it holds no office");
    auditors.report(&a.decider, audit).await.unwrap();
    assert_eq!(auditors.get().await.unwrap().unwrap().value.audit, Some(audit));
    a.session.end().await.unwrap();
    assert_eq!(auditors.report(&a.decider, audit).await, Err(UpdateError::SessionGone), "its office ended with its session");
    assert!(auditors.run_for(&b.decider).await.unwrap());
    assert_eq!(auditors.get().await.unwrap().unwrap().value.audit, None, "another has found nothing yet");
    auditors.compact(0).await.unwrap();
}
