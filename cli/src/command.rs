//! The command line as a whole.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand};
use serde_json::json;

use crate::exit::{Code, Failure};
use crate::output::Output;
use crate::server::Server;
use crate::{
    bench, bookie, broker, cluster, completion, consume, context, exit, ledger, namespace, produce, subscription, tenant, topic,
};

/// Alluvium: messages that are on disk before they are acknowledged.
#[derive(Debug, Parser)]
#[command(name = "alluvium", version, after_help = exit::HELP, propagate_version = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(subcommand)]
    command: Command,
}

/// What every command takes.
#[derive(Clone, Debug, Args)]
pub(crate) struct Common {
    /// The shape of what is printed
    #[arg(short, long, global = true, value_enum, default_value_t, help_heading = "Common options")]
    pub(crate) output: Output,
    #[command(flatten)]
    pub(crate) server: Server,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run everything in one process
    #[cfg(feature = "server")]
    Standalone(Box<crate::standalone::Standalone>),
    /// The servers that own partitions: list them, drain or run one
    Broker(broker::Broker),
    /// Publish lines as messages
    Produce(Box<produce::Produce>),
    /// Print messages, through a subscription or without one
    Consume(Box<consume::Consume>),
    /// Put a load on a server, verify what comes back, and say how fast it was
    Bench(Box<bench::Bench>),
    /// Topics, and their partitions
    #[command(subcommand)]
    Topic(topic::Topic),
    /// Subscriptions, and where they stand
    #[command(subcommand)]
    Subscription(subscription::Subscription),
    /// Namespaces, and their policies
    #[command(subcommand)]
    Namespace(namespace::Namespace),
    /// Tenants
    #[command(subcommand)]
    Tenant(tenant::Tenant),
    /// The cluster
    #[command(subcommand)]
    Cluster(cluster::Cluster),
    /// The servers that keep entries: list them, or run one
    Bookie(bookie::Bookie),
    /// What bookies keep: replicated sequences of entries
    #[command(subcommand)]
    Ledger(ledger::Ledger),
    /// Servers by name
    #[command(subcommand)]
    Context(context::Context),
    /// Print a shell's completion script
    Completion(completion::Completion),
}

impl Cli {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let common = self.common;
        match self.command {
            #[cfg(feature = "server")]
            Command::Standalone(standalone) => Box::pin(standalone.run(&common)).await,
            Command::Broker(broker) => Box::pin(broker.run(&common)).await,
            Command::Produce(produce) => Box::pin(produce.run(&common)).await,
            Command::Consume(consume) => Box::pin(consume.run(&common)).await,
            Command::Bench(bench) => Box::pin(bench.run(&common)).await,
            Command::Topic(topic) => topic.run(&common).await,
            Command::Subscription(subscription) => subscription.run(&common).await,
            Command::Namespace(namespace) => namespace.run(&common).await,
            Command::Tenant(tenant) => tenant.run(&common).await,
            Command::Cluster(cluster) => cluster.run(&common).await,
            Command::Bookie(bookie) => Box::pin(bookie.run(&common)).await,
            Command::Ledger(ledger) => ledger.run(&common).await,
            Command::Context(context) => context.run(&common).await,
            Command::Completion(completion) => completion.run(&common),
        }
    }
}

/// Whether JSON is asked for, by a command line that can't be parsed or was not parsed to its end.
pub(crate) fn wants_json(args: impl Iterator<Item = OsString>) -> bool {
    let args: Vec<String> = args.map(|arg| arg.to_string_lossy().into_owned()).take_while(|arg| arg != "--").collect();
    let apart = args.windows(2).any(|pair| matches!(pair[0].as_str(), "-o" | "--output") && pair[1] == "json");
    apart || args.iter().any(|arg| matches!(arg.as_str(), "-ojson" | "-o=json" | "--output=json"))
}

/// Tells why nothing is run: a wrong command line, or one that asks for help or the version.
pub(crate) fn refuse(error: &clap::Error, json: bool) -> ExitCode {
    let asked = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
    if !json || error.kind() == ErrorKind::DisplayHelp {
        // With standard output or error gone there is nobody left to tell.
        let _ = error.print();
    } else if asked {
        let version = json!({ "name": "alluvium", "version": env!("CARGO_PKG_VERSION") });
        return Output::Json.done("", &version).map_or_else(|failure| failure.report(Output::Json), |()| ExitCode::SUCCESS);
    } else {
        let text = error.render().to_string();
        let mut parts = text.split("\n\n").map(str::trim).filter(|part| !part.is_empty());
        let what = parts.next().unwrap_or_default().trim_start_matches("error: ").to_owned();
        return Failure::usage(what).advise(parts.collect::<Vec<_>>().join("; ")).report(Output::Json);
    }
    if asked { ExitCode::SUCCESS } else { ExitCode::from(Code::Usage as u8) }
}

#[cfg(test)]
mod tests {
    use clap::{Command as Clap, CommandFactory};

    use super::*;

    /// Every leaf, as a command line with all that it requires.
    fn leaves(command: &Clap, path: &[String], found: &mut Vec<Vec<String>>) {
        let subcommands: Vec<&Clap> = command.get_subcommands().filter(|c| c.get_name() != "help").collect();
        if subcommands.is_empty() {
            let mut line = path.to_vec();
            for arg in command.get_arguments().filter(|arg| arg.is_required_set()) {
                line.extend(arg.get_long().map(|long| format!("--{long}")));
                let possible = arg.get_possible_values();
                line.push(possible.first().map_or("1".to_owned(), |value| value.get_name().to_owned()));
            }
            found.push(line);
        }
        for subcommand in subcommands {
            let path: Vec<String> = path.iter().cloned().chain([subcommand.get_name().to_owned()]).collect();
            leaves(subcommand, &path, found);
        }
    }

    #[test]
    fn every_leaf_takes_json() {
        let mut command = Cli::command();
        command.build();
        command.clone().debug_assert();
        let mut found = Vec::new();
        leaves(&command, &["alluvium".to_owned()], &mut found);
        assert!(found.len() > 25, "{found:?}");
        for mut line in found {
            line.extend(["-o".to_owned(), "json".to_owned()]);
            let cli = Cli::try_parse_from(&line).unwrap_or_else(|error| panic!("{line:?}: {error}"));
            assert_eq!(cli.common.output, Output::Json, "{line:?}");
        }
    }

    #[test]
    fn json_is_asked_for_in_every_spelling() {
        let wants = |line: &str| wants_json(line.split(' ').map(OsString::from));
        for line in ["topic -o json list", "-ojson x", "-o=json x", "x --output json", "x --output=json"] {
            assert!(wants(line), "{line}");
        }
        for line in ["topic list", "-o table", "produce -- -o json"] {
            assert!(!wants(line), "{line}");
        }
    }

    #[test]
    fn every_command_and_argument_says_what_it_is() {
        fn check(command: &Clap) {
            assert!(command.get_about().is_some() || command.get_name() == "help", "{} says nothing", command.get_name());
            for arg in command.get_arguments() {
                assert!(arg.get_help().is_some(), "{} {} says nothing", command.get_name(), arg.get_id());
            }
            command.get_subcommands().filter(|c| c.get_name() != "help").for_each(check);
        }
        let mut command = Cli::command();
        command.build();
        check(&command);
    }
}
