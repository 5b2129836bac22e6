//! What the state ledger wants, done: ledgers are created and named, written, read back, pointed to and swept, under the owner's
//! claim (C42, C64).

use std::sync::Arc;
use std::time::Duration;

use alluvium_ledger::client::{End, LedgerWriter, NewLedger, Predecessor, Prepared};
use alluvium_ledger::reader::ReadRange;
use alluvium_metadata::state_pointer::StatePointer;
use alluvium_metadata::{UpdateError, Versioned};
use alluvium_types::checksum::Crc32c;
use alluvium_types::ids::{EntryId, LedgerId};
use alluvium_types::ledger::{LedgerClass, LedgerMetadata, LedgerState};
use alluvium_types::replication::Replication;
use alluvium_types::time::Mono;
use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt, join_all};
use futures::stream::{FuturesUnordered, StreamExt};

use super::data_ledgers::DROPS_PATIENCE;
use super::slot::{Slot, SlotEvent};
use super::state_ledger::{StateAction, StateLedger, Which};
use crate::broker::Context;
use crate::error::{chain, may_create_again, still_owner};
use crate::ownership::Claim;

/// How long a ledger that is no longer needed may take to close. One that takes longer, because its bookies are away, is
/// recovered by the sweep.
const CLOSE_WITHIN: Duration = Duration::from_secs(5);
/// How long retired ledgers may take to be recovered for one sweep: nothing else about state ledgers happens meanwhile.
const RECOVER_WITHIN: Duration = Duration::from_secs(5);
/// How much of a snapshot is read back at a time.
const READ_BYTES: usize = 4 << 20;

/// What happened, for the machine.
#[derive(Debug)]
pub(super) enum StateEvent {
    Created(bool),
    /// Not created: retired ones are to be dropped first.
    Crowded,
    Confirmed(Which, u64),
    ReadBack(bool),
    Pointed(bool),
    GivenUp,
    Ended(Which),
    OldEnded,
    /// Whether something is left.
    Swept(bool),
    Lost,
}

type Pointer = Option<Versioned<StatePointer>>;

enum Done {
    Crowded(Pointer),
    Created(Pointer, Result<(Prepared, Versioned<LedgerMetadata>), bool>),
    ReadBack(bool),
    /// With the record of the one before, if it went with the change.
    Pointed(Pointer, Result<Option<LedgerMetadata>, bool>),
    GivenUp(Pointer, Result<(), bool>),
    OldEnded,
    Swept(Pointer, Result<(), bool>),
}

/// The state ledgers of a partition. See the module.
pub(super) struct StateLedgers {
    context: Arc<Context>,
    claim: Claim,
    replication: Replication,
    /// Lent to the job that changes it; there is only one at a time.
    pointer: Pointer,
    /// The record of the ledger that was current before the takeover, as the takeover closed it.
    superseded: Option<Versioned<LedgerMetadata>>,
    /// Tombstones that no bookie has been told of.
    gone: Vec<LedgerMetadata>,
    current: Option<Slot>,
    next: Option<Slot>,
    /// Current before the pointer moved.
    old: Option<LedgerWriter>,
    jobs: FuturesUnordered<BoxFuture<'static, Done>>,
}

impl StateLedgers {
    pub(super) fn new(
        context: Arc<Context>,
        claim: Claim,
        replication: Replication,
        pointer: Pointer,
        superseded: Option<Versioned<LedgerMetadata>>,
    ) -> Self {
        let (current, next, old, gone, jobs) = (None, None, None, Vec::new(), FuturesUnordered::new());
        Self { context, claim, replication, pointer, superseded, gone, current, next, old, jobs }
    }

    /// Ledgers are created with this from now on.
    pub(super) const fn set_replication(&mut self, replication: Replication) {
        self.replication = replication;
    }

    pub(super) fn act(&mut self, action: StateAction) {
        let (context, claim) = (Arc::clone(&self.context), self.claim.clone());
        match action {
            StateAction::Append { to, body } => {
                let slot = match to {
                    Which::Current => &mut self.current,
                    Which::Next => &mut self.next,
                };
                if let Some(slot) = slot {
                    let body_crc = Crc32c::of(&body);
                    slot.append(body, body_crc, false);
                }
            }
            StateAction::Create => {
                let new = NewLedger { epoch: claim.epoch(), class: LedgerClass::Essential, wanted: self.replication };
                let pointer = self.pointer.take();
                self.jobs.push(create(context, claim, new, pointer).boxed());
            }
            StateAction::ReadBack(bodies) => {
                let Some(writer) = self.next.as_ref().map(|slot| slot.writer().clone()) else { return };
                self.jobs.push(async move { Done::ReadBack(reads_back(&context, &writer, &bodies).await) }.boxed());
            }
            StateAction::Point => {
                let pointer = self.pointer.take();
                self.jobs.push(point(context, claim, pointer, self.superseded.take()).boxed());
            }
            StateAction::GiveUpNext => {
                let pointer = self.pointer.take();
                let next = self.next.take().map(|slot| slot.writer().clone());
                self.jobs.push(give_up(context, claim, pointer, next).boxed());
            }
            StateAction::CloseOld => {
                let old = self.old.take();
                self.jobs.push(async move { close(&context, old).await }.map(|()| Done::OldEnded).boxed());
            }
            StateAction::Sweep => {
                let pointer = self.pointer.take();
                self.jobs.push(sweep(context, claim, pointer, std::mem::take(&mut self.gone)).boxed());
            }
        }
    }

    /// Closes the ledger that takes appends, so that the next owner need not recover it.
    pub(super) async fn close(&mut self) {
        if let Some(slot) = self.current.take() {
            slot.writer().close().await;
        }
    }

    /// The next thing that happens. Cancel safe.
    pub(super) async fn next(&mut self) -> StateEvent {
        loop {
            let event = {
                let current = slot_next(&mut self.current);
                let next = slot_next(&mut self.next);
                tokio::select! {
                    biased;
                    Some(done) = self.jobs.next(), if !self.jobs.is_empty() => Err(done),
                    event = next => Ok((Which::Next, event)),
                    event = current => Ok((Which::Current, event)),
                }
            };
            let event = match event {
                Ok((which, event)) => self.slot_event(which, event),
                Err(done) => Some(self.done(done)),
            };
            if let Some(event) = event {
                return event;
            }
        }
    }

    fn slot_event(&mut self, which: Which, event: SlotEvent) -> Option<StateEvent> {
        match event {
            SlotEvent::Led(_) => None,
            SlotEvent::Confirmed(entry) => Some(StateEvent::Confirmed(which, entry.next().get())),
            // Its records are bounded far below an entry's limit.
            SlotEvent::TooLarge(_) => Some(StateEvent::Lost),
            SlotEvent::Ended(end) => match &*end {
                End::Lost(_) => Some(StateEvent::Lost),
                End::Closed(_) | End::HandedBack { .. } => {
                    match which {
                        Which::Current => self.current = None,
                        Which::Next => self.next = None,
                    }
                    Some(StateEvent::Ended(which))
                }
            },
        }
    }

    fn done(&mut self, done: Done) -> StateEvent {
        match done {
            Done::Created(pointer, Ok((prepared, record))) => {
                self.pointer = pointer;
                self.next = Some(Slot::new(prepared.start(record, Predecessor::NONE)));
                StateEvent::Created(true)
            }
            Done::Created(_, Err(false))
            | Done::Pointed(_, Err(false))
            | Done::GivenUp(_, Err(false))
            | Done::Swept(_, Err(false)) => StateEvent::Lost,
            Done::Created(pointer, Err(true)) => {
                self.pointer = pointer;
                StateEvent::Created(false)
            }
            Done::Crowded(pointer) => {
                self.pointer = pointer;
                StateEvent::Crowded
            }
            Done::ReadBack(same) => StateEvent::ReadBack(same),
            Done::Pointed(pointer, Ok(gone)) => {
                self.pointer = pointer;
                self.gone.extend(gone);
                self.old = self.current.take().map(|slot| slot.writer().clone());
                self.current = self.next.take();
                StateEvent::Pointed(true)
            }
            Done::Pointed(pointer, Err(true)) => {
                self.pointer = pointer;
                StateEvent::Pointed(false)
            }
            Done::GivenUp(pointer, _) => {
                self.pointer = pointer;
                StateEvent::GivenUp
            }
            Done::OldEnded => StateEvent::OldEnded,
            Done::Swept(pointer, _) => {
                let left = pointer.as_ref().is_some_and(|pointer| !pointer.value.retired.is_empty());
                self.pointer = pointer;
                StateEvent::Swept(left)
            }
        }
    }
}

impl StateEvent {
    /// Tells the machine; gives back whether ownership is over.
    pub(super) fn tell<T>(self, now: Mono, machine: &mut StateLedger<T>) -> bool {
        match self {
            Self::Created(created) => machine.created(now, created),
            Self::Crowded => machine.crowded(now),
            Self::Confirmed(which, entries) => machine.confirmed(which, entries),
            Self::ReadBack(same) => machine.read_back(now, same),
            Self::Pointed(moved) => machine.pointed(now, moved),
            Self::GivenUp => machine.given_up(),
            Self::Ended(which) => machine.ended(now, which),
            Self::OldEnded => machine.old_ended(),
            Self::Swept(left) => machine.swept(now, left),
            Self::Lost => return true,
        }
        false
    }
}

async fn slot_next(slot: &mut Option<Slot>) -> SlotEvent {
    match slot {
        Some(slot) => slot.next().await,
        None => std::future::pending().await,
    }
}

async fn create(context: Arc<Context>, claim: Claim, new: NewLedger, pointer: Pointer) -> Done {
    if pointer.as_ref().is_some_and(|pointer| !pointer.value.takes_next()) {
        tracing::warn!(partition = %claim.partition(), "no state ledger is created before retired ones can be dropped");
        return Done::Crowded(pointer);
    }
    let prepared = match context.ledgers.prepare(new).await {
        Ok(prepared) => prepared,
        Err(error) => {
            let again = may_create_again(&error);
            tracing::warn!(partition = %claim.partition(), error = chain(&error), again, "no state ledger could be created");
            return Done::Created(pointer, Err(again));
        }
    };
    let record = prepared.metadata().clone();
    match context.metadata.state_pointers().set_next(claim.authority(), pointer.as_ref(), record).await {
        Ok((pointer, record)) => Done::Created(Some(pointer), Ok((prepared, record))),
        Err(error) => {
            tracing::warn!(partition = %claim.partition(), error = chain(&error), "no state ledger could be named");
            if !matches!(error, UpdateError::Unresolved) {
                prepared.abandon().await;
            }
            Done::Created(pointer, Err(still_owner(&error)))
        }
    }
}

async fn reads_back(context: &Context, writer: &LedgerWriter, bodies: &[Bytes]) -> bool {
    let record = writer.record().value;
    let lac = writer.lac();
    let Some(last) = EntryId::new(bodies.len() as u64).previous() else { return true };
    let mut next = EntryId::ZERO;
    let mut expected = bodies.iter();
    while next <= last {
        let range = ReadRange { first: next, last, bytes_max: READ_BYTES, lac };
        let stored = match context.ledgers.read(&record, range).await {
            Ok(stored) => stored,
            Err(error) => {
                tracing::warn!(ledger = %record.ledger, %error, "a snapshot could not be read back");
                return false;
            }
        };
        for entry in stored {
            if expected.next() != Some(&entry.body) {
                tracing::error!(ledger = %record.ledger, entry = %entry.entry, "a snapshot reads back otherwise than it was written");
                return false;
            }
            next = entry.entry.next();
        }
    }
    true
}

async fn point(context: Arc<Context>, claim: Claim, pointer: Pointer, before: Option<Versioned<LedgerMetadata>>) -> Done {
    let Some(read) = &pointer else { return Done::Pointed(pointer, Err(false)) };
    let pointers = context.metadata.state_pointers();
    let mut before = before.filter(|before| read.value.current == Some(before.value.ledger));
    let mut outcome = pointers.swap_next(claim.authority(), read, before.as_ref()).await;
    if before.is_some() && matches!(outcome, Err(UpdateError::Conflict { .. })) {
        // Its own record has changed meanwhile, as by repair: it is swept later.
        before = None;
        outcome = pointers.swap_next(claim.authority(), read, None).await;
    }
    match outcome {
        Ok(moved) => Done::Pointed(Some(moved), Ok(before.map(|before| before.value))),
        Err(error) => {
            tracing::warn!(partition = %claim.partition(), error = chain(&error), "the state pointer was not moved");
            Done::Pointed(pointer, Err(still_owner(&error)))
        }
    }
}

async fn give_up(context: Arc<Context>, claim: Claim, pointer: Pointer, next: Option<LedgerWriter>) -> Done {
    close(&context, next).await;
    let Some(read) = &pointer else { return Done::GivenUp(pointer, Err(false)) };
    let mut backoff = context.backoff();
    loop {
        match context.metadata.state_pointers().retire_next(claim.authority(), read).await {
            Ok(retired) => return Done::GivenUp(Some(retired), Ok(())),
            Err(error) if still_owner(&error) => context.clock.sleep(backoff.delay()).await,
            Err(_) => return Done::GivenUp(pointer, Err(false)),
        }
    }
}

/// Closes a ledger that is no longer needed, if that doesn't take long.
async fn close(context: &Context, writer: Option<LedgerWriter>) {
    let Some(writer) = writer else { return };
    if context.clock.timeout(CLOSE_WITHIN, writer.close()).await.is_err() {
        tracing::debug!(ledger = %writer.ledger(), "a state ledger is left to be recovered");
    }
}

/// Drops the retired ledgers that can be dropped now, and tells bookies of those and of the ones that are `gone`.
async fn sweep(context: Arc<Context>, claim: Claim, pointer: Pointer, mut gone: Vec<LedgerMetadata>) -> Done {
    let Some(mut read) = pointer else { return Done::Swept(None, Ok(())) };
    let closing = read.value.retired.iter().map(|ledger| closed(&context, *ledger));
    let records = join_all(closing).await;
    for record in records.into_iter().flatten() {
        match context.metadata.state_pointers().drop_retired(claim.authority(), &read, &record).await {
            Ok(dropped) => {
                read = dropped;
                gone.push(record.value);
            }
            // The ledger's own record has changed meanwhile, as by repair: another time.
            Err(UpdateError::Conflict { .. }) => {}
            Err(error) if still_owner(&error) => {}
            Err(_) => return Done::Swept(Some(read), Err(false)),
        }
    }
    let told = gone.iter().map(|record| context.ledgers.delete(record));
    if context.clock.timeout(DROPS_PATIENCE, join_all(told)).await.is_err() {
        tracing::debug!("bookies find out by themselves that some ledgers are deleted");
    }
    Done::Swept(Some(read), Ok(()))
}

/// A retired ledger's record, once it is closed; `None` if that can't be had now.
async fn closed(context: &Context, ledger: LedgerId) -> Option<Versioned<LedgerMetadata>> {
    let found = async {
        match context.metadata.ledgers().get(ledger).await {
            Ok(Some(record)) if matches!(record.value.state, LedgerState::Closed { .. }) => Some(record),
            Ok(_) => match context.ledgers.recover(ledger).await {
                Ok(record) => Some(record),
                Err(error) => {
                    tracing::debug!(%ledger, error = chain(&error), "a retired state ledger is dropped another time");
                    None
                }
            },
            Err(_) => None,
        }
    };
    context.clock.timeout(RECOVER_WITHIN, found).await.ok().flatten()
}
