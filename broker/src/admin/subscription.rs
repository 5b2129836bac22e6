//! Subscriptions: their records, and what only the owners of partitions know of them.

use std::collections::BTreeSet;

use alluvium_metadata::subscriptions::{Subscription, SubscriptionKind as Kind};
use alluvium_proto::internal::v1 as wire;
use alluvium_proto::status::to_status;
use alluvium_proto::v1;
use alluvium_proto::v1::subscription_service_server::SubscriptionService;
use alluvium_types::fault::{Fault, FaultKind};
use alluvium_types::ids::{Offset, PartitionIndex};
use alluvium_types::names::{SubscriptionName, TopicName};
use alluvium_types::time::Timestamp;
use futures::{StreamExt, TryStreamExt, stream};
use tonic::{Request, Response, Status};

use super::AdminEdge;
use super::fault::{Refused, absent};
use super::page;
use crate::broker::{Route, StartAt, SubscriptionInfo, TopicInfo};
use crate::forward::{Asking, answered};
use crate::subscription::CursorStats;
use crate::topic::SubscriptionKind;

/// How many partitions are asked at a time.
const AT_ONCE: usize = 16;

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
    fn partitions_of(topic: &TopicInfo, asked: &[u32]) -> Result<BTreeSet<PartitionIndex>, Refused> {
        if let Some(bad) = asked.iter().find(|p| **p >= topic.partitions) {
            let message = format!("partition {bad} of {} does not exist, it has {}", topic.name, topic.partitions);
            return Err(Fault::invalid("partitions", "PARTITION_NOT_FOUND", message).into());
        }
        let all = asked.is_empty();
        let named = asked.iter().copied().chain((0..topic.partitions).filter(|_| all));
        Ok(named.map(PartitionIndex::new).collect())
    }

    /// Where a subscription stands in a partition, as its owner knows.
    async fn cursor_found(
        &self,
        topic: &TopicInfo,
        index: PartitionIndex,
        subscription: &SubscriptionInfo,
    ) -> Result<v1::PartitionCursor, Status> {
        let mut asking = Asking::new(&self.broker, topic, index);
        loop {
            let answer = match asking.whom().await? {
                Route::Here(partition) => {
                    let stats = async {
                        self.broker.acquaint(&partition, subscription).await?;
                        partition.stats(&subscription.name).await
                    };
                    let paused = partition.why_paused(subscription.kind);
                    stats.await.map(|stats| cursor(index, &stats, paused)).map_err(|fault| to_status(&fault))
                }
                Route::There(peer) => {
                    let (topic, subscription) = (topic.name.to_string(), subscription.name.to_string());
                    let request = wire::InspectCursorRequest { topic, partition: index.get(), subscription };
                    let found = answered(&peer, peer.calling().inspect_cursor(request)).await;
                    found.map(|found| found.cursor.unwrap_or_default())
                }
            };
            if let Some(answer) = asking.settled(answer).await {
                return answer;
            }
        }
    }

    /// Moves a subscription's cursor in a partition.
    async fn cursor_moved(
        &self,
        topic: &TopicInfo,
        index: PartitionIndex,
        subscription: &SubscriptionInfo,
        (at, asked): (StartAt, &v1::SeekSubscriptionRequest),
    ) -> Result<v1::MessageId, Status> {
        let mut asking = Asking::new(&self.broker, topic, index);
        loop {
            let answer = match asking.whom().await? {
                Route::Here(partition) => {
                    let moved = async {
                        self.broker.acquaint(&partition, subscription).await?;
                        partition.seek(&subscription.name, at).await
                    };
                    let at = |offset: Offset| v1::MessageId { partition: index.get(), offset: offset.get() };
                    moved.await.map(at).map_err(|fault| to_status(&fault))
                }
                Route::There(peer) => {
                    let request = v1::SeekSubscriptionRequest { partitions: vec![index.get()], ..asked.clone() };
                    let request = wire::ForwardSeekRequest { request: Some(request) };
                    let moved = answered(&peer, peer.calling().forward_seek(request)).await;
                    moved.and_then(|moved| {
                        let cursors = moved.response.unwrap_or_default().cursors;
                        cursors.first().copied().ok_or_else(|| Status::unavailable("an answer without a cursor"))
                    })
                }
            };
            if let Some(answer) = asking.settled(answer).await {
                return answer;
            }
        }
    }

    async fn subscription_measured(
        &self,
        request: v1::GetSubscriptionStatsRequest,
    ) -> Result<v1::GetSubscriptionStatsResponse, Refused> {
        let (topic, name) = parse(&request.topic, &request.name)?;
        let (info, subscription) = self.subscription_read(&topic, &name).await?;
        let found = self.broker.subscription(&info, &name, None, None).await?;
        let measured = Self::partitions_of(&info, &[])?.into_iter().map(|index| self.cursor_found(&info, index, &found));
        let partitions = stream::iter(measured).buffered(AT_ONCE).try_collect().await?;
        Ok(v1::GetSubscriptionStatsResponse { subscription: Some(shown(&topic, &name, &subscription)), partitions })
    }

    async fn subscription_sought(&self, request: v1::SeekSubscriptionRequest) -> Result<v1::SeekSubscriptionResponse, Refused> {
        let (topic, name) = parse(&request.topic, &request.name)?;
        let at = position(request.position)?;
        let (info, _) = self.subscription_read(&topic, &name).await?;
        let found = self.broker.subscription(&info, &name, None, None).await?;
        let named = Self::partitions_of(&info, &request.partitions)?;
        let sought = named.into_iter().map(|index| self.cursor_moved(&info, index, &found, (at, &request)));
        let cursors = stream::iter(sought).buffered(AT_ONCE).try_collect().await?;
        Ok(v1::SeekSubscriptionResponse { cursors })
    }
}

/// The position to seek to.
pub(crate) fn position(position: Option<v1::Position>) -> Result<StartAt, Fault> {
    let missing = || Fault::invalid("position", "POSITION", "say where to: earliest, latest, an offset or a time");
    start_at(position).ok_or_else(missing)
}

/// A cursor's figures, as a caller is told.
pub(crate) fn cursor(partition: PartitionIndex, stats: &CursorStats, paused: Option<String>) -> v1::PartitionCursor {
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
        paused: paused.unwrap_or_default(),
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
