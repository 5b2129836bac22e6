//! The bytes of a state ledger's entries (`docs/formats/state-ledger.md`).

use std::collections::VecDeque;

use alluvium_types::entry::KIND_STATE;
use alluvium_types::ids::Offset;
use alluvium_types::names::ProducerName;
use alluvium_types::time::{Mono, Timestamp};
use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::mutation::{Mutation, Mutations};
use crate::publish::dedup::{Claim, Dedup, DedupLimits, Producer, RUNS_MAX, Run};
use crate::topic::hosted::CorruptState;

/// The version written here; those before, which lack one thing or another, are read as well.
const VERSION: u8 = 3;
const HEAD_BYTES: usize = 8;
const RECORD_HEAD_BYTES: usize = 5;
/// The kind of the record that begins a snapshot. It stands first in its entry.
const BEGIN: u8 = 1;

/// One record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum StateRecord {
    /// A snapshot begins.
    Begin {
        /// All producers' messages before this offset are in it.
        covers: Offset,
        /// The highest producer epoch ever given.
        last_epoch: u64,
    },
    /// All that is known of a producer.
    Producer(Producer),
    /// The subscriptions' own.
    Subscriptions(Bytes),
    /// The snapshot is complete.
    End {
        /// Its records, from `Begin` to this one.
        records: u32,
    },
    /// A producer's name is claimed anew.
    Claim(Claim),
    /// All producers' messages before this offset are in the records so far.
    Covered(Offset),
    /// A producer is not known any more.
    Forgotten(ProducerName),
}

impl StateRecord {
    const fn kind(&self) -> u8 {
        match self {
            Self::Begin { .. } => BEGIN,
            Self::Producer(_) => 2,
            Self::Subscriptions(_) => 3,
            Self::End { .. } => 4,
            Self::Claim(_) => 5,
            Self::Covered(_) => 6,
            Self::Forgotten(_) => 7,
        }
    }

    fn payload_bytes(&self) -> usize {
        match self {
            Self::Begin { .. } => 16,
            Self::Producer(producer) => 38 + producer.name.as_str().len() + 24 * producer.runs.len(),
            Self::Subscriptions(bytes) => bytes.len(),
            Self::End { .. } => 4,
            Self::Claim(claim) => 9 + claim.name.as_str().len(),
            Self::Covered(_) => 8,
            Self::Forgotten(name) => name.as_str().len(),
        }
    }

    /// Bytes in an entry.
    pub(crate) fn bytes(&self) -> usize {
        RECORD_HEAD_BYTES + self.payload_bytes()
    }

    fn encode(&self, out: &mut BytesMut) {
        out.put_u8(self.kind());
        out.put_u32_le(u32::try_from(self.payload_bytes()).expect("a record is bounded far below 4 GiB"));
        match self {
            Self::Begin { covers, last_epoch } => {
                out.put_u64_le(covers.get());
                out.put_u64_le(*last_epoch);
            }
            Self::Producer(producer) => {
                out.put_u64_le(producer.first_epoch);
                out.put_u64_le(producer.epoch);
                out.put_u64_le(producer.next_sequence);
                out.put_u64_le(producer.active.as_millis());
                let name = producer.name.as_str().as_bytes();
                out.put_u16_le(u16::try_from(name.len()).expect("a name has at most 64 bytes"));
                out.put_u32_le(u32::try_from(producer.runs.len()).expect("runs are bounded"));
                out.put_slice(name);
                for run in &producer.runs {
                    out.put_u64_le(run.first_sequence);
                    out.put_u64_le(run.first_offset.get());
                    out.put_u64_le(run.count);
                }
            }
            Self::Subscriptions(bytes) => out.put_slice(bytes),
            Self::End { records } => out.put_u32_le(*records),
            Self::Claim(claim) => {
                out.put_u64_le(claim.epoch);
                out.put_u8(u8::from(claim.fresh));
                out.put_slice(claim.name.as_str().as_bytes());
            }
            Self::Covered(offset) => out.put_u64_le(offset.get()),
            Self::Forgotten(name) => out.put_slice(name.as_str().as_bytes()),
        }
    }

    fn decode(kind: u8, mut at: Bytes) -> Result<Self, CorruptState> {
        let short = |at: &Bytes, bytes: usize| {
            if at.len() < bytes { Err(corrupt("a record is cut short")) } else { Ok(()) }
        };
        let record = match kind {
            BEGIN => {
                short(&at, 16)?;
                Self::Begin { covers: Offset::new(at.get_u64_le()), last_epoch: at.get_u64_le() }
            }
            2 => Self::Producer(decode_producer(&mut at)?),
            3 => Self::Subscriptions(std::mem::take(&mut at)),
            4 => {
                short(&at, 4)?;
                Self::End { records: at.get_u32_le() }
            }
            5 => {
                short(&at, 9)?;
                let epoch = at.get_u64_le();
                let fresh = at.get_u8() != 0;
                Self::Claim(Claim { name: name(&std::mem::take(&mut at))?, epoch, fresh })
            }
            6 => {
                short(&at, 8)?;
                Self::Covered(Offset::new(at.get_u64_le()))
            }
            7 => Self::Forgotten(name(&std::mem::take(&mut at))?),
            _ => return Err(CorruptState(format!("record kind {kind} is not one this version reads"))),
        };
        if at.has_remaining() { Err(corrupt("a record is longer than it should be")) } else { Ok(record) }
    }
}

fn corrupt(problem: &str) -> CorruptState {
    CorruptState(problem.to_owned())
}

fn name(bytes: &[u8]) -> Result<ProducerName, CorruptState> {
    let text = std::str::from_utf8(bytes).map_err(|_| corrupt("a producer's name is not text"))?;
    ProducerName::parse(text).map_err(|error| CorruptState(error.to_string()))
}

fn decode_producer(at: &mut Bytes) -> Result<Producer, CorruptState> {
    if at.len() < 38 {
        return Err(corrupt("a producer is cut short"));
    }
    let (first_epoch, epoch, next_sequence) = (at.get_u64_le(), at.get_u64_le(), at.get_u64_le());
    let active = Timestamp::from_millis(at.get_u64_le());
    let name_bytes = usize::from(at.get_u16_le());
    let runs = at.get_u32_le() as usize;
    if runs > RUNS_MAX || at.len() != name_bytes + 24 * runs {
        return Err(corrupt("a producer's length contradicts its fields"));
    }
    let name = name(&at.split_to(name_bytes))?;
    let run = |at: &mut Bytes| Run {
        first_sequence: at.get_u64_le(),
        first_offset: Offset::new(at.get_u64_le()),
        count: at.get_u64_le(),
    };
    let runs: VecDeque<Run> = (0..runs).map(|_| run(at)).collect();
    let sound =
        |run: &Run| run.first_sequence.checked_add(run.count).is_some() && run.first_offset.checked_add(run.count).is_some();
    if !runs.iter().all(sound) {
        return Err(corrupt("a producer's run does not fit 64 bits"));
    }
    Ok(Producer { name, first_epoch, epoch, next_sequence, active, runs })
}

/// Packs records into bodies of about `entry_bytes`; a record is never split.
pub(crate) fn encode(records: &[StateRecord], entry_bytes: usize) -> Vec<Bytes> {
    let mut bodies = Vec::new();
    let mut from = 0;
    while from < records.len() {
        let mut bytes = HEAD_BYTES;
        let mut to = from;
        while to < records.len() && (to == from || bytes + records[to].bytes() <= entry_bytes) {
            bytes += records[to].bytes();
            to += 1;
        }
        let mut body = BytesMut::with_capacity(bytes);
        body.put_u8(KIND_STATE);
        body.put_u8(VERSION);
        body.put_u16_le(0);
        body.put_u32_le(u32::try_from(to - from).expect("records of an entry are bounded by its bytes"));
        for record in &records[from..to] {
            record.encode(&mut body);
        }
        bodies.push(body.freeze());
        from = to;
    }
    bodies
}

/// The records of a body. Never panics on any input.
pub(crate) fn decode(body: &Bytes) -> Result<Vec<StateRecord>, CorruptState> {
    let mut at = body.clone();
    if at.len() < HEAD_BYTES {
        return Err(corrupt("an entry is cut short"));
    }
    let (kind, version) = (at.get_u8(), at.get_u8());
    if kind != KIND_STATE {
        return Err(CorruptState(format!("an entry of kind {kind} stands in a state ledger")));
    }
    if version > VERSION {
        return Err(CorruptState(format!(
            "version {version} of the state format is newer than {VERSION}, the newest known here"
        )));
    }
    at.advance(2);
    let count = at.get_u32_le();
    let mut records = Vec::new();
    for _ in 0..count {
        if at.len() < RECORD_HEAD_BYTES {
            return Err(corrupt("an entry holds fewer records than it says"));
        }
        let kind = at.get_u8();
        let length = at.get_u32_le() as usize;
        if at.len() < length {
            return Err(corrupt("a record is cut short"));
        }
        records.push(StateRecord::decode(kind, at.split_to(length))?);
    }
    if at.has_remaining() { Err(corrupt("an entry holds more than its records")) } else { Ok(records) }
}

/// What a state ledger says.
#[derive(Debug)]
pub(crate) struct Restored {
    /// The producers, as far as `covers`.
    pub(crate) dedup: Dedup,
    /// Producers' messages from this offset on must be read from the log.
    pub(crate) covers: Offset,
    /// The subscriptions' snapshot and deltas.
    pub(crate) subscriptions: Vec<Bytes>,
}

impl Restored {
    /// What a partition without a state ledger has.
    pub(crate) fn nothing(limits: DedupLimits) -> Self {
        Self { dedup: Dedup::new(limits), covers: Offset::ZERO, subscriptions: Vec::new() }
    }

    /// From the bodies of a closed state ledger, in order, from its head or from a snapshot within it. One without a complete snapshot
    /// is corrupt: it is never current.
    pub(crate) fn read(bodies: &[Bytes], limits: DedupLimits, now: Mono, mutations: Mutations) -> Result<Self, CorruptState> {
        let mut known: Option<Self> = None;
        // A claim does not say when it was: at least as late as what is known before it.
        let mut newest = Timestamp::default();
        // The snapshot that is being read, and how many records it has had. Until it ends, what was known before it is what is known.
        let mut snapshot: Option<(Self, u32)> = None;
        for body in bodies {
            for (at, record) in decode(body)?.into_iter().enumerate() {
                if matches!(record, StateRecord::Begin { .. }) {
                    if at > 0 || snapshot.is_some() {
                        return Err(corrupt("a snapshot begins where it should not"));
                    }
                    snapshot = Some((Self::nothing(limits), 0));
                }
                let (state, seen) = match (&mut snapshot, &mut known) {
                    (Some((state, seen)), _) => {
                        *seen = seen.saturating_add(1);
                        (state, Some(*seen))
                    }
                    (None, Some(state)) => (state, None),
                    (None, None) => return Err(corrupt("a snapshot does not stand at the head of its ledger")),
                };
                match record {
                    StateRecord::Begin { covers, last_epoch } => {
                        state.covers = covers;
                        state.dedup.restore_epoch(last_epoch);
                    }
                    StateRecord::Producer(producer) => {
                        newest = newest.max(producer.active);
                        state.dedup.restore(producer, now);
                    }
                    StateRecord::Subscriptions(bytes) => state.subscriptions.push(bytes),
                    StateRecord::End { records } if Some(records) == seen => known = snapshot.take().map(|(state, _)| state),
                    StateRecord::End { .. } => return Err(corrupt("a snapshot ends where it should not")),
                    StateRecord::Claim(claim) => {
                        state.dedup.claimed(&claim, (now, newest));
                    }
                    StateRecord::Forgotten(name) => state.dedup.forget(&name),
                    StateRecord::Covered(offset) => state.covers = state.covers.max(offset),
                }
            }
        }
        if mutations.has(Mutation::TornSnapshotCounts) {
            known = snapshot.map(|(state, _)| state).or(known);
        }
        known.ok_or_else(|| corrupt("the snapshot is not complete"))
    }
}

/// Where the newest complete snapshot among these bodies begins; what is before it need not be read.
pub(crate) fn newest_snapshot(bodies: &[Bytes], mutations: Mutations) -> Result<Option<usize>, CorruptState> {
    for (at, body) in bodies.iter().enumerate().rev() {
        if body.get(HEAD_BYTES) != Some(&BEGIN) {
            continue;
        }
        if mutations.has(Mutation::TornSnapshotCounts) {
            return Ok(Some(at));
        }
        for body in &bodies[at..] {
            if decode(body)?.iter().any(|record| matches!(record, StateRecord::End { .. })) {
                return Ok(Some(at));
            }
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use alluvium_types::batch::BatchHeader;
    use alluvium_types::checksum::Crc32c;
    use alluvium_types::entry::{BatchDescriptor, EntryHeader, ProducerStamp};
    use alluvium_types::limits::ENTRY_BYTES_TARGET;
    use proptest::prelude::*;

    use super::*;
    use crate::publish::dedup::Verdict;

    const LIMITS: DedupLimits = DedupLimits { bytes_max: 1 << 20, expiry: Duration::from_secs(3600) };

    fn packed(records: &[StateRecord]) -> Vec<Bytes> {
        encode(records, ENTRY_BYTES_TARGET)
    }

    fn read(bodies: &[Bytes]) -> Result<Restored, CorruptState> {
        Restored::read(bodies, LIMITS, Mono::default(), Mutations::NONE)
    }

    fn newest(bodies: &[Bytes]) -> Result<Option<usize>, CorruptState> {
        newest_snapshot(bodies, Mutations::NONE)
    }

    fn producer(text: &str, runs: u64) -> Producer {
        let run = |n| Run { first_sequence: 10 * n, first_offset: Offset::new(100 * n), count: 10 };
        Producer {
            name: ProducerName::parse(text).expect("valid"),
            first_epoch: 3,
            epoch: 9,
            next_sequence: 10 * runs,
            active: Timestamp::from_millis(77),
            runs: (0..runs).map(run).collect(),
        }
    }

    fn all_kinds() -> Vec<StateRecord> {
        vec![
            StateRecord::Begin { covers: Offset::new(500), last_epoch: 12 },
            StateRecord::Producer(producer("alice", 3)),
            StateRecord::Subscriptions(Bytes::from_static(b"cursor")),
            StateRecord::End { records: 4 },
            StateRecord::Claim(Claim { name: ProducerName::parse("bob").expect("valid"), epoch: 13, fresh: true }),
            StateRecord::Subscriptions(Bytes::from_static(b"ack")),
            StateRecord::Covered(Offset::new(900)),
            StateRecord::Forgotten(ProducerName::parse("carol").expect("valid")),
        ]
    }

    #[test]
    fn a_body_decodes_to_the_records_it_was_made_of() {
        let records = all_kinds();
        let bodies = packed(&records);
        assert_eq!(bodies.len(), 1);
        assert_eq!(decode(&bodies[0]), Ok(records));
    }

    #[test]
    fn records_fill_entries_without_being_split() {
        let records: Vec<StateRecord> = (0..40).map(|n| StateRecord::Subscriptions(Bytes::from(vec![n; 40_000]))).collect();
        let bodies = packed(&records);
        assert!(bodies.len() >= 6 && bodies.iter().all(|body| body.len() <= ENTRY_BYTES_TARGET));
        let back: Vec<StateRecord> = bodies.iter().flat_map(|body| decode(body).expect("sound")).collect();
        assert_eq!(back, records);
        let giant = [StateRecord::Subscriptions(Bytes::from(vec![0; 1 << 20]))];
        assert_eq!(packed(&giant).len(), 1);
    }

    #[test]
    fn a_state_ledger_reads_back_as_what_was_known() {
        let restored = read(&packed(&all_kinds())).expect("sound");
        assert_eq!(restored.covers, Offset::new(900));
        assert_eq!(restored.dedup.last_epoch(), 13);
        assert_eq!(restored.subscriptions, [Bytes::from_static(b"cursor"), Bytes::from_static(b"ack")]);
        assert_eq!(restored.dedup.snapshot(Offset::new(10_000)).len(), 2);
    }

    #[test]
    fn c42_a_ledger_without_a_complete_snapshot_is_refused() {
        let records = all_kinds();
        for keep in 0..4 {
            assert!(read(&packed(&records[..keep])).is_err(), "{keep} records");
        }
        assert!(read(&packed(&records[1..])).is_err());
    }

    /// Bodies of a ledger: a snapshot at its head, then whatever follows.
    fn ledger(parts: &[&[StateRecord]]) -> Vec<Bytes> {
        parts.iter().flat_map(|records| packed(records)).collect()
    }

    fn ack(text: &'static str) -> StateRecord {
        StateRecord::Subscriptions(Bytes::from_static(text.as_bytes()))
    }

    fn snapshot(covers: u64, text: &'static str) -> [StateRecord; 3] {
        let begin = StateRecord::Begin { covers: Offset::new(covers), last_epoch: 12 };
        [begin, ack(text), StateRecord::End { records: 3 }]
    }

    #[test]
    fn c42_what_follows_the_newest_snapshot_is_all_that_counts() {
        let (head, later) = (snapshot(100, "head"), snapshot(200, "later"));
        let bodies = ledger(&[&head, &[ack("a")], &later, &[ack("b"), StateRecord::Covered(Offset::new(250))]]);
        assert_eq!(newest(&bodies), Ok(Some(2)));
        for from in [0, 2] {
            let restored = read(&bodies[from..]).expect("sound");
            assert_eq!(restored.covers, Offset::new(250));
            assert_eq!(restored.subscriptions, [&b"later"[..], b"b"].map(Bytes::from_static));
        }
        assert!(read(&bodies[1..]).is_err(), "it does not begin with a snapshot");
        assert_eq!(newest(&bodies[3..]), Ok(None));
    }

    #[test]
    fn c42_a_snapshot_that_was_torn_counts_for_nothing() {
        let head = snapshot(100, "head");
        let big = StateRecord::Subscriptions(Bytes::from(vec![7; ENTRY_BYTES_TARGET]));
        let later =
            [StateRecord::Begin { covers: Offset::new(200), last_epoch: 13 }, big.clone(), big, StateRecord::End { records: 4 }];
        let whole = ledger(&[&head, &[ack("a")], &later]);
        let entries = whole.len() - 2;
        assert!(entries > 2);
        assert_eq!(newest(&whole), Ok(Some(2)));
        for kept in 1..entries {
            let torn = &whole[..2 + kept];
            assert_eq!(newest(torn), Ok(Some(0)), "{kept} of {entries}");
            let restored = read(torn).expect("sound");
            assert_eq!((restored.covers, restored.dedup.last_epoch()), (Offset::new(100), 12));
            assert_eq!(restored.subscriptions, [&b"head"[..], b"a"].map(Bytes::from_static));
        }
        // Nothing follows a torn snapshot, as its ledger ended with it; found otherwise, it is corrupt.
        let mut odd = whole[..3].to_vec();
        odd.extend(packed(&snapshot(300, "odd")));
        assert!(read(&odd).is_err());
    }

    #[test]
    fn a_newer_version_and_an_unknown_record_are_refused_clearly() {
        let mut body = BytesMut::from(&packed(&all_kinds())[0][..]);
        body[1] = VERSION + 1;
        let refused = decode(&body.clone().freeze()).expect_err("newer");
        assert!(refused.to_string().contains("newer"), "{refused}");
        body[1] = VERSION;
        body[8] = 99;
        assert!(decode(&body.freeze()).is_err());
    }

    proptest! {
        /// What [`Owner`](crate::topic::owner::Owner) writes down of producers that come and go, where few have room.
        #[test]
        fn d1_d7_whoever_is_forgotten_does_not_come_back_as_it_once_was(
            steps in proptest::collection::vec((0_u64..12, 0_u8..8), 1..200),
        ) {
            let limits = DedupLimits { bytes_max: 2000, expiry: Duration::from_secs(60) };
            let mut live = Dedup::new(limits);
            live.restore_epoch(12);
            let mut records = snapshot(0, "head").to_vec();
            let (mut headers, mut epochs, mut next, mut end) = (Vec::new(), [0; 12], [0; 12], 0);
            for (at, (who, what)) in (0..).zip(steps) {
                let now = (Mono::from_duration(Duration::from_secs(at)), Timestamp::from_millis(1000 * at));
                let (name, one) = (ProducerName::parse(&format!("p{who}")).expect("valid"), usize::try_from(who).expect("few"));
                match what {
                    0 | 1 => {
                        let granted = live.claim(&name, None, now);
                        records.extend(granted.gone.into_iter().map(StateRecord::Forgotten));
                        records.push(StateRecord::Claim(granted.claim.clone()));
                        next[one] = live.claim_durable(&granted.claim).expect("the newest").map_or(0, |last| last + 1);
                        epochs[one] = granted.claim.epoch;
                    }
                    2 => {
                        let known = live.changed(Offset::new(end));
                        records.extend(known.into_iter().map(StateRecord::Producer));
                        records.push(StateRecord::Covered(Offset::new(end)));
                        headers.clear();
                    }
                    _ => {
                        let producer = Some(ProducerStamp { name, epoch: epochs[one] });
                        let header = BatchHeader { count: 1, first_sequence: next[one], ..BatchHeader::default() };
                        let stamp = producer.as_ref().expect("made above");
                        if live.judge(stamp, &header, Offset::new(end), now) == Verdict::Append {
                            let batches = vec![BatchDescriptor { header, checksum: Crc32c::EMPTY, blob_bytes: 0, producer }];
                            headers.push(EntryHeader { first_offset: Offset::new(end), server_time: now.1, batches });
                            next[one] += 1;
                            end += 1;
                            live.confirmed(Offset::new(end));
                        }
                    }
                }
            }
            // Whoever reads it may have more room.
            let mut restored = read(&packed(&records)).expect("sound").dedup;
            for header in &headers {
                restored.replay(header, Mono::default());
            }
            prop_assert_eq!(restored.last_epoch(), live.last_epoch());
            let known = live.snapshot(Offset::new(end));
            for one in restored.snapshot(Offset::new(end)) {
                let same = known.iter().find(|known| known.name == one.name);
                prop_assert_eq!(same.map(|known| (known.epoch, known.next_sequence)), Some((one.epoch, one.next_sequence)), "{}", one.name);
            }
        }

        #[test]
        fn damaged_bytes_never_panic(at in any::<proptest::sample::Index>(), value in any::<u8>(), cut in 0_usize..40) {
            let mut body = BytesMut::from(&packed(&all_kinds())[0][..]);
            let index = at.index(body.len());
            body[index] = value;
            body.truncate(body.len() - cut);
            let _ = read(&[body.freeze()]);
        }
    }
}
