//! The bookie: keeps entries, synced before it answers, and knows nothing of topics, tenants or subscriptions.
//!
//! The [`store`] decides and the [`log`] holds the bytes; both are plain code without threads, which the simulator drives as
//! the product does. [`Bookie`] makes a process of them: a lock, a thread that writes groups, one that keeps files ready.
//!
//! Read in this order: [`log`], `rules`, [`store`], [`read_plan`], then [`bookie`] and its threads, [`start`], [`service`], [`gc`].

pub mod bookie;
pub mod config;
pub mod gc;
pub mod identity;
pub mod log;
pub mod metrics;
pub mod mutation;
pub mod read_plan;
mod rules;
pub mod service;
pub mod space;
pub mod start;
pub mod store;

pub use bookie::Bookie;
pub use config::Config;
