//! Where requests of a publish stream wait for room on the way to their owners: each owner has a door, and partitions go through
//! it in turn, a request at a time. Who stands before one door holds up nobody before another.
//!
//! Plain code. What waits before one door is bounded ([`REQUESTS_MAX`], [`BYTES_MAX`]): past it the stream is not read, and HTTP/2
//! holds the client back.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use alluvium_types::ids::PartitionIndex;

/// Requests before one door.
pub(super) const REQUESTS_MAX: usize = 2048;
/// Bytes of batches before one door. The last batch may exceed it.
pub(super) const BYTES_MAX: usize = 8 << 20;

/// What leads to an owner.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Door {
    /// To nobody: the owner is being found, or the last one has not answered everything.
    Nobody,
    /// To a partition of this broker, by the stream's own number for this owner of it.
    Here(u64),
    /// To another broker, by the number of the stream to it.
    There(u64),
}

/// What waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Load {
    /// Requests.
    pub(super) requests: usize,
    /// Of their batches.
    pub(super) bytes: usize,
}

impl Load {
    const fn is_full(self) -> bool {
        self.requests >= REQUESTS_MAX || self.bytes >= BYTES_MAX
    }
}

/// Who waits where.
#[derive(Debug, Default)]
pub(super) struct Doors {
    crowds: BTreeMap<Door, Crowd>,
    /// Where a partition waits, and with what.
    places: BTreeMap<PartitionIndex, (Door, Load)>,
    /// Doors at which room was asked for and has not come.
    asked: BTreeSet<Door>,
    full: BTreeSet<Door>,
}

/// Those before one door.
#[derive(Debug, Default)]
struct Crowd {
    turns: VecDeque<PartitionIndex>,
    load: Load,
}

impl Doors {
    /// A partition waits, with so much. One that waits there already keeps its turn.
    pub(super) fn wait(&mut self, index: PartitionIndex, door: Door, load: Load) {
        match self.places.get_mut(&index) {
            Some((at, before)) if *at == door => {
                let before = std::mem::replace(before, load);
                self.change(door, before, load);
            }
            _ => {
                self.leave(index);
                self.places.insert(index, (door, load));
                self.crowds.entry(door).or_default().turns.push_back(index);
                self.change(door, Load::default(), load);
            }
        }
    }

    /// A partition waits nowhere any more.
    pub(super) fn leave(&mut self, index: PartitionIndex) {
        let Some((door, load)) = self.places.remove(&index) else { return };
        if let Some(crowd) = self.crowds.get_mut(&door) {
            crowd.turns.retain(|other| *other != index);
        }
        self.change(door, load, Load::default());
    }

    /// Whether somebody waits before a door, or room there is on its way to whoever did.
    pub(super) fn is_crowded(&self, door: Door) -> bool {
        self.crowds.contains_key(&door) || self.asked.contains(&door)
    }

    /// Whether room must be asked for at a door; it counts as asked for from now on.
    pub(super) fn asks(&mut self, door: Door) -> bool {
        self.crowds.contains_key(&door) && self.asked.insert(door)
    }

    /// What was asked for has come, or will not: the door leads nowhere any more.
    pub(super) fn answered(&mut self, door: Door) {
        self.asked.remove(&door);
    }

    /// Who is next; it waits no more.
    pub(super) fn turn(&mut self, door: Door) -> Option<PartitionIndex> {
        let index = *self.crowds.get(&door)?.turns.front()?;
        self.leave(index);
        Some(index)
    }

    /// Whether more waits before a door than may.
    pub(super) fn is_full(&self) -> bool {
        !self.full.is_empty()
    }

    fn change(&mut self, door: Door, before: Load, now: Load) {
        let Some(crowd) = self.crowds.get_mut(&door) else { return };
        crowd.load.requests = crowd.load.requests - before.requests + now.requests;
        crowd.load.bytes = crowd.load.bytes - before.bytes + now.bytes;
        if crowd.load.is_full() {
            self.full.insert(door)
        } else {
            self.full.remove(&door)
        };
        if crowd.turns.is_empty() {
            self.crowds.remove(&door);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const A: Door = Door::There(1);
    const B: Door = Door::Here(1);

    fn p(index: u32) -> PartitionIndex {
        PartitionIndex::new(index)
    }

    fn load(requests: usize, bytes: usize) -> Load {
        Load { requests, bytes }
    }

    #[test]
    fn partitions_go_through_a_door_in_turn_and_keep_it_when_more_comes() {
        let mut doors = Doors::default();
        doors.wait(p(1), A, load(1, 10));
        assert!(doors.asks(A) && !doors.asks(A), "once");
        doors.wait(p(2), A, load(1, 10));
        doors.wait(p(3), B, load(1, 10));
        doors.wait(p(1), A, load(2, 20));
        doors.answered(A);
        assert_eq!(doors.turn(A), Some(p(1)));
        doors.wait(p(1), A, load(1, 10));
        assert_eq!([doors.turn(A), doors.turn(A), doors.turn(A)], [Some(p(2)), Some(p(1)), None]);
        assert!(!doors.is_crowded(A) && doors.is_crowded(B));
        doors.wait(p(3), A, load(1, 10));
        assert!(!doors.is_crowded(B), "it waits before one door at a time");
    }

    #[test]
    fn nobody_overtakes_those_for_whom_room_is_on_its_way() {
        let mut doors = Doors::default();
        doors.wait(p(1), A, load(1, 10));
        assert!(doors.asks(A));
        doors.leave(p(1));
        assert!(doors.is_crowded(A) && !doors.asks(A), "it is not asked for twice");
        doors.wait(p(2), A, load(1, 10));
        assert!(!doors.asks(A), "what comes is for this one");
        doors.answered(A);
        assert!(doors.asks(A));
    }

    #[test]
    fn what_waits_before_one_door_is_bounded_by_number_and_bytes() {
        let mut doors = Doors::default();
        doors.wait(p(1), A, load(REQUESTS_MAX / 2, 0));
        doors.wait(p(2), B, load(REQUESTS_MAX / 2, 0));
        assert!(!doors.is_full());
        doors.wait(p(3), A, load(REQUESTS_MAX / 2, 0));
        assert!(doors.is_full());
        doors.wait(p(3), A, load(REQUESTS_MAX / 2 - 1, 0));
        assert!(!doors.is_full());
        doors.wait(p(3), A, load(1, BYTES_MAX));
        assert!(doors.is_full());
        doors.leave(p(3));
        assert!(!doors.is_full());
    }

    proptest! {
        #[test]
        fn what_a_door_has_is_what_its_partitions_wait_with(
            moves in prop::collection::vec((0_u8..4, 0_u32..5, 0_u64..3, 0_usize..2000), 0..200),
        ) {
            let mut doors = Doors::default();
            for (what, index, door, requests) in moves {
                let door = Door::There(door);
                match what {
                    0 => doors.leave(p(index)),
                    1 => {
                        doors.turn(door);
                    }
                    _ => doors.wait(p(index), door, load(requests, 3 * requests)),
                }
                let mut waiting = 0;
                for (door, crowd) in &doors.crowds {
                    let of = || doors.places.iter().filter(|(_, (at, _))| at == door);
                    prop_assert_eq!(of().map(|(_, (_, load))| load.requests).sum::<usize>(), crowd.load.requests);
                    prop_assert_eq!(of().map(|(_, (_, load))| load.bytes).sum::<usize>(), crowd.load.bytes);
                    prop_assert!(!crowd.turns.is_empty() && of().all(|(index, _)| crowd.turns.contains(index)));
                    prop_assert_eq!(doors.full.contains(door), crowd.load.is_full());
                    waiting += crowd.turns.len();
                }
                prop_assert_eq!(waiting, doors.places.len(), "each waits once");
                prop_assert!(doors.full.iter().all(|door| doors.crowds.contains_key(door)));
            }
        }
    }
}
