//! Deleted topics: everything of theirs becomes tombstones.

use std::sync::Arc;

use alluvium_metadata::ownership::Right;
use alluvium_metadata::topics::DeletedTopic;
use alluvium_metadata::{PartitionId, UpdateError, Versioned};
use alluvium_runtime::tasks::OnFailure;
use alluvium_types::ids::{PartitionIndex, TopicId};
use alluvium_types::ledger::LedgerState;

use super::PAGE;
use crate::broker::{Broker, Context, Session};
use crate::error::{OpenError, chain};
use crate::ownership::Claim;
use crate::topic::drop_ledgers;

impl Broker {
    pub(super) async fn audit_deleted(&self) -> Result<(), OpenError> {
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
    pub(in crate::broker) fn clean_up_soon(&self, topic: TopicId) {
        let broker = self.clone();
        let _background = self.context().background.enter();
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
        // Whoever owns it: what is deleted is nobody's any more.
        let current = context.metadata.ownership().get(partition).await?;
        let address = &context.internal_address;
        let claim = Claim::make(&context.metadata, right, partition, current, session.decider(), address).await?;
        // The claim comes first, the list is read after it (M1).
        let segments = context.metadata.segments().all(partition).await?;
        for segment in &segments {
            let ledger = segment.value.ledger;
            context.ledgers.recover(ledger).await.map_err(|error| OpenError::Recover(ledger, error))?;
        }
        let mut rest = &segments[..];
        while !rest.is_empty() {
            let (gone, left) = rest.split_at(context.metadata.segments().trim(claim.authority(), rest).await?);
            drop_ledgers(context, gone.iter().map(|segment| segment.value.ledger).collect()).await;
            rest = left;
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
        drop_ledgers(context, vec![ledger]).await;
    }
    Ok(())
}
