//! Subscriptions.

use alluvium_client::admin;
use clap::{Subcommand, ValueEnum};
use serde::Serialize;
use serde_json::json;

use crate::command::Common;
use crate::consume::StartAt;
use crate::exit::{Failure, Subject, about};
use crate::output::Show;
use crate::units::show_time;

#[derive(Debug, Subcommand)]
pub(crate) enum Subscription {
    /// Create a subscription
    Create {
        /// tenant/namespace/topic
        topic: String,
        /// Its name
        name: String,
        /// Who gets which message
        #[arg(long = "type", value_enum, default_value_t = Kind::Exclusive)]
        kind: Kind,
        /// Where it begins: earliest, latest, an offset, a time, or how long ago
        #[arg(long, default_value = "latest")]
        from: StartAt,
    },
    /// Show a subscription
    Get {
        /// tenant/namespace/topic
        topic: String,
        /// Its name
        name: String,
    },
    /// List the subscriptions of a topic
    List {
        /// tenant/namespace/topic
        topic: String,
    },
    /// Delete a subscription
    Delete {
        /// tenant/namespace/topic
        topic: String,
        /// Its name
        name: String,
    },
    /// Show where a subscription stands in each partition
    Stats {
        /// tenant/namespace/topic
        topic: String,
        /// Its name
        name: String,
    },
    /// Move a subscription, forward or back
    Seek {
        /// tenant/namespace/topic
        topic: String,
        /// Its name
        name: String,
        /// Where to: earliest, latest, an offset, a time, or how long ago
        to: StartAt,
        /// These partitions only
        #[arg(short, long = "partition", value_delimiter = ',')]
        partitions: Vec<u32>,
    },
}

/// Who gets which message.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Kind {
    /// One consumer, in order
    Exclusive,
    /// Any number of consumers, each message to one of them
    Shared,
}

impl From<Kind> for admin::SubscriptionType {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Exclusive => Self::Exclusive,
            Kind::Shared => Self::Shared,
        }
    }
}

#[derive(Serialize)]
struct View {
    topic: String,
    name: String,
    r#type: &'static str,
    created_ms: u64,
}

#[derive(Serialize)]
struct Whole {
    subscription: View,
    lag: u64,
    backlog: u64,
    partitions: Vec<Cursor>,
}

#[derive(Clone, Serialize)]
struct Cursor {
    partition: u32,
    next_offset: u64,
    end_offset: u64,
    lag: u64,
    backlog: u64,
    acknowledged_ranges: u64,
    in_flight: u64,
    delayed: u64,
    unreadable: u64,
    blocked: u64,
    paused: String,
    consumers: Vec<Consumer>,
}

#[derive(Clone, Serialize)]
struct Consumer {
    name: String,
    in_flight: u64,
    credit_messages: u64,
    credit_bytes: u64,
}

#[derive(Serialize)]
struct Place {
    partition: u32,
    offset: u64,
}

impl From<admin::Subscription> for View {
    fn from(subscription: admin::Subscription) -> Self {
        let kind = match subscription.r#type() {
            admin::SubscriptionType::Exclusive => "exclusive",
            admin::SubscriptionType::Shared => "shared",
            admin::SubscriptionType::Unspecified => "unknown",
        };
        Self { topic: subscription.topic, name: subscription.name, r#type: kind, created_ms: subscription.created_ms }
    }
}

impl From<admin::PartitionCursor> for Cursor {
    fn from(cursor: admin::PartitionCursor) -> Self {
        let consumer = |consumer: admin::ConsumerStats| Consumer {
            name: consumer.name,
            in_flight: consumer.in_flight,
            credit_messages: consumer.credit_messages,
            credit_bytes: consumer.credit_bytes,
        };
        Self {
            partition: cursor.partition,
            next_offset: cursor.next_offset,
            end_offset: cursor.end_offset,
            lag: cursor.end_offset.saturating_sub(cursor.next_offset),
            backlog: cursor.backlog,
            acknowledged_ranges: cursor.acknowledged_ranges,
            in_flight: cursor.in_flight,
            delayed: cursor.delayed,
            unreadable: cursor.unreadable,
            blocked: cursor.blocked,
            paused: cursor.paused,
            consumers: cursor.consumers.into_iter().map(consumer).collect(),
        }
    }
}

impl Show for View {
    fn columns() -> &'static [&'static str] {
        &["SUBSCRIPTION", "TYPE", "TOPIC", "CREATED"]
    }

    fn row(&self) -> Vec<String> {
        vec![self.name.clone(), self.r#type.to_owned(), self.topic.clone(), show_time(self.created_ms)]
    }
}

impl Show for Whole {
    fn columns() -> &'static [&'static str] {
        &["SUBSCRIPTION", "TYPE", "TOPIC", "LAG", "BACKLOG"]
    }

    fn row(&self) -> Vec<String> {
        let View { topic, name, r#type, .. } = &self.subscription;
        vec![name.clone(), (*r#type).to_owned(), topic.clone(), self.lag.to_string(), self.backlog.to_string()]
    }
}

impl Show for Cursor {
    fn columns() -> &'static [&'static str] {
        &["PARTITION", "NEXT", "END", "LAG", "BACKLOG", "RANGES", "IN FLIGHT", "DELAYED", "UNREADABLE", "CONSUMERS", "PAUSED"]
    }

    fn row(&self) -> Vec<String> {
        let consumers: Vec<&str> = self.consumers.iter().map(|consumer| consumer.name.as_str()).collect();
        let figures = [
            u64::from(self.partition),
            self.next_offset,
            self.end_offset,
            self.lag,
            self.backlog,
            self.acknowledged_ranges,
            self.in_flight,
            self.delayed,
            self.unreadable,
        ];
        let consumers = if consumers.is_empty() { "-".to_owned() } else { consumers.join(",") };
        let paused = if self.paused.is_empty() { "-".to_owned() } else { self.paused.clone() };
        figures.iter().map(u64::to_string).chain([consumers, paused]).collect()
    }
}

impl Show for Place {
    fn columns() -> &'static [&'static str] {
        &["PARTITION", "NEXT"]
    }

    fn row(&self) -> Vec<String> {
        vec![self.partition.to_string(), self.offset.to_string()]
    }
}

impl Subscription {
    pub(crate) async fn run(self, common: &Common) -> Result<(), Failure> {
        let (output, admin) = (common.output, common.server.admin().await?);
        match self {
            Self::Create { topic, name, kind, from } => {
                let created = admin.create_subscription(&topic, &name, kind.into(), from.start()).await;
                let subject = Subject::new("subscription", &name).of(&topic).creating();
                output.one(&View::from(created.map_err(about(subject))?))
            }
            Self::Get { topic, name } => {
                let found = admin.get_subscription(&topic, &name).await;
                output.one(&View::from(found.map_err(about(Subject::new("subscription", &name).of(&topic)))?))
            }
            Self::List { topic } => {
                let subscriptions = admin.list_subscriptions(&topic).await.map_err(about(Subject::new("topic", &topic)))?;
                output.many("subscriptions", &subscriptions.into_iter().map(View::from).collect::<Vec<_>>())
            }
            Self::Delete { topic, name } => {
                let subject = Subject::new("subscription", &name).of(&topic);
                admin.delete_subscription(&topic, &name).await.map_err(about(subject))?;
                output.done(&format!("subscription {name} is deleted"), &json!({ "topic": topic, "deleted": name }))
            }
            Self::Stats { topic, name } => {
                let subject = Subject::new("subscription", &name).of(&topic);
                let (subscription, cursors) = admin.subscription_stats(&topic, &name).await.map_err(about(subject))?;
                let partitions: Vec<Cursor> = cursors.into_iter().map(Cursor::from).collect();
                let whole = Whole {
                    subscription: subscription.into(),
                    lag: partitions.iter().map(|cursor| cursor.lag).sum(),
                    backlog: partitions.iter().map(|cursor| cursor.backlog).sum(),
                    partitions: partitions.clone(),
                };
                output.whole(&whole, &partitions)
            }
            Self::Seek { topic, name, to, partitions } => {
                let subject = Subject::new("subscription", &name).of(&topic);
                let cursors = admin.seek_subscription(&topic, &name, &partitions, to.start()).await.map_err(about(subject))?;
                let place = |id: alluvium_client::MessageId| Place { partition: id.partition, offset: id.offset };
                output.many("cursors", &cursors.into_iter().map(place).collect::<Vec<_>>())
            }
        }
    }
}
