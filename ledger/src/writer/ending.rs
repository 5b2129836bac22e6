//! How a writer ends: it closes its ledger, hands back what it can't confirm, or dies. And the answers of metadata on the way.

use alluvium_types::checksum::Crc32c;
use alluvium_types::ids::EntryId;
use alluvium_types::ledger::LedgerMetadata;
use alluvium_types::time::Mono;
use bytes::Bytes;

use super::{Notice, Phase, Purpose, Writer};
use crate::call::{Action, CallId, CasOutcome, Record, Unavailable};
use crate::compare_and_set::Definite;
use crate::fragments;
use crate::mutation::Mutation;

/// Why a writer may never confirm again (L4).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Death {
    /// A bookie is fenced: somebody recovers the ledger (C19, C38).
    Fenced,
    /// A bookie has seen a newer claim.
    Superseded,
    /// The ledger is deleted.
    Deleted,
    /// A bookie holds another body for this entry (B5): two writers, or rot that passed its checksum. The bookie raised an alarm.
    Conflict {
        /// Which entry.
        entry: EntryId,
    },
    /// Somebody else changed the record: a recovery. What stands there now, if anything.
    RecordLost(Option<Box<Record>>),
    /// Metadata refuses the ledger's next record for good: a person must look. Repeating it would freeze confirmations for ever.
    RecordRefused,
}

/// Why a ledger was closed though nobody asked for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HandBack {
    /// Too few of its bookies answer, and there is no spare (C63).
    NoSpare,
    /// A bookie's limit is below the configured one: this entry fits no frame there, and can't be left out (C36).
    TooLarge {
        /// Which entry.
        entry: EntryId,
    },
}

/// An entry that is not part of the ledger: it comes after its last one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HandedBack {
    /// The id that it had.
    pub entry: EntryId,
    /// Its body.
    pub body: Bytes,
    /// The body's checksum.
    pub body_crc: Crc32c,
}

impl Writer {
    /// Ends the ledger at its last confirmed entry as soon as no other change of the record is under way.
    pub(super) fn hand_back(&mut self, now: Mono, why: HandBack) {
        self.ending.get_or_insert(why);
        self.drop_change();
        if let (None, Some(why)) = (&self.cas, self.ending) {
            let new = self.closed_record();
            self.change_record(now, new, Purpose::HandBack(why));
        }
    }

    /// Takes the next step of a close, if all that was taken is confirmed. Whether there is nothing else to review.
    pub(super) fn end_if_done(&mut self, now: Mono) -> bool {
        if let Some(why) = self.ending {
            self.hand_back(now, why);
            return true;
        }
        let Phase::Closing { linger_until } = self.phase else { return false };
        if !self.tracker.is_empty() {
            return false;
        }
        self.drop_change();
        self.spare_retry_at = None;
        let until = linger_until.unwrap_or_else(|| now.after(self.config.close_linger));
        self.phase = Phase::Closing { linger_until: Some(until) };
        if self.cas.is_none() && (now >= until || self.members.iter().all(|member| member.owes_nothing())) {
            let new = self.closed_record();
            self.change_record(now, new, Purpose::Close);
        }
        true
    }

    fn drop_change(&mut self) {
        if let Some(change) = self.change.take() {
            self.actions.extend(change.open_calls().map(Action::Cancel));
        }
    }

    /// The record as it shall be closed: at the LAC, with those marked who are not known to hold their share (C65).
    fn closed_record(&self) -> LedgerMetadata {
        let mut new = fragments::marked(&self.record.metadata, self.short_places());
        for late in self.late.iter().filter(|late| !self.members[late.place].owes_any_of(late.first, late.last)) {
            if let Some(fragment) = new.fragments.iter_mut().find(|fragment| fragment.first == late.first) {
                fragment.short.retain(|place| *place != late.place);
            }
        }
        fragments::closed(&new, self.tracker.lac())
    }

    pub(super) fn on_cas(&mut self, now: Mono, call: CallId, outcome: CasOutcome) {
        let Some(cas) = self.cas.as_mut().filter(|cas| cas.pending.is(call)) else { return };
        if outcome == CasOutcome::Unknown && self.config.mutations.has(Mutation::TimedOutCasResolvedByRead) {
            let call = self.calls.next();
            cas.asking = Some(call);
            self.actions.push_back(Action::ReadRecord { call, ledger: self.record.metadata.ledger });
        }
        let Some(definite) = cas.pending.outcome(now, outcome) else { return };
        if let (Definite::NotApplied, Purpose::Close | Purpose::HandBack(_)) = (&definite, &cas.purpose) {
            // There is nothing else left to do: only the end is waited for.
            cas.pending.postpone(now);
            return;
        }
        self.settle(now, definite);
    }

    fn settle(&mut self, now: Mono, definite: Definite) {
        let Some(cas) = self.cas.take() else { return };
        match (definite, cas.purpose) {
            (Definite::Lost(current), _) => self.die(Death::RecordLost(current.map(Box::new))),
            (Definite::Refused, _) => self.die(Death::RecordRefused),
            (Definite::NotApplied, _) => {
                // The ensemble is what it was, for certain, so its confirmations go on (C15); it is looked at again soon.
                self.rest_for_spare(now.after(self.config.spare_retry));
                self.confirm(now);
            }
            (Definite::Applied(record), Purpose::Change(replacements)) => self.changed(now, record, &replacements),
            (Definite::Applied(record), Purpose::Mark) => {
                self.record = record;
                self.notices.push_back(Notice::Changed(self.record.clone()));
                self.confirm(now);
            }
            (Definite::Applied(record), Purpose::Close) => self.end(record, None),
            (Definite::Applied(record), Purpose::HandBack(why)) => self.end(record, Some(why)),
        }
    }

    /// The planted bug of C12: the old value is taken as proof that the change is lost.
    pub(super) fn on_record(&mut self, now: Mono, call: CallId, record: Result<Option<Record>, Unavailable>) {
        let Some(cas) = self.cas.as_mut().filter(|cas| cas.asking == Some(call)) else { return };
        cas.asking = None;
        match record {
            Ok(Some(current)) if current == *cas.pending.expected() => {
                self.cas = None;
                self.confirm(now);
            }
            Ok(Some(current)) if current.metadata == *cas.pending.proposed() => self.settle(now, Definite::Applied(current)),
            Ok(current) => self.settle(now, Definite::Lost(current)),
            Err(Unavailable) => {}
        }
    }

    fn end(&mut self, record: Record, why: Option<HandBack>) {
        let unconfirmed: Vec<EntryId> = self.tracker.unconfirmed().collect();
        let handed_back = unconfirmed.into_iter().filter_map(|entry| {
            let kept = self.entries.get(&entry)?;
            Some(HandedBack { entry, body: kept.body.clone(), body_crc: kept.body_crc })
        });
        let hand_back = why.map(|why| (why, handed_back.collect()));
        self.record = record.clone();
        self.let_go();
        self.notices.push_back(Notice::Closed { record, hand_back });
    }

    pub(super) fn die(&mut self, death: Death) {
        let unresolved = self.tracker.unconfirmed().collect();
        self.let_go();
        self.notices.push_back(Notice::Died { death, unresolved });
    }

    fn let_go(&mut self) {
        self.phase = Phase::Ended;
        self.cas = None;
        self.drop_change();
        let calls = std::mem::take(&mut self.adds);
        self.actions.extend(calls.into_keys().map(Action::Cancel));
        for member in &mut self.members {
            member.clear();
        }
        self.entries.clear();
    }
}
