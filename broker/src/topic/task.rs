//! The owner task: it waits, the owner decides, it does what the owner asks for.

use std::sync::Arc;
use std::time::Duration;

use alluvium_metadata::ReadError;
use alluvium_types::ids::TopicId;
use alluvium_types::names::PartitionName;
use alluvium_types::replication::Replication;
use tokio::sync::{mpsc, watch};

use super::bounds::{Bounds, OpenSegment};
use super::cache::TailCache;
use super::command::{Command, PublishCommand};
use super::complaints::Complaints;
use super::data_ledgers::{DataEvent, DataLedgers};
use super::entry::LoadedEntry;
use super::handle::{KnownSubscriptions, PartitionHandle, Parts, moved};
use super::hosted::{Hosted, Output, SubscriptionSpec};
use super::lease::DispatchLease;
use super::owner::{Lost, Owner, OwnerAction, OwnerStart, PartitionPolicy, Visible};
use super::reader::{PartitionReader, Readable, ReadableSegment};
use super::retention::Candidate;
use super::specs::Specs;
use super::state_ledgers::{StateEvent, StateLedgers};
use super::takeover::Found;
use crate::broker::{Context, Session};
use crate::error::OpenError;
use crate::ownership::Claim;
use crate::publish::receipt::{Waiting, tell};
use crate::subscription::Machine;

/// Batches that wait for the owner, beside the bytes they hold of the budget.
const PUBLISH_QUEUE: usize = 256;
/// Other requests that wait for it.
const COMMAND_QUEUE: usize = 1024;
/// How long closing the last state ledger and saying goodbye may take.
const GOODBYE: Duration = Duration::from_secs(5);
/// How long a creation that failed waits before the next.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// What a partition is opened with.
#[derive(Debug)]
pub(crate) struct OpenRequest {
    pub(crate) name: PartitionName,
    pub(crate) topic_id: TopicId,
    pub(crate) claim: Claim,
    pub(crate) session: Session,
    pub(crate) found: Found,
    pub(crate) policy: PartitionPolicy,
    pub(crate) replication: Replication,
    pub(crate) lease: DispatchLease,
}

/// The task of one partition.
pub(crate) struct PartitionTask {
    context: Arc<Context>,
    name: PartitionName,
    claim: Claim,
    session: Session,
    owner: Owner<Machine>,
    data: DataLedgers,
    state: StateLedgers,
    readable: Arc<Readable>,
    bounds: watch::Sender<Bounds>,
    closing: watch::Sender<bool>,
    specs: Specs,
    known: watch::Sender<KnownSubscriptions>,
    commands: mpsc::Receiver<Command>,
    publishes: mpsc::Receiver<PublishCommand>,
    over: bool,
}

enum Wake {
    Data(DataEvent),
    State(StateEvent),
    Specs(Result<Vec<SubscriptionSpec>, ReadError>),
    Command(Command),
    Publishes,
    SessionGone,
    Stopping,
    Time,
}

impl PartitionTask {
    /// Makes the task of a partition that was taken over, which the caller runs.
    pub(crate) fn open(context: Arc<Context>, request: OpenRequest) -> Result<(PartitionHandle, Self), OpenError> {
        let OpenRequest { name, topic_id, claim, session, found, policy, replication, lease } = request;
        let now = context.clock.mono();
        let Found {
            segments,
            predecessor,
            end,
            server_time,
            pointer,
            superseded,
            dedup,
            covered,
            subscriptions: records,
            specs: found_specs,
        } = found;
        let machine = Machine::restore(&records).map_err(OpenError::Corrupt)?;
        let sealed: Vec<Candidate> = segments
            .iter()
            .filter_map(|segment| {
                let sealed = segment.value.sealed?;
                Some(Candidate { number: segment.value.number, first: segment.value.first?, sealed })
            })
            .collect();
        let readable_segments = segments
            .iter()
            .filter_map(|segment| {
                let (first, sealed) = (segment.value.first?, segment.value.sealed?);
                let last_time = sealed.times.map(|(_, last)| last);
                Some(ReadableSegment::sealed(segment.value.number, segment.value.ledger, first, sealed.end, last_time))
            })
            .collect();
        let start = OwnerStart {
            name: name.clone(),
            policy,
            segments: sealed,
            dedup,
            covered,
            end,
            server_time,
            subscriptions: machine,
            retired: pointer.as_ref().is_some_and(|pointer| !pointer.value.retired.is_empty()),
            idle_close: Duration::from_millis(context.config.idle_close_ms),
            retry_after: RETRY_AFTER,
        };
        let mut owner = Owner::new(now, context.config.owner(), start);
        owner.configure(now, &found_specs);
        let bounds_now = owner.bounds();
        let (bounds, bounds_rx) = watch::channel(bounds_now);
        let cache = TailCache::new(context.config.cache_partition_bytes_max, context.tails.clone());
        let (ledgers, budget) = (context.ledgers.clone(), (context.read_budget.clone(), context.limits.entry_bytes_max()));
        let complaints = Complaints::new(name.clone(), context.clock.clone(), context.metrics.clone());
        let readable = Arc::new(Readable::new(
            ledgers,
            budget,
            (cache, context.recent.clone()),
            readable_segments,
            bounds_rx.clone(),
            complaints,
        ));
        let data =
            DataLedgers::new(Arc::clone(&context), claim.clone(), Arc::clone(&readable), replication, segments, predecessor);
        let state = StateLedgers::new(Arc::clone(&context), claim.clone(), replication, pointer, superseded);
        let specs = Specs::new(Arc::clone(&context), claim.partition());
        let (known, known_rx) = watch::channel(known(&found_specs));
        let (commands_tx, commands) = mpsc::channel(COMMAND_QUEUE);
        let (publishes_tx, publishes) = mpsc::channel(PUBLISH_QUEUE);
        let (closing, closing_rx) = watch::channel(false);
        let parts = Parts {
            name: name.clone(),
            topic_id,
            epoch: claim.epoch(),
            commands: commands_tx,
            publishes: publishes_tx,
            bounds: bounds_rx,
            closing: closing_rx,
            known: known_rx,
            reader: PartitionReader::new(Arc::clone(&readable)),
            lease,
        };
        tracing::info!(partition = %name, epoch = %claim.epoch(), first = %bounds_now.first, end = %bounds_now.end, "serving a partition");
        let task = Self {
            context,
            name,
            claim,
            session,
            owner,
            data,
            state,
            readable,
            bounds,
            closing,
            specs,
            known,
            commands,
            publishes,
            over: false,
        };
        Ok((PartitionHandle::new(parts), task))
    }

    /// What concerns it may have changed while it was opened. The policies in force were read since; it is over if its topic is
    /// gone, or if that is not known: who asks next opens it anew.
    pub(crate) async fn changed_meanwhile(&mut self, policy: Result<Option<(PartitionPolicy, Replication)>, ReadError>) {
        self.specs.ask(None);
        match policy {
            Ok(Some((policy, replication))) => self.set_policy(policy, replication),
            Ok(None) | Err(_) => self.lost(Lost::Fenced).await,
        }
    }

    /// Runs until ownership is over, or let go.
    pub(crate) async fn run(mut self) {
        let mut batches = Vec::with_capacity(PUBLISH_QUEUE);
        while !self.over {
            self.owner.set_metadata_certain(self.session.lease().is_certain());
            self.owner.step(self.context.clock.mono(), self.context.clock.wall());
            self.act().await;
            if self.over {
                break;
            }
            let wake = self.wait(&mut batches).await;
            self.take(wake, &mut batches).await;
        }
        // What waits in the queue never reached the owner, nor does what whoever has room in it sends yet.
        self.publishes.close();
        while let Some(command) = self.publishes.recv().await {
            let fault = moved(&self.name);
            tell([match command {
                PublishCommand::Batch(ticket, _) => Waiting::Batch(Some(ticket), Err(fault)),
                PublishCommand::Claim { answers, partition, .. } => Waiting::Claim(answers, partition, Err(fault)),
            }]);
        }
    }

    async fn wait(&mut self, batches: &mut Vec<PublishCommand>) -> Wake {
        let wakeup = self.owner.next_wakeup();
        let takes = self.owner.takes_batches();
        let (clock, stopping) = (&self.context.clock, &self.context.partition_tasks);
        let time = async {
            match wakeup {
                Some(at) => clock.sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            event = self.data.next() => Wake::Data(event),
            event = self.state.next() => Wake::State(event),
            specs = self.specs.next() => Wake::Specs(specs),
            Some(command) = self.commands.recv() => Wake::Command(command),
            count = self.publishes.recv_many(batches, PUBLISH_QUEUE), if takes && batches.is_empty() => {
                if count == 0 { Wake::Time } else { Wake::Publishes }
            }
            () = self.session.gone() => Wake::SessionGone,
            () = stopping.stopping() => Wake::Stopping,
            () = time => Wake::Time,
        }
    }

    async fn take(&mut self, wake: Wake, batches: &mut Vec<PublishCommand>) {
        let now = self.context.clock.mono();
        self.owner.set_storage_full(self.context.storage_full());
        match wake {
            Wake::Data(event) => self.data_event(event).await,
            Wake::State(event) => {
                if event.tell(now, self.owner.state()) {
                    self.lost(Lost::Fenced).await;
                }
            }
            Wake::Specs(specs) => {
                let outcome = specs.map(|specs| {
                    self.owner.configure(now, &specs);
                    self.known.send_replace(known(&specs));
                });
                self.specs.told(&outcome);
            }
            Wake::Command(command) => self.command(command).await,
            Wake::Publishes => {
                let wall = self.context.clock.wall();
                for command in batches.drain(..) {
                    self.count(&command);
                    self.owner.publish(now, wall, command);
                }
            }
            Wake::SessionGone | Wake::Stopping => self.lost(Lost::Fenced).await,
            Wake::Time => {}
        }
    }

    fn count(&self, command: &PublishCommand) {
        let metrics = &self.context.metrics;
        match command {
            PublishCommand::Batch(_, Ok(admitted)) => {
                metrics.published_batches.inc();
                metrics.published_messages.inc_by(u64::from(admitted.header.count));
                metrics.published_bytes.inc_by(admitted.blob.len() as u64);
            }
            PublishCommand::Batch(_, Err(_)) => {
                metrics.refused_batches.inc();
            }
            PublishCommand::Claim { .. } => {}
        }
    }

    async fn data_event(&mut self, event: DataEvent) {
        let now = self.context.clock.mono();
        match event {
            DataEvent::Created(created) => self.owner.data_created(now, created),
            DataEvent::Led(entry) => self.owner.led(entry),
            DataEvent::Confirmed(entry) => self.owner.confirmed(now, entry),
            DataEvent::Closed => self.owner.data_closed(),
            DataEvent::Sealed(number) => self.owner.sealed(now, number),
            DataEvent::Trimmed(numbers) => self.owner.trimmed(now, &numbers),
            DataEvent::Lost(why) => self.lost(why).await,
        }
    }

    async fn command(&mut self, command: Command) {
        let now = self.context.clock.mono();
        match command {
            Command::Subscriptions(input) => self.owner.apply(now, input),
            Command::Configure(known) => self.specs.ask(known),
            Command::Policy(policy, replication) => self.set_policy(policy, replication),
            Command::OpenSegment(reply) => {
                let open = self.owner.open_segment().zip(self.data.last_ledger());
                let known = open.map(|((first, confirmed), ledger)| OpenSegment {
                    ledger,
                    first,
                    bytes: confirmed.bytes,
                    times: confirmed.times,
                });
                // Who no longer waits has gone.
                let _ = reply.send(known);
            }
            Command::Drain => {
                self.closing.send_replace(true);
                self.owner.drain();
            }
            Command::Abandon => self.lost(Lost::Fenced).await,
        }
    }

    fn set_policy(&mut self, policy: PartitionPolicy, replication: Replication) {
        self.owner.set_policy(self.context.clock.mono(), policy);
        self.data.set_replication(replication);
        self.state.set_replication(replication);
    }

    /// Ownership is over. Who waits is told; a successor finds out what became of what was on its way.
    async fn lost(&mut self, why: Lost) {
        if self.over {
            return;
        }
        tracing::warn!(partition = %self.name, epoch = %self.claim.epoch(), ?why, "no longer serving a partition");
        self.closing.send_replace(true);
        self.owner.lost(why);
        self.over = true;
        self.act().await;
    }

    async fn act(&mut self) {
        for action in self.owner.take_actions() {
            match action {
                OwnerAction::Data(action) => self.data.act(action),
                OwnerAction::State(action) => self.state.act(action),
                OwnerAction::Show(visible, bounds) => self.show(visible, bounds),
                OwnerAction::Tell(waiting) => tell(waiting),
                OwnerAction::Perform(outputs) => outputs.into_iter().for_each(Output::perform),
                OwnerAction::Trim(numbers) => self.data.trim(numbers),
                OwnerAction::Release => self.release().await,
            }
        }
    }

    fn show(&self, visible: Vec<Visible>, bounds: Bounds) {
        if let Some(ledger) = self.data.current_ledger() {
            for Visible { entry, header, body } in visible {
                self.context.metrics.confirmed_entries.inc();
                self.context.metrics.confirmed_bytes.inc_by(body.len() as u64);
                let cost = LoadedEntry::cost_of(body.len(), header.batches.len());
                let load = |held| LoadedEntry::of_parts((ledger, entry), header, &body, Some(Arc::new(held)));
                self.readable.cache.push(cost, load);
            }
        }
        self.bounds.send_if_modified(|known| std::mem::replace(known, bounds) != bounds);
    }

    async fn release(&mut self) {
        self.over = true;
        self.closing.send_replace(true);
        let context = Arc::clone(&self.context);
        let goodbye = async {
            self.state.close().await;
            self.claim.release(&context.metadata).await
        };
        match context.clock.timeout(GOODBYE, goodbye).await {
            Ok(Ok(())) => tracing::info!(partition = %self.name, "a partition was let go"),
            Ok(Err(error)) => tracing::debug!(partition = %self.name, %error, "a partition was left as it is"),
            Err(_) => tracing::debug!(partition = %self.name, "a partition was left as it is, in a hurry"),
        }
    }
}

fn known(specs: &[SubscriptionSpec]) -> KnownSubscriptions {
    specs.iter().map(|spec| (spec.name.clone(), spec.id)).collect()
}

impl std::fmt::Debug for PartitionTask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PartitionTask({})", self.name)
    }
}
