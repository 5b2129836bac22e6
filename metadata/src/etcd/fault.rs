//! What it means when etcd does not answer as asked. Pure.
//!
//! Only what is known to mean "not applied, and never will be" is taken so (M3); everything else is open. The texts are
//! etcd's own, of its `rpctypes`, and pinned by the tests against a real one.

use std::error::Error as _;

use tonic::{Code, ConnectError, Status};

/// What is known of a call that was not answered as asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// It did not reach etcd, or etcd did nothing; another member, or the same one later, may.
    NotApplied,
    /// We are not let in, or not to this, or with a token that is worth nothing any more; nothing was done.
    Denied,
    /// It may have been applied, or may still be.
    Open,
    /// There is no such lease; nothing was done.
    NoLease,
    /// There is such a lease already; nothing was done.
    LeaseExists,
    /// That history is gone already.
    Compacted,
    /// It is past the limits that this server was given; nothing was done.
    TooMuch,
    /// It has no room. A transaction that was answered so may have been applied: the one that crosses the line is.
    Full,
    /// The answer is longer than we take.
    AnswerTooLarge,
    /// The member knows less than was answered before: it is another etcd, or was emptied or restored.
    OtherHistory,
}

impl Kind {
    /// Whether nothing of the call was or will be applied, for certain.
    pub(crate) const fn is_certain(self) -> bool {
        match self {
            Self::Open | Self::Full | Self::OtherHistory => false,
            Self::NotApplied
            | Self::Denied
            | Self::NoLease
            | Self::LeaseExists
            | Self::Compacted
            | Self::TooMuch
            | Self::AnswerTooLarge => true,
        }
    }

    /// Whether another member may answer otherwise.
    pub(crate) const fn is_of_the_member(self) -> bool {
        match self {
            Self::NotApplied | Self::Denied | Self::Open | Self::Full | Self::OtherHistory => true,
            Self::NoLease | Self::LeaseExists | Self::Compacted | Self::TooMuch | Self::AnswerTooLarge => false,
        }
    }
}

/// A kind of trouble, where and why.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Fault {
    pub(crate) kind: Kind,
    /// The endpoint and what it said.
    pub(crate) reason: String,
}

impl Fault {
    /// What the error of a call to `endpoint` means.
    pub(crate) fn of(endpoint: &str, error: &etcd_client::Error) -> Self {
        let (kind, why) = match error {
            etcd_client::Error::GRpcStatus(status) => (kind(status), said(status)),
            // What the client makes of an answer with no time to live.
            etcd_client::Error::LeaseKeepAliveError(why) if why == "lease not found" => (Kind::NoLease, why.clone()),
            etcd_client::Error::InvalidArgs(_) | etcd_client::Error::InvalidUri(_) => (Kind::Denied, error.to_string()),
            _ => (Kind::Open, error.to_string()),
        };
        Self { kind, reason: format!("{endpoint}: {why}") }
    }

    /// No answer came in time.
    pub(crate) fn late(endpoint: &str, limit: std::time::Duration) -> Self {
        Self { kind: Kind::Open, reason: format!("{endpoint}: no answer within {limit:?}") }
    }
}

fn kind(status: &Status) -> Kind {
    if never_sent(status) {
        return Kind::NotApplied;
    }
    let message = status.message();
    match status.code() {
        Code::Unauthenticated | Code::PermissionDenied => Kind::Denied,
        Code::NotFound if message.contains("requested lease not found") => Kind::NoLease,
        Code::FailedPrecondition if message.contains("lease already exists") => Kind::LeaseExists,
        Code::InvalidArgument => match message {
            "etcdserver: too many operations in txn request" | "etcdserver: request is too large" => Kind::TooMuch,
            _ => Kind::Denied,
        },
        Code::OutOfRange if message.contains("required revision has been compacted") => Kind::Compacted,
        Code::OutOfRange if message.contains("message length too large") => Kind::AnswerTooLarge,
        Code::OutOfRange if message.contains("future revision") => Kind::NotApplied,
        Code::ResourceExhausted if message.contains("received message larger than max") => Kind::TooMuch,
        Code::ResourceExhausted if message == "etcdserver: too many requests" => Kind::NotApplied,
        Code::ResourceExhausted if message == "etcdserver: mvcc: database space exceeded" => Kind::Full,
        Code::Unavailable if message == "etcdserver: no leader" => Kind::NotApplied,
        _ => Kind::Open,
    }
}

/// Whether the request never left, because there was no connection.
fn never_sent(status: &Status) -> bool {
    let mut source = status.source();
    while let Some(error) = source {
        if error.is::<ConnectError>() {
            return true;
        }
        source = error.source();
    }
    false
}

/// What a status says, with its causes.
fn said(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut source = status.source();
    while let Some(error) = source {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_known_not_to_be_applied_is_taken_so() {
        for (code, message, expected) in [
            (Code::Unavailable, "etcdserver: request timed out", Kind::Open),
            (Code::Unavailable, "etcdserver: request timed out, possibly due to previous leader failure", Kind::Open),
            (Code::Unavailable, "etcdserver: leader changed", Kind::Open),
            (Code::Unavailable, "etcdserver: no leader", Kind::NotApplied),
            (Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded", Kind::Full),
            (Code::ResourceExhausted, "etcdserver: too many requests", Kind::NotApplied),
            (Code::ResourceExhausted, "grpc: received message larger than max (9 vs. 8)", Kind::TooMuch),
            (Code::InvalidArgument, "etcdserver: request is too large", Kind::TooMuch),
            (Code::InvalidArgument, "etcdserver: too many operations in txn request", Kind::TooMuch),
            (Code::InvalidArgument, "etcdserver: user name is empty", Kind::Denied),
            (Code::PermissionDenied, "etcdserver: permission denied", Kind::Denied),
            (Code::Unauthenticated, "etcdserver: invalid auth token", Kind::Denied),
            (Code::NotFound, "etcdserver: requested lease not found", Kind::NoLease),
            (Code::FailedPrecondition, "etcdserver: lease already exists", Kind::LeaseExists),
            (Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted", Kind::Compacted),
            (
                Code::OutOfRange,
                "Error, decoded message length too large: found 9 bytes, the limit is: 8 bytes",
                Kind::AnswerTooLarge,
            ),
            (Code::Cancelled, "operation was canceled", Kind::Open),
            (Code::Unknown, "transport error", Kind::Open),
            (Code::Internal, "stream closed", Kind::Open),
            (Code::DeadlineExceeded, "", Kind::Open),
        ] {
            assert_eq!(kind(&Status::new(code, message)), expected, "{code:?} {message}");
        }
    }

    #[test]
    fn what_had_no_connection_was_never_sent() {
        let mut status = Status::new(Code::Unavailable, "error trying to connect");
        status.set_source(std::sync::Arc::new(ConnectError("refused".into())));
        assert_eq!(kind(&status), Kind::NotApplied);
        let error = etcd_client::Error::GRpcStatus(status);
        assert!(Fault::of("http://a:1", &error).reason.starts_with("http://a:1: error trying to connect"));
    }
}
