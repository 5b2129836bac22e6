//! How fast a server is, and how fast its machine would let it be. What is measured and how is the `bench` crate's; here are its
//! arguments and what is shown of it.

#[cfg(feature = "server")]
mod ceiling;
mod load;
#[cfg(feature = "server")]
mod suite;

use clap::{Args, Subcommand};

use crate::command::Common;
use crate::exit::Failure;

/// A load, or what is measured instead of one.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Bench {
    #[command(subcommand)]
    instead: Option<Instead>,
    #[command(flatten)]
    load: load::Load,
}

#[derive(Debug, Subcommand)]
enum Instead {
    /// Measure what this machine would let a server do: its disk, its transport, and a bare pipeline
    #[cfg(feature = "server")]
    Ceiling(ceiling::CeilingArgs),
    /// Measure a server and, beside each of its figures, the ceiling
    #[cfg(feature = "server")]
    Suite(suite::SuiteArgs),
    /// One process of a bare pipeline
    #[cfg(feature = "server")]
    #[command(subcommand, hide = true)]
    Part(ceiling::PartArgs),
}

impl Bench {
    pub(crate) async fn run(self, common: &Common) -> Result<(), Failure> {
        match self.instead {
            None => Box::pin(self.load.run(common)).await,
            #[cfg(feature = "server")]
            Some(Instead::Ceiling(ceiling)) => Box::pin(ceiling.run(common)).await,
            #[cfg(feature = "server")]
            Some(Instead::Suite(suite)) => Box::pin(suite.run(common)).await,
            #[cfg(feature = "server")]
            Some(Instead::Part(part)) => part.run().await,
            #[cfg(not(feature = "server"))]
            Some(never) => match never {},
        }
    }
}
