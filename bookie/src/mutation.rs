//! The known bugs of bookies, to be planted by tests (`invariants.md` §3): what a simulator must find.
//!
//! Planting needs the cargo feature `mutations`. Without it [`Mutations`] is empty and every question is a constant `false`.

/// A known bug of a bookie. Those of the ledger protocol are planted in the ledger.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Mutation {
    /// B1: an add is answered before its group is on disk.
    AckBeforeSync,
    /// C7: a fence of a ledger that the bookie never saw leaves no mark.
    UnknownLedgerNotFenced,
    /// C8: fences are forgotten at a restart.
    FenceBitLostAtRestart,
    /// C5: an empty data directory takes the incarnation that its name had before.
    WipedBookieRejoins,
    /// C13: the LAC of a recovery's add counts. Planted together with the recovery that sends one.
    RecoveryLacCounts,
}

impl Mutation {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::AckBeforeSync,
        Self::UnknownLedgerNotFenced,
        Self::FenceBitLostAtRestart,
        Self::WipedBookieRejoins,
        Self::RecoveryLacCounts,
    ];
}

/// Which bug is planted, if any.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Mutations {
    #[cfg(feature = "mutations")]
    planted: Option<Mutation>,
}

impl Mutations {
    /// The bookie as it should be.
    #[cfg(not(feature = "mutations"))]
    pub const NONE: Self = Self {};
    /// The bookie as it should be.
    #[cfg(feature = "mutations")]
    pub const NONE: Self = Self { planted: None };

    /// Plants one bug.
    #[cfg(feature = "mutations")]
    pub const fn plant(mutation: Mutation) -> Self {
        Self { planted: Some(mutation) }
    }

    /// Whether `mutation` is planted.
    #[cfg(feature = "mutations")]
    pub(crate) fn has(self, mutation: Mutation) -> bool {
        self.planted == Some(mutation)
    }

    /// Whether `mutation` is planted: never, without the feature.
    #[cfg(not(feature = "mutations"))]
    #[expect(clippy::unused_self, reason = "the same call with and without the feature")]
    pub(crate) const fn has(self, _mutation: Mutation) -> bool {
        false
    }
}
