//! Reading a range of entries: from any replica, in batches, failing over, hedged, and never past what the reader may see.
//!
//! A pure machine. It gives a run of entries from the first one on, as long as the byte budget and what one holder gives at a time let
//! it be, or the error that names the first entry that nobody gave it (T6): entries are never skipped. Bodies are checked against their entry's
//! checksum (B4); one that does not match is as good as none, and another replica is asked.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::time::Duration;

use alluvium_runtime::entropy::Entropy;
use alluvium_types::bookie::{EntryAnswer, Missing, ReadEntries, ReadRefusal, StoredEntry};
use alluvium_types::ids::{EntryId, LedgerId};
use alluvium_types::ledger::{BookieId, LedgerMetadata};
use alluvium_types::time::Mono;

use crate::call::{Action, Answer, CallId, Calls, Event, Machine, Request};
use crate::recovery::is_sound;

/// How a read behaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReadConfig {
    /// After this time another replica is asked as well.
    pub hedge_after: Duration,
    /// After this time no answer is expected any more.
    pub answer_timeout: Duration,
    /// How many questions are open at a time.
    pub parallel_max: usize,
}

impl Default for ReadConfig {
    fn default() -> Self {
        Self { hedge_after: Duration::from_millis(250), answer_timeout: Duration::from_secs(5), parallel_max: 8 }
    }
}

/// What to read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReadRange {
    /// The first entry.
    pub first: EntryId,
    /// The last entry, included; fewer may come, though one at least.
    pub last: EntryId,
    /// Stop after this many bytes of bodies, but give at least one entry.
    pub bytes_max: usize,
    /// The LAC that the reader was given, for a ledger that is not closed (L7).
    pub lac: Option<EntryId>,
}

/// Why an entry did not come from one bookie.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NotRead {
    /// It says so of this entry.
    Missing(Missing),
    /// What came did not match its checksum.
    Corrupt,
    /// It refused the read.
    Refused(ReadRefusal),
    /// It did not answer.
    NoAnswer,
}

/// Why nothing was read.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ReadFailure {
    /// Past the end of the closed ledger, or past the LAC that the reader was given (L7). Not an error of the ledger.
    #[error("entry {first} is past what may be read")]
    Beyond {
        /// The first entry asked for.
        first: EntryId,
    },
    /// The range or the budget is empty.
    #[error("the range or the budget is empty")]
    Empty,
    /// The ledger is deleted.
    #[error("ledger {0} is deleted")]
    Deleted(LedgerId),
    /// Nobody gave this entry: it is reported, never skipped (T6).
    #[error("entry {entry} of ledger {ledger} could not be read from any of its bookies: {}", Reasons(.reasons))]
    Unreadable {
        /// Which ledger.
        ledger: LedgerId,
        /// Which entry.
        entry: EntryId,
        /// What each replica said.
        reasons: Vec<(BookieId, NotRead)>,
    },
}

impl ReadFailure {
    /// Whether the same read may succeed later without anybody repairing anything.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Beyond { .. } => true,
            Self::Empty | Self::Deleted(_) => false,
            Self::Unreadable { reasons, .. } => reasons.iter().any(|(_, reason)| {
                matches!(
                    reason,
                    NotRead::NoAnswer | NotRead::Refused(ReadRefusal::Busy | ReadRefusal::Stopping | ReadRefusal::Stale)
                )
            }),
        }
    }
}

struct Reasons<'a>(&'a [(BookieId, NotRead)]);

impl fmt::Display for Reasons<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (bookie, reason)) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{bookie}: {reason:?}")?;
        }
        Ok(())
    }
}

/// Entries still to be asked for, and who need not be asked any more.
#[derive(Clone, Debug)]
struct Run {
    first: EntryId,
    last: EntryId,
    tried: Vec<(BookieId, NotRead)>,
}

/// An open question.
#[derive(Debug)]
struct Open {
    run: Run,
    holder: BookieId,
    hedge_at: Mono,
    give_up_at: Mono,
    /// Somebody else was asked for the same run as well.
    hedged: bool,
}

/// The machine. See the module.
#[derive(Debug)]
pub struct RangeRead {
    config: ReadConfig,
    metadata: LedgerMetadata,
    first: EntryId,
    /// The last entry that is wanted; lowered to before an entry that nobody gives.
    last: EntryId,
    bytes_max: usize,
    entropy: Entropy,
    runs: VecDeque<Run>,
    open: BTreeMap<CallId, Open>,
    got: BTreeMap<EntryId, StoredEntry>,
    failure: Option<ReadFailure>,
    calls: Calls,
    actions: VecDeque<Action>,
    notice: Option<Result<Vec<StoredEntry>, ReadFailure>>,
    ended: bool,
}

impl RangeRead {
    /// Begins to read.
    pub fn new(now: Mono, config: ReadConfig, metadata: LedgerMetadata, range: ReadRange, entropy: Entropy) -> Self {
        // A closed ledger says itself how far it may be read; of any other the reader knows what it was told (L7).
        let bound = metadata.closed_at().unwrap_or(range.lac);
        let refused = if range.bytes_max == 0 || range.last < range.first {
            Some(ReadFailure::Empty)
        } else if metadata.state == alluvium_types::ledger::LedgerState::Deleting {
            Some(ReadFailure::Deleted(metadata.ledger))
        } else if bound < Some(range.first) {
            Some(ReadFailure::Beyond { first: range.first })
        } else {
            None
        };
        let last = range.last.min(bound.unwrap_or(range.last));
        let mut read = Self {
            config,
            metadata,
            first: range.first,
            last,
            bytes_max: range.bytes_max,
            entropy,
            runs: VecDeque::new(),
            open: BTreeMap::new(),
            got: BTreeMap::new(),
            failure: None,
            calls: Calls::default(),
            actions: VecDeque::new(),
            notice: None,
            ended: false,
        };
        match refused {
            Some(failure) => read.end(Err(failure)),
            None => {
                read.runs.push_back(Run { first: range.first, last, tried: Vec::new() });
                read.drive(now);
            }
        }
        read
    }

    /// Asks for runs while there are any, and ends when there is nothing left to wait for.
    fn drive(&mut self, now: Mono) {
        while !self.ended && !self.is_enough() && self.open.len() < self.config.parallel_max.max(1) {
            let Some(run) = self.runs.pop_front() else { break };
            self.ask(now, run);
        }
        if !self.ended && (self.is_enough() || (self.open.is_empty() && self.runs.is_empty())) {
            self.finish();
        }
    }

    /// Asks the best of those not yet tried for as much of the run as it should hold.
    fn ask(&mut self, now: Mono, mut run: Run) {
        while run.first <= run.last && self.got.contains_key(&run.first) {
            run.first = run.first.next();
        }
        run.last = run.last.min(self.last);
        if run.first > run.last {
            return;
        }
        let Some((place, holder)) = self.choose(&run) else {
            return self.nobody_left(run);
        };
        let covered = self.share_end(place, run.first).min(run.last);
        if covered < run.last {
            self.runs.push_front(Run { first: covered.next(), last: run.last, tried: run.tried.clone() });
            run.last = covered;
        }
        let call = self.calls.next();
        let striped = self.metadata.replication.ensemble() > self.metadata.replication.write();
        let parallel = if striped { self.config.parallel_max.max(1) } else { 1 };
        let read = ReadEntries {
            ledger: self.metadata.ledger,
            first: run.first,
            last: run.last,
            bytes_max: (self.bytes_left() / parallel).max(1),
            fence: None,
        };
        self.actions.push_back(Action::Send { call, to: holder.clone(), request: Request::Read(read) });
        let (hedge_at, give_up_at) = (now.after(self.config.hedge_after), now.after(self.config.answer_timeout));
        self.open.insert(call, Open { run, holder, hedge_at, give_up_at, hedged: false });
    }

    /// A member that should hold the first entry and was not tried: one that is known to be whole before one that is short (C65),
    /// of equals by chance.
    fn choose(&self, run: &Run) -> Option<(usize, BookieId)> {
        let fragment = self.metadata.fragment_of(run.first);
        let untried: Vec<usize> = self
            .metadata
            .replication
            .write_set(run.first)
            .filter(|place| run.tried.iter().all(|(bookie, _)| *bookie != fragment.ensemble[*place]))
            .collect();
        let (whole, short): (Vec<usize>, Vec<usize>) = untried.into_iter().partition(|place| !fragment.short.contains(place));
        let pool = if whole.is_empty() { short } else { whole };
        let reach = pool.iter().map(|place| self.share_end(*place, run.first)).max()?;
        let best: Vec<usize> = pool.into_iter().filter(|place| self.share_end(*place, run.first) == reach).collect();
        let chosen = best[usize::try_from(self.entropy.below(best.len() as u64)).expect("an ensemble has at most 64 members")];
        Some((chosen, fragment.ensemble[chosen].clone()))
    }

    /// The last entry of the fragment up to which `place` holds every one from `from` on.
    fn share_end(&self, place: usize, from: EntryId) -> EntryId {
        let next_fragment = self.metadata.fragments.iter().map(|fragment| fragment.first).find(|first| *first > from);
        let fragment_end = next_fragment.and_then(EntryId::previous).unwrap_or(self.last).min(self.last);
        let replication = self.metadata.replication;
        if replication.ensemble() == replication.write() {
            return fragment_end;
        }
        let mut end = from;
        while end < fragment_end && replication.write_set(end.next()).any(|member| member == place) {
            end = end.next();
        }
        end
    }

    /// Everybody was tried for the first entry of this run. If somebody who was hedged may still answer, it waits for that.
    fn nobody_left(&mut self, run: Run) {
        let hope = self.open.values_mut().find(|open| (open.run.first..=open.run.last).contains(&run.first));
        if let Some(open) = hope {
            // The hedge is spent: what this call does not give is missing for good.
            open.hedged = false;
            open.run.tried = run.tried.into_iter().filter(|(bookie, _)| *bookie != open.holder).collect();
            return;
        }
        let (ledger, entry) = (self.metadata.ledger, run.first);
        self.failure = Some(ReadFailure::Unreadable { ledger, entry, reasons: run.tried });
        // Nothing behind it is of use.
        match entry.previous() {
            Some(last) if last >= self.first => self.last = last,
            _ => return self.finish(),
        }
        self.runs.retain(|run| run.first < entry);
    }

    fn on_answer(&mut self, open: Open, answer: Answer) {
        let entries = match answer {
            Answer::Read(Ok(answer)) => answer.entries,
            Answer::Read(Err(refusal)) => return self.failed(open, NotRead::Refused(refusal)),
            _ => return self.failed(open, NotRead::NoAnswer),
        };
        let Open { run, holder, hedged, .. } = open;
        let mut next = run.first;
        for said in entries {
            let (entry, reason) = match said {
                EntryAnswer::Found(stored) if is_sound(self.metadata.ledger, &stored) => {
                    let entry = stored.entry;
                    if entry == next {
                        self.got.entry(entry).or_insert(stored);
                    }
                    (entry, None)
                }
                EntryAnswer::Found(stored) => (stored.entry, Some(NotRead::Corrupt)),
                EntryAnswer::Missing(entry, missing) => (entry, Some(NotRead::Missing(missing))),
            };
            if entry != next || entry > run.last {
                break;
            }
            if let Some(reason) = reason.filter(|_| !hedged) {
                self.again(Run { first: entry, last: entry, tried: run.tried.clone() }, &holder, reason);
            }
            next = next.next();
        }
        if next <= run.last && !hedged {
            let rest = Run { first: next, last: run.last, tried: run.tried };
            if next == run.first {
                // An answer without an entry would be asked for for ever.
                self.again(rest, &holder, NotRead::NoAnswer);
            } else if run.first == self.first && self.runs.is_empty() && self.open.is_empty() {
                // As much as the holder gives at a time. Whoever wants more asks for it.
                self.last = rest.first.previous().unwrap_or(self.last);
            } else {
                self.runs.push_back(rest);
            }
        }
    }

    fn failed(&mut self, open: Open, reason: NotRead) {
        if !open.hedged {
            self.again(open.run, &open.holder, reason);
        }
    }

    fn again(&mut self, mut run: Run, holder: &BookieId, reason: NotRead) {
        run.tried.push((holder.clone(), reason));
        self.runs.push_front(run);
    }

    /// Asks others as well where an answer is slow, and stops waiting where it is late.
    fn look_at_the_clock(&mut self, now: Mono) {
        let late: Vec<CallId> = self.open.iter().filter(|(_, open)| now >= open.give_up_at).map(|(call, _)| *call).collect();
        for call in late {
            if let Some(open) = self.open.remove(&call) {
                self.actions.push_back(Action::Cancel(call));
                self.actions.push_back(Action::Suspect(open.holder.clone()));
                self.failed(open, NotRead::NoAnswer);
            }
        }
        let mut hedges = Vec::new();
        for open in self.open.values_mut().filter(|open| !open.hedged && now >= open.hedge_at) {
            open.hedge_at = open.give_up_at;
            let mut run = open.run.clone();
            run.tried.push((open.holder.clone(), NotRead::NoAnswer));
            hedges.push((run, &mut open.hedged));
        }
        let mut runs = Vec::new();
        for (run, hedged) in hedges {
            let fragment = self.metadata.fragment_of(run.first);
            let spare = self
                .metadata
                .replication
                .write_set(run.first)
                .any(|place| run.tried.iter().all(|(bookie, _)| *bookie != fragment.ensemble[place]));
            if spare {
                *hedged = true;
                runs.push(run);
            }
        }
        for run in runs {
            self.ask(now, run);
        }
    }

    /// Entries from the first one on without a gap.
    fn prefix(&self) -> impl Iterator<Item = &StoredEntry> {
        let first = self.first.get();
        self.got.values().zip(first..).take_while(|(stored, id)| stored.entry.get() == *id).map(|(stored, _)| stored)
    }

    fn bytes_left(&self) -> usize {
        self.bytes_max.saturating_sub(self.got.values().map(|stored| stored.body.len()).sum())
    }

    fn is_enough(&self) -> bool {
        let (mut count, mut bytes) = (0, 0);
        for stored in self.prefix() {
            count += 1;
            bytes += stored.body.len();
        }
        count > 0 && (bytes >= self.bytes_max || count > self.first.distance_to(self.last))
    }

    fn finish(&mut self) {
        let mut entries: Vec<StoredEntry> = Vec::new();
        let mut bytes = 0;
        for stored in self.prefix() {
            if !entries.is_empty() && bytes + stored.body.len() > self.bytes_max {
                break;
            }
            bytes += stored.body.len();
            entries.push(stored.clone());
        }
        let result = match self.failure.take() {
            Some(failure) if entries.is_empty() => Err(failure),
            _ => Ok(entries),
        };
        self.end(result);
    }

    fn end(&mut self, result: Result<Vec<StoredEntry>, ReadFailure>) {
        self.actions.extend(std::mem::take(&mut self.open).into_keys().map(Action::Cancel));
        self.got.clear();
        self.runs.clear();
        self.notice = Some(result);
        self.ended = true;
    }
}

impl Machine for RangeRead {
    type Notice = Result<Vec<StoredEntry>, ReadFailure>;

    fn on_event(&mut self, now: Mono, event: Event) {
        if self.ended {
            return;
        }
        if let Event::Answer { call, answer } = event
            && let Some(open) = self.open.remove(&call)
        {
            self.on_answer(open, answer);
        }
        self.look_at_the_clock(now);
        self.drive(now);
    }

    fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    fn poll_notice(&mut self) -> Option<Self::Notice> {
        self.notice.take()
    }

    fn next_wakeup(&self) -> Option<Mono> {
        self.open.values().map(|open| open.hedge_at.min(open.give_up_at)).min()
    }
}
