//! From a session to the transport: a short queue whose items hold their bytes until the transport takes them. What was queued
//! while dispatching was allowed and is taken when it isn't any more, by a client that didn't read or a process that was
//! paused, is not handed over (M4, C38): the stream ends instead.

use std::pin::Pin;
use std::sync::Arc;

use alluvium_proto::status::to_status;
use alluvium_runtime::budget::BytesHeld;
use alluvium_runtime::clock::Clock;
use alluvium_types::fault::{Fault, FaultKind};
use futures::{Stream, stream};
use tokio::sync::mpsc;
use tonic::Status;

use crate::forward::Peer;
use crate::topic::lease::DispatchLease;
use crate::topic::{LoadedEntry, PartitionHandle, SubscriptionKind};

/// Responses that wait for the transport. Few: what waits longer stays where credit and budgets bound it.
const QUEUED_MAX: usize = 4;
/// How long the last word of a stream waits for room.
const LAST_WORD: std::time::Duration = std::time::Duration::from_secs(1);

/// What a response holds of the process's memory, until it is encoded (Q6).
#[derive(Debug, Default)]
pub(crate) struct Hold {
    /// Handed over only while messages of this partition may be, to subscriptions of this kind.
    dispatched: Option<(PartitionHandle, SubscriptionKind)>,
    entries: Vec<LoadedEntry>,
    inflated: Vec<Arc<BytesHeld>>,
    /// Handed over only while the broker that sent it lives by its session, and this one may dispatch: what came before either was
    /// paused may have been delivered elsewhere since.
    elsewhere: Option<(Peer, DispatchLease, SubscriptionKind)>,
    forwarded: Option<BytesHeld>,
}

impl Hold {
    /// Holds an entry as well whose bytes are sent, and what messages of it take that were decoded.
    pub(super) fn keep(&mut self, entry: &LoadedEntry, inflated: Option<&Arc<BytesHeld>>) {
        self.entries.push(entry.clone());
        self.inflated.extend(inflated.cloned());
    }

    /// Of messages that another broker sent.
    pub(super) fn forwarded(bytes: BytesHeld) -> Self {
        Self { forwarded: Some(bytes), ..Self::default() }
    }

    /// The same, of messages for a subscription from another broker.
    pub(super) fn dispatched_by(self, peer: &Peer, own: &DispatchLease, kind: SubscriptionKind) -> Self {
        Self { elsewhere: Some((peer.clone(), own.clone(), kind)), ..self }
    }

    /// The same, of messages for a subscription.
    pub(super) fn dispatched(self, partition: &PartitionHandle, kind: SubscriptionKind) -> Self {
        Self { dispatched: Some((partition.clone(), kind)), ..self }
    }

    /// Whether it is memory of this broker for what another one sent.
    pub(super) const fn is_forwarded(&self) -> bool {
        self.forwarded.is_some()
    }

    /// Whether it may be handed over now.
    pub(super) fn may_go(&self) -> bool {
        let here = self.dispatched.as_ref().is_none_or(|(partition, kind)| partition.may_dispatch(*kind));
        let there = self.elsewhere.as_ref().is_none_or(|(peer, lease, kind)| peer.lives() && lease.may_dispatch(*kind));
        here && there
    }
}

/// The reason of the fault of a broker that may not dispatch.
pub(crate) const DISPATCH_PAUSED: &str = "DISPATCH_PAUSED";

/// The broker may not dispatch, and did not for so long that its clients should look for another (M4).
pub(super) fn paused() -> Fault {
    Fault::new(FaultKind::Unavailable, DISPATCH_PAUSED, "this broker may not dispatch now; connect again")
}

/// The responses of a call, as the transport wants them.
pub type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The session's end.
#[derive(Debug)]
pub(super) struct Outbox<T> {
    queue: mpsc::Sender<(Result<T, Status>, Hold)>,
}

/// The other end.
#[derive(Debug)]
pub(crate) struct Queued<T>(mpsc::Receiver<(Result<T, Status>, Hold)>);

impl<T: Send + 'static> Queued<T> {
    /// For the transport, which encodes an item as soon as it has it: its bytes are copied then.
    pub(crate) fn responses(self) -> Responses<T> {
        let responses = stream::unfold(Some(self.0), async |items| {
            let mut items = items?;
            let (response, hold) = items.recv().await?;
            if hold.may_go() { Some((response, Some(items))) } else { Some((Err(to_status(&paused())), None)) }
        });
        Box::pin(responses)
    }

    /// For a relay, which passes on what each item holds.
    pub(super) fn items(self) -> impl Stream<Item = (Result<T, Status>, Hold)> + Send {
        stream::unfold(self.0, async |mut items| Some((items.recv().await?, items)))
    }
}

impl<T: Send + 'static> Outbox<T> {
    /// Both ends.
    pub(super) fn new() -> (Self, Queued<T>) {
        let (queue, items) = mpsc::channel(QUEUED_MAX);
        (Self { queue }, Queued(items))
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

    /// Ends a stream to a relay with a fault, which must hear it: an end without a word means that all was said. The relay takes what is
    /// queued, or goes.
    pub(super) async fn end(self, fault: &Fault) {
        // Who has gone misses nothing.
        let _ = self.queue.send((Err(to_status(fault)), Hold::default())).await;
    }

    /// Ends a stream to a client with a status.
    pub(super) async fn end_with(self, status: Status, clock: &Clock) {
        let last = self.queue.send((Err(status), Hold::default()));
        // A client that doesn't read sees the connection end instead.
        let _ = clock.timeout(LAST_WORD, last).await;
    }
}
