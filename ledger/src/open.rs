//! Creation: a new ledger is opened on its candidates before its record exists, so that the record names only bookies that
//! answered (C68).
//!
//! A pure machine. Members that refuse, or don't answer in time, are replaced; without a spare they are left out, and the ledger
//! is created smaller, down to the ack quorum (C63).

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use alluvium_runtime::entropy::Entropy;
use alluvium_types::bookie::{OpenLedger, Refusal};
use alluvium_types::ids::{Epoch, LedgerId};
use alluvium_types::ledger::{BookieId, LedgerClass, LedgerMetadata};
use alluvium_types::replication::Replication;
use alluvium_types::time::Mono;

use crate::call::{Action, Answer, CallId, Calls, Event, Machine, Request};
use crate::ensemble_change::{EnsembleChange, Rejected};
use crate::placement::{self, Candidate, Need, TooFewBookies};

/// What ledger is wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LedgerSpec {
    /// Its id, never used before (L8).
    pub ledger: LedgerId,
    /// The claim under which it is written.
    pub epoch: Epoch,
    /// What it is for.
    pub class: LedgerClass,
    /// What it should be built with.
    pub wanted: Replication,
}

/// How patient a creation is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OpenConfig {
    /// A bookie that has not answered in this time is replaced or left out, if the ledger can do without it.
    pub open_timeout: Duration,
    /// After this time no more replacements are asked: who has answered by then is the ensemble.
    pub give_up_after: Duration,
}

impl Default for OpenConfig {
    fn default() -> Self {
        Self { open_timeout: Duration::from_secs(1), give_up_after: Duration::from_secs(5) }
    }
}

/// What came of a creation; its only notice, and its last.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Notice {
    /// The ledger is open on every member of this record's ensemble. The record exists nowhere yet: the caller commits it.
    Opened {
        /// The record to commit.
        metadata: LedgerMetadata,
        /// Whether copies of one entry share a zone for want of others.
        zones_shared: bool,
    },
    /// It is open nowhere that would do.
    Failed(CreationFailure),
}

/// Why a ledger could not be created.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CreationFailure {
    /// More must join, or answer.
    #[error(transparent)]
    TooFewBookies(TooFewBookies),
    /// A bookie knows this id as fenced, deleted or of a newer claim: the id was used before, or the claim is over.
    #[error("the claim on this ledger is over")]
    Superseded,
}

/// The machine. See the module.
#[derive(Debug)]
pub struct Creation {
    config: OpenConfig,
    spec: LedgerSpec,
    /// What the places are chosen for; smaller than wanted where too few bookies live.
    replication: Replication,
    candidates: Arc<[Candidate]>,
    entropy: Entropy,
    /// The seats by place.
    seats: EnsembleChange,
    /// Nobody is asked twice.
    asked: Vec<BookieId>,
    give_up_at: Mono,
    calls: Calls,
    actions: VecDeque<Action>,
    notice: Option<Notice>,
    ended: bool,
}

impl Creation {
    /// Begins to open the ledger on the best of `candidates`.
    pub fn new(now: Mono, config: OpenConfig, spec: LedgerSpec, candidates: Arc<[Candidate]>, entropy: Entropy) -> Self {
        let placed = placement::place(&candidates, spec.class, spec.wanted, &[], &entropy);
        let mut creation = Self {
            config,
            spec,
            replication: spec.wanted,
            candidates,
            entropy,
            seats: EnsembleChange::default(),
            asked: Vec::new(),
            give_up_at: now.after(config.give_up_after),
            calls: Calls::default(),
            actions: VecDeque::new(),
            notice: None,
            ended: false,
        };
        match placed {
            Ok(placed) => {
                creation.replication = placed.replication;
                for (place, bookie) in placed.ensemble.into_iter().enumerate() {
                    creation.ask(now, place, bookie);
                }
            }
            Err(few) => creation.end(Notice::Failed(CreationFailure::TooFewBookies(few))),
        }
        creation
    }

    fn ask(&mut self, now: Mono, place: usize, bookie: BookieId) {
        let call = self.calls.next();
        let LedgerSpec { ledger, epoch, class, .. } = self.spec;
        let request = Request::Open(OpenLedger { ledger, epoch, class });
        self.actions.push_back(Action::Send { call, to: bookie.clone(), request });
        self.asked.push(bookie.clone());
        self.seats.seat(now, place, bookie, call, self.config.open_timeout);
    }

    /// One that is late makes room for a spare, or is left out. Where there is no spare and too few have answered for a ledger, it
    /// is waited for, a while at a time: a slow disk is better than none.
    fn late(&mut self, now: Mono, late: Rejected) {
        let needed = self.seats.joined() < self.spec.wanted.ack();
        match late.call {
            Some(call) if needed && now < self.give_up_at && self.spare(&late).is_none() => {
                let patience = (self.config.open_timeout / 4).min(self.give_up_at.since(now));
                self.seats.seat(now, late.place, late.candidate, call, patience);
            }
            _ => self.reject(now, late),
        }
    }

    fn reject(&mut self, now: Mono, rejected: Rejected) {
        self.actions.extend(rejected.call.map(Action::Cancel));
        self.actions.push_back(Action::Suspect(rejected.candidate.clone()));
        let spare = if now < self.give_up_at { self.spare(&rejected) } else { None };
        if let Some(spare) = spare {
            self.ask(now, rejected.place, spare);
        }
    }

    /// Who could take the place of one that is not seated any more.
    fn spare(&self, instead_of: &Rejected) -> Option<BookieId> {
        let mut ensemble: Vec<BookieId> = Vec::new();
        for (place, candidate) in self.seats.candidates() {
            if ensemble.len() <= place {
                ensemble.resize(place + 1, candidate.clone());
            }
            ensemble[place] = candidate.clone();
        }
        placement::replace(
            &self.candidates,
            self.spec.class,
            self.replication,
            &ensemble,
            instead_of.place,
            &self.asked,
            Need::Wish,
            &self.entropy,
        )
    }

    fn on_answer(&mut self, now: Mono, call: CallId, answer: Answer) {
        match answer {
            Answer::Open(Ok(())) => self.seats.opened(call),
            Answer::Open(Err(Refusal::Fenced | Refusal::Stale | Refusal::Deleted)) => {
                self.end(Notice::Failed(CreationFailure::Superseded));
            }
            _ => {
                if let Some(rejected) = self.seats.refused(call) {
                    self.reject(now, rejected);
                }
            }
        }
    }

    fn settle(&mut self) {
        if !self.seats.is_settled() {
            return;
        }
        let mut seats = std::mem::take(&mut self.seats).replacements();
        seats.sort_by_key(|(place, _)| *place);
        let ensemble: Vec<BookieId> = seats.into_iter().map(|(_, bookie)| bookie).collect();
        let LedgerSpec { ledger, epoch, class, wanted } = self.spec;
        let Some(replication) = placement::degrade(wanted, ensemble.len()) else {
            let few = TooFewBookies { live: ensemble.len(), needed: wanted.ack() };
            return self.end(Notice::Failed(CreationFailure::TooFewBookies(few)));
        };
        let zones_shared = placement::zones_shared(&self.candidates, replication, &ensemble);
        let metadata = LedgerMetadata::create(ledger, epoch, class, replication, wanted, ensemble)
            .expect("as many different members as the replication says");
        self.end(Notice::Opened { metadata, zones_shared });
    }

    fn end(&mut self, notice: Notice) {
        self.actions.extend(self.seats.open_calls().map(Action::Cancel));
        self.seats = EnsembleChange::default();
        self.notice = Some(notice);
        self.ended = true;
    }
}

impl Machine for Creation {
    type Notice = Notice;

    fn on_event(&mut self, now: Mono, event: Event) {
        if self.ended {
            return;
        }
        match event {
            Event::Answer { call, answer } if self.seats.asked(call) => self.on_answer(now, call, answer),
            Event::Bookies(candidates) => self.candidates = candidates,
            Event::Tick | Event::Answer { .. } | Event::Cas { .. } | Event::Record { .. } => {}
        }
        for late in self.seats.overdue(now) {
            self.late(now, late);
        }
        if !self.ended {
            self.settle();
        }
    }

    fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    fn poll_notice(&mut self) -> Option<Notice> {
        self.notice.take()
    }

    fn next_wakeup(&self) -> Option<Mono> {
        self.seats.wakeup()
    }
}
