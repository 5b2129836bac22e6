//! Planned moves: a broker hands a partition to the one that shall serve it, where an operator placed it elsewhere or the broker is
//! to go. It stores what it took, lets the partition go, and has the next owner serve it before anybody asks; who publishes and
//! consumes through this broker meanwhile is served by that one.

use std::time::Duration;

use alluvium_metadata::PartitionId;
use alluvium_proto::internal::v1 as wire;
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
/// How often it is looked whether something is to be moved that could not be moved before.
const LOOK: Duration = Duration::from_secs(5);

impl Broker {
    /// Moves what shall be elsewhere, whenever operators say so, until the broker goes: then everything is moved by who waits for it.
    pub(super) async fn keep_moving(&self) {
        let context = self.context();
        let mut placed = self.0.placed.clone();
        let mut brokers = self.0.peers.view();
        while !context.is_leaving() {
            self.move_away().await;
            let changed = async {
                tokio::select! {
                    biased;
                    changed = placed.changed() => changed,
                    changed = brokers.changed() => changed,
                    () = context.clock.sleep(LOOK) => Ok(()),
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
        let misplaced: Vec<(PartitionHandle, Peer)> =
            self.0.opener.partitions.open().into_iter().filter_map(|(id, handle)| Some((handle, self.rather(id)?))).collect();
        let at_once = (misplaced.len() / ROUNDS).clamp(AT_ONCE.0, AT_ONCE.1);
        stream::iter(misplaced)
            .for_each_concurrent(at_once, |(handle, to)| async move { self.hand_over(&handle, &to).await })
            .await;
    }

    /// The broker that shall serve a partition of this one instead, if there is one.
    pub(super) fn rather(&self, partition: PartitionId) -> Option<Peer> {
        let (live, own) = (self.0.peers.live(), self.own_session());
        let leaves = self.context().is_leaving() || live.get(&self.context().name).is_some_and(|own| own.draining);
        let placed = self.0.placed.borrow().members.get(&partition).map(|placed| placed.broker.clone());
        let without: &[_] = if leaves { &[own] } else { &[] };
        let (name, broker) = preferred(partition, placed.as_ref(), &live, without)?;
        let better = broker.session != own && !broker.draining && (leaves || placed.as_ref() == Some(name));
        better.then(|| self.0.peers.to(name, broker))?
    }

    async fn hand_over(&self, handle: &PartitionHandle, to: &Peer) {
        let (context, name) = (self.context(), handle.name());
        if handle.is_closing() {
            // It is on the move already.
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
