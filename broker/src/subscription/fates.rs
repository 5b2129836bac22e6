//! Who has what: every message that was delivered and is not acknowledged is in exactly one place (S2).

use std::collections::{BTreeMap, BTreeSet};

use alluvium_types::ids::Offset;
use alluvium_types::time::Mono;

use super::input::{ConsumerId, Span};
use super::runs::{RunMap, Watch};

/// Where a message is that is below the frontier and not acknowledged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fate {
    /// With a consumer.
    InFlight {
        /// Which one; it may have gone, if there is a deadline.
        consumer: ConsumerId,
        /// Which delivery this is, from 1.
        attempt: u32,
        /// When it is taken back.
        deadline: Option<Mono>,
    },
    /// To be delivered again as soon as somebody takes it.
    Ready {
        /// Deliveries so far.
        attempts: u32,
    },
    /// To be delivered again, not yet.
    Delayed {
        /// Deliveries so far.
        attempts: u32,
        /// When.
        due: Mono,
        /// Because it could not be read (T6), not because somebody gave it back.
        unreadable: bool,
    },
}

/// Messages that left a consumer's hands, by consumer.
pub(crate) type Settled = BTreeMap<ConsumerId, u64>;

/// The fates of a subscription's messages, with the indexes that answer in what order they move on.
#[derive(Clone, Default, Debug)]
pub(crate) struct Fates {
    runs: RunMap<Fate>,
    index: Index,
}

#[derive(Clone, Default, PartialEq, Eq, Debug)]
struct Index {
    ready: BTreeSet<Offset>,
    delayed: BTreeSet<Offset>,
    delayed_messages: u64,
    /// Those of `delayed` that could not be read.
    unreadable: BTreeSet<Offset>,
    unreadable_messages: u64,
    /// What moves by itself: deadlines and delays.
    due: BTreeSet<(Mono, Offset)>,
    holders: BTreeMap<ConsumerId, Holding>,
    in_flight: u64,
}

#[derive(Clone, Default, PartialEq, Eq, Debug)]
struct Holding {
    messages: u64,
    runs: BTreeSet<Offset>,
}

impl Watch<Fate> for Index {
    fn added(&mut self, span: Span, fate: &Fate) {
        match *fate {
            Fate::InFlight { consumer, deadline, .. } => {
                let holding = self.holders.entry(consumer).or_default();
                holding.messages += span.count();
                holding.runs.insert(span.first);
                self.in_flight += span.count();
                self.due.extend(deadline.map(|at| (at, span.first)));
            }
            Fate::Ready { .. } => {
                self.ready.insert(span.first);
            }
            Fate::Delayed { due, unreadable, .. } => {
                self.delayed.insert(span.first);
                self.delayed_messages += span.count();
                if unreadable {
                    self.unreadable.insert(span.first);
                    self.unreadable_messages += span.count();
                }
                self.due.insert((due, span.first));
            }
        }
    }

    fn removed(&mut self, span: Span, fate: &Fate) {
        match *fate {
            Fate::InFlight { consumer, deadline, .. } => {
                let holding = self.holders.get_mut(&consumer).expect("what a consumer gives it has");
                holding.messages -= span.count();
                holding.runs.remove(&span.first);
                if holding.runs.is_empty() {
                    self.holders.remove(&consumer);
                }
                self.in_flight -= span.count();
                if let Some(at) = deadline {
                    self.due.remove(&(at, span.first));
                }
            }
            Fate::Ready { .. } => {
                self.ready.remove(&span.first);
            }
            Fate::Delayed { due, unreadable, .. } => {
                self.delayed.remove(&span.first);
                self.delayed_messages -= span.count();
                if unreadable {
                    self.unreadable.remove(&span.first);
                    self.unreadable_messages -= span.count();
                }
                self.due.remove(&(due, span.first));
            }
        }
    }
}

impl Fates {
    /// Messages with any consumer.
    pub(crate) const fn in_flight(&self) -> u64 {
        self.index.in_flight
    }

    /// Messages with this consumer.
    pub(crate) fn held_by(&self, consumer: ConsumerId) -> u64 {
        self.index.holders.get(&consumer).map_or(0, |holding| holding.messages)
    }

    /// Messages that wait for their delay, or to be read again.
    pub(crate) const fn delayed(&self) -> u64 {
        self.index.delayed_messages
    }

    /// Of these, those that could not be read.
    pub(crate) const fn unreadable(&self) -> u64 {
        self.index.unreadable_messages
    }

    /// The lowest of them.
    pub(crate) fn first_unreadable(&self) -> Option<Offset> {
        self.index.unreadable.first().copied()
    }

    /// How many messages of `span` are with a consumer, or wait for a time.
    pub(crate) fn waiting_in(&self, span: Span) -> u64 {
        let waiting = self.runs.over(span).filter(|(_, fate)| !matches!(fate, Fate::Ready { .. }));
        waiting.map(|(run, _)| run.within(span).count()).sum()
    }

    /// When the next message moves by itself.
    pub(crate) fn next_due(&self) -> Option<Mono> {
        self.index.due.first().map(|(at, _)| *at)
    }

    /// The lowest run that may be delivered again now, and its deliveries so far.
    pub(crate) fn first_ready(&self) -> Option<(Span, u32)> {
        let (span, fate) = self.runs.at(*self.index.ready.first()?)?;
        match fate {
            Fate::Ready { attempts } => Some((span, *attempts)),
            _ => unreachable!("the index follows the map"),
        }
    }

    /// The lowest message that waits for its delay.
    pub(crate) fn first_delayed(&self) -> Option<Offset> {
        self.index.delayed.first().copied()
    }

    /// Whether a message of `span` is ready to be delivered again.
    pub(crate) fn any_ready(&self, span: Span) -> bool {
        self.runs.over(span).any(|(_, fate)| matches!(fate, Fate::Ready { .. }))
    }

    /// The fate of a message.
    #[cfg(test)]
    pub(crate) fn of(&self, offset: Offset) -> Option<Fate> {
        self.runs.at(offset).map(|(_, fate)| *fate)
    }

    /// What of `span` may be delivered again now, and how often it was delivered.
    pub(crate) fn ready_in(&self, span: Span) -> Vec<(Span, u32)> {
        let ready = self.runs.over(span).filter_map(|(run, fate)| match fate {
            Fate::Ready { attempts } => Some((run.within(span), *attempts)),
            Fate::InFlight { .. } | Fate::Delayed { .. } => None,
        });
        ready.collect()
    }

    /// `span`, which was never delivered, comes before what follows it.
    pub(crate) fn skip(&mut self, span: Span) {
        self.runs.put(span, Fate::Ready { attempts: 0 }, &mut self.index);
    }

    /// Gives `span`, which is with nobody, to a consumer.
    pub(crate) fn deliver(&mut self, span: Span, consumer: ConsumerId, attempt: u32, deadline: Option<Mono>) {
        self.runs.cut(span, &mut self.index);
        self.runs.put(span, Fate::InFlight { consumer, attempt, deadline }, &mut self.index);
    }

    /// `span` is done with.
    pub(crate) fn settle(&mut self, span: Span) -> Settled {
        let mut settled = Settled::new();
        for (piece, fate) in self.runs.cut(span, &mut self.index) {
            if let Fate::InFlight { consumer, .. } = fate {
                *settled.entry(consumer).or_default() += piece.count();
            }
        }
        settled
    }

    /// Takes back what of `span` is in flight, from `consumer` or anybody: deliverable again from `due` on, or at once.
    pub(crate) fn give_back(&mut self, span: Span, consumer: Option<ConsumerId>, due: Option<Mono>) -> Settled {
        self.replace(span, |fate| match fate {
            Fate::InFlight { consumer: holder, attempt, .. } if consumer.is_none_or(|c| c == holder) => match due {
                Some(due) => Fate::Delayed { attempts: attempt, due, unreadable: false },
                None => Fate::Ready { attempts: attempt },
            },
            other => other,
        })
    }

    /// Takes back what of `span` this consumer was given and never saw: that was no attempt.
    pub(crate) fn unsend(&mut self, span: Span, consumer: ConsumerId) -> Settled {
        self.replace(span, |fate| match fate {
            Fate::InFlight { consumer: holder, attempt, .. } if holder == consumer => Fate::Ready { attempts: attempt - 1 },
            other => other,
        })
    }

    /// Takes back all that a consumer has, apart from `kept`.
    pub(crate) fn leave(&mut self, consumer: ConsumerId, kept: &[Span]) {
        let held: Vec<Offset> = self.index.holders.get(&consumer).map(|h| h.runs.iter().copied().collect()).unwrap_or_default();
        for first in held {
            let Some((run, _)) = self.runs.at(first) else { continue };
            let mut kept_here: Vec<Span> = kept.iter().map(|k| k.within(run)).filter(|k| !k.is_empty()).collect();
            kept_here.sort();
            for span in super::runs::gaps(run, kept_here.into_iter()) {
                self.give_back(span, Some(consumer), None);
            }
        }
    }

    /// Keeps `span`, which could not be read, from being delivered until `due`, whoever has it.
    pub(crate) fn park(&mut self, span: Span, due: Mono) -> Settled {
        let (mut settled, mut attempts) = (Settled::new(), 0);
        for (piece, fate) in self.runs.cut(span, &mut self.index) {
            match fate {
                Fate::InFlight { consumer, attempt, .. } => {
                    *settled.entry(consumer).or_default() += piece.count();
                    attempts = attempts.max(attempt);
                }
                Fate::Ready { attempts: so_far } | Fate::Delayed { attempts: so_far, .. } => attempts = attempts.max(so_far),
            }
        }
        self.runs.put(span, Fate::Delayed { attempts, due, unreadable: true }, &mut self.index);
        settled
    }

    /// What is due by `now` may be delivered again.
    pub(crate) fn expire(&mut self, now: Mono) -> Settled {
        let mut settled = Settled::new();
        while let Some(&(at, first)) = self.index.due.first().filter(|(at, _)| *at <= now) {
            let run = self.runs.at(first).map(|(run, _)| run).expect("the index follows the map");
            let moved = self.replace(run, |fate| match fate {
                Fate::InFlight { attempt, .. } => Fate::Ready { attempts: attempt },
                Fate::Delayed { attempts, .. } => Fate::Ready { attempts },
                ready @ Fate::Ready { .. } => ready,
            });
            debug_assert!(self.index.due.first() != Some(&(at, first)), "what expired is no longer due");
            for (consumer, messages) in moved {
                *settled.entry(consumer).or_default() += messages;
            }
        }
        settled
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    fn replace(&mut self, span: Span, with: impl Fn(Fate) -> Fate) -> Settled {
        let mut settled = Settled::new();
        for (piece, fate) in self.runs.cut(span, &mut self.index) {
            let new = with(fate);
            if let Fate::InFlight { consumer, .. } = fate
                && !matches!(new, Fate::InFlight { .. })
            {
                *settled.entry(consumer).or_default() += piece.count();
            }
            self.runs.put(piece, new, &mut self.index);
        }
        settled
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn span(first: u64, end: u64) -> Span {
        Span::new(Offset::new(first), Offset::new(end))
    }

    fn at(seconds: u64) -> Mono {
        Mono::from_duration(Duration::from_secs(seconds))
    }

    const ANN: ConsumerId = ConsumerId::new(1);
    const BOB: ConsumerId = ConsumerId::new(2);

    #[test]
    fn a_consumer_that_goes_gives_back_what_it_has_and_nothing_else() {
        let mut fates = Fates::default();
        fates.deliver(span(0, 10), ANN, 1, None);
        fates.deliver(span(10, 12), BOB, 1, None);
        assert_eq!(fates.settle(span(3, 5)), Settled::from([(ANN, 2)]));
        fates.leave(ANN, &[span(8, 20)]);
        assert_eq!(fates.first_ready(), Some((span(0, 3), 1)));
        assert_eq!((fates.held_by(ANN), fates.held_by(BOB)), (2, 2));
        assert_eq!(fates.of(Offset::new(4)), None, "acknowledged");
        assert_eq!(fates.of(Offset::new(7)), Some(Fate::Ready { attempts: 1 }));
    }

    #[test]
    fn what_is_given_back_with_a_delay_comes_when_it_is_due() {
        let mut fates = Fates::default();
        fates.deliver(span(0, 3), ANN, 2, None);
        assert_eq!(fates.give_back(span(1, 2), Some(ANN), Some(at(5))), Settled::from([(ANN, 1)]));
        assert_eq!(fates.give_back(span(0, 1), Some(BOB), None), Settled::new(), "not Bob's");
        assert_eq!((fates.next_due(), fates.first_delayed(), fates.delayed()), (Some(at(5)), Some(Offset::new(1)), 1));
        fates.expire(at(4));
        assert_eq!(fates.first_ready(), None);
        fates.expire(at(5));
        assert_eq!(fates.first_ready(), Some((span(1, 2), 2)));
    }

    #[test]
    fn a_deadline_takes_a_message_from_its_consumer() {
        let mut fates = Fates::default();
        fates.deliver(span(0, 2), ANN, 1, Some(at(30)));
        assert_eq!(fates.expire(at(30)), Settled::from([(ANN, 2)]));
        assert_eq!((fates.first_ready(), fates.in_flight(), fates.next_due()), (Some((span(0, 2), 1)), 0, None));
    }

    #[test]
    fn what_was_never_sent_was_no_attempt() {
        let mut fates = Fates::default();
        fates.deliver(span(0, 4), ANN, 1, None);
        fates.unsend(span(2, 4), ANN);
        fates.leave(ANN, &[]);
        assert_eq!(fates.first_ready(), Some((span(0, 2), 1)));
        assert_eq!(fates.of(Offset::new(2)), Some(Fate::Ready { attempts: 0 }));
    }

    proptest! {
        #[test]
        fn the_indexes_never_drift_from_the_map(ops in proptest::collection::vec((0_u8..7, 0_u64..40, 1_u64..9, 1_u64..4), 1..60)) {
            let mut fates = Fates::default();
            for (op, first, length, who) in ops {
                let (span, who) = (span(first, first + length), ConsumerId::new(who));
                match op {
                    0 | 1 => { fates.settle(span); fates.deliver(span, who, 1, (op == 1).then(|| at(first))); }
                    2 => { fates.settle(span); }
                    3 => { fates.give_back(span, Some(who), Some(at(length))); }
                    4 => fates.leave(who, &[span]),
                    5 => { fates.expire(at(first)); }
                    _ => { fates.park(span, at(first)); }
                }
                let mut index = Index::default();
                for (span, fate) in fates.runs.iter() { index.added(span, fate); }
                prop_assert_eq!(&index, &fates.index);
            }
        }
    }
}
