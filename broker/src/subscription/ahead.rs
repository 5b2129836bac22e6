//! How much is read at a time: little, and the more the longer whoever consumes waits for it. Pure.

/// Bytes of a read at first, and at most. What is at hand holds memory that other subscriptions want: about twice as much.
const READ_BYTES: (usize, usize) = (512 << 10, 2 << 20);

/// The size of a subscription's reads. About as much is kept at hand beside the read that is under way.
#[derive(Debug)]
pub(super) struct Ahead {
    bytes: usize,
    /// Whether the last read brought about as much as it could.
    full: bool,
}

impl Ahead {
    pub(super) const fn new() -> Self {
        Self { bytes: READ_BYTES.0, full: false }
    }

    /// The most that is worth keeping at hand.
    pub(super) const KEPT_MAX: usize = 2 * READ_BYTES.1;

    /// What a read asks for; with as much at hand none is due.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// A read begins; somebody `waits` for what it brings.
    pub(super) fn begin(&mut self, waits: bool) -> usize {
        self.bytes = match (self.full, waits) {
            // It has come to the tail, where small reads do.
            (false, _) => READ_BYTES.0,
            (true, true) => (2 * self.bytes).min(READ_BYTES.1),
            (true, false) => self.bytes,
        };
        self.bytes
    }

    /// A read brought so much.
    pub(super) const fn brought(&mut self, bytes: usize) {
        self.full = 2 * bytes >= self.bytes;
    }

    /// Nobody takes what was read, or somebody begins anew.
    pub(super) const fn rest(&mut self) {
        *self = Self::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_grow_while_somebody_waits_and_shrink_at_the_tail() {
        let mut ahead = Ahead::new();
        let (least, most) = READ_BYTES;
        assert_eq!(ahead.begin(true), least, "nothing is known yet");
        ahead.brought(least);
        assert_eq!(ahead.begin(false), least, "what is at hand suffices");
        for bytes in [2 * least, most, most] {
            ahead.brought(ahead.bytes());
            assert_eq!(ahead.begin(true), bytes);
        }
        ahead.brought(1000);
        assert_eq!(ahead.begin(true), least);
        ahead.brought(least);
        ahead.begin(true);
        ahead.rest();
        assert_eq!(ahead.begin(true), least);
    }
}
