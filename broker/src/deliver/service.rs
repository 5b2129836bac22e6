//! The gRPC face of consuming.

use std::pin::Pin;

use alluvium_proto::status::to_status;
use alluvium_proto::v1;
use alluvium_proto::v1::consume_service_server::ConsumeService;
use alluvium_types::fault::{Fault, FaultKind};
use futures::Stream;
use tonic::{Request, Response, Status, Streaming};

use crate::broker::Broker;

/// Serves consumers of one broker.
#[derive(Clone, Debug)]
pub struct ConsumeEdge {
    broker: Broker,
}

impl ConsumeEdge {
    /// Over a broker.
    pub fn new(broker: Broker) -> Self {
        Self { broker }
    }

    fn starting(&self) -> Status {
        let _ = &self.broker;
        to_status(&Fault::new(FaultKind::Unavailable, "STARTING", "starting"))
    }
}

type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl ConsumeService for ConsumeEdge {
    type SubscribeStream = Responses<v1::SubscribeResponse>;
    type ReadStream = Responses<v1::ReadResponse>;

    async fn subscribe(
        &self,
        _request: Request<Streaming<v1::SubscribeRequest>>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        Err(self.starting())
    }

    async fn pull(&self, _request: Request<v1::PullRequest>) -> Result<Response<v1::PullResponse>, Status> {
        Err(self.starting())
    }

    async fn acknowledge(&self, _request: Request<v1::AcknowledgeRequest>) -> Result<Response<v1::AcknowledgeResponse>, Status> {
        Err(self.starting())
    }

    async fn nack(&self, _request: Request<v1::NackRequest>) -> Result<Response<v1::NackResponse>, Status> {
        Err(self.starting())
    }

    async fn read(&self, _request: Request<Streaming<v1::ReadRequest>>) -> Result<Response<Self::ReadStream>, Status> {
        Err(self.starting())
    }
}
