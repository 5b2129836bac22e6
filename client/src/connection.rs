//! Connections to the server. Each producer, consumer and reader has one of its own, so that one that is slow to read holds
//! up no other; short calls share one.

use std::sync::Arc;
use std::time::Duration;

use alluvium_proto::status::RemoteFault;
use alluvium_proto::v1;
use alluvium_proto::v1::connect_service_client::ConnectServiceClient;
use alluvium_runtime::backoff::Backoff;
use alluvium_runtime::budget::ByteBudget;
use alluvium_runtime::clock::Clock;
use alluvium_runtime::entropy::Entropy;
use alluvium_runtime::net;
use alluvium_runtime::tasks::Tasks;
use alluvium_types::fault::FaultKind;
use alluvium_types::limits::Limits;
use alluvium_types::time::Mono;
use tonic::transport::{Channel, Endpoint};

use crate::error::Error;

/// What this library calls itself.
pub(crate) const LIBRARY: &str = concat!("alluvium-rust/", env!("CARGO_PKG_VERSION"));
/// How long short calls may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a stream may take to be opened.
pub(crate) const OPEN_TIMEOUT: Duration = Duration::from_secs(30);
/// Between attempts to reconnect: at least, and at most.
const RECONNECT: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// What every part of a client shares.
#[derive(Debug)]
pub(crate) struct Connection {
    server: String,
    endpoint: Endpoint,
    calls: Channel,
    pub(crate) clock: Clock,
    pub(crate) entropy: Entropy,
    pub(crate) tasks: Tasks,
    /// What all producers may have queued and in flight, beside a little each.
    pub(crate) queued: ByteBudget,
    pub(crate) limits: Limits,
    pub(crate) hello: v1::NegotiateResponse,
}

impl Connection {
    /// Agrees on a protocol version with the server, trying again until `deadline`.
    pub(crate) async fn open(server: &str, within: Duration, queued_bytes_max: usize) -> Result<Self, Error> {
        let (url, endpoint) = address(server)?;
        let endpoint = net::endpoint(endpoint);
        let (clock, entropy) = (Clock::system(), Entropy::from_os());
        let deadline = clock.mono().after(within);
        let mut backoff = reconnect(&entropy);
        let (calls, hello) = loop {
            match negotiate(&clock, &url, &endpoint).await {
                Ok(done) => break done,
                Err(error) if error.is_retryable() && clock.mono() < deadline => clock.sleep(backoff.delay()).await,
                Err(error) => return Err(error),
            }
        };
        let limits = usize::try_from(hello.message_bytes_max).ok().and_then(Limits::new);
        let limits = limits.ok_or(Error::Unexpected("a limit for messages that no server has"))?;
        // Nothing here may bring an application down: what fails is told to whoever waits for it.
        let (tasks, _failures) = Tasks::new();
        Ok(Self { server: url, endpoint, calls, clock, entropy, tasks, queued: ByteBudget::new(queued_bytes_max), limits, hello })
    }

    /// Where the server is.
    pub(crate) fn server(&self) -> &str {
        &self.server
    }

    /// The connection for short calls.
    pub(crate) fn calls(&self) -> Channel {
        self.calls.clone()
    }

    /// A new connection, for a stream.
    pub(crate) async fn dial(&self) -> Result<Channel, Error> {
        self.endpoint.connect().await.map_err(|error| Error::unreachable(&self.server, error))
    }

    /// The pauses between attempts to reconnect.
    pub(crate) fn backoff(&self) -> Backoff {
        reconnect(&self.entropy)
    }

    /// The reading `by` from now.
    pub(crate) fn after(&self, by: Duration) -> Mono {
        self.clock.mono().after(by)
    }

    /// Waits for a short call that changes something, within its time. What was not answered in time may have taken effect.
    pub(crate) async fn call<T>(
        &self,
        call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    ) -> Result<T, Error> {
        self.ask_within(CALL_TIMEOUT, call).await.map_err(late_is_unresolved)
    }

    /// Waits for a short call that changes nothing, within its time.
    pub(crate) async fn ask<T>(&self, call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>) -> Result<T, Error> {
        self.ask_within(CALL_TIMEOUT, call).await
    }

    /// Waits for a call that changes nothing, at most `limit`.
    pub(crate) async fn ask_within<T>(
        &self,
        limit: Duration,
        call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    ) -> Result<T, Error> {
        timed(&self.clock, limit, call).await
    }
}

/// What begins every stream.
pub(crate) fn hello() -> v1::Hello {
    v1::Hello { protocol_version: alluvium_proto::PROTOCOL_VERSION, client: LIBRARY.to_owned() }
}

/// The server ended a stream that this client would have gone on with.
pub(crate) fn stream_ended() -> Error {
    Error::Refused(RemoteFault {
        kind: FaultKind::Unavailable,
        reason: "STREAM_ENDED".into(),
        message: "the server ended the stream".to_owned(),
        retry_after: None,
    })
}

fn reconnect(entropy: &Entropy) -> Backoff {
    Backoff::new(RECONNECT.0, RECONNECT.1, entropy.clone())
}

async fn timed<T>(
    clock: &Clock,
    limit: Duration,
    call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
) -> Result<T, Error> {
    match clock.timeout(limit, call).await {
        Ok(answer) => Ok(answer?.into_inner()),
        Err(_) => Err(Error::timed_out(limit)),
    }
}

fn late_is_unresolved(error: Error) -> Error {
    if matches!(error, Error::TimedOut { .. }) { error.unresolved() } else { error }
}

/// An address, as a URL and as an endpoint. `HOST:PORT` is taken for `http://HOST:PORT`.
pub(crate) fn address(server: &str) -> Result<(String, Endpoint), Error> {
    let wrong = |why: &str| {
        let text = format!("{server:?} is no address of a server: {why}; expected http://HOST:PORT");
        Error::invalid("server", "INVALID_ADDRESS", text)
    };
    let url = match server.split_once("://") {
        Some(("http", _)) => server.to_owned(),
        Some((scheme, _)) => return Err(wrong(&format!("{scheme} is not spoken"))),
        None => format!("http://{server}"),
    };
    let endpoint = Endpoint::from_shared(url.clone()).map_err(|_| wrong("it is no URL"))?;
    let uri = endpoint.uri();
    if uri.host().is_none_or(str::is_empty) {
        return Err(wrong("it names no host"));
    }
    if uri.port_u16().is_none() && !server.contains("://") {
        return Err(wrong("it names no port"));
    }
    if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
        return Err(wrong("it has a path"));
    }
    Ok((url, endpoint))
}

/// Whether something answered that no server of ours says to its clients: it lacks the service, or speaks no HTTP/2.
fn is_foreign(status: &tonic::Status) -> bool {
    let mut cause = std::error::Error::source(status);
    let mut speaks_otherwise = false;
    while let Some(error) = cause {
        speaks_otherwise |= error.to_string().contains("http2 error");
        cause = error.source();
    }
    status.code() == tonic::Code::Unimplemented || speaks_otherwise
}

async fn negotiate(clock: &Clock, server: &str, endpoint: &Endpoint) -> Result<(Channel, v1::NegotiateResponse), Error> {
    let channel = endpoint.connect().await.map_err(|error| Error::unreachable(server, error))?;
    let version = alluvium_proto::PROTOCOL_VERSION;
    let request =
        v1::NegotiateRequest { protocol_version_min: version, protocol_version_max: version, client: LIBRARY.to_owned() };
    let mut service = ConnectServiceClient::new(channel.clone());
    match clock.timeout(CALL_TIMEOUT, service.negotiate(request)).await {
        Ok(Ok(answer)) => Ok((channel, answer.into_inner())),
        Ok(Err(status)) if is_foreign(&status) => {
            Err(Error::WrongServer { server: server.to_owned(), source: Arc::new(Error::from(status)) })
        }
        Ok(Err(status)) => Err(status.into()),
        Err(_) => Err(Error::timed_out(CALL_TIMEOUT)),
    }
}
