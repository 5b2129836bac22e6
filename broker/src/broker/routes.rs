//! Where a partition is served: by this broker, or by which other one. The one place where that is decided.
//!
//! An owner whose session lives is asked, whoever prefers what. Without one, the broker that every broker computes alike is asked
//! ([`preferred`]), or serves itself; it claims the partition on demand, so that a dead broker's partitions cost nothing until
//! somebody wants them. An owner whose host refuses connections is taken over at once, as its fence makes that safe; one that is
//! silent, when its session has ended. What the metadata views say may be old: who is asked looks again, and compares (M1, M6).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use alluvium_metadata::PartitionId;
use alluvium_proto::v1;
use alluvium_types::fault::{Fault, FaultKind};
use alluvium_types::ids::{PartitionIndex, SessionId, TopicId};
use alluvium_types::names::{BrokerName, PartitionName};
use futures::future::try_join;
use parking_lot::Mutex;

use super::moves::Moved;
use super::placement::preferred;
use super::{Broker, TopicInfo, unreadable};
use crate::forward::Peer;
use crate::topic::PartitionHandle;
use crate::topic::handle::{is_moved, moved};
use crate::topic::lease::DispatchLease;

/// How long somebody who serves a partition is looked for.
const PATIENCE: Duration = Duration::from_secs(20);
/// How many partitions' owners are remembered.
const REMEMBERED_MAX: usize = 1 << 16;
/// Of how many partitions a client is told who serves them.
const OWNERS_MAX: u32 = 1024;

/// Where a partition may be served for a caller.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Scope {
    /// Anywhere: a client asks.
    Cluster,
    /// Here, or not at all: another broker asks, which looks elsewhere by itself.
    Here,
}

/// Where a partition is served.
#[derive(Clone, Debug)]
pub(crate) enum Route {
    /// By this broker.
    Here(PartitionHandle),
    /// By another one.
    There(Peer),
}

/// Owners as they were last seen. A memory, never a decision: who is asked in vain is forgotten.
#[derive(Debug, Default)]
pub(super) struct Remembered(Mutex<HashMap<PartitionId, (BrokerName, SessionId)>>);

impl Remembered {
    fn get(&self, partition: PartitionId) -> Option<(BrokerName, SessionId)> {
        self.0.lock().get(&partition).cloned()
    }

    fn put(&self, partition: PartitionId, peer: &Peer) {
        let mut owners = self.0.lock();
        if owners.len() >= REMEMBERED_MAX {
            owners.clear();
        }
        owners.insert(partition, (peer.name().clone(), peer.session()));
    }

    fn forget(&self, partition: PartitionId) {
        self.0.lock().remove(&partition);
    }
}

/// Who should be asked.
enum Seat {
    Here,
    There(Peer),
}

impl Broker {
    /// Where a partition is served, waiting until it is; claims and opens it here where that is right. Cancel safe.
    pub(crate) async fn route(&self, topic: &TopicInfo, index: PartitionIndex, scope: Scope) -> Result<Route, Fault> {
        if scope == Scope::Here {
            let id = PartitionId { topic: topic.id, index };
            if !self.0.opener.partitions.serves(id) && self.rather(id, &[], Moved::Told).is_some() {
                return Err(moved(&PartitionName { topic: topic.name.clone(), index }));
            }
            return self.partition(topic, index).await.map(Route::Here);
        }
        let mut backoff = self.context().backoff();
        // Brokers that live by their session and have ended by their host.
        let mut ended: Vec<SessionId> = Vec::new();
        let found = async {
            loop {
                match self.seat(topic, index, &ended).await? {
                    Seat::There(peer) if peer.is_refused().await => ended.push(peer.session()),
                    Seat::There(peer) => return Ok(Route::There(peer)),
                    Seat::Here => match self.partition(topic, index).await {
                        Ok(handle) => return Ok(Route::Here(handle)),
                        // Somebody was faster, or it is being let go.
                        Err(fault) if is_moved(fault.reason) => self.clock().sleep(backoff.delay()).await,
                        Err(fault) => return Err(fault),
                    },
                }
            }
        };
        self.clock().timeout(PATIENCE, found).await.unwrap_or_else(|_| {
            let text = format!("nobody serves partition {index} of {} yet; try again", topic.name);
            Err(Fault::new(FaultKind::Unavailable, "PARTITION_UNAVAILABLE", text))
        })
    }

    async fn seat(&self, topic: &TopicInfo, index: PartitionIndex, ended: &[SessionId]) -> Result<Seat, Fault> {
        let id = PartitionId { topic: topic.id, index };
        if self.0.opener.partitions.serves(id) {
            return Ok(Seat::Here);
        }
        let (live, peers) = (self.0.peers.live(), &self.0.peers);
        let standing = |name: &BrokerName, session: SessionId| {
            let broker = live.get(name).filter(|broker| broker.session == session && !ended.contains(&session))?;
            peers.to(name, broker)
        };
        if let Some(peer) = self.0.remembered.get(id).and_then(|(name, session)| standing(&name, session)) {
            return Ok(Seat::There(peer));
        }
        let own = self.own_session();
        let (owners, placements) = (self.metadata().ownership(), self.metadata().placements());
        let (owner, placed) = try_join(owners.get(id), placements.get(id)).await.map_err(unreadable)?;
        if let Some(holder) = owner.and_then(|owner| owner.value.holder) {
            if holder.session == own {
                // What is to be elsewhere is being let go; who shall have it waits for that.
                return Ok(self.rather(id, ended, Moved::Any).map_or(Seat::Here, Seat::There));
            }
            if let Some(peer) = standing(&holder.broker, holder.session) {
                self.0.remembered.put(id, &peer);
                return Ok(Seat::There(peer));
            }
        }
        let placed = placed.map(|placed| placed.value.broker);
        // One that goes takes nothing, whether others know that yet or not.
        let leaving = self.context().is_leaving().then_some(own);
        let without: Vec<SessionId> = ended.iter().copied().chain(leaving).collect();
        Ok(match preferred(id, placed.as_ref(), &live, &without) {
            Some((_, broker)) if broker.session == own => Seat::Here,
            // Not remembered: it is the owner only once it has claimed.
            Some((name, broker)) => peers.to(name, broker).map_or(Seat::Here, Seat::There),
            None => Seat::Here,
        })
    }

    /// The owner of a partition if it is another broker, which lives by this broker's view.
    pub(crate) async fn owner_elsewhere(&self, id: PartitionId) -> Option<Peer> {
        let holder = self.metadata().ownership().get(id).await.ok()??.value.holder?;
        let live = self.0.peers.live();
        let broker = live.get(&holder.broker).filter(|broker| broker.session == holder.session)?;
        (holder.session != self.own_session()).then(|| self.0.peers.to(&holder.broker, broker))?
    }

    /// Who serves the partitions of a topic, as far as this broker knows without asking; of others, who is to.
    pub(crate) fn owners(&self, topic: &TopicInfo) -> Vec<v1::PartitionOwner> {
        let (live, placed) = (self.0.peers.live(), Arc::clone(&self.0.placed.borrow().members));
        let owner = |index: PartitionIndex| {
            let id = PartitionId { topic: topic.id, index };
            if self.0.opener.partitions.serves(id) {
                return Some((self.context().name.clone(), self.address().to_owned()));
            }
            let remembered = self.0.remembered.get(id);
            let stands = remembered.and_then(|(name, session)| live.get_key_value(&name).filter(|(_, b)| b.session == session));
            let placed = placed.get(&id).map(|placed| &placed.broker);
            let (name, broker) = stands.or_else(|| preferred(id, placed, &live, &[]))?;
            Some((name.clone(), broker.address.clone()))
        };
        let indices = (0..topic.partitions.min(OWNERS_MAX)).map(PartitionIndex::new);
        let named = indices.filter_map(|index| {
            let (broker, address) = owner(index)?;
            Some(v1::PartitionOwner { partition: index.get(), broker: broker.to_string(), address })
        });
        named.collect()
    }

    /// Whoever was asked for a partition is not its owner, or not any more.
    pub(crate) fn moved(&self, topic: TopicId, index: PartitionIndex) {
        self.0.remembered.forget(PartitionId { topic, index });
    }

    /// Until when this broker's present session lets it dispatch (M4).
    pub(crate) fn lease(&self) -> DispatchLease {
        self.0.opener.session.borrow().lease().clone()
    }

    /// This broker's present session.
    pub(super) fn own_session(&self) -> SessionId {
        self.0.opener.session.borrow().decider().session
    }
}
