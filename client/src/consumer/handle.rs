//! The application's end of a consumer.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::{Stream, StreamExt};
use tokio::sync::oneshot;

use super::acker::Acker;
use crate::error::Error;
use crate::inbox::Inbox;
use crate::message::Delivery;

/// Messages of a subscription: a stream of deliveries, each to be acknowledged ([`Consumer::ack`]) or given back
/// ([`Consumer::nack`]).
///
/// When the connection is lost it is made again, and what was not acknowledged is delivered again. An item that is an
/// [`Error::Undeliverable`] concerns some messages, and the stream goes on; after any other error it ends.
///
/// [`Consumer::close`] waits until all acknowledgements are durable; dropping it sends them, without waiting.
#[derive(Debug)]
pub struct Consumer {
    inbox: Inbox,
    acker: Acker,
    ended: oneshot::Receiver<Result<(), Error>>,
    partitions: Vec<u32>,
}

impl Consumer {
    pub(super) const fn new(
        inbox: Inbox,
        acker: Acker,
        ended: oneshot::Receiver<Result<(), Error>>,
        partitions: Vec<u32>,
    ) -> Self {
        Self { inbox, acker, ended, partitions }
    }

    /// The next delivery. `None` after an error that ends the stream. Cancel safe.
    pub async fn next(&mut self) -> Option<Result<Delivery, Error>> {
        self.inbox.next().await
    }

    /// Acknowledges a delivery. When this returns it is durable, and the message is not delivered again.
    pub async fn ack(&self, delivery: &Delivery) -> Result<(), Error> {
        self.acker.ack(delivery).await
    }

    /// Acknowledges a delivery some time soon, together with others. [`Acker::flush`] waits for it, as does
    /// [`Consumer::close`].
    pub fn ack_later(&self, delivery: &Delivery) {
        self.acker.ack_later(delivery);
    }

    /// Acknowledges a delivery and everything before it in its partition; durable when this returns. Not on a shared
    /// subscription.
    pub async fn ack_up_to(&self, delivery: &Delivery) -> Result<(), Error> {
        self.acker.ack_up_to(delivery).await
    }

    /// Gives a delivery back, to be delivered again, not before `delay` from now.
    pub fn nack(&self, delivery: &Delivery, delay: Duration) {
        self.acker.nack(delivery, delay);
    }

    /// What acknowledges this consumer's deliveries: for other tasks, and in other ways.
    pub fn acker(&self) -> Acker {
        self.acker.clone()
    }

    /// The partitions it consumes.
    pub fn partitions(&self) -> &[u32] {
        &self.partitions
    }

    /// Waits until all acknowledgements are durable, and leaves the subscription.
    pub async fn close(self) -> Result<(), Error> {
        self.inbox.close();
        self.ended.await.unwrap_or(Err(Error::Closed))
    }
}

impl Stream for Consumer {
    type Item = Result<Delivery, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.inbox.poll_next_unpin(context)
    }
}
