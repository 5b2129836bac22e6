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
use alluvium_runtime::budget::BytesHeld;
use alluvium_types::bookie::{FindKey, StoredEntry};
use alluvium_types::entry::{EntryHeader, EntryRange};
use alluvium_types::ids::{EntryId, LedgerId, Offset};
use alluvium_types::ledger::LedgerMetadata;
use alluvium_types::time::{Mono, Timestamp};
use bytes::Bytes;
use futures::future::{join, join4, try_join, try_join_all};

use super::hosted::{CorruptState, SubscriptionSpec};
use super::planted;
use super::state_ledger::{Restored, newest_snapshot};
use crate::broker::{Context, specs_of};
use crate::error::OpenError;
use crate::mutation::Mutation;
use crate::ownership::Claim;
use crate::publish::dedup::Dedup;

/// How much is read at a time.
const READ_BYTES: usize = 1 << 20;
/// What the state of most partitions fits in, and by how much more room is made for a larger one.
const STATE_ROOM: (usize, usize) = (16 << 10, 8);
/// How many entries of a state ledger are read at first beside as many as follow a snapshot: unless it is large, one is among them.
const STATE_ENTRIES: u64 = 16;

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
    /// The record of the current state ledger, closed: nothing is appended to it any more.
    pub(crate) superseded: Option<Versioned<LedgerMetadata>>,
    /// The producers, as of the log's end.
    pub(crate) dedup: Dedup,
    /// What of that is durable.
    pub(crate) covered: Offset,
    /// The subscriptions' records.
    pub(crate) subscriptions: Vec<Bytes>,
    /// The subscriptions that there are. Read after the fence: what was acknowledged to one that is missing here is void, and
    /// a former owner may learn of a new one until then (S1).
    pub(crate) specs: Vec<SubscriptionSpec>,
}

/// The log as a takeover found it: everything sealed.
struct Log {
    segments: Vec<Versioned<Segment>>,
    /// The records of the ledgers that were recovered now, by segment.
    closed: Vec<Option<Versioned<LedgerMetadata>>>,
    predecessor: Predecessor,
    end: Offset,
    server_time: Timestamp,
}

/// The steps after the claim.
pub(crate) async fn take_over(context: &Context, claim: &Claim, now: Mono) -> Result<Found, OpenError> {
    let Context { metadata, ledgers, mutations, .. } = context;
    let partition = claim.partition();
    let (segments_of, pointers) = (metadata.segments(), metadata.state_pointers());
    let (segments, pointer) = try_join(segments_of.all(partition), pointers.get(partition)).await?;

    // Fence and recover, data and state, before anything is decided: all at once, as none of them waits for another.
    let data = segments.iter().map(|segment| async move {
        let ledger = segment.value.ledger;
        Ok::<_, OpenError>(match segment.value.sealed {
            Some(_) => None,
            None if mutations.has(Mutation::ListChangedBeforeRecovery) => {
                Some(planted::closed_as_it_stands(ledgers, ledger).await?)
            }
            None => Some(recover(ledgers, ledger).await?),
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
    let (closed, state) = try_join(try_join_all(data), state).await?;

    // Nobody else appends from here on. What was found is written down while it is read; each goes on to its end, so that no
    // decision is left open because another one failed.
    let (log, pointer, restored, specs) = join4(
        seal(context, claim, segments, closed),
        settle(metadata, claim, pointer),
        restore(context, state.as_ref(), now),
        specs_of(context, partition),
    )
    .await;
    let (log, pointer, restored, specs) = (log?, pointer?, restored?, specs?);
    let Restored { mut dedup, covers, subscriptions } = restored;
    if !dedup.is_empty() {
        replay(context, &log, covers, &mut dedup, now).await?;
    }
    let Log { segments, predecessor, end, server_time, .. } = log;
    // What was not fenced is not closed, whatever the planted bug says.
    let superseded = state.filter(|_| !mutations.has(Mutation::StateLedgerNotFenced));
    Ok(Found { segments, predecessor, end, server_time, pointer, superseded, dedup, covered: covers, subscriptions, specs })
}

/// Seals what was recovered, in order.
async fn seal(
    context: &Context,
    claim: &Claim,
    mut segments: Vec<Versioned<Segment>>,
    closed: Vec<Option<Versioned<LedgerMetadata>>>,
) -> Result<Log, OpenError> {
    let Context { metadata, ledgers, .. } = context;
    let mut end = Offset::ZERO;
    let mut server_time = Timestamp::default();
    for at in 0..segments.len() {
        let segment = segments[at].value;
        let sealed = match (segment.sealed, &closed[at]) {
            (Some(sealed), _) => sealed,
            (None, None) => return Err(OpenError::Corrupt(CorruptState(format!("{} is not closed", segment.ledger)))),
            (None, Some(record)) => {
                let first = segment.first.unwrap_or(end);
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
    let predecessor = match (segments.last(), closed.last()) {
        (None, _) => Predecessor::NONE,
        (Some(last), Some(Some(record))) => proof(last, record)?,
        (Some(last), _) => proof(last, &record_of(context, last).await?)?,
    };
    Ok(Log { segments, closed, predecessor, end, server_time })
}

/// What isn't current holds nothing that was ever promised (C64).
async fn settle(
    metadata: &Metadata,
    claim: &Claim,
    pointer: Option<Versioned<StatePointer>>,
) -> Result<Option<Versioned<StatePointer>>, OpenError> {
    Ok(match pointer {
        Some(pointer) if pointer.value.next.is_some() => {
            Some(metadata.state_pointers().retire_next(claim.authority(), &pointer).await?)
        }
        pointer => pointer,
    })
}

/// What the state ledger holds, as far as its records go.
async fn restore(context: &Context, state: Option<&Versioned<LedgerMetadata>>, now: Mono) -> Result<Restored, OpenError> {
    let limits = context.config.dedup();
    let mut restored = match state {
        Some(record) => {
            let (bodies, _held) = read_state(context, &record.value).await?;
            Restored::read(&bodies, limits, now, context.mutations).map_err(OpenError::Corrupt)?
        }
        None => Restored::nothing(limits),
    };
    restored.dedup.plant(context.mutations);
    Ok(restored)
}

async fn recover(ledgers: &LedgerClient, ledger: LedgerId) -> Result<Versioned<LedgerMetadata>, OpenError> {
    ledgers.recover(ledger).await.map_err(|error| OpenError::Recover(ledger, error))
}

/// The record of a listed segment's ledger.
async fn record_of(context: &Context, segment: &Versioned<Segment>) -> Result<Versioned<LedgerMetadata>, OpenError> {
    let ledger = segment.value.ledger;
    let missing = || OpenError::Corrupt(CorruptState(format!("ledger {ledger} is listed and has no record")));
    context.metadata.ledgers().get(ledger).await?.ok_or_else(missing)
}

fn proof(last: &Versioned<Segment>, record: &Versioned<LedgerMetadata>) -> Result<Predecessor, OpenError> {
    let not_closed = |_| OpenError::Corrupt(CorruptState(format!("ledger {} is sealed and not closed", last.value.ledger)));
    Predecessor::closed(record).map_err(not_closed)
}

/// What a recovered ledger holds, from its own entries: lengths are never taken from a listing (C40).
async fn measure(ledgers: &LedgerClient, record: &LedgerMetadata, first: Offset) -> Result<Sealed, OpenError> {
    let mut sealed = Sealed { end: first, messages: 0, bytes: 0, times: None };
    let Some(last) = record.closed_at().flatten() else { return Ok(sealed) };
    let ends = try_join(range_of(ledgers, record, EntryId::ZERO), range_of(ledgers, record, last));
    let (ends, bytes) = join(ends, stored_bytes(ledgers, record)).await;
    let (begin, end) = ends?;
    if begin.first_offset != first {
        let text = format!("ledger {} begins at offset {} and not at {first}", record.ledger, begin.first_offset);
        return Err(OpenError::Corrupt(CorruptState(text)));
    }
    sealed.end = end.end_offset();
    sealed.messages = first.distance_to(sealed.end);
    sealed.times = Some((begin.server_time, end.server_time));
    sealed.bytes = bytes;
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

/// The bodies of a closed state ledger from its newest snapshot on, and what they hold of the budget (Q6). How many bytes they are is
/// not known before they are read: past what it holds, it lets go of all and begins anew with more, so that nobody who has a part
/// waits for the rest.
async fn read_state(context: &Context, record: &LedgerMetadata) -> Result<(Vec<Bytes>, BytesHeld), OpenError> {
    let budget = &context.takeover_budget;
    let (mut room, more) = STATE_ROOM;
    loop {
        let held = budget.take(room).await;
        let bound = if room < budget.total() { room } else { usize::MAX };
        if let Some(bodies) = read_state_within(context, record, bound).await? {
            return Ok((bodies, held));
        }
        room *= more;
    }
}

/// The same, unless they are more than so many bytes: read from its end, ever more at a time until a snapshot is found.
async fn read_state_within(context: &Context, record: &LedgerMetadata, bytes: usize) -> Result<Option<Vec<Bytes>>, OpenError> {
    let Context { ledgers, mutations, .. } = context;
    let (mut bodies, mut left) = (Vec::new(), bytes);
    let mut end = record.closed_at().flatten().map_or(EntryId::ZERO, EntryId::next);
    let mut entries = context.config.snapshot_entries + STATE_ENTRIES;
    while let Some(last) = end.previous() {
        let first = EntryId::new(end.get().saturating_sub(entries));
        let mut more = Vec::new();
        let mut next = first;
        while next <= last {
            let range = ReadRange { first: next, last, bytes_max: left.clamp(1, READ_BYTES), lac: None };
            for entry in read(ledgers, record, range).await? {
                next = entry.entry.next();
                let Some(rest) = left.checked_sub(entry.body.len()) else { return Ok(None) };
                left = rest;
                more.push(entry.body);
            }
        }
        more.append(&mut bodies);
        bodies = more;
        if let Some(at) = newest_snapshot(&bodies, *mutations).map_err(OpenError::Corrupt)? {
            bodies.drain(..at);
            break;
        }
        end = first;
        entries *= 2;
    }
    Ok(Some(bodies))
}

/// Reads the headers from `covers` on (D3, D7).
async fn replay(context: &Context, log: &Log, covers: Offset, dedup: &mut Dedup, now: Mono) -> Result<(), OpenError> {
    let ledgers = &context.ledgers;
    for (segment, closed) in log.segments.iter().zip(&log.closed) {
        let (Some(first), Some(sealed)) = (segment.value.first, segment.value.sealed) else { continue };
        if sealed.end <= covers || sealed.messages == 0 {
            continue;
        }
        let ledger = segment.value.ledger;
        let record = match closed {
            Some(record) => record.value.clone(),
            None => record_of(context, segment).await?.value,
        };
        let Some(last) = record.closed_at().flatten() else { continue };
        let mut next = EntryId::ZERO;
        if covers > first {
            let found = ledgers.find(&record, FindKey::Offset(covers), last).await.map_err(OpenError::Find)?;
            next = found.unwrap_or(EntryId::ZERO);
        }
        while next <= last {
            let range = ReadRange { first: next, last, bytes_max: READ_BYTES, lac: None };
            let _held = context.takeover_budget.take(READ_BYTES).await;
            for StoredEntry { entry, body, .. } in read(ledgers, &record, range).await? {
                let (header, _) = EntryHeader::decode(&body).map_err(|_| no_messages(ledger, entry))?;
                dedup.replay(&header, now);
                next = entry.next();
            }
        }
    }
    Ok(())
}
