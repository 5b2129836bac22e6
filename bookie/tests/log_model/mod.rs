//! A reference model of the log: plain maps of what was appended and what was acknowledged, and a bench that drives the real
//! engine over a simulated disk beside it.

#![expect(dead_code, reason = "each test file uses its part")]
#![expect(clippy::unwrap_used, reason = "a test's helpers are tests")]

pub(crate) mod bench;
pub(crate) mod model;
pub(crate) mod rig;

use alluvium_bookie::log::{Config, Identity};
use alluvium_types::ids::{ClusterId, Incarnation};
use uuid::Uuid;

/// The folder of the log under test.
pub(crate) const DIR: &str = "/bookie";

/// Small files, so that a run leaves, seals, recycles and compacts many of them.
pub(crate) fn small() -> Config {
    Config {
        file_bytes: 64 << 10,
        group_bytes: 4096,
        pool_files: 2,
        read_bytes: 32 << 10,
        prewrite: false,
        body_bytes_max: 2000,
        ..Config::default()
    }
}

/// Whose log it is.
pub(crate) fn identity() -> Identity {
    Identity { cluster: ClusterId::new(Uuid::from_u128(1)), incarnation: Incarnation::new(Uuid::from_u128(2)) }
}
