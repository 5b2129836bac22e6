//! How the cluster is: what is there, a verdict, and an exit code that says the same.

use alluvium_client::admin::{self, Health};
use serde::Serialize;

use crate::command::Common;
use crate::exit::{Code, Failure};
use crate::output::{Output, Show, or_dash, print};
use crate::units::show_time;
use crate::{bookie, broker};

#[derive(Serialize)]
struct View {
    health: &'static str,
    findings: Vec<Finding>,
    answered_by: String,
    metadata: Metadata,
    brokers: Vec<broker::View>,
    bookies: Vec<bookie::View>,
    absent_bookies: Vec<String>,
    auditor: Option<String>,
    ledgers: Option<Ledgers>,
}

#[derive(Serialize)]
struct Finding {
    health: &'static str,
    reason: String,
    text: String,
}

#[derive(Serialize)]
struct Metadata {
    reachable: bool,
    revision: u64,
    answer_us: u64,
}

/// What the auditor found when it last looked at all ledgers.
#[derive(Serialize)]
struct Ledgers {
    finished_ms: u64,
    ledgers: u64,
    under_replicated: u64,
    on_absent_bookies: u64,
}

const fn word(health: Health) -> &'static str {
    match health {
        Health::Healthy => "healthy",
        Health::Degraded => "degraded",
        Health::Down => "down",
        Health::Unspecified => "unknown",
    }
}

impl From<admin::ClusterStatus> for View {
    fn from(status: admin::ClusterStatus) -> Self {
        let health = word(status.health());
        let finding = |found: admin::Finding| Finding { health: word(found.health()), reason: found.reason, text: found.text };
        let metadata = status.metadata.unwrap_or_default();
        Self {
            health,
            findings: status.findings.into_iter().map(finding).collect(),
            answered_by: status.answered_by,
            metadata: Metadata { reachable: metadata.reachable, revision: metadata.revision, answer_us: metadata.answer_us },
            brokers: status.brokers.into_iter().map(broker::View::from).collect(),
            bookies: status.bookies.into_iter().map(bookie::View::from).collect(),
            absent_bookies: status.absent_bookies,
            auditor: Some(status.auditor).filter(|auditor| !auditor.is_empty()),
            ledgers: status.ledgers.map(|ledgers| Ledgers {
                finished_ms: ledgers.finished_ms,
                ledgers: ledgers.ledgers,
                under_replicated: ledgers.under_replicated,
                on_absent_bookies: ledgers.on_absent_bookies,
            }),
        }
    }
}

impl Show for View {
    fn columns() -> &'static [&'static str] {
        &["HEALTH", "METADATA", "REVISION", "BROKERS", "BOOKIES", "AWAY", "LEDGERS", "UNDER-REPLICATED", "AUDITOR", "AUDITED"]
    }

    fn row(&self) -> Vec<String> {
        let metadata = if self.metadata.reachable {
            format!("answers in {} us", self.metadata.answer_us)
        } else {
            "does not answer".to_owned()
        };
        let ledgers = self.ledgers.as_ref();
        vec![
            self.health.to_owned(),
            metadata,
            or_dash(Some(self.metadata.revision).filter(|revision| *revision > 0)),
            self.brokers.len().to_string(),
            self.bookies.len().to_string(),
            or_dash(Some(self.absent_bookies.join(",")).filter(|names| !names.is_empty())),
            or_dash(ledgers.map(|ledgers| ledgers.ledgers)),
            or_dash(ledgers.map(|ledgers| ledgers.under_replicated)),
            or_dash(self.auditor.as_ref()),
            or_dash(ledgers.map(|ledgers| show_time(ledgers.finished_ms))),
        ]
    }
}

pub(crate) async fn run(common: &Common) -> Result<(), Failure> {
    let output = common.output;
    let status = common.server.admin().await?.cluster_status().await?;
    let code = match status.health() {
        Health::Healthy => None,
        Health::Degraded => Some((Code::Degraded, "DEGRADED")),
        Health::Down | Health::Unspecified => Some((Code::Unavailable, "DOWN")),
    };
    let view = View::from(status);
    output.whole(&view, &view.brokers)?;
    if output == Output::Table {
        print("\n")?;
        output.many("bookies", &view.bookies)?;
    }
    let Some((code, reason)) = code else { return Ok(()) };
    let failure = Failure::new(code, format!("the cluster is {}", view.health)).named(reason);
    Err(view.findings.iter().fold(failure, |failure, finding| failure.because(format!("{} [{}]", finding.text, finding.reason))))
}
