//! A subscription's stream: one task between a client and the machines of its partitions.

use std::collections::VecDeque;
use std::time::Duration;

use alluvium_proto::batch::BatchError;
use alluvium_proto::status::to_wire;
use alluvium_proto::v1::subscribe_request::Request;
use alluvium_proto::v1::subscribe_response::Response;
use alluvium_proto::{PROTOCOL_VERSION, v1};
use alluvium_runtime::budget::BytesHeld;
use alluvium_types::fault::{Fault, FaultKind};
use alluvium_types::ids::{Offset, PartitionIndex};
use alluvium_types::names::{ProducerName, SubscriptionName};
use alluvium_types::time::Mono;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, Stream, StreamExt};
use tonic::Status;

use super::bundle::Bundle;
use super::line::{Ask, Say};
use super::membership::{Joiner, Membership, ReadDone, Spans};
use super::outbox::{Hold, Outbox, paused};
use super::parcel::{Decoded, Format, Parcel, Step};
use super::request;
use super::service::Surroundings;
use crate::subscription::{AckRequest, AckTarget, Event, Grant, Input, Span};
use crate::topic::{PartitionHandle, SubscriptionKind};

/// Acknowledgements of one stream that wait for their receipts. Past it the stream is not read.
const RECEIPTS_OPEN_MAX: usize = 4096;
/// Receipts in one response.
const RECEIPTS_MAX: usize = 1024;
/// How long a draining stream waits for the receipts of what it has acknowledged.
const DRAIN: Duration = Duration::from_secs(2);
/// While dispatching is not allowed (M4), how often that is looked at, and for how long the stream waits.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));
/// A client that has not read for so long is given nothing more until it does, and what waits for it goes back: to other
/// consumers, and out of memory.
const STALL: Duration = Duration::from_secs(10);

/// A stream that was let in everywhere.
pub(super) struct Session<S> {
    pub(super) around: Surroundings,
    pub(super) membership: Membership,
    pub(super) format: Format,
    pub(super) requests: S,
    pub(super) outbox: Outbox<Say<v1::SubscribeResponse>>,
}

/// What a stream waits with, apart from where it came from and goes to.
#[derive(Default)]
struct Work {
    /// What is to be sent, in order; the first may be on its way in part.
    parcels: VecDeque<Parcel>,
    decoded: Option<Decoded>,
    receipts: VecDeque<v1::AckReceipt>,
    receipts_open: usize,
    faults: VecDeque<v1::DeliveryFault>,
    /// It was said that credit is wanted, and none has come since.
    wanted: bool,
    /// Credit that was asked back: each time has its answer.
    returned: VecDeque<Grant>,
    /// For the machines.
    inputs: VecDeque<(PartitionIndex, Input)>,
    /// The first parcel waits for credit; a change of the mailbox may bring it.
    waits_for_credit: bool,
    /// Dispatching has not been allowed since.
    paused_since: Option<Mono>,
    /// There has been something to send, and no room for it, since.
    full_since: Option<Mono>,
    /// What waited was given back.
    stalled: bool,
    half_closed: bool,
}

enum Wake {
    Stop,
    Gone,
    Request(Option<Result<Ask<v1::SubscribeRequest>, Status>>),
    Read(ReadDone),
    Changed,
    Room,
    Decode(BytesHeld),
    Time,
}

/// Why a stream ends.
enum End {
    /// The client has gone.
    Gone,
    /// It is told.
    Fault(Fault),
    /// The broker stops.
    Draining,
}

impl<S: Stream<Item = Result<Ask<v1::SubscribeRequest>, Status>> + Unpin + Send> Session<S> {
    /// Serves the stream until the client goes, or something ends it. What was not acknowledged is given back.
    pub(super) async fn run(mut self, opened: v1::Subscribed) {
        self.around.metrics.streams.inc();
        self.outbox.room().await;
        self.say(Response::Subscribed(opened), Hold::default());
        let mut work = Work::default();
        let end = self.serve(&mut work).await;
        self.membership.mailbox.close();
        let now = self.around.clock.mono();
        let fault = match end {
            End::Gone => None,
            End::Fault(fault) => {
                self.last_receipts(&mut work, now).await;
                Some(fault)
            }
            End::Draining => {
                self.last_receipts(&mut work, now.after(DRAIN)).await;
                Some(Fault::new(FaultKind::Unavailable, "STOPPING", "the broker is stopping; connect again"))
            }
        };
        // What was reported as undeliverable is told before this consumer goes.
        let _ = work.tell(&self.membership).await;
        let mut unsent = Spans::new();
        for parcel in &work.parcels {
            unsent.entry(parcel.partition()).or_default().push(parcel.unsent());
        }
        // Partitions that ended have nothing of this consumer; the others hear of its going.
        let _ = self.membership.leave(Spans::new(), unsent).await;
        if let Some(fault) = fault {
            self.outbox.end(&fault).await;
        }
        self.around.metrics.streams.dec();
    }

    async fn serve(&mut self, work: &mut Work) -> End {
        let mut reads: FuturesUnordered<BoxFuture<'static, ReadDone>> = FuturesUnordered::new();
        let mut room_for_decoding: Option<BoxFuture<'static, BytesHeld>> = None;
        loop {
            if let Err(fault) = self.take_events(work, &mut reads) {
                return End::Fault(fault);
            }
            if let Err(fault) = work.tell(&self.membership).await {
                return End::Fault(fault);
            }
            let may_dispatch = self.pause_is_over(work) && room_for_decoding.is_none();
            let wants_room = work.has_something(may_dispatch) || self.wants_credit(work);
            let now = self.around.clock.mono();
            work.full_since = work.full_since.or(Some(now)).filter(|_| wants_room && !work.stalled);
            let pause_ends = work.paused_since.map(|_| now.after(PAUSE.0));
            let alarm = pause_ends.into_iter().chain(work.full_since.map(|since| since.after(STALL))).min();
            let wake = tokio::select! {
                biased;
                () = self.around.tasks.stopping() => Wake::Stop,
                () = self.outbox.gone() => Wake::Gone,
                Some(done) = reads.next() => Wake::Read(done),
                () = self.membership.mailbox.changed() => Wake::Changed,
                request = self.requests.next(), if !work.half_closed && work.receipts_open + work.receipts.len() < RECEIPTS_OPEN_MAX => Wake::Request(request),
                held = some(&mut room_for_decoding), if room_for_decoding.is_some() => Wake::Decode(held),
                () = self.outbox.room(), if wants_room => Wake::Room,
                () = self.around.clock.sleep_until(alarm.unwrap_or_default()), if alarm.is_some() => Wake::Time,
            };
            match wake {
                Wake::Stop => return End::Draining,
                Wake::Gone => return End::Gone,
                Wake::Read((partition, from, result)) => {
                    work.inputs.push_back((partition, self.membership.entries(from, result)));
                }
                Wake::Changed => work.waits_for_credit = false,
                Wake::Time => {
                    let now = self.around.clock.mono();
                    if work.paused_since.is_some_and(|since| now.since(since) > PAUSE.1) {
                        return End::Fault(paused());
                    }
                    if work.full_since.is_some_and(|since| now.since(since) >= STALL) {
                        room_for_decoding = None;
                        work.stalled = true;
                        self.membership.mailbox.suspend(true);
                        self.give_back(work);
                    }
                }
                // The client sends nothing more, and may still receive.
                Wake::Request(None) => work.half_closed = true,
                Wake::Request(Some(Err(_))) => return End::Gone,
                Wake::Request(Some(Ok(request))) => {
                    let takes_back = matches!(request, Ask::TakeBack(_));
                    if takes_back {
                        room_for_decoding = None;
                        // Nothing that comes behind may be faster: what was posted since goes back as well, before more is.
                        self.membership.mailbox.suspend(true);
                        if let Err(fault) = self.take_events(work, &mut reads) {
                            return End::Fault(fault);
                        }
                    }
                    if let Err(fault) = self.request(work, request) {
                        return End::Fault(fault);
                    }
                    if takes_back && !work.stalled {
                        self.membership.mailbox.suspend(false);
                    }
                }
                Wake::Decode(held) => {
                    room_for_decoding = None;
                    if let Some(step) = work.parcels.front_mut().and_then(|parcel| parcel.inflate(held)) {
                        self.step(work, step);
                    }
                }
                Wake::Room => {
                    work.full_since = None;
                    if std::mem::take(&mut work.stalled) {
                        self.membership.mailbox.suspend(false);
                    }
                    // Room may have been long in coming, and the process may have been stopped meanwhile (C38).
                    let may_dispatch = self.pause_is_over(work) && room_for_decoding.is_none();
                    if let Some(bytes) = self.send_next(work, may_dispatch) {
                        let budget = self.around.budget.clone();
                        room_for_decoding = Some(async move { budget.take(bytes).await }.boxed());
                    }
                }
            }
        }
    }

    /// Takes what the machines put into the mailbox.
    fn take_events(&mut self, work: &mut Work, reads: &mut FuturesUnordered<BoxFuture<'static, ReadDone>>) -> Result<(), Fault> {
        while let Some((partition, event)) = self.membership.mailbox.pop() {
            match event {
                Event::Delivery(delivery) => {
                    let decoded = work.decoded.take();
                    work.parcels.push_back(Parcel::new(partition, delivery, self.format, decoded));
                }
                Event::Receipt { id, fault } => {
                    work.receipts_open = work.receipts_open.saturating_sub(1);
                    work.receipts.push_back(receipt(id, partition, fault.as_ref()));
                }
                Event::Read { from, bytes_max } => {
                    let reader = self.membership.partitions[&partition].reader().clone();
                    reads.push(async move { (partition, from, reader.read(from, bytes_max).await) }.boxed());
                }
                Event::Problem { span, fault } => {
                    self.around.metrics.unreadable.inc();
                    work.faults.push_back(problem(partition, span.first, span.end, String::new(), &fault));
                }
                Event::Ended(fault) => return Err(fault),
            }
        }
        if work.stalled {
            self.give_back(work);
        }
        for partition in self.membership.mailbox.refilled() {
            work.inputs.push_back((partition, self.membership.refilled()));
        }
        Ok(())
    }

    /// What was not sent goes back, with the credit that was taken for it.
    fn give_back(&self, work: &mut Work) {
        (work.waits_for_credit, work.decoded) = (false, None);
        let mailbox = &self.membership.mailbox;
        for parcel in work.parcels.drain(..) {
            let unused = parcel.unused();
            mailbox.sent(unused.messages);
            mailbox.refund(unused);
            mailbox.release(parcel.taken());
            work.inputs.push_back((parcel.partition(), self.membership.unsent(vec![parcel.unsent()])));
        }
    }

    /// Whether there are messages that only credit is missing for, and that was not said yet.
    fn wants_credit(&self, work: &Work) -> bool {
        !work.wanted && !work.stalled && (work.waits_for_credit || self.membership.mailbox.wants_credit())
    }

    fn say(&self, said: Response, hold: Hold) {
        self.outbox.send(Say::Response { response: response(said), taken: self.membership.mailbox.account().taken() }, hold);
    }

    fn request(&self, work: &mut Work, request: Ask<v1::SubscribeRequest>) -> Result<(), Fault> {
        let request = match request {
            Ask::Request(request) => request,
            Ask::Reclaim => {
                self.reclaim(work);
                return Ok(());
            }
            Ask::TakeBack(unsent) => {
                for (partition, spans) in unsent {
                    let partition = self.partition("take_back.partition", partition.get())?;
                    work.inputs.push_back((partition, self.membership.unsent(spans)));
                }
                self.give_back(work);
                self.reclaim(work);
                return Ok(());
            }
        };
        match request.request {
            Some(Request::Credit(credit)) => {
                self.membership.mailbox.grant(request::grant(credit))?;
                (work.waits_for_credit, work.wanted) = (false, false);
                Ok(())
            }
            Some(Request::Ack(ack)) => {
                self.acknowledge(work, ack);
                Ok(())
            }
            Some(Request::Nack(nack)) => {
                let partition = self.partition("nack.partition", nack.partition)?;
                let spans = request::spans("nack.ranges", &nack.ranges)?;
                let delay = request::delay(nack.delay_ms)?;
                let Joiner { subscription, consumer, .. } = self.membership.joiner.clone();
                let consumer = Some(consumer);
                work.inputs.push_back((partition, Input::Nack { subscription, consumer, spans, delay, reply: None }));
                Ok(())
            }
            Some(Request::Open(_)) => {
                Err(Fault::invalid("open", "OPENED_ALREADY", "a stream is opened once, by its first request"))
            }
            None => Err(Fault::invalid("request", "MISSING", "a request is a credit, an ack or a nack")),
        }
    }

    /// What is left of the credit goes back.
    fn reclaim(&self, work: &mut Work) {
        work.returned.push_back(self.membership.mailbox.reclaim());
    }

    /// A wrong acknowledgement is answered by its receipt, and the stream goes on.
    fn acknowledge(&self, work: &mut Work, ack: v1::Ack) {
        let checked = self.partition("ack.partition", ack.partition).and_then(|partition| {
            let spans = request::spans("ack.ranges", &ack.ranges)?;
            let before = ack.up_to.map(|last| request::behind("ack.up_to", last)).transpose()?;
            if spans.is_empty() && before.is_none() {
                return Err(Fault::invalid("ack", "EMPTY", "an ack names ranges, or an offset to go up to"));
            }
            Ok((partition, spans, before))
        });
        match checked {
            Ok((partition, spans, before)) => {
                work.receipts_open += 1;
                let target = AckTarget::Stream(self.membership.mailbox.slot(partition), ack.id);
                let request = AckRequest { subscription: self.membership.joiner.subscription.clone(), spans, before, target };
                work.inputs.push_back((partition, Input::Ack(request)));
            }
            Err(fault) => work.receipts.push_back(receipt(ack.id, PartitionIndex::new(ack.partition), Some(&fault))),
        }
    }

    fn partition(&self, field: &str, number: u32) -> Result<PartitionIndex, Fault> {
        let partition = PartitionIndex::new(number);
        if self.membership.partitions.contains_key(&partition) {
            return Ok(partition);
        }
        Err(Fault::invalid(field, "UNKNOWN_PARTITION", format!("partition {number} is not one of this stream")))
    }

    /// Whether messages may be sent to this subscription now (M4). Looked at before each response.
    fn pause_is_over(&self, work: &mut Work) -> bool {
        let Some(parcel) = work.parcels.front() else { return true };
        if self.membership.may_dispatch(parcel.partition()) {
            work.paused_since = None;
            return true;
        }
        work.paused_since.get_or_insert_with(|| self.around.clock.mono());
        false
    }

    /// Sends one response; there is room for it. Answers how much is to be taken from the budget first, if it is to be decoded.
    fn send_next(&self, work: &mut Work, may_dispatch: bool) -> Option<usize> {
        if !work.receipts.is_empty() {
            let count = work.receipts.len().min(RECEIPTS_MAX);
            let receipts = work.receipts.drain(..count).collect();
            self.say(Response::Receipts(v1::AckReceipts { receipts }), Hold::default());
            return None;
        }
        if let Some(fault) = work.faults.pop_front() {
            self.say(Response::Fault(fault), Hold::default());
            return None;
        }
        if let Some(returned) = work.returned.pop_front() {
            self.outbox.send(Say::Returned(returned), Hold::default());
            return None;
        }
        if self.wants_credit(work) {
            work.wanted = true;
            self.outbox.send(Say::Wanted(self.membership.mailbox.account().granted()), Hold::default());
            return None;
        }
        if may_dispatch { self.deliver(work) } else { None }
    }

    /// Sends what is next, together with what goes with it.
    fn deliver(&self, work: &mut Work) -> Option<usize> {
        let mailbox = &self.membership.mailbox;
        let mut response = Bundle::default();
        let partition = work.parcels.front().map(Parcel::partition)?;
        let needs_room = loop {
            // Of this partition it was looked at whether it may be dispatched.
            let parcel = work.parcels.front_mut().filter(|parcel| parcel.partition() == partition);
            match parcel.map(|parcel| parcel.next(&mut response, |bytes| mailbox.take_more(bytes))) {
                Some(Step::NeedsRoom(bytes)) => break Some(bytes),
                None | Some(Step::Full) => break None,
                Some(step @ Step::NeedsCredit) => {
                    self.step(work, step);
                    break None;
                }
                Some(step) => self.step(work, step),
            }
        };
        if !response.is_empty() {
            let (delivery, hold) = response.finish();
            let hold = hold.dispatched(&self.membership.partitions[&partition], self.membership.joiner.kind);
            self.say(Response::Delivery(delivery), hold);
        }
        needs_room
    }

    fn step(&self, work: &mut Work, step: Step) {
        let Some(partition) = work.parcels.front().map(Parcel::partition) else { return };
        match step {
            Step::Added { messages, bytes } => {
                self.around.metrics.messages.inc_by(messages);
                self.around.metrics.bytes.inc_by(bytes);
                self.membership.mailbox.sent(messages);
            }
            Step::Undeliverable { span, producer, error, unused } => {
                let handle = &self.membership.partitions[&partition];
                log_undeliverable(handle, &self.membership.joiner.subscription, span, producer.as_ref(), &error);
                self.around.metrics.undeliverable.inc_by(span.count());
                self.membership.mailbox.sent(unused.messages);
                self.membership.mailbox.refund(unused);
                let fault = Fault::new(FaultKind::DataLoss, error.reason, error.to_string());
                let producer = producer.map(|p| p.to_string()).unwrap_or_default();
                work.faults.push_back(problem(partition, span.first, span.end, producer, &fault));
                work.inputs.push_back((partition, self.membership.undeliverable(span)));
            }
            Step::Done(unused) => {
                let parcel = work.parcels.pop_front().expect("it is the first");
                self.membership.mailbox.release(parcel.taken());
                self.membership.mailbox.refund(unused);
                work.decoded = parcel.into_decoded().filter(|_| self.around.budget.held() < self.around.budget.total() / 2);
            }
            Step::NeedsCredit => work.waits_for_credit = true,
            Step::NeedsRoom(_) | Step::Full => {}
        }
    }

    /// Waits, at most `until` then, for the receipts of what was acknowledged, and sends them.
    async fn last_receipts(&mut self, work: &mut Work, until: Mono) {
        loop {
            while let Some((partition, event)) = self.membership.mailbox.pop() {
                if let Event::Receipt { id, fault } = event {
                    work.receipts_open = work.receipts_open.saturating_sub(1);
                    work.receipts.push_back(receipt(id, partition, fault.as_ref()));
                }
            }
            if work.receipts.is_empty() && work.receipts_open == 0 {
                return;
            }
            let sendable = !work.receipts.is_empty();
            tokio::select! {
                biased;
                () = self.outbox.gone() => return,
                () = self.outbox.room(), if sendable => {
                    self.send_next(work, false);
                }
                () = self.membership.mailbox.changed(), if !sendable => {}
                () = self.around.clock.sleep_until(until) => return,
            }
        }
    }
}

impl Work {
    async fn tell(&mut self, membership: &Membership) -> Result<(), Fault> {
        while let Some((partition, input)) = self.inputs.pop_front() {
            membership.tell(partition, input).await?;
        }
        Ok(())
    }

    /// Whether there is a response to be made now.
    fn has_something(&self, may_dispatch: bool) -> bool {
        let parcel = !self.parcels.is_empty() && !self.waits_for_credit && may_dispatch;
        parcel || self.stalled || !self.returned.is_empty() || !self.receipts.is_empty() || !self.faults.is_empty()
    }
}

/// What a future gives that may not be there.
pub(super) async fn some<T>(future: &mut Option<BoxFuture<'static, T>>) -> T {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

fn response(response: Response) -> v1::SubscribeResponse {
    v1::SubscribeResponse { response: Some(response) }
}

fn receipt(id: u64, partition: PartitionIndex, fault: Option<&Fault>) -> v1::AckReceipt {
    v1::AckReceipt { id, partition: partition.get(), fault: fault.map(to_wire) }
}

/// Said once for each subscription: what is undeliverable counts as acknowledged from then on (T6).
pub(super) fn log_undeliverable(
    partition: &PartitionHandle,
    subscription: &SubscriptionName,
    span: Span,
    producer: Option<&ProducerName>,
    error: &BatchError,
) {
    tracing::warn!(
        partition = %partition.name(), %subscription, ?span, ?producer, %error,
        "a batch contradicts its own header; its messages are not delivered"
    );
}

/// A report of messages that can't be delivered.
pub(super) fn problem(
    partition: PartitionIndex,
    first: Offset,
    end: Offset,
    producer: String,
    fault: &Fault,
) -> v1::DeliveryFault {
    let last = end.previous().unwrap_or(first).get();
    let offsets = Some(v1::OffsetRange { first: first.get(), last });
    v1::DeliveryFault { partition: partition.get(), offsets, producer, fault: Some(to_wire(fault)) }
}

/// What a stream that was let in is told first.
pub(super) fn subscribed(partitions: impl Iterator<Item = PartitionIndex>, kind: SubscriptionKind) -> v1::Subscribed {
    let kind = match kind {
        SubscriptionKind::Exclusive => v1::SubscriptionType::Exclusive,
        SubscriptionKind::Shared => v1::SubscriptionType::Shared,
    };
    v1::Subscribed {
        protocol_version: PROTOCOL_VERSION,
        partitions: partitions.map(PartitionIndex::get).collect(),
        r#type: kind.into(),
        owners: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashMap};
    use std::pin::{Pin, pin};
    use std::sync::Arc;

    use alluvium_ledger::{BookieClient, Connector, LedgerClient};
    use alluvium_metadata::{MemoryStore, Metadata};
    use alluvium_runtime::budget::ByteBudget;
    use alluvium_runtime::clock::Clock;
    use alluvium_runtime::entropy::Entropy;
    use alluvium_runtime::tasks::Tasks;
    use alluvium_types::batch::BatchHeader;
    use alluvium_types::checksum::Crc32c;
    use alluvium_types::entry::{BatchDescriptor, EntryHeader};
    use alluvium_types::ids::{EntryId, Epoch, LedgerId, TopicId};
    use alluvium_types::ledger::BookieId;
    use alluvium_types::limits::Limits;
    use alluvium_types::names::{PartitionName, TopicName};
    use alluvium_types::time::Timestamp;
    use tokio::sync::{mpsc, watch};

    use super::*;
    use crate::deliver::metrics::DeliverMetrics;
    use crate::deliver::outbox::Responses;
    use crate::subscription::{ConsumerId, Delivery, Mailbox};
    use crate::topic::cache::{TailCache, Tails};
    use crate::topic::command::Command;
    use crate::topic::complaints::Complaints;
    use crate::topic::handle::Parts;
    use crate::topic::lease::DispatchLease;
    use crate::topic::reader::Readable;
    use crate::topic::recent::Recent;
    use crate::topic::{Bounds, LoadedEntry, PartitionReader};

    /// There are no bookies.
    struct Nowhere;

    impl Connector for Nowhere {
        fn connect(&self, _: &BookieId, _: &str) -> Arc<dyn BookieClient> {
            unreachable!("nothing is read")
        }
    }

    /// A client that asks nothing.
    type Silent = futures::stream::Pending<Result<Ask<v1::SubscribeRequest>, Status>>;

    /// A stream of one partition, by a clock that is turned by hand; what its owner is told goes nowhere.
    struct World {
        clock: Clock,
        mailbox: Mailbox,
        responses: Responses<Say<v1::SubscribeResponse>>,
        metrics: DeliverMetrics,
        session: Option<Session<Silent>>,
        _commands: mpsc::Receiver<Command>,
    }

    const LEASE: Duration = Duration::from_secs(8);

    impl World {
        async fn new() -> Self {
            let clock = Clock::manual(Timestamp::from_millis(1 << 40));
            let (tasks, _) = Tasks::new();
            let store = Arc::new(MemoryStore::start(clock.clone(), &tasks));
            let metadata = Metadata::new(store, clock.clone(), Entropy::seeded(1), tasks.clone());
            let config = alluvium_ledger::Config::default();
            let ledgers =
                LedgerClient::start(&metadata, Arc::new(Nowhere), Entropy::seeded(2), tasks.clone(), Limits::default(), config)
                    .await
                    .expect("started");
            let lease = DispatchLease::new(clock.clone());
            lease.extend(clock.mono().after(LEASE));
            let (bounds, budget) = (watch::channel(Bounds::default()).1, ByteBudget::new(1 << 20));
            let cache = TailCache::new(0, Tails::new(budget.clone()));
            let index = PartitionIndex::new(0);
            let name = PartitionName { topic: TopicName::parse("t/n/topic").expect("valid"), index };
            let complaints = Complaints::new(name.clone(), clock.clone(), crate::metrics::Metrics::default());
            let readable =
                Readable::new(ledgers, (budget.clone(), 1), (cache, Recent::new(0)), Vec::new(), bounds.clone(), complaints);
            let (commands, _commands) = mpsc::channel(1024);
            let handle = PartitionHandle::new(Parts {
                name,
                topic_id: TopicId::new(uuid::Uuid::from_u128(1)),
                epoch: Epoch::default(),
                commands,
                publishes: mpsc::channel(1).0,
                bounds,
                closing: watch::channel(false).1,
                known: watch::channel(HashMap::new()).1,
                reader: PartitionReader::new(Arc::new(readable)),
                lease,
            });
            let (mailbox, metrics) = (Mailbox::new(), DeliverMetrics::default());
            let joiner = Joiner {
                subscription: SubscriptionName::parse("s").expect("valid"),
                kind: SubscriptionKind::Exclusive,
                consumer: ConsumerId::new(1),
                name: String::new(),
                takeover: false,
                ack_deadline: None,
            };
            let partitions = BTreeMap::from([(index, handle)]);
            let membership = Membership::joined(joiner, partitions, mailbox.clone(), tasks.clone());
            let (outbox, queued) = Outbox::new();
            let responses = queued.responses();
            let around = Surroundings { clock: clock.clone(), tasks, budget, metrics: metrics.clone() };
            let requests = futures::stream::pending();
            let session = Session { around, membership, format: Format::Batches, requests, outbox };
            Self { clock, mailbox, responses, metrics, session: Some(session), _commands }
        }

        /// The machine delivers a message.
        fn deliver(&self, offset: u64) {
            let header = BatchHeader { count: 1, ..BatchHeader::default() };
            let batch = BatchDescriptor { header, checksum: Crc32c::EMPTY, blob_bytes: 0, producer: None };
            let header =
                EntryHeader { first_offset: Offset::new(offset), server_time: Timestamp::default(), batches: vec![batch] };
            let place = (LedgerId::new(1), EntryId::new(offset));
            let entry = LoadedEntry::decode(place, &header.encode().to_vec().into(), None).expect("sound");
            let span = Span::new(Offset::new(offset), Offset::new(offset + 1));
            let delivery = Delivery { entry, span, attempt: 1, taken: Grant { messages: 1, bytes: 0 } };
            self.mailbox.slot(PartitionIndex::new(0)).post(Event::Delivery(delivery));
        }
    }

    fn response_of(said: Say<v1::SubscribeResponse>) -> Option<Response> {
        match said {
            Say::Response { response, .. } => response.response,
            other => panic!("there is credit: {other:?}"),
        }
    }

    /// Lets a session go on until it waits, or ends.
    async fn settle(mut served: Pin<&mut impl Future<Output = End>>) -> Option<End> {
        for _ in 0..10 {
            if let Some(end) = served.as_mut().now_or_never() {
                return Some(end);
            }
            tokio::task::yield_now().await;
        }
        None
    }

    #[tokio::test]
    async fn c38_m4_what_waited_for_room_is_not_sent_once_the_lease_is_over() {
        // Whether dispatching was allowed was decided before the wait for room, and the wait may be long.
        let mut world = World::new().await;
        let mut session = world.session.take().expect("there");
        while session.outbox.room().now_or_never().is_some() {
            session.say(Response::Receipts(v1::AckReceipts::default()), Hold::default());
        }
        world.deliver(0);
        let mut work = Work::default();
        let mut served = pin!(session.serve(&mut work));
        assert!(settle(served.as_mut()).await.is_none());
        world.clock.advance(LEASE);
        while let Some(Some(queued)) = world.responses.next().now_or_never() {
            let queued = response_of(queued.expect("no fault"));
            assert!(matches!(queued, Some(Response::Receipts(_))), "a delivery after the lease: {queued:?}");
            assert!(settle(served.as_mut()).await.is_none(), "the lease may come back");
        }
        assert_eq!(world.metrics.messages.get(), 0, "nothing was handed over");
        let end = loop {
            world.clock.advance(PAUSE.0);
            if let Some(end) = settle(served.as_mut()).await {
                break end;
            }
        };
        assert!(matches!(end, End::Fault(fault) if fault.reason == "DISPATCH_PAUSED"));
    }

    #[tokio::test]
    async fn c38_m4_what_was_queued_for_the_transport_is_not_taken_once_the_lease_is_over() {
        let mut world = World::new().await;
        let mut session = world.session.take().expect("there");
        let mut work = Work::default();
        let mut served = pin!(session.serve(&mut work));
        for offset in 0..2 {
            world.deliver(offset);
            assert!(settle(served.as_mut()).await.is_none());
        }
        assert_eq!(world.metrics.messages.get(), 2);
        let first = response_of(world.responses.next().await.expect("open").expect("no fault"));
        assert!(matches!(first, Some(Response::Delivery(_))));
        world.clock.advance(LEASE);
        let second = world.responses.next().await.expect("an end");
        assert_eq!(second.expect_err("not a message").code(), tonic::Code::Unavailable);
        assert!(world.responses.next().await.is_none());
        assert!(matches!(settle(served.as_mut()).await, Some(End::Gone)), "what was not acknowledged is given back");
    }
}
