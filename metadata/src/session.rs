//! A process's session in metadata, kept alive by a task of its own.

use std::time::Duration;

use alluvium_runtime::tasks::{OnFailure, Tasks};
use alluvium_types::ids::SessionId;
use alluvium_types::time::Mono;
use tokio::sync::watch;

use crate::client::Metadata;
use crate::error::{StoreError, UpdateError};

/// What is known of a session's lease, by this process's monotonic clock alone (M4).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lease {
    /// Until when metadata has certainly not let the session expire: the *send* time of the last confirmed keep-alive and
    /// the time to live. Less a margin, this is when a broker stops dispatching by itself.
    pub certain_until: Mono,
    /// Metadata said that the session is gone, for ever.
    pub gone: bool,
}

/// A session that is kept alive until it is ended, lost, or the process stops.
#[derive(Clone, Debug)]
pub struct Session {
    id: SessionId,
    ttl: Duration,
    metadata: Metadata,
    lease: watch::Receiver<Lease>,
    keeper: Tasks,
}

impl Metadata {
    /// Begins a session and keeps it alive, three times in its time to live.
    pub async fn begin_session(&self, ttl: Duration) -> Result<Session, UpdateError> {
        let id = self.session_id();
        let deadline = self.clock().mono().after(self.patience());
        let mut backoff = self.backoff();
        let sent = loop {
            let sent = self.clock().mono();
            match self.store().create_session(id, ttl).await {
                Ok(()) => break sent,
                // The id is ours alone: asking again is the same session.
                Err(error) if error.is_retryable() && self.clock().mono() < deadline => {}
                Err(error) => return Err(refused(error)),
            }
            if !self.pause(&mut backoff).await {
                return Err(UpdateError::Stopping);
            }
        };
        let (tx, lease) = watch::channel(Lease { certain_until: sent.after(ttl), gone: false });
        let session = Session { id, ttl, metadata: self.clone(), lease, keeper: self.tasks().part() };
        let (metadata, keeper) = (self.clone(), session.keeper.clone());
        self.tasks().spawn("metadata-session", OnFailure::ShutDown, async move {
            keep(&metadata, &keeper, id, ttl, &tx).await;
            Ok::<(), String>(())
        });
        Ok(session)
    }
}

impl Session {
    /// Its id.
    pub const fn id(&self) -> SessionId {
        self.id
    }

    /// Its time to live.
    pub const fn ttl(&self) -> Duration {
        self.ttl
    }

    /// What is known of its lease now.
    pub fn lease(&self) -> Lease {
        *self.lease.borrow()
    }

    /// Follows the lease.
    pub fn watch(&self) -> watch::Receiver<Lease> {
        self.lease.clone()
    }

    /// Resolves once metadata has said that the session is gone. Cancel safe.
    pub async fn gone(&self) {
        let mut lease = self.lease.clone();
        if lease.wait_for(|lease| lease.gone).await.is_err() {
            // Its keeper was stopped: nobody will find out.
            std::future::pending::<()>().await;
        }
    }

    /// Says goodbye: what is bound to the session vanishes now, not when its time is up.
    pub async fn end(self) -> Result<(), UpdateError> {
        self.keeper.stop();
        self.metadata.end_session(self.id).await
    }
}

impl Metadata {
    /// Ends a session, whosever it is. One that is gone is fine.
    pub async fn end_session(&self, session: SessionId) -> Result<(), UpdateError> {
        let deadline = self.clock().mono().after(self.patience());
        let mut backoff = self.backoff();
        loop {
            match self.store().end_session(session).await {
                Ok(()) => return Ok(()),
                Err(error) if error.is_retryable() && self.clock().mono() < deadline => {}
                Err(error) => return Err(refused(error)),
            }
            // Goodbyes are said while stopping: this waits by the clock alone.
            self.clock().sleep(backoff.delay()).await;
        }
    }
}

fn refused(error: StoreError) -> UpdateError {
    match error {
        StoreError::SessionGone(_) => UpdateError::SessionGone,
        StoreError::Refused(refusal) => UpdateError::Refused(refusal),
        StoreError::Stopped => UpdateError::Stopping,
        error @ (StoreError::Unknown | StoreError::Unavailable { .. } | StoreError::Compacted { .. }) => {
            UpdateError::Unavailable(error)
        }
    }
}

async fn keep(metadata: &Metadata, keeper: &Tasks, id: SessionId, ttl: Duration, lease: &watch::Sender<Lease>) {
    let mut backoff = metadata.backoff();
    let mut wait = ttl / 3;
    loop {
        tokio::select! {
            biased;
            () = keeper.stopping() => return,
            () = metadata.clock().sleep(wait) => {}
        }
        let sent = metadata.clock().mono();
        let answer = tokio::select! {
            biased;
            () = keeper.stopping() => return,
            answer = metadata.store().keep_alive(id) => answer,
        };
        wait = match answer {
            Ok(()) => {
                lease.send_modify(|lease| lease.certain_until = sent.after(ttl));
                backoff.reset();
                ttl / 3
            }
            Err(StoreError::SessionGone(_)) => {
                tracing::warn!(session = %id, "the session is gone");
                lease.send_modify(|lease| lease.gone = true);
                return;
            }
            Err(StoreError::Stopped) => return,
            Err(error) => {
                tracing::debug!(session = %id, %error, "keep-alive not confirmed, trying again");
                backoff.delay().min(ttl / 3)
            }
        };
    }
}
