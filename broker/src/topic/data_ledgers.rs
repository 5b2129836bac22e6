//! What the log wants, done: ledgers are created and listed, written, closed, sealed and trimmed, under the owner's claim.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use alluvium_ledger::client::{End, NewLedger, Predecessor, PrepareError, Prepared};
use alluvium_ledger::writer::HandBack;
use alluvium_metadata::segments::{Sealed, Segment, SegmentNumber};
use alluvium_metadata::{UpdateError, Versioned};
use alluvium_types::ids::{EntryId, LedgerId, Offset};
use alluvium_types::ledger::{LedgerClass, LedgerMetadata};
use alluvium_types::replication::Replication;
use futures::future::{BoxFuture, FutureExt};
use futures::stream::{self, FuturesUnordered, StreamExt};

use super::log::LogAction;
use super::owner::Lost;
use super::reader::{Readable, ReadableSegment};
use super::slot::{Slot, SlotEvent};
use crate::broker::Context;
use crate::error::{chain, may_create_again, still_owner};
use crate::ownership::Claim;

/// Of how many ledgers bookies are told at a time that they are deleted.
const DROPS_AT_ONCE: usize = 16;
/// How long telling them may take in all.
pub(super) const DROPS_PATIENCE: Duration = Duration::from_secs(5);

/// What happened.
#[derive(Debug)]
pub(super) enum DataEvent {
    Created(bool),
    Led(EntryId),
    Confirmed(EntryId),
    Closed,
    Sealed(SegmentNumber),
    Trimmed(Vec<SegmentNumber>),
    Lost(Lost),
}

type Listed = (Prepared, Versioned<LedgerMetadata>, Versioned<Segment>);
type SealedAs = (Versioned<Segment>, Option<Versioned<Segment>>);

enum Done {
    Created { ahead: bool, outcome: Result<Listed, Failure> },
    Sealed(Result<SealedAs, UpdateError>),
    Trimmed(Vec<SegmentNumber>, Result<(), UpdateError>),
    Nothing,
}

/// Why a ledger was not created.
enum Failure {
    Prepare(PrepareError),
    List(UpdateError),
}

/// The data ledgers of a partition. See the module.
pub(super) struct DataLedgers {
    context: Arc<Context>,
    claim: Claim,
    readable: Arc<Readable>,
    replication: Replication,
    segments: Vec<Versioned<Segment>>,
    next_number: SegmentNumber,
    predecessor: Predecessor,
    current: Option<(Slot, Versioned<Segment>)>,
    /// Closed, and to be sealed.
    closed: Option<Versioned<Segment>>,
    ahead: Option<Listed>,
    jobs: FuturesUnordered<BoxFuture<'static, Done>>,
    events: VecDeque<DataEvent>,
}

impl DataLedgers {
    pub(super) fn new(
        context: Arc<Context>,
        claim: Claim,
        readable: Arc<Readable>,
        replication: Replication,
        segments: Vec<Versioned<Segment>>,
        predecessor: Predecessor,
    ) -> Self {
        let next_number = segments.last().map_or(SegmentNumber::FIRST, |last| last.value.number.next());
        Self {
            context,
            claim,
            readable,
            replication,
            segments,
            next_number,
            predecessor,
            current: None,
            closed: None,
            ahead: None,
            jobs: FuturesUnordered::new(),
            events: VecDeque::new(),
        }
    }

    /// The ledger that is written.
    pub(super) fn current_ledger(&self) -> Option<LedgerId> {
        self.current.as_ref().map(|(slot, _)| slot.writer().ledger())
    }

    /// The ledger that is written, or that was and is being sealed.
    pub(super) fn last_ledger(&self) -> Option<LedgerId> {
        self.current_ledger().or_else(|| self.closed.as_ref().map(|segment| segment.value.ledger))
    }

    /// Ledgers are created with this from now on.
    pub(super) const fn set_replication(&mut self, replication: Replication) {
        self.replication = replication;
    }

    pub(super) fn act(&mut self, action: LogAction) {
        match action {
            LogAction::Create { first } => self.create(first),
            LogAction::Append { body, body_crc, has_leaders } => {
                if let Some((slot, _)) = &mut self.current {
                    slot.append(body, body_crc, has_leaders);
                }
            }
            LogAction::Close => {
                if let Some((slot, _)) = &self.current {
                    let writer = slot.writer().clone();
                    self.jobs.push(
                        async move {
                            writer.close().await;
                            Done::Nothing
                        }
                        .boxed(),
                    );
                }
            }
            LogAction::Seal { first, sealed, begin_next } => self.seal(first, sealed, begin_next),
        }
    }

    fn create(&mut self, first: Option<Offset>) {
        let number = self.next_number;
        self.next_number = number.next();
        let (context, claim) = (Arc::clone(&self.context), self.claim.clone());
        let new = NewLedger { epoch: claim.epoch(), class: LedgerClass::Bulk, wanted: self.replication };
        let job = async move {
            let outcome = match context.ledgers.prepare(new).await {
                Err(error) => Err(Failure::Prepare(error)),
                Ok(prepared) => {
                    let record = prepared.metadata().clone();
                    match context.metadata.segments().append(claim.authority(), number, first, record).await {
                        Ok((segment, record)) => Ok((prepared, record, segment)),
                        Err(error) => {
                            // Only where nothing can have been committed is there nothing to wait for.
                            if !matches!(error, UpdateError::Unresolved) {
                                prepared.abandon().await;
                            }
                            Err(Failure::List(error))
                        }
                    }
                }
            };
            Done::Created { ahead: first.is_none(), outcome }
        };
        self.jobs.push(job.boxed());
    }

    fn created(&mut self, ahead: bool, outcome: Result<Listed, Failure>) -> DataEvent {
        match outcome {
            Ok(listed) if ahead => {
                self.ahead = Some(listed);
                DataEvent::Created(true)
            }
            Ok(listed) => {
                self.begin(listed);
                DataEvent::Created(true)
            }
            Err(failure) => {
                let (error, again): (&dyn std::error::Error, bool) = match &failure {
                    Failure::Prepare(error) => (error, may_create_again(error)),
                    Failure::List(error) => (error, still_owner(error)),
                };
                tracing::warn!(partition = %self.claim.partition(), error = chain(error), again, "no ledger could be created");
                if again {
                    self.next_number = self.number_after();
                    DataEvent::Created(false)
                } else {
                    DataEvent::Lost(Lost::Fenced)
                }
            }
        }
    }

    /// The number behind all that are listed.
    fn number_after(&self) -> SegmentNumber {
        let listed = self.segments.last().map(|s| s.value.number);
        let current = self.current.as_ref().map(|(_, segment)| segment.value.number);
        let closed = self.closed.as_ref().map(|segment| segment.value.number);
        [listed, current, closed].into_iter().flatten().max().map_or(self.next_number, SegmentNumber::next)
    }

    fn begin(&mut self, (prepared, record, segment): Listed) {
        let writer = prepared.start(record, self.predecessor);
        let first = segment.value.first.unwrap_or_default();
        self.readable.put_segment(ReadableSegment::open(segment.value.number, first, writer.clone()));
        tracing::debug!(partition = %self.claim.partition(), ledger = %writer.ledger(), %first, "a segment begins");
        self.current = Some((Slot::new(writer), segment));
    }

    fn seal(&mut self, first: Offset, sealed: Sealed, begin_next: bool) {
        let Some(segment) = self.closed.clone() else { return };
        let next = self.ahead.as_ref().filter(|_| begin_next).map(|(_, _, segment)| segment.clone());
        let (context, claim) = (Arc::clone(&self.context), self.claim.clone());
        let job = async move {
            let mut backoff = context.backoff();
            loop {
                let segments = context.metadata.segments();
                match segments.seal(claim.authority(), &segment, first, sealed, next.as_ref()).await {
                    Err(error) if still_owner(&error) => {
                        tracing::warn!(partition = %claim.partition(), %error, "a segment is not sealed yet");
                        context.clock.sleep(backoff.delay()).await;
                    }
                    outcome => return Done::Sealed(outcome),
                }
            }
        };
        self.jobs.push(job.boxed());
    }

    fn sealed(&mut self, (segment, next): SealedAs) -> DataEvent {
        self.closed = None;
        let (number, ledger) = (segment.value.number, segment.value.ledger);
        if let (Some(first), Some(sealed)) = (segment.value.first, segment.value.sealed) {
            let last_time = sealed.times.map(|(_, last)| last);
            self.readable.put_segment(ReadableSegment::sealed(number, ledger, first, sealed.end, last_time));
        }
        self.segments.push(segment);
        if let Some(next) = next
            && let Some((prepared, record, _)) = self.ahead.take()
        {
            self.begin((prepared, record, next));
        }
        DataEvent::Sealed(number)
    }

    /// Removes segments: their records and their ledgers' turn into tombstones together, then bookies are told.
    pub(super) fn trim(&mut self, numbers: Vec<SegmentNumber>) {
        let due: Vec<Versioned<Segment>> =
            self.segments.iter().filter(|segment| numbers.contains(&segment.value.number)).cloned().collect();
        let (context, claim) = (Arc::clone(&self.context), self.claim.clone());
        let job = async move {
            let mut gone = 0;
            let outcome = loop {
                if gone == due.len() {
                    break Ok(());
                }
                match context.metadata.segments().trim(claim.authority(), &due[gone..]).await {
                    Ok(more) => gone += more,
                    Err(error) => break Err(error),
                }
            };
            // What went, went, whatever became of the rest.
            let gone = &due[..gone];
            drop_ledgers(&context, gone.iter().map(|segment| segment.value.ledger).collect()).await;
            Done::Trimmed(gone.iter().map(|segment| segment.value.number).collect(), outcome)
        };
        self.jobs.push(job.boxed());
    }

    fn trimmed(&mut self, gone: Vec<SegmentNumber>, outcome: Result<(), UpdateError>) -> DataEvent {
        if !gone.is_empty() {
            self.segments.retain(|segment| !gone.contains(&segment.value.number));
            self.readable.remove_segments(&gone);
            self.context.metrics.trimmed_segments.inc_by(gone.len() as u64);
            tracing::info!(partition = %self.claim.partition(), segments = gone.len(), "segments went by retention");
        }
        match outcome {
            Ok(()) => DataEvent::Trimmed(gone),
            Err(error) if still_owner(&error) => {
                tracing::warn!(partition = %self.claim.partition(), %error, "segments are not trimmed yet");
                DataEvent::Trimmed(gone)
            }
            Err(_) => DataEvent::Lost(Lost::Fenced),
        }
    }

    fn slot_event(&mut self, event: SlotEvent) -> DataEvent {
        let end = match event {
            SlotEvent::Led(entry) => return DataEvent::Led(entry),
            SlotEvent::Confirmed(entry) => return DataEvent::Confirmed(entry),
            SlotEvent::TooLarge(entry) => return DataEvent::Lost(Lost::TooLarge(entry)),
            SlotEvent::Ended(end) => end,
        };
        let record = match &*end {
            End::HandedBack { why: HandBack::TooLarge { entry }, .. } => return DataEvent::Lost(Lost::TooLarge(*entry)),
            End::Closed(record) | End::HandedBack { record, .. } => record,
            End::Lost(_) => return DataEvent::Lost(Lost::Fenced),
        };
        let Ok(predecessor) = Predecessor::closed(record) else { return DataEvent::Lost(Lost::Fenced) };
        self.predecessor = predecessor;
        self.closed = self.current.take().map(|(_, segment)| segment);
        DataEvent::Closed
    }

    /// The next thing that happens. Cancel safe.
    pub(super) async fn next(&mut self) -> DataEvent {
        loop {
            if let Some(event) = self.events.pop_front() {
                return event;
            }
            let slot = async {
                match &mut self.current {
                    Some((slot, _)) => slot.next().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                Some(done) = self.jobs.next(), if !self.jobs.is_empty() => {
                    let event = match done {
                        Done::Created { ahead, outcome } => self.created(ahead, outcome),
                        Done::Sealed(Ok(sealed)) => self.sealed(sealed),
                        Done::Sealed(Err(_)) => DataEvent::Lost(Lost::Fenced),
                        Done::Trimmed(numbers, outcome) => self.trimmed(numbers, outcome),
                        Done::Nothing => continue,
                    };
                    self.events.push_back(event);
                }
                event = slot => {
                    let event = self.slot_event(event);
                    self.events.push_back(event);
                }
            }
        }
    }
}

/// Tells the bookies of ledgers that are tombstones to let their bytes go, for a bounded time. They go by metadata alone; who is not
/// reached, or not in time, finds the tombstones later.
pub(crate) async fn drop_ledgers(context: &Context, ledgers: Vec<LedgerId>) {
    let told = stream::iter(ledgers).map(|ledger| drop_ledger(context, ledger).boxed()).buffer_unordered(DROPS_AT_ONCE);
    if context.clock.timeout(DROPS_PATIENCE, told.collect::<()>()).await.is_err() {
        tracing::debug!("bookies find out by themselves that some ledgers are deleted");
    }
}

async fn drop_ledger(context: &Context, ledger: LedgerId) {
    if let Ok(Some(record)) = context.metadata.ledgers().get(ledger).await {
        context.ledgers.delete(&record.value).await;
    }
}
