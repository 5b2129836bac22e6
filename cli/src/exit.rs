//! How a command ends: an exit code that a script can decide by, and a text that says what happened, why, and what to do.

use std::error::Error as _;
use std::io::Write;
use std::process::ExitCode;

use alluvium_client::{Error, FaultKind};
use serde_json::json;

use crate::output::Output;

/// What `--help` says of exit codes.
pub(crate) const HELP: &str = "\
Exit codes:
   0  done
   1  the server refused
   2  the command line is wrong
  64  the configuration is wrong
  65  the input is wrong, or a message can't be delivered
  69  the server can't be reached, or can't serve this now
  70  a bug
  74  a file, or standard input or output, can't be read or written
  75  it is not known whether it took effect
 130  interrupted";

/// Why a command ends early. The numbers are those of `sysexits.h` where it has one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Code {
    Refused = 1,
    Usage = 2,
    Config = 64,
    Data = 65,
    Unavailable = 69,
    Internal = 70,
    Io = 74,
    Unknown = 75,
    Interrupted = 130,
}

/// A command that did not do what it was asked.
#[derive(Debug)]
pub(crate) struct Failure {
    code: Code,
    what: String,
    because: Vec<String>,
    advice: Option<String>,
    /// Stable and upper case, as the server says it.
    reason: String,
}

impl Failure {
    pub(crate) fn new(code: Code, what: impl Into<String>) -> Self {
        Self { code, what: what.into(), because: Vec::new(), advice: None, reason: String::new() }
    }

    pub(crate) fn usage(what: impl Into<String>) -> Self {
        Self::new(Code::Usage, what)
    }

    pub(crate) fn io(what: impl Into<String>, error: &std::io::Error) -> Self {
        Self::new(Code::Io, what).because(error)
    }

    /// Adds a cause.
    #[must_use]
    pub(crate) fn because(mut self, cause: impl std::fmt::Display) -> Self {
        self.because.push(cause.to_string());
        self
    }

    /// Says what to do.
    #[must_use]
    pub(crate) fn advise(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }

    /// Tells it, and gives the exit code.
    pub(crate) fn report(self, output: Output) -> ExitCode {
        let text = match output {
            Output::Json => {
                let Self { code, what, because, advice, reason } = &self;
                let error = json!({
                    "message": what, "because": because, "advice": advice, "reason": reason, "exit_code": *code as u8,
                });
                json!({ "error": error }).to_string()
            }
            Output::Table => {
                let because = self.because.iter().map(|cause| format!("\n  because {cause}")).collect::<String>();
                let advice = self.advice.as_ref().map(|advice| format!("\n  {advice}")).unwrap_or_default();
                format!("error: {}{because}{advice}", self.what)
            }
        };
        // With standard error gone there is nobody left to tell.
        let _ = writeln!(std::io::stderr().lock(), "{text}");
        ExitCode::from(self.code as u8)
    }

    #[cfg(test)]
    pub(crate) const fn code(&self) -> Code {
        self.code
    }
}

const fn code_of(kind: FaultKind) -> Code {
    match kind {
        FaultKind::InvalidArgument
        | FaultKind::NotFound
        | FaultKind::AlreadyExists
        | FaultKind::FailedPrecondition
        | FaultKind::Fenced => Code::Refused,
        FaultKind::Busy | FaultKind::Unavailable => Code::Unavailable,
        FaultKind::OutcomeUnknown => Code::Unknown,
        FaultKind::DataLoss => Code::Data,
        FaultKind::Internal => Code::Internal,
    }
}

fn advice(error: &Error) -> Option<&'static str> {
    let by_reason = match error.reason() {
        "TOPIC_NOT_FOUND" => Some("create it: alluvium topic create TENANT/NAMESPACE/TOPIC"),
        "NAMESPACE_NOT_FOUND" => Some("create it: alluvium namespace create TENANT/NAMESPACE"),
        "TENANT_NOT_FOUND" => Some("create it: alluvium tenant create TENANT"),
        "SUBSCRIPTION_NOT_FOUND" => Some("see what there is: alluvium subscription list TENANT/NAMESPACE/TOPIC"),
        "PRODUCER_FENCED" => Some("another producer of this name is running; stop it, or take another --name"),
        _ => None,
    };
    by_reason.or(match error {
        Error::Unreachable { .. } => {
            Some("start one with `alluvium standalone`, or name another with --server, ALLUVIUM_SERVER or a context")
        }
        _ if error.outcome_unknown() => Some("look before you repeat it, unless repeating it is harmless"),
        _ if error.is_retryable() => Some("try again later"),
        _ => None,
    })
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let code = match (&error, error.kind()) {
            _ if error.outcome_unknown() => Code::Unknown,
            (_, Some(kind)) => code_of(kind),
            (Error::Invalid { .. } | Error::Sequence { .. }, _) => Code::Usage,
            (Error::Unreachable { .. } | Error::TimedOut(_), _) => Code::Unavailable,
            (Error::Undeliverable { .. } | Error::Diverged { .. }, _) => Code::Data,
            _ => Code::Internal,
        };
        let mut failure = Self::new(code, error.to_string());
        failure.reason = error.reason().to_owned();
        failure.advice = advice(&error).map(str::to_owned);
        let mut source = error.source();
        while let Some(cause) = source {
            failure = failure.because(cause);
            source = cause.source();
        }
        failure
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use alluvium_client::RemoteFault;

    use super::*;

    #[test]
    fn a_fault_decides_the_exit_code() {
        let refused = |kind| {
            Error::Refused(RemoteFault {
                kind,
                reason: "TOPIC_NOT_FOUND".into(),
                message: "topic a/b/c does not exist".to_owned(),
                retry_after: None,
            })
        };
        for (error, code) in [
            (refused(FaultKind::NotFound), Code::Refused),
            (refused(FaultKind::Unavailable), Code::Unavailable),
            (refused(FaultKind::OutcomeUnknown), Code::Unknown),
            (Error::TimedOut(Duration::from_secs(1)), Code::Unavailable),
        ] {
            assert_eq!(Failure::from(error).code(), code);
        }
        let advice = Failure::from(refused(FaultKind::NotFound)).advice;
        assert!(advice.is_some_and(|advice| advice.contains("topic create")));
    }
}
