//! The state machine under the memory and the raft backend: pure, deterministic, the same commands give the same state.
//!
//! It has no clock. Sessions end by command; when, is decided by [`crate::leases`] of whoever drives it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::time::Duration;

use alluvium_types::ids::{Revision, SessionId};
use bytes::Bytes;

use crate::changes::Changes;
use crate::error::{Refusal, StoreError};
use crate::store::{At, Condition, Event, KeyValue, Op, PAGE_RECORDS_MAX, Page, Range, SESSION_TTL, Txn, TxnOutcome};

/// A change of the state.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command {
    /// A transaction.
    Txn(Txn),
    /// A session begins.
    CreateSession {
        /// Its id.
        session: SessionId,
        /// Its time to live.
        ttl: Duration,
    },
    /// A session ends, on its own will or because its time was up.
    EndSession {
        /// Its id.
        session: SessionId,
    },
    /// History up to here may go.
    Compact {
        /// The last revision that may go.
        revision: Revision,
    },
}

/// The answer to a command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Applied {
    /// A transaction's outcome.
    Txn(TxnOutcome),
    /// Done.
    Done,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Record {
    value: Bytes,
    create_revision: Revision,
    mod_revision: Revision,
    version: u64,
    session: Option<SessionId>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Session {
    ttl: Duration,
    keys: BTreeSet<Bytes>,
}

/// Keys, sessions and a bounded piece of history.
#[derive(Clone, Debug, Default)]
pub struct State {
    revision: Revision,
    records: BTreeMap<Bytes, Record>,
    sessions: BTreeMap<SessionId, Session>,
    history: Changes,
}

/// Everything of a state but its history, which is nobody's promise.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    /// The newest revision.
    pub revision: Revision,
    /// All records, in key order.
    pub records: Vec<KeyValue>,
    /// All sessions with their time to live.
    pub sessions: Vec<(SessionId, Duration)>,
}

impl State {
    /// An empty state at revision 0.
    pub fn new() -> Self {
        Self::default()
    }

    /// The newest revision.
    pub const fn revision(&self) -> Revision {
        self.revision
    }

    /// The sessions, with their time to live.
    pub fn sessions(&self) -> impl Iterator<Item = (SessionId, Duration)> + '_ {
        self.sessions.iter().map(|(id, session)| (*id, session.ttl))
    }

    /// The time to live of a session, if it lives.
    pub fn session_ttl(&self, session: SessionId) -> Option<Duration> {
        self.sessions.get(&session).map(|s| s.ttl)
    }

    /// Applies a command. An error changes nothing.
    pub fn apply(&mut self, command: &Command) -> Result<Applied, StoreError> {
        match command {
            Command::Txn(txn) => self.txn(txn).map(Applied::Txn),
            Command::CreateSession { session, ttl } => self.create_session(*session, *ttl).map(|()| Applied::Done),
            Command::EndSession { session } => {
                self.end_session(*session);
                Ok(Applied::Done)
            }
            Command::Compact { revision } => {
                self.history.compact((*revision).min(self.revision));
                Ok(Applied::Done)
            }
        }
    }

    /// One record.
    pub fn get(&self, key: &Bytes) -> At<Option<KeyValue>> {
        At { revision: self.revision, value: self.records.get(key).map(|record| record.named(key.clone())) }
    }

    /// A page of records.
    pub fn range(&self, range: &Range) -> Result<At<Page>, StoreError> {
        let limit = range.limit.min(PAGE_RECORDS_MAX);
        if limit == 0 {
            return Err(Refusal::EmptyPage.into());
        }
        let from = match &range.after {
            Some(after) if *after >= range.prefix => Bound::Excluded(after.clone()),
            _ => Bound::Included(range.prefix.clone()),
        };
        let mut rest =
            self.records.range((from, Bound::Unbounded)).take_while(|(key, _)| key.starts_with(&range.prefix)).peekable();
        let records = rest.by_ref().take(limit).map(|(key, record)| record.named(key.clone())).collect();
        Ok(At { revision: self.revision, value: Page { records, more: rest.peek().is_some() } })
    }

    /// The events under `prefix` from revision `from` on: whole revisions, about `events_max` of them, and the revision to
    /// go on from.
    pub fn events(&self, prefix: &Bytes, from: Revision, events_max: usize) -> Result<(Vec<Event>, Revision), StoreError> {
        self.history.read(prefix, from, events_max, self.revision)
    }

    /// What a snapshot holds.
    pub fn image(&self) -> Image {
        Image {
            revision: self.revision,
            records: self.records.iter().map(|(key, record)| record.named(key.clone())).collect(),
            sessions: self.sessions().collect(),
        }
    }

    /// The state that a snapshot holds; its history begins behind it.
    pub fn from_image(image: Image) -> Self {
        let history = Changes::behind(image.revision);
        let mut state = Self { revision: image.revision, history, ..Self::default() };
        for (session, ttl) in image.sessions {
            state.sessions.insert(session, Session { ttl, keys: BTreeSet::new() });
        }
        for record in image.records {
            if let Some(session) = record.session.and_then(|s| state.sessions.get_mut(&s)) {
                session.keys.insert(record.key.clone());
            }
            state.records.insert(
                record.key,
                Record {
                    value: record.value,
                    create_revision: record.create_revision,
                    mod_revision: record.mod_revision,
                    version: record.version,
                    session: record.session,
                },
            );
        }
        state
    }

    fn txn(&mut self, txn: &Txn) -> Result<TxnOutcome, StoreError> {
        txn.check()?;
        for op in &txn.ops {
            if let Op::Put { session: Some(session), .. } = op
                && !self.sessions.contains_key(session)
            {
                return Err(StoreError::SessionGone(*session));
            }
        }
        let holds = |key: &Bytes, condition: Condition| {
            let record = self.records.get(key);
            match condition {
                Condition::ModRevision(revision) => record.is_some_and(|r| r.mod_revision == revision),
                Condition::CreateRevision(revision) => record.is_some_and(|r| r.create_revision == revision),
                Condition::Absent => record.is_none(),
                Condition::Present => record.is_some(),
            }
        };
        if !txn.compares.iter().all(|compare| holds(&compare.key, compare.condition)) {
            return Ok(TxnOutcome::Conflict);
        }
        let revision = self.revision.next();
        let mut changed = false;
        for op in &txn.ops {
            match op {
                Op::Put { key, value, session } => {
                    self.put(key, value, *session, revision);
                    changed = true;
                }
                Op::Delete { key } => changed |= self.delete(key, revision),
            }
        }
        if changed {
            self.advance(revision);
        }
        Ok(TxnOutcome::Committed { revision: self.revision })
    }

    fn put(&mut self, key: &Bytes, value: &Bytes, session: Option<SessionId>, revision: Revision) {
        let before = self.records.get(key);
        self.unbind(key, before.and_then(|r| r.session));
        let before = self.records.get(key);
        let record = Record {
            value: value.clone(),
            create_revision: before.map_or(revision, |r| r.create_revision),
            mod_revision: revision,
            version: before.map_or(0, |r| r.version) + 1,
            session,
        };
        if let Some(session) = session.and_then(|s| self.sessions.get_mut(&s)) {
            session.keys.insert(key.clone());
        }
        self.history.push(Event::Put(record.named(key.clone())));
        self.records.insert(key.clone(), record);
    }

    fn delete(&mut self, key: &Bytes, revision: Revision) -> bool {
        let Some(record) = self.records.remove(key) else { return false };
        self.unbind(key, record.session);
        self.history.push(Event::Delete { key: key.clone(), revision });
        true
    }

    fn unbind(&mut self, key: &Bytes, session: Option<SessionId>) {
        if let Some(session) = session.and_then(|s| self.sessions.get_mut(&s)) {
            session.keys.remove(key);
        }
    }

    fn create_session(&mut self, session: SessionId, ttl: Duration) -> Result<(), StoreError> {
        if ttl < SESSION_TTL.0 || ttl > SESSION_TTL.1 {
            return Err(Refusal::TimeToLive(ttl).into());
        }
        self.sessions.entry(session).or_insert_with(|| Session { ttl, keys: BTreeSet::new() });
        Ok(())
    }

    fn end_session(&mut self, session: SessionId) {
        let Some(ended) = self.sessions.remove(&session) else { return };
        if ended.keys.is_empty() {
            return;
        }
        let revision = self.revision.next();
        for key in &ended.keys {
            self.delete(key, revision);
        }
        self.advance(revision);
    }

    /// Ends a revision.
    fn advance(&mut self, revision: Revision) {
        self.revision = revision;
        self.history.trim(revision);
    }
}

impl Record {
    fn named(&self, key: Bytes) -> KeyValue {
        KeyValue {
            key,
            value: self.value.clone(),
            create_revision: self.create_revision,
            mod_revision: self.mod_revision,
            version: self.version,
            session: self.session,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(state: &mut State, key: &str, bytes: usize) {
        let txn = Txn::new().put(Bytes::copy_from_slice(key.as_bytes()), vec![0; bytes].into());
        assert!(matches!(state.apply(&Command::Txn(txn)), Ok(Applied::Txn(TxnOutcome::Committed { .. }))));
    }

    #[test]
    fn an_image_gives_the_same_state() {
        let mut state = State::new();
        let session = SessionId::new(alluvium_runtime::entropy::Entropy::seeded(1).uuid());
        let ttl = Duration::from_secs(1);
        assert_eq!(state.apply(&Command::CreateSession { session, ttl }), Ok(Applied::Done));
        let bound = Txn::new().put_bound(Bytes::from_static(b"bound"), Bytes::new(), session);
        assert!(state.apply(&Command::Txn(bound)).is_ok());
        put(&mut state, "k", 10);
        put(&mut state, "k", 20);
        let mut restored = State::from_image(state.image());
        assert_eq!(restored.image(), state.image());
        // The binding is restored too.
        for state in [&mut state, &mut restored] {
            assert_eq!(state.apply(&Command::EndSession { session }), Ok(Applied::Done));
        }
        assert_eq!(restored.image(), state.image());
        assert_eq!(restored.image().records.len(), 1);
    }
}
