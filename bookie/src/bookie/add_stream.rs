//! One stream of adds: pipelined on the way in, answered by groups on the way out.

use std::sync::Arc;

use alluvium_types::bookie::{AddEntry, AdvanceLac, Refusal};
use alluvium_types::ids::{EntryId, LedgerId};

use super::Bookie;
use super::waiters::{Added, Answers, Waiter};
use crate::store::VerifiedAdd;

/// Adds that may be unanswered, or answered and not taken, before the stream takes no more.
const OUTSTANDING_MAX: usize = 4096;

/// The way in of one stream of adds.
#[derive(Debug)]
pub struct AddStream {
    bookie: Bookie,
    answers: Arc<Answers>,
}

/// The way out of one stream of adds.
#[derive(Debug)]
pub struct AddAnswers {
    bookie: Bookie,
    answers: Arc<Answers>,
}

impl AddStream {
    pub(crate) fn new(bookie: Bookie) -> Self {
        Self { bookie, answers: Arc::new(Answers::default()) }
    }

    /// Where the answers come out.
    pub fn answers(&self) -> AddAnswers {
        AddAnswers { bookie: self.bookie.clone(), answers: Arc::clone(&self.answers) }
    }

    /// Takes an add. Waits while there is no room in the log, or while too many answers were not taken.
    pub async fn push(&mut self, add: AddEntry) {
        self.wait_for_taking().await;
        self.answers.expect();
        let (ledger, entry) = (add.ledger, add.entry);
        let shared = self.bookie.shared();
        let answer = match VerifiedAdd::check(add, shared.config.log.body_bytes_max) {
            Err(refusal) => Some(Err(refusal)),
            Ok(add) => {
                let mut reply = Some(Waiter::Stream { answers: Arc::clone(&self.answers), ledger, entry });
                let tried = self.bookie.try_add(&add, &mut reply, false);
                self.bookie.settle(tried, &add, &mut reply).await
            }
        };
        if let Some(answer) = answer {
            self.answer(ledger, entry, answer);
        }
    }

    /// Takes the LAC alone. It is not answered.
    pub fn advance_lac(&self, lac: &AdvanceLac) {
        // A writer that may not write learns it from its adds.
        let _ = self.bookie.advance_lac(lac);
    }

    /// Answers an add by itself.
    fn answer(&self, ledger: LedgerId, entry: EntryId, outcome: Result<(), Refusal>) {
        if let Err(refusal) = outcome {
            self.bookie.shared().metrics.refused(refusal);
        }
        self.answers.push(Added { ledger, entry, outcome });
        self.answers.filled.notify_one();
    }

    async fn wait_for_taking(&self) {
        loop {
            let mut taken = std::pin::pin!(self.answers.taken.notified());
            taken.as_mut().enable();
            if self.answers.outstanding() < OUTSTANDING_MAX {
                return;
            }
            tokio::select! {
                biased;
                () = self.bookie.ended() => return,
                () = taken => {}
            }
        }
    }
}

impl Drop for AddStream {
    fn drop(&mut self) {
        self.answers.close();
    }
}

impl AddAnswers {
    /// The next answers, at least one, all that there are; `None` once there will be none: the way in is closed and all is
    /// answered, or the bookie has ended. Cancel safe.
    pub async fn next(&mut self) -> Option<Vec<Added>> {
        loop {
            let answers = self.answers.take()?;
            if !answers.is_empty() {
                return Some(answers);
            }
            tokio::select! {
                biased;
                () = self.answers.filled.notified() => {}
                () = self.bookie.dead() => {
                    let last = self.answers.take()?;
                    return (!last.is_empty()).then_some(last);
                }
            }
        }
    }
}
