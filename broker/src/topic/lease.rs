//! Until when this broker may dispatch to subscriptions (M4): the monotonic clock and the send time of the last confirmed
//! keep-alive decide, nothing else.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use alluvium_runtime::clock::Clock;
use alluvium_types::time::Mono;

/// A shared bound on dispatching; never extended but by a confirmed keep-alive.
#[derive(Clone)]
pub struct DispatchLease {
    clock: Clock,
    until: Arc<AtomicU64>,
}

impl fmt::Debug for DispatchLease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "until {:?}", self.until())
    }
}

impl DispatchLease {
    /// One that has not begun.
    pub fn new(clock: Clock) -> Self {
        Self { clock, until: Arc::new(AtomicU64::new(0)) }
    }

    fn until(&self) -> Mono {
        Mono::from_duration(std::time::Duration::from_nanos(self.until.load(Ordering::Acquire)))
    }

    /// Dispatching is allowed before `until`; an earlier bound than the present one changes nothing.
    pub fn extend(&self, until: Mono) {
        let nanos = u64::try_from(until.as_duration().as_nanos()).unwrap_or(u64::MAX);
        self.until.fetch_max(nanos, Ordering::AcqRel);
    }

    /// Whether dispatching is allowed now.
    pub fn may_dispatch(&self) -> bool {
        self.clock.mono() < self.until()
    }
}
