//! The bookie: keeps entries, synced before it answers, and knows nothing of topics, tenants or subscriptions.
//!
//! The [`store`] decides and the [`log`] holds the bytes; both are plain code without threads, which the simulator drives as
//! the product does. Read in this order: [`log`], `rules`, [`store`], [`read_plan`], then what makes a process of them.

pub mod identity;
pub mod log;
pub mod mutation;
pub mod read_plan;
mod rules;
pub mod space;
pub mod store;
