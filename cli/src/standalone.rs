//! Everything in one process.

use std::net::SocketAddr;
use std::path::PathBuf;

use alluvium_standalone::Config;
use clap::Args;
use serde_json::json;

use crate::command::Common;
use crate::exit::{Code, Failure};
use crate::output::{Output, print};

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
    /// Say what is wrong with the configuration, and end
    #[arg(long)]
    check_config: bool,
    /// Print the configuration in force, and end
    #[arg(long)]
    print_config: bool,
}

impl Standalone {
    pub(crate) async fn run(self, common: &Common) -> Result<(), Failure> {
        let text = match &self.config {
            None => String::new(),
            Some(path) => tokio::fs::read_to_string(path)
                .await
                .map_err(|error| Failure::new(Code::Config, format!("cannot read {}", path.display())).because(error))?,
        };
        let config = self.configure(&text)?;
        if let Err(wrong) = config.validate() {
            let failure = Failure::new(Code::Config, "the configuration is wrong");
            let failure = wrong.into_iter().fold(failure, |failure, problem| failure.because(problem));
            return Err(failure.advise("correct it; --print-config shows what is in force"));
        }
        if self.print_config {
            return show(&config, common.output);
        }
        if self.check_config {
            return common.output.done("the configuration is sound", &json!({ "valid": true }));
        }
        alluvium_standalone::run(config).await.map_err(|error| {
            let mut chain = error.chain();
            let what = chain.next().map_or_else(|| "the server failed".to_owned(), ToString::to_string);
            chain.fold(Failure::new(Code::Refused, what), Failure::because)
        })
    }

    /// The file's values, and the command line's over them.
    fn configure(&self, text: &str) -> Result<Config, Failure> {
        let wrong = |error: toml::de::Error| {
            let name = self.config.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
            Failure::new(Code::Config, format!("the configuration {name} is wrong")).because(error.to_string().trim_end())
        };
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

fn show(config: &Config, output: Output) -> Result<(), Failure> {
    let internal = |error: String| Failure::new(Code::Internal, "the configuration can't be shown").because(error);
    match output {
        Output::Json => {
            let text = serde_json::to_string(config).map_err(|error| internal(error.to_string()))?;
            print(&format!("{text}\n"))
        }
        Output::Table => print(&toml::to_string(config).map_err(|error| internal(error.to_string()))?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standalone(listen: Option<&str>) -> Standalone {
        Standalone {
            config: None,
            data: Some(PathBuf::from("/d")),
            listen: listen.map(|address| address.parse().expect("an address")),
            listen_internal: None,
            listen_http: None,
            check_config: false,
            print_config: false,
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
