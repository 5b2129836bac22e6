//! Which partition a message goes to.

use alluvium_types::key_hash::partition_of;

/// Keys by their hash; what has no key goes round, staying with a partition while the batch it fills there is open.
#[derive(Debug)]
pub(super) struct Router {
    partitions: u32,
    at: u32,
    begun: bool,
}

impl Router {
    /// Over `partitions` of them, at least 1; keyless messages begin at `start`, so that many producers spread.
    pub(super) fn new(partitions: u32, start: u64) -> Self {
        let partitions = partitions.max(1);
        let at = u32::try_from(start % u64::from(partitions)).expect("smaller than a u32");
        Self { partitions, at, begun: false }
    }

    pub(super) const fn partitions(&self) -> u32 {
        self.partitions
    }

    /// The partition of a key.
    pub(super) fn keyed(&self, key: &[u8]) -> u32 {
        partition_of(key, self.partitions).get()
    }

    /// The partition of a message without a key. `open` says whether a partition has a batch with room for it.
    pub(super) fn keyless(&mut self, open: impl Fn(u32) -> bool) -> u32 {
        if self.begun && !open(self.at) {
            self.at = (self.at + 1) % self.partitions;
        }
        self.begun = true;
        self.at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keyless_messages_stay_with_an_open_batch_and_go_round_otherwise() {
        let mut router = Router::new(3, 2);
        let open: Vec<u32> = (0..4).map(|_| router.keyless(|_| true)).collect();
        assert_eq!(open, [2, 2, 2, 2]);
        let closed: Vec<u32> = (0..4).map(|_| router.keyless(|_| false)).collect();
        assert_eq!(closed, [0, 1, 2, 0]);
    }

    #[test]
    fn a_key_always_goes_to_the_partition_of_its_hash() {
        let router = Router::new(4, 0);
        assert_eq!(router.keyed(b"abc"), 0xb3dd_93fa % 4);
        assert_eq!(router.keyed(b""), 0);
    }
}
