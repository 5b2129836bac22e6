//! What a caller waits for: one outcome for a whole batch, shared by its messages.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures::FutureExt;
use futures::future::Shared;
use tokio::sync::oneshot;

use super::window::Held;
use crate::error::Error;
use crate::message::Receipt;

/// Where a batch was stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Stored {
    pub(super) first_offset: Option<u64>,
    pub(super) duplicate: bool,
}

type Fate = Result<Stored, Error>;

/// The end that tells: travels with its batch, and holds the batch's bytes of the producer's window until then.
#[derive(Debug)]
pub(super) struct Outcome {
    tell: oneshot::Sender<Fate>,
    wait: BatchFate,
    held: Held,
}

/// The end that waits.
#[derive(Clone, Debug)]
pub(super) struct BatchFate(Shared<oneshot::Receiver<Fate>>);

impl Outcome {
    pub(super) fn new() -> Self {
        let (tell, wait) = oneshot::channel();
        Self { tell, wait: BatchFate(wait.shared()), held: Held::default() }
    }

    /// Keeps these bytes of the window taken until the outcome is told.
    pub(super) fn hold(&mut self, bytes: Held) {
        self.held.join(bytes);
    }

    /// Gives back what was taken beyond these bytes.
    pub(super) fn hold_no_more_than(&mut self, bytes: usize) {
        self.held.shrink_to(bytes);
    }

    pub(super) fn fate(&self) -> BatchFate {
        self.wait.clone()
    }

    pub(super) fn tell(self, fate: Fate) {
        // Nobody may be waiting any more.
        let _ = self.tell.send(fate);
    }
}

impl Future for BatchFate {
    type Output = Fate;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Fate> {
        // The task that tells is gone with the whole runtime, or panicked.
        self.0.poll_unpin(context).map(|told| told.unwrap_or_else(|_| Err(Error::Closed.unresolved())))
    }
}

/// A message on its way. Resolves to its receipt; dropping it does not take the message back.
#[derive(Debug)]
#[must_use = "it resolves to the receipt, or to why there is none"]
pub struct Pending {
    partition: u32,
    state: State,
}

#[derive(Debug)]
enum State {
    Travelling {
        batch: BatchFate,
        index: u32,
    },
    /// An earlier run stored it.
    Known,
}

impl Pending {
    pub(super) const fn travelling(partition: u32, batch: BatchFate, index: u32) -> Self {
        Self { partition, state: State::Travelling { batch, index } }
    }

    pub(super) const fn known(partition: u32) -> Self {
        Self { partition, state: State::Known }
    }

    /// The partition it goes to.
    pub const fn partition(&self) -> u32 {
        self.partition
    }
}

impl Future for Pending {
    type Output = Result<Receipt, Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let partition = self.partition;
        match &mut self.state {
            State::Known => Poll::Ready(Ok(Receipt { partition, offset: None, duplicate: true })),
            State::Travelling { batch, index } => {
                let index = u64::from(*index);
                Pin::new(batch).poll(context).map_ok(|stored| Receipt {
                    partition,
                    offset: stored.first_offset.map(|first| first + index),
                    duplicate: stored.duplicate,
                })
            }
        }
    }
}
