//! A partition's segments: records of their own under the partition, changed only by its owner (M1).

use alluvium_proto::internal::v1 as wire;
use alluvium_types::ids::{LedgerId, Offset};
use alluvium_types::ledger::{LedgerMetadata, LedgerState};
use alluvium_types::time::Timestamp;

use crate::client::{Decided, Metadata, Witness};
use crate::error::{ReadError, UpdateError};
use crate::keys::{self, Key};
use crate::ledgers::{LEDGER, check_new};
use crate::ownership::{Authority, PartitionId};
use crate::record::{self, Listing, Record, Versioned};
use crate::store::{Condition, TXN_OPS_MAX, Txn};

/// How an error names a segment.
const SEGMENT: &str = "the segment";
/// How many segments go in one transaction: two compares each, and the owner's.
const TRIM_MAX: usize = (TXN_OPS_MAX - 2) / 2;

alluvium_types::number!(
    /// The place of a segment in its partition: dense, from 1.
    SegmentNumber,
    "s"
);

impl SegmentNumber {
    /// A partition's first one.
    pub const FIRST: Self = Self(1);
}

/// What is known once a segment is sealed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sealed {
    /// The offset behind the last message: where the next segment begins.
    pub end: Offset,
    /// How many messages it holds.
    pub messages: u64,
    /// How many bytes they are.
    pub bytes: u64,
    /// Server times of the first and the last message; `None` when it is empty.
    pub times: Option<(Timestamp, Timestamp)>,
}

/// A log's view of one ledger.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    /// Its place.
    pub number: SegmentNumber,
    /// The ledger.
    pub ledger: LedgerId,
    /// When it was listed.
    pub created: Timestamp,
    /// Its first offset; `None` while it is listed ahead of the end of the one before (C66).
    pub first: Option<Offset>,
    /// What is known once it is sealed; `None` while it is open.
    pub sealed: Option<Sealed>,
}

/// The repository of segments.
#[derive(Clone, Debug)]
pub struct Segments(Metadata);

impl Metadata {
    /// Segments.
    pub fn segments(&self) -> Segments {
        Segments(self.clone())
    }
}

impl Segments {
    /// All segments of a partition, in order. Linearizable when it was asked; a new owner reads it after its claim (M1).
    pub async fn all(&self, partition: PartitionId) -> Result<Vec<Versioned<Segment>>, ReadError> {
        let found = self.0.all(Key::Segments(partition.topic, partition.index)).await?;
        found.value.iter().map(|found| Ok(named(found)?.1)).collect()
    }

    /// Segments of all partitions, behind `after`: how retention reaches what nobody has loaded.
    pub async fn page(
        &self,
        after: Option<(PartitionId, SegmentNumber)>,
        limit: usize,
    ) -> Result<Listing<(PartitionId, Versioned<Segment>), (PartitionId, SegmentNumber)>, ReadError> {
        let after = after.map(|(p, number)| Key::Segment(p.topic, p.index, number).encode());
        let page = self.0.page(Key::AllSegments, after, limit).await?.value;
        let records = page.records.iter().map(named).collect::<Result<Vec<_>, _>>()?;
        let next = page.more.then(|| records.last().map(|(p, segment)| (*p, segment.value.number))).flatten();
        Ok(Listing { records, next })
    }

    /// Creates a ledger's record and the segment that names it, in one transaction that compares the owner's record
    /// (M1, C39): a ledger that nobody lists, or a segment without a ledger, never exists. `first` is `None` for a segment
    /// that is listed ahead (C66).
    pub async fn append(
        &self,
        authority: Authority<'_>,
        number: SegmentNumber,
        first: Option<Offset>,
        ledger: LedgerMetadata,
    ) -> Result<(Versioned<Segment>, Versioned<LedgerMetadata>), UpdateError> {
        check_new(&ledger)?;
        if ledger.epoch != authority.owner.value.epoch {
            return Err(UpdateError::Illegal { what: LEDGER, problem: "its epoch is not the owner's" });
        }
        let segment = Segment { number, ledger: ledger.ledger, created: self.0.clock().wall(), first, sealed: None };
        let (key, nonce) = (segment_key(authority.partition, number), self.0.nonce());
        let ledger_key = Key::Ledger(ledger.ledger).encode();
        let txn = authority.guard(
            Txn::new()
                .when(key.clone(), Condition::Absent)
                .when(ledger_key.clone(), Condition::Absent)
                .put(key.clone(), record::encode(&segment, nonce))
                .put(ledger_key, Metadata::encode_ledger(&ledger, nonce)),
        );
        match self.0.commit(&txn, &Witness::Nonce { key, nonce }).await? {
            Decided::Committed(revision) => Ok((Versioned::created(segment, revision), Versioned::created(ledger, revision))),
            Decided::Conflict => Err(self.0.why_not(authority, SEGMENT).await),
        }
    }

    /// Seals a segment whose ledger is Closed in metadata, and says where the `next` one begins, if it is listed already
    /// (C66). Gives both back.
    pub async fn seal(
        &self,
        authority: Authority<'_>,
        read: &Versioned<Segment>,
        first: Offset,
        sealed: Sealed,
        next: Option<&Versioned<Segment>>,
    ) -> Result<(Versioned<Segment>, Option<Versioned<Segment>>), UpdateError> {
        let illegal = |problem| Err(UpdateError::Illegal { what: SEGMENT, problem });
        if read.value.first.is_some_and(|known| known != first) || sealed.end < first {
            return illegal("its first offset does not change, and its end is not before it");
        }
        if read.value.sealed.is_some_and(|known| known != sealed) {
            return illegal("what was sealed does not change");
        }
        let ledger = self.closed_ledger(&read.value).await?;
        let new = Segment { first: Some(first), sealed: Some(sealed), ..read.value };
        let (key, nonce) = (segment_key(authority.partition, new.number), self.0.nonce());
        let mut txn = Txn::new()
            .when(key.clone(), Condition::ModRevision(read.mod_revision))
            .when(Key::Ledger(new.ledger).encode(), Condition::ModRevision(ledger.mod_revision))
            .put(key.clone(), record::encode(&new, nonce));
        let mut follower = None;
        if let Some(next) = next {
            if next.value.first.is_some_and(|known| known != sealed.end) {
                return illegal("the next segment begins elsewhere");
            }
            let begun = Segment { first: Some(sealed.end), ..next.value };
            let key = segment_key(authority.partition, begun.number);
            txn = txn.when(key.clone(), Condition::ModRevision(next.mod_revision)).put(key, record::encode(&begun, nonce));
            follower = Some((next, begun));
        }
        match self.0.commit(&authority.guard(txn), &Witness::Nonce { key, nonce }).await? {
            Decided::Committed(revision) => {
                Ok((read.rewritten(new, revision), follower.map(|(next, begun)| next.rewritten(begun, revision))))
            }
            Decided::Conflict => Err(self.0.why_not(authority, SEGMENT).await),
        }
    }

    /// Removes the first of these segments, as many as one transaction takes, and turns their ledgers' records into tombstones,
    /// together, so that no listed segment points at a missing ledger (T5). All their ledgers must be Closed. Gives the number of
    /// those removed: the caller asks again for the rest, and what an error leaves undone is never mistaken for what is done.
    ///
    /// The caller has decided on durable cursors and recovered lengths (T4), under a policy that it could read.
    pub async fn trim(&self, authority: Authority<'_>, segments: &[Versioned<Segment>]) -> Result<usize, UpdateError> {
        let now = &segments[..segments.len().min(TRIM_MAX)];
        let Some(first) = now.first() else { return Ok(0) };
        let nonce = self.0.nonce();
        let mut txn = Txn::new();
        for segment in now {
            let ledger = self.closed_ledger(&segment.value).await?;
            let tombstone = LedgerMetadata { state: LedgerState::Deleting, ..ledger.value };
            let (key, ledger_key) =
                (segment_key(authority.partition, segment.value.number), Key::Ledger(tombstone.ledger).encode());
            txn = txn
                .when(key.clone(), Condition::ModRevision(segment.mod_revision))
                .when(ledger_key.clone(), Condition::ModRevision(ledger.mod_revision))
                .delete(key)
                .put(ledger_key, Metadata::encode_ledger(&tombstone, nonce));
        }
        let witness = Witness::Nonce { key: Key::Ledger(first.value.ledger).encode(), nonce };
        match self.0.commit(&authority.guard(txn), &witness).await? {
            Decided::Committed(_) => Ok(now.len()),
            Decided::Conflict => Err(self.0.why_not(authority, SEGMENT).await),
        }
    }

    async fn closed_ledger(&self, segment: &Segment) -> Result<Versioned<LedgerMetadata>, UpdateError> {
        let ledger = self.0.read_ledger(segment.ledger).await?.ok_or(UpdateError::NotFound { what: LEDGER })?;
        if !matches!(ledger.value.state, LedgerState::Closed { .. }) {
            return Err(UpdateError::Illegal { what: LEDGER, problem: "it is not closed" });
        }
        Ok(ledger)
    }
}

fn segment_key(partition: PartitionId, number: SegmentNumber) -> bytes::Bytes {
    Key::Segment(partition.topic, partition.index, number).encode()
}

fn named(found: &crate::store::KeyValue) -> Result<(PartitionId, Versioned<Segment>), ReadError> {
    let (topic, index, number) = keys::parse_segment(&found.key).ok_or_else(|| ReadError::Corrupt {
        key: String::from_utf8_lossy(&found.key).into_owned(),
        problem: "not a segment's key".to_owned(),
    })?;
    let segment = record::decode::<Segment>(found)?.map(|segment| Segment { number, ..segment });
    Ok((PartitionId { topic, index }, segment))
}

/// The number stands in the key alone.
impl Record for Segment {
    type Wire = wire::SegmentRecord;

    fn to_wire(&self) -> Self::Wire {
        wire::SegmentRecord {
            ledger: self.ledger.get(),
            created_ms: self.created.as_millis(),
            first_offset: self.first.map(Offset::get),
            sealed: self.sealed.map(|sealed| wire::SealedSegment {
                end_offset: sealed.end.get(),
                messages: sealed.messages,
                bytes: sealed.bytes,
                first_ms: sealed.times.map(|(first, _)| first.as_millis()),
                last_ms: sealed.times.map(|(_, last)| last.as_millis()),
            }),
        }
    }

    fn from_wire(wire: Self::Wire) -> Result<Self, String> {
        let sealed = wire.sealed.map(|sealed| Sealed {
            end: Offset::new(sealed.end_offset),
            messages: sealed.messages,
            bytes: sealed.bytes,
            times: sealed
                .first_ms
                .zip(sealed.last_ms)
                .map(|(first, last)| (Timestamp::from_millis(first), Timestamp::from_millis(last))),
        });
        Ok(Self {
            number: SegmentNumber::FIRST,
            ledger: LedgerId::new(wire.ledger),
            created: Timestamp::from_millis(wire.created_ms),
            first: wire.first_offset.map(Offset::new),
            sealed,
        })
    }
}
