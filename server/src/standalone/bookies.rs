//! The bookies of this process, and how its broker reaches them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use alluvium_bookie::gc::Reaper;
use alluvium_bookie::start::Running;
use alluvium_ledger::{BookieClient, CallError, Connector, Unreachable};
use alluvium_types::bookie::{
    AddEntry, AdvanceLac, FenceAnswer, Find, LedgerSummary, OpenLedger, ReadAnswer, ReadEntries, ReadRefusal, Refusal,
};
use alluvium_types::ids::{EntryId, LedgerId, RecoveryNumber};
use alluvium_types::ledger::BookieId;
use async_trait::async_trait;
use futures::FutureExt;
use futures::future::BoxFuture;

/// Reaches the bookies of this process by a call: the same requests and answers as over gRPC.
#[derive(Clone, Default)]
pub(super) struct InProcess {
    bookies: BTreeMap<BookieId, Arc<dyn BookieClient>>,
}

impl InProcess {
    /// Reaches these.
    pub(super) fn new(running: &[Running]) -> Self {
        let bookies = running
            .iter()
            .map(|running| {
                let identity = running.bookie.identity();
                let id = BookieId { name: identity.bookie.clone(), incarnation: identity.incarnation };
                (id, Arc::new(Local(running.clone())) as Arc<dyn BookieClient>)
            })
            .collect();
        Self { bookies }
    }
}

impl Connector for InProcess {
    fn connect(&self, bookie: &BookieId, _address: &str) -> Arc<dyn BookieClient> {
        self.bookies.get(bookie).cloned().unwrap_or_else(|| Arc::new(Unreachable))
    }
}

/// A bookie of this process.
struct Local(Running);

impl Local {
    fn reaper(&self) -> &Reaper {
        &self.0.reaper
    }
}

#[async_trait]
impl BookieClient for Local {
    async fn open(&self, open: OpenLedger) -> Result<(), CallError<Refusal>> {
        Ok(self.0.bookie.open_ledger(open).await?)
    }

    fn add(&self, add: AddEntry) -> BoxFuture<'static, Result<(), CallError<Refusal>>> {
        let added = self.0.bookie.add(add);
        async move { Ok(added.await?) }.boxed()
    }

    fn advance_lac(&self, lac: AdvanceLac) {
        if let Err(refusal) = self.0.bookie.advance_lac(&lac) {
            tracing::debug!(ledger = %lac.ledger, %refusal, "the LAC was not taken");
        }
    }

    async fn read(&self, read: ReadEntries) -> Result<ReadAnswer, CallError<ReadRefusal>> {
        // Handed over here: these are the very bytes that the broker's readers took room for before they asked, and hold for as
        // long as their consumers do. Counted against the bookie for that long too, clients that don't read could keep it from
        // answering anybody, a takeover among them.
        Ok(self.0.bookie.read(read).await?)
    }

    async fn fence(&self, ledger: LedgerId, number: RecoveryNumber) -> Result<FenceAnswer, CallError<ReadRefusal>> {
        Ok(self.0.bookie.fence(ledger, number).await?)
    }

    async fn read_lac(
        &self,
        ledger: LedgerId,
        after: Option<EntryId>,
        wait: Duration,
    ) -> Result<Option<EntryId>, CallError<ReadRefusal>> {
        Ok(self.0.bookie.read_lac(ledger, after, wait).await?)
    }

    async fn find(&self, find: Find) -> Result<Option<EntryId>, CallError<ReadRefusal>> {
        Ok(self.0.bookie.find(find).await?)
    }

    async fn list(&self, after: Option<LedgerId>, limit: u32) -> Result<Vec<LedgerSummary>, CallError<ReadRefusal>> {
        Ok(self.0.bookie.list(after, limit as usize))
    }

    async fn delete(&self, ledger: LedgerId) -> Result<bool, CallError<ReadRefusal>> {
        Ok(self.reaper().delete(ledger).await)
    }
}
