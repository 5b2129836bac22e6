//! A subscription's stream as its relay knows it: what the client has, and what it acknowledged and was not answered.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use alluvium_proto::internal::v1 as wire;
use alluvium_proto::status::to_wire;
use alluvium_proto::v1;
use alluvium_proto::v1::subscribe_request::Request;
use alluvium_proto::v1::subscribe_response::Response;
use alluvium_types::fault::Fault;
use alluvium_types::ids::{Offset, PartitionIndex};
use futures::StreamExt;
use futures::stream;
use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::{Asked, Says, Traffic};
use crate::broker::TopicInfo;
use crate::deliver::consume;
use crate::deliver::growth::{Grown, Growth};
use crate::deliver::line::{Ask, Say};
use crate::deliver::membership::{Partitions, Spans};
use crate::deliver::outbox::Queued;
use crate::deliver::request;
use crate::deliver::service::{ConsumeEdge, Consumer};
use crate::forward::Peer;
use crate::subscription::runs::RunMap;
use crate::subscription::{Grant, Span};
use crate::topic::SubscriptionKind;
use crate::topic::handle::is_moved;

/// Acknowledgements of one stream that wait for their receipts. Past it the stream is not read.
const RECEIPTS_OPEN_MAX: usize = 4096;
/// Their bytes, which are kept until then. The last one may exceed it.
const ACKS_BYTES_MAX: usize = 16 << 20;

/// The most runs of a partition that are remembered as the client's, which may settle them by other calls.
const HELD_RUNS_MAX: usize = 1 << 14;

/// A consumer's stream.
#[derive(Clone)]
pub(in crate::deliver) struct Subscribing {
    topic: TopicInfo,
    consumer: Consumer,
    open: v1::SubscribeOpen,
    growth: Option<Growth>,
    partitions: BTreeSet<PartitionIndex>,
    held: BTreeMap<PartitionIndex, RunMap<()>>,
    acks: BTreeMap<PartitionIndex, VecDeque<v1::Ack>>,
    acks_open: usize,
    /// Of those that are open.
    acks_bytes: usize,
}

impl Subscribing {
    /// Nothing was said yet. `open` is what the client asked for.
    pub(in crate::deliver) fn new(
        topic: TopicInfo,
        consumer: Consumer,
        open: v1::SubscribeOpen,
        partitions: &[PartitionIndex],
        growth: Option<Growth>,
    ) -> Self {
        let partitions = partitions.iter().copied().collect();
        let (held, acks) = (BTreeMap::new(), BTreeMap::new());
        Self { topic, consumer, open, growth, partitions, held, acks, acks_open: 0, acks_bytes: 0 }
    }

    fn known(&self, field: &str, number: u32) -> Result<PartitionIndex, Fault> {
        let partition = PartitionIndex::new(number);
        if self.partitions.contains(&partition) {
            return Ok(partition);
        }
        Err(Fault::invalid(field, "UNKNOWN_PARTITION", format!("partition {number} is not one of this stream")))
    }

    fn held_in(&self, partitions: impl Iterator<Item = PartitionIndex>) -> Spans {
        let held = partitions.filter_map(|index| Some((index, self.held.get(&index)?.iter().map(|(run, ())| run).collect())));
        held.collect()
    }

    fn let_go(&mut self, partition: PartitionIndex, ranges: &[v1::OffsetRange], up_to: Option<u64>) {
        let Some(held) = self.held.get_mut(&partition) else { return };
        let upto = up_to.map(|last| Span::new(Offset::ZERO, Offset::new(last.saturating_add(1))));
        for span in ranges.iter().map(span_of).chain(upto) {
            held.cut(span, &mut ());
        }
    }

    fn delivered(&mut self, delivery: &v1::Delivery) -> Grant {
        let held = self.held.entry(PartitionIndex::new(delivery.partition)).or_default();
        for span in spans_of(delivery) {
            held.cut(span, &mut ());
            held.put(span, (), &mut ());
        }
        // The oldest are delivered again at the next owner.
        while held.len() > HELD_RUNS_MAX {
            let oldest = held.iter().next().map(|(run, ())| run);
            held.cut(oldest.unwrap_or(Span::new(Offset::ZERO, Offset::ZERO)), &mut ());
        }
        size_of(delivery)
    }

    /// A receipt, unless it says that the owner is another one: then it is asked again there.
    fn receipted(&mut self, receipt: &v1::AckReceipt) -> bool {
        if receipt.fault.as_ref().is_some_and(|fault| is_moved(&fault.reason)) {
            return false;
        }
        let partition = PartitionIndex::new(receipt.partition);
        let acks = self.acks.entry(partition).or_default();
        let Some(at) = acks.iter().position(|ack| ack.id == receipt.id) else { return true };
        let ack = acks.remove(at).expect("it is there");
        self.acks_open -= 1;
        self.acks_bytes -= ack.encoded_len();
        if receipt.fault.is_none() {
            self.let_go(partition, &ack.ranges, ack.up_to);
        }
        true
    }
}

/// The messages of a delivery, in its order.
pub(super) fn spans_of(delivery: &v1::Delivery) -> impl Iterator<Item = Span> {
    let run = |first: u64, count: u64| Span::new(Offset::new(first), Offset::new(first.saturating_add(count)));
    let count = |of: &v1::DeliveredBatch| of.batch.as_ref().map_or(0, |batch| u64::from(batch.count));
    let batches = delivery.batches.iter().map(move |of| run(of.first_offset, count(of)));
    delivery.messages.iter().map(move |message| run(message.offset, 1)).chain(batches)
}

/// The credit that a delivery uses.
pub(super) fn size_of(delivery: &v1::Delivery) -> Grant {
    let size = |message: &v1::DeliveredMessage| message.message.as_ref().map_or(0, Message::encoded_len) as u64;
    let batches = || delivery.batches.iter().filter_map(|of| of.batch.as_ref());
    Grant {
        messages: delivery.messages.len() as u64 + batches().map(|batch| u64::from(batch.count)).sum::<u64>(),
        bytes: delivery.messages.iter().map(size).sum::<u64>()
            + batches().map(|batch| u64::from(batch.inflated_bytes)).sum::<u64>(),
    }
}

/// Messages for the wire: of each partition as often as its runs need.
fn named(spans: Spans) -> Vec<wire::HeldMessages> {
    let of = |(index, spans): (PartitionIndex, Vec<Span>)| {
        let ranges: Vec<v1::OffsetRange> = spans.into_iter().filter_map(request::range_of).collect();
        let named = |ranges: &[v1::OffsetRange]| wire::HeldMessages { partition: index.get(), ranges: ranges.to_vec() };
        ranges.chunks(request::RANGES_MAX).map(named).collect::<Vec<_>>()
    };
    spans.into_iter().flat_map(of).collect()
}

fn span_of(range: &v1::OffsetRange) -> Span {
    Span::new(Offset::new(range.first), Offset::new(range.last.saturating_add(1)))
}

impl Traffic for Subscribing {
    type Request = v1::SubscribeRequest;
    type Response = v1::SubscribeResponse;

    fn topic(&self) -> &TopicInfo {
        &self.topic
    }

    fn growth(&self) -> Option<Growth> {
        self.growth.clone()
    }

    async fn here(
        &self,
        edge: &ConsumeEdge,
        partitions: Partitions,
        requests: mpsc::Receiver<Ask<v1::SubscribeRequest>>,
    ) -> Result<Queued<Say<v1::SubscribeResponse>>, Status> {
        let held = self.held_in(partitions.keys().copied());
        let requests = ReceiverStream::new(requests).map(Ok);
        let begun = edge.consume_here(self.consumer.clone(), partitions, held, requests).await;
        begun.map_err(|fault| alluvium_proto::status::to_status(&fault))
    }

    async fn there(
        &self,
        peer: &Peer,
        partitions: &[PartitionIndex],
        requests: mpsc::Receiver<Ask<v1::SubscribeRequest>>,
    ) -> Result<Says<v1::SubscribeResponse>, Status> {
        use wire::forward_subscribe_request::Ask as Asking;
        use wire::forward_subscribe_response::Answer;
        let takeover = self.consumer.takeover;
        let held = named(self.held_in(partitions.iter().copied()));
        let partitions = partitions.iter().map(|index| index.get()).collect();
        let open = v1::SubscribeOpen { partitions, credit: None, takeover, ..self.open.clone() };
        let open = Asking::Open(wire::ForwardSubscribeOpen { open: Some(open), held });
        let asked = ReceiverStream::new(requests).map(|ask| match ask {
            Ask::Request(request) => Asking::Request(request),
            Ask::Reclaim => Asking::Reclaim(wire::ReclaimCredit {}),
            Ask::TakeBack(unsent) => Asking::TakeBack(wire::TakeBack { unsent: named(unsent) }),
        });
        let asked = stream::iter([open]).chain(asked).map(|ask| wire::ForwardSubscribeRequest { ask: Some(ask) });
        let answers = peer.delivering().forward_subscribe(asked).await?.into_inner();
        let said = answers.filter_map(async |answer| match answer {
            Err(status) => Some(Err(status)),
            Ok(wire::ForwardSubscribeResponse { answer, used }) => match answer? {
                Answer::Response(response) => {
                    Some(Ok(Say::Response { response, taken: used.map(request::grant).unwrap_or_default() }))
                }
                Answer::Wanted(wanted) => Some(Ok(Say::Wanted(wanted.granted.map(request::grant).unwrap_or_default()))),
                Answer::Returned(credit) => Some(Ok(Say::Returned(request::grant(credit)))),
            },
        });
        Ok(said.boxed())
    }

    fn credit(grant: Grant) -> v1::SubscribeRequest {
        let credit = v1::Credit { messages: grant.messages, bytes: grant.bytes };
        v1::SubscribeRequest { request: Some(Request::Credit(credit)) }
    }

    fn asked(&mut self, request: v1::SubscribeRequest) -> Result<Asked<Self>, Fault> {
        match request.request {
            Some(Request::Credit(credit)) => Ok(Asked::Credit(request::grant(credit))),
            Some(Request::Ack(ack)) => match self.known("ack.partition", ack.partition) {
                Ok(partition) => {
                    self.acks.entry(partition).or_default().push_back(ack.clone());
                    self.acks_open += 1;
                    self.acks_bytes += ack.encoded_len();
                    Ok(Asked::Remembered(partition, v1::SubscribeRequest { request: Some(Request::Ack(ack)) }))
                }
                Err(fault) => {
                    let receipt = v1::AckReceipt { id: ack.id, partition: ack.partition, fault: Some(to_wire(&fault)) };
                    let receipts = Response::Receipts(v1::AckReceipts { receipts: vec![receipt] });
                    Ok(Asked::Refused(v1::SubscribeResponse { response: Some(receipts) }))
                }
            },
            Some(Request::Nack(nack)) => {
                let partition = self.known("nack.partition", nack.partition)?;
                self.let_go(partition, &nack.ranges, None);
                Ok(Asked::Of(partition, v1::SubscribeRequest { request: Some(Request::Nack(nack)) }))
            }
            Some(Request::Open(_)) => {
                Err(Fault::invalid("open", "OPENED_ALREADY", "a stream is opened once, by its first request"))
            }
            None => Err(Fault::invalid("request", "MISSING", "a request is a credit, an ack or a nack")),
        }
    }

    fn said(&mut self, response: v1::SubscribeResponse) -> Option<(v1::SubscribeResponse, Grant)> {
        let told = |response| v1::SubscribeResponse { response: Some(response) };
        match response.response? {
            Response::Subscribed(_) => None,
            Response::Delivery(delivery) => {
                let used = self.delivered(&delivery);
                Some((told(Response::Delivery(delivery)), used))
            }
            Response::Receipts(mut receipts) => {
                receipts.receipts.retain(|receipt| self.receipted(receipt));
                (!receipts.receipts.is_empty()).then(|| (told(Response::Receipts(receipts)), Grant::default()))
            }
            fault @ Response::Fault(_) => Some((told(fault), Grant::default())),
        }
    }

    fn take_back(&mut self, response: &v1::SubscribeResponse) -> Option<(PartitionIndex, Vec<Span>, Grant)> {
        let Some(Response::Delivery(delivery)) = &response.response else { return None };
        let (partition, spans) = (PartitionIndex::new(delivery.partition), spans_of(delivery).collect::<Vec<_>>());
        if let Some(held) = self.held.get_mut(&partition) {
            for span in &spans {
                held.cut(*span, &mut ());
            }
        }
        Some((partition, spans, size_of(delivery)))
    }

    fn takes_back(&self) -> bool {
        true
    }

    fn is_full(&self) -> bool {
        self.acks_open >= RECEIPTS_OPEN_MAX || self.acks_bytes >= ACKS_BYTES_MAX
    }

    fn dispatches(&self) -> Option<SubscriptionKind> {
        Some(self.consumer.subscription.kind)
    }

    fn is_settled(&self) -> bool {
        self.acks_open == 0
    }

    fn again(&self, partition: PartitionIndex) -> Vec<v1::SubscribeRequest> {
        let acks = self.acks.get(&partition).into_iter().flatten();
        acks.map(|ack| v1::SubscribeRequest { request: Some(Request::Ack(ack.clone())) }).collect()
    }

    fn is_complete(&mut self, _: &[PartitionIndex]) -> bool {
        false
    }

    fn opens_in_part(&self) -> bool {
        true
    }

    fn opened(&mut self, _: Vec<v1::SubscribeResponse>, owners: Vec<v1::PartitionOwner>) -> v1::SubscribeResponse {
        // Whoever takes it over from this consumer meanwhile keeps it.
        self.consumer.takeover = false;
        let subscribed = consume::subscribed(self.partitions.iter().copied(), self.consumer.subscription.kind);
        v1::SubscribeResponse { response: Some(Response::Subscribed(v1::Subscribed { owners, ..subscribed })) }
    }

    fn grown(&mut self, grown: &Grown) {
        self.topic = grown.topic.clone();
        self.partitions.extend(&grown.partitions);
        if let Some(growth) = &mut self.growth {
            growth.grown(&grown.partitions);
        }
    }
}
