//! One address: any broker takes any request, and hands what it doesn't own to the broker that does.
//!
//! [`peers`] are the ways to other brokers, over pooled channels to their internal ports; [`service`] is what they ask of this
//! one, [`topic`] what it knows then of the partitions, [`owner`] a short question to whoever owns one. Streams that are shared out over several owners are put together where they are served: publishing in
//! `publish/{lane,upstream}.rs`, consuming and reading in `deliver/relay`. Who owns what is found out in `broker/routes.rs`.

mod owner;
mod peers;
mod service;
mod topic;

pub(crate) use owner::{Asking, answered, is_resumable};
pub(crate) use peers::{Peer, Peers, View};
pub use service::ForwardEdge;
pub(crate) use topic::topic_with;

use alluvium_types::limits::Limits;

/// What wraps a forwarded message, in bytes, at most.
const ENVELOPE_BYTES: usize = 64 << 10;

/// The largest message between brokers: one of a client, and its envelope.
pub(crate) fn bytes_max(limits: Limits) -> usize {
    limits.rpc_bytes_max() + ENVELOPE_BYTES
}
