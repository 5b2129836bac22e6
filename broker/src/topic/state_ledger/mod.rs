//! The partition's state ledger: group commit of all records that came together, and rolling (C42, C64).
//!
//! A pure machine. Records are in memory's state already when they come here; what waits for their durability comes with them.
//! One append is in flight at a time: what arrives meanwhile goes together in the next. Every so many entries a snapshot goes into the
//! ledger instead of what changed, so that a takeover reads few of them. When the ledger has grown, or there is
//! none that takes appends, the next one is created; once all earlier appends are confirmed a snapshot is cut and written to
//! it, confirmed and read back, and the pointer is moved. From the cut until then, nothing is told durable.

pub(crate) mod record;

use std::collections::VecDeque;
use std::time::Duration;

use alluvium_types::time::Mono;
use bytes::Bytes;

pub(crate) use record::{Restored, StateRecord, newest_snapshot};

/// When the ledger is replaced: it has grown past this...
const ROLL_BYTES_MIN: u64 = 16 << 20;
/// ...and past so many times its snapshot...
const ROLL_FACTOR: u64 = 4;
/// ...where an entry counts for this at least, in bytes: it takes room on disks.
const ENTRY_BYTES_MIN: u64 = 512;
/// A snapshot goes into the ledger itself so many entries behind the last one ([`Snapshots`]), and an entry for so many bytes of it, so that a
/// large state is not written over and over.
const SNAPSHOT_BYTES_PER_ENTRY: u64 = 512;

/// How long after a takeover the ledgers of owners before are swept: many partitions are taken over at once, and who publishes and
/// consumes there comes first.
const SWEEP_AFTER: Duration = Duration::from_secs(1);
/// How long after a sweep that left something the next one begins.
const SWEEP_AGAIN: Duration = Duration::from_secs(5);

/// How a state is written down.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Snapshots {
    /// A snapshot goes into the ledger when so many entries follow the last one.
    pub(crate) entries: u64,
    /// About how large an entry becomes.
    pub(crate) entry_bytes: usize,
}

/// Something to be done by whoever drives the machine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum StateAction {
    /// Create a ledger and name it `next` in the pointer, in one transaction. Answered by [`StateLedger::created`].
    Create,
    /// Append to the current ledger, or to the next one.
    Append {
        /// Which of the two.
        to: Which,
        /// What.
        body: Bytes,
    },
    /// Read the next ledger's entries back and compare them with these. Answered by [`StateLedger::read_back`].
    ReadBack(Vec<Bytes>),
    /// Move the pointer to the next ledger. Answered by [`StateLedger::pointed`].
    Point,
    /// Give the next ledger up: take it from the pointer. Answered by [`StateLedger::given_up`].
    GiveUpNext,
    /// Close the ledger that was current before the pointer moved. Answered by [`StateLedger::old_ended`].
    CloseOld,
    /// Close and drop the ledgers that are retired. Answered by [`StateLedger::swept`].
    Sweep,
}

/// Which of the two ledgers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Which {
    /// The one that the pointer names.
    Current,
    /// The one that is being filled.
    Next,
}

#[derive(Debug)]
struct Current<T> {
    appended: u64,
    confirmed: u64,
    bytes: u64,
    /// How many entries follow the newest snapshot.
    behind: u64,
    in_flight: Option<(u64, Vec<T>)>,
}

impl<T> Current<T> {
    /// Appends these, the next in flight; they and what is before them answer to `then`.
    fn append(&mut self, bodies: &[Bytes], then: Vec<T>, actions: &mut VecDeque<StateAction>) {
        for body in bodies {
            self.appended += 1;
            self.bytes += ENTRY_BYTES_MIN.max(body.len() as u64);
            actions.push_back(StateAction::Append { to: Which::Current, body: body.clone() });
        }
        self.in_flight = Some((self.appended, then));
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Roll {
    None,
    Creating,
    /// Created; the appends to the old one are still on their way.
    Created,
    Writing {
        bodies: Vec<Bytes>,
        confirmed: u64,
    },
    ReadingBack {
        entries: u64,
        bytes: u64,
    },
    Pointing {
        entries: u64,
        bytes: u64,
        /// The ledger has ended meanwhile: it holds the whole snapshot, and takes no more.
        ended: bool,
    },
    GivingUp,
}

/// The machine. `T` is what waits for records to be durable.
#[derive(Debug)]
pub(crate) struct StateLedger<T> {
    snapshots: Snapshots,
    current: Option<Current<T>>,
    snapshot_bytes: u64,
    roll: Roll,
    roll_wanted: bool,
    retry_at: Option<Mono>,
    retry_after: Duration,
    queued: Vec<StateRecord>,
    queued_then: Vec<T>,
    /// What the snapshot of the roll under way holds.
    covered: Vec<T>,
    /// Records that were given are in memory's state only: nothing is durable before a snapshot is.
    snapshot_wanted: bool,
    done: Vec<T>,
    sweep: Sweep,
    /// There are as many retired ledgers as there may be.
    is_crowded: bool,
    actions: VecDeque<StateAction>,
}

#[derive(Debug, PartialEq, Eq)]
enum Sweep {
    Clean,
    Due,
    /// At this time, or after the next roll.
    Again(Mono),
    WaitsForOld,
    Running,
}

impl<T> StateLedger<T> {
    /// No ledger takes appends yet. `retired` says whether the pointer names ledgers to be dropped.
    pub(crate) fn new(snapshots: Snapshots, retired: bool, retry_after: Duration) -> Self {
        Self {
            snapshots,
            current: None,
            snapshot_bytes: 0,
            roll: Roll::None,
            roll_wanted: false,
            retry_at: None,
            retry_after,
            queued: Vec::new(),
            queued_then: Vec::new(),
            covered: Vec::new(),
            snapshot_wanted: false,
            done: Vec::new(),
            sweep: if retired { Sweep::Due } else { Sweep::Clean },
            is_crowded: false,
            actions: VecDeque::new(),
        }
    }

    /// Takes records, and what is to be done once they and all before them are durable. Without records: once all before are.
    pub(crate) fn push(&mut self, records: impl IntoIterator<Item = StateRecord>, then: impl IntoIterator<Item = T>) {
        self.queued.extend(records);
        self.queued_then.extend(then);
    }

    /// Replaces the ledger by a snapshot at the next occasion.
    #[cfg(test)]
    pub(crate) fn roll(&mut self) {
        self.roll_wanted = true;
    }

    /// Whether everything given so far is durable and nothing is under way but sweeping.
    pub(crate) fn is_settled(&self) -> bool {
        self.queued.is_empty()
            && self.queued_then.is_empty()
            && self.covered.is_empty()
            && self.done.is_empty()
            && self.roll == Roll::None
            && self.current.as_ref().is_none_or(|current| current.in_flight.is_none())
    }

    /// Everything that waits, in no order; nothing of it will be durable here.
    pub(crate) fn abandon(&mut self) -> Vec<T> {
        let in_flight = self.current.take().and_then(|current| current.in_flight).map(|(_, then)| then).unwrap_or_default();
        let parts = [&mut self.done, &mut self.covered, &mut self.queued_then];
        parts.into_iter().flat_map(std::mem::take).chain(in_flight).collect()
    }

    /// What is durable now.
    pub(crate) fn take_done(&mut self) -> Vec<T> {
        std::mem::take(&mut self.done)
    }

    /// When it wants [`StateLedger::step`] if nothing happens before.
    pub(crate) fn next_wakeup(&self) -> Option<Mono> {
        let sweep = match self.sweep {
            Sweep::Again(at) => Some(at),
            Sweep::Clean | Sweep::Due | Sweep::WaitsForOld | Sweep::Running => None,
        };
        self.retry_at.into_iter().chain(sweep).min()
    }

    /// The next thing to do.
    pub(crate) fn poll_action(&mut self) -> Option<StateAction> {
        self.actions.pop_front()
    }

    /// Goes on as far as it can; called after anything that changed it. `snapshot` gives the record that begins a snapshot, and the
    /// whole state at this moment; it may be called once.
    pub(crate) fn step(&mut self, now: Mono, snapshot: impl FnOnce() -> (StateRecord, Vec<StateRecord>)) {
        self.begin_roll(now);
        if self.is_snapshot_due() {
            self.put_snapshot(snapshot());
        } else {
            if matches!(self.roll, Roll::None | Roll::Creating | Roll::Created) {
                self.flush();
            }
            if self.roll == Roll::Created && self.current.as_ref().is_none_or(|current| current.in_flight.is_none()) {
                self.cut(snapshot());
            }
        }
        let due = match self.sweep {
            Sweep::Due => true,
            Sweep::Again(at) => at <= now,
            Sweep::Clean | Sweep::WaitsForOld | Sweep::Running => false,
        };
        // Whoever waits for a ledger comes first: creating one is held up while a sweep goes on.
        let is_wanted = self.current.is_none() && (self.roll_wanted || !self.queued.is_empty());
        if due && self.roll == Roll::None && (self.is_crowded || !is_wanted) {
            self.sweep = Sweep::Running;
            self.actions.push_back(StateAction::Sweep);
        }
    }

    fn begin_roll(&mut self, now: Mono) {
        let grown =
            self.current.as_ref().is_some_and(|current| current.bytes > ROLL_BYTES_MIN.max(ROLL_FACTOR * self.snapshot_bytes));
        let missing = self.current.is_none() && (self.snapshot_wanted || !self.queued.is_empty());
        let held_up = self.sweep == Sweep::Running || self.sweep == Sweep::WaitsForOld;
        if self.roll != Roll::None || held_up || !(grown || missing || self.roll_wanted) {
            return;
        }
        if self.retry_at.is_some_and(|at| now < at) {
            return;
        }
        self.retry_at = None;
        self.roll_wanted = false;
        self.roll = Roll::Creating;
        self.actions.push_back(StateAction::Create);
    }

    fn flush(&mut self) {
        let Some(current) = &mut self.current else {
            // Without records there is nothing to wait for.
            if self.queued.is_empty() && !self.snapshot_wanted {
                self.done.append(&mut self.queued_then);
            }
            return;
        };
        match &mut current.in_flight {
            Some((_, then)) if self.queued.is_empty() => then.append(&mut self.queued_then),
            Some(_) => {}
            None if self.snapshot_wanted => {}
            None if self.queued.is_empty() => self.done.append(&mut self.queued_then),
            // Once the next ledger exists, what is queued goes into its snapshot instead.
            None if self.roll == Roll::Created => {}
            None => {
                let bodies = record::encode(&std::mem::take(&mut self.queued), self.snapshots.entry_bytes);
                current.behind += bodies.len() as u64;
                current.append(&bodies, std::mem::take(&mut self.queued_then), &mut self.actions);
            }
        }
    }

    /// Whether what is queued goes into the ledger as a snapshot.
    fn is_snapshot_due(&self) -> bool {
        let is_behind = |current: &Current<T>| {
            let wanted = self.snapshots.entries.max(self.snapshot_bytes / SNAPSHOT_BYTES_PER_ENTRY);
            let is_due = self.snapshot_wanted || (current.behind >= wanted && !self.queued.is_empty());
            current.in_flight.is_none() && is_due
        };
        self.roll == Roll::None && self.current.as_ref().is_some_and(is_behind)
    }

    /// Puts a snapshot into the ledger. Torn by a crash it counts for nothing: what it stands for has no receipt, and what is before
    /// it is still there.
    fn put_snapshot(&mut self, snapshot: (StateRecord, Vec<StateRecord>)) {
        let Some(current) = &mut self.current else { return };
        self.queued.clear();
        self.snapshot_wanted = false;
        let bodies = encode_snapshot(snapshot, self.snapshots.entry_bytes);
        self.snapshot_bytes = bodies.iter().map(|body| body.len() as u64).sum();
        current.behind = 0;
        current.append(&bodies, std::mem::take(&mut self.queued_then), &mut self.actions);
    }

    fn cut(&mut self, snapshot: (StateRecord, Vec<StateRecord>)) {
        self.queued.clear();
        self.snapshot_wanted = false;
        self.covered.append(&mut self.queued_then);
        let bodies = encode_snapshot(snapshot, self.snapshots.entry_bytes);
        for body in &bodies {
            self.actions.push_back(StateAction::Append { to: Which::Next, body: body.clone() });
        }
        self.roll = Roll::Writing { bodies, confirmed: 0 };
    }

    /// The next ledger exists and is named (or not, for a reason that may pass).
    pub(crate) fn created(&mut self, now: Mono, created: bool) {
        if self.roll == Roll::Creating {
            self.roll = if created { Roll::Created } else { Roll::None };
            if !created {
                self.roll_wanted = true;
                self.retry_at = Some(now.after(self.retry_after));
            }
        }
    }

    /// None is created before retired ones are dropped.
    pub(crate) fn crowded(&mut self, now: Mono) {
        self.created(now, false);
        self.is_crowded = true;
        if self.sweep == Sweep::Clean {
            self.sweep = Sweep::Due;
        }
    }

    /// So many entries of a ledger are confirmed.
    pub(crate) fn confirmed(&mut self, which: Which, entries: u64) {
        match which {
            Which::Current => {
                let Some(current) = &mut self.current else { return };
                current.confirmed = current.confirmed.max(entries);
                if let Some((_, then)) = current.in_flight.take_if(|(last, _)| *last <= current.confirmed) {
                    self.done.extend(then);
                }
            }
            Which::Next => {
                let Roll::Writing { bodies, confirmed } = &mut self.roll else { return };
                *confirmed = entries.max(*confirmed);
                if *confirmed >= bodies.len() as u64 {
                    let (entries, bodies) = (*confirmed, std::mem::take(bodies));
                    let bytes = bodies.iter().map(|body| body.len() as u64).sum();
                    self.roll = Roll::ReadingBack { entries, bytes };
                    self.actions.push_back(StateAction::ReadBack(bodies));
                }
            }
        }
    }

    /// The snapshot was read back as it was written (C42), or not.
    pub(crate) fn read_back(&mut self, now: Mono, same: bool) {
        let Roll::ReadingBack { entries, bytes } = self.roll else { return };
        if same {
            self.roll = Roll::Pointing { entries, bytes, ended: false };
            self.actions.push_back(StateAction::Point);
        } else {
            self.give_up(now);
        }
    }

    /// The pointer names the next ledger, for certain (M3); or the change was refused for a reason that may pass.
    pub(crate) fn pointed(&mut self, now: Mono, moved: bool) {
        let Roll::Pointing { entries, bytes, ended } = self.roll else { return };
        if !moved {
            self.give_up(now);
            return;
        }
        let had_old = self.current.is_some();
        self.current = Some(Current { appended: entries, confirmed: entries, bytes: 0, behind: 0, in_flight: None });
        self.snapshot_bytes = bytes;
        self.roll = Roll::None;
        self.done.append(&mut self.covered);
        if had_old {
            self.actions.push_back(StateAction::CloseOld);
            self.sweep = Sweep::WaitsForOld;
        } else {
            self.sweep = Sweep::Again(now.after(SWEEP_AFTER));
        }
        if ended {
            self.ended(now, Which::Current);
        }
    }

    fn give_up(&mut self, now: Mono) {
        self.roll = Roll::GivingUp;
        self.retry_at = Some(now.after(self.retry_after));
        self.actions.push_back(StateAction::GiveUpNext);
    }

    /// The next ledger is no longer named; another one is tried after a while.
    pub(crate) fn given_up(&mut self) {
        if self.roll == Roll::GivingUp {
            self.roll = Roll::None;
            self.roll_wanted = true;
            self.sweep = Sweep::Due;
            // What was cut into it was taken from the queue: it is in no ledger, nor is what has come since.
            self.snapshot_wanted = true;
            self.covered.append(&mut self.queued_then);
            self.queued_then = std::mem::take(&mut self.covered);
        }
    }

    /// A ledger ended though nobody asked for it. Everything that was not confirmed there is in memory's state, and so in the
    /// snapshot that comes now.
    pub(crate) fn ended(&mut self, now: Mono, which: Which) {
        match which {
            Which::Current => {
                let Some(current) = self.current.take() else { return };
                self.roll_wanted = true;
                // While a sweep runs it has the pointer: what is to be swept then is found by the next one.
                if !matches!(self.sweep, Sweep::WaitsForOld | Sweep::Running) {
                    self.sweep = Sweep::Due;
                }
                if let Some((_, mut then)) = current.in_flight {
                    // Its records are in no queue any more: what waits for them waits for a snapshot.
                    self.snapshot_wanted = true;
                    then.append(&mut self.queued_then);
                    self.queued_then = then;
                }
            }
            Which::Next => match &mut self.roll {
                Roll::Created | Roll::Writing { .. } | Roll::ReadingBack { .. } => self.give_up(now),
                // The pointer's change is on its way: its outcome decides.
                Roll::Pointing { ended, .. } => *ended = true,
                Roll::None | Roll::Creating | Roll::GivingUp => {}
            },
        }
    }

    /// The ledger before is closed.
    pub(crate) fn old_ended(&mut self) {
        if self.sweep == Sweep::WaitsForOld {
            self.sweep = Sweep::Due;
        }
    }

    /// Retired ledgers are dropped, or as many as could be; what is `left` is tried again after a while.
    pub(crate) fn swept(&mut self, now: Mono, left: bool) {
        if self.sweep == Sweep::Running {
            self.is_crowded = false;
            self.sweep = if left { Sweep::Again(now.after(SWEEP_AGAIN)) } else { Sweep::Clean };
        }
    }
}

fn encode_snapshot((begin, records): (StateRecord, Vec<StateRecord>), entry_bytes: usize) -> Vec<Bytes> {
    let count = u32::try_from(records.len() + 2).expect("a snapshot's records are bounded by memory");
    let all: Vec<StateRecord> = std::iter::once(begin).chain(records).chain([StateRecord::End { records: count }]).collect();
    record::encode(&all, entry_bytes)
}

#[cfg(test)]
mod tests {
    use alluvium_types::ids::Offset;
    use alluvium_types::limits::ENTRY_BYTES_TARGET;

    use super::*;

    const SNAPSHOT_ENTRIES: u64 = 64;
    const SNAPSHOTS: Snapshots = Snapshots { entries: SNAPSHOT_ENTRIES, entry_bytes: ENTRY_BYTES_TARGET };

    fn delta(text: &'static str) -> StateRecord {
        StateRecord::Subscriptions(Bytes::from_static(text.as_bytes()))
    }

    fn at(seconds: u64) -> Mono {
        Mono::from_duration(Duration::from_secs(seconds))
    }

    struct World {
        ledger: StateLedger<u32>,
        now: u64,
    }

    impl World {
        fn new() -> Self {
            Self { ledger: StateLedger::new(SNAPSHOTS, false, Duration::from_secs(1)), now: 0 }
        }

        fn actions(&mut self) -> Vec<StateAction> {
            let begin = StateRecord::Begin { covers: Offset::ZERO, last_epoch: 0 };
            self.ledger.step(at(self.now), || (begin, vec![delta("snapshot")]));
            std::iter::from_fn(|| self.ledger.poll_action()).collect()
        }

        fn push(&mut self, text: &'static str, then: u32) {
            self.ledger.push([delta(text)], [then]);
        }

        /// From `Create` to a moved pointer.
        fn roll(&mut self) {
            assert_eq!(self.actions(), [StateAction::Create]);
            self.ledger.created(at(self.now), true);
            assert!(matches!(self.actions().as_slice(), [StateAction::Append { to: Which::Next, .. }]));
            self.ledger.confirmed(Which::Next, 1);
            assert!(matches!(self.actions().as_slice(), [StateAction::ReadBack(_)]));
            self.ledger.read_back(at(self.now), true);
            assert_eq!(self.actions(), [StateAction::Point]);
            self.ledger.pointed(at(self.now), true);
        }
    }

    #[test]
    fn c64_the_first_records_are_durable_once_the_pointer_names_their_snapshot() {
        let mut world = World::new();
        world.push("a", 1);
        assert_eq!(world.actions(), [StateAction::Create]);
        world.push("b", 2);
        world.ledger.created(at(0), true);
        assert_eq!(world.actions().len(), 1);
        world.push("c", 3);
        world.ledger.confirmed(Which::Next, 1);
        world.actions();
        assert!(world.ledger.take_done().is_empty(), "not read back");
        world.ledger.read_back(at(0), true);
        world.actions();
        assert!(world.ledger.take_done().is_empty(), "not pointed to");
        world.ledger.pointed(at(0), true);
        assert_eq!(world.ledger.take_done(), [1, 2]);
        // What came after the cut goes into the ledger that is now current.
        assert!(matches!(world.actions().as_slice(), [StateAction::Append { to: Which::Current, .. }]));
        world.ledger.confirmed(Which::Current, 2);
        assert_eq!(world.ledger.take_done(), [3]);
        assert_eq!(world.ledger.next_wakeup(), Some(at(1)), "what was before is swept once others were served");
        world.now = 1;
        assert_eq!(world.actions(), [StateAction::Sweep]);
        world.ledger.swept(at(0), false);
        assert!(world.ledger.is_settled());
    }

    #[test]
    fn what_arrives_while_an_append_is_in_flight_goes_together() {
        let mut world = World::new();
        world.push("a", 1);
        world.roll();
        world.actions();
        world.ledger.take_done();
        world.push("b", 2);
        assert_eq!(world.actions().len(), 1);
        world.push("c", 3);
        world.push("d", 4);
        assert_eq!(world.actions(), []);
        world.ledger.confirmed(Which::Current, 2);
        assert_eq!(world.ledger.take_done(), [2]);
        let actions = world.actions();
        let [StateAction::Append { body, .. }] = actions.as_slice() else { panic!("one append: {actions:?}") };
        assert_eq!(record::decode(body).expect("sound"), [delta("c"), delta("d")]);
        // Something without records waits for all before it.
        world.ledger.push([], [5]);
        world.actions();
        assert!(world.ledger.take_done().is_empty());
        world.ledger.confirmed(Which::Current, 3);
        assert_eq!(world.ledger.take_done(), [3, 4, 5]);
    }

    #[test]
    fn c42_a_takeover_reads_few_entries_however_long_the_ledger_is() {
        let mut world = World::new();
        world.push("a", 1);
        world.roll();
        world.actions();
        world.ledger.swept(at(0), false);
        let (mut appended, mut since) = (1, 0);
        while appended < 10 * SNAPSHOT_ENTRIES {
            world.ledger.take_done();
            world.push("b", 2);
            let actions = world.actions();
            let [StateAction::Append { to: Which::Current, body }] = actions.as_slice() else { panic!("{actions:?}") };
            let is_snapshot = matches!(record::decode(body).expect("sound")[0], StateRecord::Begin { .. });
            assert_eq!(is_snapshot, since == SNAPSHOT_ENTRIES, "{since} behind the last one");
            since = if is_snapshot { 0 } else { since + 1 };
            appended += 1;
            world.ledger.confirmed(Which::Current, appended);
            assert_eq!(world.ledger.take_done(), [2], "told once it is there, as a change or in a snapshot");
        }
    }

    #[test]
    fn a_ledger_that_grew_is_replaced() {
        let mut world = World::new();
        world.push("a", 1);
        world.roll();
        world.actions();
        world.ledger.swept(at(0), false);
        let mut appended = 1;
        while appended <= ROLL_BYTES_MIN / ENTRY_BYTES_MIN {
            world.ledger.take_done();
            world.push("b", 2);
            assert!(world.actions().iter().all(|action| *action != StateAction::Create), "after {appended}");
            appended += 1;
            world.ledger.confirmed(Which::Current, appended);
        }
        world.push("c", 3);
        world.actions();
        assert_eq!(world.actions(), [StateAction::Create]);
    }

    #[test]
    fn a_large_state_is_not_written_over_and_over() {
        let mut world = World::new();
        world.push("a", 1);
        world.roll();
        world.actions();
        world.ledger.swept(at(0), false);
        world.ledger.snapshot_bytes = 1 << 20;
        let mut appended = 1;
        let mut snapshots = 0;
        for _ in 0..(1 << 20) / SNAPSHOT_BYTES_PER_ENTRY + 1 {
            world.push("b", 2);
            for action in world.actions() {
                let StateAction::Append { body, .. } = action else { continue };
                appended += 1;
                snapshots += u64::from(matches!(record::decode(&body).expect("sound")[0], StateRecord::Begin { .. }));
            }
            world.ledger.confirmed(Which::Current, appended);
        }
        assert_eq!(snapshots, 1);
    }

    #[test]
    fn c64_between_the_cut_and_the_pointer_nothing_is_durable() {
        let mut world = World::new();
        world.push("a", 1);
        world.roll();
        world.actions();
        world.ledger.swept(at(0), false);
        world.ledger.take_done();
        world.push("b", 2);
        world.actions();
        world.ledger.roll();
        assert_eq!(world.actions(), [StateAction::Create]);
        world.ledger.created(at(0), true);
        assert_eq!(world.actions(), [], "the old one's append is on its way: no cut yet");
        world.push("c", 3);
        world.ledger.confirmed(Which::Current, 2);
        assert_eq!(world.ledger.take_done(), [2]);
        let actions = world.actions();
        assert!(matches!(actions.as_slice(), [StateAction::Append { to: Which::Next, .. }]), "{actions:?}");
        world.push("d", 4);
        assert_eq!(world.actions(), []);
        world.ledger.confirmed(Which::Next, 1);
        world.ledger.read_back(at(0), true);
        world.ledger.pointed(at(0), true);
        assert_eq!(world.ledger.take_done(), [3]);
        let actions = world.actions();
        assert!(actions.contains(&StateAction::CloseOld) && !actions.contains(&StateAction::Sweep));
        world.ledger.old_ended();
        assert_eq!(world.actions(), [StateAction::Sweep]);
    }

    #[test]
    fn c42_a_snapshot_that_reads_back_otherwise_is_given_up_and_tried_again() {
        let mut world = World::new();
        world.push("a", 1);
        assert_eq!(world.actions(), [StateAction::Create]);
        world.ledger.created(at(0), true);
        world.actions();
        world.ledger.confirmed(Which::Next, 1);
        world.actions();
        world.ledger.read_back(at(0), false);
        assert_eq!(world.actions(), [StateAction::GiveUpNext]);
        world.ledger.given_up();
        assert_eq!(world.actions(), [], "whoever waits comes before what is to be swept");
        assert_eq!(world.ledger.next_wakeup(), Some(at(1)));
        world.now = 1;
        world.roll();
        assert_eq!(world.ledger.take_done(), [1], "told once, and late");
    }

    #[test]
    fn s1_c67_what_a_roll_that_failed_was_to_cover_is_durable_only_with_a_snapshot_in_the_ledger_that_stays() {
        let mut world = World::new();
        world.push("a", 1);
        world.roll();
        world.actions();
        world.ledger.swept(at(0), false);
        world.ledger.take_done();
        world.ledger.roll();
        world.push("b", 2);
        // What is appended before the next ledger is there, is; the rest goes into its snapshot.
        world.actions();
        world.ledger.confirmed(Which::Current, 2);
        world.ledger.take_done();
        world.ledger.created(at(0), true);
        world.push("c", 3);
        assert!(matches!(world.actions().as_slice(), [StateAction::Append { to: Which::Next, .. }]));
        world.ledger.confirmed(Which::Next, 1);
        world.actions();
        world.ledger.read_back(at(0), false);
        // Somebody asks whether all before is durable.
        world.ledger.push([], [4]);
        world.actions();
        world.ledger.given_up();
        let actions = world.actions();
        let body = actions.iter().find_map(|action| match action {
            StateAction::Append { to: Which::Current, body } => Some(body),
            _ => None,
        });
        let records = record::decode(body.expect("a snapshot goes where all is")).expect("sound");
        assert!(matches!(records.as_slice(), [StateRecord::Begin { .. }, .., StateRecord::End { .. }]), "{records:?}");
        assert!(world.ledger.take_done().is_empty(), "not confirmed");
        world.ledger.confirmed(Which::Current, 3);
        assert_eq!(world.ledger.take_done(), [3, 4]);
    }

    #[test]
    fn c42_a_ledger_that_ends_within_a_snapshot_is_followed_by_one_that_has_it_all() {
        let mut world = World::new();
        world.push("a", 1);
        world.roll();
        world.actions();
        world.ledger.swept(at(0), false);
        world.ledger.take_done();
        for entry in 0..SNAPSHOT_ENTRIES {
            world.push("b", 2);
            world.actions();
            world.ledger.confirmed(Which::Current, entry + 2);
        }
        world.ledger.take_done();
        world.push("c", 3);
        let actions = world.actions();
        let [StateAction::Append { body, .. }] = actions.as_slice() else { panic!("a snapshot: {actions:?}") };
        assert!(matches!(record::decode(body).expect("sound")[0], StateRecord::Begin { .. }));
        world.push("d", 4);
        world.ledger.ended(at(0), Which::Current);
        world.roll();
        assert_eq!(world.ledger.take_done(), [3, 4]);
    }

    #[test]
    fn a_ledger_that_ends_while_others_are_swept_is_replaced_after_that() {
        let mut world = World::new();
        world.push("a", 1);
        world.roll();
        world.ledger.take_done();
        world.now = 1;
        assert_eq!(world.actions(), [StateAction::Sweep]);
        world.push("b", 2);
        world.ledger.ended(at(1), Which::Current);
        assert_eq!(world.actions(), [], "the sweep has the pointer");
        world.ledger.swept(at(1), false);
        world.roll();
        assert_eq!(world.ledger.take_done(), [2]);
    }

    #[test]
    fn s1_what_a_ledger_that_ended_had_not_confirmed_is_durable_only_once_the_pointer_names_its_snapshot() {
        // Nothing was queued behind it, and no ledger was there: it was told at once.
        let mut world = World::new();
        world.push("a", 1);
        world.roll();
        world.actions();
        world.ledger.swept(at(0), false);
        world.ledger.take_done();
        world.push("b", 2);
        world.actions();
        world.ledger.ended(at(0), Which::Current);
        // Somebody asks whether all before is durable.
        world.ledger.push([], [3]);
        assert_eq!(world.actions(), [StateAction::Create]);
        assert!(world.ledger.take_done().is_empty() && !world.ledger.is_settled());
        world.ledger.created(at(0), false);
        world.actions();
        assert!(world.ledger.take_done().is_empty(), "none could be created");
        world.now = 1;
        world.roll();
        assert_eq!(world.ledger.take_done(), [2, 3]);
    }

    #[test]
    fn s1_acks_are_receipted_though_the_next_ledger_ended_while_the_pointer_moved() {
        // Its end was forgotten then: appends went to a ledger that took none, and no receipt came again.
        for had_old in [false, true] {
            let mut world = World::new();
            let mut expected = vec![1];
            world.push("a", 1);
            if had_old {
                world.roll();
                world.actions();
                world.ledger.swept(at(0), false);
                world.ledger.roll();
            }
            assert_eq!(world.actions(), [StateAction::Create]);
            world.ledger.created(at(0), true);
            world.actions();
            world.ledger.confirmed(Which::Next, 1);
            world.actions();
            world.ledger.read_back(at(0), true);
            assert_eq!(world.actions(), [StateAction::Point]);
            world.ledger.ended(at(0), Which::Next);
            world.ledger.pointed(at(0), true);
            assert_eq!(world.ledger.take_done(), expected, "the snapshot is durable, and named");
            if had_old {
                assert_eq!(world.actions(), [StateAction::CloseOld], "what was retired is closed before it is swept");
                world.ledger.old_ended();
                assert_eq!(world.actions(), [StateAction::Create]);
            }
            world.push("b", 2);
            if !had_old {
                assert_eq!(world.actions(), [StateAction::Create]);
            }
            world.ledger.created(at(0), true);
            assert!(matches!(world.actions().as_slice(), [StateAction::Append { to: Which::Next, .. }]));
            world.ledger.confirmed(Which::Next, 1);
            world.actions();
            world.ledger.read_back(at(0), true);
            world.actions();
            world.ledger.pointed(at(0), true);
            expected = vec![2];
            assert_eq!(world.ledger.take_done(), expected);
        }
    }

    #[test]
    fn c42_what_could_not_be_dropped_is_swept_again_without_another_roll() {
        let mut world = World::new();
        world.ledger = StateLedger::new(SNAPSHOTS, true, Duration::from_secs(1));
        assert_eq!(world.actions(), [StateAction::Sweep]);
        world.ledger.swept(at(0), true);
        assert_eq!(world.actions(), []);
        assert_eq!(world.ledger.next_wakeup(), Some(at(5)));
        // A ledger can't be created while there are too many: that waits, and nothing is lost.
        world.push("a", 1);
        assert_eq!(world.actions(), [StateAction::Create]);
        world.ledger.crowded(at(0));
        world.now = 5;
        assert_eq!(world.actions(), [StateAction::Create], "again");
        world.ledger.crowded(at(5));
        assert_eq!(world.actions(), [StateAction::Sweep]);
        world.ledger.swept(at(5), false);
        world.now = 6;
        world.roll();
        assert_eq!(world.ledger.take_done(), [1]);
    }

    #[test]
    fn a_ledger_that_ends_by_itself_is_replaced_by_a_snapshot() {
        let mut world = World::new();
        world.push("a", 1);
        world.roll();
        world.actions();
        world.ledger.swept(at(0), false);
        world.ledger.take_done();
        world.push("b", 2);
        world.actions();
        world.push("c", 3);
        world.ledger.ended(at(0), Which::Current);
        world.roll();
        assert_eq!(world.ledger.take_done(), [2, 3]);
    }
}
