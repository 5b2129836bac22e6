//! How a consumer is made.

use std::sync::Arc;
use std::time::Duration;

use alluvium_proto::v1;
use alluvium_types::names::{SubscriptionName, TopicName};
use tokio::sync::Notify;

use super::acker::{Acker, Shared};
use super::acks::Acks;
use super::drive::{Drive, Settings};
use super::handle::Consumer;
use crate::connection::{Connection, hello};
use crate::error::Error;
use crate::inbox::{Cost, inbox};
use crate::message::Start;

/// A consumer to be. Only the subscription needs to be set.
#[derive(Clone, Debug)]
#[must_use = "nothing happens before `build`"]
pub struct ConsumerBuilder {
    connection: Arc<Connection>,
    topic: String,
    subscription: String,
    kind: v1::SubscriptionType,
    start: Start,
    partitions: Vec<u32>,
    name: Option<String>,
    takeover: bool,
    window: Cost,
    reconnect_within: Duration,
    ack_timeout: Duration,
}

impl ConsumerBuilder {
    pub(crate) const fn new(connection: Arc<Connection>, topic: String) -> Self {
        Self {
            connection,
            topic,
            subscription: String::new(),
            kind: v1::SubscriptionType::Unspecified,
            start: Start::Latest,
            partitions: Vec::new(),
            name: None,
            takeover: false,
            window: Cost { messages: 1000, bytes: 8 << 20 },
            reconnect_within: Duration::from_secs(300),
            ack_timeout: Duration::from_secs(60),
        }
    }

    /// The subscription, created if it does not exist.
    pub fn subscription(mut self, name: impl Into<String>) -> Self {
        self.subscription = name.into();
        self
    }

    /// One consumer at a time, in order. What a new subscription is unless set.
    pub const fn exclusive(mut self) -> Self {
        self.kind = v1::SubscriptionType::Exclusive;
        self
    }

    /// Any number of consumers, each message to one of them.
    pub const fn shared(mut self) -> Self {
        self.kind = v1::SubscriptionType::Shared;
        self
    }

    /// Where a subscription that does not exist yet begins; at what comes next, unless set.
    pub const fn start(mut self, start: Start) -> Self {
        self.start = start;
        self
    }

    /// Consumes these partitions only.
    pub fn partitions(mut self, partitions: impl IntoIterator<Item = u32>) -> Self {
        self.partitions = partitions.into_iter().collect();
        self
    }

    /// What this consumer is called in figures; of an exclusive subscription, one of the same name replaces the one before.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Takes an exclusive subscription over from whoever holds it.
    pub const fn takeover(mut self) -> Self {
        self.takeover = true;
        self
    }

    /// The most messages, and bytes of them, that are on their way or wait here: 1,000 and 8 MiB unless set. With one
    /// message, the next comes only when the application asks for it.
    pub fn prefetch(mut self, messages: u64, bytes: u64) -> Self {
        self.window = Cost { messages: messages.max(1), bytes: bytes.max(1) };
        self
    }

    /// How long to keep trying when the server is gone, before the stream ends with an error: 5 minutes unless set.
    pub const fn reconnect_within(mut self, limit: Duration) -> Self {
        self.reconnect_within = limit;
        self
    }

    /// How long an acknowledgement may take, reconnecting included: a minute unless set.
    pub const fn ack_timeout(mut self, limit: Duration) -> Self {
        self.ack_timeout = limit;
        self
    }

    /// Subscribes. Fails if the topic does not exist, or if the server can't be reached now.
    pub async fn build(self) -> Result<Consumer, Error> {
        let topic = TopicName::parse(&self.topic)?;
        let subscription = SubscriptionName::parse(&self.subscription)?;
        let name = self.name.unwrap_or_else(|| format!("consumer-{}", self.connection.entropy.uuid().simple()));
        let open = v1::SubscribeOpen {
            hello: Some(hello()),
            topic: topic.to_string(),
            partitions: self.partitions,
            subscription: subscription.to_string(),
            r#type: self.kind.into(),
            start: Some(self.start.to_wire()),
            consumer: name,
            takeover: self.takeover,
            format: v1::DeliveryFormat::Batches.into(),
            credit: None,
        };
        let mut settings = Settings { open, reconnect_within: self.reconnect_within, created_ms: None };
        let wake = Arc::new(Notify::new());
        let (feed, inbox) = inbox(self.window, Arc::clone(&wake));
        let acks = Acks::new(self.connection.backoff());
        let shared = Arc::new(Shared::new(acks, wake, self.connection.clock.clone(), self.ack_timeout));
        let link = settings.dial(&self.connection, feed.restart()).await?;
        settings.created_ms = settings.created(&self.connection).await?;
        let partitions = link.partitions().to_vec();
        let ended = Drive::start(self.connection, settings, Arc::clone(&shared), feed, link);
        Ok(Consumer::new(inbox, Acker::new(shared), ended, partitions))
    }
}
