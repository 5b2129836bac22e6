//! The topic that another broker asks about.

use alluvium_types::fault::Fault;
use alluvium_types::ids::PartitionIndex;
use alluvium_types::names::TopicName;

use crate::broker::{Broker, TopicInfo};

/// The topic of a name, of which another broker knows these partitions. It may know of some that were added a moment ago, while this
/// one believes an older record: that is read anew, once.
pub(crate) async fn topic_with(broker: &Broker, name: &TopicName, known: &[PartitionIndex]) -> Result<TopicInfo, Fault> {
    let topic = broker.topic(name).await?;
    if known.iter().all(|index| index.get() < topic.partitions) { Ok(topic) } else { broker.topic_now(name).await }
}
