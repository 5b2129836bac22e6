//! How fast a server is, and how fast its machine would let it be.
//!
//! [`load`] puts a [`Workload`] on a running server through the public client, as any application would, verifies every message at
//! the consumer, and gives an [`Outcome`] whose names are those of OpenMessaging's benchmark ([`result`](Outcome::to_json)). What can
//! be wrong about it is plain code: [`schedule`], [`content`], [`verify`], [`latency`]. `ceiling` measures disk, transport and a bare
//! pipeline beside it, and `suite` tells the one by the other. This crate prints nothing.

use std::time::Duration;

use alluvium_runtime::tasks::{OnFailure, Tasks};

#[cfg(feature = "ceiling")]
pub mod ceiling;
pub mod content;
mod error;
pub mod latency;
pub mod load;
pub mod result;
pub mod schedule;
#[cfg(feature = "ceiling")]
pub mod suite;
pub mod verify;
pub mod workload;

pub use error::Error;
pub use load::run;
pub use result::Outcome;
pub use workload::Workload;

/// A duration in nanoseconds.
fn ns(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Runs `work` on a thread and a current-thread runtime of its own.
fn own_thread(tasks: &Tasks, name: &str, work: impl Future<Output = ()> + Send + 'static) {
    tasks.thread(name, OnFailure::Log, move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string())?;
        runtime.block_on(work);
        Ok::<(), String>(())
    });
}
