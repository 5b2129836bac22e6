//! The gRPC service over the handle. Wire types stop here.

use std::pin::Pin;
use std::time::Duration;

use alluvium_proto::convert::bookie::{self as convert, AddItem, Malformed};
use alluvium_proto::internal::v1 as wire;
use alluvium_proto::internal::v1::bookie_service_server::{BookieService, BookieServiceServer};
use alluvium_proto::status;
use alluvium_runtime::budget::BytesHeld;
use alluvium_runtime::tasks::OnFailure;
use alluvium_types::bookie::{EntryAnswer, ReadAnswer};
use alluvium_types::fault::{Fault, FaultKind};
use alluvium_types::ids::{EntryId, LedgerId, RecoveryNumber};
use alluvium_types::limits::Limits;
use async_trait::async_trait;
use bytes::Bytes;
use futures::Stream;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::bookie::{AddStream, Bookie};
use crate::gc::Reaper;

/// The most ledgers of one page.
const LIST_MAX: usize = 1000;
/// Messages of answers that wait for a slow peer, each with the answers of a group.
const ANSWERS_QUEUED: usize = 16;

/// The service of one bookie.
#[derive(Clone, Debug)]
pub struct Service {
    bookie: Bookie,
    reaper: Reaper,
}

impl Service {
    /// The service, ready to be added to a server's routes. `limits` bounds a message on the wire.
    pub fn server(bookie: Bookie, reaper: Reaper, limits: Limits) -> BookieServiceServer<Self> {
        BookieServiceServer::new(Self { bookie, reaper })
            .max_decoding_message_size(limits.rpc_bytes_max())
            .max_encoding_message_size(usize::MAX)
    }

    /// Requests name the incarnation they are meant for: another life of the directory is another bookie (B11).
    fn meant_for_us(&self, incarnation: &[u8]) -> Result<(), Status> {
        let wanted = convert::incarnation(incarnation).map_err(malformed)?;
        let ours = self.bookie.identity().incarnation;
        if wanted == ours {
            return Ok(());
        }
        let message = format!("this bookie is incarnation {ours}; the request is meant for {wanted}");
        Err(status::to_status(&Fault::new(FaultKind::FailedPrecondition, "WRONG_INCARNATION", message)))
    }
}

fn malformed(problem: Malformed) -> Status {
    status::to_status(&Fault::invalid(problem.0, "MALFORMED", problem.to_string()))
}

#[async_trait]
impl BookieService for Service {
    type AddStream = Pin<Box<dyn Stream<Item = Result<wire::AddResponse, Status>> + Send>>;

    async fn open(&self, request: Request<wire::OpenRequest>) -> Result<Response<wire::OpenResponse>, Status> {
        let request = request.into_inner();
        self.meant_for_us(&request.incarnation)?;
        let open = convert::open_from_wire(&request).map_err(malformed)?;
        let refusal = convert::refusal_to_wire(self.bookie.open_ledger(open).await);
        Ok(Response::new(wire::OpenResponse { refusal }))
    }

    async fn add(&self, request: Request<Streaming<wire::AddRequest>>) -> Result<Response<Self::AddStream>, Status> {
        let mut adds = request.into_inner();
        let mut stream = self.bookie.add_stream();
        let mut answers = stream.answers();
        let (tx, rx) = mpsc::channel(ANSWERS_QUEUED);
        let errors = tx.clone();
        let service = self.clone();
        let tasks = self.bookie.shared().tasks.clone();
        // The way in ends with the peer's half of the stream; what it brought is answered all the same.
        tasks.spawn("bookie-adds", OnFailure::Log, async move {
            let mut over = std::pin::pin!(async {
                tokio::select! {
                    biased;
                    () = service.bookie.ended() => {}
                    () = errors.closed() => {}
                }
            });
            loop {
                let message = tokio::select! {
                    biased;
                    () = &mut over => break,
                    message = adds.message() => message,
                };
                let taken = match message {
                    Ok(Some(request)) => service.take(&mut stream, request).await,
                    Ok(None) => break,
                    Err(status) => Err(status),
                };
                if let Err(status) = taken {
                    // A peer that hung up does not want to know.
                    let _ = errors.send(Err(status)).await;
                    break;
                }
            }
            drop(stream);
            Ok::<(), String>(())
        });
        tasks.spawn("bookie-answers", OnFailure::Log, async move {
            while let Some(added) = answers.next().await {
                let added = added.into_iter().map(|a| convert::added_to_wire(a.ledger, a.entry, a.outcome)).collect();
                if tx.send(Ok(wire::AddResponse { added })).await.is_err() {
                    break;
                }
            }
            Ok::<(), String>(())
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(rx))))
    }

    async fn read(&self, request: Request<wire::ReadRequest>) -> Result<Response<wire::ReadResponse>, Status> {
        let request = request.into_inner();
        self.meant_for_us(&request.incarnation)?;
        let outcome = self.bookie.read_held(convert::read_from_wire(&request)).await;
        let outcome = outcome.map(|(answer, held)| counted(answer, held));
        Ok(Response::new(convert::read_answer_to_wire(outcome)))
    }

    async fn fence(&self, request: Request<wire::FenceRequest>) -> Result<Response<wire::FenceResponse>, Status> {
        let request = request.into_inner();
        self.meant_for_us(&request.incarnation)?;
        let (ledger, number) = (LedgerId::new(request.ledger), RecoveryNumber::new(request.recovery_number));
        Ok(Response::new(convert::fence_answer_to_wire(self.bookie.fence(ledger, number).await)))
    }

    async fn read_lac(&self, request: Request<wire::ReadLacRequest>) -> Result<Response<wire::ReadLacResponse>, Status> {
        let request = request.into_inner();
        self.meant_for_us(&request.incarnation)?;
        let (ledger, after) = (LedgerId::new(request.ledger), request.after.map(EntryId::new));
        let outcome = self.bookie.read_lac(ledger, after, Duration::from_millis(request.wait_ms)).await;
        let refusal = convert::read_refusal_to_wire(outcome.err());
        Ok(Response::new(wire::ReadLacResponse { refusal, lac: outcome.ok().flatten().map(EntryId::get) }))
    }

    async fn find(&self, request: Request<wire::FindRequest>) -> Result<Response<wire::FindResponse>, Status> {
        let request = request.into_inner();
        self.meant_for_us(&request.incarnation)?;
        let outcome = self.bookie.find(convert::find_from_wire(&request).map_err(malformed)?).await;
        let refusal = convert::read_refusal_to_wire(outcome.err());
        Ok(Response::new(wire::FindResponse { refusal, entry: outcome.ok().flatten().map(EntryId::get) }))
    }

    async fn list(&self, request: Request<wire::ListRequest>) -> Result<Response<wire::ListResponse>, Status> {
        let request = request.into_inner();
        self.meant_for_us(&request.incarnation)?;
        let limit = usize::try_from(request.limit).unwrap_or(LIST_MAX).clamp(1, LIST_MAX);
        let ledgers = self.bookie.list(request.after.map(LedgerId::new), limit);
        Ok(Response::new(wire::ListResponse { ledgers: ledgers.iter().map(convert::summary_to_wire).collect() }))
    }

    async fn delete(&self, request: Request<wire::DeleteRequest>) -> Result<Response<wire::DeleteResponse>, Status> {
        let request = request.into_inner();
        self.meant_for_us(&request.incarnation)?;
        let deleted = self.reaper.delete(LedgerId::new(request.ledger)).await;
        Ok(Response::new(wire::DeleteResponse { deleted }))
    }
}

impl Service {
    /// Takes one item of an add stream.
    async fn take(&self, stream: &mut AddStream, request: wire::AddRequest) -> Result<(), Status> {
        self.meant_for_us(&request.incarnation)?;
        match convert::add_from_wire(request).map_err(malformed)? {
            AddItem::Entry(add) => stream.push(add).await,
            AddItem::Lac(lac) => stream.advance_lac(&lac),
        }
        Ok(())
    }
}

/// Keeps the answer's bytes in the budget until the last of its bodies was handed over (Q6).
fn counted(mut answer: ReadAnswer, held: BytesHeld) -> ReadAnswer {
    struct Counted(Bytes, #[expect(dead_code, reason = "held for its drop")] Arc<BytesHeld>);
    impl AsRef<[u8]> for Counted {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }
    let held = Arc::new(held);
    for entry in &mut answer.entries {
        if let EntryAnswer::Found(found) = entry {
            found.body = Bytes::from_owner(Counted(std::mem::take(&mut found.body), Arc::clone(&held)));
        }
    }
    answer
}
