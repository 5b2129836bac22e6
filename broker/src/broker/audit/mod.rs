//! The auditor: retention also reaches partitions that nobody has loaded, deleted topics are cleaned up, and metadata's history is
//! let go. One broker at a time holds the office; nothing rests on that.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use alluvium_metadata::ownership::Right;
use alluvium_metadata::segments::Segment;
use alluvium_metadata::topics::DeletedTopic;
use alluvium_metadata::{PartitionId, UpdateError, Versioned};
use alluvium_runtime::tasks::OnFailure;
use alluvium_types::ids::{PartitionIndex, TopicId};
use alluvium_types::ledger::LedgerState;
use alluvium_types::time::Timestamp;

use super::partitions::policy_of;
use super::{Broker, Context, Session};
use crate::error::{OpenError, chain};
use crate::ownership::Claim;
use crate::topic::drop_ledger;
use crate::topic::owner::PartitionPolicy;
use crate::topic::retention::{self, Candidate, ClockGuard};

/// How many records are read at a time.
const PAGE: usize = 500;
/// How many revisions of metadata's history are kept for watches that were interrupted.
const REVISIONS_KEPT: u64 = 10_000;
/// How many partitions are claimed for retention in one round; the others have their turn in the next.
const CLAIMED_PER_ROUND: usize = 64;

impl Broker {
    /// Looks after what nobody owns, until the broker stops.
    pub(super) async fn audit(&self) {
        let context = self.context();
        let interval = Duration::from_millis(context.config.audit_interval_ms);
        let mut guard = ClockGuard::default();
        loop {
            tokio::select! {
                () = context.own_tasks.stopping() => return,
                () = context.clock.sleep(interval) => {}
            }
            let session = self.0.opener.session.borrow().clone();
            match context.metadata.auditors().run_for(session.decider()).await {
                Ok(true) => {}
                Ok(false) => continue,
                Err(error) => {
                    tracing::debug!(%error, "the auditor's office could not be run for");
                    continue;
                }
            }
            let wall = guard.trusted(context.clock.mono(), context.clock.wall());
            let round = async {
                if let Err(error) = self.audit_retention(wall).await {
                    tracing::warn!(error = chain(&error), "retention of unloaded partitions is put off");
                }
                if let Err(error) = self.audit_deleted().await {
                    tracing::warn!(error = chain(&error), "deleted topics are cleaned up later");
                }
                if let Err(error) = context.metadata.auditors().compact(REVISIONS_KEPT).await {
                    tracing::debug!(%error, "history is kept a while longer");
                }
            };
            tokio::select! {
                () = context.own_tasks.stopping() => return,
                () = round => {}
            }
        }
    }

    /// Pages through all segments; partitions that are not loaded and may have something due are opened, and trim themselves.
    async fn audit_retention(&self, wall: Option<Timestamp>) -> Result<(), alluvium_metadata::ReadError> {
        let context = self.context();
        let mut after = None;
        let mut claimed = 0;
        let mut unloaded: BTreeMap<PartitionId, Vec<Versioned<Segment>>> = BTreeMap::new();
        loop {
            let page = context.metadata.segments().page(after, PAGE).await?;
            for (partition, segment) in page.records {
                unloaded.entry(partition).or_default().push(segment);
            }
            after = page.next;
            // All but the last partition of a page are complete.
            while unloaded.len() > 1 || (after.is_none() && !unloaded.is_empty()) {
                let Some((partition, segments)) = unloaded.pop_first() else { break };
                if claimed < CLAIMED_PER_ROUND && self.audit_partition(partition, &segments, wall).await? {
                    claimed += 1;
                }
            }
            if after.is_none() {
                return Ok(());
            }
        }
    }

    async fn audit_partition(
        &self,
        partition: PartitionId,
        segments: &[Versioned<Segment>],
        wall: Option<Timestamp>,
    ) -> Result<bool, alluvium_metadata::ReadError> {
        let context = self.context();
        if self.0.opener.partitions.has(partition) {
            return Ok(false);
        }
        let Some(name) = context.metadata.topics().name_of(partition.topic).await? else { return Ok(false) };
        let Ok(topic) = self.topic_now(&name).await else { return Ok(false) };
        let Some((policy, _)) = policy_of(context, &name).await? else { return Ok(false) };
        if topic.id != partition.topic || !may_be_due(segments, policy, wall) {
            return Ok(false);
        }
        tracing::debug!(%partition, topic = %name, "retention is due in a partition that nobody has loaded");
        if let Err(fault) = self.partition(&topic, partition.index).await {
            tracing::warn!(%partition, %fault, "retention of a partition is put off");
        }
        Ok(true)
    }

    async fn audit_deleted(&self) -> Result<(), OpenError> {
        let mut after = None;
        loop {
            let page = self.metadata().topics().list_deleted(after, PAGE).await?;
            for (topic, deleted) in page.records {
                self.clean_up(topic, &deleted).await;
            }
            after = page.next;
            if after.is_none() {
                return Ok(());
            }
        }
    }

    /// Cleans a deleted topic up without waiting for the next round.
    pub(super) fn clean_up_soon(&self, topic: TopicId) {
        let broker = self.clone();
        let _home = self.context().home.enter();
        self.context().own_tasks.spawn("topic-clean-up", OnFailure::Log, async move {
            match broker.metadata().topics().deleted(topic).await {
                Ok(Some(deleted)) => broker.clean_up(topic, &deleted).await,
                Ok(None) => {}
                Err(error) => tracing::debug!(%topic, %error, "a deleted topic is cleaned up later"),
            }
            Ok::<(), std::convert::Infallible>(())
        });
    }

    async fn clean_up(&self, topic: TopicId, deleted: &Versioned<DeletedTopic>) {
        let session = self.0.opener.session.borrow().clone();
        match clean_up(self.context(), &session, topic, deleted).await {
            Ok(()) => tracing::info!(topic = %deleted.value.name, "a deleted topic is cleaned up"),
            Err(error) => {
                tracing::debug!(topic = %deleted.value.name, error = chain(&error), "a deleted topic is cleaned up later");
            }
        }
    }
}

/// Whether retention might let something go, if nobody needs it; by records alone. Unsealed ones count by their age: whoever opens
/// them finds out what they hold.
fn may_be_due(segments: &[Versioned<Segment>], policy: PartitionPolicy, wall: Option<Timestamp>) -> bool {
    let candidate = |segment: &Versioned<Segment>| {
        let value = &segment.value;
        Some(Candidate { number: value.number, first: value.first?, sealed: value.sealed? })
    };
    let mut sealed: Vec<Candidate> = segments.iter().filter_map(candidate).collect();
    // An empty last one stays: it says where the log ends (T1).
    if segments.last().is_some_and(|last| last.value.sealed.is_some_and(|sealed| sealed.messages == 0)) {
        sealed.pop();
    }
    let old_unsealed = segments.iter().any(|segment| {
        segment.value.sealed.is_none()
            && policy.retention.age.zip(wall).is_some_and(|(age, wall)| wall.since(segment.value.created) > age)
    });
    old_unsealed || !retention::due(&sealed, 0, policy.retention, wall, |_, _| false).is_empty()
}

/// Turns everything of a deleted topic into tombstones: each partition is claimed, its ledgers are closed and dropped (C27: fenced
/// before they are deleted), then its records go.
async fn clean_up(
    context: &Arc<Context>,
    session: &Session,
    topic: TopicId,
    deleted: &Versioned<DeletedTopic>,
) -> Result<(), OpenError> {
    for index in (0..deleted.value.partitions).map(PartitionIndex::new) {
        let partition = PartitionId { topic, index };
        let segments = context.metadata.segments().all(partition).await?;
        let pointer = context.metadata.state_pointers().get(partition).await?;
        if segments.is_empty() && pointer.as_ref().is_none_or(|pointer| pointer.value.is_empty()) {
            continue;
        }
        let right = Right::Deleted(topic, deleted);
        let claim = Claim::make(&context.metadata, right, partition, session.decider(), &context.internal_address).await?;
        // The claim comes first, the list is read after it (M1).
        let segments = context.metadata.segments().all(partition).await?;
        for segment in &segments {
            let ledger = segment.value.ledger;
            context.ledgers.recover(ledger).await.map_err(|error| OpenError::Recover(ledger, error))?;
        }
        context.metadata.segments().trim(claim.authority(), &segments).await?;
        for segment in &segments {
            drop_ledger(context, segment.value.ledger).await;
        }
        drop_state(context, &claim).await?;
    }
    match context.metadata.topics().forget(topic, deleted).await {
        Ok(()) | Err(UpdateError::NotFound { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

async fn drop_state(context: &Context, claim: &Claim) -> Result<(), OpenError> {
    let pointers = context.metadata.state_pointers();
    let Some(pointer) = pointers.get(claim.partition()).await? else { return Ok(()) };
    let mut pointer = pointers.retire_all(claim.authority(), &pointer).await?;
    for ledger in pointer.value.retired.clone() {
        let record = match context.metadata.ledgers().get(ledger).await? {
            Some(record) if matches!(record.value.state, LedgerState::Closed { .. }) => record,
            _ => context.ledgers.recover(ledger).await.map_err(|error| OpenError::Recover(ledger, error))?,
        };
        pointer = pointers.drop_retired(claim.authority(), &pointer, &record).await?;
        drop_ledger(context, ledger).await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use alluvium_metadata::segments::{Sealed, SegmentNumber};
    use alluvium_types::ids::{LedgerId, Offset, Revision};
    use alluvium_types::policy::{Retention, Rollover};

    use super::*;

    fn segment(number: u64, messages: Option<u64>) -> Versioned<Segment> {
        let time = Timestamp::from_millis(1000);
        let sealed = messages.map(|messages| Sealed {
            end: Offset::new(messages),
            messages,
            bytes: messages,
            times: (messages > 0).then_some((time, time)),
        });
        let value = Segment {
            number: SegmentNumber::new(number),
            ledger: LedgerId::new(number),
            created: time,
            first: Some(Offset::ZERO),
            sealed,
        };
        Versioned { value, mod_revision: Revision::ZERO, create_revision: Revision::ZERO }
    }

    #[test]
    fn a_partition_is_claimed_for_retention_only_while_something_may_go() {
        let retention = Retention { age: Some(Duration::from_secs(10)), bytes: None };
        let policy = PartitionPolicy { retention, rollover: Rollover::default() };
        let due = |segments: &[Versioned<Segment>], second: u64| {
            may_be_due(segments, policy, Some(Timestamp::from_millis(second * 1000)))
        };
        assert!(!due(&[segment(1, Some(5))], 5));
        assert!(due(&[segment(1, Some(5))], 50));
        assert!(due(&[segment(1, None)], 50), "nobody knows what it holds");
        assert!(due(&[segment(1, Some(5)), segment(2, Some(0))], 50));
        assert!(!due(&[segment(2, Some(0))], 50), "the empty one that is left stays for ever");
        assert!(!may_be_due(&[segment(1, Some(5))], policy, None), "a clock that is not trusted makes nothing due");
    }
}
