//! A bare log: bodies are copied into one group while the last is written, and whoever sent them is told when theirs is on the disk.

use std::io;
use std::sync::Arc;

use alluvium_runtime::disk::{AlignedBuf, BLOCK_BYTES};
use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use tokio::sync::{Notify, mpsc};

use super::files::Files;
use super::wire;

/// A group has room for so much more than its limit, so that the limit's worth of batches and their heads fit.
const SLACK_BYTES: usize = 256 << 10;
/// The largest group that the network's thread writes itself when the log is idle: a wake of the log's thread costs more.
const INLINE_BYTES_MAX: usize = 64 << 10;
/// From here on the log's thread is woken although more may be about to come.
const WAKE_BYTES: usize = 256 << 10;

/// A log with one stream.
#[derive(Debug)]
pub(super) struct Log {
    group_bytes: usize,
    state: Mutex<State>,
    /// Wakes the log's thread.
    wake: Condvar,
    /// Told when a group has room again.
    room: Notify,
    acks: mpsc::Sender<Bytes>,
}

#[derive(Debug)]
struct State {
    filling: AlignedBuf,
    used: usize,
    /// Messages that were taken in.
    messages: u64,
    spare: Option<AlignedBuf>,
    /// Absent while somebody writes.
    files: Option<Files>,
    sleeps: bool,
    ends: bool,
}

impl Log {
    /// A log over these files; what is durable is told through `acks`.
    pub(super) fn new(files: Files, group_bytes: usize, acks: mpsc::Sender<Bytes>) -> Arc<Self> {
        let buffer = || {
            let mut buffer = AlignedBuf::zeroed(group_bytes + SLACK_BYTES);
            // Touched now, as fresh memory is slow.
            buffer.fill(1);
            buffer
        };
        let state = State {
            filling: buffer(),
            used: 0,
            messages: 0,
            spare: Some(buffer()),
            files: Some(files),
            sleeps: false,
            ends: false,
        };
        Arc::new(Self { group_bytes, state: Mutex::new(state), wake: Condvar::new(), room: Notify::new(), acks })
    }

    /// Copies a body into the group at hand, waiting while there is no room. Cancel safe: it is taken in as a whole, or not.
    pub(super) async fn append(&self, parts: &[Bytes], messages: u32) -> io::Result<()> {
        let bytes: usize = parts.iter().map(Bytes::len).sum();
        if bytes > self.group_bytes {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a blob is larger than a group"));
        }
        loop {
            let room = self.room.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            {
                let mut state = self.state.lock();
                let has_room = state.used < self.group_bytes && state.used + bytes <= state.filling.len();
                if has_room {
                    let mut at = state.used;
                    for part in parts {
                        state.filling[at..at + part.len()].copy_from_slice(part);
                        at += part.len();
                    }
                    state.used = at;
                    state.messages += u64::from(messages);
                    return Ok(());
                }
                self.wake_thread(&state);
            }
            room.await;
        }
    }

    /// Something was taken in; `idle` says that nothing more is about to come at once.
    pub(super) fn kick(&self, idle: bool) -> io::Result<()> {
        let mut state = self.state.lock();
        if state.used == 0 || !(idle || state.used >= WAKE_BYTES) {
            return Ok(());
        }
        if state.used > INLINE_BYTES_MAX || !state.sleeps {
            self.wake_thread(&state);
            return Ok(());
        }
        let (Some(mut files), Some(spare)) = (state.files.take(), state.spare.take()) else { return Ok(()) };
        let mut group = std::mem::replace(&mut state.filling, spare);
        let (bytes, messages) = (std::mem::take(&mut state.used), state.messages);
        drop(state);
        let written = write(&mut files, &mut group, bytes);
        let mut state = self.state.lock();
        state.files = Some(files);
        state.spare = Some(group);
        drop(state);
        written?;
        self.tell(messages);
        Ok(())
    }

    fn wake_thread(&self, state: &State) {
        if state.sleeps {
            self.wake.notify_one();
        }
    }

    fn tell(&self, messages: u64) {
        // Acknowledgements are of all so far, so that one that finds no room is made up for by the next; there is room for more than
        // can be in flight.
        let _ = self.acks.try_send(wire::ack(messages));
    }

    /// Writes groups until the log ends.
    pub(super) fn run(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        loop {
            while state.used == 0 || state.files.is_none() {
                if state.ends {
                    return Ok(());
                }
                state.sleeps = true;
                self.wake.wait(&mut state);
                state.sleeps = false;
            }
            let (Some(mut files), Some(spare)) = (state.files.take(), state.spare.take()) else {
                return Err(io::Error::other("a log's buffer is gone"));
            };
            let mut group = std::mem::replace(&mut state.filling, spare);
            let (bytes, messages) = (std::mem::take(&mut state.used), state.messages);
            drop(state);
            self.room.notify_waiters();
            write(&mut files, &mut group, bytes)?;
            state = self.state.lock();
            state.files = Some(files);
            state.spare = Some(group);
            self.tell(messages);
        }
    }

    /// Ends the log's thread once all is written.
    pub(super) fn end(&self) {
        self.state.lock().ends = true;
        self.wake.notify_one();
    }
}

/// Writes a group, and zeros up to a whole block.
fn write(files: &mut Files, group: &mut AlignedBuf, bytes: usize) -> io::Result<()> {
    let end = bytes.next_multiple_of(BLOCK_BYTES);
    group[bytes..end].fill(0);
    files.append(&group[..end])
}
