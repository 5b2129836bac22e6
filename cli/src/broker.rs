//! Brokers: run one, list those that live, hand over what one owns.

use std::time::Duration;

use alluvium_client::admin::{self, Admin};
use alluvium_runtime::clock::Clock;
use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::json;

use crate::command::Common;
use crate::exit::{Code, Failure, Subject, about, program};
use crate::interrupt;
use crate::output::{Show, or_dash};
use crate::units::{duration, show_time};

/// How often a broker that is being drained is looked at.
const LOOK: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
#[cfg_attr(feature = "server", command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true))]
#[cfg_attr(not(feature = "server"), command(subcommand_required = true))]
pub(crate) struct Broker {
    #[command(subcommand)]
    tool: Option<Tool>,
    #[cfg(feature = "server")]
    #[command(flatten)]
    serve: crate::serve::Serve,
}

#[derive(Debug, Subcommand)]
enum Tool {
    /// List the brokers that live
    List,
    /// List the partitions that a broker owns
    Partitions {
        /// Its name
        name: String,
    },
    /// Have a broker hand over what it owns, and take nothing new
    Drain {
        /// Its name; without one, the broker that answers
        name: Option<String>,
        /// Have it serve again instead
        #[arg(long)]
        undo: bool,
        /// Wait until it owns nothing
        #[arg(long, conflicts_with = "undo")]
        wait: bool,
        /// How long to wait at most
        #[arg(long, value_name = "TIME", default_value = "5m", value_parser = duration)]
        timeout: Duration,
    },
}

#[derive(Clone, Serialize)]
pub(crate) struct View {
    name: String,
    address: String,
    internal_address: String,
    since_ms: u64,
    weight: u32,
    draining: bool,
    /// What the broker that answers says of itself.
    partitions: Option<u64>,
}

#[derive(Serialize)]
struct Owned {
    topic: String,
    partition: u32,
    epoch: u64,
    since_ms: u64,
}

impl From<admin::Broker> for View {
    fn from(broker: admin::Broker) -> Self {
        Self {
            name: broker.name,
            address: broker.address,
            internal_address: broker.internal_address,
            since_ms: broker.since_ms,
            weight: broker.weight,
            draining: broker.draining,
            partitions: broker.partitions,
        }
    }
}

impl Show for View {
    fn columns() -> &'static [&'static str] {
        &["BROKER", "ADDRESS", "SINCE", "WEIGHT", "STATE", "PARTITIONS"]
    }

    fn row(&self) -> Vec<String> {
        vec![
            self.name.clone(),
            self.address.clone(),
            show_time(self.since_ms),
            self.weight.to_string(),
            if self.draining { "draining" } else { "serving" }.to_owned(),
            or_dash(self.partitions),
        ]
    }
}

impl Show for Owned {
    fn columns() -> &'static [&'static str] {
        &["TOPIC", "PARTITION", "EPOCH", "SINCE"]
    }

    fn row(&self) -> Vec<String> {
        vec![self.topic.clone(), self.partition.to_string(), self.epoch.to_string(), show_time(self.since_ms)]
    }
}

impl Broker {
    pub(crate) async fn run(self, common: &Common) -> Result<(), Failure> {
        let Some(tool) = self.tool else {
            #[cfg(feature = "server")]
            return self.serve.run::<alluvium_server::broker::Config>(common).await;
            #[cfg(not(feature = "server"))]
            return Err(Failure::usage("what is to be done with brokers?"));
        };
        tool.run(common).await
    }
}

impl Tool {
    async fn run(self, common: &Common) -> Result<(), Failure> {
        let (output, admin) = (common.output, common.server.admin().await?);
        match self {
            Self::List => {
                let brokers = admin.list_brokers().await?;
                output.many("brokers", &brokers.into_iter().map(View::from).collect::<Vec<_>>())
            }
            Self::Partitions { name } => {
                let owned = |partition: admin::OwnedPartition| Owned {
                    topic: partition.topic,
                    partition: partition.partition,
                    epoch: partition.epoch,
                    since_ms: partition.since_ms,
                };
                let partitions = admin.list_broker_partitions(&name).await.map_err(about(Subject::new("broker", &name)))?;
                output.many("partitions", &partitions.into_iter().map(owned).collect::<Vec<_>>())
            }
            Self::Drain { name, undo, wait, timeout } => {
                let subject = Subject::new("broker", name.as_deref().unwrap_or_default());
                let broker = admin.drain_broker(name.as_deref(), undo).await.map_err(about(subject))?.name;
                if wait {
                    interrupt::finish("it owned nothing", empty(&admin, &broker, timeout)).await??;
                }
                let sentence = match (undo, wait) {
                    (true, _) => format!("broker {broker} serves again"),
                    (false, true) => format!("broker {broker} owns nothing any more"),
                    (false, false) => format!("broker {broker} hands over what it owns"),
                };
                output.done(&sentence, &json!({ "broker": broker, "draining": !undo, "empty": wait.then_some(true) }))
            }
        }
    }
}

/// Waits until a broker owns nothing.
async fn empty(admin: &Admin, broker: &str, timeout: Duration) -> Result<(), Failure> {
    let clock = Clock::system();
    let until = clock.mono().after(timeout);
    while admin.owns_any(broker).await? {
        if clock.mono() >= until {
            let advice = format!("see which: {} broker partitions {broker}", program());
            return Err(Failure::new(Code::Unavailable, format!("broker {broker} still owns partitions"))
                .because(format!("it did not hand all of them over within {timeout:?}"))
                .named("STILL_OWNS")
                .advise(advice));
        }
        clock.sleep(LOOK).await;
    }
    Ok(())
}
