//! The typed repositories over the memory store: who may change what, and what stands together.

use std::sync::Arc;
use std::time::Duration;

use alluvium_metadata::brokers::{IfRegistered, NewBroker, Registration};
use alluvium_metadata::conformance::{Fate as Answer, LossyStore};
use alluvium_metadata::error::ClusterError;
use alluvium_metadata::keys::Key;
use alluvium_metadata::ledgers::Fate;
use alluvium_metadata::ownership::{Owner, Right};
use alluvium_metadata::policies::Policies;
use alluvium_metadata::segments::{Sealed, SegmentNumber};
use alluvium_metadata::state_pointer::StatePointer;
use alluvium_metadata::store::{MetadataStore, Txn, TxnOutcome};
use alluvium_metadata::subscriptions::SubscriptionKind;
use alluvium_metadata::topics::Topic;
use alluvium_metadata::{Authority, MemoryStore, Metadata, PartitionId, ReadError, UpdateError, Versioned};
use alluvium_runtime::clock::Clock;
use alluvium_runtime::entropy::Entropy;
use alluvium_runtime::tasks::Tasks;
use alluvium_types::ids::{EntryId, Epoch, Incarnation, LedgerId, Nonce, Offset, PartitionIndex, RecoveryNumber};
use alluvium_types::ledger::{BookieId, Fragment, LedgerClass, LedgerMetadata, LedgerState};
use alluvium_types::names::{BookieName, BrokerName, NamespaceName, SubscriptionName, TenantName, TopicName};
use alluvium_types::policy::{Retention, Rollover};
use alluvium_types::replication::Replication;
use alluvium_types::time::Timestamp;
use bytes::Bytes;

pub(crate) struct World {
    pub(crate) clock: Clock,
    pub(crate) tasks: Tasks,
    pub(crate) store: MemoryStore,
    pub(crate) lossy: LossyStore,
    pub(crate) metadata: Metadata,
}

pub(crate) fn world_at(clock: Clock) -> World {
    let (tasks, _failures) = Tasks::new();
    let store = MemoryStore::start(clock.clone(), &tasks);
    let lossy = LossyStore::new(Arc::new(store.clone()));
    let metadata = Metadata::new(Arc::new(lossy.clone()), clock.clone(), Entropy::seeded(1), tasks.clone());
    World { clock, tasks, store, lossy, metadata }
}

pub(crate) fn world() -> World {
    world_at(Clock::system())
}

pub(crate) fn topic_name(name: &str) -> TopicName {
    TopicName::parse(&format!("tenant/space/{name}")).unwrap()
}

fn index(n: u32) -> PartitionIndex {
    PartitionIndex::new(n)
}

fn bookie(n: u64) -> BookieId {
    let incarnation = Incarnation::new(Entropy::seeded(n).uuid());
    BookieId { name: BookieName::parse(&format!("bookie-{n}")).unwrap(), incarnation }
}

fn ledger(id: LedgerId, epoch: Epoch, class: LedgerClass) -> LedgerMetadata {
    let ensemble = (0..3).map(bookie).collect();
    LedgerMetadata::create(id, epoch, class, Replication::DEFAULT, Replication::DEFAULT, ensemble).unwrap()
}

/// A broker of a weight, at addresses that nobody calls.
pub(crate) fn weighing(weight: u32) -> NewBroker {
    NewBroker { address: "client".to_owned(), internal_address: "internal".to_owned(), weight, draining: false }
}

impl World {
    async fn create_topic(&self, name: &TopicName, partitions: u32) -> Result<Versioned<Topic>, UpdateError> {
        let namespace = self.metadata.namespaces().get(name.namespace()).await?.expect("made before");
        self.metadata.topics().create(name, partitions, Policies::default(), &namespace).await
    }

    pub(crate) async fn topic(&self, name: &str) -> (TopicName, Versioned<Topic>) {
        let name = topic_name(name);
        // Each may be there from an earlier call.
        let _ = self.metadata.tenants().create(name.namespace().tenant(), Policies::default()).await;
        let _ = self.metadata.namespaces().create(name.namespace(), Policies::default()).await;
        let topic = self.create_topic(&name, 4).await.unwrap();
        (name, topic)
    }

    async fn broker(&self, name: &str) -> Registration {
        let name = BrokerName::parse(name).unwrap();
        let ttl = Duration::from_secs(60);
        self.metadata.brokers().register(&name, &weighing(100), ttl, IfRegistered::Refuse).await.unwrap()
    }

    async fn claim(
        &self,
        topic: (&TopicName, &Versioned<Topic>),
        current: Option<&Versioned<Owner>>,
        broker: &Registration,
    ) -> Result<Versioned<Owner>, UpdateError> {
        let right = Right::Topic(topic.0, topic.1);
        self.metadata.ownership().claim(index(0), right, current, &broker.decider, "here").await
    }

    async fn close(&self, ledger: &Versioned<LedgerMetadata>, last: Option<u64>) -> Versioned<LedgerMetadata> {
        let state = LedgerState::Closed { last: last.map(EntryId::new) };
        self.metadata.ledgers().update(ledger, LedgerMetadata { state, ..ledger.value.clone() }).await.unwrap()
    }
}

fn sealed(end: u64) -> Sealed {
    let times = Some((Timestamp::from_millis(5), Timestamp::from_millis(9)));
    Sealed { end: Offset::new(end), messages: end, bytes: end * 10, times }
}

#[tokio::test]
async fn a_cluster_is_made_once_by_whoever_comes_first() {
    let world = world();
    let ids = futures::future::join_all((0..10).map(|_| async { world.metadata.clusters().init(None).await })).await;
    let first = ids[0].clone().unwrap();
    assert!(ids.into_iter().all(|id| id.unwrap() == first));
    let proposed = alluvium_types::ids::ClusterId::new(Entropy::seeded(99).uuid());
    assert_eq!(world.metadata.clusters().init(Some(proposed)).await.unwrap(), first);
}

#[tokio::test]
async fn a_process_is_held_to_the_cluster_it_belongs_to() {
    let clusters = world().metadata.clusters();
    let [ours, theirs] = [7, 8].map(|seed| alluvium_types::ids::ClusterId::new(Entropy::seeded(seed).uuid()));
    assert_eq!(clusters.require(ours).await, Err(ClusterError::Missing { expected: ours }));
    assert_eq!(clusters.get().await.unwrap(), None, "nothing is made on the way");
    clusters.init(Some(theirs)).await.unwrap();
    assert_eq!(clusters.require(ours).await, Err(ClusterError::Other { found: theirs, expected: ours }));
    assert_eq!(clusters.require(theirs).await.unwrap().value.id, theirs);
}

#[tokio::test]
async fn what_holds_others_is_not_deleted_and_what_is_being_deleted_takes_nothing_new() {
    let world = world();
    let (name, topic) = world.topic("t").await;
    let (tenants, namespaces) = (world.metadata.tenants(), world.metadata.namespaces());
    let (tenant, namespace) = (name.namespace().tenant(), name.namespace());
    let read = tenants.get(tenant).await.unwrap().unwrap();
    assert!(matches!(tenants.delete(tenant, &read).await, Err(UpdateError::NotEmpty { .. })));
    let read = namespaces.get(namespace).await.unwrap().unwrap();
    assert!(matches!(namespaces.delete(namespace, &read).await, Err(UpdateError::NotEmpty { .. })));
    // It is as before, and takes topics again.
    world.topic("u").await;
    assert!(matches!(namespaces.delete(namespace, &read).await, Err(UpdateError::Conflict { .. })), "the version is old");
    for topic in [name.clone(), topic_name("u")] {
        let read = world.metadata.topics().get(&topic).await.unwrap().unwrap();
        world.metadata.topics().delete(&topic, &read).await.unwrap();
    }
    let read = namespaces.get(namespace).await.unwrap().unwrap();
    namespaces.delete(namespace, &read).await.unwrap();
    let refused = world.metadata.topics().create(&name, 1, Policies::default(), &read).await;
    assert_eq!(refused, Err(UpdateError::NotFound { what: "the namespace" }));
    let read = tenants.get(tenant).await.unwrap().unwrap();
    tenants.delete(tenant, &read).await.unwrap();
    let refused = namespaces.create(namespace, Policies::default()).await;
    assert_eq!(refused, Err(UpdateError::NotFound { what: "the tenant" }));
    assert_eq!(topic.value.partitions, 4);
}

#[tokio::test]
async fn listings_are_paged_and_keep_to_their_parent() {
    let world = world();
    for n in 0..7 {
        world.topic(&format!("t{n}")).await;
    }
    // Names that sort beside the prefix.
    for other in ["tenant/space-2", "tenant/spac"] {
        let namespace = NamespaceName::parse(other).unwrap();
        world.metadata.namespaces().create(&namespace, Policies::default()).await.unwrap();
        let name = TopicName::parse(&format!("{other}/x")).unwrap();
        world.create_topic(&name, 1).await.unwrap();
    }
    let namespace = NamespaceName::parse("tenant/space").unwrap();
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let page = world.metadata.topics().list(&namespace, after.as_ref(), 3).await.unwrap();
        assert!(page.records.len() <= 3);
        found.extend(page.records.into_iter().map(|(name, _)| name.part().to_string()));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(found, ["t0", "t1", "t2", "t3", "t4", "t5", "t6"]);
    let tenant = TenantName::parse("tenant").unwrap();
    let page = world.metadata.namespaces().list(&tenant, None, 10).await.unwrap();
    assert_eq!((page.records.len(), page.next), (3, None));
    assert_eq!(world.metadata.tenants().list(None, 10).await.unwrap().records.len(), 1);
}

#[tokio::test]
async fn partitions_are_added_and_never_taken_away() {
    let world = world();
    let (name, topic) = world.topic("t").await;
    let topics = world.metadata.topics();
    let more = topics.set_partitions(&name, &topic, 8).await.unwrap();
    assert_eq!(more.value.partitions, 8);
    assert!(matches!(topics.set_partitions(&name, &more, 7).await, Err(UpdateError::Illegal { .. })));
    assert!(matches!(topics.set_partitions(&name, &topic, 9).await, Err(UpdateError::Conflict { .. })), "an old version");
    for nonsense in [0, 4097] {
        let refused = world.create_topic(&topic_name("n"), nonsense).await;
        assert!(matches!(refused, Err(UpdateError::Illegal { .. })));
    }
}

#[tokio::test]
async fn policies_come_back_as_they_were_and_inherit() {
    let world = world();
    let (name, topic) = world.topic("t").await;
    let policies = Policies {
        retention: Some(Retention { age: Some(Duration::from_secs(60)), bytes: None }),
        replication: Some(Replication::SINGLE),
        ..Policies::default()
    };
    world.metadata.topics().set_policies(&name, &topic, policies).await.unwrap();
    let found = world.metadata.topics().get(&name).await.unwrap().unwrap().value.policies;
    assert_eq!(found, policies);
    let above = Policies { rollover: Some(Rollover::default()), replication: Some(Replication::DEFAULT), ..Policies::default() };
    let effective = found.or(above);
    assert_eq!((effective.replication, effective.rollover), (Some(Replication::SINGLE), Some(Rollover::default())));
}

/// A record that can't be read is unknown: never absent, never a default (M6; nothing is deleted under it).
#[tokio::test]
async fn a_record_that_makes_no_sense_is_an_error_and_not_an_absence() {
    let world = world();
    let (name, topic) = world.topic("t").await;
    let garbage = Txn::new().put(Key::Topic(&name).encode(), Bytes::from_static(&[0xFF; 9]));
    assert!(matches!(world.store.txn(&garbage).await, Ok(TxnOutcome::Committed { .. })));
    let found = world.metadata.topics().get(&name).await;
    assert!(matches!(&found, Err(ReadError::Corrupt { key, .. }) if key == "topics/tenant/space/t"), "{found:?}");
    let listed = world.metadata.topics().list(name.namespace(), None, 10).await;
    assert!(matches!(listed, Err(ReadError::Corrupt { .. })));
    assert_eq!(world.metadata.topics().name_of(topic.value.id).await.unwrap(), Some(name));
}

/// M1, M2: a claim raises the epoch over what was read, and only for a live session and an existing topic.
#[tokio::test]
async fn a_claim_raises_the_epoch_and_is_made_once() {
    let world = world();
    let (name, topic) = world.topic("t").await;
    let (a, b) = (world.broker("a").await, world.broker("b").await);
    let first = world.claim((&name, &topic), None, &a).await.unwrap();
    assert_eq!(first.value.epoch, Epoch::new(1));
    let late = world.claim((&name, &topic), None, &b).await;
    assert!(matches!(late, Err(UpdateError::Conflict { .. })), "{late:?}");
    let second = world.claim((&name, &topic), Some(&first), &b).await.unwrap();
    assert_eq!(second.value.epoch, Epoch::new(2));
    let partition = PartitionId { topic: topic.value.id, index: index(0) };
    let released = world.metadata.ownership().release(partition, &second, &b.decider).await.unwrap();
    assert_eq!((released.value.epoch, &released.value.holder), (Epoch::new(2), &None));
    let old = world.metadata.ownership().release(partition, &first, &a.decider).await;
    assert_eq!(old, Err(UpdateError::NotOwner));
    let third = world.claim((&name, &topic), Some(&released), &a).await.unwrap();
    assert_eq!(third.value.epoch, Epoch::new(3), "an epoch is never given twice");
    // What an operator asks: who had it until it was claimed, without letting it go.
    let from = |owner: &Versioned<Owner>| owner.value.taken_from.as_ref().map(ToString::to_string);
    assert_eq!((from(&first), from(&second), from(&third)), (None, Some("a".to_owned()), None));
    let outside = world.metadata.ownership().claim(index(4), Right::Topic(&name, &topic), None, &a.decider, "here").await;
    assert_eq!(outside, Err(UpdateError::NotFound { what: "the partition" }));
}

/// The owner before the last one may dispatch as well as the last one.
#[tokio::test]
async fn m4_a_claim_names_every_former_owner_whose_session_lives() {
    let world = world();
    let (name, topic) = world.topic("t").await;
    let (a, b, c) = (world.broker("a").await, world.broker("b").await, world.broker("c").await);
    let first = world.claim((&name, &topic), None, &a).await.unwrap();
    assert_eq!(first.value.former, []);
    let second = world.claim((&name, &topic), Some(&first), &b).await.unwrap();
    let [by_a, by_b] = [&first, &second].map(|owner| owner.value.holder.clone().unwrap());
    assert_eq!(second.value.former, std::slice::from_ref(&by_a));
    world.metadata.end_session(b.session.id()).await.unwrap();
    let third = world.claim((&name, &topic), Some(&second), &c).await.unwrap();
    assert_eq!(third.value.former, std::slice::from_ref(&by_a), "b is gone, and a is not");
    assert_ne!(by_a, by_b);
    // Who lets it go leaves the others as they are; who has it again doesn't wait for itself.
    let partition = PartitionId { topic: topic.value.id, index: index(0) };
    let released = world.metadata.ownership().release(partition, &third, &c.decider).await.unwrap();
    assert_eq!(released.value.former, [by_a]);
    let fourth = world.claim((&name, &topic), Some(&released), &a).await.unwrap();
    assert_eq!(fourth.value.former, []);
    let read = world.metadata.ownership().get(partition).await.unwrap().unwrap();
    assert_eq!(read.value, fourth.value);
}

/// M2: a broker whose session is gone decides nothing, even if nobody else has taken over.
#[tokio::test]
async fn a_broker_without_its_session_decides_nothing() {
    let world = world();
    let (name, topic) = world.topic("t").await;
    let broker = world.broker("a").await;
    let owner = world.claim((&name, &topic), None, &broker).await.unwrap();
    let holder = owner.value.holder.clone().unwrap();
    assert!(world.metadata.ownership().is_live(&holder).await.unwrap());
    world.metadata.end_session(broker.session.id()).await.unwrap();
    assert!(!world.metadata.ownership().is_live(&holder).await.unwrap());
    let partition = PartitionId { topic: topic.value.id, index: index(0) };
    let release = world.metadata.ownership().release(partition, &owner, &broker.decider).await;
    assert_eq!(release, Err(UpdateError::SessionGone));
    // A new session of the same broker is another decider.
    let again = world.broker("a").await;
    assert_ne!(again.decider.create_revision, broker.decider.create_revision);
    assert!(!world.metadata.ownership().is_live(&holder).await.unwrap());
    let claim = world.claim((&name, &topic), Some(&owner), &broker).await;
    assert_eq!(claim, Err(UpdateError::SessionGone));
    world.claim((&name, &topic), Some(&owner), &again).await.unwrap();
}

/// C39: an owner that was paused between making a ledger and listing it leaves neither, because they are made together.
#[tokio::test]
async fn an_owner_that_was_overtaken_lists_no_ledger_and_leaves_none() {
    let world = world();
    let (name, topic) = world.topic("t").await;
    let (a, b) = (world.broker("a").await, world.broker("b").await);
    let partition = PartitionId { topic: topic.value.id, index: index(0) };
    let (segments, ledgers) = (world.metadata.segments(), world.metadata.ledgers());
    let first = world.claim((&name, &topic), None, &a).await.unwrap();
    let by_a = Authority { partition, owner: &first, decider: &a.decider };
    let id = ledgers.allocate().await.unwrap();
    let epoch = first.value.epoch;
    let bulk = |id| ledger(id, epoch, LedgerClass::Bulk);
    let (segment, created) = segments.append(by_a, SegmentNumber::FIRST, Some(Offset::ZERO), bulk(id)).await.unwrap();
    assert_eq!((segment.value.ledger, created.mod_revision), (id, segment.mod_revision), "one transaction");
    let second = world.claim((&name, &topic), Some(&first), &b).await.unwrap();
    let late = ledgers.allocate().await.unwrap();
    let refused = segments.append(by_a, SegmentNumber::new(2), None, bulk(late)).await;
    assert_eq!(refused.map(drop), Err(UpdateError::NotOwner));
    assert_eq!(ledgers.get(late).await.unwrap(), None);
    assert_eq!(segments.all(partition).await.unwrap(), [segment]);
    // The new owner can't take the old epoch for its ledger either.
    let by_b = Authority { partition, owner: &second, decider: &b.decider };
    let refused = segments.append(by_b, SegmentNumber::new(2), None, bulk(late)).await;
    assert!(matches!(refused, Err(UpdateError::Illegal { .. })));
}

/// C66: the next segment is listed ahead, and begins where the one before ended, said in the transaction that seals it.
#[tokio::test]
async fn sealing_a_segment_says_where_the_next_one_begins() {
    let world = world();
    let (name, topic) = world.topic("t").await;
    let a = world.broker("a").await;
    let partition = PartitionId { topic: topic.value.id, index: index(0) };
    let (segments, ledgers) = (world.metadata.segments(), world.metadata.ledgers());
    let owner = world.claim((&name, &topic), None, &a).await.unwrap();
    let by = Authority { partition, owner: &owner, decider: &a.decider };
    let bulk = |id| ledger(id, owner.value.epoch, LedgerClass::Bulk);
    let (one, open) =
        segments.append(by, SegmentNumber::FIRST, Some(Offset::ZERO), bulk(ledgers.allocate().await.unwrap())).await.unwrap();
    let ahead = bulk(ledgers.allocate().await.unwrap());
    let (two, _) = segments.append(by, SegmentNumber::new(2), None, ahead).await.unwrap();
    let early = segments.seal(by, &one, Offset::ZERO, sealed(10), Some(&two)).await;
    assert!(matches!(early, Err(UpdateError::Illegal { .. })), "its ledger is open");
    world.close(&open, Some(9)).await;
    let (one, two) = segments.seal(by, &one, Offset::ZERO, sealed(10), Some(&two)).await.unwrap();
    let two = two.unwrap();
    assert_eq!((one.value.sealed, two.value.first), (Some(sealed(10)), Some(Offset::new(10))));
    assert_eq!(segments.all(partition).await.unwrap(), [one.clone(), two]);
    let differently = segments.seal(by, &one, Offset::ZERO, sealed(11), None).await;
    assert!(matches!(differently, Err(UpdateError::Illegal { .. })), "what was sealed does not change");
}

/// T5, L8: segments and their ledgers go together; an open ledger never goes.
#[tokio::test]
async fn trimming_removes_segments_and_leaves_tombstones() {
    let world = world();
    let (name, topic) = world.topic("t").await;
    let a = world.broker("a").await;
    let partition = PartitionId { topic: topic.value.id, index: index(0) };
    let (segments, ledgers) = (world.metadata.segments(), world.metadata.ledgers());
    let owner = world.claim((&name, &topic), None, &a).await.unwrap();
    let by = Authority { partition, owner: &owner, decider: &a.decider };
    let mut listed = Vec::new();
    for n in 0..150 {
        let id = ledgers.allocate().await.unwrap();
        let bulk = ledger(id, owner.value.epoch, LedgerClass::Bulk);
        let (segment, open) = segments.append(by, SegmentNumber::new(n + 1), Some(Offset::ZERO), bulk).await.unwrap();
        if n < 149 {
            world.close(&open, None).await;
        }
        listed.push(segment);
    }
    let refused = segments.trim(by, &listed[148..]).await;
    assert!(matches!(refused, Err(UpdateError::Illegal { .. })), "its last ledger is open: {refused:?}");
    assert_eq!(segments.all(partition).await.unwrap().len(), 150);
    // One transaction a call, so that a failure behind it takes nothing back: the rest is asked for again.
    let first = segments.trim(by, &listed[..149]).await.unwrap();
    assert!(0 < first && first < 149, "{first}");
    world.lossy.next([Answer::Unavailable]);
    let impatient = world.metadata.clone().with_patience(Duration::ZERO).segments();
    let failed = impatient.trim(by, &listed[first..149]).await;
    assert!(matches!(failed, Err(UpdateError::Unavailable(_))), "{failed:?}");
    assert_eq!(segments.all(partition).await.unwrap(), listed[first..], "what went stays gone, the rest stands");
    let mut gone = first;
    while gone < 149 {
        gone += segments.trim(by, &listed[gone..149]).await.unwrap();
    }
    assert_eq!(segments.trim(by, &[]).await, Ok(0));
    assert_eq!(segments.all(partition).await.unwrap(), listed[149..]);
    for segment in &listed[..149] {
        assert!(matches!(ledgers.fate(segment.value.ledger).await.unwrap(), Fate::Deleted(_)));
    }
    assert!(matches!(ledgers.fate(listed[149].value.ledger).await.unwrap(), Fate::Exists(_)));
    // Retention pages through what nobody has loaded.
    let page = segments.page(None, 10).await.unwrap();
    assert_eq!((page.records, page.next), (vec![(partition, listed[149].clone())], None));
    let again = segments.trim(by, &listed[..1]).await;
    assert!(again.is_err(), "what is gone is not trimmed again");
}

/// B9, C26, C27: a tombstone is proof; the absence of a record is not.
#[tokio::test]
async fn only_a_tombstone_proves_that_a_ledger_is_deleted() {
    let world = world();
    let ledgers = world.metadata.ledgers();
    let id = ledgers.allocate().await.unwrap();
    assert_eq!(ledgers.fate(id).await.unwrap(), Fate::NoRecord);
    let open = ledgers.create(ledger(id, Epoch::new(1), LedgerClass::Bulk)).await.unwrap();
    assert_eq!(ledgers.fate(id).await.unwrap(), Fate::Exists(open.clone()));
    assert!(matches!(ledgers.tombstone(&open).await, Err(UpdateError::Illegal { .. })), "fence and close it first");
    let closed = world.close(&open, Some(3)).await;
    assert!(matches!(ledgers.forget(&closed).await, Err(UpdateError::Illegal { .. })));
    let tombstone = ledgers.tombstone(&closed).await.unwrap();
    assert_eq!(ledgers.fate(id).await.unwrap(), Fate::Deleted(tombstone.clone()));
    assert_eq!(tombstone.value.fragments, closed.value.fragments, "it still says whom it concerns");
    ledgers.forget(&tombstone).await.unwrap();
    assert_eq!(ledgers.fate(id).await.unwrap(), Fate::NoRecord);
    assert_ne!(ledgers.allocate().await.unwrap(), id, "an id is never given twice");
}

/// C18: a record is never written blindly.
#[tokio::test]
async fn of_two_changes_of_one_version_one_is_refused() {
    let world = world();
    let ledgers = world.metadata.ledgers();
    let open = ledgers.create(ledger(LedgerId::new(7), Epoch::new(1), LedgerClass::Bulk)).await.unwrap();
    let closed = world.close(&open, Some(3)).await;
    let number = RecoveryNumber::new(1);
    let recovering = LedgerMetadata { state: LedgerState::Recovering { by: number }, recovery: number, ..open.value.clone() };
    assert!(matches!(ledgers.update(&open, recovering).await, Err(UpdateError::Conflict { .. })));
    assert_eq!(ledgers.get(LedgerId::new(7)).await.unwrap(), Some(closed));
}

/// C12: the answer to an ensemble change is lost, and the change arrives late. Its writer learns that it stands; a writer
/// whose change a recovery overtook learns that it doesn't, and can't any more.
#[tokio::test]
async fn a_lost_answer_to_an_ensemble_change_is_settled() {
    let world = world();
    let ledgers = world.metadata.ledgers();
    for (n, fate) in [Answer::AppliedUnknown, Answer::LostUnknown, Answer::DelayedUnknown].into_iter().enumerate() {
        let id = LedgerId::new(n as u64);
        let open = ledgers.create(ledger(id, Epoch::new(1), LedgerClass::Bulk)).await.unwrap();
        let mut changed = open.value.clone();
        let ensemble = vec![bookie(0), bookie(1), bookie(9)];
        changed.fragments.push(Fragment { first: EntryId::new(5), ensemble, short: Vec::new() });
        world.lossy.next([fate]);
        let now = ledgers.update(&open, changed).await.unwrap();
        assert_eq!(ledgers.get(id).await.unwrap(), Some(now), "{fate:?}");
        // The writer that still holds the old version has been overtaken, whatever becomes of its answer.
        let number = RecoveryNumber::new(1);
        let state = LedgerState::Recovering { by: number };
        let stale = LedgerMetadata { state, recovery: number, ..open.value.clone() };
        world.lossy.next([fate]);
        assert!(matches!(ledgers.update(&open, stale).await, Err(UpdateError::Conflict { .. })), "{fate:?}");
    }
}

/// C12: a change that is issued again, by who does not know that it stands, is recognised by its nonce and not taken for
/// another's.
#[tokio::test]
async fn c12_a_change_that_is_issued_again_is_recognised_by_its_nonce() {
    let world = world();
    let ledgers = world.metadata.ledgers();
    let open = ledgers.create(ledger(LedgerId::new(7), Epoch::new(1), LedgerClass::Bulk)).await.unwrap();
    let closed = LedgerMetadata { state: LedgerState::Closed { last: None }, ..open.value.clone() };
    let nonce = Nonce::new(uuid::Uuid::from_u128(5));
    let once = ledgers.update_as(&open, closed.clone(), nonce).await.unwrap();
    assert_eq!(ledgers.update_as(&open, closed.clone(), nonce).await.unwrap(), once);
    let other = Nonce::new(uuid::Uuid::from_u128(6));
    assert!(matches!(ledgers.update_as(&open, closed, other).await, Err(UpdateError::Conflict { .. })));
}

/// M7: while metadata is down, what was not begun fails for certain after a while, and goes on by itself when it is back.
#[tokio::test]
async fn an_unavailable_store_is_waited_for_and_then_reported_as_certain() {
    let world = world();
    let impatient = world.metadata.clone().with_patience(Duration::ZERO);
    world.lossy.next([Answer::Unavailable]);
    let refused = impatient.ledgers().create(ledger(LedgerId::new(1), Epoch::new(1), LedgerClass::Bulk)).await;
    assert!(matches!(&refused, Err(error @ UpdateError::Unavailable(_)) if error.is_retryable()), "{refused:?}");
    world.lossy.next([Answer::Unavailable; 5]);
    world.metadata.ledgers().create(ledger(LedgerId::new(1), Epoch::new(1), LedgerClass::Bulk)).await.unwrap();
}

/// M3: once an answer was lost, only the stop of the process ends the wait, and says so.
#[tokio::test]
async fn an_open_outcome_is_given_up_only_when_the_process_stops() {
    let world = world();
    let impatient = world.metadata.clone().with_patience(Duration::ZERO);
    let flood = std::iter::once(Answer::LostUnknown).chain(std::iter::repeat_n(Answer::Unavailable, 100_000));
    world.lossy.next(flood);
    let ledgers = impatient.ledgers();
    let creating = ledgers.create(ledger(LedgerId::new(1), Epoch::new(1), LedgerClass::Bulk));
    tokio::pin!(creating);
    let waited = world.clock.timeout(Duration::from_millis(50), &mut creating).await;
    assert!(waited.is_err(), "it is still open: {waited:?}");
    world.tasks.stop();
    assert_eq!(creating.await, Err(UpdateError::Unresolved));
}

/// C42, C64: the state ledger rolls: `next` is named with its record, becomes current by one swap, and the one before is kept
/// until it is dropped together with its record.
#[tokio::test]
async fn a_state_ledger_rolls_and_the_one_before_is_kept_until_it_is_dropped() {
    let world = world();
    let (name, topic) = world.topic("t").await;
    let a = world.broker("a").await;
    let partition = PartitionId { topic: topic.value.id, index: index(0) };
    let (pointers, ledgers) = (world.metadata.state_pointers(), world.metadata.ledgers());
    let owner = world.claim((&name, &topic), None, &a).await.unwrap();
    let by = Authority { partition, owner: &owner, decider: &a.decider };
    let state = |id: u64| ledger(LedgerId::new(id), owner.value.epoch, LedgerClass::Essential);
    let (set, first) = pointers.set_next(by, None, state(1)).await.unwrap();
    assert!(matches!(pointers.set_next(by, Some(&set), state(2)).await, Err(UpdateError::Illegal { .. })));
    let current = pointers.swap_next(by, &set, None).await.unwrap();
    assert_eq!(current.value, StatePointer { current: Some(LedgerId::new(1)), next: None, retired: vec![] });
    assert!(matches!(pointers.swap_next(by, &current, None).await, Err(UpdateError::Illegal { .. })), "nothing to swap");
    // A roll whose answers get lost on the way is one roll.
    world.lossy.next([Answer::AppliedUnknown, Answer::Answered]);
    let (set, _) = pointers.set_next(by, Some(&current), state(2)).await.unwrap();
    world.lossy.next([Answer::DelayedUnknown]);
    let rolled = pointers.swap_next(by, &set, None).await.unwrap();
    let retired = vec![LedgerId::new(1)];
    assert_eq!(rolled.value, StatePointer { current: Some(LedgerId::new(2)), next: None, retired });
    assert!(matches!(pointers.drop_retired(by, &rolled, &first).await, Err(UpdateError::Illegal { .. })), "not closed");
    let closed = world.close(&first, None).await;
    let dropped = pointers.drop_retired(by, &rolled, &closed).await.unwrap();
    assert_eq!(dropped.value.retired, []);
    assert!(matches!(ledgers.fate(LedgerId::new(1)).await.unwrap(), Fate::Deleted(_)));
    // After a takeover the one before is closed: it goes with the swap, whose answers get lost on the way, or nothing is changed.
    let second = ledgers.get(LedgerId::new(2)).await.unwrap().unwrap();
    let (set, third) = pointers.set_next(by, Some(&dropped), state(3)).await.unwrap();
    assert!(matches!(pointers.swap_next(by, &set, Some(&second)).await, Err(UpdateError::Illegal { .. })), "not closed");
    assert!(matches!(pointers.swap_next(by, &set, Some(&third)).await, Err(UpdateError::Illegal { .. })), "not the one before");
    let closed = world.close(&second, None).await;
    let stale = Versioned { mod_revision: second.mod_revision, ..closed.clone() };
    assert!(matches!(pointers.swap_next(by, &set, Some(&stale)).await, Err(UpdateError::Conflict { .. })), "changed since");
    world.lossy.next([Answer::AppliedUnknown, Answer::Answered]);
    let dropped = pointers.swap_next(by, &set, Some(&closed)).await.unwrap();
    assert_eq!(dropped.value, StatePointer { current: Some(LedgerId::new(3)), next: None, retired: vec![] });
    assert!(matches!(ledgers.fate(LedgerId::new(2)).await.unwrap(), Fate::Deleted(_)));
    // A takeover gives up on a `next` that never became current.
    let (set, _) = pointers.set_next(by, Some(&dropped), state(4)).await.unwrap();
    let given_up = pointers.retire_next(by, &set).await.unwrap();
    assert_eq!((given_up.value.current, given_up.value.retired), (Some(LedgerId::new(3)), vec![LedgerId::new(4)]));
    // Only state ledgers of this claim, of the class that a full disk still takes (C61).
    let bulk = ledger(LedgerId::new(5), owner.value.epoch, LedgerClass::Bulk);
    assert!(matches!(pointers.set_next(by, Some(&dropped), bulk).await, Err(UpdateError::Illegal { .. })));
}

#[tokio::test]
async fn a_deleted_topic_is_cleaned_up_under_a_claim_and_then_forgotten() {
    let world = world();
    let (name, topic) = world.topic("t").await;
    let a = world.broker("a").await;
    let topics = world.metadata.topics();
    let partition = PartitionId { topic: topic.value.id, index: index(0) };
    let owner = world.claim((&name, &topic), None, &a).await.unwrap();
    let by = Authority { partition, owner: &owner, decider: &a.decider };
    let bulk = ledger(LedgerId::new(1), owner.value.epoch, LedgerClass::Bulk);
    let (segment, open) = world.metadata.segments().append(by, SegmentNumber::FIRST, Some(Offset::ZERO), bulk).await.unwrap();
    let subscription = SubscriptionName::parse("s").unwrap();
    let subscriptions = world.metadata.subscriptions();
    subscriptions.create((&name, &topic), &subscription, SubscriptionKind::Shared, vec![Offset::new(3)]).await.unwrap();
    topics.delete(&name, &topic).await.unwrap();
    // The name is free for another topic; what knew the old one gets nowhere.
    let (_, other) = world.topic("t").await;
    assert_ne!(other.value.id, topic.value.id);
    let stale = world.claim((&name, &topic), Some(&owner), &a).await;
    assert_eq!(stale, Err(UpdateError::NotFound { what: "the topic" }));
    let stale = subscriptions.create((&name, &topic), &subscription, SubscriptionKind::Shared, vec![]).await;
    assert!(stale.is_err());
    let deleted = topics.list_deleted(None, 10).await.unwrap().records;
    let [(id, tombstone)] = deleted.as_slice() else { panic!("{deleted:?}") };
    assert_eq!((*id, &tombstone.value.name), (topic.value.id, &name));
    assert!(matches!(topics.forget(*id, tombstone).await, Err(UpdateError::NotEmpty { .. })));
    let right = Right::Deleted(*id, tombstone);
    let purging = world.metadata.ownership().claim(index(0), right, Some(&owner), &a.decider, "here").await.unwrap();
    let by = Authority { owner: &purging, ..by };
    world.close(&open, None).await;
    world.metadata.segments().trim(by, &[segment]).await.unwrap();
    topics.forget(*id, tombstone).await.unwrap();
    assert_eq!(topics.deleted(*id).await.unwrap(), None);
    assert_eq!(topics.name_of(*id).await.unwrap(), None);
    assert_eq!(world.metadata.ownership().get(partition).await.unwrap(), None);
    assert_eq!(subscriptions.list(*id, None, 10).await.unwrap().records, []);
    assert_eq!(topics.get(&name).await.unwrap(), Some(other));
}

#[tokio::test]
async fn a_subscription_is_there_for_all_partitions_at_once() {
    let world = world();
    let (name, topic) = world.topic("t").await;
    let subscriptions = world.metadata.subscriptions();
    let of = |name: &str| SubscriptionName::parse(name).unwrap();
    let starts = vec![Offset::new(3), Offset::ZERO, Offset::new(9), Offset::ZERO];
    let made = subscriptions.create((&name, &topic), &of("s"), SubscriptionKind::Exclusive, starts.clone()).await.unwrap();
    assert_eq!((made.value.start_of(index(2)), made.value.start_of(index(77))), (Offset::new(9), Offset::ZERO));
    let twice = subscriptions.create((&name, &topic), &of("s"), SubscriptionKind::Shared, starts).await;
    assert_eq!(twice, Err(UpdateError::Exists { what: "the subscription" }));
    assert_eq!(subscriptions.get(topic.value.id, &of("s")).await.unwrap(), Some(made.clone()));
    subscriptions.delete(topic.value.id, &of("s"), &made).await.unwrap();
    assert_eq!(subscriptions.get(topic.value.id, &of("s")).await.unwrap(), None);
}
