//! One change of a ledger's record, carried to a definite outcome (C12, M3).
//!
//! A change whose outcome is unknown is repeated as it is, nonce and all, until the answer is definite. Reading the record
//! proves nothing: a change that was given up may still be applied.

use std::time::Duration;

use alluvium_runtime::backoff::Backoff;
use alluvium_runtime::entropy::Entropy;
use alluvium_types::ids::Nonce;
use alluvium_types::ledger::LedgerMetadata;
use alluvium_types::time::Mono;

use crate::call::{Action, CallId, CasOutcome, Record};

/// How patient changes of metadata are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CasPatience {
    /// A change that is not answered in this time is sent again.
    pub answer_timeout: Duration,
    /// The shortest wait before a change without an outcome is sent again.
    pub retry_min: Duration,
    /// The longest.
    pub retry_max: Duration,
}

impl Default for CasPatience {
    fn default() -> Self {
        Self { answer_timeout: Duration::from_secs(3), retry_min: Duration::from_millis(20), retry_max: Duration::from_secs(1) }
    }
}

/// A change on its way.
#[derive(Debug)]
pub(crate) struct PendingCas {
    call: CallId,
    expected: Record,
    new: LedgerMetadata,
    nonce: Nonce,
    blind: bool,
    /// Whether an attempt may have been applied unheard.
    unsure: bool,
    patience: CasPatience,
    backoff: Backoff,
    retry_at: Mono,
}

/// What a definite outcome was.
#[derive(Debug)]
pub(crate) enum Definite {
    /// Ours stands, as this record.
    Applied(Record),
    /// Somebody else's stands; ours never will.
    Lost(Option<Record>),
    /// Metadata never takes it.
    Refused,
    /// Nothing was changed: give it up, or [`PendingCas::postpone`] it.
    NotApplied,
}

impl PendingCas {
    pub(crate) fn start(
        now: Mono,
        call: CallId,
        expected: Record,
        new: LedgerMetadata,
        blind: bool,
        patience: CasPatience,
        entropy: &Entropy,
    ) -> (Self, Action) {
        let backoff = Backoff::new(patience.retry_min, patience.retry_max, entropy.clone());
        let nonce = Nonce::new(entropy.uuid());
        let retry_at = now.after(patience.answer_timeout);
        let pending = Self { call, expected, new, nonce, blind, unsure: false, patience, backoff, retry_at };
        let action = pending.action();
        (pending, action)
    }

    pub(crate) fn is(&self, call: CallId) -> bool {
        self.call == call
    }

    /// The record that this change compares with.
    pub(crate) const fn expected(&self) -> &Record {
        &self.expected
    }

    /// The record that this change proposes.
    pub(crate) const fn proposed(&self) -> &LedgerMetadata {
        &self.new
    }

    /// Takes the outcome; `None` while it isn't definite.
    pub(crate) fn outcome(&mut self, now: Mono, outcome: CasOutcome) -> Option<Definite> {
        match outcome {
            CasOutcome::Applied(revision) => Some(Definite::Applied(Record { metadata: self.new.clone(), revision })),
            CasOutcome::Lost(current) => Some(Definite::Lost(current)),
            CasOutcome::Refused => Some(Definite::Refused),
            CasOutcome::NotApplied if !self.unsure => Some(Definite::NotApplied),
            // What is certain of the last attempt is not certain of the one before it.
            CasOutcome::NotApplied | CasOutcome::Unknown => {
                self.unsure = true;
                self.postpone(now);
                None
            }
        }
    }

    /// Issues it again after a pause.
    pub(crate) fn postpone(&mut self, now: Mono) {
        self.retry_at = now.after(self.backoff.delay());
    }

    /// The same change again, if it is time.
    pub(crate) fn tick(&mut self, now: Mono) -> Option<Action> {
        (now >= self.retry_at).then(|| {
            self.retry_at = now.after(self.patience.answer_timeout);
            self.action()
        })
    }

    pub(crate) const fn wakeup(&self) -> Mono {
        self.retry_at
    }

    fn action(&self) -> Action {
        let expected = (!self.blind).then_some(self.expected.revision);
        Action::CompareAndSet { call: self.call, expected, new: self.new.clone(), nonce: self.nonce }
    }
}
