//! One subscription in one partition: what is next, for whom, and what became of what was delivered.

use std::time::Duration;

use alluvium_types::fault::{Fault, FaultKind};
use alluvium_types::ids::Offset;
use alluvium_types::time::Mono;

use super::credit::{Allowance, Grant};
use super::cursor::{Change, Cursor};
use super::discipline::{self, Admission, Present};
use super::fates::{Fates, Settled};
use super::input::{ConsumerId, ConsumerStats, CursorStats, Span};
use super::window::{Layout, Shape};
use crate::topic::SubscriptionKind;

/// How much may be delivered and unacknowledged; dispatch waits there, and nothing is dropped (C43).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Bound {
    /// By one consumer, in messages.
    pub(crate) consumer_messages: u64,
    /// By all of them, in messages.
    pub(crate) subscription_messages: u64,
    /// How many consumers there may be.
    pub(crate) consumers: usize,
}

impl Default for Bound {
    fn default() -> Self {
        Self { consumer_messages: 1 << 17, subscription_messages: 1 << 20, consumers: 1024 }
    }
}

/// A subscription. Every message below `frontier` is acknowledged, or has a fate; those at and above it were not delivered since
/// this broker owns the partition.
#[derive(Clone, Debug)]
pub(crate) struct Subscription {
    kind: SubscriptionKind,
    bound: Bound,
    cursor: Cursor,
    fates: Fates,
    frontier: Offset,
    members: Vec<Member>,
}

#[derive(Clone, Debug)]
struct Member {
    present: Present,
    ack_deadline: Option<Duration>,
}

/// What a consumer may have next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Next {
    /// These: they are the consumer's now.
    Taken(Taken),
    /// Something, once the entry that holds this offset is at hand.
    Unknown(Offset),
    /// Something, once it has more credit.
    TooLittle,
    /// Nothing is due, or it has as much unacknowledged as it may.
    Nothing,
}

/// Messages that became a consumer's: of one entry, whole batches where credit allows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Taken {
    pub(crate) span: Span,
    pub(crate) attempt: u32,
    pub(crate) used: Grant,
}

impl Subscription {
    pub(crate) fn new(kind: SubscriptionKind, cursor: Cursor, bound: Bound) -> Self {
        let frontier = cursor.next();
        Self { kind, bound, cursor, fates: Fates::default(), frontier, members: Vec::new() }
    }

    pub(crate) const fn cursor(&self) -> &Cursor {
        &self.cursor
    }

    pub(crate) const fn fates(&self) -> &Fates {
        &self.fates
    }

    /// The first message that was never delivered here.
    pub(crate) const fn frontier(&self) -> Offset {
        self.frontier
    }

    /// Lets a consumer in; answers whom it replaces. Theirs is delivered again.
    pub(crate) fn join(
        &mut self,
        newcomer: Present,
        takeover: bool,
        ack_deadline: Option<Duration>,
    ) -> Result<Vec<ConsumerId>, Fault> {
        let present: Vec<Present> = self.members.iter().map(|m| m.present.clone()).collect();
        let replaced = match discipline::of(self.kind).admit(&present, &newcomer, takeover) {
            Admission::Beside => Vec::new(),
            Admission::InPlaceOf(replaced) => replaced,
            Admission::Refused { holder } => {
                let holder = if holder.is_empty() { "an unnamed consumer".to_owned() } else { format!("{holder:?}") };
                let text = format!("the subscription is exclusive and {holder} is connected; wait, or ask for takeover");
                let fault = Fault::new(FaultKind::FailedPrecondition, "SUBSCRIPTION_BUSY", text);
                return Err(fault.retry_after(Duration::from_secs(1)));
            }
        };
        if self.members.len() - replaced.len() >= self.bound.consumers {
            let text = format!("the subscription has {} consumers, which is the limit", self.members.len());
            return Err(Fault::new(FaultKind::Busy, "TOO_MANY_CONSUMERS", text).retry_after(Duration::from_secs(1)));
        }
        for consumer in &replaced {
            self.leave(*consumer, &[], &[]);
        }
        self.members.push(Member { present: newcomer, ack_deadline });
        Ok(replaced)
    }

    /// Leaves a consumer what a former owner delivered to it, as far as it is not acknowledged and nobody else has it. What lies
    /// between is to be delivered as ever.
    pub(crate) fn hold(&mut self, consumer: ConsumerId, held: &[Span], deadline: Option<Mono>, end: Offset) {
        for span in held {
            let span = Span::new(span.first, span.end.min(end));
            for open in self.cursor.unacknowledged(Span::new(self.frontier, span.end)) {
                self.fates.skip(open);
            }
            self.frontier = self.frontier.max(span.end);
            for open in self.cursor.unacknowledged(span) {
                for (ready, attempts) in self.fates.ready_in(open) {
                    self.fates.deliver(ready, consumer, attempts + 1, deadline);
                }
            }
        }
    }

    /// A consumer goes. What it has is delivered again (S4), apart from what it `kept` until its deadline; what was `unsent`
    /// was no attempt.
    pub(crate) fn leave(&mut self, consumer: ConsumerId, kept: &[Span], unsent: &[Span]) {
        self.members.retain(|m| m.present.id != consumer);
        self.unsend(unsent, consumer);
        self.fates.leave(consumer, kept);
    }

    /// Gives a consumer the next messages that it may have. `sharers` is how many others want some too, it included.
    pub(crate) fn take(
        &mut self,
        consumer: ConsumerId,
        allowance: Option<Allowance>,
        sharers: usize,
        end: Offset,
        layout: &impl Layout,
        now: Mono,
    ) -> Next {
        let Some(member) = self.members.iter().find(|m| m.present.id == consumer) else { return Next::Nothing };
        let Some((run, attempts)) = self.due(end) else { return Next::Nothing };
        let by_consumer = self.bound.consumer_messages.saturating_sub(self.fates.held_by(consumer));
        let room = by_consumer.min(self.bound.subscription_messages.saturating_sub(self.fates.in_flight()));
        if room == 0 {
            return Next::Nothing;
        }
        let Some(mut allowance) = allowance else { return Next::TooLittle };
        let Some(shapes) = layout.from(run.first) else { return Next::Unknown(run.first) };
        allowance.left.messages = allowance.left.messages.min(room);
        let Some((span, used)) = choose(run, shapes, allowance, sharers) else { return Next::TooLittle };
        let attempt = attempts + 1;
        let deadline = member.ack_deadline.map(|after| now.after(after));
        self.fates.deliver(span, consumer, attempt, deadline);
        self.frontier = self.frontier.max(span.end);
        Next::Taken(Taken { span, attempt, used })
    }

    /// The next run of messages to deliver to anybody, and how often they were delivered: the one order of delivery. What was
    /// given back comes first; on an ordered subscription what waits for its delay holds up all that lies behind it.
    fn due(&self, end: Offset) -> Option<(Span, u32)> {
        let ready = self.fates.first_ready();
        if discipline::of(self.kind).is_ordered()
            && let Some(delayed) = self.fates.first_delayed()
            && ready.is_none_or(|(run, _)| delayed < run.first)
        {
            return None;
        }
        ready.or_else(|| self.cursor.first_unacknowledged(self.frontier, end).map(|run| (run, 0)))
    }

    /// Whether nothing is delivered before what lies before it.
    pub(crate) fn is_ordered(&self) -> bool {
        discipline::of(self.kind).is_ordered()
    }

    /// Whether there is something to deliver now.
    pub(crate) fn has_due(&self, end: Offset) -> bool {
        self.due(end).is_some()
    }

    /// Acknowledges; answers the steps that the cursor took, and whose messages they were. What nobody has was delivered by an
    /// earlier owner, or is not wanted: that is fine too.
    pub(crate) fn acknowledge(
        &mut self,
        spans: &[Span],
        before: Option<Offset>,
        end: Offset,
    ) -> Result<(Vec<Change>, Settled), Fault> {
        if before.is_some() && !discipline::of(self.kind).is_ordered() {
            let text = "messages of a shared subscription are acknowledged one by one, not up to an offset";
            return Err(Fault::invalid("up_to", "CUMULATIVE_ACK", text));
        }
        let ahead = |field: &str, last: Offset| {
            let text = format!("offset {last} was never published; the next one will be {end}");
            Fault::invalid(field, "OFFSET_AHEAD", text)
        };
        if let Some(before) = before.filter(|b| *b > end) {
            return Err(ahead("up_to", before.previous().unwrap_or(before)));
        }
        if let Some(span) = spans.iter().find(|s| s.end > end) {
            return Err(ahead("ranges", span.end.previous().unwrap_or(span.end)));
        }
        let mut settled = Settled::new();
        let advanced = before.map(Change::Advanced).into_iter();
        let listed = (!spans.is_empty()).then(|| Change::Acknowledged(spans.to_vec())).into_iter();
        let changes: Vec<Change> = advanced.chain(listed).filter(|change| self.cursor.apply(change)).collect();
        for span in before.map(|before| Span::new(Offset::ZERO, before)).iter().chain(spans) {
            add(&mut settled, self.fates.settle(*span));
        }
        Ok((changes, settled))
    }

    /// Takes messages back from `consumer`, or whoever has them.
    pub(crate) fn give_back(&mut self, spans: &[Span], consumer: Option<ConsumerId>, delay: Duration, now: Mono) -> Settled {
        let due = (!delay.is_zero()).then(|| now.after(delay));
        let mut settled = Settled::new();
        for span in spans {
            add(&mut settled, self.fates.give_back(*span, consumer, due));
        }
        settled
    }

    /// Takes messages back that `consumer` was given and nobody saw: that was no attempt.
    pub(crate) fn unsend(&mut self, spans: &[Span], consumer: ConsumerId) -> Settled {
        let mut settled = Settled::new();
        for span in spans {
            add(&mut settled, self.fates.unsend(*span, consumer));
        }
        settled
    }

    /// These messages can't be read now: not to be tried again before `due`, and not forgotten (T6).
    pub(crate) fn park(&mut self, span: Span, due: Mono) -> Settled {
        // Beyond the frontier there are no fates; it is tried again when it is due there.
        let span = if span.first <= self.frontier { span } else { Span::new(span.first, self.frontier) };
        let mut settled = Settled::new();
        for open in self.cursor.unacknowledged(span) {
            add(&mut settled, self.fates.park(open, due));
        }
        self.frontier = self.frontier.max(span.end);
        settled
    }

    /// What lies before `first` is gone: the cursor does not point there (T5). Answers how many unacknowledged messages went.
    pub(crate) fn trimmed(&mut self, first: Offset) -> (u64, Settled) {
        let lost = self.cursor.backlog(first);
        self.cursor.apply(&Change::Advanced(first));
        self.frontier = self.frontier.max(first);
        (lost, self.fates.settle(Span::new(Offset::ZERO, first)))
    }

    /// Begins anew from `to`, with nobody connected; answers who was.
    pub(crate) fn seek(&mut self, to: Offset) -> (Change, Vec<ConsumerId>) {
        let change = Change::Placed(to);
        self.cursor.apply(&change);
        self.fates.clear();
        self.frontier = to;
        (change, std::mem::take(&mut self.members).into_iter().map(|m| m.present.id).collect())
    }

    /// Deadlines and delays that passed.
    pub(crate) fn expire(&mut self, now: Mono) -> Settled {
        self.fates.expire(now)
    }

    /// Who is connected.
    #[cfg(test)]
    pub(crate) fn consumers(&self) -> impl Iterator<Item = ConsumerId> {
        self.members.iter().map(|m| m.present.id)
    }

    /// Figures, all derived. `credit` says what a consumer's stream is ready to take.
    pub(crate) fn stats(&self, end: Offset, credit: impl Fn(ConsumerId) -> Grant) -> CursorStats {
        let consumers = self.members.iter().map(|member| {
            let left = credit(member.present.id);
            ConsumerStats {
                name: member.present.name.clone(),
                in_flight: self.fates.held_by(member.present.id),
                credit_messages: left.messages,
                credit_bytes: left.bytes,
            }
        });
        CursorStats {
            next: self.cursor.next(),
            end,
            backlog: self.cursor.backlog(end),
            acknowledged_ranges: self.cursor.ranges(),
            in_flight: self.fates.in_flight(),
            delayed: self.fates.delayed(),
            unreadable: self.fates.unreadable(),
            blocked: self.blocked(end),
            consumers: consumers.collect(),
        }
    }

    /// What could be delivered now if nothing before it were unreadable.
    fn blocked(&self, end: Offset) -> u64 {
        let Some(first) = self.fates.first_unreadable().filter(|_| self.is_ordered()) else { return 0 };
        let behind = Span::new(first, end);
        let open: u64 = self.cursor.unacknowledged(behind).into_iter().map(Span::count).sum();
        open - self.fates.waiting_in(behind)
    }

    /// Of `span`, what was not delivered here and is not acknowledged, lies where the log has nothing: trimmed in the middle.
    pub(crate) fn skip_gap(&mut self, span: Span) -> (u64, Vec<Change>, Settled) {
        let open = self.cursor.unacknowledged(span);
        let gone = open.iter().map(|s| s.count()).sum();
        if open.is_empty() {
            return (0, Vec::new(), Settled::new());
        }
        let settled = self.fates.settle(span);
        let change = Change::Acknowledged(open);
        self.cursor.apply(&change);
        (gone, vec![change], settled)
    }
}

fn add(sum: &mut Settled, more: Settled) {
    for (consumer, messages) in more {
        *sum.entry(consumer).or_default() += messages;
    }
}

/// How much of `run` a consumer gets: batch by batch, whole ones where they fit, else as many messages as their share of the
/// batch's bytes allows; at least one when nothing else is on its way. With others who want some too, about its part of the
/// entry. `shapes` begins with the batch that holds the run's first message.
pub(crate) fn choose(run: Span, shapes: &[Shape], allowance: Allowance, sharers: usize) -> Option<(Span, Grant)> {
    let here = run.within(Span::new(run.first, shapes.last()?.span.end)).count();
    let fair = here.div_ceil(sharers.max(1) as u64).max(1);
    let mut used = Grant::default();
    let mut at = run.first;
    for shape in shapes {
        let piece = shape.span.within(Span::new(at, run.end));
        let left = Grant {
            messages: allowance.left.messages.saturating_sub(used.messages),
            bytes: allowance.left.bytes.saturating_sub(used.bytes),
        };
        let whole = piece == shape.span && piece.count() <= left.messages && shape.bytes <= left.bytes;
        let (messages, bytes) = if whole {
            (piece.count(), shape.bytes)
        } else {
            let share = shape.bytes.div_ceil(shape.span.count().max(1)).max(1);
            let fitting = piece.count().min(left.messages).min(left.bytes / share);
            let messages = if fitting == 0 && used.messages == 0 && allowance.alone { 1 } else { fitting };
            (messages, messages * share)
        };
        used = Grant { messages: used.messages + messages, bytes: used.bytes + bytes };
        at = at.checked_add(messages)?;
        if at < shape.span.end || at >= run.end || used.messages >= fair {
            break;
        }
    }
    (used.messages > 0).then_some((Span::new(run.first, at), used))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANN: ConsumerId = ConsumerId::new(1);
    const BOB: ConsumerId = ConsumerId::new(2);
    const SMALL: Bound = Bound { consumer_messages: 4, subscription_messages: 6, consumers: 3 };

    fn offset(number: u64) -> Offset {
        Offset::new(number)
    }

    fn span(first: u64, end: u64) -> Span {
        Span::new(offset(first), offset(end))
    }

    fn at(millis: u64) -> Mono {
        Mono::from_duration(Duration::from_millis(millis))
    }

    /// Batches of ten messages, 100 bytes each batch, all of one entry.
    struct Tens(Vec<Shape>);

    impl Tens {
        fn new(batches: u64) -> Self {
            Self((0..batches).map(|n| Shape { span: span(10 * n, 10 * n + 10), bytes: 100 }).collect())
        }
    }

    impl Layout for Tens {
        fn from(&self, offset: Offset) -> Option<&[Shape]> {
            let at = self.0.partition_point(|s| s.span.end <= offset);
            (at < self.0.len()).then(|| &self.0[at..])
        }
    }

    fn allow(messages: u64, bytes: u64, alone: bool) -> Allowance {
        Allowance { left: Grant { messages, bytes }, alone }
    }

    fn subscription(kind: SubscriptionKind, bound: Bound, consumers: &[ConsumerId]) -> Subscription {
        let mut subscription = Subscription::new(kind, Cursor::default(), bound);
        for id in consumers {
            subscription.join(Present { id: *id, name: id.to_string() }, false, None).expect("room");
        }
        subscription
    }

    fn take(subscription: &mut Subscription, who: ConsumerId, messages: u64) -> Option<(Span, u32)> {
        match subscription.take(who, Some(allow(messages, 10_000, true)), 1, offset(100), &Tens::new(10), at(0)) {
            Next::Taken(taken) => Some((taken.span, taken.attempt)),
            Next::Nothing => None,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_consumer_gets_whole_batches_where_credit_allows_and_a_part_where_not() {
        let tens = Tens::new(10);
        for (allowance, sharers, run, expected) in [
            (allow(100, 1000, true), 1, span(0, 100), Some((span(0, 100), 1000))),
            (allow(25, 1000, true), 1, span(0, 100), Some((span(0, 25), 250))),
            (allow(100, 150, true), 1, span(0, 100), Some((span(0, 15), 150))),
            (allow(1, 1000, true), 1, span(0, 100), Some((span(0, 1), 10))),
            (allow(100, 1000, true), 1, span(5, 13), Some((span(5, 13), 80))),
            // Larger than what is left: alone it goes, and is owed; beside others it waits.
            (allow(100, 3, true), 1, span(0, 100), Some((span(0, 1), 10))),
            (allow(100, 3, false), 1, span(0, 100), None),
            // Three want some: about a third each, in whole batches.
            (allow(100, 1000, true), 3, span(0, 100), Some((span(0, 40), 400))),
        ] {
            let shapes = tens.from(run.first).expect("known");
            let chosen = choose(run, shapes, allowance, sharers).map(|(span, used)| (span, used.bytes));
            assert_eq!(chosen, expected, "{allowance:?} {sharers} {run:?}");
        }
    }

    #[test]
    fn dispatch_waits_at_the_bound_of_what_is_unacknowledged_and_drops_nothing() {
        // C43, S3: what is delivered and unacknowledged has a bound; acknowledged ranges have none.
        let mut shared = subscription(SubscriptionKind::Shared, SMALL, &[ANN, BOB]);
        assert_eq!(take(&mut shared, ANN, 100), Some((span(0, 4), 1)));
        assert_eq!(take(&mut shared, ANN, 100), None, "as many as a consumer may");
        assert_eq!(take(&mut shared, BOB, 100), Some((span(4, 6), 1)));
        assert_eq!(take(&mut shared, BOB, 100), None, "as many as all of them may");
        shared.acknowledge(&[span(1, 2), span(3, 4)], None, offset(100)).expect("fine");
        assert_eq!(take(&mut shared, BOB, 100), Some((span(6, 8), 1)));
        assert_eq!(shared.fates().in_flight(), 6);
    }

    #[test]
    fn what_is_given_back_holds_up_what_lies_behind_it_only_where_order_is_promised() {
        for (kind, behind) in [(SubscriptionKind::Exclusive, None), (SubscriptionKind::Shared, Some((span(2, 4), 1)))] {
            let mut subscription = subscription(kind, Bound::default(), &[ANN]);
            assert_eq!(take(&mut subscription, ANN, 2), Some((span(0, 2), 1)));
            subscription.give_back(&[span(1, 2)], Some(ANN), Duration::from_millis(50), at(0));
            assert_eq!(take(&mut subscription, ANN, 2), behind, "{kind:?}");
            subscription.expire(at(50));
            assert_eq!(take(&mut subscription, ANN, 2), Some((span(1, 2), 2)), "{kind:?}: what is due again comes first");
        }
    }

    #[test]
    fn a_takeover_delivers_again_from_the_first_unacknowledged_one_in_order() {
        // T3, S4: the acknowledged one does not come again.
        let mut exclusive = subscription(SubscriptionKind::Exclusive, Bound::default(), &[ANN]);
        take(&mut exclusive, ANN, 8);
        exclusive.acknowledge(&[span(5, 6)], Some(offset(2)), offset(100)).expect("fine");
        let newcomer = Present { id: BOB, name: "b".to_owned() };
        let fault = exclusive.join(newcomer.clone(), false, None).expect_err("it is held");
        assert_eq!(fault.reason, "SUBSCRIPTION_BUSY");
        assert_eq!(exclusive.join(newcomer, true, None), Ok(vec![ANN]));
        assert_eq!(take(&mut exclusive, ANN, 100), None, "the ghost gets nothing");
        assert_eq!(take(&mut exclusive, BOB, 100), Some((span(2, 5), 2)));
        assert_eq!(take(&mut exclusive, BOB, 100), Some((span(6, 8), 2)));
        assert_eq!(take(&mut exclusive, BOB, 2), Some((span(8, 10), 1)));
    }

    #[test]
    fn what_a_former_owner_delivered_stays_with_its_consumer_and_the_rest_goes_on_s2_s4() {
        for kind in [SubscriptionKind::Exclusive, SubscriptionKind::Shared] {
            let mut subscription =
                subscription(kind, Bound::default(), &[ANN, BOB][..=usize::from(kind == SubscriptionKind::Shared)]);
            subscription.acknowledge(&[span(0, 3), span(5, 6)], None, offset(100)).expect("fine");
            // It has 4, 6 and 7, and says so of more.
            subscription.hold(ANN, &[span(2, 3), span(4, 8)], None, offset(100));
            assert_eq!(subscription.fates().held_by(ANN), 3, "{kind:?}: not what is acknowledged");
            assert_eq!(take(&mut subscription, ANN, 1), Some((span(3, 4), 1)), "{kind:?}: it was with nobody");
            assert_eq!(take(&mut subscription, ANN, 2), Some((span(8, 10), 1)), "{kind:?}");
            subscription.leave(ANN, &[], &[]);
            if kind == SubscriptionKind::Shared {
                subscription.hold(BOB, &[span(6, 7)], None, offset(100));
                assert_eq!(subscription.fates().held_by(BOB), 1);
                assert_eq!(take(&mut subscription, BOB, 9), Some((span(3, 5), 2)), "in order, from what came back");
                subscription.hold(BOB, &[span(200, 300)], None, offset(100));
                assert_eq!(subscription.frontier(), offset(100), "never past the end");
            }
        }
    }

    #[test]
    fn only_so_many_consumers_are_let_in() {
        let mut shared = subscription(SubscriptionKind::Shared, SMALL, &[ANN, BOB, ConsumerId::new(3)]);
        let fault = shared.join(Present { id: ConsumerId::new(4), name: String::new() }, false, None).expect_err("full");
        assert_eq!((fault.kind, fault.reason), (FaultKind::Busy, "TOO_MANY_CONSUMERS"));
    }

    #[test]
    fn an_acknowledgement_that_makes_no_sense_is_refused_with_its_field_and_changes_nothing() {
        for (kind, spans, before, field, reason) in [
            (SubscriptionKind::Shared, vec![], Some(offset(3)), "up_to", "CUMULATIVE_ACK"),
            (SubscriptionKind::Shared, vec![span(99, 101)], None, "ranges", "OFFSET_AHEAD"),
            (SubscriptionKind::Exclusive, vec![], Some(offset(101)), "up_to", "OFFSET_AHEAD"),
        ] {
            let mut subscription = subscription(kind, Bound::default(), &[ANN]);
            let fault = subscription.acknowledge(&spans, before, offset(100)).expect_err(reason);
            assert_eq!((fault.field.as_deref(), fault.reason), (Some(field), reason));
            assert_eq!(subscription.cursor(), &Cursor::default());
        }
        let mut exclusive = subscription(SubscriptionKind::Exclusive, Bound::default(), &[ANN]);
        let (changes, _) = exclusive.acknowledge(&[], Some(offset(100)), offset(100)).expect("exactly the end");
        assert_eq!(changes, [Change::Advanced(offset(100))]);
        let again = exclusive.acknowledge(&[span(3, 5)], None, offset(100)).expect("harmless");
        assert!(again.0.is_empty(), "nothing is kept of what changes nothing");
    }

    #[test]
    fn a_cursor_never_points_at_what_is_gone() {
        // T5: trimmed before, in flight, given back: none of it stays, and the backlog is what is left.
        let mut shared = subscription(SubscriptionKind::Shared, Bound::default(), &[ANN]);
        take(&mut shared, ANN, 30);
        shared.give_back(&[span(0, 5)], Some(ANN), Duration::ZERO, at(0));
        let (lost, settled) = shared.trimmed(offset(20));
        assert_eq!((lost, settled), (20, Settled::from([(ANN, 15)])));
        let stats = shared.stats(offset(100), |_| Grant::default());
        assert_eq!((stats.next, stats.backlog, stats.in_flight), (offset(20), 80, 10));
        assert_eq!(take(&mut shared, ANN, 1), Some((span(30, 31), 1)));
    }

    #[test]
    fn what_cannot_be_read_is_kept_for_later_and_not_forgotten() {
        // T6: neither delivered nor acknowledged; a shared subscription goes on behind it.
        let mut shared = subscription(SubscriptionKind::Shared, Bound::default(), &[ANN]);
        shared.park(span(0, 10), at(60));
        assert_eq!(take(&mut shared, ANN, 1), Some((span(10, 11), 1)));
        assert_eq!(shared.cursor().backlog(offset(100)), 100);
        shared.expire(at(60));
        assert_eq!(take(&mut shared, ANN, 3), Some((span(0, 3), 1)));
    }
}
