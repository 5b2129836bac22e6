//! How long partitions did not serve, as their publisher saw it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Events, each with its kind, and for each partition the longest time without a receipt that followed it.
#[derive(Debug, Default)]
pub(crate) struct Gaps {
    by_kind: BTreeMap<&'static str, Vec<Duration>>,
}

impl Gaps {
    /// Takes receipts of partitions, for each in order, which came every `interval` as long as all was well. A gap counts for the
    /// last event before its end.
    pub(crate) fn measure(events: &[(Instant, &'static str)], receipts: &[Vec<Instant>], interval: Duration) -> Self {
        let mut gaps = Self::default();
        for receipts in receipts {
            let mut longest = vec![Duration::ZERO; events.len()];
            for pair in receipts.windows(2) {
                let Some(event) = events.partition_point(|(at, _)| *at < pair[1]).checked_sub(1) else { continue };
                longest[event] = longest[event].max((pair[1] - pair[0]).saturating_sub(interval));
            }
            for ((_, kind), longest) in events.iter().zip(longest) {
                gaps.by_kind.entry(*kind).or_default().push(longest);
            }
        }
        gaps.by_kind.values_mut().for_each(|gaps| gaps.sort_unstable());
        gaps
    }

    /// A line for each kind of event.
    pub(crate) fn lines(&self) -> String {
        let line = |(kind, gaps): (&&str, &Vec<Duration>)| {
            let at = |percent: usize| gaps[(gaps.len() * percent / 100).min(gaps.len() - 1)];
            let (half, most, longest) = (at(50), at(99), at(100));
            format!("  {kind}: p50 {half:.1?}, p99 {most:.1?}, max {longest:.1?} (events × partitions: {})\n", gaps.len())
        };
        self.by_kind.iter().map(line).collect()
    }
}
