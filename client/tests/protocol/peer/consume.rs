//! The peer's side of consuming: one subscription, delivered in order within the credit.

use std::collections::HashMap;
use std::convert::Infallible;

use alluvium_proto::v1;
use alluvium_proto::v1::consume_service_server::ConsumeService;
use alluvium_proto::v1::{position, read_request, read_response, subscribe_request, subscribe_response};
use alluvium_runtime::tasks::OnFailure;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::Peer;

/// What a stream has delivered and may deliver.
struct Cursor {
    next: HashMap<u32, u64>,
    messages: u64,
}

impl Cursor {
    fn grant(&mut self, credit: Option<v1::Credit>) {
        self.messages += credit.map_or(0, |credit| credit.messages);
    }

    /// What is due of a partition, as far as the credit goes.
    fn due(&mut self, peer: &Peer, partition: u32) -> Option<v1::Delivery> {
        let store = peer.store.lock();
        let log = &store.partitions[partition as usize];
        let next = self.next.entry(partition).or_default();
        while *next < log.len() as u64 && store.acknowledged.contains(&(partition, *next)) {
            *next += 1;
        }
        if *next >= log.len() as u64 || self.messages == 0 {
            return None;
        }
        self.messages -= 1;
        let offset = *next;
        *next += 1;
        let message = Some(log[usize::try_from(offset).expect("small")].clone());
        let message = v1::DeliveredMessage { offset, message, attempt: 1, ..Default::default() };
        Some(v1::Delivery { partition, messages: vec![message], batches: Vec::new() })
    }
}

fn partitions(peer: &Peer, asked: Vec<u32>) -> Vec<u32> {
    if asked.is_empty() { (0..).take(peer.store.lock().partitions.len()).collect() } else { asked }
}

#[tonic::async_trait]
impl ConsumeService for Peer {
    type SubscribeStream = ReceiverStream<Result<v1::SubscribeResponse, Status>>;
    type ReadStream = ReceiverStream<Result<v1::ReadResponse, Status>>;

    async fn subscribe(
        &self,
        requests: Request<Streaming<v1::SubscribeRequest>>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let (answers, stream) = mpsc::channel(1024);
        let (peer, requests) = (self.clone(), requests.into_inner());
        self.store.lock().streams += 1;
        self.tasks.spawn("subscribe", OnFailure::Log, async move {
            let mut cuts = peer.cuts.subscribe();
            tokio::select! {
                _ = cuts.changed() => {
                    let _ = answers.try_send(Err(Status::unavailable("cut")));
                }
                _ = peer.serve_subscribe(requests, &answers) => {}
            }
            Ok::<(), Infallible>(())
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn read(&self, requests: Request<Streaming<v1::ReadRequest>>) -> Result<Response<Self::ReadStream>, Status> {
        let (answers, stream) = mpsc::channel(1024);
        let (peer, requests) = (self.clone(), requests.into_inner());
        self.store.lock().streams += 1;
        self.tasks.spawn("read", OnFailure::Log, async move {
            let mut cuts = peer.cuts.subscribe();
            tokio::select! {
                _ = cuts.changed() => {
                    let _ = answers.try_send(Err(Status::unavailable("cut")));
                }
                _ = peer.serve_read(requests, &answers) => {}
            }
            Ok::<(), Infallible>(())
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn pull(&self, _: Request<v1::PullRequest>) -> Result<Response<v1::PullResponse>, Status> {
        Err(Status::unimplemented("not needed here"))
    }

    async fn acknowledge(&self, _: Request<v1::AcknowledgeRequest>) -> Result<Response<v1::AcknowledgeResponse>, Status> {
        Err(Status::unimplemented("not needed here"))
    }

    async fn nack(&self, _: Request<v1::NackRequest>) -> Result<Response<v1::NackResponse>, Status> {
        Err(Status::unimplemented("not needed here"))
    }
}

impl Peer {
    async fn serve_subscribe(
        &self,
        mut requests: Streaming<v1::SubscribeRequest>,
        answers: &mpsc::Sender<Result<v1::SubscribeResponse, Status>>,
    ) -> Option<()> {
        let first = requests.message().await.ok()??;
        let Some(subscribe_request::Request::Open(open)) = first.request else { return None };
        let asked = partitions(self, open.partitions);
        let mut cursor = Cursor { next: HashMap::new(), messages: 0 };
        cursor.grant(open.credit);
        let subscribed = v1::Subscribed { protocol_version: 1, partitions: asked.clone(), ..Default::default() };
        let answer = |response| Ok(v1::SubscribeResponse { response: Some(response) });
        answers.send(answer(subscribe_response::Response::Subscribed(subscribed))).await.ok()?;
        let mut news = self.news.subscribe();
        loop {
            for partition in &asked {
                while let Some(delivery) = cursor.due(self, *partition) {
                    answers.send(answer(subscribe_response::Response::Delivery(delivery))).await.ok()?;
                }
            }
            let request = tokio::select! {
                request = requests.message() => request.ok()??.request?,
                changed = news.changed() => {
                    changed.ok()?;
                    continue;
                }
            };
            match request {
                subscribe_request::Request::Open(_) => return None,
                subscribe_request::Request::Credit(credit) => cursor.grant(Some(credit)),
                subscribe_request::Request::Ack(ack) => {
                    for range in &ack.ranges {
                        let offsets = (range.first..=range.last).map(|offset| (ack.partition, offset));
                        self.store.lock().acknowledged.extend(offsets);
                    }
                    let receipt = v1::AckReceipt { id: ack.id, partition: ack.partition, fault: None };
                    let receipts = v1::AckReceipts { receipts: vec![receipt] };
                    answers.send(answer(subscribe_response::Response::Receipts(receipts))).await.ok()?;
                }
                subscribe_request::Request::Nack(nack) => {
                    for range in nack.ranges {
                        let next = cursor.next.entry(nack.partition).or_default();
                        *next = (*next).min(range.first);
                    }
                }
            }
        }
    }

    async fn serve_read(
        &self,
        mut requests: Streaming<v1::ReadRequest>,
        answers: &mpsc::Sender<Result<v1::ReadResponse, Status>>,
    ) -> Option<()> {
        let first = requests.message().await.ok()??;
        let Some(read_request::Request::Open(open)) = first.request else { return None };
        let asked = partitions(self, open.partitions);
        let mut cursor = Cursor { next: HashMap::new(), messages: 0 };
        cursor.grant(open.credit);
        if let Some(position::At::Offset(offset)) = open.start.and_then(|start| start.at) {
            cursor.next.extend(asked.iter().map(|partition| (*partition, offset)));
        }
        let end = |partition: u32| self.store.lock().partitions[partition as usize].len() as u64;
        let range = |p: &u32| v1::PartitionRange { partition: *p, first_offset: 0, end_offset: end(*p), ..Default::default() };
        let opened = v1::ReadOpened { protocol_version: 1, partitions: asked.iter().map(range).collect(), owners: vec![] };
        let answer = |response| Ok(v1::ReadResponse { response: Some(response) });
        answers.send(answer(read_response::Response::Opened(opened))).await.ok()?;
        let mut news = self.news.subscribe();
        loop {
            for partition in &asked {
                while let Some(delivery) = cursor.due(self, *partition) {
                    answers.send(answer(read_response::Response::Delivery(delivery))).await.ok()?;
                }
            }
            tokio::select! {
                request = requests.message() => match request.ok()??.request? {
                    read_request::Request::Open(_) => return None,
                    read_request::Request::Credit(credit) => cursor.grant(Some(credit)),
                },
                changed = news.changed() => changed.ok()?,
            }
        }
    }
}
