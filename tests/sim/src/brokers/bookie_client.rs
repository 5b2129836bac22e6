//! A broker's client of a bookie, over the simulated network.

use std::sync::Arc;
use std::time::Duration;

use alluvium_ledger::call::{Answer, FenceLedger, Request};
use alluvium_ledger::{BookieClient, CallError, Connector};
use alluvium_types::bookie::{
    AddEntry, AdvanceLac, EntryAnswer, FenceAnswer, Find, FindKey, LedgerSummary, OpenLedger, ReadAnswer, ReadEntries,
    ReadRefusal, Refusal,
};
use alluvium_types::entry::EntryRange;
use alluvium_types::ids::{EntryId, LedgerId, RecoveryNumber};
use alluvium_types::ledger::BookieId;
use async_trait::async_trait;
use futures::future::{BoxFuture, FutureExt};
use tokio::sync::oneshot;

use super::bookies::{Bookies, Host};

/// How often a bookie that is to tell a LAC looks for it.
const LAC_INTERVAL: Duration = Duration::from_millis(20);

/// A broker's way to the bookies.
pub(super) struct Dialler {
    pub(super) bookies: Arc<Bookies>,
    pub(super) broker: usize,
}

impl Connector for Dialler {
    fn connect(&self, bookie: &BookieId, _address: &str) -> Arc<dyn BookieClient> {
        Arc::new(Client { bookies: Arc::clone(&self.bookies), broker: self.broker, bookie: bookie.clone() })
    }
}

struct Client {
    bookies: Arc<Bookies>,
    broker: usize,
    bookie: BookieId,
}

impl Client {
    fn ask(&self, request: Request) -> oneshot::Receiver<Answer> {
        self.bookies.ask(self.broker, &self.bookie, request)
    }

    async fn look<T>(&self, look: impl FnOnce(&mut Host) -> T) -> Result<T, CallError<ReadRefusal>> {
        self.bookies.look(self.broker, &self.bookie, look).await.ok_or(CallError::Lost)
    }
}

#[async_trait]
impl BookieClient for Client {
    async fn open(&self, open: OpenLedger) -> Result<(), CallError<Refusal>> {
        match self.ask(Request::Open(open)).await {
            Ok(Answer::Open(done)) => Ok(done?),
            _ => Err(CallError::Lost),
        }
    }

    fn add(&self, add: AddEntry) -> BoxFuture<'static, Result<(), CallError<Refusal>>> {
        let answer = self.ask(Request::Add(add));
        async move {
            match answer.await {
                Ok(Answer::Add(done)) => Ok(done?),
                _ => Err(CallError::Lost),
            }
        }
        .boxed()
    }

    fn advance_lac(&self, lac: AdvanceLac) {
        drop(self.ask(Request::AdvanceLac(lac)));
    }

    async fn read(&self, read: ReadEntries) -> Result<ReadAnswer, CallError<ReadRefusal>> {
        match self.ask(Request::Read(read)).await {
            Ok(Answer::Read(done)) => Ok(done?),
            _ => Err(CallError::Lost),
        }
    }

    async fn fence(&self, ledger: LedgerId, number: RecoveryNumber) -> Result<FenceAnswer, CallError<ReadRefusal>> {
        match self.ask(Request::Fence(FenceLedger { ledger, number })).await {
            Ok(Answer::Fence(done)) => Ok(done?),
            _ => Err(CallError::Lost),
        }
    }

    async fn read_lac(
        &self,
        ledger: LedgerId,
        after: Option<EntryId>,
        wait: Duration,
    ) -> Result<Option<EntryId>, CallError<ReadRefusal>> {
        let until = self.bookies.clock.mono().after(wait);
        loop {
            let lac = self.look(move |host| host.lac(ledger)).await?;
            if lac > after || self.bookies.clock.mono() >= until {
                return Ok(lac);
            }
            self.bookies.clock.sleep(LAC_INTERVAL).await;
        }
    }

    async fn find(&self, find: Find) -> Result<Option<EntryId>, CallError<ReadRefusal>> {
        let Find { ledger, key, up_to } = find;
        let read = self.look(move |host| host.look(ledger, EntryId::ZERO, up_to)).await?.ok_or(CallError::Lost)??;
        let mut ranges = read.entries.iter().filter_map(|answer| match answer {
            EntryAnswer::Found(stored) => EntryRange::of(&stored.body).map(|range| (stored.entry, range)),
            EntryAnswer::Missing(..) => None,
        });
        Ok(match key {
            FindKey::Offset(offset) => ranges.filter(|(_, range)| range.first_offset <= offset).last().map(|(entry, _)| entry),
            FindKey::Time(time) => ranges.find(|(_, range)| range.server_time >= time).map(|(entry, _)| entry),
        })
    }

    async fn list(&self, after: Option<LedgerId>, limit: u32) -> Result<Vec<LedgerSummary>, CallError<ReadRefusal>> {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        self.look(move |host| host.list(after, limit)).await
    }

    /// Its bytes stay: nothing in a run needs their room.
    async fn delete(&self, _ledger: LedgerId) -> Result<bool, CallError<ReadRefusal>> {
        self.look(|_| false).await
    }
}
