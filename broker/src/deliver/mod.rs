//! From a partition to its consumers: the consuming services.

pub mod service;

pub use service::ConsumeEdge;
