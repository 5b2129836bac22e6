//! What one side of a run has counted since it was last looked at.

use alluvium_types::time::Mono;
use parking_lot::Mutex;

use crate::latency::Latencies;

/// Counts and latencies.
#[derive(Clone, Debug, Default)]
pub(super) struct Figures {
    pub(super) messages: u64,
    pub(super) errors: u64,
    pub(super) latency: Latencies,
    /// How much later than intended messages were handed to the producer; only of publishers with a rate.
    pub(super) delay: Latencies,
    /// When the last message was counted.
    pub(super) last: Mono,
    pub(super) first_error: Option<String>,
}

/// The figures of one side, shared with whoever shows them. Locked once for each run of messages, never for each.
#[derive(Debug, Default)]
pub(super) struct Side(Mutex<Figures>);

impl Side {
    pub(super) fn add(&self, add: impl FnOnce(&mut Figures)) {
        add(&mut self.0.lock());
    }

    pub(super) fn error(&self, error: &str) {
        self.add(|figures| {
            figures.errors += 1;
            figures.first_error.get_or_insert_with(|| error.to_owned());
        });
    }

    /// What was counted since the last call.
    pub(super) fn take(&self) -> Figures {
        let fresh = Figures::default();
        std::mem::replace(&mut *self.0.lock(), fresh)
    }
}
