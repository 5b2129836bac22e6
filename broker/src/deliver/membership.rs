//! A consumer's place in the subscription of one or more partitions: taken in all of them or in none, and given up in any case.

use std::collections::BTreeMap;
use std::time::Duration;

use alluvium_runtime::tasks::{OnFailure, Tasks};
use alluvium_types::fault::{Fault, FaultKind};
use alluvium_types::ids::{Offset, PartitionIndex};
use alluvium_types::names::SubscriptionName;
use tokio::sync::oneshot;

use crate::subscription::{ConsumerId, Event, Input, JoinRequest, Mailbox, Span};
use crate::topic::{LoadedEntry, PartitionHandle, ReadFault, SubscriptionKind};

/// Partitions of a topic, opened.
pub(super) type Partitions = BTreeMap<PartitionIndex, PartitionHandle>;

/// What a consumer read for a machine.
pub(super) type ReadDone = (PartitionIndex, Offset, Result<Vec<LoadedEntry>, ReadFault>);

/// Messages of some partitions.
pub(super) type Spans = BTreeMap<PartitionIndex, Vec<Span>>;

/// Who joins, and how.
#[derive(Clone, Debug)]
pub(super) struct Joiner {
    pub(super) subscription: SubscriptionName,
    /// The subscription's type.
    pub(super) kind: SubscriptionKind,
    pub(super) consumer: ConsumerId,
    /// What people call it; may be empty.
    pub(super) name: String,
    pub(super) takeover: bool,
    pub(super) ack_deadline: Option<Duration>,
}

/// A consumer that has joined. Dropping it leaves as if nothing had been sent but what [`Membership::leave`] would say.
#[derive(Debug)]
pub(super) struct Membership {
    pub(super) joiner: Joiner,
    pub(super) partitions: Partitions,
    pub(super) mailbox: Mailbox,
    tasks: Tasks,
    left: bool,
}

impl Membership {
    /// Joins in all partitions. When one refuses, or the future is dropped, it has joined in none.
    /// What it `held` before of a partition stays with it.
    pub(super) async fn join(
        joiner: Joiner,
        partitions: Partitions,
        mut held: Spans,
        mailbox: Mailbox,
        tasks: Tasks,
    ) -> Result<Self, Fault> {
        let membership = Self { joiner, partitions, mailbox, tasks, left: false };
        for (index, handle) in &membership.partitions {
            membership.join_in(*index, handle, held.remove(index).unwrap_or_default()).await?;
        }
        Ok(membership)
    }

    async fn join_in(&self, index: PartitionIndex, handle: &PartitionHandle, held: Vec<Span>) -> Result<(), Fault> {
        let (reply, answer) = oneshot::channel();
        let request = JoinRequest {
            subscription: self.joiner.subscription.clone(),
            consumer: self.joiner.consumer,
            name: self.joiner.name.clone(),
            takeover: self.joiner.takeover,
            ack_deadline: self.joiner.ack_deadline,
            held,
            slot: self.mailbox.slot(index),
            reply,
        };
        handle.subscriptions(Input::Join(request)).await?;
        answered(answer, handle).await
    }

    /// One that has joined already.
    #[cfg(test)]
    pub(super) const fn joined(joiner: Joiner, partitions: Partitions, mailbox: Mailbox, tasks: Tasks) -> Self {
        Self { joiner, partitions, mailbox, tasks, left: true }
    }

    /// Whether messages of a partition may be handed to this consumer now (M4).
    pub(super) fn may_dispatch(&self, partition: PartitionIndex) -> bool {
        self.partitions[&partition].may_dispatch(self.joiner.kind)
    }

    /// Tells the machine of a partition something.
    pub(super) async fn tell(&self, partition: PartitionIndex, input: Input) -> Result<(), Fault> {
        self.partitions[&partition].subscriptions(input).await
    }

    /// That there is credit or room again.
    pub(super) fn refilled(&self) -> Input {
        Input::Refilled { subscription: self.joiner.subscription.clone(), consumer: self.joiner.consumer }
    }

    /// What was read.
    pub(super) fn entries(&self, from: Offset, result: Result<Vec<LoadedEntry>, ReadFault>) -> Input {
        let (subscription, consumer) = (self.joiner.subscription.clone(), self.joiner.consumer);
        Input::Entries { subscription, consumer, from, result }
    }

    /// That messages were not sent and are for others to take.
    pub(super) fn unsent(&self, spans: Vec<Span>) -> Input {
        Input::Unsent { subscription: self.joiner.subscription.clone(), consumer: self.joiner.consumer, spans }
    }

    /// That messages can't be decoded.
    pub(super) fn undeliverable(&self, span: Span) -> Input {
        let (subscription, consumer) = (self.joiner.subscription.clone(), self.joiner.consumer);
        Input::Undeliverable { subscription, consumer, span }
    }

    /// Goes. What it `kept` stays with it until its deadline; what was `unsent`, and what still waits in the mailbox, was no
    /// attempt; the rest is delivered again.
    pub(super) async fn leave(mut self, kept: Spans, unsent: Spans) -> Result<(), Fault> {
        self.left = true;
        let mut outcome = Ok(());
        for (partition, input) in self.leaving(kept, unsent) {
            // A partition that is no longer owned has nothing of this consumer.
            let told = self.tell(partition, input).await;
            outcome = outcome.and(told);
        }
        outcome
    }

    fn leaving(&self, mut kept: Spans, mut unsent: Spans) -> Vec<(PartitionIndex, Input)> {
        self.mailbox.close();
        while let Some((partition, event)) = self.mailbox.pop() {
            if let Event::Delivery(delivery) = event {
                unsent.entry(partition).or_default().push(delivery.span);
            }
        }
        let leave = |partition: &PartitionIndex| {
            let (subscription, consumer) = (self.joiner.subscription.clone(), self.joiner.consumer);
            let kept = kept.remove(partition).unwrap_or_default();
            let unsent = unsent.remove(partition).unwrap_or_default();
            (*partition, Input::Leave { subscription, consumer, kept, unsent })
        };
        self.partitions.keys().map(leave).collect()
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        if self.left {
            return;
        }
        // The call was dropped in the middle: a ghost must not hold the subscription.
        let leaving = self.leaving(Spans::new(), Spans::new());
        let partitions = std::mem::take(&mut self.partitions);
        self.tasks.spawn("leave", OnFailure::Log, async move {
            for (partition, input) in leaving {
                // A partition that is no longer owned has nothing of this consumer.
                let _ = partitions[&partition].subscriptions(input).await;
            }
            Ok::<(), Fault>(())
        });
    }
}

/// The answer of a partition's owner; when it ends without one, nobody knows whether it did what it was asked.
pub(super) async fn answered<T>(answer: oneshot::Receiver<Result<T, Fault>>, handle: &PartitionHandle) -> Result<T, Fault> {
    answer.await.unwrap_or_else(|_| {
        let text = format!("partition {} changed its owner before it answered", handle.name());
        Err(Fault::new(FaultKind::OutcomeUnknown, "PARTITION_MOVED", text))
    })
}
