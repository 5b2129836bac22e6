//! Why a partition is where it is, and where it shall be.

use alluvium_metadata::PartitionId;
use alluvium_metadata::ownership::Owner;
use alluvium_proto::v1::{self, OwnerReason};
use alluvium_types::fault::Fault;
use alluvium_types::ids::PartitionIndex;
use alluvium_types::names::{BrokerName, TopicName};

use super::AdminEdge;
use super::fault::{Refused, absent};

/// Why a partition is where its owner's record says. The first reason that holds: what an operator wants goes before what names and
/// weights prefer.
pub(super) fn reason(
    owner: Option<&Owner>,
    is_alive: bool,
    placed: Option<&BrokerName>,
    preferred: Option<&BrokerName>,
) -> OwnerReason {
    let Some(owner) = owner else { return OwnerReason::NeverClaimed };
    let Some(holder) = &owner.holder else { return OwnerReason::Released };
    if !is_alive {
        OwnerReason::OwnerGone
    } else if placed == Some(&holder.broker) {
        OwnerReason::Placed
    } else if preferred == Some(&holder.broker) {
        OwnerReason::Preferred
    } else if owner.taken_from.is_some() {
        OwnerReason::TakenOver
    } else {
        OwnerReason::Claimed
    }
}

impl AdminEdge {
    pub(super) async fn partition_moved(&self, request: &v1::MovePartitionRequest) -> Result<v1::TopicPartition, Refused> {
        let name = TopicName::parse(&request.topic)?;
        let topic = self.topic_read(&name).await?;
        let index = PartitionIndex::new(request.partition);
        if index.get() >= topic.value.partitions {
            let text = format!("topic {name} has {} partitions, and no partition {index}", topic.value.partitions);
            return Err(Fault::invalid("partition", "UNKNOWN_PARTITION", text).into());
        }
        let placements = self.broker.metadata().placements();
        let placed = if request.broker.is_empty() {
            placements.clear(PartitionId { topic: topic.value.id, index }).await?;
            None
        } else {
            let broker = BrokerName::parse(&request.broker)?;
            // One that isn't there would be waited for in vain, most likely because its name is misspelt.
            if !self.broker.live_brokers().contains_key(&broker) {
                return Err(absent("broker", "BROKER_NOT_FOUND", &broker));
            }
            placements.set((&name, &topic), index, &broker).await?;
            Some(broker)
        };
        self.partition_found(&name, &topic.value, index, placed.as_ref()).await
    }
}

#[cfg(test)]
mod tests {
    use alluvium_metadata::ownership::OwnerHolder;
    use alluvium_types::ids::{Epoch, Revision, SessionId};
    use alluvium_types::time::Timestamp;

    use super::*;

    #[test]
    fn a_partition_says_why_it_is_where_it_is() {
        let [a, b] = ["a", "b"].map(|name| BrokerName::parse(name).expect("valid"));
        let session = SessionId::new(uuid::Uuid::from_u128(1));
        let holder = OwnerHolder { broker: a.clone(), session, session_revision: Revision::ZERO, address: String::new() };
        let (epoch, since) = (Epoch::new(3), Timestamp::from_millis(1));
        let held = Owner { epoch, holder: Some(holder), since, taken_from: None, former: Vec::new() };
        let taken = Owner { taken_from: Some(b.clone()), ..held.clone() };
        let free = Owner { holder: None, ..held.clone() };
        for (owner, is_alive, placed, preferred, expected) in [
            (None, false, None, Some(&a), OwnerReason::NeverClaimed),
            (Some(&free), false, None, Some(&a), OwnerReason::Released),
            (Some(&held), false, Some(&a), Some(&a), OwnerReason::OwnerGone),
            (Some(&taken), true, Some(&a), Some(&a), OwnerReason::Placed),
            (Some(&taken), true, None, Some(&a), OwnerReason::Preferred),
            (Some(&taken), true, Some(&b), Some(&b), OwnerReason::TakenOver),
            (Some(&held), true, Some(&b), Some(&b), OwnerReason::Claimed),
            (Some(&held), true, None, None, OwnerReason::Claimed),
        ] {
            assert_eq!(reason(owner, is_alive, placed, preferred), expected, "{owner:?} {placed:?} {preferred:?}");
        }
    }
}
