//! The peer's side of publishing: it keeps the rules of sequences (D1, D5, D6).

use std::convert::Infallible;

use alluvium_proto::batch;
use alluvium_proto::v1;
use alluvium_proto::v1::publish_service_server::PublishService;
use alluvium_proto::v1::{publish_stream_request as request, publish_stream_response as response};
use alluvium_runtime::tasks::OnFailure;
use alluvium_types::limits::Limits;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{Peer, Store};

type Answer = Result<v1::PublishStreamResponse, Status>;

impl Store {
    fn claim(&mut self, name: &str, partition: u32) -> v1::PublishClaimed {
        let (epoch, next) = self.producers.entry((name.to_owned(), partition)).or_default();
        *epoch += 1;
        v1::PublishClaimed { partition, epoch: *epoch, last_sequence: next.checked_sub(1), ..Default::default() }
    }

    fn publish(&mut self, name: &str, publish: v1::PublishBatch) -> v1::PublishReceipt {
        let mut receipt = v1::PublishReceipt { id: publish.id, partition: publish.partition, ..Default::default() };
        let refuse = |code: i32, reason: &str| Some(v1::Fault { code, reason: reason.to_owned(), ..Default::default() });
        let batch = publish.batch.expect("a batch");
        let (header, _) = batch::check(&batch, Limits::default()).expect("sound");
        let log = &mut self.partitions[publish.partition as usize];
        receipt.first_offset = log.len() as u64;
        if !name.is_empty() {
            let (epoch, next) = self.producers.entry((name.to_owned(), publish.partition)).or_default();
            if publish.producer_epoch < *epoch {
                receipt.fault = refuse(10, "PRODUCER_FENCED");
                return receipt;
            }
            if header.first_sequence > *next {
                receipt.fault = refuse(9, "SEQUENCE_GAP");
                return receipt;
            }
            if header.first_sequence < *next {
                receipt.duplicate = true;
                // With one producer of one name, sequences and offsets are the same.
                receipt.first_offset = header.first_sequence;
                return receipt;
            }
            *next += u64::from(header.count);
        }
        log.extend(batch::decode(&header, &batch.blob).expect("decodes"));
        receipt
    }
}

#[tonic::async_trait]
impl PublishService for Peer {
    type PublishStreamStream = ReceiverStream<Answer>;

    async fn publish(&self, _: Request<v1::PublishRequest>) -> Result<Response<v1::PublishResponse>, Status> {
        Err(Status::unimplemented("not needed here"))
    }

    async fn publish_stream(
        &self,
        requests: Request<Streaming<v1::PublishStreamRequest>>,
    ) -> Result<Response<Self::PublishStreamStream>, Status> {
        let (answers, stream) = mpsc::channel(1024);
        let (peer, requests) = (self.clone(), requests.into_inner());
        self.store.lock().streams += 1;
        self.tasks.spawn("publish", OnFailure::Log, async move {
            let mut cuts = peer.cuts.subscribe();
            tokio::select! {
                _ = cuts.changed() => {
                    let _ = answers.try_send(Err(Status::unavailable("cut")));
                }
                () = peer.serve_publish(requests, &answers) => {}
            }
            Ok::<(), Infallible>(())
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

impl Peer {
    async fn serve_publish(&self, mut requests: Streaming<v1::PublishStreamRequest>, answers: &mpsc::Sender<Answer>) {
        let mut name = String::new();
        while let Ok(Some(v1::PublishStreamRequest { request: Some(request) })) = requests.message().await {
            let answer = match request {
                request::Request::Open(open) => {
                    name = open.producer;
                    let partitions = self.store.lock().partitions.len();
                    response::Response::Opened(v1::PublishOpened {
                        protocol_version: 1,
                        partitions: u32::try_from(partitions).expect("few"),
                        message_bytes_max: Limits::default().message_bytes_max() as u64,
                        batch_bytes_max: Limits::default().batch_bytes_max() as u64,
                        ..Default::default()
                    })
                }
                request::Request::Claim(claim) => response::Response::Claimed(self.store.lock().claim(&name, claim.partition)),
                request::Request::Batch(batch) => {
                    let mut store = self.store.lock();
                    let receipt = store.publish(&name, batch);
                    self.news.send_modify(|n| *n += 1);
                    if let Some(left) = &mut store.swallow {
                        *left -= 1;
                        if *left == 0 {
                            store.swallow = None;
                            self.cut();
                        }
                        continue;
                    }
                    if store.withhold {
                        continue;
                    }
                    response::Response::Receipts(v1::PublishReceipts { receipts: vec![receipt] })
                }
            };
            if answers.send(Ok(v1::PublishStreamResponse { response: Some(answer) })).await.is_err() {
                return;
            }
        }
    }
}
