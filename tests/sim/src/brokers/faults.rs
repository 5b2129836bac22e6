//! What goes wrong, when its time has come.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use alluvium_runtime::tasks::OnFailure;

use super::node;
use super::plan::{Item, Planned, Target};
use super::world::World;

/// How long the last fault is felt before all is healed.
const AFTERMATH: Duration = Duration::from_millis(700);

/// Carries the plan's items out, in order.
pub(super) async fn strike(world: &Arc<World>) {
    for Planned { at, item } in world.plan.items.clone() {
        world.clock.sleep_until(at).await;
        if world.history.is_broken() {
            return;
        }
        one(world, item);
    }
    world.clock.sleep(AFTERMATH).await;
}

fn one(world: &Arc<World>, item: Item) {
    let now = world.clock.mono();
    let which = |target| match target {
        Target::Favourite => world.favourite(),
        Target::Number(number) => number,
    };
    match item {
        Item::Kill { broker, away, told } => {
            let broker = which(broker);
            if !world.nodes[broker].kill() {
                return;
            }
            world.history.fault(now, format_args!("n{broker} is killed"));
            if told {
                world.bookies.gone(broker);
            }
            later(world, away, move |world| restart_broker(world, broker));
        }
        Item::Pause { broker, span } => {
            let broker = which(broker);
            if !world.nodes[broker].is_up() {
                return;
            }
            world.history.fault(now, format_args!("n{broker} stands still"));
            world.nodes[broker].pause();
            later(world, span, move |world| {
                world.history.note(world.clock.mono(), format_args!("n{broker} goes on"));
                world.nodes[broker].wake();
            });
        }
        Item::Drain { broker, away } => {
            let broker = which(broker);
            if world.nodes[broker].doors().is_none() {
                return;
            }
            world.history.fault(now, format_args!("n{broker} drains"));
            let draining = Arc::clone(world);
            world.network.tasks.spawn("drain", OnFailure::Log, async move {
                node::drain(&draining, broker).await;
                draining.nodes[broker].kill();
                draining.bookies.gone(broker);
                draining.history.note(draining.clock.mono(), format_args!("n{broker} is drained"));
                draining.clock.sleep(away).await;
                restart_broker(&draining, broker);
                Ok::<(), Infallible>(())
            });
        }
        Item::Favour { broker } => world.favour(which(broker)),
        Item::Cut { broker, bookie, span } => {
            let broker = which(broker);
            world.history.fault(now, format_args!("n{broker} and b{bookie} are cut off"));
            world.bookies.cut((broker, bookie), span);
        }
        Item::Isolate { broker, span } => {
            let broker = which(broker);
            world.history.fault(now, format_args!("n{broker} does not reach metadata"));
            world.plane.cut(broker, span);
        }
        Item::Crash { bookie, away, power } => {
            world.history.fault(now, format_args!("b{bookie} crashes"));
            world.bookies.crash(bookie, power);
            let world = Arc::clone(world);
            world.network.tasks.clone().spawn("restart", OnFailure::Log, async move {
                world.clock.sleep(away).await;
                restart(&world, bookie).await;
                Ok::<(), Infallible>(())
            });
        }
    }
}

/// Starts a broker again; once all is healed, only the one that clients are told.
fn restart_broker(world: &Arc<World>, broker: usize) {
    if !world.is_healed() || world.favourite() == broker {
        node::start(world, broker);
    }
}

/// Starts a bookie that does not run, and tells it what it asks.
pub(super) async fn restart(world: &Arc<World>, bookie: usize) {
    if world.bookies.restart(bookie)
        && let Ok(next) = world.metadata.ledgers().allocate().await
    {
        world.bookies.bound_doubts(bookie, next);
    }
}

fn later(world: &Arc<World>, after: Duration, then: impl FnOnce(&Arc<World>) + Send + 'static) {
    let world = Arc::clone(world);
    world.network.tasks.clone().spawn("later", OnFailure::Log, async move {
        world.clock.sleep(after).await;
        then(&world);
        Ok::<(), Infallible>(())
    });
}
