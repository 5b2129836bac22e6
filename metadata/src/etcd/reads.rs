//! Reads that wait at the same time go to etcd in one request, and who asks the same is told the same.
//!
//! A round begins after everybody in it has asked, so each sees all that was answered before it asked (M6). Nobody waits for
//! company: a read goes at once while few rounds are on their way, and what comes meanwhile goes with the next one. A broker that
//! takes hundreds of partitions over asks etcd for thousands of small records, and a request costs etcd far more than a record.

use std::collections::HashMap;
use std::sync::Arc;

use alluvium_runtime::tasks::{OnFailure, Tasks};
use alluvium_types::ids::Revision;
use etcd_client::{GetOptions, GetResponse, Txn, TxnOp, TxnOpResponse, TxnResponse};
use futures::stream::{self, FuturesUnordered, StreamExt};
use tokio::sync::{mpsc, oneshot};

use super::fault::{Fault, Kind};
use super::layout::{self, Layout};
use super::members::{self, Answer, Members, Repeat};
use crate::store::{KeyValue, TXN_OPS_MAX};

/// Rounds on their way at a time.
const ROUNDS_MAX: usize = 4;
/// Records that the questions of a round ask for, about: what is long holds up what is short.
const RECORDS_MAX: usize = 4096;
/// Questions of a round that are asked at a time when they can't be asked together.
const ALONE_AT_ONCE: usize = 16;
/// Questions that wait for a round; who comes behind them waits to ask.
const WAITING_MAX: usize = 4096;

/// What is read.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Question {
    /// One key.
    Key(Vec<u8>),
    /// The first records from one key to before another.
    Page {
        /// The first key.
        start: Vec<u8>,
        /// Behind the last one.
        end: Vec<u8>,
        /// At most so many.
        limit: usize,
    },
}

/// What was found.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    /// The revision at which it was so.
    pub(crate) revision: Revision,
    /// The records, in key order.
    pub(crate) records: Vec<KeyValue>,
    /// Whether there are more behind them.
    pub(crate) more: bool,
}

type Told = oneshot::Sender<Result<Found, Fault>>;

/// The way to ask. See the module.
#[derive(Clone, Debug)]
pub(crate) struct Reads(mpsc::Sender<(Question, Told)>);

impl Reads {
    /// Begins to ask, until `tasks` stop.
    pub(crate) fn begin(members: Arc<Members>, layout: Layout, tasks: &Tasks) -> Self {
        let (asks, asked) = mpsc::channel(WAITING_MAX);
        let (desk, stopping) = (Desk { members, layout }, tasks.clone());
        tasks.spawn("metadata-etcd-reads", OnFailure::ShutDown, async move {
            tokio::select! {
                biased;
                () = stopping.stopping() => {}
                () = desk.run(asked) => {}
            }
            Ok::<(), String>(())
        });
        Self(asks)
    }

    /// Asks; `None` when the process stops. Cancel safe.
    pub(crate) async fn ask(&self, question: Question) -> Option<Result<Found, Fault>> {
        let (told, answer) = oneshot::channel();
        self.0.send((question, told)).await.ok()?;
        answer.await.ok()
    }
}

/// Everybody who is told by one request.
#[derive(Debug, Default)]
struct Round {
    questions: Vec<Question>,
    /// What they ask for at most.
    records: usize,
    /// Who asked what, by its place.
    askers: Vec<(usize, Told)>,
    places: HashMap<Question, usize>,
}

impl Round {
    fn add(&mut self, question: Question, told: Told) {
        let Self { questions, records, askers, places } = self;
        let place = *places.entry(question).or_insert_with_key(|question| {
            *records += question.records();
            questions.push(question.clone());
            questions.len() - 1
        });
        askers.push((place, told));
    }

    fn is_full(&self) -> bool {
        self.questions.len() == TXN_OPS_MAX || self.records >= RECORDS_MAX
    }

    fn tell(self, answers: &[Result<Found, Fault>]) {
        for (place, told) in self.askers {
            // Who asked may have given up.
            let _ = told.send(answers[place].clone());
        }
    }
}

struct Desk {
    members: Arc<Members>,
    layout: Layout,
}

impl Desk {
    async fn run(&self, mut asked: mpsc::Receiver<(Question, Told)>) {
        let mut rounds = FuturesUnordered::new();
        loop {
            tokio::select! {
                biased;
                Some(()) = rounds.next(), if !rounds.is_empty() => {}
                first = asked.recv(), if rounds.len() < ROUNDS_MAX => {
                    let Some((question, told)) = first else { return };
                    let mut round = Round::default();
                    round.add(question, told);
                    while !round.is_full() && let Ok((question, told)) = asked.try_recv() {
                        round.add(question, told);
                    }
                    rounds.push(self.hold(round));
                }
            }
        }
    }

    async fn hold(&self, round: Round) {
        let answers = match &round.questions[..] {
            [question] => vec![self.one(question).await],
            questions => match self.together(questions).await {
                Ok(found) => found.into_iter().map(Ok).collect(),
                // They are too long together; or etcd has no room, and some releases take what only reads for a write then (M7).
                Err(Fault { kind: Kind::AnswerTooLarge | Kind::Full, .. }) => {
                    let alone = stream::iter(questions.to_vec()).map(|question| async move { self.one(&question).await });
                    alone.buffered(ALONE_AT_ONCE).collect().await
                }
                Err(fault) => vec![Err(fault); questions.len()],
            },
        };
        round.tell(&answers);
    }

    async fn one(&self, question: &Question) -> Result<Found, Fault> {
        let (key, options) = question.asked();
        let (key, options) = (&key, &options);
        let asked = self
            .members
            .ask(Repeat::Freely, |client| async move { members::kv(&client).get(key.clone(), options.clone()).await });
        let answer: GetResponse = asked.await?;
        let revision = revision_of(&answer);
        Ok(self.found(revision, answer))
    }

    async fn together(&self, questions: &[Question]) -> Result<Vec<Found>, Fault> {
        let reads: Vec<TxnOp> = questions
            .iter()
            .map(|question| {
                let (key, options) = question.asked();
                TxnOp::get(key, options)
            })
            .collect();
        let txn = &Txn::new().and_then(reads);
        let asked = self.members.ask(Repeat::Freely, |client| async move { members::kv(&client).txn(txn.clone()).await });
        let answer: TxnResponse = asked.await?;
        let revision = revision_of(&answer);
        let found: Vec<Found> = answer
            .op_responses()
            .into_iter()
            .filter_map(|response| match response {
                TxnOpResponse::Get(answer) => Some(self.found(revision, answer)),
                _ => None,
            })
            .collect();
        if found.len() == questions.len() {
            return Ok(found);
        }
        let reason = format!("{} reads were answered with {} results", questions.len(), found.len());
        Err(Fault { kind: Kind::Open, reason })
    }

    fn found(&self, revision: Revision, mut answer: GetResponse) -> Found {
        let more = answer.more();
        let records = answer.take_kvs().into_iter().filter_map(|found| self.layout.record(found)).collect();
        Found { revision, records, more }
    }
}

impl Question {
    /// How many records it asks for at most.
    const fn records(&self) -> usize {
        match self {
            Self::Key(_) => 1,
            Self::Page { limit, .. } => *limit,
        }
    }

    fn asked(&self) -> (Vec<u8>, Option<GetOptions>) {
        match self {
            Self::Key(key) => (key.clone(), None),
            Self::Page { start, end, limit } => {
                let limit = i64::try_from(*limit).expect("a page is small");
                (start.clone(), Some(GetOptions::new().with_range(end.clone()).with_limit(limit)))
            }
        }
    }
}

/// The revision of an answer whose header was checked.
pub(super) fn revision_of(answer: &impl Answer) -> Revision {
    layout::revision(answer.header().expect("its header was checked").revision())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Question {
        Question::Key(name.as_bytes().to_vec())
    }

    fn found(revision: u64) -> Result<Found, Fault> {
        Ok(Found { revision: Revision::new(revision), records: Vec::new(), more: false })
    }

    #[tokio::test]
    async fn who_asks_the_same_is_told_the_same_and_is_asked_for_once() {
        let mut round = Round::default();
        let mut answers = Vec::new();
        for name in ["a", "b", "a"] {
            let (told, answer) = oneshot::channel();
            round.add(key(name), told);
            answers.push(answer);
        }
        assert_eq!(round.questions, [key("a"), key("b")]);
        // Who gave up holds nobody up.
        drop(answers.remove(1));
        round.tell(&[found(7), found(8)]);
        for answer in answers {
            assert_eq!(answer.await.expect("told").expect("found").revision, Revision::new(7));
        }
    }

    #[test]
    fn a_round_has_an_end() {
        let mut round = Round::default();
        while !round.is_full() {
            round.add(key(&round.questions.len().to_string()), oneshot::channel().0);
        }
        assert_eq!(round.questions.len(), TXN_OPS_MAX);

        let mut round = Round::default();
        while !round.is_full() {
            let start = round.questions.len().to_string().into_bytes();
            round.add(Question::Page { start, end: Vec::new(), limit: 1000 }, oneshot::channel().0);
        }
        assert_eq!(round.questions.len(), 5);
    }
}
