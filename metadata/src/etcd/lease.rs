//! Sessions as etcd's leases.
//!
//! A lease is granted in whole seconds, and never less than etcd's election takes: a session lives at least as long as it
//! was asked to, often longer.

use std::time::Duration;

use alluvium_types::ids::SessionId;
use etcd_client::{Client, LeaseGrantOptions, LeaseGrantResponse, LeaseKeepAliveResponse, LeaseRevokeResponse};

use super::fault::{Fault, Kind};
use super::layout::{self, Layout};
use super::members::{Answer, Members, Repeat};
use crate::error::{Refusal, StoreError};
use crate::store::SESSION_TTL;

/// How often a renewal is confirmed before it is reported as not confirmed.
const ROUNDS: usize = 2;

/// Begins a session, or finds it begun.
pub(crate) async fn grant(members: &Members, layout: &Layout, session: SessionId, ttl: Duration) -> Result<(), StoreError> {
    if ttl < SESSION_TTL.0 || ttl > SESSION_TTL.1 {
        return Err(Refusal::TimeToLive(ttl).into());
    }
    let whole = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
    let (seconds, lease) = (whole.cast_signed(), layout::lease(session));
    let granted: Result<LeaseGrantResponse, Fault> = members
        .ask(Repeat::Freely, |client| async move {
            client.lease_client().grant(seconds, Some(LeaseGrantOptions::new().with_id(lease))).await
        })
        .await;
    match granted {
        Ok(_) => Ok(()),
        // An earlier answer was lost. How long ago it began is not known: its time to live must begin now.
        Err(Fault { kind: Kind::LeaseExists, .. }) => match renew(members, layout, session).await {
            Err(StoreError::SessionGone(_)) => Err(StoreError::unavailable("the session of this id is just ending")),
            renewed => renewed,
        },
        Err(fault) => Err(write_failed(fault)),
    }
}

/// Restarts a session's time to live.
///
/// A leader that was deposed and doesn't know it yet still renews leases, from which nothing follows. So a renewal counts
/// once a linearizable read, asked for behind it, shows the same term as the renewal did: then a majority still followed that
/// leader after it had renewed the lease, and every later leader gives leases their whole time (C52).
pub(crate) async fn renew(members: &Members, layout: &Layout, session: SessionId) -> Result<(), StoreError> {
    let lease = layout::lease(session);
    let mut missed = 0;
    for _ in 0..ROUNDS {
        let renewed: Result<LeaseKeepAliveResponse, Fault> =
            members.ask(Repeat::Freely, |client| keep_alive(client, lease)).await;
        let term = match renewed {
            Ok(answer) => Answer::header(&answer).map(etcd_client::ResponseHeader::raft_term),
            Err(Fault { kind: Kind::NoLease, .. }) => None,
            Err(fault) => return Err(read_failed(fault)),
        };
        let now = members.newest(layout).await.map_err(read_failed)?;
        match term {
            Some(term) if term == now.term => return Ok(()),
            Some(_) => {}
            // A new leader may not have got so far as to know of it: asked again, behind that read, it does.
            None => missed += 1,
        }
    }
    if missed == ROUNDS {
        Err(StoreError::SessionGone(session))
    } else {
        Err(StoreError::unavailable("etcd changes its leader; a renewal may have been the former one's"))
    }
}

/// Ends a session. One that is gone is fine.
pub(crate) async fn revoke(members: &Members, session: SessionId) -> Result<(), StoreError> {
    let lease = layout::lease(session);
    let revoked: Result<LeaseRevokeResponse, Fault> =
        members.ask(Repeat::Freely, |client| async move { client.lease_client().revoke(lease).await }).await;
    match revoked {
        Ok(_) | Err(Fault { kind: Kind::NoLease, .. }) => Ok(()),
        Err(fault) => Err(write_failed(fault)),
    }
}

async fn keep_alive(client: Client, lease: i64) -> Result<LeaseKeepAliveResponse, etcd_client::Error> {
    let (mut keeper, mut answers) = client.lease_client().keep_alive(lease).await?;
    // The client keeps the first answer to itself. The header of the second was made before the lease was renewed.
    keeper.keep_alive().await?;
    match answers.message().await? {
        Some(answer) if answer.ttl() > 0 => Ok(answer),
        Some(_) => Err(etcd_client::Error::LeaseKeepAliveError("lease not found".to_owned())),
        None => Err(etcd_client::Error::LeaseKeepAliveError("etcd ended the stream".to_owned())),
    }
}

/// A call that changes nothing failed.
pub(crate) fn read_failed(fault: Fault) -> StoreError {
    StoreError::Unavailable { reason: fault.reason.into() }
}

/// A call that may have changed something failed.
pub(crate) fn write_failed(fault: Fault) -> StoreError {
    if fault.kind == Kind::TooMuch {
        return Refusal::Server { reason: fault.reason }.into();
    }
    if fault.kind.is_certain() {
        return StoreError::Unavailable { reason: fault.reason.into() };
    }
    tracing::info!(reason = %fault.reason, "what became of a request to etcd is not known");
    StoreError::Unknown
}
