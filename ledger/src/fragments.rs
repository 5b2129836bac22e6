//! How the record of a ledger changes: a new fragment, marks of what is missing where, an end (L6, C65).

use alluvium_types::ids::EntryId;
use alluvium_types::ledger::{BookieId, Fragment, LedgerMetadata, LedgerState};

/// The record with `ensemble` in charge from `first` on. Of the fragment that this ends, `short` members are not known to hold all
/// that is confirmed. A fragment that begins at `first` holds nothing confirmed yet and is replaced as a whole; no other one ever
/// is (L6).
pub(crate) fn changed(metadata: &LedgerMetadata, first: EntryId, ensemble: Vec<BookieId>, short: Vec<usize>) -> LedgerMetadata {
    let mut new = metadata.clone();
    let last = new.fragments.last_mut().expect("a ledger has a fragment");
    assert!(last.first <= first, "a fragment begins where nothing is confirmed");
    if last.first == first {
        *last = Fragment { first, ensemble, short: Vec::new() };
    } else {
        last.short = short;
        new.fragments.push(Fragment { first, ensemble, short: Vec::new() });
    }
    new
}

/// The record with those members of the last fragment marked that are not known to hold all of it, and no others.
pub(crate) fn marked(metadata: &LedgerMetadata, short: Vec<usize>) -> LedgerMetadata {
    let mut new = metadata.clone();
    new.fragments.last_mut().expect("a ledger has a fragment").short = short;
    new
}

/// The record, closed at `last`.
pub(crate) fn closed(metadata: &LedgerMetadata, last: Option<EntryId>) -> LedgerMetadata {
    LedgerMetadata { state: LedgerState::Closed { last }, ..metadata.clone() }
}

/// A run of entries that will never change, with the fragment that holds it: what may be copied, verified or listed (C22, C23).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ImmutableRange<'a> {
    /// The fragment.
    pub fragment: &'a Fragment,
    /// Its first entry.
    pub first: EntryId,
    /// Its last entry.
    pub last: EntryId,
}

/// The ranges of a ledger that will never change: all fragments but the last, and that one only once the ledger is closed, up to
/// its last entry and no further.
pub fn immutable_ranges(metadata: &LedgerMetadata) -> Vec<ImmutableRange<'_>> {
    let ends = metadata.fragments.iter().skip(1).map(|next| next.first.previous()).chain([metadata.closed_at().flatten()]);
    let closed_at = metadata.closed_at();
    metadata
        .fragments
        .iter()
        .zip(ends)
        .filter_map(|(fragment, end)| {
            let last = match closed_at {
                Some(closed) => end.min(closed)?,
                None => end?,
            };
            (fragment.first <= last).then_some(ImmutableRange { fragment, first: fragment.first, last })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{bookie, ledger};

    fn firsts(metadata: &LedgerMetadata) -> Vec<u64> {
        metadata.fragments.iter().map(|f| f.first.get()).collect()
    }

    #[test]
    fn l6_only_the_last_fragment_is_replaced_and_only_where_nothing_is_confirmed() {
        let metadata = ledger(3);
        let at_0 = changed(&metadata, EntryId::ZERO, vec![bookie(3), bookie(1), bookie(2)], vec![1]);
        assert_eq!(firsts(&at_0), [0]);
        assert!(at_0.fragments[0].short.is_empty(), "it is another fragment");
        let at_5 = changed(&at_0, EntryId::new(5), vec![bookie(4), bookie(1), bookie(2)], vec![2]);
        assert_eq!(firsts(&at_5), [0, 5]);
        assert_eq!(at_5.fragments[0].short, [2]);
        let again = changed(&at_5, EntryId::new(5), vec![bookie(4), bookie(0), bookie(2)], vec![0]);
        assert_eq!(firsts(&again), [0, 5]);
        assert_eq!(again.fragments[0], at_5.fragments[0]);
    }

    #[test]
    fn c23_a_range_ends_where_the_closed_ledger_ends_and_an_open_fragment_is_no_range() {
        let open = changed(&ledger(3), EntryId::new(10), vec![bookie(3), bookie(1), bookie(2)], vec![]);
        let ranges = |m: &LedgerMetadata| -> Vec<(u64, u64)> {
            immutable_ranges(m).iter().map(|r| (r.first.get(), r.last.get())).collect()
        };
        assert_eq!(ranges(&open), [(0, 9)]);
        assert_eq!(ranges(&closed(&open, Some(EntryId::new(13)))), [(0, 9), (10, 13)]);
        assert_eq!(ranges(&closed(&open, Some(EntryId::new(9)))), [(0, 9)]);
        assert_eq!(ranges(&closed(&ledger(3), None)), []);
    }
}
