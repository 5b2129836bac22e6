//! Settings that are inherited from the tenant down to the topic.
//!
//! A policy that could not be read is *unknown*: the reads of this crate then fail, and nothing may be deleted under it.

use std::time::Duration;

use alluvium_proto::internal::v1 as wire;
use alluvium_types::policy::{Retention, Rollover};
use alluvium_types::replication::Replication;

/// Settings of a tenant, a namespace or a topic; `None` inherits.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Policies {
    /// When segments may go.
    pub retention: Option<Retention>,
    /// When segments are sealed.
    pub rollover: Option<Rollover>,
    /// How many bookies hold what.
    pub replication: Option<Replication>,
}

impl Policies {
    /// These, and where they say nothing, those above.
    #[must_use]
    pub fn or(self, above: Self) -> Self {
        Self {
            retention: self.retention.or(above.retention),
            rollover: self.rollover.or(above.rollover),
            replication: self.replication.or(above.replication),
        }
    }

    pub(crate) fn to_wire(self) -> wire::PoliciesRecord {
        wire::PoliciesRecord {
            retention: self.retention.map(|r| wire::RetentionRecord { age_ms: r.age.map(millis), bytes: r.bytes }),
            rollover: self.rollover.map(|r| wire::RolloverRecord { bytes: r.bytes, age_ms: millis(r.age) }),
            replication: self.replication.map(replication_to_wire),
        }
    }

    pub(crate) fn from_wire(wire: Option<wire::PoliciesRecord>) -> Result<Self, String> {
        let wire = wire.ok_or("policies are missing")?;
        Ok(Self {
            retention: wire.retention.map(|r| Retention { age: r.age_ms.map(Duration::from_millis), bytes: r.bytes }),
            rollover: wire.rollover.map(|r| Rollover { bytes: r.bytes, age: Duration::from_millis(r.age_ms) }),
            replication: wire.replication.map(|r| replication_from_wire(&r)).transpose()?,
        })
    }
}

pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

pub(crate) fn replication_to_wire(replication: Replication) -> wire::ReplicationRecord {
    let part = |n: usize| u32::try_from(n).expect("a part of a replication is at most 64");
    wire::ReplicationRecord {
        ensemble: part(replication.ensemble()),
        write: part(replication.write()),
        ack: part(replication.ack()),
    }
}

pub(crate) fn replication_from_wire(wire: &wire::ReplicationRecord) -> Result<Replication, String> {
    let part = |n: u32| usize::try_from(n).unwrap_or(usize::MAX);
    Replication::new(part(wire.ensemble), part(wire.write), part(wire.ack)).map_err(|error| error.to_string())
}
