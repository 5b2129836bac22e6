//! Freeing the space of dead ledgers, on proof alone (B9), off the hot path.
//!
//! Proof is one linearizable read of a ledger's own record, never a listing (C26). What is dead goes after a grace by this
//! process's monotonic clock (C55); a round in which too much would go is refused.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use alluvium_metadata::ReadError;
use alluvium_metadata::ledgers::{Fate, Ledgers};
use alluvium_types::bookie::Refusal;
use alluvium_types::ids::{EntryId, LedgerId};
use alluvium_types::ledger::{BookieId, LedgerMetadata, LedgerState};
use alluvium_types::time::Mono;
use parking_lot::Mutex;

use crate::bookie::Bookie;
use crate::log::Marks;
use crate::space::Admission;

/// How many times as often it looks while the bookie is read-only.
const SHORT_OF_SPACE: u32 = 10;
/// Of which files it moves what is alive then, in percent: those that give a tenth back, or more.
const COMPACT_BELOW_WHEN_SHORT: u8 = 90;

/// What the record of a ledger means to one bookie.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// It stays.
    Keep,
    /// It stays, and is known to end here: torn ends (C59).
    Closed(Option<EntryId>),
    /// Its bytes may go after the grace.
    Dead,
    /// Its tombstone is gone: what remains of a ledger that was dropped here may be forgotten (C27).
    Gone,
}

/// Decides by the record as a linearizable read gave it. Nothing of an open or recovering ledger ever goes.
pub(crate) fn verdict(fate: &Fate, me: &BookieId) -> Verdict {
    let record: &LedgerMetadata = match fate {
        Fate::Deleted(_) => return Verdict::Dead,
        Fate::NoRecord => return Verdict::Gone,
        Fate::Exists(record) => &record.value,
    };
    match record.state {
        LedgerState::Closed { .. } if !record.names(me) => Verdict::Dead,
        LedgerState::Closed { last } => Verdict::Closed(last),
        LedgerState::Open | LedgerState::Recovering { .. } | LedgerState::Deleting => Verdict::Keep,
    }
}

/// What one round did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Round {
    /// Ledgers that metadata was asked about.
    pub asked: usize,
    /// Ledgers whose bytes were let go.
    pub dropped: usize,
    /// Ledgers that would have gone, but were too many at once (C26).
    pub refused: usize,
    /// Log files that were given up.
    pub files: usize,
}

#[derive(Debug, Default)]
struct Seen {
    /// Since when a ledger was seen dead, by every reading since.
    dead_since: BTreeMap<LedgerId, Mono>,
    /// Where the next round goes on.
    after: Option<LedgerId>,
}

/// Drops dead ledgers. Clones share what was seen.
#[derive(Clone, Debug)]
pub struct Reaper {
    bookie: Bookie,
    me: BookieId,
    ledgers: Ledgers,
    seen: Arc<Mutex<Seen>>,
}

impl Reaper {
    /// The reaper of a bookie.
    pub fn new(bookie: Bookie, ledgers: Ledgers) -> Self {
        let identity = bookie.identity();
        let me = BookieId { name: identity.bookie.clone(), incarnation: identity.incarnation };
        Self { bookie, me, ledgers, seen: Arc::default() }
    }

    /// Drops one ledger if metadata proves that it may go and the grace has passed since that was first seen; says whether it
    /// is gone here.
    pub async fn delete(&self, ledger: LedgerId) -> bool {
        match self.bookie.shared().state.lock().store.writer().marks().get(ledger) {
            None => return true,
            Some(Marks { deleted: true, .. }) => return true,
            Some(_) => {}
        }
        match self.ledgers.fate(ledger).await {
            Ok(fate) => {
                let dead = verdict(&fate, &self.me) == Verdict::Dead;
                self.note(ledger, dead) && self.drop_ledger(ledger).await.is_ok()
            }
            Err(error) => {
                tracing::warn!(%ledger, error = &error as &dyn std::error::Error, "not deleted: metadata did not answer");
                false
            }
        }
    }

    /// Asks metadata about the next ledgers and drops what is dead. An error means that nothing was dropped for want of proof.
    pub async fn round(&self) -> Result<Round, ReadError> {
        let config = self.bookie.shared().config.gc;
        let page = self.next_page(config.ledgers_per_round);
        let mut round = Round { asked: page.len(), ..Round::default() };
        let mut due = Vec::new();
        for (ledger, marks) in page {
            let verdict = verdict(&self.ledgers.fate(ledger).await?, &self.me);
            let ripe = !marks.deleted && self.note(ledger, verdict == Verdict::Dead);
            match verdict {
                Verdict::Dead if ripe => due.push(ledger),
                Verdict::Closed(last) if marks.closed.is_none() && !marks.deleted => {
                    self.tell("close", ledger, self.bookie.ask(|s| s.close(ledger, last), stopping).await);
                }
                Verdict::Gone if marks.deleted => {
                    self.tell("forget", ledger, self.bookie.ask(|s| s.forget(ledger), stopping).await);
                }
                Verdict::Dead | Verdict::Closed(_) | Verdict::Gone | Verdict::Keep => {}
            }
        }
        if due.len() > config.always_allowed && due.len() * 100 > round.asked * usize::from(config.share_max_percent) {
            self.bookie.shared().metrics.gc_refused.inc();
            tracing::error!(dead = due.len(), asked = round.asked, "garbage collection refused: too many ledgers at once");
            round.refused = due.len();
        } else {
            for ledger in due {
                if self.drop_ledger(ledger).await.is_ok() {
                    round.dropped += 1;
                }
            }
        }
        round.files = self.release_files();
        self.compact().await;
        Ok(round)
    }

    /// Rounds for ever, at their interval.
    pub(crate) async fn run(self) {
        let shared = Arc::clone(self.bookie.shared());
        let interval = Duration::from_millis(shared.config.gc.interval_ms);
        loop {
            // Space is found sooner where it is missed.
            let is_short = shared.state.lock().store.admission() != Admission::All;
            let pause = if is_short { interval / SHORT_OF_SPACE } else { interval };
            tokio::select! {
                biased;
                () = self.bookie.ended() => return,
                () = shared.clock.sleep(pause) => {}
            }
            match self.round().await {
                Ok(round) if round.dropped + round.files > 0 => tracing::info!(?round, "space freed"),
                Ok(_) => {}
                Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "nothing freed for want of proof"),
            }
            let ledgers = shared.state.lock().store.writer().marks().len();
            shared.metrics.ledgers.set(i64::try_from(ledgers).unwrap_or(i64::MAX));
        }
    }

    /// The ledgers of the next round, from where the last one ended.
    fn next_page(&self, limit: usize) -> Vec<(LedgerId, Marks)> {
        let mut seen = self.seen.lock();
        let after = seen.after;
        let page: Vec<_> = {
            let state = self.bookie.shared().state.lock();
            let marks = state.store.writer().marks().iter();
            let wanted = marks.filter(|(ledger, _)| after.is_none_or(|after| *ledger > after));
            wanted.take(limit).map(|(ledger, marks)| (ledger, *marks)).collect()
        };
        seen.after = (page.len() == limit).then(|| page.last().map(|(ledger, _)| *ledger)).flatten();
        page
    }

    /// Notes whether a ledger was seen dead; says whether it has been so for the grace.
    fn note(&self, ledger: LedgerId, dead: bool) -> bool {
        let shared = self.bookie.shared();
        let now = shared.clock.mono();
        let mut seen = self.seen.lock();
        if !dead {
            seen.dead_since.remove(&ledger);
            return false;
        }
        let since = *seen.dead_since.entry(ledger).or_insert(now);
        now.since(since) >= Duration::from_millis(shared.config.gc.grace_ms)
    }

    async fn drop_ledger(&self, ledger: LedgerId) -> Result<(), Refusal> {
        let outcome = self.bookie.ask(|store| store.delete(ledger), stopping).await;
        match outcome {
            Ok(()) => {
                self.seen.lock().dead_since.remove(&ledger);
                self.bookie.shared().metrics.ledgers_dropped.inc();
                tracing::info!(%ledger, "ledger dropped: metadata proves that it is dead");
            }
            Err(_) => self.tell("drop", ledger, outcome),
        }
        outcome
    }

    fn tell(&self, what: &'static str, ledger: LedgerId, outcome: Result<(), Refusal>) {
        match outcome {
            // Busy: files still hold frames of it; a later round sees to it.
            Ok(()) | Err(Refusal::Busy | Refusal::Stopping) => {}
            Err(refusal) => tracing::warn!(%ledger, what, %refusal, "not marked; a later round tries again"),
        }
    }

    /// Gives up the files in which nothing is alive; the files thread lets them go.
    fn release_files(&self) -> usize {
        let shared = self.bookie.shared();
        let mut state = shared.state.lock();
        let rights = state.store.release_dead();
        let files = rights.len();
        state.releases.extend(rights);
        if files > 0 {
            shared.want_files_thread(&mut state);
        }
        files
    }

    /// Empties the file of which the least is alive, if it is little (B6).
    async fn compact(&self) {
        let shared = self.bookie.shared();
        let (file_bytes, config) = (shared.config.log.file_bytes, shared.config.gc);
        let (begun, is_short) = {
            let mut state = shared.state.lock();
            let (share, is_short) = match state.store.admission() {
                Admission::All => (config.compact_below_percent, false),
                Admission::Essential => (config.compact_below_percent.max(COMPACT_BELOW_WHEN_SHORT), true),
                // What is left then is for marks; files that are wholly dead go without moving anything.
                Admission::Marks => return,
            };
            (state.store.begin_compaction(file_bytes, share), is_short)
        };
        let Some(file) = begun else { return };
        let mut moved = 0_u64;
        let mut pace = shared.clock.mono();
        loop {
            let next = shared.state.lock().store.next_copy();
            let Some(copy) = next else { break };
            let reader = shared.reader.clone();
            let read = shared.tasks.block(move || reader.read(copy.ledger, copy.entry, copy.from)).await;
            match read {
                Ok(frame) => {
                    let bytes = frame.body.len() as u64;
                    moved += bytes;
                    if !is_short {
                        pace = pace.after(Duration::from_secs_f64(bytes as f64 / config.compact_bytes_per_second as f64));
                        shared.clock.sleep_until(pace).await;
                    }
                    if let Err(refusal) = self.bookie.ask(|store| store.copy(&frame), stopping).await {
                        tracing::warn!(%file, %refusal, "compaction put off");
                        return;
                    }
                    shared.appended(&mut shared.state.lock());
                }
                Err(error) => {
                    tracing::error!(%file, ledger = %copy.ledger, entry = %copy.entry, %error, "can't be moved; its file stays");
                    shared.state.lock().store.skip_copy();
                }
            }
        }
        shared.metrics.compacted_bytes.inc_by(moved);
        if self.bookie.ask(crate::store::Store::finish_compaction, stopping).await.is_ok() {
            self.release_files();
        }
    }
}

const fn stopping() -> Result<(), Refusal> {
    Err(Refusal::Stopping)
}

#[cfg(test)]
mod tests {
    use alluvium_metadata::Versioned;
    use alluvium_types::ids::{Epoch, Incarnation, Revision};
    use alluvium_types::ledger::LedgerClass;
    use alluvium_types::names::BookieName;
    use alluvium_types::replication::Replication;
    use uuid::Uuid;

    use super::*;

    fn bookie(incarnation: u128) -> BookieId {
        let incarnation = Incarnation::new(Uuid::from_u128(incarnation));
        BookieId { name: BookieName::parse("b1").expect("valid"), incarnation }
    }

    fn record(state: LedgerState) -> Versioned<LedgerMetadata> {
        let single = Replication::SINGLE;
        let (ledger, epoch) = (LedgerId::new(1), Epoch::new(1));
        let created = LedgerMetadata::create(ledger, epoch, LedgerClass::Bulk, single, single, vec![bookie(1)]);
        let value = LedgerMetadata { state, ..created.expect("valid") };
        Versioned { value, mod_revision: Revision::new(2), create_revision: Revision::new(1) }
    }

    #[test]
    fn b9_bytes_go_on_a_tombstone_or_when_a_closed_ledger_names_others() {
        let closed = LedgerState::Closed { last: Some(EntryId::new(4)) };
        let me = bookie(1);
        assert_eq!(verdict(&Fate::Deleted(record(LedgerState::Deleting)), &me), Verdict::Dead);
        assert_eq!(verdict(&Fate::Exists(record(closed)), &me), Verdict::Closed(Some(EntryId::new(4))));
        assert_eq!(verdict(&Fate::Exists(record(closed)), &bookie(2)), Verdict::Dead, "another life of the directory");
    }

    #[test]
    fn b9_nothing_of_an_open_or_recovering_or_unlisted_ledger_goes() {
        let stranger = bookie(2);
        let recovering = LedgerState::Recovering { by: alluvium_types::ids::RecoveryNumber::new(1) };
        for state in [LedgerState::Open, recovering] {
            assert_eq!(verdict(&Fate::Exists(record(state)), &stranger), Verdict::Keep);
        }
        assert_eq!(verdict(&Fate::NoRecord, &stranger), Verdict::Gone, "no record is no proof");
    }
}
