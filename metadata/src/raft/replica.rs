//! Raft's view of the log: the entries since the last snapshot, in memory, with what raft asks about them.

use std::collections::VecDeque;

use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};
use raft::storage::{GetEntriesContext, RaftState, Storage};
use raft::{StorageError, util};

use super::group::LogRecord;
use super::transport::VoterId;

/// What raft knows to be stored.
#[derive(Debug)]
pub(crate) struct Replica {
    hard: HardState,
    voters: ConfState,
    /// Index and term of the entry before the first one kept.
    base: (u64, u64),
    entries: VecDeque<Entry>,
    /// A snapshot for voters that are too far behind, made when one asks.
    offered: Option<Snapshot>,
    wanted: std::cell::Cell<bool>,
}

impl Replica {
    /// A replica that begins behind a snapshot, or from nothing at (0, 0).
    pub(crate) fn new(voters: &[VoterId], base: (u64, u64)) -> Self {
        let mut state = ConfState::new();
        state.voters = voters.iter().map(|voter| voter.get()).collect();
        let mut hard = HardState::new();
        (hard.term, hard.commit) = (base.1, base.0);
        Self { hard, voters: state, base, entries: VecDeque::new(), offered: None, wanted: std::cell::Cell::new(false) }
    }

    /// Replays a log over the snapshot that this began with; the error says what doesn't fit.
    pub(crate) fn replay(&mut self, records: Vec<LogRecord>) -> Result<(), String> {
        let snapshot = self.base;
        let (mut entries, mut hard): (VecDeque<Entry>, _) = (VecDeque::new(), self.hard.clone());
        let mut before: Option<u64> = None;
        for record in records {
            match record {
                LogRecord::HardState(found) => hard = found,
                LogRecord::Beginning { index, .. } => {
                    entries.clear();
                    before = Some(index);
                }
                LogRecord::Entry(entry) => {
                    let last = entries.back().map_or(before.unwrap_or(entry.index - 1), |last| last.index);
                    if entry.index > last + 1 {
                        return Err(format!("entry {} follows entry {last}", entry.index));
                    }
                    while entries.back().is_some_and(|last| last.index >= entry.index) {
                        entries.pop_back();
                    }
                    entries.push_back(entry);
                }
            }
        }
        // Entries that agree with the snapshot go on behind it; a log that ends before it, or tells another story at its
        // index, is superseded by it.
        let agrees = entries.iter().find(|e| e.index == snapshot.0).is_none_or(|e| e.term == snapshot.1);
        let reaches = entries.back().is_some_and(|last| last.index > snapshot.0);
        if agrees && reaches {
            entries.retain(|entry| entry.index > snapshot.0);
            if entries.front().is_some_and(|first| first.index != snapshot.0 + 1) {
                return Err(format!("the entry behind the snapshot of {} is missing", snapshot.0));
            }
            self.entries = entries;
        }
        hard.term = hard.term.max(snapshot.1);
        hard.commit = hard.commit.clamp(snapshot.0, self.last().0);
        self.hard = hard;
        Ok(())
    }

    pub(crate) const fn hard(&self) -> &HardState {
        &self.hard
    }

    pub(crate) fn set_hard(&mut self, hard: HardState) {
        self.hard = hard;
    }

    pub(crate) fn set_commit(&mut self, commit: u64) {
        self.hard.commit = commit;
    }

    pub(crate) fn voters(&self) -> Vec<VoterId> {
        self.voters.voters.iter().filter_map(|&voter| VoterId::new(voter)).collect()
    }

    /// Takes over entries that the log made durable.
    pub(crate) fn append(&mut self, entries: &[Entry]) {
        for entry in entries {
            assert!(entry.index > self.base.0, "raft does not replace what a snapshot covers");
            while self.entries.back().is_some_and(|last| last.index >= entry.index) {
                self.entries.pop_back();
            }
            assert_eq!(entry.index, self.last().0 + 1, "raft appends without gaps");
            self.entries.push_back(entry.clone());
        }
    }

    /// Begins anew behind a snapshot that another voter sent.
    pub(crate) fn install(&mut self, index: u64, term: u64, voters: ConfState) {
        self.entries.clear();
        self.base = (index, term);
        self.voters = voters;
        self.hard.term = self.hard.term.max(term);
        self.hard.commit = index;
        self.offered = None;
    }

    /// Lets entries up to `index` go.
    pub(crate) fn compact(&mut self, index: u64) {
        while let Some(first) = self.entries.front()
            && first.index <= index
        {
            self.base = (first.index, first.term);
            self.entries.pop_front();
        }
    }

    /// Whether a voter waits for a snapshot.
    pub(crate) const fn wants_snapshot(&self) -> bool {
        self.wanted.get()
    }

    /// Offers a snapshot of what is applied up to `index`.
    pub(crate) fn offer(&mut self, index: u64, body: Vec<u8>) {
        let mut snapshot = Snapshot::new();
        snapshot.data = body.into();
        let term = self.term_of(index).expect("what is applied is kept or is the base");
        let metadata = snapshot.mut_metadata();
        (metadata.index, metadata.term) = (index, term);
        metadata.set_conf_state(self.voters.clone());
        self.offered = Some(snapshot);
        self.wanted.set(false);
    }

    /// Frees the offered snapshot.
    pub(crate) fn withdraw(&mut self) {
        self.offered = None;
    }

    /// The term of an index that is kept, or of the base.
    pub(crate) fn term_of(&self, index: u64) -> Option<u64> {
        if index == self.base.0 {
            return Some(self.base.1);
        }
        let at = index.checked_sub(self.base.0 + 1).and_then(|at| usize::try_from(at).ok())?;
        self.entries.get(at).map(|entry| entry.term)
    }

    fn last(&self) -> (u64, u64) {
        self.entries.back().map_or(self.base, |last| (last.index, last.term))
    }
}

impl Storage for Replica {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState { hard_state: self.hard.clone(), conf_state: self.voters.clone() })
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low <= self.base.0 {
            return Err(StorageError::Compacted.into());
        }
        let at = |index: u64| usize::try_from(index - self.base.0 - 1).expect("entries are in memory");
        let mut entries: Vec<Entry> = self.entries.range(at(low)..at(high)).cloned().collect();
        util::limit_size(&mut entries, max_size.into());
        Ok(entries)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        let missing = if index < self.base.0 { StorageError::Compacted } else { StorageError::Unavailable };
        self.term_of(index).ok_or_else(|| missing.into())
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.base.0 + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last().0)
    }

    fn snapshot(&self, request_index: u64, _to: u64) -> raft::Result<Snapshot> {
        match &self.offered {
            Some(snapshot) if snapshot.get_metadata().index >= request_index.max(self.base.0) => Ok(snapshot.clone()),
            _ => {
                self.wanted.set(true);
                Err(StorageError::SnapshotTemporarilyUnavailable.into())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(term: u64, index: u64) -> LogRecord {
        let mut entry = Entry::new();
        (entry.term, entry.index) = (term, index);
        LogRecord::Entry(entry)
    }

    fn replica(base: (u64, u64), records: Vec<LogRecord>) -> Result<Replica, String> {
        let mut replica = Replica::new(&[VoterId::new(1).unwrap()], base);
        replica.replay(records).map(|()| replica)
    }

    fn indices(replica: &Replica) -> Vec<(u64, u64)> {
        replica.entries.iter().map(|e| (e.term, e.index)).collect()
    }

    #[test]
    fn a_later_entry_of_the_same_index_replaces_all_behind_it() {
        let replayed = replica((0, 0), vec![entry(1, 1), entry(1, 2), entry(1, 3), entry(2, 2)]).unwrap();
        assert_eq!(indices(&replayed), [(1, 1), (2, 2)]);
    }

    #[test]
    fn a_gap_between_snapshot_and_log_is_refused() {
        assert!(replica((5, 1), vec![entry(1, 7)]).is_err());
        assert!(replica((0, 0), vec![entry(1, 1), entry(1, 3)]).is_err());
    }

    #[test]
    fn a_log_that_ends_before_the_snapshot_is_superseded_by_it() {
        let replayed = replica((5, 2), vec![entry(1, 3), entry(1, 4)]).unwrap();
        assert_eq!((indices(&replayed), replayed.last()), (vec![], (5, 2)));
        let other_story = replica((5, 2), vec![entry(1, 5), entry(1, 6)]).unwrap();
        assert_eq!(indices(&other_story), []);
        let goes_on = replica((5, 2), vec![entry(2, 5), entry(2, 6)]).unwrap();
        assert_eq!(indices(&goes_on), [(2, 6)]);
    }

    #[test]
    fn an_installed_snapshot_leaves_no_gap_behind_it() {
        let replayed = replica((9, 3), vec![entry(1, 1), LogRecord::Beginning { index: 9, term: 3 }, entry(3, 10)]).unwrap();
        assert_eq!(indices(&replayed), [(3, 10)]);
    }
}
