//! Whose turn it is: where the rounds of retention are, and which partitions they leave alone for a while. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use alluvium_metadata::segments::{Segment, SegmentNumber};
use alluvium_metadata::{PartitionId, Versioned};
use alluvium_types::time::Mono;

/// After a claim that let nothing go, a partition is left alone for so many times as long as it takes to be let go.
const FIRST_WAIT: u32 = 4;
/// The longest that one is left alone.
const WAIT_MAX: Duration = Duration::from_secs(24 * 3600);
/// How many partitions are remembered.
const TRIED_MAX: usize = 10_000;

/// What a claim found.
#[derive(Debug)]
struct Tried {
    /// The segments that were listed then.
    listed: usize,
    last: SegmentNumber,
    wait: Duration,
    until: Mono,
}

/// The rounds. See the module.
#[derive(Debug)]
pub(super) struct Turns {
    after: Option<PartitionId>,
    tried: BTreeMap<PartitionId, Tried>,
    first_wait: Duration,
}

impl Turns {
    /// A partition that was opened and needs nothing is let go after `release_after`.
    pub(super) const fn new(release_after: Duration) -> Self {
        Self { after: None, tried: BTreeMap::new(), first_wait: release_after.saturating_mul(FIRST_WAIT) }
    }

    /// Behind which segment the next round begins.
    pub(super) fn after(&self) -> Option<(PartitionId, SegmentNumber)> {
        self.after.map(|partition| (partition, SegmentNumber::new(u64::MAX)))
    }

    pub(super) const fn has_had(&mut self, partition: PartitionId) {
        self.after = Some(partition);
    }

    pub(super) const fn begin_again(&mut self) {
        self.after = None;
    }

    /// Whether it is worth opening, as far as is known: not if the last time nothing went and that was a short while ago, which a
    /// subscription that lags behind makes so for as long as it does.
    pub(super) fn may_claim(&mut self, now: Mono, partition: PartitionId, segments: &[Versioned<Segment>]) -> bool {
        let Some(tried) = self.tried.get(&partition) else { return true };
        let left = segments.iter().filter(|segment| segment.value.number <= tried.last).count();
        if left < tried.listed {
            self.tried.remove(&partition);
            return true;
        }
        now >= tried.until
    }

    /// It is opened; what comes of it shows when it is listed again.
    pub(super) fn claimed(&mut self, now: Mono, partition: PartitionId, segments: &[Versioned<Segment>]) {
        let Some(last) = segments.last().map(|segment| segment.value.number) else { return };
        let wait = match self.tried.get(&partition) {
            Some(tried) => tried.wait.saturating_mul(2).min(WAIT_MAX),
            None => self.first_wait.min(WAIT_MAX),
        };
        self.tried.insert(partition, Tried { listed: segments.len(), last, wait, until: now.after(wait) });
        if self.tried.len() > TRIED_MAX {
            self.tried.retain(|_, tried| now < tried.until);
        }
        while self.tried.len() > TRIED_MAX {
            self.tried.pop_first();
        }
    }
}

#[cfg(test)]
mod tests {
    use alluvium_types::ids::{LedgerId, Offset, PartitionIndex, Revision, TopicId};
    use alluvium_types::time::Timestamp;

    use super::*;

    fn partition(index: u32) -> PartitionId {
        PartitionId { topic: TopicId::new(uuid::Uuid::from_u128(1)), index: PartitionIndex::new(index) }
    }

    fn segments(numbers: std::ops::Range<u64>) -> Vec<Versioned<Segment>> {
        let segment = |number| Segment {
            number: SegmentNumber::new(number),
            ledger: LedgerId::new(number),
            created: Timestamp::from_millis(0),
            first: Some(Offset::ZERO),
            sealed: None,
        };
        let versioned = |value| Versioned { value, mod_revision: Revision::ZERO, create_revision: Revision::ZERO };
        numbers.map(segment).map(versioned).collect()
    }

    fn second(second: u64) -> Mono {
        Mono::from_duration(Duration::from_secs(second))
    }

    #[test]
    fn a_partition_that_let_nothing_go_is_left_alone_longer_each_time() {
        let mut turns = Turns::new(Duration::from_secs(10));
        let listed = segments(1..5);
        assert!(turns.may_claim(second(0), partition(1), &listed));
        turns.claimed(second(0), partition(1), &listed);
        assert!(!turns.may_claim(second(39), partition(1), &listed), "nothing went");
        // What was added meanwhile is no sign that anything went.
        assert!(!turns.may_claim(second(39), partition(1), &segments(1..7)));
        assert!(turns.may_claim(second(39), partition(2), &listed), "others have their turn");
        assert!(turns.may_claim(second(40), partition(1), &listed));
        turns.claimed(second(40), partition(1), &listed);
        assert!(!turns.may_claim(second(119), partition(1), &listed));
        assert!(turns.may_claim(second(120), partition(1), &listed));
        turns.claimed(second(120), partition(1), &listed);
        // Something went: it is worth another look, and the patience begins anew.
        assert!(turns.may_claim(second(121), partition(1), &segments(2..5)));
        turns.claimed(second(121), partition(1), &segments(2..5));
        assert!(turns.may_claim(second(161), partition(1), &segments(2..5)));
    }

    /// Rounds that began at the first partition each time never came to the later ones.
    #[test]
    fn a_round_goes_on_behind_the_partition_that_had_the_last_turn() {
        let mut turns = Turns::new(Duration::from_secs(10));
        assert_eq!(turns.after(), None);
        turns.has_had(partition(63));
        let behind = turns.after().expect("not at the end");
        assert!(behind > (partition(63), SegmentNumber::new(1 << 40)) && behind < (partition(64), SegmentNumber::FIRST));
        turns.begin_again();
        assert_eq!(turns.after(), None);
    }

    #[test]
    fn no_more_partitions_are_remembered_than_there_is_room_for() {
        let mut turns = Turns::new(Duration::from_secs(10));
        for index in 0..12_000 {
            turns.claimed(second(0), partition(index), &segments(1..2));
        }
        assert_eq!(turns.tried.len(), TRIED_MAX);
    }
}
