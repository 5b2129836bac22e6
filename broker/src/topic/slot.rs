//! One ledger's writer as the owner's shell holds it: appends keep their order, whatever waits for room.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use alluvium_ledger::client::{Append, AppendError, End, LedgerWriter};
use alluvium_types::checksum::Crc32c;
use alluvium_types::ids::EntryId;
use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt};
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::sync::watch;

/// What happened to a ledger.
#[derive(Debug)]
pub(super) enum SlotEvent {
    /// Entries up to this one are each on one disk at least.
    Led(EntryId),
    /// Entries up to this one are confirmed.
    Confirmed(EntryId),
    /// This entry is larger than the writer takes.
    TooLarge(EntryId),
    /// The writer has ended; all it confirmed was said before.
    Ended(Arc<End>),
}

struct Entry {
    body: Bytes,
    body_crc: Crc32c,
    has_leaders: bool,
}

/// A writer. See the module.
pub(super) struct Slot {
    writer: LedgerWriter,
    lac: watch::Receiver<Option<EntryId>>,
    told: Option<EntryId>,
    ended: Option<BoxFuture<'static, Arc<End>>>,
    end: Option<Arc<End>>,
    unsent: VecDeque<Entry>,
    sending: Option<(BoxFuture<'static, Result<Append, AppendError>>, bool)>,
    taken: EntryId,
    too_large: Option<EntryId>,
    leads: FuturesUnordered<BoxFuture<'static, Option<EntryId>>>,
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Slot({:?}, {} unsent)", self.writer.ledger(), self.unsent.len())
    }
}

impl Slot {
    pub(super) fn new(writer: LedgerWriter) -> Self {
        let ended = writer.clone();
        Self {
            lac: writer.follow_lac(),
            told: None,
            ended: Some(async move { ended.ended().await }.boxed()),
            end: None,
            unsent: VecDeque::new(),
            sending: None,
            taken: EntryId::ZERO,
            too_large: None,
            leads: FuturesUnordered::new(),
            writer,
        }
    }

    pub(super) const fn writer(&self) -> &LedgerWriter {
        &self.writer
    }

    /// Appends behind all earlier ones.
    pub(super) fn append(&mut self, body: Bytes, body_crc: Crc32c, has_leaders: bool) {
        self.unsent.push_back(Entry { body, body_crc, has_leaders });
        self.send();
    }

    fn send(&mut self) {
        while self.sending.is_none()
            && let Some(Entry { body, body_crc, has_leaders }) = self.unsent.pop_front()
        {
            match self.writer.append(body.clone(), body_crc) {
                Err(AppendError::Busy) => {
                    let writer = self.writer.clone();
                    let wait = async move { writer.append_in_turn(body, body_crc).await };
                    self.sending = Some((wait.boxed(), has_leaders));
                }
                outcome => self.sent(outcome, has_leaders),
            }
        }
    }

    fn sent(&mut self, outcome: Result<Append, AppendError>, has_leaders: bool) {
        match outcome {
            Ok(mut append) => {
                self.taken = self.taken.next();
                if has_leaders {
                    self.leads.push(append.leader().map(Result::ok).boxed());
                }
            }
            Err(AppendError::TooLarge { .. }) => self.too_large = Some(self.taken),
            // Its end says why.
            Err(AppendError::Ended | AppendError::Busy) => self.unsent.clear(),
        }
    }

    /// The next thing that happens. Cancel safe.
    pub(super) async fn next(&mut self) -> SlotEvent {
        loop {
            if let Some(entry) = self.too_large.take() {
                return SlotEvent::TooLarge(entry);
            }
            let lac = *self.lac.borrow_and_update();
            if let Some(entry) = lac.filter(|_| self.told < lac) {
                self.told = lac;
                return SlotEvent::Confirmed(entry);
            }
            if let Some(end) = self.end.take() {
                return SlotEvent::Ended(end);
            }
            let ended = async {
                match &mut self.ended {
                    Some(ended) => ended.await,
                    None => std::future::pending().await,
                }
            };
            let sending = async {
                match &mut self.sending {
                    Some((sending, has_leaders)) => (sending.await, *has_leaders),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                (outcome, has_leaders) = sending => {
                    self.sending = None;
                    self.sent(outcome, has_leaders);
                    self.send();
                }
                Ok(()) = self.lac.changed() => {}
                Some(led) = self.leads.next(), if !self.leads.is_empty() => {
                    if let Some(entry) = led {
                        return SlotEvent::Led(entry);
                    }
                }
                end = ended => {
                    self.ended = None;
                    self.end = Some(end);
                }
            }
        }
    }
}
