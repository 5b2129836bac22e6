//! One publish stream: requests to the partitions, receipts back, both bounded. It waits for one thing at a time of all that may
//! happen, so that nobody who is slow holds up what concerns others.

use std::time::Duration;

use alluvium_proto::status::to_status;
use alluvium_proto::v1;
use alluvium_proto::v1::publish_stream_request::Request;
use alluvium_runtime::budget::BytesHeld;
use alluvium_types::fault::{Fault, FaultKind};
use alluvium_types::ids::PartitionIndex;
use futures::future::BoxFuture;
use futures::{FutureExt, Stream, StreamExt};
use tokio::sync::mpsc;
use tonic::Status;

use super::admission::{self, Opening};
use super::intake::Share;
use super::lane::Item;
use super::lanes::{Lanes, OUTSTANDING_MAX};
use super::receipt::{Answer, Answers};
use super::way::Parked;
use crate::broker::{Broker, Scope, TopicInfo};
use crate::forward::topic_with;

/// How long receipts of a stream that ends are waited for.
const LAST_RECEIPTS: Duration = Duration::from_secs(30);
/// How long the last word of a stream waits for room.
const LAST_WORD: Duration = Duration::from_secs(1);

/// A publish stream, opened.
pub(crate) struct Session<S> {
    pub(super) broker: Broker,
    /// Whether its partitions may be anywhere, or must be here.
    pub(super) scope: Scope,
    pub(super) topic: TopicInfo,
    pub(super) opening: Opening,
    /// What opens it at other brokers.
    pub(super) open: v1::PublishOpen,
    pub(super) requests: S,
    /// What the message that was received last holds until it is counted.
    pub(super) share: Share,
    pub(super) responses: mpsc::Sender<Result<v1::PublishStreamResponse, Status>>,
}

/// What came and has room.
struct Admitted {
    request: Request,
    held: BytesHeld,
    /// The topic as it is now, if the request names a partition that it did not have.
    topic: Option<Result<TopicInfo, Fault>>,
}

impl<S> Session<S>
where
    S: Stream<Item = Result<v1::PublishStreamRequest, Status>> + Unpin + Send,
{
    /// Runs until the client ends it, the broker stops, or a request can't be read or makes no sense. What was sent on is answered first.
    pub(crate) async fn run(self) {
        let Self { broker, scope, topic, opening, open, mut requests, share, responses } = self;
        // Each upstream says once more that it is lost.
        let (answers, mut heard) = Answers::channel(2 * OUTSTANDING_MAX);
        let clock = broker.clock().clone();
        let mut lanes = Lanes::new(broker, scope, topic, opening, open, answers);
        let ended = serve(&mut lanes, &mut requests, &share, &responses, &mut heard).await;
        // What was sent on has its answer, even though no more is taken.
        let rest = async {
            while lanes.owes() {
                lanes.send_on();
                if !lanes.step(&mut heard, &responses).await {
                    return;
                }
            }
        };
        if clock.timeout(LAST_RECEIPTS, rest).await.is_err() {
            tracing::debug!(topic = %lanes.topic().name, "a publish stream ended before all of its receipts came");
        }
        // What it has of room is let go before it waits for anything else.
        drop(lanes);
        if let Err(fault) = ended {
            // A client that doesn't read sees the connection end instead.
            let _ = clock.timeout(LAST_WORD, responses.send(Err(to_status(&fault)))).await;
        }
    }
}

/// What came is no request, or too long for one.
pub(super) fn unreadable(status: &Status) -> Fault {
    Fault::invalid("request", "UNREADABLE", status.message())
}

async fn serve<S>(
    lanes: &mut Lanes,
    requests: &mut S,
    share: &Share,
    responses: &mpsc::Sender<Result<v1::PublishStreamResponse, Status>>,
    heard: &mut mpsc::Receiver<Answer>,
) -> Result<(), Fault>
where
    S: Stream<Item = Result<v1::PublishStreamRequest, Status>> + Unpin + Send,
{
    let tasks = lanes.broker().tasks().clone();
    // What came and waits for room. Answers are heard meanwhile: what they let go of is room.
    let mut admitting: Option<BoxFuture<'static, Admitted>> = None;
    loop {
        lanes.send_on();
        let takes = admitting.is_none() && !lanes.is_full();
        tokio::select! {
            biased;
            () = tasks.stopping() => {
                return Err(Fault::new(FaultKind::Unavailable, "STOPPING", "the broker is stopping; connect again"));
            }
            () = responses.closed() => return Ok(()),
            goes_on = lanes.step(heard, responses) => if !goes_on {
                return Ok(());
            },
            admitted = some(&mut admitting), if admitting.is_some() => {
                admitting = None;
                share.counted();
                take(lanes, admitted)?;
            }
            request = requests.next(), if takes => match request {
                None => return Ok(()),
                Some(Err(status)) => return Err(unreadable(&status)),
                Some(Ok(request)) => admitting = Some(admit(lanes, asked(request)?)),
            },
        }
    }
}

/// Makes room for a request. Where it names a partition that the topic did not have, it may have been given more since. A client may
/// name what it likes: for it, the topic's record is believed for a while, so that looking is cheap. Another broker knows what it names.
fn admit(lanes: &Lanes, request: Request) -> BoxFuture<'static, Admitted> {
    let (broker, budget, name) = (lanes.broker().clone(), lanes.budget(), lanes.topic().name.clone());
    let (partition, bytes) = match &request {
        Request::Batch(batch) => (batch.partition, batch.batch.as_ref().map_or(0, |batch| batch.blob.len())),
        Request::Claim(claim) => (claim.partition, 0),
        Request::Open(_) => (0, 0),
    };
    let is_known = partition < lanes.topic().partitions;
    let scope = lanes.scope();
    let admitted = async move {
        let topic = match scope {
            _ if is_known => None,
            Scope::Cluster => Some(broker.topic(&name).await),
            Scope::Here => Some(topic_with(&broker, &name, &[PartitionIndex::new(partition)]).await),
        };
        let held = if bytes == 0 { budget.none() } else { budget.take(bytes).await };
        Admitted { request, held, topic }
    };
    admitted.boxed()
}

/// Takes one request in.
fn take(lanes: &mut Lanes, Admitted { request, held, topic }: Admitted) -> Result<(), Fault> {
    let (index, item) = match request {
        Request::Batch(batch) => {
            (PartitionIndex::new(batch.partition), Item::Batch(batch.id, Parked { batch, held: Some(held) }))
        }
        Request::Claim(claim) => (PartitionIndex::new(claim.partition), Item::Claim(claim.last_epoch)),
        Request::Open(_) => return Err(Fault::invalid("open", "OPENED_TWICE", "a stream is opened once")),
    };
    let admitted = topic.map_or(Ok(()), |topic| topic.map(|topic| lanes.is_now(topic)));
    lanes.take(index, item, admitted);
    Ok(())
}

/// What can be refused without asking the partition's owner.
pub(super) fn check(index: PartitionIndex, item: &Item<Parked>, topic: &TopicInfo, opening: &Opening) -> Result<(), Fault> {
    if index.get() >= topic.partitions {
        return Err(admission::no_partition(index.get(), &topic.name, topic.partitions));
    }
    match item {
        Item::Batch(_, parked) if parked.batch.batch.is_none() => {
            Err(Fault::invalid("batch", "MISSING", "there is no batch in the request"))
        }
        Item::Claim(_) if opening.producer.is_none() => {
            let text = "a stream that was opened without a producer's name claims none";
            Err(Fault::invalid("producer", "NO_PRODUCER", text))
        }
        _ => Ok(()),
    }
}

/// What a request asks. An error ends the stream: it is of no known kind.
fn asked(request: v1::PublishStreamRequest) -> Result<Request, Fault> {
    let missing = || Fault::invalid("request", "MISSING", "the request is of no kind that this server knows");
    request.request.ok_or_else(missing)
}

/// What a future gives that may not be there.
async fn some<T>(future: &mut Option<BoxFuture<'static, T>>) -> T {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}
