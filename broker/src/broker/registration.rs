//! The broker's session: begun, kept in sight, begun anew when it is lost.

use std::sync::Arc;
use std::time::Duration;

use alluvium_metadata::UpdateError;
use alluvium_metadata::brokers::IfRegistered;
use tokio::sync::watch;

use super::context::{Context, Session};

/// Registers the broker under a new session.
pub(super) async fn register(context: &Context, address: &str, if_registered: IfRegistered) -> Result<Session, UpdateError> {
    let ttl = Duration::from_millis(context.config.session_ttl_ms);
    let brokers = context.metadata.brokers();
    let weight = context.config.weight;
    let registration = brokers.register(&context.name, address, &context.internal_address, weight, ttl, if_registered).await?;
    tracing::info!(broker = %context.name, session = %registration.session.id(), "registered");
    Ok(Session::new(registration))
}

/// Lets partitions dispatch as long as the session is certain to live (M4), and registers anew whenever it is gone.
pub(super) async fn keep(context: Arc<Context>, address: String, current: watch::Sender<Session>) {
    let margin = Duration::from_millis(context.config.dispatch_margin_ms);
    loop {
        let session = current.borrow().clone();
        let mut lease = session.registration().session.watch();
        loop {
            let known = *lease.borrow_and_update();
            if known.gone {
                break;
            }
            let until = known.certain_until.as_duration().saturating_sub(margin);
            context.lease.extend(alluvium_types::time::Mono::from_duration(until));
            let changed = tokio::select! {
                biased;
                () = context.own_tasks.stopping() => return,
                changed = lease.changed() => changed,
            };
            if changed.is_err() {
                // Its keeper was stopped with the process.
                return;
            }
        }
        context.lease.end();
        let mut backoff = context.backoff();
        loop {
            // The record of the session that is gone went with it, or is the process's own.
            match register(&context, &address, IfRegistered::Refuse).await {
                Ok(session) => {
                    current.send_replace(session);
                    break;
                }
                Err(error) => {
                    tracing::warn!(broker = %context.name, %error, "not registered; nothing can be claimed");
                    tokio::select! {
                        biased;
                        () = context.own_tasks.stopping() => return,
                        () = context.clock.sleep(backoff.delay()) => {}
                    }
                }
            }
        }
    }
}
