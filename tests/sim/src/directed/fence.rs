//! What a fence must outlive.

use std::time::Duration;

use alluvium_types::ledger::LedgerState;

use crate::metadata::Ask;
use crate::plan::Item;
use crate::world::{Astray, Message, Stage};

/// C8. A recovery has fenced everybody and is slow to go on; a bookie restarts, and the writer, who knows of nothing, adds.
pub(super) fn restart_between_fence_and_add(stage: &mut Stage) -> Result<(), Astray> {
    let a = stage.cast()[0];
    stage.append(1)?;
    stage.until_confirmed(1)?;
    stage.wait(Duration::from_millis(50))?;
    let is_closing = |m: Message<'_>| matches!(m, Message::Ask(_, Ask::CompareAndSet { new, .. }) if matches!(new.state, LedgerState::Closed { .. }));
    stage.hold(is_closing);
    stage.inflict(Item::Recover)?;
    stage.until("the recovery about to close", |world| world.holds(is_closing))?;
    stage.inflict(Item::Crash { slot: a, down: Duration::from_millis(20) })?;
    stage.until("the bookie down", |world| !world.is_up(a))?;
    stage.until("the bookie up", |world| world.is_up(a))?;
    stage.wait(Duration::from_millis(400))?;
    stage.append(1)?;
    stage.wait(Duration::from_millis(400))
}
