//! Planned moves: a broker hands a partition to the one that shall serve it, where an operator placed it elsewhere, where a broker that is
//! preferred for it has come to stay, or where the broker is to go. It stores what it took, lets the partition go, and has the next owner serve it before anybody asks; who publishes and
//! consumes through this broker meanwhile is served by that one.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use alluvium_metadata::PartitionId;
use alluvium_proto::internal::v1 as wire;
use alluvium_proto::status::RemoteFault;
use alluvium_types::ids::SessionId;
use alluvium_types::time::Mono;
use futures::future::join_all;
use futures::{StreamExt, stream};
use tokio::sync::watch;

use super::Broker;
use super::placement::preferred;
use crate::forward::{Peer, answered};
use crate::topic::PartitionHandle;
use crate::topic::command::Command;

/// How many partitions are on the move at a time: the fewest and the most. Whoever publishes to one waits for all that move with it,
/// so that few at a time are better for all, as long as it doesn't take too long.
const AT_ONCE: (usize, usize) = (4, 64);
/// As many rounds a move of very many partitions takes, about.
const ROUNDS: usize = 64;
/// How long a partition may take to be let go, and its next owner to serve it.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long saying that this broker is to go may take.
const ANNOUNCE: Duration = Duration::from_secs(1);
/// How long a broker may take to answer that is to be given something, and metadata before something is let go.
const ANSWERS: Duration = Duration::from_secs(1);
/// How often it is looked whether something is to be moved that could not be moved before.
const LOOK: Duration = Duration::from_secs(5);

/// Since when other brokers have been there, by this one's view.
#[derive(Debug, Default)]
pub(super) struct Seen(BTreeMap<SessionId, Mono>);

impl Seen {
    fn look(&mut self, now: Mono, live: impl Iterator<Item = SessionId>) {
        let before = std::mem::take(&mut self.0);
        self.0 = live.map(|session| (session, before.get(&session).copied().unwrap_or(now))).collect();
    }

    fn is_there_for(&self, session: SessionId, now: Mono, span: Duration) -> bool {
        self.0.get(&session).is_some_and(|since| now.since(*since) >= span)
    }
}

/// Which partitions are to be elsewhere.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Moved {
    /// Those that an operator placed elsewhere, and all if this broker goes.
    Told,
    /// Those, and what a broker is preferred for that has come to stay.
    Any,
}

impl Broker {
    /// Moves what shall be elsewhere, whenever operators say so, until the broker goes: then everything is moved by who waits for it.
    pub(super) async fn keep_moving(&self) {
        let context = self.context();
        // Sooner where somebody is given something back sooner.
        let look = match context.config.rebalance_after_ms {
            0 => LOOK,
            after => Duration::from_millis(after).clamp(LOOK / 100, LOOK),
        };
        let mut placed = self.0.placed.clone();
        let mut brokers = self.0.peers.view();
        while !context.is_leaving() {
            let live = self.0.peers.live();
            self.0.seen.lock().look(context.clock.mono(), live.values().map(|broker| broker.session));
            self.move_away().await;
            let changed = async {
                tokio::select! {
                    biased;
                    changed = placed.changed() => changed,
                    changed = brokers.changed() => changed,
                    () = context.clock.sleep(look) => Ok(()),
                }
            };
            tokio::select! {
                biased;
                () = context.own_tasks.stopping() => return,
                changed = changed => {
                    // A view that ended ends with this process.
                    let Ok::<(), watch::error::RecvError>(()) = changed else { return };
                }
            }
        }
    }

    /// Hands over all that shall be elsewhere.
    async fn move_away(&self) {
        if self.0.peers.live().len() < 2 {
            return;
        }
        let open = self.0.opener.partitions.open().into_iter();
        let mut misplaced: Vec<(PartitionId, PartitionHandle, Peer)> =
            open.filter_map(|(id, handle)| Some((id, handle, self.rather(id, &[], Moved::Any)?))).collect();
        if !self.context().is_leaving() {
            // Nothing is let go for one that lives by its session alone.
            let targets: BTreeMap<SessionId, (&PartitionHandle, &Peer)> =
                misplaced.iter().map(|(_, handle, to)| (to.session(), (handle, to))).collect();
            let asked = targets.values().map(|(handle, to)| async { (to.session(), self.answers(to, handle).await) });
            let silent: BTreeSet<SessionId> =
                join_all(asked).await.into_iter().filter(|(_, answers)| !answers).map(|(session, _)| session).collect();
            misplaced.retain(|(_, _, to)| !silent.contains(&to.session()));
        }
        let at_once = (misplaced.len() / ROUNDS).clamp(AT_ONCE.0, AT_ONCE.1);
        stream::iter(misplaced)
            .for_each_concurrent(at_once, |(id, handle, to)| async move { self.hand_over(id, &handle, &to).await })
            .await;
    }

    /// Whether a broker answers.
    async fn answers(&self, to: &Peer, handle: &PartitionHandle) -> bool {
        let name = handle.name();
        let request = wire::InspectPartitionRequest { topic: name.topic.to_string(), partition: name.index.get() };
        let mut asked = to.calling();
        match self.context().clock.timeout(ANSWERS, asked.inspect_partition(request)).await {
            Ok(Ok(_)) => true,
            // That it does not serve it yet is an answer as well.
            Ok(Err(status)) => !RemoteFault::from(&status).reason.is_empty(),
            Err(_) => false,
        }
    }

    /// The broker that shall serve a partition of this one instead, if there is one; none of those that have `ended`.
    pub(super) fn rather(&self, partition: PartitionId, ended: &[SessionId], moved: Moved) -> Option<Peer> {
        let (live, own) = (self.0.peers.live(), self.own_session());
        let leaves = self.context().is_leaving() || live.get(&self.context().name).is_some_and(|own| own.draining);
        let placed = self.0.placed.borrow().members.get(&partition).map(|placed| placed.broker.clone());
        let without: Vec<SessionId> = ended.iter().copied().chain(leaves.then_some(own)).collect();
        let (name, broker) = preferred(partition, placed.as_ref(), &live, &without)?;
        let is_due = leaves || placed.as_ref() == Some(name) || (moved == Moved::Any && self.stays(broker.session));
        let better = broker.session != own && !broker.draining && is_due;
        better.then(|| self.0.peers.to(name, broker))?
    }

    /// Whether a broker has been there for so long that it is given what it is preferred for.
    fn stays(&self, session: SessionId) -> bool {
        let after = Duration::from_millis(self.context().config.rebalance_after_ms);
        !after.is_zero() && self.0.seen.lock().is_there_for(session, self.context().clock.mono(), after)
    }

    async fn hand_over(&self, id: PartitionId, handle: &PartitionHandle, to: &Peer) {
        let (context, name) = (self.context(), handle.name());
        // It is on the move already, or metadata is away.
        if handle.is_closing() || !(context.is_leaving() || self.lease().is_certain()) {
            return;
        }
        // What needs metadata to be served again is not let go while that is away (M7).
        if !context.is_leaving()
            && !matches!(context.clock.timeout(ANSWERS, context.metadata.ownership().get(id)).await, Ok(Ok(_)))
        {
            tracing::warn!(partition = %name, to = %to.name(), "a partition is not handed over: metadata does not answer");
            return;
        }
        let begun = context.clock.mono();
        let moved = async {
            // One that is over was let go already.
            let _ = handle.commands().send(Command::Drain).await;
            handle.over().await;
            let request = wire::ServePartitionRequest { topic: name.topic.to_string(), partition: name.index.get() };
            answered(to, to.calling().serve_partition(request)).await
        };
        match context.clock.timeout(PATIENCE, moved).await {
            Ok(Ok(_)) => {
                context.metrics.moves.inc();
                let took = context.clock.mono().since(begun);
                tracing::info!(partition = %name, to = %to.name(), ?took, "a partition was handed over");
            }
            // Whoever is asked for it serves it.
            Ok(Err(status)) => {
                tracing::warn!(partition = %name, to = %to.name(), %status, "a partition was let go, and not taken over")
            }
            Err(elapsed) => tracing::warn!(partition = %name, to = %to.name(), %elapsed, "a partition is still on the move"),
        }
    }

    /// Hands everything over before the broker goes, if there is anybody to take it, in about `grace`.
    pub(super) async fn leave(&self, grace: Duration) {
        let context = self.context();
        let others = self.0.peers.live().values().any(|broker| broker.session != self.own_session() && !broker.draining);
        if !others {
            return;
        }
        context.leave();
        let session = self.0.opener.session.borrow().clone();
        let brokers = context.metadata.brokers();
        let announced = brokers.set_draining(session.decider(), true);
        // Who doesn't know it asks here, and is told who took over.
        if !matches!(context.clock.timeout(ANNOUNCE, announced).await, Ok(Ok(()))) {
            tracing::debug!(broker = %context.name, "nobody was told that the broker goes");
        }
        if context.clock.timeout(grace, self.move_away()).await.is_err() {
            tracing::warn!(broker = %context.name, "not all partitions were handed over in time");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_that_comes_and_goes_has_not_come_to_stay() {
        let at = |seconds| Mono::from_duration(Duration::from_secs(seconds));
        let session = |number| SessionId::new(uuid::Uuid::from_u128(number));
        let mut seen = Seen::default();
        seen.look(at(0), [session(1), session(2)].into_iter());
        seen.look(at(5), [session(1)].into_iter());
        seen.look(at(10), [session(1), session(2)].into_iter());
        let stays = |number, now| seen.is_there_for(session(number), at(now), Duration::from_secs(10));
        assert!(stays(1, 10) && !stays(1, 9));
        assert!(!stays(2, 19) && stays(2, 20), "since it was seen again");
        assert!(!stays(3, 100));
    }
}
