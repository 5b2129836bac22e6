//! Bookies: run one, or list those that live.

use alluvium_client::admin;
use clap::{Args, Subcommand};
use serde::Serialize;

use crate::command::Common;
use crate::exit::Failure;
use crate::output::Show;
use crate::units::show_size;

#[derive(Debug, Args)]
#[cfg_attr(feature = "server", command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true))]
#[cfg_attr(not(feature = "server"), command(subcommand_required = true))]
pub(crate) struct Bookie {
    #[command(subcommand)]
    tool: Option<Tool>,
    #[cfg(feature = "server")]
    #[command(flatten)]
    serve: crate::serve::Serve,
}

#[derive(Debug, Subcommand)]
enum Tool {
    /// List all bookies
    List,
}

#[derive(Serialize)]
pub(crate) struct View {
    name: String,
    incarnation: String,
    zone: String,
    address: String,
    writable: bool,
    bytes_total: u64,
    bytes_available: u64,
}

impl From<admin::Bookie> for View {
    fn from(bookie: admin::Bookie) -> Self {
        Self {
            name: bookie.name,
            incarnation: bookie.incarnation,
            zone: bookie.zone,
            address: bookie.address,
            writable: bookie.writable,
            bytes_total: bookie.bytes_total,
            bytes_available: bookie.bytes_available,
        }
    }
}

impl Show for View {
    fn columns() -> &'static [&'static str] {
        &["BOOKIE", "ZONE", "ADDRESS", "STATE", "AVAILABLE", "TOTAL", "INCARNATION"]
    }

    fn row(&self) -> Vec<String> {
        vec![
            self.name.clone(),
            self.zone.clone(),
            self.address.clone(),
            if self.writable { "writable" } else { "read-only" }.to_owned(),
            show_size(self.bytes_available),
            show_size(self.bytes_total),
            self.incarnation.clone(),
        ]
    }
}

impl Bookie {
    pub(crate) async fn run(self, common: &Common) -> Result<(), Failure> {
        let Some(Tool::List) = self.tool else {
            #[cfg(feature = "server")]
            return self.serve.run::<alluvium_server::bookie::Config>(common).await;
            #[cfg(not(feature = "server"))]
            return Err(Failure::usage("what is to be done with bookies?"));
        };
        let bookies = common.server.admin().await?.list_bookies().await?;
        common.output.many("bookies", &bookies.into_iter().map(View::from).collect::<Vec<_>>())
    }
}
