//! The known bugs of metadata's repositories, to be planted by tests (`invariants.md` §3): what a simulator must find.
//!
//! Planting needs the cargo feature `mutations`. Without it [`Mutations`] is empty and every question is a constant `false`.

/// A known bug of metadata's repositories.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Mutation {
    /// M2: decisions do not compare the key of the decider's session.
    SessionKeyNotCompared,
}

impl Mutation {
    /// All of them.
    pub const ALL: [Self; 1] = [Self::SessionKeyNotCompared];
}

/// Which bug is planted, if any.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Mutations {
    #[cfg(feature = "mutations")]
    planted: Option<Mutation>,
}

impl Mutations {
    /// Metadata as it should be.
    #[cfg(not(feature = "mutations"))]
    pub const NONE: Self = Self {};
    /// Metadata as it should be.
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
