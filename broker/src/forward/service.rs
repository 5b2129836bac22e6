//! What other brokers ask of this one. Served on the internal port only.

use std::pin::Pin;
use std::sync::{Arc, OnceLock};

use alluvium_proto::internal::v1 as wire;
use alluvium_proto::internal::v1::forward_service_server::{ForwardService, ForwardServiceServer};
use alluvium_proto::status::to_status;
use alluvium_proto::v1;
use alluvium_types::fault::{Fault, FaultKind};
use alluvium_types::limits::Limits;
use futures::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

use crate::broker::{Broker, Scope};
use crate::publish;

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
    pub fn service(&self) -> ForwardServiceServer<Self> {
        let bytes_max = super::bytes_max(self.limits);
        ForwardServiceServer::new(self.clone()).max_decoding_message_size(bytes_max).max_encoding_message_size(bytes_max)
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

    async fn forward_publish(
        &self,
        request: Request<Streaming<wire::ForwardPublishRequest>>,
    ) -> Result<Response<Self::ForwardPublishStream>, Status> {
        let inner = |request: wire::ForwardPublishRequest| request.request.unwrap_or_default();
        let requests = request.into_inner().map(move |request| request.map(inner));
        let share = publish::intake::Share::default();
        let responses = publish::open(self.broker()?, Scope::Here, requests, share).await.map_err(|fault| to_status(&fault))?;
        let outer = |response: v1::PublishStreamResponse| wire::ForwardPublishResponse { response: Some(response) };
        Ok(Response::new(Box::pin(responses.map(move |response| response.map(outer)))))
    }
}
