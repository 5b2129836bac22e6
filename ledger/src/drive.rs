//! Drives a pure machine in the real world: sends what it sends, tells it what comes back, keeps its time.

use std::collections::BTreeMap;
use std::sync::Arc;

use alluvium_metadata::ledgers::Ledgers;
use alluvium_metadata::{UpdateError, Versioned};
use alluvium_runtime::clock::Clock;
use alluvium_types::bookie::{ReadRefusal, Refusal};
use alluvium_types::ids::{LedgerId, Nonce, Revision};
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
    /// The record as last read or written here.
    pub(crate) known: Option<Versions>,
    /// The versions that the machine may have decided by. A change compares with the one that it names, not with the newest: that
    /// one may have come with an answer that the machine did not want any more.
    told: BTreeMap<Revision, Versions>,
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
        let told = known.iter().map(|known| (known.mod_revision, known.clone())).collect();
        Self { machine, world, follow, known, told, open: FuturesUnordered::new(), handles: BTreeMap::new() }
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
                Action::CompareAndSet { call, expected, new, nonce } => {
                    let told = expected.map_or(self.known.as_ref(), |revision| self.told.get(&revision));
                    let from = told.cloned().expect("a change is made from a record that was read or written here");
                    // Nobody goes back to an older version.
                    self.told.retain(|revision, _| *revision >= from.mod_revision);
                    let ledgers = self.world.ledgers.clone();
                    self.begin(call, change_record(ledgers, call, from, new, nonce).boxed());
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
            biased;
            () = wake => Event::Tick,
            () = self.follow.changed() => Event::Bookies(self.world.pool.candidates()),
            Some(done) = self.open.next(), if !self.open.is_empty() => match done {
                Ok((call, event, known)) => {
                    self.handles.remove(&call);
                    if let Some(known) = known {
                        self.told.insert(known.mod_revision, known.clone());
                        self.known = Some(known);
                    }
                    event
                }
                // It was cancelled.
                Err(_) => return,
            },
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

async fn change_record(ledgers: Ledgers, call: CallId, from: Versions, new: LedgerMetadata, nonce: Nonce) -> Outcome {
    let ledger = new.ledger;
    let error = match ledgers.update_as(&from, new, nonce).await {
        Ok(written) => {
            return (call, Event::Cas { call, outcome: CasOutcome::Applied(written.mod_revision) }, Some(written));
        }
        Err(error) => error,
    };
    let outcome = match &error {
        UpdateError::Conflict { .. } | UpdateError::NotFound { .. } => {
            // What stands there now is only told, not decided by: it may be unreadable.
            let current = ledgers.get(ledger).await.ok().flatten();
            let lost = CasOutcome::Lost(current.clone().map(Record::from));
            return (call, Event::Cas { call, outcome: lost }, current);
        }
        UpdateError::Illegal { .. }
        | UpdateError::Refused(_)
        | UpdateError::Exists { .. }
        | UpdateError::NotEmpty { .. }
        | UpdateError::NotOwner
        | UpdateError::SessionGone => CasOutcome::Refused,
        UpdateError::Unavailable(_) | UpdateError::Stopping => CasOutcome::NotApplied,
        UpdateError::Read(_) | UpdateError::Unresolved => CasOutcome::Unknown,
    };
    let cause = &error as &dyn std::error::Error;
    if outcome == CasOutcome::Refused {
        tracing::error!(%ledger, error = cause, "metadata refuses the ledger's next record for good");
    } else {
        tracing::warn!(%ledger, error = cause, ?outcome, "the record of the ledger was not changed, or not for certain");
    }
    (call, Event::Cas { call, outcome }, None)
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::time::Duration;

    use alluvium_metadata::conformance::{Fate, LossyStore};
    use alluvium_metadata::{MemoryStore, Metadata};
    use alluvium_runtime::entropy::Entropy;
    use alluvium_runtime::tasks::Tasks;
    use alluvium_types::ids::{Epoch, RecoveryNumber};
    use alluvium_types::ledger::{LedgerClass, LedgerState};
    use alluvium_types::replication::Replication;
    use alluvium_types::time::Mono;

    use super::*;
    use crate::bookie_client::Connector;
    use crate::call::Calls;
    use crate::testing;

    struct Nobody;

    impl Connector for Nobody {
        fn connect(&self, bookie: &BookieId, _: &str) -> Arc<dyn BookieClient> {
            panic!("nobody asks {bookie}")
        }
    }

    /// Wants what it is told to, and keeps what it hears.
    #[derive(Default)]
    struct Script {
        actions: VecDeque<Action>,
        heard: Vec<Event>,
    }

    impl Machine for Script {
        type Notice = ();

        fn on_event(&mut self, _: Mono, event: Event) {
            self.heard.push(event);
        }

        fn poll_action(&mut self) -> Option<Action> {
            self.actions.pop_front()
        }

        fn poll_notice(&mut self) -> Option<()> {
            None
        }

        fn next_wakeup(&self) -> Option<Mono> {
            None
        }
    }

    struct Stage {
        lossy: LossyStore,
        ledgers: Ledgers,
        drive: Drive<Script>,
        calls: Calls,
        entropy: Entropy,
        open: Versions,
        _tasks: Tasks,
    }

    impl Stage {
        async fn new() -> Self {
            let (clock, entropy) = (Clock::system(), Entropy::seeded(1));
            let (tasks, _failures) = Tasks::new();
            let lossy = LossyStore::new(Arc::new(MemoryStore::start(clock.clone(), &tasks)));
            let metadata = Metadata::new(Arc::new(lossy.clone()), clock.clone(), entropy.clone(), tasks.clone());
            let metadata = metadata.with_patience(Duration::ZERO);
            let view = metadata.bookies().watch().await.expect("readable");
            let pool = BookiePool::new(view, Arc::new(Nobody), clock.clone(), Duration::ZERO);
            let single = Replication::SINGLE;
            let record = LedgerMetadata::create(
                LedgerId::new(1),
                Epoch::new(1),
                LedgerClass::Bulk,
                single,
                single,
                vec![testing::bookie(1)],
            );
            let ledgers = metadata.ledgers();
            let open = ledgers.create(record.expect("valid")).await.expect("created");
            let world = World { pool, ledgers: ledgers.clone(), clock };
            let drive = Drive::new(Script::default(), world, Some(open.clone()));
            Self { lossy, ledgers, drive, calls: Calls::default(), entropy, open, _tasks: tasks }
        }

        fn in_state(&self, state: LedgerState) -> LedgerMetadata {
            LedgerMetadata { state, ..self.open.value.clone() }
        }

        async fn change(&mut self, expected: Revision, new: LedgerMetadata) -> CasOutcome {
            let (call, nonce) = (self.calls.next(), Nonce::new(self.entropy.uuid()));
            self.drive.machine.actions.push_back(Action::CompareAndSet { call, expected: Some(expected), new, nonce });
            match self.hear().await {
                Event::Cas { outcome, .. } => outcome,
                other => panic!("{other:?}"),
            }
        }

        async fn hear(&mut self) -> Event {
            self.drive.act();
            while self.drive.machine.heard.is_empty() {
                self.drive.next().await;
            }
            self.drive.machine.heard.remove(0)
        }
    }

    #[tokio::test]
    async fn c15_what_is_certain_about_a_change_is_told_as_certain() {
        let mut stage = Stage::new().await;
        let at = stage.open.mod_revision;
        let closed = stage.in_state(LedgerState::Closed { last: None });
        stage.lossy.next([Fate::Unavailable]);
        assert_eq!(stage.change(at, closed.clone()).await, CasOutcome::NotApplied);
        let deleting = stage.in_state(LedgerState::Deleting);
        assert_eq!(stage.change(at, deleting).await, CasOutcome::Refused, "no ledger takes this step");
        assert!(matches!(stage.change(at, closed.clone()).await, CasOutcome::Applied(_)));
        let CasOutcome::Lost(Some(now)) = stage.change(at, closed.clone()).await else { panic!("it has changed") };
        assert_eq!(now.metadata, closed);
    }

    /// An answer that comes late brings a version by which nothing was decided.
    #[tokio::test]
    async fn c18_a_change_compares_the_version_it_was_made_from_whatever_was_read_since() {
        let mut stage = Stage::new().await;
        let by = RecoveryNumber::new(1);
        let recovering = LedgerMetadata { recovery: by, ..stage.in_state(LedgerState::Recovering { by }) };
        stage.ledgers.update(&stage.open, recovering.clone()).await.expect("another's claim");
        let call = stage.calls.next();
        stage.drive.machine.actions.push_back(Action::ReadRecord { call, ledger: stage.open.value.ledger });
        assert!(matches!(stage.hear().await, Event::Record { record: Ok(Some(_)), .. }));
        let outcome = stage.change(stage.open.mod_revision, recovering).await;
        assert!(matches!(outcome, CasOutcome::Lost(Some(_))), "{outcome:?}");
    }
}
