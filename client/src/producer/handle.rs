//! The application's end of a producer.

use std::sync::Arc;

use alluvium_proto::batch::{BatchBuilder, check_message};
use alluvium_runtime::clock::Clock;
use alluvium_types::limits::Limits;
use futures::future::join_all;
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, oneshot};

use super::accumulator::{Accumulator, Lack, Numbering, Sequenced};
use super::pending::{BatchFate, Outcome, Pending};
use super::router::Router;
use super::window::{Held, Window};
use crate::connection::Connection;
use crate::error::Error;
use crate::message::{Message, Receipt};

/// Publishes to one topic. A cheap handle: clones share batches and window. When the last one is dropped, what is queued is
/// still sent, as long as the runtime lives; [`Producer::close`] waits for that.
///
/// Messages queued one after the other keep their order within a partition. Over lost connections and refusals that pass,
/// that holds for a producer with a name; without one, a batch that has to be repeated may fall behind later ones.
#[derive(Clone, Debug)]
pub struct Producer {
    shared: Arc<Shared>,
    commands: mpsc::Sender<Command>,
}

/// What both ends of a producer share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) state: Mutex<State>,
    /// Wakes the task when something may be due.
    pub(super) due: Notify,
    window: Window,
    clock: Clock,
    limits: Limits,
    named: bool,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) accumulator: Accumulator<Outcome>,
    pub(super) router: Router,
    /// Why nothing more is taken.
    pub(super) over: Option<Error>,
}

/// How far a message came.
enum Tried {
    /// It is in a batch.
    Queued(Pending),
    /// This partition has to be claimed first.
    Unclaimed(u32),
    /// So many bytes of the window have to be waited for first.
    Lacks(usize),
}

/// What the task is asked for.
#[derive(Debug)]
pub(super) enum Command {
    /// The last sequence stored on a partition, once it is claimed.
    Claim { partition: u32, reply: oneshot::Sender<Result<Option<u64>, Error>> },
    /// The fates of all that is unresolved; nothing of it lingers.
    Flush { reply: oneshot::Sender<Vec<BatchFate>> },
}

impl Shared {
    pub(super) fn new(
        connection: &Connection,
        named: bool,
        partitions: u32,
        batch_bytes: usize,
        limits: Limits,
        window: Window,
    ) -> Self {
        let numbering = if named { Numbering::Unclaimed } else { Numbering::None };
        let state = State {
            accumulator: Accumulator::new(partitions, batch_bytes, numbering),
            router: Router::new(partitions, connection.entropy.bits()),
            over: None,
        };
        let clock = connection.clock.clone();
        Self { state: Mutex::new(state), due: Notify::new(), window, clock, limits, named }
    }
}

impl Producer {
    pub(super) const fn new(shared: Arc<Shared>, commands: mpsc::Sender<Command>) -> Self {
        Self { shared, commands }
    }

    /// Publishes a message and waits for its receipt. To have many in flight, use [`Producer::queue`].
    pub async fn send(&self, message: Message) -> Result<Receipt, Error> {
        self.queue(message).await?.await
    }

    /// Queues a message, waiting while the window is full. What it gives resolves to the receipt, and may be dropped.
    ///
    /// Cancel safe: a message is queued when this returns, and not before.
    pub async fn queue(&self, message: Message) -> Result<Pending, Error> {
        check_message(&message.wire, self.shared.limits)?;
        if message.sequence.is_some() && !self.shared.named {
            let text = "only a producer with a name numbers its messages";
            return Err(Error::invalid("sequence", "SEQUENCE_WITHOUT_NAME", text));
        }
        let cost = BatchBuilder::cost(&message.wire);
        let mut chosen = message.partition;
        let mut held = Held::default();
        loop {
            match self.try_queue(&message, cost, &mut chosen, &mut held)? {
                Tried::Queued(pending) => return Ok(pending),
                Tried::Unclaimed(partition) => {
                    self.claim(partition).await?;
                }
                Tried::Lacks(bytes) => {
                    // Nothing is held while it waits: of two who did, neither might ever go on.
                    let all = held.bytes() + bytes;
                    drop(std::mem::take(&mut held));
                    held = self.shared.window.take(all).await;
                }
            }
        }
    }

    /// Queues a message if nothing has to be waited for.
    fn try_queue(&self, message: &Message, cost: usize, chosen: &mut Option<u32>, held: &mut Held) -> Result<Tried, Error> {
        let mut state = self.shared.state.lock();
        let State { accumulator, router, over } = &mut *state;
        if let Some(over) = over {
            return Err(over.clone());
        }
        let partition = *chosen.get_or_insert_with(|| match &message.wire.key {
            Some(key) => router.keyed(key),
            None => router.keyless(|p| accumulator.is_open(p)),
        });
        if partition >= router.partitions() {
            let text = format!("there is no partition {partition}; the topic has {}", router.partitions());
            return Err(Error::invalid("partition", "PARTITION_OUT_OF_RANGE", text));
        }
        if accumulator.numbering(partition) == Numbering::Unclaimed {
            return Ok(Tried::Unclaimed(partition));
        }
        match message.sequence.map(|given| (given, accumulator.sequenced(partition, given))) {
            None | Some((_, Sequenced::Next)) => {}
            Some((_, Sequenced::Stored)) => return Ok(Tried::Queued(Pending::known(partition))),
            Some((given, Sequenced::Wrong { expected })) => return Err(Error::Sequence { partition, expected, given }),
        }
        if let Some(Lack { bytes, ample }) = accumulator.lack(partition, cost, held.bytes()) {
            let window = &self.shared.window;
            let Some(taken) = window.try_take(ample).or_else(|| window.try_take(bytes)) else {
                return Ok(Tried::Lacks(bytes));
            };
            held.join(taken);
        }
        let begin = || (self.shared.clock.mono(), Outcome::new());
        let pushed = accumulator.push(partition, &message.wire, cost, held.bytes(), begin);
        if held.bytes() > 0 {
            pushed.outcome.hold(std::mem::take(held));
        }
        let pending = Pending::travelling(partition, pushed.outcome.fate(), pushed.index);
        if pushed.wake {
            self.shared.due.notify_one();
        }
        Ok(Tried::Queued(pending))
    }

    /// Waits until everything queued so far has its receipt; fails with the first that has none.
    pub async fn flush(&self) -> Result<(), Error> {
        let (reply, fates) = oneshot::channel();
        self.ask(Command::Flush { reply }).await?;
        let fates = fates.await.map_err(|_| self.over())?;
        join_all(fates).await.into_iter().try_for_each(|fate| fate.map(|_| ()))
    }

    /// Takes no more, and flushes.
    pub async fn close(&self) -> Result<(), Error> {
        self.shared.state.lock().over.get_or_insert(Error::Closed);
        match self.flush().await {
            // It was closed before, and has nothing left.
            Err(Error::Closed) => Ok(()),
            flushed => flushed,
        }
    }

    /// How many partitions the topic had when this producer was made.
    pub fn partitions(&self) -> u32 {
        self.shared.state.lock().router.partitions()
    }

    /// Which partition a key goes to.
    pub fn partition_of(&self, key: &[u8]) -> u32 {
        self.shared.state.lock().router.keyed(key)
    }

    /// The sequence of this producer's last message that earlier runs have stored in a partition; `None` if there is none.
    /// Only for a producer with a name.
    ///
    /// An application that publishes a fixed input resumes with it: it maps its input to partitions, and in each of them
    /// leaves out the first `last_sequence + 1` messages; or it gives each message its [`Message::sequence`], and the client
    /// leaves them out.
    pub async fn last_sequence(&self, partition: u32) -> Result<Option<u64>, Error> {
        if !self.shared.named {
            return Err(without_name());
        }
        let partitions = self.partitions();
        if partition >= partitions {
            let text = format!("there is no partition {partition}; the topic has {partitions}");
            return Err(Error::invalid("partition", "PARTITION_OUT_OF_RANGE", text));
        }
        if let Numbering::Next { stored, .. } = self.shared.state.lock().accumulator.numbering(partition) {
            return Ok(stored);
        }
        self.claim(partition).await
    }

    async fn claim(&self, partition: u32) -> Result<Option<u64>, Error> {
        let (reply, claimed) = oneshot::channel();
        self.ask(Command::Claim { partition, reply }).await?;
        claimed.await.map_err(|_| self.over())?
    }

    async fn ask(&self, command: Command) -> Result<(), Error> {
        self.commands.send(command).await.map_err(|_| self.over())
    }

    /// Why the task is gone.
    fn over(&self) -> Error {
        self.shared.state.lock().over.clone().unwrap_or(Error::Closed)
    }
}

pub(super) fn without_name() -> Error {
    Error::invalid("producer", "PRODUCER_WITHOUT_NAME", "only a producer with a name numbers its messages")
}
