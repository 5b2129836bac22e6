//! Which steps a ledger's record may take (L3, L6, L8), decided without I/O.

use alluvium_types::ledger::{Fragment, LedgerMetadata, LedgerState};

/// Checks a step from `old` to `new`; the error says what no ledger does.
pub(crate) fn check(old: &LedgerMetadata, new: &LedgerMetadata) -> Result<(), &'static str> {
    if new.validate().is_err() {
        return Err("its record would be invalid");
    }
    if (old.ledger, old.epoch, old.class) != (new.ledger, new.epoch, new.class) {
        return Err("the id, the epoch and the class never change");
    }
    if new.recovery < old.recovery {
        return Err("the number of recoveries never falls");
    }
    if old.replication != new.replication && !matches!(old.state, LedgerState::Closed { .. }) {
        return Err("only a closed ledger gains copies");
    }
    match (old.state, new.state) {
        (LedgerState::Open, LedgerState::Open | LedgerState::Closed { .. }) => {
            if new.recovery != old.recovery {
                return Err("only a recovery raises its number");
            }
            ends_late(&old.fragments, &new.fragments)
        }
        (LedgerState::Open | LedgerState::Recovering { .. }, LedgerState::Recovering { by }) => {
            // Each recovery raises the number (C69); one that marks short members keeps its own.
            if by != new.recovery || (new.recovery == old.recovery && old.state != new.state) {
                return Err("a recovery raises its number");
            }
            if same_places(&old.fragments, &new.fragments) { Ok(()) } else { Err("a recovery keeps its ensemble to itself") }
        }
        (LedgerState::Recovering { .. }, LedgerState::Closed { .. }) => {
            if new.recovery != old.recovery {
                return Err("a closed ledger keeps the number of its recovery");
            }
            ends_late(&old.fragments, &new.fragments)
        }
        (LedgerState::Closed { last: before }, LedgerState::Closed { last: after }) => {
            if before != after {
                return Err("the last entry of a closed ledger never changes");
            }
            let firsts = |fragments: &[Fragment]| fragments.iter().map(|f| f.first).collect::<Vec<_>>();
            if firsts(&old.fragments) == firsts(&new.fragments) { Ok(()) } else { Err("its fragments stay where they begin") }
        }
        (LedgerState::Closed { .. } | LedgerState::Deleting, LedgerState::Deleting) => Ok(()),
        _ => Err("its state never goes back, and only a closed ledger is deleted"),
    }
}

/// Whether the same bookies stand at the same places; marks of short members may differ.
fn same_places(old: &[Fragment], new: &[Fragment]) -> bool {
    old.len() == new.len() && old.iter().zip(new).all(|(a, b)| a.first == b.first && a.ensemble == b.ensemble)
}

/// Whether only the last fragment changed, and more were added behind it (L6).
fn ends_late(old: &[Fragment], new: &[Fragment]) -> Result<(), &'static str> {
    let earlier = old.len() - 1;
    if new.len() < old.len() || !same_places(&old[..earlier], &new[..earlier]) || old[earlier].first != new[earlier].first {
        return Err("only its last fragment may be replaced");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use alluvium_runtime::entropy::Entropy;
    use alluvium_types::ids::{EntryId, Epoch, Incarnation, LedgerId, RecoveryNumber};
    use alluvium_types::ledger::{BookieId, LedgerClass};
    use alluvium_types::names::BookieName;
    use alluvium_types::replication::Replication;

    use super::*;

    const STATES: [LedgerState; 5] = [
        LedgerState::Open,
        LedgerState::Recovering { by: RecoveryNumber::new(1) },
        LedgerState::Recovering { by: RecoveryNumber::new(2) },
        LedgerState::Closed { last: Some(EntryId::new(4)) },
        LedgerState::Deleting,
    ];

    fn bookie(n: u64) -> BookieId {
        let name = BookieName::parse(&format!("b{n}")).unwrap();
        BookieId { name, incarnation: Incarnation::new(Entropy::seeded(n).uuid()) }
    }

    fn in_state(state: LedgerState) -> LedgerMetadata {
        let (wanted, ensemble) = (Replication::DEFAULT, (0..3).map(bookie).collect());
        let ledger = LedgerId::new(1);
        let open = LedgerMetadata::create(ledger, Epoch::new(1), LedgerClass::Bulk, wanted, wanted, ensemble).unwrap();
        let recovery = match state {
            LedgerState::Recovering { by } => by,
            _ => RecoveryNumber::ZERO,
        };
        LedgerMetadata { state, recovery, ..open }
    }

    /// L8, C69: the states go one way, and each recovery has a higher number.
    #[test]
    fn a_ledgers_state_never_goes_back() {
        let allowed = |from: usize, to: usize| {
            let mut new = in_state(STATES[to]);
            // A step that isn't a recovery's keeps the number.
            if !matches!(new.state, LedgerState::Recovering { .. }) {
                new.recovery = in_state(STATES[from]).recovery;
            }
            check(&in_state(STATES[from]), &new).is_ok()
        };
        let mut steps = Vec::new();
        for from in 0..STATES.len() {
            steps.extend((0..STATES.len()).filter(|&to| allowed(from, to)).map(|to| (from, to)));
        }
        let expected = [(0, 0), (0, 1), (0, 2), (0, 3), (1, 1), (1, 2), (1, 3), (2, 2), (2, 3), (3, 3), (3, 4), (4, 4)];
        assert_eq!(steps, expected);
    }

    /// L3: the end of a closed ledger is for ever.
    #[test]
    fn the_last_entry_of_a_closed_ledger_never_changes() {
        let closed = in_state(STATES[3]);
        for last in [None, Some(EntryId::new(3)), Some(EntryId::new(5))] {
            let moved = LedgerMetadata { state: LedgerState::Closed { last }, ..closed.clone() };
            assert!(check(&closed, &moved).is_err(), "{last:?}");
        }
    }

    /// L6, C10: a writer changes its last fragment only, and a recovery in progress none.
    #[test]
    fn only_the_last_fragment_is_replaced_and_not_by_a_recovery_in_progress() {
        let mut open = in_state(LedgerState::Open);
        let later = |first, third| Fragment {
            first: EntryId::new(first),
            ensemble: vec![bookie(0), bookie(1), bookie(third)],
            short: Vec::new(),
        };
        open.fragments.push(later(5, 7));
        let with = |fragments: &[Fragment]| LedgerMetadata { fragments: fragments.to_vec(), ..open.clone() };
        let first = open.fragments[0].clone();
        for (fragments, allowed) in [
            (vec![first.clone(), later(5, 8)], true),
            (vec![first.clone(), later(5, 7), later(9, 8)], true),
            (vec![first.clone()], false),
            (vec![first.clone(), later(6, 7)], false),
            (vec![later(0, 8), later(5, 7)], false),
        ] {
            assert_eq!(check(&open, &with(&fragments)).is_ok(), allowed, "{fragments:?}");
            let number = RecoveryNumber::new(1);
            let recovering =
                LedgerMetadata { state: LedgerState::Recovering { by: number }, recovery: number, ..with(&fragments) };
            assert!(check(&open, &recovering).is_err(), "{fragments:?}");
        }
        // Repair replaces one for one in a closed ledger, and never moves a fragment.
        let closed = LedgerMetadata { state: STATES[3], ..open.clone() };
        let repaired = LedgerMetadata { fragments: vec![later(0, 9), later(5, 9)], ..closed.clone() };
        assert_eq!(check(&closed, &repaired), Ok(()));
        let moved = LedgerMetadata { fragments: vec![first, later(4, 7)], ..closed.clone() };
        assert!(check(&closed, &moved).is_err());
    }
}
