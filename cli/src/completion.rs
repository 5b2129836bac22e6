//! Completion scripts.

use clap::{Args, CommandFactory};
use clap_complete::Shell;
use serde_json::json;

use crate::command::{Cli, Common};
use crate::exit::{Code, Failure};
use crate::output::{Output, print};

#[derive(Debug, Args)]
pub(crate) struct Completion {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

impl Completion {
    pub(crate) fn run(self, common: &Common) -> Result<(), Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "alluvium", &mut script);
        let script = String::from_utf8(script).map_err(|error| Failure::new(Code::Internal, error.to_string()))?;
        match common.output {
            Output::Table => print(&script),
            Output::Json => common.output.done("", &json!({ "shell": self.shell.to_string(), "script": script })),
        }
    }
}
