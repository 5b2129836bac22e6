//! A publish stream's other streams: one to each broker that owns some of its partitions.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use alluvium_proto::internal::v1 as wire;
use alluvium_proto::v1;
use alluvium_proto::v1::publish_stream_request::Request;
use alluvium_runtime::clock::Clock;
use alluvium_runtime::tasks::OnFailure;
use alluvium_types::ids::PartitionIndex;
use futures::{StreamExt, stream};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::lane::Item;
use super::receipt::{Answer, Answers};
use super::way::Parked;
use crate::broker::Broker;
use crate::forward::Peer;

/// Requests between a session and the connection to another broker.
const REQUESTS: usize = 16;
/// How long another broker may take to open a stream.
const OPEN_WITHIN: Duration = Duration::from_secs(10);

/// The way to another broker, for one publish stream.
#[derive(Clone)]
pub(super) struct Upstream(Arc<Parts>);

struct Parts {
    number: u64,
    requests: mpsc::Sender<wire::ForwardPublishRequest>,
    sent: prometheus_client::metrics::counter::Counter,
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Upstream({})", self.0.number)
    }
}

impl Upstream {
    /// Which one, of all that its session has had.
    pub(super) fn number(&self) -> u64 {
        self.0.number
    }

    /// Where requests go; closed once the stream has ended.
    pub(super) fn requests(&self) -> &mpsc::Sender<wire::ForwardPublishRequest> {
        &self.0.requests
    }

    /// A request on its way there. Its answer comes, or that the stream was lost.
    pub(super) fn send(&self, room: mpsc::OwnedPermit<wire::ForwardPublishRequest>, index: PartitionIndex, item: &Item<Parked>) {
        let request = match item {
            Item::Batch(_, parked) => Request::Batch(parked.batch.clone()),
            Item::Claim(last_epoch) => Request::Claim(v1::PublishClaim { partition: index.get(), last_epoch: *last_epoch }),
        };
        self.0.sent.inc();
        room.send(forwarded(request));
    }
}

fn forwarded(request: Request) -> wire::ForwardPublishRequest {
    wire::ForwardPublishRequest { request: Some(v1::PublishStreamRequest { request: Some(request) }) }
}

/// All of one session. Dropping them ends the streams.
pub(super) struct Upstreams {
    broker: Broker,
    open: v1::PublishOpen,
    answers: Answers,
    /// By the session of the broker.
    standing: BTreeMap<alluvium_types::ids::SessionId, Upstream>,
    /// Those that have not been lost.
    alive: BTreeSet<u64>,
    next: u64,
}

impl Upstreams {
    /// None yet. What they answer goes to `answers`.
    pub(super) fn new(broker: Broker, open: v1::PublishOpen, answers: Answers) -> Self {
        Self { broker, open, answers, standing: BTreeMap::new(), alive: BTreeSet::new(), next: 0 }
    }

    /// The one to a broker; begun if there is none.
    pub(super) fn to(&mut self, peer: &Peer) -> Upstream {
        if let Some(standing) = self.standing.get(&peer.session()) {
            return standing.clone();
        }
        let (requests, rx) = mpsc::channel(REQUESTS);
        let number = self.next;
        self.next += 1;
        self.alive.insert(number);
        let (peer_task, answers, broker, open) = (peer.clone(), self.answers.clone(), self.broker.clone(), self.open.clone());
        self.broker.tasks().spawn("forward-publish", OnFailure::Log, async move {
            let mut opened = false;
            let ended = tokio::select! {
                biased;
                ended = listen(&peer_task, broker.clock(), open, rx, &answers, (number, &mut opened)) => ended,
                () = peer_task.gone() => Status::unavailable("the broker's session is gone"),
            };
            tracing::debug!(broker = %peer_task.name(), status = %ended, "a stream to another broker ended");
            peer_task.failed();
            answers.tell(Answer::Lost { upstream: number, opened });
            Ok::<(), Infallible>(())
        });
        let sent = self.broker.context().metrics.forwarded_batches.clone();
        let upstream = Upstream(Arc::new(Parts { number, requests, sent }));
        self.standing.insert(peer.session(), upstream.clone());
        upstream
    }

    /// Whether this one has not been lost.
    pub(super) fn stands(&self, number: u64) -> bool {
        self.alive.contains(&number)
    }

    /// Something was refused there as moved: the other end refuses all of that partition from then on, so that nothing overtakes what
    /// goes again. What goes to the same broker again goes by another stream.
    pub(super) fn retire(&mut self, number: u64) {
        self.standing.retain(|_, upstream| upstream.number() != number);
    }

    /// This one is no more.
    pub(super) fn lost(&mut self, number: u64) {
        self.alive.remove(&number);
        self.retire(number);
    }
}

/// Hands on what the other broker answers, until it ends; says how it ended.
async fn listen(
    peer: &Peer,
    clock: &Clock,
    open: v1::PublishOpen,
    requests: mpsc::Receiver<wire::ForwardPublishRequest>,
    answers: &Answers,
    (number, opened): (u64, &mut bool),
) -> Status {
    let mut requests = Some(requests);
    // Nothing is sent on before the stream stands: what waits for that took no effect.
    let (stands, gate) = oneshot::channel::<()>();
    let held = stream::once(gate).flat_map(move |stood| match (stood, requests.take()) {
        (Ok(()), Some(requests)) => ReceiverStream::new(requests).left_stream(),
        _ => stream::empty().right_stream(),
    });
    let sent = stream::iter([forwarded(Request::Open(open))]).chain(held);
    let mut service = peer.publishing();
    let opening = service.forward_publish(sent);
    let mut stands = Some(stands);
    let mut responses = match clock.timeout(OPEN_WITHIN, opening).await {
        Ok(Ok(opened)) => opened.into_inner(),
        Ok(Err(status)) => return status,
        Err(elapsed) => return Status::unavailable(elapsed.to_string()),
    };
    loop {
        let answer = tokio::select! {
            biased;
            answer = responses.message() => answer,
            // Nobody listens any more.
            () = answers.gone() => return Status::ok(""),
        };
        match answer {
            Ok(Some(wire::ForwardPublishResponse { response: Some(v1::PublishStreamResponse { response: Some(response) }) })) => {
                if let Some(stands) = stands.take() {
                    *opened = true;
                    // A stream that ended meanwhile says so.
                    let _ = stands.send(());
                }
                answers.tell(Answer::Forwarded { upstream: number, response });
            }
            // A newer broker may say what need not be known here.
            Ok(Some(_)) => {}
            Ok(None) => return Status::unavailable("the stream ended"),
            Err(status) => return status,
        }
    }
}
