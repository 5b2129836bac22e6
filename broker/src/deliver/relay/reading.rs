//! A reader's stream as its relay knows it: where it is in each partition.

use std::collections::BTreeMap;

use alluvium_proto::internal::v1 as wire;
use alluvium_proto::v1::read_request::Request;
use alluvium_proto::v1::read_response::Response;
use alluvium_proto::{PROTOCOL_VERSION, v1};
use alluvium_types::fault::Fault;
use alluvium_types::ids::{Offset, PartitionIndex};
use futures::StreamExt;
use futures::stream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::subscribing::{size_of, spans_of};
use super::{Asked, Says, Traffic};
use crate::broker::{StartAt, TopicInfo};
use crate::deliver::growth::{Grown, Growth};
use crate::deliver::line::{Ask, Say};
use crate::deliver::membership::Partitions;
use crate::deliver::outbox::Queued;
use crate::deliver::read::{self, Resume};
use crate::deliver::request;
use crate::deliver::service::ConsumeEdge;
use crate::forward::Peer;
use crate::subscription::{Grant, Span};
use crate::topic::SubscriptionKind;

/// A reader's stream.
#[derive(Clone)]
pub(in crate::deliver) struct Reading {
    topic: TopicInfo,
    asked: request::Read,
    open: v1::ReadOpen,
    growth: Option<Growth>,
    places: BTreeMap<PartitionIndex, Resume>,
}

impl Reading {
    /// Nothing was read yet. `open` is what the client asked for.
    pub(in crate::deliver) fn new(topic: TopicInfo, asked: request::Read, open: v1::ReadOpen, growth: Option<Growth>) -> Self {
        // Credit is shared out.
        Self { topic, asked: request::Read { credit: None, ..asked }, open, growth, places: BTreeMap::new() }
    }

    fn is_at(&mut self, partition: u32, next: Offset) {
        if let Some(place) = self.places.get_mut(&PartitionIndex::new(partition)) {
            place.next = place.next.max(next);
        }
    }

    fn places(&mut self, opened: &v1::ReadOpened) {
        let stops = self.asked.stop_at_end;
        for range in &opened.partitions {
            let stop = stops.then_some(Offset::new(range.end_offset));
            let place = Resume { next: Offset::new(range.next_offset), stop };
            self.places.entry(PartitionIndex::new(range.partition)).or_insert(place);
        }
    }
}

impl Traffic for Reading {
    type Request = v1::ReadRequest;
    type Response = v1::ReadResponse;

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
        requests: mpsc::Receiver<Ask<v1::ReadRequest>>,
    ) -> Result<Queued<Say<v1::ReadResponse>>, Status> {
        let requests = ReceiverStream::new(requests).map(Ok);
        let begun = read::begin(edge, &self.asked, partitions, &self.places, requests).await;
        begun.map_err(|fault| alluvium_proto::status::to_status(&fault))
    }

    async fn there(
        &self,
        peer: &Peer,
        partitions: &[PartitionIndex],
        requests: mpsc::Receiver<Ask<v1::ReadRequest>>,
    ) -> Result<Says<v1::ReadResponse>, Status> {
        use wire::forward_read_request::Ask as Asking;
        use wire::forward_read_response::Answer;
        let named = partitions.iter().map(|index| index.get()).collect();
        let place = |index: &PartitionIndex| {
            let Resume { next, stop } = *self.places.get(index)?;
            Some(wire::ReadPlace { partition: index.get(), next_offset: next.get(), stop_offset: stop.map(Offset::get) })
        };
        let places = partitions.iter().filter_map(place).collect();
        let open = v1::ReadOpen { partitions: named, credit: None, ..self.open.clone() };
        let open = Asking::Open(wire::ForwardReadOpen { open: Some(open), places });
        let asked = ReceiverStream::new(requests).map(|ask| match ask {
            Ask::Request(request) => Asking::Request(request),
            Ask::Reclaim | Ask::TakeBack(_) => Asking::Reclaim(wire::ReclaimCredit {}),
        });
        let asked = stream::iter([open]).chain(asked).map(|ask| wire::ForwardReadRequest { ask: Some(ask) });
        let answers = peer.delivering().forward_read(asked).await?.into_inner();
        let said = answers.filter_map(async |answer| match answer {
            Err(status) => Some(Err(status)),
            Ok(wire::ForwardReadResponse { answer, used }) => match answer? {
                Answer::Response(response) => {
                    Some(Ok(Say::Response { response, taken: used.map(request::grant).unwrap_or_default() }))
                }
                Answer::Wanted(wanted) => Some(Ok(Say::Wanted(wanted.granted.map(request::grant).unwrap_or_default()))),
                Answer::Returned(credit) => Some(Ok(Say::Returned(request::grant(credit)))),
            },
        });
        Ok(said.boxed())
    }

    fn credit(grant: Grant) -> v1::ReadRequest {
        let credit = v1::Credit { messages: grant.messages, bytes: grant.bytes };
        v1::ReadRequest { request: Some(Request::Credit(credit)) }
    }

    fn asked(&mut self, request: v1::ReadRequest) -> Result<Asked<Self>, Fault> {
        match request.request {
            Some(Request::Credit(credit)) => Ok(Asked::Credit(request::grant(credit))),
            Some(Request::Open(_)) => {
                Err(Fault::invalid("open", "OPENED_ALREADY", "a stream is opened once, by its first request"))
            }
            None => Err(Fault::invalid("request", "MISSING", "a request is a credit")),
        }
    }

    fn said(&mut self, response: v1::ReadResponse) -> Option<(v1::ReadResponse, Grant)> {
        let used = match response.response.as_ref()? {
            Response::Opened(_) => return None,
            Response::Delivery(delivery) => {
                if let Some(next) = spans_of(delivery).map(|span| span.end).max() {
                    self.is_at(delivery.partition, next);
                }
                size_of(delivery)
            }
            Response::Fault(fault) => {
                if let Some(offsets) = &fault.offsets {
                    self.is_at(fault.partition, Offset::new(offsets.last.saturating_add(1)));
                }
                Grant::default()
            }
        };
        Some((response, used))
    }

    fn take_back(&mut self, response: &v1::ReadResponse) -> Option<(PartitionIndex, Vec<Span>, Grant)> {
        let (partition, spans, size) = match response.response.as_ref()? {
            Response::Opened(_) => return None,
            Response::Delivery(delivery) => (delivery.partition, spans_of(delivery).collect::<Vec<_>>(), size_of(delivery)),
            // It is met again.
            Response::Fault(fault) => {
                let spans =
                    fault.offsets.iter().map(|of| Span::new(Offset::new(of.first), Offset::new(of.last.saturating_add(1))));
                (fault.partition, spans.collect(), Grant::default())
            }
        };
        let partition = PartitionIndex::new(partition);
        if let Some(place) = self.places.get_mut(&partition) {
            place.next = spans.iter().map(|span| span.first).fold(place.next, Offset::min);
        }
        Some((partition, spans, size))
    }

    fn takes_back(&self) -> bool {
        false
    }

    fn is_full(&self) -> bool {
        false
    }

    fn dispatches(&self) -> Option<SubscriptionKind> {
        None
    }

    fn is_settled(&self) -> bool {
        true
    }

    fn again(&self, _: PartitionIndex) -> Vec<v1::ReadRequest> {
        Vec::new()
    }

    fn is_complete(&mut self, _: &[PartitionIndex]) -> bool {
        // Nothing else ends a reader's stream without a word.
        self.asked.stop_at_end
    }

    fn opens_in_part(&self) -> bool {
        // It is told where each partition begins and ends.
        false
    }

    fn opened(&mut self, responses: Vec<v1::ReadResponse>, owners: Vec<v1::PartitionOwner>) -> v1::ReadResponse {
        let mut partitions = Vec::new();
        for response in responses {
            if let Some(Response::Opened(opened)) = response.response {
                self.places(&opened);
                partitions.extend(opened.partitions);
            }
        }
        partitions.sort_unstable_by_key(|range| range.partition);
        let opened = v1::ReadOpened { protocol_version: PROTOCOL_VERSION, partitions, owners };
        v1::ReadResponse { response: Some(Response::Opened(opened)) }
    }

    fn grown(&mut self, grown: &Grown) {
        self.topic = grown.topic.clone();
        if let Some(growth) = &mut self.growth {
            growth.grown(&grown.partitions);
        }
        // All of a new partition comes after the end that there was.
        if self.asked.start == StartAt::Latest {
            let first = Resume { next: Offset::ZERO, stop: None };
            self.places.extend(grown.partitions.iter().map(|index| (*index, first)));
        }
    }
}
