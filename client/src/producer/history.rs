//! What earlier runs of a name have stored, asked before another run begins.

use std::sync::Arc;
use std::time::Duration;

use alluvium_proto::batch::{BatchBuilder, check_message};
use alluvium_proto::status::RemoteFault;
use alluvium_proto::v1;
use alluvium_proto::v1::publish_stream_response as response;
use alluvium_runtime::backoff::Backoff;
use alluvium_types::batch::Codec;
use alluvium_types::key_hash::partition_of;
use alluvium_types::time::Mono;

use super::link::{Link, Settings, wire};
use super::session::{Request, STORED};
use crate::connection::{Connection, hello, stream_ended};
use crate::error::{Error, transient};
use crate::message::Message;

/// Claims on their way at a time.
const CLAIMS: usize = 16;

/// What a producer's name stands for in each partition of a topic: the messages of earlier runs.
///
/// It has claimed the name, so that an earlier run that still goes on is stopped; a [`crate::Producer`] built later claims it
/// again, and this history ends.
#[derive(Debug)]
pub struct History {
    connection: Arc<Connection>,
    link: Link,
    /// Of each partition: the epoch of the claim, and the last sequence stored.
    claims: Vec<(u64, Option<u64>)>,
    next_id: u64,
    timeout: Duration,
}

impl History {
    pub(super) async fn open(connection: Arc<Connection>, topic: String, name: String, timeout: Duration) -> Result<Self, Error> {
        let guarantee = v1::Guarantee::Quorum.into();
        let open = v1::PublishOpen { hello: Some(hello()), topic, guarantee, producer: name };
        let settings = Settings { open, codec: Codec::None, linger: Duration::ZERO, offsets: true, stop_on_failure: true };
        let link = settings.dial(&connection).await?;
        let mut history = Self { connection, link, claims: Vec::new(), next_id: 1, timeout };
        history.claim().await?;
        Ok(history)
    }

    /// How many partitions the topic has now.
    pub fn partitions(&self) -> u32 {
        self.link.partitions()
    }

    /// Which partition a key goes to.
    pub fn partition_of(&self, key: &[u8]) -> u32 {
        partition_of(key, self.partitions()).get()
    }

    /// The sequence of the last message stored in a partition; `None` if there is none, or no such partition.
    pub fn last_sequence(&self, partition: u32) -> Option<u64> {
        self.claims.get(partition as usize).and_then(|(_, last)| *last)
    }

    /// The offset at which this message of a partition was stored by an earlier run; `None` if the server has forgotten
    /// where. The message is sent once more with its sequence, which the server recognises and does not store again: it
    /// looks at the sequence alone. Whether it is the *same* message, only reading that offset can tell.
    ///
    /// # Errors
    /// [`Error::Sequence`] for a sequence that is not stored.
    pub async fn offset(&mut self, partition: u32, sequence: u64, message: &Message) -> Result<Option<u64>, Error> {
        let stored = self.last_sequence(partition);
        if stored.is_none_or(|last| sequence > last) {
            let expected = stored.map_or(0, |last| last + 1);
            return Err(Error::Sequence { partition, expected, given: sequence });
        }
        check_message(&message.wire, self.link.limits())?;
        let mut builder = BatchBuilder::with_capacity(BatchBuilder::cost(&message.wire));
        builder.push(&message.wire);
        let batch = builder.finish(Codec::None, sequence, self.connection.clock.wall());
        let (mut backoff, deadline) = (self.connection.backoff(), self.connection.after(self.timeout));
        loop {
            let (epoch, _) = self.claims[partition as usize];
            let id = self.next_id;
            self.next_id += 1;
            self.send(Request::Batch { id, partition, epoch, batch: batch.clone() }).await?;
            let receipt = loop {
                let answer = self.answer(deadline).await?;
                let response::Response::Receipts(receipts) = answer else { continue };
                if let Some(receipt) = receipts.receipts.into_iter().find(|receipt| receipt.id == id) {
                    break receipt;
                }
            };
            match receipt.fault.map(RemoteFault::from) {
                None if receipt.duplicate => return Ok(Some(receipt.first_offset)),
                None => return Err(Error::Unexpected("a message was stored that was said to be stored already")),
                Some(fault) if STORED.contains(&fault.reason.as_ref()) => return Ok(None),
                Some(fault) => self.pause(&mut backoff, deadline, fault).await?,
            }
        }
    }

    async fn claim(&mut self) -> Result<(), Error> {
        let (mut backoff, deadline) = (self.connection.backoff(), self.connection.after(self.timeout));
        let mut claims = vec![None; self.partitions() as usize];
        loop {
            let missing = (0..).zip(&claims).filter(|(_, claim)| claim.is_none()).map(|(partition, _)| partition);
            let missing: Vec<u32> = missing.take(CLAIMS).collect();
            if missing.is_empty() {
                self.claims = claims.into_iter().flatten().collect();
                return Ok(());
            }
            for partition in &missing {
                self.send(Request::Claim { partition: *partition, last_epoch: None }).await?;
            }
            let mut refused = None;
            for _ in &missing {
                let claimed = loop {
                    if let response::Response::Claimed(claimed) = self.answer(deadline).await? {
                        break claimed;
                    }
                };
                match claimed.fault.map(RemoteFault::from) {
                    Some(fault) => refused = Some(fault),
                    None => {
                        if let Some(claim) = claims.get_mut(claimed.partition as usize) {
                            *claim = Some((claimed.epoch, claimed.last_sequence));
                        }
                    }
                }
            }
            if let Some(fault) = refused {
                self.pause(&mut backoff, deadline, fault).await?;
            }
        }
    }

    /// Waits after a refusal that passes, if there is time.
    async fn pause(&self, backoff: &mut Backoff, deadline: Mono, fault: RemoteFault) -> Result<(), Error> {
        if !transient(&fault) {
            return Err(Error::Refused(fault));
        }
        let until = self.connection.after(backoff.delay().max(fault.retry_after.unwrap_or_default()));
        if until > deadline {
            return Err(Error::TimedOut { limit: self.timeout, last: Some(Arc::new(Error::Refused(fault))) });
        }
        self.connection.clock.sleep_until(until).await;
        Ok(())
    }

    async fn send(&self, request: Request) -> Result<(), Error> {
        self.link.requests.send(wire(request)).await.map_err(|_| stream_ended())
    }

    async fn answer(&mut self, deadline: Mono) -> Result<response::Response, Error> {
        let clock = self.connection.clock.clone();
        tokio::select! {
            biased;
            answer = self.link.answers.message() => answer?.and_then(|answer| answer.response).ok_or_else(stream_ended),
            () = clock.sleep_until(deadline) => Err(Error::timed_out(self.timeout)),
        }
    }
}
