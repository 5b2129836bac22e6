//! What consuming counts.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Counters of one broker. Cheap to clone; all clones count together.
#[derive(Clone, Debug, Default)]
pub struct DeliverMetrics {
    pub(super) messages: Counter,
    pub(super) bytes: Counter,
    pub(super) undeliverable: Counter,
    pub(super) unreadable: Counter,
    pub(super) streams: Gauge,
}

impl DeliverMetrics {
    /// Puts the counters where `/metrics` finds them.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("delivered_messages", "Messages sent to consumers and readers", self.messages.clone());
        registry.register("delivered_bytes", "Their bytes, before compression", self.bytes.clone());
        let help = "Messages that were not delivered because their batch contradicts its own header";
        registry.register("undeliverable_messages", help, self.undeliverable.clone());
        registry.register("unreadable_reports", "Reports of messages that could not be read", self.unreadable.clone());
        registry.register("consuming_streams", "Streams of consumers and readers that are open", self.streams.clone());
    }
}
