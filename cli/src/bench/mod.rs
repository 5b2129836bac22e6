//! How fast a server is. What is measured and how is the `bench` crate's; here are its arguments and what is shown of it.

mod load;

use clap::Args;

use crate::command::Common;
use crate::exit::Failure;

/// A load, as it stands on the command line.
#[derive(Debug, Args)]
pub(crate) struct Bench {
    #[command(flatten)]
    load: load::Load,
}

impl Bench {
    pub(crate) async fn run(self, common: &Common) -> Result<(), Failure> {
        Box::pin(self.load.run(common)).await
    }
}
