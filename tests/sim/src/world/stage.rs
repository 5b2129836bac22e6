//! A world that a schedule written by hand directs: it says who acts when, and which messages wait.

use std::time::Duration;

use alluvium_ledger::call::{Answer, Request};
use alluvium_types::checksum::Crc32c;
use alluvium_types::ids::{EntryId, LedgerId};
use alluvium_types::ledger::LedgerMetadata;
use alluvium_types::time::Mono;

use super::client::{Fate, Name, Part};
use super::story::{Chapter, body};
use super::{Event, Outcome, World};
use crate::bookie::End;
use crate::bug::Bug;
use crate::history::Violation;
use crate::metadata::{Ask, Told};
use crate::network::{ClientId, Slot};
use crate::plan::{Item, Plan, Shape};
use crate::trace::Detail;

/// A message that a schedule may hold back.
#[derive(Clone, Copy, Debug)]
pub enum Message<'a> {
    /// From a client to a bookie.
    Request(Name, Slot, &'a Request),
    /// From a bookie to a client.
    Answer(Name, Slot, &'a Answer),
    /// From a client to metadata.
    Ask(Name, &'a Ask),
    /// From metadata to a client.
    Told(Name, &'a Told),
}

/// Which messages are held back.
pub(super) type Hold = Box<dyn Fn(Message<'_>) -> bool>;

/// Why a schedule ended before its last line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Astray {
    /// An invariant broke: what a planted bug leads to.
    Broke(Violation),
    /// What the schedule waits for does not happen.
    InVain(&'static str),
}

impl From<Violation> for Astray {
    fn from(violation: Violation) -> Self {
        Self::Broke(violation)
    }
}

/// The longest that a schedule waits for something, in virtual time.
const WAIT_MAX: Duration = Duration::from_secs(20);

/// The world under direction.
#[derive(Debug)]
pub struct Stage {
    world: World,
}

impl Stage {
    /// A world of this shape in which nothing has happened yet.
    pub fn new(shape: Shape, seed: u64, bug: Option<Bug>, detail: Detail) -> Self {
        Self { world: World::new(Plan { seed, shape, items: Vec::new() }, bug, detail) }
    }

    /// Waits until the first ledger has a writer.
    pub fn open(&mut self) -> Result<(), Astray> {
        self.until("a writer", |world| world.writer_of(LedgerId::new(1)).is_some())
    }

    /// The members of the first ledger's last ensemble, in order, then the other bookies.
    pub fn cast(&self) -> Vec<Slot> {
        let record = self.record();
        let mut slots: Vec<Slot> = record.last_fragment().ensemble.iter().map(|b| self.world.slot_of(b)).collect();
        let others = (0..self.world.bookies.len()).map(Slot).filter(|slot| !slots.contains(slot));
        let others: Vec<Slot> = others.collect();
        slots.extend(others);
        slots
    }

    /// The first ledger's record.
    pub fn record(&self) -> &LedgerMetadata {
        self.world.history.record(LedgerId::new(1)).expect("the stage begins with a ledger")
    }

    /// Holds these messages back from now on, and no others: of what was held, the rest arrives now.
    pub fn hold(&mut self, which: impl Fn(Message<'_>) -> bool + 'static) {
        let now = self.world.now();
        for event in std::mem::take(&mut self.world.held) {
            match self.world.message_of(&event) {
                Some(message) if which(message) => self.world.held.push(event),
                _ => self.world.queue.put_at(now, event),
            }
        }
        self.world.hold = Some(Box::new(which));
    }

    /// Holds nothing back from now on; what was held arrives now.
    pub fn release(&mut self) {
        self.hold(|_| false);
    }

    /// What is held back never arrives.
    pub fn lose_held(&mut self) {
        self.world.held.clear();
    }

    /// Lets the writer's user append so many entries at once.
    pub fn append(&mut self, count: usize) -> Result<(), Astray> {
        let ledger = LedgerId::new(1);
        let client = self.world.writer_of(ledger).expect("the stage begins with a writer");
        let now = self.world.now();
        for _ in 0..count {
            let Part::Writer(writer) = &mut self.world.clients[client.0].part else { break };
            let body = body(ledger, writer.next_entry(), 40);
            if let Ok(entry) = writer.append(now, body.clone(), Crc32c::of(&body)) {
                self.world.history.appended(ledger, entry, body)?;
            }
            self.world.drive(client)?;
        }
        Ok(())
    }

    /// Does what an item of a list does.
    pub fn inflict(&mut self, item: Item) -> Result<(), Astray> {
        Ok(self.world.inflict(item)?)
    }

    /// A bookie's process is killed while a group is on its way to the disk: it is seen there, and not durable.
    pub fn kill_in_write(&mut self, slot: Slot, down: Duration) {
        self.world.crash_at_call(slot, down, End::Kill, 1);
    }

    /// The writer's process dies.
    pub fn crash_writer(&mut self) {
        if let Some(writer) = self.world.writer_of(LedgerId::new(1)) {
            self.world.end_client(writer, Fate::Crashed);
        }
    }

    /// The process of the n-th recovery dies.
    pub fn crash_recovery(&mut self, n: usize) {
        let client: ClientId = self.world.story.recoveries[n];
        self.world.end_client(client, Fate::Crashed);
    }

    /// Entries that were confirmed to the writer's user.
    pub fn confirmed(&self) -> u64 {
        self.world.history.confirmed_in(LedgerId::new(1))
    }

    /// Lets things happen until this is so.
    pub fn until(&mut self, what: &'static str, is_so: impl Fn(&World) -> bool) -> Result<(), Astray> {
        let began = self.world.now();
        while !is_so(&self.world) {
            if self.world.now().since(began) > WAIT_MAX || !self.world.step()? {
                return Err(Astray::InVain(what));
            }
        }
        Ok(())
    }

    /// Lets things happen until so many entries are confirmed.
    pub fn until_confirmed(&mut self, count: u64) -> Result<(), Astray> {
        self.until("confirmations", |world| world.history.confirmed_in(LedgerId::new(1)) >= count)
    }

    /// Lets things happen for a while.
    pub fn wait(&mut self, span: Duration) -> Result<(), Astray> {
        let end: Mono = self.world.now().after(span);
        while self.world.queue.next_at().is_some_and(|at| at <= end) {
            if !self.world.step()? {
                break;
            }
        }
        Ok(())
    }

    /// Lets everything come to its end: nothing goes wrong any more, nothing is held, all is closed and read.
    pub fn finish(&mut self) -> Result<(), Astray> {
        self.release();
        if self.world.story.chapter == Chapter::Faults {
            self.world.heal()?;
        }
        while self.world.step()? {}
        Ok(())
    }

    /// What came of it.
    pub fn outcome(self, failure: Option<Violation>) -> Outcome {
        self.world.outcome(failure)
    }
}

impl World {
    /// Whether the first ledger is closed.
    pub fn is_closed(&self) -> bool {
        self.history.is_ended(LedgerId::new(1))
    }

    /// Whether such a message is held back.
    pub fn holds(&self, which: impl Fn(Message<'_>) -> bool) -> bool {
        self.held.iter().filter_map(|event| self.message_of(event)).any(which)
    }

    fn message_of<'a>(&self, event: &'a Event) -> Option<Message<'a>> {
        let name = |client: &ClientId| self.clients[client.0].name;
        match event {
            Event::Request(slot, _, arrived) => Some(Message::Request(name(&arrived.from.client), *slot, &arrived.request)),
            Event::Answer(client, slot, _, _, answer) => Some(Message::Answer(name(client), *slot, answer)),
            Event::AtMetadata(client, _, ask) => Some(Message::Ask(name(client), ask)),
            Event::FromMetadata(client, _, told) => Some(Message::Told(name(client), told)),
            _ => None,
        }
    }

    /// Whether a bookie has this entry of the first ledger on its disk, as it once said.
    pub fn has_stored(&self, slot: Slot, entry: u64) -> bool {
        let id = self.bookies[slot.0].last_id();
        id.is_some_and(|id| self.history.has_stored(&id, LedgerId::new(1), EntryId::new(entry)))
    }

    /// Whether a bookie once said that the first ledger is fenced.
    pub fn has_fenced(&self, slot: Slot) -> bool {
        let id = self.bookies[slot.0].last_id();
        id.is_some_and(|id| self.history.was_fenced(&id, LedgerId::new(1)))
    }

    /// Whether a bookie has a group on its way to the disk.
    pub fn is_writing(&self, slot: Slot) -> bool {
        self.bookies[slot.0].is_writing()
    }

    /// Whether a bookie is up.
    pub fn is_up(&self, slot: Slot) -> bool {
        self.bookies[slot.0].is_up()
    }
}
