//! One consumer, in order.

use super::discipline::{Admission, Discipline, Present};

/// The rules of an exclusive subscription. A newcomer of the same name is the same consumer after a restart, and replaces its
/// ghost; one that says so takes over from anybody.
pub(super) struct Exclusive;

impl Discipline for Exclusive {
    fn admit(&self, present: &[Present], newcomer: &Present, takeover: bool) -> Admission {
        match present.iter().find(|p| !takeover && (p.name.is_empty() || p.name != newcomer.name)) {
            Some(holder) => Admission::Refused { holder: holder.name.clone() },
            None if present.is_empty() => Admission::Beside,
            None => Admission::InPlaceOf(present.iter().map(|p| p.id).collect()),
        }
    }

    fn is_ordered(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::subscription::ConsumerId;

    #[test]
    fn only_its_own_ghost_or_a_takeover_replaces_the_holder() {
        let consumer = |id, name: &str| Present { id: ConsumerId::new(id), name: name.to_owned() };
        let replaced = Admission::InPlaceOf(vec![ConsumerId::new(1)]);
        let refused = |holder: &str| Admission::Refused { holder: holder.to_owned() };
        for (present, name, takeover, expected) in [
            (vec![], "b", false, Admission::Beside),
            (vec![consumer(1, "a")], "b", false, refused("a")),
            (vec![consumer(1, "a")], "a", false, replaced.clone()),
            (vec![consumer(1, "a")], "b", true, replaced.clone()),
            (vec![consumer(1, "")], "", false, refused("")),
            (vec![consumer(1, "")], "", true, replaced),
        ] {
            assert_eq!(Exclusive.admit(&present, &consumer(2, name), takeover), expected, "{present:?} {name} {takeover}");
        }
    }
}
