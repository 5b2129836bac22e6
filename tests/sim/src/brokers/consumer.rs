//! Consumers: they take what they are given, acknowledge it, and go elsewhere when nothing comes.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use alluvium_metadata::subscriptions::SubscriptionKind;
use alluvium_proto::v1;
use alluvium_proto::v1::subscribe_request::Request;
use alluvium_proto::v1::subscribe_response::Response;
use alluvium_runtime::tasks::OnFailure;
use alluvium_types::time::Mono;

use super::history::{Partition, StreamOf};
use super::link::Call;
use super::world::{TOPIC, World};
use crate::dice::Dice;

/// Messages that may be on their way.
const CREDIT: u64 = 8;
/// How long something is waited for before another broker is asked.
const PATIENCE: Duration = Duration::from_millis(1500);
/// The longest time between a message and its ack.
const THINKS: Duration = Duration::from_millis(150);
/// How long a client that has gone elsewhere stays connected.
const GHOST: Duration = Duration::from_secs(4);

type Consuming = Call<v1::SubscribeRequest, v1::SubscribeResponse>;

/// One consumer of one partition.
pub(super) struct Consumer {
    pub(super) world: Arc<World>,
    pub(super) subscription: (&'static str, SubscriptionKind),
    pub(super) partition: Partition,
    pub(super) dice: Dice,
}

/// What a stream waits with.
#[derive(Default)]
struct Work {
    /// To be acknowledged, with the time.
    due: VecDeque<(Mono, u64)>,
    /// Acks without a receipt.
    open: BTreeMap<u64, Vec<u64>>,
    next_id: u64,
}

impl Consumer {
    /// Consumes for as long as the run lasts.
    pub(super) async fn run(mut self) {
        loop {
            let node = self.world.choose(&mut self.dice);
            if let Some((mut call, of)) = self.world.subscribe(node, self.subscription, self.partition) {
                self.serve(&mut call, &of).await;
                self.leave(call);
            } else {
                self.world.complain(node, &mut self.dice);
            }
            let pause = self.dice.time(Duration::from_millis(5), Duration::from_millis(150));
            self.world.clock.sleep(pause).await;
        }
    }

    async fn serve(&mut self, call: &mut Consuming, of: &StreamOf) -> Option<()> {
        let kind = match self.subscription.1 {
            SubscriptionKind::Exclusive => v1::SubscriptionType::Exclusive,
            SubscriptionKind::Shared => v1::SubscriptionType::Shared,
        };
        let open = v1::SubscribeOpen {
            hello: Some(v1::Hello { protocol_version: 1, client: "sim".to_owned() }),
            topic: TOPIC.to_owned(),
            partitions: vec![self.partition],
            subscription: self.subscription.0.to_owned(),
            r#type: kind.into(),
            takeover: self.subscription.1 == SubscriptionKind::Exclusive,
            format: v1::DeliveryFormat::Messages.into(),
            credit: Some(v1::Credit { messages: CREDIT, bytes: 0 }),
            ..Default::default()
        };
        self.send(call, Request::Open(open)).await?;
        let mut work = Work::default();
        let mut heard = self.world.clock.mono();
        loop {
            let now = self.world.clock.mono();
            if now.since(heard) >= PATIENCE {
                return None;
            }
            if work.due.front().is_some_and(|(due, _)| *due <= now) {
                self.acknowledge(call, &mut work, now).await?;
                continue;
            }
            let wake = work.due.front().map_or(heard.after(PATIENCE), |(due, _)| *due);
            let Ok(answer) = self.world.clock.timeout(wake.since(now), call.next()).await else { continue };
            heard = self.world.clock.mono();
            let answer = match answer? {
                Ok(answer) => answer,
                Err(status) => {
                    let name = self.subscription.0;
                    self.world.history.note(heard, format_args!("{name} #{} is over: {}", of.number, status.message()));
                    return None;
                }
            };
            match answer.response? {
                Response::Delivery(delivery) => {
                    let thinks = self.dice.time(Duration::ZERO, THINKS);
                    for message in delivery.messages {
                        let due = work.due.back().map_or(heard, |(due, _)| *due).max(heard.after(thinks));
                        work.due.push_back((due, message.offset));
                    }
                }
                Response::Receipts(receipts) => {
                    for receipt in receipts.receipts.into_iter().filter(|receipt| receipt.fault.is_none()) {
                        for offset in work.open.remove(&receipt.id).unwrap_or_default() {
                            self.world.history.acknowledged(heard, of, offset);
                        }
                    }
                }
                Response::Fault(fault) => {
                    let text = format!("{} on p{} is told of a loss: {:?}", self.subscription.0, self.partition, fault.offsets);
                    self.world.history.broken(heard, "T6", text);
                }
                Response::Subscribed(_) => {
                    let name = self.subscription.0;
                    self.world.history.note(heard, format_args!("{name} #{} is open at n{}", of.number, of.broker));
                }
            }
        }
    }

    /// Acknowledges what is due, in one request.
    async fn acknowledge(&self, call: &mut Consuming, work: &mut Work, now: Mono) -> Option<()> {
        work.next_id += 1;
        let mut offsets = Vec::new();
        while let Some((_, offset)) = work.due.pop_front_if(|(due, _)| *due <= now) {
            offsets.push(offset);
        }
        let (ranges, messages) =
            (offsets.iter().map(|o| v1::OffsetRange { first: *o, last: *o }).collect(), offsets.len() as u64);
        work.open.insert(work.next_id, offsets);
        let ack = v1::Ack { id: work.next_id, partition: self.partition, ranges, up_to: None };
        self.send(call, Request::Ack(ack)).await?;
        self.send(call, Request::Credit(v1::Credit { messages, bytes: 0 })).await
    }

    async fn send(&self, call: &mut Consuming, request: Request) -> Option<()> {
        let request = v1::SubscribeRequest { request: Some(request) };
        self.world.clock.timeout(PATIENCE, call.send(request)).await.ok().filter(|sent| *sent).map(|_| ())
    }

    /// Goes elsewhere, and stays connected for a while, ready to take more: what the old broker then hands over is seen (M4).
    fn leave(&self, mut call: Consuming) {
        let world = Arc::clone(&self.world);
        self.world.network.tasks.spawn("ghost", OnFailure::Log, async move {
            let until = world.clock.mono().after(GHOST);
            let wait = || until.since(world.clock.mono());
            while let Ok(Some(Ok(answer))) = world.clock.timeout(wait(), call.next()).await {
                let Some(Response::Delivery(delivery)) = answer.response else { continue };
                let credit = v1::Credit { messages: delivery.messages.len() as u64, bytes: 0 };
                let request = v1::SubscribeRequest { request: Some(Request::Credit(credit)) };
                // It listens on, whether that arrives or not.
                let _ = world.clock.timeout(PATIENCE, call.send(request)).await;
            }
            Ok::<(), std::convert::Infallible>(())
        });
    }
}
