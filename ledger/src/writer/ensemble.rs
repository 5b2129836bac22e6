//! Who stands where: a writer's bookies are judged, replaced, and done without (C15, C16, C54, C63).

use alluvium_runtime::backoff::Backoff;
use alluvium_types::bookie::{OpenLedger, Refusal};
use alluvium_types::ledger::{BookieId, LedgerMetadata};
use alluvium_types::time::Mono;

use super::{Cas, Death, HandBack, Late, Notice, Phase, Purpose, Writer};
use crate::call::{Action, Answer, CallId, Record, Request};
use crate::compare_and_set::PendingCas;
use crate::ensemble_change::EnsembleChange;
use crate::fragments;
use crate::member::{Health, Member};
use crate::mutation::Mutation;
use crate::placement::{self, Need};

/// How much longer who has an ack quorum may wait before a spare is looked for again, in times of the pause of who has none.
const SPARE_LEISURE: f64 = 3.0;

impl Writer {
    fn health(&self, now: Mono, place: usize) -> Health {
        let peers = self.members.iter().enumerate().filter(|(other, _)| *other != place);
        let best = peers.filter_map(|(_, member)| member.progress()).max();
        match self.members[place].health(now, self.config.slow_after, self.config.bad_after, best) {
            _ if self.is_gone(place) && self.is_cut_off() => Health::Bad,
            health => health,
        }
    }

    fn is_gone(&self, place: usize) -> bool {
        self.members[place].is_gone(self.config.gone_after)
    }

    /// Whether something waits while, for want of members that are gone, some write set has no ack quorum. Elsewhere they may come
    /// back in their own time.
    fn is_cut_off(&self) -> bool {
        let replication = self.record.metadata.replication;
        !self.tracker.is_empty() && !replication.every_write_set_has(replication.ack(), |place| !self.is_gone(place))
    }

    /// Whether some write set is left with fewer than an ack quorum to count on.
    fn is_starved(&self, now: Mono) -> bool {
        let replication = self.record.metadata.replication;
        !replication.every_write_set_has(replication.ack(), |place| self.health(now, place) != Health::Bad)
    }

    /// Decides what to do about members that don't do well, and about the end.
    pub(super) fn review(&mut self, now: Mono) {
        if self.phase == Phase::Ended || self.end_if_done(now) || self.cas.is_some() {
            return;
        }
        if self.change.is_some() {
            self.drive_change(now);
            return;
        }
        let lags = |place: &usize| self.health(now, *place) != Health::Sound;
        if !(0..self.members.len()).any(|place| lags(&place) || self.members[place].short) {
            self.spare_retry_at = None;
            return;
        }
        let (lagging, sound): (Vec<usize>, Vec<usize>) = (0..self.members.len()).partition(lags);
        let short = sound.into_iter().filter(|&place| self.members[place].short);
        let ailing: Vec<usize> = lagging.iter().copied().chain(short).collect();
        if self.spare_due(now).is_some_and(|at| now < at) {
            return;
        }
        self.rest_for_spare(now.after(self.config.spare_retry));
        // One that is short but answers again is no suspect: it may begin anew at its own place.
        for place in lagging {
            let bookie = self.members[place].bookie.clone();
            self.suspect(now, bookie);
        }
        self.begin_change(now, &ailing);
        if self.change.is_none() {
            self.do_without_spare(now, &ailing);
        }
    }

    /// When a spare is looked for again, if that is put off. With an ack quorum nobody waits for one: then the writers of many ledgers
    /// that lost the same bookie don't all change their records the moment it comes back.
    pub(super) fn spare_due(&self, now: Mono) -> Option<Mono> {
        let at = self.spare_retry_at?;
        Some(if self.is_starved(now) { at } else { at.after(self.spare_leisure) })
    }

    /// A spare is looked for at this time, or at leisure after it.
    pub(super) fn rest_for_spare(&mut self, at: Mono) {
        self.spare_retry_at = Some(at);
        self.spare_leisure = self.config.spare_retry.mul_f64(SPARE_LEISURE * self.entropy.unit());
    }

    /// Others live than before, and there may be a spare.
    pub(super) fn bookies_changed(&mut self, now: Mono) {
        if self.is_starved(now) {
            self.spare_retry_at = None;
        } else if let Some(at) = self.spare_retry_at {
            self.spare_retry_at = Some(at.min(now));
        }
    }

    fn suspect(&mut self, now: Mono, bookie: BookieId) {
        self.avoid.retain(|(_, until)| now < *until);
        if !self.avoid.iter().any(|(other, _)| *other == bookie) {
            self.actions.push_back(Action::Suspect(bookie.clone()));
            self.avoid.push((bookie, now.after(self.config.quarantine)));
        }
    }

    fn avoided(&self) -> Vec<BookieId> {
        self.avoid.iter().map(|(bookie, _)| bookie.clone()).collect()
    }

    fn begin_change(&mut self, now: Mono, ailing: &[usize]) {
        if self.record.metadata.fragments.len() >= self.config.fragments_max {
            return;
        }
        self.change = Some(EnsembleChange::default());
        for &place in ailing {
            self.seat(now, place);
        }
        self.change = self.change.take().filter(|change| change.candidates().next().is_some());
    }

    /// Chooses a replacement for `place` and asks it to open the ledger.
    fn seat(&mut self, now: Mono, place: usize) {
        let starved = self.is_starved(now);
        let Some(change) = &mut self.change else { return };
        let mut ensemble: Vec<BookieId> = self.members.iter().map(|member| member.bookie.clone()).collect();
        let mut avoid: Vec<BookieId> = self.avoid.iter().map(|(bookie, _)| bookie.clone()).collect();
        for (other, candidate) in change.candidates() {
            // A member that is about to be replaced is no spare for another place.
            avoid.push(ensemble[other].clone());
            ensemble[other] = candidate.clone();
        }
        let (class, replication) = (self.record.metadata.class, self.record.metadata.replication);
        let need = if starved { Need::Must } else { Need::Wish };
        let spare = placement::replace(&self.candidates, class, replication, &ensemble, place, &avoid, need, &self.entropy);
        let Some(candidate) = spare else { return };
        let call = self.calls.next();
        let open = OpenLedger { ledger: self.record.metadata.ledger, epoch: self.record.metadata.epoch, class };
        self.actions.push_back(Action::Send { call, to: candidate.clone(), request: Request::Open(open) });
        change.seat(now, place, candidate, call, self.config.open_timeout);
    }

    pub(super) fn on_open(&mut self, now: Mono, call: CallId, answer: Answer) {
        let Some(change) = &mut self.change else { return };
        match answer {
            Answer::Open(Ok(())) => change.opened(call),
            // A recovery has been here before us.
            Answer::Open(Err(Refusal::Fenced)) if !self.config.mutations.has(Mutation::FencedIsBookieFault) => {
                self.die(Death::Fenced);
            }
            Answer::Open(Err(Refusal::Stale)) => self.die(Death::Superseded),
            Answer::Open(Err(Refusal::Deleted)) => self.die(Death::Deleted),
            _ => {
                if let Some(rejected) = change.refused(call) {
                    self.suspect(now, rejected.candidate);
                    self.seat(now, rejected.place);
                }
            }
        }
    }

    fn drive_change(&mut self, now: Mono) {
        let Some(change) = &mut self.change else { return };
        for rejected in change.overdue(now) {
            self.cancel(rejected.call);
            self.suspect(now, rejected.candidate);
            self.seat(now, rejected.place);
        }
        if let Some(change) = self.change.take_if(|change| change.is_settled()) {
            let replacements = change.replacements();
            if !replacements.is_empty() {
                self.propose(now, replacements);
            }
        }
    }

    /// Proposes the new ensemble to metadata. From here on nothing is confirmed until it has answered (C15).
    fn propose(&mut self, now: Mono, replacements: Vec<(usize, BookieId)>) {
        let first = self.tracker.first_unconfirmed();
        let mut ensemble: Vec<BookieId> = self.members.iter().map(|member| member.bookie.clone()).collect();
        for (place, bookie) in &replacements {
            ensemble[*place] = bookie.clone();
        }
        let new = fragments::changed(&self.record.metadata, first, ensemble, self.short_places());
        if self.config.mutations.has(Mutation::NewEnsembleBeforeCas) {
            self.install(now, &replacements);
        }
        self.change_record(now, new, Purpose::Change(replacements));
    }

    /// The members that are not known to hold every confirmed entry of the last fragment.
    pub(super) fn short_places(&self) -> Vec<usize> {
        let first = self.record.metadata.last_fragment().first;
        let owes = |member: &Member| self.tracker.lac().is_some_and(|lac| member.owes_any_of(first, lac));
        (0..self.members.len()).filter(|&place| self.members[place].short || owes(&self.members[place])).collect()
    }

    pub(super) fn change_record(&mut self, now: Mono, new: LedgerMetadata, purpose: Purpose) {
        let call = self.calls.next();
        let blind = self.config.mutations.has(Mutation::CasWithoutCompare);
        let (pending, action) = PendingCas::start(now, call, self.record.clone(), new, blind, self.config.cas, &self.entropy);
        self.actions.push_back(action);
        self.cas = Some(Cas { pending, purpose, asking: None });
    }

    /// Metadata names the new ensemble: the fragment before is over, and the new members get what is unconfirmed.
    pub(super) fn changed(&mut self, now: Mono, record: Record, replacements: &[(usize, BookieId)]) {
        let ended = self.record.metadata.last_fragment().first;
        let first = record.metadata.last_fragment().first;
        if let Some(last) = first.previous().filter(|_| ended < first) {
            let marks = &record.metadata.fragment_of(ended).short;
            let stays = |place: &usize| replacements.iter().all(|(replaced, _)| replaced != place);
            let late = marks.iter().copied().filter(|place| stays(place) && !self.members[*place].short);
            self.late.extend(late.map(|place| Late { first: ended, last, place }));
        }
        self.record = record;
        if !self.config.mutations.has(Mutation::NewEnsembleBeforeCas) {
            self.install(now, replacements);
        }
        for member in &mut self.members {
            member.short = false;
        }
        self.notices.push_back(Notice::Changed(self.record.clone()));
        self.spare_retry_at = None;
        self.confirm(now);
    }

    fn install(&mut self, now: Mono, replacements: &[(usize, BookieId)]) {
        for (place, bookie) in replacements {
            let backoff = Backoff::new(self.config.resend.0, self.config.resend.1, self.entropy.clone());
            let mut left = std::mem::replace(&mut self.members[*place], Member::new(bookie.clone(), backoff));
            for (entry, add) in left.clear() {
                self.cancel(add.call);
                self.release(entry);
            }
            self.late.retain(|late| late.place != *place);
            self.tracker.forget_place(*place);
        }
        for entry in self.tracker.unconfirmed() {
            for place in self.record.metadata.replication.write_set(entry) {
                if replacements.iter().any(|(replaced, _)| *replaced == place) {
                    self.send(now, place, entry);
                }
            }
        }
    }

    /// No spare (C63): the fragment stays, marked, while an ack quorum of every write set answers; else the ledger ends here, if
    /// its entries would have somewhere else to go.
    fn do_without_spare(&mut self, now: Mono, ailing: &[usize]) {
        if !self.tracker.is_empty() && self.is_starved(now) {
            let (class, wanted) = (self.record.metadata.class, self.record.metadata.wanted);
            // Who lost this ledger to a tear takes no add of it any more, and is as good as any for the next one: where there are
            // no others, waiting for it would be for ever.
            let is_stranger =
                |bookie: &BookieId| self.members.iter().any(|member| member.is_stranger && member.bookie == *bookie);
            let avoid: Vec<BookieId> = self.avoided().into_iter().filter(|bookie| !is_stranger(bookie)).collect();
            if placement::place(&self.candidates, class, wanted, &avoid, &self.entropy).is_ok() {
                self.hand_back(now, HandBack::NoSpare);
                return;
            }
        }
        let known = &self.record.metadata.last_fragment().short;
        let lacking = |place: &usize| known.contains(place) || ailing.contains(place);
        let marks: Vec<usize> = self.short_places().into_iter().filter(lacking).collect();
        if marks.iter().any(|place| !known.contains(place)) {
            let new = fragments::marked(&self.record.metadata, marks);
            self.change_record(now, new, Purpose::Mark);
        }
    }
}
