//! How a producer is made.

use std::sync::Arc;
use std::time::Duration;

use alluvium_proto::v1;
use alluvium_types::batch::Codec;
use alluvium_types::limits::BATCH_BYTES_TARGET;
use alluvium_types::names::{ProducerName, TopicName};

use super::drive::Drive;
use super::handle::{Producer, Shared, without_name};
use super::history::History;
use super::link::Settings;
use super::session::Rules;
use super::window::Window;
use crate::connection::{Connection, hello};
use crate::error::Error;

/// What a receipt promises.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Guarantee {
    /// Nothing: the broker took it. Receipts carry no offset.
    None,
    /// It and every earlier message of the partition are each on disk on at least one bookie; its offset is provisional.
    Leader,
    /// It is on disk on an ack quorum of bookies, as is every earlier message of the partition. It will not be lost.
    #[default]
    Quorum,
}

impl Guarantee {
    const fn to_wire(self) -> v1::Guarantee {
        match self {
            Self::None => v1::Guarantee::None,
            Self::Leader => v1::Guarantee::Leader,
            Self::Quorum => v1::Guarantee::Quorum,
        }
    }
}

/// A producer to be. Nothing needs to be set.
#[derive(Clone, Debug)]
#[must_use = "nothing happens before `build`"]
pub struct ProducerBuilder {
    connection: Arc<Connection>,
    topic: String,
    name: Option<String>,
    codec: Codec,
    guarantee: Guarantee,
    batch_bytes: usize,
    linger: Duration,
    window_bytes: usize,
    timeout: Duration,
    resend_unresolved: bool,
    stop_on_failure: bool,
}

impl ProducerBuilder {
    pub(crate) fn new(connection: Arc<Connection>, topic: String) -> Self {
        Self {
            connection,
            topic,
            name: None,
            codec: Codec::None,
            guarantee: Guarantee::Quorum,
            batch_bytes: BATCH_BYTES_TARGET,
            linger: Duration::ZERO,
            window_bytes: 8 << 20,
            timeout: Duration::from_secs(120),
            resend_unresolved: false,
            stop_on_failure: false,
        }
    }

    /// Makes the producer idempotent: under its name, each message is stored once, however often it has to be sent. Of two
    /// producers of one name, the newer one wins.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Compresses batches, where it makes them smaller.
    pub const fn codec(mut self, codec: Codec) -> Self {
        self.codec = codec;
        self
    }

    /// What receipts promise; [`Guarantee::Quorum`] unless set.
    pub const fn guarantee(mut self, guarantee: Guarantee) -> Self {
        self.guarantee = guarantee;
        self
    }

    /// Closes batches at this size, before compression: 64 KiB unless set.
    pub const fn batch_bytes(mut self, bytes: usize) -> Self {
        self.batch_bytes = bytes;
        self
    }

    /// Waits this long for company before a batch that isn't full is sent. Unless set, it is sent at once when nothing of
    /// its partition is in flight, and fills up until then.
    pub const fn linger(mut self, linger: Duration) -> Self {
        self.linger = linger;
        self
    }

    /// The most bytes queued and in flight; past it, [`Producer::queue`] waits. 8 MiB unless set. All producers of a client have no
    /// more than [`ClientBuilder::queued_bytes_max`](crate::ClientBuilder::queued_bytes_max), and 64 KiB each.
    pub const fn window_bytes(mut self, bytes: usize) -> Self {
        self.window_bytes = bytes;
        self
    }

    /// How long a message may take, reconnecting included, before it is given up: 2 minutes unless set.
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Without a name: sends again what was on its way when a connection was lost, which may store it twice. Unless set,
    /// such messages fail with an error that says that their outcome is unknown.
    pub const fn resend_unresolved(mut self) -> Self {
        self.resend_unresolved = true;
        self
    }

    /// Once a message has failed, nothing more is sent, in any partition: what is queued fails, as does
    /// [`Producer::queue`]. What was on its way already may be stored all the same. For an input whose messages shall be
    /// stored up to some point and not beyond.
    pub const fn stop_on_failure(mut self) -> Self {
        self.stop_on_failure = true;
        self
    }

    /// What earlier runs under this producer's name have stored; it claims the name on all partitions, as a producer does.
    /// Fails without a name, and as [`Self::build`] does.
    pub async fn history(&self) -> Result<History, Error> {
        let topic = TopicName::parse(&self.topic)?;
        let Some(name) = &self.name else { return Err(without_name()) };
        let name = ProducerName::parse(name)?;
        History::open(Arc::clone(&self.connection), topic.to_string(), name.to_string(), self.timeout).await
    }

    /// Opens the topic. Fails if it does not exist, or if the server can't be reached now.
    pub async fn build(self) -> Result<Producer, Error> {
        let topic = TopicName::parse(&self.topic)?;
        let name = self.name.as_deref().map(ProducerName::parse).transpose()?.map(|name| name.to_string());
        let open = v1::PublishOpen {
            hello: Some(hello()),
            topic: topic.to_string(),
            guarantee: self.guarantee.to_wire().into(),
            producer: name.clone().unwrap_or_default(),
        };
        let settings = Settings {
            open,
            codec: self.codec,
            linger: self.linger,
            offsets: self.guarantee != Guarantee::None,
            stop_on_failure: self.stop_on_failure,
        };
        let link = settings.dial(&self.connection).await?;
        let rules = Rules { name, resend_unresolved: self.resend_unresolved, timeout: self.timeout };
        let limits = link.limits();
        let batch_bytes = self.batch_bytes.clamp(1, limits.batch_bytes_max());
        let shared = Shared::new(
            &self.connection,
            rules.name.is_some(),
            link.partitions(),
            batch_bytes,
            limits,
            Window::new(self.window_bytes, self.connection.queued.clone()),
        );
        let shared = Arc::new(shared);
        let commands = Drive::start(self.connection, settings, rules, Arc::clone(&shared), link);
        Ok(Producer::new(shared, commands))
    }
}
