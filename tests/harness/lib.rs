//! The harness: the real `alluvium` binary as a process of its own, or as the processes of a cluster, on free
//! ports of loopback, started, killed and started again.

#![expect(clippy::disallowed_methods, reason = "a test of processes looks at the outside world directly")]
#![expect(clippy::expect_used, clippy::missing_panics_doc, reason = "a harness fails the test that uses it")]

pub mod cluster;
pub mod forwarder;
pub mod memory;
pub mod process;
pub mod server;
pub mod wait;

pub use alluvium_test_etcd::Etcd;
pub use cluster::Cluster;
pub use forwarder::{Forwarder, Way};
pub use memory::MemoryGroup;
pub use process::{Output, Process};
pub use server::{Options, Server, can_have_disks};
pub use wait::eventually;
