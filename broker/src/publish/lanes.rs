//! The partitions of one publish stream: what goes to their owners, here and elsewhere, and what they answer. Each has a lane of
//! its own, so that one whose owner is being found, or stands still, holds up no other.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use alluvium_proto::v1;
use alluvium_proto::v1::publish_stream_response::Response;
use alluvium_runtime::backoff::Backoff;
use alluvium_runtime::budget::ByteBudget;
use alluvium_types::entry::ProducerStamp;
use alluvium_types::fault::{Fault, FaultKind};
use alluvium_types::ids::PartitionIndex;
use alluvium_types::names::PartitionName;
use alluvium_types::time::Mono;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use tokio::sync::mpsc;
use tonic::Status;

use super::admission::{self, Opening};
use super::doors::{Door, Doors};
use super::lane::{Answered, Item, Lane, Outcome, Pending, Verdict};
use super::news::{News, claimed, receipt};
use super::receipt::{Answer, Answers, Ticket};
use super::session::check;
use super::upstream::Upstreams;
use super::way::{Made, NoRoom, Parked, Room, Way};
use crate::broker::{Broker, Route, Scope, TopicInfo};
use crate::topic::command::PublishCommand;
use crate::topic::handle::{is_moved, moved};

/// Batches and claims of one stream without an answer. Past it the stream is not read: HTTP/2 holds the client back.
pub(super) const OUTSTANDING_MAX: usize = 4096;
/// How long a partition's owners may come and go without any of them answering, before the client is told.
const PATIENCE: Duration = Duration::from_secs(20);
/// Between attempts to find an owner that answers: at least, and at most.
const AGAIN: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(250));

type Found = (PartitionIndex, Result<Route, Fault>);

/// What one stream has with its partitions.
pub(super) struct Lanes {
    broker: Broker,
    scope: Scope,
    topic: TopicInfo,
    opening: Opening,
    lanes: BTreeMap<PartitionIndex, (Lane<Parked, Way>, Backoff)>,
    /// Those that may have something to send on, or an owner to look for.
    touched: BTreeSet<PartitionIndex>,
    doors: Doors,
    /// Room that was asked for.
    rooms: FuturesUnordered<BoxFuture<'static, Made>>,
    upstreams: Upstreams,
    answers: Answers,
    outstanding: usize,
    finding: FuturesUnordered<BoxFuture<'static, Found>>,
    /// Partitions that were handed on by another broker and are not this one's: nothing more is taken of them on this stream.
    moved: BTreeSet<PartitionIndex>,
    /// What the client is to be told.
    news: News,
    /// For the next owner here.
    next_number: u64,
}

impl Lanes {
    /// None yet. `open` opens the stream at other brokers; what owners say comes by `answers`.
    pub(super) fn new(
        broker: Broker,
        scope: Scope,
        topic: TopicInfo,
        opening: Opening,
        open: v1::PublishOpen,
        answers: Answers,
    ) -> Self {
        Self {
            upstreams: Upstreams::new(broker.clone(), open, answers.clone()),
            broker,
            scope,
            topic,
            opening,
            lanes: BTreeMap::new(),
            touched: BTreeSet::new(),
            doors: Doors::default(),
            rooms: FuturesUnordered::new(),
            answers,
            outstanding: 0,
            finding: FuturesUnordered::new(),
            moved: BTreeSet::new(),
            news: News::default(),
            next_number: 0,
        }
    }

    pub(super) const fn broker(&self) -> &Broker {
        &self.broker
    }

    pub(super) const fn scope(&self) -> Scope {
        self.scope
    }

    pub(super) const fn topic(&self) -> &TopicInfo {
        &self.topic
    }

    /// The topic was read anew.
    pub(super) fn is_now(&mut self, topic: TopicInfo) {
        if topic.id == self.topic.id {
            self.topic = topic;
        }
    }

    /// The memory of what waits here. What other brokers hand on has memory of its own: brokers that wait for each other's would wait
    /// for ever.
    pub(super) fn budget(&self) -> ByteBudget {
        match self.scope {
            Scope::Cluster => self.broker.publish_budget().clone(),
            Scope::Here => self.broker.forwarded_budget().clone(),
        }
    }

    /// Whether nothing more may be taken in for now.
    pub(super) fn is_full(&self) -> bool {
        self.outstanding + self.news.len() >= OUTSTANDING_MAX || self.doors.is_full()
    }

    /// Whether the client was not told all that it is to be told.
    pub(super) fn owes(&self) -> bool {
        self.outstanding > 0 || self.news.len() > 0
    }

    /// Takes one request in, unless `admitted` says why not.
    pub(super) fn take(&mut self, index: PartitionIndex, item: Item<Parked>, admitted: Result<(), Fault>) {
        self.outstanding += 1;
        let admitted = match admitted {
            _ if self.moved.contains(&index) => Err(self.moved(index)),
            Ok(()) => check(index, &item, &self.topic, &self.opening),
            refused => refused,
        };
        if let Err(fault) = admitted {
            return self.refuse(index, &item, &fault);
        }
        let again = || Backoff::new(AGAIN.0, AGAIN.1, self.broker.entropy().clone());
        let repeats = self.opening.producer.is_some();
        self.lanes.entry(index).or_insert_with(|| (Lane::new(repeats), again())).0.push(item);
        self.touched.insert(index);
    }

    fn moved(&self, index: PartitionIndex) -> Fault {
        moved(&PartitionName { topic: self.topic.name.clone(), index })
    }

    /// Waits for what comes next of what was taken, and does what it needs but sending on; `false` when the client has gone. Cancel
    /// safe: it waits for nothing else once something came.
    pub(super) async fn step(
        &mut self,
        heard: &mut mpsc::Receiver<Answer>,
        responses: &mpsc::Sender<Result<v1::PublishStreamResponse, Status>>,
    ) -> bool {
        tokio::select! {
            biased;
            room = responses.reserve(), if self.news.len() > 0 => match (room, self.news.next()) {
                (Ok(room), Some(response)) => room.send(Ok(v1::PublishStreamResponse { response: Some(response) })),
                _ => return false,
            },
            // Others may wait for the room that has come.
            Some(made) = self.rooms.next(), if !self.rooms.is_empty() => self.made(made),
            Some(answer) = heard.recv() => self.hear(answer, heard),
            Some(found) = self.finding.next(), if !self.finding.is_empty() => self.found(found),
        }
        true
    }

    /// Sends on what can be sent on, and looks for owners where there are none.
    pub(super) fn send_on(&mut self) {
        for index in std::mem::take(&mut self.touched) {
            self.send_on_of(index);
        }
    }

    fn send_on_of(&mut self, index: PartitionIndex) {
        while let Some((lane, _)) = self.lanes.get_mut(&index) {
            let Some(way) = lane.whither() else { break };
            let door = way.door();
            let room = if self.doors.is_crowded(door) { Err(NoRoom::Full) } else { way.try_room() };
            match room {
                Ok(room) => self.send(index, room),
                Err(NoRoom::Full) => {
                    let way = way.clone();
                    self.doors.wait(index, door, lane.load());
                    return self.ask(way);
                }
                Err(NoRoom::Ended) => self.ended(index),
            }
        }
        self.seek(index);
    }

    /// A partition has nothing that can go anywhere now.
    fn seek(&mut self, index: PartitionIndex) {
        let Some((lane, again)) = self.lanes.get_mut(&index) else { return };
        match lane.load() {
            load if load.requests == 0 => self.doors.leave(index),
            load => self.doors.wait(index, Door::Nobody, load),
        }
        if lane.seeks() {
            let pause = lane.failing_since().map(|_| again.delay());
            let (broker, topic, scope) = (self.broker.clone(), self.topic.clone(), self.scope);
            let find = async move {
                if let Some(pause) = pause {
                    broker.clock().sleep(pause).await;
                }
                (index, broker.route(&topic, index, scope).await)
            };
            self.finding.push(find.boxed());
        }
    }

    /// Asks for room on a way, if that is to be done.
    fn ask(&mut self, way: Way) {
        if self.doors.asks(way.door()) {
            self.rooms.push(way.room());
        }
    }

    /// There is room on a way, or none any more: those who wait for it go on, each with one request.
    fn made(&mut self, (way, mut room): Made) {
        let door = way.door();
        self.doors.answered(door);
        if room.is_none() {
            // They find out each for itself.
            while let Some(index) = self.doors.turn(door) {
                self.touched.insert(index);
            }
        }
        while let Some(made) = room.take() {
            let Some(index) = self.doors.turn(door) else { return };
            if self.lanes.get(&index).and_then(|(lane, _)| lane.whither()).is_none_or(|way| way.door() != door) {
                self.touched.insert(index);
                room = Some(made);
                continue;
            }
            self.send(index, made);
            if let Some((lane, _)) = self.lanes.get(&index)
                && lane.whither().is_some()
            {
                self.doors.wait(index, door, lane.load());
            }
            // What there is no room for asks again, and what has no way any more finds out then.
            room = way.try_room().ok();
        }
        self.ask(way);
    }

    /// Sends a partition's next request by the way that it has, on which there is room.
    fn send(&mut self, index: PartitionIndex, room: Room) {
        let budget = self.budget();
        let Some((lane, _)) = self.lanes.get_mut(&index) else { return };
        let upstream = match lane.whither() {
            Some(Way::There(upstream)) => Some(upstream.clone()),
            _ => None,
        };
        let Some(item) = lane.next() else { return };
        match (room, upstream) {
            (Room::There(room), Some(upstream)) => upstream.send(room, index, item),
            (Room::Here(room), _) => {
                let answers = self.answers.clone();
                room.send(match item {
                    Item::Batch(id, parked) => {
                        let ticket = Ticket { answers, id: *id, partition: index, guarantee: self.opening.guarantee };
                        let (epoch, batch) = (parked.batch.producer_epoch, parked.batch.batch.clone().unwrap_or_default());
                        let stamp = self.opening.producer.clone().map(|name| ProducerStamp { name, epoch });
                        // What goes again has no room kept for it beside what this session's is.
                        let held = parked.held.take().unwrap_or_else(|| budget.none());
                        PublishCommand::Batch(ticket, admission::batch(batch, stamp, self.broker.limits(), held))
                    }
                    Item::Claim(last_epoch) => {
                        let name = self.opening.producer.clone().expect("a claim without a name is refused when it comes");
                        PublishCommand::Claim { answers, partition: index, name, last_epoch: *last_epoch }
                    }
                });
            }
            (Room::There(_), None) => unreachable!("room is made on the way that a lane has"),
        }
    }

    /// A partition's way has ended.
    fn ended(&mut self, index: PartitionIndex) {
        let now = self.broker.clock().mono();
        let Some((lane, _)) = self.lanes.get_mut(&index) else { return };
        lane.close(now);
        if self.scope == Scope::Here {
            // Whoever handed it on finds the next owner, and nothing that comes behind it may be faster.
            let refused = lane.give_up();
            self.moved.insert(index);
            let fault = self.moved(index);
            refused.iter().for_each(|pending| self.refuse_pending(index, pending, &fault));
        }
    }

    fn found(&mut self, (index, found): Found) {
        let Some((lane, _)) = self.lanes.get_mut(&index) else { return };
        self.touched.insert(index);
        match found {
            Ok(Route::Here(handle)) => {
                lane.found(Way::Here(handle, self.next_number));
                self.next_number += 1;
            }
            Ok(Route::There(peer)) => lane.found(Way::There(self.upstreams.to(&peer))),
            Err(fault) => {
                for pending in lane.give_up() {
                    self.refuse_pending(index, &pending, &fault);
                }
            }
        }
    }

    /// Takes an answer, and whatever else came meanwhile.
    fn hear(&mut self, answer: Answer, heard: &mut mpsc::Receiver<Answer>) {
        let now = self.broker.clock().mono();
        let mut next = Some(answer);
        while let Some(answer) = next {
            match answer {
                Answer::Receipts(more) => more.into_iter().for_each(|r| self.on_receipt(receipt(r), now)),
                Answer::Claimed { partition, result } => self.on_claimed(claimed(partition, result), now),
                Answer::Forwarded { upstream, response } if self.upstreams.stands(upstream) => match response {
                    Response::Receipts(more) => more.receipts.into_iter().for_each(|r| self.on_receipt(r, now)),
                    Response::Claimed(claimed) => self.on_claimed(claimed, now),
                    Response::Opened(_) => {}
                },
                Answer::Forwarded { .. } => {}
                Answer::Lost { upstream, opened } => self.on_lost(upstream, opened, now),
            }
            next = heard.try_recv().ok();
        }
    }

    fn on_receipt(&mut self, mut receipt: v1::PublishReceipt, now: Mono) {
        let index = PartitionIndex::new(receipt.partition);
        let verdict = self.verdict(index, Answered::Batch(receipt.id), receipt.fault.as_ref(), now);
        if let Verdict::Tell { unsure } = verdict {
            if let Some(fault) = receipt.fault.as_mut().filter(|_| unsure) {
                // Whoever refuses it does not know what became of it before.
                fault.outcome_unknown = true;
            }
            self.outstanding -= 1;
            self.news.receipt(receipt);
        }
    }

    fn on_claimed(&mut self, claimed: v1::PublishClaimed, now: Mono) {
        let index = PartitionIndex::new(claimed.partition);
        if let Verdict::Tell { .. } = self.verdict(index, Answered::Claim, claimed.fault.as_ref(), now) {
            self.outstanding -= 1;
            self.news.claimed(claimed);
        }
    }

    fn verdict(&mut self, index: PartitionIndex, answer: Answered, fault: Option<&v1::Fault>, now: Mono) -> Verdict {
        let Some((lane, again)) = self.lanes.get_mut(&index) else { return Verdict::Ignore };
        let patient = self.scope == Scope::Cluster && lane.failing_since().is_none_or(|since| now.since(since) < PATIENCE);
        if self.scope == Scope::Here && fault.is_some_and(|fault| is_moved(&fault.reason)) {
            self.moved.insert(index);
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
            self.touched.insert(index);
            if let Some(Way::There(upstream)) = lane.asked() {
                self.upstreams.retire(upstream.number());
            }
        }
        lane.answered(answer, outcome, now)
    }

    fn on_lost(&mut self, upstream: u64, opened: bool, now: Mono) {
        self.upstreams.lost(upstream);
        let mut told = Vec::new();
        for (index, (lane, _)) in &mut self.lanes {
            if matches!(lane.asked(), Some(Way::There(there)) if there.number() == upstream) {
                self.broker.moved(self.topic.id, *index);
                self.touched.insert(*index);
                told.extend(lane.lost(opened, now).into_iter().map(|item| (*index, item)));
            }
        }
        for (index, item) in told {
            let text = format!("the owner of partition {index} of {} is gone; it may or may not be stored", self.topic.name);
            self.refuse(index, &item, &Fault::new(FaultKind::OutcomeUnknown, "OWNERSHIP_LOST", text));
        }
    }

    /// Answers a request that nobody takes: with a fault, or, where it may have been stored before, with that.
    fn refuse_pending(&mut self, index: PartitionIndex, pending: &Pending<Parked>, fault: &Fault) {
        if !pending.unsure {
            return self.refuse(index, &pending.item, fault);
        }
        let text =
            format!("an owner of partition {index} of {} went with it; it may or may not be stored: {fault}", self.topic.name);
        self.refuse(index, &pending.item, &Fault::new(FaultKind::OutcomeUnknown, fault.reason, text));
    }

    /// Answers a request with a fault.
    fn refuse(&mut self, index: PartitionIndex, item: &Item<Parked>, fault: &Fault) {
        self.outstanding -= 1;
        self.news.refused(index, item, fault);
    }
}
