//! A world of tables: bookies and metadata that do as they are told, at once, and a driver that carries what a machine says to
//! them. Time stands still unless a schedule moves it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use alluvium_ledger::call::{Action, Answer, CallId, CasOutcome, Event, Machine, Record, Request, Unavailable};
use alluvium_ledger::placement::{Candidate, degrade};
use alluvium_ledger::recovery::{Recovery, RecoveryConfig};
use alluvium_ledger::writer::{Writer, WriterConfig};
use alluvium_runtime::entropy::Entropy;
use alluvium_types::checksum::Crc32c;
use alluvium_types::ids::{EntryId, Nonce, Revision};
use alluvium_types::ledger::{BookieId, LedgerClass, LedgerMetadata};
use alluvium_types::replication::Replication;
use alluvium_types::time::Mono;

pub(crate) use crate::bookie::{Bookie, EPOCH, LEDGER, b, body, e, stored};

pub(crate) fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Bookies from 0 on, each in a zone of its own.
pub(crate) fn live(numbers: impl IntoIterator<Item = u64>) -> Arc<[Candidate]> {
    let candidate = |number| Candidate {
        bookie: b(number),
        zone: Arc::from(format!("z{number}")),
        writable: true,
        free_bytes: 1 << 40,
        suspect: false,
    };
    numbers.into_iter().map(candidate).collect()
}

/// An open ledger over these bookies.
pub(crate) fn ledger(members: &[u64], wanted: Replication) -> LedgerMetadata {
    let replication = degrade(wanted, members.len()).unwrap();
    LedgerMetadata::create(LEDGER, EPOCH, LedgerClass::Bulk, replication, wanted, members.iter().copied().map(b).collect())
        .unwrap()
}

/// What becomes of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Gate {
    /// It is done and answered.
    Pass,
    /// It is on its way until a schedule delivers it.
    Hold,
    /// It is on its way for ever, and nobody notices.
    Swallow,
    /// The connection is refused.
    Refuse,
}

/// What becomes of a compare-and-set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum CasGate {
    Pass,
    /// The outcome is unknown; it is applied when a schedule says so.
    Delay,
    /// It is done; the answer is lost.
    LoseAnswer,
    /// Metadata is away, and says so for certain.
    Away,
    /// It is refused for good.
    Refuse,
}

type Change = (Option<Revision>, LedgerMetadata, Nonce);

/// The tables.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) bookies: BTreeMap<BookieId, Bookie>,
    pub(crate) record: Option<Record>,
    nonce: Option<Nonce>,
    /// Changes that were delayed.
    pub(crate) delayed: Vec<Change>,
    /// Every change that was asked for.
    pub(crate) changes: Vec<Change>,
    pub(crate) gates: BTreeMap<BookieId, Gate>,
    pub(crate) cas_gate: CasGate,
}

impl World {
    /// A ledger open on its members, in a world of `count` bookies.
    pub(crate) fn new(count: u64, metadata: LedgerMetadata) -> Self {
        let mut bookies: BTreeMap<BookieId, Bookie> = (0..count).map(|number| (b(number), Bookie::default())).collect();
        for member in &metadata.last_fragment().ensemble {
            bookies.get_mut(member).unwrap().known = true;
        }
        Self {
            bookies,
            record: Some(Record { metadata, revision: Revision::new(1) }),
            nonce: None,
            delayed: Vec::new(),
            changes: Vec::new(),
            gates: BTreeMap::new(),
            cas_gate: CasGate::Pass,
        }
    }

    pub(crate) fn at(&mut self, number: u64) -> &mut Bookie {
        self.bookies.get_mut(&b(number)).unwrap()
    }

    pub(crate) fn gate(&mut self, number: u64, gate: Gate) {
        self.gates.insert(b(number), gate);
    }

    /// Puts entries where a writer would have put them.
    pub(crate) fn store(&mut self, number: u64, entries: impl IntoIterator<Item = u64>, lac: Option<u64>) {
        let bookie = self.at(number);
        bookie.known = true;
        bookie.lac = bookie.lac.max(lac.map(e));
        for entry in entries {
            bookie.entries.insert(e(entry), stored(e(entry), lac.map(e)));
        }
    }

    pub(crate) fn metadata(&self) -> &LedgerMetadata {
        &self.record.as_ref().unwrap().metadata
    }

    pub(crate) fn handle(&mut self, to: &BookieId, request: Request) -> Option<Answer> {
        self.bookies.get_mut(to).unwrap().handle(request)
    }

    pub(crate) fn change(&mut self, (expected, new, nonce): Change) -> CasOutcome {
        if self.nonce == Some(nonce) {
            return CasOutcome::Applied(self.record.as_ref().unwrap().revision);
        }
        let current = self.record.as_ref().map(|record| record.revision);
        if expected.is_some() && expected != current {
            return CasOutcome::Lost(self.record.clone());
        }
        let revision = current.unwrap_or_default().next();
        self.nonce = Some(nonce);
        self.record = Some(Record { metadata: new, revision });
        CasOutcome::Applied(revision)
    }

    /// The changes that were on their way arrive.
    pub(crate) fn apply_delayed(&mut self) {
        for change in std::mem::take(&mut self.delayed) {
            self.change(change);
        }
    }

    /// L5: every entry of the closed ledger is on an ack quorum of the ensemble that its record names.
    pub(crate) fn holes(&self) -> Vec<EntryId> {
        let metadata = self.metadata();
        let last = metadata.closed_at().expect("the ledger is closed");
        let copies = |entry: EntryId| {
            let ensemble = &metadata.fragment_of(entry).ensemble;
            let holds = |place: &usize| {
                self.bookies[&ensemble[*place]].entries.get(&entry).is_some_and(|found| found.body == body(entry))
            };
            metadata.replication.write_set(entry).filter(holds).count()
        };
        let entries = (0..last.map_or(0, |last| last.get() + 1)).map(EntryId::new);
        entries.filter(|entry| copies(*entry) < metadata.replication.ack()).collect()
    }
}

/// One machine in the world.
pub(crate) struct Driver<M: Machine> {
    pub(crate) machine: M,
    pub(crate) now: Mono,
    pub(crate) notices: Vec<M::Notice>,
    /// What it sent, in order.
    pub(crate) sent: Vec<(BookieId, Request)>,
    pub(crate) suspects: Vec<BookieId>,
    pub(crate) cancelled: usize,
    /// Metadata cannot be read.
    pub(crate) cut_metadata: bool,
    held: Vec<(CallId, BookieId, Request)>,
    events: VecDeque<Event>,
}

impl<M: Machine> Driver<M> {
    pub(crate) fn new(now: Mono, machine: M) -> Self {
        Self {
            machine,
            now,
            notices: Vec::new(),
            sent: Vec::new(),
            suspects: Vec::new(),
            cancelled: 0,
            cut_metadata: false,
            held: Vec::new(),
            events: VecDeque::new(),
        }
    }

    /// Carries messages until nothing moves any more.
    pub(crate) fn run(&mut self, world: &mut World) {
        for _ in 0..100_000 {
            if !self.step(world) {
                return;
            }
        }
        panic!("the machine does not come to rest");
    }

    fn act(&mut self, world: &mut World, action: Action) {
        match action {
            Action::Send { call, to, request } => {
                self.sent.push((to.clone(), request.clone()));
                let gate = world.gates.get(&to).copied().unwrap_or(Gate::Pass);
                match gate {
                    Gate::Pass => self.deliver(world, call, &to, request),
                    Gate::Hold => self.held.push((call, to, request)),
                    Gate::Swallow => {}
                    Gate::Refuse => self.events.push_back(Event::Answer { call, answer: Answer::Lost }),
                }
            }
            Action::Cancel(_) => self.cancelled += 1,
            Action::CompareAndSet { call, expected, new, nonce } => {
                let change = (expected, new, nonce);
                world.changes.push(change.clone());
                let outcome = match world.cas_gate {
                    CasGate::Pass => world.change(change),
                    CasGate::Delay => {
                        world.delayed.push(change);
                        CasOutcome::Unknown
                    }
                    CasGate::LoseAnswer => {
                        world.change(change);
                        CasOutcome::Unknown
                    }
                    CasGate::Away => CasOutcome::NotApplied,
                    CasGate::Refuse => CasOutcome::Refused,
                };
                self.events.push_back(Event::Cas { call, outcome });
            }
            Action::ReadRecord { call, .. } => {
                let record = if self.cut_metadata { Err(Unavailable) } else { Ok(world.record.clone()) };
                self.events.push_back(Event::Record { call, record });
            }
            Action::Suspect(bookie) => self.suspects.push(bookie),
        }
    }

    fn deliver(&mut self, world: &mut World, call: CallId, to: &BookieId, request: Request) {
        if let Some(answer) = world.handle(to, request) {
            self.events.push_back(Event::Answer { call, answer });
        }
    }

    /// Delivers what was held and is chosen, and carries on.
    pub(crate) fn release(&mut self, world: &mut World, chosen: impl Fn(&BookieId, &Request) -> bool) {
        let (go, stay) = std::mem::take(&mut self.held).into_iter().partition(|(_, to, request)| chosen(to, request));
        self.held = stay;
        for (call, to, request) in go {
            self.deliver(world, call, &to, request);
        }
        self.run(world);
    }

    /// Time passes, with a tick whenever the machine wants one.
    pub(crate) fn pass(&mut self, world: &mut World, time: Duration) {
        let until = self.now.after(time);
        self.run(world);
        for _ in 0..100_000 {
            match self.machine.next_wakeup() {
                Some(at) if at <= until => {
                    self.now = self.now.max(at);
                    self.machine.on_event(self.now, Event::Tick);
                    self.run(world);
                }
                _ => {
                    self.now = until;
                    return;
                }
            }
        }
        panic!("the machine does not let time pass");
    }

    pub(crate) fn tell(&mut self, world: &mut World, event: Event) {
        self.machine.on_event(self.now, event);
        self.run(world);
    }

    /// How many adds of `entry` went to `number`.
    pub(crate) fn adds(&self, number: u64, entry: u64) -> usize {
        let is_it = |request: &Request| matches!(request, Request::Add(add) if add.entry == e(entry));
        self.sent.iter().filter(|(to, request)| *to == b(number) && is_it(request)).count()
    }

    pub(crate) fn asked(&self, number: u64) -> usize {
        self.sent.iter().filter(|(to, _)| *to == b(number)).count()
    }
}

impl Driver<Writer> {
    /// The writer of the world's ledger.
    pub(crate) fn writer(world: &World, spares: Arc<[Candidate]>) -> Self {
        Self::writer_with(world, spares, WriterConfig::default())
    }

    pub(crate) fn writer_with(world: &World, spares: Arc<[Candidate]>, config: WriterConfig) -> Self {
        let record = world.record.clone().unwrap();
        Self::new(Mono::default(), Writer::new(config, record, spares, Entropy::seeded(1)))
    }

    pub(crate) fn append(&mut self, world: &mut World, count: u64) {
        for _ in 0..count {
            let body = body(self.machine.next_entry());
            let crc = Crc32c::of(&body);
            self.machine.append(self.now, body, crc).unwrap();
        }
        self.run(world);
    }

    pub(crate) fn close(&mut self, world: &mut World) {
        self.machine.close(self.now);
        self.run(world);
    }

    pub(crate) fn lac(&self) -> Option<u64> {
        self.machine.lac().map(EntryId::get)
    }
}

impl Driver<Recovery> {
    pub(crate) fn recovery(live: Arc<[Candidate]>) -> Self {
        Self::recovery_with(live, RecoveryConfig::default(), 2)
    }

    pub(crate) fn recovery_with(live: Arc<[Candidate]>, config: RecoveryConfig, seed: u64) -> Self {
        let now = Mono::default();
        Self::new(now, Recovery::new(now, config, LEDGER, live, Entropy::seeded(seed)))
    }
}

impl<M: Machine> Driver<M> {
    /// One action, notice or event.
    pub(crate) fn step(&mut self, world: &mut World) -> bool {
        if let Some(action) = self.machine.poll_action() {
            self.act(world, action);
        } else if let Some(notice) = self.machine.poll_notice() {
            self.notices.push(notice);
        } else if let Some(event) = self.events.pop_front() {
            self.machine.on_event(self.now, event);
        } else {
            return false;
        }
        true
    }

    /// One step, or time passes to the next wakeup.
    pub(crate) fn tick_or_step(&mut self, world: &mut World) {
        if !self.step(world)
            && let Some(at) = self.machine.next_wakeup()
        {
            self.now = self.now.max(at);
            self.machine.on_event(self.now, Event::Tick);
        }
    }

    /// One step, and the time passes.
    pub(crate) fn tick_or_step_within(&mut self, world: &mut World, time: Duration) {
        self.now = self.now.after(time);
        if !self.step(world) && self.machine.next_wakeup().is_some_and(|at| at <= self.now) {
            self.machine.on_event(self.now, Event::Tick);
        }
    }
}
