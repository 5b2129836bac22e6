//! The stream of adds to one bookie: sent in the order of calls, answered in the order of durability.
//!
//! The stream begins with the first add, and again with the first one after it broke. When it breaks, every add that is not
//! answered is lost: the machines send them again, at their own pace.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;

use alluvium_proto::convert::bookie::{self as convert, AddItem};
use alluvium_proto::internal::v1 as wire;
use alluvium_proto::internal::v1::bookie_service_client::BookieServiceClient;
use alluvium_runtime::tasks::{OnFailure, Tasks};
use alluvium_types::bookie::{AddEntry, AdvanceLac, Refusal};
use alluvium_types::ids::{EntryId, Incarnation, LedgerId};
use futures::Stream;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{Notify, oneshot};
use tonic::transport::Channel;

use crate::bookie_client::CallError;

/// The most adds that wait to be sent to one bookie. Their bytes are bounded by the writers, who take back what they give up.
const QUEUE_MAX: usize = 1 << 14;

type Outcome = Result<(), CallError<Refusal>>;

/// The stream to one bookie; it ends when this is dropped.
pub(super) struct AddStream(Arc<Shared>);

struct Shared {
    client: BookieServiceClient<Channel>,
    incarnation: Incarnation,
    tasks: Tasks,
    /// Where the connection lives, and so whoever runs the stream.
    lane: Handle,
    state: Mutex<State>,
    /// There is something to send, or nothing ever again.
    wake: Notify,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Queued>,
    /// The adds that were sent and not answered: for each entry, in the order in which they were sent.
    sent: BTreeMap<(LedgerId, EntryId), VecDeque<oneshot::Sender<Outcome>>>,
    /// Whether a task runs the stream.
    running: bool,
    /// The number of the stream that is run, or was: a former one takes nothing more from the queue.
    generation: u64,
    closed: bool,
}

enum Queued {
    Add(Arc<Slot>),
    Lac(AdvanceLac),
}

/// An add that waits to be sent. It is empty once it was sent or taken back.
struct Slot(Mutex<Option<(AddEntry, oneshot::Sender<Outcome>)>>);

/// Takes an add back that was not sent yet, when nobody waits for it any more (Q6).
struct TakeBack(Arc<Slot>);

impl Drop for TakeBack {
    fn drop(&mut self) {
        self.0.0.lock().take();
    }
}

impl AddStream {
    pub(super) fn new(client: BookieServiceClient<Channel>, incarnation: Incarnation, tasks: Tasks, lane: Handle) -> Self {
        let (state, wake) = (Mutex::default(), Notify::new());
        Self(Arc::new(Shared { client, incarnation, tasks, lane, state, wake }))
    }

    pub(super) fn add(&self, add: AddEntry) -> impl Future<Output = Outcome> + Send + 'static + use<> {
        let (reply, answer) = oneshot::channel();
        let slot = Arc::new(Slot(Mutex::new(Some((add, reply)))));
        let queued = self.push(Queued::Add(Arc::clone(&slot)));
        let take_back = TakeBack(slot);
        async move {
            let _take_back = take_back;
            if !queued {
                return Err(CallError::Refused(Refusal::Busy));
            }
            answer.await.unwrap_or(Err(CallError::Lost))
        }
    }

    pub(super) fn advance_lac(&self, lac: AdvanceLac) {
        // One that finds no room, or no connection, is no loss: the next add carries it.
        self.push(Queued::Lac(lac));
    }

    fn push(&self, item: Queued) -> bool {
        let mut state = self.0.state.lock();
        if state.queue.len() >= QUEUE_MAX {
            state.queue.retain(|queued| !queued.is_empty());
        }
        if state.queue.len() >= QUEUE_MAX {
            return false;
        }
        state.queue.push_back(item);
        let begin = !std::mem::replace(&mut state.running, true);
        state.generation += u64::from(begin);
        drop(state);
        if begin {
            let shared = Arc::clone(&self.0);
            let _lane = self.0.lane.enter();
            self.0.tasks.spawn("bookie-adds", OnFailure::Log, async move {
                shared.run().await;
                Ok::<(), Infallible>(())
            });
        } else {
            self.0.wake.notify_one();
        }
        true
    }
}

impl Drop for AddStream {
    fn drop(&mut self) {
        self.0.state.lock().closed = true;
        self.0.wake.notify_one();
    }
}

impl Queued {
    fn is_empty(&self) -> bool {
        match self {
            Self::Add(slot) => slot.0.lock().is_none(),
            Self::Lac(_) => false,
        }
    }
}

impl Shared {
    /// Runs the stream until it breaks or is not wanted any more.
    async fn run(self: Arc<Self>) {
        tokio::select! {
            () = self.converse() => {}
            () = self.tasks.stopping() => {}
        }
        let mut state = self.state.lock();
        state.running = false;
        // Dropping a reply says that it is lost. Who waits for an add that was not sent holds its slot, so that the slot is emptied.
        state.sent.clear();
        for queued in state.queue.drain(..) {
            if let Queued::Add(slot) = queued {
                slot.0.lock().take();
            }
        }
    }

    async fn converse(self: &Arc<Self>) {
        let response = self.client.clone().add(Arc::clone(self).outgoing()).await;
        let mut answers = match response {
            Ok(response) => response.into_inner(),
            Err(status) => {
                tracing::debug!(%status, "no stream of adds");
                return;
            }
        };
        loop {
            match answers.message().await {
                Ok(Some(response)) => self.answered(response),
                Ok(None) => return,
                Err(status) => {
                    tracing::debug!(%status, "the stream of adds broke");
                    return;
                }
            }
        }
    }

    /// What is to be sent, as it comes.
    fn outgoing(self: Arc<Self>) -> impl Stream<Item = wire::AddRequest> + Send + 'static {
        let generation = self.state.lock().generation;
        futures::stream::unfold(self, move |shared| async move {
            loop {
                if shared.is_over(generation) {
                    // The wake may have been meant for the stream that came after this one.
                    shared.wake.notify_one();
                    return None;
                }
                if let Some(item) = shared.next_item() {
                    let request = convert::add_to_wire(shared.incarnation, item);
                    return Some((request, shared));
                }
                shared.wake.notified().await;
            }
        })
    }

    fn is_over(&self, generation: u64) -> bool {
        let state = self.state.lock();
        state.closed || !state.running || state.generation != generation
    }

    fn next_item(&self) -> Option<AddItem> {
        let mut state = self.state.lock();
        loop {
            match state.queue.pop_front()? {
                Queued::Lac(lac) => return Some(AddItem::Lac(lac)),
                Queued::Add(slot) => {
                    let Some((add, reply)) = slot.0.lock().take() else { continue };
                    state.sent.entry((add.ledger, add.entry)).or_default().push_back(reply);
                    return Some(AddItem::Entry(add));
                }
            }
        }
    }

    fn answered(&self, response: wire::AddResponse) {
        let mut state = self.state.lock();
        for added in response.added {
            let key = (LedgerId::new(added.ledger), EntryId::new(added.entry));
            let Some(waiting) = state.sent.get_mut(&key) else { continue };
            let reply = waiting.pop_front();
            if waiting.is_empty() {
                state.sent.remove(&key);
            }
            let outcome = match convert::refusal_from_wire(added.refusal) {
                Ok(outcome) => outcome.map_err(CallError::Refused),
                Err(error) => {
                    tracing::warn!(%error, "an answer makes no sense");
                    Err(CallError::Lost)
                }
            };
            if let Some(reply) = reply {
                // Nobody waits for one that was given up.
                let _ = reply.send(outcome);
            }
        }
    }
}
