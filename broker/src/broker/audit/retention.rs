//! Retention of partitions that nobody has loaded: those that may have something due are opened, and trim themselves.

use std::collections::BTreeMap;

use alluvium_metadata::segments::Segment;
use alluvium_metadata::{PartitionId, ReadError, Versioned};
use alluvium_types::time::Timestamp;

use super::PAGE;
use super::turns::Turns;
use crate::broker::Broker;
use crate::broker::partitions::policy_of;
use crate::topic::handle::is_moved;
use crate::topic::owner::PartitionPolicy;
use crate::topic::retention::{self, Candidate};

/// How many partitions are claimed for retention in one round; the others have their turn in the next.
const CLAIMED_PER_ROUND: usize = 64;

impl Broker {
    /// Pages through all segments, from where the last round ended.
    pub(super) async fn audit_retention(&self, turns: &mut Turns, wall: Option<Timestamp>) -> Result<(), ReadError> {
        let context = self.context();
        let mut after = turns.after();
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
                // It has had its turn then, also if it can't be read.
                turns.has_had(partition);
                if self.audit_partition(turns, partition, &segments, wall).await? {
                    claimed += 1;
                }
                if claimed >= CLAIMED_PER_ROUND {
                    return Ok(());
                }
            }
            if after.is_none() {
                turns.begin_again();
                return Ok(());
            }
        }
    }

    async fn audit_partition(
        &self,
        turns: &mut Turns,
        partition: PartitionId,
        segments: &[Versioned<Segment>],
        wall: Option<Timestamp>,
    ) -> Result<bool, ReadError> {
        let context = self.context();
        let now = context.clock.mono();
        if self.0.opener.partitions.has(partition) || !turns.may_claim(now, partition, segments) {
            return Ok(false);
        }
        let Some(name) = context.metadata.topics().name_of(partition.topic).await? else { return Ok(false) };
        let Ok(topic) = self.topic_now(&name).await else { return Ok(false) };
        let Some((policy, _)) = policy_of(context, &name, partition.topic).await? else { return Ok(false) };
        if topic.id != partition.topic || !may_be_due(segments, policy, wall) {
            return Ok(false);
        }
        tracing::debug!(%partition, topic = %name, "retention is due in a partition that nobody has loaded");
        turns.claimed(now, partition, segments);
        // An owner that lives lets go what may go.
        if let Err(fault) = self.partition(&topic, partition.index).await
            && !is_moved(fault.reason)
        {
            tracing::warn!(%partition, %fault, "retention of a partition is put off");
        }
        Ok(true)
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

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
