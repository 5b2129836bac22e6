//! Runs of offsets: what is true of many messages in a row is kept once.

use std::collections::BTreeMap;
use std::fmt;

use alluvium_types::ids::Offset;

use super::input::Span;

/// Is told of every run that comes and goes, so that an index or a sum beside the map can't drift from it.
pub(crate) trait Watch<V> {
    /// A run was put in.
    fn added(&mut self, span: Span, value: &V);
    /// A run was taken out.
    fn removed(&mut self, span: Span, value: &V);
}

impl<V> Watch<V> for () {
    fn added(&mut self, _span: Span, _value: &V) {}
    fn removed(&mut self, _span: Span, _value: &V) {}
}

/// A map from offsets to values, kept as disjoint runs of equal values; touching runs of one value are one run.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct RunMap<V> {
    runs: BTreeMap<Offset, (Offset, V)>,
}

impl<V> Default for RunMap<V> {
    fn default() -> Self {
        Self { runs: BTreeMap::new() }
    }
}

impl<V: Clone + PartialEq> RunMap<V> {
    /// How many runs.
    pub(crate) fn len(&self) -> usize {
        self.runs.len()
    }

    /// The run that holds `offset`.
    pub(crate) fn at(&self, offset: Offset) -> Option<(Span, &V)> {
        let (&first, (end, value)) = self.runs.range(..=offset).next_back()?;
        (offset < *end).then_some((Span::new(first, *end), value))
    }

    /// Runs that share something with `span`, whole, in order.
    pub(crate) fn over(&self, span: Span) -> impl Iterator<Item = (Span, &V)> {
        let from = self.at(span.first).map_or(span.first, |(run, _)| run.first);
        let to = if span.is_empty() { from } else { span.end };
        self.runs.range(from..to).map(|(&first, (end, value))| (Span::new(first, *end), value))
    }

    /// All runs, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Span, &V)> {
        self.runs.iter().map(|(&first, (end, value))| (Span::new(first, *end), value))
    }

    /// Takes out what lies in `span`, in order.
    pub(crate) fn cut(&mut self, span: Span, watch: &mut impl Watch<V>) -> Vec<(Span, V)> {
        let touched: Vec<Span> = self.over(span).map(|(run, _)| run).collect();
        let mut taken = Vec::with_capacity(touched.len());
        for run in touched {
            let (_, value) = self.runs.remove(&run.first).expect("it was just found");
            watch.removed(run, &value);
            let left = Span::new(run.first, span.first);
            let right = Span::new(span.end, run.end);
            for rest in [left, right] {
                if !rest.is_empty() {
                    watch.added(rest, &value);
                    self.runs.insert(rest.first, (rest.end, value.clone()));
                }
            }
            taken.push((run.within(span), value));
        }
        taken
    }

    /// Puts `value` over `span`, in which nothing stands.
    pub(crate) fn put(&mut self, span: Span, value: V, watch: &mut impl Watch<V>) {
        if span.is_empty() {
            return;
        }
        debug_assert!(self.over(span).next().is_none(), "something stands in {span:?}");
        let mut merged = span;
        if let Some((&first, (end, before))) = self.runs.range(..span.first).next_back()
            && *end == span.first
            && *before == value
        {
            merged.first = first;
            watch.removed(Span::new(first, *end), &value);
            self.runs.remove(&first);
        }
        if let Some((end, after)) = self.runs.get(&span.end)
            && *after == value
        {
            merged.end = *end;
            watch.removed(Span::new(span.end, *end), &value);
            self.runs.remove(&span.end);
        }
        watch.added(merged, &value);
        self.runs.insert(merged.first, (merged.end, value));
    }
}

impl<V: fmt::Debug> fmt::Debug for RunMap<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.runs.iter().map(|(first, (end, value))| (Span::new(*first, *end), value))).finish()
    }
}

/// The parts of `span` over which none of `runs` (in order) lies.
pub(crate) fn gaps(span: Span, runs: impl Iterator<Item = Span>) -> Vec<Span> {
    let mut gaps = Vec::new();
    let mut at = span.first;
    for run in runs {
        let gap = Span::new(at, run.first.min(span.end));
        if !gap.is_empty() {
            gaps.push(gap);
        }
        at = at.max(run.end);
    }
    let rest = Span::new(at, span.end);
    if !rest.is_empty() {
        gaps.push(rest);
    }
    gaps
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// Sums that follow the map.
    #[derive(Default)]
    struct Sums(BTreeMap<u8, u64>);

    impl Watch<u8> for Sums {
        fn added(&mut self, span: Span, value: &u8) {
            *self.0.entry(*value).or_default() += span.count();
        }

        fn removed(&mut self, span: Span, value: &u8) {
            let sum = self.0.get_mut(value).expect("what goes has come");
            *sum -= span.count();
            if *sum == 0 {
                self.0.remove(value);
            }
        }
    }

    fn span(first: u64, length: u64) -> Span {
        Span::new(Offset::new(first), Offset::new(first + length))
    }

    proptest! {
        #[test]
        fn a_run_map_is_a_map_of_offsets(ops in proptest::collection::vec((0_u64..60, 0_u64..12, 0_u8..4), 1..60)) {
            let (mut map, mut sums) = (RunMap::default(), Sums::default());
            let mut model: BTreeMap<u64, u8> = BTreeMap::new();
            for (first, length, value) in ops {
                let span = span(first, length);
                let taken = map.cut(span, &mut sums);
                let mut expected = Vec::new();
                for offset in first..first + length {
                    if let Some(value) = model.remove(&offset) { expected.push((offset, value)); }
                }
                let flat: Vec<(u64, u8)> =
                    taken.iter().flat_map(|(s, v)| (s.first.get()..s.end.get()).map(|o| (o, *v))).collect();
                prop_assert_eq!(flat, expected);
                if value > 0 {
                    map.put(span, value, &mut sums);
                    model.extend((first..first + length).map(|o| (o, value)));
                }
                let flat: BTreeMap<u64, u8> =
                    map.iter().flat_map(|(s, v)| (s.first.get()..s.end.get()).map(|o| (o, *v))).collect();
                prop_assert_eq!(&flat, &model);
                for offset in 0..80 {
                    prop_assert_eq!(map.at(Offset::new(offset)).map(|(_, v)| *v), model.get(&offset).copied());
                }
                let all: Vec<(Span, u8)> = map.iter().map(|(s, v)| (s, *v)).collect();
                prop_assert!(all.windows(2).all(|w| w[0].0.end < w[1].0.first || (w[0].0.end == w[1].0.first && w[0].1 != w[1].1)));
                let mut counted: BTreeMap<u8, u64> = BTreeMap::new();
                for value in model.values() { *counted.entry(*value).or_default() += 1; }
                prop_assert_eq!(&sums.0, &counted);
            }
        }
    }

    #[test]
    fn gaps_are_what_no_run_covers() {
        let runs = [span(2, 2), span(6, 1), span(9, 5)];
        assert_eq!(gaps(span(0, 10), runs.into_iter()), [span(0, 2), span(4, 2), span(7, 2)]);
        assert_eq!(gaps(span(3, 3), runs[..1].iter().copied()), [span(4, 2)]);
        assert_eq!(gaps(span(0, 3), std::iter::empty()), [span(0, 3)]);
    }
}
