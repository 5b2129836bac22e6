//! Drives a pure machine in the real world: sends what it sends, tells it what comes back, keeps its time.

use std::collections::BTreeMap;
use std::sync::Arc;

use alluvium_metadata::ledgers::Ledgers;
use alluvium_metadata::{UpdateError, Versioned};
use alluvium_runtime::clock::Clock;
use alluvium_types::bookie::{ReadRefusal, Refusal};
use alluvium_types::ids::LedgerId;
use alluvium_types::ledger::{BookieId, LedgerMetadata};
use futures::StreamExt;
use futures::future::{AbortHandle, Abortable, BoxFuture, FutureExt};
use futures::stream::FuturesUnordered;

use crate::bookie_client::{BookieClient, CallError};
use crate::call::{Action, Answer, CallId, CasOutcome, Event, Machine, Record, Request, Unavailable};
use crate::pool::{BookiePool, Follow};

/// What every machine needs of the world.
#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) pool: BookiePool,
    pub(crate) ledgers: Ledgers,
    pub(crate) clock: Clock,
}

type Versions = Versioned<LedgerMetadata>;

/// What a call came to; with the record as it is known from then on.
type Outcome = (CallId, Event, Option<Versions>);

/// A machine and its open calls.
pub(crate) struct Drive<M> {
    pub(crate) machine: M,
    pub(crate) world: World,
    follow: Follow,
    /// The record that changes compare with, as last read or written here.
    pub(crate) known: Option<Versions>,
    open: FuturesUnordered<Abortable<BoxFuture<'static, Outcome>>>,
    handles: BTreeMap<CallId, AbortHandle>,
}

impl From<Versioned<LedgerMetadata>> for Record {
    fn from(versioned: Versioned<LedgerMetadata>) -> Self {
        Self { metadata: versioned.value, revision: versioned.mod_revision }
    }
}

impl<M: Machine> Drive<M> {
    pub(crate) fn new(machine: M, world: World, known: Option<Versions>) -> Self {
        let follow = world.pool.follow();
        Self { machine, world, follow, known, open: FuturesUnordered::new(), handles: BTreeMap::new() }
    }

    /// Starts all that the machine wants done.
    pub(crate) fn act(&mut self) {
        while let Some(action) = self.machine.poll_action() {
            match action {
                Action::Send { call, to, request } => self.send(call, &to, request),
                Action::Cancel(call) => {
                    if let Some(handle) = self.handles.remove(&call) {
                        handle.abort();
                    }
                }
                Action::Suspect(bookie) => self.world.pool.suspect(&bookie),
                Action::ReadRecord { call, ledger } => {
                    let ledgers = self.world.ledgers.clone();
                    self.begin(call, read_record(ledgers, call, ledger).boxed());
                }
                // Metadata's own client carries a change to a definite outcome; while it does, a repetition adds nothing.
                Action::CompareAndSet { call, .. } if self.handles.contains_key(&call) => {}
                Action::CompareAndSet { call, new, .. } => {
                    let known = self.known.clone().expect("a change is made from a record that was read or written here");
                    let ledgers = self.world.ledgers.clone();
                    self.begin(call, change_record(ledgers, call, known, new).boxed());
                }
            }
        }
    }

    fn send(&mut self, call: CallId, to: &BookieId, request: Request) {
        let Some(client) = self.world.pool.get(to) else {
            let lost = async move { (call, Event::Answer { call, answer: Answer::Lost }, None) };
            return self.begin(call, lost.boxed());
        };
        if let Request::AdvanceLac(lac) = request {
            return client.advance_lac(lac);
        }
        // An add takes its place in the order of adds here, before anything is polled.
        let answer = ask(client, request);
        self.begin(call, answer.map(move |answer| (call, Event::Answer { call, answer }, None)).boxed());
    }

    fn begin(&mut self, call: CallId, future: BoxFuture<'static, Outcome>) {
        let (handle, registration) = AbortHandle::new_pair();
        self.handles.insert(call, handle);
        self.open.push(Abortable::new(future, registration));
    }

    /// Waits for the next thing to happen, and gives it to the machine. Cancel safe.
    pub(crate) async fn next(&mut self) {
        let wakeup = self.machine.next_wakeup();
        let clock = self.world.clock.clone();
        let wake = async {
            match wakeup {
                Some(at) => clock.sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let event = tokio::select! {
            Some(done) = self.open.next(), if !self.open.is_empty() => match done {
                Ok((call, event, known)) => {
                    self.handles.remove(&call);
                    self.known = known.or(self.known.take());
                    event
                }
                // It was cancelled.
                Err(_) => return,
            },
            () = self.follow.changed() => Event::Bookies(self.world.pool.candidates()),
            () = wake => Event::Tick,
        };
        self.machine.on_event(self.world.clock.mono(), event);
    }

    /// Drives the machine to its first notice, for machines that have one.
    pub(crate) async fn run(mut self) -> (M::Notice, Option<Versions>) {
        loop {
            self.act();
            if let Some(notice) = self.machine.poll_notice() {
                // What it says last, such as whom it suspects, is heard too.
                self.act();
                return (notice, self.known);
            }
            self.next().await;
        }
    }
}

fn ask(client: Arc<dyn BookieClient>, request: Request) -> BoxFuture<'static, Answer> {
    match request {
        Request::Add(add) => client.add(add).map(|done| written(done, Answer::Add)).boxed(),
        Request::Open(open) => async move { written(client.open(open).await, Answer::Open) }.boxed(),
        Request::Read(read) => async move { answered(client.read(read).await, Answer::Read) }.boxed(),
        Request::Fence(fence) => async move { answered(client.fence(fence.ledger, fence.number).await, Answer::Fence) }.boxed(),
        Request::AdvanceLac(lac) => {
            client.advance_lac(lac);
            std::future::ready(Answer::Lost).boxed()
        }
    }
}

fn written(done: Result<(), CallError<Refusal>>, answer: fn(Result<(), Refusal>) -> Answer) -> Answer {
    match done {
        Ok(()) => answer(Ok(())),
        Err(CallError::Refused(refusal)) => answer(Err(refusal)),
        Err(CallError::Lost) => Answer::Lost,
    }
}

fn answered<T>(done: Result<T, CallError<ReadRefusal>>, answer: fn(Result<T, ReadRefusal>) -> Answer) -> Answer {
    match done {
        Ok(value) => answer(Ok(value)),
        Err(CallError::Refused(refusal)) => answer(Err(refusal)),
        Err(CallError::Lost) => Answer::Lost,
    }
}

async fn read_record(ledgers: Ledgers, call: CallId, ledger: LedgerId) -> Outcome {
    let read = ledgers.get(ledger).await;
    if let Err(error) = &read {
        tracing::warn!(%ledger, %error, "the record of the ledger could not be read");
    }
    let known = read.as_ref().ok().cloned().flatten();
    (call, Event::Record { call, record: read.map(|found| found.map(Record::from)).map_err(|_| Unavailable) }, known)
}

async fn change_record(ledgers: Ledgers, call: CallId, known: Versions, new: LedgerMetadata) -> Outcome {
    let ledger = new.ledger;
    let (outcome, known) = match ledgers.update(&known, new).await {
        Ok(written) => (CasOutcome::Applied(written.mod_revision), Some(written)),
        Err(UpdateError::Conflict { .. } | UpdateError::NotFound { .. }) => {
            // What stands there now is only told, not decided by: it may be unreadable.
            let current = ledgers.get(ledger).await.ok().flatten();
            (CasOutcome::Lost(current.clone().map(Record::from)), current)
        }
        Err(error) => {
            tracing::warn!(%ledger, %error, "the record of the ledger was not changed, or not for certain");
            (CasOutcome::Unknown, None)
        }
    };
    (call, Event::Cas { call, outcome }, known)
}
