//! A peer that speaks the protocol and keeps messages in memory, to lose connections on purpose. It stands in for nothing:
//! what the real server does is tested against the real server.

mod consume;
mod publish;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use alluvium_client::Client;
use alluvium_proto::v1;
use alluvium_proto::v1::connect_service_server::{ConnectService, ConnectServiceServer};
use alluvium_proto::v1::consume_service_server::ConsumeServiceServer;
use alluvium_proto::v1::publish_service_server::PublishServiceServer;
use alluvium_runtime::clock::Clock;
use alluvium_runtime::lanes::Lanes;
use alluvium_runtime::net;
use alluvium_runtime::tasks::Tasks;
use parking_lot::Mutex;
use tokio::sync::watch;
use tonic::service::Routes;
use tonic::{Request, Response, Status};

pub(crate) const TOPIC: &str = "public/default/orders";
/// No test waits longer for anything.
pub(crate) const DEADLINE: Duration = Duration::from_secs(10);

/// What the peer keeps.
#[derive(Default)]
pub(crate) struct Store {
    pub(crate) partitions: Vec<Vec<v1::Message>>,
    /// Epoch and next sequence of each producer on each partition.
    pub(crate) producers: HashMap<(String, u32), (u64, u64)>,
    pub(crate) acknowledged: HashSet<(u32, u64)>,
    /// Batches to be stored without a receipt; then the connection is cut.
    pub(crate) swallow: Option<u32>,
    /// Batches are stored, but their receipts wait.
    pub(crate) withhold: bool,
    /// Streams opened so far.
    pub(crate) streams: u32,
}

#[derive(Clone)]
pub(crate) struct Peer {
    pub(crate) store: Arc<Mutex<Store>>,
    /// Counts the cuts; each stream ends at the next one.
    cuts: watch::Sender<u64>,
    /// Changes with each message.
    news: watch::Sender<u64>,
    address: String,
    tasks: Tasks,
}

impl Peer {
    pub(crate) async fn start(partitions: usize) -> Self {
        let (tasks, _failures) = Tasks::new();
        let listener = net::bind("127.0.0.1:0".parse().expect("an address")).await.expect("a free port");
        let address = format!("http://{}", listener.local_addr().expect("bound"));
        let store = Store { partitions: vec![Vec::new(); partitions], ..Store::default() };
        let store = Arc::new(Mutex::new(store));
        let peer = Self { store, cuts: watch::Sender::new(0), news: watch::Sender::new(0), address, tasks };
        let routes = Routes::new(ConnectServiceServer::new(peer.clone()))
            .add_service(PublishServiceServer::new(peer.clone()))
            .add_service(ConsumeServiceServer::new(peer.clone()));
        net::serve("peer", net::Callers::Clients(net::Windows::default()), &peer.tasks, listener, routes, &Lanes::here());
        peer
    }

    pub(crate) async fn client(&self) -> Client {
        Client::connect(&self.address).await.expect("the peer answers")
    }

    /// Ends every stream, as a crash would: what is on its way is lost.
    pub(crate) fn cut(&self) {
        self.cuts.send_modify(|n| *n += 1);
    }

    pub(crate) fn payloads(&self, partition: usize) -> Vec<String> {
        let store = self.store.lock();
        store.partitions[partition].iter().map(|m| String::from_utf8_lossy(&m.payload).into_owned()).collect()
    }
}

/// Waits for a future, but not for ever.
pub(crate) async fn soon<F: Future>(future: F) -> F::Output {
    Clock::system().timeout(DEADLINE, future).await.expect("it is done within its time")
}

#[tonic::async_trait]
impl ConnectService for Peer {
    async fn negotiate(&self, _: Request<v1::NegotiateRequest>) -> Result<Response<v1::NegotiateResponse>, Status> {
        let limits = alluvium_types::limits::Limits::default();
        Ok(Response::new(v1::NegotiateResponse {
            protocol_version: 1,
            message_bytes_max: limits.message_bytes_max() as u64,
            batch_bytes_max: limits.batch_bytes_max() as u64,
            ..Default::default()
        }))
    }
}
