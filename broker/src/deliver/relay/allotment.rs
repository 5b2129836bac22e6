//! A client's credit, shared out over the streams that serve it: together they never have more than the client granted (S3).
//!
//! Plain code. Who is alone gets all of it. Of several, each is given a part ahead while there is plenty; who has messages and no
//! credit says so and is given more; when nothing is left, what others have and don't use is asked back. A measure that begins to
//! bound late counts what the streams have of it already: what is more than the client granted is asked back from all of them.

use std::collections::BTreeMap;

use alluvium_types::fault::Fault;

use crate::subscription::Grant;
use crate::subscription::credit::Account;

/// Messages for a stream of a client that bounds only bytes.
const MESSAGES_AHEAD: u64 = 1 << 20;

/// One of the streams.
pub(super) type Key = u64;

/// What is to be done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Step {
    /// Grant this to a stream.
    Grant(Key, Grant),
    /// Ask a stream for what it does not use.
    Reclaim(Key),
}

/// The credit of one client.
#[derive(Debug)]
pub(super) struct Allotment {
    /// Bytes that a stream may have sent ahead of what went on to the client: what waits here for a client that does not read.
    window: u64,
    /// What the client granted; what is with a stream counts as taken.
    account: Account,
    shares: BTreeMap<Key, Share>,
    /// Who was served last, so that all have their turn.
    last: Key,
    /// The client does not read: nothing is given.
    rests: bool,
}

/// What a stream was given and has used, since it began.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Share {
    /// All that was ever granted to it.
    granted: Grant,
    /// Of that, what it did not give back.
    given: Grant,
    /// By its own account, with its last response.
    used: Grant,
    /// Of that, what went on to the client.
    passed: u64,
    /// Of that, what came for the client.
    delivered: Grant,
    /// Of what it says that it used, what it took back: it counts in nothing else.
    taken_back: Grant,
    wants: bool,
    reclaiming: bool,
    /// It was asked for what it doesn't use, and nothing has changed since.
    asked: bool,
}

impl Share {
    const fn left(&self) -> Grant {
        less(self.given, self.used)
    }

    /// What it has and did not deliver. By what came of it: what it took and gave back to itself is not told.
    const fn open(&self) -> Grant {
        less(self.given, self.delivered)
    }
}

/// What is left of `all` without `part`.
const fn less(all: Grant, part: Grant) -> Grant {
    Grant { messages: all.messages.saturating_sub(part.messages), bytes: all.bytes.saturating_sub(part.bytes) }
}

impl Allotment {
    /// None yet. `window` bytes, at least what the largest message takes, may wait of each stream.
    pub(super) fn new(window: u64) -> Self {
        Self { window, account: Account::default(), shares: BTreeMap::new(), last: 0, rests: false }
    }

    /// The client grants more.
    pub(super) fn grant(&mut self, more: Grant) -> Result<(), Fault> {
        let before = self.account;
        // Of a measure that bounds from now on, what the streams have and did not deliver is part of what is granted.
        let open = self.open();
        let begins = |granted: u64, more: u64, open: u64| if granted == 0 && more > 0 { open } else { 0 };
        let granted = before.granted();
        let open = Grant {
            messages: begins(granted.messages, more.messages, open.messages),
            bytes: begins(granted.bytes, more.bytes, open.bytes),
        };
        self.account.refund(open);
        if let Err(fault) = self.account.grant(more) {
            self.account = before;
            return Err(fault);
        }
        self.account.take(open);
        Ok(())
    }

    /// What the streams were given and did not deliver.
    fn open(&self) -> Grant {
        self.shares
            .values()
            .map(Share::open)
            .fold(Grant::default(), |sum, open| Grant { messages: sum.messages + open.messages, bytes: sum.bytes + open.bytes })
    }

    /// A stream begins.
    pub(super) fn begin(&mut self, key: Key) {
        self.shares.insert(key, Share::default());
    }

    /// A stream ended: what it was given and `delivered` nothing for is the client's again.
    pub(super) fn end(&mut self, key: Key, delivered: Grant) {
        if let Some(share) = self.shares.remove(&key) {
            self.account.refund(less(share.given, delivered));
        }
    }

    /// A stream has messages and no credit, having been granted so much in all. What is still on its way to it may do.
    pub(super) fn wanted(&mut self, key: Key, granted: Grant) {
        if let Some(share) = self.shares.get_mut(&key) {
            share.wants |= share.granted == granted;
        }
    }

    /// A stream gave credit back.
    pub(super) fn returned(&mut self, key: Key, credit: Grant) {
        if let Some(share) = self.shares.get_mut(&key) {
            share.reclaiming = false;
            let credit =
                Grant { messages: credit.messages.min(share.given.messages), bytes: credit.bytes.min(share.given.bytes) };
            share.given = Grant { messages: share.given.messages - credit.messages, bytes: share.given.bytes - credit.bytes };
            self.account.refund(credit);
        }
    }

    /// A stream responded, having used so much since it began. Gives the bytes of it that it did not take back.
    pub(super) fn used(&mut self, key: Key, used: Grant) -> u64 {
        let Some(share) = self.shares.get_mut(&key) else { return 0 };
        (share.used, share.asked) = (less(used, share.taken_back), false);
        share.used.bytes
    }

    /// A stream takes back so much of what came of it, and gives back what it does not use: all that is the client's again. One that
    /// has ended is taken to have.
    pub(super) fn took_back(&mut self, key: Key, credit: Grant) {
        if let Some(share) = self.shares.get_mut(&key) {
            share.taken_back.messages += credit.messages;
            share.taken_back.bytes += credit.bytes;
            (share.given, share.used) = (less(share.given, credit), less(share.used, credit));
            share.delivered = less(share.delivered, credit);
            share.reclaiming = true;
        }
        self.account.refund(credit);
    }

    /// Whether nothing is given for now: the client does not read.
    pub(super) fn rest(&mut self, rests: bool) {
        self.rests = rests;
    }

    /// So much came of a stream for the client, since it began.
    pub(super) fn delivered(&mut self, key: Key, delivered: Grant) {
        if let Some(share) = self.shares.get_mut(&key) {
            share.delivered = delivered;
        }
    }

    /// A response went on to the client, with which its stream had used so many bytes.
    pub(super) fn passed(&mut self, key: Key, bytes: u64) {
        if let Some(share) = self.shares.get_mut(&key) {
            share.passed = share.passed.max(bytes);
        }
    }

    /// What to do next; `None` when there is nothing to do until something happens.
    pub(super) fn step(&mut self) -> Option<Step> {
        if self.rests {
            return None;
        }
        let keys = self.in_turn();
        if self.account.is_overdrawn() {
            return self.reclaim(&keys, |_| true);
        }
        let wanting = keys.iter().filter(|key| self.shares[key].wants).count() as u64;
        for key in &keys {
            let share = self.shares[key];
            let (more, left) = (self.more(share, keys.len() as u64, wanting), share.left());
            let usable = left.messages + more.messages > 0 && left.bytes + more.bytes > 0;
            // Small change is not worth a message, unless it is waited for.
            let worth = share.wants || more.messages > left.messages || more.bytes >= self.window / 4;
            if usable && worth && !share.reclaiming && more != Grant::default() {
                return Some(self.give(*key, more));
            }
        }
        if wanting == 0 || self.account.left().messages > 0 && self.account.left().bytes > 0 {
            return None;
        }
        self.reclaim(&keys, |share| !share.wants)
    }

    /// Asks one of these back what it does not use.
    fn reclaim(&mut self, keys: &[Key], of: impl Fn(&Share) -> bool) -> Option<Step> {
        let idle = |share: &Share| of(share) && !share.reclaiming && !share.asked && share.open() != Grant::default();
        let key = *keys.iter().find(|key| idle(&self.shares[key]))?;
        let share = self.shares.get_mut(&key)?;
        (share.reclaiming, share.asked) = (true, true);
        Some(Step::Reclaim(key))
    }

    /// What one of `streams` is given now, of which some are `wanting`.
    fn more(&self, share: Share, streams: u64, wanting: u64) -> Grant {
        let (free, granted, left) = (self.account.left(), self.account.granted(), share.left());
        let part = |free: u64, left: u64| match share.wants {
            _ if streams == 1 => free,
            true => free.div_ceil(wanting),
            // Ahead of its need, once most of the last part is used.
            false if left <= free / (4 * streams) => free / (2 * streams),
            false => 0,
        };
        // A measure that does not bound is given as is good for now.
        let messages = match granted.messages {
            0 if left.messages <= MESSAGES_AHEAD / 2 => MESSAGES_AHEAD,
            0 => 0,
            _ => part(free.messages, left.messages),
        };
        let window = (share.passed + self.window).saturating_sub(share.given.bytes);
        let bytes = if granted.bytes == 0 { window } else { part(free.bytes, left.bytes).min(window) };
        if granted == Grant::default() { Grant::default() } else { Grant { messages, bytes } }
    }

    fn give(&mut self, key: Key, more: Grant) -> Step {
        self.last = key;
        self.account.take(more);
        let share = self.shares.get_mut(&key).expect("it was just seen");
        let and_more = |before: Grant| Grant { messages: before.messages + more.messages, bytes: before.bytes + more.bytes };
        (share.given, share.granted) = (and_more(share.given), and_more(share.granted));
        (share.wants, share.asked) = (false, false);
        Step::Grant(key, more)
    }

    /// All streams, those that want some first, after the one that was served last.
    fn in_turn(&self) -> Vec<Key> {
        let turn = self.shares.range(self.last + 1..).chain(self.shares.range(..=self.last));
        let (wanting, others): (Vec<_>, Vec<_>) = turn.map(|(key, share)| (*key, share.wants)).partition(|(_, wants)| *wants);
        wanting.into_iter().chain(others).map(|(key, _)| key).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    const WINDOW: u64 = 1000;

    fn grant(messages: u64, bytes: u64) -> Grant {
        Grant { messages, bytes }
    }

    fn of(streams: u64, credit: Grant) -> Allotment {
        let mut allotment = Allotment::new(WINDOW);
        (0..streams).for_each(|key| allotment.begin(key));
        allotment.grant(credit).expect("within the limits");
        allotment
    }

    fn wanted(allotment: &mut Allotment, key: Key) {
        allotment.wanted(key, allotment.shares[&key].granted);
    }

    fn steps(allotment: &mut Allotment) -> Vec<Step> {
        let steps: Vec<Step> = std::iter::from_fn(|| allotment.step()).take(100).collect();
        assert!(steps.len() < 100, "it comes to rest: {steps:?}");
        steps
    }

    #[test]
    fn who_is_alone_has_all_of_it_as_far_as_the_client_reads() {
        let mut alone = of(1, grant(10, 5000));
        assert_eq!(steps(&mut alone), [Step::Grant(0, grant(10, WINDOW))]);
        alone.used(0, grant(4, 900));
        assert_eq!(steps(&mut alone), [], "the client has not taken it");
        alone.passed(0, 900);
        assert_eq!(steps(&mut alone), [Step::Grant(0, grant(0, 900))]);
        alone.grant(grant(3, 0)).expect("fine");
        alone.used(0, grant(9, 1800));
        assert_eq!(steps(&mut alone), [Step::Grant(0, grant(3, 0))]);
    }

    #[test]
    fn one_permit_goes_to_whoever_has_a_message_and_only_to_one_s3() {
        let mut three = of(3, grant(1, 100));
        assert_eq!(steps(&mut three), [], "nobody is given the only one ahead");
        wanted(&mut three, 1);
        wanted(&mut three, 2);
        assert_eq!(steps(&mut three), [Step::Grant(1, grant(1, 50)), Step::Reclaim(1)], "which may not need it");
        three.used(1, grant(1, 50));
        three.delivered(1, grant(1, 50));
        three.returned(1, grant(0, 0));
        assert_eq!(steps(&mut three), []);
        three.grant(grant(1, 50)).expect("fine");
        assert_eq!(steps(&mut three), [Step::Grant(2, grant(1, 100))]);
    }

    #[test]
    fn who_wanted_some_before_it_came_does_not_want_more() {
        let mut two = of(2, grant(100, 800));
        assert!(!steps(&mut two).is_empty());
        two.wanted(1, grant(0, 0));
        assert_eq!(steps(&mut two), []);
    }

    #[test]
    fn what_one_has_and_does_not_use_is_asked_back_for_another() {
        let mut two = of(2, grant(100, 800));
        assert!(!steps(&mut two).is_empty(), "there is plenty");
        let before = two.shares[&0].given;
        assert!(before.messages > 0 && before.bytes > 0);
        let mut reclaimed = false;
        for _ in 0..100 {
            let given = two.shares[&1].given;
            two.used(1, given);
            two.delivered(1, given);
            two.passed(1, given.bytes);
            wanted(&mut two, 1);
            reclaimed |= steps(&mut two).contains(&Step::Reclaim(0));
        }
        assert!(reclaimed);
        let unused = two.shares[&0].given;
        two.returned(0, unused);
        assert!(matches!(steps(&mut two)[..], [Step::Grant(1, _)]));
        assert_eq!(two.shares[&0].given, Grant::default());
        assert_eq!(two.shares[&1].given.messages, 100, "not one more than the client granted");
    }

    #[test]
    fn a_measure_that_does_not_bound_bounds_nobody() {
        let mut messages_alone = of(2, grant(4, 0));
        wanted(&mut messages_alone, 0);
        let given = steps(&mut messages_alone);
        assert_eq!(given[0], Step::Grant(0, grant(4, WINDOW)));
        let mut bytes_alone = of(1, grant(0, 100));
        assert_eq!(steps(&mut bytes_alone), [Step::Grant(0, grant(MESSAGES_AHEAD, 100))]);
    }

    #[test]
    fn what_a_stream_that_ended_did_not_deliver_is_the_clients_again() {
        let mut one = of(1, grant(10, 100));
        steps(&mut one);
        one.used(0, grant(7, 70));
        one.end(0, grant(5, 50));
        assert_eq!(one.account.left(), grant(5, 50));
        one.begin(1);
        assert_eq!(steps(&mut one), [Step::Grant(1, grant(5, 50))]);
    }

    #[test]
    fn what_a_stream_takes_back_is_the_clients_again_once_it_reads() {
        let mut one = of(1, grant(10, 800));
        assert_eq!(steps(&mut one), [Step::Grant(0, grant(10, 800))]);
        one.used(0, grant(7, 700));
        one.delivered(0, grant(7, 700));
        one.rest(true);
        one.took_back(0, grant(4, 400));
        one.returned(0, grant(3, 100));
        assert_eq!((one.account.left(), steps(&mut one)), (grant(7, 500), vec![]));
        one.rest(false);
        assert_eq!(steps(&mut one), [Step::Grant(0, grant(7, 500))]);
        assert_eq!(one.used(0, grant(8, 800)), 400, "what it took back is no part of it");
        assert_eq!(one.shares[&0].left(), grant(6, 400));
        one.end(0, grant(4, 400));
        assert_eq!(one.account.left(), grant(6, 400));
    }

    #[test]
    fn a_measure_that_begins_to_bound_late_counts_what_the_streams_have_of_it_s3() {
        // Each kept what it was given while nothing bounded, beside what the client then granted.
        let mut two = of(2, grant(0, 10_000));
        steps(&mut two);
        two.used(0, grant(3, 300));
        two.delivered(0, grant(3, 300));
        two.passed(0, 300);
        two.grant(grant(10, 0)).expect("fine");
        assert_eq!(steps(&mut two), [Step::Reclaim(1), Step::Reclaim(0)], "more than all that is granted");
        two.returned(1, grant(MESSAGES_AHEAD, WINDOW));
        two.used(0, grant(5, 500));
        two.delivered(0, grant(5, 500));
        assert_eq!(steps(&mut two), [], "the other one may go on meanwhile");
        two.returned(0, grant(MESSAGES_AHEAD - 5, WINDOW - 500));
        assert_eq!(two.account.left().messages, 8, "of ten, two came since");
        wanted(&mut two, 0);
        wanted(&mut two, 1);
        let given = steps(&mut two).into_iter().map(|step| match step {
            Step::Grant(_, grant) => grant.messages,
            Step::Reclaim(_) => 0,
        });
        assert_eq!(given.sum::<u64>(), 8);
    }

    /// A stream behind a relay, and what is on its way to it and from it.
    #[derive(Default)]
    struct Stream {
        granted: Grant,
        gone: Grant,
        used: Grant,
        asked: VecDeque<Step>,
        said: VecDeque<Said>,
    }

    enum Said {
        Delivered(Grant),
        Returned(Grant),
        Wanted(Grant),
    }

    impl Stream {
        fn left(&self) -> Grant {
            grant(self.granted.messages - self.gone.messages, self.granted.bytes - self.gone.bytes)
        }

        fn deliver(&mut self, bytes: u64) {
            if self.left().messages == 0 || self.left().bytes < bytes {
                return self.said.push_back(Said::Wanted(self.granted));
            }
            self.used = grant(self.used.messages + 1, self.used.bytes + bytes);
            self.gone = grant(self.gone.messages + 1, self.gone.bytes + bytes);
            self.said.push_back(Said::Delivered(self.used));
        }

        fn hear(&mut self) {
            match self.asked.pop_front() {
                Some(Step::Grant(_, more)) => {
                    self.granted = grant(self.granted.messages + more.messages, self.granted.bytes + more.bytes);
                }
                Some(Step::Reclaim(_)) => {
                    let left = self.left();
                    self.gone = self.granted;
                    self.said.push_back(Said::Returned(left));
                }
                None => {}
            }
        }
    }

    /// A relay's credit with its streams, and what the client granted and was delivered since each measure bounds.
    struct Relay {
        allotment: Allotment,
        streams: BTreeMap<Key, Stream>,
        granted: Grant,
        delivered: Grant,
        next: Key,
    }

    impl Relay {
        fn new() -> Self {
            let (streams, none) = (BTreeMap::new(), Grant::default());
            let mut relay = Self { allotment: Allotment::new(WINDOW), streams, granted: none, delivered: none, next: 0 };
            (0..3).for_each(|_| relay.begin());
            relay
        }

        fn begin(&mut self) {
            self.allotment.begin(self.next);
            self.streams.insert(self.next, Stream::default());
            self.next += 1;
        }

        fn end(&mut self, key: Key) {
            self.streams.remove(&key);
            let delivered = self.allotment.shares[&key].delivered;
            self.allotment.end(key, delivered);
            self.begin();
        }

        fn grant(&mut self, more: Grant) {
            if self.allotment.grant(more).is_ok() {
                self.granted = grant(self.granted.messages + more.messages, self.granted.bytes + more.bytes);
            }
        }

        fn hear(&mut self, key: Key) {
            match self.streams.get_mut(&key).and_then(|stream| stream.said.pop_front()) {
                Some(Said::Delivered(used)) => {
                    let before = self.allotment.shares[&key].delivered;
                    if self.granted.messages > 0 {
                        self.delivered.messages += used.messages - before.messages;
                    }
                    if self.granted.bytes > 0 {
                        self.delivered.bytes += used.bytes - before.bytes;
                    }
                    self.allotment.used(key, used);
                    self.allotment.delivered(key, used);
                    self.allotment.passed(key, used.bytes);
                }
                Some(Said::Returned(credit)) => self.allotment.returned(key, credit),
                Some(Said::Wanted(granted)) => self.allotment.wanted(key, granted),
                None => {}
            }
        }

        fn share_out(&mut self) {
            for step in steps(&mut self.allotment) {
                let (Step::Grant(key, _) | Step::Reclaim(key)) = step;
                self.streams.get_mut(&key).expect("it stands").asked.push_back(step);
            }
        }

        /// Until nothing is on its way.
        fn settle(&mut self) {
            while self.streams.values().any(|stream| !stream.asked.is_empty() || !stream.said.is_empty()) {
                for key in self.streams.keys().copied().collect::<Vec<_>>() {
                    self.streams.get_mut(&key).expect("it stands").hear();
                    self.hear(key);
                    self.share_out();
                }
            }
        }

        /// What the streams may deliver of themselves.
        fn left(&self) -> Grant {
            let left = self.streams.values().map(Stream::left);
            left.fold(Grant::default(), |sum, left| grant(sum.messages + left.messages, sum.bytes + left.bytes))
        }
    }

    proptest! {
        #[test]
        fn together_streams_have_what_the_client_granted_whenever_a_measure_begins_to_bound_s3(
            events in prop::collection::vec((0_u8..20, 0_usize..3, 0_u64..400), 0..120),
        ) {
            let mut relay = Relay::new();
            for (what, which, amount) in events {
                let key = *relay.streams.keys().nth(which).expect("there are three");
                match what {
                    0 => relay.grant(grant(amount / 10, 0)),
                    1 => relay.grant(grant(0, 10 * amount)),
                    2 => relay.grant(grant(amount / 10, 10 * amount)),
                    3 => relay.end(key),
                    4..10 => relay.streams.get_mut(&key).expect("it stands").hear(),
                    10..16 => relay.hear(key),
                    _ => relay.streams.get_mut(&key).expect("it stands").deliver(amount),
                }
                relay.share_out();
            }
            relay.settle();
            let (granted, delivered, left) = (relay.granted, relay.delivered, relay.left());
            prop_assert!(
                granted.messages == 0 || left.messages == 0 || delivered.messages + left.messages <= granted.messages,
                "{delivered:?} and {left:?} of {granted:?}"
            );
            prop_assert!(
                granted.bytes == 0 || left.bytes == 0 || delivered.bytes + left.bytes <= granted.bytes,
                "{delivered:?} and {left:?} of {granted:?}"
            );
        }

        #[test]
        fn streams_never_deliver_more_than_the_client_granted_of_measures_that_bound_from_the_first_s3(
            first in (1_u64..50, 1_u64..2000),
            events in prop::collection::vec((0_u8..20, 0_usize..3, 0_u64..400), 0..120),
        ) {
            let mut relay = Relay::new();
            relay.grant(grant(first.0, first.1));
            for (what, which, amount) in events {
                let key = *relay.streams.keys().nth(which).expect("there are three");
                match what {
                    0 => relay.grant(grant(amount / 10, amount)),
                    1 => relay.end(key),
                    2..8 => relay.streams.get_mut(&key).expect("it stands").hear(),
                    8..14 => relay.hear(key),
                    _ => relay.streams.get_mut(&key).expect("it stands").deliver(amount),
                }
                relay.share_out();
                let (granted, delivered) = (relay.granted, relay.delivered);
                prop_assert!(delivered.messages <= granted.messages && delivered.bytes <= granted.bytes);
            }
        }
    }
}
