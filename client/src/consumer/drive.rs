//! The task behind a consumer: it keeps a stream open, fills the inbox, grants credit and sends acknowledgements.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use alluvium_proto::v1;
use alluvium_proto::v1::consume_service_client::ConsumeServiceClient;
use alluvium_proto::v1::subscription_service_client::SubscriptionServiceClient;
use alluvium_proto::v1::{subscribe_request as request, subscribe_response as response};
use alluvium_runtime::tasks::OnFailure;
use alluvium_types::fault::FaultKind;
use alluvium_types::time::Mono;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::acker::Shared;
use crate::connection::{Connection, OPEN_TIMEOUT, stream_ended};
use crate::error::Error;
use crate::inbox::{Arrival, Feed};

/// Requests between this task and the connection.
const REQUESTS: usize = 16;
/// How long a consumer that nobody holds any more tries to have its last acknowledgements stored.
const LAST_ACKS: Duration = Duration::from_secs(30);
/// How often a task with nothing to do looks after itself.
const IDLE: Duration = Duration::from_secs(3600);

/// What does not change while a consumer lives.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) open: v1::SubscribeOpen,
    pub(super) reconnect_within: Duration,
    /// When the subscription was created, by the server's clock: what tells it from a later one of its name.
    pub(super) created_ms: Option<u64>,
}

/// A stream that stands.
#[derive(Debug)]
pub(super) struct Link {
    requests: mpsc::Sender<v1::SubscribeRequest>,
    answers: Streaming<v1::SubscribeResponse>,
    subscribed: v1::Subscribed,
}

impl Link {
    pub(super) fn partitions(&self) -> &[u32] {
        &self.subscribed.partitions
    }
}

impl Settings {
    /// When the subscription was created that the stream was opened on; `None` if the server doesn't say.
    pub(super) async fn created(&self, connection: &Connection) -> Result<Option<u64>, Error> {
        let request = v1::GetSubscriptionRequest { topic: self.open.topic.clone(), name: self.open.subscription.clone() };
        let mut service = SubscriptionServiceClient::new(connection.calls());
        match connection.ask(service.get_subscription(request)).await {
            Ok(answer) => Ok(answer.subscription.map(|subscription| subscription.created_ms)),
            // A peer without that service; opening the stream says whatever is to be said.
            Err(Error::Refused(fault)) if fault.kind == FaultKind::InvalidArgument => Ok(None),
            Err(error) => Err(self.deleted(error)),
        }
    }

    fn deleted(&self, error: Error) -> Error {
        error.deleted(&self.open.topic, Some(&self.open.subscription))
    }

    /// Opens a stream again: on the same subscription, or not at all. A new one of that name would begin somewhere else,
    /// perhaps on another topic of the same name.
    async fn dial_again(&self, connection: &Connection, credit: Option<v1::Credit>) -> Result<Link, Error> {
        let created = self.created(connection).await?;
        if self.created_ms.is_some() && created.is_some() && created != self.created_ms {
            let what = format!("subscription {} of {}", self.open.subscription, self.open.topic);
            return Err(Error::Deleted { what, reason: "SUBSCRIPTION_DELETED" });
        }
        self.dial(connection, credit).await
    }

    /// Opens a stream on a connection of its own.
    pub(super) async fn dial(&self, connection: &Connection, credit: Option<v1::Credit>) -> Result<Link, Error> {
        let mut service =
            ConsumeServiceClient::new(connection.dial().await?).max_decoding_message_size(connection.limits.rpc_bytes_max());
        let (requests, outgoing) = mpsc::channel(REQUESTS);
        let open = v1::SubscribeOpen { credit, ..self.open.clone() };
        let open = v1::SubscribeRequest { request: Some(request::Request::Open(open)) };
        requests.try_send(open).expect("a new queue has room");
        let opening = async {
            let mut answers = service.subscribe(ReceiverStream::new(outgoing)).await?.into_inner();
            let first = answers.message().await?;
            Ok(tonic::Response::new((first, answers)))
        };
        let (first, answers) = connection.ask_within(OPEN_TIMEOUT, opening).await?;
        match first.map(|answer| answer.response) {
            Some(Some(response::Response::Subscribed(subscribed))) => Ok(Link { requests, answers, subscribed }),
            Some(_) => Err(Error::Unexpected("a subscribe stream that does not begin by being opened")),
            None => Err(stream_ended()),
        }
    }
}

/// The task.
#[derive(Debug)]
pub(super) struct Drive {
    connection: Arc<Connection>,
    settings: Settings,
    shared: Arc<Shared>,
    feed: Feed,
    /// When it gives up what is left to acknowledge; set once nobody reads any more.
    leave_at: Option<Mono>,
}

/// Why a stream is no longer served.
enum End {
    Lost(Error),
    /// Nobody reads any more, and all is acknowledged.
    Left,
}

impl Drive {
    pub(super) fn start(
        connection: Arc<Connection>,
        settings: Settings,
        shared: Arc<Shared>,
        feed: Feed,
        link: Link,
    ) -> oneshot::Receiver<Result<(), Error>> {
        let (tell, ended) = oneshot::channel();
        let tasks = connection.tasks.clone();
        let drive = Self { connection, settings, shared, feed, leave_at: None };
        tasks.spawn("consumer", OnFailure::Log, async move {
            let over = drive.run(link).await;
            // Nobody may be waiting.
            let _ = tell.send(over);
            Ok::<(), Infallible>(())
        });
        ended
    }

    async fn run(mut self, first: Link) -> Result<(), Error> {
        let mut link = first;
        let over = loop {
            let lost = match self.serve(link).await {
                End::Left => break None,
                End::Lost(error) => self.settings.deleted(error),
            };
            self.shared.state.lock().acks.on_disconnected();
            if !lost.is_retryable() {
                break Some(lost);
            }
            let topic = &self.settings.open.topic;
            tracing::debug!(topic, error = %lost, "subscribe stream lost, reconnecting");
            link = match self.reconnect(lost).await {
                Ok(Some(link)) => link,
                Ok(None) => break None,
                Err(error) => break Some(error),
            };
        };
        let left = {
            let mut state = self.shared.state.lock();
            state.over.get_or_insert_with(|| over.clone().unwrap_or(Error::Closed));
            state.acks.drain()
        };
        let error = over.clone().unwrap_or(Error::Closed).unresolved();
        for waiter in left {
            let _ = waiter.send(Err(error.clone()));
        }
        self.feed.end(over.clone());
        over.map_or(Ok(()), Err)
    }

    fn now(&self) -> Mono {
        self.connection.clock.mono()
    }

    /// Whether it has nothing left to do; or why it gives up.
    fn leaves(&mut self) -> Result<bool, Error> {
        if !self.feed.is_dropped() {
            return Ok(false);
        }
        let now = self.now();
        let leave_at = *self.leave_at.get_or_insert(now.after(LAST_ACKS));
        let mut state = self.shared.state.lock();
        // Nothing more is collected, and nobody need be told.
        state.acks.flush(|| oneshot::channel().0);
        if state.acks.is_empty() && state.nacks.is_empty() {
            return Ok(true);
        }
        if now >= leave_at { Err(Error::timed_out(LAST_ACKS).unresolved()) } else { Ok(false) }
    }

    /// What is to be sent next.
    fn next_request(&mut self) -> Option<v1::SubscribeRequest> {
        let now = self.now();
        let mut state = self.shared.state.lock();
        let request = if let Some(nack) = state.nacks.pop() {
            request::Request::Nack(nack)
        } else if let Some(ack) = state.acks.next_request(now) {
            request::Request::Ack(ack)
        } else {
            drop(state);
            request::Request::Credit(self.feed.grant().filter(|_| self.leave_at.is_none())?)
        };
        Some(v1::SubscribeRequest { request: Some(request) })
    }

    async fn serve(&mut self, mut link: Link) -> End {
        let mut outgoing = None;
        loop {
            match self.leaves() {
                Ok(false) => {}
                Ok(true) if outgoing.is_none() => return End::Left,
                Ok(true) => {}
                Err(error) => return End::Lost(error),
            }
            loop {
                outgoing = outgoing.take().or_else(|| self.next_request());
                let Some(request) = outgoing.take() else { break };
                match link.requests.try_reserve() {
                    Ok(room) => room.send(request),
                    Err(mpsc::error::TrySendError::Full(())) => {
                        outgoing = Some(request);
                        break;
                    }
                    // The answers' side says why.
                    Err(mpsc::error::TrySendError::Closed(())) => break,
                }
            }
            let deadline = self.deadline();
            let answer = tokio::select! {
                biased;
                answer = link.answers.message() => answer,
                _ = link.requests.reserve(), if outgoing.is_some() => continue,
                () = self.shared.task.notified() => continue,
                () = self.connection.clock.sleep_until(deadline) => continue,
            };
            match answer {
                Ok(Some(answer)) => {
                    if let Err(error) = self.on_answer(answer) {
                        return End::Lost(error);
                    }
                }
                Ok(None) => return End::Lost(stream_ended()),
                Err(status) => return End::Lost(status.into()),
            }
        }
    }

    fn on_answer(&mut self, answer: v1::SubscribeResponse) -> Result<(), Error> {
        match answer.response {
            Some(response::Response::Delivery(delivery)) => {
                self.feed.push(Arrival::decode(delivery, self.connection.limits))?;
            }
            Some(response::Response::Fault(fault)) => self.feed.push(Arrival::fault(fault))?,
            Some(response::Response::Receipts(receipts)) => {
                let now = self.now();
                for receipt in receipts.receipts {
                    let told = self.shared.state.lock().acks.on_receipt(receipt, now);
                    for (waiter, fate) in told {
                        // Whoever waited may have gone.
                        let _ = waiter.send(fate);
                    }
                }
            }
            // A newer server may say what this client need not know.
            Some(response::Response::Subscribed(_)) | None => {}
        }
        Ok(())
    }

    fn deadline(&self) -> Mono {
        let now = self.now();
        let acks = self.shared.state.lock().acks.deadline(now);
        acks.into_iter().chain(self.leave_at).min().unwrap_or_else(|| now.after(IDLE))
    }

    /// Tries until a stream stands again; `None` when there is nothing left to do.
    async fn reconnect(&mut self, lost: Error) -> Result<Option<Link>, Error> {
        let mut backoff = self.connection.backoff();
        let give_up_at = self.connection.after(self.settings.reconnect_within);
        let mut why = lost;
        loop {
            if self.leaves()? {
                return Ok(None);
            }
            if self.now() >= give_up_at {
                return Err(why);
            }
            let delay = self.now().after(backoff.delay());
            // A consumer that is left has no use for messages.
            let credit = self.feed.restart().filter(|_| self.leave_at.is_none());
            let attempt = async {
                self.connection.clock.sleep_until(delay).await;
                self.settings.dial_again(&self.connection, credit).await
            };
            match attempt.await {
                Ok(link) => return Ok(Some(link)),
                Err(error) if error.is_retryable() => why = error,
                Err(error) => return Err(error),
            }
        }
    }
}
