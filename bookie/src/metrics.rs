//! Every figure of a bookie: names, units and help in one place.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use alluvium_types::bookie::Refusal;

/// Why something was refused.
#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub struct RefusedLabels {
    reason: &'static str,
}

/// The figures of one bookie. Clones share them.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Adds taken into the log.
    pub adds: Counter,
    /// Bytes of their bodies.
    pub added_bytes: Counter,
    /// Adds that were refused, by reason.
    pub refused: Family<RefusedLabels, Counter>,
    /// Groups written.
    pub groups: Counter,
    /// Bytes of a group, its padding included.
    pub group_bytes: Histogram,
    /// How long a group's synced write took.
    pub sync_seconds: Histogram,
    /// Reads answered.
    pub reads: Counter,
    /// Entries given by them.
    pub read_entries: Counter,
    /// Bytes of their bodies.
    pub read_bytes: Counter,
    /// Fences put.
    pub fences: Counter,
    /// A different entry was sent under an id that is stored (B5).
    pub conflicts: Counter,
    /// Entries that arrived with a wrong checksum (B4).
    pub corrupt_arrivals: Counter,
    /// Stored entries that could not be read back (C4).
    pub unreadable_entries: Counter,
    /// Groups that the last start could not read, with a good one behind them (C31).
    pub lost_groups: Gauge,
    /// Log files of which the last start could not read the header (C30).
    pub unreadable_files: Gauge,
    /// Whether the last start cut a torn tail (C59).
    pub torn: Gauge,
    /// Whether the bookie takes only what is essential.
    pub read_only: Gauge,
    /// The room for this bookie's bytes.
    pub space_total_bytes: Gauge,
    /// What is left of it.
    pub space_available_bytes: Gauge,
    /// Ledgers with marks here.
    pub ledgers: Gauge,
    /// How many can have marks here; past it no new one is taken.
    pub ledgers_max: Gauge,
    /// Ledgers dropped by garbage collection.
    pub ledgers_dropped: Counter,
    /// Dead ledgers that the last round of garbage collection left to later ones, so as not to drop too much at once (C26).
    pub gc_put_off: Gauge,
    /// Log files that were let go.
    pub files_released: Counter,
    /// Bytes of entries that were moved by compaction.
    pub compacted_bytes: Counter,
}

impl Metrics {
    /// Figures that nobody reads.
    pub fn unregistered() -> Self {
        Self {
            adds: Counter::default(),
            added_bytes: Counter::default(),
            refused: Family::default(),
            groups: Counter::default(),
            group_bytes: Histogram::new(exponential_buckets(4096.0, 2.0, 12)),
            sync_seconds: Histogram::new(exponential_buckets(0.000_05, 2.0, 18)),
            reads: Counter::default(),
            read_entries: Counter::default(),
            read_bytes: Counter::default(),
            fences: Counter::default(),
            conflicts: Counter::default(),
            corrupt_arrivals: Counter::default(),
            unreadable_entries: Counter::default(),
            lost_groups: Gauge::default(),
            unreadable_files: Gauge::default(),
            torn: Gauge::default(),
            read_only: Gauge::default(),
            space_total_bytes: Gauge::default(),
            space_available_bytes: Gauge::default(),
            ledgers: Gauge::default(),
            ledgers_max: Gauge::default(),
            ledgers_dropped: Counter::default(),
            gc_put_off: Gauge::default(),
            files_released: Counter::default(),
            compacted_bytes: Counter::default(),
        }
    }

    /// Figures in `registry`, whose prefix says whose they are.
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self::unregistered();
        let m = metrics.clone();
        let r = registry;
        r.register("adds", "Entries taken into the log", m.adds);
        r.register_with_unit("added", "Bodies of entries taken into the log", Unit::Bytes, m.added_bytes);
        r.register("adds_refused", "Adds that were refused, by reason", m.refused);
        r.register("groups", "Groups written to the log", m.groups);
        r.register_with_unit("group", "Size of a group, its padding included", Unit::Bytes, m.group_bytes);
        r.register_with_unit("sync", "Duration of a group's synced write", Unit::Seconds, m.sync_seconds);
        r.register("reads", "Reads answered", m.reads);
        r.register("read_entries", "Entries given by reads", m.read_entries);
        r.register_with_unit("read", "Bodies given by reads", Unit::Bytes, m.read_bytes);
        r.register("fences", "Fences put", m.fences);
        r.register("conflicts", "Different entries sent under an id that is stored: a person must look", m.conflicts);
        r.register("corrupt_arrivals", "Entries that arrived with a wrong checksum", m.corrupt_arrivals);
        r.register("unreadable_entries", "Stored entries that could not be read back: repair is due", m.unreadable_entries);
        r.register("lost_groups", "Groups in the middle of the log that the last start could not read", m.lost_groups);
        r.register("unreadable_files", "Log files whose header the last start could not read", m.unreadable_files);
        r.register("torn", "Whether the last start cut a torn tail", m.torn);
        r.register("read_only", "Whether only what is essential is taken, for want of space", m.read_only);
        r.register_with_unit("space_total", "Room for this bookie's entries", Unit::Bytes, m.space_total_bytes);
        r.register_with_unit("space_available", "What is left of the room", Unit::Bytes, m.space_available_bytes);
        r.register("ledgers", "Ledgers known here, deleted ones included until they are forgotten", m.ledgers);
        r.register("ledgers_max", "Ledgers that can be known here; past it no new one is taken", m.ledgers_max);
        r.register("ledgers_dropped", "Ledgers whose entries were let go", m.ledgers_dropped);
        r.register("gc_put_off", "Dead ledgers that the last round of garbage collection left to later ones", m.gc_put_off);
        r.register("files_released", "Log files that were let go", m.files_released);
        r.register_with_unit("compacted", "Bodies of entries moved by compaction", Unit::Bytes, m.compacted_bytes);
        metrics
    }

    /// Counts a refused add.
    pub(crate) fn refused(&self, refusal: Refusal) {
        match refusal {
            Refusal::Conflict => drop(self.conflicts.inc()),
            Refusal::Corrupt => drop(self.corrupt_arrivals.inc()),
            _ => {}
        }
        let reason = match refusal {
            Refusal::Fenced => "fenced",
            Refusal::Stale => "stale",
            Refusal::UnknownLedger => "unknown_ledger",
            Refusal::Deleted => "deleted",
            Refusal::Conflict => "conflict",
            Refusal::Corrupt => "corrupt",
            Refusal::TooLarge => "too_large",
            Refusal::ReadOnly => "read_only",
            Refusal::Busy => "busy",
            Refusal::Stopping => "stopping",
        };
        self.refused.get_or_create(&RefusedLabels { reason }).inc();
    }
}
