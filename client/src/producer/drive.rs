//! The task behind a producer: it keeps a stream open, feeds the session and does what follows.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use alluvium_proto::v1;
use alluvium_proto::v1::publish_stream_response as response;
use alluvium_runtime::tasks::OnFailure;
use alluvium_types::time::Mono;
use tokio::sync::{mpsc, oneshot};

use super::accumulator::Numbering;
use super::handle::{Command, Shared};
use super::link::{self, Link, Settings};
use super::pending::{BatchFate, Outcome};
use super::session::{Closed, Effect, Rules, Session};
use crate::connection::{Connection, stream_ended};
use crate::error::Error;

/// Commands that wait for this task.
const COMMANDS: usize = 64;

/// Tells the last sequence stored on a partition.
type ClaimReply = oneshot::Sender<Result<Option<u64>, Error>>;

/// The task.
#[derive(Debug)]
pub(super) struct Drive {
    connection: Arc<Connection>,
    settings: Settings,
    timeout: Duration,
    shared: Arc<Shared>,
    session: Session<Outcome>,
    commands: mpsc::Receiver<Command>,
    waiting: HashMap<u32, Vec<ClaimReply>>,
    /// Nobody holds the producer any more: it ends once nothing is left.
    abandoned: bool,
    /// What is queued now does not linger.
    hurry: bool,
}

/// Why a stream is no longer served.
enum End {
    /// It has to be opened anew.
    Lost(Error),
    /// Nothing more can be done, or is to be done.
    Over(Error),
    /// Something failed, and nothing may follow it.
    Stopped(Error),
}

/// What a turn of the task came upon.
enum Event {
    Answer(Result<Option<v1::PublishStreamResponse>, tonic::Status>),
    Command(Option<Command>),
    Other,
}

impl Drive {
    pub(super) fn start(
        connection: Arc<Connection>,
        settings: Settings,
        rules: Rules,
        shared: Arc<Shared>,
        link: Link,
    ) -> mpsc::Sender<Command> {
        let (tx, commands) = mpsc::channel(COMMANDS);
        let timeout = rules.timeout;
        let session = Session::new(rules, link.partitions(), &connection.backoff());
        let tasks = connection.tasks.clone();
        let waiting = HashMap::new();
        let drive = Self { connection, settings, timeout, shared, session, commands, waiting, abandoned: false, hurry: false };
        tasks.spawn("producer", OnFailure::Log, async move {
            drive.run(link).await;
            Ok::<(), Infallible>(())
        });
        tx
    }

    async fn run(mut self, first: Link) {
        let mut link = first;
        let over = loop {
            let lost = match self.serve(link).await {
                End::Lost(error) => error.deleted(&self.settings.open.topic, None),
                over => break over,
            };
            self.session.on_disconnected(&lost, self.now());
            if let Err(over @ (End::Over(_) | End::Stopped(_))) = self.apply() {
                break over;
            }
            if !lost.is_retryable() {
                break End::Over(lost);
            }
            tracing::debug!(topic = self.settings.open.topic, error = %lost, "publish stream lost, reconnecting");
            link = match self.reconnect().await {
                Ok(link) => link,
                Err(over) => break over,
            };
        };
        match over {
            End::Over(cause) | End::Lost(cause) => self.finish(&|_| cause.clone()),
            End::Stopped(cause) => {
                let source = Arc::new(cause);
                self.finish(&|partition| Error::Behind { partition, source: Arc::clone(&source) });
            }
        }
    }

    fn now(&self) -> Mono {
        self.connection.clock.mono()
    }

    /// Serves a stream until it is lost or nothing is left to do.
    async fn serve(&mut self, mut link: Link) -> End {
        let mut outgoing = None;
        loop {
            if let Err(end) = self.housekeeping() {
                return end;
            }
            self.close_batches();
            loop {
                outgoing = outgoing.take().or_else(|| self.session.next_request(self.now()));
                let Some(request) = outgoing.take() else { break };
                match link.requests.try_reserve() {
                    Ok(room) => room.send(link::wire(request)),
                    Err(mpsc::error::TrySendError::Full(())) => {
                        outgoing = Some(request);
                        break;
                    }
                    // The answer's side says why.
                    Err(mpsc::error::TrySendError::Closed(())) => break,
                }
            }
            let deadline = self.deadline();
            let event = tokio::select! {
                biased;
                answer = link.answers.message() => Event::Answer(answer),
                _ = link.requests.reserve(), if outgoing.is_some() => Event::Other,
                command = self.commands.recv(), if !self.abandoned => Event::Command(command),
                () = self.shared.due.notified() => Event::Other,
                () = self.connection.clock.sleep_until(deadline) => Event::Other,
            };
            match event {
                Event::Answer(Ok(Some(answer))) => self.on_answer(answer),
                Event::Answer(Ok(None)) => return End::Lost(stream_ended()),
                Event::Answer(Err(status)) => return End::Lost(status.into()),
                Event::Command(command) => self.on_command(command),
                Event::Other => {}
            }
        }
    }

    /// Tries until a stream stands again; meanwhile takes commands, and gives up what takes too long.
    async fn reconnect(&mut self) -> Result<Link, End> {
        let mut backoff = self.connection.backoff();
        loop {
            let (connection, settings) = (Arc::clone(&self.connection), self.settings.clone());
            let delay = backoff.delay();
            let attempt = async move {
                connection.clock.sleep(delay).await;
                settings.dial(&connection).await
            };
            tokio::pin!(attempt);
            let dialled = loop {
                // A stream that is gone can't be lost again.
                if let Err(over @ (End::Over(_) | End::Stopped(_))) = self.housekeeping() {
                    return Err(over);
                }
                let deadline = self.deadline();
                let event = tokio::select! {
                    biased;
                    dialled = &mut attempt => break dialled,
                    command = self.commands.recv(), if !self.abandoned => Event::Command(command),
                    () = self.connection.clock.sleep_until(deadline) => Event::Other,
                };
                if let Event::Command(command) = event {
                    self.on_command(command);
                }
            };
            match dialled {
                Ok(link) => return Ok(link),
                Err(error) if error.is_retryable() => {
                    tracing::debug!(topic = self.settings.open.topic, attempt = backoff.attempt(), %error, "cannot reconnect yet");
                    self.session.on_trouble(&error);
                }
                Err(error) => return Err(End::Over(error.deleted(&self.settings.open.topic, None))),
            }
        }
    }

    fn on_command(&mut self, command: Option<Command>) {
        match command {
            None => self.abandoned = true,
            Some(Command::Claim { partition, reply }) => {
                let numbering = self.shared.state.lock().accumulator.numbering(partition);
                if let Numbering::Next { stored, .. } = numbering {
                    // Whoever asked may have gone.
                    let _ = reply.send(Ok(stored));
                } else {
                    self.waiting.entry(partition).or_default().push(reply);
                }
            }
            Some(Command::Flush { reply }) => {
                self.hurry = true;
                let state = self.shared.state.lock();
                let fates: Vec<BatchFate> =
                    self.session.outcomes().chain(state.accumulator.outcomes()).map(Outcome::fate).collect();
                let _ = reply.send(fates);
            }
        }
    }

    fn on_answer(&mut self, answer: v1::PublishStreamResponse) {
        let now = self.now();
        match answer.response {
            Some(response::Response::Claimed(claimed)) => self.session.on_claimed(claimed, now),
            Some(response::Response::Receipts(receipts)) => {
                for receipt in receipts.receipts {
                    self.session.on_receipt(receipt, now);
                }
            }
            // A newer server may say what this client need not know.
            Some(response::Response::Opened(_)) | None => {}
        }
    }

    /// What is due by itself, and what follows from what came. An error ends the stream, or all.
    fn housekeeping(&mut self) -> Result<(), End> {
        let now = self.now();
        for partition in self.waiting.keys() {
            self.session.want_claim(*partition, now);
        }
        self.session.on_tick(now);
        let (queued, closed) = {
            let state = self.shared.state.lock();
            let accumulator = &state.accumulator;
            let since = |partition| accumulator.since(partition).map(|since| (partition, since));
            (accumulator.waiting().filter_map(since).collect::<Vec<(u32, Mono)>>(), state.over.is_some())
        };
        for (partition, since) in &queued {
            if self.session.is_idle(*partition) && now >= since.after(self.timeout) {
                self.session.expire(*partition);
            } else {
                self.session.want_claim(*partition, now);
            }
        }
        self.apply()?;
        if queued.is_empty() {
            self.hurry = false;
            if (self.abandoned || closed) && self.session.is_empty() {
                return Err(End::Over(Error::Closed));
            }
        }
        Ok(())
    }

    /// Hands batches that are due to the session.
    fn close_batches(&mut self) {
        let now = self.now();
        let linger = if self.hurry || self.abandoned { Duration::ZERO } else { self.settings.linger };
        let waiting: Vec<u32> = self.shared.state.lock().accumulator.waiting().collect();
        for partition in waiting {
            while self.session.accepts(partition, now) {
                let idle = self.session.is_idle(partition);
                let taken = self.shared.state.lock().accumulator.take(partition, idle, now, linger);
                let Some(mut filled) = taken else { break };
                filled.outcome.hold_no_more_than(filled.builder.bytes());
                // Compressing happens here, outside the lock.
                let wall = self.connection.clock.wall();
                let batch = filled.builder.finish(self.settings.codec, filled.first_sequence, wall);
                self.session.add(Closed { partition, batch, outcome: filled.outcome, since: filled.since });
            }
        }
    }

    /// When something becomes due by itself.
    fn deadline(&self) -> Mono {
        let state = self.shared.state.lock();
        let linger = if self.settings.linger.is_zero() || self.hurry { self.timeout } else { self.settings.linger };
        let now = self.now();
        let queued = state.accumulator.waiting().filter_map(|partition| {
            let since = state.accumulator.since(partition)?;
            // One that has lingered waits for receipts, which come by themselves.
            let due = Some(since.after(linger)).filter(|due| *due > now);
            Some(due.unwrap_or(since.after(self.timeout)))
        });
        queued.chain(self.session.deadline(now)).min().unwrap_or_else(|| self.connection.after(self.timeout))
    }

    fn apply(&mut self) -> Result<(), End> {
        let mut end = Ok(());
        let mut failed = None;
        for effect in self.session.effects() {
            match effect {
                Effect::Told(outcome, fate) => {
                    // It was there when this producer was made.
                    let fate = fate.map_err(|error| error.deleted(&self.settings.open.topic, None));
                    if let Err(error) = &fate {
                        failed.get_or_insert_with(|| error.clone());
                    }
                    outcome.tell(fate.map(|mut stored| {
                        stored.first_offset = stored.first_offset.filter(|_| self.settings.offsets);
                        stored
                    }));
                }
                Effect::Claimed { partition, stored } => {
                    let accumulator = &mut self.shared.state.lock().accumulator;
                    if accumulator.numbering(partition) == Numbering::Unclaimed {
                        let next = stored.map_or(0, |stored| stored + 1);
                        accumulator.set_numbering(partition, Numbering::Next { next, stored });
                    }
                    for waiter in self.waiting.remove(&partition).into_iter().flatten() {
                        let _ = waiter.send(Ok(stored));
                    }
                }
                Effect::Unclaimed { partition, error } => {
                    for waiter in self.waiting.remove(&partition).into_iter().flatten() {
                        let _ = waiter.send(Err(error.clone()));
                    }
                }
                Effect::Broken { partition, cause, next } => {
                    self.on_broken(partition, &cause, next);
                    failed.get_or_insert(cause);
                }
                Effect::Reconnect(error) => end = end.and(Err(End::Lost(error))),
                Effect::Over(error) => end = Err(End::Over(error)),
            }
        }
        match failed {
            Some(error) if self.settings.stop_on_failure && !matches!(end, Err(End::Over(_))) => Err(End::Stopped(error)),
            _ => end,
        }
    }

    /// Fails what is queued behind what failed, so that nothing overtakes it.
    fn on_broken(&self, partition: u32, cause: &Error, next: Option<u64>) {
        let accumulator = &mut self.shared.state.lock().accumulator;
        let numbering = match (accumulator.numbering(partition), next) {
            (Numbering::None, _) => Numbering::None,
            (Numbering::Next { stored, .. }, Some(next)) => Numbering::Next { next, stored },
            (_, None) | (Numbering::Unclaimed, _) => Numbering::Unclaimed,
        };
        accumulator.set_numbering(partition, numbering);
        for outcome in accumulator.drain(partition) {
            let late = matches!(cause, Error::TimedOut { .. });
            let error = if late { cause.clone() } else { Error::Behind { partition, source: Arc::new(cause.clone()) } };
            outcome.tell(Err(error));
        }
    }

    /// Tells everybody that it is over; `cause` says why, for a partition.
    fn finish(mut self, cause: &impl Fn(u32) -> Error) {
        let queued: Vec<(u32, Outcome)> = {
            let mut state = self.shared.state.lock();
            state.over.get_or_insert_with(|| cause(0));
            let waiting: Vec<u32> = state.accumulator.waiting().collect();
            let drained = |partition| state.accumulator.drain(partition).map(move |outcome| (partition, outcome)).collect();
            waiting.into_iter().flat_map::<Vec<_>, _>(drained).collect()
        };
        for (partition, outcome) in queued {
            outcome.tell(Err(cause(partition)));
        }
        self.session.fail_all(cause);
        for effect in self.session.effects() {
            if let Effect::Told(outcome, fate) = effect {
                outcome.tell(fate);
            }
        }
        for (partition, waiters) in self.waiting {
            for waiter in waiters {
                let _ = waiter.send(Err(cause(partition)));
            }
        }
    }
}
