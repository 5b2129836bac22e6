//! Policies, checked on the way in.

use std::time::Duration;

use alluvium_metadata::policies::Policies;
use alluvium_proto::v1;
use alluvium_types::fault::Fault;
use alluvium_types::policy::{Retention, Rollover};
use alluvium_types::replication::Replication;

use super::fault::Refused;

/// A segment's size, at least and at most.
const ROLLOVER_BYTES: (u64, u64) = (1 << 20, 64 << 30);
/// A segment's age, at least.
const ROLLOVER_MS_MIN: u64 = 1000;

/// What a request sets; nothing for no policies at all.
pub(super) fn from_wire(policies: Option<v1::Policies>) -> Result<Policies, Refused> {
    let Some(policies) = policies else { return Ok(Policies::default()) };
    let retention = (policies.retention_ms.is_some() || policies.retention_bytes.is_some())
        .then(|| Retention { age: policies.retention_ms.map(Duration::from_millis), bytes: policies.retention_bytes });
    let rollover = match (policies.rollover_bytes, policies.rollover_ms) {
        (None, None) => None,
        (bytes, ms) => {
            let default = Rollover::default();
            Some(Rollover { bytes: bytes.unwrap_or(default.bytes), age: ms.map_or(default.age, Duration::from_millis) })
        }
    };
    if let Some(bytes) = policies.rollover_bytes.filter(|b| !(ROLLOVER_BYTES.0..=ROLLOVER_BYTES.1).contains(b)) {
        let message = format!("{bytes} is not between {} and {}", ROLLOVER_BYTES.0, ROLLOVER_BYTES.1);
        return Err(Fault::invalid("policies.rollover_bytes", "ROLLOVER_BYTES", message).into());
    }
    if let Some(ms) = policies.rollover_ms.filter(|ms| *ms < ROLLOVER_MS_MIN) {
        let message = format!("{ms} is less than {ROLLOVER_MS_MIN}");
        return Err(Fault::invalid("policies.rollover_ms", "ROLLOVER_MS", message).into());
    }
    let replication = policies
        .replication
        .map(|r| {
            let [ensemble, write, ack] = [r.ensemble, r.write_quorum, r.ack_quorum].map(|n| n as usize);
            Replication::new(ensemble, write, ack)
                .map_err(|error| Fault::invalid("policies.replication", "REPLICATION", error.to_string()))
        })
        .transpose()?;
    Ok(Policies { retention, rollover, replication })
}

/// As they are shown.
pub(super) fn to_wire(policies: &Policies) -> v1::Policies {
    v1::Policies {
        retention_ms: policies.retention.and_then(|r| r.age).map(millis),
        retention_bytes: policies.retention.and_then(|r| r.bytes),
        rollover_bytes: policies.rollover.map(|r| r.bytes),
        rollover_ms: policies.rollover.map(|r| millis(r.age)),
        replication: policies.replication.map(replication),
    }
}

/// Quorums as they are shown.
pub(super) fn replication(replication: Replication) -> v1::ReplicationPolicy {
    let small = |n: usize| u32::try_from(n).expect("an ensemble has at most 64 members");
    v1::ReplicationPolicy {
        ensemble: small(replication.ensemble()),
        write_quorum: small(replication.write()),
        ack_quorum: small(replication.ack()),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(policies: v1::Policies) -> Option<String> {
        from_wire(Some(policies)).err().and_then(|refused| match refused {
            Refused::Here(fault) => fault.field,
            Refused::AtOwner(_) => None,
        })
    }

    #[test]
    fn policies_out_of_bounds_are_refused_with_their_field() {
        let bytes = v1::Policies { rollover_bytes: Some(5), ..Default::default() };
        assert_eq!(refused(bytes).as_deref(), Some("policies.rollover_bytes"));
        let age = v1::Policies { rollover_ms: Some(5), ..Default::default() };
        assert_eq!(refused(age).as_deref(), Some("policies.rollover_ms"));
        let quorums = v1::ReplicationPolicy { ensemble: 3, write_quorum: 2, ack_quorum: 3 };
        let replication = v1::Policies { replication: Some(quorums), ..Default::default() };
        assert_eq!(refused(replication).as_deref(), Some("policies.replication"));
    }

    #[test]
    fn what_is_set_is_shown_again() {
        let policies = v1::Policies {
            retention_ms: Some(60_000),
            rollover_bytes: Some(2 << 20),
            rollover_ms: Some(5_000),
            replication: Some(v1::ReplicationPolicy { ensemble: 3, write_quorum: 3, ack_quorum: 2 }),
            retention_bytes: None,
        };
        let kept = from_wire(Some(policies)).expect("valid");
        assert_eq!(to_wire(&kept), policies);
    }
}
