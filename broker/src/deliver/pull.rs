//! Taking messages by a call: a consumer that lives for one answer, and keeps what it answered until its deadline.

use std::collections::BTreeMap;
use std::time::Duration;

use alluvium_proto::internal::v1 as wire;
use alluvium_proto::status::to_status;
use alluvium_proto::v1;
use alluvium_types::fault::{Fault, FaultKind};
use alluvium_types::ids::{Offset, PartitionIndex, SessionId};
use alluvium_types::time::Mono;
use futures::future::{BoxFuture, try_join_all};
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use tonic::Status;

use super::bundle::Bundle;
use super::consume::{log_undeliverable, problem};
use super::membership::{Joiner, Membership, ReadDone, Spans};
use super::outbox::{Hold, paused};
use super::parcel::{Format, Parcel, Step};
use super::request;
use super::service::ConsumeEdge;
use crate::broker::{Route, Scope, TopicInfo};
use crate::forward::{Peer, answered, is_resumable, topic_with};
use crate::subscription::{Event, Grant, Mailbox, Span};
use crate::topic::SubscriptionKind;
use crate::topic::lease::DispatchLease;

/// How long what is on its way is waited for: others after the first message, or the first after a read.
const GATHER: Duration = Duration::from_millis(5);
/// How long other messages are waited for when some can't be delivered: not so long that nothing is heard of those, and long
/// enough for who asks again and again.
const FAULT_WAIT: Duration = Duration::from_secs(1);
/// How long one of several owners is waited for, before the next one is asked.
const SLICE: Duration = Duration::from_millis(200);
/// How long owners may come and go, past a pull's time, before the caller is told.
const OWNERS_PATIENCE: Duration = Duration::from_secs(20);
/// The longest a pull goes on past its time for a read that is under way.
const READ_WAIT: Duration = Duration::from_secs(5);

/// What a pull has.
#[derive(Default)]
struct Taken {
    messages: Vec<v1::PulledMessage>,
    kept: Spans,
    unsent: Spans,
    /// What can't be delivered.
    faults: Vec<v1::DeliveryFault>,
    /// Of that, what never will be: it counts as acknowledged once it is told.
    undeliverable: Spans,
    full: bool,
}

/// Answers with some messages, or with none when the wait is over. Owners of the topic's partitions are asked in turn, the longer
/// the fewer there are.
pub(super) async fn pull(edge: &ConsumeEdge, request: v1::PullRequest) -> Result<v1::PullResponse, Status> {
    let opening = async {
        let asked = request::pull(&request)?;
        let topic = edge.topic(&asked.topic).await?;
        let wanted = ConsumeEdge::wanted(&topic, &asked.partitions)?;
        if asked.start.is_some() {
            edge.broker.subscription(&topic, &asked.subscription, Some(SubscriptionKind::Shared), asked.start).await?;
        }
        Ok((asked, topic, wanted))
    };
    let (asked, topic, wanted) = opening.await.map_err(|fault: Fault| to_status(&fault))?;
    let clock = edge.broker.clock();
    let (until, patient_until) = (clock.mono().after(asked.wait), clock.mono().after(asked.wait + OWNERS_PATIENCE));
    let mut backoff = edge.broker.context().backoff();
    let mut turn = 0;
    loop {
        let owners = match owners(edge, &topic, &wanted).await {
            Err(status) if is_resumable(&status) && clock.mono() < patient_until => {
                clock.sleep(backoff.delay()).await;
                continue;
            }
            owners => owners?,
        };
        let (owner, partitions) = &owners[turn % owners.len()];
        // Each is asked without waiting before anybody is waited for.
        let slice = match turn / owners.len() {
            _ if owners.len() == 1 => asked.wait,
            0 => Duration::ZERO,
            _ => SLICE,
        };
        let wait = slice.min(until.since(clock.mono()));
        let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        let partitions = partitions.iter().map(|index| index.get()).collect();
        let part = v1::PullRequest { partitions, wait_ms, start: None, ..request.clone() };
        let answer = match owner {
            None => pulled(edge, part).await.map_err(|fault| to_status(&fault)),
            Some(peer) => {
                edge.broker.context().metrics.forwarded_calls.inc();
                // In this session or not at all.
                let lease = edge.broker.lease();
                let request = wire::ForwardPullRequest { request: Some(part) };
                let answer = answered(peer, peer.calling().forward_pull(request)).await;
                let answer = answer.map(|answer| answer.response.unwrap_or_default());
                if answer.is_err() {
                    peer.failed();
                }
                answer.and_then(|answer| passed_on(answer, peer, &lease))
            }
        };
        turn += 1;
        match answer {
            Err(status) if is_resumable(&status) && clock.mono() < patient_until => {
                wanted.iter().for_each(|index| edge.broker.moved(topic.id, *index));
                clock.sleep(backoff.delay()).await;
            }
            Err(status) => return Err(status),
            Ok(response) => {
                let nothing = response.messages.is_empty() && response.faults.is_empty();
                // Every owner is asked once at least.
                if !nothing || (clock.mono() >= until && turn >= owners.len()) {
                    return Ok(response);
                }
            }
        }
    }
}

/// What another broker answered, if it may be handed over now: it may have been long on its way, and this process may have been
/// stopped meanwhile (M4, C38). Otherwise it stays as it is until its deadline.
fn passed_on(answer: v1::PullResponse, peer: &Peer, own: &DispatchLease) -> Result<v1::PullResponse, Status> {
    // This broker's own bound is the same for every kind.
    let hold = Hold::default().dispatched_by(peer, own, SubscriptionKind::Exclusive);
    if answer.messages.is_empty() || hold.may_go() { Ok(answer) } else { Err(to_status(&paused())) }
}

/// The owners of these partitions; `None` is this broker.
async fn owners(
    edge: &ConsumeEdge,
    topic: &TopicInfo,
    wanted: &[PartitionIndex],
) -> Result<Vec<(Option<Peer>, Vec<PartitionIndex>)>, Status> {
    let routed = wanted.iter().copied().map(|index| async move {
        let route = edge.broker.route(topic, index, Scope::Cluster).await.map_err(|fault| to_status(&fault))?;
        Ok::<_, Status>((index, route))
    });
    let mut owners: BTreeMap<Option<SessionId>, (Option<Peer>, Vec<PartitionIndex>)> = BTreeMap::new();
    for (index, route) in try_join_all(routed).await? {
        let peer = match route {
            Route::Here(_) => None,
            Route::There(peer) => Some(peer),
        };
        owners.entry(peer.as_ref().map(Peer::session)).or_insert_with(|| (peer, Vec::new())).1.push(index);
    }
    Ok(owners.into_values().collect())
}

/// Pulls from partitions of this broker. Dropping the call gives back what it was given.
pub(crate) async fn pulled(edge: &ConsumeEdge, request: v1::PullRequest) -> Result<v1::PullResponse, Fault> {
    let asked = request::pull(&request)?;
    let until = edge.broker.clock().mono().after(asked.wait);
    let topic = topic_with(&edge.broker, &asked.topic, &asked.partitions).await?;
    let subscription = edge.broker.subscription(&topic, &asked.subscription, None, None).await?;
    let partitions = edge.partitions_of(&subscription, &topic, &asked.partitions).await?;
    let kind = subscription.kind;
    let mailbox = Mailbox::new();
    mailbox.grant(Grant { messages: asked.messages_max, bytes: asked.bytes_max })?;
    let joiner = Joiner {
        subscription: asked.subscription,
        kind,
        consumer: edge.new_consumer(),
        name: String::new(),
        takeover: false,
        ack_deadline: Some(asked.ack_deadline),
    };
    let membership = Membership::join(joiner, partitions, Spans::new(), mailbox, edge.broker.tasks().clone()).await?;
    let mut taken = Taken::default();
    gather(edge, &membership, &mut taken, until).await?;
    taken.give_back_paused(|partition| membership.may_dispatch(partition));
    let (kept, partitions) = (taken.kept.clone(), membership.partitions.clone());
    for (partition, spans) in std::mem::take(&mut taken.undeliverable) {
        for span in spans {
            membership.tell(partition, membership.undeliverable(span)).await?;
        }
    }
    // What is answered stays with the caller until its deadline. An owner that ended in between has forgotten it: it is
    // delivered again.
    membership
        .leave(taken.kept, taken.unsent)
        .await
        .map_err(|fault| Fault::new(FaultKind::Unavailable, fault.reason, fault.message))?;
    // Leaving may have taken long, and the process may have been stopped meanwhile (C38).
    if kept.keys().any(|partition| !partitions[partition].may_dispatch(kind)) {
        return Err(paused());
    }
    Ok(v1::PullResponse { messages: taken.messages, faults: taken.faults })
}

impl Taken {
    /// What may not be dispatched any more is not answered (M4): it is for another call.
    fn give_back_paused(&mut self, may_dispatch: impl Fn(PartitionIndex) -> bool) {
        let paused: Spans = self.kept.extract_if(.., |partition, _| !may_dispatch(*partition)).collect();
        self.messages.retain(|message| !paused.contains_key(&PartitionIndex::new(message.partition)));
        for (partition, spans) in paused {
            self.unsent.entry(partition).or_default().extend(spans);
        }
    }
}

async fn gather(edge: &ConsumeEdge, membership: &Membership, taken: &mut Taken, until: Mono) -> Result<(), Fault> {
    let (clock, tasks, mailbox) = (edge.broker.clock(), edge.broker.tasks(), &membership.mailbox);
    let mut reads: FuturesUnordered<BoxFuture<'static, ReadDone>> = FuturesUnordered::new();
    let last = until.after(READ_WAIT);
    let mut until = until.max(clock.mono().after(GATHER));
    let (mut gathering, mut troubled) = (false, false);
    loop {
        take_events(edge, membership, taken, &mut reads).await?;
        let some = !taken.messages.is_empty();
        if taken.full || (some && mailbox.account().allowance().is_none()) {
            return Ok(());
        }
        if some && !gathering {
            gathering = true;
            until = until.min(clock.mono().after(GATHER));
        }
        if !taken.faults.is_empty() && !troubled {
            troubled = true;
            until = until.min(clock.mono().after(FAULT_WAIT));
        }
        // There is something to read: an empty answer would be wrong.
        let until_now = if !some && !reads.is_empty() { last } else { until };
        tokio::select! {
            biased;
            () = tasks.stopping() => return Ok(()),
            Some((partition, from, result)) = reads.next() => {
                membership.tell(partition, membership.entries(from, result)).await?;
                until = until.max(clock.mono().after(GATHER));
            }
            () = mailbox.changed() => {}
            () = clock.sleep_until(until_now) => return Ok(()),
        }
    }
}

async fn take_events(
    edge: &ConsumeEdge,
    membership: &Membership,
    taken: &mut Taken,
    reads: &mut FuturesUnordered<BoxFuture<'static, ReadDone>>,
) -> Result<(), Fault> {
    while let Some((partition, event)) = membership.mailbox.pop() {
        match event {
            Event::Delivery(delivery) => {
                open(edge, membership, taken, Parcel::new(partition, delivery, Format::Messages, None)).await?;
            }
            Event::Read { from, bytes_max } => {
                let reader = membership.partitions[&partition].reader().clone();
                reads.push(async move { (partition, from, reader.read(from, bytes_max).await) }.boxed());
            }
            Event::Ended(fault) => return Err(fault),
            Event::Problem { span, fault } => {
                edge.metrics().unreadable.inc();
                taken.faults.push(problem(partition, span.first, span.end, String::new(), &fault));
            }
            Event::Receipt { .. } => {}
        }
    }
    for partition in membership.mailbox.refilled() {
        membership.tell(partition, membership.refilled()).await?;
    }
    Ok(())
}

/// Decodes what came. What can't be decoded is reported and skipped, as on a stream.
async fn open(edge: &ConsumeEdge, membership: &Membership, taken: &mut Taken, mut parcel: Parcel) -> Result<(), Fault> {
    let (partition, mailbox) = (parcel.partition(), &membership.mailbox);
    let handle = &membership.partitions[&partition];
    loop {
        let may_dispatch = membership.may_dispatch(partition);
        let mut response = Bundle::default();
        let mut step = match may_dispatch {
            true => parcel.next(&mut response, |bytes| mailbox.take_more(bytes)),
            false => Step::NeedsCredit,
        };
        if let Step::NeedsRoom(bytes) = step {
            let held = edge.broker.delivery_budget().take(bytes).await;
            match parcel.inflate(held) {
                None => continue,
                Some(undeliverable) => step = undeliverable,
            }
        }
        match step {
            Step::Added { messages, bytes } => {
                edge.metrics().messages.inc_by(messages);
                edge.metrics().bytes.inc_by(bytes);
                mailbox.sent(messages);
                let end = parcel.unsent().first;
                let first = Offset::new(end.get() - messages);
                taken.kept.entry(partition).or_default().push(Span::new(first, end));
                let pulled = |m| v1::PulledMessage { partition: partition.get(), message: Some(m) };
                taken.messages.extend(response.finish().0.messages.into_iter().map(pulled));
            }
            Step::Undeliverable { span, producer, error, unused } => {
                log_undeliverable(handle, &membership.joiner.subscription, span, producer.as_ref(), &error);
                edge.metrics().undeliverable.inc_by(span.count());
                mailbox.sent(unused.messages);
                mailbox.refund(unused);
                let fault = Fault::new(FaultKind::DataLoss, error.reason, error.to_string());
                let producer = producer.map(|p| p.to_string()).unwrap_or_default();
                taken.faults.push(problem(partition, span.first, span.end, producer, &fault));
                taken.undeliverable.entry(partition).or_default().push(span);
            }
            Step::NeedsCredit => {
                // Larger than what was asked for, or not to be dispatched now (M4): it is for another call.
                taken.unsent.entry(partition).or_default().push(parcel.unsent());
                taken.full = true;
                mailbox.close();
                return Ok(());
            }
            Step::Done(unused) => {
                mailbox.release(parcel.taken());
                mailbox.refund(unused);
                return Ok(());
            }
            Step::NeedsRoom(_) | Step::Full => unreachable!("there is room now"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use alluvium_metadata::brokers::Broker;
    use alluvium_metadata::live::Live;
    use alluvium_runtime::clock::Clock;
    use alluvium_runtime::lanes::Lanes;
    use alluvium_runtime::net::Reach;
    use alluvium_types::ids::Revision;
    use alluvium_types::limits::Limits;
    use alluvium_types::names::BrokerName;
    use alluvium_types::time::Timestamp;
    use tokio::sync::watch;

    use super::*;
    use crate::forward::Peers;

    #[tokio::test]
    async fn c38_m4_a_pull_elsewhere_is_handed_over_only_while_both_brokers_may_dispatch() {
        // Only what was pushed was looked at again.
        let clock = Clock::manual(Timestamp::default());
        let lease = DispatchLease::new(clock.clone());
        lease.extend(clock.mono().after(Duration::from_secs(8)));
        let name = BrokerName::parse("other").expect("valid");
        let broker = |session| Broker {
            session: SessionId::new(uuid::Uuid::from_u128(session)),
            address: String::new(),
            internal_address: "127.0.0.1:1".to_owned(),
            weight: 1,
            draining: false,
            since: Timestamp::default(),
        };
        let live = |session| {
            let members = Arc::new(BTreeMap::from([(name.clone(), broker(session))]));
            Live { revision: Revision::default(), members }
        };
        let (view, seen) = watch::channel(live(1));
        let peers = Peers::new(seen, Limits::default(), Reach::Nobody, Lanes::here());
        let peer = peers.to(&name, &broker(1)).expect("its address makes sense");
        let message = v1::PulledMessage { partition: 0, message: None };
        let some = || v1::PullResponse { messages: vec![message.clone()], ..Default::default() };
        assert_eq!(passed_on(some(), &peer, &lease).expect("both live"), some());
        view.send_replace(live(2));
        let refused = passed_on(some(), &peer, &lease).expect_err("it is another one by now");
        assert!(is_resumable(&refused), "others are asked: {refused}");
        view.send_replace(live(1));
        assert!(passed_on(some(), &peer, &lease).is_ok());
        clock.advance(Duration::from_secs(8));
        assert!(passed_on(some(), &peer, &lease).is_err(), "this one may have slept");
        assert!(passed_on(v1::PullResponse::default(), &peer, &lease).is_ok(), "nothing is handed over");
    }

    #[test]
    fn c38_m4_a_pull_answers_nothing_that_may_not_be_dispatched_any_more() {
        let span = |first| Span::new(Offset::new(first), Offset::new(first + 1));
        let message = |partition| v1::PulledMessage { partition, message: None };
        let mut taken = Taken { messages: vec![message(0), message(1), message(0)], ..Taken::default() };
        let (zero, one) = (PartitionIndex::new(0), PartitionIndex::new(1));
        taken.kept = Spans::from([(zero, vec![span(3), span(5)]), (one, vec![span(7)])]);
        taken.give_back_paused(|partition| partition == one);
        assert_eq!(taken.messages, [message(1)]);
        assert_eq!(taken.kept, Spans::from([(one, vec![span(7)])]));
        assert_eq!(taken.unsent, Spans::from([(zero, vec![span(3), span(5)])]));
    }
}
