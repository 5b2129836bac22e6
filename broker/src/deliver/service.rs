//! The calls of the consuming service.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use alluvium_proto::status::to_status;
use alluvium_proto::v1;
use alluvium_proto::v1::consume_service_server::ConsumeService;
use alluvium_runtime::budget::ByteBudget;
use alluvium_runtime::clock::Clock;
use alluvium_runtime::tasks::{OnFailure, Tasks};
use alluvium_types::fault::Fault;
use alluvium_types::ids::PartitionIndex;
use alluvium_types::names::TopicName;
use futures::future::try_join_all;
use futures::{Stream, StreamExt, TryStreamExt, stream};
use tonic::{Request, Response, Status, Streaming};

use super::growth::Growth;
use super::membership::{Joiner, Membership, Partitions};
use super::metrics::DeliverMetrics;
use super::outbox::{Outbox, Responses};
use super::{consume, pull, read, request, settle};
use crate::broker::{Broker, SubscriptionInfo, TopicInfo};
use crate::subscription::{ConsumerId, Mailbox};

/// How long a new stream may take to say what it wants.
const OPEN_WITHIN: Duration = Duration::from_secs(30);
/// How many partitions of a topic are opened at a time.
const OPENED_AT_ONCE: usize = 16;

/// Serves consumers of one broker.
#[derive(Clone, Debug)]
pub struct ConsumeEdge {
    pub(super) broker: Broker,
    metrics: DeliverMetrics,
    consumers: Arc<AtomicU64>,
}

/// What a stream's task needs of its process.
#[derive(Clone, Debug)]
pub(super) struct Surroundings {
    pub(super) clock: Clock,
    pub(super) tasks: Tasks,
    /// For decoded messages.
    pub(super) budget: ByteBudget,
    pub(super) metrics: DeliverMetrics,
}

impl ConsumeEdge {
    /// Over a broker.
    pub fn new(broker: Broker) -> Self {
        Self { broker, metrics: DeliverMetrics::default(), consumers: Arc::new(AtomicU64::new(1)) }
    }

    /// What it counts.
    pub fn metrics(&self) -> &DeliverMetrics {
        &self.metrics
    }

    pub(super) fn surroundings(&self) -> Surroundings {
        Surroundings {
            clock: self.broker.clock().clone(),
            tasks: self.broker.tasks().clone(),
            budget: self.broker.delivery_budget().clone(),
            metrics: self.metrics.clone(),
        }
    }

    pub(super) fn new_consumer(&self) -> ConsumerId {
        ConsumerId::new(self.consumers.fetch_add(1, Ordering::Relaxed))
    }

    /// The handles of these partitions; of all if none is named.
    pub(super) async fn partitions(&self, topic: &TopicInfo, wanted: &[PartitionIndex]) -> Result<Partitions, Fault> {
        if let Some(unknown) = wanted.iter().find(|p| p.get() >= topic.partitions) {
            let text = format!("topic {} has {} partitions, and no partition {unknown}", topic.name, topic.partitions);
            return Err(Fault::invalid("partitions", "UNKNOWN_PARTITION", text));
        }
        let all: Vec<PartitionIndex> = (0..topic.partitions).map(PartitionIndex::new).collect();
        let wanted = if wanted.is_empty() { all } else { wanted.to_vec() };
        let opening = wanted.into_iter().map(|index| async move { Ok((index, self.broker.partition(topic, index).await?)) });
        stream::iter(opening).buffer_unordered(OPENED_AT_ONCE).try_collect().await
    }

    /// The same, of partitions that know the subscription.
    pub(super) async fn partitions_of(
        &self,
        subscription: &SubscriptionInfo,
        topic: &TopicInfo,
        wanted: &[PartitionIndex],
    ) -> Result<Partitions, Fault> {
        let partitions = self.partitions(topic, wanted).await?;
        try_join_all(partitions.values().map(|partition| self.broker.acquaint(partition, subscription))).await?;
        Ok(partitions)
    }

    /// The topic of a name.
    pub(super) async fn topic(&self, name: &TopicName) -> Result<TopicInfo, Fault> {
        self.broker.topic(name).await
    }

    /// Serves a subscription's stream, whatever carries it. Resolves once it is open.
    pub async fn subscription<S>(&self, mut requests: S) -> Result<Responses<v1::SubscribeResponse>, Fault>
    where
        S: Stream<Item = Result<v1::SubscribeRequest, Status>> + Unpin + Send + 'static,
    {
        let first = self.first(&mut requests).await?;
        let Some(v1::subscribe_request::Request::Open(open)) = first.request else { return Err(not_open()) };
        let open = request::subscribe(open)?;
        let mailbox = Mailbox::new();
        consume::open_credit(&mailbox, open.credit)?;
        let topic = self.topic(&open.topic).await?;
        let subscription = self.broker.subscription(&topic, &open.subscription, open.kind, Some(open.start)).await?;
        let partitions = self.partitions_of(&subscription, &topic, &open.partitions).await?;
        let kind = subscription.kind;
        let growth = Growth::of(self, &topic, &open.partitions, Some(&subscription));
        let opened = consume::subscribed(partitions.keys().copied(), kind);
        let joiner = Joiner {
            subscription: open.subscription,
            kind,
            consumer: self.new_consumer(),
            name: open.consumer,
            takeover: open.takeover,
            ack_deadline: None,
        };
        let tasks = self.broker.tasks();
        let membership = Membership::join(joiner, partitions, mailbox, tasks.clone()).await?;
        let (outbox, responses) = Outbox::new();
        let around = self.surroundings();
        let session = consume::Session { around, membership, growth, format: open.format, requests, outbox };
        tasks.spawn("consume", OnFailure::Log, async move {
            session.run(opened).await;
            Ok::<(), Fault>(())
        });
        Ok(responses)
    }

    async fn open_read<S>(&self, mut requests: S) -> Result<Responses<v1::ReadResponse>, Fault>
    where
        S: Stream<Item = Result<v1::ReadRequest, Status>> + Unpin + Send + 'static,
    {
        let first = self.first(&mut requests).await?;
        let Some(v1::read_request::Request::Open(open)) = first.request else { return Err(not_open()) };
        let (session, responses) = read::open(self, request::read(&open)?, requests).await?;
        self.broker.tasks().spawn("read", OnFailure::Log, async move {
            session.run().await;
            Ok::<(), Fault>(())
        });
        Ok(responses)
    }

    async fn first<T>(&self, requests: &mut (impl Stream<Item = Result<T, Status>> + Unpin)) -> Result<T, Fault> {
        let first = self.broker.clock().timeout(OPEN_WITHIN, requests.next()).await;
        match first {
            Ok(Some(Ok(request))) => Ok(request),
            Ok(Some(Err(status))) => Err(Fault::invalid("request", "UNREADABLE", status.message())),
            Ok(None) => Err(not_open()),
            Err(elapsed) => Err(Fault::invalid("open", "MISSING", format!("the stream was not opened: {elapsed}"))),
        }
    }
}

fn not_open() -> Fault {
    Fault::invalid("open", "MISSING", "the first request of a stream is open")
}

#[tonic::async_trait]
impl ConsumeService for ConsumeEdge {
    type SubscribeStream = Responses<v1::SubscribeResponse>;
    type ReadStream = Responses<v1::ReadResponse>;

    async fn subscribe(
        &self,
        request: Request<Streaming<v1::SubscribeRequest>>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        self.subscription(request.into_inner()).await.map(Response::new).map_err(|fault| to_status(&fault))
    }

    async fn pull(&self, request: Request<v1::PullRequest>) -> Result<Response<v1::PullResponse>, Status> {
        pull::pull(self, request.into_inner()).await.map(Response::new).map_err(|fault| to_status(&fault))
    }

    async fn acknowledge(&self, request: Request<v1::AcknowledgeRequest>) -> Result<Response<v1::AcknowledgeResponse>, Status> {
        settle::acknowledge(self, request.into_inner()).await.map(Response::new).map_err(|fault| to_status(&fault))
    }

    async fn nack(&self, request: Request<v1::NackRequest>) -> Result<Response<v1::NackResponse>, Status> {
        settle::nack(self, request.into_inner()).await.map(Response::new).map_err(|fault| to_status(&fault))
    }

    async fn read(&self, request: Request<Streaming<v1::ReadRequest>>) -> Result<Response<Self::ReadStream>, Status> {
        self.open_read(request.into_inner()).await.map(Response::new).map_err(|fault| to_status(&fault))
    }
}
