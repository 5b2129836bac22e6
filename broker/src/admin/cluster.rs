//! A look at the cluster: its bookies and its ledgers.

use alluvium_proto::v1;
use alluvium_proto::v1::cluster_service_server::ClusterService;
use alluvium_types::ids::LedgerId;
use alluvium_types::ledger::{Fragment, LedgerClass, LedgerMetadata, LedgerState};
use tonic::{Request, Response, Status};

use super::AdminEdge;
use super::fault::{Refused, absent};
use super::{page, policies};

/// The most records looked at for one page of a filtered list.
const SCANNED_MAX: usize = 10_000;

#[tonic::async_trait]
impl ClusterService for AdminEdge {
    async fn get_cluster(&self, _request: Request<v1::GetClusterRequest>) -> Result<Response<v1::GetClusterResponse>, Status> {
        Ok(Response::new(self.cluster_found().await?))
    }

    async fn list_bookies(&self, _request: Request<v1::ListBookiesRequest>) -> Result<Response<v1::ListBookiesResponse>, Status> {
        Ok(Response::new(v1::ListBookiesResponse { bookies: self.bookies_live().await? }))
    }

    async fn get_ledger(&self, request: Request<v1::GetLedgerRequest>) -> Result<Response<v1::GetLedgerResponse>, Status> {
        let ledger = self.ledger_found(LedgerId::new(request.into_inner().id)).await?;
        Ok(Response::new(v1::GetLedgerResponse { ledger: Some(ledger) }))
    }

    async fn list_ledgers(&self, request: Request<v1::ListLedgersRequest>) -> Result<Response<v1::ListLedgersResponse>, Status> {
        Ok(Response::new(self.ledgers_listed(&request.into_inner()).await?))
    }
}

fn shown(ledger: &LedgerMetadata) -> v1::Ledger {
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
        fragments: ledger.fragments.iter().map(fragment).collect(),
        under_replicated: ledger.is_under_replicated(),
        essential: ledger.class == LedgerClass::Essential,
    }
}

fn fragment(fragment: &Fragment) -> v1::LedgerFragment {
    v1::LedgerFragment {
        first_entry: fragment.first.get(),
        bookies: fragment.ensemble.iter().map(ToString::to_string).collect(),
        short: fragment.short.iter().map(|index| fragment.ensemble[*index].to_string()).collect(),
    }
}

impl AdminEdge {
    async fn cluster_found(&self) -> Result<v1::GetClusterResponse, Refused> {
        let metadata = self.broker.metadata();
        let cluster = metadata.clusters().get().await?.ok_or_else(|| absent("cluster", "CLUSTER_NOT_FOUND", "record"))?;
        Ok(v1::GetClusterResponse {
            cluster_id: cluster.value.id.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            bookies: self.bookies_live().await?.len() as u64,
            brokers: self.broker.live_brokers() as u64,
        })
    }

    async fn bookies_live(&self) -> Result<Vec<v1::Bookie>, Refused> {
        let live = self.broker.live_bookies();
        Ok(live
            .iter()
            .map(|(name, bookie)| v1::Bookie {
                name: name.to_string(),
                incarnation: bookie.incarnation.to_string(),
                zone: bookie.info.zone.as_ref().map(ToString::to_string).unwrap_or_default(),
                address: bookie.info.address.clone(),
                writable: bookie.info.writable,
                bytes_total: bookie.info.total_bytes,
                bytes_available: bookie.info.available_bytes,
            })
            .collect())
    }

    async fn ledger_found(&self, id: LedgerId) -> Result<v1::Ledger, Refused> {
        let found = self.broker.metadata().ledgers().get(id).await?;
        found.map(|l| shown(&l.value)).ok_or_else(|| absent("ledger", "LEDGER_NOT_FOUND", id))
    }

    async fn ledgers_listed(&self, request: &v1::ListLedgersRequest) -> Result<v1::ListLedgersResponse, Refused> {
        let page = request.page.as_ref();
        let size = page::size(page)?;
        let mut after = match page.map_or("", |p| p.token.as_str()) {
            "" => None,
            token => Some(LedgerId::new(token.parse().map_err(|_| page::bad_token())?)),
        };
        let (mut ledgers, mut scanned) = (Vec::new(), 0);
        loop {
            let listing = self.broker.metadata().ledgers().list(after, size - ledgers.len()).await?;
            scanned += listing.records.len();
            let wanted =
                listing.records.iter().map(|l| &l.value).filter(|l| !request.under_replicated_only || l.is_under_replicated());
            ledgers.extend(wanted.map(shown));
            after = listing.next;
            // A page may be short, but a caller is never made to wait for a scan of everything.
            if after.is_none() || ledgers.len() >= size || scanned >= SCANNED_MAX {
                return Ok(v1::ListLedgersResponse { ledgers, next_token: page::token(after) });
            }
        }
    }
}
