//! The session against a model of a server that keeps the rules (D1, D4, D6) and loses streams, answers and requests.

use std::collections::VecDeque;

use alluvium_runtime::entropy::Entropy;
use alluvium_types::batch::Codec;
use alluvium_types::time::Timestamp;
use proptest::prelude::*;

use super::*;

/// One partition of one producer, as a server keeps it.
#[derive(Default)]
struct Server {
    /// What the log holds: the token of each batch, in order.
    log: Vec<u64>,
    next_sequence: u64,
    epoch: u64,
    requests: VecDeque<Request>,
    answers: VecDeque<Answer>,
}

enum Answer {
    Claimed(v1::PublishClaimed),
    Receipt(v1::PublishReceipt),
}

impl Server {
    fn serve(&mut self, busy: bool, amnesia: bool) {
        let Some(request) = self.requests.pop_front() else { return };
        let answer = match request {
            Request::Claim { partition, .. } => {
                self.epoch += 1;
                let last_sequence = self.next_sequence.checked_sub(1);
                Answer::Claimed(v1::PublishClaimed { partition, epoch: self.epoch, last_sequence, ..Default::default() })
            }
            Request::Batch { id, partition, epoch, batch } => {
                let mut receipt = v1::PublishReceipt { id, partition, ..Default::default() };
                let fault = |code: i32, reason: &str, retry| v1::Fault {
                    code,
                    reason: reason.to_owned(),
                    retry_after_ms: retry,
                    ..Default::default()
                };
                if epoch < self.epoch {
                    receipt.fault = Some(fault(9, "PRODUCER_UNKNOWN", None));
                } else if batch.first_sequence > self.next_sequence {
                    receipt.fault = Some(fault(9, "SEQUENCE_GAP", None));
                } else if batch.first_sequence < self.next_sequence {
                    receipt.first_offset = batch.first_sequence;
                    receipt.duplicate = true;
                } else if busy {
                    receipt.fault = Some(fault(8, "BUSY", Some(1)));
                } else {
                    receipt.first_offset = self.next_sequence;
                    self.next_sequence += u64::from(batch.count);
                    self.log.push(batch.publish_time_ms);
                    if amnesia {
                        receipt.fault = Some(fault(2, "LOST", Some(1)));
                    }
                }
                Answer::Receipt(receipt)
            }
        };
        self.answers.push_back(answer);
    }
}

#[derive(Clone, Debug)]
enum Step {
    Queue { count: u32 },
    Send,
    Serve { busy: bool, amnesia: bool },
    Answer,
    Lose,
    Wait,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (1..4_u32).prop_map(|count| Step::Queue { count }),
        4 => Just(Step::Send),
        4 => (prop::bool::weighted(0.15), prop::bool::weighted(0.1)).prop_map(|(busy, amnesia)| Step::Serve { busy, amnesia }),
        4 => Just(Step::Answer),
        1 => Just(Step::Lose),
        1 => Just(Step::Wait),
    ]
}

struct Run {
    session: Session<u64>,
    server: Server,
    now: Mono,
    queued: u64,
    next_sequence: Option<u64>,
    told: Vec<u64>,
}

impl Run {
    fn new() -> Self {
        let rules = Rules { name: Some("p".to_owned()), resend_unresolved: false, timeout: Duration::from_secs(3600) };
        let backoff = Backoff::new(Duration::from_millis(1), Duration::from_millis(10), Entropy::seeded(1));
        let session = Session::new(rules, 1, &backoff);
        let now = Mono::default();
        Self { session, server: Server::default(), now, queued: 0, next_sequence: None, told: Vec::new() }
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Queue { count } => self.queue(*count),
            Step::Send => self.server.requests.extend(self.session.next_request(self.now)),
            Step::Serve { busy, amnesia } => self.server.serve(*busy, *amnesia),
            Step::Answer => match self.server.answers.pop_front() {
                Some(Answer::Claimed(claimed)) => self.session.on_claimed(claimed, self.now),
                Some(Answer::Receipt(receipt)) => self.session.on_receipt(receipt, self.now),
                None => {}
            },
            Step::Lose => self.lose(),
            Step::Wait => self.now = self.now.after(Duration::from_millis(20)),
        }
        self.apply();
    }

    /// As the task does: a batch is added once the partition is claimed and takes it.
    fn queue(&mut self, count: u32) {
        self.session.want_claim(0, self.now);
        let Some(next) = self.next_sequence else { return };
        if !self.session.accepts(0, self.now) {
            return;
        }
        let mut builder = alluvium_proto::batch::BatchBuilder::with_capacity(0);
        for _ in 0..count {
            builder.push(&v1::Message::default());
        }
        let batch = builder.finish(Codec::None, next, Timestamp::from_millis(self.queued));
        self.session.add(Closed { partition: 0, batch, outcome: self.queued, since: self.now });
        self.queued += 1;
        self.next_sequence = Some(next + u64::from(count));
    }

    fn lose(&mut self) {
        self.server.requests.clear();
        self.server.answers.clear();
        self.session.on_disconnected(&Error::Closed, self.now);
    }

    fn apply(&mut self) {
        for effect in self.session.effects() {
            match effect {
                Effect::Told(token, Ok(_)) => self.told.push(token),
                Effect::Claimed { stored, .. } => {
                    self.next_sequence.get_or_insert(stored.map_or(0, |stored| stored + 1));
                }
                Effect::Reconnect(_) => self.lose(),
                other => panic!("nothing here may fail: {other:?}"),
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    /// D1, D6: whatever is lost or refused on the way, each batch is in the log once, in the order in which it was queued,
    /// before it is told to be; and once faults stop, all are.
    #[test]
    fn d1_every_batch_is_stored_once_and_in_order_whatever_is_lost(steps in prop::collection::vec(step(), 1..120)) {
        let mut run = Run::new();
        for step in &steps {
            run.take(step);
            prop_assert!(run.told.iter().all(|token| run.server.log.contains(token)), "told before it was stored");
        }
        for _ in 0..2000 {
            for step in [Step::Wait, Step::Send, Step::Serve { busy: false, amnesia: false }, Step::Answer] {
                run.take(&step);
            }
            if run.session.is_empty() {
                break;
            }
        }
        let all: Vec<u64> = (0..run.queued).collect();
        prop_assert_eq!(&run.server.log, &all);
        prop_assert_eq!(&run.told, &all);
    }
}
