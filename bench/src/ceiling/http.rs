//! Bare gRPC: bodies as the transport has them, without a codec, over the product's own transport settings.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use alluvium_runtime::net;
use bytes::Bytes;
use futures::future::BoxFuture;
use http_body::Frame;
use tokio::sync::mpsc;
use tonic::body::Body;
use tonic::codegen::{Body as HttpBody, Service, http};
use tonic::server::NamedService;
use tonic::transport::Endpoint;

/// A body that is sent as it comes; it ends when the sender goes.
struct Outgoing(mpsc::Receiver<Bytes>);

impl HttpBody for Outgoing {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(context).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}

/// A body as it comes.
pub(super) struct Incoming(Body);

impl Incoming {
    /// The next piece; `None` at the end. Cancel safe.
    pub(super) async fn next(&mut self) -> Option<io::Result<Bytes>> {
        loop {
            match poll_fn(|context| Pin::new(&mut self.0).poll_frame(context)).await? {
                Ok(frame) => {
                    if let Ok(bytes) = frame.into_data() {
                        return Some(Ok(bytes));
                    }
                }
                Err(status) => return Some(Err(io::Error::other(status))),
            }
        }
    }

    /// The next piece, for one end of a pipeline whose peer goes when it has what it wants: a broken connection is an end. Cancel safe.
    pub(super) async fn next_while_there(&mut self) -> Option<Bytes> {
        self.next().await.and_then(Result::ok)
    }
}

/// What is done with each stream: what comes, and where acknowledgements go.
pub(super) type Handler = Arc<dyn Fn(Incoming, mpsc::Sender<Bytes>) + Send + Sync>;

/// The one method of a bare server.
#[derive(Clone)]
pub(super) struct Bare {
    handler: Handler,
    /// How many acknowledgements may wait for the connection.
    acks: usize,
}

impl Bare {
    pub(super) fn new(handler: Handler, acks: usize) -> Self {
        Self { handler, acks }
    }
}

impl NamedService for Bare {
    const NAME: &'static str = "alluvium.bench.Bare";
}

impl Service<http::Request<Body>> for Bare {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let (acks, told) = mpsc::channel(self.acks);
        (self.handler)(Incoming(request.into_body()), acks);
        let mut response = http::Response::new(Body::new(Outgoing(told)));
        response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/grpc"));
        Box::pin(async move { Ok(response) })
    }
}

/// Opens a stream to a bare server: where blobs go, of which `queue` may wait for the connection, and what comes back.
pub(super) async fn open(url: &str, queue: usize) -> io::Result<(mpsc::Sender<Bytes>, Incoming)> {
    let endpoint = Endpoint::from_shared(url.to_owned()).map_err(io::Error::other)?;
    let mut channel = net::endpoint(endpoint).connect().await.map_err(io::Error::other)?;
    let (outgoing, sent) = mpsc::channel(queue);
    let uri = http::Uri::builder().path_and_query(format!("/{}/Stream", Bare::NAME)).build().map_err(io::Error::other)?;
    let request = http::Request::builder()
        .method(http::Method::POST)
        .uri(uri)
        .version(http::Version::HTTP_2)
        .header(http::header::CONTENT_TYPE, "application/grpc")
        .header(http::header::TE, "trailers")
        .body(Body::new(Outgoing(sent)))
        .map_err(io::Error::other)?;
    poll_fn(|context| Service::poll_ready(&mut channel, context)).await.map_err(io::Error::other)?;
    let response = Service::call(&mut channel, request).await.map_err(io::Error::other)?;
    Ok((outgoing, Incoming(response.into_body())))
}
