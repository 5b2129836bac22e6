//! Live brokers, each under its session, and the proof of being one that every decision carries (M2).

use std::marker::PhantomData;
use std::time::Duration;

use alluvium_proto::internal::v1 as wire;
use alluvium_types::ids::{Revision, SessionId};
use alluvium_types::names::BrokerName;
use alluvium_types::time::Timestamp;
use tokio::sync::watch;

use crate::client::{Decided, Metadata, Witness};
use crate::error::{ReadError, UpdateError};
use crate::keys::Key;
use crate::live::{Live, View};
use crate::record::{self, Record, Versioned, uuid_bytes, uuid_from};
use crate::session::Session;
use crate::store::{Condition, Txn};

/// The most that a broker's weight can be.
pub const WEIGHT_MAX: u32 = 1000;
/// The weight of a broker that says nothing of it.
pub const WEIGHT_DEFAULT: u32 = 100;
/// How an error names a broker.
const BROKER: &str = "the broker";

/// A live broker.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Broker {
    /// The session it lives by.
    pub session: SessionId,
    /// Where clients reach it.
    pub address: String,
    /// Where other servers reach it.
    pub internal_address: String,
    /// Its share of the partitions, beside those of other brokers: at most [`WEIGHT_MAX`], 0 to be preferred for none.
    pub weight: u32,
    /// It hands over what it owns and takes nothing new.
    pub draining: bool,
    /// When its session began, by its own clock.
    pub since: Timestamp,
}

/// What a broker says of itself when it registers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewBroker {
    /// Where clients reach it.
    pub address: String,
    /// Where other servers reach it.
    pub internal_address: String,
    /// Its share of the partitions: at most [`WEIGHT_MAX`].
    pub weight: u32,
    /// Whether it hands over what it owns: an operator said so in its session before, in the same life of its process.
    pub draining: bool,
}

/// What to do about a registration of the same name that still stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IfRegistered {
    /// Fail with [`UpdateError::Exists`]: it may be another process.
    Refuse,
    /// End its session: the caller knows that it was its own, because it holds the lock of the data directory.
    EndIt,
}

/// Who decides, and the revision of its session's key: every ownership decision compares it (M2).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Decider {
    /// The broker.
    pub broker: BrokerName,
    /// Its session.
    pub session: SessionId,
    /// The revision that created its session's key.
    pub create_revision: Revision,
}

impl Decider {
    /// Adds the compare to a transaction.
    pub(crate) fn guard(&self, txn: Txn) -> Txn {
        txn.when(Key::LiveBroker(&self.broker).encode(), Condition::CreateRevision(self.create_revision))
    }
}

/// A broker's own registration.
#[derive(Clone, Debug)]
pub struct Registration {
    /// Its session.
    pub session: Session,
    /// What its decisions carry.
    pub decider: Decider,
}

/// The repository of live brokers.
#[derive(Clone, Debug)]
pub struct Brokers(Metadata);

impl Metadata {
    /// Live brokers.
    pub fn brokers(&self) -> Brokers {
        Brokers(self.clone())
    }
}

impl Brokers {
    /// Begins a session and registers the broker under it. What the broker owned in an earlier session is not its own any more. A
    /// weight above [`WEIGHT_MAX`] is refused.
    pub async fn register(
        &self,
        name: &BrokerName,
        new: &NewBroker,
        ttl: Duration,
        if_registered: IfRegistered,
    ) -> Result<Registration, UpdateError> {
        let NewBroker { address, internal_address, weight, draining } = new.clone();
        check_weight(weight)?;
        let session = self.0.begin_session(ttl).await?;
        let broker = Broker { session: session.id(), address, internal_address, weight, draining, since: self.0.clock().wall() };
        let registered = self.put(name, &broker, if_registered).await;
        match registered {
            Ok(create_revision) => {
                let decider = Decider { broker: name.clone(), session: session.id(), create_revision };
                Ok(Registration { session, decider })
            }
            Err(error) => {
                // Best effort: it expires by itself.
                let _ = session.end().await;
                Err(error)
            }
        }
    }

    async fn put(&self, name: &BrokerName, broker: &Broker, if_registered: IfRegistered) -> Result<Revision, UpdateError> {
        loop {
            let (key, nonce) = (Key::LiveBroker(name).encode(), self.0.nonce());
            let txn = Txn::new().when(key.clone(), Condition::Absent).put_bound(
                key.clone(),
                record::encode(broker, nonce),
                broker.session,
            );
            if let Decided::Committed(revision) = self.0.commit(&txn, &Witness::Nonce { key, nonce }).await? {
                return Ok(revision);
            }
            match (if_registered, self.get(name).await?) {
                (_, None) => {}
                (IfRegistered::EndIt, Some(old)) => self.0.end_session(old.value.session).await?,
                (IfRegistered::Refuse, Some(_)) => return Err(UpdateError::Exists { what: BROKER }),
            }
        }
    }

    /// A broker, if it is alive. Linearizable: its absence means that its session has ended or expired.
    pub async fn get(&self, name: &BrokerName) -> Result<Option<Versioned<Broker>>, ReadError> {
        self.0.read(Key::LiveBroker(name)).await
    }

    /// Says whether a broker hands over what it owns, for as long as its session lives (M2); [`UpdateError::SessionGone`] once that
    /// has ended. To say what it says already changes nothing.
    pub async fn set_draining(&self, decider: &Decider, draining: bool) -> Result<(), UpdateError> {
        loop {
            let found = self.get(&decider.broker).await?;
            let found = found.filter(|f| f.create_revision == decider.create_revision).ok_or(UpdateError::SessionGone)?;
            if found.value.draining == draining {
                return Ok(());
            }
            let (key, nonce) = (Key::LiveBroker(&decider.broker).encode(), self.0.nonce());
            let broker = Broker { draining, ..found.value };
            let txn = Txn::new().when(key.clone(), Condition::ModRevision(found.mod_revision)).put_bound(
                key.clone(),
                record::encode(&broker, nonce),
                broker.session,
            );
            if let Decided::Committed(_) = self.0.commit(&txn, &Witness::Nonce { key, nonce }).await? {
                return Ok(());
            }
            // Somebody else has said something, or the session is gone: look again.
        }
    }

    /// Follows who is alive. The view may be behind and decides nothing.
    pub async fn watch(&self) -> Result<watch::Receiver<Live<BrokerName, Broker>>, ReadError> {
        let view = View { prefix: Key::LiveBrokers, name: |name| BrokerName::parse(name).ok(), record: PhantomData };
        view.follow(&self.0).await
    }
}

const fn check_weight(weight: u32) -> Result<(), UpdateError> {
    if weight > WEIGHT_MAX {
        return Err(UpdateError::Illegal { what: BROKER, problem: "a broker's weight is 0 to 1000" });
    }
    Ok(())
}

impl Record for Broker {
    type Wire = wire::BrokerRecord;

    fn to_wire(&self) -> Self::Wire {
        wire::BrokerRecord {
            session_id: uuid_bytes(self.session.get()),
            address: self.address.clone(),
            internal_address: self.internal_address.clone(),
            weight: Some(self.weight),
            draining: self.draining,
            since_ms: self.since.as_millis(),
        }
    }

    fn from_wire(wire: Self::Wire) -> Result<Self, String> {
        let weight = wire.weight.unwrap_or(WEIGHT_DEFAULT);
        check_weight(weight).map_err(|error| error.to_string())?;
        Ok(Self {
            session: SessionId::new(uuid_from(&wire.session_id)?),
            address: wire.address,
            internal_address: wire.internal_address,
            weight,
            draining: wire.draining,
            since: Timestamp::from_millis(wire.since_ms),
        })
    }
}
