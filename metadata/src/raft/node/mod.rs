//! The thread that owns raft, its log and the leases: it proposes, makes durable, applies and answers.

mod snapshots;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use alluvium_runtime::clock::Clock;
use alluvium_runtime::entropy::Entropy;
use alluvium_runtime::tasks::Tasks;
use bytes::Bytes;
use protobuf::Message as _;
use raft::eraftpb::{Entry, EntryType, Message};
use raft::{RawNode, StateRole};
use tokio::sync::mpsc;

use super::RaftConfig;
use super::codec;
use super::group::LogRecord;
use super::handle::{Role, Shared};
use super::log::{Home, Log};
use super::open::Opened;
use super::pending::{Pending, Reply, Request, Waiting, answer};
use super::replica::Replica;
use super::transport::{Transport, VoterId};
use crate::error::{OpenError, StoreError};
use crate::leases::Leases;
use crate::state::{Applied, Command};

/// The most requests, and bytes of proposals, that are taken before they are made durable together.
const BATCH_REQUESTS_MAX: usize = 1024;
const BATCH_BYTES_MAX: usize = 1 << 20;
/// What an entry costs in the log beside its command.
const ENTRY_OVERHEAD_BYTES: usize = 64;

const NOT_LEADER: StoreError = StoreError::unavailable("this voter does not lead");

/// Why the thread ends before it is asked to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NodeError {
    /// It is not known any more what is durable (B8).
    #[error("the metadata log failed: {0}")]
    Log(#[from] io::Error),
    /// What was decided makes no sense to this version of the program.
    #[error("entry {index} of the metadata log makes no sense: {problem}")]
    Entry { index: u64, problem: String },
    /// A snapshot of another voter makes no sense.
    #[error("the snapshot of another voter makes no sense: {0}")]
    Snapshot(String),
}

/// Where requests and other voters' messages arrive.
#[derive(Debug)]
pub(crate) struct Inputs {
    pub(crate) requests: mpsc::Receiver<Request>,
    pub(crate) messages: mpsc::Receiver<Bytes>,
}

/// What the thread is given from outside.
#[derive(Debug)]
pub(crate) struct Surroundings {
    pub(crate) clock: Clock,
    pub(crate) tasks: Tasks,
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) shared: Arc<Shared>,
}

/// The owner of everything that changes.
pub(crate) struct Node {
    raw: RawNode<Replica>,
    log: Log,
    home: Home,
    around: Surroundings,
    tick: Duration,
    snapshot_after_bytes: u64,
    trailing_entries: u64,
    /// What tells this life's proposals from others'.
    life: u64,
    pending: Pending,
    /// The term in which this voter leads.
    leading: Option<u64>,
    /// Kept while it leads and has applied all that was decided before.
    leases: Option<Leases>,
    applied: u64,
    snapshot_index: u64,
    image_bytes: u64,
    /// Bytes of proposals since the last sync.
    batch_bytes: usize,
    appended_since_tick: bool,
    /// The disk gave no space for a spare or a snapshot; asked again at the next tick.
    is_disk_full: bool,
    /// How many ticks each voter has been waiting for a snapshot.
    waiting_for_snapshot: Vec<(u64, u32)>,
    offered_ticks: u32,
}

impl Node {
    /// A voter over what its folder gave; a lone one leads at once.
    pub(crate) fn new(opened: Opened, config: &RaftConfig, around: Surroundings, entropy: &Entropy) -> Result<Self, OpenError> {
        let refused = |error: raft::Error| OpenError::Voters { problem: error.to_string() };
        let raft_config = raft::Config {
            id: config.voter.get(),
            election_tick: 10,
            heartbeat_tick: 2,
            applied: opened.applied,
            max_size_per_msg: 1 << 20,
            max_inflight_msgs: 64,
            check_quorum: true,
            pre_vote: true,
            max_uncommitted_size: 16 << 20,
            max_committed_size_per_ready: 16 << 20,
            ..raft::Config::default()
        };
        let is_lone = opened.replica.voters() == [config.voter];
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let mut raw = RawNode::new(&raft_config, opened.replica, &logger).map_err(refused)?;
        if is_lone {
            raw.campaign().map_err(refused)?;
        }
        *around.shared.state.write() = opened.state;
        Ok(Self {
            raw,
            log: opened.log,
            home: opened.home,
            around,
            tick: config.tick,
            snapshot_after_bytes: config.snapshot_after_bytes,
            trailing_entries: config.trailing_entries,
            life: entropy.bits(),
            pending: Pending::default(),
            leading: None,
            leases: None,
            applied: opened.applied,
            snapshot_index: opened.applied,
            image_bytes: opened.image_bytes,
            batch_bytes: 0,
            appended_since_tick: false,
            is_disk_full: false,
            waiting_for_snapshot: Vec::new(),
            offered_ticks: 0,
        })
    }

    /// Serves until the tasks are stopped or the disk fails.
    pub(crate) async fn run(mut self, mut inputs: Inputs) -> Result<(), NodeError> {
        let served = self.serve(&mut inputs).await;
        // From here on nothing is proposed: what still arrives was never begun.
        inputs.requests.close();
        while let Ok(request) = inputs.requests.try_recv() {
            refuse(request, &StoreError::Stopped);
        }
        self.pending.fail(&StoreError::Stopped);
        self.around.shared.stop();
        served?;
        if self.log.has_room(0) {
            self.log.seal(self.raw.store().hard())?;
        }
        Ok(())
    }

    async fn serve(&mut self, inputs: &mut Inputs) -> Result<(), NodeError> {
        let (clock, tasks) = (self.around.clock.clone(), self.around.tasks.clone());
        let mut next_tick = clock.mono().after(self.tick);
        loop {
            tokio::select! {
                biased;
                () = tasks.stopping() => return Ok(()),
                request = inputs.requests.recv() => match request {
                    Some(request) => self.request(request),
                    // Nobody is left who could ask.
                    None => return Ok(()),
                },
                Some(message) = inputs.messages.recv() => self.step(&message),
                () = clock.sleep_until(next_tick) => {}
            }
            // What has arrived meanwhile shares the sync.
            for _ in 0..BATCH_REQUESTS_MAX {
                if self.batch_bytes > BATCH_BYTES_MAX {
                    break;
                }
                let Ok(request) = inputs.requests.try_recv() else { break };
                self.request(request);
            }
            for _ in 0..BATCH_REQUESTS_MAX {
                let Ok(message) = inputs.messages.try_recv() else { break };
                self.step(&message);
            }
            // Before the tick: a keep-alive that has arrived comes before the end of its session.
            self.settle()?;
            let now = clock.mono();
            if now >= next_tick {
                self.tick(now.since(next_tick))?;
                next_tick = clock.mono().after(self.tick);
                self.settle()?;
            }
        }
    }

    /// Does all that raft has ready.
    pub(crate) fn settle(&mut self) -> Result<(), NodeError> {
        loop {
            self.ask_for_confirmation();
            if !self.raw.has_ready() {
                self.answer_confirmed();
                self.batch_bytes = 0;
                self.look_ahead();
                return Ok(());
            }
            self.handle_ready()?;
            self.note_leadership();
        }
    }

    fn request(&mut self, request: Request) {
        if self.raw.raft.state != StateRole::Leader {
            return refuse(request, &NOT_LEADER);
        }
        match request {
            Request::Propose { command, reply } => self.propose(&command, Some(reply)),
            Request::Read { reply } => self.pending.wait(Waiting::Read(reply)),
            Request::KeepAlive { session, reply } => {
                self.pending.wait(Waiting::KeepAlive { session, renewed: false, reply });
            }
        }
    }

    /// Proposes a command; what is refused here will never be applied.
    fn propose(&mut self, command: &Command, reply: Option<Reply<Applied>>) {
        let data = codec::encode_command(command);
        let bytes = self.batch_bytes + data.len() + ENTRY_OVERHEAD_BYTES;
        let refused = if reply.is_some() && !self.log.has_room(bytes) {
            Some(StoreError::unavailable("the disk of the metadata log is full"))
        } else {
            let number = self.pending.number();
            match self.raw.propose(context(self.life, number), data) {
                Ok(()) => {
                    self.batch_bytes = bytes;
                    if let Some(reply) = reply {
                        self.pending.proposed(number, reply);
                    }
                    return;
                }
                Err(_) => Some(StoreError::unavailable("too much is undecided")),
            }
        };
        if let (Some(reply), Some(error)) = (reply, refused) {
            answer(reply, Err(error));
        }
    }

    fn step(&mut self, message: &Bytes) {
        match Message::parse_from_bytes(message) {
            Ok(message) if message.to == self.raw.raft.id => {
                if let Err(error) = self.raw.step(message) {
                    tracing::debug!(%error, "a voter's message was not taken");
                }
            }
            Ok(message) => tracing::warn!(to = message.to, "a message for another voter"),
            Err(error) => tracing::warn!(%error, "not a voter's message"),
        }
    }

    /// `late` is by how much this tick missed its time.
    fn tick(&mut self, late: Duration) -> Result<(), NodeError> {
        self.raw.tick();
        self.offered_ticks = self.offered_ticks.saturating_add(1);
        if let Some(leases) = &mut self.leases
            && late > 2 * self.tick
        {
            // This voter was paused, and could not hear the keep-alives of that time.
            leases.postpone(late);
        }
        self.expire_sessions();
        self.resend_snapshots();
        self.is_disk_full = false;
        if !std::mem::take(&mut self.appended_since_tick) && self.log.has_room(0) {
            self.log.seal(self.raw.store().hard())?;
        }
        Ok(())
    }

    fn expire_sessions(&mut self) {
        let now = self.around.clock.mono();
        let Some(leases) = &mut self.leases else { return };
        for session in leases.expire(now) {
            tracing::info!(%session, "a session has expired");
            let open = self.raw.raft.state == StateRole::Leader && self.log.has_reserve();
            if open {
                self.propose(&Command::EndSession { session }, None);
            } else if let Some(leases) = &mut self.leases {
                leases.retry(session, now);
            }
        }
    }

    /// Asks raft whether this voter leads, for all who wait; keep-alives count from now.
    fn ask_for_confirmation(&mut self) {
        let Some(leases) = &mut self.leases else { return };
        let mut waiting = self.pending.take_waiting();
        if waiting.is_empty() {
            return;
        }
        let now = self.around.clock.mono();
        let state = self.around.shared.state.read();
        for waiting in &mut waiting {
            if let Waiting::KeepAlive { session, renewed, .. } = waiting {
                *renewed = state.session_ttl(*session).is_some_and(|ttl| leases.renew(*session, ttl, now));
            }
        }
        drop(state);
        let round = self.pending.number();
        self.pending.asked(round, waiting);
        self.raw.read_index(round.to_le_bytes().to_vec());
    }

    fn answer_confirmed(&mut self) {
        for waiting in self.pending.take_ready(self.applied) {
            match waiting {
                Waiting::Read(reply) => answer(reply, Ok(())),
                Waiting::KeepAlive { session, renewed, reply } => {
                    answer(reply, if renewed { Ok(()) } else { Err(StoreError::SessionGone(session)) });
                }
            }
        }
    }

    fn handle_ready(&mut self) -> Result<(), NodeError> {
        let mut ready = self.raw.ready();
        self.send(ready.take_messages());
        if !ready.snapshot().is_empty() {
            self.install(&ready.snapshot().clone())?;
        }
        for read in ready.take_read_states() {
            if let Ok(round) = read.request_ctx.as_slice().try_into().map(u64::from_le_bytes) {
                self.pending.confirm(round, read.index);
            }
        }
        self.apply(&ready.take_committed_entries())?;
        let entries = ready.take_entries();
        let mut records = Vec::with_capacity(entries.len() + 1);
        // A commit index alone needs no sync: it follows from the entries.
        if let Some(hard) = ready.hs()
            && (ready.must_sync() || !entries.is_empty())
        {
            records.push(LogRecord::HardState(hard.clone()));
        }
        records.extend(entries.iter().cloned().map(LogRecord::Entry));
        if !records.is_empty() {
            self.log.append(&records)?;
            self.appended_since_tick = true;
        }
        self.raw.mut_store().append(&entries);
        if let Some(hard) = ready.hs() {
            self.raw.mut_store().set_hard(hard.clone());
        }
        self.send(ready.take_persisted_messages());
        let mut light = self.raw.advance(ready);
        if let Some(commit) = light.commit_index() {
            self.raw.mut_store().set_commit(commit);
        }
        self.send(light.take_messages());
        self.apply(&light.take_committed_entries())?;
        self.raw.advance_apply();
        Ok(())
    }

    fn send(&self, messages: Vec<Message>) {
        for message in messages {
            let Some(to) = VoterId::new(message.to) else { continue };
            match message.write_to_bytes() {
                Ok(bytes) => self.around.transport.send(to, bytes.into()),
                Err(error) => tracing::error!(%error, "a message cannot be encoded"),
            }
        }
    }

    /// Applies what is decided, shows it to readers and watches, then answers.
    fn apply(&mut self, entries: &[Entry]) -> Result<(), NodeError> {
        if entries.is_empty() {
            return Ok(());
        }
        let now = self.around.clock.mono();
        let mut answers: Vec<(Reply<Applied>, Result<Applied, StoreError>)> = Vec::new();
        let shared = Arc::clone(&self.around.shared);
        let mut state = shared.state.write();
        for entry in entries {
            self.applied = entry.index;
            let nonsense = |problem: String| NodeError::Entry { index: entry.index, problem };
            if entry.entry_type != EntryType::EntryNormal {
                return Err(nonsense("a change of voters, which this version does not make".to_owned()));
            }
            if entry.data.is_empty() {
                continue;
            }
            let command = codec::decode_command(entry.data.clone()).map_err(nonsense)?;
            let applied = state.apply(&command);
            if let Some(leases) = &mut self.leases {
                match &command {
                    Command::CreateSession { session, ttl } if applied.is_ok() => {
                        leases.renew(*session, *ttl, now);
                    }
                    Command::EndSession { session } => leases.forget(*session),
                    _ => {}
                }
            }
            if let Some(reply) = own(&entry.context, self.life).and_then(|number| self.pending.decided(number)) {
                answers.push((reply, applied));
            }
        }
        let revision = state.revision();
        drop(state);
        shared.show(revision);
        for (reply, applied) in answers {
            answer(reply, applied);
        }
        Ok(())
    }

    /// Follows whether this voter leads. Leases begin anew in full, once all that was decided before is applied.
    fn note_leadership(&mut self) {
        let raft = &self.raw.raft;
        let leading = (raft.state == StateRole::Leader).then_some(raft.term);
        if leading != self.leading {
            tracing::info!(voter = raft.id, term = raft.term, leads = leading.is_some(), "the metadata leader changed");
            self.pending.fail(&NOT_LEADER);
            self.leases = None;
            self.leading = leading;
        }
        if leading.is_some() && self.leases.is_none() && self.raw.raft.apply_to_current_term() {
            let now = self.around.clock.mono();
            self.leases = Some(Leases::begin(self.around.shared.state.read().sessions(), now));
        }
        let role = Role { leader: VoterId::new(self.raw.raft.leader_id), is_serving: self.leases.is_some() };
        self.around.shared.role.send_if_modified(|known| std::mem::replace(known, role) != role);
    }
}

fn refuse(request: Request, error: &StoreError) {
    match request {
        Request::Propose { reply, .. } => answer(reply, Err(error.clone())),
        Request::Read { reply } | Request::KeepAlive { reply, .. } => answer(reply, Err(error.clone())),
    }
}

/// What an entry is recognised by.
fn context(life: u64, number: u64) -> Vec<u8> {
    [life.to_le_bytes(), number.to_le_bytes()].concat()
}

/// The number of a proposal of this life.
fn own(context: &[u8], life: u64) -> Option<u64> {
    let (whose, number) = context.split_at_checked(8)?;
    (whose == life.to_le_bytes()).then(|| number.try_into().ok().map(u64::from_le_bytes)).flatten()
}
