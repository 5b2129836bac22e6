//! One place of the ensemble: the bookie that stands there and the adds that it has not answered.

use std::collections::BTreeMap;
use std::time::Duration;

use alluvium_runtime::backoff::Backoff;
use alluvium_types::ids::EntryId;
use alluvium_types::ledger::BookieId;
use alluvium_types::time::Mono;

use crate::call::CallId;

/// An add that is not known to be on disk.
#[derive(Debug)]
pub(crate) struct InFlight {
    /// The question that is open; `None` while it waits to be sent again.
    pub(crate) call: Option<CallId>,
    /// Since when the bookie owes it, over all attempts.
    since: Mono,
    bytes: usize,
}

/// How a member does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Health {
    /// As it should.
    Sound,
    /// It lags behind its peers: worth replacing, still counted on (C54).
    Slow,
    /// It refuses, or has not answered for too long: not counted on.
    Bad,
}

/// The bookie at one place of the ensemble.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) bookie: BookieId,
    adds: BTreeMap<EntryId, InFlight>,
    bytes: usize,
    /// Whether adds of this fragment were given up: repair has to bring them (C65).
    pub(crate) short: bool,
    /// Whether its last answer was a refusal that is the bookie's own fault.
    refuses: bool,
    /// Whether it was that this ledger is unknown there, or torn: it takes no add of it, and may take another ledger.
    pub(crate) is_stranger: bool,
    /// When the newest add that it answered was sent.
    progress: Option<Mono>,
    /// When adds to it began to get lost, and when the last one did, with none answered in between.
    lost: Option<(Mono, Mono)>,
    backoff: Backoff,
    resend_at: Option<Mono>,
}

impl Member {
    pub(crate) const fn new(bookie: BookieId, backoff: Backoff) -> Self {
        Self {
            bookie,
            adds: BTreeMap::new(),
            bytes: 0,
            short: false,
            refuses: false,
            is_stranger: false,
            progress: None,
            lost: None,
            backoff,
            resend_at: None,
        }
    }

    /// Takes note of an add that is due. It may be sent now if nothing waits to be sent again before it.
    pub(crate) fn owe(&mut self, now: Mono, entry: EntryId, bytes: usize) -> bool {
        self.bytes += bytes;
        self.adds.insert(entry, InFlight { call: None, since: now, bytes });
        self.resend_at.is_none() && self.lost.is_none()
    }

    /// The add goes out.
    pub(crate) fn sent(&mut self, entry: EntryId, call: CallId) {
        if let Some(add) = self.adds.get_mut(&entry) {
            add.call = Some(call);
        }
    }

    /// The add is on disk.
    pub(crate) fn landed(&mut self, entry: EntryId) {
        if let Some(add) = self.remove(entry) {
            self.progress = self.progress.max(Some(add.since));
        }
        self.refuses = false;
        self.answered();
        self.backoff.reset();
    }

    /// It answers: what was held back while adds got lost is due.
    fn answered(&mut self) {
        if self.lost.take().is_some() {
            self.resend_at = Some(self.resend_at.unwrap_or_default());
        }
    }

    /// It takes the add at another time.
    pub(crate) fn put_off(&mut self, now: Mono, entry: EntryId) {
        self.answered();
        self.postpone(now, entry);
    }

    /// The add got lost, as happens where nobody listens; it is sent again after a pause, and until one is answered no other is.
    pub(crate) fn lose(&mut self, now: Mono, entry: EntryId) {
        self.lost.get_or_insert((now, now)).1 = now;
        self.postpone(now, entry);
    }

    /// Whether it is gone: adds to it got lost again and again for `gone_after`, and none was answered. One that is silent is not.
    pub(crate) fn is_gone(&self, gone_after: Duration) -> bool {
        self.lost.is_some_and(|(first, last)| last.since(first) >= gone_after)
    }

    /// The add did not get through; it is sent again after a pause.
    pub(crate) fn postpone(&mut self, now: Mono, entry: EntryId) {
        if let Some(add) = self.adds.get_mut(&entry) {
            add.call = None;
        }
        if self.resend_at.is_none() {
            self.resend_at = Some(now.after(self.backoff.delay()));
        }
    }

    /// The bookie can't store it, by its own fault; asked again all the same, in case there is nobody else.
    pub(crate) fn refuse(&mut self, now: Mono, entry: EntryId) {
        self.refuses = true;
        self.put_off(now, entry);
    }

    /// The adds to be sent again now, in order. Where they get lost, one of them: it shows whether the bookie is there again.
    pub(crate) fn due(&mut self, now: Mono) -> Vec<EntryId> {
        if self.resend_at.is_none_or(|at| now < at) {
            return Vec::new();
        }
        self.resend_at = None;
        let most = if self.lost.is_some() { 1 } else { usize::MAX };
        self.adds.iter().filter(|(_, add)| add.call.is_none()).map(|(entry, _)| *entry).take(most).collect()
    }

    /// Gives up the adds up to `lac`: they are confirmed without this bookie, which is short of them from now on.
    pub(crate) fn shed(&mut self, lac: EntryId) -> Vec<(EntryId, InFlight)> {
        let entries: Vec<EntryId> = self.adds.range(..=lac).map(|(entry, _)| *entry).collect();
        self.short |= !entries.is_empty();
        entries.into_iter().filter_map(|entry| self.remove(entry).map(|add| (entry, add))).collect()
    }

    /// Gives up everything.
    pub(crate) fn clear(&mut self) -> Vec<(EntryId, InFlight)> {
        self.bytes = 0;
        std::mem::take(&mut self.adds).into_iter().collect()
    }

    fn remove(&mut self, entry: EntryId) -> Option<InFlight> {
        let add = self.adds.remove(&entry)?;
        self.bytes -= add.bytes;
        Some(add)
    }

    pub(crate) fn owes(&self, entry: EntryId) -> bool {
        self.adds.contains_key(&entry)
    }

    pub(crate) fn owes_any_of(&self, first: EntryId, last: EntryId) -> bool {
        first <= last && self.adds.range(first..=last).next().is_some()
    }

    pub(crate) fn owes_nothing(&self) -> bool {
        self.adds.is_empty()
    }

    /// Bytes of adds up to `lac`, if there may be more than `limit` of them.
    pub(crate) fn background_bytes(&self, lac: EntryId, limit: usize) -> usize {
        if self.bytes <= limit { 0 } else { self.adds.range(..=lac).map(|(_, add)| add.bytes).sum() }
    }

    /// When the newest add that it answered was sent.
    pub(crate) const fn progress(&self) -> Option<Mono> {
        self.progress
    }

    /// How it does; `peers` is the best progress of the others.
    pub(crate) fn health(&self, now: Mono, slow_after: Duration, bad_after: Duration, peers: Option<Mono>) -> Health {
        let oldest = self.oldest();
        if self.refuses || oldest.is_some_and(|since| now.since(since) >= bad_after) {
            Health::Bad
        } else if oldest.is_some_and(|since| now.since(since) >= slow_after && peers >= Some(since)) {
            Health::Slow
        } else {
            Health::Sound
        }
    }

    /// When it may next look worse than now, or has to be sent something.
    pub(crate) fn wakeup(&self, now: Mono, slow_after: Duration, bad_after: Duration) -> Option<Mono> {
        let worse =
            self.oldest().and_then(|since| [since.after(slow_after), since.after(bad_after)].into_iter().find(|t| *t > now));
        [worse, self.resend_at].into_iter().flatten().min()
    }

    /// This process stood still: what was owed meanwhile is no fault of the bookie.
    pub(crate) fn forgive(&mut self, now: Mono) {
        for add in self.adds.values_mut() {
            add.since = now;
        }
        self.lost = self.lost.map(|_| (now, now));
    }

    // Entries are owed in order, so the first has been owed longest.
    fn oldest(&self) -> Option<Mono> {
        self.adds.first_key_value().map(|(_, add)| add.since)
    }
}
