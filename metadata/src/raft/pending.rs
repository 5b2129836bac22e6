//! Who waits for what on the node's thread. Bounded: past the bounds, callers are told to come again.

use std::collections::HashMap;

use alluvium_types::ids::SessionId;
use tokio::sync::oneshot;

use crate::error::StoreError;
use crate::state::{Applied, Command};

/// The most calls that wait at a time, of each sort.
const WAITING_MAX: usize = 4096;

/// Where an answer goes. Nobody may be there any more.
pub(crate) type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

/// What the node's thread is asked.
#[derive(Debug)]
pub(crate) enum Request {
    /// Decide and apply a command.
    Propose { command: Command, reply: Reply<Applied> },
    /// Answer once the applied state is new enough for a linearizable read.
    Read { reply: Reply<()> },
    /// Give a session its time to live anew; not logged.
    KeepAlive { session: SessionId, reply: Reply<()> },
}

/// Waits for a round of raft that confirms that this voter leads.
#[derive(Debug)]
pub(crate) enum Waiting {
    Read(Reply<()>),
    KeepAlive { session: SessionId, renewed: bool, reply: Reply<()> },
}

impl Waiting {
    fn fail(self, error: StoreError) {
        match self {
            Self::Read(reply) | Self::KeepAlive { reply, .. } => answer(reply, Err(error)),
        }
    }
}

/// All that is open.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    next: u64,
    proposals: HashMap<u64, Reply<Applied>>,
    waiting: Vec<Waiting>,
    asked: HashMap<u64, Vec<Waiting>>,
    confirmed: Vec<(u64, Vec<Waiting>)>,
}

pub(crate) fn answer<T>(reply: Reply<T>, with: Result<T, StoreError>) {
    // Who asked may have gone.
    let _ = reply.send(with);
}

impl Pending {
    /// A number that no other proposal or round of this life has.
    pub(crate) const fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    pub(crate) fn proposed(&mut self, number: u64, reply: Reply<Applied>) {
        self.proposals.insert(number, reply);
    }

    pub(crate) fn decided(&mut self, number: u64) -> Option<Reply<Applied>> {
        self.proposals.remove(&number)
    }

    /// Lets a call wait for the next round.
    pub(crate) fn wait(&mut self, waiting: Waiting) {
        let open = self.asked.values().map(Vec::len).sum::<usize>() + self.waiting.len();
        if open >= WAITING_MAX {
            waiting.fail(StoreError::unavailable("too many calls are waiting"));
        } else {
            self.waiting.push(waiting);
        }
    }

    /// Those that a round which begins now confirms.
    pub(crate) fn take_waiting(&mut self) -> Vec<Waiting> {
        std::mem::take(&mut self.waiting)
    }

    pub(crate) fn asked(&mut self, round: u64, waiting: Vec<Waiting>) {
        self.asked.insert(round, waiting);
    }

    /// A round has confirmed that this voter led when it began, with everything up to `index` committed then.
    pub(crate) fn confirm(&mut self, round: u64, index: u64) {
        if let Some(waiting) = self.asked.remove(&round) {
            self.confirmed.push((index, waiting));
        }
    }

    /// Those whose index is applied.
    pub(crate) fn take_ready(&mut self, applied: u64) -> Vec<Waiting> {
        let (ready, later) = std::mem::take(&mut self.confirmed).into_iter().partition(|(index, _)| *index <= applied);
        self.confirmed = later;
        let ready: Vec<(u64, Vec<Waiting>)> = ready;
        ready.into_iter().flat_map(|(_, waiting)| waiting).collect()
    }

    /// This voter no longer leads as it did: what was proposed may or may not be decided by others.
    pub(crate) fn fail(&mut self, waiting_with: &StoreError) {
        for (_, reply) in self.proposals.drain() {
            answer(reply, Err(StoreError::Unknown));
        }
        let asked = self.asked.drain().map(|(_, waiting)| waiting);
        let confirmed = self.confirmed.drain(..).map(|(_, waiting)| waiting);
        let all: Vec<Waiting> = asked.chain(confirmed).flatten().chain(self.waiting.drain(..)).collect();
        for waiting in all {
            waiting.fail(waiting_with.clone());
        }
    }
}
