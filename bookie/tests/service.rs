//! The bookie over gRPC.

mod support;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use alluvium_bookie::service::Service;
use alluvium_proto::convert::bookie::{self as convert, AddItem};
use alluvium_proto::internal::v1 as wire;
use alluvium_proto::internal::v1::bookie_service_client::BookieServiceClient;
use alluvium_runtime::lanes::Lanes;
use alluvium_runtime::net;
use alluvium_types::bookie::{AdvanceLac, EntryAnswer, Missing, ReadRefusal, Refusal};
use alluvium_types::ids::Incarnation;
use alluvium_types::limits::Limits;
use support::house::{House, Life, beside};
use support::{EPOCH, L, add, body, e, fencing_read, l, open, read};
use tokio_stream::StreamExt;
use tonic::Code;
use tonic::service::Routes;
use tonic::transport::{Channel, Endpoint};

struct Served {
    life: Life,
    client: BookieServiceClient<Channel>,
    us: Incarnation,
}

async fn serve(house: &House) -> Served {
    let life = house.start().await;
    let listener = net::bind(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0)).await.expect("bound");
    let address = listener.local_addr().expect("bound");
    let (bookie, reaper) = (life.running.bookie.clone(), life.running.reaper.clone());
    let routes = Routes::new(Service::server(bookie, reaper, Limits::default()));
    net::serve("bookie", net::Callers::Servers, &life.tasks, listener, routes, &Lanes::here());
    let endpoint = net::endpoint(Endpoint::from_shared(format!("http://{address}")).expect("valid"));
    let client = BookieServiceClient::new(endpoint.connect().await.expect("connected"));
    let us = life.running.bookie.identity().incarnation;
    Served { life, client, us }
}

#[tokio::test]
async fn entries_travel_there_and_back() {
    let house = House::new();
    let Served { life, mut client, us } = serve(&house).await;
    let opened = client.open(convert::open_to_wire(us, &open(L))).await.expect("answered").into_inner();
    assert_eq!(convert::refusal_from_wire(opened.refusal), Ok(Ok(())));
    let lac = AdvanceLac { ledger: L, epoch: EPOCH, lac: e(99) };
    let adds = (0..100)
        .map(|entry| AddItem::Entry(add(L, entry, body(L, entry, 4000))))
        .chain([AddItem::Lac(lac), AddItem::Entry(add(l(99), 0, body(l(99), 0, 10)))])
        .map(move |item| convert::add_to_wire(us, item));
    let adds = tokio_stream::iter(adds.collect::<Vec<_>>());
    let mut answers = client.add(adds).await.expect("answered").into_inner();
    let (mut added, mut messages) = (Vec::new(), 0);
    while let Some(answer) = answers.next().await {
        added.extend(answer.expect("answered").added);
        messages += 1;
    }
    assert_eq!(added.len(), 101);
    assert!(messages < 100, "answers come together: {messages} messages");
    let refused: Vec<_> = added.iter().filter(|a| a.refusal != 0).collect();
    assert_eq!(refused.len(), 1);
    assert_eq!(convert::refusal_from_wire(refused[0].refusal), Ok(Err(Refusal::UnknownLedger)));

    let answer = client.read(convert::read_to_wire(us, &fencing_read(L, 98, 100, 1))).await.expect("answered").into_inner();
    let answer = convert::read_answer_from_wire(answer).expect("well-formed").expect("not refused");
    assert_eq!(answer.lac, Some(e(99)));
    let EntryAnswer::Found(found) = &answer.entries[0] else { panic!("it is here") };
    assert_eq!(found.body, body(L, 98, 4000));
    assert_eq!(answer.entries[2], EntryAnswer::Missing(e(100), Missing::Absent));

    let fence = wire::FenceRequest { incarnation: convert::incarnation_bytes(us), ledger: L.get(), recovery_number: 2 };
    let fenced = client.fence(fence.clone()).await.expect("answered").into_inner();
    assert_eq!(convert::fence_answer_from_wire(&fenced).expect("well-formed").expect("fenced").last, Some(e(99)));
    let stale = client.fence(wire::FenceRequest { recovery_number: 1, ..fence }).await.expect("answered").into_inner();
    assert_eq!(convert::fence_answer_from_wire(&stale), Ok(Err(ReadRefusal::Stale)));

    let list = wire::ListRequest { incarnation: convert::incarnation_bytes(us), after: None, limit: 0 };
    let listed = client.list(list).await.expect("answered").into_inner().ledgers;
    assert_eq!((listed.len(), listed[0].entries, listed[0].fenced), (1, 100, Some(2)));
    let delete = wire::DeleteRequest { incarnation: convert::incarnation_bytes(us), ledger: L.get() };
    assert!(!client.delete(delete).await.expect("answered").into_inner().deleted, "B9: nothing proves it");
    life.stop().await;
}

#[tokio::test]
async fn b11_a_request_for_another_incarnation_is_refused() {
    let house = House::new();
    let Served { life, mut client, us } = serve(&house).await;
    let other = Incarnation::new(house.entropy.uuid());
    assert_ne!(us, other);
    let status = client.open(convert::open_to_wire(other, &open(L))).await.expect_err("refused");
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    let adds = tokio_stream::iter([convert::add_to_wire(other, AddItem::Entry(add(L, 0, body(L, 0, 10))))]);
    let mut answers = client.add(adds).await.expect("the stream opens").into_inner();
    let status = answers.next().await.expect("an answer").expect_err("refused");
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    let status = client.read(convert::read_to_wire(other, &read(L, 0, 0))).await.expect_err("refused");
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    life.stop().await;
}

#[tokio::test]
async fn a_request_without_its_fields_is_refused_with_the_field() {
    let house = House::new();
    let Served { life, mut client, us } = serve(&house).await;
    let status = client.open(wire::OpenRequest::default()).await.expect_err("refused");
    assert_eq!((status.code(), status.message().contains("incarnation")), (Code::InvalidArgument, true), "{status}");
    let incarnation = convert::incarnation_bytes(us);
    let status = client.find(wire::FindRequest { incarnation, ..Default::default() }).await.expect_err("refused");
    assert_eq!((status.code(), status.message().contains("key")), (Code::InvalidArgument, true), "{status}");
    life.stop().await;
}

#[tokio::test]
async fn the_wait_for_a_lac_is_bounded_and_ends_when_it_moves() {
    let house = House::new();
    let Served { life, mut client, us } = serve(&house).await;
    life.running.bookie.open_ledger(open(L)).await.expect("opened");
    let request =
        |after, wait_ms| wire::ReadLacRequest { incarnation: convert::incarnation_bytes(us), ledger: L.get(), after, wait_ms };
    let answer = client.read_lac(request(None, 1)).await.expect("answered").into_inner();
    assert_eq!((answer.refusal, answer.lac), (0, None));
    let waiting = {
        let mut client = client.clone();
        let request = request(None, 10_000);
        beside(async move { client.read_lac(request).await })
    };
    tokio::task::yield_now().await;
    life.running.bookie.advance_lac(&AdvanceLac { ledger: L, epoch: EPOCH, lac: e(5) }).expect("told");
    assert_eq!(waiting.await.expect("it ends").expect("answered").into_inner().lac, Some(5));
    life.stop().await;
}
