//! Until when this broker may dispatch to subscriptions (M4): the monotonic clock and the send time of the last confirmed
//! keep-alive decide, nothing else. And whether a partition's former owner is gone for certain.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use alluvium_metadata::subscriptions::SubscriptionKind;
use alluvium_runtime::clock::Clock;
use alluvium_types::names::BrokerName;
use alluvium_types::time::Mono;
use parking_lot::Mutex;

/// A shared bound on dispatching, of one session; never extended but by a confirmed keep-alive of that.
#[derive(Clone)]
pub(crate) struct DispatchLease {
    clock: Clock,
    until: Arc<AtomicU64>,
    waits: Arc<AtomicBool>,
    /// For whose session it waits.
    former: Arc<Mutex<Option<BrokerName>>>,
}

impl fmt::Debug for DispatchLease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "until {:?}", self.until())
    }
}

impl DispatchLease {
    /// One that has not begun.
    pub(crate) fn new(clock: Clock) -> Self {
        Self { clock, until: Arc::new(AtomicU64::new(0)), waits: Arc::default(), former: Arc::default() }
    }

    /// The same bound, for a partition whose former owner may still dispatch: it waits until [`DispatchLease::former_is_gone`].
    #[must_use]
    pub(crate) fn after_former(&self) -> Self {
        Self { waits: Arc::new(AtomicBool::new(true)), former: Arc::default(), ..self.clone() }
    }

    /// The session of this former owner is what it waits for now.
    pub(crate) fn waits_for(&self, former: &BrokerName) {
        *self.former.lock() = Some(former.clone());
    }

    /// The former owner's session is gone for certain.
    pub(crate) fn former_is_gone(&self) {
        self.waits.store(false, Ordering::Release);
    }

    fn until(&self) -> Mono {
        Mono::from_duration(Duration::from_nanos(self.until.load(Ordering::Acquire)))
    }

    /// Dispatching is allowed before `until`; an earlier bound than the present one changes nothing.
    pub(crate) fn extend(&self, until: Mono) {
        let nanos = u64::try_from(until.as_duration().as_nanos()).unwrap_or(u64::MAX);
        self.until.fetch_max(nanos, Ordering::AcqRel);
    }

    /// The session is gone, for good: nothing that was claimed under it is dispatched any more.
    pub(crate) fn end(&self) {
        self.until.store(0, Ordering::Release);
    }

    /// Whether the session is certain to live: metadata has answered of late.
    pub(crate) fn is_certain(&self) -> bool {
        self.clock.mono() < self.until()
    }

    /// Whether dispatching to a subscription of this kind is allowed now. Only one that promises order waits for the former
    /// owner: its late deliveries are duplicates to a shared one, and their acks are refused.
    pub(crate) fn may_dispatch(&self, kind: SubscriptionKind) -> bool {
        let waits = match kind {
            SubscriptionKind::Exclusive => self.waits.load(Ordering::Acquire),
            SubscriptionKind::Shared => false,
        };
        !waits && self.is_certain()
    }

    /// Why a subscription of this kind is given nothing now, for who asks; `None` if nothing stands in the way.
    pub(crate) fn why_paused(&self, kind: SubscriptionKind) -> Option<String> {
        if self.may_dispatch(kind) {
            return None;
        }
        if !self.is_certain() {
            return Some("the owner's session was not renewed in time: etcd does not answer it".to_owned());
        }
        let former = self.former.lock().clone().map_or_else(|| "its former owner".to_owned(), |name| name.to_string());
        Some(format!(
            "{former} owned the partition before and may still deliver, until its session ends; end its process if it hangs"
        ))
    }
}

#[cfg(test)]
mod tests {
    use alluvium_types::time::Timestamp;

    use super::SubscriptionKind::{Exclusive, Shared};
    use super::*;

    #[test]
    fn m4_dispatching_stops_by_the_monotonic_clock_alone() {
        let clock = Clock::manual(Timestamp::from_millis(1 << 40));
        let lease = DispatchLease::new(clock.clone());
        assert!(!lease.may_dispatch(Exclusive));
        let sent = clock.mono();
        lease.extend(sent.after(Duration::from_secs(8)));
        clock.set_wall(Timestamp::default());
        clock.advance(Duration::from_secs(7));
        assert!(lease.may_dispatch(Exclusive));
        lease.extend(sent.after(Duration::from_secs(5)));
        assert!(lease.may_dispatch(Exclusive), "a late answer to an early keep-alive takes nothing away");
        clock.advance(Duration::from_secs(1));
        assert!(!lease.may_dispatch(Exclusive));
    }

    #[test]
    fn m4_a_successor_dispatches_only_when_the_former_owner_is_gone() {
        let clock = Clock::manual(Timestamp::default());
        let lease = DispatchLease::new(clock.clone());
        lease.extend(clock.mono().after(Duration::from_secs(8)));
        let partition = lease.after_former();
        partition.waits_for(&BrokerName::parse("b7").expect("valid"));
        assert!(
            partition.why_paused(Exclusive).is_some_and(|why| why.starts_with("b7 ")) && partition.why_paused(Shared).is_none()
        );
        assert!(lease.may_dispatch(Exclusive) && !partition.may_dispatch(Exclusive));
        assert!(partition.may_dispatch(Shared), "nothing but order is waited for");
        partition.former_is_gone();
        assert!(partition.may_dispatch(Exclusive) && partition.why_paused(Exclusive).is_none());
        lease.end();
        assert!(partition.why_paused(Shared).is_some_and(|why| why.contains("etcd")));
        assert!(!partition.may_dispatch(Exclusive) && !partition.may_dispatch(Shared));
    }
}
