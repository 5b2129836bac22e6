//! What was changed at any broker reaches the partitions that are loaded at this one: their policies, which subscriptions there
//! are, and that their topic is gone (M5).
//!
//! It is told as it is seen, which is a moment after it was answered. What a caller of this broker relies on at once is done by
//! who serves it: a new subscription is known ([`Broker::acquaint`]), a topic that was changed is read anew.

use std::collections::BTreeMap;
use std::future::pending;
use std::mem::take;

use alluvium_metadata::topic_changes::{Affected, TopicChanges};
use alluvium_types::ids::TopicId;
use alluvium_types::names::TopicName;
use futures::future::join_all;

use super::Broker;
use super::partitions::policy_of;
use crate::topic::PartitionHandle;
use crate::topic::command::Command;

/// How many topics' policies are read at a time.
const TOPICS_AT_ONCE: usize = 16;

impl Broker {
    /// Tells loaded partitions what concerns them, until the broker stops.
    pub(super) async fn follow_changes(&self, mut changes: TopicChanges) {
        let context = self.context();
        let mut backoff = context.backoff();
        let mut untold = Affected::default();
        loop {
            let again = async {
                if untold.is_empty() {
                    return pending().await;
                }
                context.clock.sleep(backoff.delay()).await;
            };
            tokio::select! {
                biased;
                () = context.own_tasks.stopping() => return,
                affected = changes.next() => match affected {
                    Some(affected) => untold.add(affected),
                    None => return,
                },
                () = again => {}
            }
            let affected = take(&mut untold);
            tokio::select! {
                biased;
                () = context.own_tasks.stopping() => return,
                rest = self.tell(affected) => untold = rest,
            }
            if untold.is_empty() {
                backoff.reset();
            }
        }
    }

    /// Looks at the topic's record again before it is used next.
    pub(crate) fn forget_topic(&self, topic: &TopicName) {
        self.0.topics.lock().remove(topic);
    }

    fn forget_topics(&self, affected: &Affected) {
        let mut topics = self.0.topics.lock();
        if affected.anything {
            topics.clear();
        }
        for name in &affected.topics {
            topics.remove(name);
        }
    }

    /// Tells whom it concerns, and gives back what is to be told again: a queue was full, or metadata could not be read.
    async fn tell(&self, affected: Affected) -> Affected {
        self.forget_topics(&affected);
        let mut untold = Affected::default();
        let mut governed: BTreeMap<TopicId, Vec<PartitionHandle>> = BTreeMap::new();
        let concerned = self.0.opener.partitions.changed(|handle| {
            let topic = handle.topic_id();
            affected.deleted.contains(&topic) || affected.subscribes(topic) || affected.governs(&handle.name().topic)
        });
        for handle in concerned {
            let topic = handle.topic_id();
            if affected.deleted.contains(&topic) {
                if !told(&handle, Command::Abandon) {
                    untold.deleted.insert(topic);
                }
                continue;
            }
            if affected.subscribes(topic) && !told(&handle, Command::Configure(None)) {
                untold.subscribed.insert(topic);
            }
            if affected.governs(&handle.name().topic) {
                governed.entry(topic).or_default().push(handle);
            }
        }
        let governed: Vec<_> = governed.into_iter().collect();
        let mut readable = true;
        for some in governed.chunks(TOPICS_AT_ONCE) {
            if readable {
                let outcomes = join_all(some.iter().map(|(topic, handles)| self.govern(*topic, handles))).await;
                let left = some.iter().zip(&outcomes).filter(|(_, outcome)| **outcome != Governed::Told);
                untold.topics.extend(left.map(|((_, handles), _)| handles[0].name().topic.clone()));
                readable = !outcomes.contains(&Governed::Unreadable);
            } else {
                // It would not be read either, and is waited for no longer.
                untold.topics.extend(some.iter().map(|(_, handles)| handles[0].name().topic.clone()));
            }
        }
        untold
    }

    /// Tells partitions of one topic the policies in force, or that it is gone.
    async fn govern(&self, topic: TopicId, handles: &[PartitionHandle]) -> Governed {
        let Some(first) = handles.first() else { return Governed::Told };
        match policy_of(self.context(), &first.name().topic, topic).await {
            Ok(Some((policy, replication))) => all_told(handles, || Command::Policy(policy, replication)),
            Ok(None) => all_told(handles, || Command::Abandon),
            Err(error) => {
                tracing::debug!(topic = %first.name().topic, %error, "what is in force for a topic is told later");
                Governed::Unreadable
            }
        }
    }
}

/// What became of telling policies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Governed {
    Told,
    /// Somebody's queue was full.
    Busy,
    Unreadable,
}

fn all_told(handles: &[PartitionHandle], command: impl Fn() -> Command) -> Governed {
    // Everybody is told who has room: to be told twice is the same as once.
    let full = handles.iter().filter(|handle| !told(handle, command())).count();
    if full == 0 { Governed::Told } else { Governed::Busy }
}

/// Whether the owner task has it, or has ended. A full queue is not waited for: others are waiting to be told.
fn told(handle: &PartitionHandle, command: Command) -> bool {
    use tokio::sync::mpsc::error::TrySendError;
    !matches!(handle.commands().try_send(command), Err(TrySendError::Full(_)))
}
