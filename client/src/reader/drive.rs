//! The task behind one partition of a reader.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use alluvium_proto::v1;
use alluvium_proto::v1::consume_service_client::ConsumeServiceClient;
use alluvium_proto::v1::{read_request as request, read_response as response};
use alluvium_runtime::tasks::OnFailure;
use tokio::sync::{Notify, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

use super::place::Place;
use crate::connection::{Connection, OPEN_TIMEOUT, stream_ended};
use crate::error::Error;
use crate::inbox::{Arrival, Feed};

/// Requests between this task and the connection: all of them are credit.
const REQUESTS: usize = 16;

/// What does not change while a reader lives.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) open: v1::ReadOpen,
    pub(super) reconnect_within: Duration,
    /// The partitions of a reader share a connection, which is made again by itself: each takes in what it was granted,
    /// and so holds up no other.
    pub(super) channel: Channel,
}

#[derive(Debug)]
struct Link {
    requests: mpsc::Sender<v1::ReadRequest>,
    answers: Streaming<v1::ReadResponse>,
    opened: v1::ReadOpened,
}

impl Settings {
    /// The same for one partition.
    pub(super) fn of(&self, partition: u32) -> Self {
        let open = v1::ReadOpen { partitions: vec![partition], ..self.open.clone() };
        Self { open, ..self.clone() }
    }

    /// What the partitions hold.
    pub(super) async fn ranges(&self, connection: &Connection) -> Result<Vec<v1::PartitionRange>, Error> {
        Ok(self.dial(connection, self.open.clone()).await?.opened.partitions)
    }

    async fn dial(&self, connection: &Connection, open: v1::ReadOpen) -> Result<Link, Error> {
        let mut service =
            ConsumeServiceClient::new(self.channel.clone()).max_decoding_message_size(connection.limits.rpc_bytes_max());
        let (requests, outgoing) = mpsc::channel(REQUESTS);
        let open = v1::ReadRequest { request: Some(request::Request::Open(open)) };
        requests.try_send(open).expect("a new queue has room");
        let opening = async {
            let mut answers = service.read(ReceiverStream::new(outgoing)).await?.into_inner();
            let first = answers.message().await?;
            Ok(tonic::Response::new((first, answers)))
        };
        let (first, answers) = connection.ask_within(OPEN_TIMEOUT, opening).await?;
        match first.map(|answer| answer.response) {
            Some(Some(response::Response::Opened(opened))) => Ok(Link { requests, answers, opened }),
            Some(_) => Err(Error::Unexpected("a read stream that does not begin by being opened")),
            None => Err(stream_ended()),
        }
    }
}

/// The task.
#[derive(Debug)]
pub(super) struct Drive {
    connection: Arc<Connection>,
    settings: Settings,
    place: Place,
    feed: Feed,
    wake: Arc<Notify>,
}

impl Drive {
    pub(super) fn start(connection: Arc<Connection>, settings: Settings, place: Place, feed: Feed, wake: Arc<Notify>) {
        let tasks = connection.tasks.clone();
        let drive = Self { connection, settings, place, feed, wake };
        tasks.spawn("reader", OnFailure::Log, async move {
            drive.run().await;
            Ok::<(), Infallible>(())
        });
    }

    async fn run(mut self) {
        let mut backoff = self.connection.backoff();
        let mut give_up_at = self.connection.after(self.settings.reconnect_within);
        while !self.place.is_done() && !self.feed.is_dropped() {
            let open = v1::ReadOpen {
                start: Some(self.place.start().to_wire()),
                credit: self.feed.resume(),
                ..self.settings.open.clone()
            };
            let lost = match self.settings.dial(&self.connection, open).await {
                Err(error) => error,
                Ok(link) if link.opened.partitions.iter().any(|range| self.place.is_beyond(range.end_offset)) => {
                    let what = format!("topic {}", self.settings.open.topic);
                    Error::Deleted { what, reason: "TOPIC_DELETED" }
                }
                Ok(link) => {
                    backoff.reset();
                    let lost = self.serve(link).await;
                    give_up_at = self.connection.after(self.settings.reconnect_within);
                    match lost {
                        Ok(()) => return,
                        Err(error) => error,
                    }
                }
            };
            let lost = lost.deleted(&self.settings.open.topic, None);
            if !lost.is_retryable() || self.connection.clock.mono() >= give_up_at {
                self.feed.end(Some(lost));
                return;
            }
            tracing::debug!(topic = self.settings.open.topic, error = %lost, "read stream lost, reconnecting");
            self.connection.clock.sleep(backoff.delay()).await;
        }
    }

    /// Serves a stream until it is lost; `Ok` when there is nothing more to read, or nobody who reads.
    async fn serve(&mut self, mut link: Link) -> Result<(), Error> {
        loop {
            if self.feed.is_dropped() || self.place.is_done() {
                return Ok(());
            }
            // A full queue of credit is drained by the connection; what is due stays due.
            while let Ok(room) = link.requests.try_reserve() {
                let Some(credit) = self.feed.grant() else { break };
                room.send(v1::ReadRequest { request: Some(request::Request::Credit(credit)) });
            }
            let answer = tokio::select! {
                biased;
                answer = link.answers.message() => answer?,
                () = self.wake.notified() => continue,
            };
            let Some(answer) = answer else {
                return if self.settings.open.stop_at_end { Ok(()) } else { Err(stream_ended()) };
            };
            match answer.response {
                Some(response::Response::Delivery(delivery)) => {
                    let mut arrival = Arrival::decode(delivery, self.connection.limits);
                    let place = &mut self.place;
                    arrival.items.retain(|item| match item {
                        Ok(delivery) => place.admit(delivery.offset),
                        Err(error) => past(place, error),
                    });
                    self.feed.push(arrival)?;
                }
                Some(response::Response::Fault(fault)) => {
                    let mut arrival = Arrival::fault(fault);
                    let place = &mut self.place;
                    arrival.items.retain(|item| item.as_ref().err().is_some_and(|error| past(place, error)));
                    self.feed.push(arrival)?;
                }
                // A newer server may say what this client need not know.
                Some(response::Response::Opened(_)) | None => {}
            }
        }
    }
}

/// Whether an undeliverable run is to be reported; a stream that begins anew goes on behind it.
fn past(place: &mut Place, error: &Error) -> bool {
    match error {
        Error::Undeliverable { last, .. } => place.admit(*last),
        _ => true,
    }
}
