//! From a folder and a name to a bookie that serves: lock, identity (B11), log, registration, garbage collection.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use alluvium_metadata::{Metadata, ReadError, UpdateError};
use alluvium_runtime::clock::Clock;
use alluvium_runtime::disk::Disk;
use alluvium_runtime::disk::real::{self, LockError, RealDisk};
use alluvium_runtime::entropy::Entropy;
use alluvium_runtime::tasks::{OnFailure, Tasks};
use alluvium_types::bookie::Refusal;
use alluvium_types::ids::Incarnation;
use alluvium_types::ledger::BookieId;
use alluvium_types::names::{BookieName, NameError};

use crate::bookie::{Bookie, Parts};
use crate::config::Config;
use crate::gc::Reaper;
use crate::identity::{self, Claim, Identity, IdentityError};
use crate::log::RecoverError;
use crate::metrics::Metrics;

/// How much later than its time to live a session may be found gone.
const SLACK: Duration = Duration::from_secs(5);
/// How often it is looked for.
const VACANT_INTERVAL: Duration = Duration::from_millis(100);

/// What a bookie needs of its process.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// Metadata, where it registers and learns what is dead.
    pub metadata: Metadata,
    /// Time.
    pub clock: Clock,
    /// Chance.
    pub entropy: Entropy,
    /// Whose stop is the bookie's.
    pub tasks: Tasks,
    /// Its figures.
    pub metrics: Metrics,
}

/// A bookie that runs and is registered.
#[derive(Clone, Debug)]
pub struct Running {
    /// The handle.
    pub bookie: Bookie,
    /// What drops dead ledgers.
    pub reaper: Reaper,
}

/// Why a bookie does not start. Nothing of its directory was lost.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The name is not one.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The folder can't be made or tried.
    #[error("cannot use the data directory {dir:?}")]
    Dir {
        /// The folder.
        dir: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Another process has the folder, or it can't be locked.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The folder is not this bookie's (B11).
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The folder is new, and the bookie of this name lives elsewhere: its data must not become another's loss (B11).
    #[error("a bookie {name} is alive at {address}, and this folder is not its own: give each bookie a name of its own")]
    NameTaken {
        /// The name.
        name: BookieName,
        /// Where it lives.
        address: String,
    },
    /// The log does not open.
    #[error(transparent)]
    Recover(#[from] RecoverError),
    /// Metadata was not read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Metadata was not changed.
    #[error(transparent)]
    Update(#[from] UpdateError),
    /// The log took no marks.
    #[error("the log took no marks at start")]
    Log(#[source] Refusal),
}

impl StartError {
    /// Whether another try may succeed without a person's help.
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Read(error) => error.is_retryable(),
            Self::Update(error) => error.is_retryable(),
            Self::Recover(error) => error.is_retryable(),
            Self::Name(_) | Self::Dir { .. } | Self::Lock(_) | Self::Identity(_) | Self::NameTaken { .. } | Self::Log(_) => false,
        }
    }
}

/// Starts a bookie that brokers reach at `address`. It is registered, under a session, until the tasks stop; a lost session is
/// followed by another.
pub async fn start(config: Config, address: String, around: Surroundings) -> Result<Running, StartError> {
    let Surroundings { metadata, clock, entropy, tasks, metrics } = around;
    let dir = config.data_dir.clone();
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let lock = {
        let (disk, dir) = (Arc::clone(&disk), dir.clone());
        tasks.block(move || lock(disk.as_ref(), dir)).await?
    };
    let identity = claim(&config, &disk, &metadata, &clock, &entropy, &tasks).await?;
    let parts = {
        let (config, identity, disk) = (config.clone(), identity.clone(), Arc::clone(&disk));
        let (clock, entropy, own, metrics) = (clock.clone(), entropy.clone(), tasks.clone(), metrics);
        move |mode| Parts { config, identity, disk, mode, lock: Some(lock), clock, entropy, tasks: own, metrics }
    };
    let bookie = {
        let (forced, disk) = (config.write_mode.forced(), Arc::clone(&disk));
        tasks.block(move || open(forced, &dir, disk.as_ref(), identity, parts)).await?
    };
    bound_doubts(&bookie, &metadata).await?;
    bookie.info().send_modify(|info| info.address = address);
    let reaper = Reaper::new(bookie.clone(), metadata.ledgers());
    keep(&bookie, &reaper, &metadata, &tasks, &config);
    Ok(Running { bookie, reaper })
}

fn lock(disk: &dyn Disk, dir: PathBuf) -> Result<real::DirLock, StartError> {
    match disk.create_dir_all(&dir) {
        Ok(()) => Ok(real::lock(&dir, "bookie")?),
        Err(source) => Err(StartError::Dir { dir, source }),
    }
}

/// Finds out under which identity to start, and tells metadata where that is news. The log is begun only afterwards.
async fn claim(
    config: &Config,
    disk: &Arc<dyn Disk>,
    metadata: &Metadata,
    clock: &Clock,
    entropy: &Entropy,
    tasks: &Tasks,
) -> Result<Identity, StartError> {
    let wanted = Identity {
        cluster: metadata.clusters().init(None).await?.value.id,
        bookie: BookieName::parse(&config.name)?,
        incarnation: Incarnation::new(entropy.uuid()),
        log_begun: false,
    };
    let known = metadata.bookies().identity(&wanted.bookie).await?;
    let (identity, claim, is_new) = {
        let (disk, dir, mutations) = (Arc::clone(disk), config.data_dir.clone(), config.mutations);
        let known = known.as_ref().map(|known| known.value.incarnation);
        let decided = tasks.block(move || {
            let found = Identity::read(disk.as_ref(), &dir)?;
            let is_new = found.is_none();
            let (identity, claim) = identity::decide(&dir, found, &wanted, known, mutations)?;
            Ok::<_, IdentityError>((identity, claim, is_new))
        });
        decided.await?
    };
    if let Claim::Replaces(_) = claim {
        vacant(&identity.bookie, config.session_ttl(), metadata, clock).await?;
    }
    if is_new {
        let (disk, dir, identity) = (Arc::clone(disk), config.data_dir.clone(), identity.clone());
        tasks.block(move || identity.write(disk.as_ref(), &dir)).await?;
    }
    let id = BookieId { name: identity.bookie.clone(), incarnation: identity.incarnation };
    match claim {
        Claim::Known => {}
        Claim::First => {
            metadata.bookies().claim_identity(&id, identity.cluster).await?;
        }
        Claim::Replaces(lost) => {
            tracing::warn!(bookie = %id, %lost, "an empty directory under a known name: the old incarnation is lost");
            let known = known.expect("what is replaced was read");
            metadata.bookies().replace_identity(&id, &known).await?;
        }
    }
    Ok(identity)
}

/// Waits until nobody lives under the name. The session of one that was killed ends in its time; one that outlives that lives.
async fn vacant(name: &BookieName, ttl: Duration, metadata: &Metadata, clock: &Clock) -> Result<(), StartError> {
    let until = clock.mono().after(ttl + SLACK);
    let mut is_told = false;
    while let Some(found) = metadata.bookies().live(name).await? {
        let address = found.value.info.address;
        if clock.mono() >= until {
            return Err(StartError::NameTaken { name: name.clone(), address });
        }
        if !std::mem::replace(&mut is_told, true) {
            tracing::warn!(bookie = %name, address, "an empty directory under the name of a bookie that lives, or did: waiting for its end");
        }
        clock.sleep(VACANT_INTERVAL).await;
    }
    Ok(())
}

/// Chooses how writes become durable, recovers the log, and notes that there is one.
fn open(
    forced: Option<alluvium_runtime::disk::SyncMode>,
    dir: &std::path::Path,
    disk: &dyn Disk,
    identity: Identity,
    parts: impl FnOnce(alluvium_runtime::disk::SyncMode) -> Parts,
) -> Result<Bookie, StartError> {
    let probed = real::probe(dir, forced).map_err(|source| StartError::Dir { dir: dir.to_owned(), source })?;
    tracing::info!(mode = ?probed.mode, reason = probed.reason, "how entries are written");
    let parts = parts(probed.mode);
    let least = parts.config.thresholds().least_capacity(parts.config.log.file_bytes);
    if let Ok(space) = disk.space(dir)
        && space.total < least
    {
        tracing::warn!(total = space.total, least, "the disk is small: once full, it may stay so; lower bookie.log.file_bytes");
    }
    let bookie = Bookie::open(parts)?;
    if !identity.log_begun {
        Identity { log_begun: true, ..identity }.write(disk, dir)?;
    }
    Ok(bookie)
}

/// After a loss, unknown ledgers are in doubt up to the ids that were given out by now; those given out later are not.
async fn bound_doubts(bookie: &Bookie, metadata: &Metadata) -> Result<(), StartError> {
    if !bookie.shared().state.lock().store.needs_bound() {
        return Ok(());
    }
    // A fresh handle takes a fresh block of ids, of which this one is never used for a ledger.
    let next = metadata.ledgers().allocate().await?;
    bookie.ask(|store| store.bound_doubts(next), || Err(Refusal::Stopping)).await.map_err(StartError::Log)
}

/// Registration, garbage collection and the stop.
fn keep(bookie: &Bookie, reaper: &Reaper, metadata: &Metadata, tasks: &Tasks, config: &Config) {
    let identity = bookie.identity();
    let id = BookieId { name: identity.bookie.clone(), incarnation: identity.incarnation };
    let (bookies, info, ttl) = (metadata.bookies(), bookie.info().subscribe(), config.session_ttl());
    let dead = bookie.clone();
    tasks.spawn("bookie-registration", OnFailure::ShutDown, async move {
        tokio::select! {
            biased;
            () = dead.dead() => Ok(()),
            ended = bookies.keep_registered(&id, info, ttl) => ended,
        }
    });
    let reaper = reaper.clone();
    tasks.spawn("bookie-gc", OnFailure::Log, async move {
        reaper.run().await;
        Ok::<(), String>(())
    });
    let (bookie, own) = (bookie.clone(), tasks.clone());
    tasks.spawn("bookie-stop", OnFailure::Log, async move {
        tokio::select! {
            biased;
            () = bookie.ended() => {}
            () = own.stopping() => bookie.drain(),
        }
        Ok::<(), String>(())
    });
}
