//! What a pass over all ledgers' records has found: how many there are, and how many of them are short of copies or of bookies.

use std::collections::BTreeMap;

use alluvium_metadata::auditor::Audit;
use alluvium_metadata::bookies::{LiveBookie, lives};
use alluvium_types::ledger::{LedgerMetadata, LedgerState};
use alluvium_types::names::BookieName;
use alluvium_types::time::Timestamp;

/// Counts during one pass, which takes as many rounds as it needs.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Census {
    ledgers: u64,
    under_replicated: u64,
    on_absent_bookies: u64,
}

impl Census {
    /// A record, met once in a pass. Deleted ledgers need no copies.
    pub(super) fn count(&mut self, ledger: &LedgerMetadata, live: &BTreeMap<BookieName, LiveBookie>) {
        if ledger.state == LedgerState::Deleting {
            return;
        }
        self.ledgers += 1;
        self.under_replicated += u64::from(ledger.is_under_replicated());
        let mut members = ledger.fragments.iter().flat_map(|fragment| &fragment.ensemble);
        let absent = members.any(|bookie| !lives(live, bookie));
        self.on_absent_bookies += u64::from(absent);
    }

    /// The pass is over; the next one begins at nothing.
    pub(super) fn finish(&mut self, finished: Timestamp) -> Audit {
        let Self { ledgers, under_replicated, on_absent_bookies } = std::mem::take(self);
        Audit { finished, ledgers, under_replicated, on_absent_bookies }
    }
}

#[cfg(test)]
mod tests {
    use alluvium_metadata::bookies::BookieInfo;
    use alluvium_types::ids::{EntryId, Epoch, Incarnation, LedgerId, SessionId};
    use alluvium_types::ledger::{BookieId, LedgerClass};
    use alluvium_types::replication::Replication;
    use uuid::Uuid;

    use super::*;

    fn bookie(number: u128) -> BookieId {
        let name = BookieName::parse(&format!("b{number}")).expect("valid");
        BookieId { name, incarnation: Incarnation::new(Uuid::from_u128(number)) }
    }

    fn live(numbers: &[u128]) -> BTreeMap<BookieName, LiveBookie> {
        let info = BookieInfo { zone: None, address: String::new(), writable: true, total_bytes: 1, available_bytes: 1 };
        let session = SessionId::new(Uuid::from_u128(9));
        let one = |number: &u128| {
            let BookieId { name, incarnation } = bookie(*number);
            (name, LiveBookie { incarnation, session, info: info.clone() })
        };
        numbers.iter().map(one).collect()
    }

    #[test]
    fn ledgers_are_counted_by_what_they_lack_and_deleted_ones_lack_nothing() {
        let of = |ensemble: &[u128], wanted: Replication, state| {
            let replication = Replication::new(ensemble.len(), ensemble.len(), 2).expect("valid");
            let ensemble = ensemble.iter().map(|number| bookie(*number)).collect();
            let (id, epoch) = (LedgerId::new(1), Epoch::new(1));
            let created = LedgerMetadata::create(id, epoch, LedgerClass::Bulk, replication, wanted, ensemble).expect("valid");
            LedgerMetadata { state, ..created }
        };
        let (two, three) = (Replication::new(2, 2, 2).expect("valid"), Replication::DEFAULT);
        let closed = LedgerState::Closed { last: Some(EntryId::new(1)) };
        let mut census = Census::default();
        for ledger in [
            of(&[1, 2], two, closed),
            of(&[1, 2], three, LedgerState::Open),
            of(&[1, 3], two, closed),
            of(&[1, 3], three, LedgerState::Deleting),
        ] {
            census.count(&ledger, &live(&[1, 2]));
        }
        let finished = Timestamp::from_millis(5);
        assert_eq!(census.finish(finished), Audit { finished, ledgers: 3, under_replicated: 1, on_absent_bookies: 1 });
        assert_eq!(census.finish(finished).ledgers, 0, "a pass begins at nothing");
        // Another directory under the same name holds nothing of it (B11).
        let mut other = live(&[1, 2]);
        other.values_mut().for_each(|bookie| bookie.incarnation = Incarnation::new(Uuid::from_u128(77)));
        census.count(&of(&[1, 2], two, closed), &other);
        assert_eq!(census.finish(finished).on_absent_bookies, 1);
    }
}
