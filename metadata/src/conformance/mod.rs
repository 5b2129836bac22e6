//! What every backend does, run: [`run`] panics where one doesn't.
//!
//! Each check works under a prefix of its own, so that all of them can share a store.

mod lossy;

use std::collections::BTreeMap;
use std::time::Duration;

use alluvium_runtime::clock::Clock;
use alluvium_runtime::entropy::Entropy;
use alluvium_runtime::tasks::Tasks;
use alluvium_types::ids::{ClusterId, Incarnation, Revision, SessionId};
use alluvium_types::ledger::BookieId;
use alluvium_types::names::BookieName;
use bytes::Bytes;
use futures::future::{join, join_all};

pub use lossy::{Fate, LossyStore};

use crate::Metadata;
use crate::error::{Refusal, StoreError, UpdateError};
use crate::store::{
    Condition, Event, KeyValue, PAGE_RECORDS_MAX, REQUEST_BYTES_MAX, Range, Store, TXN_OPS_MAX, Txn, TxnOutcome, Watch,
};

/// How long anything may take.
const DEADLINE: Duration = Duration::from_secs(10);
/// The time to live of sessions that are to expire.
const SHORT: Duration = Duration::from_millis(400);
/// The time to live of sessions that are not.
const LONG: Duration = Duration::from_secs(60);

/// A store under test, and what it runs in.
#[derive(Clone, Debug)]
pub struct Subject {
    /// The store.
    pub store: Store,
    /// Its clock.
    pub clock: Clock,
    /// For ids.
    pub entropy: Entropy,
    /// For what is started on the way.
    pub tasks: Tasks,
}

/// Runs every check.
///
/// # Panics
/// When the store does not do what every store does.
pub async fn run(subject: &Subject) {
    transactions_are_all_or_nothing(subject).await;
    transactions_at_the_same_time_are_one_after_the_other(subject).await;
    conditions_hold_of_keys_as_they_are(subject).await;
    a_created_key_has_a_revision_of_its_own(subject).await;
    pages_give_every_key_once_in_order(subject).await;
    a_watch_gives_every_change_once_and_resumes(subject).await;
    what_a_session_holds_vanishes_when_it_ends(subject).await;
    what_a_session_holds_vanishes_when_it_expires(subject).await;
    a_session_that_is_kept_alive_does_not_expire(subject).await;
    a_put_under_a_gone_session_changes_nothing(subject).await;
    requests_past_the_limits_change_nothing(subject).await;
    a_lost_answer_is_settled_by_the_same_transaction(subject).await;
    // Last: it takes history away from everybody.
    a_compacted_history_says_so(subject).await;
}

fn key(text: &str) -> Bytes {
    Bytes::from(format!("conformance/{text}"))
}

fn value(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

impl Subject {
    async fn in_time<T>(&self, what: &str, future: impl Future<Output = T>) -> T {
        self.clock.timeout(DEADLINE, future).await.unwrap_or_else(|_| panic!("{what} took too long"))
    }

    async fn committed(&self, txn: Txn) -> Revision {
        match self.in_time("a transaction", self.store.txn(&txn)).await.expect("a transaction is answered") {
            TxnOutcome::Committed { revision } => revision,
            TxnOutcome::Conflict => panic!("a transaction whose compares hold is applied: {txn:?}"),
        }
    }

    async fn conflicts(&self, txn: Txn) {
        let outcome = self.in_time("a transaction", self.store.txn(&txn)).await.expect("a transaction is answered");
        assert_eq!(outcome, TxnOutcome::Conflict, "a transaction with a compare that does not hold: {txn:?}");
    }

    async fn get(&self, key: &Bytes) -> Option<KeyValue> {
        self.in_time("a read", self.store.get(key)).await.expect("a read is answered").value
    }

    async fn watch(&self, prefix: &Bytes, from: Revision) -> Watch {
        self.in_time("a watch", self.store.watch(prefix, from)).await.expect("a watch begins")
    }

    /// The next `count` events of a watch.
    async fn events(&self, watch: &mut Watch, count: usize) -> Vec<Event> {
        let mut events = Vec::new();
        while events.len() < count {
            events.extend(self.in_time("an event", watch.next()).await.expect("a watch goes on"));
        }
        assert_eq!(events.len(), count, "{events:?}");
        events
    }

    async fn session(&self, ttl: Duration) -> SessionId {
        let session = SessionId::new(self.entropy.uuid());
        self.in_time("a session", self.store.create_session(session, ttl)).await.expect("a session begins");
        session
    }
}

async fn transactions_are_all_or_nothing(subject: &Subject) {
    let (a, b, c) = (key("txn/a"), key("txn/b"), key("txn/c"));
    let first = subject.committed(Txn::new().put(a.clone(), value("1")).put(b.clone(), value("1"))).await;
    let (found_a, found_b) = (subject.get(&a).await.expect("written"), subject.get(&b).await.expect("written"));
    assert_eq!((found_a.mod_revision, found_b.mod_revision), (first, first), "one transaction is one revision");
    let mixed = Txn::new()
        .when(a.clone(), Condition::ModRevision(first))
        .when(c.clone(), Condition::Present)
        .put(a.clone(), value("2"))
        .delete(b.clone());
    subject.conflicts(mixed).await;
    assert_eq!(subject.get(&a).await.map(|found| found.value), Some(value("1")));
    assert!(subject.get(&b).await.is_some(), "a refused transaction deletes nothing");
    let second = subject
        .committed(
            Txn::new()
                .when(a.clone(), Condition::ModRevision(first))
                .when(c.clone(), Condition::Absent)
                .put(a.clone(), value("2"))
                .put(c.clone(), value("1"))
                .delete(b.clone()),
        )
        .await;
    assert!(second > first, "revisions rise");
    let found = subject.get(&a).await.expect("written");
    assert_eq!((found.version, found.create_revision, found.mod_revision), (2, first, second));
    assert_eq!((subject.get(&b).await, subject.get(&c).await.is_some()), (None, true));
    // Deleting what isn't there is fine, and no change.
    let before = subject.store.revision().await.expect("answered");
    subject.committed(Txn::new().delete(key("txn/none"))).await;
    assert_eq!(subject.store.revision().await.expect("answered"), before);
}

async fn transactions_at_the_same_time_are_one_after_the_other(subject: &Subject) {
    const PAIRS: u64 = 100;
    let pair = |number: u64| (key(&format!("same/{number}/a")), key(&format!("same/{number}/b")));
    let claim = async |absent: Bytes, written: Bytes| {
        let txn = Txn::new().when(absent, Condition::Absent).put(written, value("mine"));
        let outcome = subject.in_time("a transaction", subject.store.txn(&txn)).await;
        matches!(outcome.expect("a transaction is answered"), TxnOutcome::Committed { .. })
    };
    // Each of two writes what the other one wants absent: one of them is first.
    let both = (0..PAIRS).map(async |number| {
        let (a, b) = pair(number);
        let (one, other) = join(claim(a.clone(), b.clone()), claim(b.clone(), a.clone())).await;
        assert_ne!(one, other, "pair {number}");
        assert_eq!((subject.get(&b).await.is_some(), subject.get(&a).await.is_some()), (one, other), "pair {number}");
    });
    join_all(both).await;
    // All want to be the only one, each in its turn; what is told as committed is what was counted.
    let counter = key("same/counter");
    let counting = (0..PAIRS).map(async |_| {
        let found = subject.get(&counter).await;
        let count = found.as_ref().map_or(0, |found| found.version);
        let condition = found.map_or(Condition::Absent, |found| Condition::ModRevision(found.mod_revision));
        let txn = Txn::new().when(counter.clone(), condition).put(counter.clone(), value(&count.to_string()));
        let outcome = subject.in_time("a transaction", subject.store.txn(&txn)).await.expect("a transaction is answered");
        u64::from(matches!(outcome, TxnOutcome::Committed { .. }))
    });
    let committed: u64 = join_all(counting).await.into_iter().sum();
    assert!(committed >= 1);
    assert_eq!(subject.get(&counter).await.map(|found| found.version), Some(committed));
}

async fn conditions_hold_of_keys_as_they_are(subject: &Subject) {
    let (there, absent) = (key("when/there"), key("when/absent"));
    let created = subject.committed(Txn::new().put(there.clone(), value("1"))).await;
    let changed = subject.committed(Txn::new().put(there.clone(), value("2"))).await;
    let write = |key: &Bytes, condition| Txn::new().when(key.clone(), condition).put(self::key("when/out"), value("x"));
    for (key, condition) in [
        (&there, Condition::ModRevision(changed)),
        (&there, Condition::CreateRevision(created)),
        (&there, Condition::Present),
        (&absent, Condition::Absent),
    ] {
        subject.committed(write(key, condition)).await;
    }
    for (key, condition) in [
        (&there, Condition::ModRevision(created)),
        (&there, Condition::CreateRevision(changed)),
        (&there, Condition::Absent),
        (&absent, Condition::Present),
        (&absent, Condition::ModRevision(Revision::ZERO)),
        (&absent, Condition::CreateRevision(Revision::ZERO)),
    ] {
        subject.conflicts(write(key, condition)).await;
    }
}

async fn a_created_key_has_a_revision_of_its_own(subject: &Subject) {
    let again = key("create/again");
    let first = subject.committed(Txn::new().put(again.clone(), value("1"))).await;
    subject.committed(Txn::new().delete(again.clone())).await;
    let second = subject.committed(Txn::new().put(again.clone(), value("1"))).await;
    subject.conflicts(Txn::new().when(again.clone(), Condition::CreateRevision(first)).put(again.clone(), value("2"))).await;
    let found = subject.get(&again).await.expect("written");
    assert_eq!((found.create_revision, found.version), (second, 1));
}

async fn pages_give_every_key_once_in_order(subject: &Subject) {
    let keys: Vec<Bytes> = (0..25).map(|n| key(&format!("pages/in/{n:02}"))).collect();
    let mut txn = Txn::new().put(key("pages/in"), value("before")).put(key("pages/in0"), value("behind"));
    for key in keys.iter().rev() {
        txn = txn.put(key.clone(), value("x"));
    }
    let revision = subject.committed(txn).await;
    for limit in [1, 7, 24, 25, 26, PAGE_RECORDS_MAX, usize::MAX] {
        let mut found: Vec<Bytes> = Vec::new();
        loop {
            let range = Range { prefix: key("pages/in/"), after: found.last().cloned(), limit };
            let page = subject.store.range(&range).await.expect("answered");
            assert!(page.revision >= revision);
            assert!(page.value.records.len() <= limit);
            found.extend(page.value.records.into_iter().map(|record| record.key));
            if !page.value.more {
                break;
            }
        }
        assert_eq!(found, keys, "pages of {limit}");
    }
    let nothing = Range { prefix: key("pages/none/"), after: None, limit: 10 };
    let page = subject.store.range(&nothing).await.expect("answered").value;
    assert_eq!((page.records.len(), page.more), (0, false));
}

/// M5: what is listed at a revision and watched from behind it is everything, once.
async fn a_watch_gives_every_change_once_and_resumes(subject: &Subject) {
    let prefix = key("watch/in/");
    let at = |n: u64| key(&format!("watch/in/{n}"));
    let start = subject.store.revision().await.expect("answered").next();
    let mut early = subject.watch(&prefix, start).await;
    let mut revisions = Vec::new();
    for n in 0..4_u64 {
        let both = Txn::new().put(at(n), value("1")).put(at(n + 10), value("1")).put(key("watch/out"), value("1"));
        revisions.push(subject.committed(both).await);
    }
    revisions.push(subject.committed(Txn::new().delete(at(0)).delete(key("watch/out"))).await);
    let seen = subject.events(&mut early, 9).await;
    let places: Vec<(Bytes, Revision)> = seen.iter().map(|event| (event.key().clone(), event.revision())).collect();
    let mut expected = Vec::new();
    for (n, revision) in (0..4).zip(&revisions) {
        expected.extend([(at(n), *revision), (at(n + 10), *revision)]);
    }
    expected.push((at(0), revisions[4]));
    assert_eq!(places, expected);
    assert!(matches!(&seen[8], Event::Delete { .. }));
    // One that begins in the past gives the same; one that resumes behind an event goes on with the next.
    let mut late = subject.watch(&prefix, start).await;
    assert_eq!(subject.events(&mut late, 9).await, seen);
    let mut resumed = subject.watch(&prefix, revisions[2].next()).await;
    assert_eq!(subject.events(&mut resumed, 3).await, seen[6..]);
    // One that begins in the future waits for it.
    let mut ahead = subject.watch(&prefix, revisions[4].next().next()).await;
    subject.committed(Txn::new().put(at(5), value("too early"))).await;
    let awaited = subject.committed(Txn::new().put(at(6), value("in time"))).await;
    assert_eq!(subject.events(&mut ahead, 1).await[0].revision(), awaited);
    // Applying what a watch gives to what was listed gives what is there.
    let listed = subject.store.range(&Range { prefix: prefix.clone(), after: None, limit: 100 }).await.expect("answered");
    let mut view: BTreeMap<Bytes, Bytes> = listed.value.records.into_iter().map(|r| (r.key, r.value)).collect();
    let mut follow = subject.watch(&prefix, listed.revision.next()).await;
    subject.committed(Txn::new().put(at(7), value("new")).delete(at(6))).await;
    for event in subject.events(&mut follow, 2).await {
        match event {
            Event::Put(record) => drop(view.insert(record.key, record.value)),
            Event::Delete { key, .. } => drop(view.remove(&key)),
        }
    }
    let now = subject.store.range(&Range { prefix, after: None, limit: 100 }).await.expect("answered");
    assert_eq!(view, now.value.records.into_iter().map(|r| (r.key, r.value)).collect());
}

async fn what_a_session_holds_vanishes_when_it_ends(subject: &Subject) {
    let (bound, freed, moved) = (key("session/bound"), key("session/freed"), key("session/moved"));
    let (session, other) = (subject.session(LONG).await, subject.session(LONG).await);
    let mut txn = Txn::new();
    for key in [&bound, &freed, &moved] {
        txn = txn.put_bound(key.clone(), value("1"), session);
    }
    let revision = subject.committed(txn).await;
    assert_eq!(subject.get(&bound).await.and_then(|found| found.session), Some(session));
    let rebind = Txn::new().put(freed.clone(), value("2")).put_bound(moved.clone(), value("2"), other);
    subject.committed(rebind).await;
    let mut watch = subject.watch(&bound, revision.next()).await;
    subject.store.end_session(session).await.expect("ended");
    let gone = &subject.events(&mut watch, 1).await[0];
    assert!(matches!(gone, Event::Delete { key, .. } if *key == bound));
    assert_eq!(subject.get(&bound).await, None);
    assert!(subject.get(&freed).await.is_some(), "a later put without a session unbinds");
    assert!(subject.get(&moved).await.is_some(), "a later put under another session moves");
    subject.store.end_session(session).await.expect("ending twice is fine");
    assert_eq!(subject.store.keep_alive(session).await, Err(StoreError::SessionGone(session)));
    subject.store.end_session(other).await.expect("ended");
    assert_eq!(subject.get(&moved).await, None);
}

async fn what_a_session_holds_vanishes_when_it_expires(subject: &Subject) {
    let bound = key("session/expires");
    let session = subject.session(SHORT).await;
    // Asking for the same session again, as after a lost answer, is the same session.
    subject.store.create_session(session, SHORT).await.expect("the same session");
    let revision = subject.committed(Txn::new().put_bound(bound.clone(), value("1"), session)).await;
    let mut watch = subject.watch(&bound, revision.next()).await;
    assert!(matches!(subject.events(&mut watch, 1).await[0], Event::Delete { .. }));
    assert_eq!(subject.get(&bound).await, None);
    assert_eq!(subject.store.keep_alive(session).await, Err(StoreError::SessionGone(session)));
}

async fn a_session_that_is_kept_alive_does_not_expire(subject: &Subject) {
    let session = subject.session(SHORT).await;
    let bound = key("session/kept");
    subject.committed(Txn::new().put_bound(bound.clone(), value("1"), session)).await;
    let start = subject.clock.mono();
    while subject.clock.mono().since(start) < 2 * SHORT {
        subject.store.keep_alive(session).await.expect("the session lives");
        subject.clock.sleep(SHORT / 20).await;
    }
    assert!(subject.get(&bound).await.is_some());
    subject.store.end_session(session).await.expect("ended");
}

async fn a_put_under_a_gone_session_changes_nothing(subject: &Subject) {
    let session = subject.session(LONG).await;
    subject.store.end_session(session).await.expect("ended");
    let txn = Txn::new().put(key("gone/a"), value("1")).put_bound(key("gone/b"), value("1"), session);
    assert_eq!(subject.store.txn(&txn).await, Err(StoreError::SessionGone(session)));
    assert_eq!((subject.get(&key("gone/a")).await, subject.get(&key("gone/b")).await), (None, None));
}

async fn requests_past_the_limits_change_nothing(subject: &Subject) {
    let refused = |txn: Txn| async move {
        match subject.store.txn(&txn).await {
            Err(StoreError::Refused(refusal)) => refusal,
            other => panic!("not refused: {other:?}"),
        }
    };
    let numbered = |n: usize| key(&format!("limits/{n:04}"));
    let puts = |count| (0..count).fold(Txn::new(), |txn, n| txn.put(numbered(n), value("x")));
    let found = TXN_OPS_MAX + 1;
    let too_many = Refusal::TooMany { what: "operations", found, limit: TXN_OPS_MAX };
    assert_eq!(refused(puts(found)).await, too_many);
    let compares = (0..found).fold(Txn::new(), |txn, n| txn.when(numbered(n), Condition::Absent));
    let too_many = Refusal::TooMany { what: "compares", found, limit: TXN_OPS_MAX };
    assert_eq!(refused(compares.put(numbered(0), value("x"))).await, too_many);
    let large = Txn::new().put(numbered(0), Bytes::from(vec![0; REQUEST_BYTES_MAX]));
    assert!(matches!(refused(large).await, Refusal::TooLarge { .. }));
    let twice = Txn::new().put(numbered(0), value("1")).delete(numbered(0));
    assert_eq!(refused(twice).await, Refusal::DuplicateKey);
    assert_eq!(refused(Txn::new().when(numbered(0), Condition::Absent)).await, Refusal::Empty);
    let page = Range { prefix: key("limits/"), after: None, limit: 0 };
    assert_eq!(subject.store.range(&page).await, Err(StoreError::Refused(Refusal::EmptyPage)));
    for ttl in [Duration::ZERO, Duration::from_secs(1 << 40)] {
        let session = SessionId::new(subject.entropy.uuid());
        let refused = subject.store.create_session(session, ttl).await;
        assert_eq!(refused, Err(StoreError::Refused(Refusal::TimeToLive(ttl))));
    }
    let page = Range { prefix: key("limits/"), after: None, limit: 10 };
    assert_eq!(subject.store.range(&page).await.expect("answered").value.records, []);
    // What is just within the limits is taken.
    subject.committed(puts(TXN_OPS_MAX)).await;
    let room = REQUEST_BYTES_MAX - numbered(0).len();
    subject.committed(Txn::new().put(numbered(0), Bytes::from(vec![0; room]))).await;
    subject.committed(Txn::new().delete(numbered(0))).await;
}

/// M3, C12: however an answer gets lost, the decision is made once, and its maker knows.
async fn a_lost_answer_is_settled_by_the_same_transaction(subject: &Subject) {
    use Fate::{AppliedUnknown, DelayedUnknown, LostUnknown, Unavailable};
    let lossy = LossyStore::new(std::sync::Arc::clone(&subject.store));
    let metadata =
        Metadata::new(std::sync::Arc::new(lossy.clone()), subject.clock.clone(), subject.entropy.clone(), subject.tasks.clone());
    let cluster = ClusterId::new(subject.entropy.uuid());
    let sequences: [&[Fate]; 7] = [
        &[AppliedUnknown],
        &[LostUnknown],
        &[DelayedUnknown],
        &[DelayedUnknown, DelayedUnknown, AppliedUnknown],
        &[Unavailable, LostUnknown, Unavailable, AppliedUnknown, LostUnknown],
        &[AppliedUnknown, Unavailable],
        &[Unavailable, Unavailable],
    ];
    for (n, fates) in sequences.into_iter().enumerate() {
        let name = BookieName::parse(&format!("conformance-{n}")).expect("a name");
        let id = BookieId { name, incarnation: Incarnation::new(subject.entropy.uuid()) };
        lossy.next(fates.iter().copied());
        let claimed = metadata.bookies().claim_identity(&id, cluster).await.expect("nobody else wants this name");
        let other = BookieId { incarnation: Incarnation::new(subject.entropy.uuid()), ..id.clone() };
        lossy.next(fates.iter().copied());
        let refused = metadata.bookies().claim_identity(&other, cluster).await;
        assert!(matches!(refused, Err(UpdateError::Exists { .. })), "{fates:?}: {refused:?}");
        lossy.next(fates.iter().copied());
        let replaced = metadata.bookies().replace_identity(&other, &claimed).await.expect("nobody else changed it");
        assert_eq!(metadata.bookies().identity(&id.name).await.expect("read"), Some(replaced.clone()), "{fates:?}");
        // The version that was written over is refused, whatever happens to the answers.
        lossy.next(fates.iter().copied());
        let stale = metadata.bookies().replace_identity(&id, &claimed).await;
        assert!(matches!(stale, Err(UpdateError::Conflict { .. })), "{fates:?}: {stale:?}");
        assert_eq!(metadata.bookies().identity(&id.name).await.expect("read"), Some(replaced));
    }
}

/// M5, C53: a watch that comes too late is told so, and what is listed then is whole.
async fn a_compacted_history_says_so(subject: &Subject) {
    let prefix = key("compact/");
    let first = subject.committed(Txn::new().put(key("compact/a"), value("1"))).await;
    let second = subject.committed(Txn::new().put(key("compact/a"), value("2"))).await;
    let mut slow = subject.watch(&prefix, first).await;
    let third = subject.committed(Txn::new().put(key("compact/b"), value("1"))).await;
    subject.store.compact(second).await.expect("compacted");
    let compacted = StoreError::Compacted { oldest: second.next() };
    assert_eq!(subject.in_time("a watch", slow.next()).await, Err(compacted.clone()));
    match subject.store.watch(&prefix, second).await {
        Err(error) => assert_eq!(error, compacted),
        Ok(mut late) => assert_eq!(subject.in_time("a watch", late.next()).await, Err(compacted)),
    }
    let mut resumed = subject.watch(&prefix, second.next()).await;
    assert_eq!(subject.events(&mut resumed, 1).await[0].revision(), third);
    let page = subject.store.range(&Range { prefix, after: None, limit: 10 }).await.expect("answered").value;
    assert_eq!(page.records.len(), 2, "compaction takes no record away");
}
