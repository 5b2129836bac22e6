//! The stream to the server, and what is said on it.

use std::time::Duration;

use alluvium_proto::v1;
use alluvium_proto::v1::publish_service_client::PublishServiceClient;
use alluvium_proto::v1::{publish_stream_request as request, publish_stream_response as response};
use alluvium_types::batch::Codec;
use alluvium_types::limits::Limits;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::session::Request;
use crate::connection::{Connection, OPEN_TIMEOUT, stream_ended};
use crate::error::Error;

/// Requests between this task and the connection.
const REQUESTS: usize = 16;
/// What does not change while a producer lives.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) open: v1::PublishOpen,
    pub(super) codec: Codec,
    pub(super) linger: Duration,
    /// Whether receipts carry offsets.
    pub(super) offsets: bool,
    /// Whether nothing is sent any more once a message has failed.
    pub(super) stop_on_failure: bool,
}

/// A stream that stands.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) requests: mpsc::Sender<v1::PublishStreamRequest>,
    pub(super) answers: Streaming<v1::PublishStreamResponse>,
    opened: v1::PublishOpened,
    limits: Limits,
}

impl Link {
    pub(super) const fn partitions(&self) -> u32 {
        self.opened.partitions
    }

    pub(super) const fn limits(&self) -> Limits {
        self.limits
    }
}

impl Settings {
    /// Opens a stream on a connection of its own.
    pub(super) async fn dial(&self, connection: &Connection) -> Result<Link, Error> {
        let mut service =
            PublishServiceClient::new(connection.dial().await?).max_decoding_message_size(connection.limits.rpc_bytes_max());
        let (requests, outgoing) = mpsc::channel(REQUESTS);
        let open = request::Request::Open(self.open.clone());
        let open = v1::PublishStreamRequest { request: Some(open) };
        requests.try_send(open).expect("a new queue has room");
        let opening = async {
            let mut answers = service.publish_stream(ReceiverStream::new(outgoing)).await?.into_inner();
            let first = answers.message().await?;
            Ok(tonic::Response::new((first, answers)))
        };
        let (first, answers) = connection.ask_within(OPEN_TIMEOUT, opening).await?;
        match first.map(|answer| answer.response) {
            Some(Some(response::Response::Opened(opened))) if opened.partitions > 0 => {
                let limits = usize::try_from(opened.message_bytes_max).ok().and_then(Limits::new).unwrap_or(connection.limits);
                Ok(Link { requests, answers, opened, limits })
            }
            Some(_) => Err(Error::Unexpected("a publish stream that does not begin by being opened")),
            None => Err(stream_ended()),
        }
    }
}

/// A request as it travels.
pub(super) fn wire(request: Request) -> v1::PublishStreamRequest {
    let request = match request {
        Request::Claim { partition, last_epoch } => request::Request::Claim(v1::PublishClaim { partition, last_epoch }),
        Request::Batch { id, partition, epoch, batch } => {
            request::Request::Batch(v1::PublishBatch { id, partition, producer_epoch: epoch, batch: Some(batch) })
        }
    };
    v1::PublishStreamRequest { request: Some(request) }
}
