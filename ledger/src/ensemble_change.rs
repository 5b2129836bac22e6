//! The first half of an ensemble change: replacements are chosen, and the ledger is made known to them, before metadata names
//! them (C68).
//!
//! The second half differs: a writer's change goes to metadata before it counts (C15, C16), a recovery's stays local until the
//! ledger is closed (C10).

use std::time::Duration;

use alluvium_types::ledger::BookieId;
use alluvium_types::time::Mono;

use crate::call::CallId;

/// A place of the ensemble that is to be taken over.
#[derive(Debug)]
struct Seat {
    place: usize,
    candidate: BookieId,
    opening: Option<(CallId, Mono)>,
}

/// Replacements on their way.
#[derive(Debug, Default)]
pub(crate) struct EnsembleChange {
    seats: Vec<Seat>,
}

/// A candidate that did not answer in time, or refused.
#[derive(Debug)]
pub(crate) struct Rejected {
    pub(crate) place: usize,
    pub(crate) candidate: BookieId,
    /// The question that is still open, if it did not answer.
    pub(crate) call: Option<CallId>,
}

impl EnsembleChange {
    /// Asks `candidate` to stand at `place`.
    pub(crate) fn seat(&mut self, now: Mono, place: usize, candidate: BookieId, call: CallId, patience: Duration) {
        self.seats.push(Seat { place, candidate, opening: Some((call, now.after(patience))) });
    }

    /// The candidates chosen so far.
    pub(crate) fn candidates(&self) -> impl Iterator<Item = (usize, &BookieId)> {
        self.seats.iter().map(|seat| (seat.place, &seat.candidate))
    }

    pub(crate) fn asked(&self, call: CallId) -> bool {
        self.seats.iter().any(|seat| seat.opening.is_some_and(|(open, _)| open == call))
    }

    /// The candidate that this question was put to.
    pub(crate) fn candidate(&self, call: CallId) -> Option<&BookieId> {
        self.seats.iter().find(|seat| seat.opening.is_some_and(|(open, _)| open == call)).map(|seat| &seat.candidate)
    }

    /// The candidate that was asked knows the ledger now.
    pub(crate) fn opened(&mut self, call: CallId) {
        for seat in &mut self.seats {
            seat.opening = seat.opening.filter(|(open, _)| *open != call);
        }
    }

    /// The candidate that was asked can't.
    pub(crate) fn refused(&mut self, call: CallId) -> Option<Rejected> {
        let at = self.seats.iter().position(|seat| seat.opening.is_some_and(|(open, _)| open == call))?;
        let seat = self.seats.remove(at);
        Some(Rejected { place: seat.place, candidate: seat.candidate, call: None })
    }

    /// The candidates whose time is up.
    pub(crate) fn overdue(&mut self, now: Mono) -> Vec<Rejected> {
        let late = |seat: &mut Seat| seat.opening.is_some_and(|(_, deadline)| now >= deadline);
        self.seats
            .extract_if(.., late)
            .map(|seat| Rejected { place: seat.place, candidate: seat.candidate, call: seat.opening.map(|(call, _)| call) })
            .collect()
    }

    /// How many know the ledger.
    pub(crate) fn joined(&self) -> usize {
        self.seats.iter().filter(|seat| seat.opening.is_none()).count()
    }

    /// Whether nobody is waited for.
    pub(crate) fn is_settled(&self) -> bool {
        self.seats.iter().all(|seat| seat.opening.is_none())
    }

    /// The questions that are open.
    pub(crate) fn open_calls(&self) -> impl Iterator<Item = CallId> {
        self.seats.iter().filter_map(|seat| seat.opening.map(|(call, _)| call))
    }

    /// Who takes over which place.
    pub(crate) fn replacements(self) -> Vec<(usize, BookieId)> {
        self.seats.into_iter().map(|seat| (seat.place, seat.candidate)).collect()
    }

    pub(crate) fn wakeup(&self) -> Option<Mono> {
        self.seats.iter().filter_map(|seat| seat.opening.map(|(_, deadline)| deadline)).min()
    }
}
