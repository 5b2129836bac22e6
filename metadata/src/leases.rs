//! When sessions expire: kept by whoever drives the state, never logged, and begun anew in full by whoever drives it next.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use alluvium_types::ids::SessionId;
use alluvium_types::time::Mono;

/// The deadlines of the sessions that a driver knows.
#[derive(Clone, Debug, Default)]
pub(crate) struct Leases {
    deadlines: BTreeMap<SessionId, Mono>,
    /// Their end was decided; a keep-alive comes too late.
    expiring: BTreeSet<SessionId>,
}

impl Leases {
    /// The leases of a driver that takes over at `now`: every session gets its whole time to live.
    pub(crate) fn begin(sessions: impl Iterator<Item = (SessionId, Duration)>, now: Mono) -> Self {
        let deadlines = sessions.map(|(session, ttl)| (session, now.after(ttl))).collect();
        Self { deadlines, expiring: BTreeSet::new() }
    }

    /// Gives a session its time to live from `now` on; `false` when its end was decided.
    pub(crate) fn renew(&mut self, session: SessionId, ttl: Duration, now: Mono) -> bool {
        if self.expiring.contains(&session) {
            return false;
        }
        self.deadlines.insert(session, now.after(ttl));
        true
    }

    /// The session has ended.
    pub(crate) fn forget(&mut self, session: SessionId) {
        self.deadlines.remove(&session);
        self.expiring.remove(&session);
    }

    /// The sessions whose time is up; from here on they can't be renewed.
    pub(crate) fn expire(&mut self, now: Mono) -> Vec<SessionId> {
        let due: Vec<SessionId> =
            self.deadlines.iter().filter(|(_, deadline)| **deadline <= now).map(|(session, _)| *session).collect();
        for session in &due {
            self.deadlines.remove(session);
            self.expiring.insert(*session);
        }
        due
    }

    /// The end of a session could not be decided: it is due again.
    pub(crate) fn retry(&mut self, session: SessionId, now: Mono) {
        self.expiring.remove(&session);
        self.deadlines.insert(session, now);
    }

    /// The driver itself was away for `by`: that time does not count.
    pub(crate) fn postpone(&mut self, by: Duration) {
        for deadline in self.deadlines.values_mut() {
            *deadline = deadline.after(by);
        }
    }

    /// When the next one is due.
    pub(crate) fn next_deadline(&self) -> Option<Mono> {
        self.deadlines.values().min().copied()
    }
}

#[cfg(test)]
mod tests {
    use alluvium_runtime::entropy::Entropy;

    use super::*;

    #[test]
    fn a_session_whose_end_was_decided_is_not_renewed() {
        let session = SessionId::new(Entropy::seeded(1).uuid());
        let ttl = Duration::from_secs(1);
        let mut leases = Leases::begin(std::iter::once((session, ttl)), Mono::default());
        assert_eq!(leases.expire(Mono::default().after(ttl / 2)), []);
        assert_eq!(leases.expire(Mono::default().after(ttl)), [session]);
        assert!(!leases.renew(session, ttl, Mono::default().after(ttl)));
        leases.retry(session, Mono::default().after(ttl));
        leases.postpone(ttl);
        assert_eq!(leases.expire(Mono::default().after(ttl)), [], "the driver's own pause does not count");
        assert_eq!(leases.expire(Mono::default().after(2 * ttl)), [session]);
        leases.forget(session);
        assert_eq!(leases.next_deadline(), None);
    }
}
