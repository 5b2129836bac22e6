//! The known bugs of this protocol, to be planted by tests (`invariants.md` §3): what a simulator must find.
//!
//! Planting needs the cargo feature `mutations`. Without it [`Mutations`] is empty and every question is a constant `false`.

/// A known bug of the ledger protocol. The bookies' own bugs are planted in the bookie.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Mutation {
    /// C2: recovery ends at the first `Absent`.
    OneNoSuchEntryEndsRecovery,
    /// C18: metadata is put without a comparison.
    CasWithoutCompare,
    /// C15: entries are confirmed while an ensemble change is in flight.
    LacMovesDuringEnsembleChange,
    /// C17: an entry is confirmed though an earlier one is not.
    OutOfOrderAcks,
    /// C16: the new ensemble is written to, and counts, before metadata names it.
    NewEnsembleBeforeCas,
    /// C3: a failed or unanswered recovery read counts as `Absent`.
    TimeoutReadAsNoSuchEntry,
    /// C9: recovery starts at the bookies' LAC though the last fragment begins later.
    LacNotClamped,
    /// C10: recovery writes its changed ensemble to metadata at once.
    EnsembleChangeCommittedInRecovery,
    /// C13: recovery adds carry a LAC that advances with them.
    RecoveryAddsCarryLac,
    /// C11: recovery reads from its own changed ensemble.
    RecoveryReadsChangedEnsemble,
    /// C14: a recovery that lost a compare-and-set begins again at once.
    RecoverersDoNotBackOff,
    /// C12: a compare-and-set without an outcome is taken as lost when a read shows the old value.
    TimedOutCasResolvedByRead,
    /// C1: recovery reads do not fence.
    RecoveryReadsDoNotFence,
    /// One answer ends the fence phase.
    FencePhaseWithOneReply,
    /// C19: `Fenced` is taken as a fault of the bookie.
    FencedIsBookieFault,
}

impl Mutation {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::OneNoSuchEntryEndsRecovery,
        Self::CasWithoutCompare,
        Self::LacMovesDuringEnsembleChange,
        Self::OutOfOrderAcks,
        Self::NewEnsembleBeforeCas,
        Self::TimeoutReadAsNoSuchEntry,
        Self::LacNotClamped,
        Self::EnsembleChangeCommittedInRecovery,
        Self::RecoveryAddsCarryLac,
        Self::RecoveryReadsChangedEnsemble,
        Self::RecoverersDoNotBackOff,
        Self::TimedOutCasResolvedByRead,
        Self::RecoveryReadsDoNotFence,
        Self::FencePhaseWithOneReply,
        Self::FencedIsBookieFault,
    ];
}

/// Which bug is planted, if any.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Mutations {
    #[cfg(feature = "mutations")]
    planted: Option<Mutation>,
}

impl Mutations {
    /// The protocol as it should be.
    #[cfg(not(feature = "mutations"))]
    pub const NONE: Self = Self {};
    /// The protocol as it should be.
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
