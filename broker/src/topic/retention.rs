//! Which segments may go: by age and by size, whole sealed ones only, and none that somebody still needs (T4, C67).

use std::time::Duration;

use alluvium_metadata::segments::{Sealed, SegmentNumber};
use alluvium_types::ids::Offset;
use alluvium_types::policy::Retention;
use alluvium_types::time::{Mono, Timestamp};

/// How far the wall clock may stray from the monotonic one between two looks before it is distrusted.
const STRAY_MAX: Duration = Duration::from_secs(60);
/// How long a wall clock that jumped must then go evenly before an age by it deletes anything.
const STEADY: Duration = Duration::from_secs(3600);

/// A sealed segment, as retention sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Candidate {
    /// Which.
    pub(crate) number: SegmentNumber,
    /// Its first offset.
    pub(crate) first: Offset,
    /// What it holds.
    pub(crate) sealed: Sealed,
}

/// The sealed segments that may go under `policy`, oldest first. `open_bytes` are kept beside the sealed ones; `needed` says
/// whether anybody still needs offsets `first..end`.
pub(crate) fn due(
    sealed: &[Candidate],
    open_bytes: u64,
    policy: Retention,
    wall: Option<Timestamp>,
    needed: impl Fn(Offset, Offset) -> bool,
) -> Vec<SegmentNumber> {
    let mut kept: u64 = open_bytes + sealed.iter().map(|segment| segment.sealed.bytes).sum::<u64>();
    let mut due = Vec::new();
    for segment in sealed {
        let too_old = match (policy.age, wall, segment.sealed.times) {
            (Some(age), Some(wall), Some((_, last))) => wall.since(last) > age,
            _ => false,
        };
        let too_much = policy.bytes.is_some_and(|bytes| kept > bytes);
        let empty = segment.sealed.messages == 0;
        if (too_old || too_much || empty) && !needed(segment.first, segment.sealed.end) {
            kept -= segment.sealed.bytes;
            due.push(segment.number);
        }
    }
    due
}

/// Watches the wall clock for jumps (C55): ages count only while it goes evenly.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ClockGuard {
    last: Option<(Mono, Timestamp)>,
    distrusted_until: Option<Mono>,
}

impl ClockGuard {
    /// The wall reading, if ages may be taken from it. Called at every look.
    pub(crate) fn trusted(&mut self, now: Mono, wall: Timestamp) -> Option<Timestamp> {
        if let Some((last, last_wall)) = self.last.replace((now, wall)) {
            let (went, shown) = (now.since(last), wall.since(last_wall));
            let back = last_wall.since(wall);
            if back > STRAY_MAX || shown > went + STRAY_MAX || went > shown + back + STRAY_MAX {
                self.distrusted_until = Some(now.after(STEADY));
            }
        }
        self.distrusted_until.take_if(|until| *until <= now);
        self.distrusted_until.is_none().then_some(wall)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(number: u64, bytes: u64, last_second: u64) -> Candidate {
        let time = Timestamp::from_millis(last_second * 1000);
        Candidate {
            number: SegmentNumber::new(number),
            first: Offset::new(number * 10),
            sealed: Sealed { end: Offset::new(number * 10 + 10), messages: 10, bytes, times: Some((time, time)) },
        }
    }

    fn numbers(due: Vec<SegmentNumber>) -> Vec<u64> {
        due.into_iter().map(SegmentNumber::get).collect()
    }

    fn second(second: u64) -> Option<Timestamp> {
        Some(Timestamp::from_millis(second * 1000))
    }

    #[test]
    fn segments_go_by_age_and_by_size() {
        let segments = [segment(1, 100, 10), segment(2, 100, 20), segment(3, 100, 30)];
        let age = Retention { age: Some(Duration::from_secs(5)), bytes: None };
        let nobody = |_, _| false;
        assert_eq!(numbers(due(&segments, 0, age, second(15), nobody)), [0; 0]);
        assert_eq!(numbers(due(&segments, 0, age, second(16), nobody)), [1]);
        assert_eq!(numbers(due(&segments, 0, age, second(100), nobody)), [1, 2, 3]);
        let bytes = Retention { age: None, bytes: Some(250) };
        assert_eq!(numbers(due(&segments, 0, bytes, None, nobody)), [1]);
        assert_eq!(numbers(due(&segments, 100, bytes, None, nobody)), [1, 2]);
        assert_eq!(numbers(due(&segments, 0, Retention::default(), second(1 << 40), nobody)), [0; 0]);
    }

    #[test]
    fn t4_any_acknowledged_segment_may_go_and_none_that_is_needed() {
        let segments = [segment(1, 100, 10), segment(2, 100, 10), segment(3, 100, 10)];
        let policy = Retention { age: Some(Duration::from_secs(1)), bytes: Some(0) };
        let first_needed = |first: Offset, _| first == Offset::new(10);
        assert_eq!(numbers(due(&segments, 0, policy, second(100), first_needed)), [2, 3]);
    }

    #[test]
    fn c55_a_clock_that_jumped_deletes_nothing_by_age() {
        let mono = |seconds| Mono::from_duration(Duration::from_secs(seconds));
        let wall = |seconds: u64| Timestamp::from_millis(seconds * 1000);
        let mut guard = ClockGuard::default();
        assert!(guard.trusted(mono(0), wall(10_000)).is_some());
        assert!(guard.trusted(mono(30), wall(10_031)).is_some());
        // An hour forward.
        assert!(guard.trusted(mono(60), wall(13_660)).is_none());
        assert!(guard.trusted(mono(90), wall(13_690)).is_none(), "it stays distrusted for a while");
        assert!(guard.trusted(mono(3661), wall(17_261)).is_some());
        // An hour back.
        assert!(guard.trusted(mono(3691), wall(13_691)).is_none());
    }
}
