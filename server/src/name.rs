//! A broker's name, which one process bears at a time. The session of a process that was killed stands until its time is up, and
//! looks like that of one that lives.

use std::time::Duration;

use alluvium_metadata::{Metadata, ReadError};
use alluvium_types::names::BrokerName;

use crate::process::Process;

/// How much later than its time to live a session may be found gone: etcd looks for those that are due now and then.
const SLACK: Duration = Duration::from_secs(5);
/// How often it is looked for.
const INTERVAL: Duration = Duration::from_millis(100);
/// What a process says while it waits.
const WAITING: &str = "waiting for the end of the last session of this broker's name";

/// Waits until nobody bears the name. A session that outlives `ttl`, or is followed by another, is that of a process that lives:
/// then the name is refused.
pub(crate) async fn vacant(name: &BrokerName, ttl: Duration, metadata: &Metadata, process: &Process) -> anyhow::Result<()> {
    let until = process.clock.mono().after(ttl + SLACK);
    let mut first = None;
    loop {
        let read = async || metadata.brokers().get(name).await;
        let Some(found) = process.patiently("waiting for metadata", ReadError::is_retryable, read).await? else {
            return Ok(());
        };
        let (session, address) = (found.value.session, found.value.address);
        if first.is_none() {
            tracing::warn!(broker = %name, %session, address, "{WAITING}");
        }
        process.operators.not_ready(WAITING);
        if *first.get_or_insert(session) != session || process.clock.mono() >= until {
            return Err(taken(name, &address));
        }
        process.clock.sleep(INTERVAL).await;
    }
}

/// Another process has the name.
pub(crate) fn taken(name: &BrokerName, address: &str) -> anyhow::Error {
    anyhow::anyhow!("a broker {name} is alive at {address}: give each broker of a cluster a name of its own")
}
