//! Sockets and gRPC transport settings: measured once, kept in one place (`performance.md`).
//!
//! Frames of 48 KiB on both ends (64 KiB falls off a cliff), windows of 4 MiB where there is memory for them, and accepted sockets
//! handed round the lanes.

#![expect(clippy::disallowed_methods, reason = "this is where sockets and their runtimes begin")]

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::StreamExt;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::Routes;
use tonic::transport::server::{Connected, TcpConnectInfo};
use tonic::transport::{Endpoint, Server};

use crate::clock::Clock;
use crate::lanes::Lanes;
use crate::tasks::{OnFailure, Tasks};

/// The largest HTTP/2 frame either end sends.
const FRAME_BYTES: u32 = 48 << 10;
/// What a peer may send on one stream before it is read.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
/// What a peer may send on one connection before it is read.
const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;
/// The window that a stream has before anything is agreed on.
const LEAST_WINDOW_BYTES: u32 = 65_535;
/// The most connections of one listener.
const CONNECTIONS_MAX: usize = 10_000;
/// The most streams of one connection.
const STREAMS_PER_CONNECTION_MAX: u32 = 1024;
/// How often a silent connection is probed, and how long the answer may take.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(5));

/// What a peer may send before it is read, which is held in memory until it is: on one stream so much, and on one connection twice
/// that.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Windows {
    stream_bytes: u32,
}

impl Default for Windows {
    /// What the transport is fastest with.
    fn default() -> Self {
        Self { stream_bytes: STREAM_WINDOW_BYTES }
    }
}

impl Windows {
    /// Those of a process that bounds its memory to so much: 4 MiB with 1 GiB or more, and with less the smaller the more clients would
    /// fill it. A half of the memory means a quarter of the window, down to the least that HTTP/2 begins with.
    pub fn within(memory_bytes: usize) -> Self {
        let part = (memory_bytes as u128).min(1 << 30);
        let bytes = (u128::from(STREAM_WINDOW_BYTES) * part * part) >> 60;
        Self { stream_bytes: u32::try_from(bytes).unwrap_or(STREAM_WINDOW_BYTES).max(LEAST_WINDOW_BYTES) }
    }
}

/// Who calls a server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Callers {
    /// Applications, of whom nothing is known: each may send so much before it is read.
    Clients(Windows),
    /// The servers of the same cluster.
    Servers,
}

impl Callers {
    /// What may be sent before it is read: on a stream, and on a connection.
    const fn windows(self) -> (u32, u32) {
        match self {
            Self::Clients(Windows { stream_bytes }) => (stream_bytes, 2 * stream_bytes),
            Self::Servers => (STREAM_WINDOW_BYTES, CONNECTION_WINDOW_BYTES),
        }
    }

    /// The most streams of one connection that may be given up before they are looked at; past it the connection ends, and all
    /// that is on it. That is for who floods. A server that has enough answers gives up the other calls, many at once.
    const fn pending_resets_max(self) -> usize {
        match self {
            Self::Clients(_) => 20,
            Self::Servers => STREAMS_PER_CONNECTION_MAX as usize,
        }
    }
}

/// A server with the transport's settings.
fn server(callers: Callers) -> Server {
    let (stream, connection) = callers.windows();
    Server::builder()
        .initial_stream_window_size(stream)
        .initial_connection_window_size(connection)
        .max_frame_size(FRAME_BYTES)
        .max_concurrent_streams(STREAMS_PER_CONNECTION_MAX)
        .http2_keepalive_interval(Some(KEEP_ALIVE.0))
        .http2_keepalive_timeout(Some(KEEP_ALIVE.1))
        .http2_max_header_list_size(16 << 10)
        .http2_max_pending_accept_reset_streams(Some(callers.pending_resets_max()))
}

/// A client endpoint with the transport's settings.
pub fn endpoint(endpoint: Endpoint) -> Endpoint {
    endpoint
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(Some(FRAME_BYTES))
        .http2_keep_alive_interval(KEEP_ALIVE.0)
        .keep_alive_timeout(KEEP_ALIVE.1)
        .keep_alive_while_idle(true)
        .connect_timeout(Duration::from_secs(5))
        .tcp_nodelay(true)
}

/// How many connections may wait to be accepted.
const BACKLOG: u32 = 1024;

/// Binds a listener, also where the last one's connections still linger.
pub async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address).await
}

/// An address that is taken, and refuses connections until it is listened on.
#[derive(Debug)]
pub struct Reserved(TcpSocket);

impl Reserved {
    /// Takes an address that nobody listens on. Of two who take it before either listens, the second to listen fails.
    pub fn take(address: SocketAddr) -> io::Result<Self> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        // Also where the last listener's connections still linger.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        Ok(Self(socket))
    }

    /// Where it is: what was asked for, or the free port that was found.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    /// Takes connections from now on.
    pub fn listen(self) -> io::Result<TcpListener> {
        self.0.listen(BACKLOG)
    }
}

/// How a process reaches others.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Reach {
    /// By sockets.
    #[default]
    Sockets,
    /// Not at all: everybody refuses. For a simulation without a network between its processes.
    Nobody,
}

impl Reach {
    /// Whether the host of `host:port` refuses connections there: nothing listens. `false` when it accepts one, is silent for
    /// `patience`, or can't be found: none of that is a refusal.
    pub async fn is_refused(self, address: &str, patience: Duration) -> bool {
        match self {
            Self::Sockets => {
                let connected = Clock::system().timeout(patience, TcpStream::connect(address)).await;
                matches!(connected, Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused)
            }
            Self::Nobody => true,
        }
    }
}

/// A connection that is counted while it lives.
struct Counted {
    stream: TcpStream,
    _place: OwnedSemaphorePermit,
}

impl Counted {
    /// A socket that was accepted. What is written is sent at once: held back for a fuller segment, the rest of an answer would wait
    /// for the peer's acknowledgement, which is itself put off for 40 ms.
    fn of(socket: std::net::TcpStream, place: OwnedSemaphorePermit) -> io::Result<Self> {
        socket.set_nodelay(true)?;
        Ok(Self { stream: TcpStream::from_std(socket)?, _place: place })
    }
}

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl Connected for Counted {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.stream.connect_info()
    }
}

/// A socket for a lane, and its place among all connections.
type Accepted = (std::net::TcpStream, OwnedSemaphorePermit);

/// Gives a socket to the lane whose turn it is, or to the next that takes it at once; `false` once there are none any more.
async fn give(to_lanes: &[mpsc::Sender<Accepted>], turn: usize, mut accepted: Accepted) -> bool {
    for lane in (0..to_lanes.len()).map(|number| &to_lanes[(turn + number) % to_lanes.len()]) {
        match lane.try_send(accepted) {
            Ok(()) => return true,
            Err(mpsc::error::TrySendError::Full(back) | mpsc::error::TrySendError::Closed(back)) => accepted = back,
        }
    }
    // All of them are behind; one of them comes first.
    to_lanes[turn % to_lanes.len()].send(accepted).await.is_ok()
}

/// Serves `routes` on `listener` until the tasks are stopped; then open calls have until `tasks.join` gives up. The lanes outlive `tasks`.
///
/// Connections are handed round the lanes. Past [`CONNECTIONS_MAX`] a new one is closed at once. An accept that fails for want of
/// descriptors is retried with a pause (C56).
pub fn serve(name: &'static str, callers: Callers, tasks: &Tasks, listener: TcpListener, routes: Routes, lanes: &Lanes) {
    let mut to_lanes = Vec::new();
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    for lane in lanes.runtimes() {
        let (tx, rx) = mpsc::channel::<Accepted>(16);
        to_lanes.push(tx);
        let (routes, stop) = (routes.clone(), tasks.clone());
        // A socket joins the runtime that serves it: here, and not where it was accepted.
        let connections = ReceiverStream::new(rx).map(move |(socket, place)| {
            Counted::of(socket, place)
                .inspect_err(|error| tracing::warn!(%error, listener = name, "a connection is closed at once"))
        });
        let _lane = lane.enter();
        tasks.spawn(name, OnFailure::ShutDown, async move {
            let stopping = async { stop.stopping().await };
            server(callers).add_routes(routes).serve_with_incoming_shutdown(connections, stopping).await
        });
    }
    let stop = tasks.clone();
    tasks.spawn(format!("{name}-accept"), OnFailure::ShutDown, async move {
        let mut next = 0;
        let mut is_full = false;
        loop {
            let accepted = tokio::select! {
                () = stop.stopping() => return Ok::<(), String>(()),
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((socket, _)) => {
                    let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                        if !std::mem::replace(&mut is_full, true) {
                            tracing::warn!(limit = CONNECTIONS_MAX, listener = name, "too many connections: new ones are closed");
                        }
                        continue;
                    };
                    is_full = false;
                    let Ok(socket) = socket.into_std() else { continue };
                    next += 1;
                    let given = tokio::select! {
                        () = stop.stopping() => return Ok(()),
                        given = give(&to_lanes, next, (socket, place)) => given,
                    };
                    if !given {
                        return Ok(());
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, listener = name, "accept failed; pausing");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn q6_little_memory_means_small_windows() {
        let of = |mebibytes: usize| Callers::Clients(Windows::within(mebibytes << 20)).windows();
        assert_eq!((of(4096), of(1024)), ((4 << 20, 8 << 20), (4 << 20, 8 << 20)));
        assert_eq!((of(512).0, of(256).0), (1 << 20, 256 << 10));
        assert_eq!((of(128).0, of(1).0), (64 << 10, LEAST_WINDOW_BYTES));
        assert_eq!(Windows::default(), Windows::within(1 << 30));
    }

    #[tokio::test]
    async fn what_is_reserved_refuses_until_it_is_listened_on() {
        let reserved = Reserved::take("127.0.0.1:0".parse().expect("valid")).expect("taken");
        let address = reserved.address().expect("bound");
        let is_refused = async || Reach::Sockets.is_refused(&address.to_string(), Duration::from_secs(5)).await;
        assert!(is_refused().await);
        let listener = reserved.listen().expect("it is ours");
        assert!(!is_refused().await);
        assert!(Reserved::take(address).is_err(), "somebody listens there");
        drop(listener);
    }

    #[tokio::test]
    async fn a_lane_that_is_behind_is_passed_over() {
        let listener = bind("127.0.0.1:0".parse().expect("valid")).await.expect("bound");
        let address = listener.local_addr().expect("bound");
        let places = Arc::new(Semaphore::new(3));
        let (behind, _stuck) = mpsc::channel(1);
        let (free, mut taken) = mpsc::channel(4);
        let to_lanes = [behind, free];
        for _ in 0..3 {
            let (_client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
            let socket = accepted.expect("accepted").0.into_std().expect("it is free");
            let place = Arc::clone(&places).try_acquire_owned().expect("free");
            assert!(give(&to_lanes, 0, (socket, place)).await);
        }
        assert!(taken.try_recv().is_ok() && taken.try_recv().is_ok(), "all but the one that the first had room for");
        assert!(taken.try_recv().is_err());
    }

    #[tokio::test]
    async fn what_is_written_to_an_accepted_connection_is_sent_at_once() {
        // Answers of more than one frame took 40 ms longer than they had to.
        let listener = bind("127.0.0.1:0".parse().expect("valid")).await.expect("bound");
        let address = listener.local_addr().expect("bound");
        let (_client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        let socket = accepted.expect("accepted").0.into_std().expect("it is free");
        assert!(!socket.nodelay().expect("readable"), "the system itself waits");
        let place = Arc::new(Semaphore::new(1)).try_acquire_owned().expect("free");
        let served = Counted::of(socket, place).expect("served");
        assert!(served.stream.nodelay().expect("readable"));
    }
}
