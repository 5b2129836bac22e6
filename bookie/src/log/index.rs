//! Where every entry is: in memory, rebuilt from footers and scans.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use alluvium_types::ids::{EntryId, LedgerId};

use super::files::Released;
use super::place::{FileId, Location};

/// How many entries may be missing between two of one run: they cost a slot each.
const GAP_MAX: u64 = 8;

/// What is stored of one ledger.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stored {
    /// Entries here.
    pub entries: u64,
    /// Bytes of their bodies.
    pub bytes: u64,
    /// The highest of them.
    pub last: Option<EntryId>,
    /// The highest LAC that came with them or alone.
    pub lac: Option<EntryId>,
}

/// How much of a file is alive.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Usage {
    /// Entries that the index finds in it.
    pub entries: u64,
    /// Bytes of their bodies.
    pub bytes: u64,
}

/// Ledger → entry → location, eight bytes an entry in the common case. Holds what is *durable*: whoever appends inserts when
/// the group is.
#[derive(Clone, Debug, Default)]
pub struct Index {
    ledgers: BTreeMap<LedgerId, Ledger>,
    files: BTreeMap<FileId, File>,
}

#[derive(Clone, Debug, Default)]
struct Ledger {
    /// By first entry; they don't overlap.
    runs: Vec<Run>,
    entries: u64,
    bytes: u64,
    lac: Option<EntryId>,
}

#[derive(Clone, Debug, Default)]
struct File {
    usage: Usage,
    /// Whose frames are in it, alive or dead.
    ledgers: BTreeSet<LedgerId>,
}

/// Entries of one ledger in one file, dense but for holes.
#[derive(Clone, Debug)]
struct Run {
    file: FileId,
    first: u64,
    slots: VecDeque<Slot>,
}

/// Where an entry of a run is.
#[derive(Clone, Copy, Debug)]
struct Slot {
    /// 0 is a hole: a file's header is there.
    unit: u32,
    body_bytes: u32,
}

const HOLE: Slot = Slot { unit: 0, body_bytes: 0 };

impl Run {
    fn of(entry: u64, location: Location) -> Self {
        Self { file: location.file, first: entry, slots: VecDeque::from([Slot::of(location)]) }
    }

    fn end(&self) -> u64 {
        self.first + self.slots.len() as u64
    }

    fn place(&self, entry: u64) -> Option<usize> {
        let place = entry.checked_sub(self.first)?;
        usize::try_from(place).ok().filter(|place| *place < self.slots.len())
    }

    fn get(&self, entry: u64) -> Option<Location> {
        self.slots[self.place(entry)?].location(self.file)
    }

    fn push(&mut self, entry: u64, location: Location) {
        for _ in self.end()..entry {
            self.slots.push_back(HOLE);
        }
        self.slots.push_back(Slot::of(location));
    }

    fn trim(&mut self) {
        while self.slots.front().is_some_and(|slot| slot.unit == 0) {
            self.slots.pop_front();
            self.first += 1;
        }
        while self.slots.back().is_some_and(|slot| slot.unit == 0) {
            self.slots.pop_back();
        }
    }
}

impl Slot {
    fn of(location: Location) -> Self {
        debug_assert_ne!(location.unit, 0, "a file's header is there");
        Self { unit: location.unit, body_bytes: location.body_bytes }
    }

    fn location(self, file: FileId) -> Option<Location> {
        (self.unit != 0).then_some(Location { file, unit: self.unit, body_bytes: self.body_bytes })
    }
}

impl Ledger {
    /// The place of the run that begins at or before `entry`, if any, is the one before this.
    fn after(&self, entry: u64) -> usize {
        self.runs.partition_point(|run| run.first <= entry)
    }

    fn get(&self, entry: u64) -> Option<Location> {
        self.runs.get(self.after(entry).checked_sub(1)?)?.get(entry)
    }

    /// Removes an entry and says where it was.
    fn take(&mut self, entry: u64) -> Option<Location> {
        let place = self.after(entry).checked_sub(1)?;
        let run = &mut self.runs[place];
        let location = run.get(entry)?;
        let slot = run.place(entry)?;
        run.slots[slot] = HOLE;
        run.trim();
        if run.slots.is_empty() {
            self.runs.remove(place);
        }
        Some(location)
    }

    /// Adds an entry that is not here.
    fn put(&mut self, entry: u64, location: Location) {
        let after = self.after(entry);
        let next_first = self.runs.get(after).map_or(u64::MAX, |run| run.first);
        let is_behind_all = after == self.runs.len();
        if let Some(before) = after.checked_sub(1) {
            let run = &mut self.runs[before];
            let is_same_file = run.file == location.file;
            if let Some(slot) = run.place(entry) {
                if is_same_file {
                    run.slots[slot] = Slot::of(location);
                } else {
                    let mut tail = Run { file: run.file, first: entry, slots: run.slots.split_off(slot) };
                    run.trim();
                    tail.trim();
                    self.runs.splice(after..after, [Run::of(entry, location), tail]);
                }
                return;
            }
            if is_same_file && entry - run.end() <= GAP_MAX && entry < next_first {
                run.push(entry, location);
                return;
            }
            if is_behind_all {
                // The run is finished: it will hardly grow again.
                run.slots.shrink_to_fit();
            }
        }
        match self.runs.get_mut(after) {
            Some(run) if run.file == location.file && run.first == entry + 1 => {
                run.slots.push_front(Slot::of(location));
                run.first = entry;
            }
            _ => self.runs.insert(after, Run::of(entry, location)),
        }
    }
}

impl Index {
    /// Notes where an entry is; a location that was known before is dead from then on.
    pub fn insert(&mut self, ledger: LedgerId, entry: EntryId, location: Location) {
        let rows = self.ledgers.entry(ledger).or_default();
        if let Some(dead) = rows.take(entry.get()) {
            rows.entries -= 1;
            rows.bytes -= u64::from(dead.body_bytes);
            let usage = &mut self.files.get_mut(&dead.file).expect("a file with live entries is known").usage;
            usage.entries -= 1;
            usage.bytes -= u64::from(dead.body_bytes);
        }
        rows.put(entry.get(), location);
        rows.entries += 1;
        rows.bytes += u64::from(location.body_bytes);
        let file = self.files.entry(location.file).or_default();
        file.usage.entries += 1;
        file.usage.bytes += u64::from(location.body_bytes);
        file.ledgers.insert(ledger);
    }

    /// Notes that a file holds a frame that nobody will read: its ledger was deleted, or another copy counts. Whoever appends
    /// says this or [`insert`](Self::insert) of each frame, so that a ledger is not forgotten while a file holds one.
    pub fn note_dead(&mut self, ledger: LedgerId, file: FileId) {
        self.files.entry(file).or_default().ledgers.insert(ledger);
    }

    /// Notes a LAC, if it is higher than the one known.
    pub fn note_lac(&mut self, ledger: LedgerId, lac: EntryId) {
        let known = &mut self.ledgers.entry(ledger).or_default().lac;
        *known = (*known).max(Some(lac));
    }

    /// Where an entry is.
    pub fn get(&self, ledger: LedgerId, entry: EntryId) -> Option<Location> {
        self.ledgers.get(&ledger)?.get(entry.get())
    }

    /// The entries from `first` to `last`, both included, that are here, in order.
    pub fn range(&self, ledger: LedgerId, first: EntryId, last: EntryId) -> impl Iterator<Item = (EntryId, Location)> {
        let runs = self.ledgers.get(&ledger).map_or(&[][..], |rows| &rows.runs[..]);
        let from = runs.partition_point(|run| run.end() <= first.get());
        runs[from..].iter().take_while(move |run| run.first <= last.get()).flat_map(move |run| {
            let start = run.first.max(first.get());
            let end = run.end().min(last.get().saturating_add(1));
            (start..end).filter_map(|entry| Some((EntryId::new(entry), run.get(entry)?)))
        })
    }

    /// The first entry at or after this one that is here.
    pub fn at_or_after(&self, ledger: LedgerId, entry: EntryId) -> Option<(EntryId, Location)> {
        self.range(ledger, entry, EntryId::new(u64::MAX)).next()
    }

    /// What is stored of a ledger; all zero if nothing is.
    pub fn stored(&self, ledger: LedgerId) -> Stored {
        self.ledgers.get(&ledger).map_or_else(Stored::default, |rows| Stored {
            entries: rows.entries,
            bytes: rows.bytes,
            last: rows.runs.last().map(|run| EntryId::new(run.end() - 1)),
            lac: rows.lac,
        })
    }

    /// The ledgers of which something is known, in order.
    pub fn ledgers(&self) -> impl Iterator<Item = LedgerId> {
        self.ledgers.keys().copied()
    }

    /// Drops a deleted ledger. Its deletion mark must be durable.
    pub fn remove_ledger(&mut self, ledger: LedgerId) {
        let Some(rows) = self.ledgers.remove(&ledger) else { return };
        for run in rows.runs {
            let usage = &mut self.files.get_mut(&run.file).expect("a file with live entries is known").usage;
            for slot in run.slots.iter().filter(|slot| slot.unit != 0) {
                usage.entries -= 1;
                usage.bytes -= u64::from(slot.body_bytes);
            }
        }
    }

    /// Whether some file still holds frames of a ledger, alive or dead.
    pub fn holds(&self, ledger: LedgerId) -> bool {
        self.files.values().any(|file| file.ledgers.contains(&ledger))
    }

    /// How much of a file is alive.
    pub fn usage(&self, file: FileId) -> Usage {
        self.files.get(&file).map_or_else(Usage::default, |file| file.usage)
    }

    /// The files that are in use, with how much of each is alive, in order of age. The active one is among them once something
    /// in it is durable.
    pub fn files(&self) -> impl Iterator<Item = (FileId, Usage)> {
        self.files.iter().map(|(id, file)| (*id, file.usage))
    }

    /// Forgets a file that was released.
    ///
    /// # Panics
    /// When something in it is alive.
    pub fn remove_file(&mut self, released: Released) {
        if let Some(file) = self.files.remove(&released.file) {
            assert_eq!(file.usage, Usage::default(), "only a dead file is released");
        }
    }

    /// Whether a file is one of those that hold frames, or may.
    pub(crate) fn knows(&self, file: FileId) -> bool {
        self.files.contains_key(&file)
    }

    /// Notes a file in which perhaps nothing is alive, so that it is found dead some time.
    pub fn note_file(&mut self, file: FileId) {
        self.files.entry(file).or_default();
    }

    /// The live entries of a file, by ledger and entry.
    pub(crate) fn live_in(&self, file: FileId) -> Vec<(LedgerId, EntryId, Location)> {
        let Some(known) = self.files.get(&file) else { return Vec::new() };
        let mut live = Vec::with_capacity(usize::try_from(known.usage.entries).unwrap_or(0));
        for ledger in &known.ledgers {
            let Some(rows) = self.ledgers.get(ledger) else { continue };
            for run in rows.runs.iter().filter(|run| run.file == file) {
                let entries = (run.first..run.end()).filter_map(|e| Some((*ledger, EntryId::new(e), run.get(e)?)));
                live.extend(entries);
            }
        }
        live
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(file: u64, unit: u32) -> Location {
        Location { file: FileId::new(file), unit, body_bytes: unit % 100 }
    }

    const L: LedgerId = LedgerId::new(1);

    #[test]
    fn a_dense_ledger_is_one_run_and_compaction_moves_it_front_to_back() {
        let mut index = Index::default();
        for e in 0..100 {
            index.insert(L, EntryId::new(e), at(1, 10 + u32::try_from(e).unwrap()));
        }
        assert_eq!(index.ledgers[&L].runs.len(), 1);
        for e in 0..100 {
            index.insert(L, EntryId::new(e), at(2, 10 + u32::try_from(e).unwrap()));
            assert!(index.ledgers[&L].runs.len() <= 2);
        }
        assert_eq!(index.usage(FileId::new(1)), Usage::default());
        assert!(index.holds(L));
        index.remove_file(Released { file: FileId::new(1) });
        index.remove_ledger(L);
        assert!(index.holds(L), "its frames are still in the second file");
        assert_eq!(index.usage(FileId::new(2)).entries, 0);
    }

    #[test]
    #[should_panic(expected = "only a dead file is released")]
    fn a_file_with_live_entries_cannot_be_removed() {
        let mut index = Index::default();
        index.insert(L, EntryId::new(0), at(1, 10));
        index.remove_file(Released { file: FileId::new(1) });
    }

    proptest! {
        #[test]
        fn it_answers_like_a_map(ops in proptest::collection::vec((0_u64..60, 1_u64..4, 1_u32..1000), 0..200), first in 0_u64..60) {
            let mut index = Index::default();
            let mut map = BTreeMap::new();
            for (entry, file, unit) in ops {
                index.insert(L, EntryId::new(entry), at(file, unit));
                map.insert(EntryId::new(entry), at(file, unit));
            }
            let all: Vec<_> = index.range(L, EntryId::ZERO, EntryId::new(u64::MAX)).collect();
            prop_assert_eq!(&all, &map.iter().map(|(e, l)| (*e, *l)).collect::<Vec<_>>());
            for e in (0..60).map(EntryId::new) {
                prop_assert_eq!(index.get(L, e), map.get(&e).copied());
            }
            let part: Vec<_> = index.range(L, EntryId::new(first), EntryId::new(first + 10)).collect();
            let expected: Vec<_> = map.range(EntryId::new(first)..=EntryId::new(first + 10)).map(|(e, l)| (*e, *l)).collect();
            prop_assert_eq!(part, expected);
            let stored = index.stored(L);
            prop_assert_eq!(stored.entries, map.len() as u64);
            prop_assert_eq!(stored.last, map.keys().last().copied());
            for file in (1..4).map(FileId::new) {
                let live: Vec<_> = map.iter().filter(|(_, l)| l.file == file).map(|(e, l)| (L, *e, *l)).collect();
                prop_assert_eq!(index.usage(file).entries, live.len() as u64);
                prop_assert_eq!(index.live_in(file), live);
            }
        }
    }
}
