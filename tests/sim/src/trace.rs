//! What happened, as lines, and as one number that says whether two runs were the same.

use std::collections::VecDeque;
use std::fmt::{self, Write as _};

use alluvium_types::time::Mono;

/// How much of a run is remembered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Detail {
    /// Events are counted only: the fast way through many seeds.
    Count,
    /// Every line goes into the hash.
    Hash,
    /// Every line goes into the hash, and the last so many are kept.
    Keep(usize),
}

/// The trace of one run.
#[derive(Debug)]
pub struct Trace {
    detail: Detail,
    events: u64,
    hash: Fnv,
    lines: VecDeque<String>,
}

/// FNV-1a over what is written into it.
#[derive(Clone, Copy, Debug)]
struct Fnv(u64);

impl fmt::Write for Fnv {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for &byte in text.as_bytes() {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3);
        }
        Ok(())
    }
}

impl Trace {
    /// An empty trace.
    pub const fn new(detail: Detail) -> Self {
        Self { detail, events: 0, hash: Fnv(0xCBF2_9CE4_8422_2325), lines: VecDeque::new() }
    }

    /// Notes one event. `line` is only formatted when somebody will read or hash it.
    pub fn note(&mut self, now: Mono, line: fmt::Arguments<'_>) {
        self.events += 1;
        let number = self.events;
        let micros = now.as_duration().as_micros();
        match self.detail {
            Detail::Count => {}
            Detail::Hash => writeln!(self.hash, "{number} {micros} {line}").expect("hashing cannot fail"),
            Detail::Keep(most) => {
                let text = line.to_string();
                writeln!(self.hash, "{number} {micros} {text}").expect("hashing cannot fail");
                if self.lines.len() == most {
                    self.lines.pop_front();
                }
                self.lines.push_back(format!("{number:>5} {:>9.3}ms {text}", now.as_duration().as_secs_f64() * 1e3));
            }
        }
    }

    /// Events so far.
    pub const fn events(&self) -> u64 {
        self.events
    }

    /// The hash of all lines; the same for two runs that were the same, whatever they kept.
    pub const fn hash(&self) -> u64 {
        self.hash.0
    }

    /// The lines that were kept.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeping_lines_does_not_change_the_hash() {
        let run = |detail| {
            let mut trace = Trace::new(detail);
            for n in 0..10 {
                trace.note(Mono::default(), format_args!("message {n} took 5ms or so"));
            }
            trace
        };
        assert_eq!(run(Detail::Hash).hash(), run(Detail::Keep(3)).hash());
        assert_eq!(run(Detail::Keep(3)).lines().count(), 3);
        assert_ne!(run(Detail::Hash).hash(), Trace::new(Detail::Hash).hash());
    }
}
