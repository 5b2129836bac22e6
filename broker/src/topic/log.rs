//! The partition's log as its owner decides it: which ledger takes appends, when the next one is opened, sealed and begun.
//!
//! A pure machine. Segments follow one another: the next may be opened ahead of its need and is listed then, but takes its first
//! entry only after the one before is Closed in metadata and sealed (C66). Entries that a ledger hands back keep their
//! offsets and go to the next one (C63). An empty ledger never rolls; an old one rolls once the next is there, and an idle one closes,
//! but not while metadata is away: neither could be written again before it is back (M7).

use std::collections::VecDeque;
use std::time::Duration;

use alluvium_metadata::segments::Sealed;
use alluvium_types::checksum::Crc32c;
use alluvium_types::entry::{EntryHeader, EntryRange};
use alluvium_types::ids::{EntryId, Offset};
use alluvium_types::policy::Rollover;
use alluvium_types::time::Mono;
use bytes::Bytes;

use crate::publish::coalesce::Built;
use crate::publish::receipt::{Guarantee, Waiting};

/// The most entries in flight; far below what a ledger's writer takes.
const IN_FLIGHT_MAX: usize = 1024;

/// An old ledger is closed without a next one if it was given nothing for so long.
const QUIET: Duration = Duration::from_secs(10);

/// Something to be done by whoever drives the machine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum LogAction {
    /// Create a ledger and list it as the next segment, in one transaction. Answered by [`Log::created`].
    Create {
        /// Where it begins; `None` when it is opened ahead.
        first: Option<Offset>,
    },
    /// Append to the ledger that is written.
    Append {
        /// The body.
        body: Bytes,
        /// Its checksum.
        body_crc: Crc32c,
        /// Whether anybody waits for it to be on one disk.
        has_leaders: bool,
    },
    /// Close the ledger that is written. Answered by [`Log::closed`].
    Close,
    /// Seal the segment of the ledger that was closed, and begin the one that was opened ahead, if it was. Answered by
    /// [`Log::sealed`].
    Seal {
        /// Its first offset.
        first: Offset,
        /// What is known of it.
        sealed: Sealed,
        /// Whether the next one is there.
        begin_next: bool,
    },
}

/// An entry that is appended and not confirmed.
#[derive(Debug)]
struct InFlight {
    header: EntryHeader,
    range: EntryRange,
    body: Bytes,
    unheld: Bytes,
    body_crc: Crc32c,
    waiting: Vec<Waiting>,
    has_leaders: bool,
}

/// An entry that is confirmed.
#[derive(Debug)]
pub(crate) struct Confirmed {
    /// Its place in the ledger that is written.
    pub(crate) entry: EntryId,
    /// Its header.
    pub(crate) header: EntryHeader,
    /// Its body, for a cache.
    pub(crate) body: Bytes,
    /// Who is told.
    pub(crate) waiting: Vec<Waiting>,
}

/// The ledger that is written.
#[derive(Debug)]
struct Current {
    first: Offset,
    /// When it was given its first entry.
    begun: Mono,
    idle_since: Mono,
    appended_entries: u64,
    appended_bytes: u64,
    /// What is confirmed of it.
    sealed: Sealed,
    entries: u64,
}

impl Current {
    const fn new(first: Offset, now: Mono) -> Self {
        let sealed = Sealed { end: first, messages: 0, bytes: 0, times: None };
        Self { first, begun: now, idle_since: now, appended_entries: 0, appended_bytes: 0, sealed, entries: 0 }
    }

    fn confirm(&mut self, range: &EntryRange, bytes: usize) -> EntryId {
        let entry = EntryId::new(self.entries);
        self.entries += 1;
        let from = self.sealed.times.map_or(range.server_time, |(first, _)| first);
        self.sealed = Sealed {
            end: range.end_offset(),
            messages: self.sealed.messages + u64::from(range.count),
            bytes: self.sealed.bytes + bytes as u64,
            times: Some((from, range.server_time)),
        };
        entry
    }
}

#[derive(Debug)]
enum Phase {
    /// No ledger takes appends, and none is wanted.
    Bare,
    Creating,
    Open(Current),
    Closing(Current),
    /// Closed; waits for the one that is being opened ahead before it is sealed.
    Closed(Current),
    Sealing(Current),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Ahead {
    None,
    Creating,
    Ready,
}

/// The machine. See the module.
#[derive(Debug)]
pub(crate) struct Log {
    phase: Phase,
    ahead: Ahead,
    in_flight: VecDeque<InFlight>,
    /// How many of those in flight the ledger that is written has been given.
    given: usize,
    in_flight_bytes: usize,
    /// The offset after the last confirmed message.
    confirmed_end: Offset,
    /// The offset after the last message in flight.
    end: Offset,
    rollover: Rollover,
    idle_close: Duration,
    retry_at: Option<Mono>,
    retry_after: Duration,
    close_wanted: bool,
    /// Metadata may be away.
    metadata_uncertain: bool,
    actions: VecDeque<LogAction>,
}

impl Log {
    /// A log whose listed segments are all sealed and end at `end`.
    pub(crate) fn new(end: Offset, rollover: Rollover, idle_close: Duration, retry_after: Duration) -> Self {
        Self {
            phase: Phase::Bare,
            ahead: Ahead::None,
            in_flight: VecDeque::new(),
            given: 0,
            in_flight_bytes: 0,
            confirmed_end: end,
            end,
            rollover,
            idle_close,
            retry_at: None,
            retry_after,
            close_wanted: false,
            metadata_uncertain: false,
            actions: VecDeque::new(),
        }
    }

    /// The offset after the last confirmed message.
    pub(crate) const fn confirmed_end(&self) -> Offset {
        self.confirmed_end
    }

    /// The offset after the last message that was appended.
    pub(crate) const fn end(&self) -> Offset {
        self.end
    }

    /// Where the ledger that is written begins and what is confirmed of it, if there is one.
    pub(crate) const fn open_segment(&self) -> Option<(Offset, Sealed)> {
        match &self.phase {
            Phase::Open(current) | Phase::Closing(current) | Phase::Closed(current) | Phase::Sealing(current) => {
                Some((current.first, current.sealed))
            }
            Phase::Bare | Phase::Creating => None,
        }
    }

    /// Where the ledger that is written begins, if there is one.
    pub(crate) fn open_first(&self) -> Option<Offset> {
        self.open_segment().map(|(first, _)| first)
    }

    /// Confirmed bytes of the ledger that is written.
    pub(crate) fn open_bytes(&self) -> u64 {
        self.open_segment().map_or(0, |(_, confirmed)| confirmed.bytes)
    }

    /// Bytes of entries in flight.
    pub(crate) const fn in_flight_bytes(&self) -> usize {
        self.in_flight_bytes
    }

    /// Whether a ledger takes appends.
    pub(crate) const fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Open(_))
    }

    /// Whether nothing is in flight.
    pub(crate) fn nothing_in_flight(&self) -> bool {
        self.in_flight.is_empty()
    }

    /// Whether nothing is under way: no ledger is written, or it has nothing to wait for.
    pub(crate) fn is_settled(&self) -> bool {
        self.in_flight.is_empty() && matches!(self.phase, Phase::Bare | Phase::Open(_)) && self.ahead != Ahead::Creating
    }

    /// Rolls by other bounds from now on.
    pub(crate) const fn set_rollover(&mut self, rollover: Rollover) {
        self.rollover = rollover;
    }

    /// Whether metadata is certain to be there. While it isn't, nothing idle is closed.
    pub(crate) const fn set_metadata_certain(&mut self, certain: bool) {
        self.metadata_uncertain = !certain;
    }

    /// Closes the ledger that is written, if it holds anything, at the next occasion; without a successor.
    pub(crate) const fn close(&mut self) {
        self.close_wanted = true;
    }

    /// Wants a ledger to write to.
    pub(crate) fn want_ledger(&mut self, now: Mono) {
        if matches!(self.phase, Phase::Bare) && self.retry_at.is_none_or(|at| at <= now) {
            self.retry_at = None;
            self.phase = Phase::Creating;
            self.actions.push_back(LogAction::Create { first: Some(self.confirmed_end) });
        }
    }

    /// Where a busy log stops to wait for the next ledger.
    const fn overfull_bytes(&self) -> u64 {
        self.rollover.bytes / 4 * 5
    }

    /// Whether an entry may be appended now.
    pub(crate) fn takes(&self, window_bytes: usize) -> bool {
        let Phase::Open(current) = &self.phase else { return false };
        self.in_flight.len() < IN_FLIGHT_MAX
            && self.in_flight_bytes < window_bytes
            && current.appended_bytes < self.overfull_bytes()
    }

    /// Appends; [`Log::takes`] said yes.
    pub(crate) fn append(&mut self, now: Mono, built: Built) {
        let Built { header, body, unheld, body_crc, waiting } = built;
        let range = header.range();
        self.end = range.end_offset();
        self.in_flight_bytes += body.len();
        let has_leaders = waiting.iter().any(|one| one.guarantee() == Some(Guarantee::Leader));
        self.in_flight.push_back(InFlight { header, range, body, unheld, body_crc, waiting, has_leaders });
        self.give(now);
    }

    /// Lets something wait for everything in flight; gives it back if nothing is.
    pub(crate) fn attach(&mut self, waiting: Waiting) -> Result<(), Waiting> {
        match self.in_flight.back_mut() {
            Some(last) => {
                last.has_leaders |= waiting.guarantee() == Some(Guarantee::Leader);
                last.waiting.push(waiting);
                Ok(())
            }
            None => Err(waiting),
        }
    }

    /// Gives the ledger that is written what it has not yet of those in flight.
    fn give(&mut self, now: Mono) {
        let Phase::Open(current) = &mut self.phase else { return };
        for entry in self.in_flight.iter().skip(self.given) {
            if current.appended_entries == 0 {
                current.begun = now;
            }
            current.idle_since = now;
            current.appended_entries += 1;
            current.appended_bytes += entry.body.len() as u64;
            self.actions.push_back(LogAction::Append {
                body: entry.body.clone(),
                body_crc: entry.body_crc,
                has_leaders: entry.has_leaders,
            });
        }
        self.given = self.in_flight.len();
    }

    /// The next thing to do.
    pub(crate) fn poll_action(&mut self) -> Option<LogAction> {
        self.actions.pop_front()
    }

    /// When it wants [`Log::step`] if nothing happens before.
    pub(crate) fn next_wakeup(&self) -> Option<Mono> {
        let due = match &self.phase {
            Phase::Open(current) if current.appended_entries > 0 => {
                let ages = current.begun.after(self.rollover.age);
                let old = (self.ahead == Ahead::None).then(|| self.retry_at.map_or(ages, |at| at.max(ages)));
                let quiet = ages.max(current.idle_since.after(QUIET));
                let idle = self.in_flight.is_empty().then(|| current.idle_since.after(self.idle_close).min(quiet));
                old.into_iter().chain(idle).min()
            }
            _ => None,
        };
        [due, self.retry_at].into_iter().flatten().min()
    }

    /// Decides about rolling. Called after anything that changed it, and at its wakeup.
    pub(crate) fn step(&mut self, now: Mono) {
        let Phase::Open(current) = &mut self.phase else {
            if matches!(self.phase, Phase::Bare) && (!self.in_flight.is_empty() || self.retry_at.is_some_and(|at| at <= now)) {
                if self.in_flight.is_empty() {
                    self.retry_at = None;
                } else {
                    self.want_ledger(now);
                }
            }
            return;
        };
        let bytes = current.appended_bytes;
        let old = current.appended_entries > 0 && now.since(current.begun) >= self.rollover.age;
        let idle_close = if old { QUIET.min(self.idle_close) } else { self.idle_close };
        let mut idle = current.appended_entries > 0 && self.in_flight.is_empty() && now.since(current.idle_since) >= idle_close;
        if idle && self.metadata_uncertain {
            current.idle_since = now;
            idle = false;
        }
        if self.ahead == Ahead::None
            && ((old && !idle) || bytes >= self.rollover.bytes / 4 * 3)
            && !self.close_wanted
            && self.retry_at.is_none_or(|at| at <= now)
        {
            self.retry_at = None;
            self.ahead = Ahead::Creating;
            self.actions.push_back(LogAction::Create { first: None });
        }
        if current.appended_entries == 0 {
            return;
        }
        // A busy log waits for the next ledger rather than for its creation, up to a point.
        let due = (old || bytes >= self.rollover.bytes) && self.ahead == Ahead::Ready;
        if due || bytes >= self.overfull_bytes() || idle || self.close_wanted {
            self.close_wanted = false;
            let Phase::Open(current) = std::mem::replace(&mut self.phase, Phase::Bare) else { return };
            self.phase = Phase::Closing(current);
            self.actions.push_back(LogAction::Close);
        }
    }

    /// The ledger asked for exists and is listed (or not, for a reason that may pass).
    pub(crate) fn created(&mut self, now: Mono, created: bool) {
        if !created {
            self.retry_at = Some(now.after(self.retry_after));
        }
        match self.phase {
            Phase::Creating => {
                self.phase = if created { Phase::Open(Current::new(self.confirmed_end, now)) } else { Phase::Bare };
                self.give(now);
            }
            _ if self.ahead == Ahead::Creating => {
                self.ahead = if created { Ahead::Ready } else { Ahead::None };
                self.seal();
            }
            _ => {}
        }
    }

    /// Entries up to this one are each on one disk (or more): who asked for no more is told.
    pub(crate) fn led(&mut self, up_to: EntryId) -> Vec<Waiting> {
        let (Phase::Open(current) | Phase::Closing(current)) = &self.phase else { return Vec::new() };
        let reach = usize::try_from(up_to.next().get().saturating_sub(current.entries)).unwrap_or(usize::MAX);
        let mut told = Vec::new();
        for entry in self.in_flight.iter_mut().take(reach.min(self.given)).filter(|entry| entry.has_leaders) {
            entry.has_leaders = false;
            let leader = |one: &mut Waiting| one.guarantee() == Some(Guarantee::Leader);
            told.extend(entry.waiting.extract_if(.., leader));
        }
        told
    }

    /// Entries up to this one are confirmed.
    pub(crate) fn confirmed(&mut self, up_to: EntryId) -> Vec<Confirmed> {
        let (Phase::Open(current) | Phase::Closing(current)) = &mut self.phase else { return Vec::new() };
        let count = usize::try_from(up_to.next().get().saturating_sub(current.entries)).unwrap_or(usize::MAX);
        let mut confirmed = Vec::new();
        for _ in 0..count.min(self.given) {
            let Some(InFlight { header, range, unheld, waiting, body, .. }) = self.in_flight.pop_front() else { break };
            self.given -= 1;
            self.in_flight_bytes -= body.len();
            self.confirmed_end = range.end_offset();
            let entry = current.confirm(&range, body.len());
            confirmed.push(Confirmed { entry, header, body: unheld, waiting });
        }
        confirmed
    }

    /// The ledger that is written is Closed in metadata, whoever asked for it: all that was confirmed was said before. What is
    /// in flight goes to the next one.
    pub(crate) fn closed(&mut self) {
        let phase = std::mem::replace(&mut self.phase, Phase::Bare);
        let (Phase::Open(current) | Phase::Closing(current)) = phase else {
            self.phase = phase;
            return;
        };
        self.given = 0;
        self.phase = Phase::Closed(current);
        self.seal();
    }

    fn seal(&mut self) {
        if self.ahead == Ahead::Creating {
            return;
        }
        let phase = std::mem::replace(&mut self.phase, Phase::Bare);
        let Phase::Closed(current) = phase else {
            self.phase = phase;
            return;
        };
        let begin_next = self.ahead == Ahead::Ready;
        self.actions.push_back(LogAction::Seal { first: current.first, sealed: current.sealed, begin_next });
        self.phase = Phase::Sealing(current);
    }

    /// The segment is sealed, and the next one begun if it was there. Gives what was sealed.
    pub(crate) fn sealed(&mut self, now: Mono) -> Option<(Offset, Sealed)> {
        let phase = std::mem::replace(&mut self.phase, Phase::Bare);
        let Phase::Sealing(current) = phase else {
            self.phase = phase;
            return None;
        };
        if self.ahead == Ahead::Ready {
            self.ahead = Ahead::None;
            self.phase = Phase::Open(Current::new(self.confirmed_end, now));
            self.give(now);
        }
        Some((current.first, current.sealed))
    }

    /// Whether a ledger is wanted, could not be created, and is not tried again before a while.
    pub(crate) fn is_held_up(&self, now: Mono) -> bool {
        matches!(self.phase, Phase::Bare) && self.retry_at.is_some_and(|at| now < at)
    }

    /// Who waits for an entry of the ledger that is written.
    pub(crate) fn take_waiting(&mut self, entry: EntryId) -> Vec<Waiting> {
        let (Phase::Open(current) | Phase::Closing(current)) = &self.phase else { return Vec::new() };
        let index = entry.get().checked_sub(current.entries).and_then(|index| usize::try_from(index).ok());
        index.and_then(|index| self.in_flight.get_mut(index)).map(|entry| std::mem::take(&mut entry.waiting)).unwrap_or_default()
    }

    /// Everyone who waits for something in flight, in order; what is in flight stays so.
    pub(crate) fn take_all_waiting(&mut self) -> impl Iterator<Item = Waiting> {
        self.in_flight.iter_mut().flat_map(|entry| std::mem::take(&mut entry.waiting))
    }

    /// Everyone who waits for something in flight, in order, which is given up.
    pub(crate) fn abandon(&mut self) -> Vec<Waiting> {
        self.given = 0;
        self.in_flight_bytes = 0;
        self.in_flight.drain(..).flat_map(|entry| entry.waiting).collect()
    }
}

#[cfg(test)]
mod tests {
    use alluvium_types::batch::BatchHeader;
    use alluvium_types::entry::BatchDescriptor;
    use alluvium_types::time::Timestamp;

    use super::*;

    const ROLLOVER: Rollover = Rollover { bytes: 1000, age: Duration::from_secs(100) };

    fn at(seconds: u64) -> Mono {
        Mono::from_duration(Duration::from_secs(seconds))
    }

    struct World {
        log: Log,
        now: u64,
    }

    impl World {
        fn new() -> Self {
            let mut world =
                Self { log: Log::new(Offset::ZERO, ROLLOVER, Duration::from_secs(60), Duration::from_secs(1)), now: 0 };
            world.log.want_ledger(at(0));
            assert_eq!(world.actions(), [LogAction::Create { first: Some(Offset::ZERO) }]);
            world.log.created(at(0), true);
            world
        }

        fn append(&mut self, bytes: usize) {
            let batch = BatchDescriptor {
                header: BatchHeader { count: 2, ..BatchHeader::default() },
                checksum: Crc32c::EMPTY,
                blob_bytes: 0,
                producer: None,
            };
            let header = EntryHeader {
                first_offset: self.log.end(),
                server_time: Timestamp::from_millis(self.log.end().get()),
                batches: vec![batch],
            };
            let body = Bytes::from(vec![0; bytes]);
            let built = Built { header, body: body.clone(), unheld: body, body_crc: Crc32c::EMPTY, waiting: Vec::new() };
            assert!(self.log.takes(usize::MAX));
            self.log.append(at(self.now), built);
        }

        fn actions(&mut self) -> Vec<LogAction> {
            self.log.step(at(self.now));
            std::iter::from_fn(|| self.log.poll_action()).collect()
        }

        fn appends(&mut self) -> usize {
            self.actions().iter().filter(|action| matches!(action, LogAction::Append { .. })).count()
        }
    }

    fn entry(number: u64) -> EntryId {
        EntryId::new(number)
    }

    #[test]
    fn c66_the_next_ledger_takes_its_first_entry_only_after_the_one_before_is_closed() {
        let mut world = World::new();
        world.append(800);
        let actions = world.actions();
        assert_eq!(actions.last(), Some(&LogAction::Create { first: None }), "opened ahead");
        world.log.created(at(0), true);
        world.append(300);
        assert!(world.actions().contains(&LogAction::Close));
        assert!(!world.log.takes(usize::MAX), "what comes now waits");
        world.log.confirmed(entry(1));
        assert_eq!(world.actions(), []);
        world.log.closed();
        let sealed = Sealed {
            end: Offset::new(4),
            messages: 4,
            bytes: 1100,
            times: Some((Timestamp::from_millis(0), Timestamp::from_millis(2))),
        };
        assert_eq!(world.actions(), [LogAction::Seal { first: Offset::ZERO, sealed, begin_next: true }]);
        assert!(!world.log.takes(usize::MAX));
        world.log.sealed(at(0));
        assert!(world.log.takes(usize::MAX));
        assert_eq!(world.log.open_first(), Some(Offset::new(4)));
    }

    #[test]
    fn c63_what_a_ledger_hands_back_goes_to_the_next_one_with_the_same_offsets() {
        let mut world = World::new();
        for _ in 0..3 {
            world.append(10);
        }
        assert_eq!(world.appends(), 3);
        assert_eq!(world.log.confirmed(entry(0)).len(), 1);
        world.log.closed();
        let actions = world.actions();
        assert!(matches!(actions.as_slice(), [LogAction::Seal { begin_next: false, sealed, .. }] if sealed.messages == 2));
        world.log.sealed(at(0));
        assert_eq!(world.actions(), [LogAction::Create { first: Some(Offset::new(2)) }]);
        world.log.created(at(0), true);
        assert_eq!(world.appends(), 2);
        let confirmed = world.log.confirmed(entry(1));
        let offsets: Vec<u64> = confirmed.iter().map(|c| c.header.first_offset.get()).collect();
        assert_eq!(offsets, [2, 4]);
        assert_eq!(confirmed[0].entry, EntryId::ZERO);
        assert_eq!(world.log.confirmed_end(), Offset::new(6));
    }

    #[test]
    fn an_empty_ledger_never_rolls_and_an_idle_one_closes() {
        let mut world = World::new();
        world.now = 10_000;
        assert_eq!(world.actions(), []);
        assert_eq!(world.log.next_wakeup(), None);
        world.append(10);
        world.actions();
        world.now += 60;
        assert_eq!(world.actions(), [], "its entry is in flight, and it is not old");
        world.log.confirmed(entry(0));
        assert_eq!(world.actions(), [LogAction::Close]);
        world.log.closed();
        assert!(matches!(world.actions().as_slice(), [LogAction::Seal { begin_next: false, .. }]));
        world.log.sealed(at(world.now));
        assert_eq!(world.log.open_first(), None);
        assert_eq!(world.actions(), [], "no ledger before it is needed");
    }

    #[test]
    fn a_ledger_rolls_by_age() {
        let mut world = World::new();
        world.append(10);
        world.log.confirmed(entry(0));
        world.actions();
        world.now = 95;
        world.append(10);
        world.log.confirmed(entry(1));
        world.actions();
        assert_eq!(world.log.next_wakeup(), Some(at(100)));
        world.now = 100;
        assert_eq!(world.actions(), [LogAction::Create { first: None }]);
        world.log.created(at(100), true);
        assert_eq!(world.actions(), [LogAction::Close]);
        world.log.closed();
        assert!(matches!(world.actions().as_slice(), [LogAction::Seal { begin_next: true, .. }]));
    }

    #[test]
    fn an_old_ledger_that_is_given_nothing_closes_without_a_next_one() {
        let mut world = World::new();
        world.append(10);
        world.actions();
        world.now = 45;
        world.append(10);
        world.log.confirmed(entry(1));
        assert_eq!(world.appends(), 1);
        assert_eq!(world.log.next_wakeup(), Some(at(100)));
        world.now = 100;
        assert_eq!(world.actions(), [LogAction::Close]);
    }

    #[test]
    fn m7_an_old_ledger_is_written_on_until_the_next_is_there_and_an_idle_one_until_metadata_is() {
        let mut world = World::new();
        world.append(10);
        world.log.confirmed(entry(0));
        world.actions();
        world.log.set_metadata_certain(false);
        for tries in 0..100 {
            world.now = 100 + tries;
            assert_eq!(world.actions(), [LogAction::Create { first: None }]);
            world.log.created(at(world.now), false);
            assert_eq!(world.log.next_wakeup(), Some(at(world.now + 1)), "tried again");
            assert!(world.log.takes(usize::MAX));
        }
        world.log.set_metadata_certain(true);
        world.now += 60;
        assert!(world.actions().contains(&LogAction::Close), "it has been idle since metadata was seen to be away");
    }

    #[test]
    fn without_a_next_ledger_a_full_one_is_written_on_for_a_while() {
        let mut world = World::new();
        world.append(1000);
        assert!(!world.actions().contains(&LogAction::Close));
        world.log.created(at(0), false);
        assert_eq!(world.actions(), []);
        world.now = 1;
        assert_eq!(world.actions(), [LogAction::Create { first: None }], "tried again");
        world.append(300);
        assert!(world.actions().contains(&LogAction::Close));
        world.log.confirmed(entry(1));
        world.log.closed();
        assert_eq!(world.actions(), [], "the creation is on its way: it is sealed with its successor");
        world.log.created(at(1), true);
        assert!(matches!(world.actions().as_slice(), [LogAction::Seal { begin_next: true, .. }]));
    }
}
