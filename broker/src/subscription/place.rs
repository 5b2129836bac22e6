//! One subscription with those who consume it: their mailboxes, the entries at hand, and what is being read.

use std::collections::BTreeMap;
use std::time::Duration;

use alluvium_types::fault::{Fault, FaultKind};
use alluvium_types::ids::{Offset, Revision};
use alluvium_types::names::SubscriptionName;
use alluvium_types::time::Mono;
use bytes::Bytes;

use super::ahead::Ahead;
use super::credit::Grant;
use super::cursor::{Change, Cursor};
use super::discipline::Present;
use super::fates::Settled;
use super::input::{AckRequest, ConsumerId, CursorStats, JoinRequest, Output, Span};
use super::machine::moved;
use super::mailbox::{Choice, Delivery, Event, Slot};
use super::record::{Record, SPANS_MAX, Step};
use super::state::{Bound, Next, Subscription, Taken};
use super::window::Window;
use crate::topic::reader::{read_retry, unreadable};
use crate::topic::{Effects, LoadedEntry, ReadFault, SubscriptionSpec};

/// How long entries stay at hand that nobody takes.
const REST: Duration = Duration::from_secs(2);
/// How long after messages proved unreadable they are tried again.
const LOST_RETRY: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(crate) struct Place {
    name: SubscriptionName,
    id: Revision,
    subscription: Subscription,
    slots: BTreeMap<ConsumerId, Slot>,
    window: Window,
    /// The one read that is under way: who does it, and from where.
    reading: Option<(ConsumerId, Offset)>,
    ahead: Ahead,
    /// Nothing is dispatched before this: a read failed.
    paused_until: Option<Mono>,
    /// Reads that failed since the last one that did not.
    failures: u32,
    /// What could not be read and is not acknowledged since, as its consumers were told: who comes later is told, too.
    losses: BTreeMap<Offset, (Span, Fault)>,
    /// Who got something last; the others come first now.
    served_last: Option<ConsumerId>,
    /// When entries at hand are let go, unless somebody takes some: they hold memory that others want (Q6).
    rest_at: Option<Mono>,
    /// They were let go, and nobody has taken anything since.
    rested: bool,
}

impl Place {
    pub(crate) fn new(spec: &SubscriptionSpec, cursor: Cursor, unacknowledged: Bound) -> Self {
        Self {
            name: spec.name.clone(),
            id: spec.id,
            subscription: Subscription::new(spec.kind, cursor, unacknowledged),
            slots: BTreeMap::new(),
            window: Window::default(),
            reading: None,
            ahead: Ahead::new(),
            paused_until: None,
            failures: 0,
            losses: BTreeMap::new(),
            served_last: None,
            rest_at: None,
            rested: false,
        }
    }

    /// The identity of the subscription.
    pub(crate) const fn id(&self) -> Revision {
        self.id
    }

    pub(crate) fn join(&mut self, now: Mono, request: JoinRequest, end: Offset, effects: &mut Effects<Output>) {
        let newcomer = Present { id: request.consumer, name: request.name };
        let joined = self.subscription.join(newcomer, request.takeover, request.ack_deadline);
        let answer = match joined {
            Ok(replaced) => {
                let text = format!("another consumer took subscription {} over", self.name);
                let fault = Fault::new(FaultKind::Fenced, "CONSUMER_REPLACED", text);
                for consumer in replaced {
                    self.dismiss(consumer, &fault, effects);
                }
                self.subscription.hold(request.consumer, &request.held, request.ack_deadline.map(|after| now.after(after)), end);
                self.slots.insert(request.consumer, request.slot.clone());
                Ok(())
            }
            Err(fault) => Err(fault),
        };
        if answer.is_ok() {
            self.tell_losses(&request.slot, effects);
        }
        effects.now.push(Output::Answer(request.reply, answer));
        self.dispatch(now, end, effects);
    }

    pub(crate) fn leave(
        &mut self,
        now: Mono,
        consumer: ConsumerId,
        kept: &[Span],
        unsent: &[Span],
        end: Offset,
        effects: &mut Effects<Output>,
    ) {
        self.slots.remove(&consumer);
        self.subscription.leave(consumer, kept, unsent);
        if self.reading.is_some_and(|(reader, _)| reader == consumer) {
            self.reading = None;
        }
        if self.slots.is_empty() {
            self.forget_what_was_read();
        }
        self.dispatch(now, end, effects);
    }

    pub(crate) fn entries(
        &mut self,
        now: Mono,
        consumer: ConsumerId,
        from: Offset,
        result: Result<Vec<LoadedEntry>, ReadFault>,
        end: Offset,
        effects: &mut Effects<Output>,
    ) {
        if self.reading != Some((consumer, from)) {
            // Asked for before a seek or by somebody who was replaced.
            return;
        }
        self.reading = None;
        match result {
            Ok(entries) if entries.is_empty() && from < end => self.pause(now),
            Ok(entries) => {
                self.failures = 0;
                self.ahead.brought(entries.iter().map(LoadedEntry::bytes).sum());
                let mut at = from;
                for entry in entries {
                    self.skip_gap(Span::new(at, entry.first_offset()), effects);
                    at = at.max(entry.end_offset());
                    self.window.insert(entry);
                }
                self.found(Span::new(from, at));
            }
            Err(ReadFault::Lost { first, end: lost_end, reason }) if first <= from && from < lost_end => {
                self.lost(now, Span::new(from, lost_end), &reason, effects);
            }
            Err(_) => self.pause(now),
        }
        self.dispatch(now, end, effects);
    }

    /// The log has nothing there: it was trimmed in the middle.
    fn skip_gap(&mut self, span: Span, effects: &mut Effects<Output>) {
        let (gone, changes, settled) = self.subscription.skip_gap(span);
        if gone > 0 {
            tracing::warn!(subscription = %self.name, ?span, messages = gone, "messages are gone that were not acknowledged");
        }
        self.settle(settled);
        self.keep(changes, effects);
    }

    /// The next read begins a little later.
    fn pause(&mut self, now: Mono) {
        self.failures = self.failures.saturating_add(1);
        self.paused_until = Some(now.after(read_retry(self.failures)));
    }

    /// Reported, and tried again later; never skipped (T6).
    fn lost(&mut self, now: Mono, span: Span, reason: &str, effects: &mut Effects<Output>) {
        if span.first > self.subscription.frontier() {
            // Read ahead: it is reported when its turn comes.
            self.paused_until = Some(now.after(read_retry(1)));
            return;
        }
        self.failures = 0;
        let settled = self.subscription.park(span, now.after(LOST_RETRY));
        self.settle(settled);
        let mut text = reason.to_owned();
        if self.subscription.is_ordered() {
            text.push_str("; what lies behind waits: acknowledge these messages to go on without them");
        }
        let fault = unreadable(text).retry_after(LOST_RETRY);
        for slot in self.slots.values() {
            effects.now.push(Output::Post(slot.clone(), Event::Problem { span, fault: fault.clone() }));
        }
        self.found(span);
        self.losses.insert(span.first, (span, fault));
    }

    /// What is known to be lost of `span` is so no longer.
    fn found(&mut self, span: Span) {
        if !self.losses.is_empty() {
            self.losses.retain(|_, (lost, _)| lost.within(span).is_empty());
        }
    }

    /// Of what could not be read, a consumer that comes is told at once rather than when it is tried again.
    fn tell_losses(&mut self, slot: &Slot, effects: &mut Effects<Output>) {
        self.losses.retain(|_, (span, _)| self.subscription.cursor().needs(*span));
        for (span, fault) in self.losses.values() {
            effects.now.push(Output::Post(slot.clone(), Event::Problem { span: *span, fault: fault.clone() }));
        }
    }

    pub(crate) fn acknowledge(&mut self, now: Mono, request: AckRequest, end: Offset, effects: &mut Effects<Output>) {
        match self.subscription.acknowledge(&request.spans, request.before, end) {
            Ok((changes, settled)) => {
                self.keep(changes, effects);
                self.settle(settled);
                // Also one that changes nothing waits: what it repeats may not be durable yet (S1).
                effects.when_durable.push(Output::Receipt(request.target, Ok(())));
            }
            Err(fault) => {
                let fault = request.target.in_its_words(fault);
                effects.now.push(Output::Receipt(request.target, Err(fault)));
            }
        }
        self.dispatch(now, end, effects);
    }

    pub(crate) fn undeliverable(
        &mut self,
        now: Mono,
        consumer: ConsumerId,
        span: Span,
        end: Offset,
        effects: &mut Effects<Output>,
    ) {
        if self.slots.contains_key(&consumer)
            && let Ok((changes, settled)) = self.subscription.acknowledge(&[span], None, end)
        {
            self.keep(changes, effects);
            self.settle(settled);
        }
        self.dispatch(now, end, effects);
    }

    pub(crate) fn give_back(
        &mut self,
        now: Mono,
        spans: &[Span],
        consumer: Option<ConsumerId>,
        delay: Duration,
        end: Offset,
        effects: &mut Effects<Output>,
    ) {
        let settled = self.subscription.give_back(spans, consumer, delay, now);
        self.settle(settled);
        self.dispatch(now, end, effects);
    }

    pub(crate) fn unsent(&mut self, now: Mono, consumer: ConsumerId, spans: &[Span], end: Offset, effects: &mut Effects<Output>) {
        let settled = self.subscription.unsend(spans, consumer);
        self.settle(settled);
        self.dispatch(now, end, effects);
    }

    /// The cursor stands at `to`; everybody who was connected begins anew, so that nothing they still hold or acknowledge is
    /// taken for what comes now.
    pub(crate) fn seek(&mut self, to: Offset, effects: &mut Effects<Output>) {
        let (change, consumers) = self.subscription.seek(to);
        self.keep(vec![change], effects);
        let fault = moved(&self.name);
        for consumer in consumers {
            self.dismiss(consumer, &fault, effects);
        }
        self.forget_what_was_read();
        self.losses.clear();
        (self.reading, self.paused_until, self.failures) = (None, None, 0);
    }

    pub(crate) fn trimmed(&mut self, first: Offset) {
        if first <= self.subscription.cursor().next() {
            return;
        }
        let (lost, settled) = self.subscription.trimmed(first);
        if lost > 0 {
            tracing::warn!(subscription = %self.name, before = %first, messages = lost, "retention took unacknowledged messages");
        }
        self.settle(settled);
    }

    pub(crate) fn tick(&mut self, now: Mono, end: Offset, effects: &mut Effects<Output>) {
        if self.rest_at.is_some_and(|at| at <= now) {
            self.window.clear();
            self.ahead.rest();
            (self.rest_at, self.rested) = (None, true);
        }
        let settled = self.subscription.expire(now);
        let due = !settled.is_empty() || self.subscription.fates().first_ready().is_some();
        self.settle(settled);
        // What rests is not read again for nobody: who has credit again says so.
        if due || self.paused_until.is_some() {
            self.dispatch(now, end, effects);
        }
    }

    pub(crate) fn next_wakeup(&self) -> Option<Mono> {
        self.subscription.fates().next_due().into_iter().chain(self.paused_until).chain(self.rest_at).min()
    }

    /// Gives everybody what they may have, in turn, and sees to it that more is at hand. After it, whoever has credit has been
    /// given something, or nothing is due, or a read is under way, or it waits for a time: no subscription is stuck.
    pub(crate) fn dispatch(&mut self, now: Mono, end: Offset, effects: &mut Effects<Output>) {
        if self.slots.is_empty() || self.paused_until.is_some_and(|until| now < until) {
            return;
        }
        self.paused_until = None;
        let mut needed = None;
        let mut took = false;
        while needed.is_none() && self.subscription.has_due(end) {
            let order = self.turn();
            let mut served = false;
            for &consumer in &order {
                match self.offer(consumer, order.len(), end, now) {
                    Some(Next::Taken(taken)) => {
                        (served, took) = (true, true);
                        self.served_last = Some(consumer);
                        self.post(consumer, taken, effects);
                    }
                    Some(Next::Unknown(offset)) => {
                        needed = Some((consumer, offset));
                        break;
                    }
                    Some(Next::Nothing | Next::TooLittle) | None => {}
                }
            }
            if !served {
                break;
            }
        }
        self.rested &= !took;
        let frontier = self.subscription.frontier();
        let fates = self.subscription.fates();
        let first = needed.map_or(frontier, |(_, offset)| offset);
        self.window.retain(first, Ahead::KEPT_MAX, |span| span.end > frontier || fates.any_ready(span));
        if took || self.rest_at.is_none() || self.window.bytes() == 0 {
            self.rest_at = (self.window.bytes() > 0).then(|| now.after(REST));
        }
        if self.reading.is_none() {
            self.reading = needed.or_else(|| self.read_ahead(end));
            if let Some((consumer, from)) = self.reading {
                let event = Event::Read { from, bytes_max: self.ahead.begin(needed.is_some()) };
                effects.now.push(Output::Post(self.slots[&consumer].clone(), event));
            }
        }
    }

    /// Those with credit and room, the one that was served last at the end; those without are told when there is some.
    fn turn(&self) -> Vec<ConsumerId> {
        let after = self.served_last.map_or(0, |last| last.get().saturating_add(1));
        let (first, then): (Vec<_>, Vec<_>) = self.slots.keys().partition(|c| c.get() >= after);
        first.into_iter().chain(then).filter(|c| self.slots[c].is_ready()).collect()
    }

    fn offer(&mut self, consumer: ConsumerId, sharers: usize, end: Offset, now: Mono) -> Option<Next> {
        let Self { subscription, window, slots, .. } = self;
        slots[&consumer].take(|allowance| match subscription.take(consumer, allowance, sharers, end, window, now) {
            next @ Next::Taken(taken) => Choice::Take(taken.used, next),
            Next::TooLittle => Choice::TooLittle,
            next @ (Next::Nothing | Next::Unknown(_)) => Choice::Pass(next),
        })
    }

    fn post(&self, consumer: ConsumerId, taken: Taken, effects: &mut Effects<Output>) {
        let entry = self.window.entry(taken.span.first).expect("what was taken is at hand").clone();
        let delivery = Delivery { entry, span: taken.span, attempt: taken.attempt, taken: taken.used };
        effects.now.push(Output::Post(self.slots[&consumer].clone(), Event::Delivery(delivery)));
    }

    /// What to read before it is due, and who does it: somebody whose credit goes on, also one that has no room at the moment. Were
    /// room waited for, messages would be read and sent by turns. It is, where nobody took what was read before.
    fn read_ahead(&self, end: Offset) -> Option<(ConsumerId, Offset)> {
        let reach = self.window.reach(self.subscription.frontier());
        if reach >= end || self.window.bytes() >= self.ahead.bytes() {
            return None;
        }
        let goes_on = || self.slots.iter().find(|(_, slot)| !self.rested && slot.goes_on()).map(|(&consumer, _)| consumer);
        let reader = self.turn().last().copied().or_else(goes_on);
        reader.map(|consumer| (consumer, reach))
    }

    fn dismiss(&mut self, consumer: ConsumerId, fault: &Fault, effects: &mut Effects<Output>) {
        if let Some(slot) = self.slots.remove(&consumer) {
            effects.now.push(Output::Post(slot, Event::Ended(fault.clone())));
        }
        if self.reading.is_some_and(|(reader, _)| reader == consumer) {
            self.reading = None;
        }
    }

    /// Everybody goes.
    pub(crate) fn end(&mut self, fault: &Fault, effects: &mut Effects<Output>) {
        let consumers: Vec<ConsumerId> = self.slots.keys().copied().collect();
        for consumer in consumers {
            self.subscription.leave(consumer, &[], &[]);
            self.dismiss(consumer, fault, effects);
        }
        self.forget_what_was_read();
    }

    /// Whoever comes next begins with little.
    fn forget_what_was_read(&mut self) {
        self.window.clear();
        self.ahead.rest();
        self.rested = false;
    }

    fn settle(&self, settled: Settled) {
        for (consumer, messages) in settled {
            if let Some(slot) = self.slots.get(&consumer) {
                slot.settle(messages);
            }
        }
    }

    fn keep(&self, changes: Vec<Change>, effects: &mut Effects<Output>) {
        effects.records.extend(changes.into_iter().flat_map(|change| self.records(change)));
    }

    /// A step as records, each of a bounded number of runs.
    fn records(&self, change: Change) -> Vec<Bytes> {
        let steps = match change {
            Change::Acknowledged(spans) => spans.chunks(SPANS_MAX).map(|spans| Change::Acknowledged(spans.to_vec())).collect(),
            change => vec![change],
        };
        steps.into_iter().map(|c| Record { subscription: self.id, step: Step::Changed(c) }.encode()).collect()
    }

    pub(crate) fn snapshot(&self) -> Vec<Bytes> {
        self.subscription.cursor().changes(SPANS_MAX).into_iter().flat_map(|change| self.records(change)).collect()
    }

    pub(crate) fn needs(&self, span: Span) -> bool {
        self.subscription.cursor().needs(span)
    }

    /// Nobody is connected, and no pull holds anything.
    pub(crate) fn is_idle(&self) -> bool {
        self.slots.is_empty() && self.subscription.fates().in_flight() == 0
    }

    pub(crate) fn stats(&self, end: Offset) -> CursorStats {
        self.subscription.stats(end, |consumer| self.slots.get(&consumer).map_or(Grant::default(), Slot::credit))
    }

    #[cfg(test)]
    pub(crate) fn consumers(&self) -> Vec<ConsumerId> {
        self.subscription.consumers().collect()
    }
}

#[cfg(test)]
mod tests {
    use alluvium_types::ids::PartitionIndex;
    use alluvium_types::names::SubscriptionName;
    use tokio::sync::oneshot;

    use super::super::credit::Grant;
    use super::super::mailbox::Mailbox;
    use super::super::model::large_entry;
    use super::*;
    use crate::topic::{Output as _, SubscriptionKind};

    const MIB: u32 = 1 << 20;
    const END: Offset = Offset::new(1 << 20);
    const BOUND: Bound = Bound { consumer_messages: 1 << 20, subscription_messages: 1 << 20, consumers: 50 };

    /// A log of entries of ten messages, half a MiB each, and one consumer.
    struct World {
        place: Place,
        mailbox: Mailbox,
        consumer: ConsumerId,
        now: Mono,
        effects: Effects<Output>,
        reads: Vec<(Offset, usize)>,
        delivered: usize,
    }

    impl World {
        fn new() -> Self {
            let name = SubscriptionName::parse("s").expect("valid");
            let spec = SubscriptionSpec { name, id: Revision::new(1), kind: SubscriptionKind::Exclusive, start: Offset::ZERO };
            let place = Place::new(&spec, Cursor::at(Offset::ZERO), BOUND);
            Self {
                place,
                mailbox: Mailbox::new(),
                consumer: ConsumerId::new(0),
                now: Mono::default(),
                effects: Effects::default(),
                reads: Vec::new(),
                delivered: 0,
            }
        }

        fn join(&mut self, number: u64) {
            (self.mailbox, self.consumer) = (Mailbox::new(), ConsumerId::new(number));
            self.mailbox.grant(Grant { messages: 1 << 30, bytes: 1 << 40 }).expect("fine");
            let request = JoinRequest {
                subscription: self.place.name.clone(),
                consumer: self.consumer,
                name: String::new(),
                takeover: false,
                ack_deadline: None,
                held: Vec::new(),
                slot: self.mailbox.slot(PartitionIndex::new(0)),
                reply: oneshot::channel().0,
            };
            self.place.join(self.now, request, END, &mut self.effects);
            self.take();
        }

        fn take(&mut self) {
            self.effects.now.drain(..).for_each(Output::perform);
            while let Some((_, event)) = self.mailbox.pop() {
                match event {
                    Event::Read { from, bytes_max } => self.reads.push((from, bytes_max)),
                    Event::Delivery(_) => self.delivered += 1,
                    other => panic!("{other:?}"),
                }
            }
        }

        /// The last read comes to its end, whole.
        fn answer(&mut self) {
            let (from, bytes_max) = self.reads[self.reads.len() - 1];
            let entries = (0..(bytes_max as u64 * 2 / u64::from(MIB)).max(1))
                .map(|number| large_entry(from.get() + 10 * number, &[10], MIB / 2))
                .collect();
            self.place.entries(self.now, self.consumer, from, Ok(entries), END, &mut self.effects);
            self.take();
        }
    }

    #[test]
    fn more_is_read_for_a_consumer_without_room_as_far_as_it_is_taken() {
        let mut world = World::new();
        world.join(1);
        for _ in 0..40 {
            let before = world.reads.len();
            world.answer();
            if world.reads.len() == before {
                break;
            }
        }
        let reads = world.reads.len();
        assert!(!world.place.slots[&world.consumer].is_ready() && reads > 1, "{reads} reads, and no room");
        assert!(world.place.window.bytes() <= Ahead::KEPT_MAX, "what is at hand is bounded");
        // It takes nothing: what is at hand goes, and nothing is read for it again, whatever is published.
        world.now = world.now.after(REST);
        world.place.tick(world.now, END, &mut world.effects);
        world.place.dispatch(world.now, END, &mut world.effects);
        world.take();
        assert_eq!((world.place.window.bytes(), world.reads.len()), (0, reads));
    }

    #[test]
    fn who_begins_anew_begins_with_small_reads() {
        let mut world = World::new();
        for number in 1..6 {
            world.join(number);
            assert_eq!(world.reads.last().expect("it reads").1, 512 << 10, "consumer {number}");
            world.answer();
            let (mut effects, end) = (Effects::default(), END);
            world.place.leave(world.now, world.consumer, &[], &[], end, &mut effects);
        }
    }
}
