//! The known bugs of this protocol that can be planted, wherever they live.

use alluvium_bookie::mutation as bookie;
use alluvium_broker::mutation as broker;
use alluvium_ledger::mutation as ledger;
use alluvium_metadata::mutation as metadata;

/// One planted bug.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bug {
    /// In the ledger's machines.
    Ledger(ledger::Mutation),
    /// In the bookie's store.
    Bookie(bookie::Mutation),
    /// In the broker.
    Broker(broker::Mutation),
    /// In metadata's repositories.
    Metadata(metadata::Mutation),
}

impl Bug {
    /// Those of ledgers and bookies, each with what it needs to be one.
    pub fn of_ledgers() -> impl Iterator<Item = Self> {
        let in_bookies = bookie::Mutation::ALL.into_iter().filter(|m| *m != bookie::Mutation::RecoveryLacCounts);
        ledger::Mutation::ALL.into_iter().map(Self::Ledger).chain(in_bookies.map(Self::Bookie))
    }

    /// Those of brokers and what they decide.
    pub fn of_brokers() -> impl Iterator<Item = Self> {
        broker::Mutation::ALL.into_iter().map(Self::Broker).chain(metadata::Mutation::ALL.into_iter().map(Self::Metadata))
    }

    /// What it is called on the command line.
    pub fn name(self) -> String {
        match self {
            Self::Ledger(mutation) => format!("{mutation:?}"),
            Self::Bookie(mutation) => format!("{mutation:?}"),
            Self::Broker(mutation) => format!("{mutation:?}"),
            Self::Metadata(mutation) => format!("{mutation:?}"),
        }
    }

    /// The bug of this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::of_ledgers().chain(Self::of_brokers()).find(|bug| bug.name().eq_ignore_ascii_case(name))
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

    /// What brokers are given.
    pub(crate) const fn in_broker(bug: Option<Self>) -> broker::Mutations {
        match bug {
            Some(Self::Broker(mutation)) => broker::Mutations::plant(mutation),
            _ => broker::Mutations::NONE,
        }
    }

    /// What the repositories of brokers are given.
    pub(crate) const fn in_metadata(bug: Option<Self>) -> metadata::Mutations {
        match bug {
            Some(Self::Metadata(mutation)) => metadata::Mutations::plant(mutation),
            _ => metadata::Mutations::NONE,
        }
    }
}
