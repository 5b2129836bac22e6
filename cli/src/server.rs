//! Which server a command talks to.

use alluvium_client::admin::Admin;
use alluvium_client::{Client, Error};
use clap::Args;

use crate::context::Contexts;
use crate::exit::Failure;

/// Where a server is that nobody named.
const DEFAULT: &str = "http://127.0.0.1:7650";
const VARIABLE: &str = "ALLUVIUM_SERVER";

#[derive(Clone, Debug, Args)]
pub(crate) struct Server {
    /// The server [env: ALLUVIUM_SERVER] [default: the current context's, or http://127.0.0.1:7650]
    #[arg(long, global = true, value_name = "URL", help_heading = "Common options")]
    pub(crate) server: Option<String>,
    /// The server of this context
    #[arg(long, global = true, value_name = "NAME", conflicts_with = "server", help_heading = "Common options")]
    pub(crate) context: Option<String>,
}

impl Server {
    /// The address, and who says so: the command line, else the environment, else the current context, else the default.
    async fn address(&self) -> Result<(String, Option<String>), Failure> {
        if let Some(server) = &self.server {
            return Ok((server.clone(), None));
        }
        if let Some(name) = &self.context {
            let contexts = Contexts::load().await?;
            return Ok((contexts.server(name)?, Some(contexts.origin(name))));
        }
        if let Some(server) = std::env::var(VARIABLE).ok().filter(|server| !server.is_empty()) {
            return Ok((server, Some(format!("the environment: {VARIABLE}"))));
        }
        let contexts = Contexts::load().await?;
        Ok(match contexts.current() {
            Some(name) => (contexts.server(name)?, Some(contexts.origin(name))),
            None => (DEFAULT.to_owned(), None),
        })
    }

    pub(crate) async fn connect(&self) -> Result<Client, Failure> {
        let (server, origin) = self.address().await?;
        Client::connect(server).await.map_err(|error| {
            let elsewhere = matches!(error, Error::Unreachable { .. } | Error::WrongServer { .. } | Error::Invalid { .. });
            let failure = Failure::from(error);
            match origin.filter(|_| elsewhere) {
                Some(origin) => failure.because(format!("this server was chosen by {origin}")),
                None => failure,
            }
        })
    }

    pub(crate) async fn admin(&self) -> Result<Admin, Failure> {
        Ok(self.connect().await?.admin())
    }
}
