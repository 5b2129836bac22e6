//! Subscriptions: their records, and what only the owners of partitions know of them.

use std::collections::BTreeSet;

use alluvium_metadata::subscriptions::{Subscription, SubscriptionKind as Kind};
use alluvium_proto::v1;
use alluvium_proto::v1::subscription_service_server::SubscriptionService;
use alluvium_types::fault::{Fault, FaultKind};
use alluvium_types::ids::{Offset, PartitionIndex};
use alluvium_types::names::{SubscriptionName, TopicName};
use alluvium_types::time::Timestamp;
use tokio::sync::oneshot;
use tonic::{Request, Response, Status};

use super::AdminEdge;
use super::fault::{Refused, absent};
use super::page;
use crate::broker::{StartAt, TopicInfo};
use crate::subscription::{CursorStats, Input};
use crate::topic::{PartitionHandle, SubscriptionKind};

#[tonic::async_trait]
impl SubscriptionService for AdminEdge {
    async fn create_subscription(
        &self,
        request: Request<v1::CreateSubscriptionRequest>,
    ) -> Result<Response<v1::CreateSubscriptionResponse>, Status> {
        let subscription = self.subscription_created(request.into_inner()).await?;
        Ok(Response::new(v1::CreateSubscriptionResponse { subscription: Some(subscription) }))
    }

    async fn get_subscription(
        &self,
        request: Request<v1::GetSubscriptionRequest>,
    ) -> Result<Response<v1::GetSubscriptionResponse>, Status> {
        let v1::GetSubscriptionRequest { topic, name } = request.into_inner();
        let (topic, name) = parse(&topic, &name)?;
        let (_, subscription) = self.subscription_read(&topic, &name).await?;
        Ok(Response::new(v1::GetSubscriptionResponse { subscription: Some(shown(&topic, &name, &subscription)) }))
    }

    async fn list_subscriptions(
        &self,
        request: Request<v1::ListSubscriptionsRequest>,
    ) -> Result<Response<v1::ListSubscriptionsResponse>, Status> {
        Ok(Response::new(self.subscriptions_listed(&request.into_inner()).await?))
    }

    async fn delete_subscription(
        &self,
        request: Request<v1::DeleteSubscriptionRequest>,
    ) -> Result<Response<v1::DeleteSubscriptionResponse>, Status> {
        self.subscription_deleted(request.into_inner()).await?;
        Ok(Response::new(v1::DeleteSubscriptionResponse {}))
    }

    async fn get_subscription_stats(
        &self,
        request: Request<v1::GetSubscriptionStatsRequest>,
    ) -> Result<Response<v1::GetSubscriptionStatsResponse>, Status> {
        Ok(Response::new(self.subscription_measured(request.into_inner()).await?))
    }

    async fn seek_subscription(
        &self,
        request: Request<v1::SeekSubscriptionRequest>,
    ) -> Result<Response<v1::SeekSubscriptionResponse>, Status> {
        Ok(Response::new(self.subscription_sought(request.into_inner()).await?))
    }
}

fn parse(topic: &str, name: &str) -> Result<(TopicName, SubscriptionName), Refused> {
    Ok((TopicName::parse(topic)?, SubscriptionName::parse(name)?))
}

fn shown(topic: &TopicName, name: &SubscriptionName, subscription: &Subscription) -> v1::Subscription {
    let kind = match subscription.kind {
        Kind::Exclusive => v1::SubscriptionType::Exclusive,
        Kind::Shared => v1::SubscriptionType::Shared,
    };
    v1::Subscription {
        topic: topic.to_string(),
        name: name.to_string(),
        r#type: kind.into(),
        created_ms: subscription.created.as_millis(),
    }
}

/// Where a position points; `None` when nothing is said.
fn start_at(position: Option<v1::Position>) -> Option<StartAt> {
    Some(match position.and_then(|p| p.at)? {
        v1::position::At::Earliest(_) => StartAt::Earliest,
        v1::position::At::Latest(_) => StartAt::Latest,
        v1::position::At::Offset(offset) => StartAt::Offset(Offset::new(offset)),
        v1::position::At::TimeMs(time) => StartAt::Time(Timestamp::from_millis(time)),
    })
}

fn moved(partition: &PartitionHandle) -> Refused {
    let message = format!("partition {} is changing its owner; try again", partition.name());
    Fault::new(FaultKind::Unavailable, "PARTITION_MOVED", message).into()
}

impl AdminEdge {
    async fn subscription_read(&self, topic: &TopicName, name: &SubscriptionName) -> Result<(TopicInfo, Subscription), Refused> {
        let info = self.broker.topic(topic).await?;
        let found = self.broker.metadata().subscriptions().get(info.id, name).await?;
        let found = found.ok_or_else(|| absent("subscription", "SUBSCRIPTION_NOT_FOUND", name))?;
        Ok((info, found.value))
    }

    async fn subscription_created(&self, request: v1::CreateSubscriptionRequest) -> Result<v1::Subscription, Refused> {
        let (topic, name) = parse(&request.topic, &request.name)?;
        let kind = match v1::SubscriptionType::try_from(request.r#type) {
            Ok(v1::SubscriptionType::Unspecified | v1::SubscriptionType::Exclusive) => SubscriptionKind::Exclusive,
            Ok(v1::SubscriptionType::Shared) => SubscriptionKind::Shared,
            Err(_) => {
                let message = format!("type {} is not known here", request.r#type);
                return Err(Fault::invalid("type", "SUBSCRIPTION_TYPE", message).into());
            }
        };
        let info = self.broker.topic(&topic).await?;
        if self.broker.metadata().subscriptions().get(info.id, &name).await?.is_some() {
            let message = format!("subscription {name} of {topic} exists already");
            return Err(Fault::new(FaultKind::AlreadyExists, "EXISTS", message).into());
        }
        let start = start_at(request.start).unwrap_or(StartAt::Latest);
        self.broker.subscription(&info, &name, Some(kind), Some(start)).await?;
        let (_, subscription) = self.subscription_read(&topic, &name).await?;
        Ok(shown(&topic, &name, &subscription))
    }

    async fn subscriptions_listed(
        &self,
        request: &v1::ListSubscriptionsRequest,
    ) -> Result<v1::ListSubscriptionsResponse, Refused> {
        let topic = TopicName::parse(&request.topic)?;
        let page = request.page.as_ref();
        let (size, after) = (page::size(page)?, page::after(page, SubscriptionName::parse)?);
        let info = self.broker.topic(&topic).await?;
        let listing = self.broker.metadata().subscriptions().list(info.id, after.as_ref(), size).await?;
        Ok(v1::ListSubscriptionsResponse {
            subscriptions: listing.records.iter().map(|(name, found)| shown(&topic, name, &found.value)).collect(),
            next_token: page::token(listing.next),
        })
    }

    async fn subscription_deleted(&self, request: v1::DeleteSubscriptionRequest) -> Result<(), Refused> {
        let (topic, name) = parse(&request.topic, &request.name)?;
        let info = self.broker.topic(&topic).await?;
        let subscriptions = self.broker.metadata().subscriptions();
        let found = subscriptions.get(info.id, &name).await?;
        let found = found.ok_or_else(|| absent("subscription", "SUBSCRIPTION_NOT_FOUND", &name))?;
        subscriptions.delete(info.id, &name, &found).await?;
        Ok(())
    }

    /// The partitions asked for; all if none are named.
    async fn partitions_of(&self, topic: &TopicInfo, asked: &[u32]) -> Result<Vec<PartitionHandle>, Refused> {
        if let Some(bad) = asked.iter().find(|p| **p >= topic.partitions) {
            let message = format!("partition {bad} of {} does not exist, it has {}", topic.name, topic.partitions);
            return Err(Fault::invalid("partitions", "PARTITION_NOT_FOUND", message).into());
        }
        let wanted: BTreeSet<u32> =
            if asked.is_empty() { (0..topic.partitions).collect() } else { asked.iter().copied().collect() };
        let mut handles = Vec::with_capacity(wanted.len());
        for index in wanted {
            handles.push(self.broker.partition(topic, PartitionIndex::new(index)).await?);
        }
        Ok(handles)
    }

    async fn subscription_measured(
        &self,
        request: v1::GetSubscriptionStatsRequest,
    ) -> Result<v1::GetSubscriptionStatsResponse, Refused> {
        let (topic, name) = parse(&request.topic, &request.name)?;
        let (info, subscription) = self.subscription_read(&topic, &name).await?;
        let mut partitions = Vec::new();
        for partition in self.partitions_of(&info, &[]).await? {
            let (reply, answer) = oneshot::channel();
            partition.subscriptions(Input::Stats { subscription: name.clone(), reply }).await?;
            let stats = answer.await.map_err(|_| moved(&partition))??;
            partitions.push(cursor(partition.name().index, &stats));
        }
        Ok(v1::GetSubscriptionStatsResponse { subscription: Some(shown(&topic, &name, &subscription)), partitions })
    }

    async fn subscription_sought(&self, request: v1::SeekSubscriptionRequest) -> Result<v1::SeekSubscriptionResponse, Refused> {
        let (topic, name) = parse(&request.topic, &request.name)?;
        let at = start_at(request.position)
            .ok_or_else(|| Fault::invalid("position", "POSITION", "say where to: earliest, latest, an offset or a time"))?;
        let (info, _) = self.subscription_read(&topic, &name).await?;
        let mut cursors = Vec::new();
        for partition in self.partitions_of(&info, &request.partitions).await? {
            let to = partition.resolve(at).await?;
            let (reply, answer) = oneshot::channel();
            partition.subscriptions(Input::Seek { subscription: name.clone(), to, reply }).await?;
            let stands = answer.await.map_err(|_| moved(&partition))??;
            cursors.push(v1::MessageId { partition: partition.name().index.get(), offset: stands.get() });
        }
        Ok(v1::SeekSubscriptionResponse { cursors })
    }
}

fn cursor(partition: PartitionIndex, stats: &CursorStats) -> v1::PartitionCursor {
    v1::PartitionCursor {
        partition: partition.get(),
        next_offset: stats.next.get(),
        end_offset: stats.end.get(),
        backlog: stats.backlog,
        acknowledged_ranges: stats.acknowledged_ranges,
        in_flight: stats.in_flight,
        delayed: stats.delayed,
        unreadable: stats.unreadable,
        blocked: stats.blocked,
        consumers: stats
            .consumers
            .iter()
            .map(|c| v1::ConsumerStats {
                name: c.name.clone(),
                in_flight: c.in_flight,
                credit_messages: c.credit_messages,
                credit_bytes: c.credit_bytes,
            })
            .collect(),
    }
}
