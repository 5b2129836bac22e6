//! The store against a model of what it told: random requests, groups, and power cuts in the middle of a write. What was
//! answered holds for ever; what was not may or may not have happened.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use alluvium_bookie::log::{self, Reader};
use alluvium_bookie::mutation::{Mutation, Mutations};
use alluvium_bookie::store::{AddOutcome, Outcome, Store, VerifiedAdd};
use alluvium_runtime::disk::SyncMode;
use alluvium_runtime::disk::sim::SimDisk;
use alluvium_runtime::entropy::Entropy;
use alluvium_types::bookie::{AddEntry, EntryAnswer, Missing, ReadRefusal, Refusal};
use alluvium_types::ids::{ClusterId, Incarnation, LedgerId};
use bytes::Bytes;
use support::{add, body, l, open, r, read, recovery_add, small_log};
use uuid::Uuid;

/// Runs of each test.
const SEEDS: u64 = 300;

/// What the store told about one ledger.
#[derive(Debug, Default)]
struct Told {
    /// Entries of which an add was answered `Ok`.
    stored: BTreeSet<u64>,
    /// Every body that was ever sent under an entry's id.
    sent: BTreeMap<u64, Bytes>,
    /// The newest fence that was answered.
    fenced: Option<u64>,
    deleted: bool,
}

struct World {
    disk: SimDisk,
    entropy: Entropy,
    mode: SyncMode,
    mutations: Mutations,
    store: Store,
    told: BTreeMap<LedgerId, Told>,
    /// The newest of the ledgers that are written to; a crash begins new ones, as a torn bookie gets them (C59).
    newest: u64,
    /// Adds that wait for their groups.
    waiting: Vec<(log::GroupNumber, LedgerId, u64)>,
    events: Vec<String>,
}

fn recover(disk: &SimDisk, entropy: &Entropy, mode: SyncMode, mutations: Mutations) -> Option<Store> {
    let owner = log::Identity { cluster: ClusterId::new(Uuid::from_u128(1)), incarnation: Incarnation::new(Uuid::from_u128(2)) };
    let config = log::Config { file_bytes: 1 << 20, ..small_log() };
    Store::recover(Arc::new(disk.clone()), Path::new("/log"), mode, config, owner, entropy, mutations).ok()
}

impl World {
    fn new(seed: u64, mutations: Mutations) -> Self {
        let entropy = Entropy::seeded(seed);
        let mode = if entropy.below(2) == 0 { SyncMode::Direct } else { SyncMode::Buffered };
        let disk = SimDisk::new(Entropy::seeded(entropy.bits()), 1 << 30);
        let store = recover(&disk, &entropy, mode, mutations).expect("an empty disk opens");
        Self { disk, entropy, mode, mutations, store, told: BTreeMap::new(), newest: 3, waiting: Vec::new(), events: Vec::new() }
    }

    fn told(&mut self, ledger: LedgerId) -> &mut Told {
        self.told.entry(ledger).or_default()
    }

    /// Writes the next group; `false` when the power went meanwhile.
    fn flush(&mut self) -> bool {
        loop {
            while self.store.wants_file() {
                match self.store.files().prepare_next() {
                    Ok(next) => self.store.offer(next),
                    Err(_) => return false,
                }
            }
            let Some(write) = self.store.begin() else { return true };
            if let Err(error) = self.store.files().write(&write) {
                self.store.complete_failed(write, &error);
                return false;
            }
            let durable = self.store.complete(write);
            for (_, ledger, entry) in self.waiting.extract_if(.., |(group, ..)| *group <= durable) {
                self.told.entry(ledger).or_default().stored.insert(entry);
            }
        }
    }

    /// Asks until there is an answer; `None` when the power went first.
    fn ask<A>(&mut self, mut request: impl FnMut(&mut Store) -> Outcome<A>) -> Option<A> {
        loop {
            match request(&mut self.store) {
                Outcome::Now(answer) => return Some(answer),
                Outcome::After(_) | Outcome::Full => {
                    if !self.flush() {
                        return None;
                    }
                }
            }
        }
    }

    fn step(&mut self) {
        let ledger = l(self.newest - self.entropy.below(3.min(self.newest)));
        let number = 1 + self.entropy.below(4);
        let event = match self.entropy.below(100) {
            0..10 => {
                let answer = self.ask(|store| store.open(&open(ledger)));
                let told = self.told(ledger);
                if answer == Some(Ok(())) {
                    assert!(told.fenced.is_none() && !told.deleted, "B2: {ledger} was fenced or deleted, and is opened");
                }
                format!("open {ledger}: {answer:?}")
            }
            10..60 => self.add(ledger, number),
            60..70 => {
                let answer = self.ask(|store| store.fence(ledger, r(number)));
                if let Some(Ok(_)) = answer {
                    let told = self.told(ledger);
                    assert!(told.fenced <= Some(number) && !told.deleted, "C69: {ledger} forgot a newer fence");
                    told.fenced = Some(number);
                }
                format!("fence {ledger} for {number}: {answer:?}")
            }
            70..72 => {
                let answer = self.ask(|store| store.delete(ledger));
                if answer == Some(Ok(())) && self.told.get(&ledger).is_some_and(|told| !told.stored.is_empty()) {
                    self.told(ledger).deleted = true;
                }
                format!("delete {ledger}: {answer:?}")
            }
            72..88 => format!("flush: {}", self.flush()),
            88..94 => {
                self.check(ledger);
                format!("look at {ledger}")
            }
            _ => self.crash(),
        };
        self.events.push(event);
    }

    fn add(&mut self, ledger: LedgerId, number: u64) -> String {
        let entry = self.entropy.below(30);
        let bytes = usize::try_from(1 + self.entropy.below(9000)).expect("small");
        let by_recovery = self.entropy.below(4) == 0;
        // A writer has one body for an entry, for ever.
        let body = self.told(ledger).sent.entry(entry).or_insert_with(|| body(ledger, entry, bytes)).clone();
        let add: AddEntry = if by_recovery { recovery_add(ledger, entry, number, body) } else { add(ledger, entry, body) };
        let add = VerifiedAdd::check(add, small_log().body_bytes_max).expect("well-formed");
        let told = self.told(ledger);
        let (fenced, deleted) = (told.fenced, told.deleted);
        let outcome = self.store.add(&add);
        let taken = match &outcome {
            AddOutcome::Durable(group) => {
                self.waiting.push((*group, ledger, entry));
                true
            }
            AddOutcome::Now(Ok(())) => {
                self.told(ledger).stored.insert(entry);
                true
            }
            AddOutcome::Now(Err(refusal)) => {
                assert_ne!(*refusal, Refusal::Conflict, "B5: there is one body for each entry");
                false
            }
            AddOutcome::Compare(_) | AddOutcome::Full => false,
        };
        if taken {
            assert!(!deleted, "C27: {ledger} was deleted, and takes an entry");
            assert!(by_recovery || fenced.is_none(), "B2: {ledger} was fenced for {fenced:?}, and takes its writer's entry");
            assert!(!by_recovery || fenced <= Some(number), "C69: {ledger} takes an older recovery's entry");
        }
        format!("add {ledger}/{entry} {}: {outcome:?}", if by_recovery { "by recovery" } else { "by its writer" })
    }

    /// The power goes, maybe in the middle of a group, maybe again in the middle of the recovery.
    fn crash(&mut self) -> String {
        let in_group = self.entropy.below(2) == 0;
        if in_group {
            self.disk.crash_in(1 + self.entropy.below(3));
            self.flush();
        }
        self.disk.crash();
        self.waiting.clear();
        let again = self.entropy.below(3) == 0;
        if again {
            self.disk.crash_in(1 + self.entropy.below(6));
            drop(recover(&self.disk, &self.entropy, self.mode, self.mutations));
            self.disk.crash();
        }
        self.store = recover(&self.disk, &self.entropy, self.mode, self.mutations).expect("it recovers");
        // Metadata gives out ids past these from now on.
        let next = self.newest + 1;
        let _ = self.ask(|store| store.bound_doubts(l(next)));
        self.newest += self.entropy.below(3);
        format!("crash, in a group: {in_group}, in the recovery: {again}: {:?}", self.store.report().torn)
    }

    /// What was told is there, and nothing else is.
    fn check(&mut self, ledger: LedgerId) {
        let reader = Reader::new(Arc::clone(self.store.files()));
        let answer = match self.store.read(&read(ledger, 0, 29)) {
            Outcome::Now(Ok(plan)) => plan.run(&reader).expect("nothing moves").answer,
            Outcome::Now(Err(ReadRefusal::Deleted)) => {
                return;
            }
            Outcome::Now(Err(refusal)) => {
                assert_eq!(refusal, ReadRefusal::NoSuchLedger);
                let told = self.told(ledger);
                assert!(told.stored.is_empty() && told.fenced.is_none(), "B3: {ledger} is unknown, and was told of");
                return;
            }
            Outcome::After(_) | Outcome::Full => unreachable!("a plain read waits for nothing"),
        };
        let told = self.told(ledger);
        assert!(!told.deleted, "C27: {ledger} was deleted, and is read");
        let mut entries = answer.entries.iter().zip(0..);
        assert!(
            entries.all(|(answer, entry)| match answer {
                EntryAnswer::Found(found) => Some(&found.body) == told.sent.get(&entry),
                // Nothing rots here: what was told is on the disk, torn or not.
                EntryAnswer::Missing(_, Missing::Absent | Missing::Torn) => !told.stored.contains(&entry),
                EntryAnswer::Missing(_, Missing::Unknown) => false,
            }),
            "B1, B3, B4: {ledger} is {answer:?}, and {:?} was told",
            told.stored
        );
    }
}

/// A run; the events are printed when it breaks something.
#[expect(clippy::print_stdout, reason = "a failing run tells its story")]
fn run(seed: u64, steps: usize, mutations: Mutations) {
    struct Story<'a>(&'a mut World, u64);
    impl Drop for Story<'_> {
        fn drop(&mut self) {
            if std::thread::panicking() {
                println!("seed {}:\n{}", self.1, self.0.events.join("\n"));
            }
        }
    }
    let mut world = World::new(seed, mutations);
    let story = Story(&mut world, seed);
    for _ in 0..steps {
        story.0.step();
    }
    let _ = story.0.crash();
    for ledger in 1..=story.0.newest {
        story.0.check(l(ledger));
    }
}

#[test]
fn b1_b2_b3_b4_b5_what_was_told_holds_through_power_cuts_at_any_point() {
    for seed in 0..SEEDS {
        run(seed, 120, Mutations::NONE);
    }
}

#[test]
fn the_model_finds_the_bugs_that_are_planted_in_one_bookie() {
    for bug in [Mutation::AckBeforeSync, Mutation::UnknownLedgerNotFenced, Mutation::FenceBitLostAtRestart] {
        let found = (0..SEEDS).find(|seed| {
            let (seed, mutations) = (*seed, Mutations::plant(bug));
            std::panic::catch_unwind(move || run(seed, 120, mutations)).is_err()
        });
        assert!(found.is_some(), "{bug:?} was not found");
    }
}
