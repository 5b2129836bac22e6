//! What administrators do: tenants, namespaces, topics, subscriptions, and a look at the cluster.
//!
//! Each file serves one noun of `admin.proto`. Requests are parsed and checked before anything is read; every refusal names its
//! field and limit. Reads are linearizable, changes are compare-and-sets over what was read.

mod broker;
mod cluster;
mod fault;
mod health;
mod namespace;
mod negotiate;
mod page;
mod placement;
mod policies;
pub(crate) mod subscription;
mod tenant;
pub(crate) mod topic;

use crate::broker::Broker;

/// Serves administrators of one broker.
#[derive(Clone, Debug)]
pub struct AdminEdge {
    broker: Broker,
}

impl AdminEdge {
    /// Over a broker.
    pub const fn new(broker: Broker) -> Self {
        Self { broker }
    }
}
