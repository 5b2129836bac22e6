//! The known bugs of this protocol that can be planted, wherever they live.

use alluvium_bookie::mutation as bookie;
use alluvium_ledger::mutation as ledger;

/// One planted bug.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bug {
    /// In the ledger's machines.
    Ledger(ledger::Mutation),
    /// In the bookie's store.
    Bookie(bookie::Mutation),
}

impl Bug {
    /// All of them, each with what it needs to be one.
    pub fn all() -> impl Iterator<Item = Self> {
        let in_bookies = bookie::Mutation::ALL.into_iter().filter(|m| *m != bookie::Mutation::RecoveryLacCounts);
        ledger::Mutation::ALL.into_iter().map(Self::Ledger).chain(in_bookies.map(Self::Bookie))
    }

    /// What it is called on the command line.
    pub fn name(self) -> String {
        match self {
            Self::Ledger(mutation) => format!("{mutation:?}"),
            Self::Bookie(mutation) => format!("{mutation:?}"),
        }
    }

    /// The bug of this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::all().find(|bug| bug.name().eq_ignore_ascii_case(name))
    }

    /// What the ledger's machines are given.
    pub(crate) const fn in_ledger(bug: Option<Self>) -> ledger::Mutations {
        match bug {
            Some(Self::Ledger(mutation)) => ledger::Mutations::plant(mutation),
            _ => ledger::Mutations::NONE,
        }
    }

    /// What the bookies are given.
    pub(crate) const fn in_bookie(bug: Option<Self>) -> bookie::Mutations {
        match bug {
            Some(Self::Bookie(mutation)) => bookie::Mutations::plant(mutation),
            // Either side alone keeps C13; the bug is only one when both lack it.
            Some(Self::Ledger(ledger::Mutation::RecoveryAddsCarryLac)) => {
                bookie::Mutations::plant(bookie::Mutation::RecoveryLacCounts)
            }
            _ => bookie::Mutations::NONE,
        }
    }
}
