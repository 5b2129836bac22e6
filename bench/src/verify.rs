//! Whether what was consumed is what was published: every message whole, in its order, and once.
//!
//! In a partition a producer's sequences only rise, so nothing comes twice there or before its turn; and count and sum of all
//! messages agree with what was sent, so nothing is lost, foreign, or in two partitions. That takes a number for each producer and
//! partition, however long the run.

use std::fmt;

use crate::content::{Corrupt, Head, read};

/// How many messages, and a sum that says which.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tally {
    /// How many.
    pub count: u64,
    sum: u64,
}

impl Tally {
    /// Adds a message.
    pub const fn add(&mut self, producer: u32, sequence: u64) {
        self.count += 1;
        self.sum = self.sum.wrapping_add(mixed(producer, sequence));
    }

    /// Adds all of another's.
    pub const fn join(&mut self, other: Self) {
        self.count += other.count;
        self.sum = self.sum.wrapping_add(other.sum);
    }
}

/// Spreads a message's identity over 64 bits (the finaliser of SplitMix64), so that sums of different messages differ.
const fn mixed(producer: u32, sequence: u64) -> u64 {
    let mut x = sequence ^ ((producer as u64) << 40) ^ 0x9E37_79B9_7F4A_7C15;
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

/// What is wrong with what one subscription delivered.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Faults {
    /// Messages that are not what was sent.
    pub corrupt: u64,
    /// Messages that came behind a later one of their producer and partition, or a second time.
    pub out_of_order: u64,
    /// Messages that were sent and did not come.
    pub missing: u64,
    /// Messages more than were sent.
    pub surplus: u64,
    /// As many came as were sent, but not the same.
    pub exchanged: bool,
    /// What was wrong first.
    pub first: Option<String>,
}

impl Faults {
    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.corrupt == 0 && self.out_of_order == 0 && self.missing == 0 && self.surplus == 0 && !self.exchanged
    }

    /// Adds those of another subscription.
    pub fn join(&mut self, other: Self) {
        self.corrupt += other.corrupt;
        self.out_of_order += other.out_of_order;
        self.missing += other.missing;
        self.surplus += other.surplus;
        self.exchanged |= other.exchanged;
        self.first = self.first.take().or(other.first);
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = [
            (self.missing, "missing"),
            (self.surplus, "too many"),
            (self.out_of_order, "out of order or twice"),
            (self.corrupt, "corrupt"),
        ];
        let mut said: Vec<String> =
            counts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect();
        if self.exchanged {
            said.push("others than were sent".to_owned());
        }
        write!(f, "{}", said.join(", "))?;
        self.first.as_ref().map_or(Ok(()), |first| write!(f, "; first, {first}"))
    }
}

/// Follows what one subscription delivers.
#[derive(Debug)]
pub struct Verifier {
    message_size: usize,
    partitions: usize,
    /// The first producer's number of this topic, and the next sequence that may come: for each producer, of each partition.
    first_producer: u32,
    next: Vec<u64>,
    is_ordered: bool,
    seen: Tally,
    faults: Faults,
}

impl Verifier {
    /// For a topic with messages of `message_size` from `producers` producers, numbered from `first_producer`. Without an order
    /// where several consumers share the partitions.
    pub fn new(message_size: usize, partitions: u32, first_producer: u32, producers: u32, is_ordered: bool) -> Self {
        let partitions = partitions as usize;
        let next = if is_ordered { vec![0; partitions * producers as usize] } else { Vec::new() };
        Self { message_size, partitions, first_producer, next, is_ordered, seen: Tally::default(), faults: Faults::default() }
    }

    /// Takes a message in; what it says of itself, unless it is corrupt.
    pub fn check(&mut self, partition: u32, offset: u64, payload: &[u8]) -> Option<Head> {
        match read(payload, self.message_size) {
            Ok(head) => {
                self.seen.add(head.producer, head.sequence);
                if self.is_ordered {
                    self.order(partition, offset, &head);
                }
                Some(head)
            }
            Err(corrupt) => {
                self.corrupt(partition, offset, &corrupt);
                None
            }
        }
    }

    fn corrupt(&mut self, partition: u32, offset: u64, corrupt: &Corrupt) {
        self.seen.count += 1;
        self.faults.corrupt += 1;
        self.faults.first.get_or_insert_with(|| format!("offset {offset} of partition {partition}: {corrupt}"));
    }

    fn order(&mut self, partition: u32, offset: u64, head: &Head) {
        let producer = head.producer.checked_sub(self.first_producer).map(|producer| producer as usize);
        let lane = producer.map(|producer| producer * self.partitions + partition as usize);
        // One from nobody of this topic stands in no lane; the sum will say so.
        let Some(next) = lane.and_then(|lane| self.next.get_mut(lane)) else { return };
        if head.sequence < *next {
            self.faults.out_of_order += 1;
            let expected = *next;
            self.faults.first.get_or_insert_with(|| {
                format!(
                    "offset {offset} of partition {partition}: message {} of producer {}, where {expected} or later was due",
                    head.sequence, head.producer
                )
            });
        } else {
            *next = head.sequence + 1;
        }
    }

    /// How many came.
    pub const fn count(&self) -> u64 {
        self.seen.count
    }

    /// The verdict, now that nothing more comes, for messages of which `sent` were sent.
    pub fn finish(&self, sent: Tally) -> Faults {
        let mut faults = self.faults.clone();
        faults.missing = sent.count.saturating_sub(self.seen.count);
        faults.surplus = self.seen.count.saturating_sub(sent.count);
        faults.exchanged = faults.corrupt == 0 && self.seen.count == sent.count && self.seen.sum != sent.sum;
        faults
    }
}

#[cfg(test)]
mod tests {
    use alluvium_runtime::entropy::Entropy;
    use bytes::Bytes;

    use super::*;
    use crate::content::Writer;

    const SIZE: usize = 100;
    const COUNT: u64 = 1000;

    /// What two producers sent to three partitions: partition and message, in the order of the log.
    fn sent() -> (Tally, Vec<(u32, Bytes)>) {
        let mut tally = Tally::default();
        let mut log = Vec::new();
        for producer in 5..7 {
            let mut writer = Writer::new(producer, SIZE, &Entropy::seeded(producer.into()));
            for sequence in 0..COUNT {
                tally.add(producer, sequence);
                log.push((u32::try_from(sequence % 3).expect("small"), writer.message(sequence, 0)));
            }
        }
        (tally, log)
    }

    fn verdict(is_ordered: bool, change: impl FnOnce(&mut Vec<(u32, Bytes)>)) -> Faults {
        let (tally, mut log) = sent();
        change(&mut log);
        let mut verifier = Verifier::new(SIZE, 3, 5, 2, is_ordered);
        for ((partition, payload), offset) in log.iter().zip(0..) {
            verifier.check(*partition, offset, payload);
        }
        verifier.finish(tally)
    }

    #[test]
    fn what_was_sent_is_right() {
        assert_eq!(verdict(true, |_| {}), Faults::default());
        // Of different partitions and producers, any order is right.
        assert_eq!(verdict(true, |log| log.sort_by_key(|(partition, _)| *partition)), Faults::default());
        assert_eq!(verdict(false, |log| log.reverse()), Faults::default());
    }

    #[test]
    fn a_planted_swap_is_found() {
        let faults = verdict(true, |log| log.swap(30, 33));
        assert_eq!((faults.out_of_order, faults.missing, faults.exchanged), (1, 0, false), "{faults}");
        assert!(faults.to_string().contains("first, offset 33 of partition 0: message 30"), "{faults}");
    }

    #[test]
    fn a_planted_loss_is_found() {
        let faults = verdict(true, |log| drop(log.remove(500)));
        assert_eq!((faults.missing, faults.out_of_order), (1, 0), "{faults}");
        assert!(!verdict(true, |log| drop(log.pop())).is_empty(), "the last one too");
    }

    #[test]
    fn a_planted_copy_is_found_beside_a_loss() {
        let again = |log: &mut Vec<(u32, Bytes)>| log[501] = log[498].clone();
        let faults = verdict(true, again);
        assert_eq!((faults.out_of_order, faults.missing, faults.surplus, faults.exchanged), (1, 0, 0, true), "{faults}");
        assert!(verdict(false, again).exchanged, "without an order the sum finds it");
        assert_eq!(verdict(true, |log| log.push(log[700].clone())).surplus, 1);
        // In another partition, ahead of what is there.
        assert!(!verdict(true, |log| log.insert(0, (1, log[999].1.clone()))).is_empty());
    }

    #[test]
    fn planted_rot_and_foreign_messages_are_found() {
        let rotten = |log: &mut Vec<(u32, Bytes)>| {
            let mut changed = log[77].1.to_vec();
            changed[99] ^= 1;
            log[77].1 = changed.into();
        };
        let faults = verdict(true, rotten);
        assert_eq!((faults.corrupt, faults.missing, faults.exchanged), (1, 0, false), "{faults}");
        let foreign = Writer::new(9, SIZE, &Entropy::seeded(1)).message(0, 0);
        assert!(verdict(true, |log| log[3].1 = foreign).exchanged);
    }
}
