//! Which cluster a process belongs to: its metadata, waited for if need be, and held against the id in the configuration.

use std::sync::Arc;

use alluvium_metadata::error::{ClusterError, EtcdError};
use alluvium_metadata::etcd::{EtcdConfig, EtcdStore};
use alluvium_metadata::policies::Policies;
use alluvium_metadata::{Metadata, ReadError, UpdateError};
use alluvium_runtime::clock::Clock;
use alluvium_runtime::entropy::Entropy;
use alluvium_runtime::tasks::Tasks;
use alluvium_types::ids::ClusterId;
use alluvium_types::names::NamespaceName;

use crate::process::Process;
use crate::settings::{Wrong, parse_cluster, take_password};

/// The namespace that is there from the start, so that the first topic needs no administration.
const FIRST_NAMESPACE: &str = "public/default";
/// What a process says while it waits.
const WAITING: &str = "waiting for metadata";

/// Connects to metadata, which must be that of `cluster`: a process with another cluster's address or prefix ends here. While etcd
/// is away, it waits. `store_tasks` stop last; those of the users of metadata are `user_tasks`.
pub(crate) async fn join(
    etcd: &EtcdConfig,
    cluster: &str,
    process: &Process,
    store_tasks: &Tasks,
    user_tasks: &Tasks,
) -> anyhow::Result<Metadata> {
    // One round after the other is ours to make: each is as short as it can be, so that somebody hears of it.
    let round = EtcdConfig { connect_timeout_ms: etcd.request_timeout_ms, ..etcd.clone() };
    let (clock, entropy) = (&process.clock, &process.entropy);
    let connect = async || EtcdStore::connect(&round, clock.clone(), entropy.clone(), store_tasks).await;
    let store = process.patiently(WAITING, EtcdError::is_retryable, connect).await?;
    let metadata = Metadata::new(Arc::new(store), clock.clone(), entropy.clone(), user_tasks.clone());
    let id = parse_cluster(cluster).expect("it was validated");
    process.patiently(WAITING, ClusterError::is_retryable, async || metadata.clusters().require(id).await).await?;
    Ok(metadata)
}

/// A cluster whose record is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Made {
    /// Its id.
    pub id: ClusterId,
    /// Whether it was made now; else it was there.
    pub now: bool,
}

/// Why a cluster's record was not made, and is not known to be there.
#[derive(Debug, thiserror::Error)]
pub enum MakeError {
    /// What is configured can't be meant so: all that is wrong.
    #[error("the configuration is wrong")]
    Config(Vec<String>),
    /// Metadata doesn't answer, or doesn't let us in.
    #[error("metadata can't be reached")]
    Etcd(#[from] EtcdError),
    /// Another cluster's record is there.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// Metadata was not read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Metadata was not changed.
    #[error(transparent)]
    Update(#[from] UpdateError),
}

impl MakeError {
    /// Whether the same call may succeed later, by itself.
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Config(_) => false,
            Self::Etcd(error) => error.is_retryable(),
            Self::Cluster(error) => error.is_retryable(),
            Self::Read(error) => error.is_retryable(),
            Self::Update(error) => error.is_retryable(),
        }
    }
}

/// Makes a cluster's record at the prefix, and its first namespace, if they aren't there. May be called any number of times.
/// `wanted` is the id it is to have, as it stands in configurations; with none, one is drawn. Secrets are `variable`'s.
pub async fn make(wanted: &str, mut etcd: EtcdConfig, variable: impl Fn(&str) -> Option<String>) -> Result<Made, MakeError> {
    take_password(&mut etcd, variable);
    let mut wrong = Wrong::default();
    wrong.etcd(&etcd);
    let id = parse_cluster(wanted);
    wrong.refuse(id.is_none() && !wanted.is_empty(), || format!("cluster: {wanted:?} is not a cluster's id"));
    wrong.end().map_err(MakeError::Config)?;
    let (tasks, _failures) = Tasks::new();
    let (clock, entropy) = (Clock::system(), Entropy::from_os());
    let store = EtcdStore::connect(&etcd, clock.clone(), entropy.clone(), &tasks).await?;
    let metadata = Metadata::new(Arc::new(store), clock, entropy, tasks.clone());
    let clusters = metadata.clusters();
    let now = clusters.get().await?.is_none();
    let made = clusters.init(id).await?.value.id;
    clusters.require(id.unwrap_or(made)).await?;
    create_first_namespace(&metadata).await?;
    tasks.stop();
    Ok(Made { id: made, now })
}

/// Makes the first namespace if it isn't there.
pub(crate) async fn create_first_namespace(metadata: &Metadata) -> Result<(), UpdateError> {
    let name = NamespaceName::parse(FIRST_NAMESPACE).expect("it is a name");
    let created = [
        metadata.tenants().create(name.tenant(), Policies::default()).await.map(drop),
        metadata.namespaces().create(&name, Policies::default()).await.map(drop),
    ];
    for outcome in created {
        match outcome {
            Ok(()) | Err(UpdateError::Exists { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
