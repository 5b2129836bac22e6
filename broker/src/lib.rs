//! The broker: owns partitions through leases, orders what is published, and dispatches it. It holds nothing that can't be
//! rebuilt.
//!
//! The folders are the path of a message: [`publish`] takes it in, [`topic`] orders and stores it, [`subscription`] decides who
//! gets it, [`deliver`] sends it; [`admin`] is for people. [`server`] puts their services together.

pub mod admin;
pub mod broker;
pub mod config;
pub mod deliver;
pub mod error;
pub mod forward;
pub mod metrics;
pub mod mutation;
mod ownership;
pub mod publish;
pub mod server;
pub mod subscription;
pub mod topic;
