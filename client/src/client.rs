//! The client: where everything begins.

use std::sync::Arc;
use std::time::Duration;

use crate::admin::Admin;
use crate::connection::Connection;
use crate::consumer::ConsumerBuilder;
use crate::error::Error;
use crate::producer::ProducerBuilder;
use crate::reader::ReaderBuilder;

/// What all producers of a client may have queued and in flight, in bytes, unless it says otherwise.
pub const QUEUED_BYTES_MAX: usize = 64 << 20;

/// A cheap handle to a server. Producers, consumers and readers made by it live on by themselves.
#[derive(Clone, Debug)]
pub struct Client {
    connection: Arc<Connection>,
}

/// How to connect.
#[derive(Clone, Debug)]
pub struct ClientBuilder {
    server: String,
    within: Duration,
    queued_bytes_max: usize,
}

impl ClientBuilder {
    /// Keeps trying for this long while the server can't be reached; once only, unless set.
    #[must_use]
    pub const fn connect_within(mut self, within: Duration) -> Self {
        self.within = within;
        self
    }

    /// The most bytes that all producers of the client have queued and in flight, beside 64 KiB each, or one larger message, which
    /// each may always have: [`QUEUED_BYTES_MAX`] unless set. So many producers in one process don't take windows of 8 MiB each, and those that
    /// can't get rid of what they have don't stop the others.
    #[must_use]
    pub const fn queued_bytes_max(mut self, bytes: usize) -> Self {
        self.queued_bytes_max = bytes;
        self
    }

    /// Connects, and agrees on a protocol version.
    pub async fn connect(self) -> Result<Client, Error> {
        Ok(Client { connection: Arc::new(Connection::open(&self.server, self.within, self.queued_bytes_max).await?) })
    }
}

impl Client {
    /// Connects to a server, such as `http://127.0.0.1:7650`.
    pub async fn connect(server: impl Into<String>) -> Result<Self, Error> {
        Self::builder(server).connect().await
    }

    /// Whether this can be the address of a server. Nothing is asked there.
    pub fn check_address(server: &str) -> Result<(), Error> {
        crate::connection::address(server).map(|_| ())
    }

    /// Connects with settings.
    pub fn builder(server: impl Into<String>) -> ClientBuilder {
        ClientBuilder { server: server.into(), within: Duration::ZERO, queued_bytes_max: QUEUED_BYTES_MAX }
    }

    /// Publishes to a topic: `tenant/namespace/topic`.
    pub fn producer(&self, topic: impl Into<String>) -> ProducerBuilder {
        ProducerBuilder::new(Arc::clone(&self.connection), topic.into())
    }

    /// Consumes a topic through a subscription, whose place is kept by the server.
    pub fn consumer(&self, topic: impl Into<String>) -> ConsumerBuilder {
        ConsumerBuilder::new(Arc::clone(&self.connection), topic.into())
    }

    /// Reads a topic without a subscription: nothing is acknowledged, nothing is remembered.
    pub fn reader(&self, topic: impl Into<String>) -> ReaderBuilder {
        ReaderBuilder::new(Arc::clone(&self.connection), topic.into())
    }

    /// What administrators do.
    pub fn admin(&self) -> Admin {
        Admin::new(Arc::clone(&self.connection))
    }

    /// Where the server is.
    pub fn server(&self) -> &str {
        self.connection.server()
    }

    /// The cluster's id, as the server said when the client connected.
    pub fn cluster_id(&self) -> &str {
        &self.connection.hello.cluster_id
    }

    /// The server's version.
    pub fn server_version(&self) -> &str {
        &self.connection.hello.server_version
    }

    /// The largest message that the server takes, in bytes.
    pub fn message_bytes_max(&self) -> usize {
        self.connection.limits.message_bytes_max()
    }
}
