//! The one thread that writes groups: a group as soon as the disk is free, so it adds no delay when idle and larger groups when
//! busy.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use alluvium_types::bookie::Refusal;

use super::shared::{Life, Shared};
use super::waiters;
use crate::log::{GroupWrite, Mark};

/// A group was not made durable. Nothing more is acknowledged; the process ends (B8).
#[derive(Debug, thiserror::Error)]
#[error("the log in {dir:?} failed")]
pub(crate) struct LogFailed {
    dir: PathBuf,
    source: io::Error,
}

/// Writes groups until the bookie ends.
pub(crate) fn run(shared: &Shared) -> Result<(), LogFailed> {
    while let Some(write) = next_group(shared) {
        shared.room.notify_waiters();
        let bytes = write.bytes().len();
        let begun = shared.clock.mono();
        let written = shared.files.write(&write);
        let took = shared.clock.mono().since(begun);
        if written.is_ok() {
            shared.reader.wrote(&write);
        }
        let durable = {
            let mut state = shared.state.lock();
            match written {
                Ok(()) => {
                    let durable = state.store.complete(write);
                    shared.want_file(&mut state);
                    Ok(state.waiters.take(durable))
                }
                Err(error) => {
                    state.store.complete_failed(write, &error);
                    Err((state.waiters.take_all(), error))
                }
            }
        };
        match durable {
            Ok(told) => {
                shared.metrics.groups.inc();
                #[expect(clippy::cast_precision_loss, reason = "a group has some MiB")]
                shared.metrics.group_bytes.observe(bytes as f64);
                shared.metrics.sync_seconds.observe(took.as_secs_f64());
                waiters::tell(told, Ok(()));
            }
            Err((told, source)) => {
                waiters::tell(told, Err(Refusal::Stopping));
                shared.end(Life::Dead);
                return Err(LogFailed { dir: shared.log_dir.clone(), source });
            }
        }
    }
    shared.end(Life::Dead);
    Ok(())
}

/// Waits for the next group to write; `None` at the end.
fn next_group(shared: &Shared) -> Option<GroupWrite> {
    let idle_mark = Duration::from_millis(shared.config.idle_mark_ms);
    let mut marked_shutdown = false;
    let mut state = shared.state.lock();
    loop {
        if state.life == Life::Dead {
            return None;
        }
        if let Some(write) = state.store.begin() {
            return Some(write);
        }
        if state.life == Life::Draining && !state.store.writer().has_work() {
            if marked_shutdown || state.store.writer().is_failed() {
                return None;
            }
            marked_shutdown = true;
            state.store.writer_mut().mark(Mark::Shutdown);
            continue;
        }
        state.log_sleeps = true;
        if state.store.writer().is_unmarked() {
            // What was written last is sealed once the log has been idle for a while (C59).
            if shared.log_wakes.wait_for(&mut state, idle_mark).timed_out() && state.log_sleeps {
                state.store.writer_mut().mark(Mark::Idle);
            }
        } else {
            shared.log_wakes.wait(&mut state);
        }
        state.log_sleeps = false;
    }
}
