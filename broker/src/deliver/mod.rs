//! From a partition to its consumers: the consuming services.
//!
//! One task for each stream: it takes what the partitions' machines put into its [`crate::subscription::Mailbox`], reads for
//! them when asked, and sends batches as they are or, where a consumer wants or is due only parts of one, decoded messages.
//! Batches are first looked into here, never in an owner task. What is on its way holds its bytes of the process's budgets
//! until the transport has taken it (Q6); a client that doesn't read is sent nothing more.
//!
//! Read in this order: `service` (the calls), `request` (what they ask, checked), `relay` (a client's stream over all owners of its
//! partitions; `line` is between it and those, `forwarded` its end at another broker), `membership` (a consumer's place), `consume` (a subscription's stream), `parcel` and `bundle` (deliveries as responses), `outbox` (to the transport), `pull` and `settle` (the unary twins), `read` (without a cursor).

mod bundle;
mod consume;
#[cfg(test)]
mod costs;
pub(crate) mod forwarded;
mod growth;
mod line;
mod membership;
mod metrics;
mod outbox;
mod parcel;
pub(crate) mod pull;
mod read;
mod relay;
mod request;
pub mod service;
pub(crate) mod settle;

pub use metrics::DeliverMetrics;
pub use outbox::Responses;
pub use service::ConsumeEdge;
