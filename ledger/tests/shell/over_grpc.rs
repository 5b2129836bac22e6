//! The same over gRPC: a service of one table a bookie, on real sockets.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use alluvium_ledger::client::{End, Unconfirmed};
use alluvium_ledger::{BookieClient, CallError, Config, GrpcConnector};
use alluvium_proto::convert::bookie::{self as convert, AddItem};
use alluvium_proto::internal::v1 as wire;
use alluvium_proto::internal::v1::bookie_service_server::{BookieService, BookieServiceServer};
use alluvium_runtime::lanes::Lanes;
use alluvium_runtime::net;
use alluvium_runtime::tasks::Tasks;
use alluvium_types::bookie::{OpenLedger, ReadRefusal, Refusal};
use alluvium_types::ids::{EntryId, Epoch, Incarnation, LedgerId, RecoveryNumber};
use alluvium_types::ledger::{BookieId, LedgerClass, LedgerState};
use alluvium_types::limits::Limits;
use alluvium_types::replication::Replication;
use futures::{Stream, StreamExt};
use tonic::service::Routes;
use tonic::{Request, Response, Status, Streaming};

use crate::bookie::{b, e};
use crate::cluster::{Cluster, Mood, TableBookie, soon, until};
use crate::writing::{all, fill};

struct Service(TableBookie, Incarnation);

impl Service {
    fn meant(&self, incarnation: &[u8]) -> Result<(), Status> {
        if convert::incarnation(incarnation) == Ok(self.1) { Ok(()) } else { Err(Status::failed_precondition("another life")) }
    }
}

fn write_answer(outcome: Result<(), CallError<Refusal>>) -> Result<Result<(), Refusal>, Status> {
    match outcome {
        Ok(()) => Ok(Ok(())),
        Err(CallError::Refused(refusal)) => Ok(Err(refusal)),
        Err(CallError::Lost) => Err(Status::unavailable("dead")),
    }
}

fn answer<T>(outcome: Result<T, CallError<ReadRefusal>>) -> Result<Result<T, ReadRefusal>, Status> {
    match outcome {
        Ok(value) => Ok(Ok(value)),
        Err(CallError::Refused(refusal)) => Ok(Err(refusal)),
        Err(CallError::Lost) => Err(Status::unavailable("dead")),
    }
}

#[tonic::async_trait]
impl BookieService for Service {
    async fn open(&self, request: Request<wire::OpenRequest>) -> Result<Response<wire::OpenResponse>, Status> {
        let request = request.into_inner();
        self.meant(&request.incarnation)?;
        let open = convert::open_from_wire(&request).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let refusal = convert::refusal_to_wire(write_answer(self.0.open(open).await)?);
        Ok(Response::new(wire::OpenResponse { refusal }))
    }

    type AddStream = Pin<Box<dyn Stream<Item = Result<wire::AddResponse, Status>> + Send>>;

    async fn add(&self, request: Request<Streaming<wire::AddRequest>>) -> Result<Response<Self::AddStream>, Status> {
        let (table, incarnation) = (self.0.clone(), self.1);
        let answers = request.into_inner().filter_map(move |request| {
            let table = table.clone();
            async move {
                let item = match request {
                    Ok(request) if convert::incarnation(&request.incarnation) == Ok(incarnation) => {
                        convert::add_from_wire(request)
                    }
                    _ => return Some(Err(Status::failed_precondition("another life"))),
                };
                match item {
                    Ok(AddItem::Entry(add)) => {
                        let (ledger, entry) = (add.ledger, add.entry);
                        let added = match write_answer(table.add(add).await) {
                            Ok(outcome) => convert::added_to_wire(ledger, entry, outcome),
                            Err(status) => return Some(Err(status)),
                        };
                        Some(Ok(wire::AddResponse { added: vec![added] }))
                    }
                    Ok(AddItem::Lac(lac)) => {
                        table.advance_lac(lac);
                        None
                    }
                    Err(error) => Some(Err(Status::invalid_argument(error.to_string()))),
                }
            }
        });
        // A broken stream ends.
        let answers = answers.scan(false, |over, answer| {
            let go_on = !*over;
            *over = answer.is_err();
            std::future::ready(go_on.then_some(answer))
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn read(&self, request: Request<wire::ReadRequest>) -> Result<Response<wire::ReadResponse>, Status> {
        let request = request.into_inner();
        self.meant(&request.incarnation)?;
        let outcome = answer(self.0.read(convert::read_from_wire(&request)).await)?;
        Ok(Response::new(convert::read_answer_to_wire(outcome)))
    }

    async fn fence(&self, request: Request<wire::FenceRequest>) -> Result<Response<wire::FenceResponse>, Status> {
        let request = request.into_inner();
        self.meant(&request.incarnation)?;
        let fenced = self.0.fence(LedgerId::new(request.ledger), RecoveryNumber::new(request.recovery_number)).await;
        Ok(Response::new(convert::fence_answer_to_wire(answer(fenced)?)))
    }

    async fn read_lac(&self, request: Request<wire::ReadLacRequest>) -> Result<Response<wire::ReadLacResponse>, Status> {
        let request = request.into_inner();
        self.meant(&request.incarnation)?;
        let (ledger, after) = (LedgerId::new(request.ledger), request.after.map(EntryId::new));
        let lac = answer(self.0.read_lac(ledger, after, Duration::from_millis(request.wait_ms)).await)?;
        let refusal = convert::read_refusal_to_wire(lac.err());
        Ok(Response::new(wire::ReadLacResponse { refusal, lac: lac.ok().flatten().map(EntryId::get) }))
    }

    async fn find(&self, request: Request<wire::FindRequest>) -> Result<Response<wire::FindResponse>, Status> {
        let request = request.into_inner();
        self.meant(&request.incarnation)?;
        let find = convert::find_from_wire(&request).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let entry = answer(self.0.find(find).await)?;
        let refusal = convert::read_refusal_to_wire(entry.err());
        Ok(Response::new(wire::FindResponse { refusal, entry: entry.ok().flatten().map(EntryId::get) }))
    }

    async fn list(&self, request: Request<wire::ListRequest>) -> Result<Response<wire::ListResponse>, Status> {
        let request = request.into_inner();
        let ledgers = answer(self.0.list(request.after.map(LedgerId::new), request.limit).await)?.unwrap_or_default();
        Ok(Response::new(wire::ListResponse { ledgers: ledgers.iter().map(convert::summary_to_wire).collect() }))
    }

    async fn delete(&self, request: Request<wire::DeleteRequest>) -> Result<Response<wire::DeleteResponse>, Status> {
        let deleted = answer(self.0.delete(LedgerId::new(request.into_inner().ledger)).await)?.unwrap_or(false);
        Ok(Response::new(wire::DeleteResponse { deleted }))
    }
}

/// Three bookies on sockets, and a client of ledgers over them. Each has tasks of its own, so that it can be stopped.
async fn three() -> (Cluster, BTreeMap<BookieId, Tasks>) {
    let limits = Limits::default();
    let (mut bookies, mut addresses, mut servers) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    for number in 0..3 {
        let (tasks, _failures) = Tasks::new();
        let listener = net::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        addresses.insert(b(number), listener.local_addr().unwrap().to_string());
        let table = TableBookie::new();
        let service = BookieServiceServer::new(Service(table.clone(), b(number).incarnation))
            .max_decoding_message_size(limits.rpc_bytes_max());
        net::serve("bookie", net::Callers::Servers, &tasks, listener, Routes::new(service), &Lanes::here());
        bookies.insert(b(number), table);
        servers.insert(b(number), tasks);
    }
    let cluster = Cluster::over(bookies, addresses, Config::default(), |clock, tasks| {
        Arc::new(GrpcConnector::new(clock, tasks, Lanes::here(), limits))
    })
    .await;
    (cluster, servers)
}

#[tokio::test]
async fn a_ledger_lives_over_grpc() {
    let (cluster, _servers) = three().await;
    let writer = cluster.ledger(Replication::DEFAULT).await;
    fill(&writer, 100).await;
    until(|| (0..3).all(|number| cluster.bookie(number).with(writer.ledger(), |table| table.lac) == Some(e(99)))).await;
    let open = writer.record().value;
    let lac = soon(cluster.ledgers.wait_for_lac(&open, Some(e(10)), Duration::from_secs(5))).await;
    assert_eq!(lac, Some(e(99)));
    let end = soon(writer.close()).await;
    let End::Closed(record) = &*end else { panic!("{end:?}") };
    assert!(!record.value.is_under_replicated());
    assert_eq!(soon(cluster.ledgers.read(&record.value, all(200))).await.unwrap().len(), 100);
    soon(cluster.ledgers.delete(&record.value)).await;
    assert!(cluster.bookie(0).with(writer.ledger(), |table| table.entries.is_empty()));
}

#[tokio::test]
async fn a_ledger_is_recovered_over_grpc_and_its_writer_dies() {
    let (cluster, _servers) = three().await;
    let writer = cluster.ledger(Replication::DEFAULT).await;
    fill(&writer, 10).await;
    let record = soon(cluster.ledgers.recover(writer.ledger())).await.unwrap();
    assert_eq!(record.value.state, LedgerState::Closed { last: Some(e(9)) });
    let body = crate::bookie::body(e(10));
    let crc = alluvium_types::checksum::Crc32c::of(&body);
    assert_eq!(soon(writer.append(body, crc).unwrap()).await, Err(Unconfirmed::Unknown));
}

#[tokio::test]
async fn adds_survive_a_stream_that_breaks() {
    let (cluster, _servers) = three().await;
    let writer = cluster.ledger(Replication::DEFAULT).await;
    fill(&writer, 5).await;
    // Two of three break every stream at the next add, and are well again then.
    for number in 0..2 {
        cluster.bookie(number).be(Mood::Dead);
    }
    let body = crate::bookie::body(e(5));
    let crc = alluvium_types::checksum::Crc32c::of(&body);
    let append = writer.append(body, crc).unwrap();
    until(|| cluster.bookie(2).with(writer.ledger(), |table| table.entries.contains_key(&e(5)))).await;
    assert_eq!(writer.lac(), Some(e(4)));
    for number in 0..2 {
        cluster.bookie(number).be(Mood::Well);
    }
    assert_eq!(soon(append).await.unwrap().entry, e(5));
}

#[tokio::test]
async fn b11_a_request_for_another_life_of_the_bookie_is_not_answered() {
    let (cluster, _servers) = three().await;
    let address = cluster.metadata.bookies().live(&b(0).name).await.unwrap().unwrap().value.info.address;
    let connector = GrpcConnector::new(cluster.metadata.clock().clone(), cluster.tasks.clone(), Lanes::here(), Limits::default());
    let ghost = BookieId { name: b(0).name, incarnation: b(9).incarnation };
    let client = alluvium_ledger::Connector::connect(&connector, &ghost, &address);
    let open = OpenLedger { ledger: LedgerId::new(1), epoch: Epoch::new(1), class: LedgerClass::Bulk };
    assert_eq!(soon(client.open(open)).await, Err(CallError::Lost));
}

#[tokio::test]
async fn q6_an_add_that_is_given_up_before_it_is_sent_lets_its_body_go() {
    // Nobody listens there.
    let (tasks, _failures) = Tasks::new();
    let connector = GrpcConnector::new(alluvium_runtime::clock::Clock::system(), tasks, Lanes::here(), Limits::default());
    let client = alluvium_ledger::Connector::connect(&connector, &b(0), "192.0.2.1:1");
    let owner = Arc::new(());
    struct Watched {
        body: &'static [u8],
        _owner: Arc<()>,
    }
    impl AsRef<[u8]> for Watched {
        fn as_ref(&self) -> &[u8] {
            self.body
        }
    }
    let add = |entry| alluvium_types::bookie::AddEntry {
        ledger: LedgerId::new(1),
        entry: e(entry),
        adder: alluvium_types::bookie::Adder::Writer { epoch: Epoch::new(1) },
        lac: None,
        body: bytes::Bytes::from_owner(Watched { body: b"body", _owner: Arc::clone(&owner) }),
        checksum: alluvium_types::checksum::Crc32c::EMPTY,
    };
    let first = client.add(add(0));
    let second = client.add(add(1));
    assert_eq!(Arc::strong_count(&owner), 3);
    drop(second);
    drop(first);
    assert_eq!(Arc::strong_count(&owner), 1);
}

#[tokio::test]
async fn adds_that_wait_for_a_connection_are_lost_with_it_all_of_them() {
    // Nobody listens there any more.
    let listener = net::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let (tasks, _failures) = Tasks::new();
    let connector = GrpcConnector::new(alluvium_runtime::clock::Clock::system(), tasks, Lanes::here(), Limits::default());
    let client = alluvium_ledger::Connector::connect(&connector, &b(0), &address);
    let adds = (0..3).map(|entry| {
        client.add(alluvium_types::bookie::AddEntry {
            ledger: LedgerId::new(1),
            entry: e(entry),
            adder: alluvium_types::bookie::Adder::Writer { epoch: Epoch::new(1) },
            lac: None,
            body: bytes::Bytes::from_static(b"body"),
            checksum: alluvium_types::checksum::Crc32c::EMPTY,
        })
    });
    for lost in soon(futures::future::join_all(adds)).await {
        assert_eq!(lost, Err(CallError::Lost));
    }
}
