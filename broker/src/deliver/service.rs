//! The calls of the consuming service.

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
use super::line::{Ask, Say};
use super::membership::{Joiner, Membership, Partitions, Spans};
use super::metrics::DeliverMetrics;
use super::outbox::{Outbox, Queued, Responses};
use super::parcel::Format;
use super::relay::{self, Reading, Subscribing};
use super::{consume, pull, request, settle};
use crate::broker::{Broker, SubscriptionInfo, TopicInfo};
use crate::subscription::credit::Account;
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
}

/// A consumer, as its subscription is told of it.
#[derive(Clone, Debug)]
pub(crate) struct Consumer {
    pub(crate) subscription: SubscriptionInfo,
    /// What people call it; may be empty.
    pub(crate) name: String,
    pub(crate) takeover: bool,
    pub(crate) format: Format,
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
        let metrics = broker.deliver_metrics().clone();
        Self { broker, metrics }
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
        ConsumerId::new(self.broker.consumer_number())
    }

    /// The partitions asked for; all if none is named.
    pub(super) fn wanted(topic: &TopicInfo, asked: &[PartitionIndex]) -> Result<Vec<PartitionIndex>, Fault> {
        if let Some(unknown) = asked.iter().find(|p| p.get() >= topic.partitions) {
            let text = format!("topic {} has {} partitions, and no partition {unknown}", topic.name, topic.partitions);
            return Err(Fault::invalid("partitions", "UNKNOWN_PARTITION", text));
        }
        let all = || (0..topic.partitions).map(PartitionIndex::new).collect();
        Ok(if asked.is_empty() { all() } else { asked.to_vec() })
    }

    /// The handles of partitions that this broker shall serve.
    pub(crate) async fn partitions_here(&self, topic: &TopicInfo, wanted: &[PartitionIndex]) -> Result<Partitions, Fault> {
        let wanted = Self::wanted(topic, wanted)?;
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
        let partitions = self.partitions_here(topic, wanted).await?;
        try_join_all(partitions.values().map(|partition| self.broker.acquaint(partition, subscription))).await?;
        Ok(partitions)
    }

    /// The topic of a name.
    pub(super) async fn topic(&self, name: &TopicName) -> Result<TopicInfo, Fault> {
        self.broker.topic(name).await
    }

    /// Serves a subscription's stream from partitions of this broker alone, whatever carries it: it ends when the broker ceases to own
    /// them. Resolves once it is open.
    pub async fn subscription_here<S>(&self, mut requests: S) -> Result<Responses<v1::SubscribeResponse>, Fault>
    where
        S: Stream<Item = Result<v1::SubscribeRequest, Status>> + Unpin + Send + 'static,
    {
        use v1::subscribe_request::Request;
        let Some(Request::Open(open)) = self.first(&mut requests).await?.request else { return Err(not_open()) };
        let asked = request::subscribe(open.clone())?;
        let topic = self.topic(&asked.topic).await?;
        let subscription = self.broker.subscription(&topic, &asked.subscription, asked.kind, Some(asked.start)).await?;
        let partitions = self.partitions_here(&topic, &asked.partitions).await?;
        let consumer = Consumer { subscription, name: asked.consumer, takeover: asked.takeover, format: asked.format };
        let credit = open.credit.map(|credit| Ok(v1::SubscribeRequest { request: Some(Request::Credit(credit)) }));
        let asks = stream::iter(credit).chain(requests).map(|request| request.map(Ask::Request));
        let said = self.consume_here(consumer, partitions, Spans::new(), asks).await?.responses();
        Ok(Box::pin(said.filter_map(async |said| match said {
            Ok(Say::Response { response, .. }) => Some(Ok(response)),
            Ok(Say::Wanted(_) | Say::Returned(_)) => None,
            Err(status) => Some(Err(status)),
        })))
    }

    async fn open_subscribe<S>(&self, mut requests: S) -> Result<Responses<v1::SubscribeResponse>, Status>
    where
        S: Stream<Item = Result<v1::SubscribeRequest, Status>> + Unpin + Send + 'static,
    {
        let opening = async {
            let first = self.first(&mut requests).await?;
            let Some(v1::subscribe_request::Request::Open(open)) = first.request else { return Err(not_open()) };
            let asked = request::subscribe(open.clone())?;
            if let Some(credit) = asked.credit {
                Account::default().grant(credit)?;
            }
            let topic = self.topic(&asked.topic).await?;
            let partitions = Self::wanted(&topic, &asked.partitions)?;
            let subscription = self.broker.subscription(&topic, &asked.subscription, asked.kind, Some(asked.start)).await?;
            Ok((open, asked, topic, partitions, subscription))
        };
        let (open, asked, topic, partitions, subscription) = opening.await.map_err(|fault: Fault| to_status(&fault))?;
        let growth = Growth::of(self, &topic, &asked.partitions);
        let consumer = Consumer { subscription, name: asked.consumer, takeover: asked.takeover, format: asked.format };
        let traffic = Subscribing::new(topic, consumer, open, &partitions, growth);
        Ok(relay::open(self, traffic, &partitions, asked.credit, requests).await?.responses())
    }

    /// Serves a consumer from partitions of this broker. What it `held` before stays with it.
    pub(crate) async fn consume_here<S>(
        &self,
        consumer: Consumer,
        partitions: Partitions,
        held: Spans,
        requests: S,
    ) -> Result<Queued<Say<v1::SubscribeResponse>>, Fault>
    where
        S: Stream<Item = Result<Ask<v1::SubscribeRequest>, Status>> + Unpin + Send + 'static,
    {
        let Consumer { subscription, name, takeover, format } = consumer;
        try_join_all(partitions.values().map(|partition| self.broker.acquaint(partition, &subscription))).await?;
        let opened = consume::subscribed(partitions.keys().copied(), subscription.kind);
        let joiner = Joiner {
            subscription: subscription.name,
            kind: subscription.kind,
            consumer: self.new_consumer(),
            name,
            takeover,
            ack_deadline: None,
        };
        let tasks = self.broker.tasks();
        let membership = Membership::join(joiner, partitions, held, Mailbox::new(), tasks.clone()).await?;
        let (outbox, queued) = Outbox::new();
        let session = consume::Session { around: self.surroundings(), membership, format, requests, outbox };
        tasks.spawn("consume", OnFailure::Log, async move {
            session.run(opened).await;
            Ok::<(), Fault>(())
        });
        Ok(queued)
    }

    async fn open_read<S>(&self, mut requests: S) -> Result<Responses<v1::ReadResponse>, Status>
    where
        S: Stream<Item = Result<v1::ReadRequest, Status>> + Unpin + Send + 'static,
    {
        let opening = async {
            let first = self.first(&mut requests).await?;
            let Some(v1::read_request::Request::Open(open)) = first.request else { return Err(not_open()) };
            let asked = request::read(&open)?;
            if let Some(credit) = asked.credit {
                Account::default().grant(credit)?;
            }
            let topic = self.topic(&asked.topic).await?;
            let partitions = Self::wanted(&topic, &asked.partitions)?;
            Ok((open, asked, topic, partitions))
        };
        let (open, asked, topic, partitions) = opening.await.map_err(|fault: Fault| to_status(&fault))?;
        let growth = Growth::of(self, &topic, &asked.partitions).filter(|_| !asked.stop_at_end);
        let credit = asked.credit;
        let traffic = Reading::new(topic, asked, open, growth);
        Ok(relay::open(self, traffic, &partitions, credit, requests).await?.responses())
    }

    pub(super) async fn first<T>(&self, requests: &mut (impl Stream<Item = Result<T, Status>> + Unpin)) -> Result<T, Fault> {
        let first = self.broker.clock().timeout(OPEN_WITHIN, requests.next()).await;
        match first {
            Ok(Some(Ok(request))) => Ok(request),
            Ok(Some(Err(status))) => Err(Fault::invalid("request", "UNREADABLE", status.message())),
            Ok(None) => Err(not_open()),
            Err(elapsed) => Err(Fault::invalid("open", "MISSING", format!("the stream was not opened: {elapsed}"))),
        }
    }
}

pub(super) fn not_open() -> Fault {
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
        self.open_subscribe(request.into_inner()).await.map(Response::new)
    }

    async fn pull(&self, request: Request<v1::PullRequest>) -> Result<Response<v1::PullResponse>, Status> {
        pull::pull(self, request.into_inner()).await.map(Response::new)
    }

    async fn acknowledge(&self, request: Request<v1::AcknowledgeRequest>) -> Result<Response<v1::AcknowledgeResponse>, Status> {
        settle::acknowledge(self, request.into_inner()).await.map(Response::new)
    }

    async fn nack(&self, request: Request<v1::NackRequest>) -> Result<Response<v1::NackResponse>, Status> {
        settle::nack(self, request.into_inner()).await.map(Response::new)
    }

    async fn read(&self, request: Request<Streaming<v1::ReadRequest>>) -> Result<Response<Self::ReadStream>, Status> {
        self.open_read(request.into_inner()).await.map(Response::new)
    }
}
