//! The partitions that a broker has, is opening, or is letting go.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use alluvium_metadata::PartitionId;
use alluvium_metadata::brokers::Decider;
use alluvium_metadata::ownership::{OwnerHolder, Right};
use alluvium_metadata::policies::Policies;
use alluvium_metadata::topics::Topic;
use alluvium_metadata::{ReadError, Versioned};
use alluvium_runtime::tasks::OnFailure;
use alluvium_types::fault::{Fault, FaultKind};
use alluvium_types::ids::{PartitionIndex, TopicId};
use alluvium_types::names::{PartitionName, TopicName};
use alluvium_types::replication::Replication;
use futures::future::{join, try_join};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::TopicInfo;
use super::context::{Context, Session};
use crate::error::{OpenError, chain};
use crate::mutation::Mutation;
use crate::ownership::Claim;
use crate::topic::handle::{is_moved, moved};
use crate::topic::lease::DispatchLease;
use crate::topic::owner::PartitionPolicy;
use crate::topic::takeover::take_over;
use crate::topic::task::{OpenRequest, PartitionTask};
use crate::topic::{PartitionHandle, SubscriptionSpec};

/// How long a caller waits for a partition to be opened, or let go.
const OPEN_PATIENCE: Duration = Duration::from_secs(20);
/// How many subscriptions are read at a time.
const SPECS_PAGE: usize = 64;
/// After how long it is said that a former owner's session is waited for.
const FORMER_IS_LONG: Duration = Duration::from_secs(30);
/// How often a former owner's session is looked for.
const FORMER_INTERVAL: Duration = Duration::from_millis(500);

/// How long an owner that lives may take to accept a connection before its silence counts as no refusal.
const PROBE: Duration = Duration::from_millis(500);

type Opening = watch::Receiver<Option<Result<PartitionHandle, Fault>>>;

/// A partition of this broker.
#[derive(Clone)]
enum Place {
    Opening(Opening),
    Open(PartitionHandle),
}

/// All partitions of this broker.
#[derive(Default)]
pub(super) struct Partitions {
    places: Mutex<BTreeMap<PartitionId, Place>>,
    /// How often something changed that may concern partitions. One that is opened meanwhile looks again.
    changes: AtomicU64,
}

impl Partitions {
    /// The handles of the partitions that are open; those that are being opened are waited for.
    pub(super) async fn of_topic(&self, topic: Option<TopicId>) -> Vec<PartitionHandle> {
        let places: Vec<Place> = {
            let places = self.places.lock();
            places.iter().filter(|(id, _)| topic.is_none_or(|topic| id.topic == topic)).map(|(_, place)| place.clone()).collect()
        };
        let mut handles = Vec::with_capacity(places.len());
        for place in places {
            match place {
                Place::Open(handle) => handles.push(handle),
                Place::Opening(mut opening) => {
                    if let Ok(opened) = opening.wait_for(Option::is_some).await
                        && let Some(Ok(handle)) = &*opened
                    {
                        handles.push(handle.clone());
                    }
                }
            }
        }
        handles.retain(|handle| !handle.is_over());
        handles
    }

    /// All partitions that are open.
    pub(super) fn open(&self) -> Vec<(PartitionId, PartitionHandle)> {
        let places = self.places.lock();
        let open = places.iter().filter_map(|(id, place)| match place {
            Place::Open(handle) if !handle.is_over() && !handle.is_closing() => Some((*id, handle.clone())),
            Place::Open(_) | Place::Opening(_) => None,
        });
        open.collect()
    }

    /// Something changed. The partitions that are open and concerned are to be told; those that are being opened find out.
    pub(super) fn changed(&self, concerns: impl Fn(&PartitionHandle) -> bool) -> Vec<PartitionHandle> {
        self.changes.fetch_add(1, Ordering::AcqRel);
        let places = self.places.lock();
        let open = places.values().filter_map(|place| match place {
            Place::Open(handle) if !handle.is_over() && concerns(handle) => Some(handle.clone()),
            Place::Open(_) | Place::Opening(_) => None,
        });
        open.collect()
    }

    /// The handle of a partition that is open.
    pub(super) fn loaded(&self, id: PartitionId) -> Option<PartitionHandle> {
        match self.places.lock().get(&id) {
            Some(Place::Open(handle)) if !handle.is_over() => Some(handle.clone()),
            _ => None,
        }
    }

    /// Whether the partition is open and stays so, or is being opened.
    pub(super) fn serves(&self, id: PartitionId) -> bool {
        match self.places.lock().get(&id) {
            Some(Place::Open(handle)) => !handle.is_over() && !handle.is_closing(),
            Some(Place::Opening(_)) => true,
            None => false,
        }
    }

    /// Whether the partition is open or being opened.
    pub(super) fn has(&self, id: PartitionId) -> bool {
        match self.places.lock().get(&id) {
            Some(Place::Open(handle)) => !handle.is_over(),
            Some(Place::Opening(_)) => true,
            None => false,
        }
    }
}

/// Opens partitions for whoever asks, once for all who ask at the same time.
#[derive(Clone)]
pub(super) struct Opener {
    pub(super) context: Arc<Context>,
    pub(super) partitions: Arc<Partitions>,
    pub(super) session: watch::Receiver<Session>,
}

impl Opener {
    /// The handle of a partition, opened if it isn't. Cancel safe: the opening goes on.
    pub(super) async fn get(&self, topic: &TopicInfo, index: PartitionIndex) -> Result<PartitionHandle, Fault> {
        let id = PartitionId { topic: topic.id, index };
        let name = PartitionName { topic: topic.name.clone(), index };
        if index.get() >= topic.partitions {
            let text = format!("topic {} has {} partitions, and no partition {index}", topic.name, topic.partitions);
            return Err(Fault::invalid("partition", "PARTITION_NOT_FOUND", text));
        }
        let wait = async {
            let mut may_be_stale = true;
            loop {
                let (place, has_begun) = self.place(id, topic, &name);
                match place {
                    Place::Open(handle) if handle.is_closing() => handle.over().await,
                    Place::Open(handle) => return Ok(handle),
                    Place::Opening(mut opening) => match opening.wait_for(Option::is_some).await.as_deref() {
                        // It may rest on what was so before this was asked: an owner that has let go since. Looked at once more.
                        Ok(Some(Err(fault))) if !has_begun && may_be_stale && is_moved(fault.reason) => may_be_stale = false,
                        Ok(Some(opened)) => return opened.clone(),
                        Ok(None) | Err(_) => return Err(moved(&name)),
                    },
                }
            }
        };
        match self.context.clock.timeout(OPEN_PATIENCE, wait).await {
            Ok(opened) => opened,
            Err(_) => Err(Fault::new(
                FaultKind::Unavailable,
                "PARTITION_UNAVAILABLE",
                format!("partition {name} is still being opened; try again"),
            )),
        }
    }

    /// What there is of the partition; begins to open it if there is nothing, and says whether it did.
    fn place(&self, id: PartitionId, topic: &TopicInfo, name: &PartitionName) -> (Place, bool) {
        let mut places = self.partitions.places.lock();
        match places.get(&id) {
            Some(Place::Open(handle)) if handle.is_over() => {}
            Some(place) => return (place.clone(), false),
            None => {}
        }
        let (done, opening) = watch::channel(None);
        let place = Place::Opening(opening);
        places.insert(id, place.clone());
        let (opener, topic, name) = (self.clone(), topic.clone(), name.clone());
        let seat = self.context.lanes.seat();
        let lane = seat.runtime();
        let _lane = lane.enter();
        self.context.partition_tasks.spawn(format!("partition-{name}"), OnFailure::Log, async move {
            let task = opener.open(id, &topic, &name, done).await;
            if let Some(task) = task {
                opener.context.metrics.partitions.inc();
                task.run().await;
                opener.context.metrics.partitions.dec();
            }
            opener.forget(id);
            drop(seat);
            Ok::<(), std::convert::Infallible>(())
        });
        (place, true)
    }

    /// Takes a partition that is over out of the map.
    fn forget(&self, id: PartitionId) {
        let mut places = self.partitions.places.lock();
        match places.get(&id) {
            Some(Place::Open(handle)) if !handle.is_over() => {}
            Some(Place::Opening(opening)) if opening.borrow().is_none() && opening.has_changed().is_ok() => {}
            _ => {
                places.remove(&id);
            }
        }
    }

    async fn open(
        &self,
        id: PartitionId,
        topic: &TopicInfo,
        name: &PartitionName,
        done: watch::Sender<Option<Result<PartitionHandle, Fault>>>,
    ) -> Option<PartitionTask> {
        let changes = self.partitions.changes.load(Ordering::Acquire);
        match self.try_open(id, topic, name).await {
            Ok((handle, mut task)) => {
                self.context.metrics.takeovers.inc();
                self.partitions.places.lock().insert(id, Place::Open(handle.clone()));
                // Who changed something before it was there to be told has counted before.
                if self.partitions.changes.load(Ordering::Acquire) != changes {
                    task.changed_meanwhile(policy_of(&self.context, &topic.name, topic.id).await).await;
                }
                done.send_replace(Some(Ok(handle)));
                Some(task)
            }
            Err(error) => {
                match error {
                    // It was asked for where it is not, as happens while it moves.
                    OpenError::Owned(_) | OpenError::Stopping => {
                        tracing::debug!(partition = %name, error = chain(&error), "a partition is not taken over");
                    }
                    _ => {
                        self.context.metrics.failed_takeovers.inc();
                        tracing::warn!(partition = %name, error = chain(&error), "a partition could not be taken over");
                    }
                }
                self.partitions.places.lock().remove(&id);
                done.send_replace(Some(Err(error.to_fault(name))));
                None
            }
        }
    }

    async fn try_open(
        &self,
        id: PartitionId,
        topic: &TopicInfo,
        name: &PartitionName,
    ) -> Result<(PartitionHandle, PartitionTask), OpenError> {
        let context = &self.context;
        if context.is_leaving() || context.session_tasks.is_stopping() {
            return Err(OpenError::Stopping);
        }
        let session = self.session.borrow().clone();
        let current = context.metadata.ownership().get(id).await?;
        if let Some(holder) = current.as_ref().and_then(|current| current.value.holder.as_ref()) {
            self.leave_to(holder, session.decider()).await?;
        }
        let right = Right::Topic(&topic.name, &topic.record);
        let claim = Claim::make(&context.metadata, right, id, current, session.decider(), &context.internal_address).await?;
        if !claim.former().is_empty() {
            context.metrics.failovers.inc();
        }
        // The takeover goes on to its end, so that no decision is left open because a read failed.
        let in_force = policy_of(context, &topic.name, topic.id);
        let taking_over = Box::pin(take_over(context, &claim, context.clock.mono()));
        let (found, in_force) = join(taking_over, in_force).await;
        let (found, in_force) = (found?, in_force?);
        let (policy, replication) = in_force.ok_or(OpenError::NoTopic)?;
        let lease = self.lease(name, &claim, &session);
        let request = OpenRequest { name: name.clone(), topic_id: id.topic, claim, session, found, policy, replication, lease };
        PartitionTask::open(Arc::clone(context), request)
    }

    /// A partition is left to an owner that lives, unless its host refuses connections: then it has ended, and if not, the fence
    /// makes a takeover safe (C62). One that is silent is waited for until its session is gone.
    async fn leave_to(&self, holder: &OwnerHolder, decider: &Decider) -> Result<(), OpenError> {
        let is_live = holder.session != decider.session && self.context.metadata.ownership().is_live(holder).await?;
        if is_live && !self.context.reach.is_refused(&holder.address, PROBE).await {
            return Err(OpenError::Owned(holder.broker.clone()));
        }
        Ok(())
    }

    /// Dispatching waits until the sessions of all former owners are gone for certain (M4).
    fn lease(&self, name: &PartitionName, claim: &Claim, session: &Session) -> DispatchLease {
        let (context, partition) = (Arc::clone(&self.context), name.clone());
        let mut former = claim.former().to_vec();
        if former.is_empty() || context.mutations.has(Mutation::OrderedDispatchBeforeFormerIsGone) {
            return session.lease().clone();
        }
        let lease = session.lease().after_former();
        let waiting = lease.clone();
        let _background = self.context.background.enter();
        self.context.partition_tasks.spawn("former-owners", OnFailure::Log, async move {
            let (begun, mut said) = (context.clock.mono(), false);
            while let Some(holder) = former.last() {
                waiting.waits_for(&holder.broker);
                if !said && context.clock.mono().since(begun) >= FORMER_IS_LONG {
                    said = true;
                    tracing::warn!(
                        %partition,
                        former = %holder.broker,
                        address = holder.address,
                        "ordered subscriptions wait for the session of a former owner that refuses connections and yet lives"
                    );
                }
                if let Ok(false) = context.metadata.ownership().is_live(holder).await {
                    former.pop();
                    continue;
                }
                tokio::select! {
                    biased;
                    () = context.partition_tasks.stopping() => return Ok::<(), std::convert::Infallible>(()),
                    () = context.clock.sleep(FORMER_INTERVAL) => {}
                }
            }
            waiting.former_is_gone();
            Ok(())
        });
        lease
    }
}

/// What is in force for a topic, from itself up to the cluster's default; `None` when it is gone, also if another has its name.
/// A policy that can't be read is an error, never a default.
pub(super) async fn policy_of(
    context: &Context,
    name: &TopicName,
    id: TopicId,
) -> Result<Option<(PartitionPolicy, Replication)>, ReadError> {
    match context.metadata.topics().get(name).await? {
        Some(topic) if topic.value.id == id => effective(context, name, &topic).await.map(Some),
        _ => Ok(None),
    }
}

async fn effective(
    context: &Context,
    name: &TopicName,
    topic: &Versioned<Topic>,
) -> Result<(PartitionPolicy, Replication), ReadError> {
    let metadata = &context.metadata;
    let (namespaces, tenants) = (metadata.namespaces(), metadata.tenants());
    let (namespace, tenant) = try_join(namespaces.get(name.namespace()), tenants.get(name.namespace().tenant())).await?;
    let of = |holder: Option<Versioned<alluvium_metadata::tenants::Holder>>| {
        holder.map_or_else(Policies::default, |holder| holder.value.policies)
    };
    let policies = topic.value.policies.or(of(namespace)).or(of(tenant)).or(context.default_policies);
    let policy =
        PartitionPolicy { retention: policies.retention.unwrap_or_default(), rollover: policies.rollover.unwrap_or_default() };
    Ok((policy, policies.replication.unwrap_or(Replication::DEFAULT)))
}

/// The subscriptions of a partition's topic, as metadata knows them (M6).
pub(crate) async fn specs_of(context: &Context, partition: PartitionId) -> Result<Vec<SubscriptionSpec>, ReadError> {
    let mut specs = Vec::new();
    let mut after = None;
    loop {
        let page = context.metadata.subscriptions().list(partition.topic, after.as_ref(), SPECS_PAGE).await?;
        specs.extend(page.records.into_iter().map(|(name, found)| SubscriptionSpec {
            name,
            id: found.create_revision,
            kind: found.value.kind,
            start: found.value.start_of(partition.index),
        }));
        after = page.next;
        if after.is_none() {
            return Ok(specs);
        }
    }
}
