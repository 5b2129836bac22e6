//! The whole key space: one enum. Nobody else builds a key; `docs/formats/metadata.md` lists them.
//!
//! Keys are text, parts separated by `/`, which no name contains; numbers are 16 (8 for partitions) lower-case hexadecimal
//! digits, so that key order is number order.

use std::fmt;

use alluvium_types::ids::{LedgerId, PartitionIndex, TopicId};
use alluvium_types::names::{BookieName, BrokerName, NamespaceName, SubscriptionName, TenantName, TopicName};
use bytes::Bytes;

use crate::ownership::PartitionId;
use crate::segments::SegmentNumber;

/// A key, or what all keys of a kind begin with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Key<'a> {
    /// The cluster's identity.
    Cluster,
    /// All tenants.
    Tenants,
    /// A tenant.
    Tenant(&'a TenantName),
    /// All namespaces of a tenant.
    Namespaces(&'a TenantName),
    /// A namespace.
    Namespace(&'a NamespaceName),
    /// All topics of a namespace.
    Topics(&'a NamespaceName),
    /// A topic, by name.
    Topic(&'a TopicName),
    /// What a topic id is called.
    TopicId(TopicId),
    /// All deleted topics that are not cleaned up.
    DeletedTopics,
    /// A deleted topic that is not cleaned up.
    DeletedTopic(TopicId),
    /// All subscriptions of a topic.
    Subscriptions(TopicId),
    /// A subscription.
    Subscription(TopicId, &'a SubscriptionName),
    /// Who owns which partitions.
    AllOwners,
    /// Who owns a partition.
    Owner(TopicId, PartitionIndex),
    /// Which brokers shall own which partitions.
    AllPlacements,
    /// Which brokers shall own a topic's partitions.
    Placements(TopicId),
    /// Which broker shall own a partition.
    Placement(TopicId, PartitionIndex),
    /// Which state ledgers a partition has.
    StatePointer(TopicId, PartitionIndex),
    /// All segments of all partitions.
    AllSegments,
    /// All segments of a partition.
    Segments(TopicId, PartitionIndex),
    /// A segment.
    Segment(TopicId, PartitionIndex, SegmentNumber),
    /// All ledgers.
    Ledgers,
    /// A ledger.
    Ledger(LedgerId),
    /// The next ledger id that nobody was given.
    LedgerIds,
    /// All bookies ever known.
    BookieIdentities,
    /// Whose name a bookie's is.
    BookieIdentity(&'a BookieName),
    /// All live bookies.
    LiveBookies,
    /// A live bookie, bound to its session.
    LiveBookie(&'a BookieName),
    /// All live brokers.
    LiveBrokers,
    /// A live broker, bound to its session.
    LiveBroker(&'a BrokerName),
    /// The auditor, bound to its broker's session.
    Auditor,
}

impl fmt::Display for Key<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cluster => f.write_str("cluster"),
            Self::Tenants => f.write_str("tenants/"),
            Self::Tenant(tenant) => write!(f, "tenants/{tenant}"),
            Self::Namespaces(tenant) => write!(f, "namespaces/{tenant}/"),
            Self::Namespace(namespace) => write!(f, "namespaces/{namespace}"),
            Self::Topics(namespace) => write!(f, "topics/{namespace}/"),
            Self::Topic(topic) => write!(f, "topics/{topic}"),
            Self::TopicId(id) => write!(f, "topic-ids/{id}"),
            Self::DeletedTopics => f.write_str("deleted-topics/"),
            Self::DeletedTopic(id) => write!(f, "deleted-topics/{id}"),
            Self::Subscriptions(topic) => write!(f, "subscriptions/{topic}/"),
            Self::Subscription(topic, name) => write!(f, "subscriptions/{topic}/{name}"),
            Self::AllOwners => f.write_str("owners/"),
            Self::Owner(topic, partition) => write!(f, "owners/{topic}/{:08x}", partition.get()),
            Self::AllPlacements => f.write_str("placements/"),
            Self::Placements(topic) => write!(f, "placements/{topic}/"),
            Self::Placement(topic, partition) => write!(f, "placements/{topic}/{:08x}", partition.get()),
            Self::StatePointer(topic, partition) => write!(f, "states/{topic}/{:08x}", partition.get()),
            Self::AllSegments => f.write_str("segments/"),
            Self::Segments(topic, partition) => write!(f, "segments/{topic}/{:08x}/", partition.get()),
            Self::Segment(topic, partition, number) => {
                write!(f, "segments/{topic}/{:08x}/{:016x}", partition.get(), number.get())
            }
            Self::Ledgers => f.write_str("ledgers/"),
            Self::Ledger(ledger) => write!(f, "ledgers/{:016x}", ledger.get()),
            Self::LedgerIds => f.write_str("ledger-ids"),
            Self::BookieIdentities => f.write_str("bookies/"),
            Self::BookieIdentity(name) => write!(f, "bookies/{name}"),
            Self::LiveBookies => f.write_str("sessions/bookies/"),
            Self::LiveBookie(name) => write!(f, "sessions/bookies/{name}"),
            Self::LiveBrokers => f.write_str("sessions/brokers/"),
            Self::LiveBroker(name) => write!(f, "sessions/brokers/{name}"),
            Self::Auditor => f.write_str("auditor"),
        }
    }
}

impl Key<'_> {
    /// The bytes of the key.
    pub fn encode(&self) -> Bytes {
        Bytes::from(self.to_string())
    }
}

/// The part of `key` behind `prefix`, as text.
pub(crate) fn rest_of(key: &Bytes, prefix: &Key<'_>) -> Option<String> {
    let rest = key.strip_prefix(prefix.encode().as_ref())?;
    String::from_utf8(rest.to_vec()).ok()
}

/// Reads the parts of a segment's key.
pub(crate) fn parse_segment(key: &Bytes) -> Option<(TopicId, PartitionIndex, SegmentNumber)> {
    let rest = rest_of(key, &Key::AllSegments)?;
    let mut parts = rest.split('/');
    let topic = TopicId::new(parts.next()?.parse().ok()?);
    let partition = PartitionIndex::new(u32::from_str_radix(parts.next()?, 16).ok()?);
    let number = SegmentNumber::new(u64::from_str_radix(parts.next()?, 16).ok()?);
    parts.next().is_none().then_some((topic, partition, number))
}

/// What a key is about, with the rest of it as it stands, for those who follow all keys.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Subject<'a> {
    /// A tenant's name.
    Tenant(&'a str),
    /// A namespace's name.
    Namespace(&'a str),
    /// A topic's name.
    Topic(&'a str),
    /// A topic's id.
    DeletedTopic(&'a str),
    /// The id of a subscription's topic.
    Subscription(&'a str),
}

/// What a key is about; `None` for all that changes without anybody having to look again.
pub(crate) fn subject(key: &Bytes) -> Option<Subject<'_>> {
    let (kind, rest) = std::str::from_utf8(key).ok()?.split_once('/')?;
    match kind {
        "tenants" => Some(Subject::Tenant(rest)),
        "namespaces" => Some(Subject::Namespace(rest)),
        "topics" => Some(Subject::Topic(rest)),
        "deleted-topics" => Some(Subject::DeletedTopic(rest)),
        "subscriptions" => rest.split_once('/').map(|(topic, _)| Subject::Subscription(topic)),
        _ => None,
    }
}

/// Reads the topic and the number of a partition, as they stand behind what all keys of the kind begin with.
pub(crate) fn parse_partition(rest: &str) -> Option<PartitionId> {
    let (topic, index) = rest.split_once('/')?;
    let topic = TopicId::new(topic.parse().ok()?);
    Some(PartitionId { topic, index: PartitionIndex::new(u32::from_str_radix(index, 16).ok()?) })
}

/// Reads a ledger's key.
pub(crate) fn parse_ledger(key: &Bytes) -> Option<LedgerId> {
    let rest = rest_of(key, &Key::Ledgers)?;
    u64::from_str_radix(&rest, 16).ok().map(LedgerId::new)
}
