//! What goes wrong, as a caller needs to know it: few kinds, each documented by what the caller should do.

use std::fmt;
use std::time::Duration;

/// A kind of trouble.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum FaultKind {
    /// The request itself is wrong: correct it.
    InvalidArgument,
    /// What it names does not exist: create it, or correct the name.
    NotFound,
    /// What it would create exists.
    AlreadyExists,
    /// The state of things forbids it: change that first.
    FailedPrecondition,
    /// A limit is reached: try again after the delay.
    Busy,
    /// It can't be served now, and had no effect: try again after the delay.
    Unavailable,
    /// It may or may not have taken effect: find out, or repeat it if that is harmless.
    OutcomeUnknown,
    /// Somebody newer took over: stop.
    Fenced,
    /// Stored bytes can't be read back correctly: an operator must look.
    DataLoss,
    /// The server has a bug.
    Internal,
}

/// One piece of trouble, ready to be told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fault {
    /// What kind.
    pub kind: FaultKind,
    /// Stable and upper case, such as `MESSAGE_TOO_LARGE`.
    pub reason: &'static str,
    /// For people: what happened, why, what to do.
    pub message: String,
    /// The field of the request that is at fault.
    pub field: Option<String>,
    /// When trying the same again may succeed.
    pub retry_after: Option<Duration>,
}

impl Fault {
    /// A fault of `kind`, with the kind's own retry advice.
    pub fn new(kind: FaultKind, reason: &'static str, message: impl Into<String>) -> Self {
        let retry_after = match kind {
            FaultKind::Busy | FaultKind::Unavailable | FaultKind::OutcomeUnknown => Some(Duration::from_millis(100)),
            _ => None,
        };
        Self { kind, reason, message: message.into(), field: None, retry_after }
    }

    /// A request whose `field` is wrong.
    pub fn invalid(field: impl Into<String>, reason: &'static str, message: impl Into<String>) -> Self {
        Self { field: Some(field.into()), ..Self::new(FaultKind::InvalidArgument, reason, message) }
    }

    /// Nothing of that name. `what` is a noun of the glossary.
    pub fn not_found(what: &'static str, reason: &'static str, name: impl fmt::Display) -> Self {
        Self::new(FaultKind::NotFound, reason, format!("{what} {name} does not exist"))
    }

    /// With other retry advice.
    #[must_use]
    pub fn retry_after(mut self, delay: Duration) -> Self {
        self.retry_after = Some(delay);
        self
    }

    /// Whether the same request may succeed later.
    pub const fn is_retryable(&self) -> bool {
        self.retry_after.is_some()
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.field {
            Some(field) => write!(f, "{field}: {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

impl std::error::Error for Fault {}

impl From<crate::names::NameError> for Fault {
    fn from(error: crate::names::NameError) -> Self {
        Self::invalid(
            error.field,
            "INVALID_NAME",
            format!(
                "{}; a name has 1 to {} of A-Z a-z 0-9 _ - and single dots between them",
                error.problem,
                crate::names::NAME_BYTES_MAX
            ),
        )
    }
}
