//! Which state ledgers a partition has: `current`, the `next` one while it rolls, and those that may go (C42, C64).

use alluvium_proto::internal::v1 as wire;
use alluvium_types::ids::{LedgerId, Nonce};
use alluvium_types::ledger::{LedgerClass, LedgerMetadata, LedgerState};

use crate::client::{Decided, Metadata, Witness};
use crate::error::{ReadError, UpdateError};
use crate::keys::Key;
use crate::ledgers::{LEDGER, check_new};
use crate::ownership::{Authority, PartitionId};
use crate::record::{self, Record, Versioned};
use crate::store::{Condition, Txn};

/// How an error names a state pointer.
const POINTER: &str = "the state pointer";
/// The most retired ledgers: past it, they must be dropped before the next roll.
const RETIRED_MAX: usize = 16;

/// Which state ledgers a partition has.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct StatePointer {
    /// The one that a takeover recovers; `None` before the first.
    pub current: Option<LedgerId>,
    /// The one that is being filled, whose snapshot may not be complete.
    pub next: Option<LedgerId>,
    /// Those that are no longer needed and not yet tombstoned.
    pub retired: Vec<LedgerId>,
}

impl StatePointer {
    /// Whether so few retired ones wait to be dropped that [`StatePointers::set_next`] may add another.
    pub const fn takes_next(&self) -> bool {
        self.retired.len() < RETIRED_MAX
    }

    /// Whether it names no ledger.
    pub const fn is_empty(&self) -> bool {
        self.current.is_none() && self.next.is_none() && self.retired.is_empty()
    }
}

/// The repository of state pointers.
#[derive(Clone, Debug)]
pub struct StatePointers(Metadata);

impl Metadata {
    /// State pointers.
    pub fn state_pointers(&self) -> StatePointers {
        StatePointers(self.clone())
    }
}

impl StatePointers {
    /// A partition's pointer, if it was ever set. Linearizable.
    pub async fn get(&self, partition: PartitionId) -> Result<Option<Versioned<StatePointer>>, ReadError> {
        self.0.read(Key::StatePointer(partition.topic, partition.index)).await
    }

    /// Creates the record of the next state ledger and names it, in one transaction (C64). There must be no `next`; `read` is
    /// `None` when the pointer was never set.
    pub async fn set_next(
        &self,
        authority: Authority<'_>,
        read: Option<&Versioned<StatePointer>>,
        ledger: LedgerMetadata,
    ) -> Result<(Versioned<StatePointer>, Versioned<LedgerMetadata>), UpdateError> {
        check_new(&ledger)?;
        let mut pointer = read.map(|r| r.value.clone()).unwrap_or_default();
        if pointer.next.is_some() {
            return Err(UpdateError::Illegal { what: POINTER, problem: "there is a next one already" });
        }
        if !pointer.takes_next() {
            return Err(UpdateError::Illegal { what: POINTER, problem: "too many retired ones are not dropped" });
        }
        if ledger.epoch != authority.owner.value.epoch || ledger.class != LedgerClass::Essential {
            return Err(UpdateError::Illegal { what: LEDGER, problem: "a state ledger is essential, and of the owner's epoch" });
        }
        pointer.next = Some(ledger.ledger);
        let nonce = self.0.nonce();
        let key = Key::Ledger(ledger.ledger).encode();
        let txn = Txn::new().when(key.clone(), Condition::Absent).put(key.clone(), Metadata::encode_ledger(&ledger, nonce));
        let pointer = self.put(authority, read, pointer, txn, nonce).await?;
        let revision = pointer.mod_revision;
        Ok((pointer, Versioned::created(ledger, revision)))
    }

    /// Makes `next` the current one; the one before is retired, and kept until [`StatePointers::drop_retired`] (C42), or, where its
    /// record is given and is Closed, becomes a tombstone in the same transaction. The caller has made `next`'s snapshot durable and
    /// read it back. While this is unresolved, no receipt is given (M3).
    pub async fn swap_next(
        &self,
        authority: Authority<'_>,
        read: &Versioned<StatePointer>,
        before: Option<&Versioned<LedgerMetadata>>,
    ) -> Result<Versioned<StatePointer>, UpdateError> {
        let Some(next) = read.value.next else {
            return Err(UpdateError::Illegal { what: POINTER, problem: "there is no next one" });
        };
        let nonce = self.0.nonce();
        let txn = match before {
            Some(before) if read.value.current != Some(before.value.ledger) => {
                return Err(UpdateError::Illegal { what: POINTER, problem: "the ledger is not the current one" });
            }
            Some(before) => tombstone(before, nonce)?,
            None => Txn::new(),
        };
        let mut pointer = read.value.clone();
        pointer.retired.extend(pointer.current.filter(|_| before.is_none()));
        pointer.current = Some(next);
        pointer.next = None;
        self.put(authority, Some(read), pointer, txn, nonce).await
    }

    /// Gives up on `next`: what a takeover does with one that isn't current (C64).
    pub async fn retire_next(
        &self,
        authority: Authority<'_>,
        read: &Versioned<StatePointer>,
    ) -> Result<Versioned<StatePointer>, UpdateError> {
        let mut pointer = read.value.clone();
        pointer.retired.extend(pointer.next.take());
        let nonce = self.0.nonce();
        self.put(authority, Some(read), pointer, Txn::new(), nonce).await
    }

    /// Gives up on the current one too: only for a deleted topic.
    pub async fn retire_all(
        &self,
        authority: Authority<'_>,
        read: &Versioned<StatePointer>,
    ) -> Result<Versioned<StatePointer>, UpdateError> {
        let mut pointer = read.value.clone();
        pointer.retired.extend(pointer.current.take());
        pointer.retired.extend(pointer.next.take());
        let nonce = self.0.nonce();
        self.put(authority, Some(read), pointer, Txn::new(), nonce).await
    }

    /// Turns a retired ledger's record, which must be Closed, into its tombstone, and stops naming it, in one transaction.
    pub async fn drop_retired(
        &self,
        authority: Authority<'_>,
        read: &Versioned<StatePointer>,
        ledger: &Versioned<LedgerMetadata>,
    ) -> Result<Versioned<StatePointer>, UpdateError> {
        let id = ledger.value.ledger;
        if !read.value.retired.contains(&id) {
            return Err(UpdateError::Illegal { what: POINTER, problem: "the ledger is not retired" });
        }
        let nonce = self.0.nonce();
        let txn = tombstone(ledger, nonce)?;
        let mut pointer = read.value.clone();
        pointer.retired.retain(|retired| *retired != id);
        self.put(authority, Some(read), pointer, txn, nonce).await
    }

    /// Writes the pointer with whatever `txn` holds already.
    async fn put(
        &self,
        authority: Authority<'_>,
        read: Option<&Versioned<StatePointer>>,
        new: StatePointer,
        txn: Txn,
        nonce: Nonce,
    ) -> Result<Versioned<StatePointer>, UpdateError> {
        let key = Key::StatePointer(authority.partition.topic, authority.partition.index).encode();
        let condition = read.map_or(Condition::Absent, |r| Condition::ModRevision(r.mod_revision));
        let txn = authority.guard(txn.when(key.clone(), condition).put(key.clone(), record::encode(&new, nonce)));
        match self.0.commit(&txn, &Witness::Nonce { key, nonce }).await? {
            Decided::Committed(revision) => Ok(match read {
                Some(read) => read.rewritten(new, revision),
                None => Versioned::created(new, revision),
            }),
            Decided::Conflict => Err(self.0.why_not(authority, POINTER).await),
        }
    }
}

/// Turns a ledger's record, which must be Closed, into its tombstone.
fn tombstone(ledger: &Versioned<LedgerMetadata>, nonce: Nonce) -> Result<Txn, UpdateError> {
    if !matches!(ledger.value.state, LedgerState::Closed { .. }) {
        return Err(UpdateError::Illegal { what: LEDGER, problem: "it is not closed" });
    }
    let tombstone = LedgerMetadata { state: LedgerState::Deleting, ..ledger.value.clone() };
    let key = Key::Ledger(ledger.value.ledger).encode();
    let txn = Txn::new().when(key.clone(), Condition::ModRevision(ledger.mod_revision));
    Ok(txn.put(key, Metadata::encode_ledger(&tombstone, nonce)))
}

impl Record for StatePointer {
    type Wire = wire::StatePointerRecord;

    fn to_wire(&self) -> Self::Wire {
        wire::StatePointerRecord {
            current: self.current.map(LedgerId::get),
            next: self.next.map(LedgerId::get),
            retired: self.retired.iter().map(|ledger| ledger.get()).collect(),
        }
    }

    fn from_wire(wire: Self::Wire) -> Result<Self, String> {
        Ok(Self {
            current: wire.current.map(LedgerId::new),
            next: wire.next.map(LedgerId::new),
            retired: wire.retired.into_iter().map(LedgerId::new).collect(),
        })
    }
}
