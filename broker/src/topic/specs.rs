//! Which subscriptions exist, by metadata: read again when somebody says that they changed.
//!
//! The owner task reads itself, one read at a time, and each begins after whoever asked for it did: what the machine is told
//! never goes back to what was true before, whoever asks at the same time.

use std::sync::Arc;
use std::time::Duration;

use alluvium_metadata::{PartitionId, ReadError};
use futures::future::{BoxFuture, FutureExt};
use tokio::sync::oneshot;

use super::hosted::SubscriptionSpec;
use crate::broker::{Context, specs_of};

/// How long after a read that failed the next one begins.
const READ_AGAIN: Duration = Duration::from_secs(1);

/// Who waits until the subscriptions that exist are known; gone when nobody does.
pub(crate) type SpecsKnown = oneshot::Sender<Result<(), ReadError>>;

/// See the module.
pub(super) struct Specs {
    context: Arc<Context>,
    partition: PartitionId,
    reading: Option<BoxFuture<'static, Result<Vec<SubscriptionSpec>, ReadError>>>,
    /// Those whom the read under way answers.
    asked: Vec<SpecsKnown>,
    /// Those who came after it began, if any.
    asked_since: Option<Vec<SpecsKnown>>,
}

impl Specs {
    pub(super) const fn new(context: Arc<Context>, partition: PartitionId) -> Self {
        Self { context, partition, reading: None, asked: Vec::new(), asked_since: None }
    }

    /// They may have changed.
    pub(super) fn ask(&mut self, known: Option<SpecsKnown>) {
        if self.reading.is_none() {
            self.asked.extend(known);
            self.read(Duration::ZERO);
        } else {
            self.asked_since.get_or_insert_default().extend(known);
        }
    }

    fn read(&mut self, after: Duration) {
        let (context, partition) = (Arc::clone(&self.context), self.partition);
        let read = async move {
            if !after.is_zero() {
                context.clock.sleep(after).await;
            }
            specs_of(&context, partition).await
        };
        self.reading = Some(read.boxed());
    }

    /// What was read. To be applied, and then confirmed by [`Specs::told`], before anything else. Cancel safe.
    pub(super) async fn next(&mut self) -> Result<Vec<SubscriptionSpec>, ReadError> {
        match &mut self.reading {
            Some(reading) => {
                let read = reading.await;
                self.reading = None;
                read
            }
            None => std::future::pending().await,
        }
    }

    /// The machine knows, or what there is could not be read: that is tried again by itself.
    pub(super) fn told(&mut self, outcome: &Result<(), ReadError>) {
        for known in self.asked.drain(..) {
            // Who asked may have gone.
            let _ = known.send(outcome.clone());
        }
        let again = self.asked_since.take();
        if again.is_some() || outcome.is_err() {
            self.asked = again.unwrap_or_default();
            self.read(if outcome.is_err() { READ_AGAIN } else { Duration::ZERO });
        }
    }
}
