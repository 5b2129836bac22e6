//! The raft store and its disk: what a crash, rot, a full disk and a foreign folder do.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use alluvium_metadata::StoreError;
use alluvium_metadata::error::OpenError;
use alluvium_metadata::raft::{NoPeers, RaftConfig, RaftStore, VoterId};
use alluvium_metadata::store::{Condition, MetadataStore, Range, Txn, TxnOutcome};
use alluvium_runtime::clock::Clock;
use alluvium_runtime::disk::Disk;
use alluvium_runtime::disk::real::RealDisk;
use alluvium_runtime::disk::sim::SimDisk;
use alluvium_runtime::entropy::Entropy;
use alluvium_runtime::tasks::{Fatal, Tasks};
use alluvium_types::ids::{ClusterId, SessionId};
use bytes::Bytes;
use tokio::sync::mpsc;

const BLOCK: u64 = 4096;
const GIB: u64 = 1 << 30;

fn cluster() -> ClusterId {
    ClusterId::new(Entropy::seeded(42).uuid())
}

fn dir() -> PathBuf {
    PathBuf::from("/voter")
}

/// Small pieces, few bytes between snapshots, and no ticks: what the disk is asked depends on the requests alone.
fn config() -> RaftConfig {
    let mut config = RaftConfig::lone(dir(), Some(cluster()));
    config.tick = Duration::from_secs(3600);
    config.log_file_bytes = 160 << 10;
    config.snapshot_after_bytes = 480 << 10;
    config
}

/// A running voter.
struct Voter {
    store: RaftStore,
    tasks: Tasks,
    failures: mpsc::Receiver<Fatal>,
}

async fn open_with(config: RaftConfig, disk: Arc<dyn Disk>) -> Result<Voter, OpenError> {
    let (tasks, failures) = Tasks::new();
    let store = RaftStore::open(config, disk, Clock::system(), Entropy::seeded(5), &tasks, Arc::new(NoPeers)).await?;
    Ok(Voter { store, tasks, failures })
}

async fn open(disk: &SimDisk) -> Result<Voter, OpenError> {
    open_with(config(), Arc::new(disk.clone())).await
}

impl Voter {
    /// Ends the thread, which seals the log.
    async fn stop(self) {
        self.tasks.stop();
        assert!(self.tasks.join(Duration::from_secs(5)).await);
    }

    /// Ends the thread as a crash does: nothing of what it does after this reaches the disk.
    async fn crash(self, disk: &SimDisk) {
        disk.crash();
        self.stop().await;
    }

    async fn put(&self, n: u64, bytes: usize) -> Result<TxnOutcome, StoreError> {
        self.store.txn(&Txn::new().put(key(n), value(n, bytes)).put(twin(n), value(n, bytes))).await
    }

    async fn holds(&self, n: u64) -> bool {
        self.store.get(&key(n)).await.unwrap().value.is_some()
    }
}

fn key(n: u64) -> Bytes {
    Bytes::from(format!("k/{n:04}"))
}

/// Written together with the key: both or none.
fn twin(n: u64) -> Bytes {
    Bytes::from(format!("twin/{n:04}"))
}

fn value(n: u64, bytes: usize) -> Bytes {
    Bytes::from(vec![u8::try_from(n % 251).unwrap(); bytes])
}

/// A log of `count` answered transactions, one group each, and the newest piece.
async fn written(disk: &SimDisk, count: u64) -> (Voter, PathBuf) {
    let voter = open(disk).await.unwrap();
    for n in 0..count {
        assert!(matches!(voter.put(n, 100).await, Ok(TxnOutcome::Committed { .. })));
    }
    (voter, newest_log(disk))
}

fn newest_log(disk: &SimDisk) -> PathBuf {
    let files = disk.list(&dir()).unwrap();
    files.into_iter().rfind(|f| f.file_name().unwrap().to_string_lossy().starts_with("log-")).unwrap()
}

/// Where the groups of a piece begin.
fn groups(disk: &SimDisk, path: &Path) -> Vec<u64> {
    let blocks = (config().log_file_bytes) / BLOCK;
    (1..blocks).map(|n| n * BLOCK).filter(|&at| disk.durable_bytes(path, at..at + 4) == b"ALVg").collect()
}

/// Writes many values over few keys, so that pieces roll and snapshots are taken; gives the last number that was answered.
async fn script(disk: &SimDisk) -> Result<Option<u64>, OpenError> {
    let voter = open(disk).await?;
    let mut answered = None;
    for n in 0..40 {
        match voter.put(n, 9000).await {
            Ok(TxnOutcome::Committed { .. }) => answered = Some(n),
            Ok(TxnOutcome::Conflict) => panic!("nothing is compared"),
            Err(_) => break,
        }
        if n >= 8 {
            let old = Txn::new().delete(key(n - 8)).delete(twin(n - 8));
            if voter.store.txn(&old).await.is_err() {
                break;
            }
        }
    }
    voter.stop().await;
    Ok(answered)
}

/// B1: a crash in the middle of any call, from the making of the folder on, loses nothing that was answered, and what was not
/// answered is there entirely or not at all. Twice in a row, so that a second life's crash is seen too (C58).
#[tokio::test]
async fn nothing_answered_is_lost_wherever_the_power_goes() {
    let whole = SimDisk::new(Entropy::seeded(1), GIB);
    assert_eq!(script(&whole).await.unwrap(), Some(39));
    let calls = whole.calls();
    assert!(whole.list(&dir()).unwrap().iter().any(|f| f.to_string_lossy().contains("snapshot-")), "it takes snapshots");
    assert!(calls > 200, "{calls} calls");
    for at in 1..=calls {
        let disk = SimDisk::new(Entropy::seeded(at), GIB);
        disk.crash_in(at);
        let mut answered = script(&disk).await.unwrap_or(None);
        for life in 0..2 {
            disk.crash();
            if life == 1 {
                // A crash at another place of what follows a crash.
                disk.crash_in(1 + at % 17);
                let Ok(voter) = open(&disk).await else { continue };
                if voter.put(100, 100).await.is_ok() {
                    answered = Some(100);
                }
                voter.stop().await;
                disk.crash();
            }
            let voter = open(&disk).await.unwrap_or_else(|e| panic!("a crash at call {at}, life {life}: {e:?}"));
            if let Some(n) = answered {
                assert!(voter.holds(n).await, "a crash at call {at}, life {life}, lost {n}");
            }
            let all = Range { prefix: Bytes::new(), after: None, limit: 1000 };
            let records = voter.store.range(&all).await.unwrap().value.records;
            let count = |prefix: &str| records.iter().filter(|r| r.key.starts_with(prefix.as_bytes())).count();
            assert_eq!(count("k/"), count("twin/"), "half a transaction after a crash at call {at}");
            voter.stop().await;
        }
    }
}

/// A process that died between a write and its sync leaves bytes that are read but not durable: they are made so before
/// anything is built on them.
#[tokio::test]
async fn what_is_read_after_a_kill_survives_the_power_going() {
    let mut shown = 0;
    for seed in 0..20 {
        let disk = SimDisk::new(Entropy::seeded(seed), GIB);
        let (voter, _) = written(&disk, 3).await;
        disk.crash_in(2);
        assert_eq!(voter.put(3, 9000).await, Err(StoreError::Unknown));
        voter.stop().await;
        disk.kill_process();
        let voter = open(&disk).await.unwrap();
        let was_shown = voter.holds(3).await;
        shown += u32::from(was_shown);
        voter.crash(&disk).await;
        let voter = open(&disk).await.unwrap();
        assert!(voter.holds(2).await);
        assert_eq!(voter.holds(3).await, was_shown, "seed {seed}");
        voter.stop().await;
    }
    assert!(shown > 0, "no bytes were left by the kill");
}

/// C58: what is cut is never appended to; a second crash finds no frames of an earlier life behind the tail.
#[tokio::test]
async fn a_torn_tail_is_cut_and_nothing_is_appended_behind_it() {
    let disk = SimDisk::new(Entropy::seeded(1), GIB);
    let (voter, piece) = written(&disk, 5).await;
    voter.crash(&disk).await;
    let last = *groups(&disk, &piece).last().unwrap();
    disk.overwrite(&piece, last + 40, &[0xFF; 16]);
    let before = disk.durable_bytes(&piece, 0..config().log_file_bytes);
    let voter = open(&disk).await.unwrap();
    assert!(voter.holds(3).await);
    assert!(!voter.holds(4).await, "the torn group is cut");
    assert!(matches!(voter.put(5, 100).await, Ok(TxnOutcome::Committed { .. })));
    assert_ne!(newest_log(&disk), piece);
    assert_eq!(disk.durable_bytes(&piece, 0..config().log_file_bytes), before, "the cut piece is not touched");
    voter.crash(&disk).await;
    let voter = open(&disk).await.unwrap();
    assert!(voter.holds(3).await && voter.holds(5).await && !voter.holds(4).await);
    voter.stop().await;
}

/// C31: only the last group can tear; a bad one with a good one behind it is corruption, and cutting it would lose answers.
#[tokio::test]
async fn a_bad_group_with_a_good_one_behind_it_is_refused() {
    let disk = SimDisk::new(Entropy::seeded(1), GIB);
    let (voter, piece) = written(&disk, 5).await;
    voter.crash(&disk).await;
    let groups = groups(&disk, &piece);
    disk.overwrite(&piece, groups[groups.len() - 2] + 40, &[0xFF; 16]);
    let error = open(&disk).await.map(drop).unwrap_err();
    assert!(matches!(&error, OpenError::Corrupt { path, .. } if *path == piece), "{error}");
}

/// C59: a stop seals the last group, so its rot is told from a torn tail.
#[tokio::test]
async fn a_sealed_last_group_that_rots_is_refused_and_not_cut() {
    let disk = SimDisk::new(Entropy::seeded(1), GIB);
    let (voter, piece) = written(&disk, 5).await;
    let last = *groups(&disk, &piece).last().unwrap();
    voter.stop().await;
    disk.overwrite(&piece, last + 40, &[0xFF; 16]);
    let error = open(&disk).await.map(drop).unwrap_err();
    assert!(matches!(error, OpenError::Corrupt { .. }), "{error}");
}

/// C59: so does a quiet moment.
#[tokio::test]
async fn an_idle_log_seals_its_last_group() {
    let disk = SimDisk::new(Entropy::seeded(1), GIB);
    let mut quick = config();
    quick.tick = Duration::from_millis(2);
    let voter = open_with(quick, Arc::new(disk.clone())).await.unwrap();
    assert!(matches!(voter.put(1, 100).await, Ok(TxnOutcome::Committed { .. })));
    let piece = newest_log(&disk);
    let clock = Clock::system();
    let sealed = async {
        let mut before = 0;
        loop {
            // The entry's group, then the mark; the no-op's may have been sealed before it.
            let found = groups(&disk, &piece);
            let last = disk.durable_bytes(&piece, found[found.len() - 1]..found[found.len() - 1] + 33);
            if last[32] == 2 && found.len() == before {
                return found;
            }
            before = found.len();
            clock.sleep(Duration::from_millis(5)).await;
        }
    };
    let found = clock.timeout(Duration::from_secs(5), sealed).await.unwrap();
    let calls = disk.calls();
    clock.sleep(Duration::from_millis(20)).await;
    assert_eq!(disk.calls(), calls, "one mark is enough");
    voter.crash(&disk).await;
    disk.overwrite(&piece, found[found.len() - 2] + 40, &[0xFF; 16]);
    assert!(matches!(open(&disk).await.map(drop), Err(OpenError::Corrupt { .. })));
}

/// C57: the space of an old piece holds old groups; none of them is taken for one of its new life.
#[tokio::test]
async fn a_recycled_piece_does_not_show_its_former_life() {
    let disk = SimDisk::new(Entropy::seeded(1), GIB);
    let mut answered = 0;
    // Every life recycles pieces, and ends without a seal.
    for life in 0..6 {
        let voter = open(&disk).await.unwrap();
        for n in 0..30 {
            assert!(matches!(voter.put(life * 100 + n, 9000).await, Ok(TxnOutcome::Committed { .. })));
            let old = Txn::new().delete(key(answered)).delete(twin(answered));
            assert!(matches!(voter.store.txn(&old).await, Ok(TxnOutcome::Committed { .. })));
            answered = life * 100 + n;
        }
        voter.crash(&disk).await;
        let voter = open(&disk).await.unwrap();
        assert!(voter.holds(answered).await);
        voter.crash(&disk).await;
    }
}

#[tokio::test]
async fn snapshots_let_the_log_go() {
    let disk = SimDisk::new(Entropy::seeded(1), GIB);
    for _ in 0..3 {
        let voter = open(&disk).await.unwrap();
        for n in 0..100 {
            assert!(matches!(voter.put(n % 5, 9000).await, Ok(TxnOutcome::Committed { .. })));
        }
        let files = disk.list(&dir()).unwrap();
        let of = |prefix: &str| files.iter().filter(|f| f.file_name().unwrap().to_string_lossy().starts_with(prefix)).count();
        assert!(of("log-") <= 4, "{files:?}");
        assert_eq!((of("snapshot-"), of("spare")), (1, 1), "{files:?}");
        voter.stop().await;
    }
    let voter = open(&disk).await.unwrap();
    assert_eq!(voter.store.get(&key(4)).await.unwrap().value.unwrap().version, 60);
    voter.stop().await;
}

/// B8: after a failed sync nothing more is answered, and the process is told to end.
#[tokio::test]
async fn a_failed_sync_ends_the_store() {
    let disk = SimDisk::new(Entropy::seeded(1), GIB);
    let (mut voter, _) = written(&disk, 3).await;
    disk.fail_sync_in(1);
    assert_eq!(voter.put(3, 100).await, Err(StoreError::Unknown));
    assert_eq!(voter.put(4, 100).await, Err(StoreError::Stopped));
    assert_eq!(voter.store.get(&key(1)).await.map(drop), Err(StoreError::Stopped));
    assert!(voter.failures.recv().await.unwrap().to_string().contains("metadata log failed"));
}

/// C61, M7: writes are refused for certain, reads and keep-alives go on, and space alone brings writes back.
#[tokio::test]
async fn a_full_disk_refuses_writes_and_serves_again_when_there_is_room() {
    let disk = SimDisk::new(Entropy::seeded(1), GIB);
    let mut quick = config();
    quick.tick = Duration::from_millis(2);
    let voter = open_with(quick, Arc::new(disk.clone())).await.unwrap();
    let session = SessionId::new(Entropy::seeded(3).uuid());
    voter.store.create_session(session, Duration::from_secs(60)).await.unwrap();
    disk.set_capacity(0);
    let mut answered = 0;
    let refused = loop {
        match voter.put(answered, 9000).await {
            Ok(_) => answered += 1,
            Err(error) => break error,
        }
        assert!(answered < 1000);
    };
    assert!(matches!(refused, StoreError::Unavailable { .. }), "{refused}");
    assert!(voter.holds(answered - 1).await && !voter.holds(answered).await);
    voter.store.keep_alive(session).await.unwrap();
    disk.set_capacity(GIB);
    let clock = Clock::system();
    let back = async {
        while voter.put(answered, 9000).await.is_err() {
            clock.sleep(Duration::from_millis(2)).await;
        }
    };
    clock.timeout(Duration::from_secs(5), back).await.unwrap();
    assert!(voter.holds(answered).await);
    voter.stop().await;
}

#[tokio::test]
async fn a_folder_of_another_cluster_or_voter_is_refused() {
    let disk = SimDisk::new(Entropy::seeded(1), GIB);
    let (voter, _) = written(&disk, 1).await;
    voter.stop().await;
    let before = disk.durable_hash();
    let mut other = config();
    other.cluster = Some(ClusterId::new(Entropy::seeded(43).uuid()));
    let error = open_with(other, Arc::new(disk.clone())).await.map(drop).unwrap_err();
    assert!(matches!(&error, OpenError::OtherCluster { found, .. } if *found == cluster()), "{error}");
    assert!(error.to_string().contains(&cluster().to_string()));
    let mut other = config();
    other.voter = VoterId::new(2).unwrap();
    let error = open_with(other, Arc::new(disk.clone())).await.map(drop).unwrap_err();
    assert!(matches!(error, OpenError::OtherVoter { .. }), "{error}");
    assert_eq!(disk.durable_hash(), before, "what is refused is not touched");
    let mut any = config();
    any.cluster = None;
    assert_eq!(open_with(any, Arc::new(disk)).await.unwrap().store.cluster(), cluster());
}

#[tokio::test]
async fn a_file_of_a_newer_format_is_refused() {
    let disk = SimDisk::new(Entropy::seeded(1), GIB);
    assert_eq!(script(&disk).await.unwrap(), Some(39));
    let files = disk.list(&dir()).unwrap();
    for path in files.iter().filter(|f| !f.ends_with("spare")) {
        let disk = disk.fork(Entropy::seeded(2));
        disk.overwrite(path, 8, &2_u32.to_le_bytes());
        let error = open(&disk).await.map(drop).unwrap_err();
        let newer = matches!(&error, OpenError::NewerFormat { path: at, found: 2, known: 1 } if at == path);
        assert!(newer, "{error}");
    }
}

#[tokio::test]
async fn a_folder_with_missing_or_damaged_files_is_refused() {
    let disk = SimDisk::new(Entropy::seeded(1), GIB);
    assert_eq!(script(&disk).await.unwrap(), Some(39));
    let files = disk.list(&dir()).unwrap();
    for path in files.iter().filter(|f| !f.ends_with("spare")) {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let without = disk.fork(Entropy::seeded(2));
        without.remove(path).unwrap();
        let error = open(&without).await.map(drop).unwrap_err();
        let clear = matches!(error, OpenError::HalfWritten { .. } | OpenError::Corrupt { .. });
        assert!(clear, "without {name}: {error}");
        let rotten = disk.fork(Entropy::seeded(2));
        rotten.overwrite(path, 100, &[0xFF; 8]);
        let error = open(&rotten).await.map(drop).unwrap_err();
        assert!(matches!(&error, OpenError::Corrupt { path: at, .. } if at == path), "{name}: {error}");
    }
    let rotten = disk.fork(Entropy::seeded(2));
    let snapshot = files.iter().find(|f| f.to_string_lossy().contains("snapshot-")).unwrap();
    rotten.overwrite(snapshot, BLOCK + 50, &[0xFF; 8]);
    assert!(matches!(open(&rotten).await.map(drop), Err(OpenError::Corrupt { .. })), "a snapshot's body");
}

/// What arrives while a sync is under way shares the next one.
#[tokio::test]
async fn many_proposals_share_a_sync() {
    let disk = SimDisk::new(Entropy::seeded(1), GIB);
    let (voter, _) = written(&disk, 1).await;
    let before = disk.calls();
    let store = &voter.store;
    let puts = (0..500_u64).map(|n| async move { store.txn(&Txn::new().put(key(n), value(n, 10))).await });
    for outcome in futures::future::join_all(puts).await {
        assert!(matches!(outcome, Ok(TxnOutcome::Committed { .. })));
    }
    let calls = disk.calls() - before;
    assert!(calls < 500, "{calls} calls for 500 transactions: a write and a sync for each would be 1000");
    voter.stop().await;
}

#[tokio::test]
async fn reads_and_keep_alives_do_not_touch_the_disk() {
    let disk = SimDisk::new(Entropy::seeded(1), GIB);
    let (voter, _) = written(&disk, 3).await;
    let session = SessionId::new(Entropy::seeded(3).uuid());
    voter.store.create_session(session, Duration::from_secs(60)).await.unwrap();
    let before = disk.calls();
    for _ in 0..100 {
        voter.store.keep_alive(session).await.unwrap();
        assert!(voter.holds(1).await);
    }
    assert_eq!(disk.calls(), before);
    voter.stop().await;
}

/// C52: whoever leads next gives every session its whole time to live again.
#[tokio::test]
async fn sessions_live_their_whole_time_again_after_a_restart() {
    let disk = SimDisk::new(Entropy::seeded(1), GIB);
    let mut slow = config();
    slow.tick = Duration::from_secs(1);
    let clock = Clock::manual(alluvium_types::time::Timestamp::from_millis(0));
    let start = async || {
        let (tasks, _failures) = Tasks::new();
        let (config, disk) = (slow.clone(), Arc::new(disk.clone()));
        let store = RaftStore::open(config, disk, clock.clone(), Entropy::seeded(5), &tasks, Arc::new(NoPeers));
        (store.await.unwrap(), tasks)
    };
    // Each second has its tick: two questions later it is over.
    let pass = async |store: &RaftStore, seconds: u64| {
        for _ in 0..seconds {
            clock.advance(Duration::from_secs(1));
            store.revision().await.unwrap();
            store.revision().await.unwrap();
        }
    };
    let session = SessionId::new(Entropy::seeded(3).uuid());
    let (store, tasks) = start().await;
    store.create_session(session, Duration::from_secs(10)).await.unwrap();
    let bound = Txn::new().put_bound(key(1), Bytes::new(), session);
    assert!(matches!(store.txn(&bound).await, Ok(TxnOutcome::Committed { .. })));
    pass(&store, 9).await;
    assert!(store.get(&key(1)).await.unwrap().value.is_some());
    tasks.stop();
    assert!(tasks.join(Duration::from_secs(5)).await);
    let (store, tasks) = start().await;
    pass(&store, 8).await;
    assert!(store.get(&key(1)).await.unwrap().value.is_some());
    // A pause of the voter itself is not held against anybody: it could not hear the keep-alives.
    clock.advance(Duration::from_secs(1000));
    store.revision().await.unwrap();
    store.keep_alive(session).await.unwrap();
    pass(&store, 9).await;
    assert!(store.get(&key(1)).await.unwrap().value.is_some());
    pass(&store, 3).await;
    assert_eq!(store.get(&key(1)).await.unwrap().value, None);
    assert_eq!(store.keep_alive(session).await, Err(StoreError::SessionGone(session)));
    tasks.stop();
    assert!(tasks.join(Duration::from_secs(5)).await);
}

/// A lone voter serves well under a second after its process was killed, on a real disk, with all that was answered.
#[tokio::test]
async fn a_lone_voter_serves_soon_after_it_was_killed() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Clock::system();
    let mut config = RaftConfig::lone(folder.path().join("metadata"), None);
    config.log_file_bytes = 4 << 20;
    let first = open_with(config.clone(), Arc::new(RealDisk)).await.unwrap();
    for n in 0..200 {
        assert!(matches!(first.put(n, 1000).await, Ok(TxnOutcome::Committed { .. })));
    }
    let cluster = first.store.cluster();
    // The thread is left as it is: it holds no lock, and nobody asks it any more.
    let start = clock.mono();
    let second = open_with(config, Arc::new(RealDisk)).await.unwrap();
    assert!(second.holds(199).await);
    let took = clock.mono().since(start);
    assert!(took < Duration::from_millis(300), "{took:?}");
    assert_eq!(second.store.cluster(), cluster);
    let guarded = Txn::new().when(key(0), Condition::Present).put(key(0), value(0, 1));
    assert!(matches!(second.store.txn(&guarded).await, Ok(TxnOutcome::Committed { .. })));
    first.stop().await;
    second.stop().await;
}
