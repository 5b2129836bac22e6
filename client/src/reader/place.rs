//! Where a reader is in one partition. Plain code.

use crate::message::Start;

/// What is read next, and where reading stops.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Place {
    next: Start,
    end: Option<u64>,
}

impl Place {
    /// Begins at `start` of a partition that holds the offsets from `first` up to `end`, without it. With `stop`, it reads up
    /// to there and no further.
    pub(super) fn new(start: Start, first: u64, end: u64, stop: bool) -> Self {
        let next = match start {
            Start::Earliest => Start::Offset(first),
            Start::Latest => Start::Offset(end),
            Start::Offset(offset) => Start::Offset(offset.clamp(first, end)),
            // Only the server knows times.
            Start::TimeMs(ms) => Start::TimeMs(ms),
        };
        Self { next, end: stop.then_some(end) }
    }

    /// Where a stream is to begin.
    pub(super) const fn start(&self) -> Start {
        self.next
    }

    /// Whether a partition that ends at `end` can't be the one that was read so far: offsets are never taken back.
    pub(super) fn is_beyond(&self, end: u64) -> bool {
        matches!(self.next, Start::Offset(next) if next > end)
    }

    /// Whether there is nothing more to read.
    pub(super) fn is_done(&self) -> bool {
        match (self.next, self.end) {
            (Start::Offset(next), Some(end)) => next >= end,
            (_, Some(end)) => end == 0,
            (_, None) => false,
        }
    }

    /// Says whether a message is to be handed over, and notes that it was.
    pub(super) fn admit(&mut self, offset: u64) -> bool {
        let past_end = self.end.is_some_and(|end| offset >= end);
        let seen = matches!(self.next, Start::Offset(next) if offset < next);
        self.next = match self.next {
            Start::Offset(next) => Start::Offset(next.max(offset.saturating_add(1))),
            _ => Start::Offset(offset.saturating_add(1)),
        };
        !past_end && !seen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_becomes_an_offset_of_the_partition_where_it_can() {
        for (start, next) in [
            (Start::Earliest, Start::Offset(10)),
            (Start::Latest, Start::Offset(20)),
            (Start::Offset(15), Start::Offset(15)),
            (Start::Offset(3), Start::Offset(10)),
            (Start::Offset(99), Start::Offset(20)),
            (Start::TimeMs(5), Start::TimeMs(5)),
        ] {
            assert_eq!(Place::new(start, 10, 20, false).start(), next, "{start:?}");
        }
    }

    #[test]
    fn a_reader_resumes_behind_the_last_message_and_sees_none_twice() {
        let mut place = Place::new(Start::TimeMs(5), 10, 20, false);
        assert!(place.admit(12));
        assert_eq!(place.start(), Start::Offset(13));
        assert!(!place.admit(12), "a stream that begins anew may repeat it");
        assert!(place.admit(14), "offsets may be missing");
    }

    #[test]
    fn a_partition_that_ends_before_what_was_read_is_another() {
        let mut place = Place::new(Start::Earliest, 0, 0, false);
        assert!(place.admit(0) && place.admit(1));
        assert!(place.is_beyond(1) && !place.is_beyond(2));
        assert!(!Place::new(Start::TimeMs(5), 0, 0, false).is_beyond(0), "only the server knows where it begins");
    }

    #[test]
    fn a_bounded_reader_stops_at_what_was_the_end() {
        let mut place = Place::new(Start::Earliest, 0, 2, true);
        assert!(place.admit(0) && !place.is_done());
        assert!(place.admit(1) && place.is_done());
        assert!(!place.admit(2));
        assert!(Place::new(Start::Earliest, 0, 0, true).is_done());
        assert!(Place::new(Start::Latest, 0, 7, true).is_done());
    }
}
