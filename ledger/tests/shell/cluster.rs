//! A cluster of tables: bookies that live in metadata and are reached by a direct call.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use alluvium_ledger::call::{Answer, FenceLedger, Request};
use alluvium_ledger::client::{NewLedger, Predecessor};
use alluvium_ledger::{BookieClient, CallError, Config, Connector, LedgerClient, LedgerWriter};
use alluvium_metadata::bookies::{BookieInfo, BookieRegistration};
use alluvium_metadata::{MemoryStore, Metadata};
use alluvium_runtime::clock::Clock;
use alluvium_runtime::entropy::Entropy;
use alluvium_runtime::tasks::Tasks;
use alluvium_types::bookie::{
    AddEntry, AdvanceLac, FenceAnswer, Find, FindKey, LedgerSummary, OpenLedger, ReadAnswer, ReadEntries, ReadRefusal, Refusal,
};
use alluvium_types::entry::EntryRange;
use alluvium_types::ids::{ClusterId, EntryId, Epoch, LedgerId, RecoveryNumber};
use alluvium_types::ledger::{BookieId, LedgerClass};
use alluvium_types::limits::Limits;
use alluvium_types::replication::Replication;
use async_trait::async_trait;
use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::bookie::{Bookie, b};

pub(crate) const DEADLINE: Duration = Duration::from_secs(10);

/// What becomes of calls.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mood {
    /// Answered.
    Well,
    /// Never answered.
    Frozen,
    /// Refused at once.
    Dead,
}

/// A table, and its mood.
#[derive(Clone)]
pub(crate) struct TableBookie {
    tables: Arc<Mutex<BTreeMap<LedgerId, Bookie>>>,
    mood: watch::Sender<Mood>,
}

impl TableBookie {
    pub(crate) fn new() -> Self {
        Self { tables: Arc::default(), mood: watch::Sender::new(Mood::Well) }
    }

    pub(crate) fn be(&self, mood: Mood) {
        self.mood.send_replace(mood);
    }

    pub(crate) fn with<T>(&self, ledger: LedgerId, look: impl FnOnce(&mut Bookie) -> T) -> T {
        look(self.tables.lock().entry(ledger).or_default())
    }

    async fn handle(self, ledger: LedgerId, request: Request) -> Answer {
        let mut mood = self.mood.subscribe();
        match mood.wait_for(|mood| *mood != Mood::Frozen).await.map(|mood| *mood) {
            Ok(Mood::Well) => self.with(ledger, |table| table.handle(request)).unwrap_or(Answer::Lost),
            Ok(Mood::Frozen | Mood::Dead) | Err(_) => Answer::Lost,
        }
    }
}

#[async_trait]
impl BookieClient for TableBookie {
    async fn open(&self, open: OpenLedger) -> Result<(), CallError<Refusal>> {
        match self.clone().handle(open.ledger, Request::Open(open)).await {
            Answer::Open(answer) => Ok(answer?),
            _ => Err(CallError::Lost),
        }
    }

    fn add(&self, mut add: AddEntry) -> BoxFuture<'static, Result<(), CallError<Refusal>>> {
        // A disk keeps bytes of its own.
        let body = add.body.clone();
        let table = self.clone();
        async move {
            let mut mood = table.mood.subscribe();
            let _ = mood.wait_for(|mood| *mood != Mood::Frozen).await;
            add.body = Bytes::copy_from_slice(&body);
            drop(body);
            match table.handle(add.ledger, Request::Add(add)).await {
                Answer::Add(answer) => Ok(answer?),
                _ => Err(CallError::Lost),
            }
        }
        .boxed()
    }

    fn advance_lac(&self, lac: AdvanceLac) {
        if *self.mood.borrow() == Mood::Well {
            self.with(lac.ledger, |table| table.handle(Request::AdvanceLac(lac)));
        }
    }

    async fn read(&self, read: ReadEntries) -> Result<ReadAnswer, CallError<ReadRefusal>> {
        match self.clone().handle(read.ledger, Request::Read(read)).await {
            Answer::Read(answer) => Ok(answer?),
            _ => Err(CallError::Lost),
        }
    }

    async fn fence(&self, ledger: LedgerId, number: RecoveryNumber) -> Result<FenceAnswer, CallError<ReadRefusal>> {
        match self.clone().handle(ledger, Request::Fence(FenceLedger { ledger, number })).await {
            Answer::Fence(answer) => Ok(answer?),
            _ => Err(CallError::Lost),
        }
    }

    async fn read_lac(
        &self,
        ledger: LedgerId,
        after: Option<EntryId>,
        wait: Duration,
    ) -> Result<Option<EntryId>, CallError<ReadRefusal>> {
        if *self.mood.borrow() != Mood::Well {
            return Err(CallError::Lost);
        }
        let clock = Clock::system();
        let deadline = clock.mono().after(wait);
        loop {
            let lac = self.with(ledger, |table| table.lac);
            if lac > after || clock.mono() >= deadline {
                return Ok(lac);
            }
            clock.sleep(Duration::from_millis(2)).await;
        }
    }

    async fn find(&self, find: Find) -> Result<Option<EntryId>, CallError<ReadRefusal>> {
        if *self.mood.borrow() != Mood::Well {
            return Err(CallError::Lost);
        }
        Ok(self.with(find.ledger, |table| {
            let mut ranges = table
                .entries
                .range(..=find.up_to)
                .filter_map(|(entry, stored)| EntryRange::of(&stored.body).map(|range| (*entry, range)));
            match find.key {
                FindKey::Offset(offset) => ranges.rfind(|(_, range)| range.first_offset <= offset).map(|(entry, _)| entry),
                FindKey::Time(time) => ranges.find(|(_, range)| range.server_time >= time).map(|(entry, _)| entry),
            }
        }))
    }

    async fn list(&self, after: Option<LedgerId>, limit: u32) -> Result<Vec<LedgerSummary>, CallError<ReadRefusal>> {
        let tables = self.tables.lock();
        let behind = tables.iter().filter(|(ledger, _)| Some(**ledger) > after).take(limit as usize);
        Ok(behind
            .map(|(ledger, table)| LedgerSummary {
                ledger: *ledger,
                entries: table.entries.len() as u64,
                bytes: table.entries.values().map(|stored| stored.body.len() as u64).sum(),
                last: table.entries.last_key_value().map(|(entry, _)| *entry),
                lac: table.lac,
                fenced: table.fenced,
                torn: table.torn,
            })
            .collect())
    }

    async fn delete(&self, ledger: LedgerId) -> Result<bool, CallError<ReadRefusal>> {
        self.tables.lock().remove(&ledger);
        Ok(true)
    }
}

/// Finds tables by their names.
struct Direct(BTreeMap<BookieId, TableBookie>);

impl Connector for Direct {
    fn connect(&self, bookie: &BookieId, _address: &str) -> Arc<dyn BookieClient> {
        Arc::new(self.0[bookie].clone())
    }
}

/// Bookies in metadata, and a client of ledgers over them.
pub(crate) struct Cluster {
    pub(crate) bookies: BTreeMap<BookieId, TableBookie>,
    pub(crate) metadata: Metadata,
    pub(crate) ledgers: LedgerClient,
    pub(crate) tasks: Tasks,
    _registrations: Vec<BookieRegistration>,
}

impl Cluster {
    pub(crate) async fn start(count: u64) -> Self {
        Self::start_with(count, Config::default()).await
    }

    pub(crate) async fn start_with(count: u64, config: Config) -> Self {
        let bookies: BTreeMap<BookieId, TableBookie> = (0..count).map(|number| (b(number), TableBookie::new())).collect();
        let connector = Arc::new(Direct(bookies.clone()));
        let addresses = bookies.keys().map(|bookie| (bookie.clone(), "nowhere".to_owned())).collect();
        Self::over(bookies, addresses, config, |_, _| connector).await
    }

    pub(crate) async fn over<C: Connector>(
        bookies: BTreeMap<BookieId, TableBookie>,
        addresses: BTreeMap<BookieId, String>,
        config: Config,
        connector: impl FnOnce(Clock, Tasks) -> Arc<C>,
    ) -> Self {
        let (clock, entropy) = (Clock::system(), Entropy::seeded(1));
        let (tasks, _failures) = Tasks::new();
        let store = MemoryStore::start(clock.clone(), &tasks);
        let metadata = Metadata::new(Arc::new(store), clock.clone(), entropy.clone(), tasks.clone());
        let mut registrations = Vec::new();
        for (bookie, address) in addresses {
            let cluster = ClusterId::new(entropy.uuid());
            metadata.bookies().claim_identity(&bookie, cluster).await.unwrap();
            let info = BookieInfo { zone: None, address, writable: true, total_bytes: 1 << 40, available_bytes: 1 << 39 };
            registrations.push(metadata.bookies().register(&bookie, &info, Duration::from_secs(60)).await.unwrap());
        }
        let connector = connector(clock, tasks.clone());
        let ledgers = LedgerClient::start(&metadata, connector, entropy, tasks.clone(), Limits::default(), config).await.unwrap();
        Self { bookies, metadata, ledgers, tasks, _registrations: registrations }
    }

    pub(crate) fn bookie(&self, number: u64) -> &TableBookie {
        &self.bookies[&b(number)]
    }

    /// A new ledger and its writer.
    pub(crate) async fn ledger(&self, wanted: Replication) -> LedgerWriter {
        let new = NewLedger { epoch: Epoch::new(3), class: LedgerClass::Bulk, wanted };
        let prepared = self.ledgers.prepare(new).await.unwrap();
        let record = self.ledgers.ledgers().create(prepared.metadata().clone()).await.unwrap();
        prepared.start(record, Predecessor::NONE)
    }
}

/// Waits for a future, but not for ever.
pub(crate) async fn soon<F: Future>(future: F) -> F::Output {
    Clock::system().timeout(DEADLINE, future).await.expect("it happens soon")
}

/// Waits until it is so, but not for ever.
pub(crate) async fn until(so: impl Fn() -> bool) {
    let clock = Clock::system();
    soon(async {
        while !so() {
            clock.sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}
