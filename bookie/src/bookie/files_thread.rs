//! The thread that has the disk when the log thread must not wait: it offers the next file, writes footers, lets dead files go
//! and reads how much room there is.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::shared::{Life, Shared};
use crate::log::PrepareError;

/// How often it looks without being asked.
const TICK: Duration = Duration::from_millis(500);

/// The disk failed beside the log: as fatal as a failed group (B8).
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} in {dir:?}")]
pub(crate) struct FilesFailed {
    pub(super) what: &'static str,
    pub(super) dir: PathBuf,
    pub(super) source: io::Error,
}

/// Works until the log thread has ended.
pub(crate) fn run(shared: &Shared) -> Result<(), FilesFailed> {
    loop {
        let worked = round(shared);
        if let Err(failed) = worked {
            shared.state.lock().store.writer_mut().fail();
            shared.end(Life::Dead);
            return Err(failed);
        }
        let mut state = shared.state.lock();
        if state.life == Life::Dead {
            return Ok(());
        }
        if !state.files_wanted {
            shared.files_wake.wait_for(&mut state, TICK);
        }
        state.files_wanted = false;
    }
}

fn round(shared: &Shared) -> Result<(), FilesFailed> {
    let failed = |what| move |source| FilesFailed { what, dir: shared.log_dir.clone(), source };
    offer_file(shared)?;
    loop {
        let (seal, release) = {
            let mut state = shared.state.lock();
            (state.store.writer_mut().take_seal(), state.releases.pop_front())
        };
        if seal.is_none() && release.is_none() {
            break;
        }
        if let Some(seal) = seal {
            shared.files.write_seal(&seal).map_err(failed("write the footer of a log file"))?;
        }
        if let Some(release) = release {
            let released = shared.files.release(release).map_err(failed("let a log file go"))?;
            shared.state.lock().store.released(released);
            shared.metrics.files_released.inc();
            offer_file(shared)?;
        }
    }
    shared.observe_space().map_err(failed("read the free space"))
}

/// Prepares the next file where one is wanted. A full disk is an answer: what needs a file is refused until there is one.
fn offer_file(shared: &Shared) -> Result<(), FilesFailed> {
    if !shared.state.lock().store.wants_file() {
        return Ok(());
    }
    // Before the file is taken from the reserve, so that it is taken for what is essential.
    shared.observe_space().map_err(|source| FilesFailed { what: "read the free space", dir: shared.log_dir.clone(), source })?;
    let prepared = shared.files.prepare_next();
    let mut state = shared.state.lock();
    match prepared {
        Ok(file) => state.store.offer(file),
        Err(PrepareError::NoSpace) => state.store.out_of_files(),
        Err(PrepareError::Io { path, source }) => {
            return Err(FilesFailed { what: "prepare a log file", dir: path, source });
        }
    }
    // The log thread may wait for the file, and askers for either answer.
    state.log_sleeps = false;
    drop(state);
    shared.log_wakes.notify_one();
    shared.room.notify_waiters();
    Ok(())
}
