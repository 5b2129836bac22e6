//! The cluster: look at it, ask how it is, or make its record.

use clap::Subcommand;
use serde::Serialize;
#[cfg(feature = "server")]
use {alluvium_server::MakeError, serde_json::json};

use crate::command::Common;
#[cfg(feature = "server")]
use crate::exit::Code;
use crate::exit::Failure;
use crate::output::Show;
#[cfg(feature = "server")]
use crate::serve;
use crate::status;

#[derive(Debug, Subcommand)]
pub(crate) enum Cluster {
    /// Show the cluster
    Get,
    /// Say whether all is well, and what is not; ends with 3 if somebody should look, 69 if something is not served
    Status,
    /// Make the cluster's record in metadata, and print its id; may be repeated
    #[cfg(feature = "server")]
    Init(Init),
}

/// Where the record is to be, and which.
#[cfg(feature = "server")]
#[derive(Debug, clap::Args)]
pub(crate) struct Init {
    /// The configuration of a process of the cluster: its metadata section, and its cluster where it names one
    #[arg(short, long, value_name = "FILE")]
    config: Option<std::path::PathBuf>,
    /// etcd's client URLs, separated by commas; they go before the file's
    #[arg(short, long, value_name = "URLS", value_delimiter = ',')]
    metadata: Vec<String>,
    /// What all keys of this cluster begin with; it ends with /
    #[arg(long, value_name = "PREFIX")]
    prefix: Option<String>,
}

#[derive(Serialize)]
struct View {
    cluster_id: String,
    version: String,
    brokers: u64,
    bookies: u64,
}

impl Show for View {
    fn columns() -> &'static [&'static str] {
        &["CLUSTER", "VERSION", "BROKERS", "BOOKIES"]
    }

    fn row(&self) -> Vec<String> {
        vec![self.cluster_id.clone(), self.version.clone(), self.brokers.to_string(), self.bookies.to_string()]
    }
}

impl Cluster {
    pub(crate) async fn run(self, common: &Common) -> Result<(), Failure> {
        match self {
            Self::Get => get(common).await,
            Self::Status => status::run(common).await,
            #[cfg(feature = "server")]
            Self::Init(init) => Box::pin(init.run(common)).await,
        }
    }
}

async fn get(common: &Common) -> Result<(), Failure> {
    let cluster = common.server.admin().await?.cluster().await?;
    let (brokers, bookies) = (cluster.brokers, cluster.bookies);
    common.output.one(&View { cluster_id: cluster.cluster_id, version: cluster.version, brokers, bookies })
}

#[cfg(feature = "server")]
impl Init {
    async fn run(self, common: &Common) -> Result<(), Failure> {
        let text = match &self.config {
            Some(path) => serve::read(path).await?,
            None => String::new(),
        };
        let (cluster, mut etcd) =
            alluvium_server::metadata_of(&text).map_err(|error| serve::malformed(self.config.as_deref(), &error))?;
        if !self.metadata.is_empty() {
            etcd.endpoints = self.metadata;
        }
        if let Some(prefix) = self.prefix {
            etcd.prefix = prefix;
        }
        let made = alluvium_server::make(&cluster, etcd, serve::variable).await.map_err(not_made)?;
        let id = made.id.to_string();
        // The id alone: a script puts it into configurations.
        common.output.done(&id, &json!({ "cluster_id": id, "made_now": made.now }))
    }
}

#[cfg(feature = "server")]
fn not_made(error: MakeError) -> Failure {
    let retryable = error.is_retryable();
    match error {
        MakeError::Config(problems) => serve::unsound(problems),
        error if retryable => serve::failed(Code::Unavailable, &error.into()),
        error => serve::failed(Code::Refused, &error.into()),
    }
}
