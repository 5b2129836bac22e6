//! What becomes of transactions.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use alluvium_metadata::error::Refusal;
use alluvium_metadata::etcd::EtcdConfig;
use alluvium_metadata::keys::Key;
use alluvium_metadata::store::{Condition, MetadataStore, Range, Txn, TxnOutcome};
use alluvium_metadata::{StoreError, UpdateError};
use alluvium_runtime::entropy::Entropy;
use alluvium_runtime::tasks::OnFailure;
use alluvium_test_etcd::{Etcd, Options};
use alluvium_types::ids::{ClusterId, Incarnation};
use alluvium_types::ledger::BookieId;
use alluvium_types::names::BookieName;
use bytes::Bytes;
use tokio::sync::mpsc;

use super::forwarder::Forwarder;
use super::{config_at, etcd_config, key, world};

const WORKERS: u64 = 8;

fn bookie(worker: u64, life: u64) -> BookieId {
    let incarnation = Incarnation::new(Entropy::seeded(worker << 32 | life).uuid());
    BookieId { name: BookieName::parse(&format!("b{worker}")).unwrap(), incarnation }
}

/// M3: under load, etcd is killed with -9 and started again, over and over. Every worker changes a record of its own, one
/// version after the other; each change that it was told of was made, once, and none other was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_made_twice_while_etcd_is_killed_under_load() {
    let mut etcd = Etcd::start();
    let world = Arc::new(world(&etcd_config(&etcd), 1).await);
    let cluster = ClusterId::new(Entropy::seeded(9).uuid());
    let stop = Arc::new(AtomicBool::new(false));
    let (told, mut tellings) = mpsc::channel(64);
    for worker in 0..WORKERS {
        let (world, stop, told) = (Arc::clone(&world), Arc::clone(&stop), told.clone());
        world.tasks.clone().spawn(format!("worker-{worker}"), OnFailure::ShutDown, async move {
            let bookies = world.metadata.bookies();
            let mut record = bookies.claim_identity(&bookie(worker, 0), cluster).await.map_err(|e| e.to_string())?;
            let (mut changes, mut ids) = (0, Vec::new());
            while !stop.load(Ordering::Relaxed) {
                match bookies.replace_identity(&bookie(worker, changes + 1), &record).await {
                    Ok(changed) => (record, changes) = (changed, changes + 1),
                    // Nothing was changed, for certain.
                    Err(UpdateError::Unavailable(_)) => {}
                    Err(error) => return Err(format!("after {changes} changes: {error:?}")),
                }
                if changes % 5 == 0
                    && let Ok(id) = world.metadata.ledgers().allocate().await
                {
                    ids.push(id);
                }
            }
            told.send((worker, changes, ids)).await.map_err(|e| e.to_string())
        });
    }
    drop(told);
    for round in 0..6 {
        world.clock.sleep(Duration::from_millis(300 + 70 * round)).await;
        etcd.kill();
        etcd.restart();
    }
    world.answers_again().await;
    world.clock.sleep(Duration::from_millis(300)).await;
    stop.store(true, Ordering::Relaxed);
    let (mut all, mut ids) = (0, Vec::new());
    for _ in 0..WORKERS {
        let (worker, changes, taken) = world.within("a worker ends", tellings.recv()).await.expect("no worker fails");
        let found = world.store.get(&Key::BookieIdentity(&bookie(worker, 0).name).encode()).await.unwrap().value.unwrap();
        assert_eq!(found.version, changes + 1, "worker {worker}");
        let identity = world.metadata.bookies().identity(&bookie(worker, 0).name).await.unwrap().unwrap();
        assert_eq!(identity.value.incarnation, bookie(worker, changes).incarnation);
        (all, ids) = (all + changes, [ids, taken].concat());
    }
    assert!(all > 100, "only {all} changes: no load");
    let count = ids.len();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), count, "ids are given out once");
}

/// M3: what was sent and not answered is unknown, also when it was applied; what had no connection is not, and says where
/// and why.
#[tokio::test]
async fn an_answer_that_is_lost_is_unknown_and_a_request_that_was_not_sent_is_not() {
    let etcd = Etcd::start();
    let wire = Forwarder::to(&etcd.url()).await;
    let config = EtcdConfig { request_timeout_ms: 300, ..config_at(wire.url()) };
    let (cut_off, other) = (world(&config, 1).await, world(&etcd_config(&etcd), 2).await);
    let once = Txn::new().when(key("k"), Condition::Absent).put(key("k"), key("mine"));
    wire.withhold_answers();
    assert_eq!(cut_off.store.txn(&once).await, Err(StoreError::Unknown));
    other
        .within("it is applied", async {
            while other.store.get(&key("k")).await.unwrap().value.is_none() {
                other.clock.sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    wire.cut();
    // The connection that is there may be the old one for a moment; then there is none.
    let refused = cut_off.within("it is refused", async {
        loop {
            match cut_off.store.txn(&once).await {
                Err(StoreError::Unknown) => cut_off.clock.sleep(Duration::from_millis(5)).await,
                answer => return answer,
            }
        }
    });
    let Err(StoreError::Unavailable { reason }) = refused.await else { panic!("the wire is cut") };
    assert!(reason.contains(&wire.url()), "{reason}");
    assert!(cut_off.store.get(&key("k")).await.is_err_and(|error| error.to_string().contains(&wire.url())));
    wire.heal();
    cut_off.answers_again().await;
    assert_eq!(cut_off.store.txn(&once).await, Ok(TxnOutcome::Conflict), "the first was applied");
    assert_eq!(other.store.get(&key("k")).await.unwrap().value.unwrap().version, 1);
}

/// The whole way through a repository: the answers to a decision are lost, again and again, and it is made once.
#[tokio::test]
async fn a_decision_whose_answers_are_lost_is_settled_when_the_wire_is_whole() {
    let etcd = Etcd::start();
    let wire = Forwarder::to(&etcd.url()).await;
    let config = EtcdConfig { request_timeout_ms: 200, ..config_at(wire.url()) };
    let (cut_off, other) = (world(&config, 1).await, world(&etcd_config(&etcd), 2).await);
    let proposed = ClusterId::new(Entropy::seeded(5).uuid());
    let cluster = cut_off.metadata.clusters();
    let deciding = cluster.init(Some(proposed));
    let breaking = async {
        wire.withhold_answers();
        other.clock.sleep(Duration::from_millis(500)).await;
        wire.cut();
        other.clock.sleep(Duration::from_millis(100)).await;
        wire.heal();
    };
    let (decided, ()) = cut_off.within("it is decided", futures::future::join(deciding, breaking)).await;
    assert_eq!(decided.unwrap().value.id, proposed);
    let found = other.store.get(&Key::Cluster.encode()).await.unwrap().value.unwrap();
    assert_eq!(found.version, 1);
}

/// Our limits are refused before anything is sent; where servers were given smaller ones, theirs are, with their words.
#[tokio::test]
async fn what_is_too_large_is_refused_with_its_limit() {
    let arguments = vec!["--max-txn-ops=8".to_owned(), "--max-request-bytes=10000".to_owned()];
    let etcd = Etcd::start_with(Options { arguments, ..Options::default() });
    let world = world(&etcd_config(&etcd), 1).await;
    let puts = |count: usize| (0..count).fold(Txn::new(), |txn, n| txn.put(key(&format!("k{n}")), key("v")));
    let refused = |txn: Txn| {
        let world = &world;
        async move {
            match world.store.txn(&txn).await {
                Err(StoreError::Refused(refusal)) => refusal,
                other => panic!("not refused: {other:?}"),
            }
        }
    };
    assert_eq!(refused(puts(129)).await, Refusal::TooMany { what: "operations", found: 129, limit: 128 });
    let large = Txn::new().put(key("k"), vec![0; 3 << 19].into());
    let limit = alluvium_metadata::store::REQUEST_BYTES_MAX;
    assert_eq!(refused(large).await, Refusal::TooLarge { found: (3 << 19) + 1, limit });
    let Refusal::Server { reason } = refused(puts(9)).await else { panic!("past the server's limit") };
    assert!(reason.contains(&etcd.url()) && reason.contains("too many operations"), "{reason}");
    let Refusal::Server { reason } = refused(Txn::new().put(key("k"), vec![0; 20_000].into())).await else {
        panic!("past the server's limit")
    };
    assert!(reason.contains("request is too large"), "{reason}");
    let all = Range { prefix: Bytes::new(), after: None, limit: 10 };
    assert_eq!(world.store.range(&all).await.unwrap().value.records, []);
    world.commit(&puts(8)).await;
}

/// The largest transaction that is ours to send is one that etcd takes, with the longest prefix and all that is added.
#[tokio::test]
async fn the_largest_transaction_fits() {
    let etcd = Etcd::start();
    let prefix = format!("{}/", "p".repeat(127));
    let world = world(&EtcdConfig { prefix, ..etcd_config(&etcd) }, 1).await;
    let session = world.metadata.begin_session(Duration::from_secs(60)).await.unwrap();
    let name = |n: usize| key(&format!("{n:03}"));
    let filled = |bytes: usize| {
        (0..128).fold(Txn::new(), |txn, n| {
            let large = if n == 0 { bytes } else { 0 };
            txn.when(name(n), Condition::Absent).put_bound(name(n), vec![0; large].into(), session.id())
        })
    };
    let room = alluvium_metadata::store::REQUEST_BYTES_MAX - filled(0).bytes();
    assert!(matches!(world.store.txn(&filled(room + 1)).await, Err(StoreError::Refused(Refusal::TooLarge { .. }))));
    world.commit(&filled(room)).await;
    assert_eq!(world.store.get(&name(0)).await.unwrap().value.unwrap().session, Some(session.id()));
}

/// More bytes than one answer takes come in smaller pages, each key once.
#[tokio::test]
async fn large_records_come_in_smaller_pages() {
    let etcd = Etcd::start();
    let world = world(&etcd_config(&etcd), 1).await;
    for n in 0..20 {
        world.put(&format!("large/{n:02}"), &vec![n; 1 << 20]).await;
    }
    let (mut found, mut pages) = (Vec::new(), 0);
    loop {
        let range = Range { prefix: key("large/"), after: found.last().cloned(), limit: usize::MAX };
        let page = world.store.range(&range).await.unwrap().value;
        found.extend(page.records.into_iter().map(|record| record.key));
        pages += 1;
        if !page.more {
            break;
        }
    }
    assert!(pages > 1, "they fit one answer");
    assert_eq!(found, (0..20).map(|n| key(&format!("large/{n:02}"))).collect::<Vec<_>>());
}

/// M7: a full etcd takes no writes. One that it answered so may have been applied, and is settled when there is room.
#[tokio::test]
async fn a_full_etcd_leaves_outcomes_open_until_there_is_room() {
    let quota = 4 << 20;
    let arguments = vec![format!("--quota-backend-bytes={quota}")];
    let etcd = Etcd::start_with(Options { arguments, ..Options::default() });
    let world = world(&etcd_config(&etcd), 1).await;
    let mut full = None;
    for n in 0..100 {
        match world.store.txn(&Txn::new().put(key("filler"), vec![n; 200 << 10].into())).await {
            Ok(_) => {}
            Err(error) => {
                full = Some(error);
                break;
            }
        }
    }
    assert_eq!(full, Some(StoreError::Unknown));
    assert!(world.store.get(&key("filler")).await.unwrap().value.is_some(), "it is still read");
    // Many at once, too: they go together, which releases of etcd differ about.
    let reads = (0..100).map(|n| {
        let store = &world.store;
        async move { store.get(&key(if n % 2 == 0 { "filler" } else { "nothing" })).await.map(|at| at.value.is_some()) }
    });
    for (n, found) in futures::future::join_all(reads).await.into_iter().enumerate() {
        assert_eq!(found, Ok(n % 2 == 0), "read {n}");
    }
    let cluster = world.metadata.clusters();
    let deciding = cluster.init(None);
    let making_room = async {
        world.clock.sleep(Duration::from_millis(300)).await;
        let newest = world.store.revision().await.unwrap();
        let mut client = etcd_client::Client::connect([etcd.url()], None).await.unwrap();
        let physical = etcd_client::CompactionOptions::new().with_physical();
        client.compact(newest.get().cast_signed(), Some(physical)).await.unwrap();
        client.defragment().await.unwrap();
        let member = client.status().await.unwrap().header().unwrap().member_id();
        let mut options = etcd_client::AlarmOptions::new();
        options.with_member(member);
        let (off, full) = (etcd_client::AlarmAction::Deactivate, etcd_client::AlarmType::Nospace);
        client.alarm(off, full, Some(options)).await.unwrap();
    };
    let (decided, ()) = world.within("there is room", futures::future::join(deciding, Box::pin(making_room))).await;
    assert_eq!(world.metadata.clusters().get().await.unwrap(), Some(decided.unwrap()));
}
