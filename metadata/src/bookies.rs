//! Bookies: who bears a name across its lives (B11), and who is alive.

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::time::Duration;

use alluvium_proto::internal::v1 as wire;
use alluvium_types::ids::{ClusterId, Incarnation, SessionId};
use alluvium_types::ledger::BookieId;
use alluvium_types::names::{BookieName, ZoneName};
use alluvium_types::time::Timestamp;
use tokio::sync::watch;

use crate::client::{Decided, Metadata, Witness};
use crate::error::{ReadError, UpdateError};
use crate::keys::{self, Key};
use crate::live::{Live, View};
use crate::record::{self, Listing, Record, Versioned, uuid_bytes, uuid_from};
use crate::session::Session;
use crate::store::{Condition, Txn};

/// How an error names a bookie.
const BOOKIE: &str = "the bookie";

/// Which data directory bears a bookie's name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BookieIdentity {
    /// The life of its data directory.
    pub incarnation: Incarnation,
    /// The cluster it belongs to.
    pub cluster: ClusterId,
    /// Since when.
    pub since: Timestamp,
}

/// What a live bookie says of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BookieInfo {
    /// Its failure domain, if it has one.
    pub zone: Option<ZoneName>,
    /// Where it is reached.
    pub address: String,
    /// Whether it takes ledgers of class bulk; read-only bookies still take essential ones (C61).
    pub writable: bool,
    /// All the space it has, in bytes.
    pub total_bytes: u64,
    /// What is left of it, in bytes.
    pub available_bytes: u64,
}

/// A live bookie.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LiveBookie {
    /// The life of its data directory.
    pub incarnation: Incarnation,
    /// The session it lives by.
    pub session: SessionId,
    /// What it says of itself.
    pub info: BookieInfo,
}

/// Whether this bookie is among those that live, and with the directory that is meant.
pub fn lives(live: &BTreeMap<BookieName, LiveBookie>, bookie: &BookieId) -> bool {
    live.get(&bookie.name).is_some_and(|live| live.incarnation == bookie.incarnation)
}

/// The repository of bookies.
#[derive(Clone, Debug)]
pub struct Bookies(Metadata);

/// A bookie's own registration.
#[derive(Clone, Debug)]
pub struct BookieRegistration {
    metadata: Metadata,
    id: BookieId,
    session: Session,
}

impl Metadata {
    /// Bookies.
    pub fn bookies(&self) -> Bookies {
        Bookies(self.clone())
    }
}

impl Bookies {
    /// Whose name this is, across lives.
    pub async fn identity(&self, name: &BookieName) -> Result<Option<Versioned<BookieIdentity>>, ReadError> {
        self.0.read(Key::BookieIdentity(name)).await
    }

    /// Takes a name that nobody bears, for a fresh data directory; [`UpdateError::Exists`] when another directory bears it.
    /// The same directory may ask again.
    pub async fn claim_identity(&self, id: &BookieId, cluster: ClusterId) -> Result<Versioned<BookieIdentity>, UpdateError> {
        let identity = BookieIdentity { incarnation: id.incarnation, cluster, since: self.0.clock().wall() };
        let (key, nonce) = (Key::BookieIdentity(&id.name).encode(), self.0.nonce());
        let txn = Txn::new().when(key.clone(), Condition::Absent).put(key.clone(), record::encode(&identity, nonce));
        match self.0.commit(&txn, &Witness::Nonce { key, nonce }).await? {
            Decided::Committed(revision) => Ok(Versioned::created(identity, revision)),
            Decided::Conflict => match self.identity(&id.name).await? {
                Some(found) if found.value.incarnation == id.incarnation => Ok(found),
                _ => Err(UpdateError::Exists { what: BOOKIE }),
            },
        }
    }

    /// Gives a name to another data directory: the old one, and all it held, is a bookie that is gone (B11). An operator's
    /// decision.
    pub async fn replace_identity(
        &self,
        id: &BookieId,
        read: &Versioned<BookieIdentity>,
    ) -> Result<Versioned<BookieIdentity>, UpdateError> {
        let identity = BookieIdentity { incarnation: id.incarnation, cluster: read.value.cluster, since: self.0.clock().wall() };
        let (key, nonce) = (Key::BookieIdentity(&id.name).encode(), self.0.nonce());
        let txn = Txn::new()
            .when(key.clone(), Condition::ModRevision(read.mod_revision))
            .put(key.clone(), record::encode(&identity, nonce));
        match self.0.commit(&txn, &Witness::Nonce { key, nonce }).await? {
            Decided::Committed(revision) => Ok(read.rewritten(identity, revision)),
            Decided::Conflict => Err(UpdateError::Conflict { what: BOOKIE }),
        }
    }

    /// All bookies ever known, in name order, behind `after`.
    pub async fn list(
        &self,
        after: Option<&BookieName>,
        limit: usize,
    ) -> Result<Listing<(BookieName, Versioned<BookieIdentity>), BookieName>, ReadError> {
        let after = after.map(|name| Key::BookieIdentity(name).encode());
        let page = self.0.page(Key::BookieIdentities, after, limit).await?.value;
        record::listing(page, |found| {
            let name = keys::rest_of(&found.key, &Key::BookieIdentities)?;
            BookieName::parse(&name).ok()
        })
    }

    /// Begins a session and registers the bookie under it. A registration of an earlier session of the same data directory is
    /// replaced; one of another directory is [`UpdateError::Exists`]. The name must have been taken by this directory.
    pub async fn register(&self, id: &BookieId, info: &BookieInfo, ttl: Duration) -> Result<BookieRegistration, UpdateError> {
        let session = self.0.begin_session(ttl).await?;
        let registration = BookieRegistration { metadata: self.0.clone(), id: id.clone(), session };
        match registration.update(info).await {
            Ok(()) => Ok(registration),
            Err(error) => {
                // Best effort: it expires by itself.
                let _ = registration.session.end().await;
                Err(error)
            }
        }
    }

    /// Registers the bookie, and again under a new session whenever it was lost, with whatever `info` says, until the process
    /// stops. Resolves only then, or when another data directory bears the name; says goodbye at the end.
    pub async fn keep_registered(
        &self,
        id: &BookieId,
        mut info: watch::Receiver<BookieInfo>,
        ttl: Duration,
    ) -> Result<(), UpdateError> {
        let mut backoff = self.0.backoff();
        loop {
            let said = info.borrow_and_update().clone();
            let registered = self.register(id, &said, ttl).await;
            let ended = match registered {
                Ok(registration) => {
                    tracing::info!(bookie = %id, session = %registration.session.id(), "registered");
                    backoff.reset();
                    registration.follow(&mut info).await
                }
                Err(error) => Err(error),
            };
            match ended {
                Ok(()) => return Ok(()),
                Err(error @ (UpdateError::Exists { .. } | UpdateError::NotFound { .. })) => return Err(error),
                Err(UpdateError::Stopping | UpdateError::Unresolved) => return Ok(()),
                Err(error) => tracing::warn!(bookie = %id, %error, "not registered, trying again"),
            }
            if !self.0.pause(&mut backoff).await {
                return Ok(());
            }
        }
    }

    /// A bookie, if it is alive. Linearizable.
    pub async fn live(&self, name: &BookieName) -> Result<Option<Versioned<LiveBookie>>, ReadError> {
        self.0.read(Key::LiveBookie(name)).await
    }

    /// Follows who is alive. The view may be behind and decides nothing.
    pub async fn watch(&self) -> Result<watch::Receiver<Live<BookieName, LiveBookie>>, ReadError> {
        let view = View { prefix: Key::LiveBookies, name: |name| BookieName::parse(name).ok(), record: PhantomData };
        view.follow(&self.0).await
    }
}

impl BookieRegistration {
    /// Its session.
    pub const fn session(&self) -> &Session {
        &self.session
    }

    /// Says something new of the bookie. [`UpdateError::SessionGone`]: register again.
    pub async fn update(&self, info: &BookieInfo) -> Result<(), UpdateError> {
        let live = LiveBookie { incarnation: self.id.incarnation, session: self.session.id(), info: info.clone() };
        loop {
            let identity = self.metadata.bookies().identity(&self.id.name).await?;
            let identity = identity.ok_or(UpdateError::NotFound { what: BOOKIE })?;
            if identity.value.incarnation != self.id.incarnation {
                return Err(UpdateError::Exists { what: BOOKIE });
            }
            let (key, nonce) = (Key::LiveBookie(&self.id.name).encode(), self.metadata.nonce());
            let before = self.metadata.bookies().live(&self.id.name).await?;
            let condition = before.map_or(Condition::Absent, |found| Condition::ModRevision(found.mod_revision));
            let txn = Txn::new()
                .when(key.clone(), condition)
                .when(Key::BookieIdentity(&self.id.name).encode(), Condition::ModRevision(identity.mod_revision))
                .put_bound(key.clone(), record::encode(&live, nonce), self.session.id());
            if let Decided::Committed(_) = self.metadata.commit(&txn, &Witness::Nonce { key, nonce }).await? {
                return Ok(());
            }
            // The key vanished or changed meanwhile: look again. Only this directory's registrations are written over.
        }
    }

    /// Says goodbye.
    pub async fn end(self) -> Result<(), UpdateError> {
        self.session.end().await
    }

    /// Says what is new until the session is lost (an error) or the process stops.
    async fn follow(self, info: &mut watch::Receiver<BookieInfo>) -> Result<(), UpdateError> {
        loop {
            let tasks = self.metadata.tasks().clone();
            tokio::select! {
                biased;
                () = tasks.stopping() => {
                    // Best effort: it expires by itself.
                    let _ = self.session.end().await;
                    return Ok(());
                }
                () = self.session.gone() => return Err(UpdateError::SessionGone),
                changed = info.changed() => {
                    if changed.is_err() {
                        let _ = self.session.end().await;
                        return Ok(());
                    }
                    let said = info.borrow_and_update().clone();
                    self.update(&said).await?;
                }
            }
        }
    }
}

impl Record for BookieIdentity {
    type Wire = wire::BookieIdentityRecord;

    fn to_wire(&self) -> Self::Wire {
        wire::BookieIdentityRecord {
            incarnation: uuid_bytes(self.incarnation.get()),
            cluster_id: uuid_bytes(self.cluster.get()),
            since_ms: self.since.as_millis(),
        }
    }

    fn from_wire(wire: Self::Wire) -> Result<Self, String> {
        Ok(Self {
            incarnation: Incarnation::new(uuid_from(&wire.incarnation)?),
            cluster: ClusterId::new(uuid_from(&wire.cluster_id)?),
            since: Timestamp::from_millis(wire.since_ms),
        })
    }
}

impl Record for LiveBookie {
    type Wire = wire::BookieRecord;

    fn to_wire(&self) -> Self::Wire {
        let info = &self.info;
        wire::BookieRecord {
            incarnation: uuid_bytes(self.incarnation.get()),
            session_id: uuid_bytes(self.session.get()),
            zone: info.zone.as_ref().map_or_else(String::new, ToString::to_string),
            address: info.address.clone(),
            writable: info.writable,
            total_bytes: info.total_bytes,
            available_bytes: info.available_bytes,
        }
    }

    fn from_wire(wire: Self::Wire) -> Result<Self, String> {
        let zone = match wire.zone.as_str() {
            "" => None,
            zone => Some(ZoneName::parse(zone).map_err(|error| error.to_string())?),
        };
        Ok(Self {
            incarnation: Incarnation::new(uuid_from(&wire.incarnation)?),
            session: SessionId::new(uuid_from(&wire.session_id)?),
            info: BookieInfo {
                zone,
                address: wire.address,
                writable: wire.writable,
                total_bytes: wire.total_bytes,
                available_bytes: wire.available_bytes,
            },
        })
    }
}
