//! What several rounds of one figure come to.

use serde_json::{Value, json};

/// One figure of several rounds.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Spread(Vec<f64>);

impl Spread {
    /// Adds a round's.
    pub fn add(&mut self, value: f64) {
        let at = self.0.partition_point(|other| *other < value);
        self.0.insert(at, value);
    }

    /// How many rounds.
    pub const fn rounds(&self) -> usize {
        self.0.len()
    }

    /// The middle one, or the mean of the two in the middle; `None` of none.
    pub fn median(&self) -> Option<f64> {
        let half = self.0.len() / 2;
        let upper = *self.0.get(half)?;
        Some(if self.0.len().is_multiple_of(2) { f64::midpoint(self.0[half - 1], upper) } else { upper })
    }

    /// The least and the most.
    pub fn range(&self) -> Option<(f64, f64)> {
        Some((*self.0.first()?, *self.0.last()?))
    }

    /// Median and range.
    pub fn to_json(&self) -> Value {
        let (least, most) = self.range().unzip();
        json!({ "median": self.median(), "least": least, "most": most, "rounds": self.rounds() })
    }
}

/// What a ratio is held against.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Bar {
    /// What it must reach.
    pub at_least: f64,
    /// What it should.
    pub aim: f64,
    /// Whether a smaller ratio is a better one, as with latencies.
    pub lower_is_better: bool,
}

/// How a ratio stands to its bar.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It is what it should be.
    Aim,
    /// It is what it must be.
    Enough,
    /// It is not.
    Short,
}

impl Bar {
    /// Where higher is better.
    pub const fn high(at_least: f64, aim: f64) -> Self {
        Self { at_least, aim, lower_is_better: false }
    }

    /// Where lower is better.
    pub const fn low(at_least: f64, aim: f64) -> Self {
        Self { at_least, aim, lower_is_better: true }
    }

    /// How a ratio stands to it.
    pub fn judge(&self, ratio: f64) -> Verdict {
        let reaches = |bar: f64| if self.lower_is_better { ratio <= bar } else { ratio >= bar };
        match (reaches(self.aim), reaches(self.at_least)) {
            (true, _) => Verdict::Aim,
            (false, true) => Verdict::Enough,
            (false, false) => Verdict::Short,
        }
    }
}

impl Verdict {
    /// In a word or two.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Aim => "aim",
            Self::Enough => "enough",
            Self::Short => "SHORT",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_any_order_and_the_ends() {
        let mut spread = Spread::default();
        assert_eq!((spread.median(), spread.range()), (None, None));
        for value in [5.0, 1.0, 3.0] {
            spread.add(value);
        }
        assert_eq!((spread.median(), spread.range()), (Some(3.0), Some((1.0, 5.0))));
        spread.add(4.0);
        assert_eq!(spread.median(), Some(3.5));
        assert_eq!(spread.to_json()["least"], 1.0);
    }

    #[test]
    fn a_bar_stands_either_way() {
        for (ratio, verdict) in [(0.7, Verdict::Aim), (0.65, Verdict::Aim), (0.5, Verdict::Enough), (0.39, Verdict::Short)] {
            assert_eq!(Bar::high(0.4, 0.65).judge(ratio), verdict, "{ratio}");
        }
        for (ratio, verdict) in [(1.1, Verdict::Aim), (1.5, Verdict::Enough), (2.1, Verdict::Short)] {
            assert_eq!(Bar::low(2.0, 1.2).judge(ratio), verdict, "{ratio}");
        }
    }
}
