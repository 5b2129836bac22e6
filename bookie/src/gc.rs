//! Freeing the space of dead ledgers, on proof alone (B9), off the hot path.
//!
//! Proof is one linearizable read of a ledger's own record, never a listing (C26). What is dead goes after a grace by this
//! process's monotonic clock (C55), and no more of it in a round than an operator can follow; the rest goes in later ones.
//!
//! A ledger without a record stays: its creator may be about to commit one, and what was opened for a creator that crashed is a row
//! without entries. That row is not taken as dead, since no record is no proof.

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
/// From which share of the ledgers that can be known here on it raises an alarm, in percent.
const LEDGERS_ALARM_PERCENT: usize = 80;
/// Of which files it moves what is alive then, in percent: those that give a tenth back, or more.
const COMPACT_BELOW_WHEN_SHORT: u8 = 90;

/// What the record of a ledger means to one bookie.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// It stays.
    Keep,
    /// It stays, and is known to end here: torn ends (C59).
    Closed(Option<EntryId>),
    /// It is deleted: its bytes may go after the grace.
    Deleted,
    /// It is closed, and other bookies keep it: the bytes here may go after the grace.
    Disowned,
    /// Its tombstone is gone: what remains of a ledger that was dropped here may be forgotten (C27).
    Gone,
}

impl Verdict {
    const fn is_dead(self) -> bool {
        matches!(self, Self::Deleted | Self::Disowned)
    }
}

/// Decides by the record as a linearizable read gave it. Nothing of an open or recovering ledger ever goes.
pub(crate) fn verdict(fate: &Fate, me: &BookieId) -> Verdict {
    let record: &LedgerMetadata = match fate {
        Fate::Deleted(_) => return Verdict::Deleted,
        Fate::NoRecord => return Verdict::Gone,
        Fate::Exists(record) => &record.value,
    };
    match record.state {
        LedgerState::Closed { .. } if !record.names(me) => Verdict::Disowned,
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
    /// Dead ledgers that were left to later rounds, being too many at once (C26).
    pub put_off: usize,
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

    /// Drops one ledger if metadata proves that it may go and the grace has passed since that was first seen; says whether nothing of
    /// it is here that could come back: it is unknown, or its deletion is durable. A tombstone may be forgotten on that word (C27).
    pub async fn delete(&self, ledger: LedgerId) -> bool {
        let (is_unknown, is_deleted) = {
            let state = self.bookie.shared().state.lock();
            let marks = state.store.writer().marks().get(ledger);
            (state.store.is_unknown(ledger), marks.is_some_and(|marks| marks.deleted))
        };
        if is_unknown || is_deleted {
            // The mark may still be on its way to the disk.
            return is_unknown || self.bookie.ask(|store| store.delete(ledger), stopping).await.is_ok();
        }
        match self.ledgers.fate(ledger).await {
            Ok(fate) => {
                let is_dead = verdict(&fate, &self.me).is_dead();
                self.note(ledger, is_dead) && self.drop_ledger(ledger).await.is_ok()
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
        let (mut deleted, mut disowned) = (Vec::new(), Vec::new());
        for (ledger, marks) in page {
            let verdict = verdict(&self.ledgers.fate(ledger).await?, &self.me);
            let ripe = !marks.deleted && self.note(ledger, verdict.is_dead());
            match verdict {
                Verdict::Deleted if ripe => deleted.push(ledger),
                Verdict::Disowned if ripe => disowned.push(ledger),
                Verdict::Closed(last) if marks.closed.is_none() && !marks.deleted => {
                    self.tell("close", ledger, self.bookie.ask(|s| s.close(ledger, last), stopping).await);
                }
                Verdict::Gone if marks.deleted => {
                    self.tell("forget", ledger, self.bookie.ask(|s| s.forget(ledger), stopping).await);
                }
                Verdict::Deleted | Verdict::Disowned | Verdict::Closed(_) | Verdict::Gone | Verdict::Keep => {}
            }
        }
        let share = round.asked * usize::from(config.share_max_percent) / 100;
        let mut put_off = deleted.split_off(deleted.len().min(config.always_allowed.max(share)));
        let kept = disowned.split_off(disowned.len().min(config.disowned_per_round));
        if !kept.is_empty() {
            tracing::error!(waiting = kept.len(), "many closed ledgers name other bookies at once: few go in each round");
        } else if !put_off.is_empty() {
            tracing::warn!(waiting = put_off.len(), "many ledgers are deleted at once: the rest goes in later rounds");
        }
        put_off.extend(kept);
        round.put_off = put_off.len();
        self.bookie.shared().metrics.gc_put_off.set(i64::try_from(round.put_off).unwrap_or(i64::MAX));
        for ledger in deleted.into_iter().chain(disowned) {
            if self.drop_ledger(ledger).await.is_ok() {
                round.dropped += 1;
            }
        }
        self.count_ledgers();
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
        }
    }

    /// Each ledger that is known, or remembered as deleted, takes a row at the head of every log file; there is room for so many.
    fn count_ledgers(&self) {
        let shared = self.bookie.shared();
        let (known, room) = {
            let state = shared.state.lock();
            let writer = state.store.writer();
            (writer.marks().len(), usize::try_from(writer.rows_max()).unwrap_or(usize::MAX))
        };
        shared.metrics.ledgers.set(i64::try_from(known).unwrap_or(i64::MAX));
        shared.metrics.ledgers_max.set(i64::try_from(room).unwrap_or(i64::MAX));
        if known.saturating_mul(100) >= room.saturating_mul(LEDGERS_ALARM_PERCENT) {
            tracing::error!(
                known,
                room,
                "few more ledgers can be known here; then no new one is taken: larger log files have more room"
            );
        }
    }

    /// The ledgers of the next round, from where the last one ended.
    fn next_page(&self, limit: usize) -> Vec<(LedgerId, Marks)> {
        let mut seen = self.seen.lock();
        let after = seen.after;
        let page: Vec<_> = {
            let state = self.bookie.shared().state.lock();
            let behind = state.store.writer().marks().after(after);
            behind.take(limit).map(|(ledger, marks)| (ledger, *marks)).collect()
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
            let read = shared.tasks.block(move || reader.read_disk(copy.ledger, copy.entry, copy.from)).await;
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
        assert_eq!(verdict(&Fate::Deleted(record(LedgerState::Deleting)), &me), Verdict::Deleted);
        assert_eq!(verdict(&Fate::Exists(record(closed)), &me), Verdict::Closed(Some(EntryId::new(4))));
        assert_eq!(verdict(&Fate::Exists(record(closed)), &bookie(2)), Verdict::Disowned, "another life of the directory");
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
