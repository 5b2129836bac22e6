//! The auditor: retention also reaches partitions that nobody has loaded, deleted topics are cleaned up, tombstones of ledgers that
//! nobody holds any more are forgotten, ledgers that are short of copies are counted, and metadata's history is let go. One broker at a time holds the office; nothing rests on
//! that. Each round is bounded; the next one goes on where it ended.

mod census;
mod deleted_topics;
mod retention;
mod tombstones;
mod turns;

use std::time::Duration;

use super::Broker;
use crate::error::chain;
use crate::topic::retention::ClockGuard;
use census::Census;
use tombstones::Tombstones;
use turns::Turns;

/// How many records are read at a time.
const PAGE: usize = 500;
/// How many revisions of metadata's history are kept for watches that were interrupted.
const REVISIONS_KEPT: u64 = 10_000;

impl Broker {
    /// Looks after what nobody owns, until the broker stops.
    pub(super) async fn audit(&self) {
        let context = self.context();
        let interval = Duration::from_millis(context.config.audit_interval_ms);
        let mut guard = ClockGuard::default();
        let mut turns = Turns::new(Duration::from_millis(context.config.release_after_ms));
        let mut census = Census::default();
        let forget_after = Duration::from_millis(context.config.forget_after_ms);
        let mut tombstones = Tombstones::new(forget_after);
        loop {
            tokio::select! {
                biased;
                () = context.own_tasks.stopping() => return,
                () = context.clock.sleep(interval) => {}
            }
            let session = self.0.opener.session.borrow().clone();
            match context.metadata.auditors().run_for(session.decider()).await {
                Ok(true) => {}
                Ok(false) => {
                    // What it knew is the next one's to say, and a pass that it broke off counts nothing.
                    (census, tombstones) = (Census::default(), Tombstones::new(forget_after));
                    context.metrics.audited(None);
                    continue;
                }
                Err(error) => {
                    tracing::debug!(%error, "the auditor's office could not be run for");
                    continue;
                }
            }
            let wall = guard.trusted(context.clock.mono(), context.clock.wall());
            let round = async {
                if let Err(error) = self.audit_retention(&mut turns, wall).await {
                    tracing::warn!(error = chain(&error), "retention of unloaded partitions is put off");
                }
                if let Err(error) = self.audit_deleted().await {
                    tracing::warn!(error = chain(&error), "deleted topics are cleaned up later");
                }
                match self.audit_ledgers(&mut tombstones, &mut census).await {
                    Ok(Some(audit)) => {
                        context.metrics.audited(Some(audit));
                        if let Err(error) = context.metadata.auditors().report(session.decider(), audit).await {
                            tracing::debug!(%error, "what the audit found is said after the next one");
                        }
                    }
                    Ok(None) => {}
                    Err(error) => tracing::warn!(error = chain(&error), "ledgers are looked at later"),
                }
                if let Err(error) = context.metadata.auditors().compact(REVISIONS_KEPT).await {
                    tracing::debug!(%error, "history is kept a while longer");
                }
            };
            tokio::select! {
                biased;
                () = context.own_tasks.stopping() => return,
                () = round => {}
            }
        }
    }
}
