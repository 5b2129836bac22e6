//! Bookies that refuse a recovery in favour of a newer one that never was.
//!
//! A recovery's number is in the ledger's record before its first request goes out (C69). So when a bookie says that a newer one has
//! been there, and the record, read after that, still shows this recovery's number as the last, nobody put that fence there who may:
//! the bookie's refusal is that of a broken member, and nothing is superseded. What it holds is not needed to be safe, only what it
//! says in this recovery's favour ever counts.

use alluvium_types::bookie::{ReadRefusal, Refusal};
use alluvium_types::ids::RecoveryNumber;
use alluvium_types::ledger::BookieId;

use crate::call::Answer;

/// Who said so, and who was found wrong.
#[derive(Debug, Default)]
pub(super) struct Distrust {
    /// Who refused, and which number, if the record was not read since.
    refused: Option<(BookieId, RecoveryNumber)>,
    /// Whose refusals the record contradicts. At most the ensemble and the spares that were tried.
    contradicted: Vec<BookieId>,
}

impl Distrust {
    /// What an answer to the recovery of this number is worth. Whoever has been contradicted refuses for itself alone.
    pub(super) fn weigh(&mut self, from: &BookieId, number: RecoveryNumber, answer: Answer) -> Answer {
        let for_itself = match answer {
            Answer::Fence(Err(ReadRefusal::Stale)) => Answer::Fence(Err(ReadRefusal::Busy)),
            Answer::Read(Err(ReadRefusal::Stale)) => Answer::Read(Err(ReadRefusal::Busy)),
            Answer::Add(Err(Refusal::Stale)) => Answer::Add(Err(Refusal::Conflict)),
            other => return other,
        };
        if self.contradicted.contains(from) {
            return for_itself;
        }
        self.refused = Some((from.clone(), number));
        answer
    }

    /// The record was read, and this is the last number that was given out.
    pub(super) fn on_record(&mut self, last: RecoveryNumber) {
        if let Some((bookie, number)) = self.refused.take()
            && number == last
        {
            self.contradicted.push(bookie);
        }
    }
}
