//! Who comes on stage: owners create a ledger and write it, others recover it, readers follow, the next owner goes on.

use std::sync::Arc;
use std::time::Duration;

use alluvium_ledger::call::{Answer, CasOutcome, Event as Input};
use alluvium_ledger::compare_and_set::CasPatience;
use alluvium_ledger::open::{self, Creation, LedgerSpec, OpenConfig};
use alluvium_ledger::reader::{RangeRead, ReadConfig, ReadRange};
use alluvium_ledger::recovery::{self, Recovery, RecoveryConfig};
use alluvium_ledger::writer::{self, Writer, WriterConfig};
use alluvium_types::bookie::Refusal;
use alluvium_types::checksum::Crc32c;
use alluvium_types::ids::{EntryId, Epoch, LedgerId};
use alluvium_types::ledger::{BookieId, LedgerClass, LedgerMetadata, LedgerState};
use alluvium_types::time::Mono;
use bytes::Bytes;

use super::client::{Client, Fate, Name, Notice, Part, Role};
use super::{Event, World};
use crate::bookie::{BODY_BYTES_MAX, Verdict};
use crate::bug::Bug;
use crate::history::{Checked, Violation};
use crate::metadata::Ask;
use crate::network::{ClientId, Slot};
use crate::plan::Who;

/// The most recoveries that the story begins by itself.
const TAKEOVERS_MAX: usize = 6;

/// A step of the story.
#[derive(Debug)]
pub(super) enum Step {
    /// An owner creates the next ledger.
    Create,
    /// Metadata takes the record that a creation has prepared.
    Commit(LedgerMetadata),
    /// Somebody takes over a ledger whose writer is gone.
    TakeOver(LedgerId),
    /// A ledger has outlived its use.
    Delete(LedgerId),
    /// A reader looks for more.
    Follow { ledger: LedgerId, from: EntryId },
    /// Faults end.
    Heal,
    /// What is still open is closed.
    CloseAll,
    /// Is everything closed?
    Look,
    /// The closed ledgers are read.
    Verify { ledger: LedgerId, from: EntryId },
}

/// Where the story stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Chapter {
    /// Things go wrong.
    #[default]
    Faults,
    /// Nothing goes wrong any more.
    Healed,
    /// All is closed; what was promised is read.
    Verifying,
    /// Nothing is left to see.
    Over,
}

/// What the story knows of itself.
#[derive(Debug, Default)]
pub(super) struct Story {
    pub(super) chapter: Chapter,
    /// Ledgers that were begun, whether or not their record was ever made.
    pub(super) begun: u64,
    pub(super) recoveries: Vec<ClientId>,
    pub(super) takeovers: usize,
    pub(super) beside_live_writer: u64,
    pub(super) without_evidence: u64,
    /// When faults ended.
    pub(super) healed_at: Mono,
    /// How long a bookie whose disk is about to fail will be down.
    pub(super) failing: Vec<Option<Duration>>,
    /// Reads at the end that were tried again.
    pub(super) retries: u32,
    /// Ledgers that are still to be read at the end.
    pub(super) to_verify: usize,
    creations: usize,
    writers: usize,
    readers: usize,
}

impl Story {
    pub(super) fn new(bookies: usize) -> Self {
        Self { failing: vec![None; bookies], ..Self::default() }
    }

    pub(super) fn is_over(&self) -> bool {
        self.chapter == Chapter::Over
    }
}

const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

const PATIENCE: CasPatience = CasPatience { answer_timeout: millis(150), retry_min: millis(5), retry_max: millis(80) };

impl World {
    pub(super) fn begin_story(&mut self) {
        self.queue.put(Duration::ZERO, Event::Story(Step::Create));
        self.queue.put(self.plan.shape.fault_phase, Event::Story(Step::Heal));
    }

    pub(super) fn story_step(&mut self, step: Step) -> Checked {
        match step {
            Step::Create => self.create(),
            Step::Commit(metadata) => self.commit(metadata),
            Step::TakeOver(ledger) => {
                if !self.history.is_ended(ledger) && !self.is_recovered_now(ledger) && self.story.takeovers < TAKEOVERS_MAX {
                    self.story.takeovers += 1;
                    return self.recover(ledger);
                }
                Ok(())
            }
            Step::Delete(ledger) => self.delete(ledger),
            Step::Follow { ledger, from } => self.follow(ledger, from),
            Step::Heal => self.heal(),
            Step::CloseAll => self.close_all(),
            Step::Look => self.look_for_the_end(),
            Step::Verify { ledger, from } => self.verify(ledger, from),
        }
    }

    /// The newest ledger that has a record.
    pub(super) fn newest(&self) -> Option<LedgerId> {
        self.history.ledgers().last()
    }

    pub(super) fn client_of(&self, who: Who) -> Option<ClientId> {
        match who {
            Who::Writer => self.newest().and_then(|ledger| self.writer_of(ledger)),
            Who::Recovery(n) => self.story.recoveries.get(n).copied(),
        }
    }

    fn create(&mut self) -> Checked {
        if self.story.chapter != Chapter::Faults {
            return Ok(());
        }
        self.story.begun += 1;
        self.story.creations += 1;
        let spec = LedgerSpec {
            ledger: LedgerId::new(self.story.begun),
            epoch: Epoch::new(self.story.begun),
            class: LedgerClass::Bulk,
            wanted: self.plan.shape.replication,
        };
        let config = OpenConfig { open_timeout: millis(60), give_up_after: millis(400) };
        let now = self.now();
        self.trace.note(now, format_args!("create{} begins {:?}", self.story.creations, spec.ledger));
        let creation = Creation::new(now, config, spec, Arc::clone(&self.candidates), self.entropy.clone());
        let name = Name { role: Role::Creation, number: self.story.creations };
        let client = self.add_client(Client::new(name, spec.ledger, Part::Creation(Box::new(creation))));
        self.drive(client)
    }

    /// The record is made, which is a transaction of the owner's; the ledger has a writer from now on.
    fn commit(&mut self, metadata: LedgerMetadata) -> Checked {
        let ledger = metadata.ledger;
        let nonce = self.nonce();
        let record = self.metadata.create(metadata, nonce);
        self.recorded(&record.metadata)?;
        let config = self.writer_config();
        let writer = Writer::new(config, record, Arc::clone(&self.candidates), self.entropy.clone());
        self.story.writers += 1;
        let name = Name { role: Role::Writer, number: self.story.writers };
        let client = self.add_client(Client::new(name, ledger, Part::Writer(Box::new(writer))));
        self.queue.put(Duration::ZERO, Event::Append(client));
        for n in 0..self.plan.shape.readers {
            let after = millis(20 + 30 * n as u64);
            self.queue.put(after, Event::Story(Step::Follow { ledger, from: EntryId::ZERO }));
        }
        self.drive(client)
    }

    fn writer_config(&self) -> WriterConfig {
        let pace = self.plan.shape.pace;
        WriterConfig {
            entry_bytes_max: BODY_BYTES_MAX,
            unconfirmed_max: 256,
            background_bytes_max: self.plan.shape.background_bytes,
            slow_after: pace,
            bad_after: pace * 3,
            gone_after: pace / 4,
            open_timeout: pace,
            resend: (millis(2), millis(40)),
            quarantine: pace * 5,
            spare_retry: millis(50),
            lac_idle: millis(10),
            close_linger: millis(30),
            fragments_max: 64,
            cas: PATIENCE,
            mutations: Bug::in_ledger(self.bug),
        }
    }

    fn recovery_config(&self) -> RecoveryConfig {
        RecoveryConfig {
            answer_timeout: self.plan.shape.pace,
            retry: (millis(2), millis(40)),
            duel: (millis(5), self.plan.shape.pace * 60),
            spare_retry: millis(30),
            give_up_after: Duration::from_secs(3600),
            window_entries: self.plan.shape.recovery_window,
            read_bytes_max: 4000,
            copy_bytes_max: self.plan.shape.background_bytes,
            cas: PATIENCE,
            mutations: Bug::in_ledger(self.bug),
        }
    }

    /// The client's user appends, if the window allows, and will again.
    pub(super) fn append(&mut self, client: ClientId) -> Checked {
        let c = &self.clients[client.0];
        if !c.is_alive() || self.story.chapter != Chapter::Faults {
            return Ok(());
        }
        if let Some(until) = self.standstill(client) {
            self.queue.put_at(until, Event::Append(client));
            return Ok(());
        }
        let now = self.now();
        let shape = &self.plan.shape;
        let (appends, window, closes) = (shape.appends, shape.window, shape.writer_closes);
        let (ledger, name) = (c.ledger, c.name);
        let Part::Writer(writer) = &mut self.clients[client.0].part else { return Ok(()) };
        let next = writer.next_entry();
        if next.get() >= appends as u64 {
            if closes {
                self.trace.note(now, format_args!("{name} closes"));
                writer.close(now);
                return self.drive(client);
            }
            return Ok(());
        }
        let unconfirmed = next.get() - writer.lac().map_or(0, |lac| lac.get() + 1);
        // Bursts, as users make them: most pauses are short, some are long.
        let gap = self.plan.shape.append_gap.mul_f64(2.0 * self.dice.unit());
        self.queue.put(gap, Event::Append(client));
        if unconfirmed >= window as u64 {
            return Ok(());
        }
        let body = body(ledger, next, self.dice.between(self.plan.shape.body_bytes.0, self.plan.shape.body_bytes.1));
        let crc = Crc32c::of(&body);
        let Part::Writer(writer) = &mut self.clients[client.0].part else { return Ok(()) };
        if let Ok(entry) = writer.append(now, body.clone(), crc) {
            self.trace.note(now, format_args!("{name} appends {entry:?}"));
            self.history.appended(ledger, entry, body)?;
        }
        self.drive(client)
    }

    fn is_recovered_now(&self, ledger: LedgerId) -> bool {
        self.story.recoveries.iter().any(|r| self.clients[r.0].ledger == ledger && self.clients[r.0].is_alive())
    }

    /// Whether the writer of a ledger is alive and in good faith that it is the writer.
    pub(super) fn has_live_writer(&self, ledger: LedgerId) -> bool {
        self.writer_of(ledger).is_some_and(|w| self.clients[w.0].is_alive())
    }

    /// Somebody begins to recover a ledger.
    pub(super) fn recover(&mut self, ledger: LedgerId) -> Checked {
        let now = self.now();
        let is_open = self.history.record(ledger).is_some_and(|r| r.state == LedgerState::Open);
        if is_open && self.has_live_writer(ledger) {
            self.story.beside_live_writer += 1;
        }
        let config = self.recovery_config();
        let recovery = Recovery::new(now, config, ledger, Arc::clone(&self.candidates), self.entropy.clone());
        let name = Name { role: Role::Recovery, number: self.story.recoveries.len() };
        self.trace.note(now, format_args!("{name} begins to recover {ledger:?}"));
        let client = self.add_client(Client::new(name, ledger, Part::Recovery(Box::new(recovery))));
        self.story.recoveries.push(client);
        self.drive(client)
    }

    /// A ledger that is closed becomes a tombstone.
    fn delete(&mut self, ledger: LedgerId) -> Checked {
        let Some(record) = self.metadata.record(ledger) else { return Ok(()) };
        if self.story.chapter == Chapter::Faults && record.metadata.closed_at().is_some() {
            let expected = record.revision;
            let new = LedgerMetadata { state: LedgerState::Deleting, ..record.metadata.clone() };
            let nonce = self.nonce();
            let (_, changed) = self.metadata.apply(&Ask::CompareAndSet { expected: Some(expected), new, nonce });
            if let Some(record) = changed {
                return self.recorded(&record);
            }
        }
        Ok(())
    }

    /// What a ledger's record means to a bookie.
    pub(super) fn verdict(&self, ledger: LedgerId, bookie: &BookieId) -> Verdict {
        match self.metadata.record(ledger).map(|record| &record.metadata) {
            Some(record) if record.state == LedgerState::Deleting => Verdict::Dead,
            Some(record) => match record.closed_at() {
                Some(_) if !record.names(bookie) => Verdict::Dead,
                Some(last) => Verdict::Closed(last),
                None => Verdict::Keep,
            },
            None => Verdict::Keep,
        }
    }

    /// A reader reads what a bookie says is confirmed.
    fn follow(&mut self, ledger: LedgerId, from: EntryId) -> Checked {
        if self.story.chapter != Chapter::Faults {
            return Ok(());
        }
        let again = self.dice.time(millis(20), millis(120));
        let slot = Slot(self.dice.index(self.bookies.len()));
        let lac = self.bookies[slot.0].lac(ledger).filter(|lac| *lac >= from);
        if let Some(lac) = lac
            && lac.get() >= self.history.promised_in(ledger)
            && !self.history.is_ended(ledger)
        {
            let what = format!("b{} says that {lac:?} of {ledger:?} is confirmed, which it is not", slot.0);
            return Err(Violation { invariant: "L7", what });
        }
        let (Some(lac), Some(record)) = (lac, self.metadata.record(ledger)) else {
            self.queue.put(again, Event::Story(Step::Follow { ledger, from }));
            return Ok(());
        };
        let range = ReadRange { first: from, last: lac, bytes_max: 4000, lac: Some(lac) };
        let metadata = record.metadata.clone();
        self.read(metadata, range)
    }

    /// Reads with a machine of its own; [`World::read_done`] hears of it.
    pub(super) fn read(&mut self, metadata: LedgerMetadata, range: ReadRange) -> Checked {
        let now = self.now();
        let config = ReadConfig { hedge_after: millis(20), answer_timeout: millis(150), parallel_max: 4 };
        let ledger = metadata.ledger;
        // What the reader may see: the end of a closed ledger, or the LAC that it was given.
        let bound = metadata.closed_at().unwrap_or(range.lac);
        let read = RangeRead::new(now, config, metadata, range, self.entropy.clone());
        self.story.readers += 1;
        let name = Name { role: Role::Reader, number: self.story.readers };
        let part = Part::Reader { read: Box::new(read), from: range.first, bound };
        let client = self.add_client(Client::new(name, ledger, part));
        self.drive(client)
    }

    /// Hears what a machine has to say.
    pub(super) fn notice(&mut self, client: ClientId, notice: Notice) -> Checked {
        let now = self.now();
        let name = self.clients[client.0].name;
        let ledger = self.clients[client.0].ledger;
        match notice {
            Notice::Creation(open::Notice::Opened { metadata, .. }) => {
                self.end_client(client, Fate::Ended);
                let (low, high) = self.plan.shape.metadata_time;
                let time = self.dice.time(low, high);
                self.queue.put(time, Event::Story(Step::Commit(metadata)));
            }
            Notice::Creation(open::Notice::Failed(failure)) => {
                self.trace.note(now, format_args!("{name} failed: {failure}"));
                self.end_client(client, Fate::Ended);
                self.queue.put(millis(50), Event::Story(Step::Create));
            }
            Notice::Writer(notice) => self.writer_says(client, notice)?,
            Notice::Recovery(recovery::Notice::Closed(record)) => {
                let last = record.metadata.closed_at();
                self.trace.note(now, format_args!("{name} finds {ledger:?} closed at {last:?}"));
                self.history.told_closed(ledger, last.flatten())?;
                self.end_client(client, Fate::Ended);
            }
            Notice::Recovery(recovery::Notice::Failed(failure)) => {
                self.trace.note(now, format_args!("{name} failed: {failure}"));
                self.end_client(client, Fate::Ended);
            }
            Notice::Reader(outcome) => {
                let Part::Reader { from, bound, .. } = self.clients[client.0].part else { return Ok(()) };
                self.end_client(client, Fate::Ended);
                self.read_done(ledger, from, bound, outcome)?;
            }
        }
        Ok(())
    }

    fn writer_says(&mut self, client: ClientId, notice: writer::Notice) -> Checked {
        let now = self.now();
        let Client { name, ledger, .. } = self.clients[client.0];
        match notice {
            writer::Notice::Confirmed { up_to } => {
                self.trace.note(now, format_args!("{name} confirms up to {up_to:?}"));
                for entry in (self.history.confirmed_in(ledger)..=up_to.get()).map(EntryId::new) {
                    self.history.acked(ledger, entry)?;
                }
            }
            writer::Notice::Led { .. } | writer::Notice::Changed(_) => {}
            writer::Notice::Closed { record, hand_back } => {
                let last = record.metadata.closed_at().flatten();
                let back = hand_back.as_ref().map_or(0, |(_, entries)| entries.len());
                self.trace.note(now, format_args!("{name} closed {ledger:?} at {last:?}, {back} handed back"));
                self.history.told_closed(ledger, last)?;
                self.end_client(client, Fate::Ended);
            }
            writer::Notice::Died { death, unresolved } => {
                let kind = match death {
                    writer::Death::Fenced => "fenced",
                    writer::Death::Superseded => "superseded",
                    writer::Death::Deleted => "deleted",
                    writer::Death::Conflict { .. } => "conflict",
                    writer::Death::RecordLost(_) => "lost its record",
                    writer::Death::RecordRefused => "its record was refused",
                };
                self.trace.note(now, format_args!("{name} died: {kind}, {} unresolved", unresolved.len()));
                self.history.silenced(ledger, "its own death");
                self.end_client(client, Fate::Ended);
                self.writer_is_gone(ledger);
            }
        }
        Ok(())
    }

    /// The writer of a ledger is gone: mostly, somebody takes over before long.
    pub(super) fn writer_is_gone(&mut self, ledger: LedgerId) {
        if self.plan.shape.takeovers && self.dice.chance(0.8) {
            let after = self.dice.time(millis(5), millis(250));
            self.queue.put(after, Event::Story(Step::TakeOver(ledger)));
        }
    }

    /// What reaches a writer that must never confirm again (L4).
    pub(super) fn note_silence(&mut self, client: ClientId, input: &Input) {
        let Client { part: Part::Writer(_), ledger, .. } = &self.clients[client.0] else { return };
        let ledger = *ledger;
        let why = match input {
            Input::Answer { answer: Answer::Add(Err(Refusal::Fenced)) | Answer::Open(Err(Refusal::Fenced)), .. } => "a fence",
            Input::Answer { answer: Answer::Add(Err(Refusal::Stale)) | Answer::Open(Err(Refusal::Stale)), .. } => "a newer claim",
            Input::Cas { outcome: CasOutcome::Lost(_), .. } => "a lost compare-and-set",
            _ => return,
        };
        self.history.silenced(ledger, why);
    }

    /// A ledger was closed in metadata: the log goes on in the next one, and the one before may go.
    pub(super) fn closed(&mut self, ledger: LedgerId) {
        let before = self.history.ledgers().filter(|&l| l < ledger).last();
        if let Some(before) = before.filter(|_| self.plan.shape.deletes) {
            let after = self.dice.time(millis(5), millis(300));
            self.queue.put(after, Event::Story(Step::Delete(before)));
        }
        let is_newest = self.newest() == Some(ledger) && self.story.begun == ledger.get();
        if is_newest && self.history.ledgers().count() < self.plan.shape.ledgers {
            let after = self.dice.time(millis(1), millis(30));
            self.queue.put(after, Event::Story(Step::Create));
        }
    }
}

/// A body that nobody else has.
pub(super) fn body(ledger: LedgerId, entry: EntryId, bytes: usize) -> Bytes {
    let mut body = vec![alluvium_types::entry::KIND_STATE];
    body.extend_from_slice(&ledger.get().to_le_bytes());
    body.extend_from_slice(&entry.get().to_le_bytes());
    let pattern = (ledger.get().wrapping_mul(31) ^ entry.get()).to_le_bytes()[0];
    body.resize(body.len() + bytes, pattern);
    Bytes::from(body)
}
