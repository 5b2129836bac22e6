//! How long partitions did not serve, as their publisher saw it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Something that happened to a process.
#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) at: Instant,
    /// What it happened to.
    pub(crate) kind: &'static str,
    /// The partitions that it concerned; all where that is not known.
    pub(crate) of: Option<Vec<usize>>,
}

/// For each kind of event, of each partition that it concerned the longest time without a receipt that followed it.
#[derive(Debug, Default)]
pub(crate) struct Gaps {
    by_kind: BTreeMap<&'static str, Vec<Duration>>,
}

impl Gaps {
    /// Takes receipts of partitions, for each in order, which came every `interval` as long as all was well. A gap counts for the
    /// last event before its end.
    pub(crate) fn measure(events: &[Event], receipts: &[Vec<Instant>], interval: Duration) -> Self {
        let mut gaps = Self::default();
        for (partition, receipts) in receipts.iter().enumerate() {
            let mut longest = vec![Duration::ZERO; events.len()];
            for pair in receipts.windows(2) {
                let Some(event) = events.partition_point(|event| event.at < pair[1]).checked_sub(1) else { continue };
                longest[event] = longest[event].max((pair[1] - pair[0]).saturating_sub(interval));
            }
            for (event, longest) in events.iter().zip(longest) {
                if event.of.as_ref().is_none_or(|of| of.contains(&partition)) {
                    gaps.by_kind.entry(event.kind).or_default().push(longest);
                }
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
