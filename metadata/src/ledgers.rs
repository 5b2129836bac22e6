//! Ledgers: their ids, given out once (L8), and their records, changed by compare-and-set only (C18).

use std::sync::Arc;

use alluvium_proto::internal::v1 as wire;
use alluvium_types::ids::{EntryId, Epoch, Incarnation, LedgerId, Nonce, RecoveryNumber, Revision};
use alluvium_types::ledger::{BookieId, Fragment, LedgerClass, LedgerMetadata, LedgerState};
use alluvium_types::names::BookieName;
use bytes::Bytes;
use tokio::sync::Mutex;

use crate::client::{Decided, Metadata, Witness};
use crate::error::{ReadError, UpdateError};
use crate::keys::{self, Key};
use crate::policies::{replication_from_wire, replication_to_wire};
use crate::record::{self, Listing, Record, Versioned, uuid_bytes, uuid_from};
use crate::store::{Condition, Txn};

/// How many ids a process takes at a time.
const IDS_PER_BLOCK: u64 = 64;
/// How an error names a ledger.
pub(crate) const LEDGER: &str = "the ledger";

/// The repository of ledgers. Clones share the block of ids.
#[derive(Clone, Debug)]
pub struct Ledgers {
    metadata: Metadata,
    ids: Arc<Mutex<std::ops::Range<u64>>>,
}

/// What a linearizable read says of a ledger's bytes (B9).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fate {
    /// It exists; its record says who must keep what.
    Exists(Versioned<LedgerMetadata>),
    /// Proof: it is deleted, and its bytes may go after the grace time.
    Deleted(Versioned<LedgerMetadata>),
    /// There is no record. It proves nothing: the ledger may be about to be created, or its tombstone may be forgotten.
    NoRecord,
}

/// The next id that nobody was given.
#[derive(Clone, Copy, Debug)]
struct NextId(u64);

impl Metadata {
    /// Ledgers.
    pub fn ledgers(&self) -> Ledgers {
        Ledgers { metadata: self.clone(), ids: Arc::new(Mutex::new(0..0)) }
    }

    pub(crate) fn encode_ledger(ledger: &LedgerMetadata, nonce: Nonce) -> Bytes {
        record::encode(&LedgerRecord(ledger.clone()), nonce)
    }

    /// The revision at which a key was written with this nonce, if that value stands.
    async fn written_as(&self, key: &Bytes, nonce: Nonce) -> Result<Option<Revision>, ReadError> {
        let found = self.store().get(key).await.map_err(ReadError::Unavailable)?.value;
        Ok(found.filter(|found| record::nonce_of(&found.value) == Some(nonce)).map(|found| found.mod_revision))
    }

    pub(crate) async fn read_ledger(&self, ledger: LedgerId) -> Result<Option<Versioned<LedgerMetadata>>, ReadError> {
        let key = Key::Ledger(ledger);
        let found = self.read::<LedgerRecord>(key).await?;
        found.map(|record| named(record, ledger)).transpose()
    }
}

impl Ledgers {
    /// An id that nobody else was or will be given. Ids are taken in blocks; what a process doesn't use is never used.
    pub async fn allocate(&self) -> Result<LedgerId, UpdateError> {
        let mut ids = self.ids.lock().await;
        if ids.is_empty() {
            *ids = self.take_block().await?;
        }
        let id = ids.next().expect("a block that was just taken is not empty");
        Ok(LedgerId::new(id))
    }

    async fn take_block(&self) -> Result<std::ops::Range<u64>, UpdateError> {
        loop {
            let read = self.metadata.read::<NextId>(Key::LedgerIds).await?;
            let (first, condition) = match &read {
                Some(found) => (found.value.0, Condition::ModRevision(found.mod_revision)),
                None => (1, Condition::Absent),
            };
            let end =
                first.checked_add(IDS_PER_BLOCK).ok_or(UpdateError::Illegal { what: LEDGER, problem: "the ids are used up" })?;
            let (key, nonce) = (Key::LedgerIds.encode(), self.metadata.nonce());
            let txn = Txn::new().when(key.clone(), condition).put(key.clone(), record::encode(&NextId(end), nonce));
            if let Decided::Committed(_) = self.metadata.commit(&txn, &Witness::Nonce { key, nonce }).await? {
                return Ok(first..end);
            }
        }
    }

    /// Creates a record by itself: for tools and tests. A partition's ledgers are created together with what lists them
    /// ([`crate::Segments::append`], [`crate::StatePointers::set_next`]; M1, C39).
    pub async fn create(&self, ledger: LedgerMetadata) -> Result<Versioned<LedgerMetadata>, UpdateError> {
        check_new(&ledger)?;
        let (key, nonce) = (Key::Ledger(ledger.ledger).encode(), self.metadata.nonce());
        let txn = Txn::new().when(key.clone(), Condition::Absent).put(key.clone(), Metadata::encode_ledger(&ledger, nonce));
        match self.metadata.commit(&txn, &Witness::Nonce { key, nonce }).await? {
            Decided::Committed(revision) => Ok(Versioned::created(ledger, revision)),
            Decided::Conflict => Err(UpdateError::Exists { what: LEDGER }),
        }
    }

    /// A ledger's record, if there is one. A tombstone is one too.
    pub async fn get(&self, ledger: LedgerId) -> Result<Option<Versioned<LedgerMetadata>>, ReadError> {
        self.metadata.read_ledger(ledger).await
    }

    /// What may become of a ledger's bytes (B9, C26): one linearizable read of its own key, never a listing.
    pub async fn fate(&self, ledger: LedgerId) -> Result<Fate, ReadError> {
        Ok(match self.get(ledger).await? {
            Some(found) if found.value.state == LedgerState::Deleting => Fate::Deleted(found),
            Some(found) => Fate::Exists(found),
            None => Fate::NoRecord,
        })
    }

    /// Writes a record over the version that was read. The nonce inside settles a lost answer (C12): this resolves only when
    /// the outcome is certain, or the process stops. Steps that no ledger takes are refused (L3, L6, L8).
    pub async fn update(
        &self,
        read: &Versioned<LedgerMetadata>,
        new: LedgerMetadata,
    ) -> Result<Versioned<LedgerMetadata>, UpdateError> {
        let nonce = self.metadata.nonce();
        match self.put(read, &new, nonce).await? {
            Decided::Committed(revision) => Ok(read.rewritten(new, revision)),
            Decided::Conflict => Err(UpdateError::Conflict { what: LEDGER }),
        }
    }

    /// The same for a change that has a nonce already and may have been issued before: an earlier success under that nonce is
    /// recognised (C12, M3).
    pub async fn update_as(
        &self,
        read: &Versioned<LedgerMetadata>,
        new: LedgerMetadata,
        nonce: Nonce,
    ) -> Result<Versioned<LedgerMetadata>, UpdateError> {
        let revision = match self.put(read, &new, nonce).await? {
            Decided::Committed(revision) => Some(revision),
            Decided::Conflict => self.metadata.written_as(&Key::Ledger(new.ledger).encode(), nonce).await?,
        };
        match revision {
            Some(revision) => Ok(read.rewritten(new, revision)),
            None => Err(UpdateError::Conflict { what: LEDGER }),
        }
    }

    async fn put(&self, read: &Versioned<LedgerMetadata>, new: &LedgerMetadata, nonce: Nonce) -> Result<Decided, UpdateError> {
        crate::ledger_steps::check(&read.value, new).map_err(|problem| UpdateError::Illegal { what: LEDGER, problem })?;
        let key = Key::Ledger(new.ledger).encode();
        let txn = Txn::new()
            .when(key.clone(), Condition::ModRevision(read.mod_revision))
            .put(key.clone(), Metadata::encode_ledger(new, nonce));
        self.metadata.commit(&txn, &Witness::Nonce { key, nonce }).await
    }

    /// Turns a closed ledger's record into its tombstone. Only for ledgers that nothing lists; a partition's go by
    /// [`crate::Segments::trim`] and [`crate::StatePointers::drop_retired`].
    pub async fn tombstone(&self, read: &Versioned<LedgerMetadata>) -> Result<Versioned<LedgerMetadata>, UpdateError> {
        self.update(read, LedgerMetadata { state: LedgerState::Deleting, ..read.value.clone() }).await
    }

    /// Removes a tombstone (C27), once each bookie that can hold anything of the ledger has said that nothing of it is there that
    /// could come back, or is lost for good: all that it names, and all others too, since a recovery that was overtaken, or a writer
    /// whose change of ensemble was, leaves adds on bookies that no record names.
    pub async fn forget(&self, read: &Versioned<LedgerMetadata>) -> Result<(), UpdateError> {
        if read.value.state != LedgerState::Deleting {
            return Err(UpdateError::Illegal { what: LEDGER, problem: "only a tombstone is forgotten" });
        }
        let key = Key::Ledger(read.value.ledger).encode();
        let txn = Txn::new().when(key.clone(), Condition::ModRevision(read.mod_revision)).delete(key.clone());
        match self.metadata.commit(&txn, &Witness::Gone { key }).await? {
            Decided::Committed(_) => Ok(()),
            Decided::Conflict => Err(UpdateError::Conflict { what: LEDGER }),
        }
    }

    /// Ledgers in id order, behind `after`; tombstones too.
    pub async fn list(
        &self,
        after: Option<LedgerId>,
        limit: usize,
    ) -> Result<Listing<Versioned<LedgerMetadata>, LedgerId>, ReadError> {
        let after = after.map(|ledger| Key::Ledger(ledger).encode());
        let page = self.metadata.page(Key::Ledgers, after, limit).await?.value;
        let listing = record::listing::<LedgerRecord, _>(page, |found| keys::parse_ledger(&found.key))?;
        let records = listing.records.into_iter().map(|(ledger, record)| named(record, ledger)).collect::<Result<_, _>>()?;
        Ok(Listing { records, next: listing.next })
    }
}

/// Checks what a record begins with.
pub(crate) fn check_new(ledger: &LedgerMetadata) -> Result<(), UpdateError> {
    let illegal = |problem| Err(UpdateError::Illegal { what: LEDGER, problem });
    if ledger.validate().is_err() {
        return illegal("its record is invalid");
    }
    if ledger.state != LedgerState::Open || ledger.recovery != RecoveryNumber::ZERO {
        return illegal("a ledger begins open");
    }
    Ok(())
}

/// A ledger as its record holds it: the id stands in the key alone.
pub(crate) struct LedgerRecord(LedgerMetadata);

fn named(record: Versioned<LedgerRecord>, ledger: LedgerId) -> Result<Versioned<LedgerMetadata>, ReadError> {
    let record = record.map(|LedgerRecord(metadata)| LedgerMetadata { ledger, ..metadata });
    record
        .value
        .validate()
        .map_err(|error| ReadError::Corrupt { key: Key::Ledger(ledger).to_string(), problem: error.to_string() })?;
    Ok(record)
}

impl Record for LedgerRecord {
    type Wire = wire::LedgerRecord;

    fn to_wire(&self) -> Self::Wire {
        let ledger = &self.0;
        let (life, last_entry, recovering_by) = match ledger.state {
            LedgerState::Open => (wire::LedgerLife::Open, None, 0),
            LedgerState::Recovering { by } => (wire::LedgerLife::Recovering, None, by.get()),
            LedgerState::Closed { last } => (wire::LedgerLife::Closed, last.map(EntryId::get), 0),
            LedgerState::Deleting => (wire::LedgerLife::Deleting, None, 0),
        };
        wire::LedgerRecord {
            epoch: ledger.epoch.get(),
            essential: ledger.class == LedgerClass::Essential,
            replication: Some(replication_to_wire(ledger.replication)),
            wanted: Some(replication_to_wire(ledger.wanted)),
            life: life.into(),
            recovery: ledger.recovery.get(),
            fragments: ledger.fragments.iter().map(fragment_to_wire).collect(),
            last_entry,
            recovering_by,
        }
    }

    fn from_wire(wire: Self::Wire) -> Result<Self, String> {
        let state = match wire.life() {
            wire::LedgerLife::Open => LedgerState::Open,
            wire::LedgerLife::Recovering => LedgerState::Recovering { by: RecoveryNumber::new(wire.recovering_by) },
            wire::LedgerLife::Closed => LedgerState::Closed { last: wire.last_entry.map(EntryId::new) },
            wire::LedgerLife::Deleting => LedgerState::Deleting,
            wire::LedgerLife::Unspecified => return Err("a ledger in no known state".to_owned()),
        };
        Ok(Self(LedgerMetadata {
            ledger: LedgerId::ZERO,
            epoch: Epoch::new(wire.epoch),
            class: if wire.essential { LedgerClass::Essential } else { LedgerClass::Bulk },
            replication: replication_from_wire(wire.replication.as_ref().ok_or("no replication")?)?,
            wanted: replication_from_wire(wire.wanted.as_ref().ok_or("no wanted replication")?)?,
            state,
            recovery: RecoveryNumber::new(wire.recovery),
            fragments: wire.fragments.into_iter().map(fragment_from_wire).collect::<Result<_, _>>()?,
        }))
    }
}

fn fragment_to_wire(fragment: &Fragment) -> wire::FragmentRecord {
    wire::FragmentRecord {
        first_entry: fragment.first.get(),
        ensemble: fragment
            .ensemble
            .iter()
            .map(|bookie| wire::EnsembleMember {
                name: bookie.name.to_string(),
                incarnation: uuid_bytes(bookie.incarnation.get()),
            })
            .collect(),
        short: fragment.short.iter().map(|&index| u32::try_from(index).expect("an ensemble has at most 64 members")).collect(),
    }
}

fn fragment_from_wire(wire: wire::FragmentRecord) -> Result<Fragment, String> {
    let member = |member: wire::EnsembleMember| -> Result<BookieId, String> {
        Ok(BookieId {
            name: BookieName::parse(&member.name).map_err(|error| error.to_string())?,
            incarnation: Incarnation::new(uuid_from(&member.incarnation)?),
        })
    };
    Ok(Fragment {
        first: EntryId::new(wire.first_entry),
        ensemble: wire.ensemble.into_iter().map(member).collect::<Result<_, _>>()?,
        short: wire.short.into_iter().map(|index| usize::try_from(index).unwrap_or(usize::MAX)).collect(),
    })
}

impl Record for NextId {
    type Wire = wire::LedgerIdsRecord;

    fn to_wire(&self) -> Self::Wire {
        wire::LedgerIdsRecord { next: self.0 }
    }

    fn from_wire(wire: Self::Wire) -> Result<Self, String> {
        Ok(Self(wire.next))
    }
}
