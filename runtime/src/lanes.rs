//! Lanes: threads with a runtime of their own each. A connection stays on one lane, and so does a partition: where both
//! are on the same, a message passes from one to the other without a wake of another thread.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::runtime::{Builder, Handle};

use crate::tasks::{OnFailure, Tasks};

/// A cheap handle to all lanes of a process.
#[derive(Clone, Debug)]
pub struct Lanes(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    runtimes: Vec<Handle>,
    /// How many seats of each are taken.
    seats: Mutex<Vec<usize>>,
    next: AtomicUsize,
}

impl Lanes {
    /// Starts `count` lanes, at least one. They go on until `tasks` is stopped, and what still lives there ends with them: whoever
    /// begins something there is to be stopped before.
    ///
    /// # Errors
    /// When the system gives no reactor.
    pub fn start(tasks: &Tasks, name: &str, count: usize) -> io::Result<Self> {
        let mut runtimes = Vec::new();
        for number in 0..count.max(1) {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            runtimes.push(runtime.handle().clone());
            let stop = tasks.clone();
            tasks.thread(&format!("{name}-{number}"), OnFailure::ShutDown, move || {
                runtime.block_on(stop.stopping());
                // A blocking call that does not end keeps no process from ending.
                runtime.shutdown_background();
                Ok::<(), io::Error>(())
            });
        }
        Ok(Self::of(runtimes))
    }

    /// One lane, which is the present runtime.
    ///
    /// # Panics
    /// Where there is none.
    pub fn here() -> Self {
        Self::of(vec![Handle::current()])
    }

    fn of(runtimes: Vec<Handle>) -> Self {
        let seats = Mutex::new(vec![0; runtimes.len()]);
        Self(Arc::new(Inner { runtimes, seats, next: AtomicUsize::new(0) }))
    }

    /// A seat on the lane with the fewest; among several, on the one that this is called from.
    pub fn seat(&self) -> Seat {
        let own = Handle::try_current().ok().map(|runtime| runtime.id());
        let mut seats = self.0.seats.lock();
        let load = |number: &usize| (seats[*number], Some(self.0.runtimes[*number].id()) != own);
        let number = (0..seats.len()).min_by_key(load).unwrap_or_default();
        seats[number] += 1;
        drop(seats);
        Seat { lanes: self.clone(), number }
    }

    /// The runtime of one lane after the other: to be entered while a connection is begun.
    pub fn turn(&self) -> Handle {
        let runtimes = &self.0.runtimes;
        runtimes[self.0.next.fetch_add(1, Ordering::Relaxed) % runtimes.len()].clone()
    }

    /// All of them, to begin something on each.
    pub(crate) fn runtimes(&self) -> impl Iterator<Item = &Handle> {
        self.0.runtimes.iter()
    }
}

/// A place on a lane for what does much of the work, given back when it is dropped.
#[derive(Debug)]
pub struct Seat {
    lanes: Lanes,
    number: usize,
}

impl Seat {
    /// The lane's runtime: to be entered while what shall live there is spawned.
    pub fn runtime(&self) -> Handle {
        self.lanes.0.runtimes[self.number].clone()
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.lanes.0.seats.lock()[self.number] -= 1;
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "what lives where is what is tested")]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn seats_are_spread_and_the_askers_lane_comes_first_among_equals() {
        let (tasks, _failures) = Tasks::new();
        let lanes = Lanes::start(&tasks, "lane", 3).expect("started");
        let seat_from = async |number: usize| {
            let asked = lanes.clone();
            lanes.0.runtimes[number].spawn(async move { asked.seat() }).await.expect("it does not panic")
        };
        let first = seat_from(2).await;
        let second = seat_from(2).await;
        let third = seat_from(1).await;
        assert_eq!((first.number, second.number, third.number), (2, 0, 1));
        drop(second);
        assert_eq!(seat_from(2).await.number, 0, "where there is room");
        let name = {
            let runtime = first.runtime();
            let _entered = runtime.enter();
            tokio::spawn(async { std::thread::current().name().map(ToOwned::to_owned) }).await.expect("it does not panic")
        };
        assert_eq!(name.as_deref(), Some("lane-2"));
        tasks.stop();
        assert!(tasks.join(Duration::from_secs(5)).await);
    }
}
