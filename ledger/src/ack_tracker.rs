//! Which entries are where, and up to which one they are confirmed.
//!
//! Confirmed means: on the disks of an ack quorum of its write set, as is every earlier entry (L2, C17). The tracker knows
//! nothing of bookies, only of places in the ensemble.

use std::collections::VecDeque;

use alluvium_types::ids::EntryId;
use alluvium_types::replication::Replication;

/// The unconfirmed entries of one ledger and who has them.
#[derive(Debug)]
pub(crate) struct AckTracker {
    replication: Replication,
    lac: Option<EntryId>,
    led: Option<EntryId>,
    /// For each unconfirmed entry, from the one after the LAC on: the places that have it on disk, as a set of bits.
    pending: VecDeque<u64>,
}

/// The entry after `last`, or the first one.
pub(crate) fn after(last: Option<EntryId>) -> EntryId {
    last.map_or(EntryId::ZERO, EntryId::next)
}

impl AckTracker {
    /// A ledger whose first entry is still to come.
    pub(crate) const fn new(replication: Replication) -> Self {
        Self { replication, lac: None, led: None, pending: VecDeque::new() }
    }

    /// The last entry that is confirmed.
    pub(crate) const fn lac(&self) -> Option<EntryId> {
        self.lac
    }

    /// The first entry that isn't confirmed, whether it was appended or not.
    pub(crate) fn first_unconfirmed(&self) -> EntryId {
        after(self.lac)
    }

    /// The entry that the next [`AckTracker::push`] gives.
    pub(crate) fn next(&self) -> EntryId {
        EntryId::new(self.first_unconfirmed().get() + self.pending.len() as u64)
    }

    /// The unconfirmed entries.
    pub(crate) fn unconfirmed(&self) -> impl Iterator<Item = EntryId> + use<> {
        (self.first_unconfirmed().get()..self.next().get()).map(EntryId::new)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.pending.len()
    }

    /// Adds an entry that nobody has yet.
    pub(crate) fn push(&mut self) -> EntryId {
        let entry = self.next();
        self.pending.push_back(0);
        entry
    }

    /// `place` has `entry` on disk. Nothing if it is confirmed already.
    pub(crate) fn acked(&mut self, entry: EntryId, place: usize) {
        if let Some(places) = self.places_mut(entry) {
            *places |= 1 << place;
        }
    }

    /// Whoever stands at `place` now has none of the unconfirmed entries.
    pub(crate) fn forget_place(&mut self, place: usize) {
        for places in &mut self.pending {
            *places &= !(1 << place);
        }
    }

    /// Confirms as far as the ack quorums reach without a gap; returns the new LAC if it moved.
    pub(crate) fn confirm(&mut self) -> Option<EntryId> {
        let before = self.lac;
        while self.pending.front().is_some_and(|places| self.is_quorum(*places)) {
            self.pending.pop_front();
            self.lac = Some(after(self.lac));
        }
        (self.lac != before).then_some(self.lac).flatten()
    }

    /// The planted bug of C17: confirms up to the last entry that has its quorum, whatever lies before it.
    pub(crate) fn confirm_with_gaps(&mut self) -> Option<EntryId> {
        let reach = self.pending.iter().rposition(|places| self.is_quorum(*places))? + 1;
        self.pending.drain(..reach);
        self.lac = Some(EntryId::new(self.first_unconfirmed().get() + reach as u64 - 1));
        self.lac
    }

    /// How far every entry is on at least one disk; returned once for each advance, and never less than before, since what was
    /// said was said.
    pub(crate) fn lead(&mut self) -> Option<EntryId> {
        let run = self.pending.iter().take_while(|places| **places != 0).count() as u64;
        let reach = self.first_unconfirmed().get().checked_add(run)?.checked_sub(1).map(EntryId::new)?;
        (self.led < Some(reach)).then(|| {
            self.led = Some(reach);
            reach
        })
    }

    fn is_quorum(&self, places: u64) -> bool {
        places.count_ones() as usize >= self.replication.ack()
    }

    fn places_mut(&mut self, entry: EntryId) -> Option<&mut u64> {
        let index = entry.get().checked_sub(self.first_unconfirmed().get())?;
        self.pending.get_mut(usize::try_from(index).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tracker(entries: usize) -> AckTracker {
        let mut tracker = AckTracker::new(Replication::DEFAULT);
        for _ in 0..entries {
            tracker.push();
        }
        tracker
    }

    #[test]
    fn c17_an_entry_waits_for_every_earlier_one() {
        let mut tracker = tracker(3);
        for place in 0..3 {
            tracker.acked(EntryId::new(1), place);
            tracker.acked(EntryId::new(2), place);
        }
        assert_eq!(tracker.confirm(), None);
        tracker.acked(EntryId::ZERO, 0);
        assert_eq!(tracker.confirm(), None, "one of two needed");
        tracker.acked(EntryId::ZERO, 2);
        assert_eq!(tracker.confirm(), Some(EntryId::new(2)));
        assert_eq!(tracker.confirm(), None);
    }

    #[test]
    fn the_same_place_counts_once() {
        let mut tracker = tracker(1);
        tracker.acked(EntryId::ZERO, 1);
        tracker.acked(EntryId::ZERO, 1);
        assert_eq!(tracker.confirm(), None);
    }

    #[test]
    fn leading_needs_every_earlier_entry_on_one_disk() {
        let mut tracker = tracker(3);
        tracker.acked(EntryId::new(1), 0);
        assert_eq!(tracker.lead(), None);
        tracker.acked(EntryId::ZERO, 2);
        assert_eq!(tracker.lead(), Some(EntryId::new(1)));
        assert_eq!(tracker.lead(), None);
        tracker.forget_place(0);
        tracker.acked(EntryId::new(2), 1);
        assert_eq!(tracker.lead(), None, "entry 1 is on no disk that counts any more");
        tracker.acked(EntryId::new(1), 1);
        assert_eq!(tracker.lead(), Some(EntryId::new(2)));
    }

    proptest! {
        #[test]
        fn what_is_confirmed_is_the_longest_prefix_on_quorums(
            acks in proptest::collection::vec((0_u64..12, 0_usize..3), 0..60),
        ) {
            let mut tracker = tracker(12);
            let mut has = vec![std::collections::BTreeSet::new(); 12];
            for (entry, place) in acks {
                tracker.acked(EntryId::new(entry), place);
                has[usize::try_from(entry).unwrap()].insert(place);
                tracker.confirm();
                let prefix = has.iter().take_while(|places| places.len() >= 2).count();
                prop_assert_eq!(tracker.first_unconfirmed(), EntryId::new(prefix as u64));
            }
        }
    }
}
