//! What changed of topics and of what stands above and below them, whoever changed it: what the brokers that serve them must look
//! at again (M5).
//!
//! One watch of everything, as long as there are topics that matter or not: of a change only the kind and the name are looked at,
//! and topics that come into being, of which nobody can have loaded anything, not even that far.

use std::collections::BTreeSet;

use alluvium_types::ids::{Revision, TopicId};
use alluvium_types::names::{NamespaceName, TenantName, TopicName};
use bytes::Bytes;

use crate::client::Metadata;
use crate::error::{ReadError, StoreError};
use crate::keys::{Subject, subject};
use crate::store::{Event, Watch};

/// What may have changed. It says where to look, never what is there.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Affected {
    /// Anything: what happened meanwhile is not known any more.
    pub anything: bool,
    /// Tenants' policies.
    pub tenants: BTreeSet<TenantName>,
    /// Namespaces' policies.
    pub namespaces: BTreeSet<NamespaceName>,
    /// Topics' policies and numbers of partitions.
    pub topics: BTreeSet<TopicName>,
    /// Topics that were deleted.
    pub deleted: BTreeSet<TopicId>,
    /// Topics whose subscriptions came or went.
    pub subscribed: BTreeSet<TopicId>,
}

impl Affected {
    /// Whether nothing is.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether the policies in force for a topic, or its record, may have changed.
    pub fn governs(&self, topic: &TopicName) -> bool {
        self.anything
            || self.topics.contains(topic)
            || self.namespaces.contains(topic.namespace())
            || self.tenants.contains(topic.namespace().tenant())
    }

    /// Whether a topic's subscriptions may have changed.
    pub fn subscribes(&self, topic: TopicId) -> bool {
        self.anything || self.subscribed.contains(&topic)
    }

    /// Adds what else may have changed.
    pub fn add(&mut self, mut other: Self) {
        self.anything |= other.anything;
        self.tenants.append(&mut other.tenants);
        self.namespaces.append(&mut other.namespaces);
        self.topics.append(&mut other.topics);
        self.deleted.append(&mut other.deleted);
        self.subscribed.append(&mut other.subscribed);
    }

    fn note(&mut self, event: &Event) {
        let created = matches!(event, Event::Put(found) if found.version == 1);
        match subject(event.key()) {
            Some(Subject::Subscription(topic)) => self.subscribed.extend(topic.parse().map(TopicId::new)),
            Some(Subject::DeletedTopic(topic)) if created => self.deleted.extend(topic.parse().map(TopicId::new)),
            Some(Subject::Topic(name)) if !created => self.topics.extend(TopicName::parse(name)),
            Some(Subject::Namespace(name)) if !created => self.namespaces.extend(NamespaceName::parse(name)),
            Some(Subject::Tenant(name)) if !created => self.tenants.extend(TenantName::parse(name)),
            _ => {}
        }
    }
}

/// The changes, from when this was made.
#[derive(Debug)]
pub struct TopicChanges {
    metadata: Metadata,
    watch: Option<Watch>,
    /// Everything before it was seen.
    from: Revision,
}

impl Metadata {
    /// Follows what changes from now on: whatever is read after this call and changes later is told of.
    pub async fn topic_changes(&self) -> Result<TopicChanges, ReadError> {
        let from = self.revision().await?.next();
        Ok(TopicChanges { metadata: self.clone(), watch: None, from })
    }
}

impl TopicChanges {
    /// What may have changed since the last call, never nothing; `None` once the process stops. Cancel safe.
    pub async fn next(&mut self) -> Option<Affected> {
        let tasks = self.metadata.tasks().clone();
        let mut backoff = self.metadata.backoff();
        loop {
            let seen = tokio::select! {
                biased;
                () = tasks.stopping() => return None,
                seen = self.seen() => seen,
            };
            let ended = match seen {
                Ok(affected) if affected.is_empty() => continue,
                Ok(affected) => return Some(affected),
                Err(StoreError::Stopped) => return None,
                Err(error) => error,
            };
            self.watch = None;
            match ended {
                // The revision is read before anybody looks again, so what they see is at least as new.
                StoreError::Compacted { .. } => match self.metadata.revision().await {
                    Ok(revision) => {
                        self.from = revision.next();
                        tracing::warn!(%revision, "changes of topics were not seen: looking at everything again");
                        return Some(Affected { anything: true, ..Affected::default() });
                    }
                    Err(ReadError::Stopping) => return None,
                    Err(error) => tracing::warn!(%error, "cannot follow changes of topics, trying again"),
                },
                error => tracing::debug!(%error, "the watch of topics ended, resuming"),
            }
            if !self.metadata.pause(&mut backoff).await {
                return None;
            }
        }
    }

    /// What the watch shows next. Cancel safe.
    async fn seen(&mut self) -> Result<Affected, StoreError> {
        let watch = match &mut self.watch {
            Some(watch) => watch,
            none => none.insert(self.metadata.store().watch(&Bytes::new(), self.from).await?),
        };
        let mut affected = Affected::default();
        for event in watch.next().await? {
            affected.note(&event);
            self.from = self.from.max(event.revision().next());
        }
        Ok(affected)
    }
}
