//! The `alluvium` binary: servers and tools, one file for each noun.

mod bench;
mod bookie;
mod broker;
mod cluster;
mod command;
mod completion;
mod consume;
mod context;
mod exit;
mod interrupt;
mod ledger;
mod namespace;
mod output;
mod policies;
mod produce;
#[cfg(feature = "server")]
mod serve;
mod server;
#[cfg(feature = "server")]
mod standalone;
mod status;
mod subscription;
mod tenant;
mod topic;
mod units;

use std::process::ExitCode;

use clap::Parser;

use crate::command::Cli;
use crate::exit::Failure;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return command::refuse(&error, command::wants_json(std::env::args_os())),
    };
    let output = cli.common.output;
    // What has much to do has threads of its own: the lanes, the logs, the loads of a benchmark. More workers beside them would only
    // wake each other.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = match runtime {
        Ok(runtime) => {
            let done = runtime.block_on(Box::pin(cli.run()));
            // A thread may sit in a read of standard input for ever.
            runtime.shutdown_background();
            done
        }
        Err(error) => Err(Failure::io("cannot start", &error)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(output),
    }
}
