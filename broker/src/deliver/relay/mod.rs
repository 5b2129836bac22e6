//! A client's stream over all owners of its partitions: this broker, others, or some of each.
//!
//! The relay is what the client talks to, as long as it likes; behind it stands one stream for each owner, and when owners come and
//! go, others take their place: what the client has stays with it, what it acknowledged and was not answered is acknowledged again.
//! Its credit is shared out by [`allotment`]; what is asked waits in [`asks`], for each stream apart; [`upstream`] begins the streams,
//! [`search`] those for partitions that were lost; [`subscribing`] and [`reading`] know what is said.

mod allotment;
mod asks;
mod reading;
mod search;
mod stall;
mod subscribing;
mod upstream;

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::time::Duration;

use alluvium_proto::status::{RemoteFault, to_status};
use alluvium_proto::v1;
use alluvium_runtime::backoff::Backoff;
use alluvium_runtime::budget::BytesHeld;
use alluvium_runtime::tasks::OnFailure;
use alluvium_types::fault::{Fault, FaultKind};
use alluvium_types::ids::PartitionIndex;
use alluvium_types::time::Mono;
use futures::future::BoxFuture;
use futures::stream::{BoxStream, FuturesUnordered};
use futures::{FutureExt, Stream, StreamExt};
use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::StreamMap;
use tonic::Status;

use allotment::{Allotment, Key, Step};
use asks::{Asks, Next};
pub(super) use reading::Reading;
use search::Found;
use stall::STALL;
pub(super) use subscribing::Subscribing;
use upstream::{Begun, Upstream, begin};

use super::consume::some;
use super::growth::{Grown, Growth};
use super::line::{Ask, Said, Say};
use super::outbox::{DISPATCH_PAUSED, Hold, Outbox, Queued};
use super::service::ConsumeEdge;
use crate::broker::TopicInfo;
use crate::forward::is_resumable;
use crate::subscription::{Grant, Span};
use crate::topic::SubscriptionKind;

/// How long owners are looked for that serve what a stream lost, before the client is told.
const PATIENCE: Duration = Duration::from_secs(20);
/// Between attempts: at least, and at most.
const AGAIN: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(500));
/// How long a stream of a broker that stops waits for the receipts of what was acknowledged.
const DRAIN: Duration = Duration::from_secs(3);
/// Responses that may wait for a client that does not read, before nothing more is taken from it.
const PENDING_MAX: usize = 1024;
/// Bytes that may wait for a client, beside its largest message, of each owner elsewhere.
const WINDOW_BYTES: usize = 2 << 20;

/// What another broker says.
pub(super) type Says<R> = BoxStream<'static, Result<Say<R>, Status>>;

/// What tells one kind of stream from another.
pub(super) trait Traffic: Clone + Send + Sync + 'static {
    /// What a client asks.
    type Request: Message + Send + 'static;
    /// What it is told.
    type Response: Message + Send + 'static;

    /// Where it goes.
    fn topic(&self) -> &TopicInfo;

    /// Looks after partitions that the topic is given later.
    fn growth(&self) -> Option<Growth>;

    /// Begins to serve partitions of this broker. The first response says that it is open.
    fn here(
        &self,
        edge: &ConsumeEdge,
        partitions: super::membership::Partitions,
        requests: mpsc::Receiver<Ask<Self::Request>>,
    ) -> impl Future<Output = Result<Queued<Say<Self::Response>>, Status>> + Send;

    /// Begins to serve partitions of another broker.
    fn there(
        &self,
        peer: &crate::forward::Peer,
        partitions: &[PartitionIndex],
        requests: mpsc::Receiver<Ask<Self::Request>>,
    ) -> impl Future<Output = Result<Says<Self::Response>, Status>> + Send;

    /// A grant of credit.
    fn credit(grant: Grant) -> Self::Request;

    /// What a client asks: credit, or something for a partition. Remembers what must be asked again of the next owner.
    fn asked(&mut self, request: Self::Request) -> Result<Asked<Self>, Fault>;

    /// What an owner says: for the client, with what it delivers; `None` if it is not for the client.
    fn said(&mut self, response: Self::Response) -> Option<(Self::Response, Grant)>;

    /// Forgets that the client has what an owner said, as it does not take it: what that delivers, and the credit that it used; `None`
    /// if it is kept for the client.
    fn take_back(&mut self, response: &Self::Response) -> Option<(PartitionIndex, Vec<Span>, Grant)>;

    /// Whether owners take back what the client was not handed. Of those that don't, a new stream is begun where the client is.
    fn takes_back(&self) -> bool;

    /// The kind of subscription that it delivers for, if any.
    fn dispatches(&self) -> Option<SubscriptionKind>;

    /// Whether it takes no more requests until some are answered.
    fn is_full(&self) -> bool;

    /// Whether all that was asked is answered.
    fn is_settled(&self) -> bool;

    /// What is asked again of the next owner of a partition.
    fn again(&self, partition: PartitionIndex) -> Vec<Self::Request>;

    /// Whether there is nothing more to come of any partition, as the owner of these has ended well.
    fn is_complete(&mut self, partitions: &[PartitionIndex]) -> bool;

    /// Whether a stream may be opened while some of its partitions can't be served: they follow.
    fn opens_in_part(&self) -> bool;

    /// The first response, once the partitions are served that can be.
    fn opened(&mut self, responses: Vec<Self::Response>, owners: Vec<v1::PartitionOwner>) -> Self::Response;

    /// The topic has more partitions now, which are to be served as well.
    fn grown(&mut self, grown: &Grown);
}

/// What a client asks.
pub(super) enum Asked<T: Traffic> {
    /// More credit.
    Credit(Grant),
    /// Something for a partition; it is not asked again by itself of the next owner.
    Of(PartitionIndex, T::Request),
    /// Something for a partition, remembered until it is answered.
    Remembered(PartitionIndex, T::Request),
    /// Something that makes no sense; answered so.
    Refused(T::Response),
}

/// A client's stream, at work.
struct Relay<T: Traffic, S> {
    edge: ConsumeEdge,
    traffic: T,
    requests: S,
    outbox: Outbox<T::Response>,
    allotment: Allotment,
    upstreams: BTreeMap<Key, Upstream<T>>,
    /// Which stream serves a partition.
    served: BTreeMap<PartitionIndex, Key>,
    here: StreamMap<Key, BoxStream<'static, Option<Said<T::Response>>>>,
    there: StreamMap<Key, BoxStream<'static, Option<Said<T::Response>>>>,
    /// For the client; with whose it is, and the bytes that its stream had used.
    pending: VecDeque<(T::Response, Hold, Key, u64)>,
    asks: Asks<T::Request>,
    /// What is done about partitions that nobody serves.
    beginning: FuturesUnordered<BoxFuture<'static, Found<T>>>,
    /// There has been something for the client, and no room for it, since.
    full_since: Option<Mono>,
    /// It did not read for so long that nothing of other brokers is kept for it until it does.
    stalled: bool,
    /// Partitions whose streams ended for that.
    set_aside: Vec<PartitionIndex>,
    half_closed: bool,
    /// The broker stops: nobody is looked for any more.
    stops: bool,
    next_key: Key,
}

enum Wake<T: Traffic> {
    Stop,
    Gone,
    Here(Key, Option<Said<T::Response>>),
    There(Key, Option<Said<T::Response>>),
    Held(Key, Saying<T>, BytesHeld),
    Request(Option<Result<T::Request, Status>>),
    Room,
    Asked,
    Found(Found<T>),
    Grown(Grown),
    Stalled,
}

/// What a stream says, or its last word.
type Saying<T> = Result<Say<<T as Traffic>::Response>, Status>;

/// Why a stream ends.
enum End {
    Gone,
    Complete,
    Status(Status),
}

/// Opens a stream at all owners of these partitions, and serves it from then on.
pub(super) async fn open<T, S>(
    edge: &ConsumeEdge,
    mut traffic: T,
    partitions: &[PartitionIndex],
    credit: Option<Grant>,
    requests: S,
) -> Result<Queued<T::Response>, Status>
where
    T: Traffic,
    S: Stream<Item = Result<T::Request, Status>> + Unpin + Send + 'static,
{
    let window = edge.broker.limits().rpc_bytes_max() + WINDOW_BYTES;
    let mut allotment = Allotment::new(window as u64);
    if let Some(credit) = credit {
        allotment.grant(credit).map_err(|fault| to_status(&fault))?;
    }
    let clock = edge.broker.clock().clone();
    let mut again = Backoff::new(AGAIN.0, AGAIN.1, edge.broker.entropy().clone());
    let until = clock.mono().after(PATIENCE);
    // What was begun of an attempt that failed ends with it: no consumer keeps a part while somebody else has the rest.
    let (begun, left) = loop {
        match begin(edge, &traffic, partitions).await {
            Ok(begun) => break begun,
            Err(status) if is_resumable(&status) && clock.mono() < until => clock.sleep(again.delay()).await,
            Err(status) => return Err(status),
        }
    };
    let (outbox, queued) = Outbox::new();
    let mut relay = Relay {
        edge: edge.clone(),
        traffic: traffic.clone(),
        requests,
        outbox,
        allotment,
        upstreams: BTreeMap::new(),
        served: BTreeMap::new(),
        here: StreamMap::new(),
        there: StreamMap::new(),
        pending: VecDeque::new(),
        asks: Asks::new(),
        beginning: FuturesUnordered::new(),
        full_since: None,
        stalled: false,
        set_aside: Vec::new(),
        half_closed: false,
        stops: false,
        next_key: 0,
    };
    let mut owners: Vec<v1::PartitionOwner> = begun.iter().flat_map(|begun| begun.upstream.owners(&edge.broker)).collect();
    owners.sort_unstable_by_key(|owner| owner.partition);
    let responses = begun.into_iter().map(|begun| relay.join(begun)).collect();
    let opened = traffic.opened(responses, owners);
    relay.traffic = traffic;
    relay.pending.push_back((opened, Hold::default(), Key::MAX, 0));
    relay.look_for(left, true);
    edge.broker.tasks().spawn("relay", OnFailure::Log, async move {
        relay.run().await;
        Ok::<(), Infallible>(())
    });
    Ok(queued)
}

impl<T, S> Relay<T, S>
where
    T: Traffic,
    S: Stream<Item = Result<T::Request, Status>> + Unpin + Send,
{
    async fn run(mut self) {
        let end = self.serve().await;
        let clock = self.edge.broker.clock().clone();
        match end {
            End::Gone | End::Complete => {}
            End::Status(status) => self.outbox.end_with(status, &clock).await,
        }
    }

    async fn serve(&mut self) -> End {
        let tasks = self.edge.broker.tasks().clone();
        let clock = self.edge.broker.clock().clone();
        let mut growing = self.growing();
        let mut stopping: Option<Mono> = None;
        // What another broker sent, and is not kept before there is room for it.
        let mut room_for: Option<BoxFuture<'static, (Key, Saying<T>, BytesHeld)>> = None;
        loop {
            self.share_out();
            let crowded = self.ask();
            let over = self.upstreams.is_empty() && self.beginning.is_empty() && self.set_aside.is_empty();
            if self.pending.is_empty() && (over || (stopping.is_some() && self.traffic.is_settled())) {
                return if stopping.is_some() { End::Status(stopped()) } else { End::Complete };
            }
            let full = self.pending.len() >= PENDING_MAX
                || self.half_closed
                || self.traffic.is_full()
                || self.asks.is_full()
                || stopping.is_some();
            let has_something = !self.pending.is_empty() || self.stalled;
            self.full_since = self.full_since.or_else(|| Some(clock.mono())).filter(|_| has_something);
            let keeps = !self.stalled && self.pending.iter().any(|(_, hold, ..)| hold.is_forwarded());
            let stalls_at = self.full_since.filter(|_| keeps).map(|since| since.after(STALL));
            let wake = tokio::select! {
                biased;
                () = self.outbox.gone() => Wake::Gone,
                () = tasks.stopping(), if stopping.is_none() => Wake::Stop,
                () = clock.sleep_until(stopping.unwrap_or_default()), if stopping.is_some() => return End::Status(stopped()),
                () = self.outbox.room(), if has_something => Wake::Room,
                (key, said, held) = some(&mut room_for), if room_for.is_some() => {
                    room_for = None;
                    Wake::Held(key, said, held)
                }
                Some((key, said)) = self.there.next(), if room_for.is_none() => Wake::There(key, said),
                Some((key, said)) = self.here.next(), if self.pending.is_empty() => Wake::Here(key, said),
                Some(found) = self.beginning.next() => Wake::Found(found),
                () = room(&crowded), if !crowded.is_empty() => Wake::Asked,
                request = self.requests.next(), if !full => Wake::Request(request),
                grown = some(&mut growing), if growing.is_some() => Wake::Grown(grown),
                () = clock.sleep_until(stalls_at.unwrap_or_default()), if stalls_at.is_some() => Wake::Stalled,
            };
            let outcome = match wake {
                Wake::Gone => return End::Gone,
                Wake::Stop => {
                    stopping = Some(clock.mono().after(DRAIN));
                    self.stops = true;
                    self.beginning.clear();
                    Ok(())
                }
                Wake::Room => {
                    self.full_since = None;
                    self.goes_on();
                    self.pass();
                    Ok(())
                }
                Wake::Stalled => {
                    self.stall();
                    Ok(())
                }
                Wake::Here(key, Some((said, hold))) => self.hear(key, said, hold),
                Wake::There(key, Some((said, _))) => match bytes_of(&said) {
                    0 => self.hear(key, said, Hold::default()),
                    // What waits here goes on to the client meanwhile: it may hold the very room.
                    bytes => {
                        let budget = self.edge.broker.delivery_budget().clone();
                        room_for = Some(async move { (key, said, budget.take(bytes).await) }.boxed());
                        Ok(())
                    }
                },
                Wake::Held(key, said, held) => {
                    let hold = self.hold(key, held);
                    self.hear(key, said, hold)
                }
                Wake::Here(key, None) | Wake::There(key, None) => self.ended_well(key),
                Wake::Found(found) => self.found(found),
                Wake::Asked => Ok(()),
                Wake::Request(None) => {
                    self.half_closed = true;
                    Ok(())
                }
                Wake::Request(Some(Err(_))) => return End::Gone,
                Wake::Request(Some(Ok(request))) => self.request(request),
                Wake::Grown(grown) => {
                    self.traffic.grown(&grown);
                    self.look_for(grown.partitions, false);
                    growing = self.growing();
                    Ok(())
                }
            };
            match outcome {
                Ok(()) => {}
                Err(_) if stopping.is_some() => {}
                Err(status) => return End::Status(status),
            }
        }
    }

    /// Resolves once there are partitions to serve as well.
    fn growing(&self) -> Option<BoxFuture<'static, Grown>> {
        Some(self.traffic.growth()?.behind().boxed())
    }

    /// Gives the streams their credit.
    fn share_out(&mut self) {
        while let Some(step) = self.allotment.step() {
            match step {
                Step::Grant(key, grant) => self.asks.credit(key, grant),
                Step::Reclaim(key) => {
                    self.asks.reclaim(key);
                    self.returns(key);
                }
            }
        }
    }

    /// Asks what there is to ask, as far as there is room; gives the ways that have none.
    fn ask(&mut self) -> Vec<mpsc::Sender<Ask<T::Request>>> {
        let mut crowded = Vec::new();
        for key in self.asks.keys() {
            let Some(requests) = self.upstreams.get(&key).map(|upstream| &upstream.requests) else {
                self.asks.end(key);
                continue;
            };
            loop {
                match requests.try_reserve() {
                    Ok(permit) => match self.asks.next(key) {
                        Some(Next::Credit(grant)) => permit.send(Ask::Request(T::credit(grant))),
                        Some(Next::Reclaim) => permit.send(Ask::Reclaim),
                        Some(Next::TakeBack(unsent)) => permit.send(Ask::TakeBack(unsent)),
                        Some(Next::Request(request)) => permit.send(Ask::Request(request)),
                        None => break,
                    },
                    Err(mpsc::error::TrySendError::Full(())) => {
                        crowded.push(requests.clone());
                        break;
                    }
                    // Its answers say why.
                    Err(mpsc::error::TrySendError::Closed(())) => {
                        self.asks.end(key);
                        break;
                    }
                }
            }
        }
        crowded
    }

    fn request(&mut self, request: T::Request) -> Result<(), Status> {
        let bytes = request.encoded_len();
        match self.traffic.asked(request).map_err(|fault| to_status(&fault))? {
            Asked::Credit(grant) => self.allotment.grant(grant).map_err(|fault| to_status(&fault))?,
            Asked::Of(partition, request) => match self.served.get(&partition) {
                Some(key) => self.asks.request(*key, request, bytes),
                None => self.asks.park(partition, request, bytes),
            },
            Asked::Remembered(partition, request) => {
                if let Some(key) = self.served.get(&partition) {
                    self.asks.request(*key, request, bytes);
                }
            }
            Asked::Refused(response) => self.pending.push_back((response, Hold::default(), Key::MAX, 0)),
        }
        Ok(())
    }

    /// Hands the next response to the client; there is room for it.
    fn pass(&mut self) {
        if let Some((response, hold, key, bytes)) = self.pending.pop_front() {
            self.outbox.send(response, hold);
            self.allotment.passed(key, bytes);
        }
    }

    fn hear(&mut self, key: Key, said: Result<Say<T::Response>, Status>, hold: Hold) -> Result<(), Status> {
        let Some(upstream) = self.upstreams.get_mut(&key) else { return Ok(()) };
        match said {
            Ok(Say::Response { response, taken }) => {
                let used = self.allotment.used(key, taken);
                if let Some((response, delivered)) = self.traffic.said(response) {
                    upstream.delivered.messages += delivered.messages;
                    upstream.delivered.bytes += delivered.bytes;
                    self.allotment.delivered(key, upstream.delivered);
                    // What was sent before the stream heard that it takes back what it sent comes behind that, and goes back as well.
                    let goes_back = upstream.takes_back || (self.stalled && upstream.peer().is_some());
                    self.pending.push_back((response, hold, key, used));
                    if goes_back {
                        self.take_back();
                    }
                }
            }
            Ok(Say::Wanted(granted)) => self.allotment.wanted(key, granted),
            Ok(Say::Returned(credit)) => {
                upstream.returns = upstream.returns.saturating_sub(1);
                upstream.takes_back &= upstream.returns > 0;
                self.allotment.returned(key, credit);
            }
            Err(status) => return self.lost(key, status),
        }
        Ok(())
    }

    /// What messages of another broker hold until the client has them.
    fn hold(&self, key: Key, held: BytesHeld) -> Hold {
        let hold = Hold::forwarded(held);
        match (self.upstreams.get(&key).and_then(Upstream::peer), self.traffic.dispatches()) {
            (Some(peer), Some(kind)) => hold.dispatched_by(peer, &self.edge.broker.lease(), kind),
            _ => hold,
        }
    }

    /// A new stream serves its partitions. Gives its first response.
    fn join(&mut self, begun: Begun<T>) -> T::Response {
        let Begun { upstream, stream, first } = begun;
        let key = self.next_key;
        self.next_key += 1;
        for partition in &upstream.partitions {
            self.served.insert(*partition, key);
            for request in self.traffic.again(*partition) {
                let bytes = request.encoded_len();
                self.asks.request(key, request, bytes);
            }
            self.asks.unpark(*partition, key);
        }
        let stream = stream.map(Some).chain(futures::stream::iter([None])).boxed();
        let streams = if upstream.is_here() { &mut self.here } else { &mut self.there };
        streams.insert(key, stream);
        self.allotment.begin(key);
        self.upstreams.insert(key, upstream);
        first
    }

    /// A stream is no more; gives the partitions that it served.
    fn remove(&mut self, key: Key) -> Vec<PartitionIndex> {
        self.here.remove(&key);
        self.there.remove(&key);
        let Some(upstream) = self.upstreams.remove(&key) else { return Vec::new() };
        self.allotment.end(key, upstream.delivered);
        self.asks.end(key);
        self.served.retain(|_, served| *served != key);
        upstream.partitions.into_iter().collect()
    }

    /// A stream ended. Whoever owns its partitions now is looked for, unless it ended for good.
    fn lost(&mut self, key: Key, status: Status) -> Result<(), Status> {
        if let Some(peer) = self.upstreams.get(&key).and_then(Upstream::peer) {
            peer.failed();
        }
        let partitions = self.remove(key);
        if !is_resumable(&status) {
            return Err(status);
        }
        tracing::debug!(topic = %self.traffic.topic().name, %status, ?partitions, "partitions of a stream are looked for anew");
        // One that pauses owns them still, as far as it knows; while metadata is away nobody could say who does (M7).
        if RemoteFault::from(&status).reason != DISPATCH_PAUSED {
            for partition in &partitions {
                self.edge.broker.moved(self.traffic.topic().id, *partition);
            }
        }
        if !self.stops {
            self.look_for(partitions, true);
        }
        Ok(())
    }

    fn ended_well(&mut self, key: Key) -> Result<(), Status> {
        let Some(upstream) = self.upstreams.get(&key) else { return Ok(()) };
        let partitions = upstream.partitions.clone();
        if self.traffic.is_complete(&partitions) {
            self.remove(key);
            return Ok(());
        }
        self.lost(key, Status::unavailable("a stream ended"))
    }
}

fn bytes_of<R: Message>(said: &Result<Say<R>, Status>) -> usize {
    match said {
        Ok(Say::Response { response, .. }) => response.encoded_len(),
        Ok(Say::Wanted(_) | Say::Returned(_)) | Err(_) => 0,
    }
}

/// Resolves once one of the ways has room; only this relay fills them. One that has ended has room: what goes there goes nowhere.
async fn room<Q>(crowded: &[mpsc::Sender<Ask<Q>>]) {
    let mut rooms: FuturesUnordered<_> = crowded.iter().map(mpsc::Sender::reserve).collect();
    let _ = rooms.next().await;
}

fn stopped() -> Status {
    to_status(&Fault::new(FaultKind::Unavailable, "STOPPING", "the broker is stopping; connect again"))
}
