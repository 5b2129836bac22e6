//! The way to a broker, which can fall silent as a host does that stands still: connections stay, and nothing moves on them.

use std::net::SocketAddr;

use alluvium_runtime::net;
use alluvium_runtime::tasks::{OnFailure, Tasks};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// A plain TCP forwarder, until its tasks are stopped.
#[derive(Clone)]
pub(crate) struct Path {
    tasks: Tasks,
    silent: watch::Sender<bool>,
}

impl Path {
    pub(crate) fn new() -> Self {
        let (tasks, _) = Tasks::new();
        Self { tasks, silent: watch::Sender::new(false) }
    }

    /// Leads to `to` from now on; answers where it begins.
    pub(crate) async fn lead(&self, to: SocketAddr) -> SocketAddr {
        let listener = net::bind("127.0.0.1:0".parse().expect("valid")).await.expect("bound");
        let address = listener.local_addr().expect("bound");
        let path = self.clone();
        self.tasks.spawn("path", OnFailure::Log, async move { path.accept(listener, to).await });
        address
    }

    /// Whether nothing moves.
    pub(crate) fn be_silent(&self, silent: bool) {
        self.silent.send_replace(silent);
    }

    async fn accept(self, listener: TcpListener, to: SocketAddr) -> std::io::Result<()> {
        loop {
            let (near, _) = listener.accept().await?;
            let Ok(far) = TcpStream::connect(to).await else { continue };
            let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
            for (from, into) in [(near_in, far_out), (far_in, near_out)] {
                let silent = self.silent.subscribe();
                self.tasks.spawn("carry", OnFailure::Log, carry(from, into, silent));
            }
        }
    }
}

async fn carry(mut from: OwnedReadHalf, mut into: OwnedWriteHalf, mut silent: watch::Receiver<bool>) -> std::io::Result<()> {
    let mut bytes = vec![0; 64 << 10];
    loop {
        let count = from.read(&mut bytes).await?;
        if silent.wait_for(|silent| !silent).await.is_err() || count == 0 {
            return Ok(());
        }
        into.write_all(&bytes[..count]).await?;
    }
}
