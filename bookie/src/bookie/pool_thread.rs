//! The thread that makes files ahead of need: allocated, and written once unless the log needs the disk, so that neither a full disk nor
//! a fresh block slows an append.

use std::time::Duration;

use super::files_thread::FilesFailed;
use super::shared::{Life, Shared};
use crate::log::PrepareError;

/// How often it looks.
const TICK: Duration = Duration::from_millis(500);
/// With more groups than this between two looks the log is busy: writing ahead would take from its bandwidth.
const BUSY_GROUPS: u64 = 32;

/// Works until the bookie ends.
pub(crate) fn run(shared: &Shared) -> Result<(), FilesFailed> {
    let mut groups_before = shared.state.lock().store.durable().get();
    loop {
        let groups = {
            let mut state = shared.state.lock();
            if state.life == Life::Running {
                shared.pool_wakes.wait_for(&mut state, TICK);
            }
            if state.life != Life::Running {
                return Ok(());
            }
            state.store.durable().get()
        };
        let is_busy = groups.saturating_sub(groups_before) > BUSY_GROUPS;
        groups_before = groups;
        // One file is kept whatever happens: fences and deletions live on it when the disk is full.
        while (!is_busy || shared.files.pool_len() == 0) && has_room(shared) && fill(shared, is_busy)? {}
    }
}

/// Whether there is room for a file within the configured capacity and beside what is left to others.
fn has_room(shared: &Shared) -> bool {
    let (thresholds, file_bytes) = (shared.config.thresholds(), shared.config.log.file_bytes);
    let within = thresholds.capacity_max.is_none_or(|capacity| shared.files.disk_bytes() + file_bytes <= capacity);
    let state = shared.state.lock();
    within && state.life == Life::Running && state.free_bytes >= thresholds.leave.saturating_add(file_bytes)
}

/// Adds one file to the pool; says whether it did.
fn fill(shared: &Shared, is_busy: bool) -> Result<bool, FilesFailed> {
    shared.state.lock().is_filling = true;
    let filled = shared.files.fill_pool(is_busy);
    shared.state.lock().is_filling = false;
    let failed = |what, dir, source| {
        shared.state.lock().store.writer_mut().fail();
        shared.end(Life::Dead);
        FilesFailed { what, dir, source }
    };
    match filled {
        Ok(added) => {
            let dir = shared.log_dir.clone();
            shared.observe_space().map_err(|source| failed("read the free space", dir, source))?;
            Ok(added)
        }
        Err(PrepareError::NoSpace) => Ok(false),
        Err(PrepareError::Io { path, source }) => Err(failed("prepare a log file", path, source)),
    }
}
