//! Who sent what: duplicates are recognised, gaps are refused, and of two producers of one name only the newest appends.
//!
//! The map is a function of the log (D3): a snapshot of it up to some offset, and the entries' headers from there on. Whether
//! an original is durable is not stored: it is when its offset lies below the confirmed end (D2, C50).

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use alluvium_types::batch::BatchHeader;
use alluvium_types::entry::{EntryHeader, ProducerStamp};
use alluvium_types::fault::{Fault, FaultKind};
use alluvium_types::ids::Offset;
use alluvium_types::names::ProducerName;
use alluvium_types::time::{Mono, Timestamp};

use crate::mutation::{Mutation, Mutations};

/// The most runs remembered of a producer, beside those that are not durable yet. Adjacent ones merge, so a producer that is
/// alone needs one.
pub(crate) const RUNS_MAX: usize = 1024;

/// Consecutive sequences at consecutive offsets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Run {
    /// The sequence of the first message.
    pub(crate) first_sequence: u64,
    /// Its offset.
    pub(crate) first_offset: Offset,
    /// Messages in the run.
    pub(crate) count: u64,
}

impl Run {
    /// The offset behind its last message.
    const fn end(self) -> Offset {
        Offset::new(self.first_offset.get() + self.count)
    }
}

/// What is known of a producer in this partition; also what a snapshot says of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Producer {
    /// Its name.
    pub(crate) name: ProducerName,
    /// The first claim since the name is known: what was sent under earlier ones is forgotten.
    pub(crate) first_epoch: u64,
    /// The newest claim.
    pub(crate) epoch: u64,
    /// The sequence that is accepted next.
    pub(crate) next_sequence: u64,
    /// When it was last heard of, by the broker's label.
    pub(crate) active: Timestamp,
    /// Where its newest messages are, in order of sequence.
    pub(crate) runs: VecDeque<Run>,
}

impl Producer {
    fn bytes(&self) -> usize {
        size_of::<Row>() + 2 * self.name.as_str().len() + self.runs.len() * size_of::<Run>()
    }

    /// Appends a run. Of those that are `durable` the oldest goes when there are too many; what is not durable is needed to know
    /// what was never appended ([`Producer::as_of`]).
    fn push(&mut self, run: Run, durable: Offset) {
        self.next_sequence = run.first_sequence + run.count;
        match self.runs.back_mut() {
            Some(last)
                if last.first_sequence + last.count == run.first_sequence
                    && last.first_offset.get() + last.count == run.first_offset.get() =>
            {
                last.count += run.count;
            }
            _ => {
                while self.runs.len() >= RUNS_MAX && self.runs.pop_front_if(|oldest| oldest.end() <= durable).is_some() {}
                self.runs.push_back(run);
            }
        }
    }

    /// What is true of it when the log ends at `end`.
    fn as_of(&self, end: Offset) -> Self {
        let mut known = self.clone();
        while let Some(last) = known.runs.back_mut() {
            let confirmed = last.first_offset.distance_to(end).min(last.count);
            if confirmed == last.count {
                break;
            }
            last.count = confirmed;
            known.next_sequence = last.first_sequence + confirmed;
            if confirmed > 0 {
                break;
            }
            known.runs.pop_back();
        }
        let surplus = known.runs.len().saturating_sub(RUNS_MAX);
        known.runs.drain(..surplus);
        known
    }
}

#[derive(Debug)]
struct Row {
    producer: Producer,
    /// Whether the newest claim is durable: before that nobody knows its number.
    usable: bool,
    /// Whether a checkpoint must say something new of it.
    dirty: bool,
    heard: Mono,
}

/// What to do with a batch of an idempotent producer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// It is the next one, and counted as appended from now on.
    Append,
    /// It is in the log, or on its way into it, here. Answered once that is durable (D2).
    Duplicate {
        /// The offset of its first message.
        first_offset: Offset,
    },
    /// Neither.
    Refused(Fault),
}

/// A claim that was granted; to be made durable before it is answered (D5, D7).
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Claim {
    /// Who.
    pub(crate) name: ProducerName,
    /// The new epoch.
    pub(crate) epoch: u64,
    /// Whether the producer begins anew, at sequence 0.
    pub(crate) fresh: bool,
}

/// What a claim was answered with, and what it cost others.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Granted {
    /// The claim.
    pub(crate) claim: Claim,
    /// Whether what was sent under the claim before is forgotten.
    pub(crate) forgotten: bool,
    /// Who was forgotten for it: to be made durable before what is known of others, or a checkpoint would say of them what was
    /// true long ago (D1, D7).
    pub(crate) gone: Vec<ProducerName>,
}

/// Bounds of the map.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct DedupLimits {
    /// Memory for all producers of the partition.
    pub(crate) bytes_max: usize,
    /// A producer that was silent for so long is forgotten.
    pub(crate) expiry: Duration,
}

/// The producers of one partition.
#[derive(Debug)]
pub(crate) struct Dedup {
    rows: HashMap<ProducerName, Row>,
    bytes: usize,
    /// What lies below is in the log for good.
    durable: Offset,
    /// Past so many bytes runs are let go. More than the bound only while too little of them is durable.
    shed_past: usize,
    /// The highest epoch ever given here, to whomever: an epoch is never given twice, also not to a forgotten name.
    last_epoch: u64,
    limits: DedupLimits,
    mutations: Mutations,
}

impl Dedup {
    pub(crate) fn new(limits: DedupLimits) -> Self {
        let shed_past = limits.bytes_max;
        Self {
            rows: HashMap::new(),
            bytes: 0,
            durable: Offset::ZERO,
            shed_past,
            last_epoch: 0,
            limits,
            mutations: Mutations::NONE,
        }
    }

    /// Puts a bug into it.
    pub(crate) const fn plant(&mut self, mutations: Mutations) {
        self.mutations = mutations;
    }

    /// Whether no producer is known: then the log needs no replay and no checkpoint.
    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The highest epoch ever given.
    pub(crate) const fn last_epoch(&self) -> u64 {
        self.last_epoch
    }

    /// The log is confirmed up to `end`: runs below it may be forgotten when memory is short.
    pub(crate) fn confirmed(&mut self, end: Offset) {
        self.durable = self.durable.max(end);
    }

    /// Judges a batch that would be appended at `at`.
    pub(crate) fn judge(&mut self, stamp: &ProducerStamp, batch: &BatchHeader, at: Offset, now: (Mono, Timestamp)) -> Verdict {
        let unknown = || {
            let text = format!("producer {} has not claimed this partition under epoch {}", stamp.name, stamp.epoch);
            Verdict::Refused(Fault::new(FaultKind::FailedPrecondition, "PRODUCER_UNKNOWN", text))
        };
        let Some(row) = self.rows.get_mut(&stamp.name) else { return unknown() };
        let producer = &mut row.producer;
        if stamp.epoch < producer.epoch {
            let text = format!("a newer producer named {} has claimed this partition", stamp.name);
            return Verdict::Refused(Fault::new(FaultKind::Fenced, "PRODUCER_FENCED", text));
        }
        if stamp.epoch > producer.epoch || !row.usable {
            return unknown();
        }
        let (first, next) = (batch.first_sequence, producer.next_sequence);
        let Some(end) = first.checked_add(u64::from(batch.count)) else {
            let text = format!("sequence {first} and {} messages do not fit 64 bits", batch.count);
            return Verdict::Refused(Fault::invalid("batch.first_sequence", "SEQUENCE_OVERFLOW", text));
        };
        if first == next || (first > next && self.mutations.has(Mutation::SequenceGapAccepted)) {
            let before = producer.bytes();
            producer.push(Run { first_sequence: first, first_offset: at, count: u64::from(batch.count) }, self.durable);
            producer.active = now.1;
            self.bytes = self.bytes + producer.bytes() - before;
            row.dirty = true;
            row.heard = now.0;
            self.shed_runs();
            return Verdict::Append;
        }
        if first > next {
            let text = format!("sequence {first} leaves a gap: the next one here is {next}");
            return Verdict::Refused(Fault::new(FaultKind::FailedPrecondition, "SEQUENCE_GAP", text));
        }
        if end > next {
            // D4: part of it is new. It is opaque, so it can't be split here.
            let text = format!("sequences {first} to {end} (excluded) are in the log up to {next}");
            return Verdict::Refused(Fault::new(FaultKind::FailedPrecondition, "SEQUENCE_OVERLAP", text));
        }
        let run = producer.runs.iter().rev().find(|run| run.first_sequence <= first);
        match run {
            Some(run) if end <= run.first_sequence + run.count => {
                Verdict::Duplicate { first_offset: Offset::new(run.first_offset.get() + (first - run.first_sequence)) }
            }
            Some(_) => {
                let text = format!("sequences {first} to {end} (excluded) are in the log, batched otherwise");
                Verdict::Refused(Fault::new(FaultKind::AlreadyExists, "SEQUENCE_REBATCHED", text))
            }
            None => {
                let text = format!("sequence {first} is in the log, so far back that its offset is not remembered");
                Verdict::Refused(Fault::new(FaultKind::AlreadyExists, "DUPLICATE_TOO_OLD", text))
            }
        }
    }

    /// Gives `name` a new epoch and forgets whoever was silent too long, or longest where memory is short. Older epochs of
    /// the name are refused from now on (D5). `last_epoch` is what the client held before.
    pub(crate) fn claim(&mut self, name: &ProducerName, last_epoch: Option<u64>, now: (Mono, Timestamp)) -> Granted {
        let mut gone = self.forget_silent(now.0);
        let known = self.rows.get(name).map(|row| row.producer.first_epoch);
        let forgotten = last_epoch.is_some_and(|last| known.is_none_or(|first| last < first) || last > self.last_epoch);
        let claim = Claim { name: name.clone(), epoch: self.last_epoch + 1, fresh: known.is_none() };
        gone.extend(self.claimed(&claim, now));
        if let Some(row) = self.rows.get_mut(name) {
            row.usable = false;
        }
        Granted { claim, forgotten, gone }
    }

    /// Takes a claim over, from a state ledger or from [`Dedup::claim`]; says who had to go for it.
    pub(crate) fn claimed(&mut self, claim: &Claim, now: (Mono, Timestamp)) -> Vec<ProducerName> {
        self.last_epoch = self.last_epoch.max(claim.epoch);
        if claim.fresh {
            self.forget(&claim.name);
            let producer = Producer {
                name: claim.name.clone(),
                first_epoch: claim.epoch,
                epoch: claim.epoch,
                next_sequence: 0,
                active: now.1,
                runs: VecDeque::new(),
            };
            self.insert(producer, now.0, true);
            return self.make_room(&claim.name);
        }
        // Whoever is not known here, though it once was, had to go when this was read: it stays unknown (D7).
        if let Some(row) = self.rows.get_mut(&claim.name) {
            row.producer.epoch = claim.epoch;
            row.producer.active = row.producer.active.max(now.1);
            row.heard = now.0;
            row.dirty = true;
        }
        Vec::new()
    }

    /// The claim is durable. The sequence answered is the last one, if there is any; the caller answers once everything
    /// that was on its way before the claim is durable too. `None` when a newer claim has come since.
    pub(crate) fn claim_durable(&mut self, claim: &Claim) -> Option<Option<u64>> {
        let row = self.rows.get_mut(&claim.name).filter(|row| row.producer.epoch == claim.epoch)?;
        row.usable = true;
        Some(row.producer.next_sequence.checked_sub(1))
    }

    /// Takes a row of a snapshot or a checkpoint over.
    pub(crate) fn restore(&mut self, producer: Producer, now: Mono) {
        self.last_epoch = self.last_epoch.max(producer.epoch);
        self.forget(&producer.name);
        // Only what was durable was written down.
        self.durable = self.durable.max(producer.runs.back().map_or(Offset::ZERO, |run| run.end()));
        let name = producer.name.clone();
        self.insert(producer, now, false);
        self.make_room(&name);
    }

    /// Takes the highest epoch of a snapshot over.
    pub(crate) fn restore_epoch(&mut self, last_epoch: u64) {
        self.last_epoch = self.last_epoch.max(last_epoch);
    }

    /// Takes a header of the log over, from the position that the snapshot covers (D3, D7).
    pub(crate) fn replay(&mut self, header: &EntryHeader, now: Mono) {
        let mut at = header.first_offset;
        for batch in &header.batches {
            let count = u64::from(batch.header.count);
            if let Some(stamp) = &batch.producer
                && let Some(row) = self.rows.get_mut(&stamp.name)
                && stamp.epoch >= row.producer.first_epoch
                && batch.header.first_sequence >= row.producer.next_sequence
            {
                let before = row.producer.bytes();
                let run = Run { first_sequence: batch.header.first_sequence, first_offset: at, count };
                row.producer.push(run, self.durable);
                row.producer.active = header.server_time;
                row.heard = now;
                row.dirty = true;
                self.bytes = self.bytes + row.producer.bytes() - before;
            }
            at = Offset::new(at.get() + count);
        }
        self.confirmed(at);
        self.shed_runs();
    }

    /// What was judged as appended from `end` on never was: forgets it.
    pub(crate) fn forget_after(&mut self, end: Offset) {
        for row in self.rows.values_mut() {
            if row.producer.runs.back().is_some_and(|run| run.end() > end) {
                self.bytes -= row.producer.bytes();
                row.producer = row.producer.as_of(end);
                self.bytes += row.producer.bytes();
            }
        }
    }

    /// Everything that is known when the log ends at `end`.
    pub(crate) fn snapshot(&self, end: Offset) -> Vec<Producer> {
        self.rows.values().map(|row| row.producer.as_of(end)).collect()
    }

    /// What is known of those that changed since the last call, when the log ends at `end`.
    pub(crate) fn changed(&mut self, end: Offset) -> Vec<Producer> {
        let mut changed = Vec::new();
        for row in self.rows.values_mut().filter(|row| row.dirty) {
            let known = row.producer.as_of(end);
            row.dirty = known.next_sequence != row.producer.next_sequence;
            changed.push(known);
        }
        changed
    }

    fn insert(&mut self, producer: Producer, heard: Mono, dirty: bool) {
        self.bytes += producer.bytes();
        let row = Row { usable: true, dirty, heard, producer };
        self.rows.insert(row.producer.name.clone(), row);
    }

    /// Whoever it is is not known any more.
    pub(crate) fn forget(&mut self, name: &ProducerName) {
        if let Some(row) = self.rows.remove(name) {
            self.bytes -= row.producer.bytes();
        }
    }

    fn forget_silent(&mut self, now: Mono) -> Vec<ProducerName> {
        let expiry = self.limits.expiry;
        let silent: Vec<ProducerName> =
            self.rows.iter().filter(|(_, row)| now.since(row.heard) >= expiry).map(|(name, _)| name.clone()).collect();
        for name in &silent {
            self.forget(name);
        }
        silent
    }

    /// Lets the oldest eighth of memory go while the runs are over the bound: what is repeated of them is refused as too old. One
    /// pass pays for as many appends as it frees runs.
    ///
    /// What is not durable yet stays: a batch in flight, and so bounded by the budget of what is on its way in.
    fn shed_runs(&mut self) {
        if self.bytes <= self.shed_past {
            return;
        }
        let (bound, eighth) = (self.limits.bytes_max, self.limits.bytes_max / 8);
        let durable = self.durable;
        let mut ends: Vec<Offset> =
            self.rows.values().flat_map(|row| &row.producer.runs).map(|run| run.end()).filter(|end| *end <= durable).collect();
        let wanted = (self.bytes - (bound - eighth)).div_ceil(size_of::<Run>()).min(ends.len());
        if let Some(last) = wanted.checked_sub(1) {
            let (_, cut, _) = ends.select_nth_unstable(last);
            for row in self.rows.values_mut() {
                let before = row.producer.bytes();
                while row.producer.runs.pop_front_if(|oldest| oldest.end() <= *cut).is_some() {}
                if row.producer.bytes() < before {
                    row.producer.runs.shrink_to_fit();
                    self.bytes -= before - row.producer.bytes();
                }
            }
        }
        self.shed_past = bound.max(self.bytes + eighth);
    }

    /// Forgets the longest silent ones while the map is over its bound though old runs are gone, but never `keep`.
    fn make_room(&mut self, keep: &ProducerName) -> Vec<ProducerName> {
        self.shed_runs();
        let mut gone = Vec::new();
        if self.bytes <= self.limits.bytes_max {
            return gone;
        }
        let mut order: Vec<(Mono, Timestamp, ProducerName)> =
            self.rows.values().map(|row| (row.heard, row.producer.active, row.producer.name.clone())).collect();
        order.sort();
        let target = self.limits.bytes_max - self.limits.bytes_max / 8;
        for (_, _, name) in order {
            if self.bytes <= target {
                break;
            }
            if name != *keep {
                self.forget(&name);
                gone.push(name);
            }
        }
        self.shed_past = self.limits.bytes_max;
        gone
    }
}

#[cfg(test)]
mod tests {
    use alluvium_types::checksum::Crc32c;
    use alluvium_types::entry::BatchDescriptor;
    use proptest::prelude::*;

    use super::*;

    const LIMITS: DedupLimits = DedupLimits { bytes_max: 1 << 20, expiry: Duration::from_secs(3600) };

    fn name(text: &str) -> ProducerName {
        ProducerName::parse(text).expect("valid")
    }

    fn at(seconds: u64) -> (Mono, Timestamp) {
        (Mono::from_duration(Duration::from_secs(seconds)), Timestamp::from_millis(seconds * 1000))
    }

    fn claim(dedup: &mut Dedup, producer: &str, last: Option<u64>) -> (u64, bool) {
        let granted = dedup.claim(&name(producer), last, at(0));
        dedup.claim_durable(&granted.claim).expect("newest");
        (granted.claim.epoch, granted.forgotten)
    }

    fn judge(dedup: &mut Dedup, producer: &str, epoch: u64, first_sequence: u64, count: u32, offset: u64) -> Verdict {
        let batch = BatchHeader { count, first_sequence, ..BatchHeader::default() };
        dedup.judge(&ProducerStamp { name: name(producer), epoch }, &batch, Offset::new(offset), at(1))
    }

    /// The header of an entry with one batch of one message.
    fn header(producer: &str, epoch: u64, first_sequence: u64, offset: u64) -> EntryHeader {
        let header = BatchHeader { count: 1, first_sequence, ..BatchHeader::default() };
        let producer = Some(ProducerStamp { name: name(producer), epoch });
        let batches = vec![BatchDescriptor { header, checksum: Crc32c::EMPTY, blob_bytes: 0, producer }];
        EntryHeader { first_offset: Offset::new(offset), server_time: at(1).1, batches }
    }

    fn reason(verdict: Verdict) -> &'static str {
        match verdict {
            Verdict::Append => "append",
            Verdict::Duplicate { .. } => "duplicate",
            Verdict::Refused(fault) => fault.reason,
        }
    }

    #[test]
    fn d6_only_the_next_sequence_is_accepted() {
        let mut dedup = Dedup::new(LIMITS);
        let (epoch, _) = claim(&mut dedup, "p", None);
        assert_eq!(reason(judge(&mut dedup, "p", epoch, 0, 5, 0)), "append");
        // Batch 5 was refused for another reason; 6 is in flight behind it.
        assert_eq!(reason(judge(&mut dedup, "p", epoch, 6, 1, 5)), "SEQUENCE_GAP");
        assert_eq!(reason(judge(&mut dedup, "p", epoch, 5, 1, 5)), "append");
        assert_eq!(reason(judge(&mut dedup, "p", epoch, 6, 1, 6)), "append");
    }

    #[test]
    fn d1_a_repeated_batch_is_told_the_offset_of_its_original() {
        let mut dedup = Dedup::new(LIMITS);
        let (epoch, _) = claim(&mut dedup, "p", None);
        // Others append in between, so the runs do not merge.
        for (sequence, offset) in [(0, 100), (10, 200), (20, 210)] {
            assert_eq!(judge(&mut dedup, "p", epoch, sequence, 10, offset), Verdict::Append);
        }
        for (sequence, offset) in [(0, 100), (10, 200), (20, 210)] {
            let original = Verdict::Duplicate { first_offset: Offset::new(offset) };
            assert_eq!(judge(&mut dedup, "p", epoch, sequence, 10, 999), original);
        }
        assert_eq!(reason(judge(&mut dedup, "p", epoch, 5, 10, 999)), "SEQUENCE_REBATCHED");
    }

    #[test]
    fn d4_a_partly_duplicate_batch_is_refused_not_dropped() {
        let mut dedup = Dedup::new(LIMITS);
        let (epoch, _) = claim(&mut dedup, "p", None);
        judge(&mut dedup, "p", epoch, 0, 10, 0);
        assert_eq!(reason(judge(&mut dedup, "p", epoch, 5, 10, 10)), "SEQUENCE_OVERLAP");
        assert_eq!(reason(judge(&mut dedup, "p", epoch, u64::MAX, 10, 10)), "SEQUENCE_OVERFLOW");
    }

    #[test]
    fn d5_of_two_producers_of_one_name_only_the_newest_appends() {
        let mut dedup = Dedup::new(LIMITS);
        let (old, _) = claim(&mut dedup, "p", None);
        judge(&mut dedup, "p", old, 0, 3, 0);
        let Granted { claim, forgotten, .. } = dedup.claim(&name("p"), None, at(1));
        assert!(!forgotten);
        assert_eq!(reason(judge(&mut dedup, "p", old, 3, 1, 3)), "PRODUCER_FENCED");
        assert_eq!(reason(judge(&mut dedup, "p", claim.epoch, 3, 1, 3)), "PRODUCER_UNKNOWN", "not durable yet");
        assert_eq!(dedup.claim_durable(&claim), Some(Some(2)), "sequences go on");
        assert_eq!(reason(judge(&mut dedup, "p", claim.epoch, 3, 1, 3)), "append");
    }

    #[test]
    fn d7_an_unknown_producer_is_refused_never_taken_as_new() {
        let mut dedup = Dedup::new(LIMITS);
        assert_eq!(reason(judge(&mut dedup, "p", 1, 0, 1, 0)), "PRODUCER_UNKNOWN");
        let (epoch, _) = claim(&mut dedup, "p", None);
        assert_eq!(reason(judge(&mut dedup, "p", epoch + 1, 0, 1, 0)), "PRODUCER_UNKNOWN");
        // Silent for too long: forgotten, and its epoch is worth nothing.
        assert_eq!(dedup.claim(&name("q"), None, at(4000)).gone, [name("p")]);
        assert_eq!(reason(judge(&mut dedup, "p", epoch, 0, 1, 0)), "PRODUCER_UNKNOWN");
        let Granted { claim: again, forgotten, .. } = dedup.claim(&name("p"), Some(epoch), at(4000));
        assert!(forgotten && again.fresh && again.epoch > epoch);
        // Somebody else took the name in between: what was sent before that is forgotten too.
        assert!(dedup.claim(&name("p"), Some(epoch), at(4000)).forgotten);
        assert!(!dedup.claim(&name("p"), Some(again.epoch), at(4000)).forgotten);
    }

    #[test]
    fn d7_the_map_stays_within_its_bytes() {
        let limits = DedupLimits { bytes_max: 20_000, ..LIMITS };
        let mut dedup = Dedup::new(limits);
        for n in 0..1000 {
            let granted = dedup.claim(&name(&format!("p{n}")), None, at(n));
            assert_eq!(dedup.claim_durable(&granted.claim), Some(None), "the newest one is never the one to go");
            assert!(dedup.bytes <= limits.bytes_max);
        }
        assert_eq!(reason(judge(&mut dedup, "p0", 1, 0, 1, 0)), "PRODUCER_UNKNOWN");

        // Producers that take turns merge no runs, here and where their log is replayed.
        let mut live = Dedup::new(limits);
        let names: Vec<String> = (0..20).map(|n| format!("q{n}")).collect();
        let epochs: Vec<u64> = names.iter().map(|name| claim(&mut live, name, None).0).collect();
        let mut rebuilt = Dedup::new(limits);
        for row in live.snapshot(Offset::ZERO) {
            rebuilt.restore(row, Mono::default());
        }
        let mut end = 0;
        for sequence in 0..2000 {
            for (name, epoch) in names.iter().zip(&epochs) {
                assert_eq!(judge(&mut live, name, *epoch, sequence, 1, end), Verdict::Append);
                rebuilt.replay(&header(name, *epoch, sequence, end), Mono::default());
                end += 1;
                live.confirmed(Offset::new(end));
                assert!(live.bytes <= limits.bytes_max && rebuilt.bytes <= limits.bytes_max);
            }
        }
        for dedup in [&mut live, &mut rebuilt] {
            assert_eq!(dedup.bytes, dedup.rows.values().map(|row| row.producer.bytes()).sum::<usize>());
            let newest = Verdict::Duplicate { first_offset: Offset::new(end - 1) };
            assert_eq!(judge(dedup, "q19", epochs[19], 1999, 1, end), newest, "the oldest runs go first");
            assert_eq!(reason(judge(dedup, "q19", epochs[19], 0, 1, end)), "DUPLICATE_TOO_OLD");
            assert_eq!(reason(judge(dedup, "q19", epochs[19], 2000, 1, end)), "append");
        }
    }

    #[test]
    fn d7_what_is_not_durable_is_not_forgotten() {
        // Runs in flight were dropped like others: a snapshot then took what was never stored for what was.
        let limits = DedupLimits { bytes_max: 20_000, ..LIMITS };
        let mut dedup = Dedup::new(limits);
        let (epoch, _) = claim(&mut dedup, "p", None);
        for sequence in 0..2 * RUNS_MAX as u64 {
            assert_eq!(judge(&mut dedup, "p", epoch, sequence, 1, 2 * sequence), Verdict::Append);
        }
        let known = dedup.snapshot(Offset::new(2 * 10)).pop().expect("one producer");
        assert_eq!((known.next_sequence, known.runs.len()), (10, 10));
        dedup.confirmed(Offset::new(4 * RUNS_MAX as u64));
        let known = dedup.snapshot(Offset::new(4 * RUNS_MAX as u64)).pop().expect("one producer");
        assert_eq!((known.next_sequence, known.runs.len()), (2 * RUNS_MAX as u64, RUNS_MAX), "as many as are remembered");
        dedup.forget_after(Offset::new(2 * 10));
        assert_eq!(reason(judge(&mut dedup, "p", epoch, 10, 1, 20)), "append");
        judge(&mut dedup, "p", epoch, 11, 1, 40);
        assert!(dedup.bytes <= limits.bytes_max);
    }

    #[test]
    fn a_snapshot_holds_only_what_is_confirmed() {
        let mut dedup = Dedup::new(LIMITS);
        let (epoch, _) = claim(&mut dedup, "p", None);
        judge(&mut dedup, "p", epoch, 0, 10, 0);
        judge(&mut dedup, "p", epoch, 10, 10, 50);
        let known = dedup.snapshot(Offset::new(10)).pop().expect("one producer");
        assert_eq!((known.next_sequence, known.runs.len()), (10, 1));
        let known = dedup.snapshot(Offset::ZERO).pop().expect("one producer");
        assert_eq!((known.next_sequence, known.runs.len()), (0, 0));
        let known = dedup.changed(Offset::new(10)).pop().expect("it is dirty");
        assert_eq!(known.next_sequence, 10);
        let known = dedup.changed(Offset::new(60)).pop().expect("still dirty: part of it was on its way");
        assert_eq!(known.next_sequence, 20);
        assert_eq!(dedup.changed(Offset::new(60)), []);
    }

    proptest! {
        #[test]
        fn d3_the_map_is_a_function_of_the_log(
            batches in proptest::collection::vec((0_usize..3, 1_u32..4), 1..80),
            cut in any::<proptest::sample::Index>(),
        ) {
            let names = ["a", "b", "c"];
            let mut live = Dedup::new(LIMITS);
            let epochs: Vec<u64> = names.iter().map(|n| claim(&mut live, n, None).0).collect();
            let mut next = [0_u64; 3];
            let mut end = 0;
            let mut headers = Vec::new();
            let mut snapshots = vec![(0, live.snapshot(Offset::ZERO))];
            for (who, count) in batches {
                prop_assert_eq!(judge(&mut live, names[who], epochs[who], next[who], count, end), Verdict::Append);
                let header = BatchHeader { count, first_sequence: next[who], ..BatchHeader::default() };
                let producer = Some(ProducerStamp { name: name(names[who]), epoch: epochs[who] });
                headers.push(EntryHeader {
                    first_offset: Offset::new(end),
                    server_time: at(1).1,
                    batches: vec![BatchDescriptor { header, checksum: Crc32c::EMPTY, blob_bytes: 0, producer }],
                });
                next[who] += u64::from(count);
                end += u64::from(count);
                snapshots.push((headers.len(), live.snapshot(Offset::new(end))));
            }
            let (from, rows) = cut.get(&snapshots).clone();
            let mut rebuilt = Dedup::new(LIMITS);
            for row in rows {
                rebuilt.restore(row, Mono::default());
            }
            for header in &headers[from..] {
                rebuilt.replay(header, Mono::default());
            }
            let sorted = |dedup: &Dedup| {
                let mut rows = dedup.snapshot(Offset::new(end));
                rows.sort_by(|a, b| a.name.cmp(&b.name));
                rows
            };
            let (mut expected, mut found) = (sorted(&live), sorted(&rebuilt));
            for row in expected.iter_mut().chain(&mut found) {
                row.active = Timestamp::default();
            }
            prop_assert_eq!(found, expected);
            prop_assert_eq!(rebuilt.last_epoch(), live.last_epoch());
        }
    }
}
