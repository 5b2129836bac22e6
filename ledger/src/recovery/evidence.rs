//! What members of a write set say of the entries behind the LAC, and what that proves (C2, C3, C59).
//!
//! Four answers, of which one is proof that an entry is not here, one is proof that it is, and two prove nothing alone.

use std::collections::BTreeMap;
use std::time::Duration;

use alluvium_runtime::backoff::Backoff;
use alluvium_types::bookie::{EntryAnswer, Missing, ReadAnswer, StoredEntry};
use alluvium_types::checksum::Crc32c;
use alluvium_types::entry::entry_checksum;
use alluvium_types::ids::{EntryId, LedgerId};
use alluvium_types::ledger::BookieId;
use alluvium_types::replication::Replication;
use alluvium_types::time::Mono;

use crate::call::CallId;
use crate::mutation::{Mutation, Mutations};

/// What one member says of one entry.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Said {
    Found(StoredEntry),
    Missing(Missing),
}

/// What is known of an entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Proof {
    /// Somebody has it.
    Present(StoredEntry),
    /// It was never confirmed, and never will be.
    Absent,
    /// Neither is proved.
    Open,
}

#[derive(Debug)]
struct Witness {
    bookie: BookieId,
    said: BTreeMap<EntryId, Said>,
    call: Option<CallId>,
    ask_at: Mono,
    backoff: Backoff,
}

/// A question to a member: what of these entries?
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Question {
    pub(crate) call: CallId,
    pub(crate) bookie: BookieId,
    pub(crate) first: EntryId,
    pub(crate) last: EntryId,
}

/// The members of the ensemble as it was when the recovery began (C11), and what they have said so far.
#[derive(Debug)]
pub(crate) struct Evidence {
    ledger: LedgerId,
    replication: Replication,
    witnesses: Vec<Witness>,
    calls: BTreeMap<CallId, (usize, EntryId, EntryId)>,
    /// Entries before this one are decided.
    next: EntryId,
    window: u64,
    answer_timeout: Duration,
    mutations: Mutations,
}

impl Evidence {
    #[expect(clippy::too_many_arguments, reason = "one caller; each is a fact of the recovery")]
    pub(crate) fn new(
        now: Mono,
        ledger: LedgerId,
        replication: Replication,
        ensemble: &[BookieId],
        first: EntryId,
        window: u64,
        answer_timeout: Duration,
        mutations: Mutations,
        backoff: &impl Fn() -> Backoff,
    ) -> Self {
        let witness = |bookie: &BookieId| Witness {
            bookie: bookie.clone(),
            said: BTreeMap::new(),
            call: None,
            ask_at: now,
            backoff: backoff(),
        };
        Self {
            ledger,
            replication,
            witnesses: ensemble.iter().map(witness).collect(),
            calls: BTreeMap::new(),
            next: first,
            window,
            answer_timeout,
            mutations,
        }
    }

    /// The entry that is to be decided next.
    pub(crate) const fn next(&self) -> EntryId {
        self.next
    }

    /// Goes on to the entry after the one that was decided.
    pub(crate) fn advance(&mut self) {
        self.next = self.next.next();
        for witness in &mut self.witnesses {
            witness.said = witness.said.split_off(&self.next);
        }
    }

    /// The questions to be asked now: each member, of the first entry in question that it should hold and has not answered. One
    /// that has not answered in time is asked again, and so is one that could not tell.
    pub(crate) fn due(&mut self, now: Mono, mut call: impl FnMut() -> CallId) -> Vec<Question> {
        let mut questions = Vec::new();
        for place in 0..self.witnesses.len() {
            if now < self.witnesses[place].ask_at {
                continue;
            }
            if let Some(late) = self.witnesses[place].call.take() {
                self.no_answer(now, late);
            }
            let witness = &mut self.witnesses[place];
            witness.said.retain(|_, said| !matches!(said, Said::Missing(Missing::Unknown)));
            let Some(first) = first_share(self.replication, place, self.next) else { continue };
            if witness.said.contains_key(&first) {
                continue;
            }
            let last = EntryId::new(first.get() + self.window - 1);
            let id = call();
            witness.call = Some(id);
            witness.ask_at = now.after(self.answer_timeout);
            self.calls.insert(id, (place, first, last));
            questions.push(Question { call: id, bookie: witness.bookie.clone(), first, last });
        }
        questions
    }

    /// Whom this question was put to here.
    pub(crate) fn asked(&self, call: CallId) -> Option<&BookieId> {
        self.calls.get(&call).map(|(place, ..)| &self.witnesses[*place].bookie)
    }

    /// Takes an answer. What does not match its checksum is not known (B4); what is not in the member's share is not evidence.
    pub(crate) fn answered(&mut self, now: Mono, call: CallId, answer: ReadAnswer) {
        let Some((place, first, last)) = self.calls.remove(&call) else { return };
        let (ledger, replication) = (self.ledger, self.replication);
        let witness = &mut self.witnesses[place];
        witness.call = None;
        let mut unsure = answer.entries.is_empty();
        for said in answer.entries {
            let (entry, said) = match said {
                EntryAnswer::Found(stored) if is_sound(ledger, &stored) => (stored.entry, Said::Found(stored)),
                EntryAnswer::Found(stored) => (stored.entry, Said::Missing(Missing::Unknown)),
                EntryAnswer::Missing(entry, missing) => (entry, Said::Missing(missing)),
            };
            let in_share = replication.write_set(entry).any(|member| member == place);
            if in_share && (first..=last).contains(&entry) && entry >= self.next {
                unsure |= said == Said::Missing(Missing::Unknown);
                witness.said.insert(entry, said);
            }
        }
        if unsure {
            witness.ask_at = now.after(witness.backoff.delay());
        } else {
            witness.backoff.reset();
            witness.ask_at = now;
        }
    }

    /// A question was not answered, or refused: it says nothing (C3).
    pub(crate) fn no_answer(&mut self, now: Mono, call: CallId) {
        let Some((place, first, last)) = self.calls.remove(&call) else { return };
        let witness = &mut self.witnesses[place];
        witness.call = None;
        witness.ask_at = now.after(witness.backoff.delay());
        if self.mutations.has(Mutation::TimeoutReadAsNoSuchEntry) {
            self.says_absent(place, first, last);
        }
    }

    /// Proof that the member has nothing of the ledger at all.
    pub(crate) fn nothing_here(&mut self, now: Mono, call: CallId) {
        let Some((place, first, last)) = self.calls.remove(&call) else { return };
        let witness = &mut self.witnesses[place];
        witness.call = None;
        witness.ask_at = now;
        self.says_absent(place, first, last);
    }

    fn says_absent(&mut self, place: usize, first: EntryId, last: EntryId) {
        for entry in (first.get()..=last.get()).map(EntryId::new) {
            if self.replication.write_set(entry).any(|member| member == place) {
                self.witnesses[place].said.insert(entry, Said::Missing(Missing::Absent));
            }
        }
    }

    /// What is proved of the next entry. Present by one that has it; absent when so many say `Absent` that the others are no ack
    /// quorum (C2), or when every member of the write set says `Absent` or `Torn`: an acked entry is on an ack quorum, of which not
    /// all have rotted (C59).
    pub(crate) fn proof(&self) -> Proof {
        let said: Vec<Option<&Said>> =
            self.replication.write_set(self.next).map(|place| self.witnesses[place].said.get(&self.next)).collect();
        if let Some(Said::Found(stored)) = said.iter().flatten().find(|said| matches!(said, Said::Found(_))) {
            return Proof::Present(stored.clone());
        }
        let count = |missing| said.iter().flatten().filter(|said| ***said == Said::Missing(missing)).count();
        let (absent, torn) = (count(Missing::Absent), count(Missing::Torn));
        let coverage = if self.mutations.has(Mutation::OneNoSuchEntryEndsRecovery) { 1 } else { self.replication.coverage() };
        if absent >= coverage || absent + torn == said.len() { Proof::Absent } else { Proof::Open }
    }

    pub(crate) fn open_calls(&self) -> impl Iterator<Item = CallId> {
        self.calls.keys().copied()
    }

    pub(crate) fn wakeup(&self) -> Option<Mono> {
        let waits = |place: &usize| {
            let witness = &self.witnesses[*place];
            let share = first_share(self.replication, *place, self.next);
            let knows =
                share.is_some_and(|entry| witness.said.get(&entry).is_some_and(|said| *said != Said::Missing(Missing::Unknown)));
            witness.call.is_some() || !knows
        };
        (0..self.witnesses.len()).filter(waits).map(|place| self.witnesses[place].ask_at).min()
    }
}

/// The first entry from `from` on that the member at `place` should hold.
fn first_share(replication: Replication, place: usize, from: EntryId) -> Option<EntryId> {
    (0..replication.ensemble() as u64)
        .filter_map(|step| from.checked_add(step))
        .find(|entry| replication.write_set(*entry).any(|member| member == place))
}

/// Whether an entry is what was written under its id (B4).
pub(crate) fn is_sound(ledger: LedgerId, stored: &StoredEntry) -> bool {
    entry_checksum(ledger, stored.entry, Crc32c::of(&stored.body), stored.body.len()) == stored.checksum
}
