//! What all servers have in common on the command line: a configuration that is tried, printed or run.

use std::path::{Path, PathBuf};

use alluvium_server::Role;
use clap::Args;
use serde::Serialize;
use serde_json::json;

use crate::command::Common;
use crate::exit::{Code, Failure};
use crate::output::{Output, print};

/// A server whose configuration is a file.
#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// The configuration: a TOML file
    #[arg(short, long, value_name = "FILE", required = true)]
    config: Option<PathBuf>,
    #[command(flatten)]
    trial: Trial,
}

/// What is done with a configuration instead of running it.
#[derive(Clone, Copy, Debug, Default, Args)]
pub(crate) struct Trial {
    /// Say what is wrong with the configuration, and end
    #[arg(long)]
    check_config: bool,
    /// Print the configuration in force, and end
    #[arg(long)]
    print_config: bool,
}

impl Serve {
    pub(crate) async fn run<R: Role>(&self, common: &Common) -> Result<(), Failure> {
        let Some(path) = &self.config else { return Err(Failure::usage("--config is missing")) };
        let config = R::parse(&read(path).await?).map_err(|error| malformed(Some(path), &error))?;
        run(config, self.trial, common).await
    }
}

/// Runs what is configured, or tries the configuration.
pub(crate) async fn run<R: Role>(mut config: R, trial: Trial, common: &Common) -> Result<(), Failure> {
    config.take_secrets(variable);
    if trial.print_config {
        return show(&config, common.output);
    }
    if let Err(wrong) = config.validate() {
        return Err(unsound(wrong).advise("correct it; --print-config shows what is in force"));
    }
    if trial.check_config {
        return common.output.done("the configuration is sound", &json!({ "valid": true }));
    }
    Box::pin(config.run()).await.map_err(|error| failed(Code::Refused, &error))
}

pub(crate) async fn read(path: &Path) -> Result<String, Failure> {
    let unreadable = |error| Failure::new(Code::Config, format!("cannot read {}", path.display())).because(error);
    tokio::fs::read_to_string(path).await.map_err(unreadable)
}

/// A file that is not TOML, or says what nobody knows.
pub(crate) fn malformed(path: Option<&Path>, error: &toml::de::Error) -> Failure {
    let name = path.map(|path| format!(" {}", path.display())).unwrap_or_default();
    Failure::new(Code::Config, format!("the configuration{name} is wrong")).because(error.to_string().trim_end())
}

/// All that is wrong with a configuration.
pub(crate) fn unsound(wrong: Vec<String>) -> Failure {
    wrong.into_iter().fold(Failure::new(Code::Config, "the configuration is wrong"), Failure::because)
}

/// A server, or what it needs, failed.
pub(crate) fn failed(code: Code, error: &anyhow::Error) -> Failure {
    let mut chain = error.chain();
    let what = chain.next().map_or_else(|| "the server failed".to_owned(), ToString::to_string);
    chain.fold(Failure::new(code, what), Failure::because)
}

/// A variable of the environment: for secrets alone.
pub(crate) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn show<T: Serialize>(config: &T, output: Output) -> Result<(), Failure> {
    let internal = |message: String| Failure::new(Code::Internal, message);
    match output {
        Output::Json => {
            let text = serde_json::to_string(config).map_err(|error| internal(error.to_string()))?;
            print(&format!("{text}\n"))
        }
        Output::Table => print(&toml::to_string(config).map_err(|error| internal(error.to_string()))?),
    }
}
