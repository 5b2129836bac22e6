//! Messages as applications make and receive them.

use std::time::Duration;

use alluvium_proto::v1;
use bytes::Bytes;

/// A message's place: with the partition, its offset is its id.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct MessageId {
    /// The partition.
    pub partition: u32,
    /// Its number there: dense, from 0.
    pub offset: u64,
}

/// A message to be published.
///
/// ```
/// use alluvium_client::Message;
/// let message = Message::new("hello").key("k").header("content-type", "text/plain");
/// ```
#[derive(Clone, Debug, Default)]
pub struct Message {
    pub(crate) wire: v1::Message,
    pub(crate) partition: Option<u32>,
    pub(crate) sequence: Option<u64>,
}

impl Message {
    /// A message of these bytes.
    pub fn new(payload: impl Into<Bytes>) -> Self {
        Self { wire: v1::Message { payload: payload.into(), ..Default::default() }, ..Default::default() }
    }

    /// Messages of one key go to one partition and keep their order. An empty key is a key like any other.
    #[must_use]
    pub fn key(mut self, key: impl Into<Bytes>) -> Self {
        self.wire.key = Some(key.into());
        self
    }

    /// Adds a header; a name may stand more than once.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<Bytes>) -> Self {
        self.wire.headers.push(v1::Header { name: name.into(), value: value.into() });
        self
    }

    /// When it happened, by the application's clock: the time since 1970.
    #[must_use]
    pub fn event_time(mut self, since_1970: Duration) -> Self {
        self.wire.event_time_ms = u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX);
        self
    }

    /// Sends it to this partition, whatever its key.
    #[must_use]
    pub const fn partition(mut self, partition: u32) -> Self {
        self.partition = Some(partition);
        self
    }

    /// Says which message of its partition this is, counted from 0 by the application over all of its runs. Only for a
    /// producer with a name. The client checks that it is the next one, and does not send what an earlier run has stored.
    #[must_use]
    pub const fn sequence(mut self, sequence: u64) -> Self {
        self.sequence = Some(sequence);
        self
    }
}

/// What the server promised for a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Receipt {
    /// Where it went.
    pub partition: u32,
    /// Its offset there. `None` where nobody knows it: under [`crate::Guarantee::None`], and for a message that an earlier run
    /// stored, or that was stored so long ago that the server has forgotten where.
    pub offset: Option<u64>,
    /// It was stored already: sent before, by this producer or an earlier run of it, and not stored again.
    pub duplicate: bool,
}

impl Receipt {
    /// The message's id, if the server gave its offset.
    pub fn id(&self) -> Option<MessageId> {
        self.offset.map(|offset| MessageId { partition: self.partition, offset })
    }
}

/// A message as it was delivered.
#[derive(Clone, PartialEq, Debug)]
pub struct Delivery {
    /// The partition it stands in.
    pub partition: u32,
    /// Its number there.
    pub offset: u64,
    /// How often it was delivered on this subscription, this time included; 1 for a reader.
    pub attempt: u32,
    /// The broker's time for it: milliseconds since 1970; never goes back within a partition.
    pub server_time_ms: u64,
    message: v1::Message,
}

impl Delivery {
    pub(crate) const fn new(partition: u32, offset: u64, attempt: u32, server_time_ms: u64, message: v1::Message) -> Self {
        Self { partition, offset, attempt, server_time_ms, message }
    }

    /// Its id.
    pub const fn id(&self) -> MessageId {
        MessageId { partition: self.partition, offset: self.offset }
    }

    /// What was published.
    pub const fn payload(&self) -> &Bytes {
        &self.message.payload
    }

    /// Its key, if it has one.
    pub const fn key(&self) -> Option<&Bytes> {
        self.message.key.as_ref()
    }

    /// Its headers, in the order given.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &Bytes)> {
        self.message.headers.iter().map(|h| (h.name.as_str(), &h.value))
    }

    /// The first header of this name.
    pub fn header(&self, name: &str) -> Option<&Bytes> {
        self.headers().find(|(n, _)| *n == name).map(|(_, value)| value)
    }

    /// When it happened, by the producing application's clock: milliseconds since 1970.
    pub fn event_time_ms(&self) -> Option<u64> {
        Some(self.message.event_time_ms).filter(|t| *t != 0)
    }
}

/// Where reading begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Start {
    /// At the oldest message that is kept.
    Earliest,
    /// At the next message to come.
    Latest,
    /// At this offset of each partition: the oldest kept one if it is gone, the next one to come if it lies ahead.
    Offset(u64),
    /// At the first message whose server time is this or later: milliseconds since 1970.
    TimeMs(u64),
}

impl Start {
    pub(crate) const fn to_wire(self) -> v1::Position {
        let at = match self {
            Self::Earliest => v1::position::At::Earliest(v1::Earliest {}),
            Self::Latest => v1::position::At::Latest(v1::Latest {}),
            Self::Offset(offset) => v1::position::At::Offset(offset),
            Self::TimeMs(ms) => v1::position::At::TimeMs(ms),
        };
        v1::Position { at: Some(at) }
    }
}
