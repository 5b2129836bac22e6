//! A look at the cluster: how it is, its bookies and its ledgers.

use std::collections::BTreeMap;
use std::time::Duration;

use alluvium_metadata::ReadError;
use alluvium_metadata::auditor::Auditor;
use alluvium_metadata::bookies::{LiveBookie, lives};
use alluvium_proto::v1;
use alluvium_proto::v1::cluster_service_server::ClusterService;
use alluvium_types::ids::LedgerId;
use alluvium_types::ledger::{BookieId, Fragment, LedgerClass, LedgerMetadata, LedgerState};
use alluvium_types::names::BookieName;
use alluvium_types::replication::Replication;
use tonic::{Request, Response, Status};

use super::AdminEdge;
use super::fault::{Refused, absent};
use super::health::{Facts, findings, verdict};
use super::{page, policies};

/// The most records looked at for one page of a filtered list.
const SCANNED_MAX: usize = 10_000;
/// How many bookies' records are read at a time.
const BOOKIES_AT_ONCE: usize = 1000;
/// How long metadata may take to answer who asks how the cluster is.
const METADATA_PATIENCE: Duration = Duration::from_secs(2);

#[tonic::async_trait]
impl ClusterService for AdminEdge {
    async fn get_cluster(&self, _request: Request<v1::GetClusterRequest>) -> Result<Response<v1::GetClusterResponse>, Status> {
        Ok(Response::new(self.cluster_found().await?))
    }

    async fn get_cluster_status(
        &self,
        _request: Request<v1::GetClusterStatusRequest>,
    ) -> Result<Response<v1::GetClusterStatusResponse>, Status> {
        Ok(Response::new(self.cluster_status().await))
    }

    async fn list_brokers(&self, _request: Request<v1::ListBrokersRequest>) -> Result<Response<v1::ListBrokersResponse>, Status> {
        Ok(Response::new(v1::ListBrokersResponse { brokers: self.brokers_live() }))
    }

    async fn list_broker_partitions(
        &self,
        request: Request<v1::ListBrokerPartitionsRequest>,
    ) -> Result<Response<v1::ListBrokerPartitionsResponse>, Status> {
        Ok(Response::new(self.broker_partitions(&request.into_inner()).await?))
    }

    async fn drain_broker(&self, request: Request<v1::DrainBrokerRequest>) -> Result<Response<v1::DrainBrokerResponse>, Status> {
        let broker = self.broker_drained(&request.into_inner()).await?;
        Ok(Response::new(v1::DrainBrokerResponse { broker: Some(broker) }))
    }

    async fn list_bookies(&self, _request: Request<v1::ListBookiesRequest>) -> Result<Response<v1::ListBookiesResponse>, Status> {
        Ok(Response::new(v1::ListBookiesResponse { bookies: self.bookies_live() }))
    }

    async fn get_ledger(&self, request: Request<v1::GetLedgerRequest>) -> Result<Response<v1::GetLedgerResponse>, Status> {
        let ledger = self.ledger_found(LedgerId::new(request.into_inner().id)).await?;
        Ok(Response::new(v1::GetLedgerResponse { ledger: Some(ledger) }))
    }

    async fn list_ledgers(&self, request: Request<v1::ListLedgersRequest>) -> Result<Response<v1::ListLedgersResponse>, Status> {
        Ok(Response::new(self.ledgers_listed(&request.into_inner()).await?))
    }
}

/// Short of copies by its record, or with some on bookies that don't live. Deleted ones need none.
fn lacks_copies(ledger: &v1::Ledger) -> bool {
    let absent = ledger.fragments.iter().any(|fragment| !fragment.absent.is_empty());
    (ledger.under_replicated || absent) && ledger.state() != v1::LedgerState::Deleting
}

fn shown(ledger: &LedgerMetadata, live: &BTreeMap<BookieName, LiveBookie>) -> v1::Ledger {
    let (state, last_entry) = match ledger.state {
        LedgerState::Open => (v1::LedgerState::Open, None),
        LedgerState::Recovering { .. } => (v1::LedgerState::Recovering, None),
        LedgerState::Closed { last } => (v1::LedgerState::Closed, last.map(|e| e.get())),
        LedgerState::Deleting => (v1::LedgerState::Deleting, None),
    };
    v1::Ledger {
        id: ledger.ledger.get(),
        state: state.into(),
        epoch: ledger.epoch.get(),
        last_entry,
        replication: Some(policies::replication(ledger.replication)),
        wanted_replication: Some(policies::replication(ledger.wanted)),
        fragments: ledger.fragments.iter().map(|one| fragment(one, live)).collect(),
        under_replicated: ledger.is_under_replicated(),
        essential: ledger.class == LedgerClass::Essential,
    }
}

fn fragment(fragment: &Fragment, live: &BTreeMap<BookieName, LiveBookie>) -> v1::LedgerFragment {
    let absent = fragment.ensemble.iter().filter(|bookie| !lives(live, bookie));
    v1::LedgerFragment {
        first_entry: fragment.first.get(),
        bookies: fragment.ensemble.iter().map(ToString::to_string).collect(),
        short: fragment.short.iter().map(|index| fragment.ensemble[*index].to_string()).collect(),
        absent: absent.map(ToString::to_string).collect(),
    }
}

impl AdminEdge {
    async fn cluster_found(&self) -> Result<v1::GetClusterResponse, Refused> {
        let metadata = self.broker.metadata();
        let cluster = metadata.clusters().get().await?.ok_or_else(|| absent("cluster", "CLUSTER_NOT_FOUND", "record"))?;
        Ok(v1::GetClusterResponse {
            cluster_id: cluster.value.id.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            bookies: self.broker.live_bookies().len() as u64,
            brokers: self.broker.live_brokers().len() as u64,
        })
    }

    /// How the cluster is, as far as it can be seen from here.
    async fn cluster_status(&self) -> v1::GetClusterStatusResponse {
        let clock = self.broker.clock();
        let asked = clock.mono();
        let revision = match clock.timeout(METADATA_PATIENCE, self.broker.metadata().store().revision()).await {
            Ok(Ok(revision)) => Some(revision),
            Ok(Err(_)) | Err(_) => None,
        };
        let answered = clock.mono().since(asked);
        // Not asked for more while it doesn't answer at all.
        let known = async {
            let auditor = self.broker.metadata().auditors().get().await?.map(|auditor| auditor.value);
            Ok::<_, ReadError>((auditor, self.absent_bookies().await?))
        };
        let known = match revision {
            Some(_) => clock.timeout(METADATA_PATIENCE, known).await.ok().and_then(Result::ok),
            None => None,
        };
        let reachable = known.is_some();
        let (auditor, absent): (Option<Auditor>, Vec<BookieName>) = known.unwrap_or_default();
        let (brokers, bookies) = (self.broker.live_brokers(), self.broker.live_bookies());
        let audit = auditor.as_ref().and_then(|auditor| auditor.audit);
        let replication = self.broker.default_policies().replication.unwrap_or(Replication::DEFAULT);
        let facts = Facts { metadata: reachable, brokers: &brokers, bookies: &bookies, absent: &absent, audit, replication };
        let findings = findings(&facts);
        v1::GetClusterStatusResponse {
            health: verdict(&findings).into(),
            findings,
            answered_by: self.broker.name().to_string(),
            metadata: Some(v1::MetadataStatus {
                reachable,
                revision: revision.map_or(0, |revision| revision.get()),
                answer_us: u64::try_from(answered.as_micros()).unwrap_or(u64::MAX),
            }),
            brokers: self.brokers_live(),
            bookies: self.bookies_live(),
            absent_bookies: absent.iter().map(ToString::to_string).collect(),
            auditor: auditor.map(|auditor| auditor.broker.to_string()).unwrap_or_default(),
            ledgers: audit.map(|audit| v1::LedgerAudit {
                finished_ms: audit.finished.as_millis(),
                ledgers: audit.ledgers,
                under_replicated: audit.under_replicated,
                on_absent_bookies: audit.on_absent_bookies,
            }),
        }
    }

    /// Bookies that are known and don't live: none under that name, or one with another directory.
    async fn absent_bookies(&self) -> Result<Vec<BookieName>, ReadError> {
        let live = self.broker.live_bookies();
        let (mut absent, mut after) = (Vec::new(), None);
        loop {
            let page = self.broker.metadata().bookies().list(after.as_ref(), BOOKIES_AT_ONCE).await?;
            let known = page.records.into_iter().map(|(name, known)| BookieId { name, incarnation: known.value.incarnation });
            absent.extend(known.filter(|bookie| !lives(&live, bookie)).map(|bookie| bookie.name));
            after = page.next;
            if after.is_none() {
                return Ok(absent);
            }
        }
    }

    fn bookies_live(&self) -> Vec<v1::Bookie> {
        let live = self.broker.live_bookies();
        live.iter()
            .map(|(name, bookie)| v1::Bookie {
                name: name.to_string(),
                incarnation: bookie.incarnation.to_string(),
                zone: bookie.info.zone.as_ref().map(ToString::to_string).unwrap_or_default(),
                address: bookie.info.address.clone(),
                writable: bookie.info.writable,
                bytes_total: bookie.info.total_bytes,
                bytes_available: bookie.info.available_bytes,
            })
            .collect()
    }

    async fn ledger_found(&self, id: LedgerId) -> Result<v1::Ledger, Refused> {
        let found = self.broker.metadata().ledgers().get(id).await?;
        found.map(|l| shown(&l.value, &self.broker.live_bookies())).ok_or_else(|| absent("ledger", "LEDGER_NOT_FOUND", id))
    }

    async fn ledgers_listed(&self, request: &v1::ListLedgersRequest) -> Result<v1::ListLedgersResponse, Refused> {
        let page = request.page.as_ref();
        let size = page::size(page)?;
        let mut after = match page.map_or("", |p| p.token.as_str()) {
            "" => None,
            token => Some(LedgerId::new(token.parse().map_err(|_| page::bad_token())?)),
        };
        let live = self.broker.live_bookies();
        let (mut ledgers, mut scanned) = (Vec::new(), 0);
        loop {
            let listing = self.broker.metadata().ledgers().list(after, size - ledgers.len()).await?;
            scanned += listing.records.len();
            let all = listing.records.iter().map(|ledger| shown(&ledger.value, &live));
            ledgers.extend(all.filter(|ledger| !request.under_replicated_only || lacks_copies(ledger)));
            after = listing.next;
            // A page may be short, but a caller is never made to wait for a scan of everything.
            if after.is_none() || ledgers.len() >= size || scanned >= SCANNED_MAX {
                return Ok(v1::ListLedgersResponse { ledgers, next_token: page::token(after) });
            }
        }
    }
}
