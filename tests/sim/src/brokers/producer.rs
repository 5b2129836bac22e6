//! Producers: they publish to whichever broker they are told, go elsewhere when it fails, and remember what was confirmed.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use alluvium_proto::batch::BatchBuilder;
use alluvium_proto::v1;
use alluvium_proto::v1::Guarantee;
use alluvium_proto::v1::publish_stream_request::Request;
use alluvium_proto::v1::publish_stream_response::Response;
use alluvium_runtime::tasks::OnFailure;
use alluvium_types::batch::Codec;
use alluvium_types::time::{Mono, Timestamp};
use bytes::Bytes;

use super::history::Partition;
use super::link::Call;
use super::world::{TOPIC, World};
use crate::dice::Dice;

/// Batches without an outcome.
const WINDOW: usize = 4;
/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_millis(1500);
/// How long a client that has gone elsewhere still hears its old stream.
const GHOST: Duration = Duration::from_secs(4);

type Publishing = Call<v1::PublishStreamRequest, v1::PublishStreamResponse>;

/// One producer of one partition.
pub(super) struct Producer {
    world: Arc<World>,
    name: String,
    partition: Partition,
    /// Whether it claims its name and sends again what has no outcome.
    is_idempotent: bool,
    dice: Dice,
    epoch: Option<u64>,
    /// Batches that it has not made yet.
    left: u64,
    next_sequence: u64,
    confirmed: Option<u64>,
    open: VecDeque<Batch>,
}

/// Messages that are sent together, always the same ones.
#[derive(Clone, Copy, Debug)]
struct Batch {
    first: u64,
    count: u32,
}

impl Producer {
    pub(super) fn new(world: Arc<World>, name: String, partition: Partition, dice: Dice) -> Self {
        let (left, is_idempotent) = (world.plan.shape.batches, name.starts_with('i'));
        let (epoch, confirmed, open) = (None, None, VecDeque::new());
        Self { world, name, partition, is_idempotent, dice, epoch, left, next_sequence: 0, confirmed, open }
    }

    /// Publishes all it has.
    pub(super) async fn run(mut self) {
        while self.left > 0 || !self.open.is_empty() {
            let node = self.world.choose(&mut self.dice);
            if let Some(mut call) = self.world.publish(node) {
                let served = self.serve(&mut call).await;
                self.leave(call);
                if served.is_some() {
                    return;
                }
            }
            self.world.complain(node, &mut self.dice);
            let pause = self.dice.time(Duration::from_millis(5), Duration::from_millis(150));
            self.world.clock.sleep(pause).await;
        }
    }

    fn text(&self, sequence: u64) -> String {
        format!("{}:{sequence}", self.name)
    }

    async fn serve(&mut self, call: &mut Publishing) -> Option<()> {
        let open = v1::PublishOpen {
            hello: Some(v1::Hello { protocol_version: 1, client: "sim".to_owned() }),
            topic: TOPIC.to_owned(),
            guarantee: Guarantee::Quorum.into(),
            producer: if self.is_idempotent { self.name.clone() } else { String::new() },
        };
        self.send(call, Request::Open(open)).await?;
        let Response::Opened(_) = self.hear(call, PATIENCE).await? else { return None };
        if self.is_idempotent {
            self.claim(call).await?;
        }
        for batch in self.open.clone() {
            self.send(call, self.request(batch)).await?;
        }
        let mut next = self.world.clock.mono();
        let mut heard = next;
        while self.left > 0 || !self.open.is_empty() {
            let may_send = self.left > 0 && self.open.len() < WINDOW;
            let now = self.world.clock.mono();
            if may_send && now >= next {
                let batch = self.make(now);
                if self.skips() {
                    // A faulty client: what comes first is sent behind it, which is refused (D6).
                    let behind = self.make(now);
                    self.send(call, self.request(behind)).await?;
                }
                self.send(call, self.request(batch)).await?;
                heard = if self.open.len() == 1 { now } else { heard };
                next = now.after(self.dice.time(Duration::ZERO, self.world.plan.shape.gap));
                continue;
            }
            let wait = if may_send { next.since(now) } else { PATIENCE };
            match self.hear(call, wait).await {
                Some(Response::Receipts(receipts)) => {
                    heard = self.world.clock.mono();
                    for receipt in receipts.receipts {
                        self.receipt(&receipt)?;
                    }
                }
                Some(_) => return None,
                None if call.is_over() || !self.open.is_empty() && self.world.clock.mono().since(heard) >= PATIENCE => {
                    return None;
                }
                None => {}
            }
        }
        Some(())
    }

    async fn claim(&mut self, call: &mut Publishing) -> Option<()> {
        let claim = v1::PublishClaim { partition: self.partition, last_epoch: self.epoch };
        self.send(call, Request::Claim(claim)).await?;
        let Response::Claimed(claimed) = self.hear(call, 2 * PATIENCE).await? else { return None };
        if claimed.fault.is_some() {
            return None;
        }
        let now = self.world.clock.mono();
        let (name, confirmed, last) = (&self.name, self.confirmed, claimed.last_sequence);
        self.world.history.check(now, !claimed.forgotten, "D7", || format!("{name} was forgotten"));
        self.world.history.check(now, last >= confirmed, "D3", || {
            format!("{name} is told that {last:?} is the last one, and {confirmed:?} was confirmed")
        });
        let risen = self.epoch < Some(claimed.epoch);
        self.world.history.check(now, risen, "D5", || format!("{name} is given epoch {} again", claimed.epoch));
        self.epoch = Some(claimed.epoch);
        Some(())
    }

    fn make(&mut self, now: Mono) -> Batch {
        let count = u32::try_from(self.dice.between(1, 3)).unwrap_or(1);
        let batch = Batch { first: self.next_sequence, count };
        self.next_sequence += u64::from(count);
        self.left -= 1;
        self.open.push_back(batch);
        for sequence in batch.first..self.next_sequence {
            self.world.history.sent(now, self.partition, &self.text(sequence));
        }
        batch
    }

    /// Whether the next batch is sent before the one that comes first.
    fn skips(&mut self) -> bool {
        let once_in = self.world.plan.shape.skips_once_in;
        self.is_idempotent && once_in > 0 && self.left > 0 && self.dice.below(once_in) == 0
    }

    fn request(&self, batch: Batch) -> Request {
        let mut builder = BatchBuilder::with_capacity(64);
        for sequence in batch.first..batch.first + u64::from(batch.count) {
            builder.push(&v1::Message { payload: Bytes::from(self.text(sequence)), ..Default::default() });
        }
        let first_sequence = if self.is_idempotent { batch.first } else { 0 };
        Request::Batch(v1::PublishBatch {
            id: batch.first,
            partition: self.partition,
            producer_epoch: self.epoch.unwrap_or(0),
            batch: Some(builder.finish(Codec::None, first_sequence, Timestamp::from_millis(1))),
        })
    }

    async fn send(&self, call: &mut Publishing, request: Request) -> Option<()> {
        let request = v1::PublishStreamRequest { request: Some(request) };
        self.world.clock.timeout(PATIENCE, call.send(request)).await.ok().filter(|sent| *sent).map(|_| ())
    }

    async fn hear(&self, call: &mut Publishing, wait: Duration) -> Option<Response> {
        self.world.clock.timeout(wait, call.next()).await.ok()??.ok()?.response
    }

    /// `None`: the stream is left, and what has no outcome is sent again elsewhere, in order.
    fn receipt(&mut self, receipt: &v1::PublishReceipt) -> Option<()> {
        if let Some(fault) = &receipt.fault {
            let now = self.world.clock.mono();
            self.world.history.note(now, format_args!("{}:{} is refused: {}", self.name, receipt.id, fault.reason));
            return None;
        }
        let at = self.open.iter().position(|batch| batch.first == receipt.id)?;
        let batch = self.open.remove(at)?;
        self.confirm(batch, receipt.first_offset);
        self.confirmed = self.confirmed.max(Some(batch.first + u64::from(batch.count) - 1));
        Some(())
    }

    fn confirm(&self, batch: Batch, first_offset: u64) {
        confirm(&self.world, (self.partition, &self.name), batch, first_offset);
    }

    /// Goes elsewhere; what the old stream still says is heard (C38).
    fn leave(&mut self, mut call: Publishing) {
        let open: Vec<Batch> = self.open.iter().copied().collect();
        if !self.is_idempotent {
            let now = self.world.clock.mono();
            for batch in self.open.drain(..) {
                for sequence in batch.first..batch.first + u64::from(batch.count) {
                    self.world.history.given_up(now, &format!("{}:{sequence}", self.name));
                }
            }
        }
        let (world, name, partition) = (Arc::clone(&self.world), self.name.clone(), self.partition);
        self.world.network.tasks.spawn("ghost", OnFailure::Log, async move {
            let until = world.clock.mono().after(GHOST);
            let wait = || until.since(world.clock.mono());
            while let Ok(Some(Ok(answer))) = world.clock.timeout(wait(), call.next()).await {
                let Some(Response::Receipts(receipts)) = answer.response else { continue };
                for receipt in receipts.receipts.iter().filter(|receipt| receipt.fault.is_none()) {
                    if let Some(batch) = open.iter().find(|batch| batch.first == receipt.id) {
                        confirm(&world, (partition, &name), *batch, receipt.first_offset);
                    }
                }
            }
            Ok::<(), std::convert::Infallible>(())
        });
    }
}

fn confirm(world: &World, (partition, name): (Partition, &str), batch: Batch, first_offset: u64) {
    let now = world.clock.mono();
    for n in 0..u64::from(batch.count) {
        world.history.confirmed(now, partition, &format!("{name}:{}", batch.first + n), first_offset + n);
    }
}
