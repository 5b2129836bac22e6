//! The store as others hold it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use alluvium_runtime::backoff::Backoff;
use alluvium_runtime::clock::Clock;
use alluvium_runtime::entropy::Entropy;
use alluvium_runtime::pem;
use alluvium_runtime::tasks::{OnFailure, Tasks};
use alluvium_types::ids::{Revision, SessionId};
use async_trait::async_trait;
use bytes::Bytes;
use etcd_client::{Certificate, CompactionResponse, ConnectOptions, Identity, TlsOptions};

use super::config::{EtcdConfig, EtcdTls};
use super::fault::{Fault, Kind};
use super::feed::{Feed, Follower};
use super::layout::{self, Layout};
use super::lease::{self, read_failed, write_failed};
use super::members::{Members, Newest, Repeat};
use super::reads::{Found, Question, Reads};
use super::writes::Writes;
use crate::error::{EtcdError, Refusal, StoreError};
use crate::shared;
use crate::store::{At, KeyValue, MetadataStore, Op, PAGE_RECORDS_MAX, Page, Range, Txn, TxnOutcome, Watch};

/// How often a silent connection with a watch is probed, and how long the answer may take: a peer that is paused is found
/// out. etcd drops connections that are probed more often than every 5 seconds, or without a stream.
const PROBE: (Duration, Duration) = (Duration::from_secs(6), Duration::from_secs(3));
/// The pause between two rounds while a start waits for etcd.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// Metadata in etcd. Cheap to clone; its watch ends with the tasks it was given.
#[derive(Clone, Debug)]
pub struct EtcdStore {
    members: Arc<Members>,
    layout: Layout,
    feed: Arc<Feed>,
    reads: Reads,
    writes: Writes,
}

impl EtcdStore {
    /// Connects, and begins the one watch of this process.
    ///
    /// Give it tasks of its own (`tasks.part()`), stopped last: goodbyes are said through it.
    pub async fn connect(config: &EtcdConfig, clock: Clock, entropy: Entropy, tasks: &Tasks) -> Result<Self, EtcdError> {
        config.validate().map_err(|problems| EtcdError::Config { problems: problems.join("; ") })?;
        let options = options(config).await?;
        let members = Arc::new(Members::new(&config.endpoints, options, clock.clone(), config.request_timeout()));
        let layout = Layout::new(Bytes::from(config.prefix.clone()));
        let newest = first_answer(config, &members, &layout, &clock, &entropy).await?;
        tracing::info!(revision = %newest.revision, prefix = config.prefix, "metadata is in etcd");
        let feed = Arc::new(Feed::behind(newest.revision));
        let follower = Follower {
            feed: Arc::clone(&feed),
            members: Arc::clone(&members),
            layout: layout.clone(),
            clock,
            entropy,
            tasks: tasks.clone(),
        };
        tasks.spawn("metadata-etcd-watch", OnFailure::ShutDown, async move {
            follower.run().await;
            Ok::<(), String>(())
        });
        let reads = Reads::begin(Arc::clone(&members), layout.clone(), tasks);
        let writes = Writes::begin(Arc::clone(&members), layout.clone(), tasks);
        Ok(Self { members, layout, feed, reads, writes })
    }

    async fn read(&self, question: Question) -> Result<Result<Found, Fault>, StoreError> {
        self.reads.ask(question).await.ok_or(StoreError::Stopped)
    }
}

async fn first_answer(
    config: &EtcdConfig,
    members: &Members,
    layout: &Layout,
    clock: &Clock,
    entropy: &Entropy,
) -> Result<Newest, EtcdError> {
    let deadline = clock.mono().after(config.connect_timeout());
    let mut backoff = Backoff::new(PAUSE.0, PAUSE.1, entropy.clone());
    loop {
        match members.newest(layout).await {
            Ok(newest) => return Ok(newest),
            Err(Fault { kind: Kind::Denied | Kind::OtherHistory, reason }) => return Err(EtcdError::Refused { reason }),
            Err(fault) if clock.mono() >= deadline => return Err(EtcdError::Unreachable { reasons: fault.reason }),
            Err(fault) => tracing::debug!(reason = %fault.reason, "etcd does not answer yet"),
        }
        clock.sleep(backoff.delay()).await;
    }
}

async fn options(config: &EtcdConfig) -> Result<ConnectOptions, EtcdError> {
    let mut options = ConnectOptions::new()
        .with_keep_alive(PROBE.0, PROBE.1)
        .with_keep_alive_while_idle(false)
        .with_connect_timeout(config.request_timeout())
        // A member that lost the others ends its watches rather than going silent.
        .with_require_leader(true)
        .with_auto_token_refresh(true);
    if let (Some(user), Some(password)) = (&config.user, &config.password) {
        options = options.with_user(user, password.reveal());
    }
    if let Some(tls) = &config.tls {
        options = options.with_tls(tls_options(tls).await?);
    }
    Ok(options)
}

async fn tls_options(tls: &EtcdTls) -> Result<TlsOptions, EtcdError> {
    let read = |path: &Path| {
        let path = path.to_owned();
        async move { pem::read(&path).await.map_err(|source| EtcdError::Pem { path, source }) }
    };
    let mut options = TlsOptions::new().ca_certificate(Certificate::from_pem(read(&tls.ca).await?));
    if let (Some(certificate), Some(key)) = (&tls.certificate, &tls.key) {
        options = options.identity(Identity::from_pem(read(certificate).await?, read(key).await?));
    }
    if let Some(name) = &tls.server_name {
        options = options.domain_name(name);
    }
    Ok(options)
}

#[async_trait]
impl MetadataStore for EtcdStore {
    async fn get(&self, key: &Bytes) -> Result<At<Option<KeyValue>>, StoreError> {
        let Found { revision, records, .. } = self.read(Question::Key(self.layout.key(key))).await?.map_err(read_failed)?;
        Ok(At { revision, value: records.into_iter().next() })
    }

    async fn range(&self, range: &Range) -> Result<At<Page>, StoreError> {
        let mut limit = range.limit.min(PAGE_RECORDS_MAX);
        if limit == 0 {
            return Err(Refusal::EmptyPage.into());
        }
        let (start, end) = self.layout.bounds(range);
        loop {
            match self.read(Question::Page { start: start.clone(), end: end.clone(), limit }).await? {
                Ok(Found { revision, records, more }) => return Ok(At { revision, value: Page { records, more } }),
                // Large records: fewer of them. One fits for certain.
                Err(Fault { kind: Kind::AnswerTooLarge, .. }) if limit > 1 => limit = limit.div_ceil(4),
                Err(fault) => return Err(read_failed(fault)),
            }
        }
    }

    async fn txn(&self, txn: &Txn) -> Result<TxnOutcome, StoreError> {
        txn.check()?;
        match self.writes.decide(txn).await? {
            Ok(outcome) => Ok(outcome),
            Err(Fault { kind: Kind::NoLease, reason }) => Err(session_gone(txn, reason)),
            Err(fault) => Err(write_failed(fault)),
        }
    }

    async fn watch(&self, prefix: &Bytes, from: Revision) -> Result<Watch, StoreError> {
        shared::watch(Arc::clone(&self.feed), self.feed.subscribe(), prefix.clone(), from)
    }

    async fn create_session(&self, session: SessionId, ttl: Duration) -> Result<(), StoreError> {
        lease::grant(&self.members, &self.layout, session, ttl).await
    }

    async fn keep_alive(&self, session: SessionId) -> Result<(), StoreError> {
        lease::renew(&self.members, &self.layout, session).await
    }

    async fn end_session(&self, session: SessionId) -> Result<(), StoreError> {
        lease::revoke(&self.members, session).await
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        let newest = self.revision().await?;
        let revision = revision.min(newest);
        let Some(number) = layout::number(revision) else { return Ok(()) };
        let asked = self.members.ask(Repeat::Freely, |client| async move { client.kv_client().compact(number, None).await });
        let compacted: Result<CompactionResponse, Fault> = asked.await;
        match compacted {
            Ok(_) | Err(Fault { kind: Kind::Compacted, .. }) => {
                self.feed.compact(revision);
                Ok(())
            }
            Err(fault) => Err(write_failed(fault)),
        }
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        self.members.newest(&self.layout).await.map(|newest| newest.revision).map_err(read_failed)
    }
}

/// Which session it was that etcd knows no lease of. A transaction binds to one, as a rule; to several, the first is named.
fn session_gone(txn: &Txn, reason: String) -> StoreError {
    let bound = txn.ops.iter().find_map(|op| match op {
        Op::Put { session, .. } => *session,
        Op::Delete { .. } => None,
    });
    bound.map_or(StoreError::Unavailable { reason: reason.into() }, StoreError::SessionGone)
}
