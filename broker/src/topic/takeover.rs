//! Taking a partition over, in the order that makes it safe (C62): raise the epoch; fence and recover every listed ledger that is
//! not Closed, data and state (C22b, C40); compare-and-set the segments and the state pointer; only then append.
//!
//! What the log and the state ledger hold is read back: producers from the newest checkpoint and the headers behind it (D3), the
//! subscriptions from their records. What can't be read is not guessed (C42).

use alluvium_ledger::client::{LedgerClient, Predecessor};
use alluvium_ledger::reader::ReadRange;
use alluvium_metadata::segments::{Sealed, Segment};
use alluvium_metadata::state_pointer::StatePointer;
use alluvium_metadata::{Metadata, Versioned};
use alluvium_types::bookie::{FindKey, StoredEntry};
use alluvium_types::entry::{EntryHeader, EntryRange};
use alluvium_types::ids::{EntryId, LedgerId, Offset};
use alluvium_types::ledger::LedgerMetadata;
use alluvium_types::time::{Mono, Timestamp};
use bytes::Bytes;
use futures::future::{try_join, try_join_all};

use super::hosted::CorruptState;
use super::planted;
use super::state_ledger::Restored;
use crate::broker::Context;
use crate::error::OpenError;
use crate::mutation::Mutation;
use crate::ownership::Claim;
use crate::publish::dedup::Dedup;

/// How much is read at a time.
const READ_BYTES: usize = 4 << 20;

/// What a takeover found, and left behind.
#[derive(Debug)]
pub(crate) struct Found {
    /// All segments, sealed, in order.
    pub(crate) segments: Vec<Versioned<Segment>>,
    /// Proof that the last one is closed.
    pub(crate) predecessor: Predecessor,
    /// Where the log ends.
    pub(crate) end: Offset,
    /// The server time of its last message.
    pub(crate) server_time: Timestamp,
    /// The state pointer, if there is one.
    pub(crate) pointer: Option<Versioned<StatePointer>>,
    /// The producers, as of the log's end.
    pub(crate) dedup: Dedup,
    /// What of that is durable.
    pub(crate) covered: Offset,
    /// The subscriptions' records.
    pub(crate) subscriptions: Vec<Bytes>,
}

/// The steps after the claim.
pub(crate) async fn take_over(context: &Context, claim: &Claim, now: Mono) -> Result<Found, OpenError> {
    let Context { metadata, ledgers, mutations, .. } = context;
    let limits = context.config.dedup();
    let partition = claim.partition();
    let (segments_of, pointers) = (metadata.segments(), metadata.state_pointers());
    let (mut segments, pointer) = try_join(segments_of.all(partition), pointers.get(partition)).await?;

    // Fence and recover, data and state, before anything is decided: all at once, as none of them waits for another.
    let data = segments.iter().map(|segment| async move {
        Ok::<_, OpenError>(match segment.value.sealed {
            Some(sealed) => Err(sealed),
            None if mutations.has(Mutation::ListChangedBeforeRecovery) => {
                Ok(planted::closed_as_it_stands(ledgers, segment.value.ledger).await?)
            }
            None => Ok(recover(ledgers, segment.value.ledger).await?),
        })
    });
    let current = pointer.as_ref().and_then(|p| p.value.current);
    let state = async {
        Ok::<_, OpenError>(match current {
            Some(ledger) if mutations.has(Mutation::StateLedgerNotFenced) => Some(planted::as_it_stands(ledgers, ledger).await?),
            Some(ledger) => Some(recover(ledgers, ledger).await?),
            None => None,
        })
    };
    let recovered: (Vec<Result<Versioned<LedgerMetadata>, Sealed>>, _) = try_join(try_join_all(data), state).await?;
    let (recovered, state) = recovered;

    let mut end = Offset::ZERO;
    let mut server_time = Timestamp::default();
    for at in 0..segments.len() {
        let sealed = match &recovered[at] {
            Err(sealed) => *sealed,
            Ok(record) => {
                let first = segments[at].value.first.unwrap_or(end);
                let sealed = measure(ledgers, &record.value, first).await?;
                let next = segments.get(at + 1).filter(|next| next.value.first.is_none()).cloned();
                let (this, next) =
                    metadata.segments().seal(claim.authority(), &segments[at], first, sealed, next.as_ref()).await?;
                segments[at] = this;
                if let Some(next) = next {
                    segments[at + 1] = next;
                }
                sealed
            }
        };
        end = sealed.end;
        server_time = sealed.times.map_or(server_time, |(_, last)| server_time.max(last));
    }

    let pointer = match pointer {
        // What isn't current holds nothing that was ever promised (C64).
        Some(pointer) if pointer.value.next.is_some() => {
            Some(metadata.state_pointers().retire_next(claim.authority(), &pointer).await?)
        }
        pointer => pointer,
    };

    let Restored { mut dedup, covers, subscriptions } = match &state {
        Some(record) => {
            let bodies = read_all(ledgers, &record.value).await?;
            Restored::read(&bodies, limits, now).map_err(OpenError::Corrupt)?
        }
        None => Restored::nothing(limits),
    };
    dedup.plant(*mutations);
    if !dedup.is_empty() {
        replay(ledgers, metadata, &segments, covers, &mut dedup, now).await?;
    }
    let predecessor = match segments.last() {
        Some(last) => proof(ledgers, last).await?,
        None => Predecessor::NONE,
    };
    Ok(Found { segments, predecessor, end, server_time, pointer, dedup, covered: covers, subscriptions })
}

async fn recover(ledgers: &LedgerClient, ledger: LedgerId) -> Result<Versioned<LedgerMetadata>, OpenError> {
    ledgers.recover(ledger).await.map_err(|error| OpenError::Recover(ledger, error))
}

async fn proof(ledgers: &LedgerClient, last: &Versioned<Segment>) -> Result<Predecessor, OpenError> {
    let ledger = last.value.ledger;
    let corrupt = |problem: &str| OpenError::Corrupt(CorruptState(format!("ledger {ledger} {problem}")));
    let record = ledgers.ledgers().get(ledger).await?.ok_or_else(|| corrupt("is listed and has no record"))?;
    Predecessor::closed(&record).map_err(|_| corrupt("is sealed and not closed"))
}

/// What a recovered ledger holds, from its own entries: lengths are never taken from a listing (C40).
async fn measure(ledgers: &LedgerClient, record: &LedgerMetadata, first: Offset) -> Result<Sealed, OpenError> {
    let mut sealed = Sealed { end: first, messages: 0, bytes: 0, times: None };
    let Some(last) = record.closed_at().flatten() else { return Ok(sealed) };
    let begin = range_of(ledgers, record, EntryId::ZERO).await?;
    let end = range_of(ledgers, record, last).await?;
    if begin.first_offset != first {
        let text = format!("ledger {} begins at offset {} and not at {first}", record.ledger, begin.first_offset);
        return Err(OpenError::Corrupt(CorruptState(text)));
    }
    sealed.end = end.end_offset();
    sealed.messages = first.distance_to(sealed.end);
    sealed.times = Some((begin.server_time, end.server_time));
    sealed.bytes = stored_bytes(ledgers, record).await;
    Ok(sealed)
}

/// About how many bytes a ledger's bodies are, as one of its bookies counts them; 0 when none says.
async fn stored_bytes(ledgers: &LedgerClient, record: &LedgerMetadata) -> u64 {
    let mut total = 0;
    for (at, fragment) in record.fragments.iter().enumerate() {
        let next = record.fragments.get(at + 1).map(|next| next.first.get());
        let last = record.closed_at().flatten().map_or(0, |last| last.next().get());
        let entries = next.unwrap_or(last).saturating_sub(fragment.first.get());
        for bookie in &fragment.ensemble {
            let Some(client) = ledgers.pool().get(bookie) else { continue };
            let Ok(found) = client.list(record.ledger.previous(), 1).await else { continue };
            if let Some(summary) = found.first().filter(|s| s.ledger == record.ledger && s.entries > 0) {
                // A bookie of several fragments counts them together: its average stands for each.
                total += summary.bytes / summary.entries * entries;
                break;
            }
        }
    }
    total
}

async fn range_of(ledgers: &LedgerClient, record: &LedgerMetadata, entry: EntryId) -> Result<EntryRange, OpenError> {
    let stored = read(ledgers, record, ReadRange { first: entry, last: entry, bytes_max: 1, lac: None }).await?;
    stored.first().and_then(|stored| EntryRange::of(&stored.body)).ok_or_else(|| no_messages(record.ledger, entry))
}

fn no_messages(ledger: LedgerId, entry: EntryId) -> OpenError {
    OpenError::Corrupt(CorruptState(format!("entry {entry} of ledger {ledger} holds no messages")))
}

async fn read(ledgers: &LedgerClient, record: &LedgerMetadata, range: ReadRange) -> Result<Vec<StoredEntry>, OpenError> {
    ledgers.read(record, range).await.map_err(|failure| OpenError::Read(record.ledger, failure))
}

/// All bodies of a closed ledger.
async fn read_all(ledgers: &LedgerClient, record: &LedgerMetadata) -> Result<Vec<Bytes>, OpenError> {
    let mut bodies = Vec::new();
    let Some(last) = record.closed_at().flatten() else { return Ok(bodies) };
    let mut next = EntryId::ZERO;
    while next <= last {
        let stored = read(ledgers, record, ReadRange { first: next, last, bytes_max: READ_BYTES, lac: None }).await?;
        for entry in stored {
            next = entry.entry.next();
            bodies.push(entry.body);
        }
    }
    Ok(bodies)
}

/// Reads the headers from `covers` on (D3, D7).
async fn replay(
    ledgers: &LedgerClient,
    metadata: &Metadata,
    segments: &[Versioned<Segment>],
    covers: Offset,
    dedup: &mut Dedup,
    now: Mono,
) -> Result<(), OpenError> {
    for segment in segments {
        let (Some(first), Some(sealed)) = (segment.value.first, segment.value.sealed) else { continue };
        if sealed.end <= covers || sealed.messages == 0 {
            continue;
        }
        let ledger = segment.value.ledger;
        let record = metadata.ledgers().get(ledger).await?;
        let record = record.ok_or_else(|| OpenError::Corrupt(CorruptState(format!("ledger {ledger} has no record"))))?.value;
        let Some(last) = record.closed_at().flatten() else { continue };
        let mut next = EntryId::ZERO;
        if covers > first {
            let found = ledgers.find(&record, FindKey::Offset(covers), last).await.map_err(OpenError::Find)?;
            next = found.unwrap_or(EntryId::ZERO);
        }
        while next <= last {
            let range = ReadRange { first: next, last, bytes_max: READ_BYTES, lac: None };
            for StoredEntry { entry, body, .. } in read(ledgers, &record, range).await? {
                let (header, _) = EntryHeader::decode(&body).map_err(|_| no_messages(ledger, entry))?;
                dedup.replay(&header, now);
                next = entry.next();
            }
        }
    }
    Ok(())
}
