//! What can go wrong for an application, in few kinds, each documented by what to do about it.

use std::sync::Arc;
use std::time::Duration;

use alluvium_proto::batch::BatchError;
use alluvium_proto::status::RemoteFault;
use alluvium_types::fault::FaultKind;
use alluvium_types::names::NameError;

/// Why a call or an item of a stream failed. Cheap to clone: one failed batch answers for all of its messages.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// What was given can't be sent, and was not: correct it.
    #[error("{field}: {message}")]
    Invalid {
        /// What is at fault.
        field: String,
        /// Stable and upper case, as the server would say it.
        reason: &'static str,
        /// What is wrong, and the limit it breaks.
        message: String,
    },
    /// No server answers: nothing was done. Check the address, or try again.
    #[error("cannot reach {server}")]
    Unreachable {
        /// Where it was looked for.
        server: String,
        /// What the transport said.
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// Something answers there, but not as a server does to its clients. Correct the address.
    #[error("{server} is not the clients' port of an Alluvium server")]
    WrongServer {
        /// Where it was looked for.
        server: String,
        /// What it said instead.
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// The server said no, and why.
    #[error(transparent)]
    Refused(#[from] RemoteFault),
    /// It may or may not have taken effect, and this client can no longer find out.
    #[error("it is not known whether this took effect")]
    Unresolved {
        /// What kept it from being known.
        source: Arc<Error>,
    },
    /// Not stored, because an earlier message of its partition was not: storing it would have broken the order. Send it
    /// again once that is dealt with.
    #[error("not stored, because an earlier message of partition {partition} was not")]
    Behind {
        /// The partition.
        partition: u32,
        /// What happened to the earlier one.
        source: Arc<Error>,
    },
    /// The server once knew this producer's name and has forgotten it: what was not resolved may or may not be stored.
    #[error("the server has forgotten producer {producer} on partition {partition}")]
    Forgotten {
        /// The producer's name.
        producer: String,
        /// The partition.
        partition: u32,
    },
    /// The sequence given is not the next one of its partition. Nothing was sent.
    #[error("partition {partition} takes sequence {expected} next, not {given}")]
    Sequence {
        /// The partition.
        partition: u32,
        /// What it takes next.
        expected: u64,
        /// What the message said.
        given: u64,
    },
    /// The log of a partition disagrees with what this producer had receipts for: it ends elsewhere.
    #[error("partition {partition} holds this producer's messages up to {stored:?}, where {expected:?} was expected")]
    Diverged {
        /// The partition.
        partition: u32,
        /// The last sequence in the log.
        stored: Option<u64>,
        /// The last one this producer knew to be there.
        expected: Option<u64>,
    },
    /// These messages can't be delivered: their bytes or their batch's header are wrong. The stream goes on behind them;
    /// acknowledge them to be rid of them.
    #[error("messages {first} to {last} of partition {partition} cannot be delivered: {problem}")]
    Undeliverable {
        /// The partition.
        partition: u32,
        /// The first of them.
        first: u64,
        /// The last of them.
        last: u64,
        /// Who published them, if it is known.
        producer: Option<String>,
        /// What is wrong.
        problem: String,
        /// Stable and upper case.
        reason: String,
    },
    /// Not done within its time.
    #[error("not done within {limit:?}")]
    TimedOut {
        /// Its time.
        limit: Duration,
        /// What last kept it from being done, if anything was heard of that.
        #[source]
        last: Option<Arc<Error>>,
    },
    /// What was published to or consumed from was deleted meanwhile. What has its name now is another.
    #[error("{what} was deleted meanwhile")]
    Deleted {
        /// What it was.
        what: String,
        /// Stable and upper case.
        reason: &'static str,
    },
    /// The server answered something that this client does not understand.
    #[error("unexpected answer: {0}")]
    Unexpected(&'static str),
    /// The producer, consumer or reader was closed.
    #[error("it is closed")]
    Closed,
}

impl Error {
    /// Whether the same call may succeed later without anything being corrected. What is [`Error::outcome_unknown`] too may
    /// then take effect twice, unless it is harmless to repeat.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::TimedOut { .. } | Self::Behind { .. } => true,
            Self::Refused(fault) => transient(fault),
            Self::Unresolved { source } => source.is_retryable(),
            Self::Invalid { .. }
            | Self::WrongServer { .. }
            | Self::Deleted { .. }
            | Self::Forgotten { .. }
            | Self::Sequence { .. }
            | Self::Diverged { .. }
            | Self::Undeliverable { .. }
            | Self::Unexpected(_)
            | Self::Closed => false,
        }
    }

    /// Whether it may have taken effect all the same.
    pub fn outcome_unknown(&self) -> bool {
        match self {
            Self::Unresolved { .. } | Self::Forgotten { .. } => true,
            Self::Refused(fault) => fault.kind == FaultKind::OutcomeUnknown,
            _ => false,
        }
    }

    /// The stable, upper-case name of what is wrong: the server's, where it gave one.
    pub fn reason(&self) -> &str {
        match self {
            Self::Invalid { reason, .. } | Self::Deleted { reason, .. } => reason,
            Self::Refused(fault) if fault.reason.is_empty() => unnamed(fault.kind),
            Self::Refused(fault) => &fault.reason,
            Self::Undeliverable { reason, .. } => reason,
            Self::Unresolved { source } | Self::Behind { source, .. } | Self::TimedOut { last: Some(source), .. } => {
                source.reason()
            }
            Self::TimedOut { last: None, .. } => "TIMED_OUT",
            Self::Unreachable { .. } => "UNREACHABLE",
            Self::WrongServer { .. } => "WRONG_SERVER",
            Self::Forgotten { .. } => "PRODUCER_FORGOTTEN",
            Self::Sequence { .. } => "SEQUENCE_NOT_NEXT",
            Self::Diverged { .. } => "LOG_DIVERGED",
            Self::Unexpected(_) => "UNEXPECTED_ANSWER",
            Self::Closed => "CLOSED",
        }
    }

    /// When trying again makes sense, if the server said so.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused(fault) => fault.retry_after,
            Self::Unresolved { source } | Self::Behind { source, .. } | Self::TimedOut { last: Some(source), .. } => {
                source.retry_after()
            }
            _ => None,
        }
    }

    /// The kind of fault that the server named.
    pub fn kind(&self) -> Option<FaultKind> {
        match self {
            Self::Refused(fault) => Some(fault.kind),
            Self::Unresolved { source } | Self::Behind { source, .. } => source.kind(),
            // What an earlier attempt may have done was found out since, or the whole is unresolved.
            Self::TimedOut { last: Some(source), .. } => source.kind().filter(|kind| *kind != FaultKind::OutcomeUnknown),
            _ => None,
        }
    }

    /// The same, said of something that may have taken effect.
    #[must_use]
    pub(crate) fn unresolved(self) -> Self {
        if self.outcome_unknown() { self } else { Self::Unresolved { source: Arc::new(self) } }
    }

    /// The same, or that what it was about is gone: for streams that had been opened, where nothing is missing at first.
    pub(crate) fn deleted(self, topic: &str, subscription: Option<&str>) -> Self {
        match (&self, subscription) {
            (Self::Refused(fault), _) if fault.reason == "TOPIC_NOT_FOUND" => {
                Self::Deleted { what: format!("topic {topic}"), reason: "TOPIC_DELETED" }
            }
            (Self::Refused(fault), Some(name)) if fault.reason == "SUBSCRIPTION_NOT_FOUND" => {
                Self::Deleted { what: format!("subscription {name} of {topic}"), reason: "SUBSCRIPTION_DELETED" }
            }
            _ => self,
        }
    }

    pub(crate) const fn timed_out(limit: Duration) -> Self {
        Self::TimedOut { limit, last: None }
    }

    pub(crate) fn invalid(field: impl Into<String>, reason: &'static str, message: impl Into<String>) -> Self {
        Self::Invalid { field: field.into(), reason, message: message.into() }
    }

    pub(crate) fn unreachable(server: &str, error: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Unreachable { server: server.to_owned(), source: Arc::new(error) }
    }
}

/// What a refusal is called whose peer, or a transport in between, gave it no name.
const fn unnamed(kind: FaultKind) -> &'static str {
    match kind {
        FaultKind::InvalidArgument => "INVALID_ARGUMENT",
        FaultKind::NotFound => "NOT_FOUND",
        FaultKind::AlreadyExists => "EXISTS",
        FaultKind::FailedPrecondition => "FAILED_PRECONDITION",
        FaultKind::Busy => "BUSY",
        FaultKind::Unavailable => "UNAVAILABLE",
        FaultKind::OutcomeUnknown => "OUTCOME_UNKNOWN",
        FaultKind::Fenced => "ABORTED",
        FaultKind::DataLoss => "DATA_LOSS",
        FaultKind::Internal => "INTERNAL",
    }
}

/// Whether a fault passes by itself. A broken transport shows as one of several codes; a server's own bug may be cured by
/// another attempt elsewhere, and attempts are bounded.
pub(crate) fn transient(fault: &RemoteFault) -> bool {
    fault.retry_after.is_some()
        || matches!(fault.kind, FaultKind::Busy | FaultKind::Unavailable | FaultKind::OutcomeUnknown | FaultKind::Internal)
}

impl From<tonic::Status> for Error {
    fn from(status: tonic::Status) -> Self {
        Self::Refused(RemoteFault::from(&status))
    }
}

impl From<NameError> for Error {
    fn from(error: NameError) -> Self {
        Self::invalid(error.field, "INVALID_NAME", error.problem.to_string())
    }
}

impl From<BatchError> for Error {
    fn from(error: BatchError) -> Self {
        Self::invalid(error.field, error.reason, error.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_outcome_keeps_what_caused_it() {
        let late = || Error::timed_out(Duration::from_secs(1));
        let error = late().unresolved();
        assert!(error.outcome_unknown() && error.is_retryable());
        assert!(!late().outcome_unknown());
        let twice = error.unresolved();
        assert!(matches!(&twice, Error::Unresolved { source } if matches!(**source, Error::TimedOut { .. })));
    }

    #[test]
    fn what_took_too_long_is_named_for_what_kept_it() {
        let full = RemoteFault {
            kind: FaultKind::Busy,
            reason: "STORAGE_FULL".into(),
            message: "no room".to_owned(),
            retry_after: Some(Duration::from_secs(5)),
        };
        let limit = Duration::from_secs(1);
        let error = Error::TimedOut { limit, last: Some(Arc::new(Error::Refused(full))) };
        assert_eq!((error.reason(), error.kind()), ("STORAGE_FULL", Some(FaultKind::Busy)));
        assert!(!error.outcome_unknown() && error.is_retryable());
        assert_eq!(std::error::Error::source(&error).map(ToString::to_string), Some("no room [STORAGE_FULL]".to_owned()));
        assert_eq!(Error::timed_out(limit).reason(), "TIMED_OUT");
    }
}
