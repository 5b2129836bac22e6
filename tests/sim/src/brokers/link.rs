//! A client's stream to a broker: in order, with delay, and gone when the broker's process is.

use std::sync::Arc;
use std::time::Duration;

use alluvium_runtime::clock::Clock;
use alluvium_runtime::tasks::{OnFailure, Tasks};
use alluvium_types::time::Mono;
use futures::{Stream, StreamExt};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::dice::Dice;

/// Messages under way in one direction.
const UNDER_WAY: usize = 64;

/// What clients have in common.
#[derive(Clone)]
pub(super) struct Network {
    pub(super) clock: Clock,
    pub(super) tasks: Tasks,
    pub(super) hop: (Duration, Duration),
    pub(super) dice: Arc<Mutex<Dice>>,
}

impl Network {
    pub(super) fn arrival(&self, after: Mono) -> Mono {
        let hop = self.dice.lock().time(self.hop.0, self.hop.1);
        after.max(self.clock.mono().after(hop))
    }
}

/// The client's end of a stream.
pub(super) struct Call<Q, A> {
    network: Network,
    requests: mpsc::Sender<(Mono, Q)>,
    answers: mpsc::Receiver<(Mono, Result<A, Status>)>,
    /// Came, and is on its way still.
    coming: Option<(Mono, Result<A, Status>)>,
    is_over: bool,
    last: Mono,
}

/// The broker's end of it.
pub(super) struct Accepted<Q, A> {
    pub(super) requests: ReceiverStream<Result<Q, Status>>,
    pub(super) answers: Answers<A>,
}

/// Where its answers go.
pub(super) struct Answers<A> {
    network: Network,
    queue: mpsc::Sender<(Mono, Result<A, Status>)>,
}

/// Both ends of a stream.
pub(super) fn stream<Q, A>(network: &Network) -> (Call<Q, A>, Accepted<Q, A>)
where
    Q: Send + 'static,
    A: Send + 'static,
{
    let (requests, mut under_way) = mpsc::channel::<(Mono, Q)>(UNDER_WAY);
    let (arrived, accepted) = mpsc::channel(UNDER_WAY);
    let (answers_tx, answers) = mpsc::channel(UNDER_WAY);
    let clock = network.clock.clone();
    network.tasks.spawn("requests", OnFailure::Log, async move {
        while let Some((at, request)) = under_way.recv().await {
            clock.sleep_until(at).await;
            if arrived.send(Ok(request)).await.is_err() {
                break;
            }
        }
        Ok::<(), std::convert::Infallible>(())
    });
    let call = Call { network: network.clone(), requests, answers, coming: None, is_over: false, last: Mono::default() };
    let answers = Answers { network: network.clone(), queue: answers_tx };
    (call, Accepted { requests: ReceiverStream::new(accepted), answers })
}

impl<Q, A> Call<Q, A> {
    /// Sends a request; `false` when the stream is over.
    pub(super) async fn send(&mut self, request: Q) -> bool {
        self.last = self.network.arrival(self.last);
        self.requests.send((self.last, request)).await.is_ok()
    }

    /// The next answer; `None` when the stream is over. Cancel safe.
    pub(super) async fn next(&mut self) -> Option<Result<A, Status>> {
        if self.coming.is_none() {
            self.coming = self.answers.recv().await;
        }
        if let Some((at, _)) = &self.coming {
            self.network.clock.sleep_until(*at).await;
        }
        let answer = self.coming.take().map(|(_, answer)| answer);
        self.is_over = !matches!(answer, Some(Ok(_)));
        answer
    }

    /// Whether the last answer was the last, or an error.
    pub(super) const fn is_over(&self) -> bool {
        self.is_over
    }
}

impl<A> Answers<A> {
    /// Hands the answers of a stream over to the network, each told to `seen` in that moment.
    pub(super) async fn carry(self, mut responses: impl Stream<Item = Result<A, Status>> + Unpin, mut seen: impl FnMut(&A)) {
        let mut last = Mono::default();
        while let Some(response) = responses.next().await {
            if let Ok(answer) = &response {
                seen(answer);
            }
            last = self.network.arrival(last);
            if self.queue.send((last, response)).await.is_err() {
                return;
            }
        }
    }

    /// Refuses the stream.
    pub(super) async fn refuse(self, status: Status) {
        let at = self.network.arrival(Mono::default());
        // Who no longer waits has gone.
        let _ = self.queue.send((at, Err(status))).await;
    }
}
