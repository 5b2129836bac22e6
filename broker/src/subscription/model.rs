//! The machine against a model, under random consumers, acknowledgements, failures and restarts.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use alluvium_types::batch::BatchHeader;
use alluvium_types::checksum::Crc32c;
use alluvium_types::entry::{BatchDescriptor, EntryHeader};
use alluvium_types::fault::Fault;
use alluvium_types::ids::{EntryId, LedgerId, Offset, PartitionIndex, Revision};
use alluvium_types::names::SubscriptionName;
use alluvium_types::time::{Mono, Timestamp};
use bytes::Bytes;
use proptest::prelude::*;
use tokio::sync::oneshot;

use super::state::Bound;
use super::*;
use crate::topic::{Bounds, Effects, Hosted, LoadedEntry, Output as _, ReadFault, SubscriptionKind, SubscriptionSpec};

/// Bytes of a message in the model.
const MESSAGE: u64 = 10;

/// An entry of batches with these numbers of messages.
pub(crate) fn entry(first: u64, counts: &[u32]) -> LoadedEntry {
    large_entry(first, counts, 0)
}

/// The same, whose batches are stored in so many bytes.
pub(crate) fn large_entry(first: u64, counts: &[u32], blob_bytes: u32) -> LoadedEntry {
    let batches: Vec<BatchDescriptor> = counts
        .iter()
        .map(|&count| BatchDescriptor {
            header: BatchHeader {
                count,
                inflated_bytes: blob_bytes.max(count * u32::try_from(MESSAGE).expect("small")),
                ..BatchHeader::default()
            },
            checksum: Crc32c::new(0),
            blob_bytes,
            producer: None,
        })
        .collect();
    let header = EntryHeader { first_offset: Offset::new(first), server_time: Timestamp::from_millis(1), batches };
    let mut body = header.encode().to_vec();
    body.resize(body.len() + counts.len() * blob_bytes as usize, 0);
    LoadedEntry::decode((LedgerId::new(1), EntryId::new(first)), &body.into(), None).expect("its own encoding")
}

fn name() -> SubscriptionName {
    SubscriptionName::parse("s").expect("valid")
}

#[derive(Clone, Debug)]
enum Op {
    Publish(Vec<u32>),
    Join { name: u8, takeover: bool, pull: bool },
    Leave { who: u8 },
    Grant { who: u8, messages: u64, bytes: u64 },
    Pump { who: u8, reads_fail: bool },
    Ack { who: u8, pick: u64 },
    AckUpTo { who: u8, pick: u64 },
    Nack { who: u8, pick: u64, delay: u64 },
    Stall { who: u8 },
    Advance { millis: u64 },
    Flush,
    Crash,
    Seek { to: u64 },
    Quiesce,
}

fn op() -> impl Strategy<Value = Op> {
    let who = 0_u8..4;
    prop_oneof![
        6 => proptest::collection::vec(1_u32..6, 1..4).prop_map(Op::Publish),
        3 => (0_u8..3, any::<bool>(), any::<bool>()).prop_map(|(name, takeover, pull)| Op::Join { name, takeover, pull }),
        2 => who.clone().prop_map(|who| Op::Leave { who }),
        5 => (who.clone(), 0_u64..12, 0_u64..120).prop_map(|(who, messages, bytes)| Op::Grant { who, messages, bytes }),
        8 => (who.clone(), proptest::bool::weighted(0.1)).prop_map(|(who, reads_fail)| Op::Pump { who, reads_fail }),
        6 => (who.clone(), any::<u64>()).prop_map(|(who, pick)| Op::Ack { who, pick }),
        2 => (who.clone(), any::<u64>()).prop_map(|(who, pick)| Op::AckUpTo { who, pick }),
        2 => who.clone().prop_map(|who| Op::Stall { who }),
        3 => (who, any::<u64>(), 0_u64..3000).prop_map(|(who, pick, delay)| Op::Nack { who, pick, delay }),
        2 => (0_u64..2000).prop_map(|millis| Op::Advance { millis }),
        3 => Just(Op::Flush),
        1 => Just(Op::Crash),
        1 => (0_u64..60).prop_map(|to| Op::Seek { to }),
        4 => Just(Op::Quiesce),
    ]
}

/// A consumer of the model.
struct Client {
    id: ConsumerId,
    mailbox: Mailbox,
    granted: Grant,
    received: u64,
    /// Delivered to it, seen by it, and neither acknowledged nor given back; until then.
    held: BTreeMap<u64, Mono>,
    pull: bool,
}

type Receipt = oneshot::Receiver<Result<(), Fault>>;

struct World {
    kind: SubscriptionKind,
    machine: Machine,
    now: Mono,
    log: Vec<LoadedEntry>,
    end: u64,
    clients: Vec<Client>,
    next_id: u64,
    /// Records that the state ledger has, and those that are on their way.
    durable: Vec<Bytes>,
    pending: Vec<Bytes>,
    waiting: VecDeque<Output>,
    /// Acknowledged as the machine knows it; with a receipt, as everybody does.
    acked: BTreeSet<u64>,
    receipts: Vec<(Receipt, Vec<u64>)>,
    confirmed: BTreeSet<u64>,
    delayed: BTreeMap<u64, Mono>,
    /// Held by pulls that have gone, until then.
    deadlines: BTreeMap<u64, Mono>,
    delivered: u64,
    /// Events that clients took from their mailboxes, and what they told the machine by themselves.
    seen: u64,
}

/// Small enough to be met (C43).
const BOUND: Bound = Bound { consumer_messages: 9, subscription_messages: 15, consumers: 50 };
const DEADLINE: Duration = Duration::from_secs(2);

impl World {
    fn new(kind: SubscriptionKind) -> Self {
        let mut world = Self {
            kind,
            machine: Machine::default(),
            now: Mono::default(),
            log: Vec::new(),
            end: 0,
            clients: Vec::new(),
            next_id: 0,
            durable: Vec::new(),
            pending: Vec::new(),
            waiting: VecDeque::new(),
            acked: BTreeSet::new(),
            receipts: Vec::new(),
            confirmed: BTreeSet::new(),
            delayed: BTreeMap::new(),
            deadlines: BTreeMap::new(),
            delivered: 0,
            seen: 0,
        };
        world.restart();
        world
    }

    fn bounds(&self) -> Bounds {
        Bounds { first: Offset::ZERO, end: Offset::new(self.end) }
    }

    fn call(&mut self, act: impl FnOnce(&mut Machine, Mono, &mut Effects<Output>)) {
        let mut effects = Effects::default();
        act(&mut self.machine, self.now, &mut effects);
        self.pending.append(&mut effects.records);
        for output in effects.now {
            output.perform();
        }
        self.waiting.extend(effects.when_durable);
        self.collect_receipts(false);
    }

    fn collect_receipts(&mut self, all: bool) {
        for (mut receiver, offsets) in std::mem::take(&mut self.receipts) {
            match receiver.try_recv() {
                Ok(Ok(())) => self.confirmed.extend(offsets),
                Ok(Err(fault)) => panic!("refused: {fault}"),
                Err(oneshot::error::TryRecvError::Empty) if all => panic!("everything is durable, and a receipt is missing"),
                Err(oneshot::error::TryRecvError::Empty) => self.receipts.push((receiver, offsets)),
                Err(oneshot::error::TryRecvError::Closed) => {}
            }
        }
    }

    fn apply(&mut self, input: Input) {
        self.call(|machine, now, effects| machine.apply(now, input, effects));
    }

    fn restart(&mut self) {
        self.machine = Machine::restore(&self.durable).expect("its own records");
        self.machine.unacknowledged = BOUND;
        let spec = SubscriptionSpec { name: name(), id: Revision::new(7), kind: self.kind, start: Offset::ZERO };
        let bounds = self.bounds();
        self.call(|machine, now, effects| machine.configure(now, &[spec], bounds, effects));
    }

    fn flush(&mut self) {
        self.durable.append(&mut self.pending);
        for output in std::mem::take(&mut self.waiting) {
            output.perform();
        }
        self.collect_receipts(true);
    }

    fn crash(&mut self) {
        self.clients.clear();
        self.pending.clear();
        self.waiting.clear();
        self.receipts.clear();
        self.delayed.clear();
        self.deadlines.clear();
        // What was durable is acknowledged; of the rest nobody knows (S1, S4).
        self.restart();
        self.acked = (0..self.end).filter(|o| !self.machine.needs(Offset::new(*o), Offset::new(o + 1))).collect();
        assert!(self.confirmed.is_subset(&self.acked), "S1: an acknowledgement with a receipt was lost");
    }

    fn client(&self, who: u8) -> Option<usize> {
        (!self.clients.is_empty()).then(|| usize::from(who) % self.clients.len())
    }

    fn expire_model(&mut self) {
        let now = self.now;
        self.delayed.retain(|_, due| *due > now);
        self.deadlines.retain(|_, due| *due > now);
        for client in &mut self.clients {
            client.held.retain(|_, until| *until > now);
        }
    }

    fn step(&mut self, op: Op) {
        match op {
            Op::Publish(counts) => {
                let entry = entry(self.end, &counts);
                self.end = entry.end_offset().get();
                self.log.push(entry);
                let bounds = self.bounds();
                self.call(|machine, now, effects| machine.log_moved(now, bounds, effects));
            }
            Op::Join { name, takeover, pull } => self.join(name, takeover, pull),
            Op::Leave { who } => {
                if let Some(at) = self.client(who) {
                    self.leave(at);
                }
            }
            Op::Grant { who, messages, bytes } => {
                let Some(at) = self.client(who) else { return };
                let client = &mut self.clients[at];
                if client.mailbox.grant(Grant { messages, bytes }).is_ok() {
                    client.granted.messages += messages;
                    client.granted.bytes += bytes;
                }
                self.poke(at);
            }
            Op::Pump { who, reads_fail } => {
                if let Some(at) = self.client(who) {
                    self.pump(at, reads_fail);
                }
            }
            Op::Ack { who, pick } => {
                let Some(at) = self.client(who) else { return };
                let some: Vec<u64> = self.clients[at].held.keys().copied().filter(|o| (pick >> (o % 64)) & 1 == 1).collect();
                self.acknowledge(some, None);
            }
            Op::AckUpTo { who, pick } => {
                let Some(at) = self.client(who) else { return };
                let held: Vec<u64> = self.clients[at].held.keys().copied().collect();
                if held.is_empty() || self.kind == SubscriptionKind::Shared {
                    return;
                }
                let upto = held[usize::try_from(pick % held.len() as u64).expect("small")];
                let all = (0..=upto).filter(|o| !self.acked.contains(o)).collect();
                self.acknowledge(all, Some(upto + 1));
            }
            Op::Nack { who, pick, delay } => self.nack(who, pick, delay),
            Op::Stall { who } => self.stall(who),
            Op::Advance { millis } => {
                // What is on its way is seen now: its deadline began when it was given.
                self.pump_all();
                self.now = self.now.after(Duration::from_millis(millis));
                self.tick();
            }
            Op::Flush => self.flush(),
            Op::Crash => self.crash(),
            Op::Seek { to } => {
                let (reply, mut answer) = oneshot::channel();
                self.apply(Input::Seek { subscription: name(), to: Offset::new(to), reply });
                self.flush();
                let to = answer.try_recv().expect("durable").expect("known").get();
                assert!(to <= self.end);
                self.acked = (0..to).collect();
                self.confirmed = self.acked.clone();
                self.delayed.clear();
                self.deadlines.clear();
                for at in (0..self.clients.len()).rev() {
                    self.clients[at].held.clear();
                    self.pump(at, false);
                }
                assert!(self.clients.is_empty(), "a seek ends all streams");
            }
            Op::Quiesce => self.quiesce(),
        }
    }

    fn tick(&mut self) {
        // A pull's deadline takes its messages back.
        self.expire_model();
        self.call(|machine, now, effects| machine.tick(now, effects));
    }

    fn join(&mut self, called: u8, takeover: bool, pull: bool) {
        self.next_id += 1;
        let (id, mailbox) = (ConsumerId::new(self.next_id), Mailbox::new());
        let (reply, mut answer) = oneshot::channel();
        self.apply(Input::Join(JoinRequest {
            subscription: name(),
            consumer: id,
            name: if called == 0 { String::new() } else { called.to_string() },
            takeover,
            ack_deadline: pull.then_some(DEADLINE),
            held: Vec::new(),
            slot: mailbox.slot(PartitionIndex::new(3)),
            reply,
        }));
        let joined = answer.try_recv().expect("answered at once");
        match joined {
            Ok(()) => {
                if self.kind == SubscriptionKind::Exclusive {
                    // The ghost is told; what it had is delivered again.
                    for client in std::mem::take(&mut self.clients) {
                        let ended = std::iter::from_fn(|| client.mailbox.pop()).any(|(_, e)| matches!(e, Event::Ended(_)));
                        assert!(ended, "a replaced consumer is told");
                    }
                }
                let (granted, held) = (Grant::default(), BTreeMap::new());
                self.clients.push(Client { id, mailbox, granted, received: 0, held, pull });
                assert_eq!(self.machine.consumers(&name()).len(), self.clients.len());
            }
            Err(fault) => {
                assert_eq!((self.kind, fault.reason), (SubscriptionKind::Exclusive, "SUBSCRIPTION_BUSY"));
                assert!(!takeover && !self.clients.is_empty());
            }
        }
    }

    fn leave(&mut self, at: usize) {
        let client = self.clients.remove(at);
        let unsent: Vec<Span> = std::iter::from_fn(|| client.mailbox.pop())
            .filter_map(|(_, event)| match event {
                Event::Delivery(delivery) => Some(delivery.span),
                _ => None,
            })
            .collect();
        let mut kept = Vec::new();
        if client.pull {
            for (offset, until) in client.held {
                kept.push(Span::new(Offset::new(offset), Offset::new(offset + 1)));
                self.deadlines.insert(offset, until);
            }
        }
        self.apply(Input::Leave { subscription: name(), consumer: client.id, kept, unsent });
    }

    /// The client does not read: what waits for it goes back. Its next turn ends that.
    fn stall(&mut self, who: u8) {
        let Some(at) = self.client(who) else { return };
        let (mailbox, consumer) = (self.clients[at].mailbox.clone(), self.clients[at].id);
        mailbox.suspend(true);
        let mut spans = Vec::new();
        let events: Vec<(PartitionIndex, Event)> = std::iter::from_fn(|| mailbox.pop()).collect();
        for (partition, event) in events {
            match event {
                Event::Delivery(delivery) => {
                    mailbox.sent(delivery.span.count());
                    mailbox.refund(delivery.taken);
                    mailbox.release(delivery.taken);
                    spans.push(delivery.span);
                }
                event => mailbox.slot(partition).post(event),
            }
        }
        self.apply(Input::Unsent { subscription: name(), consumer, spans });
    }

    fn poke(&mut self, at: usize) {
        let consumer = self.clients[at].id;
        for partition in self.clients[at].mailbox.refilled() {
            assert_eq!(partition, PartitionIndex::new(3));
            self.seen += 1;
            self.apply(Input::Refilled { subscription: name(), consumer });
        }
    }

    fn pump_all(&mut self) {
        loop {
            let seen = self.seen;
            for at in (0..self.clients.len()).rev() {
                self.pump(at, false);
            }
            if self.seen == seen {
                return;
            }
        }
    }

    /// A session's work: hands over what waits, reads where it is asked to.
    fn pump(&mut self, at: usize, reads_fail: bool) {
        self.clients[at].mailbox.suspend(false);
        while let Some((_, event)) = self.clients[at].mailbox.pop() {
            self.seen += 1;
            match event {
                Event::Delivery(delivery) => self.receive(at, &delivery),
                Event::Read { from, bytes_max } => {
                    assert!(from.get() < self.end && bytes_max > 0);
                    let result = if reads_fail {
                        Err(ReadFault::Unavailable("injected".to_owned()))
                    } else {
                        // Two entries at a time: reading goes on.
                        Ok(self.log.iter().filter(|e| e.end_offset() > from).take(2).cloned().collect())
                    };
                    let consumer = self.clients[at].id;
                    self.apply(Input::Entries { subscription: name(), consumer, from, result });
                }
                Event::Receipt { .. } => panic!("acknowledged by calls only"),
                Event::Problem { fault, .. } => panic!("{fault}"),
                Event::Ended(_) => {
                    self.clients.remove(at);
                    return;
                }
            }
        }
        self.poke(at);
    }

    fn receive(&mut self, at: usize, delivery: &Delivery) {
        let span = delivery.span;
        assert!(!span.is_empty() && span.end.get() <= self.end);
        assert!(delivery.entry.first_offset() <= span.first && span.end <= delivery.entry.end_offset());
        for offset in span.first.get()..span.end.get() {
            self.delivered += 1;
            assert!(!self.confirmed.contains(&offset), "S1: {offset} is delivered after its receipt");
            assert!(!self.acked.contains(&offset), "{offset} is delivered after its acknowledgement");
            assert!(self.delayed.get(&offset).is_none_or(|due| *due <= self.now), "{offset} comes too early");
            let holder = self.clients.iter().find(|c| c.held.contains_key(&offset)).map(|c| c.id);
            let kept = self.deadlines.get(&offset);
            assert!(holder.or(kept.map(|_| ConsumerId::new(0))).is_none(), "S2: {offset} is with {holder:?} {kept:?} already");
            if self.kind == SubscriptionKind::Exclusive {
                let skipped = (0..offset).find(|o| {
                    !self.acked.contains(o) && !self.clients[at].held.contains_key(o) && !self.deadlines.contains_key(o)
                });
                assert!(skipped.is_none(), "T3: {offset} comes before {skipped:?}");
            }
            let until = self.until(at);
            self.clients[at].held.insert(offset, until);
        }
        let client = &mut self.clients[at];
        client.received += span.count();
        client.mailbox.sent(span.count());
        client.mailbox.release(delivery.taken);
        let account = client.mailbox.account();
        assert_eq!(account.granted().messages.max(client.granted.messages), account.granted().messages);
        if client.granted.messages > 0 && client.granted.messages == account.granted().messages {
            assert!(client.received <= client.granted.messages, "S3: more messages than were granted");
            let left = account.left().messages;
            assert_eq!(account.granted().messages, account.taken().messages + left, "S3: permits are conserved");
        }
    }

    fn until(&self, at: usize) -> Mono {
        if self.clients[at].pull { self.now.after(DEADLINE) } else { self.now.after(Duration::from_secs(1 << 40)) }
    }

    fn acknowledge(&mut self, offsets: Vec<u64>, before: Option<u64>) {
        if offsets.is_empty() {
            return;
        }
        let (reply, answer) = oneshot::channel();
        let spans = if before.is_some() {
            Vec::new()
        } else {
            offsets.iter().map(|o| Span::new(Offset::new(*o), Offset::new(o + 1))).collect()
        };
        self.apply(Input::Ack(AckRequest {
            subscription: name(),
            spans,
            before: before.map(Offset::new),
            target: AckTarget::Call(reply),
        }));
        for offset in &offsets {
            self.acked.insert(*offset);
            self.delayed.remove(offset);
            self.deadlines.remove(offset);
            for client in &mut self.clients {
                client.held.remove(offset);
            }
        }
        // What is acknowledged may still wait in a mailbox; the model looks at what is on its way from here on.
        for at in 0..self.clients.len() {
            self.drop_acknowledged(at);
        }
        self.receipts.push((answer, offsets));
        self.collect_receipts(false);
    }

    /// Deliveries that were on their way when somebody acknowledged their messages are not held against the machine.
    fn drop_acknowledged(&mut self, at: usize) {
        let acked = self.acked.clone();
        let events: Vec<(PartitionIndex, Event)> = std::iter::from_fn(|| self.clients[at].mailbox.pop()).collect();
        for (partition, event) in events {
            match event {
                Event::Delivery(delivery) if (delivery.span.first.get()..delivery.span.end.get()).any(|o| acked.contains(&o)) => {
                    self.clients[at].mailbox.sent(delivery.span.count());
                    self.clients[at].mailbox.release(delivery.taken);
                    self.clients[at].received += delivery.span.count();
                    for offset in (delivery.span.first.get()..delivery.span.end.get()).filter(|o| !acked.contains(o)) {
                        let until = self.until(at);
                        self.clients[at].held.insert(offset, until);
                    }
                }
                event => self.clients[at].mailbox.slot(partition).post(event),
            }
        }
    }

    fn nack(&mut self, who: u8, pick: u64, delay: u64) {
        let Some(at) = self.client(who) else { return };
        // What is on its way already is not called back: it may arrive before what is given back now.
        self.pump_all();
        let some: Vec<u64> = self.clients[at].held.keys().copied().filter(|o| (pick >> (o % 64)) & 1 == 1).collect();
        let due = self.now.after(Duration::from_millis(delay));
        for offset in &some {
            self.clients[at].held.remove(offset);
            self.delayed.insert(*offset, due);
        }
        let spans = some.iter().map(|o| Span::new(Offset::new(*o), Offset::new(o + 1))).collect();
        let delay = Duration::from_millis(delay);
        let consumer = Some(self.clients[at].id);
        self.apply(Input::Nack { subscription: name(), consumer, spans, delay, reply: None });
    }

    /// Lets everything come to rest, and looks for somebody who could be served and is not.
    fn quiesce(&mut self) {
        for _ in 0..200 {
            self.flush();
            let seen = self.seen;
            self.pump_all();
            if self.seen > seen {
                continue;
            }
            // Pauses after failed reads end by themselves.
            let wake = self.machine.next_wakeup().filter(|w| w.since(self.now) <= Duration::from_secs(5));
            let Some(wake) = wake else { break };
            self.now = self.now.max(wake);
            self.tick();
        }
        self.expire_model();
        let mut held: BTreeSet<u64> = BTreeSet::new();
        for client in &self.clients {
            held.extend(client.held.keys());
        }
        let due = |o: &u64| {
            !self.acked.contains(o) && !held.contains(o) && !self.delayed.contains_key(o) && !self.deadlines.contains_key(o)
        };
        let deliverable = match self.kind {
            SubscriptionKind::Shared => (0..self.end).find(due),
            // In order: nothing passes what waits for its delay.
            SubscriptionKind::Exclusive => {
                let first_delayed = self.delayed.keys().next().copied().unwrap_or(u64::MAX);
                (0..self.end).find(due).filter(|o| *o < first_delayed)
            }
        };
        if let Some(offset) = deliverable {
            for client in &self.clients {
                let account = client.mailbox.account();
                let left = account.left();
                // All that a pull that has gone still holds counts, too.
                let within = (client.held.len() as u64) < BOUND.consumer_messages
                    && ((held.len() + self.deadlines.len()) as u64) < BOUND.subscription_messages;
                let stuck = within && left.messages > 0 && left.bytes > 0 && (left.bytes >= MESSAGE || client.held.is_empty());
                assert!(!stuck, "no stuck subscription: {offset} is due, {:?} has {account:?}", client.id);
            }
        }
        let (reply, mut stats) = oneshot::channel();
        self.apply(Input::Stats { subscription: name(), reply });
        let stats = stats.try_recv().expect("answered").expect("known");
        let backlog = (0..self.end).filter(|o| !self.acked.contains(o)).count() as u64;
        assert_eq!((stats.backlog, stats.end.get()), (backlog, self.end), "T5: the backlog is what is not acknowledged");
        let in_flight = held.len() + self.deadlines.len();
        assert_eq!(stats.in_flight, in_flight as u64, "S3: what is in flight is what is held");
    }
}

fn run(kind: SubscriptionKind, ops: Vec<Op>) -> u64 {
    let mut world = World::new(kind);
    for op in ops {
        world.step(op);
        // C41: what the machine says is needed is what has no acknowledgement.
        for offset in 0..world.end {
            let needed = world.machine.needs(Offset::new(offset), Offset::new(offset + 1));
            assert_eq!(needed, !world.acked.contains(&offset), "T4: {offset}");
        }
    }
    world.quiesce();
    // A consumer with ample credit ends with everything.
    let clients: Vec<ConsumerId> = world.clients.iter().map(|c| c.id).collect();
    for _ in clients {
        world.leave(0);
    }
    world.now = world.now.after(Duration::from_secs(10));
    world.tick();
    world.join(1, true, false);
    let last = world.clients.len() - 1;
    world.clients[last].mailbox.grant(Grant { messages: 100_000, bytes: 1 << 30 }).expect("fine");
    world.poke(last);
    world.quiesce();
    // Bit by bit: what is delivered and unacknowledged is bounded (C43).
    loop {
        let held: Vec<u64> = world.clients[last].held.keys().copied().collect();
        assert!(held.len() as u64 <= BOUND.consumer_messages, "S3: more is unacknowledged than may be");
        if held.is_empty() {
            break;
        }
        world.acknowledge(held, None);
        world.quiesce();
    }
    assert_eq!(world.acked.len() as u64, world.end, "T2: all that was not acknowledged is delivered");
    world.delivered
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_shared_subscription_keeps_its_promises_under_random_use(ops in proptest::collection::vec(op(), 1..80)) {
        run(SubscriptionKind::Shared, ops);
    }

    #[test]
    fn an_exclusive_subscription_keeps_its_promises_under_random_use(ops in proptest::collection::vec(op(), 1..80)) {
        run(SubscriptionKind::Exclusive, ops);
    }
}
