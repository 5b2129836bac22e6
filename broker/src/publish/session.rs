//! One publish stream: requests to the partitions, receipts back, both bounded. Each partition has a lane of its own, so that
//! one whose owner is being found holds up no other.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use alluvium_proto::status::{to_status, to_wire};
use alluvium_proto::v1;
use alluvium_proto::v1::publish_stream_request::Request;
use alluvium_proto::v1::publish_stream_response::Response;
use alluvium_runtime::backoff::Backoff;
use alluvium_runtime::budget::{ByteBudget, BytesHeld};
use alluvium_types::entry::ProducerStamp;
use alluvium_types::fault::{Fault, FaultKind};
use alluvium_types::ids::PartitionIndex;
use alluvium_types::names::PartitionName;
use alluvium_types::time::Mono;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, Stream, StreamExt};
use tokio::sync::mpsc;
use tonic::Status;

use super::admission::{self, Opening};
use super::intake::Share;
use super::lane::{Answered, Item, Lane, Outcome, Verdict};
use super::receipt::{Answer, Answers, Claimed, Receipt, Stored, Ticket};
use super::upstream::{Upstream, Upstreams};
use crate::broker::{Broker, Route, Scope, TopicInfo};
use crate::topic::PartitionHandle;
use crate::topic::command::PublishCommand;
use crate::topic::handle::{is_moved, moved};

/// Batches and claims of one stream without an answer. Past it the stream is not read: HTTP/2 holds the client back.
const OUTSTANDING_MAX: usize = 4096;
/// How long receipts of a stream that ends are waited for.
const LAST_RECEIPTS: Duration = Duration::from_secs(30);
/// How long the last word of a stream waits for room.
const LAST_WORD: Duration = Duration::from_secs(1);
/// How long a partition's owners may come and go without any of them answering, before the client is told.
const PATIENCE: Duration = Duration::from_secs(20);
/// Between attempts to find an owner that answers: at least, and at most.
const AGAIN: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(250));

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

/// What is sent on: to a partition of this broker, or of another one.
#[derive(Clone, Debug)]
enum Way {
    Here(PartitionHandle),
    There(Upstream),
}

type Found = (PartitionIndex, Result<Route, Fault>);

/// A batch, and its memory while this session holds it: until it is handed to the owner here, or answered by one elsewhere.
#[derive(Debug)]
pub(super) struct Parked {
    pub(super) batch: v1::PublishBatch,
    held: Option<BytesHeld>,
}

/// Its partitions, and what they answer.
struct Partitions {
    lanes: BTreeMap<PartitionIndex, (Lane<Parked, Way>, Backoff)>,
    /// Those that may have something to send on, or an owner to look for.
    touched: BTreeSet<PartitionIndex>,
    upstreams: Upstreams,
    answers: Answers,
    outstanding: usize,
    finding: FuturesUnordered<BoxFuture<'static, Found>>,
    /// Partitions that were handed on by another broker and are not this one's: nothing more is taken of them on this stream.
    moved: BTreeSet<PartitionIndex>,
    /// What the client is to be told next.
    receipts: Vec<v1::PublishReceipt>,
    claims: Vec<v1::PublishClaimed>,
}

impl<S> Session<S>
where
    S: Stream<Item = Result<v1::PublishStreamRequest, Status>> + Unpin + Send + Sync,
{
    /// Runs until the client ends it, the broker stops, or a request makes no sense. What was sent on is answered first.
    pub(crate) async fn run(mut self) {
        // Each upstream says once more that it is lost.
        let (answers, mut heard) = Answers::channel(2 * OUTSTANDING_MAX);
        let mut partitions = Partitions {
            lanes: BTreeMap::new(),
            touched: BTreeSet::new(),
            upstreams: Upstreams::new(self.broker.clone(), self.open.clone(), answers.clone()),
            answers,
            outstanding: 0,
            finding: FuturesUnordered::new(),
            moved: BTreeSet::new(),
            receipts: Vec::new(),
            claims: Vec::new(),
        };
        let ended = self.serve(&mut partitions, &mut heard).await;
        // What was sent on has its answer, even though no more is taken.
        let clock = self.broker.clock().clone();
        let rest = async {
            while partitions.outstanding > 0 {
                tokio::select! {
                    biased;
                    Some(answer) = heard.recv() => self.hear(answer, &mut partitions, &mut heard),
                    Some(found) = partitions.finding.next() => self.found(found, &mut partitions),
                    else => return,
                }
                self.send_on(&mut partitions).await;
                if !self.tell(&mut partitions).await {
                    return;
                }
            }
        };
        if clock.timeout(LAST_RECEIPTS, rest).await.is_err() {
            tracing::debug!(topic = %self.topic.name, "a publish stream ended before all of its receipts came");
        }
        if let Err(fault) = ended {
            // A client that doesn't read sees the connection end instead.
            let _ = clock.timeout(LAST_WORD, self.responses.send(Err(to_status(&fault)))).await;
        }
    }

    async fn serve(&mut self, partitions: &mut Partitions, heard: &mut mpsc::Receiver<Answer>) -> Result<(), Fault> {
        let tasks = self.broker.tasks().clone();
        // What came and waits for room. Answers are heard meanwhile: what they let go of is room.
        let mut admitting: Option<BoxFuture<'static, (v1::PublishBatch, BytesHeld)>> = None;
        loop {
            let full = partitions.outstanding >= OUTSTANDING_MAX;
            tokio::select! {
                biased;
                () = tasks.stopping() => {
                    return Err(Fault::new(FaultKind::Unavailable, "STOPPING", "the broker is stopping; connect again"));
                }
                Some(answer) = heard.recv() => self.hear(answer, partitions, heard),
                Some(found) = partitions.finding.next(), if !partitions.finding.is_empty() => self.found(found, partitions),
                (batch, held) = some(&mut admitting), if admitting.is_some() => {
                    admitting = None;
                    self.share.counted();
                    let index = PartitionIndex::new(batch.partition);
                    self.take(index, Item::Batch(batch.id, Parked { batch, held: Some(held) }), partitions).await;
                }
                () = self.responses.closed(), if admitting.is_some() => return Ok(()),
                request = self.requests.next(), if !full && admitting.is_none() => match request {
                    None | Some(Err(_)) => return Ok(()),
                    Some(Ok(request)) => match asked(request)? {
                        Request::Batch(batch) => {
                            let (budget, bytes) = (self.budget(), batch.batch.as_ref().map_or(0, |batch| batch.blob.len()));
                            admitting = Some(async move { (batch, budget.take(bytes).await) }.boxed());
                        }
                        Request::Claim(claim) => {
                            let index = PartitionIndex::new(claim.partition);
                            self.take(index, Item::Claim(claim.last_epoch), partitions).await;
                            self.share.counted();
                        }
                        Request::Open(_) => return Err(Fault::invalid("open", "OPENED_TWICE", "a stream is opened once")),
                    },
                },
            }
            self.send_on(partitions).await;
            if !self.tell(partitions).await {
                return Ok(());
            }
        }
    }

    /// The memory of what waits here. What other brokers hand on has memory of its own: brokers that wait for each other's would wait
    /// for ever.
    fn budget(&self) -> ByteBudget {
        match self.scope {
            Scope::Cluster => self.broker.publish_budget().clone(),
            Scope::Here => self.broker.forwarded_budget().clone(),
        }
    }

    /// Takes one request in.
    async fn take(&mut self, index: PartitionIndex, item: Item<Parked>, partitions: &mut Partitions) {
        partitions.outstanding += 1;
        if partitions.moved.contains(&index) {
            return partitions.refuse(index, &item, &self.moved(index));
        }
        if let Err(fault) = self.admit(index, &item).await {
            return partitions.refuse(index, &item, &fault);
        }
        let named = self.opening.producer.is_some();
        partitions.lanes.entry(index).or_insert_with(|| (Lane::new(named), self.again())).0.push(item);
        partitions.touched.insert(index);
    }

    fn moved(&self, index: PartitionIndex) -> Fault {
        moved(&PartitionName { topic: self.topic.name.clone(), index })
    }

    fn again(&self) -> Backoff {
        Backoff::new(AGAIN.0, AGAIN.1, self.broker.entropy().clone())
    }

    /// What can be refused without asking the partition's owner.
    async fn admit(&mut self, index: PartitionIndex, item: &Item<Parked>) -> Result<(), Fault> {
        if index.get() >= self.topic.partitions {
            // It may have been given more since. Its record is believed for a while, whoever asks, so that this is cheap.
            let now = self.broker.topic(&self.topic.name).await?;
            if now.id == self.topic.id {
                self.topic = now;
            }
        }
        if index.get() >= self.topic.partitions {
            return Err(admission::no_partition(index.get(), &self.topic.name, self.topic.partitions));
        }
        match item {
            Item::Batch(_, parked) if parked.batch.batch.is_none() => {
                Err(Fault::invalid("batch", "MISSING", "there is no batch in the request"))
            }
            Item::Claim(_) if self.opening.producer.is_none() => {
                let text = "a stream that was opened without a producer's name claims none";
                Err(Fault::invalid("producer", "NO_PRODUCER", text))
            }
            _ => Ok(()),
        }
    }

    /// Sends on what can be sent on, and looks for owners where there are none.
    async fn send_on(&self, partitions: &mut Partitions) {
        for index in std::mem::take(&mut partitions.touched) {
            let Some((lane, again)) = partitions.lanes.get_mut(&index) else { continue };
            let mut ended = false;
            while let Some((way, item)) = lane.next() {
                let sent = match way {
                    Way::Here(handle) => self.send_here(index, handle, item, &partitions.answers).await,
                    Way::There(upstream) => upstream.send(index, item).await,
                };
                if !sent {
                    lane.unsent(self.broker.clock().mono());
                    ended = true;
                }
            }
            if ended && self.scope == Scope::Here {
                // Whoever handed it on finds the next owner, and nothing that comes behind it may be faster.
                let refused = lane.give_up();
                partitions.moved.insert(index);
                for item in refused {
                    partitions.refuse(index, &item, &self.moved(index));
                }
                continue;
            }
            if lane.seeks() {
                let pause = lane.failing_since().map(|_| again.delay());
                partitions.finding.push(self.find(index, pause));
            }
        }
    }

    async fn send_here(
        &self,
        index: PartitionIndex,
        handle: &PartitionHandle,
        item: &mut Item<Parked>,
        answers: &Answers,
    ) -> bool {
        let command = match item {
            Item::Batch(id, parked) => {
                let ticket = Ticket { answers: answers.clone(), id: *id, partition: index, guarantee: self.opening.guarantee };
                let (epoch, batch) = (parked.batch.producer_epoch, parked.batch.batch.clone().unwrap_or_default());
                let stamp = self.opening.producer.clone().map(|name| ProducerStamp { name, epoch });
                // What goes again has no room kept for it beside what this session's is.
                let held = parked.held.take().unwrap_or_else(|| self.budget().none());
                PublishCommand::Batch(ticket, admission::batch(batch, stamp, self.broker.limits(), held))
            }
            Item::Claim(last_epoch) => {
                let Some(name) = self.opening.producer.clone() else { return true };
                PublishCommand::Claim { answers: answers.clone(), partition: index, name, last_epoch: *last_epoch }
            }
        };
        handle.publishes().send(command).await.is_ok()
    }

    fn find(&self, index: PartitionIndex, pause: Option<Duration>) -> BoxFuture<'static, Found> {
        let (broker, topic, scope) = (self.broker.clone(), self.topic.clone(), self.scope);
        let find = async move {
            if let Some(pause) = pause {
                broker.clock().sleep(pause).await;
            }
            (index, broker.route(&topic, index, scope).await)
        };
        find.boxed()
    }

    fn found(&self, (index, found): Found, partitions: &mut Partitions) {
        let Some((lane, _)) = partitions.lanes.get_mut(&index) else { return };
        partitions.touched.insert(index);
        match found {
            Ok(Route::Here(handle)) => lane.found(Way::Here(handle)),
            Ok(Route::There(peer)) => lane.found(Way::There(partitions.upstreams.to(&peer))),
            Err(fault) => {
                for item in lane.give_up() {
                    partitions.refuse(index, &item, &fault);
                }
            }
        }
    }

    /// Takes an answer, and whatever else came meanwhile.
    fn hear(&self, answer: Answer, partitions: &mut Partitions, heard: &mut mpsc::Receiver<Answer>) {
        let now = self.broker.clock().mono();
        let mut next = Some(answer);
        while let Some(answer) = next {
            match answer {
                Answer::Receipts(more) => more.into_iter().for_each(|r| self.on_receipt(receipt(r), now, partitions)),
                Answer::Claimed { partition, result } => self.on_claimed(claimed(partition, result), now, partitions),
                Answer::Forwarded { upstream, response } if partitions.upstreams.stands(upstream) => match response {
                    Response::Receipts(more) => more.receipts.into_iter().for_each(|r| self.on_receipt(r, now, partitions)),
                    Response::Claimed(claimed) => self.on_claimed(claimed, now, partitions),
                    Response::Opened(_) => {}
                },
                Answer::Forwarded { .. } => {}
                Answer::Lost { upstream, opened } => self.on_lost(upstream, opened, now, partitions),
            }
            next = heard.try_recv().ok();
        }
    }

    fn on_receipt(&self, receipt: v1::PublishReceipt, now: Mono, partitions: &mut Partitions) {
        let index = PartitionIndex::new(receipt.partition);
        match self.verdict(index, Answered::Batch(receipt.id), receipt.fault.as_ref(), now, partitions) {
            Verdict::Tell => {
                partitions.outstanding -= 1;
                partitions.receipts.push(receipt);
            }
            Verdict::Keep | Verdict::Ignore => {}
        }
    }

    fn on_claimed(&self, claimed: v1::PublishClaimed, now: Mono, partitions: &mut Partitions) {
        let index = PartitionIndex::new(claimed.partition);
        match self.verdict(index, Answered::Claim, claimed.fault.as_ref(), now, partitions) {
            Verdict::Tell => {
                partitions.outstanding -= 1;
                partitions.claims.push(claimed);
            }
            Verdict::Keep | Verdict::Ignore => {}
        }
    }

    fn verdict(
        &self,
        index: PartitionIndex,
        answer: Answered,
        fault: Option<&v1::Fault>,
        now: Mono,
        partitions: &mut Partitions,
    ) -> Verdict {
        let Some((lane, again)) = partitions.lanes.get_mut(&index) else { return Verdict::Ignore };
        let patient = self.scope == Scope::Cluster && lane.failing_since().is_none_or(|since| now.since(since) < PATIENCE);
        if self.scope == Scope::Here && fault.is_some_and(|fault| is_moved(&fault.reason)) {
            partitions.moved.insert(index);
        }
        let outcome = match fault.filter(|fault| patient && is_moved(&fault.reason)) {
            None => Outcome::Final,
            Some(fault) if fault.outcome_unknown => Outcome::Unknown,
            Some(_) => Outcome::Moved,
        };
        if outcome == Outcome::Final {
            again.reset();
        } else {
            self.broker.moved(self.topic.id, index);
            partitions.touched.insert(index);
            if let Some(Way::There(upstream)) = lane.asked() {
                partitions.upstreams.retire(upstream.number());
            }
        }
        lane.answered(answer, outcome, now)
    }

    fn on_lost(&self, upstream: u64, opened: bool, now: Mono, partitions: &mut Partitions) {
        partitions.upstreams.lost(upstream);
        let mut told = Vec::new();
        for (index, (lane, _)) in &mut partitions.lanes {
            if matches!(lane.asked(), Some(Way::There(there)) if there.number() == upstream) {
                self.broker.moved(self.topic.id, *index);
                partitions.touched.insert(*index);
                told.extend(lane.lost(opened, now).into_iter().map(|item| (*index, item)));
            }
        }
        for (index, item) in told {
            let text = format!("the owner of partition {index} of {} is gone; it may or may not be stored", self.topic.name);
            partitions.refuse(index, &item, &Fault::new(FaultKind::OutcomeUnknown, "OWNERSHIP_LOST", text));
        }
    }

    /// Tells the client what there is to tell; `false` when it has gone.
    async fn tell(&self, partitions: &mut Partitions) -> bool {
        let receipts = std::mem::take(&mut partitions.receipts);
        if !receipts.is_empty() && !self.send(Response::Receipts(v1::PublishReceipts { receipts })).await {
            return false;
        }
        for claimed in std::mem::take(&mut partitions.claims) {
            if !self.send(Response::Claimed(claimed)).await {
                return false;
            }
        }
        true
    }

    async fn send(&self, response: Response) -> bool {
        self.responses.send(Ok(v1::PublishStreamResponse { response: Some(response) })).await.is_ok()
    }
}

impl Partitions {
    /// Answers a request with a fault.
    fn refuse(&mut self, index: PartitionIndex, item: &Item<Parked>, fault: &Fault) {
        self.outstanding -= 1;
        match item {
            Item::Batch(id, _) => {
                self.receipts.push(receipt(Receipt { id: *id, partition: index, result: Err(fault.clone()) }));
            }
            Item::Claim(_) => self.claims.push(claimed(index, Err(fault.clone()))),
        }
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

fn receipt(receipt: Receipt) -> v1::PublishReceipt {
    let (stored, fault) = match receipt.result {
        Ok(stored) => (Some(stored), None),
        Err(fault) => (None, Some(to_wire(&fault))),
    };
    let Stored { first_offset, duplicate } = stored.unwrap_or_default();
    v1::PublishReceipt { id: receipt.id, partition: receipt.partition.get(), first_offset: first_offset.get(), duplicate, fault }
}

fn claimed(partition: PartitionIndex, result: Result<Claimed, Fault>) -> v1::PublishClaimed {
    let partition = partition.get();
    match result {
        Ok(Claimed { epoch, last_sequence, forgotten }) => {
            v1::PublishClaimed { partition, epoch, last_sequence, forgotten, fault: None }
        }
        Err(fault) => v1::PublishClaimed { partition, fault: Some(to_wire(&fault)), ..Default::default() },
    }
}
