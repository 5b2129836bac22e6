//! What every part of a broker is given.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use alluvium_ledger::LedgerClient;
use alluvium_metadata::Metadata;
use alluvium_metadata::brokers::{Decider, Registration};
use alluvium_metadata::policies::Policies;
use alluvium_runtime::backoff::Backoff;
use alluvium_runtime::budget::ByteBudget;
use alluvium_runtime::clock::Clock;
use alluvium_runtime::entropy::Entropy;
use alluvium_runtime::lanes::Lanes;
use alluvium_runtime::net::Reach;
use alluvium_runtime::tasks::Tasks;
use alluvium_types::limits::Limits;
use alluvium_types::names::BrokerName;

use crate::config::Config;
use crate::metrics::Metrics;
use crate::mutation::Mutations;
use crate::topic::cache::Tails;
use crate::topic::lease::DispatchLease;
use crate::topic::recent::Recent;

/// The surroundings of a broker's parts.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) config: Config,
    pub(crate) name: BrokerName,
    /// Where clients reach this one.
    pub(crate) address: String,
    /// Where other servers do.
    pub(crate) internal_address: String,
    pub(crate) metadata: Metadata,
    pub(crate) ledgers: LedgerClient,
    pub(crate) clock: Clock,
    pub(crate) entropy: Entropy,
    pub(crate) limits: Limits,
    pub(crate) metrics: Metrics,
    pub(crate) default_policies: Policies,
    /// Large requests that are being received, before their messages are counted as on their way in.
    pub(crate) intake_budget: ByteBudget,
    /// Messages that other brokers hand on, on their way in.
    pub(crate) forwarded_budget: ByteBudget,
    /// Messages on their way in.
    pub(crate) publish_budget: ByteBudget,
    /// The newest entries, for readers.
    pub(crate) tails: Tails,
    /// Older entries on their way to readers.
    pub(crate) read_budget: ByteBudget,
    /// Of those, what several readers have asked for.
    pub(crate) recent: Recent,
    /// What takeovers read back, until it is understood.
    pub(crate) takeover_budget: ByteBudget,
    /// Decoded messages on their way to consumers.
    pub(crate) delivery_budget: ByteBudget,
    /// Sessions of clients; stopped first.
    pub(crate) session_tasks: Tasks,
    /// The partitions' owner tasks; drained next.
    pub(crate) partition_tasks: Tasks,
    /// The broker's own; stopped last.
    pub(crate) own_tasks: Tasks,
    /// The process's main runtime, for what is beside the path of messages.
    pub(crate) background: tokio::runtime::Handle,
    /// Where partitions live.
    pub(crate) lanes: Lanes,
    pub(crate) storage_full: AtomicBool,
    pub(crate) leaving: AtomicBool,
    /// The bug that a test has planted, if any.
    pub(crate) mutations: Mutations,
    pub(crate) reach: Reach,
}

impl Context {
    /// Whether no bookie takes more messages.
    pub(crate) fn storage_full(&self) -> bool {
        self.storage_full.load(Ordering::Relaxed)
    }

    /// Whether the broker is to go: it takes nothing over any more.
    pub(crate) fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Acquire)
    }

    /// The broker is to go.
    pub(crate) fn leave(&self) {
        self.leaving.store(true, Ordering::Release);
    }

    /// How long to wait before trying again what failed.
    pub(crate) fn backoff(&self) -> Backoff {
        Backoff::new(Duration::from_millis(20), Duration::from_secs(2), self.entropy.clone())
    }
}

/// The broker's session in metadata, as it was when something was claimed under it.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    registration: Arc<Registration>,
    lease: DispatchLease,
}

impl Session {
    pub(crate) fn new(registration: Registration, clock: Clock) -> Self {
        Self { registration: Arc::new(registration), lease: DispatchLease::new(clock) }
    }

    /// What decisions compare.
    pub(crate) fn decider(&self) -> &Decider {
        &self.registration.decider
    }

    /// Until when what was claimed under it may be dispatched: the next session's time is not its own (M4).
    pub(crate) const fn lease(&self) -> &DispatchLease {
        &self.lease
    }

    /// Resolves once metadata has said that the session is gone. Cancel safe.
    pub(crate) async fn gone(&self) {
        self.registration.session.gone().await;
    }

    pub(crate) fn registration(&self) -> &Registration {
        &self.registration
    }
}
