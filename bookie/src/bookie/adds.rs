//! Writing through the handle.

use std::future::Future;

use alluvium_runtime::budget::BytesHeld;
use alluvium_types::bookie::{AddEntry, AdvanceLac, Refusal};
use tokio::sync::oneshot;

use super::Bookie;
use super::add_stream::AddStream;
use super::reads::wake_lac_waiters;
use super::shared::Life;
use super::waiters::Waiter;
use crate::store::{AddOutcome, Compared, Comparison, VerifiedAdd};

/// What the first try of an add came to.
enum Tried {
    Answered(Result<(), Refusal>),
    Waits,
    Compare(Comparison),
    Full,
}

/// What the first try of an add came to, for [`Bookie::settle`].
pub(crate) struct TriedAdd(Tried);

impl Bookie {
    /// Stores an entry; resolves once it is durable. The entry is on its way when this returns, unless there is no room for it
    /// at the moment: then it waits its turn as the future is polled. Dropping the future does not undo the add.
    pub fn add(&self, add: AddEntry) -> impl Future<Output = Result<(), Refusal>> + Send + 'static + use<> {
        let bookie = self.clone();
        let checked = VerifiedAdd::check(add, self.shared.config.log.body_bytes_max);
        let (tx, rx) = oneshot::channel();
        let mut reply = Some(Waiter::Add(tx));
        let tried = checked.map(|add| (self.try_add(&add, &mut reply, false), add));
        async move {
            let answer = match tried {
                Err(refusal) => Err(refusal),
                Ok((tried, add)) => match bookie.settle(tried, &add, &mut reply).await {
                    Some(answer) => answer,
                    // Its sender is dropped unanswered when the log ends.
                    None => rx.await.unwrap_or(Err(Refusal::Stopping)),
                },
            };
            if let Err(refusal) = answer {
                bookie.shared.metrics.refused(refusal);
            }
            answer
        }
    }

    /// A stream of adds whose answers come together, group by group.
    pub fn add_stream(&self) -> AddStream {
        AddStream::new(self.clone())
    }

    /// The LAC alone. Costs no sync, and is not answered to the writer.
    pub fn advance_lac(&self, lac: &AdvanceLac) -> Result<(), Refusal> {
        let mut state = self.shared.state.lock();
        if state.life != Life::Running {
            return Err(Refusal::Stopping);
        }
        state.store.advance_lac(lac)?;
        wake_lac_waiters(&mut state, lac.ledger);
        Ok(())
    }

    /// One try to add; `reply` is taken when it waits for a group.
    pub(crate) fn try_add(&self, add: &VerifiedAdd, reply: &mut Option<Waiter>, replace: bool) -> TriedAdd {
        let shared = &self.shared;
        let mut state = shared.state.lock();
        if state.life != Life::Running {
            return TriedAdd(Tried::Answered(Err(Refusal::Stopping)));
        }
        let outcome = if replace { state.store.replace(add) } else { state.store.add(add) };
        TriedAdd(match outcome {
            AddOutcome::Now(answer) => Tried::Answered(answer),
            AddOutcome::Compare(comparison) => Tried::Compare(comparison),
            AddOutcome::Full => {
                shared.appended(&mut state);
                Tried::Full
            }
            AddOutcome::Durable(group) => {
                let reply = reply.take().expect("an add waits for a group once");
                state.waiters.push(group, reply);
                wake_lac_waiters(&mut state, add.get().ledger);
                shared.appended(&mut state);
                drop(state);
                shared.metrics.adds.inc();
                shared.metrics.added_bytes.inc_by(add.get().body.len() as u64);
                Tried::Waits
            }
        })
    }

    /// Goes on from the first try until the add is answered, or waits for its group: then `None`.
    pub(crate) async fn settle(
        &self,
        first: TriedAdd,
        add: &VerifiedAdd,
        reply: &mut Option<Waiter>,
    ) -> Option<Result<(), Refusal>> {
        let shared = &self.shared;
        let mut tried = first.0;
        let mut held: Option<BytesHeld> = None;
        let mut replace = false;
        loop {
            match tried {
                Tried::Answered(answer) => return Some(answer),
                Tried::Waits => return None,
                Tried::Compare(comparison) => {
                    let (reader, again) = (shared.reader.clone(), add.clone());
                    match shared.tasks.block(move || comparison.run(&reader, &again)).await {
                        Compared::Same => return Some(Ok(())),
                        Compared::Different => return Some(Err(Refusal::Conflict)),
                        Compared::Moved => {}
                        Compared::Unreadable => replace = true,
                    }
                }
                Tried::Full if held.is_none() => match shared.queue.try_take(add.get().body.len()) {
                    Some(bytes) => held = Some(bytes),
                    None => return Some(Err(Refusal::Busy)),
                },
                Tried::Full => {}
            }
            let mut room = std::pin::pin!(shared.room.notified());
            room.as_mut().enable();
            tried = self.try_add(add, reply, replace).0;
            if let Tried::Full = tried
                && held.is_some()
            {
                room.await;
            }
        }
    }
}
