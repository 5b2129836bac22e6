//! The fence: from here on no ack quorum of the ensemble is left to the old writer (C1, C7, C21).

use std::collections::BTreeMap;
use std::time::Duration;

use alluvium_runtime::backoff::Backoff;
use alluvium_types::bookie::{FenceAnswer, ReadRefusal};
use alluvium_types::ids::EntryId;
use alluvium_types::ledger::BookieId;
use alluvium_types::replication::Replication;
use alluvium_types::time::Mono;

use crate::call::CallId;

/// Members being fenced, until no write set can reach its ack quorum without a fenced one.
#[derive(Debug)]
pub(crate) struct FencePhase {
    replication: Replication,
    members: Vec<Member>,
    calls: BTreeMap<CallId, usize>,
    lac: Option<EntryId>,
    answer_timeout: Duration,
}

#[derive(Debug)]
struct Member {
    bookie: BookieId,
    fenced: bool,
    call: Option<CallId>,
    ask_at: Mono,
    backoff: Backoff,
}

/// What a member's answer means for the recovery.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum FenceVerdict {
    /// Go on.
    Noted,
    /// A newer recovery is at work (C69).
    Superseded,
    /// The ledger is deleted there: the record will say so.
    Deleted,
}

impl FencePhase {
    pub(crate) fn new(
        now: Mono,
        replication: Replication,
        ensemble: &[BookieId],
        answer_timeout: Duration,
        backoff: &impl Fn() -> Backoff,
    ) -> Self {
        let member =
            |bookie: &BookieId| Member { bookie: bookie.clone(), fenced: false, call: None, ask_at: now, backoff: backoff() };
        Self { replication, members: ensemble.iter().map(member).collect(), calls: BTreeMap::new(), lac: None, answer_timeout }
    }

    /// The members to be asked now, each with the number that its question gets from `call`. One that has not answered in time
    /// is asked again.
    pub(crate) fn due(&mut self, now: Mono, mut call: impl FnMut() -> CallId) -> Vec<(CallId, BookieId)> {
        let mut asked = Vec::new();
        for (place, member) in self.members.iter_mut().enumerate() {
            if member.fenced || now < member.ask_at {
                continue;
            }
            let id = call();
            if let Some(old) = member.call.replace(id) {
                self.calls.remove(&old);
            }
            self.calls.insert(id, place);
            member.ask_at = now.after(self.answer_timeout);
            asked.push((id, member.bookie.clone()));
        }
        asked
    }

    /// Whom this question was put to here.
    pub(crate) fn asked(&self, call: CallId) -> Option<&BookieId> {
        self.calls.get(&call).map(|place| &self.members[*place].bookie)
    }

    /// Takes an answer; `None` when it was lost.
    pub(crate) fn answered(&mut self, now: Mono, call: CallId, answer: Option<Result<FenceAnswer, ReadRefusal>>) -> FenceVerdict {
        let Some(place) = self.calls.remove(&call) else { return FenceVerdict::Noted };
        let member = &mut self.members[place];
        member.call = None;
        match answer {
            Some(Ok(fenced)) => {
                member.fenced = true;
                self.lac = self.lac.max(fenced.lac);
                FenceVerdict::Noted
            }
            Some(Err(ReadRefusal::Stale)) => FenceVerdict::Superseded,
            Some(Err(ReadRefusal::Deleted)) => FenceVerdict::Deleted,
            Some(Err(ReadRefusal::NoSuchLedger | ReadRefusal::Busy | ReadRefusal::Stopping | ReadRefusal::Invalid)) | None => {
                member.ask_at = now.after(member.backoff.delay());
                FenceVerdict::Noted
            }
        }
    }

    /// Whether every write set has so many fenced members that the others are no ack quorum: exactly coverage, not more (C21).
    pub(crate) fn is_covered(&self) -> bool {
        self.replication.every_write_set_has(self.replication.coverage(), |place| self.members[place].fenced)
    }

    pub(crate) fn answers(&self) -> usize {
        self.members.iter().filter(|member| member.fenced).count()
    }

    /// The highest LAC that a fenced member knew.
    pub(crate) const fn lac(&self) -> Option<EntryId> {
        self.lac
    }

    pub(crate) fn open_calls(&self) -> impl Iterator<Item = CallId> {
        self.calls.keys().copied()
    }

    pub(crate) fn wakeup(&self) -> Option<Mono> {
        self.members.iter().filter(|member| !member.fenced).map(|member| member.ask_at).min()
    }
}
