//! What starts as which bookie (B11), what is refused, and how a bookie is known to the cluster.

mod support;

use alluvium_bookie::identity::IdentityError;
use alluvium_bookie::start::StartError;
use alluvium_metadata::bookies::LiveBookie;
use alluvium_runtime::disk::real::{LockError, RealDisk};
use alluvium_runtime::disk::{Disk, SyncMode};
use alluvium_types::ids::{ClusterId, Incarnation};
use alluvium_types::names::BookieName;
use support::house::{House, Life, until};
use support::{L, add, body, open};

fn incarnation(life: &Life) -> Incarnation {
    life.running.bookie.identity().incarnation
}

async fn live(house: &House) -> Option<LiveBookie> {
    let name = BookieName::parse(&house.config.name).expect("valid");
    house.metadata().bookies().live(&name).await.expect("metadata answers").map(|found| found.value)
}

async fn registered(house: &House, life: &Life) -> LiveBookie {
    let ours = incarnation(life);
    until("registered", &house.clock, async || live(house).await.is_some_and(|live| live.incarnation == ours)).await;
    live(house).await.expect("just seen")
}

fn refusal(outcome: Result<Life, StartError>) -> IdentityError {
    match outcome {
        Err(StartError::Identity(error)) => error,
        Err(error) => panic!("refused for another reason: {error}"),
        Ok(_) => panic!("it started"),
    }
}

#[tokio::test]
async fn a_restart_is_the_same_bookie_and_registers_again() {
    let house = House::new();
    let life = house.start().await;
    let (first, info) = (incarnation(&life), registered(&house, &life).await);
    assert_eq!((info.info.zone.expect("told").as_str(), info.info.address.as_str()), ("z1", "127.0.0.1:7072"));
    assert!(info.info.writable && info.info.total_bytes > 0);
    life.kill().await;
    let life = house.start().await;
    assert_eq!(incarnation(&life), first);
    until("another session", &house.clock, async || live(&house).await.is_some_and(|l| l.session != info.session)).await;
    life.stop().await;
    until("it said goodbye", &house.clock, async || live(&house).await.is_none()).await;
}

#[tokio::test]
async fn c5_b11_a_wiped_bookie_is_another_one_and_the_old_one_is_lost() {
    let mut house = House::new();
    let life = house.start().await;
    let first = incarnation(&life);
    let bookie = &life.running.bookie;
    bookie.open_ledger(open(L)).await.expect("opened");
    bookie.add(add(L, 0, body(L, 0, 10))).await.expect("added");
    life.kill().await;
    let old_dir = house.config.data_dir.clone();
    house.config.data_dir = house.outside().join("empty");
    let life = house.start().await;
    let second = incarnation(&life);
    assert_ne!(second, first);
    assert_eq!(registered(&house, &life).await.incarnation, second);
    life.kill().await;
    // The old disk comes back: it is not this bookie any more.
    house.config.data_dir = old_dir;
    let refused = refusal(house.try_start().await);
    assert!(
        matches!(refused, IdentityError::OtherIncarnation { found, known, .. } if (found, known) == (first, second)),
        "{refused}"
    );
}

#[tokio::test]
async fn b11_an_empty_directory_does_not_take_the_name_of_a_bookie_that_lives() {
    let mut house = House::new();
    house.config.session_ttl_ms = 200;
    let life = house.start().await;
    let ours = registered(&house, &life).await;
    let own_dir = house.config.data_dir.clone();
    house.config.data_dir = house.outside().join("empty");
    let refused = house.try_start().await.map(drop).expect_err("the name is taken");
    assert!(matches!(&refused, StartError::NameTaken { .. }), "{refused}");
    assert_eq!(live(&house).await.expect("it lives").incarnation, ours.incarnation);
    house.config.data_dir = own_dir;
    life.kill().await;
    house.start().await.stop().await;
}

#[tokio::test]
async fn a_directory_in_use_is_refused_with_who_uses_it() {
    let house = House::new();
    let life = house.start().await;
    let refused = house.try_start().await.map(drop).expect_err("it is locked");
    assert!(matches!(&refused, StartError::Lock(LockError::Held { holder, .. }) if holder.contains("bookie")), "{refused}");
    life.kill().await;
    house.start().await.stop().await;
}

#[tokio::test]
async fn a_directory_of_another_cluster_is_refused() {
    let house = House::new();
    house.start().await.stop().await;
    let mut other = House::new();
    other.metadata().clusters().init(Some(ClusterId::new(house.entropy.uuid()))).await.expect("made");
    other.config.data_dir = house.config.data_dir.clone();
    let refused = refusal(other.try_start().await);
    assert!(matches!(refused, IdentityError::OtherCluster { .. }), "{refused}");
    house.start().await.stop().await;
}

#[tokio::test]
async fn a_directory_of_a_newer_format_is_refused_and_left_as_it_is() {
    let house = House::new();
    house.start().await.stop().await;
    let path = house.data_dir().join("identity");
    let file = RealDisk.open(&path, SyncMode::Buffered).expect("there");
    file.write_at(26, b"9").expect("written");
    let mut text = [0; 27];
    file.read_at(0, &mut text).expect("read");
    assert_eq!(&text, b"alluvium bookie directory 9");
    let refused = refusal(house.try_start().await);
    assert!(matches!(refused, IdentityError::NewerFormat { found: 9, .. }), "{refused}");
    file.write_at(26, b"1").expect("written");
    house.start().await.stop().await;
}

#[tokio::test]
async fn a_half_written_directory_is_refused_and_one_that_was_never_used_is_taken() {
    let mut house = House::new();
    house.start().await.stop().await;
    let identity = house.data_dir().join("identity");
    RealDisk.rename(&identity, &house.data_dir().join("identity.new")).expect("moved away");
    let refused = refusal(house.try_start().await);
    assert!(matches!(refused, IdentityError::Damaged { .. }), "{refused}");
    // A start that ended while it wrote the identity of an empty folder left nothing that counts.
    house.config.data_dir = house.outside().join("fresh");
    RealDisk.create_dir_all(house.data_dir()).expect("made");
    RealDisk.create(&house.data_dir().join("identity.new"), 10, SyncMode::Buffered).expect("made");
    house.start().await.stop().await;
}

#[tokio::test]
async fn a_lost_session_is_followed_by_another() {
    let house = House::new();
    let life = house.start().await;
    let first = registered(&house, &life).await.session;
    house.metadata().end_session(first).await.expect("ended");
    until("registered again", &house.clock, async || live(&house).await.is_some_and(|live| live.session != first)).await;
    life.stop().await;
}

#[tokio::test]
async fn b10_placement_hears_when_the_bookie_turns_read_only() {
    let mut house = House::new();
    // More than any disk has.
    house.config.space.read_only_below_bytes = 1 << 60;
    house.config.space.writable_above_bytes = 1 << 60;
    let life = house.start().await;
    registered(&house, &life).await;
    until("told", &house.clock, async || live(&house).await.is_some_and(|live| !live.info.writable)).await;
    assert_eq!(life.metrics.read_only.get(), 1);
    life.stop().await;
}
