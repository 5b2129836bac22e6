//! A simulated machine room: processes whose tasks run one at a time on one thread, in an order that chance decides, and a time
//! that passes only when no task can go on.
//!
//! What runs in it is the product's own async code, through [`crate::tasks`] and [`crate::clock`]. The same seed gives the same
//! order: among the tasks that can go on chance picks one, whoever woke them in whatever order. A process can be paused, as by
//! SIGSTOP, and killed, as by SIGKILL: its tasks then do not run, or are gone, wherever they stand.
//!
//! Read in this order: `executor`, `time`.

mod executor;
pub(crate) mod time;

pub use executor::{Process, Simulation};
