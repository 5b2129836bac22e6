//! Any number of consumers, each message to one of them.

use super::discipline::{Admission, Discipline, Present};

/// The rules of a shared subscription.
pub(super) struct Shared;

impl Discipline for Shared {
    fn admit(&self, _present: &[Present], _newcomer: &Present, _takeover: bool) -> Admission {
        Admission::Beside
    }

    fn is_ordered(&self) -> bool {
        false
    }
}
