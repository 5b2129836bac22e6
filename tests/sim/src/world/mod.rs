//! The world of one run: clients, bookies, a network between them, metadata, and time.
//!
//! [`World::step`] takes the next event, lets whoever it concerns act, and tells [`History`] what became a fact. The story (who
//! creates, recovers, reads, and when it is over) is in [`story`], what goes wrong in [`faults`], the end in [`finish`].

mod client;
mod faults;
mod finish;
mod stage;
mod story;
mod words;

pub use client::{Name, Role};
pub use stage::{Astray, Message, Stage};

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use alluvium_ledger::call::{Action, Answer, CallId, CasOutcome, Event as Input, Request, Unavailable};
use alluvium_ledger::placement::Candidate;
use alluvium_runtime::disk::SyncMode;
use alluvium_runtime::entropy::Entropy;
use alluvium_types::bookie::AddEntry;
use alluvium_types::ids::{LedgerId, Nonce};
use alluvium_types::ledger::{BookieId, LedgerMetadata};
use alluvium_types::names::BookieName;
use alluvium_types::time::Mono;

use crate::bookie::{Arrived, Bookie, Outgoing, Verdict};
use crate::bug::Bug;
use crate::dice::Dice;
use crate::history::{Checked, History, Violation};
use crate::metadata::{Ask, Manners, Metadata, Told};
use crate::network::{ClientId, Connection, Network, Slot, Way};
use crate::plan::{Plan, stream};
use crate::queue::Queue;
use crate::trace::{Detail, Trace};
use client::{Client, Fate, Part};
use stage::Hold;
use story::Story;
use words::{ShortAnswer, ShortAsk, ShortRecord, ShortRequest, ShortTold};

/// More events than any run needs: past it somebody runs in circles.
const EVENTS_MAX: u64 = 200_000;
/// After how long an idle log seals its end.
const IDLE_AFTER: Duration = Duration::from_millis(20);

/// Who asks a bookie.
#[derive(Clone, Copy, Debug)]
struct Asker {
    client: ClientId,
    connection: Connection,
    call: CallId,
}

/// What can happen.
#[derive(Debug)]
enum Event {
    /// An item of the plan's list.
    Item(usize),
    /// A client wants to be woken at this time.
    Wake(ClientId, Mono),
    /// A client's user appends.
    Append(ClientId),
    /// A request reaches a bookie.
    Request(Slot, BookieId, Arrived<Asker>),
    /// An answer reaches a client.
    Answer(ClientId, Slot, Connection, CallId, Answer),
    /// A client notices that a connection is broken.
    Noticed(ClientId, Slot, Connection),
    /// A question reaches metadata.
    AtMetadata(ClientId, CallId, Ask),
    /// Metadata's answer reaches a client.
    FromMetadata(ClientId, CallId, Told),
    /// A client's shell waits no longer for metadata.
    AskTimedOut(ClientId, CallId, u64, bool),
    /// A bookie's group has had its time on the disk.
    GroupDone(Slot, u64),
    /// A bookie's log may have been idle for a while.
    Idle(Slot, u64),
    /// A bookie learns the id that metadata would give next.
    Bound(Slot, u64, LedgerId),
    /// A bookie keeps house.
    Tidy(Slot),
    /// A bookie has room again.
    Writable(Slot),
    /// A client sees which bookies have a session.
    View(ClientId),
    /// A bookie starts again.
    BookieUp(Slot),
    /// A bookie's session in metadata is over.
    SessionOver(Slot, u64),
    /// A step of the story.
    Story(story::Step),
}

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What broke, if anything did.
    pub failure: Option<Violation>,
    /// Things that happened.
    pub events: u64,
    /// Entries that callers were told are safe.
    pub confirmed: u64,
    /// Faults that struck.
    pub faults: u64,
    /// Recoveries that began beside a live writer.
    pub beside_live_writer: u64,
    /// Facts that were checked.
    pub checks: u64,
    /// Ledgers that nobody can close for want of evidence, as C59 has it.
    pub without_evidence: u64,
    /// Virtual time.
    pub simulated: Duration,
    /// The hash of the trace, if it was wanted.
    pub hash: u64,
    /// The last lines of the trace, if they were wanted.
    pub lines: Vec<String>,
}

/// The world of one run.
pub struct World {
    plan: Plan,
    bug: Option<Bug>,
    queue: Queue<Event>,
    trace: Trace,
    history: History,
    network: Network,
    metadata: Metadata,
    bookies: Vec<Bookie<Asker>>,
    /// Until when a bookie's process stands still, and until when its disk is slow.
    bookie_paused: Vec<Mono>,
    bookie_slow: Vec<Mono>,
    bookie_sessions: Vec<Option<BookieId>>,
    bookie_full: Vec<bool>,
    clients: Vec<Client>,
    candidates: Arc<[Candidate]>,
    story: Story,
    dice: Dice,
    entropy: Entropy,
    attempts: u64,
    faults: u64,
    hold: Option<Hold>,
    held: Vec<Event>,
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("World").field("seed", &self.plan.seed).finish_non_exhaustive()
    }
}

/// Runs a plan to its end, or to the first broken promise.
pub fn run(plan: &Plan, bug: Option<Bug>, detail: Detail) -> Outcome {
    World::new(plan.clone(), bug, detail).run()
}

impl World {
    /// A world in which nothing has happened yet.
    pub fn new(plan: Plan, bug: Option<Bug>, detail: Detail) -> Self {
        let shape = &plan.shape;
        let dice = |label| Dice::new(plan.seed, label);
        let mut disks = dice(stream::DISKS);
        let mode = if shape.buffered { SyncMode::Buffered } else { SyncMode::Direct };
        let bookies: Vec<Bookie<Asker>> = (0..shape.bookies)
            .map(|n| {
                let name = BookieName::parse(&format!("b{n}")).expect("a valid name");
                Bookie::new(name, mode, shape.log_file_bytes, Bug::in_bookie(bug), Entropy::seeded(disks.bits()))
            })
            .collect();
        let manners = Manners { time: shape.metadata_time, lost: shape.metadata_lost, late: shape.metadata_late };
        let mut world = Self {
            queue: Queue::default(),
            trace: Trace::new(detail),
            history: History::default(),
            network: Network::new(dice(stream::NETWORK), shape.weather),
            metadata: Metadata::new(dice(stream::METADATA), manners),
            bookie_paused: vec![Mono::default(); bookies.len()],
            bookie_slow: vec![Mono::default(); bookies.len()],
            bookie_sessions: vec![None; bookies.len()],
            bookie_full: vec![false; bookies.len()],
            story: Story::new(bookies.len()),
            bookies,
            clients: Vec::new(),
            candidates: Arc::from(Vec::new()),
            dice: dice(stream::WORKLOAD),
            entropy: Entropy::seeded(dice(stream::MACHINES).bits()),
            attempts: 0,
            faults: 0,
            hold: None,
            held: Vec::new(),
            bug,
            plan,
        };
        world.begin();
        world
    }

    fn begin(&mut self) {
        for slot in (0..self.bookies.len()).map(Slot) {
            self.bookies[slot.0].start(None);
            self.bookie_sessions[slot.0] = self.bookies[slot.0].last_id();
            self.pump(slot);
            self.queue.put(self.plan.shape.tidy_every, Event::Tidy(slot));
        }
        self.candidates = self.view();
        for (n, planned) in self.plan.items.iter().enumerate() {
            self.queue.put_at(planned.at, Event::Item(n));
        }
        self.begin_story();
    }

    fn run(mut self) -> Outcome {
        let failure = loop {
            match self.step() {
                Ok(true) => {}
                Ok(false) => break None,
                Err(violation) => break Some(violation),
            }
        };
        self.outcome(failure)
    }

    fn outcome(self, failure: Option<Violation>) -> Outcome {
        Outcome {
            failure,
            events: self.trace.events(),
            confirmed: self.history.confirmed(),
            faults: self.faults + self.network.struck() + self.metadata.struck(),
            beside_live_writer: self.story.beside_live_writer,
            checks: self.history.checks(),
            without_evidence: self.story.without_evidence,
            simulated: self.now().as_duration(),
            hash: self.trace.hash(),
            lines: self.trace.lines().map(str::to_owned).collect(),
        }
    }

    fn now(&self) -> Mono {
        self.queue.now()
    }

    /// Lets the next thing happen. `Ok(false)` when the run is over.
    fn step(&mut self) -> Result<bool, Violation> {
        if self.story.is_over() {
            return Ok(false);
        }
        let Some(event) = self.queue.take() else { return Ok(false) };
        if self.trace.events() > EVENTS_MAX {
            return Err(Violation { invariant: "LIVE", what: format!("more than {EVENTS_MAX} events") });
        }
        self.happen(event)?;
        Ok(true)
    }

    fn happen(&mut self, event: Event) -> Checked {
        let now = self.now();
        match event {
            Event::Item(n) => self.item(n),
            Event::Wake(client, at) => self.wake(client, at),
            Event::Append(client) => self.append(client),
            Event::Request(slot, to, arrived) => self.arrive(slot, &to, arrived),
            Event::Answer(client, slot, connection, call, answer) => {
                if !self.network.arrives(now, client, slot, connection, Way::Back) {
                    return Ok(());
                }
                if let Some(until) = self.standstill(client) {
                    self.queue.put_at(until, Event::Answer(client, slot, connection, call, answer));
                    return Ok(());
                }
                if self.clients[client.0].calls.remove(&call).is_none() {
                    return Ok(());
                }
                self.trace.note(now, format_args!("b{} -> {} {}", slot.0, self.clients[client.0].name, ShortAnswer(&answer)));
                self.tell(client, Input::Answer { call, answer })
            }
            Event::Noticed(client, slot, connection) => self.noticed(client, slot, connection),
            Event::AtMetadata(client, call, ask) => self.at_metadata(client, call, &ask),
            Event::FromMetadata(client, call, told) => {
                if let Some(until) = self.standstill(client) {
                    self.queue.put_at(until, Event::FromMetadata(client, call, told));
                    return Ok(());
                }
                if self.clients[client.0].asks.remove(&call).is_none() {
                    return Ok(());
                }
                self.trace.note(now, format_args!("meta -> {} {}", self.clients[client.0].name, ShortTold(&told)));
                let input = match told {
                    Told::Outcome(outcome) => Input::Cas { call, outcome },
                    Told::Record(record) => Input::Record { call, record: Ok(record) },
                };
                self.tell(client, input)
            }
            Event::AskTimedOut(client, call, attempt, is_change) => {
                if let Some(until) = self.standstill(client) {
                    self.queue.put_at(until, Event::AskTimedOut(client, call, attempt, is_change));
                    return Ok(());
                }
                if self.clients[client.0].asks.get(&call) != Some(&attempt) {
                    return Ok(());
                }
                self.trace.note(now, format_args!("{} hears nothing from meta", self.clients[client.0].name));
                if is_change {
                    // A late answer to this attempt may still come; it is as good as one to the next.
                    return self.tell(client, Input::Cas { call, outcome: CasOutcome::Unknown });
                }
                self.clients[client.0].asks.remove(&call);
                self.tell(client, Input::Record { call, record: Err(Unavailable) })
            }
            Event::GroupDone(slot, boot) => {
                if self.bookies[slot.0].boot != boot || !self.bookies[slot.0].is_up() {
                    return Ok(());
                }
                if self.bookie_paused[slot.0] > now {
                    self.queue.put_at(self.bookie_paused[slot.0], Event::GroupDone(slot, boot));
                    return Ok(());
                }
                self.trace.note(now, format_args!("b{} group durable", slot.0));
                self.bookies[slot.0].complete();
                self.answers(slot)?;
                self.pump(slot);
                self.answers(slot)?;
                self.end_if_failed(slot);
                Ok(())
            }
            Event::Idle(slot, boot) => {
                if self.bookies[slot.0].boot == boot && self.bookies[slot.0].wants_idle_mark() {
                    self.bookies[slot.0].mark_idle();
                    self.pump(slot);
                }
                Ok(())
            }
            Event::Bound(slot, boot, next) => {
                if self.bookies[slot.0].boot == boot {
                    self.trace.note(now, format_args!("b{} learns the next ledger {next:?}", slot.0));
                    self.bookies[slot.0].bound_doubts(next);
                    self.pump(slot);
                }
                Ok(())
            }
            Event::Tidy(slot) => {
                self.tidy(slot);
                Ok(())
            }
            Event::Writable(slot) => {
                self.writable(slot);
                Ok(())
            }
            Event::View(client) => self.watch(client),
            Event::BookieUp(slot) => self.bookie_up(slot),
            Event::SessionOver(slot, boot) => {
                if self.bookies[slot.0].boot == boot && !self.bookies[slot.0].is_up() {
                    self.bookie_sessions[slot.0] = None;
                    self.view_changed();
                }
                Ok(())
            }
            Event::Story(step) => self.story_step(step),
        }
    }

    /// Until when a client stands still; `None` when it doesn't. A dead one stands still for ever.
    fn standstill(&self, client: ClientId) -> Option<Mono> {
        let client = &self.clients[client.0];
        (client.is_alive() && client.paused_until > self.now()).then_some(client.paused_until)
    }

    fn wake(&mut self, client: ClientId, at: Mono) -> Checked {
        if self.clients[client.0].wake_at != Some(at) {
            return Ok(());
        }
        if let Some(until) = self.standstill(client) {
            self.clients[client.0].wake_at = Some(until);
            self.queue.put_at(until, Event::Wake(client, until));
            return Ok(());
        }
        self.clients[client.0].wake_at = None;
        self.tell(client, Input::Tick)
    }

    /// Hands an event to a client's machine, and does what it says.
    fn tell(&mut self, client: ClientId, input: Input) -> Checked {
        let now = self.now();
        if !self.clients[client.0].is_alive() {
            return Ok(());
        }
        self.note_silence(client, &input);
        self.clients[client.0].part.on_event(now, input);
        self.drive(client)
    }

    /// Takes all that a client's machine has to do and to say.
    fn drive(&mut self, client: ClientId) -> Checked {
        while let Some(action) = self.clients[client.0].part.poll_action() {
            self.perform(client, action);
        }
        while let Some(notice) = self.clients[client.0].part.poll_notice() {
            self.notice(client, notice)?;
        }
        let c = &mut self.clients[client.0];
        let wanted = if c.is_alive() { c.part.next_wakeup() } else { None };
        if wanted != c.wake_at {
            c.wake_at = wanted;
            if let Some(at) = wanted {
                self.queue.put_at(at, Event::Wake(client, at));
            }
        }
        Ok(())
    }

    fn perform(&mut self, client: ClientId, action: Action) {
        let now = self.now();
        match action {
            Action::Send { call, to, request } => self.send(client, call, to, request),
            Action::Cancel(call) => drop(self.clients[client.0].calls.remove(&call)),
            Action::CompareAndSet { call, expected, new, nonce } => {
                self.ask_metadata(client, call, Ask::CompareAndSet { expected, new, nonce });
            }
            Action::ReadRecord { call, ledger } => self.ask_metadata(client, call, Ask::Read(ledger)),
            Action::Suspect(bookie) => {
                self.trace.note(now, format_args!("{} suspects {}", self.clients[client.0].name, bookie.name));
            }
        }
    }

    /// The place where a bookie of this name lives.
    fn slot_of(&self, bookie: &BookieId) -> Slot {
        Slot(bookie.name.as_str()[1..].parse().expect("the simulator named it"))
    }

    fn send(&mut self, client: ClientId, call: CallId, to: BookieId, request: Request) {
        let now = self.now();
        let slot = self.slot_of(&to);
        let is_answered = !matches!(request, Request::AdvanceLac(_));
        let fate = if self.bookies[slot.0].is_up() {
            self.network.request(now, client, slot)
        } else {
            self.network.refuse(now, client, slot)
        };
        if is_answered {
            self.clients[client.0].calls.insert(call, (slot, fate.connection));
        }
        if let Some(at) = fate.noticed {
            self.queue.put_at(at, Event::Noticed(client, slot, fate.connection));
        }
        if let Some(at) = fate.arrives {
            let is_held = self.is_held(Message::Request(self.clients[client.0].name, slot, &request));
            let arrived = Arrived { from: Asker { client, connection: fate.connection, call }, request };
            self.put_or_hold(at, is_held, Event::Request(slot, to, arrived));
        }
    }

    fn is_held(&self, message: Message<'_>) -> bool {
        self.hold.as_ref().is_some_and(|hold| hold(message))
    }

    fn put_or_hold(&mut self, at: Mono, is_held: bool, event: Event) {
        if is_held {
            self.held.push(event);
        } else {
            self.queue.put_at(at, event);
        }
    }

    fn noticed(&mut self, client: ClientId, slot: Slot, connection: Connection) -> Checked {
        if let Some(until) = self.standstill(client) {
            self.queue.put_at(until, Event::Noticed(client, slot, connection));
            return Ok(());
        }
        let now = self.now();
        self.network.notice(client, slot, connection);
        for call in self.clients[client.0].take_calls_on(connection) {
            self.trace.note(now, format_args!("{} lost a call to b{}", self.clients[client.0].name, slot.0));
            self.tell(client, Input::Answer { call, answer: Answer::Lost })?;
        }
        Ok(())
    }

    fn arrive(&mut self, slot: Slot, to: &BookieId, arrived: Arrived<Asker>) -> Checked {
        let now = self.now();
        if !self.network.arrives(now, arrived.from.client, slot, arrived.from.connection, Way::There) {
            return Ok(());
        }
        if self.bookie_paused[slot.0] > now {
            self.queue.put_at(self.bookie_paused[slot.0], Event::Request(slot, to.clone(), arrived));
            return Ok(());
        }
        let name = self.clients[arrived.from.client.0].name;
        match self.bookies[slot.0].id() {
            None => return Ok(()),
            Some(id) if id != to => {
                // The handshake names the incarnation (B11): whoever looks for another one is turned away.
                self.trace.note(now, format_args!("{name} -> b{} is another bookie now", slot.0));
                let fate = self.network.answer(now, arrived.from.client, slot, arrived.from.connection);
                if let Some(at) = fate.arrives {
                    let lost = Event::Answer(arrived.from.client, slot, arrived.from.connection, arrived.from.call, Answer::Lost);
                    self.queue.put_at(at, lost);
                }
                if let Some(at) = fate.noticed {
                    self.queue.put_at(at, Event::Noticed(arrived.from.client, slot, arrived.from.connection));
                }
                return Ok(());
            }
            Some(_) => {}
        }
        self.trace.note(now, format_args!("{name} -> b{} {}", slot.0, ShortRequest(&arrived.request)));
        self.bookies[slot.0].ask(arrived);
        self.answers(slot)?;
        self.pump(slot);
        self.answers(slot)
    }

    /// A bookie keeps house, and will again.
    fn tidy(&mut self, slot: Slot) {
        if self.story.chapter == story::Chapter::Verifying {
            return;
        }
        let every = self.plan.shape.tidy_every;
        self.queue.put(every.mul_f64(0.5 + self.dice.unit()), Event::Tidy(slot));
        let compact = self.dice.chance(0.3);
        if let Some(id) = self.bookies[slot.0].id().filter(|_| self.bookie_paused[slot.0] <= self.queue.now()).cloned() {
            let verdicts: BTreeMap<LedgerId, Verdict> = self.history.ledgers().map(|l| (l, self.verdict(l, &id))).collect();
            self.bookies[slot.0].tidy(|ledger| verdicts.get(&ledger).copied().unwrap_or(Verdict::Keep), compact);
            self.pump(slot);
            self.end_if_failed(slot);
        }
    }

    /// Lets a bookie begin its next group.
    fn pump(&mut self, slot: Slot) {
        let now = self.now();
        if self.bookies[slot.0].begin() {
            let (low, high) = self.plan.shape.disk_time;
            let mut time = self.dice.time(low, high);
            if self.bookie_slow[slot.0] > now {
                time *= 20;
            }
            let boot = self.bookies[slot.0].boot;
            self.queue.put(time, Event::GroupDone(slot, boot));
        } else if self.bookies[slot.0].wants_idle_mark() {
            let boot = self.bookies[slot.0].boot;
            self.queue.put(IDLE_AFTER, Event::Idle(slot, boot));
        }
    }

    /// Sends what a bookie answers, after holding it against the invariants.
    fn answers(&mut self, slot: Slot) -> Checked {
        let now = self.now();
        while let Some(Outgoing { to, answer }) = self.bookies[slot.0].poll_answer() {
            let bookie = self.bookies[slot.0].id().expect("it just answered").clone();
            match (&to.request, &answer) {
                (Request::Add(AddEntry { ledger, entry, adder, body, .. }), Answer::Add(Ok(()))) => {
                    self.history.stored(now, &bookie, *ledger, *entry, *adder, body)?;
                }
                (Request::Fence(fence), Answer::Fence(Ok(_))) => self.history.fenced(now, &bookie, fence.ledger),
                (Request::Read(read), Answer::Read(Ok(found))) => {
                    if read.fence.is_some() {
                        self.history.fenced(now, &bookie, read.ledger);
                    }
                    self.history.answered(&bookie, read.ledger, found)?;
                }
                (Request::Read(read), Answer::Read(Err(refusal))) => self.history.refused(&bookie, read.ledger, *refusal)?,
                _ => {}
            }
            let fate = self.network.answer(now, to.from.client, slot, to.from.connection);
            if let Some(at) = fate.noticed {
                self.queue.put_at(at, Event::Noticed(to.from.client, slot, to.from.connection));
            }
            if let Some(at) = fate.arrives {
                let is_held = self.is_held(Message::Answer(self.clients[to.from.client.0].name, slot, &answer));
                self.put_or_hold(at, is_held, Event::Answer(to.from.client, slot, to.from.connection, to.from.call, answer));
            }
        }
        Ok(())
    }

    fn ask_metadata(&mut self, client: ClientId, call: CallId, ask: Ask) {
        let now = self.now();
        let is_change = matches!(ask, Ask::CompareAndSet { .. });
        self.attempts += 1;
        self.clients[client.0].asks.insert(call, self.attempts);
        // Some shells give up before the machine asks again, some after.
        let patience = self.dice.time(Duration::from_millis(40), Duration::from_millis(200));
        self.queue.put(patience, Event::AskTimedOut(client, call, self.attempts, is_change));
        let at = self.metadata.arrives(now, is_change);
        let is_held = self.is_held(Message::Ask(self.clients[client.0].name, &ask));
        self.put_or_hold(at, is_held, Event::AtMetadata(client, call, ask));
    }

    fn at_metadata(&mut self, client: ClientId, call: CallId, ask: &Ask) -> Checked {
        let now = self.now();
        self.trace.note(now, format_args!("{} -> meta {}", self.clients[client.0].name, ShortAsk(ask)));
        let (told, changed) = self.metadata.apply(ask);
        if let Some(record) = changed {
            self.recorded(&record)?;
        }
        if let Some(time) = self.metadata.answer_time(now) {
            let is_held = self.is_held(Message::Told(self.clients[client.0].name, &told));
            self.put_or_hold(now.after(time), is_held, Event::FromMetadata(client, call, told));
        }
        Ok(())
    }

    /// Metadata has taken a record.
    fn recorded(&mut self, record: &LedgerMetadata) -> Checked {
        let now = self.now();
        self.trace.note(now, format_args!("meta holds {}", ShortRecord(record)));
        self.history.recorded(record)?;
        if record.closed_at().is_some() {
            self.closed(record.ledger);
        }
        Ok(())
    }

    /// The bookies that have a session, as metadata shows them.
    fn view(&self) -> Arc<[Candidate]> {
        let candidate = |(n, id): (usize, &Option<BookieId>)| {
            Some(Candidate {
                bookie: id.clone()?,
                zone: Arc::from(format!("z{}", n % 4)),
                writable: !self.bookie_full[n],
                free_bytes: 1 << 40,
                suspect: false,
            })
        };
        self.bookie_sessions.iter().enumerate().filter_map(candidate).collect()
    }

    /// Who watches the bookies' sessions will see a change.
    fn view_changed(&mut self) {
        self.candidates = self.view();
        for client in (0..self.clients.len()).map(ClientId) {
            if self.clients[client.0].is_alive() {
                let after = self.dice.time(Duration::ZERO, Duration::from_millis(5));
                self.queue.put(after, Event::View(client));
            }
        }
    }

    fn watch(&mut self, client: ClientId) -> Checked {
        if let Some(until) = self.standstill(client) {
            self.queue.put_at(until, Event::View(client));
            return Ok(());
        }
        let candidates = Arc::clone(&self.candidates);
        self.tell(client, Input::Bookies(candidates))
    }

    fn nonce(&self) -> Nonce {
        Nonce::new(self.entropy.uuid())
    }

    fn add_client(&mut self, client: Client) -> ClientId {
        self.clients.push(client);
        ClientId(self.clients.len() - 1)
    }

    fn end_client(&mut self, client: ClientId, fate: Fate) {
        let c = &mut self.clients[client.0];
        c.fate = fate;
        c.wake_at = None;
        c.calls = BTreeMap::new();
        c.asks = BTreeMap::new();
    }

    fn writer_of(&self, ledger: LedgerId) -> Option<ClientId> {
        let writes = |c: &Client| c.ledger == ledger && matches!(c.part, Part::Writer(_));
        self.clients.iter().position(writes).map(ClientId)
    }
}
