//! Reading without a cursor: one task that reads what the client has credit for.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use alluvium_proto::v1::read_request::Request;
use alluvium_proto::v1::read_response::Response;
use alluvium_proto::{PROTOCOL_VERSION, v1};
use alluvium_runtime::budget::BytesHeld;
use alluvium_runtime::tasks::OnFailure;
use alluvium_types::fault::{Fault, FaultKind};
use alluvium_types::ids::{Offset, PartitionIndex};
use alluvium_types::time::Timestamp;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, Stream, StreamExt};
use tonic::Status;

use super::bundle::Bundle;
use super::consume::{problem, some};
use super::line::{Ask, Say};
use super::membership::{Partitions, ReadDone};
use super::outbox::{Hold, Outbox, Queued};
use super::parcel::{Decoded, Format, Parcel, Step};
use super::request;
use super::service::{ConsumeEdge, Surroundings};
use crate::subscription::credit::Account;
use crate::subscription::state::choose;
use crate::subscription::window::{Shape, shapes};
use crate::subscription::{Delivery, Grant, Span};
use crate::topic::reader::{read_retry, unreadable};
use crate::topic::{LoadedEntry, ReadFault};

/// About what is read at a time.
const READ_BYTES: usize = 512 << 10;
/// How many partitions of one stream are read at a time.
const READS_MAX: usize = 4;
/// One of so many reads is of the next partition in turn.
const IN_TURN: u64 = 4;
/// While a stream has so many bytes at hand, nothing more is read for it.
const AT_HAND_BYTES: usize = 2 << 20;
/// A client that has not read for so long has nothing kept at hand for it (Q6).
const STALL: Duration = Duration::from_secs(10);

/// A reader's stream, of partitions of this broker.
struct Session<S> {
    around: Surroundings,
    partitions: Partitions,
    format: Format,
    requests: S,
    outbox: Outbox<Say<v1::ReadResponse>>,
    work: Work,
}

struct Work {
    places: BTreeMap<PartitionIndex, Place>,
    account: Account,
    /// What is being sent.
    parcel: Option<Parcel>,
    faults: VecDeque<v1::DeliveryFault>,
    waits_for_credit: bool,
    /// It was said that credit is wanted, and none has come since.
    wanted: bool,
    /// Credit that was asked back.
    returned: Option<Grant>,
    half_closed: bool,
    /// Nothing could be sent, or nothing was allowed to be, for long: what was at hand is let go.
    stalled: bool,
    served_last: Option<PartitionIndex>,
    turns: Turns,
}

/// Where a reader is in a partition.
struct Place {
    next: Offset,
    /// Where it ends, if it ends.
    stop: Option<Offset>,
    /// What was read and not yet sent, in order, with its batches.
    entries: VecDeque<(LoadedEntry, Vec<Shape>)>,
    /// The time of the last entry that was read.
    reached: Timestamp,
    /// A read, or a wait for something to read, is under way.
    busy: bool,
    /// Reads that failed since the last one that did not.
    failures: u32,
    decoded: Option<Decoded>,
}

enum Wake {
    Stop,
    Gone,
    Request(Option<Result<Ask<v1::ReadRequest>, Status>>),
    Read(ReadDone),
    More(PartitionIndex, bool),
    Room,
    Decode(BytesHeld),
    Rest,
}

/// Why a reader's stream ends.
enum End {
    Gone,
    Complete,
    Fault(Fault),
}

#[derive(Default)]
struct Waiting {
    reads: FuturesUnordered<BoxFuture<'static, ReadDone>>,
    more: FuturesUnordered<BoxFuture<'static, (PartitionIndex, bool)>>,
    decoding: Option<BoxFuture<'static, BytesHeld>>,
}

/// Where a stream that stood before goes on in a partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Resume {
    /// The offset to go on from.
    pub(super) next: Offset,
    /// Where it ends, if it ends.
    pub(super) stop: Option<Offset>,
}

/// Finds where to begin in partitions of this broker, and begins. The first that is said is which partitions there are, and what
/// they keep.
pub(super) async fn begin<S>(
    edge: &ConsumeEdge,
    asked: &request::Read,
    partitions: Partitions,
    places: &BTreeMap<PartitionIndex, Resume>,
    requests: S,
) -> Result<Queued<Say<v1::ReadResponse>>, Fault>
where
    S: Stream<Item = Result<Ask<v1::ReadRequest>, Status>> + Unpin + Send + 'static,
{
    let mut account = Account::default();
    if let Some(credit) = asked.credit {
        account.grant(credit)?;
    }
    let (mut found, mut ranges) = (BTreeMap::new(), Vec::new());
    for (index, handle) in &partitions {
        let resume = match places.get(index) {
            Some(resume) => *resume,
            None => {
                let next = handle.resolve(asked.start).await?;
                Resume { next, stop: asked.stop_at_end.then_some(handle.bounds().end) }
            }
        };
        let bounds = handle.bounds();
        found.insert(*index, Place { stop: resume.stop, ..Place::at(resume.next) });
        let (first_offset, end_offset) = (bounds.first.get(), bounds.end.get());
        let next_offset = resume.next.get();
        ranges.push(v1::PartitionRange { partition: index.get(), first_offset, end_offset, next_offset });
    }
    let (outbox, queued) = Outbox::new();
    let opened = v1::ReadOpened { protocol_version: PROTOCOL_VERSION, partitions: ranges, owners: Vec::new() };
    outbox.send(Say::Response { response: response(Response::Opened(opened)), taken: Grant::default() }, Hold::default());
    let work = Work {
        places: found,
        account,
        parcel: None,
        faults: VecDeque::new(),
        waits_for_credit: false,
        wanted: false,
        returned: None,
        half_closed: false,
        stalled: false,
        served_last: None,
        turns: Turns::default(),
    };
    let session = Session { around: edge.surroundings(), partitions, format: asked.format, requests, outbox, work };
    edge.broker.tasks().spawn("read", OnFailure::Log, async move {
        session.run().await;
        Ok::<(), Fault>(())
    });
    Ok(queued)
}

impl<S: Stream<Item = Result<Ask<v1::ReadRequest>, Status>> + Unpin + Send> Session<S> {
    /// Serves the stream until the client goes, the end it asked for is reached, or something ends it.
    pub(super) async fn run(mut self) {
        self.around.metrics.streams.inc();
        let end = self.serve().await;
        self.around.metrics.streams.dec();
        if let End::Fault(fault) = end {
            self.outbox.end(&fault).await;
        }
    }

    async fn serve(&mut self) -> End {
        let mut waiting = Waiting::default();
        loop {
            self.next_parcel(None);
            self.begin_reads(&mut waiting);
            if self.work.is_complete() {
                return End::Complete;
            }
            let sendable = self.work.parcel.is_some() && !self.work.waits_for_credit && waiting.decoding.is_none();
            let says = self.work.returned.is_some() || self.wants_credit();
            let wants_room = sendable || says || !self.work.faults.is_empty();
            let stalls = !self.work.stalled && self.work.has_at_hand();
            let rest = self.around.clock.mono().after(STALL);
            let wake = tokio::select! {
                biased;
                () = self.around.tasks.stopping() => Wake::Stop,
                () = self.outbox.gone() => Wake::Gone,
                Some(done) = waiting.reads.next() => Wake::Read(done),
                request = self.requests.next(), if !self.work.half_closed => Wake::Request(request),
                held = some(&mut waiting.decoding), if waiting.decoding.is_some() => Wake::Decode(held),
                () = self.outbox.room(), if wants_room => Wake::Room,
                Some((partition, owned)) = waiting.more.next() => Wake::More(partition, owned),
                () = self.around.clock.sleep_until(rest), if stalls => Wake::Rest,
            };
            self.work.stalled =
                matches!(wake, Wake::Rest) || (self.work.stalled && !matches!(wake, Wake::Room | Wake::Request(_)));
            let outcome = match wake {
                Wake::Stop => Err(Fault::new(FaultKind::Unavailable, "STOPPING", "the broker is stopping; connect again")),
                Wake::Gone | Wake::Request(Some(Err(_))) => return End::Gone,
                Wake::Request(None) => {
                    self.work.half_closed = true;
                    Ok(())
                }
                Wake::Request(Some(Ok(request))) => self.work.request(&request),
                Wake::Read((partition, from, result)) => self.read(partition, from, result, &waiting),
                Wake::More(partition, owned) => self.more(partition, owned),
                Wake::Room => {
                    self.send(&mut waiting, sendable);
                    Ok(())
                }
                Wake::Rest => {
                    self.work.rest();
                    Ok(())
                }
                Wake::Decode(held) => {
                    waiting.decoding = None;
                    if let Some(step) = self.work.parcel.as_mut().and_then(|parcel| parcel.inflate(held)) {
                        self.step(step);
                    }
                    Ok(())
                }
            };
            if let Err(fault) = outcome {
                return End::Fault(fault);
            }
        }
    }

    fn say(&self, said: Response, hold: Hold) {
        self.outbox.send(Say::Response { response: response(said), taken: self.work.account.taken() }, hold);
    }

    /// Whether there are messages that only credit is missing for, and that was not said yet.
    fn wants_credit(&self) -> bool {
        let work = &self.work;
        if work.wanted || (work.account.allowance().is_some() && !work.waits_for_credit) {
            return false;
        }
        work.waits_for_credit || work.places.iter().any(|(index, place)| place.wants(self.partitions[index].bounds().end))
    }

    /// Takes the next messages that are at hand and that credit covers, of one partition or of one after the other.
    fn next_parcel(&mut self, of: Option<PartitionIndex>) {
        let work = &mut self.work;
        if work.parcel.is_some() {
            return;
        }
        let Some(allowance) = work.account.allowance() else { return };
        let after = next_after(work.served_last);
        let is_ready = |place: &Place| !place.entries.is_empty();
        let mut indices = work.places.range(after..).chain(work.places.range(..after));
        let found = match of {
            Some(index) => work.places.get(&index).filter(|place| is_ready(place)).map(|_| index),
            None => indices.find(|(_, place)| is_ready(place)).map(|(index, _)| *index),
        };
        let Some(index) = found else { return };
        let place = work.places.get_mut(&index).expect("it was just seen");
        let (entry, shapes) = place.entries.front().expect("it has some");
        let end = place.stop.unwrap_or(entry.end_offset()).min(entry.end_offset());
        let shapes = &shapes[shapes.partition_point(|s| s.span.end <= place.next)..];
        let Some((span, used)) = choose(Span::new(place.next, end), shapes, allowance, 1) else { return };
        let delivery = Delivery { entry: entry.clone(), span, attempt: 1, taken: used };
        work.account.take(used);
        place.next = span.end;
        if place.is_complete() {
            // What was published since it was opened lies beyond its end.
            place.entries.clear();
        } else if span.end >= end {
            place.entries.pop_front();
        }
        work.served_last = Some(index);
        work.parcel = Some(Parcel::new(index, delivery, self.format, place.decoded.take()));
    }

    /// Reads where nothing is at hand, while there is credit to send it; waits where there is nothing yet.
    fn begin_reads(&mut self, waiting: &mut Waiting) {
        let at_hand: usize = self.work.places.values().flat_map(|p| &p.entries).map(|(entry, _)| entry.bytes()).sum();
        let credit = self.work.account.allowance().is_some() && at_hand < AT_HAND_BYTES && !self.work.stalled;
        let mut readable = BTreeSet::new();
        for (&index, place) in &mut self.work.places {
            if place.busy || !place.entries.is_empty() || place.is_complete() {
                continue;
            }
            let (handle, from) = (&self.partitions[&index], place.next);
            if from >= handle.bounds().end {
                let mut bounds = handle.watch();
                place.busy = true;
                waiting.more.push(async move { (index, bounds.wait_for(|b| b.end > from).await.is_ok()) }.boxed());
            } else if credit && waiting.reads.len() < READS_MAX {
                readable.insert((place.reached, index));
            }
        }
        while waiting.reads.len() < READS_MAX
            && let Some(next) = self.work.turns.next(&readable)
        {
            readable.remove(&next);
            let (_, index) = next;
            let place = self.work.places.get_mut(&index).expect("it was just seen");
            let (reader, from) = (self.partitions[&index].reader().clone(), place.next);
            place.busy = true;
            waiting.reads.push(async move { (index, from, reader.read(from, READ_BYTES).await) }.boxed());
        }
    }

    fn read(
        &mut self,
        index: PartitionIndex,
        from: Offset,
        result: Result<Vec<LoadedEntry>, ReadFault>,
        waiting: &Waiting,
    ) -> Result<(), Fault> {
        let name = self.partitions[&index].name().clone();
        let place = self.work.places.get_mut(&index).expect("it was read for");
        place.busy = false;
        match result {
            Ok(entries) => {
                if let Some(first) = entries.first() {
                    place.failures = 0;
                    // What lies between was trimmed.
                    place.next = from.max(first.first_offset());
                }
                place.reached = entries.last().map_or(place.reached, LoadedEntry::server_time);
                place.entries = entries.into_iter().map(|entry| (entry.clone(), shapes(&entry))).collect();
                if place.entries.is_empty() && from < self.partitions[&index].bounds().end {
                    self.pause(index, waiting);
                }
            }
            Err(ReadFault::Lost { first, end, reason }) => self.lost(index, Span::new(first, end), &reason),
            Err(ReadFault::Unavailable(_)) => self.pause(index, waiting),
            Err(moved @ ReadFault::Moved) => return Err(moved.to_fault(&name)),
        }
        Ok(())
    }

    /// Reported, and gone past (T6): a reader keeps no place that would remember it.
    fn lost(&mut self, index: PartitionIndex, span: Span, reason: &str) {
        self.around.metrics.unreadable.inc();
        self.work.faults.push_back(problem(index, span.first, span.end, String::new(), &unreadable(reason)));
        let place = self.work.places.get_mut(&index).expect("it was read for");
        (place.next, place.failures) = (place.next.max(span.end), 0);
    }

    /// The next read of a partition begins a little later.
    fn pause(&mut self, index: PartitionIndex, waiting: &Waiting) {
        let clock = self.around.clock.clone();
        let place = self.work.places.get_mut(&index).expect("it was read for");
        place.busy = true;
        place.failures = place.failures.saturating_add(1);
        let wait = read_retry(place.failures);
        waiting.more.push(
            async move {
                clock.sleep(wait).await;
                (index, true)
            }
            .boxed(),
        );
    }

    fn more(&mut self, index: PartitionIndex, owned: bool) -> Result<(), Fault> {
        if !owned {
            return Err(ReadFault::Moved.to_fault(self.partitions[&index].name()));
        }
        self.work.places.get_mut(&index).expect("it waited").busy = false;
        Ok(())
    }

    /// Sends one response; there is room for it.
    fn send(&mut self, waiting: &mut Waiting, sendable: bool) {
        if let Some(fault) = self.work.faults.pop_front() {
            self.say(Response::Fault(fault), Hold::default());
            return;
        }
        if let Some(returned) = self.work.returned.take() {
            self.outbox.send(Say::Returned(returned), Hold::default());
            return;
        }
        if self.wants_credit() {
            self.work.wanted = true;
            self.outbox.send(Say::Wanted(self.work.account.granted()), Hold::default());
            return;
        }
        if sendable {
            self.deliver(waiting);
        }
    }

    /// Sends what is next, together with what goes with it.
    fn deliver(&mut self, waiting: &mut Waiting) {
        let mut response = Bundle::default();
        loop {
            if self.work.parcel.is_none() {
                self.next_parcel(self.work.served_last);
            }
            let work = &mut self.work;
            let Some(parcel) = &mut work.parcel else { break };
            let (account, unsent) = (&mut work.account, parcel.unsent().count());
            let step = parcel.next(&mut response, |bytes| {
                let alone = account.on_their_way() <= unsent;
                account.take_more(bytes, alone)
            });
            match step {
                Step::Full => break,
                Step::NeedsRoom(bytes) => {
                    let budget = self.around.budget.clone();
                    waiting.decoding = Some(async move { budget.take(bytes).await }.boxed());
                    break;
                }
                step @ Step::NeedsCredit => {
                    self.step(step);
                    break;
                }
                step => self.step(step),
            }
        }
        if !response.is_empty() {
            let (delivery, hold) = response.finish();
            self.say(Response::Delivery(delivery), hold);
        }
    }

    fn step(&mut self, step: Step) {
        let work = &mut self.work;
        let Some(partition) = work.parcel.as_ref().map(Parcel::partition) else { return };
        match step {
            Step::Added { messages, bytes } => {
                self.around.metrics.messages.inc_by(messages);
                self.around.metrics.bytes.inc_by(bytes);
                work.account.settle(messages);
            }
            Step::Undeliverable { span, producer, error, unused } => {
                let name = self.partitions[&partition].name();
                tracing::warn!(partition = %name, ?span, ?producer, %error, "a batch contradicts its own header; a reader goes past it");
                self.around.metrics.undeliverable.inc_by(span.count());
                work.account.refund(unused);
                let place = work.places.get_mut(&partition).expect("it was read for");
                place.next = place.next.max(span.end);
                place.entries.retain(|(entry, _)| entry.end_offset() > span.end);
                let fault = Fault::new(FaultKind::DataLoss, error.reason, error.to_string());
                let producer = producer.map(|p| p.to_string()).unwrap_or_default();
                work.faults.push_back(problem(partition, span.first, span.end, producer, &fault));
            }
            Step::Done(unused) => {
                work.account.refund(unused);
                let decoded = work.parcel.take().and_then(Parcel::into_decoded);
                let budget = &self.around.budget;
                let place = work.places.get_mut(&partition).expect("it was read for");
                place.decoded = decoded.filter(|_| budget.held() < budget.total() / 2);
            }
            Step::NeedsCredit => work.waits_for_credit = true,
            Step::NeedsRoom(_) | Step::Full => {}
        }
    }
}

impl Place {
    const fn at(next: Offset) -> Self {
        Self {
            next,
            stop: None,
            entries: VecDeque::new(),
            reached: Timestamp::from_millis(0),
            busy: false,
            failures: 0,
            decoded: None,
        }
    }

    fn is_complete(&self) -> bool {
        self.stop.is_some_and(|stop| self.next >= stop)
    }

    /// Whether it has something to send, in a partition that ends at `end`.
    fn wants(&self, end: Offset) -> bool {
        !self.is_complete() && self.next < end
    }
}

impl Work {
    fn is_complete(&self) -> bool {
        self.parcel.is_none() && self.faults.is_empty() && self.places.values().all(Place::is_complete)
    }

    fn has_at_hand(&self) -> bool {
        self.places.values().any(|place| !place.entries.is_empty())
    }

    /// Lets go what is not being sent; it is read again when there is credit and room.
    fn rest(&mut self) {
        for place in self.places.values_mut() {
            place.entries.clear();
            place.decoded = None;
        }
    }

    fn request(&mut self, request: &Ask<v1::ReadRequest>) -> Result<(), Fault> {
        // A reader's messages are not taken back: its relay begins anew where it was.
        let Ask::Request(request) = request else {
            let (more, before) = (self.account.reclaim(), self.returned.unwrap_or_default());
            self.returned = Some(Grant { messages: before.messages + more.messages, bytes: before.bytes + more.bytes });
            return Ok(());
        };
        match &request.request {
            Some(Request::Credit(credit)) => {
                (self.waits_for_credit, self.wanted) = (false, false);
                self.account.grant(request::grant(*credit))
            }
            Some(Request::Open(_)) => {
                Err(Fault::invalid("open", "OPENED_ALREADY", "a stream is opened once, by its first request"))
            }
            None => Err(Fault::invalid("request", "MISSING", "a request is a credit")),
        }
    }
}

/// Which partition is read next: the one that is furthest behind by the time of its messages, since what was written together lies
/// together on the disk, and is read once if it is read together. Clocks may be wrong (C55): every few reads are of the next one in
/// turn, so that nobody starves.
#[derive(Debug, Default)]
struct Turns {
    reads: u64,
    last: Option<PartitionIndex>,
}

impl Turns {
    fn next(&mut self, readable: &BTreeSet<(Timestamp, PartitionIndex)>) -> Option<(Timestamp, PartitionIndex)> {
        let behind = *readable.first()?;
        self.reads += 1;
        if !self.reads.is_multiple_of(IN_TURN) {
            return Some(behind);
        }
        let after = next_after(self.last);
        let next = *readable.iter().min_by_key(|(_, index)| (*index < after, *index))?;
        self.last = Some(next.1);
        Some(next)
    }
}

/// Whose turn it is behind the last one that had it.
fn next_after(last: Option<PartitionIndex>) -> PartitionIndex {
    PartitionIndex::new(last.map_or(0, |last| last.get() + 1))
}

fn response(response: Response) -> v1::ReadResponse {
    v1::ReadResponse { response: Some(response) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_furthest_behind_is_read_first_and_nobody_starves() {
        let at = |millis, index| (Timestamp::from_millis(millis), PartitionIndex::new(index));
        // Partition 2 was written by a clock that is far ahead.
        let readable = BTreeSet::from([at(5, 0), at(3, 1), at(1_000_000, 2)]);
        let mut turns = Turns::default();
        let read: Vec<u32> = (0..12).filter_map(|_| turns.next(&readable)).map(|(_, index)| index.get()).collect();
        assert_eq!(read, [1, 1, 1, 0, 1, 1, 1, 1, 1, 1, 1, 2]);
        assert_eq!(turns.next(&BTreeSet::new()), None);
    }
}
