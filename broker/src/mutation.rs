//! The known bugs of brokers, to be planted by tests (`invariants.md` §3): what a simulator must find.
//!
//! Planting needs the cargo feature `mutations`. Without it [`Mutations`] is empty and every question is a constant `false`.

/// A known bug of a broker.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Mutation {
    /// C62: a takeover reads the state ledger as it stands, without fencing and recovering it.
    StateLedgerNotFenced,
    /// C62: a takeover seals a segment by what its ledger shows before it is fenced and recovered.
    ListChangedBeforeRecovery,
    /// M4: a successor dispatches what promises order while the former owner's session lives.
    OrderedDispatchBeforeFormerIsGone,
    /// D6: a batch is taken though an earlier sequence is missing.
    SequenceGapAccepted,
    /// C42: a takeover takes a snapshot that its writer did not end for a whole one.
    TornSnapshotCounts,
}

impl Mutation {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::StateLedgerNotFenced,
        Self::ListChangedBeforeRecovery,
        Self::OrderedDispatchBeforeFormerIsGone,
        Self::SequenceGapAccepted,
        Self::TornSnapshotCounts,
    ];
}

/// Which bug is planted, if any.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Mutations {
    #[cfg(feature = "mutations")]
    planted: Option<Mutation>,
}

impl Mutations {
    /// The broker as it should be.
    #[cfg(not(feature = "mutations"))]
    pub const NONE: Self = Self {};
    /// The broker as it should be.
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
