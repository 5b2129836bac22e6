//! What makes a type of subscription: who is let in, who may take, in which order.

use super::input::ConsumerId;
use super::{exclusive, shared};
use crate::topic::SubscriptionKind;

/// A consumer as its subscription sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Present {
    /// Which one.
    pub(crate) id: ConsumerId,
    /// What people call it; may be empty.
    pub(crate) name: String,
}

/// Whether a newcomer is let in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Admission {
    /// Beside those who are there.
    Beside,
    /// In place of these.
    InPlaceOf(Vec<ConsumerId>),
    /// Not while this one is there.
    Refused {
        /// Who is in the way.
        holder: String,
    },
}

/// The rules of a type. A further type is a file beside `exclusive` and `shared` and an arm below; one that chooses by key
/// also gets to choose which of the messages that are due a consumer may have.
pub(crate) trait Discipline {
    /// Whether `newcomer` may join those who are present.
    fn admit(&self, present: &[Present], newcomer: &Present, takeover: bool) -> Admission;

    /// Whether messages are delivered in offset order: what was given back comes before anything behind it is delivered for
    /// the first time (T3), and acknowledging everything up to an offset makes sense.
    fn is_ordered(&self) -> bool;
}

/// The rules of `kind`.
pub(crate) fn of(kind: SubscriptionKind) -> &'static dyn Discipline {
    match kind {
        SubscriptionKind::Exclusive => &exclusive::Exclusive,
        SubscriptionKind::Shared => &shared::Shared,
    }
}
