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
   3  the cluster is degraded: it serves, and somebody should look
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
    Degraded = 3,
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

/// What this program is called in advice: as it was started, where whoever started it says so.
pub(crate) fn program() -> String {
    std::env::var("ALLUVIUM_COMMAND").ok().filter(|name| !name.is_empty()).unwrap_or_else(|| "alluvium".to_owned())
}

impl Code {
    /// What a failure is called that nobody gave another name.
    const fn reason(self) -> &'static str {
        match self {
            Self::Refused => "REFUSED",
            Self::Usage => "USAGE",
            Self::Degraded => "DEGRADED",
            Self::Config => "CONFIG",
            Self::Data => "DATA",
            Self::Unavailable => "UNAVAILABLE",
            Self::Internal => "INTERNAL",
            Self::Io => "IO",
            Self::Unknown => "OUTCOME_UNKNOWN",
            Self::Interrupted => "INTERRUPTED",
        }
    }
}

impl Failure {
    pub(crate) fn new(code: Code, what: impl Into<String>) -> Self {
        Self { code, what: what.into(), because: Vec::new(), advice: None, reason: code.reason().to_owned() }
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

    /// Names it for programs.
    #[must_use]
    pub(crate) fn named(mut self, reason: &str) -> Self {
        reason.clone_into(&mut self.reason);
        self
    }

    /// Says of what it is true, before what is true.
    #[must_use]
    pub(crate) fn of(mut self, what: impl Into<String>) -> Self {
        let before = std::mem::replace(&mut self.what, what.into());
        self.because.insert(0, before);
        self
    }

    /// The same of a thing that the server did not name, with advice that does.
    #[must_use]
    pub(crate) fn about(mut self, subject: &Subject<'_>) -> Self {
        let Subject { noun, name, .. } = subject;
        match self.reason.as_str() {
            "EXISTS" => self.what = format!("{noun} {name} exists already [EXISTS]"),
            "NOT_EMPTY" => self.what = format!("{noun} {name} is not empty [NOT_EMPTY]"),
            "NOT_FOUND" => self.what = format!("{noun} {name}: {}", self.what),
            _ => {}
        }
        self.advice = subject.advice(&self.reason).or(self.advice);
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

/// What a command is about.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Subject<'a> {
    /// `tenant`, `namespace`, `topic`, `subscription` or `broker`.
    pub(crate) noun: &'static str,
    pub(crate) name: &'a str,
    /// The topic of a subscription.
    pub(crate) topic: &'a str,
    /// Whether what it belongs to has to be there first, and could be created.
    pub(crate) creates: bool,
}

impl<'a> Subject<'a> {
    pub(crate) const fn new(noun: &'static str, name: &'a str) -> Self {
        Self { noun, name, topic: name, creates: false }
    }

    #[must_use]
    pub(crate) const fn creating(mut self) -> Self {
        self.creates = true;
        self
    }

    #[must_use]
    pub(crate) const fn of(mut self, topic: &'a str) -> Self {
        self.topic = topic;
        self
    }

    fn advice(&self, reason: &str) -> Option<String> {
        let Self { noun, name, topic, creates } = *self;
        let path = if noun == "subscription" { topic } else { name };
        let parts: Vec<&str> = path.split('/').collect();
        let tenant = parts.first().copied().unwrap_or_default();
        let namespace = parts.get(..2).map(|parts| parts.join("/")).unwrap_or_default();
        let there = |list: String| format!("see which there are: {} {list}", program());
        let create = |what: String| format!("create it: {} {what}", program());
        Some(match (reason, noun) {
            ("EXISTS", "subscription") => format!("see it: {} subscription get {topic} {name}", program()),
            ("EXISTS", _) => format!("see it: {} {noun} get {name}", program()),
            ("NOT_EMPTY", "tenant") => format!("see what it holds: {} namespace list {name}", program()),
            ("NOT_EMPTY", "namespace") => format!("see what it holds: {} topic list {name}", program()),
            ("TOPIC_NOT_FOUND", "subscription") if creates => create(format!("topic create {topic}")),
            ("TOPIC_NOT_FOUND", _) => there(format!("topic list {namespace}")),
            ("NAMESPACE_NOT_FOUND", "topic") if creates => create(format!("namespace create {namespace}")),
            ("NAMESPACE_NOT_FOUND", _) => there(format!("namespace list {tenant}")),
            ("NOT_FOUND", "namespace") | ("TENANT_NOT_FOUND", "topic" | "namespace") if creates => {
                create(format!("tenant create {tenant}"))
            }
            ("TENANT_NOT_FOUND", _) => there("tenant list".to_owned()),
            ("BROKER_NOT_FOUND", _) => there("broker list".to_owned()),
            ("SUBSCRIPTION_NOT_FOUND", _) => there(format!("subscription list {topic}")),
            _ => return None,
        })
    }
}

/// For `map_err`: a refusal, and what it is about.
pub(crate) fn about(subject: Subject<'_>) -> impl Fn(Error) -> Failure {
    move |error| Failure::from(error).about(&subject)
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

fn advice(error: &Error) -> Option<String> {
    let text = match error {
        Error::Unreachable { .. } => {
            let start = format!("{} standalone", program());
            return Some(format!("start one with `{start}`, or name another with --server, ALLUVIUM_SERVER or a context"));
        }
        Error::WrongServer { .. } => {
            "clients connect to the first of a server's three ports, 7650 unless it says otherwise; 7651 is for its own kind, \
             7652 for its operators"
        }
        Error::Deleted { .. } => "if it was created again, begin again: what has the name now is another",
        _ if error.reason() == "PRODUCER_FENCED" => "another producer of this name is running; stop it, or take another --name",
        _ if error.outcome_unknown() => "look before you repeat it, unless repeating it is harmless",
        _ if error.is_retryable() => "try again later",
        _ => return None,
    };
    Some(text.to_owned())
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let code = match (&error, error.kind()) {
            _ if error.outcome_unknown() => Code::Unknown,
            (Error::TimedOut { last: None, .. }, _) => Code::Unavailable,
            (_, Some(kind)) => code_of(kind),
            (Error::Invalid { .. }, _) => Code::Usage,
            (Error::Deleted { .. } | Error::Sequence { .. }, _) => Code::Refused,
            (Error::Unreachable { .. } | Error::WrongServer { .. } | Error::TimedOut { .. }, _) => Code::Unavailable,
            (Error::Undeliverable { .. } | Error::Diverged { .. }, _) => Code::Data,
            (Error::Behind { source, .. }, None) if source.is_retryable() => Code::Unavailable,
            _ => Code::Internal,
        };
        let mut failure = Self::new(code, error.to_string());
        failure.reason = error.reason().to_owned();
        failure.advice = advice(&error);
        let mut source = error.source();
        while let Some(cause) = source {
            // A peer that is none of ours may say nothing at all.
            if !cause.to_string().is_empty() {
                failure = failure.because(cause);
            }
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
            (Error::TimedOut { limit: Duration::from_secs(1), last: None }, Code::Unavailable),
        ] {
            assert_eq!(Failure::from(error).code(), code);
        }
    }

    #[test]
    fn advice_names_what_it_is_about() {
        let advice = |reason: &str, subject: Subject<'_>| {
            Failure::new(Code::Refused, "topic exists already").named(reason).about(&subject).advice.unwrap_or_default()
        };
        let topic = Subject::new("topic", "a/b/c");
        assert_eq!(advice("TOPIC_NOT_FOUND", topic), "see which there are: alluvium topic list a/b");
        assert_eq!(advice("EXISTS", topic.creating()), "see it: alluvium topic get a/b/c");
        assert_eq!(advice("NAMESPACE_NOT_FOUND", topic.creating()), "create it: alluvium namespace create a/b");
        let subscription = Subject::new("subscription", "s").of("a/b/c");
        assert_eq!(advice("TOPIC_NOT_FOUND", subscription.creating()), "create it: alluvium topic create a/b/c");
        assert_eq!(advice("SUBSCRIPTION_NOT_FOUND", subscription), "see which there are: alluvium subscription list a/b/c");
        assert_eq!(advice("NOT_EMPTY", Subject::new("tenant", "a")), "see what it holds: alluvium namespace list a");
        let exists = Failure::new(Code::Refused, "topic exists already").named("EXISTS").about(&topic);
        assert_eq!(exists.what, "topic a/b/c exists already [EXISTS]");
    }

    #[test]
    fn every_failure_has_a_reason() {
        assert_eq!(Failure::usage("x").reason, "USAGE");
        assert_eq!(Failure::from(Error::Closed).reason, "CLOSED");
    }
}
