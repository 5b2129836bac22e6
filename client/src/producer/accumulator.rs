//! Batches being filled, for each partition: what was queued and not yet handed to the session.

use std::collections::VecDeque;
use std::time::Duration;

use alluvium_proto::batch::BatchBuilder;
use alluvium_proto::v1;
use alluvium_types::limits::BATCH_MESSAGES_MAX;
use alluvium_types::time::Mono;

/// All partitions of one producer. `T` stands for what is told of a batch's outcome.
#[derive(Debug)]
pub(super) struct Accumulator<T> {
    lanes: Vec<Lane<T>>,
    target: usize,
}

#[derive(Debug)]
struct Lane<T> {
    /// Only the last one may still grow.
    batches: VecDeque<Filling<T>>,
    numbering: Numbering,
}

/// How messages of a partition are numbered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Numbering {
    /// Not at all: the producer has no name.
    None,
    /// The server has to be asked what it holds already.
    Unclaimed,
    /// What the next one gets, and the last one that an earlier run had stored when this run first asked.
    Next { next: u64, stored: Option<u64> },
}

/// What a sequence given by the application means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Sequenced {
    /// It is the next one.
    Next,
    /// An earlier run stored it.
    Stored,
    /// Neither: this one is next.
    Wrong { expected: u64 },
}

/// A batch that messages are added to.
#[derive(Debug)]
pub(super) struct Filling<T> {
    pub(super) builder: BatchBuilder,
    pub(super) first_sequence: u64,
    /// When its first message came.
    pub(super) since: Mono,
    pub(super) outcome: T,
    /// Bytes of the producer's window that were taken for it: at least what is in it.
    paid: usize,
}

/// Bytes of the producer's window that are to be taken before a message may be added.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Lack {
    /// Without these it can't be added.
    pub(super) bytes: usize,
    /// With these the next ones need none: as much again as the batch has. What is left over goes back when it is closed.
    pub(super) ample: usize,
}

/// A message's place among those queued.
#[derive(Debug)]
pub(super) struct Pushed<'a, T> {
    pub(super) outcome: &'a mut T,
    /// Its place in its batch.
    pub(super) index: u32,
    /// Something may be due that was not before.
    pub(super) wake: bool,
}

impl<T> Filling<T> {
    fn is_full(&self, target: usize) -> bool {
        self.builder.bytes() >= target || self.builder.count() >= BATCH_MESSAGES_MAX
    }

    fn has_room(&self, cost: usize, target: usize) -> bool {
        !self.is_full(target) && self.builder.bytes() + cost <= target
    }
}

impl<T> Accumulator<T> {
    /// For so many partitions; batches are closed at `target` bytes, unless one message is larger.
    pub(super) fn new(partitions: u32, target: usize, numbering: Numbering) -> Self {
        let lane = |_| Lane { batches: VecDeque::new(), numbering };
        Self { lanes: (0..partitions).map(lane).collect(), target }
    }

    fn lane(&self, partition: u32) -> &Lane<T> {
        &self.lanes[partition as usize]
    }

    fn lane_mut(&mut self, partition: u32) -> &mut Lane<T> {
        &mut self.lanes[partition as usize]
    }

    pub(super) fn numbering(&self, partition: u32) -> Numbering {
        self.lane(partition).numbering
    }

    pub(super) fn set_numbering(&mut self, partition: u32, numbering: Numbering) {
        self.lane_mut(partition).numbering = numbering;
    }

    /// Whether the partition has a batch that takes more.
    pub(super) fn is_open(&self, partition: u32) -> bool {
        self.lane(partition).batches.back().is_some_and(|b| !b.is_full(self.target))
    }

    /// What a given sequence means; only for numbered partitions.
    pub(super) fn sequenced(&self, partition: u32, given: u64) -> Sequenced {
        match self.lane(partition).numbering {
            Numbering::Next { next, .. } if given == next => Sequenced::Next,
            Numbering::Next { stored: Some(stored), .. } if given <= stored => Sequenced::Stored,
            Numbering::Next { next, .. } => Sequenced::Wrong { expected: next },
            Numbering::None | Numbering::Unclaimed => Sequenced::Wrong { expected: 0 },
        }
    }

    /// What has to be taken of the window before a message that costs `cost` bytes can be added; `None` if nothing.
    pub(super) fn lack(&self, partition: u32, cost: usize, held: usize) -> Option<Lack> {
        let open = self.lane(partition).batches.back().filter(|batch| batch.has_room(cost, self.target));
        let (filled, paid) = open.map_or((0, 0), |batch| (batch.builder.bytes(), batch.paid));
        let bytes = (filled + cost).saturating_sub(paid + held);
        (bytes > 0).then(|| Lack { bytes, ample: bytes.max(filled).min(self.target.saturating_sub(paid + held)).max(bytes) })
    }

    /// Adds a message that costs `cost` bytes, for which `paid` were taken of the window ([`Accumulator::lack`]). `begin` tells the time and the outcome of a new batch, where it begins one.
    pub(super) fn push(
        &mut self,
        partition: u32,
        message: &v1::Message,
        cost: usize,
        paid: usize,
        begin: impl FnOnce() -> (Mono, T),
    ) -> Pushed<'_, T> {
        let target = self.target;
        let lane = self.lane_mut(partition);
        let opens = !lane.batches.back().is_some_and(|b| b.has_room(cost, target));
        let first_sequence = match &mut lane.numbering {
            Numbering::Next { next, .. } => {
                *next += 1;
                *next - 1
            }
            Numbering::None | Numbering::Unclaimed => 0,
        };
        if opens {
            // A lone message needs no more than itself; one behind a full batch will have company.
            let builder = BatchBuilder::with_capacity(if lane.batches.is_empty() { cost } else { target.max(cost) });
            let (since, outcome) = begin();
            lane.batches.push_back(Filling { builder, first_sequence, since, outcome, paid: 0 });
        }
        let batch = lane.batches.back_mut().expect("one is open");
        let index = batch.builder.count();
        batch.paid += paid;
        batch.builder.push(message);
        let wake = opens || batch.is_full(target);
        Pushed { outcome: &mut batch.outcome, index, wake }
    }

    /// Takes the oldest batch out if it is due: a full one always; one that may still grow only once nothing of its
    /// partition is in flight (`idle`) and it has waited for `linger`.
    pub(super) fn take(&mut self, partition: u32, idle: bool, now: Mono, linger: Duration) -> Option<Filling<T>> {
        let target = self.target;
        let lane = self.lane_mut(partition);
        let first = lane.batches.front()?;
        let full = lane.batches.len() > 1 || first.is_full(target);
        let due = full || (idle && now >= first.since.after(linger));
        if due { lane.batches.pop_front() } else { None }
    }

    /// When the partition's first message came, of those queued.
    pub(super) fn since(&self, partition: u32) -> Option<Mono> {
        self.lane(partition).batches.front().map(|b| b.since)
    }

    /// The partitions that have something queued.
    pub(super) fn waiting(&self) -> impl Iterator<Item = u32> {
        self.lanes.iter().zip(0..).filter(|(lane, _)| !lane.batches.is_empty()).map(|(_, partition)| partition)
    }

    /// Gives up what is queued for a partition.
    pub(super) fn drain(&mut self, partition: u32) -> impl Iterator<Item = T> {
        self.lane_mut(partition).batches.drain(..).map(|b| b.outcome)
    }

    /// The outcomes of all that is queued.
    pub(super) fn outcomes(&self) -> impl Iterator<Item = &T> {
        self.lanes.iter().flat_map(|lane| lane.batches.iter().map(|b| &b.outcome))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGET: usize = 1000;
    const NO_LINGER: Duration = Duration::ZERO;

    fn message(bytes: usize) -> v1::Message {
        v1::Message { payload: vec![b'x'; bytes].into(), ..Default::default() }
    }

    fn push(accumulator: &mut Accumulator<u32>, bytes: usize, token: u32) -> (u32, u32, bool) {
        let message = message(bytes);
        let pushed = accumulator.push(0, &message, BatchBuilder::cost(&message), 0, || (Mono::default(), token));
        (*pushed.outcome, pushed.index, pushed.wake)
    }

    #[test]
    fn an_idle_partition_sends_at_once_and_a_busy_one_fills_up() {
        let mut accumulator = Accumulator::new(1, TARGET, Numbering::None);
        assert_eq!(push(&mut accumulator, 10, 1), (1, 0, true));
        assert_eq!(push(&mut accumulator, 10, 2), (1, 1, false), "it joins the open batch and wakes nobody");
        assert!(accumulator.take(0, false, Mono::default(), NO_LINGER).is_none(), "something is in flight");
        assert_eq!(accumulator.take(0, true, Mono::default(), NO_LINGER).expect("idle").builder.count(), 2);
    }

    #[test]
    fn a_full_batch_goes_although_something_is_in_flight() {
        let mut accumulator = Accumulator::new(1, TARGET, Numbering::None);
        for token in 0..3 {
            push(&mut accumulator, 400, token);
        }
        assert_eq!(accumulator.take(0, false, Mono::default(), NO_LINGER).expect("full").builder.count(), 2);
        assert!(accumulator.take(0, false, Mono::default(), NO_LINGER).is_none());
        // One larger than the target has a batch to itself.
        push(&mut accumulator, 5000, 9);
        assert_eq!(accumulator.take(0, false, Mono::default(), NO_LINGER).expect("closed by it").builder.count(), 1);
        assert_eq!(accumulator.take(0, false, Mono::default(), NO_LINGER).expect("full").outcome, 9);
    }

    #[test]
    fn the_window_is_asked_ever_less_often_as_a_batch_grows() {
        let mut accumulator = Accumulator::new(1, TARGET, Numbering::None);
        let (message, mut asked, mut taken) = (message(8), 0, 0);
        let cost = BatchBuilder::cost(&message);
        for _ in 0..TARGET / cost {
            let paid = accumulator.lack(0, cost, 0).map_or(0, |lack| lack.ample);
            assert!(accumulator.lack(0, cost, paid).is_none());
            asked += u32::from(paid > 0);
            taken += paid;
            let pushed = accumulator.push(0, &message, cost, paid, || (Mono::default(), 0));
            assert_eq!(pushed.index > 0, taken > cost);
        }
        assert!(asked < 10 && taken <= TARGET, "{asked} times {taken} bytes");
        // One that fits no more is paid for as the first of its batch.
        assert_eq!(accumulator.lack(0, 5000, 0), Some(Lack { bytes: 5000, ample: 5000 }));
        assert_eq!(accumulator.lack(0, 5000, 4000), Some(Lack { bytes: 1000, ample: 1000 }));
    }

    #[test]
    fn a_lingering_batch_waits_for_company() {
        let mut accumulator = Accumulator::new(1, TARGET, Numbering::None);
        push(&mut accumulator, 10, 1);
        let linger = Duration::from_millis(5);
        assert!(accumulator.take(0, true, Mono::from_duration(Duration::from_millis(4)), linger).is_none());
        assert!(accumulator.take(0, true, Mono::from_duration(Duration::from_millis(5)), linger).is_some());
    }

    #[test]
    fn sequences_run_densely_from_what_is_stored() {
        let numbering = Numbering::Next { next: 7, stored: Some(6) };
        let mut accumulator = Accumulator::new(1, TARGET, numbering);
        for (given, meaning) in
            [(6, Sequenced::Stored), (0, Sequenced::Stored), (7, Sequenced::Next), (8, Sequenced::Wrong { expected: 7 })]
        {
            assert_eq!(accumulator.sequenced(0, given), meaning, "{given}");
        }
        for token in 0..3 {
            push(&mut accumulator, 600, token);
        }
        let firsts: Vec<u64> = std::iter::from_fn(|| accumulator.take(0, true, Mono::default(), NO_LINGER))
            .map(|batch| batch.first_sequence)
            .collect();
        assert_eq!(firsts, [7, 8, 9]);
        assert_eq!(accumulator.sequenced(0, 7), Sequenced::Wrong { expected: 10 }, "this run has sent it");
    }
}
