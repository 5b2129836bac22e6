//! Receipts, counted as they come, with progress for whoever watches.

use std::collections::VecDeque;

use alluvium_client::{Error, Pending, Receipt};
use futures::FutureExt;
use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressStyle};

/// What is on its way, and what came of the rest.
#[derive(Debug)]
pub(super) struct Receipts {
    /// In the order of each partition, in which receipts come; so the front is the first to be done.
    waiting: Vec<VecDeque<(Pending, usize)>>,
    last: Vec<Option<u64>>,
    pub(super) stored: u64,
    pub(super) skipped: u64,
    pub(super) duplicates: u64,
    pub(super) failed: u64,
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
            bytes: 0,
            bar,
        }
    }

    /// A line that an earlier run has stored.
    pub(super) const fn skipped(&mut self) {
        self.skipped += 1;
    }

    /// A message on its way. Fails if one before it did.
    pub(super) fn add(&mut self, pending: Pending, bytes: usize) -> Result<(), Error> {
        let partition = pending.partition();
        let waiting = &mut self.waiting[partition as usize];
        waiting.push_back((pending, bytes));
        while let Some(done) = self.waiting[partition as usize].front_mut().and_then(|(pending, _)| pending.now_or_never()) {
            let (_, bytes) = self.waiting[partition as usize].pop_front().unwrap_or_else(|| unreachable!("it is the front"));
            self.count(done, bytes)?;
        }
        Ok(())
    }

    /// Waits for all that is on its way. Fails with the first that failed.
    pub(super) async fn finish(&mut self) -> Result<(), Error> {
        let mut failed = Ok(());
        for waiting in std::mem::take(&mut self.waiting) {
            for (pending, bytes) in waiting {
                let done = pending.await;
                failed = failed.and(self.count(done, bytes));
            }
        }
        self.bar.finish_and_clear();
        failed
    }

    /// The last offset of each partition that something went to.
    pub(super) fn last(&self) -> impl Iterator<Item = (u32, u64)> {
        (0..).zip(&self.last).filter_map(|(partition, last)| last.map(|last| (partition, last)))
    }

    fn count(&mut self, done: Result<Receipt, Error>, bytes: usize) -> Result<(), Error> {
        let receipt = done.inspect_err(|_| self.failed += 1)?;
        self.stored += 1;
        self.bytes += bytes as u64;
        self.duplicates += u64::from(receipt.duplicate);
        let last = &mut self.last[receipt.partition as usize];
        *last = (*last).max(receipt.offset);
        self.bar.inc(1);
        if self.stored.is_multiple_of(1024) {
            self.bar.set_message(format!("{} messages, {}", HumanCount(self.stored), HumanBytes(self.bytes)));
        }
        Ok(())
    }
}
