//! A piece of wire in front of etcd that can be cut, or carry requests but no answers.

use std::net::SocketAddr;

use alluvium_runtime::net;
use alluvium_runtime::tasks::{OnFailure, Tasks};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Wire {
    Whole,
    /// Requests arrive; answers wait.
    NoAnswers,
    /// Connections end, and new ones are refused.
    Cut,
}

/// The wire; it goes with its tasks.
pub(crate) struct Forwarder {
    address: SocketAddr,
    wire: watch::Sender<Wire>,
    tasks: Tasks,
}

impl Forwarder {
    pub(crate) async fn to(url: &str) -> Self {
        let target: SocketAddr = url.trim_start_matches("http://").parse().unwrap();
        let listener = net::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
        let (tasks, _failures) = Tasks::new();
        let forwarder = Self { address: listener.local_addr().unwrap(), wire: watch::Sender::new(Wire::Whole), tasks };
        let (mut wire, tasks, address) = (forwarder.wire.subscribe(), forwarder.tasks.clone(), forwarder.address);
        forwarder.tasks.spawn("forwarder", OnFailure::Log, async move {
            let mut listener = Some(listener);
            loop {
                let Some(listening) = &listener else {
                    if wire.wait_for(|wire| *wire != Wire::Cut).await.is_err() {
                        return Ok::<(), String>(());
                    }
                    listener = Some(net::bind(address).await.map_err(|e| e.to_string())?);
                    continue;
                };
                let client = tokio::select! {
                    () = tasks.stopping() => return Ok(()),
                    _ = wire.wait_for(|wire| *wire == Wire::Cut) => None,
                    accepted = listening.accept() => accepted.ok(),
                };
                let Some((client, _)) = client else {
                    listener = None;
                    continue;
                };
                let Ok(server) = TcpStream::connect(target).await else { continue };
                let (from_client, to_client) = client.into_split();
                let (from_server, to_server) = server.into_split();
                let (one, two) = (wire.clone(), wire.clone());
                tasks.spawn("requests", OnFailure::Log, async move {
                    carry(from_client, to_server, one, false).await;
                    Ok::<(), String>(())
                });
                tasks.spawn("answers", OnFailure::Log, async move {
                    carry(from_server, to_client, two, true).await;
                    Ok::<(), String>(())
                });
            }
        });
        forwarder
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn cut(&self) {
        self.wire.send_replace(Wire::Cut);
    }

    pub(crate) fn withhold_answers(&self) {
        self.wire.send_replace(Wire::NoAnswers);
    }

    pub(crate) fn heal(&self) {
        self.wire.send_replace(Wire::Whole);
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.cut();
        self.tasks.stop();
    }
}

async fn carry(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    mut wire: watch::Receiver<Wire>,
    answers: bool,
) {
    let mut bytes = vec![0; 64 << 10];
    loop {
        let count = tokio::select! {
            _ = wire.wait_for(|wire| *wire == Wire::Cut) => return,
            count = from.read(&mut bytes) => count,
        };
        let Ok(count @ 1..) = count else { return };
        if answers && !wire.wait_for(|wire| *wire != Wire::NoAnswers).await.is_ok_and(|wire| *wire == Wire::Whole) {
            return;
        }
        if to.write_all(&bytes[..count]).await.is_err() {
            return;
        }
    }
}
