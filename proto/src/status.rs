//! The only map between the kinds of fault and gRPC codes, both ways.

use std::borrow::Cow;
use std::time::Duration;

use alluvium_types::fault::{Fault, FaultKind};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::v1;

/// The domain of our `ErrorInfo` reasons.
pub const DOMAIN: &str = "alluvium";
/// The metadata key of an `ErrorInfo` that says that the request may have taken effect.
const OUTCOME_UNKNOWN: &str = "outcome_unknown";

/// The gRPC code of a kind.
pub const fn code(kind: FaultKind) -> Code {
    match kind {
        FaultKind::InvalidArgument => Code::InvalidArgument,
        FaultKind::NotFound => Code::NotFound,
        FaultKind::AlreadyExists => Code::AlreadyExists,
        FaultKind::FailedPrecondition => Code::FailedPrecondition,
        FaultKind::Busy => Code::ResourceExhausted,
        FaultKind::Unavailable => Code::Unavailable,
        FaultKind::OutcomeUnknown => Code::Unknown,
        FaultKind::Fenced => Code::Aborted,
        FaultKind::DataLoss => Code::DataLoss,
        FaultKind::Internal => Code::Internal,
    }
}

/// The kind behind a code; `outcome_unknown` for those that say nothing of the effect.
pub const fn kind(code: Code) -> FaultKind {
    match code {
        Code::InvalidArgument | Code::OutOfRange | Code::Unimplemented => FaultKind::InvalidArgument,
        Code::NotFound => FaultKind::NotFound,
        Code::AlreadyExists => FaultKind::AlreadyExists,
        Code::FailedPrecondition | Code::PermissionDenied | Code::Unauthenticated => FaultKind::FailedPrecondition,
        Code::ResourceExhausted => FaultKind::Busy,
        Code::Unavailable => FaultKind::Unavailable,
        Code::Aborted => FaultKind::Fenced,
        Code::DataLoss => FaultKind::DataLoss,
        Code::Internal => FaultKind::Internal,
        Code::Ok | Code::Cancelled | Code::Unknown | Code::DeadlineExceeded => FaultKind::OutcomeUnknown,
    }
}

/// A fault as the status of a call, with `ErrorInfo`, `BadRequest` and `RetryInfo`.
pub fn to_status(fault: &Fault) -> Status {
    let mut details = ErrorDetails::new();
    let unknown = fault.kind == FaultKind::OutcomeUnknown;
    let metadata = unknown.then(|| (OUTCOME_UNKNOWN.to_owned(), "true".to_owned()));
    details.set_error_info(fault.reason, DOMAIN, metadata.into_iter().collect::<std::collections::HashMap<_, _>>());
    if let Some(field) = &fault.field {
        details.add_bad_request_violation(field.as_str(), fault.message.as_str());
    }
    if let Some(delay) = fault.retry_after {
        details.set_retry_info(Some(delay));
    }
    Status::with_error_details(code(fault.kind), fault.to_string(), details)
}

/// A status that gRPC itself made before any of our code saw the request, with the reason and the code that ours have; others stay.
pub fn explained(status: Status) -> Status {
    if !status.details().is_empty() {
        return status;
    }
    let (reason, field) = match status.code() {
        Code::OutOfRange => ("REQUEST_TOO_LARGE", "request"),
        Code::Internal if status.message().contains("Protobuf") => ("REQUEST_MALFORMED", "request"),
        Code::Unimplemented => ("METHOD_UNKNOWN", "method"),
        _ => return status,
    };
    let message = match status.code() {
        Code::Unimplemented => "this port has no such method: see reflection for those that it has",
        _ => status.message(),
    };
    let mut details = ErrorDetails::new();
    details.set_error_info(reason, DOMAIN, std::collections::HashMap::new());
    details.add_bad_request_violation(field, message);
    let code = if status.code() == Code::Unimplemented { Code::Unimplemented } else { Code::InvalidArgument };
    Status::with_error_details(code, message.to_owned(), details)
}

/// A fault that another server told as one item of a stream, as the status of a call.
pub fn wire_to_status(fault: &v1::Fault) -> Status {
    let mut details = ErrorDetails::new();
    let metadata = fault.outcome_unknown.then(|| (OUTCOME_UNKNOWN.to_owned(), "true".to_owned()));
    details.set_error_info(&fault.reason, DOMAIN, metadata.into_iter().collect::<std::collections::HashMap<_, _>>());
    if !fault.field.is_empty() {
        details.add_bad_request_violation(&fault.field, &fault.message);
    }
    if let Some(delay) = fault.retry_after_ms {
        details.set_retry_info(Some(Duration::from_millis(delay)));
    }
    let text = if fault.field.is_empty() { fault.message.clone() } else { format!("{}: {}", fault.field, fault.message) };
    Status::with_error_details(Code::from_i32(fault.code), text, details)
}

/// A fault as one item of a stream.
pub fn to_wire(fault: &Fault) -> v1::Fault {
    v1::Fault {
        code: code(fault.kind) as i32,
        reason: fault.reason.to_owned(),
        message: fault.message.clone(),
        field: fault.field.clone().unwrap_or_default(),
        retry_after_ms: fault.retry_after.map(|d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX)),
        outcome_unknown: fault.kind == FaultKind::OutcomeUnknown,
    }
}

/// A fault as a client received it: the reason is whatever the server, perhaps a newer one, calls it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteFault {
    /// What kind.
    pub kind: FaultKind,
    /// Stable and upper case; empty if the peer gave none.
    pub reason: Cow<'static, str>,
    /// For people.
    pub message: String,
    /// When trying the same again may succeed.
    pub retry_after: Option<Duration>,
}

impl std::fmt::Display for RemoteFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)?;
        if !self.reason.is_empty() {
            write!(f, " [{}]", self.reason)?;
        }
        Ok(())
    }
}

impl std::error::Error for RemoteFault {}

impl From<&Status> for RemoteFault {
    fn from(status: &Status) -> Self {
        let details = status.get_error_details();
        let reason = details.error_info().map(|info| info.reason.clone()).unwrap_or_default();
        Self {
            kind: kind(status.code()),
            reason: Cow::Owned(reason),
            message: status.message().to_owned(),
            retry_after: details.retry_info().and_then(|info| info.retry_delay),
        }
    }
}

impl From<v1::Fault> for RemoteFault {
    fn from(fault: v1::Fault) -> Self {
        let message = if fault.field.is_empty() { fault.message } else { format!("{}: {}", fault.field, fault.message) };
        Self {
            kind: kind(Code::from_i32(fault.code)),
            reason: Cow::Owned(fault.reason),
            message,
            retry_after: fault.retry_after_ms.map(Duration::from_millis),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_survives_the_wire() {
        for kind in [
            FaultKind::InvalidArgument,
            FaultKind::NotFound,
            FaultKind::AlreadyExists,
            FaultKind::FailedPrecondition,
            FaultKind::Busy,
            FaultKind::Unavailable,
            FaultKind::OutcomeUnknown,
            FaultKind::Fenced,
            FaultKind::DataLoss,
            FaultKind::Internal,
        ] {
            let fault = Fault::new(kind, "SOME_REASON", "what happened");
            let back = RemoteFault::from(&to_status(&fault));
            assert_eq!((back.kind, back.reason.as_ref(), back.retry_after), (kind, "SOME_REASON", fault.retry_after));
            assert_eq!(RemoteFault::from(to_wire(&fault)).kind, kind);
        }
    }

    #[test]
    fn a_bad_field_is_named_in_the_details() {
        let status = to_status(&Fault::invalid("messages", "EMPTY", "nothing to publish"));
        let details = status.get_error_details();
        let violations = &details.bad_request().expect("present").field_violations;
        assert_eq!(violations[0].field, "messages");
        assert_eq!(status.message(), "messages: nothing to publish");
    }
}
