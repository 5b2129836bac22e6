//! The owner against ledgers that do what the test says, when it says so.

use std::collections::VecDeque;

use alluvium_metadata::segments::Sealed;
use alluvium_runtime::budget::ByteBudget;
use alluvium_types::batch::BatchHeader;
use alluvium_types::checksum::Crc32c;
use alluvium_types::entry::ProducerStamp;
use alluvium_types::names::{ProducerName, TopicName};
use tokio::sync::mpsc;

use super::*;
use crate::publish::dedup::DedupLimits;
use crate::publish::receipt::{Answer, Receipt};
use crate::topic::hosted::{CorruptState, Output};
use crate::topic::state_ledger::Which;

const LIMITS: DedupLimits = DedupLimits { bytes_max: 1 << 20, expiry: Duration::from_secs(1 << 20) };
const CONFIG: OwnerConfig = OwnerConfig {
    window_bytes: 1 << 20,
    stall_after: Duration::from_secs(5),
    answer_after: Duration::from_secs(30),
    retention_interval: Duration::from_secs(10),
    checkpoint_bytes: 1 << 20,
    release_after: Duration::from_secs(100_000),
    snapshots: Snapshots { entries: 64, entry_bytes: 256 << 10 },
};

/// Subscriptions that need all from an offset on, which is what they are told.
#[derive(Debug)]
struct OneCursor {
    at: Offset,
}

#[derive(Debug)]
struct Receipted(mpsc::Sender<Offset>, Offset);

impl Output for Receipted {
    fn perform(self) {
        self.0.try_send(self.1).expect("room");
    }
}

impl Hosted for OneCursor {
    type Input = (Offset, mpsc::Sender<Offset>);
    type Output = Receipted;

    fn restore(records: &[Bytes]) -> Result<Self, CorruptState> {
        let at = records.last().map_or(0, |last| u64::from_le_bytes(last.as_ref().try_into().expect("eight bytes")));
        Ok(Self { at: Offset::new(at) })
    }

    fn configure(&mut self, _: Mono, _: &[SubscriptionSpec], _: Bounds, _: &mut Effects<Receipted>) {}

    fn apply(&mut self, _: Mono, (to, reply): Self::Input, effects: &mut Effects<Receipted>) {
        self.at = to;
        effects.records.push(Bytes::copy_from_slice(&to.get().to_le_bytes()));
        effects.when_durable.push(Receipted(reply, to));
    }

    fn log_moved(&mut self, _: Mono, _: Bounds, _: &mut Effects<Receipted>) {}

    fn tick(&mut self, _: Mono, _: &mut Effects<Receipted>) {}

    fn next_wakeup(&self) -> Option<Mono> {
        None
    }

    fn snapshot(&self) -> Vec<Bytes> {
        vec![Bytes::copy_from_slice(&self.at.get().to_le_bytes())]
    }

    fn needs(&self, _: Offset, end: Offset) -> bool {
        end > self.at
    }

    fn is_idle(&self) -> bool {
        true
    }

    fn ended(&mut self, _: &Fault, _: &mut Effects<Receipted>) {}
}

pub(crate) struct World {
    owner: Owner<OneCursor>,
    seconds: u64,
    answers: Answers,
    heard: mpsc::Receiver<Answer>,
    budget: ByteBudget,
    /// What was asked of the ledgers and is not answered.
    data: VecDeque<LogAction>,
    state: VecDeque<StateAction>,
    shown: Vec<u64>,
    trims: Vec<Vec<u64>>,
    released: bool,
    appended: u64,
    state_appended: u64,
    next_appended: u64,
    segments: u64,
}

fn name(text: &str) -> ProducerName {
    ProducerName::parse(text).expect("valid")
}

impl World {
    fn with(retention: Retention) -> Self {
        let start = OwnerStart {
            name: PartitionName { topic: TopicName::parse("t/n/x").expect("valid"), index: PartitionIndex::default() },
            policy: PartitionPolicy { retention, rollover: Rollover { bytes: 1 << 20, age: Duration::from_secs(3600) } },
            segments: Vec::new(),
            dedup: Dedup::new(LIMITS),
            covered: Offset::ZERO,
            end: Offset::ZERO,
            server_time: Timestamp::default(),
            subscriptions: OneCursor { at: Offset::ZERO },
            retired: false,
            idle_close: Duration::from_secs(600),
            retry_after: Duration::from_secs(1),
        };
        let (answers, heard) = Answers::channel(1000);
        let mut world = Self {
            owner: Owner::new(Mono::default(), CONFIG, start),
            seconds: 1,
            answers,
            heard,
            budget: ByteBudget::new(1 << 30),
            data: VecDeque::new(),
            state: VecDeque::new(),
            shown: Vec::new(),
            trims: Vec::new(),
            released: false,
            appended: 0,
            state_appended: 0,
            next_appended: 0,
            segments: 0,
        };
        world.step();
        world
    }

    pub(crate) fn new() -> Self {
        Self::with(Retention::default())
    }

    fn now(&self) -> Mono {
        Mono::from_duration(Duration::from_secs(self.seconds))
    }

    fn wall(&self) -> Timestamp {
        Timestamp::from_millis(self.seconds * 1000)
    }

    fn step(&mut self) {
        self.owner.step(self.now(), self.wall());
        for action in self.owner.take_actions() {
            match action {
                OwnerAction::Data(action) => self.data.push_back(action),
                OwnerAction::State(action) => self.state.push_back(action),
                OwnerAction::Show(visible, bounds) => {
                    self.shown.extend(visible.iter().map(|one| one.header.server_time.as_millis()));
                    assert_eq!(bounds, self.owner.bounds());
                }
                OwnerAction::Tell(waiting) => tell(waiting),
                OwnerAction::Perform(outputs) => outputs.into_iter().for_each(Output::perform),
                OwnerAction::Trim(numbers) => self.trims.push(numbers.into_iter().map(SegmentNumber::get).collect()),
                OwnerAction::Release => self.released = true,
            }
        }
    }

    /// Answers what was asked of the data ledgers, once.
    fn serve_data(&mut self) {
        for action in std::mem::take(&mut self.data) {
            let now = self.now();
            match action {
                LogAction::Create { .. } => self.owner.data_created(now, true),
                LogAction::Append { .. } => {
                    self.appended += 1;
                    self.owner.confirmed(now, EntryId::new(self.appended - 1));
                }
                LogAction::Close => self.owner.data_closed(),
                LogAction::Seal { .. } => {
                    self.appended = 0;
                    self.segments += 1;
                    self.owner.sealed(now, SegmentNumber::new(self.segments));
                }
            }
            self.step();
        }
    }

    fn serve_state(&mut self) {
        for action in std::mem::take(&mut self.state) {
            let now = self.now();
            let state = self.owner.state();
            match action {
                StateAction::Create => state.created(now, true),
                StateAction::Append { to: Which::Current, .. } => {
                    self.state_appended += 1;
                    state.confirmed(Which::Current, self.state_appended);
                }
                StateAction::Append { to: Which::Next, .. } => {
                    self.next_appended += 1;
                    state.confirmed(Which::Next, self.next_appended);
                }
                StateAction::ReadBack(_) => state.read_back(now, true),
                StateAction::Point => {
                    self.state_appended = std::mem::take(&mut self.next_appended);
                    state.pointed(now, true);
                }
                StateAction::GiveUpNext => state.given_up(),
                StateAction::CloseOld => state.old_ended(),
                StateAction::Sweep => state.swept(now, false),
            }
            self.step();
        }
    }

    pub(crate) fn serve_all(&mut self) {
        self.step();
        while !self.data.is_empty() || !self.state.is_empty() {
            self.serve_data();
            self.serve_state();
        }
    }

    fn send(&mut self, id: u64, guarantee: Guarantee, producer: Option<(&str, u64, u64)>, bytes: usize) {
        let blob = Bytes::from(vec![7; bytes]);
        let blob_crc = Crc32c::of(&blob);
        let first_sequence = producer.map_or(0, |(_, _, sequence)| sequence);
        let header = BatchHeader { count: 1, first_sequence, ..BatchHeader::default() };
        let admitted = Admitted {
            header,
            checksum: header.checksum(blob_crc, bytes),
            blob,
            blob_crc,
            producer: producer.map(|(text, epoch, _)| ProducerStamp { name: name(text), epoch }),
            held: self.budget.try_take(bytes).expect("room"),
        };
        self.publish_as(id, guarantee, admitted);
    }

    pub(crate) fn publish(&mut self, id: u64, admitted: Admitted) {
        self.publish_as(id, Guarantee::Quorum, admitted);
    }

    fn publish_as(&mut self, id: u64, guarantee: Guarantee, admitted: Admitted) {
        let ticket = Ticket { answers: self.answers.clone(), id, partition: PartitionIndex::default(), guarantee };
        self.owner.publish(self.now(), self.wall(), PublishCommand::Batch(ticket, Ok(admitted)));
        self.step();
    }

    fn claim(&mut self, text: &str) {
        let command = PublishCommand::Claim {
            answers: self.answers.clone(),
            partition: PartitionIndex::default(),
            name: name(text),
            last_epoch: None,
        };
        self.owner.publish(self.now(), self.wall(), command);
        self.step();
    }

    fn heard(&mut self) -> Vec<Answer> {
        std::iter::from_fn(|| self.heard.try_recv().ok()).collect()
    }

    pub(crate) fn receipts(&mut self) -> Vec<(u64, Result<u64, &'static str>)> {
        let short = |receipt: Receipt| (receipt.id, receipt.result.map(|s| s.first_offset.get()).map_err(|f| f.reason));
        self.heard()
            .into_iter()
            .flat_map(|answer| match answer {
                Answer::Receipts(receipts) => receipts,
                other => panic!("nothing but batches was sent: {other:?}"),
            })
            .map(short)
            .collect()
    }

    /// Fills segments of a MiB each.
    fn fill(&mut self, segments: u64) {
        while self.segments < segments {
            self.send(0, Guarantee::Quorum, None, 200_000);
            self.serve_all();
        }
        self.heard();
    }
}

#[test]
fn receipts_come_in_order_once_their_entry_is_confirmed() {
    let mut world = World::new();
    world.send(1, Guarantee::Quorum, None, 10);
    assert_eq!(world.data, [LogAction::Create { first: Some(Offset::ZERO) }], "nothing exists before it is needed");
    world.serve_data();
    world.send(2, Guarantee::Quorum, None, 10);
    world.send(3, Guarantee::Quorum, None, 10);
    assert_eq!(world.data.len(), 1, "while one is in flight the others join");
    assert_eq!(world.receipts(), []);
    world.serve_data();
    assert_eq!(world.receipts(), [(1, Ok(0))]);
    world.serve_data();
    assert_eq!(world.receipts(), [(2, Ok(1)), (3, Ok(2))]);
    assert_eq!(world.owner.bounds(), Bounds { first: Offset::ZERO, end: Offset::new(3) });
}

#[test]
fn each_guarantee_is_told_when_it_holds() {
    let mut world = World::new();
    world.send(1, Guarantee::None, None, 10);
    assert_eq!(world.receipts(), [(1, Ok(0))]);
    world.serve_data();
    world.serve_data();
    world.send(2, Guarantee::Leader, None, 10);
    world.owner.led(EntryId::new(1));
    world.step();
    assert_eq!(world.receipts(), [(2, Ok(1))]);
    world.serve_data();
    assert_eq!(world.receipts(), []);
}

#[test]
fn c50_a_duplicate_is_told_only_when_its_original_is_durable() {
    let mut world = World::new();
    world.claim("p");
    world.serve_all();
    assert!(matches!(
        world.heard().as_slice(),
        [Answer::Claimed { result: Ok(Claimed { epoch: 1, last_sequence: None, .. }), .. }]
    ));
    world.send(1, Guarantee::Quorum, Some(("p", 1, 0)), 10);
    world.send(2, Guarantee::Quorum, Some(("p", 1, 0)), 10);
    assert_eq!(world.receipts(), [], "the original is in flight");
    world.serve_data();
    assert_eq!(world.receipts(), [(1, Ok(0)), (2, Ok(0))]);
    // D6: what follows a refused one is refused, and told in its turn.
    world.send(3, Guarantee::Quorum, Some(("p", 1, 1)), 10);
    world.send(4, Guarantee::Quorum, Some(("p", 1, 3)), 10);
    world.send(5, Guarantee::Quorum, Some(("p", 1, 2)), 10);
    assert_eq!(world.receipts(), []);
    world.serve_all();
    assert_eq!(world.receipts(), [(3, Ok(1)), (4, Err("SEQUENCE_GAP")), (5, Ok(2))]);
}

#[test]
fn d3_few_entries_are_left_to_replay_however_small_they_are() {
    let mut world = World::new();
    world.claim("p");
    world.serve_all();
    let few = CONFIG.checkpoint_bytes / ENTRY_COST;
    for sequence in 0..few {
        assert_eq!(world.owner.covering, Offset::ZERO, "of {sequence}");
        world.send(sequence, Guarantee::Quorum, Some(("p", 1, sequence)), 10);
        world.serve_all();
    }
    assert_eq!(world.owner.covering, Offset::new(few));
}

#[test]
fn d5_a_claim_is_answered_when_it_and_all_before_it_are_durable() {
    let mut world = World::new();
    world.claim("p");
    world.serve_all();
    world.heard();
    world.send(1, Guarantee::Quorum, Some(("p", 1, 0)), 10);
    world.claim("p");
    while !world.state.is_empty() {
        world.serve_state();
    }
    assert_eq!(world.heard(), [], "sequence 0 is in flight");
    world.serve_data();
    let heard = world.heard();
    let [Answer::Receipts(_), Answer::Claimed { result: Ok(claimed), .. }] = heard.as_slice() else { panic!("{heard:?}") };
    assert_eq!((claimed.epoch, claimed.last_sequence), (2, Some(0)));
    world.send(2, Guarantee::Quorum, Some(("p", 1, 1)), 10);
    world.serve_all();
    assert_eq!(world.receipts(), [(2, Err("PRODUCER_FENCED"))]);
}

#[test]
fn a_ledger_for_what_whoever_claims_will_publish_is_made_meanwhile() {
    let mut world = World::new();
    world.owner.set_storage_full(true);
    world.claim("p");
    assert_eq!(world.data, [], "bookies take no messages");
    world.serve_all();
    world.owner.set_storage_full(false);
    world.claim("p");
    assert_eq!(world.data, [LogAction::Create { first: Some(Offset::ZERO) }]);
}

#[test]
fn c38_a_lost_partition_leaves_what_was_appended_unknown_and_the_rest_unstored() {
    let mut world = World::new();
    world.send(1, Guarantee::Quorum, None, 10);
    world.serve_data();
    world.send(2, Guarantee::Quorum, None, 10);
    world.owner.lost(Lost::Fenced);
    assert_eq!(world.receipts(), [(1, Err("OWNERSHIP_LOST")), (2, Err("PARTITION_MOVED"))]);
    world.step();
    assert!(!world.released);
}

#[test]
fn a_claim_that_is_not_durable_when_the_partition_is_lost_is_told_so() {
    let mut world = World::new();
    world.claim("p");
    world.owner.lost(Lost::Fenced);
    let heard = world.heard();
    let [Answer::Claimed { result: Err(fault), .. }] = heard.as_slice() else { panic!("{heard:?}") };
    assert_eq!(fault.reason, "PARTITION_MOVED");
}

#[test]
fn c36_an_entry_too_large_for_a_bookie_is_refused_for_good() {
    let mut world = World::new();
    world.send(1, Guarantee::Quorum, None, 10);
    world.serve_data();
    world.owner.lost(Lost::TooLarge(EntryId::ZERO));
    assert_eq!(world.receipts(), [(1, Err("MESSAGE_TOO_LARGE"))]);
}

#[test]
fn without_storage_messages_are_refused_and_nothing_of_them_remains() {
    let mut world = World::new();
    world.claim("p");
    assert_eq!(world.data.pop_front(), Some(LogAction::Create { first: Some(Offset::ZERO) }), "whoever claims will publish");
    world.owner.data_created(world.now(), false);
    world.serve_all();
    assert!(matches!(world.heard().as_slice(), [Answer::Claimed { result: Ok(_), .. }]), "a claim needs no room for messages");
    world.seconds += 2;
    world.send(1, Guarantee::Quorum, Some(("p", 1, 0)), 10);
    assert_eq!(world.data.pop_front(), Some(LogAction::Create { first: Some(Offset::ZERO) }));
    world.owner.data_created(world.now(), false);
    world.step();
    assert_eq!(world.receipts(), [(1, Err("STORAGE_UNAVAILABLE"))]);
    world.send(2, Guarantee::Quorum, Some(("p", 1, 0)), 10);
    assert_eq!(world.receipts(), [(2, Err("STORAGE_UNAVAILABLE"))]);
    world.seconds += 2;
    world.send(3, Guarantee::Quorum, Some(("p", 1, 0)), 10);
    world.serve_all();
    assert_eq!(world.receipts(), [(3, Ok(0))], "the sequence was given back, and so was the offset");
}

#[test]
fn a_stalled_append_refuses_what_comes_behind_it() {
    let mut world = World::new();
    world.send(1, Guarantee::Quorum, None, 10);
    world.serve_data();
    world.send(2, Guarantee::Quorum, None, 10);
    world.seconds += 5;
    world.step();
    assert_eq!(world.receipts(), [(2, Err("STORAGE_UNAVAILABLE"))]);
    world.owner.set_storage_full(true);
    world.send(3, Guarantee::Quorum, None, 10);
    assert_eq!(world.receipts(), [], "told behind the one that is in flight");
    world.owner.set_storage_full(false);
    world.serve_data();
    assert_eq!(world.receipts(), [(1, Ok(0)), (3, Err("STORAGE_FULL"))]);
    world.send(4, Guarantee::Quorum, None, 10);
    world.serve_all();
    assert_eq!(world.receipts(), [(4, Ok(1))]);
}

#[test]
fn d6_what_is_in_flight_for_too_long_is_answered_as_unknown_and_its_retry_is_a_duplicate() {
    let mut world = World::new();
    world.claim("p");
    world.serve_all();
    world.heard();
    world.send(1, Guarantee::Quorum, Some(("p", 1, 0)), 10);
    world.seconds += 29;
    world.step();
    assert_eq!(world.receipts(), []);
    let due = world.owner.next_wakeup().expect("it wants to answer");
    assert!(due <= world.now().after(Duration::from_secs(1)), "by itself");
    world.seconds += 1;
    world.step();
    assert_eq!(world.receipts(), [(1, Err("CONFIRMATION_LATE"))]);
    world.serve_all();
    assert_eq!(world.receipts(), [], "nobody is told twice");
    world.send(2, Guarantee::Quorum, Some(("p", 1, 0)), 10);
    world.serve_all();
    assert_eq!(world.receipts(), [(2, Ok(0))], "it was stored after all, once (D1)");
}

#[test]
fn c55_server_time_never_goes_back() {
    let mut world = World::new();
    for second in [100, 50, 120] {
        world.seconds = second;
        world.send(1, Guarantee::Quorum, None, 10);
        world.serve_all();
    }
    assert_eq!(world.shown, [100_000, 100_000, 120_000]);
}

#[test]
fn c41_a_segment_goes_only_once_the_cursor_that_frees_it_is_durable() {
    let mut world = World::with(Retention { age: None, bytes: Some(0) });
    world.fill(2);
    world.seconds += 20;
    world.serve_all();
    assert!(world.trims.is_empty(), "the cursor is at 0");
    let (reply, mut acked) = mpsc::channel(8);
    world.owner.apply(world.now(), (Offset::new(1000), reply));
    world.seconds += 20;
    world.step();
    assert!(world.trims.is_empty() && acked.try_recv().is_err(), "the acknowledgement is not durable");
    world.serve_all();
    assert!(acked.try_recv().is_ok());
    assert_eq!(world.trims, [[1, 2]]);
    world.owner.trimmed(world.now(), &[SegmentNumber::new(1)]);
    world.step();
    assert!(world.owner.bounds().first > Offset::ZERO);
}

#[test]
fn t4_a_cursor_that_moves_back_in_between_keeps_its_segment() {
    let mut world = World::with(Retention { age: None, bytes: Some(0) });
    world.fill(1);
    let (reply, _acked) = mpsc::channel(8);
    world.seconds += 20;
    world.owner.apply(world.now(), (Offset::new(1000), reply.clone()));
    world.step();
    world.owner.apply(world.now(), (Offset::ZERO, reply));
    world.serve_all();
    world.seconds += 20;
    world.serve_all();
    assert!(world.trims.is_empty());
}

#[test]
fn t1_the_segment_that_says_where_the_log_ends_goes_only_when_another_one_does() {
    let mut world = World::with(Retention { age: Some(Duration::from_secs(50)), bytes: None });
    let (reply, _acked) = mpsc::channel(8);
    world.owner.apply(world.now(), (Offset::new(1000), reply));
    world.send(1, Guarantee::Quorum, None, 10);
    world.serve_all();
    for _ in 0..10 {
        world.seconds += 30;
        world.step();
        let actions: Vec<LogAction> = world.data.iter().cloned().collect();
        if actions.iter().any(|action| matches!(action, LogAction::Create { .. })) {
            assert_eq!(actions, [LogAction::Create { first: Some(Offset::new(1)) }]);
            assert!(world.trims.is_empty());
        }
        world.serve_all();
    }
    assert_eq!(world.trims, [[1]]);
    world.owner.trimmed(world.now(), &[SegmentNumber::new(1)]);
    assert_eq!(world.owner.bounds(), Bounds { first: Offset::new(1), end: Offset::new(1) });
}

#[test]
fn c67_no_segment_goes_before_the_producers_in_it_are_durable() {
    let mut world = World::with(Retention { age: None, bytes: Some(0) });
    let (reply, _acked) = mpsc::channel(8);
    world.owner.apply(world.now(), (Offset::new(1000), reply));
    world.claim("p");
    world.serve_all();
    let mut sequence = 0;
    while world.segments < 1 {
        world.send(0, Guarantee::Quorum, Some(("p", 1, sequence)), 200_000);
        world.serve_data();
        sequence += 1;
    }
    world.seconds += 20;
    world.step();
    assert!(world.trims.is_empty(), "the checkpoint of the sealed segment is on its way");
    world.serve_all();
    assert_eq!(world.trims, [[1]]);
    assert!(world.owner.covered > Offset::ZERO);
}

#[test]
fn draining_stores_what_was_taken_and_refuses_the_rest() {
    let mut world = World::new();
    world.send(1, Guarantee::Quorum, None, 10);
    world.send(2, Guarantee::Quorum, None, 10);
    world.owner.drain();
    world.send(3, Guarantee::Quorum, None, 10);
    world.serve_all();
    assert_eq!(world.receipts(), [(1, Ok(0)), (2, Ok(1)), (3, Err("PARTITION_MOVED"))]);
    assert!(world.released);
    assert_eq!(world.segments, 1, "its ledger is closed and its segment sealed");
}

#[test]
fn a_partition_that_nobody_uses_is_let_go() {
    let mut world = World::new();
    world.send(1, Guarantee::Quorum, None, 10);
    world.serve_all();
    world.seconds += 100_000;
    world.serve_all();
    assert!(world.released);
}

#[test]
fn a_sealed_segment_says_what_it_holds() {
    let mut world = World::new();
    world.send(1, Guarantee::Quorum, None, 10);
    world.serve_data();
    world.serve_data();
    world.owner.drain();
    world.step();
    world.serve_data();
    let Some(LogAction::Seal { sealed, first, .. }) = world.data.pop_front() else { panic!("sealing") };
    let time = Timestamp::from_millis(1000);
    assert_eq!(first, Offset::ZERO);
    assert_eq!((sealed.end, sealed.messages, sealed.times), (Offset::new(1), 1, Some((time, time))));
    assert!(matches!(sealed, Sealed { bytes: 90..110, .. }), "{sealed:?}");
}
