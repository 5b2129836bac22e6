//! Fencing and reading through the handle.

use std::sync::Arc;
use std::time::Duration;

use alluvium_runtime::budget::BytesHeld;
use alluvium_types::bookie::{EntryAnswer, FenceAnswer, Find, LedgerSummary, ReadAnswer, ReadEntries, ReadRefusal};
use alluvium_types::entry::EntryRange;
use alluvium_types::ids::{EntryId, LedgerId, RecoveryNumber};
use tokio::sync::oneshot;

use super::Bookie;
use super::find::Search;
use super::shared::{Life, Shared, State};
use crate::log::ReadError;
use crate::metrics::Metrics;
use crate::read_plan::ReadDone;

/// How often a read is planned again because compaction moved what it wanted.
const MOVED_TRIES: usize = 16;

impl Bookie {
    /// Reads a run of entries; a fencing read answers once the fence is durable (C1).
    pub async fn read(&self, read: ReadEntries) -> Result<ReadAnswer, ReadRefusal> {
        self.read_held(read).await.map(|(answer, _)| answer)
    }

    /// The same, with the bytes' share of the budget: whoever hands them on lets it go when they are handed over (Q6).
    pub async fn read_held(&self, mut read: ReadEntries) -> Result<(ReadAnswer, BytesHeld), ReadRefusal> {
        let shared = &self.shared;
        read.bytes_max = read.bytes_max.min(shared.config.read_answer_bytes_max);
        for _ in 0..MOVED_TRIES {
            let plan = self.ask(|store| store.read(&read), || Err(ReadRefusal::Stopping)).await?;
            let held = shared.read_bytes.take(plan.memory_bytes()).await;
            if let Some(ReadDone { answer, .. }) = plan.peek(&shared.reader) {
                count_read(&shared.metrics, &answer);
                return Ok((answer, held));
            }
            let turn = Arc::clone(&shared.reads).acquire_owned().await.map_err(|_| ReadRefusal::Stopping)?;
            let reader = shared.reader.clone();
            let done = shared
                .tasks
                .block(move || {
                    let _turn = turn;
                    plan.run(&reader)
                })
                .await;
            if let Ok(ReadDone { answer, unreadable }) = done {
                for entry in unreadable {
                    shared.metrics.unreadable_entries.inc();
                    tracing::error!(ledger = %read.ledger, %entry, "a stored entry can't be read back");
                }
                count_read(&shared.metrics, &answer);
                return Ok((answer, held));
            }
        }
        Err(ReadRefusal::Busy)
    }

    /// Fences a ledger; resolves once the mark is durable (B2).
    pub async fn fence(&self, ledger: LedgerId, number: RecoveryNumber) -> Result<FenceAnswer, ReadRefusal> {
        let answer = self.ask(|store| store.fence(ledger, number), || Err(ReadRefusal::Stopping)).await;
        if answer.is_ok() {
            self.shared.metrics.fences.inc();
        }
        answer
    }

    /// The highest LAC known, once it is past `after`, or after `wait`, whichever comes first. Cancel safe.
    pub async fn read_lac(
        &self,
        ledger: LedgerId,
        after: Option<EntryId>,
        wait: Duration,
    ) -> Result<Option<EntryId>, ReadRefusal> {
        let shared = &self.shared;
        let wait = wait.min(Duration::from_millis(shared.config.lac_wait_max_ms));
        let deadline = shared.clock.mono().after(wait);
        loop {
            let moved = {
                let mut state = shared.state.lock();
                if state.life != Life::Running {
                    return Err(ReadRefusal::Stopping);
                }
                let lac = state.store.read_lac(ledger)?;
                if lac > after || shared.clock.mono() >= deadline {
                    return Ok(lac);
                }
                match await_lac(&mut state, ledger, shared.config.lac_waiters_max) {
                    Some(moved) => moved,
                    None => return Ok(lac),
                }
            };
            tokio::select! {
                biased;
                _ = moved => {}
                () = shared.clock.sleep_until(deadline) => {}
            }
        }
    }

    /// Looks an entry up by offset or time among those stored here: by offset the last one that begins there or before, by
    /// time the first one of that time or later.
    pub async fn find(&self, find: Find) -> Result<Option<EntryId>, ReadRefusal> {
        let shared = Arc::clone(&self.shared);
        self.shared.state.lock().store.read_lac(find.ledger)?;
        let turn = Arc::clone(&shared.reads).acquire_owned().await.map_err(|_| ReadRefusal::Stopping)?;
        let tasks = shared.tasks.clone();
        tasks
            .block(move || {
                let _turn = turn;
                let mut search = Search::new(&find);
                while let Some(probe) = search.probe() {
                    search.tell(probe, look(&shared, find.ledger, probe)?);
                }
                Ok(search.best())
            })
            .await
    }

    /// What is known of the ledgers after `after`, at most `limit` of them.
    pub fn list(&self, after: Option<LedgerId>, limit: usize) -> Vec<LedgerSummary> {
        self.shared.state.lock().store.list(after, limit)
    }
}

/// Waits for a ledger's LAC to move, if fewer than `waiters_max` do. Those who gave up make room.
fn await_lac(state: &mut State, ledger: LedgerId, waiters_max: usize) -> Option<oneshot::Receiver<()>> {
    if state.lac_waiting >= waiters_max {
        state.lac_waiters.retain(|_, waiting| {
            waiting.retain(|waiter| !waiter.is_closed());
            !waiting.is_empty()
        });
        state.lac_waiting = state.lac_waiters.values().map(Vec::len).sum();
        if state.lac_waiting >= waiters_max {
            return None;
        }
    }
    let (tx, rx) = oneshot::channel();
    state.lac_waiters.entry(ledger).or_default().push(tx);
    state.lac_waiting += 1;
    Some(rx)
}

/// Those who wait for a ledger's LAC look again.
pub(super) fn wake_lac_waiters(state: &mut State, ledger: LedgerId) {
    if state.lac_waiters.is_empty() {
        return;
    }
    if let Some(waiting) = state.lac_waiters.remove(&ledger) {
        state.lac_waiting -= waiting.len();
        for waiter in waiting {
            // Who hung up does not want to know.
            let _ = waiter.send(());
        }
    }
}

/// The entry at or after a place, and the range that its header says.
fn look(shared: &Shared, ledger: LedgerId, probe: EntryId) -> Result<Option<(EntryId, EntryRange)>, ReadRefusal> {
    let mut from = probe;
    for _ in 0..MOVED_TRIES {
        let Some((entry, location)) = shared.state.lock().store.at_or_after(ledger, from) else { return Ok(None) };
        match shared.reader.read(ledger, entry, location) {
            Ok(frame) => match EntryRange::of(&frame.body) {
                Some(range) => return Ok(Some((entry, range))),
                // Not messages: nothing to find by.
                None => return Ok(None),
            },
            Err(ReadError::Moved(_)) => {}
            Err(ReadError::Corrupt(_) | ReadError::Io { .. }) => {
                shared.metrics.unreadable_entries.inc();
                tracing::error!(%ledger, %entry, "a stored entry can't be read back");
                from = entry.next();
            }
        }
    }
    Err(ReadRefusal::Busy)
}

fn count_read(metrics: &Metrics, answer: &ReadAnswer) {
    let bodies = answer.entries.iter().filter_map(|entry| match entry {
        EntryAnswer::Found(found) => Some(found.body.len() as u64),
        EntryAnswer::Missing(..) => None,
    });
    let (entries, bytes) = bodies.fold((0, 0), |(count, sum), bytes| (count + 1, sum + bytes));
    metrics.reads.inc();
    metrics.read_entries.inc_by(entries);
    metrics.read_bytes.inc_by(bytes);
}
