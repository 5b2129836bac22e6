//! How a reader is made.

use std::sync::Arc;
use std::time::Duration;

use alluvium_proto::v1;
use alluvium_types::names::TopicName;
use tokio::sync::Notify;

use super::drive::{Drive, Settings};
use super::handle::Reader;
use super::place::Place;
use crate::connection::{Connection, hello};
use crate::error::Error;
use crate::inbox::{Cost, inbox};
use crate::message::Start;

/// A reader to be. Nothing needs to be set.
#[derive(Clone, Debug)]
#[must_use = "nothing happens before `build`"]
pub struct ReaderBuilder {
    connection: Arc<Connection>,
    topic: String,
    start: Start,
    partitions: Vec<u32>,
    stop_at_end: bool,
    window: Cost,
    reconnect_within: Duration,
}

impl ReaderBuilder {
    pub(crate) const fn new(connection: Arc<Connection>, topic: String) -> Self {
        Self {
            connection,
            topic,
            start: Start::Earliest,
            partitions: Vec::new(),
            stop_at_end: false,
            window: Cost { messages: 4096, bytes: 8 << 20 },
            reconnect_within: Duration::from_secs(300),
        }
    }

    /// Where to begin: at the oldest message, unless set.
    pub const fn start(mut self, start: Start) -> Self {
        self.start = start;
        self
    }

    /// Reads these partitions only.
    pub fn partitions(mut self, partitions: impl IntoIterator<Item = u32>) -> Self {
        self.partitions = partitions.into_iter().collect();
        self
    }

    /// Ends at what is the end of each partition now, rather than wait for more.
    pub const fn stop_at_end(mut self) -> Self {
        self.stop_at_end = true;
        self
    }

    /// The most messages, and bytes of them, that are on their way or wait here: 4,096 and 8 MiB unless set, shared by the
    /// partitions.
    pub fn prefetch(mut self, messages: u64, bytes: u64) -> Self {
        self.window = Cost { messages: messages.max(1), bytes: bytes.max(1) };
        self
    }

    /// How long to keep trying when the server is gone, before the stream ends with an error: 5 minutes unless set.
    pub const fn reconnect_within(mut self, limit: Duration) -> Self {
        self.reconnect_within = limit;
        self
    }

    /// Opens the topic. Fails if it does not exist, or if the server can't be reached now.
    pub async fn build(self) -> Result<Reader, Error> {
        let topic = TopicName::parse(&self.topic)?;
        let open = v1::ReadOpen {
            hello: Some(hello()),
            topic: topic.to_string(),
            partitions: self.partitions,
            start: Some(self.start.to_wire()),
            format: v1::DeliveryFormat::Batches.into(),
            credit: None,
            stop_at_end: self.stop_at_end,
        };
        let settings = Settings { open, reconnect_within: self.reconnect_within, channel: self.connection.dial().await? };
        // Without credit it delivers nothing; it says which partitions there are, and what they hold.
        let ranges = settings.ranges(&self.connection).await?;
        let lanes = (ranges.len() as u64).max(1);
        let window = Cost { messages: (self.window.messages / lanes).max(1), bytes: (self.window.bytes / lanes).max(1) };
        let mut inboxes = Vec::with_capacity(ranges.len());
        for range in ranges {
            let place = Place::new(self.start, range.first_offset, range.end_offset, self.stop_at_end);
            let wake = Arc::new(Notify::new());
            let (feed, inbox) = inbox(window, Arc::clone(&wake));
            Drive::start(Arc::clone(&self.connection), settings.of(range.partition), place, feed, wake);
            inboxes.push(inbox);
        }
        Ok(Reader::new(inboxes))
    }
}
