//! The server's end of a bare pipeline, in a process of its own.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use alluvium_runtime::lanes::Lanes;
use alluvium_runtime::net;
use alluvium_runtime::tasks::{OnFailure, Tasks};
use bytes::Bytes;
use futures::poll;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tonic::service::Routes;

use super::broker;
use super::files::{Blocks, Files, mode_of};
use super::http::{Bare, Handler, Incoming};
use super::log::Log;
use super::wire::{self, Assembler};

/// Acknowledgements that may wait for the connection.
const ACKS: usize = 1024;
/// A sink acknowledges after so many bytes.
const SINK_ACK_BYTES: usize = 1 << 20;

/// What a part does with what it is sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Part {
    /// Drops it: the transport alone.
    Sink,
    /// Writes it to a log.
    Log {
        /// The folder of its files.
        dir: PathBuf,
        /// Bytes of all of them.
        bytes: u64,
        /// What their blocks have seen.
        blocks: Blocks,
        /// Bytes after which a group takes nothing more.
        group_bytes: usize,
    },
    /// Sends it on to three logs, and acknowledges what two of them have.
    Broker {
        /// Where they are.
        logs: Vec<String>,
    },
}

/// Serves one part on a free port of loopback until the tasks are stopped; where that is.
///
/// # Errors
/// When its files can't be made, or no port is free.
pub async fn serve(part: Part, tasks: &Tasks) -> io::Result<SocketAddr> {
    let handler: Handler = match part {
        Part::Sink => {
            let tasks = tasks.clone();
            Arc::new(move |incoming, acks| task(&tasks, "sink", sink(incoming, acks)))
        }
        Part::Log { dir, bytes, blocks, group_bytes } => {
            let opened = tasks.block(move || Files::open(&dir, bytes, mode_of(&dir)?, blocks)).await?;
            let (tasks, files) = (tasks.clone(), Mutex::new(Some(opened)));
            Arc::new(move |incoming, acks| {
                // A process has one log, and serves one stream.
                let Some(files) = files.lock().take() else { return };
                let log = Log::new(files, group_bytes, acks);
                let thread = Arc::clone(&log);
                tasks.thread("bare-log", OnFailure::ShutDown, move || thread.run());
                task(&tasks, "log", append(incoming, log));
            })
        }
        Part::Broker { logs } => {
            let tasks = tasks.clone();
            Arc::new(move |incoming, acks| {
                let (logs, parts) = (logs.clone(), tasks.clone());
                task(&tasks, "broker", async move { broker::run(incoming, acks, &logs, &parts).await });
            })
        }
    };
    let listener = net::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
    let address = listener.local_addr()?;
    net::serve(
        "bare",
        net::Callers::Servers,
        tasks,
        listener,
        Routes::new(Bare::new(handler, ACKS)),
        &Lanes::start(tasks, "bare", 1)?,
    );
    Ok(address)
}

/// Its failure ends the process, and with it the stream: the client says so.
fn task(tasks: &Tasks, name: &'static str, work: impl Future<Output = io::Result<()>> + Send + 'static) {
    tasks.spawn(name, OnFailure::ShutDown, work);
}

async fn sink(mut incoming: Incoming, acks: mpsc::Sender<Bytes>) -> io::Result<()> {
    let mut assembler = Assembler::default();
    let (mut messages, mut unacked) = (0_u64, 0);
    loop {
        let piece = {
            let mut next = pin!(incoming.next_while_there());
            match poll!(&mut next) {
                Poll::Ready(piece) => piece,
                Poll::Pending => {
                    if std::mem::take(&mut unacked) > 0 {
                        let _ = acks.send(wire::ack(messages)).await;
                    }
                    next.await
                }
            }
        };
        let Some(mut piece) = piece else { return Ok(()) };
        unacked += piece.len();
        while !piece.is_empty() {
            if assembler.take_unread(&mut piece).map_err(io::Error::other)? {
                messages += u64::from(assembler.messages());
                assembler.clear();
            }
        }
        if unacked >= SINK_ACK_BYTES {
            unacked = 0;
            let _ = acks.send(wire::ack(messages)).await;
        }
    }
}

async fn append(mut incoming: Incoming, log: Arc<Log>) -> io::Result<()> {
    let mut assembler = Assembler::default();
    let appended = async {
        loop {
            let piece = {
                let mut next = pin!(incoming.next_while_there());
                match poll!(&mut next) {
                    Poll::Ready(piece) => piece,
                    Poll::Pending => {
                        log.kick(true)?;
                        next.await
                    }
                }
            };
            let Some(mut piece) = piece else { return log.kick(true) };
            while !piece.is_empty() {
                if assembler.take(&mut piece).map_err(io::Error::other)? {
                    log.append(assembler.parts(), assembler.messages()).await?;
                    assembler.clear();
                }
            }
            log.kick(false)?;
        }
    };
    let appended = appended.await;
    log.end();
    appended
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use super::super::client::{self, Load};
    use super::*;

    const BYTES: u64 = 4 << 20;

    fn load(message_size: usize) -> Load {
        Load {
            message_size,
            batch_bytes: 64 << 10,
            window_bytes: 1 << 20,
            rate: 0,
            duration: Duration::from_secs(60),
            bytes_max: BYTES,
            is_blob: false,
        }
    }

    fn log(dir: &Path, group_bytes: usize) -> Part {
        Part::Log { dir: dir.to_owned(), bytes: 2 * BYTES, blocks: Blocks::Fresh, group_bytes }
    }

    async fn url(part: Part, tasks: &Tasks) -> String {
        format!("http://{}", serve(part, tasks).await.expect("served"))
    }

    /// The payloads' marks that stand in the first file, and where the last one ends.
    fn stored(dir: &Path, message_size: usize) -> usize {
        let files = Files::open(dir, 1, mode_of(dir).expect("probed"), Blocks::Recycled).expect("there");
        let mut bytes = alluvium_runtime::disk::AlignedBuf::zeroed(4 * usize::try_from(BYTES).expect("small"));
        files.read_at(0, &mut bytes).expect("readable");
        // What stands before a payload of `a`s: the overhead of its message.
        let mark: Vec<u8> = std::iter::repeat_n(1, 14).chain(std::iter::repeat_n(b'a', message_size / 2)).collect();
        let (mut count, mut at) = (0, 0);
        while at + mark.len() <= bytes.len() {
            if bytes[at..].starts_with(&mark) {
                count += 1;
                at += message_size;
            } else {
                at += 1;
            }
        }
        count
    }

    #[tokio::test]
    async fn what_is_acknowledged_is_in_the_log() {
        let (tasks, _failures) = Tasks::new();
        let dir = tempfile::tempdir().expect("a folder");
        for (folder, window_bytes, group_bytes) in
            [("large", 1 << 20, 4 << 20), ("small", 1 << 20, 64 << 10), ("one", 1, 4 << 20)]
        {
            let folder = dir.path().join(folder);
            let mut load = Load { window_bytes, ..load(1 << 10) };
            if window_bytes == 1 {
                load.bytes_max = 20 << 10;
            }
            let measured = client::run(&url(log(&folder, group_bytes), &tasks).await, load).await.expect("measured");
            assert!(measured.bytes >= load.bytes_max, "{measured:?}");
            assert_eq!(measured.latency.count(), measured.messages);
            assert_eq!(stored(&folder, 1 << 10) as u64, measured.messages);
        }
    }

    #[tokio::test]
    async fn a_rate_is_kept_and_every_message_measured() {
        let (tasks, _failures) = Tasks::new();
        let dir = tempfile::tempdir().expect("a folder");
        let load = Load { rate: 2000, duration: Duration::from_secs(1), ..load(100) };
        let measured = client::run(&url(log(dir.path(), 1 << 20), &tasks).await, load).await.expect("measured");
        let due = 2000.0 * measured.time.as_secs_f64();
        assert!(measured.messages > 0 && measured.messages as f64 <= due + 1.0, "{measured:?}");
        assert_eq!(measured.latency.count(), measured.messages);
        assert_eq!(stored(dir.path(), 100) as u64, measured.messages);
    }

    #[tokio::test]
    async fn a_bare_broker_acknowledges_what_two_of_three_logs_have() {
        let (tasks, _failures) = Tasks::new();
        let dir = tempfile::tempdir().expect("a folder");
        let mut logs = Vec::new();
        for name in ["0", "1", "2"] {
            logs.push(url(log(&dir.path().join(name), 1 << 20), &tasks).await);
        }
        let broker = url(Part::Broker { logs }, &tasks).await;
        let measured = client::run(&broker, load(1 << 10)).await.expect("measured");
        assert!(measured.bytes >= BYTES, "{measured:?}");
        let have = ["0", "1", "2"].iter().filter(|name| stored(&dir.path().join(name), 1 << 10) as u64 == measured.messages);
        assert!(have.count() >= 2);
    }

    #[tokio::test]
    async fn a_sink_takes_all() {
        let (tasks, _failures) = Tasks::new();
        let blobs = Load { batch_bytes: 256 << 10, is_blob: true, ..load(256 << 10) };
        let measured = client::run(&url(Part::Sink, &tasks).await, blobs).await.expect("measured");
        assert_eq!(measured.bytes, BYTES);
    }
}
