//! What a producer says, checked once at the edge: bounds, and the field that is at fault. A batch is never opened here.

use alluvium_proto::batch::BatchError;
use alluvium_proto::{PROTOCOL_VERSION, batch, v1};
use alluvium_runtime::budget::BytesHeld;
use alluvium_types::checksum::Crc32c;
use alluvium_types::entry::ProducerStamp;
use alluvium_types::fault::{Fault, FaultKind};
use alluvium_types::limits::Limits;
use alluvium_types::names::{ProducerName, TopicName};

use super::coalesce::Admitted;
use super::receipt::Guarantee;

/// The longest name of a client's library, in bytes.
const CLIENT_BYTES_MAX: usize = 128;

/// A publish stream's opening, checked.
#[derive(Debug)]
pub(super) struct Opening {
    pub(super) topic: TopicName,
    pub(super) guarantee: Guarantee,
    /// `None` without idempotence.
    pub(super) producer: Option<ProducerName>,
}

/// Checks an opening.
pub(super) fn open(open: &v1::PublishOpen) -> Result<Opening, Fault> {
    let hello = open.hello.as_ref();
    let hello =
        hello.ok_or_else(|| Fault::invalid("hello", "MISSING", "the first request says which protocol version it speaks"))?;
    if hello.protocol_version < PROTOCOL_VERSION {
        let spoken = hello.protocol_version;
        let text = format!("the client speaks up to version {spoken}, this server version {PROTOCOL_VERSION}");
        return Err(Fault::new(FaultKind::FailedPrecondition, "PROTOCOL_VERSION", text));
    }
    if hello.client.len() > CLIENT_BYTES_MAX {
        let text = format!("it has {} bytes, the limit is {CLIENT_BYTES_MAX}", hello.client.len());
        return Err(Fault::invalid("hello.client", "TOO_LONG", text));
    }
    let producer = if open.producer.is_empty() { None } else { Some(ProducerName::parse(&open.producer)?) };
    let guarantee = guarantee(open.guarantee)?;
    if producer.is_some() && guarantee != Guarantee::Quorum {
        // D2: a duplicate is told only when its original is durable, so an idempotent producer's receipts can't promise less.
        let text = "an idempotent producer's receipts promise QUORUM; leave the producer's name out for less";
        return Err(Fault::invalid("guarantee", "IDEMPOTENT_NEEDS_QUORUM", text));
    }
    Ok(Opening { topic: TopicName::parse(&open.topic)?, guarantee, producer })
}

/// Checks a guarantee.
pub(super) fn guarantee(number: i32) -> Result<Guarantee, Fault> {
    match v1::Guarantee::try_from(number) {
        Ok(v1::Guarantee::Unspecified | v1::Guarantee::Quorum) => Ok(Guarantee::Quorum),
        Ok(v1::Guarantee::Leader) => Ok(Guarantee::Leader),
        Ok(v1::Guarantee::None) => Ok(Guarantee::None),
        Err(_) => Err(Fault::invalid("guarantee", "UNKNOWN_GUARANTEE", format!("guarantee {number} is not known here"))),
    }
}

/// Checks a batch's fields, limits and checksum (B4). `held` is its memory, which the batch keeps until its last copy is let go.
pub(super) fn batch(
    batch: v1::Batch,
    producer: Option<ProducerStamp>,
    limits: Limits,
    held: BytesHeld,
) -> Result<Admitted, Fault> {
    let (header, blob_crc) = batch::check(&batch, limits).map_err(refused)?;
    Ok(Admitted { header, checksum: Crc32c::new(batch.checksum), blob: batch.blob, blob_crc, producer, held })
}

/// A batch that is refused, as its sender is told.
pub(super) fn refused(error: BatchError) -> Fault {
    Fault::invalid(error.field, error.reason, error.message)
}

/// A partition that the topic doesn't have.
pub(super) fn no_partition(partition: u32, topic: &TopicName, partitions: u32) -> Fault {
    let text = format!("topic {topic} has {partitions} partitions, and no partition {partition}");
    Fault::invalid("partition", "UNKNOWN_PARTITION", text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opening() -> v1::PublishOpen {
        v1::PublishOpen {
            hello: Some(v1::Hello { protocol_version: 1, client: "tests".to_owned() }),
            topic: "a/b/c".to_owned(),
            guarantee: 0,
            producer: String::new(),
        }
    }

    #[test]
    fn an_opening_is_refused_with_the_field_at_fault() {
        type Spoil = fn(&mut v1::PublishOpen);
        let cases: [(&str, Spoil); 5] = [
            ("hello", |o| o.hello = None),
            ("hello.client", |o| o.hello.as_mut().expect("set").client = "x".repeat(129)),
            ("topic", |o| o.topic = "a/b".to_owned()),
            ("guarantee", |o| o.guarantee = 9),
            ("producer", |o| o.producer = "a/b".to_owned()),
        ];
        for (field, spoil) in cases {
            let mut bad = opening();
            spoil(&mut bad);
            assert_eq!(open(&bad).err().and_then(|f| f.field).as_deref(), Some(field));
        }
        let good = open(&opening()).expect("sound");
        assert_eq!((good.guarantee, good.producer), (Guarantee::Quorum, None));
    }
}
