//! Topics.

use std::collections::BTreeMap;
use std::time::Duration;

use alluvium_metadata::policies::Policies;
use alluvium_metadata::segments::Segment;
use alluvium_metadata::tenants::Holder;
use alluvium_metadata::topics::Topic;
use alluvium_metadata::{PartitionId, Versioned};
use alluvium_proto::internal::v1 as wire;
use alluvium_proto::v1;
use alluvium_proto::v1::topic_service_server::TopicService;
use alluvium_types::fault::Fault;
use alluvium_types::ids::PartitionIndex;
use alluvium_types::names::{BrokerName, NamespaceName, TopicName};
use futures::future::try_join;
use tonic::{Request, Response, Status};

use super::AdminEdge;
use super::fault::{Refused, absent};
use super::placement::reason;
use super::{page, policies};
use crate::topic::{OpenSegment, PartitionHandle};

/// How long the owner of a partition may take to say what it knows of its open segment.
const OPEN_PATIENCE: Duration = Duration::from_secs(1);
/// How many placements are read at a time.
const PLACEMENTS_AT_ONCE: usize = 1000;
/// The most partitions of a topic.
const PARTITIONS_MAX: u32 = 1024;

#[tonic::async_trait]
impl TopicService for AdminEdge {
    async fn create_topic(&self, request: Request<v1::CreateTopicRequest>) -> Result<Response<v1::CreateTopicResponse>, Status> {
        let topic = self.topic_created(request.into_inner()).await?;
        Ok(Response::new(v1::CreateTopicResponse { topic: Some(topic) }))
    }

    async fn get_topic(&self, request: Request<v1::GetTopicRequest>) -> Result<Response<v1::GetTopicResponse>, Status> {
        Ok(Response::new(self.topic_found(&request.into_inner().name).await?))
    }

    async fn list_topics(&self, request: Request<v1::ListTopicsRequest>) -> Result<Response<v1::ListTopicsResponse>, Status> {
        Ok(Response::new(self.topics_listed(&request.into_inner()).await?))
    }

    async fn update_topic(&self, request: Request<v1::UpdateTopicRequest>) -> Result<Response<v1::UpdateTopicResponse>, Status> {
        let topic = self.topic_updated(request.into_inner()).await?;
        Ok(Response::new(v1::UpdateTopicResponse { topic: Some(topic) }))
    }

    async fn move_partition(
        &self,
        request: Request<v1::MovePartitionRequest>,
    ) -> Result<Response<v1::MovePartitionResponse>, Status> {
        let partition = self.partition_moved(&request.into_inner()).await?;
        Ok(Response::new(v1::MovePartitionResponse { partition: Some(partition) }))
    }

    async fn delete_topic(&self, request: Request<v1::DeleteTopicRequest>) -> Result<Response<v1::DeleteTopicResponse>, Status> {
        self.topic_removed(&request.into_inner().name).await?;
        Ok(Response::new(v1::DeleteTopicResponse {}))
    }
}

fn partitions(asked: u32) -> Result<u32, Refused> {
    match asked {
        0 => Ok(1),
        1..=PARTITIONS_MAX => Ok(asked),
        _ => {
            let message = format!("{asked} are asked for, the limit is {PARTITIONS_MAX}");
            Err(Fault::invalid("partitions", "PARTITIONS", message).into())
        }
    }
}

/// A segment, with what its owner knows of it if it is the one that is written. One that was opened ahead is none yet (C66).
fn segment(segment: &Segment, open: Option<v1::TopicSegment>) -> Option<v1::TopicSegment> {
    let first = segment.first?;
    let open = open.filter(|open| open.ledger == segment.ledger.get());
    let sealed = segment.sealed;
    let known = open.unwrap_or_default();
    let times = sealed.map_or(Some((known.first_time_ms, known.last_time_ms)), |sealed| {
        sealed.times.map(|(first, last)| (first.as_millis(), last.as_millis()))
    });
    Some(v1::TopicSegment {
        ledger: segment.ledger.get(),
        first_offset: open.map_or(first.get(), |open| open.first_offset),
        end_offset: sealed.map(|s| s.end.get()),
        bytes: sealed.map_or(known.bytes, |s| s.bytes),
        first_time_ms: times.map_or(0, |(first, _)| first),
        last_time_ms: times.map_or(0, |(_, last)| last),
    })
}

/// What the owner of a partition says of it.
pub(crate) async fn inspected(handle: &PartitionHandle) -> wire::InspectPartitionResponse {
    let bounds = handle.bounds();
    let open = handle.open_segment().await.map(|open| {
        let OpenSegment { ledger, first, bytes, times } = open;
        let (first_time, last_time) = times.unwrap_or_default();
        v1::TopicSegment {
            ledger: ledger.get(),
            first_offset: first.get(),
            end_offset: None,
            bytes,
            first_time_ms: first_time.as_millis(),
            last_time_ms: last_time.as_millis(),
        }
    });
    let (first_offset, end_offset) = (bounds.first.get(), bounds.end.get());
    wire::InspectPartitionResponse { loaded: true, first_offset, end_offset, open }
}

impl AdminEdge {
    fn shown(&self, name: &TopicName, topic: &Topic, above: Policies) -> v1::Topic {
        v1::Topic {
            name: name.to_string(),
            id: topic.id.to_string(),
            partitions: topic.partitions,
            created_ms: topic.created.as_millis(),
            policies: Some(policies::to_wire(&topic.policies)),
            effective_policies: Some(policies::to_wire(&topic.policies.or(above))),
        }
    }

    /// What is in force in a namespace, whatever level it comes from.
    async fn policies_of(&self, name: &NamespaceName) -> Result<Policies, Refused> {
        Ok(self.namespace_in_force(name).await?.1)
    }

    /// A namespace, which must be there, and what is in force in it.
    async fn namespace_in_force(&self, name: &NamespaceName) -> Result<(Versioned<Holder>, Policies), Refused> {
        let tenants = self.broker.metadata().tenants();
        let tenant = async { tenants.get(name.tenant()).await.map_err(Refused::from) };
        let (namespace, tenant) = try_join(self.namespace_read(name), tenant).await?;
        let above = tenant.map(|t| t.value.policies).unwrap_or_default().or(self.broker.default_policies());
        let in_force = namespace.value.policies.or(above);
        Ok((namespace, in_force))
    }

    /// The topic's record, which must be there.
    pub(super) async fn topic_read(&self, name: &TopicName) -> Result<Versioned<Topic>, Refused> {
        let found = self.broker.metadata().topics().get(name).await?;
        found.ok_or_else(|| absent("topic", "TOPIC_NOT_FOUND", name))
    }

    async fn topic_created(&self, request: v1::CreateTopicRequest) -> Result<v1::Topic, Refused> {
        let name = TopicName::parse(&request.name)?;
        let (partitions, policies) = (partitions(request.partitions)?, policies::from_wire(request.policies)?);
        let (namespace, above) = self.namespace_in_force(name.namespace()).await?;
        let made = self.broker.metadata().topics().create(&name, partitions, policies, &namespace).await?;
        Ok(self.shown(&name, &made.value, above))
    }

    async fn topic_found(&self, name: &str) -> Result<v1::GetTopicResponse, Refused> {
        let name = TopicName::parse(name)?;
        let topic = self.topic_read(&name).await?.value;
        let placed = self.placements(&topic).await?;
        let mut found = Vec::new();
        for index in (0..topic.partitions).map(PartitionIndex::new) {
            found.push(self.partition_found(&name, &topic, index, placed.get(&index)).await?);
        }
        let above = self.policies_of(name.namespace()).await?;
        Ok(v1::GetTopicResponse { topic: Some(self.shown(&name, &topic, above)), partitions: found })
    }

    /// What the owner of a partition knows of it, here or at another broker; `None` when nobody has it loaded, or can be asked.
    async fn known_by_owner(&self, name: &TopicName, id: PartitionId) -> Option<wire::InspectPartitionResponse> {
        if let Some(handle) = self.broker.loaded(id.topic, id.index) {
            return Some(inspected(&handle).await);
        }
        let peer = self.broker.owner_elsewhere(id).await?;
        let request = wire::InspectPartitionRequest { topic: name.to_string(), partition: id.index.get() };
        let answer = peer.calling().inspect_partition(request).await.ok()?.into_inner();
        answer.loaded.then_some(answer)
    }

    /// Where operators want the partitions of a topic.
    async fn placements(&self, topic: &Topic) -> Result<BTreeMap<PartitionIndex, BrokerName>, Refused> {
        let (mut placed, mut after) = (BTreeMap::new(), None);
        loop {
            let page = self.broker.metadata().placements().list(topic.id, after, PLACEMENTS_AT_ONCE).await?;
            placed.extend(page.records.into_iter().map(|(index, placement)| (index, placement.value.broker)));
            after = page.next;
            if after.is_none() {
                return Ok(placed);
            }
        }
    }

    /// A partition as its owner knows it, or else as metadata does, and why it is there. Loads nothing.
    pub(super) async fn partition_found(
        &self,
        name: &TopicName,
        topic: &Topic,
        index: PartitionIndex,
        placed: Option<&BrokerName>,
    ) -> Result<v1::TopicPartition, Refused> {
        let id = PartitionId { topic: topic.id, index };
        let metadata = self.broker.metadata();
        let owner = metadata.ownership().get(id).await?.map(|o| o.value);
        let segments = metadata.segments().all(id).await?;
        // An owner that is busy for so long is not waited for.
        let known = self.broker.clock().timeout(OPEN_PATIENCE, self.known_by_owner(name, id)).await.ok().flatten();
        let open = known.as_ref().and_then(|known| known.open);
        let (first, end) = match &known {
            Some(known) => (known.first_offset, known.end_offset),
            None => {
                let end = segments.iter().rev().find_map(|s| s.value.sealed.map(|sealed| sealed.end).or(s.value.first));
                let end = end.map_or(0, |o| o.get());
                (segments.first().and_then(|s| s.value.first).map_or(end, |o| o.get()), end)
            }
        };
        let segments: Vec<v1::TopicSegment> = segments.iter().filter_map(|s| segment(&s.value, open)).collect();
        let live = self.broker.live_brokers();
        let preferred = self.broker.preferred(id, placed);
        let holder = owner.as_ref().and_then(|owner| owner.holder.as_ref());
        let is_alive = holder.is_some_and(|h| live.get(&h.broker).is_some_and(|broker| broker.session == h.session));
        let reason = reason(owner.as_ref(), is_alive, placed, preferred.as_ref());
        let taken_from = owner.as_ref().and_then(|owner| owner.taken_from.as_ref());
        Ok(v1::TopicPartition {
            since_ms: owner.as_ref().map_or(0, |owner| owner.since.as_millis()),
            reason: reason.into(),
            placed_at: placed.map(ToString::to_string).unwrap_or_default(),
            preferred: preferred.map(|name| name.to_string()).unwrap_or_default(),
            taken_from: taken_from.map(ToString::to_string).unwrap_or_default(),
            partition: index.get(),
            owner: owner.as_ref().and_then(|o| o.holder.as_ref()).map(|h| h.broker.to_string()).unwrap_or_default(),
            epoch: owner.map_or(0, |o| o.epoch.get()),
            first_offset: first,
            end_offset: end,
            bytes: segments.iter().map(|s| s.bytes).sum(),
            segments,
        })
    }

    async fn topics_listed(&self, request: &v1::ListTopicsRequest) -> Result<v1::ListTopicsResponse, Refused> {
        let namespace = NamespaceName::parse(&request.namespace)?;
        let page = request.page.as_ref();
        let (size, after) = (page::size(page)?, page::after(page, TopicName::parse)?);
        if after.as_ref().is_some_and(|a| a.namespace() != &namespace) {
            return Err(page::bad_token());
        }
        let above = self.policies_of(&namespace).await?;
        let listing = self.broker.metadata().topics().list(&namespace, after.as_ref(), size).await?;
        Ok(v1::ListTopicsResponse {
            topics: listing.records.iter().map(|(name, topic)| self.shown(name, &topic.value, above)).collect(),
            next_token: page::token(listing.next),
        })
    }

    async fn topic_updated(&self, request: v1::UpdateTopicRequest) -> Result<v1::Topic, Refused> {
        let name = TopicName::parse(&request.name)?;
        let policies = request.policies.map(|p| policies::from_wire(Some(p))).transpose()?;
        let above = self.policies_of(name.namespace()).await?;
        let topics = self.broker.metadata().topics();
        let mut topic = self.topic_read(&name).await?;
        if request.partitions != 0 && request.partitions != topic.value.partitions {
            topic = topics.set_partitions(&name, &topic, partitions(request.partitions)?).await?;
        }
        if let Some(policies) = policies {
            topic = topics.set_policies(&name, &topic, policies).await?;
        }
        self.broker.forget_topic(&name);
        Ok(self.shown(&name, &topic.value, above))
    }

    async fn topic_removed(&self, name: &str) -> Result<(), Refused> {
        let name = TopicName::parse(name)?;
        let topic = self.topic_read(&name).await?;
        self.broker.metadata().topics().delete(&name, &topic).await?;
        self.broker.topic_deleted(topic.value.id).await;
        Ok(())
    }
}
