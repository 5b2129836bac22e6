//! What became of a batch, on its way back to whoever sent it.

use alluvium_proto::v1;
use alluvium_types::fault::Fault;
use alluvium_types::ids::{Offset, PartitionIndex};
use tokio::sync::mpsc;

/// What a receipt promises, by the producer's choice.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Guarantee {
    /// Nothing.
    None,
    /// It and every earlier unconfirmed entry are each on one disk; provisional.
    Leader,
    /// An ack quorum has it, and every earlier one.
    Quorum,
}

/// Where a batch is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Stored {
    /// The offset of its first message.
    pub(crate) first_offset: Offset,
    /// Whether it was there before.
    pub(crate) duplicate: bool,
}

/// The answer to one batch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Receipt {
    /// The sender's own number for it.
    pub(crate) id: u64,
    /// Where it was sent.
    pub(crate) partition: PartitionIndex,
    /// What became of it.
    pub(crate) result: Result<Stored, Fault>,
}

/// What comes back to a publishing session from the partitions.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Answer {
    /// In the order of each partition's batches.
    Receipts(Vec<Receipt>),
    /// A claim was granted, or refused.
    Claimed {
        /// Where.
        partition: PartitionIndex,
        /// The new claim.
        result: Result<Claimed, Fault>,
    },
    /// What an owner at another broker says.
    Forwarded {
        /// Which stream to it.
        upstream: u64,
        /// What it says.
        response: v1::publish_stream_response::Response,
    },
    /// A stream to another broker ended. Nothing more comes of it.
    Lost {
        /// Which.
        upstream: u64,
        /// Whether it stood: if it didn't, nothing that was sent there took effect.
        opened: bool,
    },
}

/// A granted claim.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Claimed {
    /// To be sent with each batch.
    pub(crate) epoch: u64,
    /// The highest sequence in the log.
    pub(crate) last_sequence: Option<u64>,
    /// What the client has not resolved may or may not be in the log (D7).
    pub(crate) forgotten: bool,
}

/// Where a session hears. It has room for every batch and claim that the session lets be outstanding, so telling never waits.
#[derive(Clone, Debug)]
pub(crate) struct Answers(mpsc::Sender<Answer>);

impl Answers {
    /// Room for `outstanding` batches and claims.
    pub(crate) fn channel(outstanding: usize) -> (Self, mpsc::Receiver<Answer>) {
        let (tx, rx) = mpsc::channel(outstanding);
        (Self(tx), rx)
    }

    /// Tells the session; one that is gone hears nothing.
    pub(crate) fn tell(&self, answer: Answer) {
        if let Err(mpsc::error::TrySendError::Full(_)) = self.0.try_send(answer) {
            tracing::error!("a session has more outstanding than it has room for answers");
        }
    }

    /// Resolves once the session is gone. Cancel safe.
    pub(crate) async fn gone(&self) {
        self.0.closed().await;
    }

    fn is(&self, other: &Self) -> bool {
        self.0.same_channel(&other.0)
    }
}

/// A batch's right to an answer.
#[derive(Debug)]
pub(crate) struct Ticket {
    /// Who hears it.
    pub(crate) answers: Answers,
    /// The sender's own number for it.
    pub(crate) id: u64,
    /// Where it was sent.
    pub(crate) partition: PartitionIndex,
    /// When it may be told.
    pub(crate) guarantee: Guarantee,
}

/// An answer that waits for everything before it in the partition.
#[derive(Debug)]
pub(crate) enum Waiting {
    /// A batch's receipt; `None` once it was told.
    Batch(Option<Ticket>, Result<Stored, Fault>),
    /// A claim's answer, which waits for what was on its way before it.
    Claim(Answers, PartitionIndex, Result<Claimed, Fault>),
}

impl Waiting {
    /// When it may be told.
    pub(crate) fn guarantee(&self) -> Option<Guarantee> {
        match self {
            Self::Batch(ticket, _) => ticket.as_ref().map(|ticket| ticket.guarantee),
            Self::Claim(..) => Some(Guarantee::Quorum),
        }
    }

    /// The same, but its outcome is `fault` if it was not a refusal already.
    pub(crate) fn failed(self, fault: &Fault) -> Self {
        match self {
            Self::Batch(ticket, Ok(_)) => Self::Batch(ticket, Err(fault.clone())),
            Self::Claim(answers, partition, Ok(_)) => Self::Claim(answers, partition, Err(fault.clone())),
            refused => refused,
        }
    }
}

/// Tells all that wait, in order; receipts of one session in a row go together.
pub(crate) fn tell(waiting: impl IntoIterator<Item = Waiting>) {
    let mut run: Option<(Answers, Vec<Receipt>)> = None;
    for one in waiting {
        match one {
            Waiting::Batch(None, _) => {}
            Waiting::Batch(Some(Ticket { answers, id, partition, .. }), result) => {
                let receipt = Receipt { id, partition, result };
                match &mut run {
                    Some((same, receipts)) if same.is(&answers) => receipts.push(receipt),
                    _ => flush(run.replace((answers, vec![receipt]))),
                }
            }
            Waiting::Claim(answers, partition, result) => {
                flush(run.take());
                answers.tell(Answer::Claimed { partition, result });
            }
        }
    }
    flush(run);
}

/// Tells all that wait that `fault` befell them.
pub(crate) fn tell_fault(waiting: impl IntoIterator<Item = Waiting>, fault: &Fault) {
    tell(waiting.into_iter().map(|one| one.failed(fault)));
}

fn flush(run: Option<(Answers, Vec<Receipt>)>) {
    if let Some((answers, receipts)) = run {
        answers.tell(Answer::Receipts(receipts));
    }
}
