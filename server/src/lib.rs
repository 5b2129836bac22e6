//! What a process is: standalone (all roles in one), a broker, a bookie; and the making of a cluster's record.
//!
//! It joins the crates that don't know each other, and holds nothing of what they do: `broker` and `bookie` serve, this decides
//! what starts in which order, on which port, and how it ends. Read in this order: `settings`, `process`, `ports`, `http`, then
//! [`standalone`], `cluster` (which cluster a process belongs to), `name`, [`broker`], [`bookie`].

pub mod bookie;
pub mod broker;
mod cluster;
mod http;
mod name;
mod ports;
mod process;
mod settings;
pub mod standalone;

pub use cluster::{Made, MakeError, make};
pub use settings::{PASSWORD_VARIABLE, Role, metadata_of};
