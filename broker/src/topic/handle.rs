//! What the rest of the broker has of a partition that this broker owns.

use std::collections::HashMap;
use std::sync::Arc;

use alluvium_types::fault::{Fault, FaultKind};
use alluvium_types::ids::{Epoch, Offset, Revision, TopicId};
use alluvium_types::names::{BrokerName, PartitionName, SubscriptionName};
use tokio::sync::{mpsc, oneshot, watch};

use super::bounds::{Bounds, OpenSegment};
use super::command::{Command, PublishCommand};
use super::hosted::SubscriptionKind;
use super::lease::DispatchLease;
use super::reader::PartitionReader;
use crate::broker::StartAt;
use crate::subscription::{CursorStats, Input};

/// The subscriptions that a partition's machine knows, with the revision that created each.
pub(crate) type KnownSubscriptions = HashMap<SubscriptionName, Revision>;

/// A cheap handle to a partition's owner task. It outlives the ownership: calls then answer a retryable fault, and the caller
/// asks [`crate::broker::Broker::partition`] anew.
#[derive(Clone, Debug)]
pub struct PartitionHandle(Arc<Parts>);

#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) name: PartitionName,
    pub(crate) topic_id: TopicId,
    pub(crate) epoch: Epoch,
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) publishes: mpsc::Sender<PublishCommand>,
    pub(crate) bounds: watch::Receiver<Bounds>,
    pub(crate) closing: watch::Receiver<bool>,
    pub(crate) known: watch::Receiver<KnownSubscriptions>,
    pub(crate) reader: PartitionReader,
    pub(crate) lease: DispatchLease,
}

/// The reason of the faults of a partition that somebody else owns, or will own.
const MOVED: &str = "PARTITION_MOVED";
/// The reason when it may have taken effect.
pub(crate) const OWNERSHIP_LOST: &str = "OWNERSHIP_LOST";

/// The fault of a partition that this broker no longer owns. Nothing of the call took effect.
pub(crate) fn moved(name: &PartitionName) -> Fault {
    Fault::new(FaultKind::Unavailable, MOVED, format!("partition {name} is changing its owner; try again"))
}

/// The fault of a partition that another broker owns. Nothing of the call took effect.
pub(crate) fn owned(name: &PartitionName, owner: &BrokerName) -> Fault {
    Fault::new(FaultKind::Unavailable, MOVED, format!("partition {name} is owned by {owner}; try again"))
}

/// Whether a fault says that the partition's owner is another one, or will be: whoever looks for it again finds it.
pub(crate) fn is_moved(reason: &str) -> bool {
    reason == MOVED || reason == OWNERSHIP_LOST
}

impl PartitionHandle {
    pub(crate) fn new(parts: Parts) -> Self {
        Self(Arc::new(parts))
    }

    /// Which partition.
    pub fn name(&self) -> &PartitionName {
        &self.0.name
    }

    /// The topic's identity.
    pub fn topic_id(&self) -> TopicId {
        self.0.topic_id
    }

    /// The number of this broker's claim. Streams resume by (epoch, offset).
    pub fn epoch(&self) -> Epoch {
        self.0.epoch
    }

    /// What can be read now.
    pub fn bounds(&self) -> Bounds {
        *self.0.bounds.borrow()
    }

    /// What is known of the segment that is written, if there is one. Asks the owner task; nobody has used the partition by it.
    pub async fn open_segment(&self) -> Option<OpenSegment> {
        let (reply, answer) = oneshot::channel();
        self.0.commands.send(Command::OpenSegment(reply)).await.ok()?;
        answer.await.ok().flatten()
    }

    /// Follows what can be read. The channel closes when ownership ends.
    pub fn watch(&self) -> watch::Receiver<Bounds> {
        self.0.bounds.clone()
    }

    /// Reads entries; shared, bounded, independent of the owner task.
    pub fn reader(&self) -> &PartitionReader {
        &self.0.reader
    }

    /// The offset that a position means here and now.
    pub async fn resolve(&self, at: StartAt) -> Result<Offset, Fault> {
        let bounds = self.bounds();
        Ok(match at {
            StartAt::Earliest => bounds.first,
            StartAt::Latest => bounds.end,
            StartAt::Offset(offset) => bounds.clamp(offset),
            StartAt::Time(time) => self.0.reader.offset_at(time).await.map_err(|fault| fault.to_fault(&self.0.name))?,
        })
    }

    /// Where a subscription stands.
    pub(crate) async fn stats(&self, subscription: &SubscriptionName) -> Result<CursorStats, Fault> {
        let (reply, answer) = oneshot::channel();
        self.subscriptions(Input::Stats { subscription: subscription.clone(), reply }).await?;
        answer.await.map_err(|_| moved(&self.0.name))?
    }

    /// Moves a subscription's cursor; answers where it stands, durably.
    pub(crate) async fn seek(&self, subscription: &SubscriptionName, at: StartAt) -> Result<Offset, Fault> {
        let to = self.resolve(at).await?;
        let (reply, answer) = oneshot::channel();
        self.subscriptions(Input::Seek { subscription: subscription.clone(), to, reply }).await?;
        answer.await.map_err(|_| moved(&self.0.name))?
    }

    /// Whether messages may be handed to subscriptions of this kind now (M4): asked before every delivery, by whoever sends it.
    pub fn may_dispatch(&self, kind: SubscriptionKind) -> bool {
        self.0.lease.may_dispatch(kind)
    }

    /// Why a subscription of this kind is given nothing now; `None` if nothing stands in the way.
    pub(crate) fn why_paused(&self, kind: SubscriptionKind) -> Option<String> {
        self.0.lease.why_paused(kind)
    }

    /// Whether the owner task has ended.
    pub fn is_over(&self) -> bool {
        self.0.commands.is_closed()
    }

    /// Resolves once the owner task has ended. Cancel safe.
    pub async fn over(&self) {
        self.0.commands.closed().await;
    }

    /// Hands an input to the partition's subscriptions; waits for room in the queue. Inputs of one caller arrive in order.
    pub async fn subscriptions(&self, input: Input) -> Result<(), Fault> {
        self.0.commands.send(Command::Subscriptions(input)).await.map_err(|_| moved(&self.0.name))
    }

    /// Hands an input over without waiting: for `Drop` of a session. Gives it back when the queue is full, and drops it
    /// when ownership is over.
    pub fn try_subscriptions(&self, input: Input) -> Result<(), Input> {
        match self.0.commands.try_reserve() {
            Ok(permit) => {
                permit.send(Command::Subscriptions(input));
                Ok(())
            }
            Err(mpsc::error::TrySendError::Closed(())) => Ok(()),
            Err(mpsc::error::TrySendError::Full(())) => Err(input),
        }
    }

    /// Whether an input that names this subscription is understood.
    pub(crate) fn knows(&self, name: &SubscriptionName, id: Revision) -> bool {
        self.0.known.borrow().get(name) == Some(&id)
    }

    /// Whether it is being let go: it takes nothing new, and whoever wants it waits until it is over.
    pub(crate) fn is_closing(&self) -> bool {
        *self.0.closing.borrow()
    }

    pub(crate) fn commands(&self) -> &mpsc::Sender<Command> {
        &self.0.commands
    }

    pub(crate) fn publishes(&self) -> &mpsc::Sender<PublishCommand> {
        &self.0.publishes
    }
}
