//! The client's end of a bare pipeline: messages are copied into batches, as a client of the product copies them, and measured from
//! when they were meant to be sent to when their acknowledgement came.

use std::collections::VecDeque;
use std::io;
use std::pin::pin;
use std::time::Duration;

use alluvium_runtime::clock::Clock;
use alluvium_runtime::ticker::Ticker;
use alluvium_types::checksum::Crc32c;
use alluvium_types::time::Mono;
use bytes::{BufMut, Bytes, BytesMut};
use futures::poll;
use tokio::sync::mpsc;

use super::http::{self, Incoming};
use super::wire::{self, Acks, HEAD_BYTES};
use crate::latency::Latencies;
use crate::ns;
use crate::schedule::Schedule;

/// What a message costs beside its payload.
const MESSAGE_OVERHEAD_BYTES: usize = 14;
/// How long nothing may be acknowledged before a run is given up.
const STALL_LIMIT: Duration = Duration::from_secs(30);

/// A load on a bare pipeline.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Load {
    /// Bytes of a message's payload.
    pub message_size: usize,
    /// Bytes at which a batch is closed.
    pub batch_bytes: usize,
    /// The most bytes in flight; at least one message goes.
    pub window_bytes: usize,
    /// Messages a second, when they are due; 0 for as many as go.
    pub rate: u64,
    /// How long it goes on at most.
    pub duration: Duration,
    /// Payload after which it ends before.
    pub bytes_max: u64,
    /// Whether one batch is sent over and over, so that the transport alone is measured.
    pub is_blob: bool,
}

/// What it came to.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    /// Messages that were acknowledged.
    pub messages: u64,
    /// Their payload.
    pub bytes: u64,
    /// In what time.
    pub time: Duration,
    /// From when a message was meant to be sent to its acknowledgement.
    pub latency: Latencies,
}

impl Measured {
    /// Messages a second.
    pub fn rate(&self) -> f64 {
        self.messages as f64 / self.time.as_secs_f64().max(1e-9)
    }

    /// Megabytes of payload a second.
    pub fn megabytes(&self) -> f64 {
        self.bytes as f64 / 1e6 / self.time.as_secs_f64().max(1e-9)
    }
}

/// Messages that were meant to be sent at one time.
struct Burst {
    /// The number of messages up to its last.
    end: u64,
    since: Mono,
}

struct Client {
    load: Load,
    clock: Clock,
    outgoing: mpsc::Sender<Bytes>,
    payload: Vec<u8>,
    batch: BytesMut,
    batched: u32,
    /// A batch that is sent over and over.
    blob: Option<Bytes>,
    sent: u64,
    acked: u64,
    bursts: VecDeque<Burst>,
    measured: Measured,
}

/// Puts a load on the part at `url`.
pub(super) async fn run(url: &str, load: Load) -> io::Result<Measured> {
    let per_batch = load.per_batch();
    // The window, not the queue, is the bound that is met.
    let queue = load.window_bytes / load.batch_bytes.min(load.window_bytes).max(1) + 64;
    let (outgoing, mut incoming) = http::open(url, queue * 2).await?;
    let half = load.message_size / 2;
    let mixed = (0_u32..).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0]);
    let payload: Vec<u8> = std::iter::repeat_n(b'a', load.message_size - half).chain(mixed.take(half)).collect();
    let clock = Clock::system();
    let mut client = Client {
        load,
        outgoing,
        payload,
        batch: BytesMut::new(),
        batched: 0,
        blob: None,
        sent: 0,
        acked: 0,
        bursts: VecDeque::new(),
        measured: Measured::default(),
        clock,
    };
    let begin = client.clock.mono();
    let end = begin.after(load.duration);
    let mut acks = Acks::default();
    if load.rate == 0 {
        client.saturate(&mut incoming, &mut acks, per_batch, end).await?;
    } else {
        client.on_schedule(&mut incoming, &mut acks, begin, end).await?;
    }
    while client.acked < client.sent {
        client.wait(&mut incoming, &mut acks).await?;
    }
    client.measured.time = client.clock.mono().since(begin);
    Ok(client.measured)
}

impl Load {
    /// Messages of a full batch.
    fn per_batch(&self) -> u64 {
        let bytes = self.batch_bytes.min(self.window_bytes);
        (bytes / (self.message_size + MESSAGE_OVERHEAD_BYTES)).max(1) as u64
    }

    /// The most messages in flight.
    fn in_flight_max(&self) -> u64 {
        (self.window_bytes / (self.message_size + MESSAGE_OVERHEAD_BYTES)).max(1) as u64
    }
}

impl Client {
    async fn saturate(&mut self, incoming: &mut Incoming, acks: &mut Acks, per_batch: u64, end: Mono) -> io::Result<()> {
        let in_flight_max = self.load.in_flight_max();
        let sent_max = self.load.bytes_max / self.load.message_size as u64;
        while self.sent < sent_max {
            let now = self.clock.mono();
            if now >= end {
                break;
            }
            if self.sent - self.acked + per_batch <= in_flight_max {
                for _ in 0..per_batch {
                    self.add();
                }
                self.close(per_batch, now).await?;
                // Acknowledgements that are there are taken without waiting for more.
                let next = pin!(incoming.next());
                if let std::task::Poll::Ready(piece) = poll!(next) {
                    self.take(piece, acks)?;
                }
                tokio::task::yield_now().await;
            } else {
                self.wait(incoming, acks).await?;
            }
        }
        Ok(())
    }

    async fn on_schedule(&mut self, incoming: &mut Incoming, acks: &mut Acks, begin: Mono, end: Mono) -> io::Result<()> {
        let tick = crate::workload::TICK_MIN;
        let (mut schedule, mut ticker) = (Schedule::new(self.load.rate, tick), Ticker::every(tick)?);
        let (per_batch, in_flight_max) = (self.load.per_batch(), self.load.in_flight_max());
        while self.clock.mono() < end {
            tokio::select! {
                biased;
                piece = incoming.next() => self.take(piece, acks)?,
                ticked = ticker.tick() => { ticked?; }
            }
            while self.sent - self.acked < in_flight_max
                && let Some(due) = schedule.next(ns(self.clock.mono().since(begin)))
            {
                let since = begin.after(Duration::from_nanos(due.intended_ns));
                for _ in 0..due.count {
                    self.add();
                    if u64::from(self.batched) >= per_batch {
                        self.close(self.batched.into(), since).await?;
                    }
                }
                self.bursts.push_back(Burst { end: self.sent + u64::from(self.batched), since });
            }
            // At once when nothing is in flight; together with what comes meanwhile when something is.
            if self.batched > 0 && self.sent == self.acked {
                self.close_without_burst().await?;
            }
        }
        self.close_without_burst().await
    }

    /// Copies one message into the batch.
    fn add(&mut self) {
        if self.blob.is_some() {
            return;
        }
        if self.batch.is_empty() {
            let bytes = self.load.batch_bytes.min(self.load.window_bytes) + self.load.message_size + HEAD_BYTES;
            self.batch.reserve(bytes);
            self.batch.put_bytes(0, HEAD_BYTES);
        }
        self.batch.put_bytes(1, MESSAGE_OVERHEAD_BYTES);
        self.batch.put_slice(&self.payload);
        self.batched += 1;
    }

    async fn close(&mut self, messages: u64, since: Mono) -> io::Result<()> {
        self.bursts.push_back(Burst { end: self.sent + messages, since });
        self.close_without_burst().await
    }

    async fn close_without_burst(&mut self) -> io::Result<()> {
        let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        if let Some(blob) = &self.blob {
            self.sent += self.load.per_batch();
            return self.outgoing.send(blob.clone()).await.map_err(gone);
        }
        if self.batched == 0 {
            return Ok(());
        }
        let sum = Crc32c::of(&self.batch[HEAD_BYTES..]);
        let head = wire::head(self.batched, sum, self.batch.len() - HEAD_BYTES);
        self.batch[..HEAD_BYTES].copy_from_slice(&head);
        self.sent += u64::from(std::mem::take(&mut self.batched));
        let batch = self.batch.split().freeze();
        if self.load.is_blob {
            self.blob = Some(batch.clone());
        }
        self.outgoing.send(batch).await.map_err(gone)
    }

    async fn wait(&mut self, incoming: &mut Incoming, acks: &mut Acks) -> io::Result<()> {
        let piece = self.clock.timeout(STALL_LIMIT, incoming.next()).await;
        self.take(piece.map_err(|late| io::Error::new(io::ErrorKind::TimedOut, late))?, acks)
    }

    fn take(&mut self, piece: Option<io::Result<Bytes>>, acks: &mut Acks) -> io::Result<()> {
        let mut piece =
            piece.ok_or_else(|| io::Error::new(io::ErrorKind::UnexpectedEof, "the bare server ended the stream"))??;
        let Some(acked) = acks.take(&mut piece) else { return Ok(()) };
        let now = self.clock.mono();
        self.measured.messages += acked - self.acked;
        self.measured.bytes += (acked - self.acked) * self.load.message_size as u64;
        while let Some(burst) = self.bursts.front() {
            let done = burst.end.min(acked) - self.acked;
            self.measured.latency.record(ns(now.since(burst.since)), done);
            self.acked += done;
            if burst.end > acked {
                break;
            }
            self.bursts.pop_front();
        }
        self.acked = acked;
        Ok(())
    }
}

/// How many bytes a log holds for each byte of payload.
pub(super) fn on_disk(message_size: usize) -> f64 {
    (message_size + MESSAGE_OVERHEAD_BYTES) as f64 / message_size as f64
}
