//! The streams behind a relay: begun at whoever owns the partitions.

use std::collections::BTreeMap;
use std::time::Duration;

use alluvium_proto::status::{RemoteFault, to_status};
use alluvium_proto::v1;
use alluvium_types::fault::FaultKind;
use alluvium_types::ids::{PartitionIndex, SessionId};
use futures::future::{join, join_all};
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, stream};
use tokio::sync::mpsc;
use tonic::Status;

use super::Traffic;
use crate::broker::{Broker, Route, Scope};
use crate::deliver::line::{Ask, Said, Say};
use crate::deliver::membership::Partitions;
use crate::deliver::outbox::Hold;
use crate::deliver::service::ConsumeEdge;
use crate::forward::{Peer, is_resumable};
use crate::subscription::Grant;

/// How many partitions' owners are looked for at a time.
const ROUTED_AT_ONCE: usize = 16;
/// Requests between a relay and a stream.
const REQUESTS: usize = 64;
/// When a stream is opened: once some owners are found, how long the others are waited for that can be served later.
const OTHERS_WAIT: Duration = Duration::from_secs(1);
/// How long another broker may take to open a stream.
const OPEN_WITHIN: Duration = Duration::from_secs(25);

/// A stream behind a relay.
pub(super) struct Upstream<T: Traffic> {
    pub(super) partitions: Vec<PartitionIndex>,
    pub(super) requests: mpsc::Sender<Ask<T::Request>>,
    /// What came of it for the client.
    pub(super) delivered: Grant,
    /// How often it was asked to give back credit and did not answer.
    pub(super) returns: usize,
    /// Until it has answered all of that, what comes was sent before it heard that the client reads nothing.
    pub(super) takes_back: bool,
    peer: Option<Peer>,
}

impl<T: Traffic> Upstream<T> {
    const fn new(partitions: Vec<PartitionIndex>, requests: mpsc::Sender<Ask<T::Request>>, peer: Option<Peer>) -> Self {
        let delivered = Grant { messages: 0, bytes: 0 };
        Self { partitions, requests, delivered, returns: 0, takes_back: false, peer }
    }

    /// Whether its partitions are this broker's.
    pub(super) const fn is_here(&self) -> bool {
        self.peer.is_none()
    }

    /// Who serves its partitions.
    pub(super) fn owners(&self, own: &Broker) -> Vec<v1::PartitionOwner> {
        let (broker, address) = match &self.peer {
            Some(peer) => (peer.name(), peer.address()),
            None => (&own.context().name, own.address()),
        };
        let owner = |index: &PartitionIndex| v1::PartitionOwner {
            partition: index.get(),
            broker: broker.to_string(),
            address: address.to_owned(),
        };
        self.partitions.iter().map(owner).collect()
    }

    /// Where it goes, if not here.
    pub(super) const fn peer(&self) -> Option<&Peer> {
        self.peer.as_ref()
    }
}

/// A stream that has begun.
pub(super) struct Begun<T: Traffic> {
    pub(super) upstream: Upstream<T>,
    pub(super) stream: BoxStream<'static, Said<T::Response>>,
    pub(super) first: T::Response,
}

/// Who serves which partitions.
#[derive(Default)]
pub(super) struct Owners {
    pub(super) here: Partitions,
    pub(super) there: BTreeMap<SessionId, (Peer, Vec<PartitionIndex>)>,
}

impl Owners {
    pub(super) fn add(&mut self, index: PartitionIndex, route: Route) {
        match route {
            Route::Here(handle) => {
                self.here.insert(index, handle);
            }
            Route::There(peer) => self.there.entry(peer.session()).or_insert_with(|| (peer, Vec::new())).1.push(index),
        }
    }
}

/// Who serves a partition; this broker takes it over if nobody does. Cancel safe.
async fn route<T: Traffic>(edge: &ConsumeEdge, traffic: &T, index: PartitionIndex) -> Result<Route, Status> {
    edge.broker.route(traffic.topic(), index, Scope::Cluster).await.map_err(|fault| to_status(&fault))
}

/// What is known of some partitions' owners.
pub(super) struct Routed {
    pub(super) found: Owners,
    /// Those whose owners are not known, or can't be, for the reason that matters most.
    pub(super) left: Vec<PartitionIndex>,
    pub(super) why: Option<Status>,
}

/// Looks for the owners of all these partitions. Once one is found, the others are waited for no longer than `others`, if that is
/// given.
pub(super) async fn owners<T: Traffic>(
    edge: &ConsumeEdge,
    traffic: &T,
    partitions: &[PartitionIndex],
    others: Option<Duration>,
) -> Routed {
    let clock = edge.broker.clock();
    let mut routed = Routed { found: Owners::default(), left: partitions.to_vec(), why: None };
    let mut routes = stream::iter(partitions.to_vec())
        .map(|index| route(edge, traffic, index).map(move |route| (index, route)))
        .buffer_unordered(ROUTED_AT_ONCE);
    let mut until = None;
    loop {
        let next = tokio::select! {
            biased;
            next = routes.next() => next,
            () = clock.sleep_until(until.unwrap_or_default()), if until.is_some() => None,
        };
        match next {
            Some((index, Ok(route))) => {
                routed.left.retain(|other| *other != index);
                routed.found.add(index, route);
                until = until.or_else(|| Some(clock.mono().after(others?)));
            }
            // What ends the stream is said first.
            Some((_, Err(status))) if routed.why.as_ref().is_none_or(passes) => routed.why = Some(status),
            Some(_) => {}
            None => return routed,
        }
    }
}

/// Begins streams at the owners of these partitions: at all of them or at none, unless the others can be served later. Gives back
/// those partitions, which are never all.
pub(super) async fn begin<T: Traffic>(
    edge: &ConsumeEdge,
    traffic: &T,
    partitions: &[PartitionIndex],
) -> Result<(Vec<Begun<T>>, Vec<PartitionIndex>), Status> {
    let others = traffic.opens_in_part().then_some(OTHERS_WAIT);
    let Routed { found, mut left, mut why } = owners(edge, traffic, partitions, others).await;
    let may_wait = |status: &Status| traffic.opens_in_part() && passes(status) && !is_busy(status);
    if let Some(status) = why.take_if(|status| !may_wait(status)) {
        return Err(status);
    }
    let Owners { here, there } = found;
    let own = async {
        let partitions = here.keys().copied().collect();
        if here.is_empty() { None } else { Some((partitions, at_home(edge, traffic, here).await)) }
    };
    let theirs = there.into_values().map(async |(peer, partitions)| {
        let begun = elsewhere(edge, traffic, peer, partitions.clone()).await;
        (partitions, begun)
    });
    let (own, theirs) = join(own, join_all(theirs)).await;
    let mut all: Vec<Begun<T>> = Vec::new();
    for (partitions, begun) in theirs.into_iter().chain(own) {
        match begun {
            Ok(begun) => all.push(begun),
            Err(status) if may_wait(&status) => {
                left.extend(partitions);
                why = Some(status);
            }
            Err(status) => return Err(status),
        }
    }
    match why {
        Some(status) if all.is_empty() => Err(status),
        _ => Ok((all, left)),
    }
}

pub(super) async fn at_home<T: Traffic>(edge: &ConsumeEdge, traffic: &T, handles: Partitions) -> Result<Begun<T>, Status> {
    let (requests, rx) = mpsc::channel(REQUESTS);
    let partitions = handles.keys().copied().collect();
    let stream = traffic.here(edge, handles, rx).await?.items().boxed();
    opened(Upstream::new(partitions, requests, None), stream).await
}

pub(super) async fn elsewhere<T: Traffic>(
    edge: &ConsumeEdge,
    traffic: &T,
    peer: Peer,
    mut partitions: Vec<PartitionIndex>,
) -> Result<Begun<T>, Status> {
    partitions.sort_unstable();
    let (requests, rx) = mpsc::channel(REQUESTS);
    edge.broker.context().metrics.forwarded_streams.inc();
    let (gone, there) = (peer.clone(), peer.clone());
    let upstream = Upstream::new(partitions.clone(), requests, Some(peer));
    let beginning = async {
        let stream = traffic.there(&there, &partitions, rx).await?;
        // A broker that is silent is not waited for once its session is gone.
        let gone = stream::once(async move {
            gone.gone().await;
            Err(Status::unavailable("the broker's session is gone"))
        });
        opened(upstream, until(stream, gone.boxed()).map(|said| (said, Hold::default())).boxed()).await
    };
    let begun = tokio::select! {
        biased;
        begun = edge.broker.clock().timeout(OPEN_WITHIN, beginning) => {
            begun.unwrap_or_else(|elapsed| Err(Status::unavailable(elapsed.to_string())))
        }
        () = there.gone() => Err(Status::unavailable("the broker's session is gone")),
    };
    if begun.is_err() {
        there.failed();
        partitions.iter().for_each(|index| edge.broker.moved(traffic.topic().id, *index));
    }
    begun
}

/// `items`, to their end or until `last` says something.
fn until<I: Send + 'static>(items: BoxStream<'static, I>, last: BoxStream<'static, I>) -> BoxStream<'static, I> {
    let both = (items, last);
    stream::unfold(Some(both), async |both| {
        let (mut items, mut last) = both?;
        tokio::select! {
            biased;
            item = items.next() => item.map(|item| (item, Some((items, last)))),
            item = last.next() => item.map(|item| (item, None)),
        }
    })
    .boxed()
}

async fn opened<T: Traffic>(
    upstream: Upstream<T>,
    mut stream: BoxStream<'static, Said<T::Response>>,
) -> Result<Begun<T>, Status> {
    match stream.next().await {
        Some((Ok(Say::Response { response: first, .. }), _)) => Ok(Begun { upstream, stream, first }),
        Some((Err(status), _)) => Err(status),
        Some((Ok(_), _)) | None => Err(Status::unavailable("a stream did not open")),
    }
}

/// Whether somebody else has what is wanted.
pub(super) fn is_busy(status: &Status) -> bool {
    RemoteFault::from(status).reason == "SUBSCRIPTION_BUSY"
}

/// Whether it may pass, or concerns only some partitions. Where the last owner has not noticed that its stream broke, it still has
/// this consumer.
pub(super) fn passes(status: &Status) -> bool {
    is_resumable(status) || status.code() == tonic::Code::Unavailable || is_busy(status) || is_of_a_partition(status)
}

/// Whether it is one partition that can't be served.
pub(super) fn is_of_a_partition(status: &Status) -> bool {
    let fault = RemoteFault::from(status);
    fault.kind == FaultKind::DataLoss || fault.reason == "PARTITION_UNAVAILABLE"
}
