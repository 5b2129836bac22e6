//! Finding an entry by offset or time: a binary search over what is stored, reading one header a step. Pure.

use alluvium_types::bookie::{Find, FindKey};
use alluvium_types::entry::EntryRange;
use alluvium_types::ids::EntryId;

/// A search among the entries that are here, in which offsets and times rise with the ids.
///
/// By offset it finds the last entry that begins at the offset or before: the one that holds it, if it is here. By time it
/// finds the first entry of that time or later.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Search {
    key: FindKey,
    /// Entries below this one are too early, for a time, or begin at the offset or before.
    low: u64,
    /// Entries from this one on are late enough, or begin behind the offset.
    high: u64,
    best: Option<EntryId>,
}

impl Search {
    pub(crate) const fn new(find: &Find) -> Self {
        Self { key: find.key, low: 0, high: find.up_to.get().saturating_add(1), best: None }
    }

    /// Where to look next: at the first entry here at or after this one. `None` at the end.
    pub(crate) const fn probe(&self) -> Option<EntryId> {
        if self.low < self.high { Some(EntryId::new(self.low + (self.high - self.low) / 2)) } else { None }
    }

    /// What was there: the entry and its range. `None` when nothing is, at or after the place.
    pub(crate) fn tell(&mut self, probe: EntryId, found: Option<(EntryId, EntryRange)>) {
        let Some((entry, range)) = found.filter(|(entry, _)| entry.get() < self.high) else {
            self.high = probe.get();
            return;
        };
        match self.key {
            FindKey::Offset(offset) if range.first_offset <= offset => {
                self.best = Some(entry);
                self.low = entry.get() + 1;
            }
            FindKey::Offset(_) => self.high = probe.get(),
            FindKey::Time(time) if range.server_time >= time => {
                self.best = Some(entry);
                self.high = probe.get();
            }
            FindKey::Time(_) => self.low = entry.get() + 1,
        }
    }

    pub(crate) const fn best(&self) -> Option<EntryId> {
        self.best
    }
}

#[cfg(test)]
mod tests {
    use alluvium_types::ids::{LedgerId, Offset};
    use alluvium_types::time::Timestamp;
    use proptest::prelude::*;

    use super::*;

    /// Entry `e` holds the offsets from `10 e` to `10 e + 9` and has the time `e / 2`.
    fn range(entry: u64) -> EntryRange {
        EntryRange { first_offset: Offset::new(entry * 10), count: 10, server_time: Timestamp::from_millis(entry / 2) }
    }

    fn search(here: &[u64], key: FindKey, up_to: u64) -> Option<u64> {
        let mut search = Search::new(&Find { ledger: LedgerId::new(1), key, up_to: EntryId::new(up_to) });
        let mut steps = 0;
        while let Some(probe) = search.probe() {
            let found = here.iter().find(|entry| **entry >= probe.get()).map(|entry| (EntryId::new(*entry), range(*entry)));
            search.tell(probe, found);
            steps += 1;
            assert!(steps <= 65, "the search ends");
        }
        search.best().map(EntryId::get)
    }

    #[test]
    fn an_offset_is_found_in_the_entry_that_holds_it() {
        let here: Vec<u64> = (0..100).collect();
        assert_eq!(search(&here, FindKey::Offset(Offset::new(0)), 99), Some(0));
        assert_eq!(search(&here, FindKey::Offset(Offset::new(559)), 99), Some(55));
        assert_eq!(search(&here, FindKey::Offset(Offset::new(5000)), 99), Some(99));
        assert_eq!(search(&here, FindKey::Offset(Offset::new(559)), 20), Some(20), "no further than the LAC");
        assert_eq!(search(&here, FindKey::Offset(Offset::new(559)), u64::MAX), Some(55));
    }

    proptest! {
        #[test]
        fn it_finds_what_a_walk_finds(here in proptest::collection::btree_set(0_u64..200, 0..60), at in 0_u64..2100, up_to in 0_u64..220) {
            let here: Vec<u64> = here.into_iter().collect();
            let within = || here.iter().copied().filter(|entry| *entry <= up_to);
            let by_offset = within().rfind(|entry| entry * 10 <= at);
            prop_assert_eq!(search(&here, FindKey::Offset(Offset::new(at)), up_to), by_offset);
            let by_time = within().find(|entry| entry / 2 >= at / 20);
            prop_assert_eq!(search(&here, FindKey::Time(Timestamp::from_millis(at / 20)), up_to), by_time);
        }
    }
}
