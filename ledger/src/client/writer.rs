//! The handle of a ledger's writer, and the task that owns the machine.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use alluvium_metadata::Versioned;
use alluvium_runtime::budget::{ByteBudget, BytesHeld};
use alluvium_runtime::tasks::{OnFailure, Tasks};
use alluvium_types::checksum::Crc32c;
use alluvium_types::ids::{EntryId, LedgerId};
use alluvium_types::ledger::LedgerMetadata;
use alluvium_types::time::Mono;
use bytes::Bytes;
use tokio::sync::{mpsc, oneshot, watch};

use crate::call::Machine;
use crate::drive::Drive;
use crate::metrics::Metrics;
use crate::writer::{AppendRefusal, Death, HandBack, HandedBack, Notice, Writer};

/// The most entries that wait for the task to take them.
const QUEUE_ENTRIES: usize = 1024;

/// Writes one ledger. A cheap handle; when the last one is dropped, what was taken is finished and the ledger is left open, for a
/// recovery to close.
#[derive(Clone, Debug)]
pub struct LedgerWriter {
    ledger: LedgerId,
    entry_bytes_max: usize,
    commands: mpsc::Sender<Command>,
    /// Whether a close was asked for: what comes after it is refused at once.
    closing: Arc<AtomicBool>,
    budget: ByteBudget,
    lac: watch::Receiver<Option<EntryId>>,
    record: watch::Receiver<Versioned<LedgerMetadata>>,
    end: watch::Receiver<Option<Arc<End>>>,
}

/// Why an entry was not taken. It has no effect, and never will.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// Too much is on its way; there is room again once some of it has left. Wait with [`LedgerWriter::append_in_turn`].
    #[error("too much is on its way")]
    Busy,
    /// Larger than an entry may be, for good (C36).
    #[error("the entry has {bytes} bytes, the limit is {limit}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The ledger takes nothing more: [`LedgerWriter::ended`] says why.
    #[error("the ledger takes no more entries")]
    Ended,
}

impl AppendError {
    /// Whether the same call may succeed later.
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Busy => true,
            Self::TooLarge { .. } | Self::Ended => false,
        }
    }
}

/// An entry is on the disks of an ack quorum, as is every earlier one (L1, L2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Confirmed {
    /// Its id.
    pub entry: EntryId,
}

/// What became of an entry that was taken and not confirmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unconfirmed {
    /// It is not part of the ledger, which is closed before it; a writer that ended by itself has it in its [`End`], to be
    /// appended elsewhere (C63).
    #[error("the ledger ended before the entry")]
    HandedBack,
    /// It may be part of the ledger or not: a recovery decides.
    #[error("the outcome of the entry is not known")]
    Unknown,
}

/// An entry on its way. Resolves in the order of appends. Dropping it does not undo the append.
#[must_use = "an append is confirmed when this resolves, not before"]
#[derive(Debug)]
pub struct Append {
    led: Option<oneshot::Receiver<EntryId>>,
    confirmed: oneshot::Receiver<Result<Confirmed, Unconfirmed>>,
}

/// How a writer ended.
#[derive(Debug)]
pub enum End {
    /// It closed its ledger, as it was asked to. Everything that was taken is confirmed.
    Closed(Versioned<LedgerMetadata>),
    /// It closed its ledger at the last confirmed entry, because it could not go on (C63, C36).
    HandedBack {
        /// The closed ledger.
        record: Versioned<LedgerMetadata>,
        /// Why.
        why: HandBack,
        /// What comes after its last entry, in order.
        entries: Vec<HandedBack>,
    },
    /// It is not the writer any more, or can't know: the ledger needs a recovery.
    Lost(Lost),
}

/// Why a writer is not one any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lost {
    /// The protocol says so (L4).
    Dead(Death),
    /// The process is stopping, or nobody holds the writer.
    Left,
}

enum Command {
    Append(Taken),
    Close,
}

/// An entry that waits for its turn.
struct Taken {
    body: Bytes,
    body_crc: Crc32c,
    led: oneshot::Sender<EntryId>,
    confirmed: oneshot::Sender<Result<Confirmed, Unconfirmed>>,
}

/// A body whose share of the budget goes back when its last copy is released, wherever that is (Q6).
struct Counted {
    body: Bytes,
    #[expect(dead_code, reason = "held for its drop")]
    held: BytesHeld,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.body
    }
}

impl LedgerWriter {
    /// Which ledger.
    pub const fn ledger(&self) -> LedgerId {
        self.ledger
    }

    /// Takes an entry whose body has the checksum `body_crc`; entries get their ids in the order of these calls. The body is shared,
    /// not copied, and counted until its last copy is released.
    pub fn append(&self, body: Bytes, body_crc: Crc32c) -> Result<Append, AppendError> {
        self.check(&body)?;
        let held = self.budget.try_take(body.len()).ok_or(AppendError::Busy)?;
        let (command, append) = Self::command(body, body_crc, held);
        match self.commands.try_send(command) {
            Ok(()) => Ok(append),
            Err(mpsc::error::TrySendError::Full(_)) => Err(AppendError::Busy),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(AppendError::Ended),
        }
    }

    /// The same, but waits for room. Not cancel safe towards order: of two calls at once, either may come first. A call dropped
    /// before it resolves took nothing.
    pub async fn append_in_turn(&self, body: Bytes, body_crc: Crc32c) -> Result<Append, AppendError> {
        self.check(&body)?;
        let held = tokio::select! {
            biased;
            held = self.budget.take(body.len()) => held,
            () = self.commands.closed() => return Err(AppendError::Ended),
        };
        let (command, append) = Self::command(body, body_crc, held);
        match self.commands.send(command).await {
            Ok(()) => Ok(append),
            Err(mpsc::error::SendError(_)) => Err(AppendError::Ended),
        }
    }

    fn check(&self, body: &Bytes) -> Result<(), AppendError> {
        if body.len() > self.entry_bytes_max {
            return Err(AppendError::TooLarge { bytes: body.len(), limit: self.entry_bytes_max });
        }
        let ended = self.commands.is_closed() || self.closing.load(Ordering::Relaxed);
        if ended { Err(AppendError::Ended) } else { Ok(()) }
    }

    fn command(body: Bytes, body_crc: Crc32c, held: BytesHeld) -> (Command, Append) {
        let (led_tx, led) = oneshot::channel();
        let (confirmed_tx, confirmed) = oneshot::channel();
        let body = Bytes::from_owner(Counted { body, held });
        let taken = Taken { body, body_crc, led: led_tx, confirmed: confirmed_tx };
        (Command::Append(taken), Append { led: Some(led), confirmed })
    }

    /// The last entry that is confirmed.
    pub fn lac(&self) -> Option<EntryId> {
        *self.lac.borrow()
    }

    /// Follows the LAC.
    pub fn follow_lac(&self) -> watch::Receiver<Option<EntryId>> {
        self.lac.clone()
    }

    /// The ledger's record as this writer last changed it: what it is read by, with the LAC.
    pub fn record(&self) -> Versioned<LedgerMetadata> {
        self.record.borrow().clone()
    }

    /// Bytes on their way: unconfirmed, or owed by a bookie.
    pub fn bytes_held(&self) -> usize {
        self.budget.held()
    }

    /// Takes no more entries, confirms those that were taken, and closes the ledger. Resolves with [`LedgerWriter::ended`]. Cancel
    /// safe: once asked for, the close goes on.
    pub async fn close(&self) -> Arc<End> {
        self.closing.store(true, Ordering::Relaxed);
        // An error means that it has ended.
        let _ = self.commands.send(Command::Close).await;
        self.ended().await
    }

    /// Resolves once the writer has ended, however. Cancel safe.
    pub async fn ended(&self) -> Arc<End> {
        let mut end = self.end.clone();
        match end.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(end)) => Arc::clone(end),
            // The task is gone without a word: only when the runtime is torn down.
            Ok(None) | Err(_) => Arc::new(End::Lost(Lost::Left)),
        }
    }
}

impl Append {
    /// Resolves once this entry and every earlier unconfirmed one are each on at least one disk: the LEADER promise. Asked for once.
    pub fn leader(&mut self) -> impl Future<Output = Result<EntryId, Unconfirmed>> + Send + 'static + use<> {
        let led = self.led.take();
        async move {
            match led {
                Some(led) => led.await.map_err(|_| Unconfirmed::Unknown),
                None => Err(Unconfirmed::Unknown),
            }
        }
    }
}

impl Future for Append {
    type Output = Result<Confirmed, Unconfirmed>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.confirmed).poll(cx).map(|outcome| outcome.unwrap_or(Err(Unconfirmed::Unknown)))
    }
}

/// Starts the task of a writer.
pub(super) fn spawn(drive: Drive<Writer>, tasks: &Tasks, bytes_max: usize, metrics: Metrics) -> LedgerWriter {
    let record = drive.known.clone().expect("a writer begins with its record");
    let ledger = record.value.ledger;
    let (commands, queue) = mpsc::channel(QUEUE_ENTRIES);
    let (lac_tx, lac) = watch::channel(None);
    let (record_tx, record) = watch::channel(record);
    let (end_tx, end) = watch::channel(None);
    let entry_bytes_max = drive.machine.entry_bytes_max();
    let task = Task {
        drive,
        queue,
        closing: false,
        waiting: VecDeque::new(),
        lac: lac_tx,
        record: record_tx,
        end: end_tx,
        metrics,
        under_replicated: false,
    };
    let stop = tasks.clone();
    tasks.spawn(format!("ledger-{ledger}"), OnFailure::Log, async move {
        task.run(&stop).await;
        Ok::<(), Infallible>(())
    });
    let (closing, budget) = (Arc::default(), ByteBudget::new(bytes_max));
    LedgerWriter { ledger, entry_bytes_max, commands, closing, budget, lac, record, end }
}

/// Who waits for an entry.
struct Waiting {
    entry: EntryId,
    since: Mono,
    led: Option<oneshot::Sender<EntryId>>,
    confirmed: oneshot::Sender<Result<Confirmed, Unconfirmed>>,
}

struct Task {
    drive: Drive<Writer>,
    queue: mpsc::Receiver<Command>,
    closing: bool,
    waiting: VecDeque<Waiting>,
    lac: watch::Sender<Option<EntryId>>,
    record: watch::Sender<Versioned<LedgerMetadata>>,
    end: watch::Sender<Option<Arc<End>>>,
    metrics: Metrics,
    /// Whether it counts as such in the figures.
    under_replicated: bool,
}

impl Task {
    async fn run(mut self, stop: &Tasks) {
        self.metrics.writers.inc();
        self.count_replication();
        let end = loop {
            self.drive.act();
            if let Some(end) = self.tell() {
                break end;
            }
            let idle = self.waiting.is_empty();
            let takes = self.drive.machine.has_room() && !self.closing;
            tokio::select! {
                biased;
                () = self.drive.next() => {}
                command = self.queue.recv(), if takes => match command {
                    Some(command) => self.obey(command),
                    None if idle => break End::Lost(Lost::Left),
                    None => self.closing = true,
                },
                () = stop.stopping() => break End::Lost(Lost::Left),
            }
            if self.closing && self.queue.is_closed() && self.waiting.is_empty() && !self.drive.machine.is_closing() {
                break End::Lost(Lost::Left);
            }
        };
        self.finish(end);
    }

    fn obey(&mut self, command: Command) {
        let now = self.drive.world.clock.mono();
        match command {
            Command::Close => {
                self.closing = true;
                self.drive.machine.close(now);
            }
            Command::Append(Taken { body, body_crc, led, confirmed }) => match self.drive.machine.append(now, body, body_crc) {
                Ok(entry) => self.waiting.push_back(Waiting { entry, since: now, led: Some(led), confirmed }),
                // The handle checked the size, and this task the room.
                Err(refusal @ (AppendRefusal::Ended | AppendRefusal::Full | AppendRefusal::TooLarge { .. })) => {
                    debug_assert!(false, "{refusal}");
                    let _ = confirmed.send(Err(Unconfirmed::Unknown));
                }
            },
        }
    }

    /// Tells everybody what the machine said; the end, if that was its last word.
    fn tell(&mut self) -> Option<End> {
        while let Some(notice) = self.drive.machine.poll_notice() {
            match notice {
                Notice::Led { up_to } => {
                    for waiting in self.waiting.iter_mut().take_while(|waiting| waiting.entry <= up_to) {
                        if let Some(led) = waiting.led.take() {
                            // Few ask.
                            let _ = led.send(waiting.entry);
                        }
                    }
                }
                Notice::Confirmed { up_to } => {
                    self.lac.send_replace(Some(up_to));
                    let now = self.drive.world.clock.mono();
                    while let Some(waiting) = self.waiting.pop_front_if(|waiting| waiting.entry <= up_to) {
                        let entry = waiting.entry;
                        self.metrics.confirmed.inc();
                        self.metrics.confirm_seconds.observe(now.since(waiting.since).as_secs_f64());
                        if let Some(led) = waiting.led {
                            let _ = led.send(entry);
                        }
                        let _ = waiting.confirmed.send(Ok(Confirmed { entry }));
                    }
                }
                Notice::Changed(_) => {
                    self.metrics.record_changes.inc();
                    let before = self.record.borrow().value.last_fragment().ensemble.clone();
                    if self.publish_record().value.last_fragment().ensemble != before {
                        self.metrics.ensemble_changes.inc();
                    }
                    self.count_replication();
                }
                Notice::Closed { hand_back, .. } => {
                    let record = self.publish_record();
                    return Some(match hand_back {
                        None => End::Closed(record),
                        Some((why, entries)) => End::HandedBack { record, why, entries },
                    });
                }
                Notice::Died { death, .. } => return Some(End::Lost(Lost::Dead(death))),
            }
        }
        None
    }

    fn publish_record(&mut self) -> Versioned<LedgerMetadata> {
        let known = self.drive.known.clone().expect("a writer begins with its record");
        self.record.send_replace(known.clone());
        known
    }

    fn count_replication(&mut self) {
        let now = self.drive.machine.record().metadata.is_under_replicated();
        let before = std::mem::replace(&mut self.under_replicated, now);
        self.metrics.writers_under_replicated.inc_by(i64::from(now) - i64::from(before));
    }

    fn finish(mut self, mut end: End) {
        self.metrics.writers.dec();
        self.metrics.writers_under_replicated.dec_by(i64::from(self.under_replicated));
        self.queue.close();
        let mut untaken = Vec::new();
        while let Ok(command) = self.queue.try_recv() {
            if let Command::Append(taken) = command {
                untaken.push(taken);
            }
        }
        if let End::HandedBack { entries, .. } = &mut end {
            // What had not had its turn comes after the rest, and is as little part of the ledger.
            let mut next = self.drive.machine.next_entry();
            for taken in &untaken {
                entries.push(HandedBack { entry: next, body: taken.body.clone(), body_crc: taken.body_crc });
                next = next.next();
            }
        }
        let ledger = self.drive.machine.record().metadata.ledger;
        let outcome = match &end {
            End::Closed(_) => {
                tracing::debug!(%ledger, "the writer closed its ledger");
                Unconfirmed::HandedBack
            }
            End::HandedBack { why, entries, .. } => {
                self.metrics.handed_back.inc();
                tracing::warn!(%ledger, ?why, entries = entries.len(), "the writer closed its ledger and handed entries back");
                Unconfirmed::HandedBack
            }
            End::Lost(Lost::Dead(death)) => {
                self.metrics.lost.inc();
                tracing::warn!(%ledger, ?death, "the writer has lost its ledger");
                Unconfirmed::Unknown
            }
            End::Lost(Lost::Left) => {
                tracing::info!(%ledger, "the writer leaves its ledger open");
                Unconfirmed::Unknown
            }
        };
        // Who sees an outcome finds the end as well.
        self.end.send_replace(Some(Arc::new(end)));
        let confirmations = self.waiting.into_iter().map(|waiting| waiting.confirmed);
        for confirmed in confirmations.chain(untaken.into_iter().map(|taken| taken.confirmed)) {
            let _ = confirmed.send(Err(outcome));
        }
    }
}
