//! Where a measurement takes place: the machine, how busy it was before, the server and what it promises.

use std::time::Duration;

use alluvium_client::admin::Policies;
use alluvium_client::{Client, Guarantee};
use alluvium_runtime::clock::Clock;
use alluvium_runtime::machine::{CpuTimes, Machine};

use crate::error::Error;

/// How long the machine is watched before a load begins.
const WATCHED: Duration = Duration::from_millis(500);
/// The share of its processors that an idle machine may use.
const IDLE_SHARE_MAX: f64 = 0.1;

/// Where a measurement takes place.
#[derive(Clone, Debug)]
pub struct Setting {
    /// The machine of the load.
    pub machine: Machine,
    /// The share of its processors that was busy before the load began: 0 to 1.
    pub busy_before: f64,
    /// The server's address.
    pub server: String,
    /// The server's version.
    pub server_version: String,
    /// The cluster's id.
    pub cluster: String,
    /// What a receipt promises, in words.
    pub durability: String,
}

impl Setting {
    /// Looks at both sides.
    pub(super) async fn look(clock: &Clock, client: &Client) -> Result<Self, Error> {
        let before = busy()?;
        clock.sleep(WATCHED).await;
        Ok(Self {
            machine: Machine::here(),
            busy_before: busy()?.busy_since(before),
            server: client.server().to_owned(),
            server_version: client.server_version().to_owned(),
            cluster: client.cluster_id().to_owned(),
            durability: String::new(),
        })
    }

    /// Whether the machine did nothing else when the load began.
    pub fn was_idle(&self) -> bool {
        self.busy_before <= IDLE_SHARE_MAX
    }
}

fn busy() -> Result<CpuTimes, Error> {
    CpuTimes::now().map_err(Error::system("cannot see how busy the machine is"))
}

/// What a receipt of this guarantee promises under these policies.
pub(super) fn durability(guarantee: Guarantee, policies: &Policies) -> String {
    let (copies, acks) = policies.replication.as_ref().map_or((0, 0), |policy| (policy.write_quorum, policy.ack_quorum));
    match guarantee {
        Guarantee::Quorum => format!("on disk on {acks} of {copies} bookies before the receipt"),
        Guarantee::Leader => format!("on disk on 1 of {copies} bookies before the receipt"),
        Guarantee::None => "none: receipts promise nothing".to_owned(),
    }
}
