//! What consumers ask, checked once at the edge: bounds, and the field that is at fault.

use std::time::Duration;

use alluvium_proto::{PROTOCOL_VERSION, v1};
use alluvium_types::fault::{Fault, FaultKind};
use alluvium_types::ids::{Offset, PartitionIndex};
use alluvium_types::names::{SubscriptionName, TopicName};
use alluvium_types::time::Timestamp;

use super::parcel::Format;
use crate::broker::StartAt;
use crate::subscription::{Grant, Span};
use crate::topic::SubscriptionKind;

/// The most runs of offsets in one request.
pub(super) const RANGES_MAX: usize = 10_000;
/// The longest name of a consumer, and of a client's library, in bytes.
const LABEL_BYTES_MAX: usize = 128;
/// The longest delay of a nack.
const DELAY_MAX: Duration = Duration::from_secs(24 * 3600);

/// A consumer's opening, checked.
#[derive(Debug)]
pub(super) struct Subscribe {
    pub(super) topic: TopicName,
    pub(super) partitions: Vec<PartitionIndex>,
    pub(super) subscription: SubscriptionName,
    pub(super) kind: Option<SubscriptionKind>,
    pub(super) start: StartAt,
    pub(super) consumer: String,
    pub(super) takeover: bool,
    pub(super) format: Format,
    pub(super) credit: Option<Grant>,
}

/// A reader's opening, checked.
#[derive(Clone, Debug)]
pub(super) struct Read {
    pub(super) topic: TopicName,
    pub(super) partitions: Vec<PartitionIndex>,
    pub(super) start: StartAt,
    pub(super) format: Format,
    pub(super) credit: Option<Grant>,
    pub(super) stop_at_end: bool,
}

/// A pull, checked.
#[derive(Debug)]
pub(super) struct Pull {
    pub(super) topic: TopicName,
    pub(super) partitions: Vec<PartitionIndex>,
    pub(super) subscription: SubscriptionName,
    pub(super) messages_max: u64,
    pub(super) bytes_max: u64,
    pub(super) wait: Duration,
    pub(super) ack_deadline: Duration,
    pub(super) start: Option<StartAt>,
}

pub(super) fn subscribe(open: v1::SubscribeOpen) -> Result<Subscribe, Fault> {
    version(open.hello.as_ref())?;
    Ok(Subscribe {
        topic: TopicName::parse(&open.topic)?,
        partitions: partitions(&open.partitions),
        subscription: SubscriptionName::parse(&open.subscription)?,
        kind: kind(open.r#type)?,
        start: start(open.start)?.unwrap_or(StartAt::Latest),
        consumer: label("consumer", open.consumer)?,
        takeover: open.takeover,
        format: format(open.format)?,
        credit: open.credit.map(grant),
    })
}

pub(super) fn read(open: &v1::ReadOpen) -> Result<Read, Fault> {
    version(open.hello.as_ref())?;
    Ok(Read {
        topic: TopicName::parse(&open.topic)?,
        partitions: partitions(&open.partitions),
        start: start(open.start)?.unwrap_or(StartAt::Earliest),
        format: format(open.format)?,
        credit: open.credit.map(grant),
        stop_at_end: open.stop_at_end,
    })
}

pub(super) fn pull(request: &v1::PullRequest) -> Result<Pull, Fault> {
    let bounded = |field: &str, value: u64, if_zero: u64, max: u64| match value {
        0 => Ok(if_zero),
        value if value > max => Err(Fault::invalid(field, "TOO_LARGE", format!("{value} is more than the limit of {max}"))),
        value => Ok(value),
    };
    Ok(Pull {
        topic: TopicName::parse(&request.topic)?,
        partitions: partitions(&request.partitions),
        subscription: SubscriptionName::parse(&request.subscription)?,
        messages_max: bounded("messages_max", u64::from(request.messages_max), 1, 10_000)?,
        bytes_max: bounded("bytes_max", request.bytes_max, 1 << 20, 64 << 20)?,
        wait: Duration::from_millis(bounded("wait_ms", request.wait_ms, 0, 60_000)?),
        ack_deadline: Duration::from_millis(bounded("ack_deadline_ms", request.ack_deadline_ms, 30_000, 12 * 3_600_000)?),
        start: start(request.start)?,
    })
}

/// The protocol version to speak: the highest that both do.
fn version(hello: Option<&v1::Hello>) -> Result<(), Fault> {
    let hello =
        hello.ok_or_else(|| Fault::invalid("hello", "MISSING", "the first request says which protocol version it speaks"))?;
    if hello.protocol_version < PROTOCOL_VERSION {
        let spoken = hello.protocol_version;
        let text = format!("the client speaks up to version {spoken}, this server version {PROTOCOL_VERSION}");
        return Err(Fault::new(FaultKind::FailedPrecondition, "PROTOCOL_VERSION", text));
    }
    if hello.client.len() > LABEL_BYTES_MAX {
        return Err(too_long("hello.client", hello.client.len()));
    }
    Ok(())
}

fn label(field: &str, label: String) -> Result<String, Fault> {
    if label.len() > LABEL_BYTES_MAX { Err(too_long(field, label.len())) } else { Ok(label) }
}

fn too_long(field: &str, bytes: usize) -> Fault {
    Fault::invalid(field, "TOO_LONG", format!("it has {bytes} bytes, the limit is {LABEL_BYTES_MAX}"))
}

fn partitions(numbers: &[u32]) -> Vec<PartitionIndex> {
    let mut partitions: Vec<PartitionIndex> = numbers.iter().copied().map(PartitionIndex::new).collect();
    partitions.sort_unstable();
    partitions.dedup();
    partitions
}

fn kind(number: i32) -> Result<Option<SubscriptionKind>, Fault> {
    match v1::SubscriptionType::try_from(number) {
        Ok(v1::SubscriptionType::Unspecified) => Ok(None),
        Ok(v1::SubscriptionType::Exclusive) => Ok(Some(SubscriptionKind::Exclusive)),
        Ok(v1::SubscriptionType::Shared) => Ok(Some(SubscriptionKind::Shared)),
        Err(_) => Err(Fault::invalid("type", "UNKNOWN_TYPE", format!("{number} is no type of subscription known here"))),
    }
}

fn format(number: i32) -> Result<Format, Fault> {
    match v1::DeliveryFormat::try_from(number) {
        Ok(v1::DeliveryFormat::Unspecified | v1::DeliveryFormat::Messages) => Ok(Format::Messages),
        Ok(v1::DeliveryFormat::Batches) => Ok(Format::Batches),
        Err(_) => Err(Fault::invalid("format", "UNKNOWN_FORMAT", format!("{number} is no delivery format known here"))),
    }
}

fn start(position: Option<v1::Position>) -> Result<Option<StartAt>, Fault> {
    use v1::position::At;
    let Some(position) = position else { return Ok(None) };
    match position.at {
        Some(At::Earliest(_)) => Ok(Some(StartAt::Earliest)),
        Some(At::Latest(_)) => Ok(Some(StartAt::Latest)),
        Some(At::Offset(offset)) => Ok(Some(StartAt::Offset(Offset::new(offset)))),
        Some(At::TimeMs(time)) => Ok(Some(StartAt::Time(Timestamp::from_millis(time)))),
        None => Err(Fault::invalid("start", "EMPTY", "a position says earliest, latest, an offset or a time")),
    }
}

pub(super) const fn grant(credit: v1::Credit) -> Grant {
    Grant { messages: credit.messages, bytes: credit.bytes }
}

/// A run, first and last included; `None` of an empty one.
pub(super) fn range_of(span: Span) -> Option<v1::OffsetRange> {
    let last = span.end.previous().filter(|_| !span.is_empty())?;
    Some(v1::OffsetRange { first: span.first.get(), last: last.get() })
}

/// Runs of offsets, first and last included, of a request's `field`.
pub(super) fn spans(field: &str, ranges: &[v1::OffsetRange]) -> Result<Vec<Span>, Fault> {
    if ranges.len() > RANGES_MAX {
        let text = format!("{} runs in one request, the limit is {RANGES_MAX}", ranges.len());
        return Err(Fault::invalid(field, "TOO_MANY_RANGES", text));
    }
    ranges.iter().map(|range| span(field, range.first, range.last)).collect()
}

fn span(field: &str, first: u64, last: u64) -> Result<Span, Fault> {
    let end = Offset::new(last).checked_add(1).filter(|_| first <= last);
    let wrong = || {
        Fault::invalid(field, "BAD_RANGE", format!("a run goes from its first to its last offset, not from {first} to {last}"))
    };
    Ok(Span::new(Offset::new(first), end.ok_or_else(wrong)?))
}

/// The offset behind one that is included.
pub(super) fn behind(field: &str, offset: u64) -> Result<Offset, Fault> {
    span(field, offset, offset).map(|span| span.end)
}

/// The ids of a request's `field`, by partition, as runs.
pub(super) fn ids(field: &str, ids: &[v1::MessageId]) -> Result<std::collections::BTreeMap<PartitionIndex, Vec<Span>>, Fault> {
    if ids.len() > RANGES_MAX {
        let text = format!("{} ids in one request, the limit is {RANGES_MAX}", ids.len());
        return Err(Fault::invalid(field, "TOO_MANY_RANGES", text));
    }
    let mut spans: std::collections::BTreeMap<PartitionIndex, Vec<Span>> = std::collections::BTreeMap::new();
    for id in ids {
        let one = span(field, id.offset, id.offset)?;
        let runs = spans.entry(PartitionIndex::new(id.partition)).or_default();
        match runs.last_mut() {
            Some(run) if run.end == one.first => run.end = one.end,
            _ => runs.push(one),
        }
    }
    Ok(spans)
}

pub(super) fn delay(millis: u64) -> Result<Duration, Fault> {
    let delay = Duration::from_millis(millis);
    if delay > DELAY_MAX {
        let text = format!("{millis} ms is more than the limit of {} ms", DELAY_MAX.as_millis());
        return Err(Fault::invalid("delay_ms", "TOO_LARGE", text));
    }
    Ok(delay)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open() -> v1::SubscribeOpen {
        v1::SubscribeOpen {
            hello: Some(v1::Hello { protocol_version: 1, client: "test".to_owned() }),
            topic: "a/b/c".to_owned(),
            subscription: "s".to_owned(),
            ..v1::SubscribeOpen::default()
        }
    }

    #[test]
    fn what_is_wrong_with_an_opening_is_said_with_its_field() {
        type Spoil = fn(&mut v1::SubscribeOpen);
        let cases: [(&str, &str, Spoil); 8] = [
            ("hello", "MISSING", |o| o.hello = None),
            ("topic", "INVALID_NAME", |o| o.topic = "a/b/../c".to_owned()),
            ("subscription", "INVALID_NAME", |o| o.subscription = "a\0b".to_owned()),
            ("subscription", "INVALID_NAME", |o| o.subscription = "x".repeat(10_000)),
            ("type", "UNKNOWN_TYPE", |o| o.r#type = 99),
            ("format", "UNKNOWN_FORMAT", |o| o.format = -1),
            ("consumer", "TOO_LONG", |o| o.consumer = "x".repeat(129)),
            ("start", "EMPTY", |o| o.start = Some(v1::Position { at: None })),
        ];
        for (field, reason, spoil) in cases {
            let mut open = open();
            spoil(&mut open);
            let fault = subscribe(open).expect_err(field);
            assert_eq!((fault.field.as_deref(), fault.reason), (Some(field), reason), "{fault}");
        }
        assert!(subscribe(open()).is_ok());
    }

    #[test]
    fn a_client_that_speaks_no_version_we_do_is_refused() {
        let hello = Some(v1::Hello { protocol_version: 0, client: String::new() });
        let fault = subscribe(v1::SubscribeOpen { hello, ..open() }).expect_err("version 0 is none");
        assert_eq!((fault.kind, fault.reason), (FaultKind::FailedPrecondition, "PROTOCOL_VERSION"));
        let hello = Some(v1::Hello { protocol_version: 9, client: String::new() });
        assert!(subscribe(v1::SubscribeOpen { hello, ..open() }).is_ok(), "a newer client can speak ours");
    }

    #[test]
    fn the_limits_of_a_pull_are_exact() {
        let request = |messages_max, bytes_max, wait_ms, ack_deadline_ms| v1::PullRequest {
            topic: "a/b/c".to_owned(),
            subscription: "s".to_owned(),
            messages_max,
            bytes_max,
            wait_ms,
            ack_deadline_ms,
            ..v1::PullRequest::default()
        };
        assert!(pull(&request(10_000, 64 << 20, 60_000, 12 * 3_600_000)).is_ok());
        let defaults = pull(&request(0, 0, 0, 0)).expect("defaults");
        assert_eq!((defaults.messages_max, defaults.bytes_max, defaults.ack_deadline), (1, 1 << 20, Duration::from_secs(30)));
        for (field, request) in [
            ("messages_max", request(10_001, 0, 0, 0)),
            ("bytes_max", request(0, (64 << 20) + 1, 0, 0)),
            ("wait_ms", request(0, 0, 60_001, 0)),
            ("ack_deadline_ms", request(0, 0, 0, 12 * 3_600_000 + 1)),
        ] {
            assert_eq!(pull(&request).expect_err(field).field.as_deref(), Some(field));
        }
    }

    #[test]
    fn runs_and_ids_are_bounded_and_make_sense() {
        let range = |first, last| v1::OffsetRange { first, last };
        assert_eq!(spans("ranges", &[range(3, 3)]), Ok(vec![Span::new(Offset::new(3), Offset::new(4))]));
        for bad in [vec![range(4, 3)], vec![range(0, u64::MAX)], vec![range(0, 0); RANGES_MAX + 1]] {
            assert_eq!(spans("ranges", &bad).expect_err("bad").field.as_deref(), Some("ranges"));
        }
        let id = |partition, offset| v1::MessageId { partition, offset };
        let runs = ids("ids", &[id(0, 5), id(0, 6), id(1, 0), id(0, 9)]).expect("fine");
        assert_eq!(runs[&PartitionIndex::new(0)].len(), 2, "neighbours are one run");
        assert!(delay(86_400_000).is_ok() && delay(86_400_001).is_err());
    }
}
