//! What other brokers ask of this one. Served on the internal port only.

use std::pin::Pin;
use std::sync::{Arc, OnceLock};

use alluvium_proto::internal::v1 as wire;
use alluvium_proto::internal::v1::forward_service_server::{ForwardService, ForwardServiceServer};
use alluvium_proto::status::to_status;
use alluvium_proto::v1;
use alluvium_types::fault::{Fault, FaultKind};
use alluvium_types::ids::PartitionIndex;
use alluvium_types::limits::Limits;
use alluvium_types::names::{SubscriptionName, TopicName};
use futures::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

use super::topic_with;
use crate::admin::subscription::{cursor, position};
use crate::admin::topic::inspected;
use crate::broker::{Broker, Scope};
use crate::deliver::{ConsumeEdge, forwarded, pull, settle};
use crate::publish;
use crate::publish::Taken;
use crate::publish::messages::messages;

/// Serves other brokers, from the moment on that there is a broker.
#[derive(Clone, Debug)]
pub struct ForwardEdge {
    broker: Arc<OnceLock<Broker>>,
    limits: Limits,
}

impl ForwardEdge {
    /// One that puts everybody off.
    pub fn new(limits: Limits) -> Self {
        Self { broker: Arc::default(), limits }
    }

    /// Serves over a broker from now on; the first one stays.
    pub fn serve(&self, broker: Broker) {
        self.broker.get_or_init(|| broker);
    }

    /// As a service, with its limits.
    pub fn service(&self) -> Taken<ForwardServiceServer<Self>, wire::ForwardPublishRequest> {
        let bytes_max = super::bytes_max(self.limits);
        let service =
            ForwardServiceServer::new(self.clone()).max_decoding_message_size(bytes_max).max_encoding_message_size(bytes_max);
        Taken::new(service, "ForwardPublish", bytes_max)
    }

    fn consuming(&self) -> Result<ConsumeEdge, Status> {
        Ok(ConsumeEdge::new(self.broker()?.clone()))
    }

    fn broker(&self) -> Result<&Broker, Status> {
        let starting = || Fault::new(FaultKind::Unavailable, "STARTING", "the broker is starting; try again");
        self.broker.get().ok_or_else(|| to_status(&starting()))
    }
}

type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl ForwardService for ForwardEdge {
    type ForwardPublishStream = Responses<wire::ForwardPublishResponse>;
    type ForwardSubscribeStream = Responses<wire::ForwardSubscribeResponse>;
    type ForwardReadStream = Responses<wire::ForwardReadResponse>;

    async fn forward_publish(
        &self,
        request: Request<Streaming<wire::ForwardPublishRequest>>,
    ) -> Result<Response<Self::ForwardPublishStream>, Status> {
        let inner = |request: wire::ForwardPublishRequest| request.request.unwrap_or_default();
        let requests = messages(&request)?.map(move |request| request.map(inner));
        let opened = publish::open(self.broker()?, Scope::Here, requests, publish::intake::Share::default()).await;
        let outer = |response: v1::PublishStreamResponse| wire::ForwardPublishResponse { response: Some(response) };
        let responses = opened.map_err(told)?.map(move |response| response.map(outer));
        Ok(Response::new(Box::pin(responses)))
    }

    async fn forward_subscribe(
        &self,
        request: Request<Streaming<wire::ForwardSubscribeRequest>>,
    ) -> Result<Response<Self::ForwardSubscribeStream>, Status> {
        forwarded::subscribe(&self.consuming()?, request.into_inner()).await.map(Response::new)
    }

    async fn forward_read(
        &self,
        request: Request<Streaming<wire::ForwardReadRequest>>,
    ) -> Result<Response<Self::ForwardReadStream>, Status> {
        forwarded::read(&self.consuming()?, request.into_inner()).await.map(Response::new)
    }

    async fn forward_pull(
        &self,
        request: Request<wire::ForwardPullRequest>,
    ) -> Result<Response<wire::ForwardPullResponse>, Status> {
        let request = request.into_inner().request.unwrap_or_default();
        let response = pull::pulled(&self.consuming()?, request).await.map_err(told)?;
        Ok(Response::new(wire::ForwardPullResponse { response: Some(response) }))
    }

    async fn forward_acknowledge(
        &self,
        request: Request<wire::ForwardAcknowledgeRequest>,
    ) -> Result<Response<wire::ForwardAcknowledgeResponse>, Status> {
        let request = request.into_inner().request.unwrap_or_default();
        settle::acknowledged(&self.consuming()?, &request).await.map_err(told)?;
        Ok(Response::new(wire::ForwardAcknowledgeResponse {}))
    }

    async fn forward_nack(
        &self,
        request: Request<wire::ForwardNackRequest>,
    ) -> Result<Response<wire::ForwardNackResponse>, Status> {
        let request = request.into_inner().request.unwrap_or_default();
        settle::nacked(&self.consuming()?, &request).await.map_err(told)?;
        Ok(Response::new(wire::ForwardNackResponse {}))
    }

    async fn forward_seek(
        &self,
        request: Request<wire::ForwardSeekRequest>,
    ) -> Result<Response<wire::ForwardSeekResponse>, Status> {
        let broker = self.broker()?;
        let request = request.into_inner().request.unwrap_or_default();
        let sought = async {
            let (at, name) = (position(request.position)?, SubscriptionName::parse(&request.name)?);
            let indices: Vec<PartitionIndex> = request.partitions.iter().copied().map(PartitionIndex::new).collect();
            let topic = topic_with(broker, &TopicName::parse(&request.topic)?, &indices).await?;
            let subscription = broker.subscription(&topic, &name, None, None).await?;
            let mut cursors = Vec::new();
            for index in indices {
                let partition = broker.partition(&topic, index).await?;
                broker.acquaint(&partition, &subscription).await?;
                cursors.push(v1::MessageId { partition: index.get(), offset: partition.seek(&name, at).await?.get() });
            }
            Ok(v1::SeekSubscriptionResponse { cursors })
        };
        Ok(Response::new(wire::ForwardSeekResponse { response: Some(sought.await.map_err(told)?) }))
    }

    async fn inspect_partition(
        &self,
        request: Request<wire::InspectPartitionRequest>,
    ) -> Result<Response<wire::InspectPartitionResponse>, Status> {
        let (broker, request) = (self.broker()?, request.into_inner());
        let found = async {
            let topic = broker.topic(&TopicName::parse(&request.topic)?).await?;
            Ok(match broker.loaded(topic.id, PartitionIndex::new(request.partition)) {
                Some(handle) => inspected(&handle).await,
                None => wire::InspectPartitionResponse::default(),
            })
        };
        Ok(Response::new(found.await.map_err(told)?))
    }

    async fn inspect_cursor(
        &self,
        request: Request<wire::InspectCursorRequest>,
    ) -> Result<Response<wire::InspectCursorResponse>, Status> {
        let (broker, request) = (self.broker()?, request.into_inner());
        let found = async {
            let name = SubscriptionName::parse(&request.subscription)?;
            let index = PartitionIndex::new(request.partition);
            let topic = topic_with(broker, &TopicName::parse(&request.topic)?, &[index]).await?;
            let subscription = broker.subscription(&topic, &name, None, None).await?;
            let partition = broker.partition(&topic, index).await?;
            broker.acquaint(&partition, &subscription).await?;
            let paused = partition.why_paused(subscription.kind);
            Ok(cursor(index, &partition.stats(&name).await?, paused))
        };
        Ok(Response::new(wire::InspectCursorResponse { cursor: Some(found.await.map_err(told)?) }))
    }

    async fn resolve_position(
        &self,
        request: Request<wire::ResolvePositionRequest>,
    ) -> Result<Response<wire::ResolvePositionResponse>, Status> {
        let (broker, request) = (self.broker()?, request.into_inner());
        let found = async {
            let at = position(request.position)?;
            let index = PartitionIndex::new(request.partition);
            let topic = topic_with(broker, &TopicName::parse(&request.topic)?, &[index]).await?;
            broker.partition(&topic, index).await?.resolve(at).await
        };
        Ok(Response::new(wire::ResolvePositionResponse { offset: found.await.map_err(told)?.get() }))
    }

    async fn serve_partition(
        &self,
        request: Request<wire::ServePartitionRequest>,
    ) -> Result<Response<wire::ServePartitionResponse>, Status> {
        let (broker, request) = (self.broker()?, request.into_inner());
        let served = async {
            let index = PartitionIndex::new(request.partition);
            let topic = topic_with(broker, &TopicName::parse(&request.topic)?, &[index]).await?;
            broker.partition(&topic, index).await
        };
        served.await.map_err(told)?;
        Ok(Response::new(wire::ServePartitionResponse {}))
    }
}

fn told(fault: Fault) -> Status {
    to_status(&fault)
}
