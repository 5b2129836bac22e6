//! Ledgers for who works with them: create, write, recover, read, find, delete. The shell round the machines.
//!
//! A ledger's life: [`LedgerClient::prepare`] opens it on bookies; the caller commits its record together with whatever lists it
//! (M1); [`Prepared::start`] gives its [`LedgerWriter`]; that closes it, or [`LedgerClient::recover`] does.

mod tail;
mod writer;

use std::fmt;
use std::sync::Arc;

use alluvium_metadata::ledgers::Ledgers;
use alluvium_metadata::{Metadata, ReadError, UpdateError, Versioned};
use alluvium_runtime::clock::Clock;
use alluvium_runtime::entropy::Entropy;
use alluvium_runtime::tasks::Tasks;
use alluvium_types::bookie::StoredEntry;
use alluvium_types::ids::{Epoch, LedgerId};
use alluvium_types::ledger::{LedgerClass, LedgerMetadata, LedgerState};
use alluvium_types::limits::Limits;
use alluvium_types::replication::Replication;

use crate::bookie_client::Connector;
use crate::call::Record;
use crate::config::Config;
use crate::drive::{Drive, World};
use crate::metrics::Metrics;
use crate::open::{self, Creation, CreationFailure, LedgerSpec};
use crate::pool::BookiePool;
use crate::reader::{RangeRead, ReadFailure, ReadRange};
use crate::recovery::{self, Recovery, RecoveryFailure};
use crate::writer::Writer;

pub use tail::{Deletion, FindError};
pub use writer::{Append, AppendError, Confirmed, End, LedgerWriter, Lost, Unconfirmed};

/// A cheap handle to all ledgers.
#[derive(Clone)]
pub struct LedgerClient(Arc<Inner>);

struct Inner {
    world: World,
    entropy: Entropy,
    tasks: Tasks,
    limits: Limits,
    config: Config,
    metrics: Metrics,
}

impl fmt::Debug for LedgerClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LedgerClient").field("pool", &self.0.world.pool).finish_non_exhaustive()
    }
}

/// What ledger is wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NewLedger {
    /// The claim under which it is written.
    pub epoch: Epoch,
    /// What it is for.
    pub class: LedgerClass,
    /// What it should be built with; smaller where too few bookies live (C63).
    pub wanted: Replication,
}

/// Why a ledger could not be created. Nothing of it exists then.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PrepareError {
    /// No id could be had.
    #[error("no id could be had")]
    Id(#[source] UpdateError),
    /// The bookies did not do.
    #[error(transparent)]
    Bookies(CreationFailure),
}

impl PrepareError {
    /// Whether the same call may succeed later.
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Id(error) => error.is_retryable(),
            Self::Bookies(CreationFailure::TooFewBookies(_)) => true,
            Self::Bookies(CreationFailure::Superseded) => false,
        }
    }
}

/// Why a ledger could not be recovered. Nothing was decided, or it was decided that there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("cannot recover ledger {ledger}")]
pub struct RecoverError {
    /// Which ledger.
    pub ledger: LedgerId,
    /// Why.
    #[source]
    pub failure: RecoveryFailure,
}

impl RecoverError {
    /// Whether the same call may succeed later.
    pub const fn is_retryable(&self) -> bool {
        self.failure.is_retryable()
    }
}

/// What comes before a ledger in its log, as far as its first add depends on it: proof that no hole can open (C66).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Predecessor(());

/// The ledger before is not closed: it might still end earlier than its writer believes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("ledger {0} is not closed")]
pub struct NotClosed(pub LedgerId);

impl Predecessor {
    /// Nothing that this ledger continues: the first of a log, or the next state ledger, whose pointer says when it counts (C64).
    pub const NONE: Self = Self(());

    /// The ledger that this one continues, closed in metadata (C66).
    pub const fn closed(record: &Versioned<LedgerMetadata>) -> Result<Self, NotClosed> {
        match record.value.closed_at() {
            Some(_) => Ok(Self(())),
            None => Err(NotClosed(record.value.ledger)),
        }
    }
}

/// A ledger that is open on its bookies and has no record yet. Dropping it leaves nothing but an empty ledger on them, which
/// nobody will ever name.
#[must_use = "commit its record and start it, or abandon it"]
#[derive(Debug)]
pub struct Prepared {
    client: LedgerClient,
    metadata: LedgerMetadata,
}

impl LedgerClient {
    /// Follows the bookies that metadata says are alive, and reaches them through `connector`.
    pub async fn start(
        metadata: &Metadata,
        connector: Arc<dyn Connector>,
        entropy: Entropy,
        tasks: Tasks,
        limits: Limits,
        config: Config,
    ) -> Result<Self, ReadError> {
        let view = metadata.bookies().watch().await?;
        let clock = metadata.clock().clone();
        let pool = BookiePool::new(view, connector, clock.clone(), std::time::Duration::from_millis(config.quarantine_ms));
        Ok(Self::with_pool(pool, metadata.ledgers(), clock, entropy, tasks, limits, config))
    }

    /// The same over a pool that there is already.
    pub fn with_pool(
        pool: BookiePool,
        ledgers: Ledgers,
        clock: Clock,
        entropy: Entropy,
        tasks: Tasks,
        limits: Limits,
        config: Config,
    ) -> Self {
        let world = World { pool, ledgers, clock };
        Self(Arc::new(Inner { world, entropy, tasks, limits, config, metrics: Metrics::new() }))
    }

    /// The figures of this process's work with ledgers.
    pub fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// The bookies.
    pub fn pool(&self) -> &BookiePool {
        &self.0.world.pool
    }

    /// The records of ledgers.
    pub fn ledgers(&self) -> &Ledgers {
        &self.0.world.ledgers
    }

    /// Allocates an id, chooses bookies and opens the ledger on them (C68). Its record is the caller's to commit, in the
    /// transaction that lists it (M1). Cancel safe: what was opened is never named.
    pub async fn prepare(&self, new: NewLedger) -> Result<Prepared, PrepareError> {
        let Inner { world, entropy, config, .. } = &*self.0;
        let ledger = world.ledgers.allocate().await.map_err(PrepareError::Id)?;
        let NewLedger { epoch, class, wanted } = new;
        let spec = LedgerSpec { ledger, epoch, class, wanted };
        let machine = Creation::new(world.clock.mono(), config.open(), spec, world.pool.candidates(), entropy.clone());
        match Drive::new(machine, world.clone(), None).run().await.0 {
            open::Notice::Opened { metadata, zones_shared } => {
                self.0.metrics.prepared.inc();
                if metadata.replication != wanted {
                    self.0.metrics.prepared_degraded.inc();
                }
                if metadata.replication != wanted || zones_shared {
                    let built = metadata.replication;
                    tracing::warn!(%ledger, %wanted, %built, zones_shared, "too few bookies or zones for what is wanted");
                }
                Ok(Prepared { client: self.clone(), metadata })
            }
            open::Notice::Failed(failure) => Err(PrepareError::Bookies(failure)),
        }
    }

    /// Finds out where a ledger ends and closes it there, whatever its writer does; the record of one that is closed already is
    /// an answer (C14). Whoever calls it ends the ledger's writer, so only the owner of its partition does, or who has proof that
    /// there is none (C22). Cancel safe: another recovery takes over.
    pub async fn recover(&self, ledger: LedgerId) -> Result<Versioned<LedgerMetadata>, RecoverError> {
        let Inner { world, entropy, config, .. } = &*self.0;
        let machine = Recovery::new(world.clock.mono(), config.recovery(), ledger, world.pool.candidates(), entropy.clone());
        match Drive::new(machine, world.clone(), None).run().await {
            (recovery::Notice::Closed(record), known) => {
                self.0.metrics.recovered.inc();
                let last = record.metadata.closed_at().flatten();
                tracing::info!(%ledger, ?last, number = %record.metadata.recovery, "the ledger is closed");
                let create_revision = known.map_or(record.revision, |known| known.create_revision);
                Ok(Versioned { value: record.metadata, mod_revision: record.revision, create_revision })
            }
            (recovery::Notice::Failed(failure), _) => {
                self.0.metrics.recoveries_failed.inc();
                Err(RecoverError { ledger, failure })
            }
        }
    }

    /// Reads entries: the longest run from the first one on that could be read within the budget, never past the LAC or the end
    /// (L7), never with a gap (T6). Cancel safe.
    pub async fn read(&self, metadata: &LedgerMetadata, range: ReadRange) -> Result<Vec<StoredEntry>, ReadFailure> {
        let Inner { world, entropy, config, .. } = &*self.0;
        let machine = RangeRead::new(world.clock.mono(), config.read(), metadata.clone(), range, entropy.clone());
        let read = Drive::new(machine, world.clone(), None).run().await.0;
        match &read {
            Ok(entries) => drop(self.0.metrics.read.inc_by(entries.len() as u64)),
            Err(ReadFailure::Unreadable { .. }) => drop(self.0.metrics.unreadable.inc()),
            Err(ReadFailure::Beyond { .. } | ReadFailure::Empty | ReadFailure::Deleted(_)) => {}
        }
        read
    }
}

impl Prepared {
    /// The record to commit.
    pub const fn metadata(&self) -> &LedgerMetadata {
        &self.metadata
    }

    /// The ledger's writer, once its record is committed. `after` is proof that what it continues is closed (C66).
    ///
    /// # Panics
    /// If the record is not the one that was prepared.
    pub fn start(self, record: Versioned<LedgerMetadata>, after: Predecessor) -> LedgerWriter {
        assert_eq!(record.value, self.metadata, "the record that is committed is the one that was prepared");
        // The proof is all there is to it.
        let Predecessor(()) = after;
        let Inner { world, entropy, tasks, limits, config, metrics } = &*self.client.0;
        let machine = Writer::new(config.writer(*limits), Record::from(record.clone()), world.pool.candidates(), entropy.clone());
        writer::spawn(Drive::new(machine, world.clone(), Some(record)), tasks, config.writer_bytes_max, metrics.clone())
    }

    /// Gives the ledger up: a tombstone is put where its record would be, so that bookies have proof that its open marks may go
    /// (B9), and they are asked to let it go. If its record was committed after all, or a step fails, it is left as it is: an empty
    /// ledger whose id nobody uses again.
    pub async fn abandon(self) {
        let ledger = self.metadata.ledger;
        match self.bury().await {
            Ok(()) => self.client.delete(&self.metadata).await,
            Err(error) => tracing::warn!(%ledger, %error, "an abandoned ledger keeps its open marks on its bookies"),
        }
    }

    async fn bury(&self) -> Result<(), UpdateError> {
        let ledgers = self.client.ledgers();
        // Creation compares: a record that exists is somebody's.
        let record = ledgers.create(self.metadata.clone()).await?;
        let closed = LedgerMetadata { state: LedgerState::Closed { last: None }, ..self.metadata.clone() };
        let record = ledgers.update(&record, closed).await?;
        ledgers.tombstone(&record).await?;
        Ok(())
    }
}
