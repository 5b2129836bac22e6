//! Time that passes when it is told to: to the next moment for which somebody waits.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use alluvium_types::time::Mono;
use parking_lot::Mutex;

/// A cheap handle to the time of a simulation.
#[derive(Clone, Debug, Default)]
pub(crate) struct VirtualTime(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    now: Mono,
    sleepers: BTreeMap<(Mono, u64), Waker>,
    next_sleeper: u64,
}

impl VirtualTime {
    /// The present.
    pub(crate) fn now(&self) -> Mono {
        self.0.lock().now
    }

    /// The next moment for which somebody waits.
    pub(super) fn next(&self) -> Option<Mono> {
        self.0.lock().sleepers.first_key_value().map(|((at, _), _)| *at)
    }

    /// Goes to that moment and wakes those whose time has come.
    pub(super) fn advance(&self) {
        let mut due = Vec::new();
        {
            let mut inner = self.0.lock();
            let Some(((at, _), _)) = inner.sleepers.first_key_value() else { return };
            inner.now = inner.now.max(*at);
            let now = inner.now;
            while let Some(sleeper) = inner.sleepers.first_entry().filter(|sleeper| sleeper.key().0 <= now) {
                due.push(sleeper.remove());
            }
        }
        due.into_iter().for_each(Waker::wake);
    }

    /// Waits for a moment. Cancel safe.
    pub(crate) fn sleep_until(&self, at: Mono) -> Sleep {
        Sleep { time: self.clone(), at, place: None }
    }
}

/// See [`VirtualTime::sleep_until`].
#[derive(Debug)]
pub(crate) struct Sleep {
    time: VirtualTime,
    at: Mono,
    /// Where it waits.
    place: Option<u64>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let time = self.time.clone();
        let mut inner = time.0.lock();
        if inner.now >= self.at {
            return Poll::Ready(());
        }
        let place = *self.place.get_or_insert_with(|| {
            inner.next_sleeper += 1;
            inner.next_sleeper
        });
        inner.sleepers.insert((self.at, place), context.waker().clone());
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            self.time.0.lock().sleepers.remove(&(self.at, place));
        }
    }
}
