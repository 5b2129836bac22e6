//! The auditor: the one broker that looks after what nobody owns, and lets history go.

use alluvium_proto::internal::v1 as wire;
use alluvium_types::ids::{Revision, SessionId};
use alluvium_types::names::BrokerName;
use alluvium_types::time::Timestamp;

use crate::brokers::Decider;
use crate::client::{Decided, Metadata, Witness};
use crate::error::{ReadError, UpdateError};
use crate::keys::Key;
use crate::record::{self, Record, Versioned, uuid_bytes, uuid_from};
use crate::store::{Condition, Txn};

/// Who looks after what nobody owns. Nothing rests on there being only one: what it decides is compared like anyone's.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Auditor {
    /// The broker.
    pub broker: BrokerName,
    /// Its session, with which the office ends.
    pub session: SessionId,
    /// What it found when it last looked at all ledgers; `None` before that.
    pub audit: Option<Audit>,
}

/// What a look at all ledgers' records found. Deleted ones are not counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Audit {
    /// When it was finished.
    pub finished: Timestamp,
    /// How many ledgers there were.
    pub ledgers: u64,
    /// Of these, how many are short of copies by their records.
    pub under_replicated: u64,
    /// How many name bookies that were not alive.
    pub on_absent_bookies: u64,
}

/// The repository of that office.
#[derive(Clone, Debug)]
pub struct Auditors(Metadata);

impl Metadata {
    /// The office of the auditor.
    pub fn auditors(&self) -> Auditors {
        Auditors(self.clone())
    }
}

impl Auditors {
    /// Who holds the office.
    pub async fn get(&self) -> Result<Option<Versioned<Auditor>>, ReadError> {
        self.0.read(Key::Auditor).await
    }

    /// Takes the office if it is free; says whether the decider holds it now.
    pub async fn run_for(&self, decider: &Decider) -> Result<bool, UpdateError> {
        let auditor = Auditor { broker: decider.broker.clone(), session: decider.session, audit: None };
        let (key, nonce) = (Key::Auditor.encode(), self.0.nonce());
        let txn = Txn::new().when(key.clone(), Condition::Absent).put_bound(
            key.clone(),
            record::encode(&auditor, nonce),
            decider.session,
        );
        match self.0.commit(&decider.guard(txn), &Witness::Nonce { key, nonce }).await? {
            Decided::Committed(_) => Ok(true),
            Decided::Conflict => Ok(self.get().await?.is_some_and(|now| now.value.session == decider.session)),
        }
    }

    /// Says what was found, for as long as the decider holds the office; [`UpdateError::SessionGone`] when it does not.
    pub async fn report(&self, decider: &Decider, audit: Audit) -> Result<(), UpdateError> {
        let found = self.get().await?.filter(|found| found.value.session == decider.session);
        let found = found.ok_or(UpdateError::SessionGone)?;
        let (key, nonce) = (Key::Auditor.encode(), self.0.nonce());
        let auditor = Auditor { audit: Some(audit), ..found.value };
        let txn = Txn::new().when(key.clone(), Condition::ModRevision(found.mod_revision)).put_bound(
            key.clone(),
            record::encode(&auditor, nonce),
            decider.session,
        );
        match self.0.commit(&decider.guard(txn), &Witness::Nonce { key, nonce }).await? {
            Decided::Committed(_) => Ok(()),
            Decided::Conflict => Err(UpdateError::SessionGone),
        }
    }

    /// Lets all history go but the newest `revisions`. Watches that are further behind list anew (M5).
    pub async fn compact(&self, revisions: u64) -> Result<(), ReadError> {
        let unavailable = ReadError::Unavailable;
        let newest = self.0.store().revision().await.map_err(unavailable)?;
        let oldest = Revision::new(newest.get().saturating_sub(revisions));
        self.0.store().compact(oldest).await.map_err(unavailable)
    }
}

impl Record for Auditor {
    type Wire = wire::AuditorRecord;

    fn to_wire(&self) -> Self::Wire {
        let audit = |audit: Audit| wire::AuditRecord {
            finished_ms: audit.finished.as_millis(),
            ledgers: audit.ledgers,
            under_replicated: audit.under_replicated,
            on_absent_bookies: audit.on_absent_bookies,
        };
        wire::AuditorRecord {
            broker: self.broker.to_string(),
            session_id: uuid_bytes(self.session.get()),
            audit: self.audit.map(audit),
        }
    }

    fn from_wire(wire: Self::Wire) -> Result<Self, String> {
        Ok(Self {
            broker: BrokerName::parse(&wire.broker).map_err(|error| error.to_string())?,
            session: SessionId::new(uuid_from(&wire.session_id)?),
            audit: wire.audit.map(|audit| Audit {
                finished: Timestamp::from_millis(audit.finished_ms),
                ledgers: audit.ledgers,
                under_replicated: audit.under_replicated,
                on_absent_bookies: audit.on_absent_bookies,
            }),
        })
    }
}
