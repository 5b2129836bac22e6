//! A bookie that keeps its entries in memory, and can be told to misbehave.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use alluvium_ledger::{BookieClient, CallError, Connector};
use alluvium_types::bookie::{
    AddEntry, Adder, AdvanceLac, EntryAnswer, FenceAnswer, Find, FindKey, LedgerSummary, Missing, OpenLedger, ReadAnswer,
    ReadEntries, ReadRefusal, Refusal, StoredEntry,
};
use alluvium_types::entry::EntryRange;
use alluvium_types::ids::{EntryId, Epoch, LedgerId, RecoveryNumber};
use alluvium_types::ledger::BookieId;
use async_trait::async_trait;
use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt};
use parking_lot::Mutex;
use tokio::sync::watch;

#[derive(Default)]
struct Table {
    epoch: Epoch,
    fenced: Option<RecoveryNumber>,
    lac: Option<EntryId>,
    entries: BTreeMap<EntryId, StoredEntry>,
}

/// How it answers adds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mood {
    Well,
    /// Writers' adds wait.
    Slow,
    /// Adds and new ledgers of class bulk are refused.
    Full,
    /// Nobody is answered who fences.
    Silent,
    /// Nobody is answered who reads.
    Away,
}

#[derive(Clone)]
pub(crate) struct MemoryBookie {
    tables: Arc<Mutex<BTreeMap<LedgerId, Table>>>,
    mood: watch::Sender<Mood>,
}

impl MemoryBookie {
    pub(crate) fn new() -> Self {
        Self { tables: Arc::default(), mood: watch::Sender::new(Mood::Well) }
    }

    pub(crate) fn be(&self, mood: Mood) {
        self.mood.send_replace(mood);
    }

    /// How many calls wait for another mood.
    pub(crate) fn waiting(&self) -> usize {
        self.mood.receiver_count()
    }

    /// The ledgers that hold anything, and how many entries.
    pub(crate) fn ledgers(&self) -> Vec<(LedgerId, usize)> {
        self.tables.lock().iter().map(|(ledger, table)| (*ledger, table.entries.len())).collect()
    }

    /// Loses an entry.
    pub(crate) fn lose(&self, ledger: LedgerId, entry: EntryId) {
        self.tables.lock().get_mut(&ledger).expect("the ledger is here").entries.remove(&entry).expect("the entry is here");
    }

    async fn speaks(&self) -> Result<(), CallError<ReadRefusal>> {
        self.mood.subscribe().wait_for(|mood| *mood != Mood::Silent).await.map(|_| ()).map_err(|_| CallError::Lost)
    }

    fn with<T>(&self, ledger: LedgerId, look: impl FnOnce(&mut Table) -> T) -> T {
        look(self.tables.lock().entry(ledger).or_default())
    }

    fn store(&self, add: AddEntry) -> Result<(), Refusal> {
        if *self.mood.borrow() == Mood::Full {
            return Err(Refusal::ReadOnly);
        }
        self.with(add.ledger, |table| {
            match add.adder {
                Adder::Writer { epoch } if epoch < table.epoch => return Err(Refusal::Stale),
                Adder::Writer { .. } if table.fenced.is_some() => return Err(Refusal::Fenced),
                Adder::Recovery { number } if Some(number) < table.fenced => return Err(Refusal::Stale),
                Adder::Writer { .. } => table.lac = table.lac.max(add.lac),
                Adder::Recovery { .. } => {}
            }
            let body = Bytes::copy_from_slice(&add.body);
            table.entries.insert(add.entry, StoredEntry { entry: add.entry, lac: add.lac, body, checksum: add.checksum });
            Ok(())
        })
    }
}

#[async_trait]
impl BookieClient for MemoryBookie {
    async fn open(&self, open: OpenLedger) -> Result<(), CallError<Refusal>> {
        self.with(open.ledger, |table| table.epoch = open.epoch);
        Ok(())
    }

    fn add(&self, add: AddEntry) -> BoxFuture<'static, Result<(), CallError<Refusal>>> {
        let bookie = self.clone();
        async move {
            let mut mood = bookie.mood.subscribe();
            let by_writer = matches!(add.adder, Adder::Writer { .. });
            if by_writer && mood.wait_for(|mood| *mood != Mood::Slow).await.is_err() {
                return Err(CallError::Lost);
            }
            Ok(bookie.store(add)?)
        }
        .boxed()
    }

    fn advance_lac(&self, lac: AdvanceLac) {
        self.with(lac.ledger, |table| table.lac = table.lac.max(Some(lac.lac)));
    }

    async fn read(&self, read: ReadEntries) -> Result<ReadAnswer, CallError<ReadRefusal>> {
        if *self.mood.borrow() == Mood::Away {
            return Err(CallError::Lost);
        }
        if read.fence.is_some() {
            self.speaks().await?;
        }
        Ok(self.with(read.ledger, |table| {
            if let Some(number) = read.fence {
                table.fenced = table.fenced.max(Some(number));
            }
            let mut bytes = 0;
            let mut entries = Vec::new();
            for entry in (read.first.get()..=read.last.get()).map(EntryId::new) {
                let answer = match table.entries.get(&entry) {
                    Some(stored) => EntryAnswer::Found(stored.clone()),
                    None => EntryAnswer::Missing(entry, Missing::Absent),
                };
                if let EntryAnswer::Found(stored) = &answer {
                    bytes += stored.body.len();
                    if bytes > read.bytes_max && !entries.is_empty() {
                        break;
                    }
                }
                entries.push(answer);
                if entries.len() > 10_000 {
                    break;
                }
            }
            ReadAnswer { entries, lac: table.lac }
        }))
    }

    async fn fence(&self, ledger: LedgerId, number: RecoveryNumber) -> Result<FenceAnswer, CallError<ReadRefusal>> {
        self.speaks().await?;
        Ok(self.with(ledger, |table| {
            table.fenced = table.fenced.max(Some(number));
            FenceAnswer { lac: table.lac, last: table.entries.last_key_value().map(|(entry, _)| *entry) }
        }))
    }

    async fn read_lac(
        &self,
        ledger: LedgerId,
        _after: Option<EntryId>,
        _wait: Duration,
    ) -> Result<Option<EntryId>, CallError<ReadRefusal>> {
        Ok(self.with(ledger, |table| table.lac))
    }

    async fn find(&self, find: Find) -> Result<Option<EntryId>, CallError<ReadRefusal>> {
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
                torn: false,
            })
            .collect())
    }

    async fn delete(&self, ledger: LedgerId) -> Result<bool, CallError<ReadRefusal>> {
        self.tables.lock().remove(&ledger);
        Ok(true)
    }
}

/// Finds bookies by their names.
pub(crate) struct Direct(pub(crate) BTreeMap<BookieId, MemoryBookie>);

impl Connector for Direct {
    fn connect(&self, bookie: &BookieId, _address: &str) -> Arc<dyn BookieClient> {
        Arc::new(self.0[bookie].clone())
    }
}
