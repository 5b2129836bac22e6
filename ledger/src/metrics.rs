//! Every figure of this process's work with ledgers: names, units and help in one place.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

/// The figures. Clones share them.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Ledgers opened on their bookies.
    pub prepared: Counter,
    /// Of these, with fewer bookies than wanted (C63).
    pub prepared_degraded: Counter,
    /// Writers at work.
    pub writers: Gauge,
    /// Writers whose ledger has fewer copies of something than wanted (C63, C65).
    pub writers_under_replicated: Gauge,
    /// Entries confirmed.
    pub confirmed: Counter,
    /// From the append of an entry to its confirmation.
    pub confirm_seconds: Histogram,
    /// Changes of a ledger's ensemble, or of its marks.
    pub record_changes: Counter,
    /// Of these, the ones that put other bookies into an ensemble.
    pub ensemble_changes: Counter,
    /// Writers that ended their ledger by themselves and handed entries back (C63, C36).
    pub handed_back: Counter,
    /// Writers that lost their ledger (L4).
    pub lost: Counter,
    /// Recoveries that found a ledger's end.
    pub recovered: Counter,
    /// Recoveries that found none.
    pub recoveries_failed: Counter,
    /// Entries read.
    pub read: Counter,
    /// Reads that ended at an entry that nobody gave (T6).
    pub unreadable: Counter,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        Self {
            prepared: Counter::default(),
            prepared_degraded: Counter::default(),
            writers: Gauge::default(),
            writers_under_replicated: Gauge::default(),
            confirmed: Counter::default(),
            confirm_seconds: Histogram::new(exponential_buckets(0.000_1, 2.0, 18)),
            record_changes: Counter::default(),
            ensemble_changes: Counter::default(),
            handed_back: Counter::default(),
            lost: Counter::default(),
            recovered: Counter::default(),
            recoveries_failed: Counter::default(),
            read: Counter::default(),
            unreadable: Counter::default(),
        }
    }

    /// Puts the figures into `registry`, whose prefix says whose they are.
    pub fn register(&self, registry: &mut Registry) {
        let (m, r) = (self.clone(), registry);
        r.register("ledgers_prepared", "Ledgers opened on their bookies", m.prepared);
        r.register("ledgers_prepared_degraded", "Ledgers opened on fewer bookies than wanted", m.prepared_degraded);
        r.register("writers", "Ledgers being written", m.writers);
        let help = "Ledgers being written of which something has fewer copies than wanted";
        r.register("writers_under_replicated", help, m.writers_under_replicated);
        r.register("entries_confirmed", "Entries on the disks of an ack quorum", m.confirmed);
        r.register_with_unit("confirm", "From the append of an entry to its confirmation", Unit::Seconds, m.confirm_seconds);
        r.register("record_changes", "Changes of an ensemble, or of the marks of what is missing where", m.record_changes);
        r.register("ensemble_changes", "Changes that put other bookies into a ledger's ensemble", m.ensemble_changes);
        r.register("ledgers_handed_back", "Ledgers ended early, their last entries handed back", m.handed_back);
        r.register("ledgers_lost", "Ledgers lost to a recovery or a newer claim", m.lost);
        r.register("recoveries", "Recoveries that found a ledger's end", m.recovered);
        r.register("recoveries_failed", "Recoveries that gave up", m.recoveries_failed);
        r.register("entries_read", "Entries read from bookies", m.read);
        r.register("reads_unreadable", "Reads that ended at an entry that no bookie gave: a person must look", m.unreadable);
    }
}
