//! A client's credit, shared out over the streams that serve it: together they never have more than the client granted (S3).
//!
//! Plain code. Who is alone gets all of it. Of several, each is given a part ahead while there is plenty; who has messages and no
//! credit says so and is given more; when nothing is left, what others have and don't use is asked back.

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
    wants: bool,
    reclaiming: bool,
    /// It was asked for what it doesn't use, and nothing has changed since.
    asked: bool,
}

impl Share {
    const fn left(&self) -> Grant {
        Grant {
            messages: self.given.messages.saturating_sub(self.used.messages),
            bytes: self.given.bytes.saturating_sub(self.used.bytes),
        }
    }
}

impl Allotment {
    /// None yet. `window` bytes, at least what the largest message takes, may wait of each stream.
    pub(super) fn new(window: u64) -> Self {
        Self { window, account: Account::default(), shares: BTreeMap::new(), last: 0 }
    }

    /// The client grants more.
    pub(super) fn grant(&mut self, more: Grant) -> Result<(), Fault> {
        self.account.grant(more)
    }

    /// A stream begins.
    pub(super) fn begin(&mut self, key: Key) {
        self.shares.insert(key, Share::default());
    }

    /// A stream ended: what it was given and `delivered` nothing for is the client's again.
    pub(super) fn end(&mut self, key: Key, delivered: Grant) {
        if let Some(share) = self.shares.remove(&key) {
            self.account.refund(Grant {
                messages: share.given.messages.saturating_sub(delivered.messages),
                bytes: share.given.bytes.saturating_sub(delivered.bytes),
            });
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

    /// A stream responded, having used so much since it began.
    pub(super) fn used(&mut self, key: Key, used: Grant) {
        if let Some(share) = self.shares.get_mut(&key) {
            (share.used, share.asked) = (used, false);
        }
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
        let keys = self.in_turn();
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
        // By what came of it: what it took and gave back to itself is not told.
        let some = |share: &Share| share.given.messages > share.delivered.messages || share.given.bytes > share.delivered.bytes;
        let idle = |share: &Share| !share.wants && !share.reclaiming && !share.asked && some(share);
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
}
