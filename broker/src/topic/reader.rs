//! Reading a partition's confirmed entries: tail cache first, then the ledgers. Independent of the owner task.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use alluvium_ledger::LedgerClient;
use alluvium_ledger::client::LedgerWriter;
use alluvium_ledger::reader::{ReadFailure, ReadRange};
use alluvium_metadata::segments::SegmentNumber;
use alluvium_runtime::budget::{ByteBudget, BytesHeld};
use alluvium_types::bookie::{FindKey, StoredEntry};
use alluvium_types::entry::{EntryHeader, EntryRange};
use alluvium_types::fault::{Fault, FaultKind};
use alluvium_types::ids::{EntryId, LedgerId, Offset};
use alluvium_types::ledger::{LedgerMetadata, LedgerState};
use alluvium_types::names::PartitionName;
use alluvium_types::time::Timestamp;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::bounds::Bounds;
use super::cache::TailCache;
use super::complaints::Complaints;
use super::entry::LoadedEntry;
use super::recent::{Asked, Recent};

/// The most known places of a segment; past it every other one is forgotten.
const PLACES_MAX: usize = 1024;
/// How often a read starts over because the segments changed under it.
const ATTEMPTS_MAX: usize = 8;
/// How long after a failed read the next one begins, and how long at most when many failed.
const READ_RETRY: Duration = Duration::from_millis(200);
const READ_RETRY_MAX: Duration = Duration::from_secs(5);

/// Why entries could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadFault {
    /// These messages can't be read, whatever is tried: reported, never silently skipped (T6). Reading goes on at `end`.
    #[error("offsets {first} to {end} (excluded) cannot be read: {reason}")]
    Lost {
        /// The first one lost.
        first: Offset,
        /// The first one behind them.
        end: Offset,
        /// Why.
        reason: String,
    },
    /// Not now; the same read may succeed soon.
    #[error("the storage does not answer: {0}")]
    Unavailable(String),
    /// The partition is not this broker's any more.
    #[error("the partition is changing its owner")]
    Moved,
}

impl ReadFault {
    /// Whether the same read may succeed later.
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Unavailable(_) | Self::Moved => true,
            Self::Lost { .. } => false,
        }
    }

    /// As a caller is told.
    pub fn to_fault(&self, partition: &PartitionName) -> Fault {
        match self {
            Self::Lost { .. } => unreadable(format!("partition {partition}: {self}")),
            Self::Unavailable(_) => {
                Fault::new(FaultKind::Unavailable, "STORAGE_UNAVAILABLE", format!("partition {partition}: {self}"))
            }
            Self::Moved => super::handle::moved(partition),
        }
    }
}

/// What whoever consumes is told of messages that can't be read (T6).
pub(crate) fn unreadable(message: impl Into<String>) -> Fault {
    Fault::new(FaultKind::DataLoss, "MESSAGES_UNREADABLE", message)
}

/// How long after so many failed reads in a row the next one begins.
pub(crate) fn read_retry(failures: u32) -> Duration {
    (READ_RETRY * 2_u32.saturating_pow(failures.saturating_sub(1).min(8))).min(READ_RETRY_MAX)
}

/// Where a segment's record is.
#[derive(Clone, Debug)]
enum Source {
    /// It is written here.
    Open(LedgerWriter),
    /// It is closed; its record is read when it is first needed.
    Closed(Arc<Mutex<Option<Arc<LedgerMetadata>>>>),
}

/// A segment, as readers see it.
#[derive(Clone, Debug)]
pub(crate) struct ReadableSegment {
    number: SegmentNumber,
    ledger: LedgerId,
    first: Offset,
    /// `None` while it is written.
    end: Option<Offset>,
    last_time: Option<Timestamp>,
    source: Source,
    /// Entries whose first offset is known.
    places: Arc<Mutex<BTreeMap<Offset, EntryId>>>,
}

impl ReadableSegment {
    /// The one that is written.
    pub(crate) fn open(number: SegmentNumber, first: Offset, writer: LedgerWriter) -> Self {
        let (ledger, source) = (writer.ledger(), Source::Open(writer));
        Self { number, ledger, first, end: None, last_time: None, source, places: Arc::default() }
    }

    /// A sealed one.
    pub(crate) fn sealed(
        number: SegmentNumber,
        ledger: LedgerId,
        first: Offset,
        end: Offset,
        last_time: Option<Timestamp>,
    ) -> Self {
        let source = Source::Closed(Arc::default());
        Self { number, ledger, first, end: Some(end), last_time, source, places: Arc::default() }
    }

    fn learn(&self, offset: Offset, entry: EntryId) {
        let mut places = self.places.lock();
        places.insert(offset, entry);
        if places.len() > PLACES_MAX {
            let mut odd = false;
            places.retain(|_, _| {
                odd = !odd;
                odd
            });
        }
    }
}

/// What the owner shares with readers.
#[derive(Debug)]
pub(crate) struct Readable {
    pub(crate) ledgers: LedgerClient,
    pub(crate) budget: ByteBudget,
    /// The largest entry that there may be.
    entry_bytes_max: usize,
    pub(crate) cache: TailCache,
    /// What other readers have read of history.
    recent: Recent,
    segments: Mutex<Arc<Vec<ReadableSegment>>>,
    bounds: watch::Receiver<Bounds>,
    complaints: Complaints,
}

/// Reads one partition. Cheap to clone.
#[derive(Clone)]
pub struct PartitionReader(Arc<Readable>);

impl fmt::Debug for PartitionReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PartitionReader({:?})", *self.0.bounds.borrow())
    }
}

impl Readable {
    pub(crate) fn new(
        ledgers: LedgerClient,
        (budget, entry_bytes_max): (ByteBudget, usize),
        (cache, recent): (TailCache, Recent),
        segments: Vec<ReadableSegment>,
        bounds: watch::Receiver<Bounds>,
        complaints: Complaints,
    ) -> Self {
        Self { ledgers, budget, entry_bytes_max, cache, recent, segments: Mutex::new(Arc::new(segments)), bounds, complaints }
    }

    /// A segment is begun, or sealed.
    pub(crate) fn put_segment(&self, segment: ReadableSegment) {
        let mut segments = self.segments.lock();
        let mut new: Vec<ReadableSegment> = segments.iter().filter(|s| s.number != segment.number).cloned().collect();
        let places = segments.iter().find(|s| s.number == segment.number).map(|s| Arc::clone(&s.places));
        new.push(ReadableSegment { places: places.unwrap_or_default(), ..segment });
        new.sort_by_key(|segment| segment.number);
        *segments = Arc::new(new);
    }

    /// Segments are gone.
    pub(crate) fn remove_segments(&self, gone: &[SegmentNumber]) {
        let mut segments = self.segments.lock();
        *segments = Arc::new(segments.iter().filter(|segment| !gone.contains(&segment.number)).cloned().collect());
    }

    /// The segment that holds `from`, or else the next one behind it.
    fn segment_of(&self, from: Offset) -> Option<ReadableSegment> {
        let segments = Arc::clone(&self.segments.lock());
        segments.iter().find(|segment| segment.end.is_none_or(|end| end > from)).cloned()
    }
}

/// Why an attempt to read failed.
enum Hitch {
    /// The segments have changed: look again.
    Gone,
    Fault(ReadFault),
}

impl From<ReadFault> for Hitch {
    fn from(fault: ReadFault) -> Self {
        Self::Fault(fault)
    }
}

/// A segment's ledger, as far as it is read now.
#[derive(Clone, Copy)]
struct Readout<'a> {
    segment: &'a ReadableSegment,
    metadata: &'a LedgerMetadata,
    lac: Option<EntryId>,
    up_to: EntryId,
}

/// What was read.
enum Found {
    Entries(Vec<LoadedEntry>),
    /// All up to this entry lies before what is looked for.
    Before(EntryId),
}

/// Why entries were not read.
enum Stop {
    /// None of those that should hold this entry gives it, and none will by itself.
    Lost(EntryId, String),
    Hitch(Hitch),
}

impl Stop {
    fn of(failure: ReadFailure, first: EntryId) -> Self {
        match failure {
            ReadFailure::Deleted(_) => Self::Hitch(Hitch::Gone),
            ReadFailure::Unreadable { entry, .. } if !failure.is_retryable() => Self::Lost(entry.max(first), failure.to_string()),
            failure => Self::Hitch(unavailable(failure)),
        }
    }
}

impl From<Stop> for Hitch {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Hitch(hitch) => hitch,
            Stop::Lost(_, reason) => unavailable(reason),
        }
    }
}

fn unavailable(error: impl fmt::Display) -> Hitch {
    Hitch::Fault(ReadFault::Unavailable(error.to_string()))
}

impl PartitionReader {
    pub(crate) const fn new(readable: Arc<Readable>) -> Self {
        Self(readable)
    }

    /// Entries in offset order, the first of them the one that holds `from` (or, where retention trimmed it, the next one
    /// kept). At most about `bytes_max` bytes of bodies, but at least one entry; empty only when `from` is at or beyond
    /// what is confirmed: follow [`super::PartitionHandle::watch`] then. Waits for room in the process's budget for reads.
    /// What fails is counted, and said in the log now and then. Cancel safe.
    pub async fn read(&self, from: Offset, bytes_max: usize) -> Result<Vec<LoadedEntry>, ReadFault> {
        let read = self.try_read(from, bytes_max).await;
        if let Err(ReadFault::Unavailable(reason)) = &read {
            self.0.complaints.unanswered(from, reason);
        }
        read
    }

    async fn try_read(&self, from: Offset, bytes_max: usize) -> Result<Vec<LoadedEntry>, ReadFault> {
        let mut has_waited = false;
        for _ in 0..=ATTEMPTS_MAX {
            let bounds = *self.0.bounds.borrow();
            let from = from.max(bounds.first);
            if from >= bounds.end {
                return Ok(Vec::new());
            }
            let cached = self.0.cache.read(from, bytes_max);
            if !cached.is_empty() {
                return Ok(cached);
            }
            let Some(segment) = self.0.segment_of(from) else { return Err(ReadFault::Moved) };
            let from = from.max(segment.first);
            let turn = match self.0.recent.ask(segment.ledger, from, bytes_max) {
                Asked::Here(entries) => return Ok(entries),
                // Once: if that read has found nothing, this one finds out why.
                Asked::Wait(waiting) if !has_waited => {
                    has_waited = true;
                    waiting.over().await;
                    continue;
                }
                Asked::Wait(_) => None,
                Asked::Read(turn) => Some(turn),
            };
            match self.read_segment(&segment, from, bounds.end, bytes_max).await {
                Ok(entries) => {
                    if let Some(turn) = turn {
                        turn.found(&entries);
                    }
                    return Ok(entries);
                }
                Err(Hitch::Gone) => {}
                Err(Hitch::Fault(fault)) => return Err(fault),
            }
        }
        Err(ReadFault::Unavailable("the segments keep changing".to_owned()))
    }

    /// The offset of the first message whose server time is `time` or later; the end when there is none. Cancel safe.
    pub async fn offset_at(&self, time: Timestamp) -> Result<Offset, ReadFault> {
        for _ in 0..ATTEMPTS_MAX {
            match self.look_for(time).await {
                Ok(offset) => return Ok(offset),
                Err(Hitch::Gone) => {}
                Err(Hitch::Fault(fault)) => return Err(fault),
            }
        }
        Err(ReadFault::Unavailable("the segments keep changing".to_owned()))
    }

    async fn look_for(&self, time: Timestamp) -> Result<Offset, Hitch> {
        let bounds = *self.0.bounds.borrow();
        let segments = Arc::clone(&self.0.segments.lock());
        for segment in segments.iter().filter(|segment| segment.end.is_none() || segment.last_time >= Some(time)) {
            let (metadata, lac) = self.record_of(segment).await?;
            let Some(up_to) = metadata.closed_at().unwrap_or(lac) else { continue };
            let found = self.0.ledgers.find(&metadata, FindKey::Time(time), up_to).await.map_err(unavailable)?;
            if let Some(entry) = found {
                let (first, _) = self.range_of(&Readout { segment, metadata: &metadata, lac, up_to }, entry).await?;
                return Ok(bounds.clamp(first));
            }
        }
        Ok(bounds.end)
    }

    /// The record of a segment's ledger, and the LAC of one that is written.
    async fn record_of(&self, segment: &ReadableSegment) -> Result<(Arc<LedgerMetadata>, Option<EntryId>), Hitch> {
        let known = match &segment.source {
            // The LAC first: what it names is in the record then.
            Source::Open(writer) => {
                let lac = writer.lac();
                return Ok((Arc::new(writer.record().value), lac));
            }
            Source::Closed(known) => known,
        };
        if let Some(metadata) = &*known.lock() {
            return Ok((Arc::clone(metadata), None));
        }
        let found = self.0.ledgers.ledgers().get(segment.ledger).await.map_err(unavailable)?;
        let metadata = match found {
            Some(found) if found.value.state != LedgerState::Deleting => Arc::new(found.value),
            // Trimmed a moment ago: the segments will say so.
            _ => {
                tokio::task::yield_now().await;
                return Err(Hitch::Gone);
            }
        };
        *known.lock() = Some(Arc::clone(&metadata));
        Ok((metadata, None))
    }

    async fn read_segment(
        &self,
        segment: &ReadableSegment,
        from: Offset,
        end: Offset,
        bytes_max: usize,
    ) -> Result<Vec<LoadedEntry>, Hitch> {
        let (metadata, lac) = self.record_of(segment).await?;
        let Some(up_to) = metadata.closed_at().unwrap_or(lac) else { return Err(Hitch::Gone) };
        let ledger = Readout { segment, metadata: &metadata, lac, up_to };
        let place = segment.places.lock().get(&from).copied();
        let mut first = match place {
            Some(entry) => entry,
            None if from == segment.first => EntryId::ZERO,
            None => {
                let found = self.0.ledgers.find(&metadata, FindKey::Offset(from), up_to).await.map_err(unavailable)?;
                // None begins so early: the first ones are lost, or the bookies know better when they are asked for them.
                found.unwrap_or(EntryId::ZERO)
            }
        };
        // What a search finds may lie before a loss that holds the offset: from there, entry by entry, to where it is.
        while first <= up_to {
            first = match self.read_from(&ledger, first, from, end, bytes_max).await {
                Ok(Found::Entries(entries)) => return Ok(entries),
                Ok(Found::Before(last)) => last.next(),
                Err(Stop::Lost(entry, reason)) => {
                    self.is_current(&ledger).await?;
                    self.behind(&ledger, entry, from, end, reason).await?
                }
                Err(Stop::Hitch(hitch)) => return Err(hitch),
            };
        }
        Err(unavailable("what was read lies before what was asked for"))
    }

    /// Entries from `first` on, those that hold `from` and what follows it.
    async fn read_from(
        &self,
        ledger: &Readout<'_>,
        first: EntryId,
        from: Offset,
        end: Offset,
        bytes_max: usize,
    ) -> Result<Found, Stop> {
        let mut held = self.room(bytes_max).await;
        let range = ReadRange { first, last: ledger.up_to, bytes_max: bytes_max.max(1), lac: ledger.lac };
        let stored = self.0.ledgers.read(ledger.metadata, range).await.map_err(|failure| Stop::of(failure, first))?;
        let segment = ledger.segment;
        let mut decoded = Vec::with_capacity(stored.len());
        for StoredEntry { entry, body, .. } in stored {
            match EntryHeader::decode(&body) {
                Ok((header, _)) => decoded.push((entry, header, body)),
                Err(_) if !decoded.is_empty() => break,
                Err(error) => return Err(Stop::Lost(entry, format!("ledger {} entry {entry}: {error}", segment.ledger))),
            }
        }
        held.shrink_to(decoded.iter().map(|(_, header, body)| LoadedEntry::cost_of(body.len(), header.batches.len())).sum());
        let held = Arc::new(held);
        let mut entries = Vec::with_capacity(decoded.len());
        let mut last = first;
        for (entry, header, body) in decoded {
            let loaded = LoadedEntry::of_parts((segment.ledger, entry), header, &body, Some(Arc::clone(&held)));
            if loaded.first_offset() >= end {
                break;
            }
            last = entry;
            segment.learn(loaded.end_offset(), entry.next());
            if loaded.end_offset() > from {
                entries.push(loaded);
            }
        }
        Ok(if entries.is_empty() { Found::Before(last) } else { Found::Entries(entries) })
    }

    /// Room for about `bytes_max` bytes, or for one entry however large: taken before it is read. Were it taken afterwards, all who
    /// read could hold memory that nobody counts, or wait for each other.
    async fn room(&self, bytes_max: usize) -> BytesHeld {
        self.0.budget.take(bytes_max.max(self.0.entry_bytes_max)).await
    }

    /// Before something is taken as lost: whether the record says where the entries are. It may be an old one, from before a trim
    /// or a repair.
    async fn is_current(&self, ledger: &Readout<'_>) -> Result<(), Hitch> {
        let Source::Closed(known) = &ledger.segment.source else { return Ok(()) };
        let found = self.0.ledgers.ledgers().get(ledger.segment.ledger).await.map_err(unavailable)?;
        if found.is_some_and(|found| found.value == *ledger.metadata) {
            return Ok(());
        }
        *known.lock() = None;
        Err(Hitch::Gone)
    }

    /// Finds out how far the loss reaches that begins with the entry `lost`, and reports it (T6); or else gives the entry to go on
    /// with: what is lost lies before `from`.
    async fn behind(
        &self,
        ledger: &Readout<'_>,
        lost: EntryId,
        from: Offset,
        end: Offset,
        reason: String,
    ) -> Result<EntryId, Hitch> {
        let Readout { segment, metadata, up_to, .. } = *ledger;
        let mut at = lost;
        let (next, end) = loop {
            let held = self.room(LedgerClient::NEXT_BYTES).await;
            let found = self.0.ledgers.next_stored(metadata, at.next(), up_to).await.map_err(unavailable)?;
            drop(held);
            let Some(entry) = found else { break (up_to.next(), segment.end.unwrap_or(end)) };
            match self.range_of(ledger, entry).await {
                Ok((offset, _)) if offset <= from => return Ok(entry),
                Ok((offset, _)) => break (entry, offset),
                Err(Stop::Lost(..)) => at = entry,
                Err(Stop::Hitch(hitch)) => return Err(hitch),
            }
        };
        self.0.complaints.lost((from, end), lost.distance_to(next), &reason);
        Err(Hitch::Fault(ReadFault::Lost { first: from, end, reason }))
    }

    /// The offsets of one entry.
    async fn range_of(&self, ledger: &Readout<'_>, entry: EntryId) -> Result<(Offset, Offset), Stop> {
        let Readout { segment, metadata, lac, .. } = *ledger;
        let range = ReadRange { first: entry, last: entry, bytes_max: 1, lac };
        let _held = self.room(1).await;
        let stored = self.0.ledgers.read(metadata, range).await.map_err(|failure| Stop::of(failure, entry))?;
        let range = stored.first().and_then(|stored| EntryRange::of(&stored.body));
        let Some(range) = range else {
            return Err(Stop::Lost(entry, format!("ledger {} entry {entry} holds no messages", segment.ledger)));
        };
        segment.learn(range.first_offset, entry);
        Ok((range.first_offset, range.end_offset()))
    }
}
