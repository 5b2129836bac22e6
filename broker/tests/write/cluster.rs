//! Brokers over bookies and metadata in memory, reached as clients reach them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use alluvium_broker::broker::{Broker, Surroundings};
use alluvium_broker::config::Config;
use alluvium_broker::forward::ForwardEdge;
use alluvium_broker::metrics::Metrics;
use alluvium_broker::server;
use alluvium_ledger::LedgerClient;
use alluvium_metadata::bookies::{BookieInfo, BookieRegistration};
use alluvium_metadata::brokers::IfRegistered;
use alluvium_metadata::store::Store;
use alluvium_metadata::{MemoryStore, Metadata};
use alluvium_proto::batch::BatchBuilder;
use alluvium_proto::v1;
use alluvium_proto::v1::namespace_service_client::NamespaceServiceClient;
use alluvium_proto::v1::publish_service_client::PublishServiceClient;
use alluvium_proto::v1::publish_stream_request::Request;
use alluvium_proto::v1::publish_stream_response::Response;
use alluvium_proto::v1::tenant_service_client::TenantServiceClient;
use alluvium_proto::v1::topic_service_client::TopicServiceClient;
use alluvium_runtime::clock::Clock;
use alluvium_runtime::entropy::Entropy;
use alluvium_runtime::lanes::Lanes;
use alluvium_runtime::net::{self, Reach};
use alluvium_runtime::tasks::Tasks;
use alluvium_types::batch::Codec;
use alluvium_types::ids::{ClusterId, Incarnation, PartitionIndex};
use alluvium_types::ledger::BookieId;
use alluvium_types::limits::Limits;
use alluvium_types::names::{BookieName, BrokerName, TopicName};
use alluvium_types::time::Timestamp;
use bytes::Bytes;
use prometheus_client::registry::Registry;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};

use crate::bookie::{Direct, MemoryBookie};
use crate::deaf::DeafStore;
use crate::path::Path;

pub(crate) const DEADLINE: Duration = Duration::from_secs(10);
pub(crate) const TOPIC: &str = "t/n/topic";

/// Bookies and metadata, which outlive brokers.
pub(crate) struct Cluster {
    pub(crate) bookies: BTreeMap<BookieId, MemoryBookie>,
    pub(crate) registrations: Vec<BookieRegistration>,
    metadata: Metadata,
    _tasks: Tasks,
}

/// How other brokers reach one.
enum Reached<'a> {
    Directly,
    By(&'a Path),
    Never,
}

pub(crate) fn config() -> Config {
    Config { replication: (1, 1, 1), retention_interval_ms: 20, ..Config::default() }
}

pub(crate) fn info(writable: bool) -> BookieInfo {
    BookieInfo { zone: None, address: "memory".to_owned(), writable, total_bytes: 1 << 40, available_bytes: 1 << 39 }
}

impl Cluster {
    pub(crate) async fn start(count: u128) -> Self {
        let clock = Clock::system();
        let (tasks, _) = Tasks::new();
        let store = MemoryStore::start(clock.clone(), &tasks);
        let metadata = Metadata::new(Arc::new(store), clock, Entropy::seeded(1), tasks.clone());
        let cluster = ClusterId::new(uuid::Uuid::from_u128(7));
        metadata.clusters().init(Some(cluster)).await.expect("made");
        let mut bookies = BTreeMap::new();
        let mut registrations = Vec::new();
        for number in 0..count {
            let id = BookieId {
                name: BookieName::parse(&format!("b{number}")).expect("valid"),
                incarnation: Incarnation::new(uuid::Uuid::from_u128(number + 1)),
            };
            metadata.bookies().claim_identity(&id, cluster).await.expect("claimed");
            let ttl = Duration::from_secs(60);
            registrations.push(metadata.bookies().register(&id, &info(true), ttl).await.expect("registered"));
            bookies.insert(id, MemoryBookie::new());
        }
        Self { bookies, registrations, metadata, _tasks: tasks }
    }

    pub(crate) fn bookie(&self) -> &MemoryBookie {
        self.bookies.values().next().expect("there is one")
    }

    pub(crate) const fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    pub(crate) async fn broker(&self, config: Config) -> Node {
        self.named("broker", config).await
    }

    pub(crate) async fn named(&self, name: &str, config: Config) -> Node {
        self.start_node(name, config, Reached::Directly, self.metadata.store().clone()).await
    }

    /// One whose host refuses the connections of other brokers, as if it had ended.
    pub(crate) async fn hidden(&self, name: &str, config: Config) -> Node {
        self.start_node(name, config, Reached::Never, self.metadata.store().clone()).await
    }

    /// One that other brokers reach by a path.
    pub(crate) async fn behind(&self, path: &Path, name: &str, config: Config) -> Node {
        self.start_node(name, config, Reached::By(path), self.metadata.store().clone()).await
    }

    /// One that hears nothing of what changes in metadata while it is told so.
    pub(crate) async fn deaf(&self, name: &str, config: Config) -> (Node, watch::Sender<bool>) {
        let (store, tell) = DeafStore::new(self.metadata.store().clone());
        (self.start_node(name, config, Reached::Directly, Arc::new(store)).await, tell)
    }

    async fn start_node(&self, name: &str, config: Config, reached: Reached<'_>, store: Store) -> Node {
        let (tasks, _) = Tasks::new();
        let (clock, entropy) = (Clock::system(), Entropy::from_os());
        let connector = Arc::new(Direct(self.bookies.clone()));
        let metadata = Metadata::new(store, clock.clone(), entropy.clone(), tasks.clone());
        let own = alluvium_ledger::Config::default();
        let ledgers = LedgerClient::start(&metadata, connector, entropy.clone(), tasks.clone(), Limits::default(), own)
            .await
            .expect("started");
        let listener = net::bind("127.0.0.1:0".parse().expect("valid")).await.expect("bound");
        let bound = listener.local_addr().expect("bound");
        let address = format!("http://{bound}");
        let internal_address = match reached {
            Reached::Directly => bound.to_string(),
            Reached::By(path) => path.lead(bound).await.to_string(),
            // Nothing listens on port 1.
            Reached::Never => "127.0.0.1:1".to_owned(),
        };
        let config = config.with_memory(Config::MEMORY_BYTES, Limits::default());
        assert_eq!(config.validate(Limits::default()), Vec::<String>::new());
        let metrics = Metrics::default();
        let surroundings = Surroundings {
            config,
            name: BrokerName::parse(name).expect("valid"),
            address: address.clone(),
            internal_address,
            if_registered: IfRegistered::EndIt,
            reach: Reach::Sockets,
            metadata,
            ledgers,
            clock,
            entropy,
            limits: Limits::default(),
            metrics: metrics.clone(),
            tasks: tasks.clone(),
            lanes: Lanes::here(),
        };
        let broker = Broker::start(surroundings).await.expect("starts");
        let forwarded = ForwardEdge::new(Limits::default());
        forwarded.serve(broker.clone());
        let routes = server::routes(&broker, &mut Registry::default()).add_service(forwarded.service());
        net::serve("client", net::Callers::Clients(net::Windows::default()), &tasks, listener, routes, &Lanes::here());
        let channel = connect(&address).await;
        Node { broker, tasks, channel, address, metrics }
    }
}

/// A broker, and a connection to it.
pub(crate) struct Node {
    pub(crate) broker: Broker,
    tasks: Tasks,
    pub(crate) channel: Channel,
    address: String,
    pub(crate) metrics: Metrics,
}

async fn connect(address: &str) -> Channel {
    let endpoint = Endpoint::from_shared(address.to_owned()).expect("valid");
    net::endpoint(endpoint).connect().await.expect("connects")
}

pub(crate) fn limit() -> usize {
    Limits::default().rpc_bytes_max()
}

impl Node {
    /// Ends without a goodbye: what is on its way stays as it is.
    pub(crate) async fn crash(self) {
        self.tasks.stop();
        assert!(self.tasks.join(DEADLINE).await, "everything ends");
    }

    /// A connection of its own: what is not read there holds up nobody.
    pub(crate) async fn another_channel(&self) -> Channel {
        connect(&self.address).await
    }

    pub(crate) async fn drain(self) {
        assert!(self.broker.drain(DEADLINE).await, "drained in time");
        self.tasks.stop();
        assert!(self.tasks.join(DEADLINE).await, "everything ends");
    }

    pub(crate) async fn make_topic(&self, partitions: u32, policies: v1::Policies) {
        let tenant = v1::CreateTenantRequest { name: "t".to_owned() };
        TenantServiceClient::new(self.channel.clone()).create_tenant(tenant).await.expect("made");
        let namespace = v1::CreateNamespaceRequest { name: "t/n".to_owned(), policies: None };
        NamespaceServiceClient::new(self.channel.clone()).create_namespace(namespace).await.expect("made");
        let topic = v1::CreateTopicRequest { name: TOPIC.to_owned(), partitions, policies: Some(policies) };
        self.topics().create_topic(topic).await.expect("made");
    }

    pub(crate) fn topics(&self) -> TopicServiceClient<Channel> {
        TopicServiceClient::new(self.channel.clone())
    }

    pub(crate) fn publisher(&self) -> PublishServiceClient<Channel> {
        PublishServiceClient::new(self.channel.clone()).max_decoding_message_size(limit()).max_encoding_message_size(limit())
    }

    pub(crate) async fn open(&self, guarantee: v1::Guarantee, producer: &str) -> Stream {
        self.try_open(guarantee, producer).await.expect("opens")
    }

    pub(crate) async fn try_open(&self, guarantee: v1::Guarantee, producer: &str) -> Result<Stream, tonic::Status> {
        let (requests, rx) = mpsc::channel(64);
        let open = v1::PublishOpen {
            hello: Some(v1::Hello { protocol_version: 1, client: "test".to_owned() }),
            topic: TOPIC.to_owned(),
            guarantee: guarantee.into(),
            producer: producer.to_owned(),
        };
        requests.try_send(v1::PublishStreamRequest { request: Some(Request::Open(open)) }).expect("room");
        let responses = self.publisher().publish_stream(ReceiverStream::new(rx)).await?.into_inner();
        let mut stream = Stream { requests, responses, waiting: Vec::new(), owners: Vec::new() };
        match stream.next().await {
            Some(Response::Opened(opened)) => {
                stream.owners = opened.owners;
                Ok(stream)
            }
            other => panic!("not opened: {other:?}"),
        }
    }

    /// The payloads of a partition from an offset on, with their offsets.
    pub(crate) async fn read(&self, partition: u32, from: u64) -> Vec<(u64, Bytes)> {
        let topic = self.broker.topic(&TopicName::parse(TOPIC).expect("valid")).await.expect("it is there");
        let handle = self.broker.partition(&topic, PartitionIndex::new(partition)).await.expect("it opens");
        let mut found = Vec::new();
        let mut at = alluvium_types::ids::Offset::new(from);
        loop {
            let entries = handle.reader().read(at, 1 << 20).await.expect("readable");
            let Some(last) = entries.last() else { return found };
            let next = last.end_offset();
            for batch in entries.iter().flat_map(|entry| entry.batches()) {
                let messages = alluvium_proto::batch::decode(&batch.descriptor.header, batch.blob).expect("sound");
                for (offset, message) in (batch.first_offset.get()..).zip(messages) {
                    if offset >= from {
                        found.push((offset, message.payload));
                    }
                }
            }
            at = next;
        }
    }
}

pub(crate) fn batch(first_sequence: u64, payloads: &[&str]) -> v1::Batch {
    let mut builder = BatchBuilder::with_capacity(64);
    for payload in payloads {
        builder.push(&v1::Message { payload: Bytes::copy_from_slice(payload.as_bytes()), ..Default::default() });
    }
    builder.finish(Codec::None, first_sequence, Timestamp::from_millis(5))
}

/// A publish stream.
pub(crate) struct Stream {
    requests: mpsc::Sender<v1::PublishStreamRequest>,
    responses: Streaming<v1::PublishStreamResponse>,
    waiting: Vec<v1::PublishReceipt>,
    /// Who was said to serve the partitions.
    pub(crate) owners: Vec<v1::PartitionOwner>,
}

impl Stream {
    pub(crate) async fn next(&mut self) -> Option<Response> {
        let next = Clock::system().timeout(DEADLINE, self.responses.message()).await.expect("answered in time");
        next.ok().flatten().and_then(|response| response.response)
    }

    pub(crate) async fn send(&self, id: u64, partition: u32, producer_epoch: u64, batch: v1::Batch) {
        let batch = v1::PublishBatch { id, partition, producer_epoch, batch: Some(batch) };
        self.requests.send(v1::PublishStreamRequest { request: Some(Request::Batch(batch)) }).await.expect("open");
    }

    pub(crate) async fn claim(&mut self, partition: u32, last_epoch: Option<u64>) -> v1::PublishClaimed {
        let claim = v1::PublishClaim { partition, last_epoch };
        self.requests.send(v1::PublishStreamRequest { request: Some(Request::Claim(claim)) }).await.expect("open");
        loop {
            match self.next().await.expect("open") {
                Response::Claimed(claimed) => return claimed,
                Response::Receipts(receipts) => self.waiting.extend(receipts.receipts),
                Response::Opened(_) => panic!("opened twice"),
            }
        }
    }

    /// The next receipt.
    pub(crate) async fn receipt(&mut self) -> v1::PublishReceipt {
        while self.waiting.is_empty() {
            match self.next().await.expect("open") {
                Response::Receipts(receipts) => self.waiting.extend(receipts.receipts),
                other => panic!("expected receipts: {other:?}"),
            }
        }
        self.waiting.remove(0)
    }

    /// The next receipt's id, and its offset or the reason why there is none.
    pub(crate) async fn outcome(&mut self) -> (u64, Result<u64, String>) {
        let receipt = self.receipt().await;
        (receipt.id, receipt.fault.map_or(Ok(receipt.first_offset), |fault| Err(fault.reason)))
    }
}

/// Waits until `done`, looking every so often.
pub(crate) async fn eventually(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let clock = Clock::system();
    let until = clock.mono().after(DEADLINE);
    while !done().await {
        assert!(clock.mono() < until, "not in time: {what}");
        clock.sleep(Duration::from_millis(5)).await;
    }
}
