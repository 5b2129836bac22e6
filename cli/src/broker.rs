//! Brokers: run one.

use clap::Args;

use crate::command::Common;
use crate::exit::Failure;
use crate::serve::Serve;

#[derive(Debug, Args)]
pub(crate) struct Broker {
    #[command(flatten)]
    serve: Serve,
}

impl Broker {
    pub(crate) async fn run(self, common: &Common) -> Result<(), Failure> {
        self.serve.run::<alluvium_server::broker::Config>(common).await
    }
}
