//! Short questions to the owner of a partition, whoever that is by the time that it answers.

use std::time::Duration;

use alluvium_proto::status::{RemoteFault, to_status};
use alluvium_runtime::backoff::Backoff;
use alluvium_types::ids::PartitionIndex;
use alluvium_types::time::Mono;
use tonic::{Response, Status};

use super::Peer;
use crate::broker::{Broker, Route, Scope, TopicInfo};
use crate::topic::handle::is_moved;

/// How long owners may come and go before the caller is told.
const PATIENCE: Duration = Duration::from_secs(20);

/// A question to the owner of a partition, which must be harmless to repeat: where to ask, and whether to ask again.
pub(crate) struct Asking<'a> {
    broker: &'a Broker,
    topic: &'a TopicInfo,
    index: PartitionIndex,
    backoff: Backoff,
    until: Mono,
    asked: Option<Peer>,
}

impl<'a> Asking<'a> {
    /// Nobody was asked yet.
    pub(crate) fn new(broker: &'a Broker, topic: &'a TopicInfo, index: PartitionIndex) -> Self {
        let until = broker.clock().mono().after(PATIENCE);
        Self { broker, topic, index, backoff: broker.context().backoff(), until, asked: None }
    }

    /// Whom to ask now.
    pub(crate) async fn whom(&mut self) -> Result<Route, Status> {
        let route = self.broker.route(self.topic, self.index, Scope::Cluster).await.map_err(|fault| to_status(&fault))?;
        if let Route::There(peer) = &route {
            self.broker.context().metrics.forwarded_calls.inc();
            self.asked = Some(peer.clone());
        }
        Ok(route)
    }

    /// The answer, if it is one: `None` when the next owner is to be asked, because that one is none any more, or went away.
    pub(crate) async fn settled<T>(&mut self, answer: Result<T, Status>) -> Option<Result<T, Status>> {
        let status = match answer {
            Err(status) if is_resumable(&status) && self.broker.clock().mono() < self.until => status,
            answer => return Some(answer),
        };
        let topic = &self.topic.name;
        tracing::debug!(%topic, partition = %self.index, %status, "the owner of a partition is looked for anew");
        self.broker.moved(self.topic.id, self.index);
        if let Some(peer) = self.asked.take() {
            peer.failed();
        }
        self.broker.clock().sleep(self.backoff.delay()).await;
        None
    }
}

/// Waits for another broker's answer, as long as its session lives.
pub(crate) async fn answered<T>(peer: &Peer, call: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, Status> {
    tokio::select! {
        biased;
        answer = call => answer.map(Response::into_inner),
        () = peer.gone() => Err(Status::unavailable("the broker's session is gone")),
    }
}

/// Whether whoever owns the partition now may be asked instead: the owner is another one, or went away.
pub(crate) fn is_resumable(status: &Status) -> bool {
    let reason = RemoteFault::from(status).reason;
    // Without a reason it is not one of ours: the connection broke.
    reason.is_empty() || is_moved(&reason) || matches!(&*reason, "STOPPING" | "STARTING" | "DISPATCH_PAUSED")
}
