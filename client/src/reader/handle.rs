//! The application's end of a reader.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures::stream::SelectAll;
use futures::{Stream, StreamExt};

use crate::error::Error;
use crate::inbox::Inbox;
use crate::message::Delivery;

/// Messages of a topic, in order within each partition: a stream of deliveries. When the connection is lost it is made again,
/// and reading goes on behind the last message that was handed over.
///
/// An item that is an [`Error::Undeliverable`] concerns some messages, and the stream goes on; any other error ends the
/// partition it befell.
#[derive(Debug)]
pub struct Reader {
    partitions: SelectAll<Inbox>,
}

impl Reader {
    pub(super) fn new(inboxes: Vec<Inbox>) -> Self {
        Self { partitions: inboxes.into_iter().collect() }
    }

    /// The next message. `None` once all partitions have ended. Cancel safe.
    pub async fn next(&mut self) -> Option<Result<Delivery, Error>> {
        self.partitions.next().await
    }
}

impl Stream for Reader {
    type Item = Result<Delivery, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.partitions.poll_next_unpin(context)
    }
}
