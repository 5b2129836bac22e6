//! The broker's session: begun, kept in sight, begun anew when it is lost.

use std::sync::Arc;
use std::time::Duration;

use alluvium_metadata::UpdateError;
use alluvium_metadata::brokers::{IfRegistered, NewBroker};
use tokio::sync::watch;

use super::context::{Context, Session};
use crate::forward::View;

/// What a broker that has just started says of itself.
pub(super) fn new(context: &Context, address: &str) -> NewBroker {
    NewBroker {
        address: address.to_owned(),
        internal_address: context.internal_address.clone(),
        weight: context.config.weight,
        draining: false,
    }
}

/// Registers the broker under a new session.
pub(super) async fn register(context: &Context, new: &NewBroker, if_registered: IfRegistered) -> Result<Session, UpdateError> {
    let ttl = Duration::from_millis(context.config.session_ttl_ms);
    let registration = context.metadata.brokers().register(&context.name, new, ttl, if_registered).await?;
    tracing::info!(broker = %context.name, session = %registration.session.id(), "registered");
    Ok(Session::new(registration, context.clock.clone()))
}

/// Lets partitions dispatch as long as the session is certain to live (M4), and registers anew whenever it is gone: as one that
/// drains if `view` showed that it is to.
pub(super) async fn keep(context: Arc<Context>, mut new: NewBroker, mut view: View, current: watch::Sender<Session>) {
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
            session.lease().extend(alluvium_types::time::Mono::from_duration(until));
            let own = view
                .borrow_and_update()
                .members
                .get(&context.name)
                .filter(|own| own.session == session.decider().session)
                .cloned();
            if let Some(own) = own {
                new.draining = own.draining;
            }
            let goes_on = tokio::select! {
                biased;
                () = context.own_tasks.stopping() => return,
                // Its keeper was stopped with the process.
                changed = lease.changed() => changed.is_ok(),
                changed = view.changed() => changed.is_ok(),
            };
            if !goes_on {
                return;
            }
        }
        session.lease().end();
        let mut backoff = context.backoff();
        loop {
            new.draining |= context.is_leaving();
            // The record of the session that is gone went with it, or is the process's own.
            match register(&context, &new, IfRegistered::Refuse).await {
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
