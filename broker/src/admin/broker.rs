//! Brokers: who lives, what each owns by record, and who shall hand over.

use std::collections::HashMap;

use alluvium_metadata::brokers::{Broker, Decider};
use alluvium_metadata::{PartitionId, Versioned};
use alluvium_proto::v1;
use alluvium_types::fault::{Fault, FaultKind};
use alluvium_types::ids::{PartitionIndex, TopicId};
use alluvium_types::names::BrokerName;

use super::fault::{Refused, absent};
use super::{AdminEdge, page};

/// The most owners' records looked at for one page.
const SCANNED_MAX: usize = 10_000;
/// How many are read at a time.
const READ_AT_ONCE: usize = 1000;

impl AdminEdge {
    fn broker_shown(&self, name: &BrokerName, broker: &Broker) -> v1::Broker {
        let partitions = (name == self.broker.name()).then(|| self.broker.partitions_served());
        v1::Broker {
            name: name.to_string(),
            address: broker.address.clone(),
            internal_address: broker.internal_address.clone(),
            since_ms: broker.since.as_millis(),
            weight: broker.weight,
            draining: broker.draining,
            partitions,
        }
    }

    pub(super) fn brokers_live(&self) -> Vec<v1::Broker> {
        self.broker.live_brokers().iter().map(|(name, broker)| self.broker_shown(name, broker)).collect()
    }

    /// A broker's record, which must be there: it lives.
    async fn broker_read(&self, name: &BrokerName) -> Result<Versioned<Broker>, Refused> {
        let found = self.broker.metadata().brokers().get(name).await?;
        found.ok_or_else(|| absent("broker", "BROKER_NOT_FOUND", name))
    }

    pub(super) async fn broker_drained(&self, request: &v1::DrainBrokerRequest) -> Result<v1::Broker, Refused> {
        let name = match request.name.as_str() {
            "" => self.broker.name().clone(),
            name => BrokerName::parse(name)?,
        };
        let found = self.broker_read(&name).await?;
        let others = self.broker.live_brokers();
        if !request.undo && !others.iter().any(|(other, broker)| *other != name && !broker.draining) {
            let text = format!("no other broker takes what {name} owns; start another one, or stop this one instead");
            return Err(Fault::new(FaultKind::FailedPrecondition, "LAST_BROKER", text).into());
        }
        // Decided for the session that is seen here: a later life of the broker begins anew (M2).
        let (session, create_revision) = (found.value.session, found.create_revision);
        let decider = Decider { broker: name.clone(), session, create_revision };
        self.broker.metadata().brokers().set_draining(&decider, !request.undo).await?;
        Ok(self.broker_shown(&name, &Broker { draining: !request.undo, ..found.value }))
    }

    pub(super) async fn broker_partitions(
        &self,
        request: &v1::ListBrokerPartitionsRequest,
    ) -> Result<v1::ListBrokerPartitionsResponse, Refused> {
        let broker = BrokerName::parse(&request.broker)?;
        let page = request.page.as_ref();
        let (size, mut after) = (page::size(page)?, token(page)?);
        let (mut owned, mut scanned) = (Vec::new(), 0);
        'pages: loop {
            let listing = self.broker.metadata().ownership().list(after, READ_AT_ONCE).await?;
            scanned += listing.records.len();
            for (id, owner) in listing.records {
                if owner.value.holder.as_ref().is_some_and(|holder| holder.broker == broker) {
                    owned.push((id, owner));
                    if owned.len() >= size {
                        after = Some(id);
                        break 'pages;
                    }
                }
            }
            after = listing.next;
            // A page may be short, but a caller is never made to wait for a scan of everything.
            if after.is_none() || scanned >= SCANNED_MAX {
                break;
            }
        }
        let mut names: HashMap<TopicId, String> = HashMap::new();
        let mut partitions = Vec::with_capacity(owned.len());
        for (id, owner) in owned {
            let topic = match names.get(&id.topic) {
                Some(name) => name.clone(),
                None => {
                    let name = self.broker.metadata().topics().name_of(id.topic).await?;
                    let name = name.map_or_else(|| id.topic.to_string(), |name| name.to_string());
                    names.entry(id.topic).or_insert(name).clone()
                }
            };
            let (epoch, since_ms) = (owner.value.epoch.get(), owner.value.since.as_millis());
            partitions.push(v1::OwnedPartition { topic, partition: id.index.get(), epoch, since_ms });
        }
        let next_token = after.map(|id| format!("{}#{}", id.topic, id.index)).unwrap_or_default();
        Ok(v1::ListBrokerPartitionsResponse { partitions, next_token })
    }
}

/// Where the page begins: behind the partition in its token.
fn token(page: Option<&v1::Page>) -> Result<Option<PartitionId>, Refused> {
    let text = page.map_or("", |page| page.token.as_str());
    if text.is_empty() {
        return Ok(None);
    }
    let parsed = text.split_once('#').and_then(|(topic, index)| {
        Some(PartitionId { topic: TopicId::new(topic.parse().ok()?), index: PartitionIndex::new(index.parse().ok()?) })
    });
    parsed.map(Some).ok_or_else(page::bad_token)
}
