//! What goes wrong, when the list says so.

use std::time::Duration;

use alluvium_types::bookie::{Adder, ReadRefusal};
use alluvium_types::ids::RecoveryNumber;
use alluvium_types::ledger::LedgerState;

use super::client::Fate;
use super::story::Chapter;
use super::{Asker, Event, World};
use crate::bookie::{Bookie, End};
use crate::history::{Checked, Violation};
use crate::network::Slot;
use crate::plan::Item;

const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

impl World {
    pub(super) fn item(&mut self, n: usize) -> Checked {
        if self.story.chapter != Chapter::Faults {
            return Ok(());
        }
        let item = self.plan.items[n].item.clone();
        self.inflict(item)
    }

    /// Does what an item says.
    pub(super) fn inflict(&mut self, item: Item) -> Checked {
        let now = self.now();
        self.trace.note(now, format_args!("--- {item:?}"));
        match item {
            Item::Recover => {
                let open = self.newest().filter(|&l| !self.history.is_ended(l));
                if let Some(ledger) = open {
                    self.recover(ledger)?;
                }
            }
            Item::Crash { slot, down } => self.crash(slot, down, End::PowerCut),
            Item::Kill { slot, down } => self.crash(slot, down, End::Kill),
            Item::DiskFails { slot, down } => {
                self.bookies[slot.0].fail_next_write();
                self.story.failing[slot.0] = Some(down);
            }
            Item::ReadOnly { slot, span } => {
                self.faults += u64::from(self.bookies[slot.0].is_up());
                self.bookies[slot.0].set_read_only(true);
                self.bookie_full[slot.0] = true;
                self.view_changed();
                self.queue.put(span, Event::Writable(slot));
            }
            Item::CrashAll { down } => {
                for slot in (0..self.bookies.len()).map(Slot) {
                    self.crash(slot, down, End::PowerCut);
                }
            }
            Item::Wipe { slot, down } => {
                self.crash(slot, down, End::PowerCut);
                self.bookies[slot.0].wipe();
            }
            Item::Rot { slot } => {
                if self.bookies[slot.0].rot() {
                    self.faults += 1;
                }
            }
            Item::PauseBookie { slot, span } => {
                self.faults += u64::from(self.bookies[slot.0].is_up());
                let until = &mut self.bookie_paused[slot.0];
                *until = (*until).max(now.after(span));
            }
            Item::PauseClient { who, span } => {
                if let Some(client) = self.client_of(who).filter(|c| self.clients[c.0].is_alive()) {
                    self.faults += 1;
                    self.clients[client.0].paused_until = now.after(span);
                }
            }
            Item::CrashClient { who } => {
                if let Some(client) = self.client_of(who).filter(|c| self.clients[c.0].is_alive()) {
                    self.faults += 1;
                    let ledger = self.clients[client.0].ledger;
                    self.end_client(client, Fate::Crashed);
                    self.writer_is_gone(ledger);
                }
            }
            Item::Cut { who, slot, way, span } => {
                let client = match who {
                    None => None,
                    Some(who) => match self.client_of(who) {
                        Some(client) => Some(client),
                        None => return Ok(()),
                    },
                };
                self.faults += 1;
                self.network.cut(client, slot, way, now.after(span));
            }
            Item::Break { who, slot } => {
                if let Some(client) = self.client_of(who)
                    && let Some((connection, at)) = self.network.break_link(now, client, slot)
                {
                    self.queue.put_at(at, Event::Noticed(client, slot, connection));
                }
            }
            Item::SlowDisk { slot, span } => {
                self.faults += 1;
                self.bookie_slow[slot.0] = now.after(span);
            }
            Item::MetadataDark { span } => {
                self.faults += 1;
                self.metadata.darken(now.after(span));
            }
        }
        Ok(())
    }

    /// Ends the process of a bookie whose disk failed (B8).
    pub(super) fn end_if_failed(&mut self, slot: Slot) {
        if self.bookies[slot.0].has_failed() {
            let now = self.now();
            self.trace.note(now, format_args!("b{} gives up: its disk failed", slot.0));
            let down = self.story.failing[slot.0].take().unwrap_or(millis(50));
            self.crash(slot, down, End::Kill);
        }
    }

    /// Room again.
    pub(super) fn writable(&mut self, slot: Slot) {
        self.bookies[slot.0].set_read_only(false);
        self.bookie_full[slot.0] = false;
        self.view_changed();
    }

    fn crash(&mut self, slot: Slot, down: Duration, end: End) {
        let calls = 1 + self.dice.below(3);
        self.crash_at_call(slot, down, end, calls);
    }

    /// The process ends; a group on its way to the disk is struck at the `calls`-th call that writes it.
    pub(super) fn crash_at_call(&mut self, slot: Slot, down: Duration, end: End, calls: u64) {
        let now = self.now();
        if !self.bookies[slot.0].is_up() {
            return;
        }
        self.faults += 1;
        self.bookies[slot.0].crash(calls, end);
        for (client, connection, at) in self.network.drop_bookie(now, slot) {
            self.queue.put_at(at, Event::Noticed(client, slot, connection));
        }
        self.bookie_paused[slot.0] = now;
        let boot = self.bookies[slot.0].boot;
        let session = self.dice.time(millis(10), millis(300));
        self.queue.put(session, Event::SessionOver(slot, boot));
        self.queue.put(down, Event::BookieUp(slot));
    }

    /// A bookie starts, and nothing that it had promised may be missing (B1, B2).
    pub(super) fn bookie_up(&mut self, slot: Slot) -> Checked {
        if self.bookies[slot.0].is_up() {
            return Ok(());
        }
        let now = self.now();
        let is_struck = self.story.chapter == Chapter::Faults && self.dice.chance(0.1);
        let struck = is_struck.then(|| 1 + self.dice.below(20));
        self.bookies[slot.0].start(struck);
        let id = self.bookies[slot.0].id().expect("it runs").clone();
        self.trace.note(now, format_args!("b{} is up as {id}", slot.0));
        self.kept_its_promises(slot)?;
        if self.bookies[slot.0].needs_bound() {
            // It asks metadata for the next id, and gets one that was right when metadata was asked.
            let boot = self.bookies[slot.0].boot;
            let next = alluvium_types::ids::LedgerId::new(self.story.begun + 1);
            let (low, high) = self.plan.shape.metadata_time;
            let time = self.dice.time(low * 2, high * 2);
            self.queue.put(time, Event::Bound(slot, boot, next));
        }
        self.bookie_sessions[slot.0] = Some(id);
        self.bookie_full[slot.0] = false;
        self.view_changed();
        self.pump(slot);
        Ok(())
    }

    fn kept_its_promises(&mut self, slot: Slot) -> Checked {
        let bookie: &mut Bookie<Asker> = &mut self.bookies[slot.0];
        let id = bookie.id().expect("it runs").clone();
        let broken = |invariant, what| Err(Violation { invariant, what });
        for (ledger, entries) in self.history.held_by(&id) {
            let (first, last) = (entries[0], entries[entries.len() - 1]);
            let answer = match bookie.look(ledger, first, last).expect("it runs") {
                Ok(answer) => answer,
                Err(ReadRefusal::Deleted) if self.history.may_drop(&id, ledger) => continue,
                Err(refusal) => return broken("B1", format!("{id} lost {ledger:?} in a crash: {refusal}")),
            };
            self.history.answered(&id, ledger, &answer)?;
            if bookie.rotted {
                continue;
            }
            let found = answer.entries.iter().filter_map(|a| match a {
                alluvium_types::bookie::EntryAnswer::Found(found) => Some(found.entry),
                alluvium_types::bookie::EntryAnswer::Missing(..) => None,
            });
            let found: std::collections::BTreeSet<_> = found.collect();
            if let Some(lost) = entries.iter().find(|entry| !found.contains(entry)) {
                return broken("B1", format!("{id} lost {lost:?} of {ledger:?} in a crash"));
            }
            let another = Adder::Recovery { number: RecoveryNumber::new(u64::MAX) };
            if bookie.takes_another_body(ledger, last, another) {
                return broken("B5", format!("{id} takes another body as {last:?} of {ledger:?}"));
            }
        }
        for ledger in self.history.fenced_at(&id) {
            if !bookie.rotted && !bookie.is_fenced(ledger) && !self.history.may_drop(&id, ledger) {
                return broken("B2", format!("{id} lost the fence of {ledger:?} in a crash"));
            }
        }
        Ok(())
    }

    /// Nothing goes wrong from now on; who is down comes back.
    pub(super) fn heal(&mut self) -> Checked {
        let now = self.now();
        self.trace.note(now, format_args!("--- heal"));
        self.story.chapter = Chapter::Healed;
        self.story.healed_at = now;
        self.network.heal();
        self.metadata.heal();
        for slot in (0..self.bookies.len()).map(Slot) {
            self.bookie_slow[slot.0] = now;
            self.bookie_up(slot)?;
        }
        // Pauses end by themselves before this.
        self.queue.put(millis(2500), Event::Story(super::story::Step::CloseAll));
        Ok(())
    }

    /// Whether nobody has touched this ledger but its writer.
    pub(super) fn is_undisturbed(&self, ledger: alluvium_types::ids::LedgerId) -> bool {
        self.history.record(ledger).is_some_and(|r| r.state == LedgerState::Open)
            && !self.story.recoveries.iter().any(|r| self.clients[r.0].ledger == ledger)
    }
}
