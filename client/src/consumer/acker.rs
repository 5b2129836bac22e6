//! The application's means to acknowledge.

use std::sync::Arc;
use std::time::Duration;

use alluvium_proto::v1;
use alluvium_runtime::clock::Clock;
use futures::future::join_all;
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use super::acks::Acks;
use crate::error::Error;
use crate::message::Delivery;

pub(super) type Waiter = oneshot::Sender<Result<(), Error>>;

/// Acknowledges deliveries of one consumer. A cheap handle, for tasks that work on what another one receives.
#[derive(Clone, Debug)]
pub struct Acker {
    shared: Arc<Shared>,
}

/// What the application's ends and the task share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) state: Mutex<State>,
    /// Wakes the task.
    pub(super) task: Arc<Notify>,
    clock: Clock,
    timeout: Duration,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) acks: Acks<Waiter>,
    pub(super) nacks: Vec<v1::StreamNack>,
    /// Why nothing more is taken.
    pub(super) over: Option<Error>,
}

impl Shared {
    pub(super) const fn new(acks: Acks<Waiter>, task: Arc<Notify>, clock: Clock, timeout: Duration) -> Self {
        Self { state: Mutex::new(State { acks, nacks: Vec::new(), over: None }), task, clock, timeout }
    }
}

impl Acker {
    pub(super) const fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Acknowledges a delivery. When this returns it is durable, and the message is not delivered again.
    pub async fn ack(&self, delivery: &Delivery) -> Result<(), Error> {
        self.ack_range(delivery.partition, delivery.offset, delivery.offset).await
    }

    /// Acknowledges a delivery some time soon, together with others. [`Acker::flush`] waits for it.
    pub fn ack_later(&self, delivery: &Delivery) {
        let now = self.shared.clock.mono();
        let mut state = self.shared.state.lock();
        if state.over.is_none() {
            state.acks.ack(delivery.partition, delivery.offset, delivery.offset, None, now);
            drop(state);
            self.shared.task.notify_one();
        }
    }

    /// Acknowledges a run of offsets, both ends included; durable when this returns. For messages that can't be delivered.
    pub async fn ack_range(&self, partition: u32, first: u64, last: u64) -> Result<(), Error> {
        self.durable(|acks, waiter, now| acks.ack(partition, first, last, Some(waiter), now)).await
    }

    /// Acknowledges a delivery and everything before it in its partition; durable when this returns. Not on a shared
    /// subscription.
    pub async fn ack_up_to(&self, delivery: &Delivery) -> Result<(), Error> {
        let (partition, offset) = (delivery.partition, delivery.offset);
        self.durable(|acks, waiter, now| acks.ack_up_to(partition, offset, Some(waiter), now)).await
    }

    /// Gives a delivery back, to be delivered again, not before `delay` from now.
    pub fn nack(&self, delivery: &Delivery, delay: Duration) {
        let range = v1::OffsetRange { first: delivery.offset, last: delivery.offset };
        let delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        let mut state = self.shared.state.lock();
        if state.over.is_some() {
            return;
        }
        match state.nacks.last_mut() {
            Some(last) if last.partition == delivery.partition && last.delay_ms == delay_ms => last.ranges.push(range),
            _ => state.nacks.push(v1::StreamNack { partition: delivery.partition, ranges: vec![range], delay_ms }),
        }
        drop(state);
        self.shared.task.notify_one();
    }

    /// Waits until everything acknowledged so far is durable; fails with the first that isn't.
    pub async fn flush(&self) -> Result<(), Error> {
        let mut waits = Vec::new();
        {
            let mut state = self.shared.state.lock();
            state.acks.flush(|| {
                let (waiter, wait) = oneshot::channel();
                waits.push(wait);
                waiter
            });
        }
        self.shared.task.notify_one();
        let told = self.limited(join_all(waits)).await?;
        told.into_iter().try_for_each(|told| told.unwrap_or_else(|_| Err(self.over())))
    }

    async fn durable(
        &self,
        acknowledge: impl FnOnce(&mut Acks<Waiter>, Waiter, alluvium_types::time::Mono),
    ) -> Result<(), Error> {
        let (waiter, wait) = oneshot::channel();
        {
            let now = self.shared.clock.mono();
            let mut state = self.shared.state.lock();
            if let Some(over) = &state.over {
                return Err(over.clone());
            }
            acknowledge(&mut state.acks, waiter, now);
        }
        self.shared.task.notify_one();
        self.limited(wait).await?.unwrap_or_else(|_| Err(self.over()))
    }

    async fn limited<F: Future>(&self, future: F) -> Result<F::Output, Error> {
        let timeout = self.shared.timeout;
        self.shared.clock.timeout(timeout, future).await.map_err(|_| Error::timed_out(timeout).unresolved())
    }

    fn over(&self) -> Error {
        self.shared.state.lock().over.clone().unwrap_or(Error::Closed).unresolved()
    }
}
