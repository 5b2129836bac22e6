//! What a change of metadata that nobody answered may still do.

use std::time::Duration;

use crate::metadata::Ask;
use crate::plan::Item;
use crate::world::{Astray, Message, Role, Stage};

/// C12. A member is gone; the change that replaces it is on its way for a second, and the writer hears nothing. What it confirms
/// meanwhile, it confirms on an ensemble that metadata is about to leave.
pub(super) fn change_applied_late(stage: &mut Stage) -> Result<(), Astray> {
    let c = stage.cast()[2];
    stage.append(1)?;
    stage.until_confirmed(1)?;
    stage.wait(Duration::from_millis(50))?;
    let is_change = |m: Message<'_>| matches!(m, Message::Ask(name, Ask::CompareAndSet { .. }) if name.role == Role::Writer);
    stage.hold(is_change);
    stage.inflict(Item::Crash { slot: c, down: Duration::from_secs(5) })?;
    stage.append(1)?;
    stage.until("an ensemble change", |world| world.holds(is_change))?;
    stage.append(2)?;
    stage.wait(Duration::from_millis(1000))?;
    stage.release();
    stage.until_confirmed(4)
}
