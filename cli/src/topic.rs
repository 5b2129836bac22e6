//! Topics.

use alluvium_client::admin;
use clap::Subcommand;
use serde::Serialize;
use serde_json::json;

use crate::command::Common;
use crate::exit::{Failure, Subject, about};
use crate::output::{Show, or_dash};
use crate::policies::{self, Policy, PolicyArgs};
use crate::units::{show_size, show_time};

#[derive(Debug, Subcommand)]
pub(crate) enum Topic {
    /// Create a topic
    Create {
        /// tenant/namespace/topic
        name: String,
        /// How many partitions: 1 to 1,024
        #[arg(short, long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
        partitions: u32,
        #[command(flatten)]
        policies: PolicyArgs,
    },
    /// Show a topic and its partitions
    Get {
        /// tenant/namespace/topic
        name: String,
    },
    /// List the topics of a namespace
    List {
        /// tenant/namespace
        namespace: String,
    },
    /// Add partitions, or change policies; those not named stay
    Update {
        /// tenant/namespace/topic
        name: String,
        /// How many partitions from now on; never fewer than there are
        #[arg(short, long, value_parser = clap::value_parser!(u32).range(1..=1024))]
        partitions: Option<u32>,
        #[command(flatten)]
        policies: PolicyArgs,
        /// Go back to what the namespace says, of these policies
        #[arg(long, value_name = "POLICY", value_enum, value_delimiter = ',')]
        unset: Vec<Policy>,
    },
    /// Say which broker shall own a partition
    Move {
        /// tenant/namespace/topic
        name: String,
        /// Which partition
        #[arg(short, long)]
        partition: u32,
        /// The broker
        #[arg(long, value_name = "BROKER")]
        to: Option<String>,
        /// Leave it to names and weights again
        #[arg(long, conflicts_with = "to")]
        clear: bool,
    },
    /// Delete a topic, its messages and its subscriptions
    Delete {
        /// tenant/namespace/topic
        name: String,
    },
}

#[derive(Serialize)]
struct View {
    name: String,
    id: String,
    partitions: u32,
    created_ms: u64,
    policies: policies::View,
    effective_policies: policies::View,
}

#[derive(Serialize)]
struct Whole {
    topic: View,
    partitions: Vec<Partition>,
}

#[derive(Clone, Serialize)]
struct Partition {
    partition: u32,
    owner: Option<String>,
    epoch: u64,
    since_ms: Option<u64>,
    why: &'static str,
    placed_at: Option<String>,
    preferred: Option<String>,
    taken_from: Option<String>,
    first_offset: u64,
    end_offset: u64,
    bytes: u64,
    segments: Vec<Segment>,
}

#[derive(Clone, Serialize)]
struct Segment {
    ledger: u64,
    first_offset: u64,
    end_offset: Option<u64>,
    bytes: u64,
    first_time_ms: u64,
    last_time_ms: u64,
}

impl From<admin::Topic> for View {
    fn from(topic: admin::Topic) -> Self {
        Self {
            name: topic.name,
            id: topic.id,
            partitions: topic.partitions,
            created_ms: topic.created_ms,
            policies: topic.policies.into(),
            effective_policies: topic.effective_policies.into(),
        }
    }
}

impl From<admin::TopicPartition> for Partition {
    fn from(partition: admin::TopicPartition) -> Self {
        let segment = |segment: admin::TopicSegment| Segment {
            ledger: segment.ledger,
            first_offset: segment.first_offset,
            end_offset: segment.end_offset,
            bytes: segment.bytes,
            first_time_ms: segment.first_time_ms,
            last_time_ms: segment.last_time_ms,
        };
        let named = |name: String| Some(name).filter(|name| !name.is_empty());
        Self {
            why: why(partition.reason()),
            partition: partition.partition,
            owner: named(partition.owner),
            epoch: partition.epoch,
            since_ms: Some(partition.since_ms).filter(|since| *since > 0),
            placed_at: named(partition.placed_at),
            preferred: named(partition.preferred),
            taken_from: named(partition.taken_from),
            first_offset: partition.first_offset,
            end_offset: partition.end_offset,
            bytes: partition.bytes,
            segments: partition.segments.into_iter().map(segment).collect(),
        }
    }
}

/// Why a partition is where it is, in a word.
const fn why(reason: admin::OwnerReason) -> &'static str {
    match reason {
        admin::OwnerReason::NeverClaimed => "never-claimed",
        admin::OwnerReason::Released => "released",
        admin::OwnerReason::OwnerGone => "owner-gone",
        admin::OwnerReason::Placed => "placed",
        admin::OwnerReason::Preferred => "preferred",
        admin::OwnerReason::TakenOver => "taken-over",
        admin::OwnerReason::Claimed => "claimed",
        admin::OwnerReason::Unspecified => "unknown",
    }
}

impl Partition {
    /// Why it is where it is, and where it would go.
    fn reason(&self) -> String {
        let mut text = self.why.to_owned();
        if self.why == "taken-over" {
            text.extend(self.taken_from.iter().map(|from| format!(" from {from}")));
        }
        if self.preferred != self.owner {
            let how = if self.placed_at.is_some() && self.placed_at == self.preferred { "placed at" } else { "next" };
            text.extend(self.preferred.iter().map(|broker| format!(", {how} {broker}")));
        }
        text
    }
}

impl Show for View {
    fn columns() -> &'static [&'static str] {
        &["TOPIC", "PARTITIONS", "CREATED", "POLICIES"]
    }

    fn row(&self) -> Vec<String> {
        let (partitions, policies) = (self.partitions.to_string(), self.effective_policies.to_string());
        vec![self.name.clone(), partitions, show_time(self.created_ms), policies]
    }
}

impl Show for Whole {
    fn columns() -> &'static [&'static str] {
        View::columns()
    }

    fn row(&self) -> Vec<String> {
        self.topic.row()
    }
}

impl Show for Partition {
    fn columns() -> &'static [&'static str] {
        &["PARTITION", "OWNER", "EPOCH", "SINCE", "WHY", "FIRST", "END", "SIZE", "SEGMENTS"]
    }

    fn row(&self) -> Vec<String> {
        vec![
            self.partition.to_string(),
            or_dash(self.owner.as_ref()),
            self.epoch.to_string(),
            or_dash(self.since_ms.map(show_time)),
            self.reason(),
            self.first_offset.to_string(),
            self.end_offset.to_string(),
            show_size(self.bytes),
            self.segments.len().to_string(),
        ]
    }
}

impl Topic {
    pub(crate) async fn run(self, common: &Common) -> Result<(), Failure> {
        let (output, admin) = (common.output, common.server.admin().await?);
        match self {
            Self::Create { name, partitions, policies } => {
                let policies = policies.over(admin::Policies::default(), &[]);
                let created = admin.create_topic(&name, partitions, policies).await;
                output.one(&View::from(created.map_err(about(Subject::new("topic", &name).creating()))?))
            }
            Self::Get { name } => {
                let (topic, partitions) = admin.get_topic(&name).await.map_err(about(Subject::new("topic", &name)))?;
                let partitions: Vec<Partition> = partitions.into_iter().map(Partition::from).collect();
                let whole = Whole { topic: topic.into(), partitions: partitions.clone() };
                output.whole(&whole, &partitions)
            }
            Self::List { namespace } => {
                let topics = admin.list_topics(&namespace).await.map_err(about(Subject::new("namespace", &namespace)))?;
                output.many("topics", &topics.into_iter().map(View::from).collect::<Vec<_>>())
            }
            Self::Update { name, partitions, policies, unset } => {
                let changes_policies = !policies.is_empty() || !unset.is_empty();
                if partitions.is_none() && !changes_policies {
                    return Err(Failure::usage("nothing to change").advise("name partitions or a policy; see --help"));
                }
                let policies = if changes_policies {
                    let before =
                        admin.get_topic(&name).await.map_err(about(Subject::new("topic", &name)))?.0.policies.unwrap_or_default();
                    Some(policies.over(before, &unset))
                } else {
                    None
                };
                let updated = admin.update_topic(&name, partitions, policies).await;
                output.one(&View::from(updated.map_err(about(Subject::new("topic", &name)))?))
            }
            Self::Move { name, partition, to, clear } => {
                if to.is_none() && !clear {
                    return Err(Failure::usage("where is the partition to be?").advise("name a broker with --to, or --clear"));
                }
                let moved = admin.move_partition(&name, partition, to.as_deref()).await;
                // What is missing may be the topic or the broker: each is named by the server.
                output.one(&Partition::from(moved.map_err(about(Subject::new("topic", &name)))?))
            }
            Self::Delete { name } => {
                admin.delete_topic(&name).await.map_err(about(Subject::new("topic", &name)))?;
                output.done(&format!("topic {name} is deleted"), &json!({ "deleted": name }))
            }
        }
    }
}
