//! Bringing what was found to an ack quorum of the ensemble that the closing compare-and-set will name (L5).

use std::collections::BTreeMap;

use alluvium_runtime::backoff::Backoff;
use alluvium_types::bookie::{AddEntry, Adder, Refusal, StoredEntry};
use alluvium_types::ids::{EntryId, LedgerId, RecoveryNumber};
use alluvium_types::ledger::BookieId;
use alluvium_types::replication::Replication;
use alluvium_types::time::Mono;

use super::RecoveryConfig;
use crate::call::{Action, Answer, CallId, Calls, Request};
use crate::member::{Health, Member};
use crate::mutation::Mutation;

/// What an add's answer means for the recovery.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum CopyVerdict {
    /// Go on.
    Noted,
    /// A newer recovery is at work (C69).
    Superseded,
    /// The ledger is deleted there: the record will say so.
    Deleted,
}

#[derive(Debug)]
struct Copied {
    stored: StoredEntry,
    /// The places that have it on disk, as a set of bits.
    places: u64,
}

/// Entries on their way to the ensemble.
#[derive(Debug)]
pub(crate) struct Copying {
    ledger: LedgerId,
    number: RecoveryNumber,
    replication: Replication,
    members: Vec<Member>,
    entries: BTreeMap<EntryId, Copied>,
    calls: BTreeMap<CallId, (usize, EntryId)>,
    /// Members that were given up on for some entry.
    missed: Vec<bool>,
}

impl Copying {
    pub(crate) fn new(
        ledger: LedgerId,
        number: RecoveryNumber,
        replication: Replication,
        ensemble: &[BookieId],
        backoff: &impl Fn() -> Backoff,
    ) -> Self {
        Self {
            ledger,
            number,
            replication,
            members: ensemble.iter().map(|bookie| Member::new(bookie.clone(), backoff())).collect(),
            entries: BTreeMap::new(),
            calls: BTreeMap::new(),
            missed: vec![false; ensemble.len()],
        }
    }

    /// Writes an entry to its whole write set. Adds are idempotent (B5), so those who have it confirm that it is on disk.
    pub(crate) fn copy(
        &mut self,
        now: Mono,
        stored: StoredEntry,
        config: &RecoveryConfig,
        calls: &mut Calls,
        out: &mut impl Extend<Action>,
    ) {
        let (entry, bytes) = (stored.entry, stored.body.len());
        self.entries.insert(entry, Copied { stored, places: 0 });
        for place in self.replication.write_set(entry) {
            if self.members[place].owe(now, entry, bytes) {
                self.send(place, entry, config, calls, out);
            }
        }
    }

    fn send(&mut self, place: usize, entry: EntryId, config: &RecoveryConfig, calls: &mut Calls, out: &mut impl Extend<Action>) {
        let Some(copied) = self.entries.get(&entry) else { return };
        // No LAC: what this recovery knows must not let the next one skip an entry (C13).
        let lac = if config.mutations.has(Mutation::RecoveryAddsCarryLac) { entry.previous() } else { None };
        let call = calls.next();
        let add = AddEntry {
            ledger: self.ledger,
            entry,
            adder: Adder::Recovery { number: self.number },
            lac,
            body: copied.stored.body.clone(),
            checksum: copied.stored.checksum,
        };
        self.calls.insert(call, (place, entry));
        self.members[place].sent(entry, call);
        out.extend([Action::Send { call, to: self.members[place].bookie.clone(), request: Request::Add(add) }]);
    }

    /// Sends again what was lost.
    pub(crate) fn resend(&mut self, now: Mono, config: &RecoveryConfig, calls: &mut Calls, out: &mut impl Extend<Action>) {
        for place in 0..self.members.len() {
            for entry in self.members[place].due(now) {
                self.send(place, entry, config, calls, out);
            }
        }
    }

    /// Whom this add was sent to from here.
    pub(crate) fn asked(&self, call: CallId) -> Option<&BookieId> {
        self.calls.get(&call).map(|(place, _)| &self.members[*place].bookie)
    }

    pub(crate) fn answered(&mut self, now: Mono, call: CallId, answer: &Answer) -> CopyVerdict {
        let Some((place, entry)) = self.calls.remove(&call) else { return CopyVerdict::Noted };
        match answer {
            Answer::Add(Ok(())) => {
                self.members[place].landed(entry);
                if let Some(copied) = self.entries.get_mut(&entry) {
                    copied.places |= 1 << place;
                }
                self.release(entry);
            }
            Answer::Add(Err(Refusal::Stale)) => return CopyVerdict::Superseded,
            Answer::Add(Err(Refusal::Deleted)) => return CopyVerdict::Deleted,
            // A fence does not bind a recovery (C20): a bookie that says so is at fault, like one that can't store it.
            Answer::Add(Err(
                Refusal::Fenced
                | Refusal::UnknownLedger
                | Refusal::Conflict
                | Refusal::Corrupt
                | Refusal::TooLarge
                | Refusal::ReadOnly
                | Refusal::Stopping,
            )) => self.members[place].refuse(now, entry),
            _ => self.members[place].postpone(now, entry),
        }
        CopyVerdict::Noted
    }

    /// Lets a body go once nobody owes it.
    fn release(&mut self, entry: EntryId) {
        if !self.members.iter().any(|member| member.owes(entry)) {
            self.entries.remove(&entry);
        }
    }

    fn is_safe(&self, copied: &Copied) -> bool {
        copied.places.count_ones() as usize >= self.replication.ack()
    }

    /// Bytes of the entries that are not yet on an ack quorum.
    pub(crate) fn unsafe_bytes(&self) -> usize {
        self.entries.values().filter(|copied| !self.is_safe(copied)).map(|copied| copied.stored.body.len()).sum()
    }

    /// The first entry that is not yet on an ack quorum.
    pub(crate) fn first_unsafe(&self) -> Option<EntryId> {
        self.entries.iter().find(|(_, copied)| !self.is_safe(copied)).map(|(entry, _)| *entry)
    }

    /// Gives up what members owe of safe entries past the budget; they miss something then.
    pub(crate) fn shed(&mut self, limit: usize, out: &mut impl Extend<Action>) {
        let safe_up_to = match self.first_unsafe() {
            Some(entry) => entry.previous(),
            None => self.entries.last_key_value().map(|(entry, _)| *entry),
        };
        let Some(safe_up_to) = safe_up_to else { return };
        for place in 0..self.members.len() {
            if self.members[place].background_bytes(safe_up_to, limit) <= limit {
                continue;
            }
            for (entry, add) in self.members[place].shed(safe_up_to) {
                self.missed[place] = true;
                if let Some(call) = add.call {
                    self.calls.remove(&call);
                    out.extend([Action::Cancel(call)]);
                }
                self.release(entry);
            }
        }
    }

    /// The places that keep some entry from its ack quorum: they do badly, and without them it is not reached.
    pub(crate) fn blocking(&self, now: Mono, config: &RecoveryConfig) -> Vec<usize> {
        let bad: Vec<bool> = self
            .members
            .iter()
            .map(|member| member.health(now, config.answer_timeout, config.answer_timeout, None) == Health::Bad)
            .collect();
        let needed = self.replication.ack();
        let mut blocking: Vec<usize> = self
            .entries
            .iter()
            .filter(|(_, copied)| !self.is_safe(copied))
            .filter(|(entry, _)| self.replication.write_set(**entry).filter(|place| !bad[*place]).count() < needed)
            .flat_map(|(entry, _)| self.replication.write_set(*entry).filter(|place| bad[*place]))
            .collect();
        blocking.sort_unstable();
        blocking.dedup();
        blocking
    }

    /// The ensemble that is written to.
    pub(crate) fn ensemble(&self) -> Vec<BookieId> {
        self.members.iter().map(|member| member.bookie.clone()).collect()
    }

    /// The members that are not known to have every entry that was copied.
    pub(crate) fn short(&self) -> Vec<usize> {
        (0..self.members.len()).filter(|&place| self.missed[place] || !self.members[place].owes_nothing()).collect()
    }

    pub(crate) fn open_calls(&self) -> impl Iterator<Item = CallId> {
        self.calls.keys().copied()
    }

    pub(crate) fn wakeup(&self, seen: Mono, config: &RecoveryConfig) -> Option<Mono> {
        self.members.iter().filter_map(|member| member.wakeup(seen, config.answer_timeout, config.answer_timeout)).min()
    }
}
