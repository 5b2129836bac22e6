//! From a session to the transport: a short queue whose items hold their bytes until the transport takes them.

use std::pin::Pin;
use std::sync::Arc;

use alluvium_proto::status::to_status;
use alluvium_runtime::budget::BytesHeld;
use alluvium_runtime::clock::Clock;
use alluvium_types::fault::Fault;
use futures::{Stream, StreamExt};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::topic::LoadedEntry;

/// Responses that wait for the transport. Few: what waits longer stays where credit and budgets bound it.
const QUEUED_MAX: usize = 4;
/// How long the last word of a stream waits for room.
const LAST_WORD: std::time::Duration = std::time::Duration::from_secs(1);

/// What a response holds of the process's memory, until it is encoded (Q6).
#[derive(Debug, Default)]
pub(super) struct Hold {
    _entry: Option<LoadedEntry>,
    _inflated: Option<Arc<BytesHeld>>,
}

impl Hold {
    /// Of an entry whose bytes are sent.
    pub(super) fn entry(entry: &LoadedEntry) -> Self {
        Self { _entry: Some(entry.clone()), _inflated: None }
    }

    /// Of decoded messages.
    pub(super) fn decoded(entry: &LoadedEntry, inflated: Arc<BytesHeld>) -> Self {
        Self { _entry: Some(entry.clone()), _inflated: Some(inflated) }
    }
}

/// The responses of a call, as the transport wants them.
pub(super) type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The session's end.
#[derive(Debug)]
pub(super) struct Outbox<T> {
    queue: mpsc::Sender<(Result<T, Status>, Hold)>,
}

impl<T: Send + 'static> Outbox<T> {
    /// Both ends.
    pub(super) fn new() -> (Self, Responses<T>) {
        let (queue, items) = mpsc::channel(QUEUED_MAX);
        // The transport encodes an item as soon as it has it: its bytes are copied then.
        let responses = ReceiverStream::new(items).map(|(response, _hold)| response);
        (Self { queue }, Box::pin(responses))
    }

    /// Resolves once there is room for a response; only this end fills it. Cancel safe.
    pub(super) async fn room(&self) {
        // A closed queue has room: what goes there goes nowhere.
        let _ = self.queue.reserve().await;
    }

    /// Sends, after [`Outbox::room`].
    pub(super) fn send(&self, response: T, hold: Hold) {
        // Who hung up misses nothing.
        let _ = self.queue.try_send((Ok(response), hold));
    }

    /// Resolves once the client has gone. Cancel safe.
    pub(super) async fn gone(&self) {
        self.queue.closed().await;
    }

    /// Ends the stream with a fault.
    pub(super) async fn end(self, fault: &Fault, clock: &Clock) {
        let last = self.queue.send((Err(to_status(fault)), Hold::default()));
        // A client that doesn't read sees the connection end instead.
        let _ = clock.timeout(LAST_WORD, last).await;
    }
}
