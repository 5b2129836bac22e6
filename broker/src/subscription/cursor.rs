//! What is acknowledged: an offset below which everything is, and runs above it.

use alluvium_types::ids::Offset;

use super::input::Span;
use super::runs::{RunMap, gaps};

/// A subscription's durable position in one partition. It changes by [`Change`]s only, which are also what is kept of it:
/// replaying them in order gives the same cursor, and replaying some of them twice does too.
///
/// The runs above `next` have no cap (C43): nothing acknowledged is ever forgotten to save room.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Cursor {
    next: Offset,
    /// Acknowledged runs, all of them above `next`, none touching it or another.
    above: RunMap<()>,
}

/// One step of a cursor.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// It stands here, and nothing above is acknowledged: its beginning, or a seek.
    Placed(Offset),
    /// Everything before this is acknowledged or gone.
    Advanced(Offset),
    /// These messages are acknowledged.
    Acknowledged(Vec<Span>),
}

impl Cursor {
    /// One that begins here.
    pub fn at(next: Offset) -> Self {
        Self { next, above: RunMap::default() }
    }

    /// Everything below is acknowledged or gone.
    pub const fn next(&self) -> Offset {
        self.next
    }

    /// How many runs are acknowledged above `next`.
    pub fn ranges(&self) -> u64 {
        self.above.len() as u64
    }

    /// The runs acknowledged above `next`, in order.
    pub fn acknowledged(&self) -> impl Iterator<Item = Span> {
        self.above.iter().map(|(span, ())| span)
    }

    /// The parts of `span` that are not acknowledged, in order.
    pub fn unacknowledged(&self, span: Span) -> Vec<Span> {
        let open = Span::new(span.first.max(self.next), span.end);
        gaps(open, self.above.over(open).map(|(run, ())| run))
    }

    /// The first run of messages at or after `from`, before `end`, that are not acknowledged.
    pub fn first_unacknowledged(&self, from: Offset, end: Offset) -> Option<Span> {
        let mut from = from.max(self.next);
        if let Some((run, ())) = self.above.at(from) {
            from = run.end;
        }
        // What follows a run is open: runs don't touch.
        let until = self.above.over(Span::new(from, end)).next().map_or(end, |(run, ())| run.first);
        let span = Span::new(from, until.min(end));
        (!span.is_empty()).then_some(span)
    }

    /// Whether any message of `span` is not acknowledged.
    pub fn needs(&self, span: Span) -> bool {
        self.first_unacknowledged(span.first, span.end).is_some()
    }

    /// Messages before `end` that are not acknowledged. Never negative (T5).
    pub fn backlog(&self, end: Offset) -> u64 {
        let open = Span::new(self.next, end);
        let done: u64 = self.above.over(open).map(|(run, ())| run.within(open).count()).sum();
        open.count() - done
    }

    /// Takes a step; says whether anything is different now.
    pub fn apply(&mut self, change: &Change) -> bool {
        match change {
            Change::Placed(to) => {
                let placed = Self::at(*to);
                let differs = *self != placed;
                *self = placed;
                differs
            }
            Change::Advanced(to) => self.acknowledge(Span::new(Offset::ZERO, *to)),
            Change::Acknowledged(spans) => {
                let mut changed = false;
                for span in spans {
                    changed |= self.acknowledge(*span);
                }
                changed
            }
        }
    }

    fn acknowledge(&mut self, span: Span) -> bool {
        let span = Span::new(span.first.max(self.next), span.end);
        if !self.needs(span) {
            return false;
        }
        self.above.cut(span, &mut ());
        self.above.put(span, (), &mut ());
        // The run at `next`, if there is one now, belongs below it.
        if let Some((run, ())) = self.above.at(self.next) {
            self.above.cut(run, &mut ());
            self.next = run.end;
        }
        true
    }

    /// The steps that lead from nothing to this cursor, each of at most `spans_max` runs.
    pub fn changes(&self, spans_max: usize) -> Vec<Change> {
        let runs: Vec<Span> = self.acknowledged().collect();
        let mut changes = vec![Change::Placed(self.next)];
        changes.extend(runs.chunks(spans_max).map(|runs| Change::Acknowledged(runs.to_vec())));
        changes
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn span(first: u64, end: u64) -> Span {
        Span::new(Offset::new(first), Offset::new(end))
    }

    #[test]
    fn acknowledging_out_of_order_leaves_a_hole_that_closes_later() {
        let mut cursor = Cursor::default();
        assert!(cursor.apply(&Change::Acknowledged(vec![span(1, 2), span(2, 4)])));
        assert_eq!((cursor.next(), cursor.ranges(), cursor.backlog(Offset::new(5))), (Offset::ZERO, 1, 2));
        assert!(cursor.apply(&Change::Acknowledged(vec![span(0, 1)])));
        assert_eq!((cursor.next(), cursor.ranges(), cursor.backlog(Offset::new(5))), (Offset::new(4), 0, 1));
        assert!(!cursor.apply(&Change::Acknowledged(vec![span(0, 4)])), "known already");
    }

    #[test]
    fn a_placed_cursor_forgets_what_was_acknowledged_above() {
        let mut cursor = Cursor::default();
        cursor.apply(&Change::Acknowledged(vec![span(5, 9)]));
        cursor.apply(&Change::Placed(Offset::new(2)));
        assert_eq!(cursor, Cursor::at(Offset::new(2)));
    }

    #[test]
    fn a_hundred_thousand_holes_are_all_kept() {
        // C43: ranges are kept whole, without a cap.
        let mut cursor = Cursor::default();
        for n in 0..100_000 {
            cursor.apply(&Change::Acknowledged(vec![span(2 * n + 1, 2 * n + 2)]));
        }
        assert_eq!(cursor.ranges(), 100_000);
        assert_eq!(cursor.backlog(Offset::new(200_000)), 100_000);
        let mut copy = Cursor::default();
        for change in cursor.changes(1000) {
            copy.apply(&change);
        }
        assert_eq!(copy, cursor);
    }

    fn change() -> impl Strategy<Value = Change> {
        let spans = proptest::collection::vec((0_u64..100, 0_u64..9), 0..4)
            .prop_map(|s| s.into_iter().map(|(first, length)| span(first, first + length)).collect());
        prop_oneof![
            1 => (0_u64..100).prop_map(|o| Change::Placed(Offset::new(o))),
            2 => (0_u64..100).prop_map(|o| Change::Advanced(Offset::new(o))),
            12 => spans.prop_map(Change::Acknowledged),
        ]
    }

    proptest! {
        #[test]
        fn a_cursor_is_a_set_of_acknowledged_messages(changes in proptest::collection::vec(change(), 1..40)) {
            let mut cursor = Cursor::default();
            let mut model: BTreeSet<u64> = BTreeSet::new();
            for change in &changes {
                let before = model.clone();
                match change {
                    Change::Placed(to) => model = (0..to.get()).collect(),
                    Change::Advanced(to) => model.extend(0..to.get()),
                    Change::Acknowledged(spans) => {
                        for span in spans { model.extend(span.first.get()..span.end.get()); }
                    }
                }
                prop_assert_eq!(cursor.apply(change), before != model);
                let next = (0..).find(|o| !model.contains(o)).expect("the model is finite");
                prop_assert_eq!(cursor.next().get(), next);
                for end in [0, 50, 120] {
                    let open = (next..end).filter(|o| !model.contains(o)).count() as u64;
                    prop_assert_eq!(cursor.backlog(Offset::new(end)), open);
                }
                for first in [0, 30, 77] {
                    let flat: Vec<u64> = cursor.unacknowledged(span(first, 110)).iter()
                        .flat_map(|s| s.first.get()..s.end.get()).collect();
                    let open: Vec<u64> = (first..110).filter(|o| !model.contains(o)).collect();
                    prop_assert_eq!(cursor.first_unacknowledged(Offset::new(first), Offset::new(110)).map(|s| s.first.get()), open.first().copied());
                    prop_assert_eq!(flat, open);
                }
            }
            // What is kept gives the same cursor, and doing the last steps twice changes nothing.
            let mut copy = Cursor::default();
            for change in cursor.changes(3).iter().chain(cursor.changes(3).iter().skip(1)) { copy.apply(change); }
            prop_assert_eq!(copy, cursor);
        }
    }
}
