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
