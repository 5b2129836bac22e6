//! A store on a real folder, driven by hand: groups become durable when the test says so, and a crash is to drop it.

use std::path::Path;
use std::sync::Arc;

use alluvium_bookie::log::{self, GroupWrite, Reader};
use alluvium_bookie::mutation::Mutations;
use alluvium_bookie::store::{AddOutcome, Compared, Outcome, Store, VerifiedAdd};
use alluvium_runtime::disk::real::RealDisk;
use alluvium_runtime::disk::{Disk, SyncMode};
use alluvium_runtime::entropy::Entropy;
use alluvium_types::bookie::{AddEntry, EntryAnswer, FenceAnswer, Missing, ReadAnswer, ReadEntries, ReadRefusal, Refusal};
use alluvium_types::ids::{ClusterId, Incarnation, LedgerId};
use uuid::Uuid;

use super::{open, r, small_log};

pub struct Rig {
    pub store: Store,
    disk: Arc<dyn Disk>,
    dir: Arc<tempfile::TempDir>,
    mutations: Mutations,
}

impl Rig {
    pub fn new() -> Self {
        Self::on(Arc::new(RealDisk), Mutations::NONE)
    }

    pub fn with(mutations: Mutations) -> Self {
        Self::on(Arc::new(RealDisk), mutations)
    }

    pub fn on(disk: Arc<dyn Disk>, mutations: Mutations) -> Self {
        let dir = Arc::new(tempfile::tempdir().expect("a folder"));
        let store = recover(&disk, dir.path(), mutations);
        Self { store, disk, dir, mutations }
    }

    /// What is not durable is lost; the folder is opened again.
    pub fn crash(self) -> Self {
        let Self { store, disk, dir, mutations } = self;
        drop(store);
        let store = recover(&disk, dir.path(), mutations);
        Self { store, disk, dir, mutations }
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Takes the next group, with a file offered where one is wanted.
    pub fn begin(&mut self) -> Option<GroupWrite> {
        while self.store.wants_file() {
            let next = self.store.files().prepare_next().expect("there is space");
            self.store.offer(next);
        }
        self.store.begin()
    }

    /// Makes all that waits durable.
    pub fn flush(&mut self) {
        while let Some(write) = self.begin() {
            self.store.files().write(&write).expect("written");
            let _ = self.store.complete(write);
        }
    }

    /// Asks until the store answers, making groups durable as it wants.
    pub fn ask<A>(&mut self, mut request: impl FnMut(&mut Store) -> Outcome<A>) -> A {
        for _ in 0..100 {
            match request(&mut self.store) {
                Outcome::Now(answer) => return answer,
                Outcome::After(_) | Outcome::Full => self.flush(),
            }
        }
        panic!("the store does not answer");
    }

    pub fn opened(mut self, ledger: LedgerId) -> Self {
        assert_eq!(self.ask(|store| store.open(&open(ledger))), Ok(()));
        self
    }

    /// What becomes of an add, its group not made durable.
    pub fn try_add(&mut self, add: AddEntry) -> AddOutcome {
        match VerifiedAdd::check(add, small_log().body_bytes_max) {
            Ok(add) => self.store.add(&add),
            Err(refusal) => AddOutcome::Now(Err(refusal)),
        }
    }

    /// Adds an entry and makes it durable.
    pub fn add(&mut self, add: AddEntry) -> Result<(), Refusal> {
        let add = VerifiedAdd::check(add, small_log().body_bytes_max)?;
        let mut outcome = self.store.add(&add);
        for _ in 0..100 {
            match outcome {
                AddOutcome::Now(answer) => return answer,
                AddOutcome::Durable(group) => {
                    self.flush();
                    assert!(self.store.durable() >= group);
                    return Ok(());
                }
                AddOutcome::Full => {
                    self.flush();
                    outcome = self.store.add(&add);
                }
                AddOutcome::Compare(comparison) => match comparison.run(&self.reader(), &add) {
                    Compared::Same => return Ok(()),
                    Compared::Different => return Err(Refusal::Conflict),
                    Compared::Unreadable => outcome = self.store.replace(&add),
                    Compared::Moved => outcome = self.store.add(&add),
                },
            }
        }
        panic!("the store does not answer");
    }

    pub fn fence(&mut self, ledger: LedgerId, number: u64) -> Result<FenceAnswer, ReadRefusal> {
        self.ask(|store| store.fence(ledger, r(number)))
    }

    pub fn read(&mut self, read: ReadEntries) -> Result<ReadAnswer, ReadRefusal> {
        let plan = self.ask(|store| store.read(&read))?;
        Ok(plan.run(&self.reader()).expect("nothing moves meanwhile").answer)
    }

    /// What a read says of each entry: its number, or why it is missing.
    pub fn seen(&mut self, of: ReadEntries) -> Vec<Result<u64, Missing>> {
        let answer = self.read(of).expect("not refused");
        answer.entries.iter().map(seen).collect()
    }

    pub fn reader(&self) -> Reader {
        Reader::new(Arc::clone(self.store.files()))
    }
}

pub fn seen(answer: &EntryAnswer) -> Result<u64, Missing> {
    match answer {
        EntryAnswer::Found(found) => Ok(found.entry.get()),
        EntryAnswer::Missing(_, why) => Err(*why),
    }
}

fn recover(disk: &Arc<dyn Disk>, dir: &Path, mutations: Mutations) -> Store {
    let owner = log::Identity { cluster: ClusterId::new(Uuid::from_u128(1)), incarnation: Incarnation::new(Uuid::from_u128(2)) };
    let (mode, entropy) = (SyncMode::Buffered, Entropy::seeded(5));
    Store::recover(Arc::clone(disk), dir, mode, small_log(), owner, &entropy, mutations).expect("it recovers")
}
