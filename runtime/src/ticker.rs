//! Ticks finer than the milliseconds of timers, for whoever sends by a schedule.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Ticks of one period, beginning one period after it was made. Ticks that nobody waited for become one.
#[derive(Debug)]
pub struct Ticker {
    timer: AsyncFd<OwnedFd>,
}

impl Ticker {
    /// Ticks of `period`, on the present tokio runtime.
    ///
    /// # Errors
    /// When the system gives no timer, or the period is zero.
    pub fn every(period: Duration) -> io::Result<Self> {
        let timer = rustix::time::timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        let period = Timespec::try_from(period).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        if period.tv_sec == 0 && period.tv_nsec == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a period of ticks is zero"));
        }
        let ticks = Itimerspec { it_interval: period, it_value: period };
        rustix::time::timerfd_settime(&timer, TimerfdTimerFlags::empty(), &ticks)?;
        #[expect(deprecated, reason = "its fault is with descriptors that go before they are deregistered; this one is owned")]
        let timer = AsyncFd::with_interest(timer, Interest::READABLE)?;
        Ok(Self { timer })
    }

    /// Waits for the next tick; says how many there were since the last call, at least 1. Cancel safe.
    pub async fn tick(&mut self) -> io::Result<u64> {
        loop {
            let mut ready = self.timer.readable().await?;
            let mut ticks = [0; 8];
            match ready.try_io(|timer| Ok(rustix::io::read(timer.get_ref(), &mut ticks)?)) {
                Ok(read) => return read.map(|_| u64::from_ne_bytes(ticks)),
                Err(_not_yet) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    #[tokio::test]
    async fn ticks_are_finer_than_timers_and_none_is_lost() {
        let (clock, period) = (Clock::system(), Duration::from_micros(250));
        let begun = clock.mono();
        let mut ticker = Ticker::every(period).expect("a timer");
        let mut ticks = 0;
        while ticks < 100 {
            ticks += ticker.tick().await.expect("a tick");
        }
        let took = clock.mono().since(begun);
        assert!(took >= period * 100, "{took:?}");
        assert!(Ticker::every(Duration::ZERO).is_err());
    }
}
