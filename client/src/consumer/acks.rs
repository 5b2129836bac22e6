//! Acknowledgements on their way. Plain code: acknowledgements, receipts and lost streams go in, requests come out.
//!
//! One request of a partition is in flight at a time; what comes meanwhile joins the next one. A request whose receipt did
//! not come is sent again on the next stream: that is harmless.

use std::collections::BTreeMap;
use std::time::Duration;

use alluvium_proto::status::RemoteFault;
use alluvium_proto::v1;
use alluvium_runtime::backoff::Backoff;
use alluvium_types::time::Mono;

use crate::error::{Error, transient};

/// The most ranges in one request.
const RANGES_MAX: usize = 4096;
/// Acknowledgements that nobody waits for are collected this long: each request is an entry of a ledger, on as many disks as a message.
const LATER: Duration = Duration::from_millis(100);
/// Or until there are this many ranges, or messages: a part of what may be unacknowledged of one consumer.
const COLLECTED_MAX: (usize, u64) = (256, 1 << 14);

/// All partitions of one consumer. `W` is told once what it waits for is durable.
#[derive(Debug)]
pub(super) struct Acks<W> {
    lanes: BTreeMap<u32, Lane<W>>,
    next_id: u64,
    backoff: Backoff,
}

#[derive(Debug)]
struct Lane<W> {
    queued: Content<W>,
    /// When the oldest of what is queued came.
    since: Option<Mono>,
    /// Somebody waits for it.
    urgent: bool,
    sent: Option<(u64, Content<W>)>,
    paused_until: Option<Mono>,
    backoff: Backoff,
}

#[derive(Debug)]
struct Content<W> {
    up_to: Option<u64>,
    /// First and last, both included; in the order they came.
    ranges: Vec<(u64, u64)>,
    /// In those.
    messages: u64,
    waiters: Vec<W>,
}

impl<W> Default for Content<W> {
    fn default() -> Self {
        Self { up_to: None, ranges: Vec::new(), messages: 0, waiters: Vec::new() }
    }
}

impl<W> Content<W> {
    const fn is_empty(&self) -> bool {
        self.up_to.is_none() && self.ranges.is_empty()
    }

    fn add(&mut self, first: u64, last: u64) {
        self.messages += (last - first).saturating_add(1);
        match self.ranges.last_mut() {
            Some((_, end)) if end.checked_add(1) == Some(first) => *end = last,
            _ => self.ranges.push((first, last)),
        }
    }

    /// Puts what an earlier request held in front.
    fn prepend(&mut self, mut earlier: Self) {
        self.up_to = self.up_to.max(earlier.up_to);
        self.messages += earlier.messages;
        earlier.ranges.append(&mut self.ranges);
        earlier.waiters.append(&mut self.waiters);
        self.ranges = earlier.ranges;
        self.waiters = earlier.waiters;
    }
}

impl<W> Acks<W> {
    pub(super) const fn new(backoff: Backoff) -> Self {
        Self { lanes: BTreeMap::new(), next_id: 1, backoff }
    }

    fn lane(&mut self, partition: u32) -> &mut Lane<W> {
        let backoff = &self.backoff;
        self.lanes.entry(partition).or_insert_with(|| Lane {
            queued: Content::default(),
            since: None,
            urgent: false,
            sent: None,
            paused_until: None,
            backoff: backoff.clone(),
        })
    }

    /// Acknowledges a run of offsets. Without a waiter it may be collected for a while.
    pub(super) fn ack(&mut self, partition: u32, first: u64, last: u64, waiter: Option<W>, now: Mono) {
        let lane = self.lane(partition);
        lane.queued.add(first, last);
        lane.note(waiter, now);
    }

    /// Acknowledges everything up to and including an offset.
    pub(super) fn ack_up_to(&mut self, partition: u32, offset: u64, waiter: Option<W>, now: Mono) {
        let lane = self.lane(partition);
        lane.queued.up_to = lane.queued.up_to.max(Some(offset));
        lane.queued.ranges.retain(|(_, last)| *last > offset);
        lane.note(waiter, now);
    }

    /// Collects no longer; `waiter` makes one for each partition that has something under way.
    pub(super) fn flush(&mut self, mut waiter: impl FnMut() -> W) {
        for lane in self.lanes.values_mut() {
            if !lane.queued.is_empty() {
                lane.urgent = true;
                lane.queued.waiters.push(waiter());
            } else if let Some((_, content)) = &mut lane.sent {
                content.waiters.push(waiter());
            }
        }
    }

    /// Whether nothing is queued or unconfirmed.
    pub(super) fn is_empty(&self) -> bool {
        self.lanes.values().all(|lane| lane.queued.is_empty() && lane.sent.is_none())
    }

    /// The next request to be sent.
    pub(super) fn next_request(&mut self, now: Mono) -> Option<v1::Ack> {
        let (partition, lane) = self.lanes.iter_mut().find(|(_, lane)| lane.is_due(now))?;
        let id = self.next_id;
        self.next_id += 1;
        Some(lane.send(id, *partition))
    }

    /// When something becomes due by itself, that isn't yet.
    pub(super) fn deadline(&self, now: Mono) -> Option<Mono> {
        let times = self.lanes.values().filter(|lane| lane.sent.is_none() && !lane.queued.is_empty());
        times.flat_map(|lane| [lane.paused_until, lane.since.map(|s| s.after(LATER))]).flatten().filter(|t| *t > now).min()
    }

    /// A receipt. Gives those who waited for it.
    pub(super) fn on_receipt(&mut self, receipt: v1::AckReceipt, now: Mono) -> Vec<(W, Result<(), Error>)> {
        let Some(lane) = self.lanes.get_mut(&receipt.partition) else { return Vec::new() };
        if lane.sent.as_ref().is_none_or(|(id, _)| *id != receipt.id) {
            return Vec::new();
        }
        let Some((_, content)) = lane.sent.take() else { return Vec::new() };
        let fate = match receipt.fault.map(RemoteFault::from) {
            None => {
                lane.backoff.reset();
                Ok(())
            }
            Some(fault) if transient(&fault) => {
                let delay = lane.backoff.delay().max(fault.retry_after.unwrap_or_default());
                lane.paused_until = Some(now.after(delay));
                lane.again(content);
                return Vec::new();
            }
            Some(fault) => Err(Error::Refused(fault)),
        };
        content.waiters.into_iter().map(|waiter| (waiter, fate.clone())).collect()
    }

    /// The stream is gone: what has no receipt is sent again on the next one.
    pub(super) fn on_disconnected(&mut self) {
        for lane in self.lanes.values_mut() {
            if let Some((_, content)) = lane.sent.take() {
                lane.again(content);
            }
        }
    }

    /// Gives up; all who wait are given.
    pub(super) fn drain(&mut self) -> Vec<W> {
        let lanes = std::mem::take(&mut self.lanes);
        let waiters = |lane: Lane<W>| {
            let sent = lane.sent.map(|(_, content)| content.waiters).unwrap_or_default();
            lane.queued.waiters.into_iter().chain(sent)
        };
        lanes.into_values().flat_map(waiters).collect()
    }
}

impl<W> Lane<W> {
    fn note(&mut self, waiter: Option<W>, now: Mono) {
        self.since.get_or_insert(now);
        self.urgent |= waiter.is_some();
        self.queued.waiters.extend(waiter);
    }

    fn is_due(&self, now: Mono) -> bool {
        let Content { ranges, messages, .. } = &self.queued;
        let is_much = ranges.len() >= COLLECTED_MAX.0 || *messages >= COLLECTED_MAX.1;
        let collected = is_much || self.since.is_some_and(|since| now >= since.after(LATER));
        self.sent.is_none()
            && !self.queued.is_empty()
            && self.paused_until.is_none_or(|until| now >= until)
            && (self.urgent || collected)
    }

    fn again(&mut self, content: Content<W>) {
        self.queued.prepend(content);
        // It has waited once.
        self.urgent = true;
    }

    fn send(&mut self, id: u64, partition: u32) -> v1::Ack {
        let queued = std::mem::take(&mut self.queued);
        let mut now = Content::default();
        // Each request is one or the other. Who waits, waits for the last of them.
        if queued.up_to.is_some() && !queued.ranges.is_empty() {
            now.up_to = queued.up_to;
            self.queued = Content { up_to: None, ..queued };
        } else if queued.ranges.len() > RANGES_MAX {
            let mut queued = queued;
            let rest = queued.ranges.split_off(RANGES_MAX);
            now.ranges = std::mem::replace(&mut queued.ranges, rest);
            self.queued = queued;
        } else {
            now = queued;
            (self.since, self.urgent) = (None, false);
        }
        self.paused_until = None;
        let range = |(first, last): &(u64, u64)| v1::OffsetRange { first: *first, last: *last };
        let ack = v1::Ack { id, partition, ranges: now.ranges.iter().map(range).collect(), up_to: now.up_to };
        self.sent = Some((id, now));
        ack
    }
}

#[cfg(test)]
mod tests {
    use alluvium_runtime::entropy::Entropy;

    use super::*;

    const NOW: Mono = Mono::from_duration(Duration::ZERO);

    fn acks() -> Acks<u32> {
        Acks::new(Backoff::new(Duration::from_millis(10), Duration::from_secs(1), Entropy::seeded(1)))
    }

    fn ranges(ack: &v1::Ack) -> Vec<(u64, u64)> {
        ack.ranges.iter().map(|r| (r.first, r.last)).collect()
    }

    fn receipt(ack: &v1::Ack) -> v1::AckReceipt {
        v1::AckReceipt { id: ack.id, partition: ack.partition, fault: None }
    }

    #[test]
    fn what_comes_while_a_request_is_in_flight_joins_the_next_one() {
        let mut acks = acks();
        acks.ack(0, 1, 1, Some(1), NOW);
        let first = acks.next_request(NOW).expect("somebody waits");
        for offset in 2..5 {
            acks.ack(0, offset, offset, Some(2), NOW);
        }
        assert!(acks.next_request(NOW).is_none(), "one at a time");
        let told = acks.on_receipt(receipt(&first), NOW);
        assert!(matches!(told.as_slice(), [(1, Ok(()))]));
        let second = acks.next_request(NOW).expect("the rest");
        assert_eq!(ranges(&second), [(2, 4)]);
        assert_eq!(acks.on_receipt(receipt(&second), NOW).len(), 3);
        assert!(acks.is_empty());
    }

    #[test]
    fn what_nobody_waits_for_is_collected_for_a_while() {
        let mut acks = acks();
        acks.ack(0, 1, 1, None, NOW);
        assert!(acks.next_request(NOW).is_none());
        let due = acks.deadline(NOW).expect("it is not forgotten");
        assert!(acks.next_request(due).is_some());
        acks.ack(1, 1, COLLECTED_MAX.1 - 1, None, NOW);
        assert!(acks.next_request(NOW).is_none());
        acks.ack(1, COLLECTED_MAX.1, COLLECTED_MAX.1, None, NOW);
        assert!(acks.next_request(NOW).is_some(), "much does not wait");
    }

    #[test]
    fn an_unconfirmed_acknowledgement_is_sent_again_on_the_next_stream() {
        let mut acks = acks();
        acks.ack(3, 1, 2, Some(1), NOW);
        let lost = acks.next_request(NOW).expect("due");
        acks.ack(3, 7, 7, Some(2), NOW);
        acks.on_disconnected();
        let again = acks.next_request(NOW).expect("due");
        assert_eq!(ranges(&again), [(1, 2), (7, 7)]);
        assert!(acks.on_receipt(receipt(&lost), NOW).is_empty(), "it belongs to the lost stream");
        assert_eq!(acks.on_receipt(receipt(&again), NOW).len(), 2);
    }

    #[test]
    fn a_fault_that_passes_is_waited_out_and_another_is_told() {
        let mut acks = acks();
        acks.ack(0, 1, 1, Some(1), NOW);
        let ack = acks.next_request(NOW).expect("due");
        let fault = v1::Fault { code: 14, retry_after_ms: Some(50), ..Default::default() };
        assert!(acks.on_receipt(v1::AckReceipt { fault: Some(fault), ..receipt(&ack) }, NOW).is_empty());
        assert!(acks.next_request(NOW).is_none());
        let ack = acks.next_request(acks.deadline(NOW).expect("later")).expect("due");
        let fault = v1::Fault { code: 5, ..Default::default() };
        let told = acks.on_receipt(v1::AckReceipt { fault: Some(fault), ..receipt(&ack) }, NOW);
        assert!(matches!(told.as_slice(), [(1, Err(Error::Refused(_)))]));
        assert!(acks.is_empty());
    }

    #[test]
    fn a_cumulative_acknowledgement_swallows_what_lies_below() {
        let mut acks = acks();
        acks.ack(0, 3, 3, None, NOW);
        acks.ack(0, 9, 9, None, NOW);
        acks.ack_up_to(0, 5, Some(1), NOW);
        let first = acks.next_request(NOW).expect("due");
        assert_eq!((first.up_to, ranges(&first)), (Some(5), Vec::new()));
        assert!(acks.on_receipt(receipt(&first), NOW).is_empty(), "who waits, waits for all of it");
        let second = acks.next_request(NOW).expect("due");
        assert_eq!((second.up_to, ranges(&second)), (None, vec![(9, 9)]));
        assert_eq!(acks.on_receipt(receipt(&second), NOW).len(), 1);
    }
}
