//! Sessions as leases: lost truthfully, kept where they can be (M4).

use std::time::Duration;

use alluvium_metadata::StoreError;
use alluvium_metadata::brokers::IfRegistered;
use alluvium_metadata::etcd::EtcdConfig;
use alluvium_metadata::store::MetadataStore;
use alluvium_runtime::entropy::Entropy;
use alluvium_test_etcd::Etcd;
use alluvium_types::ids::SessionId;
use alluvium_types::names::BrokerName;

use super::forwarder::Forwarder;
use super::{config_at, etcd_config, world};
use crate::repositories::weighing;

const TTL: Duration = Duration::from_secs(3);

fn quick(config: EtcdConfig) -> EtcdConfig {
    EtcdConfig { request_timeout_ms: 500, ..config }
}

/// M4: etcd is paused past the session's time. By our own clock the session is not certain any more, before etcd can have
/// let it go; when etcd goes on, it says that it is gone, and what was bound to it is gone too.
#[tokio::test]
async fn a_session_is_lost_when_etcd_is_paused_past_its_time() {
    let etcd = Etcd::start();
    let world = world(&quick(etcd_config(&etcd)), 1).await;
    let name = BrokerName::parse("a").unwrap();
    let broker = world.metadata.brokers().register(&name, &weighing(100), TTL, IfRegistered::Refuse).await.unwrap();
    etcd.pause();
    let certain = broker.session.lease().certain_until;
    world.clock.sleep_until(certain).await;
    let lease = broker.session.lease();
    assert!(!lease.gone, "nobody has said so");
    assert_eq!(lease.certain_until, certain, "nothing was confirmed");
    world.clock.sleep(Duration::from_secs(1)).await;
    etcd.resume();
    world.within("etcd says so", broker.session.gone()).await;
    assert_eq!(broker.session.lease().certain_until, certain, "a renewal that came too late is not taken for one");
    assert_eq!(world.metadata.brokers().get(&name).await.unwrap(), None);
    let again = world.metadata.brokers().register(&name, &weighing(100), TTL, IfRegistered::Refuse).await.unwrap();
    assert!(again.decider.create_revision > broker.decider.create_revision);
}

/// etcd was killed and is back before the session's time is up: nothing was lost, and what follows goes on by itself.
#[tokio::test]
async fn a_session_outlives_a_killed_etcd() {
    let mut etcd = Etcd::start();
    let world = world(&quick(etcd_config(&etcd)), 1).await;
    let name = BrokerName::parse("a").unwrap();
    let ttl = Duration::from_secs(10);
    let broker = world.metadata.brokers().register(&name, &weighing(100), ttl, IfRegistered::Refuse).await.unwrap();
    let mut alive = world.metadata.brokers().watch().await.unwrap();
    for _ in 0..2 {
        let before = broker.session.lease().certain_until;
        etcd.kill();
        world.clock.sleep(Duration::from_millis(500)).await;
        etcd.restart();
        let mut lease = broker.session.watch();
        let renewed = world.within("it is renewed", lease.wait_for(|lease| lease.gone || lease.certain_until > before));
        assert!(!renewed.await.unwrap().gone);
    }
    assert_eq!(world.metadata.brokers().get(&name).await.unwrap().unwrap().create_revision, broker.decider.create_revision);
    let other = BrokerName::parse("b").unwrap();
    let _second = world.metadata.brokers().register(&other, &weighing(100), ttl, IfRegistered::Refuse).await.unwrap();
    world.within("the view goes on", alive.wait_for(|live| live.members.len() == 2)).await.unwrap();
}

/// etcd was away for longer than the session lives. By our own clock it was not certain for a while; etcd gives leases their
/// whole time when it comes back (C52), so it is the same session, and certain again.
#[tokio::test]
async fn a_session_that_etcd_gives_back_is_certain_again() {
    let mut etcd = Etcd::start();
    let world = world(&quick(etcd_config(&etcd)), 1).await;
    let name = BrokerName::parse("a").unwrap();
    let broker = world.metadata.brokers().register(&name, &weighing(100), TTL, IfRegistered::Refuse).await.unwrap();
    etcd.kill();
    let certain = broker.session.lease().certain_until;
    world.clock.sleep_until(certain.after(Duration::from_secs(1))).await;
    assert_eq!(broker.session.lease().certain_until, certain);
    etcd.restart();
    let mut lease = broker.session.watch();
    let renewed = world.within("it is renewed", lease.wait_for(|lease| lease.gone || lease.certain_until > certain));
    assert!(!renewed.await.unwrap().gone);
    assert_eq!(world.metadata.brokers().get(&name).await.unwrap().unwrap().create_revision, broker.decider.create_revision);
}

/// The answer to the first request was lost; the second finds the session begun. Its time begins with the second, so that
/// nobody believes it alive for longer than it is.
#[tokio::test]
async fn a_session_that_is_begun_twice_lives_its_whole_time_from_the_second() {
    let etcd = Etcd::start();
    let world = world(&etcd_config(&etcd), 1).await;
    let session = SessionId::new(Entropy::seeded(1).uuid());
    world.store.create_session(session, TTL).await.unwrap();
    world.clock.sleep(TTL * 2 / 3).await;
    world.store.create_session(session, TTL).await.unwrap();
    world.clock.sleep(TTL * 2 / 3).await;
    assert_eq!(world.store.keep_alive(session).await, Ok(()));
    world.store.end_session(session).await.unwrap();
    assert_eq!(world.store.keep_alive(session).await, Err(StoreError::SessionGone(session)));
}

/// A process that is cut off is not told that its session is gone: nobody knows. It is told once somebody does.
#[tokio::test]
async fn a_process_that_is_cut_off_learns_of_its_loss_when_it_is_back() {
    let etcd = Etcd::start();
    let wire = Forwarder::to(&etcd.url()).await;
    let world = world(&quick(config_at(wire.url())), 1).await;
    let session = world.metadata.begin_session(TTL).await.unwrap();
    wire.cut();
    world.clock.sleep_until(session.lease().certain_until.after(Duration::from_secs(2))).await;
    assert!(!session.lease().gone);
    assert!(matches!(world.store.keep_alive(session.id()).await, Err(StoreError::Unavailable { .. })));
    wire.heal();
    world.within("it is told", session.gone()).await;
}
