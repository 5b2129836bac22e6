//! What a recovery may believe, and what it may leave behind.

use std::time::Duration;

use alluvium_ledger::call::{Answer, Request};
use alluvium_types::bookie::{AddEntry, Adder};
use alluvium_types::ledger::LedgerState;

use crate::metadata::Ask;
use crate::network::Slot;
use crate::plan::{Item, Shape, Who};
use crate::world::{Astray, Message, Role, Stage};

const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// An add of this entry on its way to one of these bookies.
fn is_add(message: Message<'_>, entry: u64, to: &[Slot]) -> bool {
    matches!(message, Message::Request(_, slot, Request::Add(add)) if add.entry.get() == entry && to.contains(&slot))
}

/// An add by a recovery, on its way to one of these bookies.
fn is_copy(message: Message<'_>, to: &[Slot]) -> bool {
    let by_recovery = |add: &AddEntry| matches!(add.adder, Adder::Recovery { .. });
    matches!(message, Message::Request(_, slot, Request::Add(add)) if by_recovery(add) && to.contains(&slot))
}

/// A fence on its way to a bookie.
fn is_fence(message: Message<'_>, to: Slot) -> bool {
    matches!(message, Message::Request(_, slot, Request::Fence(_)) if slot == to)
}

/// What a bookie answers to a recovery's read.
fn is_found(message: Message<'_>, from: Slot) -> bool {
    matches!(message, Message::Answer(name, slot, Answer::Read(_)) if slot == from && name.role == Role::Recovery)
}

/// The change that closes a ledger.
fn is_closing(message: Message<'_>) -> bool {
    matches!(message, Message::Ask(_, Ask::CompareAndSet { new, .. }) if matches!(new.state, LedgerState::Closed { .. }))
}

/// C1. Entry 1 is on `a` alone; recovery fences `a` and `b`, reads `b` and `c`, and hears nothing of `a`. Once the ledger is
/// closed the writer's add of entry 1 reaches `c`.
pub(super) fn late_add_after_a_read(stage: &mut Stage) -> Result<(), Astray> {
    let [a, b, c] = three(stage);
    stage.append(1)?;
    stage.until_confirmed(1)?;
    stage.wait(millis(50))?;
    stage.hold(move |m| is_add(m, 1, &[b, c]));
    stage.append(1)?;
    stage.until("entry 1 on a", |world| world.has_stored(a, 1))?;
    stage.inflict(Item::PauseClient { who: Who::Writer, span: millis(2000) })?;
    stage.hold(move |m| is_add(m, 1, &[b, c]) || is_fence(m, c) || is_found(m, a));
    stage.inflict(Item::Recover)?;
    stage.until("a closed ledger", |world| world.is_closed())?;
    stage.hold(move |m| is_add(m, 1, &[b]));
    stage.wait(millis(4000))
}

/// C11. Entry 1 is acked by `b` and `c`. Recovery finds it, can bring it neither to `a` nor to `c`, and takes two others in their
/// place, which never had it; `b` is slow to repeat what it has.
pub(super) fn evidence_is_on_the_old_ensemble(stage: &mut Stage) -> Result<(), Astray> {
    let [a, b, c] = three(stage);
    let [d, e] = two_others(stage);
    stage.append(1)?;
    stage.until_confirmed(1)?;
    stage.wait(millis(50))?;
    stage.hold(move |m| is_add(m, 1, &[a]) || matches!(m, Message::Request(_, _, Request::AdvanceLac(_))));
    stage.append(1)?;
    stage.until_confirmed(2)?;
    stage.crash_writer();
    stage.lose_held();
    stage.hold(move |m| is_copy(m, &[a, c]));
    stage.inflict(Item::Recover)?;
    stage.until("two others enlisted", |world| world.has_fenced(d) && world.has_fenced(e))?;
    stage.hold(move |m| is_copy(m, &[a, c]) || is_found(m, b));
    stage.until("a closed ledger", |world| world.is_closed())
}

/// C13. Entry 1 is on `a` alone and entry 2 on `b` alone. The first recovery can't write to `b` and `c`, copies both entries to an
/// ensemble of its own, of which `a` is one, and dies before it closes. The second one must not take what `a` then says of the
/// LAC for granted.
pub(super) fn copies_of_a_dead_recovery(stage: &mut Stage) -> Result<(), Astray> {
    let [a, b, c] = three(stage);
    stage.append(1)?;
    stage.until_confirmed(1)?;
    stage.wait(millis(50))?;
    stage.hold(move |m| is_add(m, 1, &[b, c]) || is_add(m, 2, &[a, c]));
    stage.append(2)?;
    stage.until("entries 1 and 2", |world| world.has_stored(a, 1) && world.has_stored(b, 2))?;
    stage.crash_writer();
    stage.lose_held();
    // `c` says nothing: two who lack an entry would end the ledger before it.
    stage.hold(move |m| is_copy(m, &[b, c]) || is_found(m, c) || is_closing(m));
    stage.inflict(Item::Recover)?;
    stage.until("the first recovery about to close", |world| world.holds(is_closing))?;
    stage.crash_recovery(0);
    stage.lose_held();
    // `a` is among those that the second one hears first.
    stage.hold(move |m| is_fence(m, c));
    stage.inflict(Item::Recover)?;
    stage.until("a closed ledger", |world| world.is_closed())
}

/// A world in which every message takes the same time, and bookies take longer than metadata.
pub(super) fn even_pace() -> Shape {
    let mut shape = Shape::calm();
    shape.weather.delay_min = millis(4);
    shape.weather.delay_max = millis(4);
    shape.disk_time = (millis(2), millis(2));
    shape.metadata_time = (Duration::from_micros(300), Duration::from_micros(300));
    shape
}

/// C14. Two recoveries begin a moment apart; each claim makes the other one's fences stale.
pub(super) fn two_at_once(stage: &mut Stage) -> Result<(), Astray> {
    stage.append(3)?;
    stage.until_confirmed(3)?;
    stage.crash_writer();
    stage.inflict(Item::Recover)?;
    stage.wait(millis(2))?;
    stage.inflict(Item::Recover)
}

/// A recovery can't write to two members, and neither spare answers when it asks them. Once they do it goes on with them: it held
/// their silence against them for good, and never ended.
pub(super) fn spares_that_were_silent(stage: &mut Stage) -> Result<(), Astray> {
    let [_, b, c] = three(stage);
    let [d, e] = two_others(stage);
    stage.append(3)?;
    stage.until_confirmed(3)?;
    stage.crash_writer();
    stage.hold(move |m| is_copy(m, &[b, c]) || is_fence(m, d) || is_fence(m, e));
    stage.inflict(Item::Recover)?;
    stage.wait(millis(1000))?;
    stage.hold(move |m| is_copy(m, &[b, c]));
    stage.until("a closed ledger", |world| world.is_closed())
}

fn three(stage: &Stage) -> [Slot; 3] {
    stage.cast()[..3].try_into().expect("an ensemble of three")
}

fn two_others(stage: &Stage) -> [Slot; 2] {
    stage.cast()[3..5].try_into().expect("five bookies")
}
