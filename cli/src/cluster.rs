//! The cluster.

use clap::Subcommand;
use serde::Serialize;

use crate::command::Common;
use crate::exit::Failure;
use crate::output::Show;

#[derive(Debug, Subcommand)]
pub(crate) enum Cluster {
    /// Show the cluster
    Get,
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
        let Self::Get = self;
        let cluster = common.server.admin().await?.cluster().await?;
        let (brokers, bookies) = (cluster.brokers, cluster.bookies);
        common.output.one(&View { cluster_id: cluster.cluster_id, version: cluster.version, brokers, bookies })
    }
}
