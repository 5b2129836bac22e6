//! One publish stream: requests to the partitions, receipts back, both bounded.

use std::collections::BTreeMap;
use std::time::Duration;

use alluvium_proto::status::{to_status, to_wire};
use alluvium_proto::v1;
use alluvium_proto::v1::publish_stream_request::Request;
use alluvium_proto::v1::publish_stream_response::Response;
use alluvium_types::entry::ProducerStamp;
use alluvium_types::fault::{Fault, FaultKind};
use alluvium_types::ids::PartitionIndex;
use futures::{Stream, StreamExt};
use tokio::sync::mpsc;
use tonic::Status;

use super::admission::{self, Opening};
use super::intake::Share;
use super::receipt::{Answer, Answers, Claimed, Receipt, Stored, Ticket};
use crate::broker::{Broker, TopicInfo};
use crate::topic::PartitionHandle;
use crate::topic::command::PublishCommand;

/// Batches and claims of one stream without an answer. Past it the stream is not read: HTTP/2 holds the client back.
const OUTSTANDING_MAX: usize = 4096;
/// How long receipts of a stream that ends are waited for.
const LAST_RECEIPTS: Duration = Duration::from_secs(30);
/// How long the last word of a stream waits for room.
const LAST_WORD: Duration = Duration::from_secs(1);

/// A publish stream, opened.
pub(super) struct Session<S> {
    pub(super) broker: Broker,
    pub(super) topic: TopicInfo,
    pub(super) opening: Opening,
    pub(super) requests: S,
    /// What the message that was received last holds until it is counted.
    pub(super) share: Share,
    pub(super) responses: mpsc::Sender<Result<v1::PublishStreamResponse, Status>>,
}

/// Its end of the partitions.
struct Partitions {
    handles: BTreeMap<PartitionIndex, PartitionHandle>,
    answers: Answers,
    outstanding: usize,
}

impl<S> Session<S>
where
    S: Stream<Item = Result<v1::PublishStreamRequest, Status>> + Unpin + Send + Sync,
{
    /// Runs until the client ends it, the broker stops, or a request makes no sense. What was sent on is answered first.
    pub(super) async fn run(mut self) {
        let (answers, mut heard) = Answers::channel(OUTSTANDING_MAX);
        let mut partitions = Partitions { handles: BTreeMap::new(), answers, outstanding: 0 };
        let ended = self.serve(&mut partitions, &mut heard).await;
        // What was sent on has its answer, even though no more is taken.
        let clock = self.broker.clock().clone();
        let rest = async {
            while partitions.outstanding > 0 {
                let Some(answer) = heard.recv().await else { return };
                if !self.tell(answer, &mut partitions, &mut heard).await {
                    return;
                }
            }
        };
        if clock.timeout(LAST_RECEIPTS, rest).await.is_err() {
            tracing::debug!(topic = %self.topic.name, "a publish stream ended before all of its receipts came");
        }
        if let Err(fault) = ended {
            // A client that doesn't read sees the connection end instead.
            let _ = clock.timeout(LAST_WORD, self.responses.send(Err(to_status(&fault)))).await;
        }
    }

    async fn serve(&mut self, partitions: &mut Partitions, heard: &mut mpsc::Receiver<Answer>) -> Result<(), Fault> {
        let tasks = self.broker.tasks().clone();
        loop {
            let full = partitions.outstanding >= OUTSTANDING_MAX;
            tokio::select! {
                biased;
                () = tasks.stopping() => {
                    return Err(Fault::new(FaultKind::Unavailable, "STOPPING", "the broker is stopping; connect again"));
                }
                Some(answer) = heard.recv() => {
                    if !self.tell(answer, partitions, heard).await {
                        return Ok(());
                    }
                }
                request = self.requests.next(), if !full => match request {
                    None | Some(Err(_)) => return Ok(()),
                    Some(Ok(request)) => {
                        self.take(request, partitions).await?;
                        self.share.counted();
                    }
                },
            }
        }
    }

    /// Sends one request on. An error ends the stream: the request is of no known kind.
    async fn take(&self, request: v1::PublishStreamRequest, partitions: &mut Partitions) -> Result<(), Fault> {
        match request.request {
            Some(Request::Batch(batch)) => {
                self.batch(batch, partitions).await;
                Ok(())
            }
            Some(Request::Claim(claim)) => {
                self.claim(&claim, partitions).await;
                Ok(())
            }
            Some(Request::Open(_)) => Err(Fault::invalid("open", "OPENED_TWICE", "a stream is opened once")),
            None => Err(Fault::invalid("request", "MISSING", "the request is of no kind that this server knows")),
        }
    }

    async fn batch(&self, request: v1::PublishBatch, partitions: &mut Partitions) {
        let index = PartitionIndex::new(request.partition);
        let ticket =
            Ticket { answers: partitions.answers.clone(), id: request.id, partition: index, guarantee: self.opening.guarantee };
        let stamp = self.opening.producer.clone().map(|name| ProducerStamp { name, epoch: request.producer_epoch });
        let admitted = match request.batch {
            None => Err(Fault::invalid("batch", "MISSING", "there is no batch in the request")),
            Some(batch) => {
                let held = self.broker.publish_budget().take(batch.blob.len()).await;
                self.share.counted();
                admission::batch(batch, stamp, self.broker.limits(), held)
            }
        };
        partitions.outstanding += 1;
        let refuse = |fault| {
            let receipt = Receipt { id: request.id, partition: index, result: Err(fault) };
            partitions.answers.tell(Answer::Receipts(vec![receipt]));
        };
        match self.handle(index, &mut partitions.handles).await {
            Err(fault) => refuse(fault),
            Ok(handle) => {
                if handle.publishes().send(PublishCommand::Batch(ticket, admitted)).await.is_err() {
                    refuse(crate::topic::handle::moved(handle.name()));
                }
            }
        }
    }

    async fn claim(&self, request: &v1::PublishClaim, partitions: &mut Partitions) {
        let index = PartitionIndex::new(request.partition);
        partitions.outstanding += 1;
        let refuse = |fault| partitions.answers.tell(Answer::Claimed { partition: index, result: Err(fault) });
        let Some(name) = self.opening.producer.clone() else {
            return refuse(Fault::invalid(
                "producer",
                "NO_PRODUCER",
                "a stream that was opened without a producer's name claims none",
            ));
        };
        let claim =
            PublishCommand::Claim { answers: partitions.answers.clone(), partition: index, name, last_epoch: request.last_epoch };
        match self.handle(index, &mut partitions.handles).await {
            Err(fault) => refuse(fault),
            Ok(handle) => {
                if handle.publishes().send(claim).await.is_err() {
                    refuse(crate::topic::handle::moved(handle.name()));
                }
            }
        }
    }

    /// The partition's handle; looked up anew when its owner task has ended.
    async fn handle(
        &self,
        index: PartitionIndex,
        handles: &mut BTreeMap<PartitionIndex, PartitionHandle>,
    ) -> Result<PartitionHandle, Fault> {
        if let Some(handle) = handles.get(&index).filter(|h| !h.is_over()) {
            return Ok(handle.clone());
        }
        let handle = if index.get() < self.topic.partitions {
            self.broker.partition(&self.topic, index).await?
        } else {
            self.broker.partition(&self.grown(index).await?, index).await?
        };
        handles.insert(index, handle.clone());
        Ok(handle)
    }

    /// The topic as it is now, for a partition that it didn't have when the stream was opened.
    async fn grown(&self, index: PartitionIndex) -> Result<TopicInfo, Fault> {
        let now = self.broker.topic(&self.topic.name).await?;
        if now.id != self.topic.id {
            // What was opened is deleted; that another has its name now is no concern of this stream.
            return Err(Fault::not_found("topic", "TOPIC_NOT_FOUND", &self.topic.name));
        }
        if index.get() >= now.partitions {
            return Err(admission::no_partition(index.get(), &now.name, now.partitions));
        }
        Ok(now)
    }

    /// Sends an answer and whatever else came meanwhile; `false` when the client has gone.
    async fn tell(&self, answer: Answer, partitions: &mut Partitions, heard: &mut mpsc::Receiver<Answer>) -> bool {
        let mut receipts = Vec::new();
        let mut next = Some(answer);
        while let Some(answer) = next {
            match answer {
                Answer::Receipts(more) => {
                    partitions.outstanding -= more.len();
                    receipts.extend(more.into_iter().map(receipt));
                }
                Answer::Claimed { partition, result } => {
                    partitions.outstanding -= 1;
                    let before = std::mem::take(&mut receipts);
                    if !self.send_receipts(before).await || !self.send(Response::Claimed(claimed(partition, result))).await {
                        return false;
                    }
                }
            }
            next = heard.try_recv().ok();
        }
        self.send_receipts(receipts).await
    }

    async fn send_receipts(&self, receipts: Vec<v1::PublishReceipt>) -> bool {
        receipts.is_empty() || self.send(Response::Receipts(v1::PublishReceipts { receipts })).await
    }

    async fn send(&self, response: Response) -> bool {
        self.responses.send(Ok(v1::PublishStreamResponse { response: Some(response) })).await.is_ok()
    }
}

fn receipt(receipt: Receipt) -> v1::PublishReceipt {
    let (stored, fault) = match receipt.result {
        Ok(stored) => (Some(stored), None),
        Err(fault) => (None, Some(to_wire(&fault))),
    };
    let Stored { first_offset, duplicate } = stored.unwrap_or_default();
    v1::PublishReceipt { id: receipt.id, partition: receipt.partition.get(), first_offset: first_offset.get(), duplicate, fault }
}

fn claimed(partition: PartitionIndex, result: Result<Claimed, Fault>) -> v1::PublishClaimed {
    let partition = partition.get();
    match result {
        Ok(Claimed { epoch, last_sequence, forgotten }) => {
            v1::PublishClaimed { partition, epoch, last_sequence, forgotten, fault: None }
        }
        Err(fault) => v1::PublishClaimed { partition, fault: Some(to_wire(&fault)), ..Default::default() },
    }
}
