//! Memory bounded by construction: bytes are taken from a budget before they are held, and go back when the last holder
//! lets go (Q6).

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes are counted in units of this size, so that a budget of many GiB fits a semaphore's 32-bit requests.
const UNIT_BYTES: usize = 256;

/// A bound on bytes held at a time.
#[derive(Clone, Debug)]
pub struct ByteBudget {
    units: Arc<Semaphore>,
    total: usize,
}

/// Bytes taken from a budget; they go back when this is dropped.
#[derive(Debug)]
#[must_use = "the bytes go back at once when this is dropped"]
pub struct BytesHeld(OwnedSemaphorePermit);

impl BytesHeld {
    /// Holds `other` as well, as one: both go back together.
    ///
    /// # Panics
    /// If they were taken from different budgets.
    pub fn join(&mut self, other: Self) {
        self.0.merge(other.0);
    }

    /// Holds no more than `bytes` from now on; the rest goes back. Never holds more than before.
    pub fn shrink_to(&mut self, bytes: usize) {
        let surplus = self.0.num_permits().saturating_sub(bytes.div_ceil(UNIT_BYTES));
        drop(self.0.split(surplus));
    }
}

impl ByteBudget {
    /// A budget of `bytes`, rounded up to whole units.
    pub fn new(bytes: usize) -> Self {
        let total = bytes.div_ceil(UNIT_BYTES);
        Self { units: Arc::new(Semaphore::new(total)), total }
    }

    fn units_for(&self, bytes: usize) -> u32 {
        // A request past the whole budget takes all of it: it must be served some time.
        u32::try_from(bytes.div_ceil(UNIT_BYTES).clamp(1, self.total.max(1))).unwrap_or(u32::MAX)
    }

    /// Waits until `bytes` are free, first come, first served. Cancel safe.
    pub async fn take(&self, bytes: usize) -> BytesHeld {
        let units = self.units_for(bytes);
        BytesHeld(Arc::clone(&self.units).acquire_many_owned(units).await.expect("a budget is never closed"))
    }

    /// Nothing of it.
    pub fn none(&self) -> BytesHeld {
        BytesHeld(Arc::clone(&self.units).try_acquire_many_owned(0).expect("nothing is always free"))
    }

    /// Takes `bytes` if they are free now.
    pub fn try_take(&self, bytes: usize) -> Option<BytesHeld> {
        Arc::clone(&self.units).try_acquire_many_owned(self.units_for(bytes)).ok().map(BytesHeld)
    }

    /// Bytes held now.
    pub fn held(&self) -> usize {
        (self.total - self.units.available_permits()) * UNIT_BYTES
    }

    /// The bound.
    pub const fn total(&self) -> usize {
        self.total * UNIT_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_go_back_when_dropped_and_a_giant_takes_all() {
        let budget = ByteBudget::new(1 << 20);
        let giant = budget.try_take(usize::MAX).expect("everything is free");
        assert_eq!(budget.held(), budget.total());
        assert!(budget.try_take(1).is_none());
        drop(giant);
        assert_eq!(budget.held(), 0);
        let mut held = budget.try_take(10_000).expect("free");
        held.shrink_to(1000);
        assert_eq!(budget.held(), 1024);
        held.shrink_to(5000);
        assert_eq!(budget.held(), 1024, "it never grows");
        drop(held);
        assert_eq!(budget.held(), 0);
    }
}
