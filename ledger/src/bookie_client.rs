//! How a bookie is asked, whatever carries it: gRPC in a cluster, a direct call in one process.

use std::sync::Arc;
use std::time::Duration;

use alluvium_types::bookie::{
    AddEntry, AdvanceLac, FenceAnswer, Find, LedgerSummary, OpenLedger, ReadAnswer, ReadEntries, ReadRefusal, Refusal,
};
use alluvium_types::ids::{EntryId, LedgerId, RecoveryNumber};
use alluvium_types::ledger::BookieId;
use async_trait::async_trait;
use futures::future::{BoxFuture, FutureExt};

/// Why a bookie did not do what it was asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CallError<R> {
    /// It said no.
    #[error(transparent)]
    Refused(#[from] R),
    /// It could not be reached, or the connection broke: whether it did it is not known.
    #[error("no answer")]
    Lost,
}

/// A bookie, of one incarnation (B11). Calls are not cancel safe: a dropped call may still be carried out.
///
/// An implementation bounds what it queues, answers every call or [`CallError::Lost`] in bounded time once the connection is
/// gone, and lets go of a body that it has not yet sent when the future of its add is dropped (Q6).
#[async_trait]
pub trait BookieClient: Send + Sync + 'static {
    /// Makes a ledger known; durable when it resolves.
    async fn open(&self, open: OpenLedger) -> Result<(), CallError<Refusal>>;

    /// Stores an entry; durable when the future resolves. The add takes its place in the order of calls when this returns, not
    /// when the future is polled.
    fn add(&self, add: AddEntry) -> BoxFuture<'static, Result<(), CallError<Refusal>>>;

    /// Tells the LAC alone, in order with the adds.
    fn advance_lac(&self, lac: AdvanceLac);

    /// Reads a run of entries, and fences before that if asked to (C1).
    async fn read(&self, read: ReadEntries) -> Result<ReadAnswer, CallError<ReadRefusal>>;

    /// Fences a ledger; durable when it resolves (B2).
    async fn fence(&self, ledger: LedgerId, number: RecoveryNumber) -> Result<FenceAnswer, CallError<ReadRefusal>>;

    /// The highest LAC known, once it is past `after`, or after `wait`. Cancel safe.
    async fn read_lac(
        &self,
        ledger: LedgerId,
        after: Option<EntryId>,
        wait: Duration,
    ) -> Result<Option<EntryId>, CallError<ReadRefusal>>;

    /// Looks an entry up among those stored there.
    async fn find(&self, find: Find) -> Result<Option<EntryId>, CallError<ReadRefusal>>;

    /// Ledgers in id order, behind `after`.
    async fn list(&self, after: Option<LedgerId>, limit: u32) -> Result<Vec<LedgerSummary>, CallError<ReadRefusal>>;

    /// Drops a ledger's bytes, if metadata proves to the bookie that it is dead and its grace has passed since it first saw so (B9).
    /// `true`: the ledger is unknown here, provably, or its deletion is durable; nothing of it comes back, whatever crashes, and a
    /// tombstone may rest on that (C27). `false`: not yet, or never; ask again. So the first call mostly begins the grace.
    async fn delete(&self, ledger: LedgerId) -> Result<bool, CallError<ReadRefusal>>;
}

/// Makes clients of bookies.
pub trait Connector: Send + Sync + 'static {
    /// A client of `bookie`, which is reached at `address`. Returns at once; the connection is made when it is needed, and again
    /// when it broke.
    fn connect(&self, bookie: &BookieId, address: &str) -> Arc<dyn BookieClient>;
}

/// A bookie that nobody reaches, because its address makes no sense or its folder was taken away: every call is lost.
#[derive(Clone, Copy, Debug)]
pub struct Unreachable;

#[async_trait]
impl BookieClient for Unreachable {
    async fn open(&self, _: OpenLedger) -> Result<(), CallError<Refusal>> {
        Err(CallError::Lost)
    }

    fn add(&self, _: AddEntry) -> BoxFuture<'static, Result<(), CallError<Refusal>>> {
        std::future::ready(Err(CallError::Lost)).boxed()
    }

    fn advance_lac(&self, _: AdvanceLac) {}

    async fn read(&self, _: ReadEntries) -> Result<ReadAnswer, CallError<ReadRefusal>> {
        Err(CallError::Lost)
    }

    async fn fence(&self, _: LedgerId, _: RecoveryNumber) -> Result<FenceAnswer, CallError<ReadRefusal>> {
        Err(CallError::Lost)
    }

    async fn read_lac(&self, _: LedgerId, _: Option<EntryId>, _: Duration) -> Result<Option<EntryId>, CallError<ReadRefusal>> {
        Err(CallError::Lost)
    }

    async fn find(&self, _: Find) -> Result<Option<EntryId>, CallError<ReadRefusal>> {
        Err(CallError::Lost)
    }

    async fn list(&self, _: Option<LedgerId>, _: u32) -> Result<Vec<LedgerSummary>, CallError<ReadRefusal>> {
        Err(CallError::Lost)
    }

    async fn delete(&self, _: LedgerId) -> Result<bool, CallError<ReadRefusal>> {
        Err(CallError::Lost)
    }
}
