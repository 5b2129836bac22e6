//! How many bookies hold what: E, Qw, Qa and the write set of an entry.

use std::fmt;

use crate::ids::EntryId;

/// Ensemble, write quorum and ack quorum: `0 < ack ≤ write ≤ ensemble ≤ 64`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Replication {
    ensemble: u8,
    write: u8,
    ack: u8,
}

/// Why three numbers are not a replication.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("replication {ensemble}/{write}/{ack} breaks 0 < ack <= write <= ensemble <= 64")]
pub struct ReplicationError {
    ensemble: usize,
    write: usize,
    ack: usize,
}

impl Replication {
    /// One bookie: what a single machine can promise.
    pub const SINGLE: Self = Self { ensemble: 1, write: 1, ack: 1 };
    /// Three copies, two of them synced before the ack: what a cluster promises by default.
    pub const DEFAULT: Self = Self { ensemble: 3, write: 3, ack: 2 };

    /// Checks and joins the three numbers.
    pub fn new(ensemble: usize, write: usize, ack: usize) -> Result<Self, ReplicationError> {
        match (u8::try_from(ensemble), u8::try_from(write), u8::try_from(ack)) {
            (Ok(e), Ok(w), Ok(a)) if 0 < a && a <= w && w <= e && e <= 64 => Ok(Self { ensemble: e, write: w, ack: a }),
            _ => Err(ReplicationError { ensemble, write, ack }),
        }
    }

    /// Bookies in an ensemble.
    pub const fn ensemble(self) -> usize {
        self.ensemble as usize
    }

    /// Bookies that store each entry.
    pub const fn write(self) -> usize {
        self.write as usize
    }

    /// Bookies that must have an entry on disk before it is confirmed.
    pub const fn ack(self) -> usize {
        self.ack as usize
    }

    /// How many members of a write set must share a property so that no ack quorum avoids it: Qw − Qa + 1.
    pub const fn coverage(self) -> usize {
        self.write() - self.ack() + 1
    }

    /// The ensemble's indices that store `entry`, striped round the ensemble.
    pub fn write_set(self, entry: EntryId) -> impl Iterator<Item = usize> + Clone {
        let size = self.ensemble() as u64;
        let start = entry.get() % size;
        (0..self.write() as u64)
            .map(move |step| usize::try_from((start + step) % size).expect("an ensemble has at most 64 members"))
    }

    /// All distinct write sets, one per residue of the entry id.
    pub fn write_sets(self) -> impl Iterator<Item = Vec<usize>> {
        (0..self.ensemble() as u64).map(move |first| self.write_set(EntryId::new(first)).collect())
    }

    /// Whether every write set has at least `needed` members for which `has` holds.
    pub fn every_write_set_has(self, needed: usize, mut has: impl FnMut(usize) -> bool) -> bool {
        let holds: Vec<bool> = (0..self.ensemble()).map(&mut has).collect();
        self.write_sets().all(|set| set.iter().filter(|&&index| holds[index]).count() >= needed)
    }
}

impl fmt::Display for Replication {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.ensemble, self.write, self.ack)
    }
}

impl fmt::Debug for Replication {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "E{}/Qw{}/Qa{}", self.ensemble, self.write, self.ack)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonsense_is_refused() {
        for (e, w, a) in [(0, 0, 0), (3, 3, 0), (3, 2, 3), (2, 3, 2), (65, 3, 2), (300, 3, 2)] {
            assert!(Replication::new(e, w, a).is_err(), "{e}/{w}/{a}");
        }
    }

    #[test]
    fn entries_are_striped_round_the_ensemble() {
        let replication = Replication::new(5, 3, 2).expect("valid");
        let sets: Vec<Vec<usize>> = [0, 1, 3, 4].map(|e| replication.write_set(EntryId::new(e)).collect()).into();
        assert_eq!(sets, [vec![0, 1, 2], vec![1, 2, 3], vec![3, 4, 0], vec![4, 0, 1]]);
        assert_eq!(replication.coverage(), 2);
    }

    #[test]
    fn coverage_means_that_no_ack_quorum_avoids_it() {
        for e in 1..=6_usize {
            for w in 1..=e {
                for a in 1..=w {
                    let r = Replication::new(e, w, a).expect("valid");
                    // The members without the property are too few to make an ack quorum.
                    assert!(w - r.coverage() < a);
                    assert!(w - (r.coverage() - 1) >= a);
                }
            }
        }
    }
}
