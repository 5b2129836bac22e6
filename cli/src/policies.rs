//! Policies, as arguments and as they are shown.

use std::time::Duration;

use alluvium_client::admin::{Policies, ReplicationPolicy};
use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::units::{duration, show_duration, show_size, size};

/// What may be set on a namespace and overridden on a topic.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct PolicyArgs {
    /// Delete messages once they are older than this, such as 7d. What a subscription has not acknowledged stays
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    retention: Option<Duration>,
    /// Delete the oldest messages of a partition while it holds more than this, such as 10GiB. What a subscription has not
    /// acknowledged stays, however much it is. 0: delete what is acknowledged by all, segment by segment
    #[arg(long, value_name = "SIZE", value_parser = size)]
    retention_bytes: Option<u64>,
    /// Seal a segment at this size: at least 1MiB
    #[arg(long, value_name = "SIZE", value_parser = size)]
    rollover_bytes: Option<u64>,
    /// Seal a segment at this age: at least 1s
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    rollover: Option<Duration>,
    /// Bookies of a ledger, copies of an entry, and copies before it is acknowledged, such as 3/3/2
    #[arg(long, value_name = "E/W/A", value_parser = replication)]
    replication: Option<ReplicationPolicy>,
}

/// A policy by name.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Policy {
    Retention,
    RetentionBytes,
    RolloverBytes,
    Rollover,
    Replication,
}

fn replication(text: &str) -> Result<ReplicationPolicy, String> {
    let numbers: Option<Vec<u32>> = text.split('/').map(|part| part.parse().ok()).collect();
    match numbers.as_deref() {
        Some(&[ensemble, write_quorum, ack_quorum])
            if 0 < ack_quorum && ack_quorum <= write_quorum && write_quorum <= ensemble =>
        {
            Ok(ReplicationPolicy { ensemble, write_quorum, ack_quorum })
        }
        _ => Err("expected three numbers such as 3/3/2, none larger than the one before, none 0".to_owned()),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl PolicyArgs {
    /// Whether none is given.
    pub(crate) const fn is_empty(&self) -> bool {
        self.retention.is_none()
            && self.retention_bytes.is_none()
            && self.rollover_bytes.is_none()
            && self.rollover.is_none()
            && self.replication.is_none()
    }

    /// What was set, with those given here instead, and without those in `unset`.
    pub(crate) fn over(&self, mut policies: Policies, unset: &[Policy]) -> Policies {
        for policy in unset {
            match policy {
                Policy::Retention => policies.retention_ms = None,
                Policy::RetentionBytes => policies.retention_bytes = None,
                Policy::RolloverBytes => policies.rollover_bytes = None,
                Policy::Rollover => policies.rollover_ms = None,
                Policy::Replication => policies.replication = None,
            }
        }
        Policies {
            retention_ms: self.retention.map(millis).or(policies.retention_ms),
            retention_bytes: self.retention_bytes.or(policies.retention_bytes),
            rollover_bytes: self.rollover_bytes.or(policies.rollover_bytes),
            rollover_ms: self.rollover.map(millis).or(policies.rollover_ms),
            replication: self.replication.or(policies.replication),
        }
    }
}

/// Policies as they are shown; what is not set is absent.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct View {
    #[serde(skip_serializing_if = "Option::is_none")]
    retention_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retention_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rollover_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rollover_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    replication: Option<Replication>,
}

/// How many bookies and copies.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Replication {
    ensemble: u32,
    write_quorum: u32,
    ack_quorum: u32,
}

impl From<ReplicationPolicy> for Replication {
    fn from(policy: ReplicationPolicy) -> Self {
        Self { ensemble: policy.ensemble, write_quorum: policy.write_quorum, ack_quorum: policy.ack_quorum }
    }
}

impl std::fmt::Display for Replication {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}/{}", self.ensemble, self.write_quorum, self.ack_quorum)
    }
}

impl From<Option<Policies>> for View {
    fn from(policies: Option<Policies>) -> Self {
        let policies = policies.unwrap_or_default();
        Self {
            retention_ms: policies.retention_ms,
            retention_bytes: policies.retention_bytes,
            rollover_bytes: policies.rollover_bytes,
            rollover_ms: policies.rollover_ms,
            replication: policies.replication.map(Replication::from),
        }
    }
}

impl std::fmt::Display for View {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let set = [
            self.retention_ms.map(|ms| format!("retention={}", show_duration(ms))),
            self.retention_bytes.map(|bytes| format!("retention-bytes={}", show_size(bytes).replace(' ', ""))),
            self.rollover_bytes.map(|bytes| format!("rollover-bytes={}", show_size(bytes).replace(' ', ""))),
            self.rollover_ms.map(|ms| format!("rollover={}", show_duration(ms))),
            self.replication.map(|replication| format!("replication={replication}")),
        ];
        let set: Vec<String> = set.into_iter().flatten().collect();
        f.write_str(if set.is_empty() { "-" } else { "" })?;
        f.write_str(&set.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_given_stays_and_what_is_unset_goes() {
        let before = Policies { retention_ms: Some(1), rollover_bytes: Some(2), ..Default::default() };
        let args = PolicyArgs { retention: Some(Duration::from_secs(1)), ..Default::default() };
        let after = args.over(before, &[Policy::RolloverBytes]);
        assert_eq!(after, Policies { retention_ms: Some(1000), ..Default::default() });
        assert_eq!(View::from(Some(after)).to_string(), "retention=1s");
    }

    #[test]
    fn replication_that_makes_no_sense_is_refused() {
        assert!(replication("3/3/2").is_ok());
        for wrong in ["", "3", "3/3", "2/3/2", "3/2/3", "3/3/0", "a/b/c"] {
            assert!(replication(wrong).is_err(), "{wrong}");
        }
    }
}
