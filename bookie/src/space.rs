//! How full a bookie is, and what it still takes (B10, C35, C61). Pure and level-triggered: what counts is the last reading,
//! not how it was reached.

use alluvium_runtime::disk::Space;

/// What a bookie takes at the moment.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum Admission {
    /// Everything.
    #[default]
    All,
    /// What keeps the cluster alive: essential ledgers, recoveries, fences, deletions. They live on the reserve.
    Essential,
    /// Marks alone, fences and deletions: the reserve is used up as well.
    Marks,
}

/// When a bookie becomes read-only and writable again, in bytes that may still be taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Thresholds {
    /// Below this, only what is essential.
    pub read_only_below: u64,
    /// From this on, everything again.
    pub writable_above: u64,
    /// Below this, only marks.
    pub marks_below: u64,
    /// Of the disk, this much is left to others, such as the metadata store of the same machine.
    pub leave: u64,
    /// The bookie takes no more than this in all, however large the disk is; `None` for all of it.
    pub capacity_max: Option<u64>,
}

impl Thresholds {
    /// The least room with which a bookie that got full can come back: what makes it writable, and the files that stay however
    /// little is alive (the active one, the one before it, one ahead, one that is being emptied).
    pub const fn least_capacity(&self, file_bytes: u64) -> u64 {
        self.writable_above.saturating_add(file_bytes.saturating_mul(4))
    }
}

/// Watches the room of one data directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SpaceGauge {
    thresholds: Thresholds,
    admission: Admission,
    space: Space,
}

impl SpaceGauge {
    /// A gauge that has read nothing yet, and takes everything.
    pub const fn new(thresholds: Thresholds) -> Self {
        Self { thresholds, admission: Admission::All, space: Space { total: 0, available: 0 } }
    }

    /// Takes a reading: the disk's, what the log's files take of it, and how much of that holds nothing (files ready for reuse,
    /// the rest of the active one).
    pub fn observe(&mut self, disk: Space, taken: u64, reusable: u64) -> Admission {
        let limits = self.thresholds;
        let by_disk = disk.available.saturating_sub(limits.leave).saturating_add(reusable);
        let (total, available) = match limits.capacity_max {
            None => (disk.total, by_disk),
            Some(capacity) => {
                let used = taken.saturating_sub(reusable);
                (capacity.min(disk.total), by_disk.min(capacity.saturating_sub(used)))
            }
        };
        self.space = Space { total, available };
        self.admission = if available < limits.marks_below {
            Admission::Marks
        } else if available < limits.read_only_below {
            Admission::Essential
        } else if available >= limits.writable_above || self.admission == Admission::All {
            Admission::All
        } else {
            // Between the marks a bookie stays what it was, or it would turn to and fro with every file.
            Admission::Essential
        };
        self.admission
    }

    /// What is taken, by the last reading.
    pub const fn admission(&self) -> Admission {
        self.admission
    }

    /// The room for this bookie's bytes, by the last reading.
    pub const fn space(&self) -> Space {
        self.space
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GAUGE: SpaceGauge =
        SpaceGauge::new(Thresholds { read_only_below: 100, writable_above: 150, marks_below: 20, leave: 0, capacity_max: None });

    const fn disk(available: u64) -> Space {
        Space { total: 1000, available }
    }

    #[test]
    fn c35_a_full_bookie_turns_read_only_and_back_by_itself_with_hysteresis() {
        let mut gauge = GAUGE;
        let seen: Vec<_> =
            [500, 120, 99, 120, 149, 19, 25, 120, 150, 120].map(|available| gauge.observe(disk(available), 0, 0)).into();
        use Admission::{All, Essential, Marks};
        assert_eq!(seen, [All, All, Essential, Essential, Essential, Marks, Essential, Essential, All, All]);
    }

    #[test]
    fn files_ready_for_reuse_are_room() {
        let mut gauge = GAUGE;
        assert_eq!(gauge.observe(disk(10), 500, 300), Admission::All);
        assert_eq!(gauge.space().available, 310);
    }

    #[test]
    fn c61_what_is_left_to_others_is_no_room() {
        let mut gauge = SpaceGauge::new(Thresholds { leave: 60, ..GAUGE.thresholds });
        assert_eq!(gauge.observe(disk(150), 0, 0), Admission::Essential);
        assert_eq!(gauge.space().available, 90);
    }

    #[test]
    fn a_configured_capacity_counts_what_is_used_and_not_what_the_disk_has() {
        let mut gauge = SpaceGauge::new(Thresholds { capacity_max: Some(300), ..GAUGE.thresholds });
        assert_eq!(gauge.observe(disk(900), 100, 0), Admission::All);
        assert_eq!(gauge.space(), Space { total: 300, available: 200 });
        assert_eq!(gauge.observe(disk(900), 250, 0), Admission::Essential);
        assert_eq!(gauge.observe(disk(900), 290, 0), Admission::Marks);
    }
}
