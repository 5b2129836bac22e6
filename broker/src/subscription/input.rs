//! What the machine is asked, and what it answers.

use std::fmt;
use std::time::Duration;

use alluvium_types::fault::Fault;
use alluvium_types::ids::Offset;
use alluvium_types::names::SubscriptionName;
use tokio::sync::oneshot;

use super::mailbox::Slot;
use crate::topic::{LoadedEntry, Output as PerformedOutput, ReadFault};

/// A consumer: one stream or one unary pull, told apart from all others of this process.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ConsumerId(u64);

impl ConsumerId {
    /// Wraps a number that no other consumer of this process has had.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The bare number.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for ConsumerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Messages `first..end` of a partition.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span {
    /// The first one.
    pub first: Offset,
    /// The one behind the last.
    pub end: Offset,
}

impl Span {
    /// `first..end`; an `end` before `first` makes it empty.
    pub const fn new(first: Offset, end: Offset) -> Self {
        Self { first, end }
    }

    /// How many messages.
    pub const fn count(self) -> u64 {
        self.first.distance_to(self.end)
    }

    /// Whether it holds none.
    pub const fn is_empty(self) -> bool {
        self.count() == 0
    }

    /// Whether it holds `offset`.
    pub fn contains(self, offset: Offset) -> bool {
        self.first <= offset && offset < self.end
    }

    /// What it shares with `other`.
    #[must_use]
    pub fn within(self, other: Self) -> Self {
        Self { first: self.first.max(other.first), end: self.end.min(other.end) }
    }
}

impl fmt::Debug for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.first, self.end)
    }
}

/// The caller's end of an answer.
pub type Reply<T> = oneshot::Sender<Result<T, Fault>>;

/// A request to the subscriptions of a partition.
#[derive(Debug)]
pub enum Input {
    /// A consumer comes. Deliveries begin as soon as it has credit.
    Join(JoinRequest),
    /// A consumer goes: what it has not acknowledged is delivered again.
    Leave {
        /// Where from.
        subscription: SubscriptionName,
        /// Who.
        consumer: ConsumerId,
        /// What stays with it until its deadline: what a pull has answered.
        kept: Vec<Span>,
        /// What it was given and never sent to anybody: that was no attempt.
        unsent: Vec<Span>,
    },
    /// A consumer's mailbox has room or credit again.
    Refilled {
        /// Where.
        subscription: SubscriptionName,
        /// Whose.
        consumer: ConsumerId,
    },
    /// What a consumer read after [`super::Event::Read`].
    Entries {
        /// For which subscription.
        subscription: SubscriptionName,
        /// Who read.
        consumer: ConsumerId,
        /// From where, as it was asked.
        from: Offset,
        /// What came of it.
        result: Result<Vec<LoadedEntry>, ReadFault>,
    },
    /// Messages are done with.
    Ack(AckRequest),
    /// Messages are given back.
    Nack {
        /// Where.
        subscription: SubscriptionName,
        /// Whose deliveries; any consumer's if absent.
        consumer: Option<ConsumerId>,
        /// Which messages. Those that are not on their way are left alone.
        spans: Vec<Span>,
        /// Deliver again not before this long from now.
        delay: Duration,
        /// Answered at once: a nack is not durable.
        reply: Option<Reply<()>>,
    },
    /// A batch turned out to contradict its own header: its messages can't be delivered. They count as acknowledged, by the
    /// server, which has reported them (T6).
    Undeliverable {
        /// Where.
        subscription: SubscriptionName,
        /// Who found it.
        consumer: ConsumerId,
        /// Which messages.
        span: Span,
    },
    /// A consumer gives back what it was given and never sent to anybody, because its client doesn't read: that was no attempt.
    Unsent {
        /// Where.
        subscription: SubscriptionName,
        /// Who.
        consumer: ConsumerId,
        /// Which messages.
        spans: Vec<Span>,
    },
    /// Moves the cursor; its consumers' streams end, to be resumed by them. Answered when durable.
    Seek {
        /// Where.
        subscription: SubscriptionName,
        /// The next message to deliver, moved into what is kept.
        to: Offset,
        /// Where it stands now.
        reply: Reply<Offset>,
    },
    /// Figures.
    Stats {
        /// Of which subscription.
        subscription: SubscriptionName,
        /// The answer.
        reply: Reply<CursorStats>,
    },
}

/// A consumer that wants messages.
#[derive(Debug)]
pub struct JoinRequest {
    /// Where.
    pub subscription: SubscriptionName,
    /// Who.
    pub consumer: ConsumerId,
    /// What people call it; empty if they don't. On an exclusive subscription, a newcomer of the same name replaces it.
    pub name: String,
    /// Take an exclusive subscription over from whoever holds it.
    pub takeover: bool,
    /// Deliveries not acknowledged for this long are delivered again: for pulls. Absent: when the consumer goes.
    pub ack_deadline: Option<Duration>,
    /// What it was delivered by a former owner and has not acknowledged: it stays with it, as far as nobody else has it.
    pub held: Vec<Span>,
    /// Where its messages go.
    pub slot: Slot,
    /// Whether it is let in.
    pub reply: Reply<()>,
}

/// An acknowledgement.
#[derive(Debug)]
pub struct AckRequest {
    /// Where.
    pub subscription: SubscriptionName,
    /// Of these messages.
    pub spans: Vec<Span>,
    /// And of everything before this offset; not on a shared subscription.
    pub before: Option<Offset>,
    /// Who is told once it is durable (S1), or that it is refused.
    pub target: AckTarget,
}

/// Where a receipt goes.
#[derive(Debug)]
pub enum AckTarget {
    /// Into the mailbox of a stream, under the client's own number.
    Stream(Slot, u64),
    /// To a caller.
    Call(Reply<()>),
}

impl AckTarget {
    /// A fault in the words of the request that is answered.
    pub(super) fn in_its_words(&self, mut fault: Fault) -> Fault {
        fault.field = fault.field.map(|field| match (self, field.as_str()) {
            (Self::Stream(..), field) => format!("ack.{field}"),
            (Self::Call(_), "ranges") => "ids".to_owned(),
            (Self::Call(_), _) => field,
        });
        fault
    }
}

/// What the owner performs for the machine.
#[derive(Debug)]
pub enum Output {
    /// Into a mailbox.
    Post(Slot, super::Event),
    /// A receipt, or the reason why there is none.
    Receipt(AckTarget, Result<(), Fault>),
    /// To a caller.
    Answer(Reply<()>, Result<(), Fault>),
    /// To who moved a cursor.
    Moved(Reply<Offset>, Result<Offset, Fault>),
    /// To who asked for figures.
    Stats(Reply<CursorStats>, Result<CursorStats, Fault>),
}

impl PerformedOutput for Output {
    fn perform(self) {
        // Who no longer waits for an answer has gone.
        match self {
            Self::Post(slot, event) => slot.post(event),
            Self::Receipt(AckTarget::Stream(slot, id), result) => slot.post(super::Event::Receipt { id, fault: result.err() }),
            Self::Receipt(AckTarget::Call(reply), result) | Self::Answer(reply, result) => {
                let _ = reply.send(result);
            }
            Self::Moved(reply, result) => {
                let _ = reply.send(result);
            }
            Self::Stats(reply, result) => {
                let _ = reply.send(result);
            }
        }
    }
}

/// A subscription's place in one partition.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CursorStats {
    /// Everything below is acknowledged or gone.
    pub next: Offset,
    /// The offset that the partition's next message will get.
    pub end: Offset,
    /// Messages not acknowledged. Never negative (T5).
    pub backlog: u64,
    /// Runs of acknowledged messages above `next`.
    pub acknowledged_ranges: u64,
    /// Messages delivered and neither acknowledged nor given back.
    pub in_flight: u64,
    /// Messages that wait for a time: given back with a delay, or unreadable.
    pub delayed: u64,
    /// Of these, those that could not be read when they were due, and are tried again now and then (T6).
    pub unreadable: u64,
    /// Messages that wait for unreadable ones before them, on an ordered subscription.
    pub blocked: u64,
    /// Who is connected.
    pub consumers: Vec<ConsumerStats>,
}

/// One connected consumer.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ConsumerStats {
    /// What people call it.
    pub name: String,
    /// Its messages on their way or unacknowledged, in this partition.
    pub in_flight: u64,
    /// Messages it is ready to take, over all partitions of its stream.
    pub credit_messages: u64,
    /// Bytes it is ready to take, over all partitions of its stream.
    pub credit_bytes: u64,
}
