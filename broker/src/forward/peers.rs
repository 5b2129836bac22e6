//! Other brokers, as this one reaches them: some connections each, shared by all that is forwarded there.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use alluvium_metadata::brokers::Broker;
use alluvium_metadata::live::Live;
use alluvium_proto::internal::v1::forward_service_client::ForwardServiceClient;
use alluvium_runtime::lanes::Lanes;
use alluvium_runtime::net::{self, Reach};
use alluvium_types::ids::SessionId;
use alluvium_types::limits::Limits;
use alluvium_types::names::BrokerName;
use parking_lot::Mutex;
use tokio::sync::watch;
use tonic::transport::{Channel, Endpoint};

use super::bytes_max;

/// Connections to a broker for what is published, and as many for what is delivered: a stream that is slow to read holds up few.
const CONNECTIONS: usize = 4;
/// How long a broker that failed may take to accept a connection before its silence counts as no refusal.
const PROBE: Duration = Duration::from_millis(500);

pub(crate) type View = watch::Receiver<Live<BrokerName, Broker>>;

/// Another broker, in one of its lives.
#[derive(Clone)]
pub(crate) struct Peer(Arc<Parts>);

struct Parts {
    name: BrokerName,
    session: SessionId,
    /// Where clients reach it.
    address: String,
    /// Where this broker does.
    internal_address: String,
    publishing: Pool,
    delivering: Pool,
    calling: Pool,
    /// Something that was asked of it failed, and nothing has succeeded since.
    failed: AtomicBool,
    reach: Reach,
    brokers: View,
}

/// Some connections, used in turn.
struct Pool {
    channels: Vec<ForwardServiceClient<Channel>>,
    next: AtomicUsize,
}

impl Pool {
    fn new(endpoint: &Endpoint, connections: usize, limits: Limits) -> Self {
        let channels = (0..connections).map(|_| {
            let channel = net::endpoint(endpoint.clone()).connect_lazy();
            let client = ForwardServiceClient::new(channel);
            client.max_decoding_message_size(bytes_max(limits)).max_encoding_message_size(bytes_max(limits))
        });
        Self { channels: channels.collect(), next: AtomicUsize::new(0) }
    }

    fn get(&self) -> ForwardServiceClient<Channel> {
        self.channels[self.next.fetch_add(1, Ordering::Relaxed) % self.channels.len()].clone()
    }
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Peer({}, {})", self.0.name, self.0.session)
    }
}

impl Peer {
    /// What operators call it.
    pub(crate) fn name(&self) -> &BrokerName {
        &self.0.name
    }

    /// Which of its lives.
    pub(crate) fn session(&self) -> SessionId {
        self.0.session
    }

    /// Where clients reach it.
    pub(crate) fn address(&self) -> &str {
        &self.0.address
    }

    /// For what is published.
    pub(crate) fn publishing(&self) -> ForwardServiceClient<Channel> {
        self.0.publishing.get()
    }

    /// For what is delivered.
    pub(crate) fn delivering(&self) -> ForwardServiceClient<Channel> {
        self.0.delivering.get()
    }

    /// For short calls.
    pub(crate) fn calling(&self) -> ForwardServiceClient<Channel> {
        self.0.calling.get()
    }

    /// Something failed that was asked of it: before it is asked again, it is looked whether its host still takes connections.
    pub(crate) fn failed(&self) {
        self.0.failed.store(true, Ordering::Release);
    }

    /// Whether nothing listens where it was: it has ended, whatever its session says. Asks only after a failure. Silence is no
    /// refusal: there the session decides.
    pub(crate) async fn is_refused(&self) -> bool {
        if self.0.reach == Reach::Sockets && !self.0.failed.load(Ordering::Acquire) {
            return false;
        }
        let refused = self.0.reach.is_refused(&self.0.internal_address, PROBE).await;
        if !refused {
            self.0.failed.store(false, Ordering::Release);
        }
        refused
    }

    /// Whether its session lives, by this broker's view.
    pub(crate) fn lives(&self) -> bool {
        let live = self.0.brokers.borrow();
        live.members.get(&self.0.name).is_some_and(|broker| broker.session == self.0.session)
    }

    /// Resolves once its session is gone, by this broker's view. Cancel safe.
    pub(crate) async fn gone(&self) {
        let session = self.session();
        let gone = |live: &Live<BrokerName, Broker>| live.members.get(&self.0.name).is_none_or(|b| b.session != session);
        // A view that ended ends with this process.
        let _ = self.0.brokers.clone().wait_for(gone).await;
    }
}

/// All other brokers.
#[derive(Debug)]
pub(crate) struct Peers {
    brokers: View,
    limits: Limits,
    reach: Reach,
    known: Mutex<HashMap<SessionId, Peer>>,
    lanes: Lanes,
}

impl Peers {
    /// Those of a view.
    pub(crate) fn new(brokers: View, limits: Limits, reach: Reach, lanes: Lanes) -> Self {
        Self { brokers, limits, reach, known: Mutex::default(), lanes }
    }

    /// Who lives, by this broker's view. It may be behind.
    pub(crate) fn live(&self) -> Arc<BTreeMap<BrokerName, Broker>> {
        Arc::clone(&self.brokers.borrow().members)
    }

    /// Follows who lives.
    pub(crate) fn view(&self) -> View {
        self.brokers.clone()
    }

    /// The way to a broker. `None` if its address makes no sense.
    pub(crate) fn to(&self, name: &BrokerName, broker: &Broker) -> Option<Peer> {
        let mut known = self.known.lock();
        if let Some(peer) = known.get(&broker.session) {
            return Some(peer.clone());
        }
        let endpoint = Endpoint::from_shared(format!("http://{}", broker.internal_address)).ok()?;
        let live: Vec<SessionId> = self.brokers.borrow().members.values().map(|b| b.session).collect();
        known.retain(|session, _| live.contains(session));
        let lane = self.lanes.turn();
        let _lane = lane.enter();
        let pool = |connections| Pool::new(&endpoint, connections, self.limits);
        let peer = Peer(Arc::new(Parts {
            name: name.clone(),
            session: broker.session,
            address: broker.address.clone(),
            internal_address: broker.internal_address.clone(),
            publishing: pool(CONNECTIONS),
            delivering: pool(CONNECTIONS),
            calling: pool(1),
            failed: AtomicBool::new(false),
            reach: self.reach,
            brokers: self.brokers.clone(),
        }));
        known.insert(broker.session, peer.clone());
        Some(peer)
    }
}
