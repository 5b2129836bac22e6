//! A peer that speaks the protocol and keeps messages in memory, to lose connections on purpose. It stands in for nothing:
//! what the real server does is tested against the real server.

#![expect(clippy::result_large_err, reason = "the signatures are those of the generated services")]

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
use alluvium_runtime::net;
use alluvium_runtime::tasks::Tasks;
use parking_lot::Mutex;
use tokio::sync::watch;
use tonic::service::Routes;
use tonic::{Request, Response, Status};

pub const TOPIC: &str = "public/default/orders";
/// No test waits longer for anything.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// What the peer keeps.
#[derive(Default)]
pub struct Store {
    pub partitions: Vec<Vec<v1::Message>>,
    /// Epoch and next sequence of each producer on each partition.
    pub producers: HashMap<(String, u32), (u64, u64)>,
    pub acknowledged: HashSet<(u32, u64)>,
    /// Batches to be stored without a receipt; then the connection is cut.
    pub swallow: Option<u32>,
    /// Batches are stored, but their receipts wait.
    pub withhold: bool,
    /// Streams opened so far.
    pub streams: u32,
}

#[derive(Clone)]
pub struct Peer {
    pub store: Arc<Mutex<Store>>,
    /// Counts the cuts; each stream ends at the next one.
    cuts: watch::Sender<u64>,
    /// Changes with each message.
    news: watch::Sender<u64>,
    address: String,
    tasks: Tasks,
}

impl Peer {
    pub async fn start(partitions: usize) -> Self {
        let (tasks, _failures) = Tasks::new();
        let listener = net::bind("127.0.0.1:0".parse().expect("an address")).await.expect("a free port");
        let address = format!("http://{}", listener.local_addr().expect("bound"));
        let store = Store { partitions: vec![Vec::new(); partitions], ..Store::default() };
        let store = Arc::new(Mutex::new(store));
        let peer = Self { store, cuts: watch::Sender::new(0), news: watch::Sender::new(0), address, tasks };
        let routes = Routes::new(ConnectServiceServer::new(peer.clone()))
            .add_service(PublishServiceServer::new(peer.clone()))
            .add_service(ConsumeServiceServer::new(peer.clone()));
        net::serve("peer", &peer.tasks, listener, routes, 1);
        peer
    }

    pub async fn client(&self) -> Client {
        Client::connect(&self.address).await.expect("the peer answers")
    }

    /// Ends every stream, as a crash would: what is on its way is lost.
    pub fn cut(&self) {
        self.cuts.send_modify(|n| *n += 1);
    }

    pub fn payloads(&self, partition: usize) -> Vec<String> {
        let store = self.store.lock();
        store.partitions[partition].iter().map(|m| String::from_utf8_lossy(&m.payload).into_owned()).collect()
    }

    /// Waits until the store is as wanted.
    pub async fn until(&self, wanted: impl Fn(&Store) -> bool) {
        let clock = Clock::system();
        let deadline = clock.mono().after(DEADLINE);
        while !wanted(&self.store.lock()) {
            assert!(clock.mono() < deadline, "the peer's store never came to be as wanted");
            clock.sleep(Duration::from_millis(1)).await;
        }
    }
}

/// Waits for a future, but not for ever.
pub async fn soon<F: Future>(future: F) -> F::Output {
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
