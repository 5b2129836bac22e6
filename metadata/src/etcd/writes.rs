//! Transactions that wait at the same time go to etcd in one request, each still decided by itself: as a transaction within one.
//!
//! Those of a request touch different keys: etcd compares for all of them before it applies any, so none may write what another
//! one compares or writes. What they write shares a revision. Nobody waits for company: a transaction goes at once while few
//! requests are on their way, and what comes meanwhile goes with the next. A broker that takes hundreds of partitions over decides
//! thousands of small things, and a request costs etcd far more than a decision: a proposal, and a place in its log.

use std::collections::HashSet;
use std::sync::Arc;

use alluvium_runtime::tasks::{OnFailure, Tasks};
use bytes::Bytes;
use etcd_client::{Txn as EtcdTxn, TxnOp, TxnOpResponse, TxnResponse};
use futures::stream::{self, FuturesUnordered, StreamExt};
use tokio::sync::{mpsc, oneshot};

use super::fault::{Fault, Kind};
use super::layout::Layout;
use super::members::{Members, Repeat};
use super::reads::revision_of;
use crate::error::StoreError;
use crate::store::{Op, TXN_OPS_MAX, Txn, TxnOutcome};

/// Requests on their way at a time.
const ROUNDS_MAX: usize = 2;
/// Transactions of a request: with the operations or compares of each no more than etcd lets one have.
const TXNS_MAX: usize = TXN_OPS_MAX / 2;
/// The most operations, and the most compares, of a transaction that shares its request.
const SHARED_OPS_MAX: usize = TXN_OPS_MAX - TXNS_MAX;
/// Bytes of a request that is shared: what is long holds up what is short.
const SHARED_BYTES_MAX: usize = 256 << 10;
/// Transactions that wait for a request; who comes behind them waits to ask.
const WAITING_MAX: usize = 4096;
/// Of a request that etcd finds too large, how many transactions are asked at a time instead.
const ALONE_AT_ONCE: usize = 16;

type Outcome = Result<TxnOutcome, Fault>;

/// A transaction, and who is told.
type Waiting = (Txn, oneshot::Sender<Outcome>);

/// The way to decide. See the module.
#[derive(Clone, Debug)]
pub(crate) struct Writes {
    asks: mpsc::Sender<Waiting>,
    desk: Arc<Desk>,
}

impl Writes {
    /// Begins to decide, until `tasks` stop.
    pub(crate) fn begin(members: Arc<Members>, layout: Layout, tasks: &Tasks) -> Self {
        let (asks, asked) = mpsc::channel(WAITING_MAX);
        let desk = Arc::new(Desk { members, layout });
        let (running, stopping) = (Arc::clone(&desk), tasks.clone());
        tasks.spawn("metadata-etcd-writes", OnFailure::ShutDown, async move {
            tokio::select! {
                biased;
                () = stopping.stopping() => {}
                () = running.run(asked) => {}
            }
            Ok::<(), String>(())
        });
        Self { asks, desk }
    }

    /// Decides a transaction that was checked. One that nobody waits for any more is not begun.
    pub(crate) async fn decide(&self, txn: &Txn) -> Result<Outcome, StoreError> {
        let (told, answer) = oneshot::channel();
        if self.asks.send((txn.clone(), told)).await.is_err() {
            // The process stops; goodbyes are said one by one.
            return Ok(self.desk.one(txn).await);
        }
        // Where the process stops before the answer, it may be on its way (M3).
        answer.await.map_err(|_| StoreError::Unknown)
    }
}

/// What is decided by one request.
#[derive(Debug, Default)]
struct Round {
    waiting: Vec<Waiting>,
    bytes: usize,
    compared: HashSet<Bytes>,
    written: HashSet<Bytes>,
}

impl Round {
    /// Takes it in, unless it has to go another time.
    fn add(&mut self, waiting: Waiting) -> Result<(), Waiting> {
        let txn = &waiting.0;
        let is_fit = self.is_shared() && may_share(txn) && self.has_room_for(txn);
        if !self.waiting.is_empty() && !is_fit {
            return Err(waiting);
        }
        self.bytes += txn.bytes();
        self.compared.extend(txn.compares.iter().map(|compare| compare.key.clone()));
        self.written.extend(txn.ops.iter().map(|op| op.key().clone()));
        self.waiting.push(waiting);
        Ok(())
    }

    /// Whether what is in it goes with others.
    fn is_shared(&self) -> bool {
        self.waiting.first().is_none_or(|(txn, _)| may_share(txn))
    }

    fn has_room_for(&self, txn: &Txn) -> bool {
        let is_free = |op: &Op| !self.written.contains(op.key()) && !self.compared.contains(op.key());
        self.waiting.len() < TXNS_MAX
            && self.bytes + txn.bytes() <= SHARED_BYTES_MAX
            && txn.ops.iter().all(is_free)
            && !txn.compares.iter().any(|compare| self.written.contains(&compare.key))
    }
}

/// Whether a transaction goes with others. One that is bound to a session does not: etcd refuses all of a request with a lease
/// that is gone.
fn may_share(txn: &Txn) -> bool {
    txn.ops.len() <= SHARED_OPS_MAX
        && txn.compares.len() <= SHARED_OPS_MAX
        && !txn.ops.iter().any(|op| matches!(op, Op::Put { session: Some(_), .. }))
}

#[derive(Debug)]
struct Desk {
    members: Arc<Members>,
    layout: Layout,
}

impl Desk {
    async fn run(&self, mut asked: mpsc::Receiver<Waiting>) {
        let mut rounds = FuturesUnordered::new();
        // The first one of the next request.
        let mut first: Option<Waiting> = None;
        loop {
            tokio::select! {
                biased;
                Some(()) = rounds.next(), if !rounds.is_empty() => {}
                next = async { match first.take() { Some(first) => Some(first), None => asked.recv().await } },
                    if rounds.len() < ROUNDS_MAX =>
                {
                    let Some(next) = next else { return };
                    let mut round = Round::default();
                    let mut next = Some(next);
                    while let Some(waiting) = next.take() {
                        let is_awaited = !waiting.1.is_closed();
                        if is_awaited && let Err(another) = round.add(waiting) {
                            first = Some(another);
                            break;
                        }
                        next = asked.try_recv().ok();
                    }
                    if !round.waiting.is_empty() {
                        rounds.push(self.hold(round));
                    }
                }
            }
        }
    }

    async fn hold(&self, round: Round) {
        let (txns, told): (Vec<Txn>, Vec<_>) = round.waiting.into_iter().unzip();
        let outcomes = match &txns[..] {
            [txn] => vec![self.one(txn).await],
            txns => match self.together(txns).await {
                Ok(outcomes) => outcomes.into_iter().map(Ok).collect(),
                // For certain nothing of it was applied: this etcd has less room for a request than others.
                Err(Fault { kind: Kind::TooMuch, .. }) => {
                    let alone = stream::iter(txns.to_vec()).map(|txn| async move { self.one(&txn).await });
                    alone.buffered(ALONE_AT_ONCE).collect().await
                }
                Err(fault) => vec![Err(fault); txns.len()],
            },
        };
        for (told, outcome) in told.into_iter().zip(outcomes) {
            // Who asked may have given up.
            let _ = told.send(outcome);
        }
    }

    async fn one(&self, txn: &Txn) -> Outcome {
        let answer = self.ask(&self.layout.txn(txn)).await?;
        let revision = revision_of(&answer);
        Ok(if answer.succeeded() { TxnOutcome::Committed { revision } } else { TxnOutcome::Conflict })
    }

    async fn together(&self, txns: &[Txn]) -> Result<Vec<TxnOutcome>, Fault> {
        let within: Vec<TxnOp> = txns.iter().map(|txn| TxnOp::txn(self.layout.txn(txn))).collect();
        let answer = self.ask(&EtcdTxn::new().and_then(within)).await?;
        let revision = revision_of(&answer);
        let outcomes: Vec<TxnOutcome> = answer
            .op_responses()
            .into_iter()
            .filter_map(|response| match response {
                TxnOpResponse::Txn(answer) if answer.succeeded() => Some(TxnOutcome::Committed { revision }),
                TxnOpResponse::Txn(_) => Some(TxnOutcome::Conflict),
                _ => None,
            })
            .collect();
        if outcomes.len() == txns.len() {
            return Ok(outcomes);
        }
        let reason = format!("{} transactions were answered with {} results", txns.len(), outcomes.len());
        Err(Fault { kind: Kind::Open, reason })
    }

    async fn ask(&self, request: &EtcdTxn) -> Result<TxnResponse, Fault> {
        self.members.ask(Repeat::IfNotApplied, |client| async move { client.kv_client().txn(request.clone()).await }).await
    }
}

#[cfg(test)]
mod tests {
    use alluvium_runtime::entropy::Entropy;
    use alluvium_types::ids::SessionId;

    use super::*;
    use crate::store::Condition;

    fn key(name: &str) -> Bytes {
        Bytes::copy_from_slice(name.as_bytes())
    }

    fn writes(name: &str) -> Txn {
        Txn::new().put(key(name), Bytes::new())
    }

    /// Whether these go in one request.
    fn together(txns: impl IntoIterator<Item = Txn>) -> bool {
        let mut round = Round::default();
        txns.into_iter().all(|txn| round.add((txn, oneshot::channel().0)).is_ok())
    }

    #[test]
    fn m1_what_depends_on_each_other_is_decided_one_after_the_other() {
        let compares = |name, written| writes(written).when(key(name), Condition::Present);
        assert!(together([writes("a"), writes("b"), compares("c", "d"), compares("c", "e")]));
        assert!(!together([writes("a"), writes("a")]), "both write it");
        assert!(!together([writes("a"), compares("a", "b")]), "the second might see it as it was");
        assert!(!together([compares("a", "b"), writes("a")]), "in whichever order");
    }

    #[test]
    fn a_request_is_bounded_and_what_is_large_or_bound_goes_alone() {
        let many = |count| (0..count).map(|number: usize| writes(&number.to_string()));
        assert!(together(many(TXNS_MAX)) && !together(many(TXNS_MAX + 1)));
        let large = || Txn::new().put(key("large"), Bytes::from(vec![0; SHARED_BYTES_MAX]));
        assert!(together([large()]) && !together([writes("a"), large()]) && !together([large(), writes("a")]));
        let wide = || (0..=SHARED_OPS_MAX).fold(Txn::new(), |txn, number| txn.delete(key(&number.to_string())));
        assert!(together([wide()]) && !together([writes("a"), wide()]) && !together([wide(), writes("a")]));
        let bound = || Txn::new().put_bound(key("b"), Bytes::new(), SessionId::new(Entropy::seeded(1).uuid()));
        assert!(together([bound()]) && !together([writes("a"), bound()]) && !together([bound(), writes("a")]));
    }
}
