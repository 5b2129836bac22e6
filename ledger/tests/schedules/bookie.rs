//! A bookie as a table: it does what the protocol says, at once, and what a test tells it.

use std::collections::{BTreeMap, BTreeSet};

use alluvium_ledger::call::{Answer, Request};
use alluvium_runtime::entropy::Entropy;
use alluvium_types::bookie::{
    AddEntry, Adder, EntryAnswer, FenceAnswer, Missing, ReadAnswer, ReadEntries, ReadRefusal, Refusal, StoredEntry,
};
use alluvium_types::checksum::Crc32c;
use alluvium_types::entry::entry_checksum;
use alluvium_types::ids::{EntryId, Epoch, Incarnation, LedgerId, RecoveryNumber};
use alluvium_types::ledger::BookieId;
use alluvium_types::names::BookieName;
use bytes::Bytes;

pub(crate) const LEDGER: LedgerId = LedgerId::new(7);
pub(crate) const EPOCH: Epoch = Epoch::new(3);

pub(crate) fn b(number: u64) -> BookieId {
    BookieId {
        name: BookieName::parse(&format!("b{number}")).unwrap(),
        incarnation: Incarnation::new(Entropy::seeded(number).uuid()),
    }
}

pub(crate) fn e(number: u64) -> EntryId {
    EntryId::new(number)
}

pub(crate) fn body(entry: EntryId) -> Bytes {
    Bytes::from(format!("the body of entry {entry}"))
}

pub(crate) fn stored(entry: EntryId, lac: Option<EntryId>) -> StoredEntry {
    let body = body(entry);
    let checksum = entry_checksum(LEDGER, entry, Crc32c::of(&body), body.len());
    StoredEntry { entry, lac, body, checksum }
}

/// A bookie as a table.
#[derive(Clone, Debug, Default)]
pub(crate) struct Bookie {
    pub(crate) known: bool,
    pub(crate) fenced: Option<RecoveryNumber>,
    pub(crate) entries: BTreeMap<EntryId, StoredEntry>,
    pub(crate) lac: Option<EntryId>,
    pub(crate) torn: bool,
    pub(crate) rotten: BTreeSet<EntryId>,
    /// How many entries it gives at a time, if not all.
    pub(crate) gives_max: Option<usize>,
    /// What it answers every add of the writer with.
    pub(crate) refuses: Option<Refusal>,
    /// The planted bug's other half: a bookie that heeds the LAC of recovery adds.
    pub(crate) heeds_recovery_lac: bool,
}

impl Bookie {
    /// Does what it is asked, and answers; the LAC alone is not answered.
    pub(crate) fn handle(&mut self, request: Request) -> Option<Answer> {
        Some(match request {
            Request::Open(_) => Answer::Open(match (self.refuses, self.fenced) {
                (Some(refusal), _) => Err(refusal),
                (None, Some(_)) => Err(Refusal::Fenced),
                (None, None) => {
                    self.known = true;
                    Ok(())
                }
            }),
            Request::Add(add) => Answer::Add(self.add(add)),
            Request::AdvanceLac(advance) => {
                self.lac = self.lac.max(Some(advance.lac));
                return None;
            }
            Request::Read(read) => Answer::Read(self.read(read)),
            Request::Fence(fence) => Answer::Fence(
                self.fence(fence.number)
                    .map(|()| FenceAnswer { lac: self.lac, last: self.entries.last_key_value().map(|(entry, _)| *entry) }),
            ),
        })
    }

    fn fence(&mut self, number: RecoveryNumber) -> Result<(), ReadRefusal> {
        if self.fenced > Some(number) {
            return Err(ReadRefusal::Stale);
        }
        self.known = true;
        self.fenced = Some(number);
        Ok(())
    }

    fn add(&mut self, add: AddEntry) -> Result<(), Refusal> {
        match add.adder {
            Adder::Writer { .. } if self.fenced.is_some() => return Err(Refusal::Fenced),
            Adder::Writer { epoch } if epoch < EPOCH => return Err(Refusal::Stale),
            Adder::Writer { .. } => {
                if let Some(refusal) = self.refuses {
                    return Err(refusal);
                }
            }
            Adder::Recovery { number } if self.fenced > Some(number) => return Err(Refusal::Stale),
            Adder::Recovery { .. } => {}
        }
        if !self.known {
            return Err(Refusal::UnknownLedger);
        }
        if self.entries.get(&add.entry).is_some_and(|old| old.body != add.body) {
            return Err(Refusal::Conflict);
        }
        let heeds = matches!(add.adder, Adder::Writer { .. }) || self.heeds_recovery_lac;
        let lac = add.lac.filter(|_| heeds);
        self.lac = self.lac.max(lac);
        let entry = StoredEntry { entry: add.entry, lac, body: add.body, checksum: add.checksum };
        self.entries.entry(add.entry).or_insert(entry);
        Ok(())
    }

    fn read(&mut self, read: ReadEntries) -> Result<ReadAnswer, ReadRefusal> {
        match read.fence {
            Some(number) => self.fence(number)?,
            None if !self.known => return Err(ReadRefusal::NoSuchLedger),
            None => {}
        }
        let mut entries = Vec::new();
        let mut bytes = 0;
        let last = self.entries.last_key_value().map(|(entry, _)| *entry);
        let gives = self.gives_max.unwrap_or(usize::MAX);
        for entry in (read.first.get()..=read.last.get()).map(EntryId::new).take(gives) {
            entries.push(match self.entries.get(&entry) {
                _ if self.rotten.contains(&entry) => EntryAnswer::Missing(entry, Missing::Unknown),
                Some(stored) => {
                    bytes += stored.body.len();
                    if bytes > read.bytes_max && !entries.is_empty() {
                        break;
                    }
                    EntryAnswer::Found(stored.clone())
                }
                None if self.torn && last < Some(entry) => EntryAnswer::Missing(entry, Missing::Torn),
                None => EntryAnswer::Missing(entry, Missing::Absent),
            });
        }
        Ok(ReadAnswer { entries, lac: self.lac })
    }
}
