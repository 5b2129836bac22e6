//! What the machines of this crate ask of the world and hear from it: the one vocabulary that a shell, or a simulator, drives.
//!
//! A machine is plain code. It is told `(now, event)`, and then asked for its actions, its notices and its next wakeup. Every
//! question it sends carries a [`CallId`] of its own; the answer brings it back. An answer to a call that the machine has
//! since given up is ignored, so answers may come late, twice or never.

use std::sync::Arc;

use alluvium_types::bookie::{AddEntry, AdvanceLac, FenceAnswer, OpenLedger, ReadAnswer, ReadEntries, ReadRefusal, Refusal};
use alluvium_types::ids::{LedgerId, Nonce, RecoveryNumber, Revision};
use alluvium_types::ledger::{BookieId, LedgerMetadata};
use alluvium_types::time::Mono;

use crate::placement::Candidate;

/// One question of one machine.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct CallId(u64);

/// Numbers the calls of one machine.
#[derive(Debug, Default)]
pub(crate) struct Calls(u64);

impl Calls {
    pub(crate) const fn next(&mut self) -> CallId {
        self.0 += 1;
        CallId(self.0)
    }
}

/// A ledger's record as metadata holds it, with the version that a change must compare.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// The record.
    pub metadata: LedgerMetadata,
    /// When it was last changed.
    pub revision: Revision,
}

/// Fences a ledger on one bookie, durably (B2); a ledger that the bookie never saw is created, fenced (C7).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FenceLedger {
    /// Which ledger.
    pub ledger: LedgerId,
    /// For which recovery (C69).
    pub number: RecoveryNumber,
}

/// What a bookie is asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Request {
    /// Answered by [`Answer::Open`].
    Open(OpenLedger),
    /// Answered by [`Answer::Add`]. Adds of one machine to one bookie are sent in the order of the actions.
    Add(AddEntry),
    /// The LAC alone, in order with the adds. Not answered.
    AdvanceLac(AdvanceLac),
    /// Answered by [`Answer::Read`].
    Read(ReadEntries),
    /// Answered by [`Answer::Fence`].
    Fence(FenceLedger),
}

/// What came of a request to a bookie.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// To [`Request::Open`].
    Open(Result<(), Refusal>),
    /// To [`Request::Add`]; `Ok` means on disk (B1).
    Add(Result<(), Refusal>),
    /// To [`Request::Read`].
    Read(Result<ReadAnswer, ReadRefusal>),
    /// To [`Request::Fence`]; `Ok` means on disk (B2).
    Fence(Result<FenceAnswer, ReadRefusal>),
    /// To any: the connection broke, or could not be made. Whether the bookie did what it was asked is not known.
    Lost,
}

/// What came of a compare-and-set.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CasOutcome {
    /// It is applied, as of this revision: by this attempt, or by an earlier one with the same nonce.
    Applied(Revision),
    /// It is not applied and never will be. What stands there now; `None` when there is no record.
    Lost(Option<Record>),
    /// It is not applied and never will be, however often it is issued: metadata refuses it as it stands.
    Refused,
    /// Nothing that was issued since the last outcome is applied, or ever will be. The record is as open to this change, or to
    /// another one, as it was before.
    NotApplied,
    /// It may have been applied, or may yet be (M3).
    Unknown,
}

/// Something that happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// The time of [`Machine::next_wakeup`] has come. Harmless at any other time.
    Tick,
    /// A bookie's answer.
    Answer {
        /// To which question.
        call: CallId,
        /// What it said.
        answer: Answer,
    },
    /// The outcome of [`Action::CompareAndSet`].
    Cas {
        /// Of which.
        call: CallId,
        /// How it went.
        outcome: CasOutcome,
    },
    /// The answer to [`Action::ReadRecord`]: the record as of a *linearizable* read (M6), or none; `Err` when metadata could not
    /// be asked.
    Record {
        /// To which question.
        call: CallId,
        /// What metadata holds.
        record: Result<Option<Record>, Unavailable>,
    },
    /// The live bookies, whenever the view changes.
    Bookies(Arc<[Candidate]>),
}

/// Metadata could not be asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("metadata is unavailable")]
pub struct Unavailable;

/// Something to be done by whoever drives the machine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// Ask a bookie.
    Send {
        /// Comes back with the answer.
        call: CallId,
        /// Whom.
        to: BookieId,
        /// What.
        request: Request,
    },
    /// The answer to this call is of no interest any more: what is not sent yet need not be, and what is held for it may go.
    Cancel(CallId),
    /// Change the ledger's record if it still is as it was at `expected` (C18), whatever else was read since. Repeated with the same
    /// call and nonce until its outcome is definite (C12, M3): an implementation recognises its own earlier success by the nonce, and
    /// may take a repetition as answered by the attempt that is still open.
    CompareAndSet {
        /// Comes back with the outcome.
        call: CallId,
        /// What it must be; `None` (a blind put) only where that bug is planted.
        expected: Option<Revision>,
        /// What it shall be.
        new: LedgerMetadata,
        /// Makes this change recognisable.
        nonce: Nonce,
    },
    /// Read the ledger's record, linearizably.
    ReadRecord {
        /// Comes back with the record.
        call: CallId,
        /// Which ledger.
        ledger: LedgerId,
    },
    /// This bookie failed or was slow: other machines of the process may avoid it for a while (C54).
    Suspect(BookieId),
}

/// A protocol machine: no I/O, no clock, no chance but what it was handed.
///
/// After each call that changes it, take all actions and notices, in order, and note the next wakeup.
pub trait Machine {
    /// What it tells the one it works for.
    type Notice;

    /// Takes note of an event. `now` never goes back.
    fn on_event(&mut self, now: Mono, event: Event);

    /// The next thing to do.
    fn poll_action(&mut self) -> Option<Action>;

    /// The next thing to know.
    fn poll_notice(&mut self) -> Option<Self::Notice>;

    /// When it wants an [`Event::Tick`] if nothing happens before; `None` when only an event can move it.
    fn next_wakeup(&self) -> Option<Mono>;
}
