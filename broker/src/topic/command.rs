//! What the owner task is told.

use alluvium_types::fault::Fault;
use alluvium_types::ids::PartitionIndex;
use alluvium_types::names::ProducerName;
use alluvium_types::replication::Replication;
use tokio::sync::oneshot;

use super::bounds::OpenSegment;
use super::owner::PartitionPolicy;
use super::specs::SpecsKnown;
use crate::publish::coalesce::Admitted;
use crate::publish::receipt::{Answers, Ticket};
use crate::subscription;

/// A request to a partition's owner task, apart from batches.
#[derive(Debug)]
pub(crate) enum Command {
    /// To the partition's subscriptions.
    Subscriptions(subscription::Input),
    /// The subscriptions that exist have changed: read them again. Answered once the machine knows, if anybody waits
    /// for that.
    Configure(Option<SpecsKnown>),
    /// The policies in force now.
    Policy(PartitionPolicy, Replication),
    /// What is known of the segment that is written.
    OpenSegment(oneshot::Sender<Option<OpenSegment>>),
    /// Store what was taken, close, and let go.
    Drain,
    /// Let go at once: the topic is deleted.
    Abandon,
}

/// From a publishing session, in its order.
#[derive(Debug)]
pub(crate) enum PublishCommand {
    /// A batch; refused by the session already, if it is a fault: told in its turn.
    Batch(Ticket, Result<Admitted, Fault>),
    /// Claims a producer's name.
    Claim {
        /// Who hears.
        answers: Answers,
        /// Where it was sent.
        partition: PartitionIndex,
        /// The name.
        name: ProducerName,
        /// What the client held before.
        last_epoch: Option<u64>,
    },
}
