//! What a process may believe of what it finds on its disk.

use std::time::Duration;

use crate::plan::{Item, Shape};
use crate::world::{Astray, Stage};

const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// A world in which a group is a while on its way to the disk.
pub(super) fn slow_disks() -> Shape {
    let mut shape = Shape::calm();
    shape.disk_time = (millis(3), millis(3));
    shape
}

/// B1. Entries are on their way to `a`'s disk when its process is killed. After the restart the writer sends them again, and
/// `a` says that it has them, before the power goes: it had read what no sync had covered.
pub(super) fn killed_then_cut_off(stage: &mut Stage) -> Result<(), Astray> {
    let a = stage.cast()[0];
    stage.wait(millis(100))?;
    // The first entry is a group by itself; what came meanwhile is the next one.
    stage.append(40)?;
    stage.until("the first group", |world| world.has_stored(a, 0))?;
    stage.until("the next group on its way", |world| world.is_writing(a))?;
    stage.kill_in_write(a, millis(5));
    stage.until("the bookie up", |world| world.is_up(a))?;
    stage.until("its answers", |world| world.has_stored(a, 39))?;
    stage.inflict(Item::Crash { slot: a, down: millis(5) })?;
    stage.until("the bookie up", |world| world.is_up(a))
}
