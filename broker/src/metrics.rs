//! Every figure of the broker's write side: names, units and help in one place.

use alluvium_metadata::auditor::Audit;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// The figures of one broker. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// Messages taken from producers.
    pub published_messages: Counter,
    /// Bytes of their batches.
    pub published_bytes: Counter,
    /// Batches taken.
    pub published_batches: Counter,
    /// Batches that made no sense.
    pub refused_batches: Counter,
    /// Batches and claims handed to the broker that owns their partition.
    pub forwarded_batches: Counter,
    /// Short calls made at the broker that owns their partition.
    pub forwarded_calls: Counter,
    /// Streams of consumers and readers begun at the broker that owns their partitions.
    pub forwarded_streams: Counter,
    /// Entries appended to ledgers and confirmed.
    pub confirmed_entries: Counter,
    /// Bytes of their bodies.
    pub confirmed_bytes: Counter,
    /// Partitions that this broker serves.
    pub partitions: Gauge,
    /// Partitions taken over since the start.
    pub takeovers: Counter,
    /// Partitions handed to another broker.
    pub moves: Counter,
    /// Takeovers that failed.
    pub failed_takeovers: Counter,
    /// Of those taken over, the ones whose former owner had not let them go.
    pub failovers: Counter,
    /// Segments removed by retention.
    pub trimmed_segments: Counter,
    /// Entries that no bookie gave, each time that they were met (T6).
    pub unreadable_entries: Counter,
    /// Reads that brought nothing for now, and are tried again.
    pub unanswered_reads: Counter,
    /// Tombstones of ledgers that this broker forgot as the auditor.
    pub forgotten_ledgers: Counter,
    /// Tombstones of ledgers that the auditor knows of.
    pub tombstones: Gauge,
    /// Ledgers that are short of copies, as this broker knows if it is the auditor.
    pub ledgers_under_replicated: Gauge,
    /// Ledgers that name bookies that are not alive, as this broker knows if it is the auditor.
    pub ledgers_on_absent_bookies: Gauge,
    /// Whether no bookie takes more messages.
    pub storage_full: Gauge,
}

impl Metrics {
    /// What the broker found as the auditor; `None` when it is not.
    pub(crate) fn audited(&self, audit: Option<Audit>) {
        let figure = |figure: fn(Audit) -> u64| i64::try_from(audit.map_or(0, figure)).unwrap_or(i64::MAX);
        self.ledgers_under_replicated.set(figure(|audit| audit.under_replicated));
        self.ledgers_on_absent_bookies.set(figure(|audit| audit.on_absent_bookies));
    }

    /// Puts the figures where `/metrics` finds them.
    pub fn register(&self, registry: &mut Registry) {
        let mut counter = |name: &str, help: &str, counter: &Counter| registry.register(name, help, counter.clone());
        counter("published_messages", "Messages taken from producers", &self.published_messages);
        counter("published_bytes", "Bytes of the batches taken from producers", &self.published_bytes);
        counter("published_batches", "Batches taken from producers", &self.published_batches);
        counter("refused_batches", "Batches refused because they made no sense", &self.refused_batches);
        let help = "Batches and claims handed to the broker that owns their partition";
        counter("forwarded_batches", help, &self.forwarded_batches);
        let help = "Short calls made at the broker that owns their partition";
        counter("forwarded_calls", help, &self.forwarded_calls);
        let help = "Streams of consumers and readers begun at the broker that owns their partitions";
        counter("forwarded_streams", help, &self.forwarded_streams);
        counter("confirmed_entries", "Entries confirmed by an ack quorum", &self.confirmed_entries);
        counter("confirmed_bytes", "Bytes of the entries confirmed", &self.confirmed_bytes);
        counter("takeovers", "Partitions taken over", &self.takeovers);
        counter("moves", "Partitions handed to another broker", &self.moves);
        counter("failed_takeovers", "Takeovers of partitions that failed", &self.failed_takeovers);
        counter("failovers", "Partitions taken over from a broker that had not let them go", &self.failovers);
        counter("trimmed_segments", "Segments removed by retention", &self.trimmed_segments);
        let help =
            "Entries found to be on none of the bookies that should hold them, each time that they were met: a person must look";
        counter("unreadable_entries", help, &self.unreadable_entries);
        counter("unanswered_reads", "Reads that brought nothing for now, and are tried again", &self.unanswered_reads);
        counter(
            "forgotten_ledgers",
            "Deleted ledgers that were forgotten: no bookie has anything of them",
            &self.forgotten_ledgers,
        );
        let mut gauge = |name: &str, help: &str, gauge: &Gauge| registry.register(name, help, gauge.clone());
        gauge("partitions", "Partitions that this broker serves", &self.partitions);
        gauge("tombstones", "Deleted ledgers that are not forgotten yet, as the auditor knows", &self.tombstones);
        gauge(
            "ledgers_under_replicated",
            "Ledgers short of copies by their records, when the auditor last looked; 0 at all others",
            &self.ledgers_under_replicated,
        );
        gauge(
            "ledgers_on_absent_bookies",
            "Ledgers that name bookies that were not alive when the auditor last looked; 0 at all others",
            &self.ledgers_on_absent_bookies,
        );
        gauge("storage_full", "1 while no bookie takes more messages", &self.storage_full);
    }
}
