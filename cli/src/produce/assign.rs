//! Which partition a line goes to, and the how manieth of that partition it is. Plain code.

/// Lines without a key that go to one partition before the next one has its turn: enough to fill batches, few enough to
/// spread.
const RUN: u64 = 64;

/// Places lines. For a producer with a name every line has its place, the same in each run over the same input.
#[derive(Debug)]
pub(super) struct Assign {
    counts: Vec<u64>,
    fixed: Option<u32>,
    named: bool,
    keyless: u64,
}

/// A line's place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Place {
    pub(super) partition: u32,
    /// Counted from 0 within the partition.
    pub(super) number: u64,
}

impl Assign {
    pub(super) fn new(partitions: u32, fixed: Option<u32>, named: bool) -> Self {
        Self { counts: vec![0; partitions as usize], fixed, named, keyless: 0 }
    }

    /// The next line's place; `keyed` is where its key belongs. `None`: the client may choose.
    pub(super) fn place(&mut self, keyed: Option<u32>) -> Option<Place> {
        let partition = match (self.fixed, keyed) {
            (Some(fixed), _) => fixed,
            (None, Some(keyed)) => keyed,
            (None, None) if self.named => {
                let turn = (self.keyless / RUN) % self.counts.len() as u64;
                self.keyless += 1;
                u32::try_from(turn).expect("there are fewer than 2^32 partitions")
            }
            (None, None) => return None,
        };
        // A partition that does not exist is refused when it is sent to.
        let count = self.counts.get_mut(partition as usize);
        let number = count.map_or(0, |count| {
            *count += 1;
            *count - 1
        });
        Some(Place { partition, number })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_lines_get_the_same_places_in_each_run() {
        let keys = [Some(1), None, Some(1), None, Some(0)];
        let run = || {
            let mut assign = Assign::new(2, None, true);
            keys.map(|key| assign.place(key).map(|place| (place.partition, place.number)))
        };
        assert_eq!(run(), [Some((1, 0)), Some((0, 0)), Some((1, 1)), Some((0, 1)), Some((0, 2))]);
        assert_eq!(run(), run());
    }

    #[test]
    fn keyless_lines_take_turns_in_runs() {
        let mut assign = Assign::new(3, None, true);
        let partitions: Vec<u32> = (0..4 * RUN).filter_map(|_| assign.place(None)).map(|place| place.partition).collect();
        assert!(
            partitions.chunks(usize::try_from(RUN).expect("small")).zip([0, 1, 2, 0]).all(|(run, p)| run.iter().all(|r| *r == p))
        );
    }

    #[test]
    fn without_a_name_the_client_spreads_what_has_no_key() {
        let mut assign = Assign::new(3, None, false);
        assert_eq!(assign.place(None), None);
        assert_eq!(Assign::new(3, Some(2), false).place(None).map(|place| place.partition), Some(2));
    }
}
