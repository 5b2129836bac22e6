//! Receipts, counted as they come, with progress for whoever watches.

use std::collections::VecDeque;

use alluvium_client::{Error, Pending, Receipt};
use futures::FutureExt;
use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressStyle};

/// A line on its way.
#[derive(Debug)]
struct Waiting {
    pending: Pending,
    bytes: usize,
    line: u64,
}

/// The first line that failed, and what became of those behind it that were on their way.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) line: u64,
    pub(super) error: Error,
    /// Lines behind it that are stored.
    pub(super) stored_behind: u64,
    /// Lines behind it of which nobody knows.
    pub(super) unknown_behind: u64,
}

/// What is on its way, and what came of the rest.
#[derive(Debug)]
pub(super) struct Receipts {
    /// In the order of each partition, in which receipts come; so the front is the first to be done.
    waiting: Vec<VecDeque<Waiting>>,
    last: Vec<Option<u64>>,
    pub(super) stored: u64,
    pub(super) skipped: u64,
    pub(super) duplicates: u64,
    pub(super) failed: u64,
    unknown: u64,
    first_failed: Option<(u64, Error)>,
    pub(super) bytes: u64,
    bar: ProgressBar,
}

impl Receipts {
    pub(super) fn new(partitions: u32) -> Self {
        // Drawn to standard error, and only if that is a terminal.
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {per_sec} {elapsed}") {
            bar.set_style(style);
        }
        Self {
            waiting: (0..partitions).map(|_| VecDeque::new()).collect(),
            last: vec![None; partitions as usize],
            stored: 0,
            skipped: 0,
            duplicates: 0,
            failed: 0,
            unknown: 0,
            first_failed: None,
            bytes: 0,
            bar,
        }
    }

    /// A line that an earlier run has stored.
    pub(super) const fn skipped(&mut self) {
        self.skipped += 1;
    }

    /// A line on its way. Says whether all of which it is known so far were stored.
    pub(super) fn add(&mut self, pending: Pending, bytes: usize, line: u64) -> bool {
        let partition = pending.partition() as usize;
        self.waiting[partition].push_back(Waiting { pending, bytes, line });
        while let Some(done) = self.waiting[partition].front_mut().and_then(|waiting| (&mut waiting.pending).now_or_never()) {
            let Waiting { bytes, line, .. } =
                self.waiting[partition].pop_front().unwrap_or_else(|| unreachable!("it is the front"));
            self.count(done, bytes, line);
        }
        self.first_failed.is_none()
    }

    /// Waits for all that is on its way.
    pub(super) async fn finish(&mut self) {
        for waiting in std::mem::take(&mut self.waiting) {
            for Waiting { pending, bytes, line } in waiting {
                let done = pending.await;
                self.count(done, bytes, line);
            }
        }
        self.bar.finish_and_clear();
    }

    /// What failed, once all is finished.
    pub(super) fn failure(&self) -> Option<Failed> {
        let (line, error) = self.first_failed.clone()?;
        // Every line before the first that failed is stored, and each line is a message.
        let stored_behind = (self.stored + self.skipped).saturating_sub(line - 1);
        let unknown_behind = self.unknown - u64::from(error.outcome_unknown());
        Some(Failed { line, error, stored_behind, unknown_behind })
    }

    /// The last offset of each partition that something went to.
    pub(super) fn last(&self) -> impl Iterator<Item = (u32, u64)> {
        (0..).zip(&self.last).filter_map(|(partition, last)| last.map(|last| (partition, last)))
    }

    fn count(&mut self, done: Result<Receipt, Error>, bytes: usize, line: u64) {
        let receipt = match done {
            Ok(receipt) => receipt,
            Err(error) => {
                self.failed += 1;
                self.unknown += u64::from(error.outcome_unknown());
                if self.first_failed.as_ref().is_none_or(|(first, _)| line < *first) {
                    self.first_failed = Some((line, error));
                }
                return;
            }
        };
        self.stored += 1;
        self.bytes += bytes as u64;
        self.duplicates += u64::from(receipt.duplicate);
        let last = &mut self.last[receipt.partition as usize];
        *last = (*last).max(receipt.offset);
        self.bar.inc(1);
        if self.stored.is_multiple_of(1024) {
            self.bar.set_message(format!("{} messages, {}", HumanCount(self.stored), HumanBytes(self.bytes)));
        }
    }
}
