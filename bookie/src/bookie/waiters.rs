//! Who waits for a group, and how the news reaches them: once per group and stream, not once per entry.

use std::collections::VecDeque;
use std::sync::Arc;

use alluvium_types::bookie::Refusal;
use alluvium_types::ids::{EntryId, LedgerId};
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use crate::log::GroupNumber;

/// What became of one add of a stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Added {
    /// Which ledger.
    pub ledger: LedgerId,
    /// Which entry.
    pub entry: EntryId,
    /// `Ok`: on disk (B1).
    pub outcome: Result<(), Refusal>,
}

/// The answers of one add stream that were not taken yet.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    stand: Mutex<Stand>,
    /// There are answers, or there will be none.
    pub(crate) filled: Notify,
    /// Answers were taken.
    pub(crate) taken: Notify,
}

#[derive(Debug, Default)]
struct Stand {
    ready: Vec<Added>,
    /// Adds that were taken in and not answered.
    unanswered: usize,
    /// Nothing more comes in.
    closed: bool,
}

impl Answers {
    /// An add is taken in.
    pub(crate) fn expect(&self) {
        self.stand.lock().unanswered += 1;
    }

    /// It is answered.
    pub(crate) fn push(&self, added: Added) {
        let mut stand = self.stand.lock();
        stand.unanswered -= 1;
        stand.ready.push(added);
    }

    /// Answers that were not taken, and adds that were not answered.
    pub(crate) fn outstanding(&self) -> usize {
        let stand = self.stand.lock();
        stand.ready.len() + stand.unanswered
    }

    /// Nothing more comes in.
    pub(crate) fn close(&self) {
        self.stand.lock().closed = true;
        self.filled.notify_one();
    }

    /// All that is answered; `None` when nothing more will be.
    pub(crate) fn take(&self) -> Option<Vec<Added>> {
        let mut stand = self.stand.lock();
        let taken = std::mem::take(&mut stand.ready);
        let finished = taken.is_empty() && stand.closed && stand.unanswered == 0;
        drop(stand);
        self.taken.notify_waiters();
        (!finished).then_some(taken)
    }
}

/// Somebody who waits.
#[derive(Debug)]
pub(crate) enum Waiter {
    /// One add.
    Add(oneshot::Sender<Result<(), Refusal>>),
    /// One add of a stream.
    Stream { answers: Arc<Answers>, ledger: LedgerId, entry: EntryId },
    /// Someone who asks again then. Without an answer when the log failed.
    Group(oneshot::Sender<()>),
}

/// All who wait, in the order of their groups.
#[derive(Debug, Default)]
pub(crate) struct Waiters(VecDeque<(GroupNumber, Waiter)>);

impl Waiters {
    pub(crate) fn push(&mut self, group: GroupNumber, waiter: Waiter) {
        // A repeated request may wait for an earlier group than the last one; it is then told with that one.
        let group = self.0.back().map_or(group, |(last, _)| group.max(*last));
        self.0.push_back((group, waiter));
    }

    /// Those whose group is durable.
    pub(crate) fn take(&mut self, durable: GroupNumber) -> Vec<Waiter> {
        let count = self.0.partition_point(|(group, _)| *group <= durable);
        self.0.drain(..count).map(|(_, waiter)| waiter).collect()
    }

    /// All of them, when nothing will be durable any more.
    pub(crate) fn take_all(&mut self) -> Vec<Waiter> {
        self.0.drain(..).map(|(_, waiter)| waiter).collect()
    }
}

/// Tells the news; no lock of the store is held.
pub(crate) fn tell(waiters: Vec<Waiter>, outcome: Result<(), Refusal>) {
    let mut told: Vec<Arc<Answers>> = Vec::new();
    for waiter in waiters {
        match waiter {
            // Who hung up does not want to know.
            Waiter::Add(sender) => drop(sender.send(outcome)),
            Waiter::Group(sender) if outcome.is_ok() => drop(sender.send(())),
            Waiter::Group(_) => {}
            Waiter::Stream { answers, ledger, entry } => {
                answers.push(Added { ledger, entry, outcome });
                if !told.iter().any(|known| Arc::ptr_eq(known, &answers)) {
                    told.push(answers);
                }
            }
        }
    }
    for answers in told {
        answers.filled.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn answers_of_a_group_come_together_and_not_before_their_group() {
        let answers = Arc::new(Answers::default());
        let mut waiters = Waiters::default();
        for (group, entry) in [(1, 0), (1, 1), (2, 2)] {
            answers.expect();
            let (ledger, entry) = (LedgerId::new(1), EntryId::new(entry));
            waiters.push(GroupNumber::new(group), Waiter::Stream { answers: Arc::clone(&answers), ledger, entry });
        }
        tell(waiters.take(GroupNumber::new(1)), Ok(()));
        answers.filled.notified().await;
        assert_eq!(answers.take().expect("not finished").len(), 2);
        answers.close();
        tell(waiters.take_all(), Err(Refusal::Stopping));
        answers.filled.notified().await;
        assert_eq!(answers.take().expect("one was open")[0].outcome, Err(Refusal::Stopping));
        assert_eq!(answers.take(), None);
    }
}
