//! What a program with nothing but generated stubs publishes and consumes a second, of a server and of one that only acknowledges.
//! Prints figures; with `ALLUVIUM_RATES_MIB=1000` they mean something.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use alluvium_client::Client;
use alluvium_proto::v1;
use alluvium_proto::v1::consume_service_server::{ConsumeService, ConsumeServiceServer};
use alluvium_proto::v1::publish_service_server::{PublishService, PublishServiceServer};
use alluvium_proto::v1::{publish_stream_request as publishing, subscribe_request as subscribing};
use alluvium_proto::v1::{publish_stream_response as published, subscribe_response as subscribed};
use alluvium_runtime::lanes::Lanes;
use alluvium_runtime::net;
use alluvium_runtime::tasks::{OnFailure, Tasks};
use alluvium_tests::{Options, Server};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::Routes;
use tonic::{Request, Response, Status, Streaming};

const TOPIC: &str = "public/default/rates";
/// Responses on their way to the transport.
const QUEUED: usize = 16;

/// Keeps the last batch that it was sent and how many messages there were, and nothing else.
#[derive(Clone)]
struct Stub {
    stored: watch::Sender<(Option<v1::Batch>, u64)>,
    tasks: Tasks,
}

type Answers<T> = ReceiverStream<Result<T, Status>>;

impl Stub {
    async fn start() -> (Self, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound").to_string();
        let (tasks, _) = Tasks::new();
        let stub = Self { stored: watch::Sender::new((None, 0)), tasks };
        let routes = Routes::new(PublishServiceServer::new(stub.clone()).max_decoding_message_size(8 << 20))
            .add_service(ConsumeServiceServer::new(stub.clone()));
        net::serve("stub", net::Callers::Clients(net::Windows::default()), &stub.tasks, listener, routes, &Lanes::here());
        (stub, address)
    }

    /// Answers on a stream of its own for as long as the work goes on.
    fn answer<T, W>(&self, work: impl FnOnce(Self, mpsc::Sender<Result<T, Status>>) -> W) -> Answers<T>
    where
        W: Future<Output = Option<()>> + Send + 'static,
    {
        let (answers, queue) = mpsc::channel(QUEUED);
        let work = work(self.clone(), answers);
        self.tasks.spawn("answers", OnFailure::Log, async move {
            // It ends with its client.
            let _ = work.await;
            Ok::<(), Status>(())
        });
        ReceiverStream::new(queue)
    }

    async fn publish(
        self,
        mut requests: Streaming<v1::PublishStreamRequest>,
        answers: mpsc::Sender<Result<v1::PublishStreamResponse, Status>>,
    ) -> Option<()> {
        let say = |response| Ok(v1::PublishStreamResponse { response: Some(response) });
        while let Ok(Some(request)) = requests.message().await {
            let response = match request.request? {
                publishing::Request::Open(_) => {
                    published::Response::Opened(v1::PublishOpened { partitions: 1, ..Default::default() })
                }
                publishing::Request::Claim(_) => return None,
                publishing::Request::Batch(batch) => {
                    let (id, batch) = (batch.id, batch.batch?);
                    let mut first_offset = 0;
                    self.stored.send_modify(|(last, count)| {
                        first_offset = *count;
                        *count += u64::from(batch.count);
                        *last = Some(batch);
                    });
                    let receipts = vec![v1::PublishReceipt { id, first_offset, ..Default::default() }];
                    published::Response::Receipts(v1::PublishReceipts { receipts })
                }
            };
            answers.send(say(response)).await.ok()?;
        }
        None
    }

    /// Sends the last batch again and again, as far as credit goes, until as many messages are out as came in.
    async fn subscribe(
        self,
        mut requests: Streaming<v1::SubscribeRequest>,
        answers: mpsc::Sender<Result<v1::SubscribeResponse, Status>>,
    ) -> Option<()> {
        let say = |response| Ok(v1::SubscribeResponse { response: Some(response) });
        let (batch, total) = self.stored.borrow().clone();
        let batch = batch?;
        answers.send(say(subscribed::Response::Subscribed(v1::Subscribed::default()))).await.ok()?;
        let (mut next, mut credit) = (0, 0);
        loop {
            while next < total && credit >= u64::from(batch.count) {
                let first_offset = next;
                next += u64::from(batch.count);
                credit -= u64::from(batch.count);
                let batch = v1::DeliveredBatch { first_offset, attempt: 1, batch: Some(batch.clone()), ..Default::default() };
                let delivery = v1::Delivery { batches: vec![batch], ..Default::default() };
                answers.send(say(subscribed::Response::Delivery(delivery))).await.ok()?;
            }
            match requests.message().await.ok()??.request? {
                subscribing::Request::Open(open) => credit += open.credit?.messages,
                subscribing::Request::Credit(more) => credit += more.messages,
                subscribing::Request::Ack(ack) => {
                    let receipts = vec![v1::AckReceipt { id: ack.id, ..Default::default() }];
                    answers.send(say(subscribed::Response::Receipts(v1::AckReceipts { receipts }))).await.ok()?;
                }
                subscribing::Request::Nack(_) => return None,
            }
        }
    }
}

fn never<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("it only acknowledges"))
}

#[tonic::async_trait]
impl PublishService for Stub {
    type PublishStreamStream = Answers<v1::PublishStreamResponse>;

    async fn publish(&self, _: Request<v1::PublishRequest>) -> Result<Response<v1::PublishResponse>, Status> {
        never()
    }

    async fn publish_stream(
        &self,
        requests: Request<Streaming<v1::PublishStreamRequest>>,
    ) -> Result<Response<Self::PublishStreamStream>, Status> {
        Ok(Response::new(self.answer(|stub, answers| stub.publish(requests.into_inner(), answers))))
    }
}

#[tonic::async_trait]
impl ConsumeService for Stub {
    type SubscribeStream = Answers<v1::SubscribeResponse>;
    type ReadStream = Answers<v1::ReadResponse>;

    async fn subscribe(
        &self,
        requests: Request<Streaming<v1::SubscribeRequest>>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        Ok(Response::new(self.answer(|stub, answers| stub.subscribe(requests.into_inner(), answers))))
    }

    async fn pull(&self, _: Request<v1::PullRequest>) -> Result<Response<v1::PullResponse>, Status> {
        never()
    }

    async fn acknowledge(&self, _: Request<v1::AcknowledgeRequest>) -> Result<Response<v1::AcknowledgeResponse>, Status> {
        never()
    }

    async fn nack(&self, _: Request<v1::NackRequest>) -> Result<Response<v1::NackResponse>, Status> {
        never()
    }

    async fn read(&self, _: Request<Streaming<v1::ReadRequest>>) -> Result<Response<Self::ReadStream>, Status> {
        never()
    }
}

/// Runs the program against a server; gives what it published and consumed, in megabytes a second.
fn rates(address: &str, mebibytes: &str) -> [f64; 2] {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    let output = Command::new("python")
        .arg(tests.join("python/rates.py"))
        .arg(address)
        .arg(tests.join("../proto"))
        .args([TOPIC, mebibytes])
        .output()
        .expect("./test installs python and its packages");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).expect("json");
    ["publishMBps", "consumeMBps"].map(|field| said[field].as_f64().expect("a rate"))
}

#[test]
fn a_python_program_of_plain_stubs_publishes_and_consumes_batches() {
    let mebibytes = std::env::var("ALLUVIUM_RATES_MIB").unwrap_or_else(|_| "4".to_owned());
    let server = Server::start(&Options::default());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (stub, address) = runtime.block_on(Stub::start());
    runtime.block_on(async {
        let client = Client::connect(server.url()).await.expect("connected");
        client.admin().create_topic(TOPIC, 1, Default::default()).await.expect("created");
    });
    let of_the_server = rates(server.url().trim_start_matches("http://"), &mebibytes);
    let of_the_stub = runtime.block_on(async {
        let mebibytes = mebibytes.clone();
        tokio::task::spawn_blocking(move || rates(&address, &mebibytes)).await.expect("it ran")
    });
    for (what, at) in [("published", 0), ("consumed", 1)] {
        let (server, stub) = (of_the_server[at], of_the_stub[at]);
        println!(
            "{what} by Python, {mebibytes} MiB: {server:.0} MB/s; of a server that only acknowledges {stub:.0}: {:.2}",
            server / stub
        );
    }
    stub.tasks.stop();
    runtime.shutdown_timeout(Duration::from_secs(1));
}
