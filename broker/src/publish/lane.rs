//! One partition of a publish stream: what was sent on and has no answer, and what waits for the partition to be found.
//!
//! Plain code. What went to an owner that is no longer one goes again, in its order, to the next: when nothing of it took effect,
//! or when the producer has a name, whose repetitions are recognised (D1). Of anything else the client is told.

use std::collections::VecDeque;

use alluvium_types::time::Mono;

use super::doors::Load;

/// What takes memory while it waits.
pub(super) trait Weighs {
    /// In bytes.
    fn bytes(&self) -> usize;
}

/// A request of the client, without an answer.
#[derive(PartialEq, Debug)]
pub(super) enum Item<B> {
    /// A batch, under the client's own number for it.
    Batch(u64, B),
    /// A claim of the producer's name; the epoch that the client held before.
    Claim(Option<u64>),
}

impl<B: Weighs> Item<B> {
    fn bytes(&self) -> usize {
        match self {
            Self::Batch(_, batch) => batch.bytes(),
            Self::Claim(_) => 0,
        }
    }
}

impl<B> Item<B> {
    fn is(&self, answer: Answered) -> bool {
        match (self, answer) {
            (Self::Batch(id, _), Answered::Batch(answered)) => *id == answered,
            (Self::Claim(_), Answered::Claim) => true,
            _ => false,
        }
    }
}

/// An item, on its way or waiting to go.
#[derive(PartialEq, Debug)]
pub(super) struct Pending<B> {
    /// What is asked.
    pub(super) item: Item<B>,
    /// Somebody who is no owner any more was sent it, and it may have taken effect there.
    pub(super) unsure: bool,
}

/// What an answer is to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Answered {
    /// The batch of this number.
    Batch(u64),
    /// A claim.
    Claim,
}

/// What an answer says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Outcome {
    /// It is done, or refused by somebody who may.
    Final,
    /// Whoever was asked is no owner: nothing of it took effect there.
    Moved,
    /// It may have taken effect.
    Unknown,
}

/// What to do with an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// Hand it to the client; where it is `unsure`, a refusal says nothing of what an earlier owner did.
    Tell { unsure: bool },
    /// It goes again; the client hears of it later.
    Keep,
    /// It answers nothing that is waited for.
    Ignore,
}

/// Where a lane's requests go.
#[derive(Debug)]
pub(super) enum Way<R> {
    /// Nobody was asked.
    Unknown,
    /// It is being found out.
    Sought,
    /// There.
    Open(R),
    /// Whoever was asked is no owner, and has not answered everything yet.
    Closing(R),
}

/// A lane, its requests `B` going to routes `R`.
#[derive(Debug)]
pub(super) struct Lane<B, R> {
    /// In the order in which they were sent, each with its number in it.
    sent: VecDeque<(u64, Pending<B>)>,
    /// In the same order.
    returned: VecDeque<(u64, Pending<B>)>,
    next_number: u64,
    waiting: VecDeque<Pending<B>>,
    /// Of what waits.
    waiting_bytes: usize,
    way: Way<R>,
    /// Nothing was answered by an owner since.
    failing_since: Option<Mono>,
    /// Whether what may have taken effect may go again.
    repeats: bool,
}

impl<B: Weighs, R> Lane<B, R> {
    /// An empty one. `repeats`: the producer has a name.
    pub(super) fn new(repeats: bool) -> Self {
        Self {
            sent: VecDeque::new(),
            returned: VecDeque::new(),
            next_number: 0,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            way: Way::Unknown,
            failing_since: None,
            repeats,
        }
    }

    /// The client asks for more.
    pub(super) fn push(&mut self, item: Item<B>) {
        self.waiting_bytes += item.bytes();
        self.waiting.push_back(Pending { item, unsure: false });
    }

    /// What waits, and was not sent.
    pub(super) fn load(&self) -> Load {
        Load { requests: self.waiting.len(), bytes: self.waiting_bytes }
    }

    /// Whether somebody must find out where it goes; it is taken as being found out from now on.
    pub(super) fn seeks(&mut self) -> bool {
        let seeks = matches!(self.way, Way::Unknown) && !self.waiting.is_empty();
        if seeks {
            self.way = Way::Sought;
        }
        seeks
    }

    /// It was found out.
    pub(super) fn found(&mut self, route: R) {
        self.way = Way::Open(route);
    }

    /// Where requests went that are not answered.
    pub(super) const fn asked(&self) -> Option<&R> {
        match &self.way {
            Way::Open(route) | Way::Closing(route) => Some(route),
            Way::Unknown | Way::Sought => None,
        }
    }

    /// Since when no owner answered, if the last one asked did not.
    pub(super) const fn failing_since(&self) -> Option<Mono> {
        self.failing_since
    }

    /// Where the next request is to be sent.
    pub(super) fn whither(&self) -> Option<&R> {
        match &self.way {
            Way::Open(route) if !self.waiting.is_empty() => Some(route),
            _ => None,
        }
    }

    /// The next request, which counts as sent; there is room for it [there](Self::whither).
    pub(super) fn next(&mut self) -> Option<&mut Item<B>> {
        self.whither()?;
        let pending = self.waiting.pop_front()?;
        self.waiting_bytes -= pending.item.bytes();
        self.sent.push_back((self.next_number, pending));
        self.next_number += 1;
        self.sent.back_mut().map(|(_, pending)| &mut pending.item)
    }

    /// Whoever it goes to takes nothing more, and still answers what went before: then the next one is looked for.
    pub(super) fn close(&mut self, now: Mono) {
        self.failing_since.get_or_insert(now);
        self.way = match std::mem::replace(&mut self.way, Way::Unknown) {
            Way::Open(route) | Way::Closing(route) => Way::Closing(route),
            way => way,
        };
        self.reopen();
    }

    /// Once everything was answered, what came back goes before what waits.
    fn reopen(&mut self) {
        if matches!(self.way, Way::Closing(_)) && self.sent.is_empty() {
            while let Some((_, pending)) = self.returned.pop_back() {
                self.waiting_bytes += pending.item.bytes();
                self.waiting.push_front(pending);
            }
            self.way = Way::Unknown;
        }
    }

    /// An answer came from where the lane goes. A claim is durable otherwise than a batch is, so that answers may overtake.
    pub(super) fn answered(&mut self, answer: Answered, outcome: Outcome, now: Mono) -> Verdict {
        let at = self.sent.iter().position(|(_, pending)| pending.item.is(answer));
        let Some((number, mut pending)) = at.and_then(|at| self.sent.remove(at)) else { return Verdict::Ignore };
        let keeps = outcome == Outcome::Moved || (outcome == Outcome::Unknown && self.repeats);
        if keeps {
            pending.unsure |= outcome == Outcome::Unknown;
            let place = self.returned.partition_point(|(before, _)| *before < number);
            self.returned.insert(place, (number, pending));
            self.close(now);
            return Verdict::Keep;
        }
        if outcome == Outcome::Final {
            self.failing_since = None;
        }
        self.reopen();
        Verdict::Tell { unsure: pending.unsure }
    }

    /// Where it went is gone without answering. `took`: what was sent there may have taken effect. Gives what did, perhaps, and does
    /// not go again: to be told.
    pub(super) fn lost(&mut self, took: bool, now: Mono) -> VecDeque<Item<B>> {
        let sent = std::mem::take(&mut self.sent);
        let told = if self.repeats || !took {
            self.returned.extend(sent.into_iter().map(|(number, pending)| {
                let unsure = pending.unsure || took;
                (number, Pending { unsure, ..pending })
            }));
            self.returned.make_contiguous().sort_unstable_by_key(|(number, _)| *number);
            VecDeque::new()
        } else {
            sent.into_iter().map(|(_, pending)| pending.item).collect()
        };
        self.close(now);
        told
    }

    /// Nobody can be found: gives all that waits, to be told.
    pub(super) fn give_up(&mut self) -> VecDeque<Pending<B>> {
        self.way = Way::Unknown;
        (self.failing_since, self.waiting_bytes) = (None, 0);
        std::mem::take(&mut self.waiting)
    }

    /// Requests without an answer.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.sent.len() + self.returned.len() + self.waiting.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Numbered = Lane<(), u8>;

    impl Weighs for () {
        fn bytes(&self) -> usize {
            100
        }
    }

    fn lane(repeats: bool, count: u64) -> Numbered {
        let mut lane = Lane::new(repeats);
        for id in 0..count {
            lane.push(Item::Batch(id, ()));
        }
        lane
    }

    fn go(lane: &mut Numbered, route: u8) -> Vec<u64> {
        assert!(lane.seeks() && !lane.seeks(), "once");
        lane.found(route);
        let mut sent = Vec::new();
        while let Some(item) = lane.next() {
            sent.push(match item {
                Item::Batch(id, ()) => *id,
                Item::Claim(_) => 99,
            });
        }
        sent
    }

    const NOW: Mono = Mono::from_duration(std::time::Duration::from_secs(1));

    #[test]
    fn what_took_no_effect_goes_again_in_its_order_and_before_what_waits() {
        for repeats in [false, true] {
            let mut lane = lane(repeats, 4);
            assert_eq!(go(&mut lane, 1), [0, 1, 2, 3]);
            assert_eq!(lane.answered(Answered::Batch(0), Outcome::Final, NOW), Verdict::Tell { unsure: false });
            assert_eq!(lane.answered(Answered::Batch(1), Outcome::Moved, NOW), Verdict::Keep);
            lane.push(Item::Batch(4, ()));
            assert!(lane.next().is_none() && !lane.seeks(), "not before everything was answered");
            assert_eq!(lane.answered(Answered::Batch(2), Outcome::Moved, NOW), Verdict::Keep);
            assert_eq!(lane.answered(Answered::Batch(3), Outcome::Moved, NOW), Verdict::Keep);
            assert_eq!(go(&mut lane, 2), [1, 2, 3, 4]);
        }
    }

    #[test]
    fn an_answer_may_overtake_a_claims_and_the_order_stays() {
        let mut lane = lane(true, 1);
        lane.push(Item::Claim(None));
        lane.push(Item::Batch(1, ()));
        lane.push(Item::Batch(2, ()));
        assert_eq!(go(&mut lane, 1), [0, 99, 1, 2]);
        assert_eq!(lane.answered(Answered::Batch(1), Outcome::Final, NOW), Verdict::Tell { unsure: false });
        assert_eq!(lane.answered(Answered::Batch(2), Outcome::Moved, NOW), Verdict::Keep);
        assert_eq!(lane.answered(Answered::Claim, Outcome::Moved, NOW), Verdict::Keep);
        assert!(lane.lost(true, NOW).is_empty());
        assert_eq!(go(&mut lane, 2), [0, 99, 2]);
        for (answer, unsure) in [(Answered::Batch(0), true), (Answered::Batch(2), false), (Answered::Claim, false)] {
            assert_eq!(lane.answered(answer, Outcome::Final, NOW), Verdict::Tell { unsure });
        }
        assert_eq!(lane.len(), 0);
    }

    #[test]
    fn what_may_have_taken_effect_goes_again_only_under_a_name() {
        let mut named = lane(true, 3);
        assert_eq!(go(&mut named, 1), [0, 1, 2]);
        assert_eq!(named.answered(Answered::Batch(0), Outcome::Unknown, NOW), Verdict::Keep);
        assert!(named.lost(true, NOW).is_empty());
        assert_eq!(go(&mut named, 2), [0, 1, 2]);

        let mut nameless = lane(false, 3);
        assert_eq!(go(&mut nameless, 1), [0, 1, 2]);
        assert_eq!(nameless.answered(Answered::Batch(0), Outcome::Unknown, NOW), Verdict::Tell { unsure: false });
        nameless.push(Item::Batch(3, ()));
        let told: Vec<Item<()>> = nameless.lost(true, NOW).into();
        assert_eq!(told, [Item::Batch(1, ()), Item::Batch(2, ())]);
        assert_eq!(go(&mut nameless, 2), [3]);
    }

    #[test]
    fn what_may_have_taken_effect_is_not_refused_for_certain_later() {
        let mut named = lane(true, 4);
        assert_eq!(go(&mut named, 1), [0, 1, 2, 3]);
        assert_eq!(named.answered(Answered::Batch(0), Outcome::Unknown, NOW), Verdict::Keep);
        assert_eq!(named.answered(Answered::Batch(1), Outcome::Moved, NOW), Verdict::Keep);
        assert!(named.lost(true, NOW).is_empty());
        named.push(Item::Batch(4, ()));
        assert_eq!(go(&mut named, 2), [0, 1, 2, 3, 4]);
        assert!(named.lost(false, NOW).is_empty());
        assert_eq!(go(&mut named, 3), [0, 1, 2, 3, 4]);
        assert_eq!(named.answered(Answered::Batch(0), Outcome::Final, NOW), Verdict::Tell { unsure: true });
        assert_eq!(named.answered(Answered::Batch(1), Outcome::Final, NOW), Verdict::Tell { unsure: false });
        assert!(named.lost(false, NOW).is_empty());
        let unsure: Vec<bool> = named.give_up().iter().map(|pending| pending.unsure).collect();
        assert_eq!(unsure, [true, true, false]);
    }

    #[test]
    fn what_never_reached_an_owner_goes_to_the_next_one() {
        let mut nameless = lane(false, 2);
        assert_eq!(go(&mut nameless, 1), [0, 1]);
        assert!(nameless.lost(false, NOW).is_empty());
        assert_eq!(go(&mut nameless, 2), [0, 1]);
    }

    #[test]
    fn an_answer_of_a_route_that_was_lost_is_none() {
        let mut lane = lane(true, 2);
        go(&mut lane, 1);
        lane.lost(true, NOW);
        assert_eq!(lane.answered(Answered::Batch(0), Outcome::Final, NOW), Verdict::Ignore);
        assert_eq!(lane.answered(Answered::Claim, Outcome::Final, NOW), Verdict::Ignore);
        assert_eq!(lane.len(), 2);
    }

    #[test]
    fn what_never_went_out_waits_for_the_next_route_and_for_the_answers_before_it() {
        let mut lane = lane(false, 2);
        lane.seeks();
        lane.found(1);
        lane.next();
        assert_eq!((lane.whither(), lane.load()), (Some(&1), Load { requests: 1, bytes: 100 }));
        lane.close(NOW);
        assert!(lane.whither().is_none() && !lane.seeks());
        assert_eq!(lane.answered(Answered::Batch(0), Outcome::Unknown, NOW), Verdict::Tell { unsure: false });
        assert!(lane.seeks() && lane.failing_since() == Some(NOW));
        assert_eq!(lane.give_up(), [Pending { item: Item::Batch(1, ()), unsure: false }]);
        assert!(!lane.seeks(), "nothing waits");
    }
}
