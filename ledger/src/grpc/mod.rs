//! Bookies over gRPC. One connection for adds and another one for questions, so that a long read holds up no write.

mod add_stream;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use alluvium_proto::convert::bookie as convert;
use alluvium_proto::internal::v1 as wire;
use alluvium_proto::internal::v1::bookie_service_client::BookieServiceClient;
use alluvium_runtime::clock::Clock;
use alluvium_runtime::lanes::Lanes;
use alluvium_runtime::net;
use alluvium_runtime::tasks::Tasks;
use alluvium_types::bookie::{
    AddEntry, AdvanceLac, FenceAnswer, Find, LedgerSummary, OpenLedger, ReadAnswer, ReadEntries, ReadRefusal, Refusal,
};
use alluvium_types::ids::{EntryId, LedgerId, RecoveryNumber};
use alluvium_types::ledger::BookieId;
use alluvium_types::limits::Limits;
use async_trait::async_trait;
use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt};
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use crate::bookie_client::{BookieClient, CallError, Connector, Unreachable};
use add_stream::AddStream;

/// How long a bookie may take over a question, beyond what it was asked to wait. The machines are less patient; this bounds what a
/// frozen one holds.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

/// Reaches bookies over gRPC.
#[derive(Clone, Debug)]
pub struct GrpcConnector {
    clock: Clock,
    tasks: Tasks,
    lanes: Lanes,
    limits: Limits,
}

impl GrpcConnector {
    /// Connections live in `tasks`, those of a bookie on one of `lanes`.
    pub const fn new(clock: Clock, tasks: Tasks, lanes: Lanes, limits: Limits) -> Self {
        Self { clock, tasks, lanes, limits }
    }

    /// `None` when no address of ours looks like that.
    fn channel(&self, address: &str) -> Option<BookieServiceClient<Channel>> {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).ok()?;
        let channel = net::endpoint(endpoint).connect_lazy();
        let bytes_max = self.limits.rpc_bytes_max();
        Some(BookieServiceClient::new(channel).max_decoding_message_size(bytes_max).max_encoding_message_size(bytes_max))
    }
}

impl Connector for GrpcConnector {
    fn connect(&self, bookie: &BookieId, address: &str) -> Arc<dyn BookieClient> {
        let lane = self.lanes.turn();
        let _lane = lane.enter();
        match (self.channel(address), self.channel(address)) {
            (Some(adds), Some(asks)) => {
                let adds = AddStream::new(adds, bookie.incarnation, self.tasks.clone(), lane.clone());
                Arc::new(GrpcBookie { bookie: bookie.clone(), asks, adds, clock: self.clock.clone() })
            }
            _ => {
                tracing::error!(%bookie, address, "the bookie's address makes no sense");
                Arc::new(Unreachable)
            }
        }
    }
}

/// One bookie over gRPC.
struct GrpcBookie {
    bookie: BookieId,
    asks: BookieServiceClient<Channel>,
    adds: AddStream,
    clock: Clock,
}

impl GrpcBookie {
    fn incarnation(&self) -> Bytes {
        convert::incarnation_bytes(self.bookie.incarnation)
    }

    /// Awaits an answer, within bounds.
    async fn answer<T, R>(
        &self,
        patience: Duration,
        call: impl Future<Output = Result<tonic::Response<T>, Status>> + Send,
    ) -> Result<T, CallError<R>> {
        match self.clock.timeout(patience, call).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => {
                tracing::debug!(bookie = %self.bookie, %status, "no answer");
                Err(CallError::Lost)
            }
            Err(elapsed) => {
                tracing::debug!(bookie = %self.bookie, %elapsed, "no answer");
                Err(CallError::Lost)
            }
        }
    }

    /// An answer that makes no sense is none.
    fn sense<T, R>(&self, decoded: Result<T, convert::Malformed>) -> Result<T, CallError<R>> {
        decoded.map_err(|error| {
            tracing::warn!(bookie = %self.bookie, %error, "an answer makes no sense");
            CallError::Lost
        })
    }
}

#[async_trait]
impl BookieClient for GrpcBookie {
    async fn open(&self, open: OpenLedger) -> Result<(), CallError<Refusal>> {
        let request = convert::open_to_wire(self.bookie.incarnation, &open);
        let response = self.answer(ANSWER_TIMEOUT, self.asks.clone().open(request)).await?;
        Ok(self.sense(convert::refusal_from_wire(response.refusal))??)
    }

    fn add(&self, add: AddEntry) -> BoxFuture<'static, Result<(), CallError<Refusal>>> {
        self.adds.add(add).boxed()
    }

    fn advance_lac(&self, lac: AdvanceLac) {
        self.adds.advance_lac(lac);
    }

    async fn read(&self, read: ReadEntries) -> Result<ReadAnswer, CallError<ReadRefusal>> {
        let request = convert::read_to_wire(self.bookie.incarnation, &read);
        let response = self.answer(ANSWER_TIMEOUT, self.asks.clone().read(request)).await?;
        Ok(self.sense(convert::read_answer_from_wire(response))??)
    }

    async fn fence(&self, ledger: LedgerId, number: RecoveryNumber) -> Result<FenceAnswer, CallError<ReadRefusal>> {
        let request = wire::FenceRequest { incarnation: self.incarnation(), ledger: ledger.get(), recovery_number: number.get() };
        let response = self.answer(ANSWER_TIMEOUT, self.asks.clone().fence(request)).await?;
        Ok(self.sense(convert::fence_answer_from_wire(&response))??)
    }

    async fn read_lac(
        &self,
        ledger: LedgerId,
        after: Option<EntryId>,
        wait: Duration,
    ) -> Result<Option<EntryId>, CallError<ReadRefusal>> {
        let request = wire::ReadLacRequest {
            incarnation: self.incarnation(),
            ledger: ledger.get(),
            after: after.map(EntryId::get),
            wait_ms: u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
        };
        let response = self.answer(wait + ANSWER_TIMEOUT, self.asks.clone().read_lac(request)).await?;
        match self.sense(convert::read_refusal_from_wire(response.refusal))? {
            Some(refusal) => Err(CallError::Refused(refusal)),
            None => Ok(response.lac.map(EntryId::new)),
        }
    }

    async fn find(&self, find: Find) -> Result<Option<EntryId>, CallError<ReadRefusal>> {
        let request = convert::find_to_wire(self.bookie.incarnation, &find);
        let response = self.answer(ANSWER_TIMEOUT, self.asks.clone().find(request)).await?;
        match self.sense(convert::read_refusal_from_wire(response.refusal))? {
            Some(refusal) => Err(CallError::Refused(refusal)),
            None => Ok(response.entry.map(EntryId::new)),
        }
    }

    async fn list(&self, after: Option<LedgerId>, limit: u32) -> Result<Vec<LedgerSummary>, CallError<ReadRefusal>> {
        let request = wire::ListRequest { incarnation: self.incarnation(), after: after.map(LedgerId::get), limit };
        let response = self.answer(ANSWER_TIMEOUT, self.asks.clone().list(request)).await?;
        Ok(response.ledgers.iter().map(convert::summary_from_wire).collect())
    }

    async fn delete(&self, ledger: LedgerId) -> Result<bool, CallError<ReadRefusal>> {
        let request = wire::DeleteRequest { incarnation: self.incarnation(), ledger: ledger.get() };
        Ok(self.answer(ANSWER_TIMEOUT, self.asks.clone().delete(request)).await?.deleted)
    }
}
