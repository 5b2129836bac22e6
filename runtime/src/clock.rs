//! The clock seam: a monotonic reading that decides, a wall reading that labels, and waiting.

#![expect(clippy::disallowed_methods, reason = "this is where the real clock lives")]

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use alluvium_types::time::{Mono, Timestamp};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::simulation::time::VirtualTime;

/// A cheap handle to the time of this process.
#[derive(Clone, Debug)]
pub struct Clock(Source);

#[derive(Clone, Debug)]
enum Source {
    System { zero: Instant },
    Manual { now: watch::Sender<Mono>, wall: Arc<Mutex<Timestamp>> },
    Simulated { time: VirtualTime, wall_zero: Timestamp },
}

/// The time was up before the future was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not done within {0:?}")]
pub struct Elapsed(pub Duration);

impl Clock {
    /// The machine's clocks.
    pub fn system() -> Self {
        Self(Source::System { zero: Instant::now() })
    }

    /// A clock that stands at zero until [`Clock::advance`] moves it.
    pub fn manual(wall: Timestamp) -> Self {
        Self(Source::Manual { now: watch::Sender::new(Mono::default()), wall: Arc::new(Mutex::new(wall)) })
    }

    /// The time of a simulation; at its zero the wall reading is `wall_zero`.
    pub(crate) const fn simulated(time: VirtualTime, wall_zero: Timestamp) -> Self {
        Self(Source::Simulated { time, wall_zero })
    }

    /// The monotonic reading.
    pub fn mono(&self) -> Mono {
        match &self.0 {
            Source::System { zero } => Mono::from_duration(zero.elapsed()),
            Source::Manual { now, .. } => *now.borrow(),
            Source::Simulated { time, .. } => time.now(),
        }
    }

    /// The wall-clock label.
    pub fn wall(&self) -> Timestamp {
        match &self.0 {
            Source::System { .. } => {
                let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                Timestamp::from_millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
            }
            Source::Manual { wall, .. } => *wall.lock(),
            Source::Simulated { time, wall_zero } => {
                let since = u64::try_from(time.now().as_duration().as_millis()).unwrap_or(u64::MAX);
                Timestamp::from_millis(wall_zero.as_millis().saturating_add(since))
            }
        }
    }

    /// Moves a manual clock, both readings; wakes who waits.
    ///
    /// # Panics
    /// On any other clock.
    pub fn advance(&self, by: Duration) {
        let Source::Manual { now, wall } = &self.0 else { panic!("only a manual clock is turned by hand") };
        {
            let mut wall = wall.lock();
            *wall = Timestamp::from_millis(wall.as_millis() + u64::try_from(by.as_millis()).unwrap_or(u64::MAX));
        }
        now.send_modify(|n| *n = n.after(by));
    }

    /// Sets a manual clock's wall reading alone, forward or back (C55).
    ///
    /// # Panics
    /// On any other clock.
    pub fn set_wall(&self, to: Timestamp) {
        let Source::Manual { wall, .. } = &self.0 else { panic!("only a manual clock is turned by hand") };
        *wall.lock() = to;
    }

    /// Waits until the monotonic reading is `until` or later. Cancel safe.
    pub async fn sleep_until(&self, until: Mono) {
        match &self.0 {
            Source::System { zero } => {
                tokio::time::sleep_until(tokio::time::Instant::from_std(*zero + until.as_duration())).await;
            }
            Source::Manual { now, .. } => {
                let mut seen = now.subscribe();
                // The sender lives in this very handle.
                let _ = seen.wait_for(|n| *n >= until).await;
            }
            Source::Simulated { time, .. } => time.sleep_until(until).await,
        }
    }

    /// Waits for `duration`. Cancel safe.
    pub async fn sleep(&self, duration: Duration) {
        self.sleep_until(self.mono().after(duration)).await;
    }

    /// Waits for `future`, but no longer than `limit`; the future is dropped then.
    pub async fn timeout<F: Future>(&self, limit: Duration, future: F) -> Result<F::Output, Elapsed> {
        tokio::select! {
            biased;
            output = future => Ok(output),
            () = self.sleep(limit) => Err(Elapsed(limit)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_manual_clock_wakes_those_whose_time_has_come() {
        let clock = Clock::manual(Timestamp::from_millis(1000));
        let sleeper = {
            let clock = clock.clone();
            tokio::spawn(async move { clock.sleep(Duration::from_secs(5)).await })
        };
        tokio::task::yield_now().await;
        clock.advance(Duration::from_secs(4));
        tokio::task::yield_now().await;
        assert!(!sleeper.is_finished());
        clock.advance(Duration::from_secs(1));
        sleeper.await.expect("it wakes");
        assert_eq!(clock.wall(), Timestamp::from_millis(6000));
    }
}
