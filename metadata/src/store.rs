//! The one trait that every backend keeps. [`crate::conformance`] is its meaning, run.
//!
//! Keys and values are bytes here; only the repositories know what they say. Revisions count the store's changes: each
//! transaction that wrote anything has a later one than all that were answered before it was asked, shared by all that it wrote, and
//! maybe by transactions on other keys that were asked meanwhile.

use std::fmt::Debug;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use alluvium_types::ids::{Revision, SessionId};
use async_trait::async_trait;
use bytes::Bytes;
use futures::{Stream, StreamExt};

use crate::error::{Refusal, StoreError};

/// The most operations, and the most compares, of a transaction.
pub const TXN_OPS_MAX: usize = 128;
/// The most bytes of keys and values in a transaction: what a request of etcd takes by default, less what it is framed with.
pub const REQUEST_BYTES_MAX: usize = (3 << 19) - FRAMING_BYTES_MAX;
/// The most bytes that a backend adds to a transaction: a prefix and lengths for each operation and compare.
pub(crate) const FRAMING_BYTES_MAX: usize = 64 << 10;
/// The most records of a page.
pub const PAGE_RECORDS_MAX: usize = 1000;
/// The shortest and the longest time to live of a session.
pub const SESSION_TTL: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(3600));

/// A key with its value and its place in history.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyValue {
    /// The key.
    pub key: Bytes,
    /// The value.
    pub value: Bytes,
    /// The revision that created the key; a deleted and re-created key has another one.
    pub create_revision: Revision,
    /// The revision that wrote this value.
    pub mod_revision: Revision,
    /// How often the key was written since it was created, from 1.
    pub version: u64,
    /// The session with which it vanishes.
    pub session: Option<SessionId>,
}

/// An answer, and the revision of the store at which it was true.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct At<T> {
    /// The revision of the store.
    pub revision: Revision,
    /// The answer.
    pub value: T,
}

/// Records in key order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Page {
    /// The records.
    pub records: Vec<KeyValue>,
    /// Whether there are more behind the last one.
    pub more: bool,
}

/// What a page is asked with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Range {
    /// What all keys begin with.
    pub prefix: Bytes,
    /// Only keys behind this one: the last of the page before.
    pub after: Option<Bytes>,
    /// At most this many, itself at most [`PAGE_RECORDS_MAX`].
    pub limit: usize,
}

/// What must hold of a key for a transaction to be applied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Condition {
    /// Its value was written at this revision.
    ModRevision(Revision),
    /// It was created at this revision.
    CreateRevision(Revision),
    /// There is none.
    Absent,
    /// There is one.
    Present,
}

/// A condition on a key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Compare {
    /// The key.
    pub key: Bytes,
    /// What must hold of it.
    pub condition: Condition,
}

/// What a transaction does to a key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Op {
    /// Writes it. Bound to `session` it vanishes with it; a later put without one unbinds it.
    Put {
        /// The key.
        key: Bytes,
        /// Its value.
        value: Bytes,
        /// The session it is bound to, if any.
        session: Option<SessionId>,
    },
    /// Removes it, if it is there.
    Delete {
        /// The key.
        key: Bytes,
    },
}

impl Op {
    /// The key it writes.
    pub const fn key(&self) -> &Bytes {
        match self {
            Self::Put { key, .. } | Self::Delete { key } => key,
        }
    }
}

/// All of the operations, if all of the compares hold; else nothing.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Txn {
    /// What must hold.
    pub compares: Vec<Compare>,
    /// What is done then.
    pub ops: Vec<Op>,
}

impl Txn {
    /// An empty one.
    pub const fn new() -> Self {
        Self { compares: Vec::new(), ops: Vec::new() }
    }

    /// Adds a compare.
    #[must_use]
    pub fn when(mut self, key: Bytes, condition: Condition) -> Self {
        self.compares.push(Compare { key, condition });
        self
    }

    /// Adds a write.
    #[must_use]
    pub fn put(mut self, key: Bytes, value: Bytes) -> Self {
        self.ops.push(Op::Put { key, value, session: None });
        self
    }

    /// Adds a write that vanishes with a session.
    #[must_use]
    pub fn put_bound(mut self, key: Bytes, value: Bytes, session: SessionId) -> Self {
        self.ops.push(Op::Put { key, value, session: Some(session) });
        self
    }

    /// Adds a removal.
    #[must_use]
    pub fn delete(mut self, key: Bytes) -> Self {
        self.ops.push(Op::Delete { key });
        self
    }

    /// The bytes of its keys and values.
    pub fn bytes(&self) -> usize {
        let compares: usize = self.compares.iter().map(|c| c.key.len()).sum();
        let ops: usize = self
            .ops
            .iter()
            .map(|op| match op {
                Op::Put { key, value, .. } => key.len() + value.len(),
                Op::Delete { key } => key.len(),
            })
            .sum();
        compares + ops
    }

    /// Checks the limits that every backend keeps.
    pub fn check(&self) -> Result<(), Refusal> {
        for (what, found) in [("operations", self.ops.len()), ("compares", self.compares.len())] {
            if found > TXN_OPS_MAX {
                return Err(Refusal::TooMany { what, found, limit: TXN_OPS_MAX });
            }
        }
        if self.ops.is_empty() {
            return Err(Refusal::Empty);
        }
        let found = self.bytes();
        if found > REQUEST_BYTES_MAX {
            return Err(Refusal::TooLarge { found, limit: REQUEST_BYTES_MAX });
        }
        let mut keys: Vec<&Bytes> = self.ops.iter().map(Op::key).collect();
        keys.sort();
        if keys.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(Refusal::DuplicateKey);
        }
        Ok(())
    }
}

/// What became of a transaction, for certain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use = "a conflict means that nothing was written"]
pub enum TxnOutcome {
    /// Applied.
    Committed {
        /// The revision of all that it wrote.
        revision: Revision,
    },
    /// A compare did not hold; nothing was applied.
    Conflict,
}

/// A change of one key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// It was written.
    Put(KeyValue),
    /// It was removed, or vanished with its session.
    Delete {
        /// The key.
        key: Bytes,
        /// When.
        revision: Revision,
    },
}

impl Event {
    /// The key that changed.
    pub const fn key(&self) -> &Bytes {
        match self {
            Self::Put(record) => &record.key,
            Self::Delete { key, .. } => key,
        }
    }

    /// When it changed.
    pub const fn revision(&self) -> Revision {
        match self {
            Self::Put(record) => record.mod_revision,
            Self::Delete { revision, .. } => *revision,
        }
    }
}

/// Changes under a prefix, in order, whole revisions at a time. After an error it gives nothing more: `Compacted` means list
/// and watch anew (M5), anything else that it may be resumed from behind the last event.
pub struct Watch(Pin<Box<dyn Stream<Item = Result<Vec<Event>, StoreError>> + Send>>);

impl Watch {
    /// Wraps a backend's stream of changes.
    pub fn new(stream: impl Stream<Item = Result<Vec<Event>, StoreError>> + Send + 'static) -> Self {
        Self(Box::pin(stream))
    }

    /// The next changes, never none; all events of a revision come together. Cancel safe.
    pub async fn next(&mut self) -> Result<Vec<Event>, StoreError> {
        self.0.next().await.unwrap_or(Err(StoreError::Stopped))
    }
}

impl Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Watch")
    }
}

/// A metadata store. All reads are linearizable (M6): they see every transaction that was answered before they were asked.
#[async_trait]
pub trait MetadataStore: Send + Sync + Debug {
    /// One record.
    async fn get(&self, key: &Bytes) -> Result<At<Option<KeyValue>>, StoreError>;

    /// A page of records in key order. Each page is true at its own revision: to follow a listing by a watch, watch from
    /// behind the *first* page's revision and ignore events that are not newer than what the record shows.
    async fn range(&self, range: &Range) -> Result<At<Page>, StoreError>;

    /// Applies a transaction, or doesn't. [`StoreError::Unknown`] leaves it open (M3); every other error means that nothing
    /// was and nothing will be applied.
    async fn txn(&self, txn: &Txn) -> Result<TxnOutcome, StoreError>;

    /// Follows a prefix from revision `from` on, `from` included; `from` may lie in the future.
    async fn watch(&self, prefix: &Bytes, from: Revision) -> Result<Watch, StoreError>;

    /// Begins a session under an id of the caller's making. Asking again with the same id and time to live, after an unknown
    /// outcome, is the same session.
    async fn create_session(&self, session: SessionId, ttl: Duration) -> Result<(), StoreError>;

    /// Restarts the session's time to live. When this answers, the session lives at least its whole time to live from the
    /// moment the call *began*.
    async fn keep_alive(&self, session: SessionId) -> Result<(), StoreError>;

    /// Ends a session and removes what is bound to it. One that is gone already is fine.
    async fn end_session(&self, session: SessionId) -> Result<(), StoreError>;

    /// Lets history up to and including `revision` go: watches from there answer [`StoreError::Compacted`].
    async fn compact(&self, revision: Revision) -> Result<(), StoreError>;

    /// The newest revision.
    async fn revision(&self) -> Result<Revision, StoreError>;
}

/// A shared store.
pub type Store = Arc<dyn MetadataStore>;
