//! The list of what is done to a run, with times.

use std::time::Duration;

use alluvium_types::time::Mono;

use crate::dice::Dice;
use crate::network::{Slot, Way};
use crate::plan::Shape;

/// One item of the list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Planned {
    /// When.
    pub at: Mono,
    /// What.
    pub item: Item,
}

/// A client, by its part in the story.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Who {
    /// The writer of the newest ledger.
    Writer,
    /// The n-th recovery that was begun.
    Recovery(usize),
}

/// What can be done to a run. All but `Recover` are faults.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Item {
    /// Another process recovers the newest ledger, whether or not its writer lives.
    Recover,
    /// The bookie's machine loses power; what was written and not synced is lost, in part, by sectors.
    Crash { slot: Slot, down: Duration },
    /// The bookie's process dies alone; what it wrote stays, synced or not.
    Kill { slot: Slot, down: Duration },
    /// The bookie's disk fails one write or sync; the process ends, and starts again.
    DiskFails { slot: Slot, down: Duration },
    /// The bookie's disk is nearly full: it takes only what is essential.
    ReadOnly { slot: Slot, span: Duration },
    /// Everything loses power at once.
    CrashAll { down: Duration },
    /// The bookie's disk is replaced by an empty one.
    Wipe { slot: Slot, down: Duration },
    /// Durable bytes of the bookie change.
    Rot { slot: Slot },
    /// The bookie's process stands still; its kernel goes on.
    PauseBookie { slot: Slot, span: Duration },
    /// The client's process stands still; its kernel goes on.
    PauseClient { who: Who, span: Duration },
    /// The client's process dies.
    CrashClient { who: Who },
    /// One way between a client, or all of them, and a bookie is cut.
    Cut { who: Option<Who>, slot: Slot, way: Way, span: Duration },
    /// A connection breaks.
    Break { who: Who, slot: Slot },
    /// The bookie's disk takes twenty times as long.
    SlowDisk { slot: Slot, span: Duration },
    /// Metadata answers nobody: what it is sent commits now or later, and answers are lost.
    MetadataDark { span: Duration },
}

impl Item {
    /// Whether this is something that goes wrong, rather than somebody who arrives.
    pub const fn is_fault(&self) -> bool {
        !matches!(self, Self::Recover)
    }
}

const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Draws a schedule for a run of this shape.
pub(super) fn draw(dice: &mut Dice, shape: &Shape) -> Vec<Planned> {
    let mut items = Vec::new();
    let phase = shape.fault_phase;
    let recoveries = recoveries(dice, phase, &mut items);
    let any_time = |dice: &mut Dice| Mono::from_duration(dice.time(millis(20), phase));
    let slot = |dice: &mut Dice| Slot(dice.index(shape.bookies));
    let who = |dice: &mut Dice| {
        if recoveries == 0 || dice.chance(0.5) { Who::Writer } else { Who::Recovery(dice.index(recoveries)) }
    };
    let way = |dice: &mut Dice| if dice.chance(0.5) { Way::There } else { Way::Back };

    // Which kinds of fault this run has at all.
    let kinds = dice.bits();
    let has = |kind: u32| kinds >> kind & 1 == 1;
    let mut put = |at, item| items.push(Planned { at, item });

    if has(0) {
        for _ in 0..dice.between(1, 5) {
            let down = dice.time(millis(5), millis(500));
            let (at, slot) = (any_time(dice), slot(dice));
            put(at, if dice.chance(0.7) { Item::Crash { slot, down } } else { Item::Kill { slot, down } });
        }
    }
    if has(1) && has(2) {
        put(any_time(dice), Item::CrashAll { down: dice.time(millis(5), millis(300)) });
    }
    let mut disks_to_lose = shape.replication.ack() - 1;
    if has(3) && disks_to_lose > 0 {
        disks_to_lose -= 1;
        put(any_time(dice), Item::Wipe { slot: slot(dice), down: dice.time(millis(5), millis(400)) });
    }
    if has(4) && disks_to_lose > 0 {
        put(any_time(dice), Item::Rot { slot: slot(dice) });
    }
    if has(5) {
        for _ in 0..dice.between(1, 3) {
            put(any_time(dice), Item::PauseBookie { slot: slot(dice), span: dice.time(millis(10), millis(800)) });
        }
    }
    if has(6) {
        for _ in 0..dice.between(1, 3) {
            put(any_time(dice), Item::PauseClient { who: who(dice), span: dice.time(millis(10), millis(1200)) });
        }
    }
    if has(7) && dice.chance(0.7) {
        put(any_time(dice), Item::CrashClient { who: who(dice) });
    }
    if has(8) {
        for _ in 0..dice.between(1, 5) {
            let who = if dice.chance(0.3) { None } else { Some(who(dice)) };
            let span = dice.time(millis(20), millis(1000));
            put(any_time(dice), Item::Cut { who, slot: slot(dice), way: way(dice), span });
        }
    }
    if has(9) {
        for _ in 0..dice.between(1, 6) {
            put(any_time(dice), Item::Break { who: who(dice), slot: slot(dice) });
        }
    }
    if has(10) && dice.chance(0.5) {
        put(any_time(dice), Item::SlowDisk { slot: slot(dice), span: dice.time(millis(100), millis(1500)) });
    }
    if has(11) {
        for _ in 0..dice.between(1, 2) {
            put(any_time(dice), Item::MetadataDark { span: dice.time(millis(30), millis(800)) });
        }
    }
    if has(12) && dice.chance(0.3) {
        put(any_time(dice), Item::DiskFails { slot: slot(dice), down: dice.time(millis(5), millis(300)) });
    }
    if has(13) && dice.chance(0.4) {
        for _ in 0..dice.between(1, 2) {
            put(any_time(dice), Item::ReadOnly { slot: slot(dice), span: dice.time(millis(50), millis(1200)) });
        }
    }
    // Every run has something to survive.
    for _ in items.iter().filter(|p| p.item.is_fault()).count()..3 {
        let at = any_time(dice);
        let item = match dice.below(3) {
            0 => Item::Crash { slot: slot(dice), down: dice.time(millis(5), millis(300)) },
            1 => Item::Break { who: Who::Writer, slot: slot(dice) },
            _ => Item::Cut { who: None, slot: slot(dice), way: way(dice), span: dice.time(millis(50), millis(600)) },
        };
        items.push(Planned { at, item });
    }
    items.sort_by_key(|p| p.at);
    items
}

/// Up to four recoveries; in most runs the first begins while the writer appends, and others soon after it.
fn recoveries(dice: &mut Dice, phase: Duration, items: &mut Vec<Planned>) -> usize {
    let count = match dice.below(10) {
        0 | 1 => 0,
        2..6 => 1,
        6 | 7 => 2,
        8 => 3,
        _ => 4,
    };
    let first = dice.time(phase.mul_f64(0.35), phase);
    for n in 0..count {
        let at = if n == 0 || dice.chance(0.3) {
            if n == 0 { first } else { dice.time(phase.mul_f64(0.2), phase) }
        } else {
            first + dice.time(Duration::ZERO, millis(150))
        };
        items.push(Planned { at: Mono::from_duration(at), item: Item::Recover });
    }
    count
}
