//! The bookies as this process sees them: who lives, who is suspect, and a client of each.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use alluvium_metadata::bookies::LiveBookie;
use alluvium_metadata::live::Live;
use alluvium_runtime::clock::Clock;
use alluvium_types::ids::SessionId;
use alluvium_types::ledger::BookieId;
use alluvium_types::names::BookieName;
use alluvium_types::time::Mono;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::bookie_client::{BookieClient, Connector};
use crate::placement::Candidate;

/// The most clients kept of bookies that are not alive: they may still answer, and hold what must be read.
const ABSENT_CLIENTS_MAX: usize = 64;

/// A cheap handle to the bookies.
#[derive(Clone)]
pub struct BookiePool(Arc<Inner>);

struct Inner {
    view: watch::Receiver<Live<BookieName, LiveBookie>>,
    connector: Arc<dyn Connector>,
    clock: Clock,
    quarantine: Duration,
    known: Mutex<Known>,
    /// Counts suspicions, so that those who place look again.
    suspicions: watch::Sender<u64>,
}

#[derive(Default)]
struct Known {
    clients: BTreeMap<BookieId, (String, Arc<dyn BookieClient>)>,
    suspects: BTreeMap<BookieId, Suspicion>,
}

/// A bookie is avoided until then, or until it registers anew: mostly that is another process, of which this says nothing.
struct Suspicion {
    until: Mono,
    /// The session it lived by; `None` if it did not.
    session: Option<SessionId>,
}

impl fmt::Debug for BookiePool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BookiePool").field("live", &self.0.view.borrow().members.len()).finish_non_exhaustive()
    }
}

impl BookiePool {
    /// The bookies of `view`. A suspect is avoided by placements for `quarantine`.
    pub fn new(
        view: watch::Receiver<Live<BookieName, LiveBookie>>,
        connector: Arc<dyn Connector>,
        clock: Clock,
        quarantine: Duration,
    ) -> Self {
        let (suspicions, _) = watch::channel(0);
        Self(Arc::new(Inner { view, connector, clock, quarantine, known: Mutex::default(), suspicions }))
    }

    /// A client of this bookie; `None` if it isn't alive and never was since this process began.
    pub fn get(&self, bookie: &BookieId) -> Option<Arc<dyn BookieClient>> {
        let live = Arc::clone(&self.0.view.borrow().members);
        let address =
            live.get(&bookie.name).filter(|found| found.incarnation == bookie.incarnation).map(|found| &found.info.address);
        let mut known = self.0.known.lock();
        match (known.clients.get(bookie), address) {
            (Some((at, client)), Some(address)) if at == address => Some(Arc::clone(client)),
            (Some((_, client)), None) => Some(Arc::clone(client)),
            (_, Some(address)) => {
                let client = self.0.connector.connect(bookie, address);
                known.clients.insert(bookie.clone(), (address.clone(), Arc::clone(&client)));
                known.forget_absent(&live);
                Some(client)
            }
            (None, None) => None,
        }
    }

    /// The live bookies, for placement.
    pub fn candidates(&self) -> Arc<[Candidate]> {
        let live = Arc::clone(&self.0.view.borrow().members);
        let now = self.0.clock.mono();
        let mut known = self.0.known.lock();
        known.suspects.retain(|_, suspicion| now < suspicion.until);
        live.iter()
            .map(|(name, found)| {
                let bookie = BookieId { name: name.clone(), incarnation: found.incarnation };
                Candidate {
                    // Without a zone, a bookie is a failure domain of its own.
                    zone: found.info.zone.as_ref().map_or_else(|| Arc::from(name.as_str()), |zone| Arc::from(zone.as_str())),
                    writable: found.info.writable,
                    free_bytes: found.info.available_bytes,
                    suspect: known.suspects.get(&bookie).is_some_and(|suspicion| suspicion.session == Some(found.session)),
                    bookie,
                }
            })
            .collect()
    }

    /// Avoids a bookie for a while (C54), as long as it lives by the session that it has now.
    pub fn suspect(&self, bookie: &BookieId) {
        let until = self.0.clock.mono().after(self.0.quarantine);
        let live = Arc::clone(&self.0.view.borrow().members);
        let session = live.get(&bookie.name).filter(|found| found.incarnation == bookie.incarnation).map(|found| found.session);
        let before = self.0.known.lock().suspects.insert(bookie.clone(), Suspicion { until, session });
        if before.is_none_or(|before| before.session != session) {
            tracing::warn!(%bookie, "the bookie is slow or failing; avoiding it for a while");
            self.0.suspicions.send_modify(|count| *count = count.wrapping_add(1));
        }
    }

    /// When the first suspicion ends.
    fn next_pardon(&self) -> Option<Mono> {
        self.0.known.lock().suspects.values().map(|suspicion| suspicion.until).min()
    }

    /// Follows changes of what [`BookiePool::candidates`] says.
    pub(crate) fn follow(&self) -> Follow {
        Follow { view: self.0.view.clone(), suspicions: self.0.suspicions.subscribe(), pool: self.clone(), pardon: None }
    }
}

impl Known {
    fn forget_absent(&mut self, live: &BTreeMap<BookieName, LiveBookie>) {
        let is_live = |bookie: &BookieId| live.get(&bookie.name).is_some_and(|found| found.incarnation == bookie.incarnation);
        let absent: Vec<BookieId> = self.clients.keys().filter(|bookie| !is_live(bookie)).cloned().collect();
        for bookie in absent.into_iter().skip(ABSENT_CLIENTS_MAX) {
            self.clients.remove(&bookie);
        }
    }
}

/// Changes of the bookies.
pub(crate) struct Follow {
    view: watch::Receiver<Live<BookieName, LiveBookie>>,
    suspicions: watch::Receiver<u64>,
    pool: BookiePool,
    /// When a suspicion that was seen here ends.
    pardon: Option<Mono>,
}

impl Follow {
    /// Resolves when something has changed; never, once metadata is gone. Cancel safe.
    pub(crate) async fn changed(&mut self) {
        self.pardon = self.pardon.or_else(|| self.pool.next_pardon());
        let pardon = async {
            match self.pardon {
                Some(at) => self.pool.0.clock.sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let changed = tokio::select! {
            biased;
            changed = self.view.changed() => changed,
            changed = self.suspicions.changed() => changed,
            () = pardon => Ok(()),
        };
        if changed.is_err() {
            std::future::pending::<()>().await;
        }
        self.pardon = None;
    }
}
