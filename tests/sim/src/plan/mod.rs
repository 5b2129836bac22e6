//! What a run will be, drawn before it begins: its shape, and a list of what will be done to it.
//!
//! The list is data, so that a failing run is shrunk by deleting items, and a directed schedule is a list written by hand.

mod schedule;
mod shape;

pub use schedule::{Item, Planned, Who};
pub use shape::Shape;

use crate::dice::Dice;

/// Everything that distinguishes one run from another.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where all chance of the run comes from.
    pub seed: u64,
    /// The run's own configuration.
    pub shape: Shape,
    /// What is done to it, in order of time.
    pub items: Vec<Planned>,
}

/// Streams of chance; each part of a run has one of its own.
pub(crate) mod stream {
    pub(crate) const SHAPE: u64 = 1;
    pub(crate) const SCHEDULE: u64 = 2;
    pub(crate) const NETWORK: u64 = 3;
    pub(crate) const METADATA: u64 = 4;
    pub(crate) const DISKS: u64 = 5;
    pub(crate) const MACHINES: u64 = 6;
    pub(crate) const WORKLOAD: u64 = 7;
}

impl Plan {
    /// Draws the plan of a seed.
    pub fn draw(seed: u64) -> Self {
        let shape = Shape::draw(&mut Dice::new(seed, stream::SHAPE));
        let items = schedule::draw(&mut Dice::new(seed, stream::SCHEDULE), &shape);
        Self { seed, shape, items }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_draws_the_same_plan_again() {
        for seed in 0..50 {
            assert_eq!(format!("{:?}", Plan::draw(seed)), format!("{:?}", Plan::draw(seed)));
        }
    }

    #[test]
    fn a_plan_never_loses_more_disks_than_the_invariants_allow() {
        for seed in 0..2000 {
            let plan = Plan::draw(seed);
            let lost = plan.items.iter().filter(|p| matches!(p.item, Item::Wipe { .. } | Item::Rot { .. })).count();
            assert!(lost < plan.shape.replication.ack(), "seed {seed}: {lost} disks lost");
            assert!(plan.items.is_sorted_by_key(|p| p.at));
        }
    }
}
