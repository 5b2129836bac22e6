//! The calls of the publishing service.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use alluvium_proto::PROTOCOL_VERSION;
use alluvium_proto::status::to_status;
use alluvium_proto::v1;
use alluvium_proto::v1::publish_service_server::PublishService;
use alluvium_proto::v1::publish_stream_request::Request as Asked;
use alluvium_proto::v1::publish_stream_response::Response as Said;
use alluvium_runtime::tasks::OnFailure;
use alluvium_types::fault::{Fault, FaultKind};
use futures::{Stream, StreamExt};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::intake::Share;
use super::messages::messages;
use super::session::{Session, unreadable};
use super::{admission, unary};
use crate::broker::{Broker, Scope};

/// How long a new stream may take to say what it wants.
const OPEN_WITHIN: Duration = Duration::from_secs(30);
/// Responses that wait for the transport. Receipts that come meanwhile are joined.
const QUEUED_MAX: usize = 4;

/// Serves producers of one broker.
#[derive(Clone, Debug)]
pub struct PublishEdge {
    broker: Broker,
    /// Where the next call's keyless messages go.
    sticky: Arc<AtomicU32>,
}

impl PublishEdge {
    /// Over a broker.
    pub fn new(broker: Broker) -> Self {
        Self { broker, sticky: Arc::default() }
    }
    /// Serves a stream, whatever carries it. Resolves once it is open.
    pub async fn stream<S>(&self, requests: S) -> Result<Responses, Fault>
    where
        S: Stream<Item = Result<v1::PublishStreamRequest, Status>> + Unpin + Send + 'static,
    {
        let responses = open(&self.broker, Scope::Cluster, requests, Share::default()).await?;
        Ok(Box::pin(responses))
    }
}

/// Opens a stream by its first request. What it asks for is served as far as `scope` goes.
pub(crate) async fn open<S>(
    broker: &Broker,
    scope: Scope,
    mut requests: S,
    share: Share,
) -> Result<ReceiverStream<Result<v1::PublishStreamResponse, Status>>, Fault>
where
    S: Stream<Item = Result<v1::PublishStreamRequest, Status>> + Unpin + Send + 'static,
{
    let first = broker.clock().timeout(OPEN_WITHIN, requests.next()).await;
    share.counted();
    let open = match first {
        Ok(Some(Ok(v1::PublishStreamRequest { request: Some(Asked::Open(open)) }))) => open,
        Ok(Some(Err(status))) => return Err(unreadable(&status)),
        _ => return Err(Fault::invalid("open", "NOT_OPENED", "the first request of a stream opens it")),
    };
    let opening = admission::open(&open)?;
    let topic = broker.topic(&opening.topic).await?;
    let limits = broker.limits();
    let opened = Said::Opened(v1::PublishOpened {
        protocol_version: PROTOCOL_VERSION,
        partitions: topic.partitions,
        message_bytes_max: limits.message_bytes_max() as u64,
        batch_bytes_max: limits.batch_bytes_max() as u64,
        owners: if scope == Scope::Cluster { broker.owners(&topic) } else { Vec::new() },
    });
    let (responses, rx) = mpsc::channel(QUEUED_MAX);
    let first = v1::PublishStreamResponse { response: Some(opened) };
    responses.try_send(Ok(first)).map_err(|_| Fault::new(FaultKind::Internal, "INTERNAL", "a new queue has no room"))?;
    let session = Session { broker: broker.clone(), scope, topic, opening, open, requests, share, responses };
    broker.tasks().spawn("publish", OnFailure::Log, async move {
        session.run().await;
        Ok::<(), Fault>(())
    });
    Ok(ReceiverStream::new(rx))
}

/// The responses of a stream, as the transport wants them.
pub type Responses = Pin<Box<dyn Stream<Item = Result<v1::PublishStreamResponse, Status>> + Send>>;

#[tonic::async_trait]
impl PublishService for PublishEdge {
    type PublishStreamStream = Responses;

    async fn publish(&self, request: Request<v1::PublishRequest>) -> Result<Response<v1::PublishResponse>, Status> {
        let sticky = self.sticky.fetch_add(1, Ordering::Relaxed);
        // The messages are here until the call is answered, and so is what they hold.
        let _share = request.extensions().get::<Share>().cloned();
        let published = unary::publish(&self.broker, request.into_inner(), sticky).await;
        published.map(Response::new).map_err(Status::from)
    }

    async fn publish_stream(
        &self,
        request: Request<Streaming<v1::PublishStreamRequest>>,
    ) -> Result<Response<Self::PublishStreamStream>, Status> {
        let share = request.extensions().get::<Share>().cloned().unwrap_or_default();
        let opened = open(&self.broker, Scope::Cluster, messages(&request)?, share).await;
        opened.map(|responses| Response::new(Box::pin(responses) as Responses)).map_err(|fault| to_status(&fault))
    }
}
