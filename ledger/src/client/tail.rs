//! Smaller questions to a ledger's bookies: how far is it confirmed, where is this offset, what is left of it, let it go.

use std::time::Duration;

use alluvium_types::bookie::{EntryAnswer, Find, FindKey, ReadEntries, ReadRefusal};
use alluvium_types::ids::{EntryId, LedgerId};
use alluvium_types::ledger::{BookieId, Fragment, LedgerMetadata};
use futures::StreamExt;
use futures::stream::FuturesUnordered;

use super::LedgerClient;
use crate::bookie_client::CallError;
use crate::recovery::is_sound;

/// How long a bookie may take over a small question, beyond what it was asked to wait.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// How much of a range a bookie is asked at a time what it holds of it: some thousand entries that it does not have.
const NEXT_BYTES: usize = 256 << 10;

/// Why an entry could not be looked up: too few bookies answered for the result to be certain. It may succeed later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too few bookies of ledger {0} answered a search")]
pub struct FindError(pub LedgerId);

impl FindError {
    /// Whether the same call may succeed later.
    pub const fn is_retryable(&self) -> bool {
        true
    }
}

/// What a bookie says of a ledger that it was asked to let go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Deletion {
    /// Nothing of it is there that could come back: the ledger is unknown there, or durably marked as deleted (C27).
    Gone,
    /// Not yet: its grace runs, or metadata does not prove to it that the ledger is dead.
    NotYet,
    /// It did not answer, so nothing is known.
    NoAnswer,
}

impl LedgerClient {
    /// The LAC of a ledger that somebody else writes, once it is past `after`, or what is known of it after `wait`. The record may
    /// be out of date by then: read it again when this brings nothing new for long. Cancel safe.
    pub async fn wait_for_lac(&self, metadata: &LedgerMetadata, after: Option<EntryId>, wait: Duration) -> Option<EntryId> {
        if let Some(last) = metadata.closed_at() {
            return last;
        }
        let world = &self.0.world;
        let mut asked: FuturesUnordered<_> = metadata
            .last_fragment()
            .ensemble
            .iter()
            .filter_map(|bookie| world.pool.get(bookie))
            .map(|client| {
                let clock = world.clock.clone();
                let ledger = metadata.ledger;
                async move { clock.timeout(wait + ANSWER_TIMEOUT, client.read_lac(ledger, after, wait)).await }
            })
            .collect();
        let mut best = None;
        while let Some(answer) = asked.next().await {
            if let Ok(Ok(lac)) = answer {
                best = best.max(lac);
                if best > after {
                    break;
                }
            }
        }
        best
    }

    /// The entry that holds an offset (the last one that begins there or before), or the first one of a time or later, up to
    /// `up_to` (L7); `None` if there is none. Answers only when enough bookies did for the result to be certain. Cancel safe.
    pub async fn find(&self, metadata: &LedgerMetadata, key: FindKey, up_to: EntryId) -> Result<Option<EntryId>, FindError> {
        let world = &self.0.world;
        let find = Find { ledger: metadata.ledger, key, up_to };
        let mut bookies: Vec<&BookieId> = metadata.fragments.iter().flat_map(|fragment| &fragment.ensemble).collect();
        bookies.sort();
        bookies.dedup();
        let mut asked: FuturesUnordered<_> = bookies
            .into_iter()
            .filter_map(|bookie| world.pool.get(bookie).map(|client| (bookie, client)))
            .map(|(bookie, client)| async move { (bookie, world.clock.timeout(ANSWER_TIMEOUT, client.find(find)).await) })
            .collect();
        let mut answered: Vec<&BookieId> = Vec::new();
        let mut found: Option<EntryId> = None;
        while !self.covers(metadata, &answered)
            && let Some((bookie, answer)) = asked.next().await
        {
            let entry = match answer {
                Ok(Ok(entry)) => entry,
                // Proof that nothing of the ledger is there.
                Ok(Err(CallError::Refused(ReadRefusal::NoSuchLedger))) => None,
                Ok(Err(_)) | Err(_) => continue,
            };
            answered.push(bookie);
            found = match (key, found, entry) {
                (FindKey::Offset(_), before, entry) => before.max(entry),
                (FindKey::Time(_), Some(before), Some(entry)) => Some(before.min(entry)),
                (FindKey::Time(_), before, entry) => before.or(entry),
            };
        }
        if self.covers(metadata, &answered) { Ok(found) } else { Err(FindError(metadata.ledger)) }
    }

    /// The first entry from `first` to `up_to` that a bookie gives; `None` if each of those that should hold them said of every one
    /// that it cannot. Answers only when that is certain. A bookie is asked after the other, for about
    /// [`LedgerClient::NEXT_BYTES`] or one entry each. Cancel safe.
    pub async fn next_stored(
        &self,
        metadata: &LedgerMetadata,
        first: EntryId,
        up_to: EntryId,
    ) -> Result<Option<EntryId>, FindError> {
        let mut from = first;
        while from <= up_to {
            let next_fragment = metadata.fragments.iter().map(|fragment| fragment.first).find(|first| *first > from);
            let last = next_fragment.and_then(EntryId::previous).unwrap_or(up_to).min(up_to);
            // The last entry of which all that were asked said something, and the first one that was given.
            let (mut reach, mut found, mut all) = (last, None::<EntryId>, true);
            for bookie in &metadata.fragment_of(from).ensemble {
                let range = (from, found.and_then(EntryId::previous).unwrap_or(last));
                match self.stored_by(metadata.ledger, bookie, range).await {
                    Some((_, Some(entry))) => found = Some(entry),
                    Some((said, None)) => reach = reach.min(said),
                    None => all = false,
                }
                if found == Some(from) {
                    return Ok(found);
                }
            }
            match found {
                _ if !all => return Err(FindError(metadata.ledger)),
                Some(entry) if entry <= reach.next() => return Ok(found),
                _ => from = reach.next(),
            }
        }
        Ok(None)
    }

    /// About how much of its memory [`LedgerClient::next_stored`] takes, or one entry.
    pub const NEXT_BYTES: usize = NEXT_BYTES;

    /// Of a run of entries: the last one that a bookie said something of, and the first one that it gave, if it gave any; `None` if
    /// it did not answer.
    async fn stored_by(
        &self,
        ledger: LedgerId,
        bookie: &BookieId,
        (first, last): (EntryId, EntryId),
    ) -> Option<(EntryId, Option<EntryId>)> {
        let world = &self.0.world;
        let client = world.pool.get(bookie)?;
        let read = ReadEntries { ledger, first, last, bytes_max: NEXT_BYTES, fence: None };
        let answer = match world.clock.timeout(ANSWER_TIMEOUT, client.read(read)).await.ok()? {
            Ok(answer) => answer,
            // Proof that nothing of the ledger is there.
            Err(CallError::Refused(ReadRefusal::NoSuchLedger)) => return Some((last, None)),
            Err(_) => return None,
        };
        let mut said = None;
        for (entry, answer) in (first.get()..=last.get()).map(EntryId::new).zip(&answer.entries) {
            match answer {
                EntryAnswer::Found(stored) if stored.entry == entry && is_sound(ledger, stored) => {
                    return Some((entry, Some(entry)));
                }
                EntryAnswer::Found(_) | EntryAnswer::Missing(..) => said = Some(entry),
            }
        }
        said.map(|said| (said, None))
    }

    /// Whether every entry is on one of these bookies: every write set has one that is known to be whole (C65), or so many that no
    /// ack quorum is without them.
    #[expect(clippy::unused_self, reason = "it belongs to the question above")]
    fn covers(&self, metadata: &LedgerMetadata, answered: &[&BookieId]) -> bool {
        let replication = metadata.replication;
        let covered = |fragment: &Fragment| {
            let has = |place: &usize| answered.contains(&&fragment.ensemble[*place]);
            replication.write_sets().all(|set| {
                set.iter().any(|place| has(place) && !fragment.short.contains(place) && metadata.closed_at().is_some())
                    || set.iter().filter(|place| has(place)).count() >= replication.coverage()
            })
        };
        metadata.fragments.iter().all(covered)
    }

    /// Asks the bookies of a ledger to let its bytes go: a courtesy, since they look at metadata themselves, and go by that alone
    /// (B9). Most say no for now: their grace begins when they first see the tombstone. Takes no longer than an answer may.
    pub async fn delete(&self, metadata: &LedgerMetadata) {
        let mut bookies: Vec<&BookieId> = metadata.fragments.iter().flat_map(|fragment| &fragment.ensemble).collect();
        bookies.sort();
        bookies.dedup();
        let asked: FuturesUnordered<_> = bookies.into_iter().map(|bookie| self.delete_from(metadata.ledger, bookie)).collect();
        let answers: Vec<_> = asked.collect().await;
        let gone = answers.iter().filter(|answer| **answer == Deletion::Gone).count();
        tracing::debug!(ledger = %metadata.ledger, gone, "bookies were asked to let a ledger go");
    }

    /// Asks one bookie to let a ledger go, and what it says of it. Cancel safe: it may go all the same.
    pub async fn delete_from(&self, ledger: LedgerId, bookie: &BookieId) -> Deletion {
        let world = &self.0.world;
        let Some(client) = world.pool.get(bookie) else { return Deletion::NoAnswer };
        match world.clock.timeout(ANSWER_TIMEOUT, client.delete(ledger)).await {
            Ok(Ok(true)) => Deletion::Gone,
            Ok(Ok(false)) => Deletion::NotYet,
            Ok(Err(_)) | Err(_) => Deletion::NoAnswer,
        }
    }
}
