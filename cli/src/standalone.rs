//! Everything in one process.

use std::net::SocketAddr;
use std::path::PathBuf;

use alluvium_server::Role;
use alluvium_server::standalone::Config;
use clap::Args;

use crate::command::Common;
use crate::exit::Failure;
use crate::serve::{self, Trial};

#[derive(Debug, Args)]
pub(crate) struct Standalone {
    /// The configuration: a TOML file
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The folder that holds everything
    #[arg(short, long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Where clients connect, such as 127.0.0.1:7650. The two other listeners take the next two ports, unless the
    /// configuration file or a flag says otherwise
    #[arg(short, long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    /// Where our own processes connect
    #[arg(long, value_name = "ADDRESS")]
    listen_internal: Option<SocketAddr>,
    /// Where operators find /metrics, /healthz and /readyz
    #[arg(long, value_name = "ADDRESS")]
    listen_http: Option<SocketAddr>,
    #[command(flatten)]
    trial: Trial,
}

impl Standalone {
    pub(crate) async fn run(self, common: &Common) -> Result<(), Failure> {
        let text = match &self.config {
            None => String::new(),
            Some(path) => serve::read(path).await?,
        };
        serve::run(self.configure(&text)?, self.trial, common).await
    }

    /// The file's values, and the command line's over them.
    fn configure(&self, text: &str) -> Result<Config, Failure> {
        let wrong = |error: toml::de::Error| serve::malformed(self.config.as_deref(), &error);
        let mut config = Config::parse(text).map_err(wrong)?;
        let table: toml::Table = toml::from_str(text).map_err(wrong)?;
        let says = |key: &str| table.get("listen").and_then(|listen| listen.get(key)).is_some();
        if let Some(data) = &self.data {
            config.data.clone_from(data);
        }
        if let Some(listen) = self.listen {
            config.listen.client = listen;
            if !says("internal") {
                config.listen.internal = beside(listen, 1);
            }
            if !says("http") {
                config.listen.http = beside(listen, 2);
            }
        }
        config.listen.internal = self.listen_internal.unwrap_or(config.listen.internal);
        config.listen.http = self.listen_http.unwrap_or(config.listen.http);
        Ok(config)
    }
}

/// The port so many further on; any free one stays any free one.
fn beside(mut address: SocketAddr, by: u16) -> SocketAddr {
    if address.port() != 0 {
        address.set_port(address.port().checked_add(by).unwrap_or(0));
    }
    address
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::Code;

    fn standalone(listen: Option<&str>) -> Standalone {
        Standalone {
            config: None,
            data: Some(PathBuf::from("/d")),
            listen: listen.map(|address| address.parse().expect("an address")),
            listen_internal: None,
            listen_http: None,
            trial: Trial::default(),
        }
    }

    #[test]
    fn an_unknown_key_is_a_bad_configuration() {
        let failure = standalone(None).configure("dtaa = 'x'").expect_err("unknown");
        assert_eq!(failure.code(), Code::Config);
    }

    #[test]
    fn the_command_line_goes_before_the_file() {
        let config = standalone(Some("127.0.0.1:9000")).configure("data = '/f'\n[listen]\nhttp = '127.0.0.1:80'").expect("sound");
        assert_eq!(config.data, PathBuf::from("/d"));
        let ports = [config.listen.client, config.listen.internal, config.listen.http].map(|address| address.port());
        assert_eq!(ports, [9000, 9001, 80], "what the file says of the others stays");
    }
}
