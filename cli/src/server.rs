//! Which server a command talks to.

use alluvium_client::Client;
use alluvium_client::admin::Admin;
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
    /// The address: what the command line says, else the environment, else the current context, else the default.
    async fn address(&self) -> Result<String, Failure> {
        if let Some(server) = &self.server {
            return Ok(server.clone());
        }
        if let Some(name) = &self.context {
            return Contexts::load().await?.server(name);
        }
        if let Some(server) = std::env::var(VARIABLE).ok().filter(|server| !server.is_empty()) {
            return Ok(server);
        }
        Ok(Contexts::load().await?.current_server()?.unwrap_or_else(|| DEFAULT.to_owned()))
    }

    pub(crate) async fn connect(&self) -> Result<Client, Failure> {
        Ok(Client::connect(self.address().await?).await?)
    }

    pub(crate) async fn admin(&self) -> Result<Admin, Failure> {
        Ok(self.connect().await?.admin())
    }
}
