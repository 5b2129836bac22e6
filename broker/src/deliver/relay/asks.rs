//! What a relay has to ask and has not asked: a line for each stream, so that one that takes nothing holds up no other, and what
//! waits for partitions that nobody serves.
//!
//! Plain code. Each line is bounded ([`REQUESTS_MAX`], [`BYTES_MAX`]): past it the client is not read. Credit is no more than a sum,
//! and goes before what waits.

use std::collections::{BTreeMap, VecDeque};

use alluvium_types::ids::PartitionIndex;

use super::allotment::Key;
use crate::deliver::membership::Spans;
use crate::subscription::Grant;

/// Requests in one line.
const REQUESTS_MAX: usize = 2048;
/// Bytes of requests in one line. The last one may exceed it.
const BYTES_MAX: usize = 8 << 20;

/// What is to be asked of the streams, the client's requests being `Q`.
#[derive(Debug)]
pub(super) struct Asks<Q> {
    lines: BTreeMap<Key, Line<Q>>,
    parked: BTreeMap<PartitionIndex, VecDeque<(Q, usize)>>,
    /// Of all that is parked.
    parked_load: Load,
}

/// The next thing to ask.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Next<Q> {
    /// To use so much more.
    Credit(Grant),
    /// To give back what is not used.
    Reclaim,
    /// The same, and to take back what the client was not handed.
    TakeBack(Spans),
    /// The client's request.
    Request(Q),
}

#[derive(Debug)]
struct Line<Q> {
    /// No more than was delivered.
    takes_back: Spans,
    credit: Grant,
    /// Asked after the credit that came before: the allotment grants no more until it is answered.
    reclaims: bool,
    requests: VecDeque<(Q, usize)>,
    load: Load,
}

#[derive(Clone, Copy, Debug, Default)]
struct Load {
    requests: usize,
    bytes: usize,
}

impl Load {
    const fn is_full(self) -> bool {
        self.requests >= REQUESTS_MAX || self.bytes >= BYTES_MAX
    }

    const fn add(&mut self, bytes: usize) {
        self.requests += 1;
        self.bytes += bytes;
    }

    const fn remove(&mut self, bytes: usize) {
        self.requests -= 1;
        self.bytes -= bytes;
    }
}

impl<Q> Default for Line<Q> {
    fn default() -> Self {
        Self {
            takes_back: Spans::new(),
            credit: Grant::default(),
            reclaims: false,
            requests: VecDeque::new(),
            load: Load::default(),
        }
    }
}

impl<Q> Asks<Q> {
    /// Nothing yet.
    pub(super) const fn new() -> Self {
        Self { lines: BTreeMap::new(), parked: BTreeMap::new(), parked_load: Load { requests: 0, bytes: 0 } }
    }

    /// Asks a request of so many bytes, after all others of this stream.
    pub(super) fn request(&mut self, key: Key, request: Q, bytes: usize) {
        let line = self.lines.entry(key).or_default();
        line.requests.push_back((request, bytes));
        line.load.add(bytes);
    }

    /// Grants more.
    pub(super) fn credit(&mut self, key: Key, more: Grant) {
        let credit = &mut self.lines.entry(key).or_default().credit;
        credit.messages += more.messages;
        credit.bytes += more.bytes;
    }

    /// Asks for what is not used.
    pub(super) fn reclaim(&mut self, key: Key) {
        self.lines.entry(key).or_default().reclaims = true;
    }

    /// Has it take back these messages; whether that is one more thing to ask.
    pub(super) fn take_back(&mut self, key: Key, unsent: Spans) -> bool {
        let line = self.lines.entry(key).or_default();
        let more = line.takes_back.is_empty();
        for (partition, spans) in unsent {
            line.takes_back.entry(partition).or_default().extend(spans);
        }
        more
    }

    /// Keeps a request of so many bytes until somebody serves its partition.
    pub(super) fn park(&mut self, partition: PartitionIndex, request: Q, bytes: usize) {
        self.parked.entry(partition).or_default().push_back((request, bytes));
        self.parked_load.add(bytes);
    }

    /// A stream serves a partition: it is asked what waited for that.
    pub(super) fn unpark(&mut self, partition: PartitionIndex, key: Key) {
        for (request, bytes) in self.parked.remove(&partition).unwrap_or_default() {
            self.parked_load.remove(bytes);
            self.request(key, request, bytes);
        }
    }

    /// Nothing is to be asked of a stream any more.
    pub(super) fn end(&mut self, key: Key) {
        self.lines.remove(&key);
    }

    /// The streams of which something is to be asked.
    pub(super) fn keys(&self) -> Vec<Key> {
        self.lines.keys().copied().collect()
    }

    /// The next thing to ask of a stream, which counts as asked.
    pub(super) fn next(&mut self, key: Key) -> Option<Next<Q>> {
        let line = self.lines.get_mut(&key)?;
        if !line.takes_back.is_empty() {
            return Some(Next::TakeBack(std::mem::take(&mut line.takes_back)));
        }
        if line.credit != Grant::default() {
            return Some(Next::Credit(std::mem::take(&mut line.credit)));
        }
        if std::mem::take(&mut line.reclaims) {
            return Some(Next::Reclaim);
        }
        match line.requests.pop_front() {
            Some((request, bytes)) => {
                line.load.remove(bytes);
                Some(Next::Request(request))
            }
            None => {
                self.lines.remove(&key);
                None
            }
        }
    }

    /// Whether more waits in a line than may.
    pub(super) fn is_full(&self) -> bool {
        self.parked_load.is_full() || self.lines.values().any(|line| line.load.is_full())
    }
}

#[cfg(test)]
mod tests {
    use alluvium_types::ids::Offset;

    use super::*;
    use crate::subscription::Span;

    const ONE: PartitionIndex = PartitionIndex::new(1);

    fn all(asks: &mut Asks<u32>, key: Key) -> Vec<Next<u32>> {
        std::iter::from_fn(|| asks.next(key)).collect()
    }

    const fn grant(messages: u64, bytes: u64) -> Grant {
        Grant { messages, bytes }
    }

    #[test]
    fn each_stream_is_asked_in_order_and_credit_is_one_sum_before_that() {
        let mut asks = Asks::new();
        for (key, request) in [(1, 10), (2, 20), (1, 11)] {
            asks.request(key, request, 5);
        }
        asks.credit(1, grant(1, 0));
        asks.credit(1, grant(2, 7));
        asks.reclaim(1);
        assert_eq!(asks.keys(), [1, 2]);
        let first = [Next::Credit(grant(3, 7)), Next::Reclaim, Next::Request(10), Next::Request(11)];
        assert_eq!(all(&mut asks, 1), first);
        assert_eq!(asks.keys(), [2], "nothing is left to ask of it");
        asks.end(2);
        assert_eq!(all(&mut asks, 2), []);
    }

    #[test]
    fn what_is_taken_back_goes_before_all_else_and_together() {
        let mut asks = Asks::new();
        asks.request(1, 10, 5);
        asks.credit(1, grant(1, 0));
        let span = |first| Span::new(Offset::new(first), Offset::new(first + 1));
        assert!(asks.take_back(1, Spans::from([(ONE, vec![span(3)])])));
        assert!(!asks.take_back(1, Spans::from([(ONE, vec![span(7)])])), "it goes with what waits");
        let all = all(&mut asks, 1);
        assert_eq!(all[0], Next::TakeBack(Spans::from([(ONE, vec![span(3), span(7)])])));
        assert_eq!(all[1..], [Next::Credit(grant(1, 0)), Next::Request(10)]);
        assert!(asks.take_back(1, Spans::from([(ONE, vec![span(8)])])));
    }

    #[test]
    fn what_waits_for_a_partition_goes_to_whoever_serves_it_behind_what_is_asked_there() {
        let mut asks = Asks::new();
        asks.park(ONE, 10, 5);
        asks.park(PartitionIndex::new(2), 20, 5);
        asks.request(7, 5, 5);
        asks.unpark(ONE, 7);
        asks.unpark(ONE, 7);
        assert_eq!(all(&mut asks, 7), [Next::Request(5), Next::Request(10)]);
    }

    #[test]
    fn a_line_is_bounded_by_number_and_bytes() {
        let mut asks = Asks::new();
        for request in 1..REQUESTS_MAX {
            asks.request(1, request, 1);
            asks.request(2, request, 1);
        }
        assert!(!asks.is_full(), "each has its own bound");
        asks.request(1, 0, 1);
        assert!(asks.is_full());
        assert!(asks.next(1).is_some() && !asks.is_full());
        asks.request(2, 0, BYTES_MAX);
        assert!(asks.is_full());
        asks.end(2);
        assert!(!asks.is_full());
        asks.park(ONE, 0, BYTES_MAX);
        assert!(asks.is_full());
        asks.unpark(ONE, 3);
        assert!(asks.is_full() && asks.next(3).is_some() && !asks.is_full());
    }
}
