//! A plain TCP forwarder: the one address that clients are given, whichever brokers are alive behind it. It knows nothing of
//! what it carries.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

/// Which port a new connection goes to; those that stand go on.
#[derive(Clone, Debug)]
pub enum Way {
    /// The first of these that accepts.
    First(Vec<u16>),
    /// These in turn, leaving out those that do not accept.
    InTurn(Vec<u16>),
}

/// A forwarder on a port of its own, stopped when dropped. A connection breaks on both sides when it does on one.
#[derive(Debug)]
pub struct Forwarder {
    address: SocketAddr,
    way: Arc<Mutex<Way>>,
    stop: Option<oneshot::Sender<()>>,
    // Apart from the test's runtime, which may be busy or blocked while connections have to go on.
    thread: Option<JoinHandle<()>>,
}

impl Forwarder {
    /// Starts one that leads nowhere yet: it closes what it accepts.
    pub fn start() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
        listener.set_nonblocking(true).expect("settable");
        let address = listener.local_addr().expect("bound");
        let way = Arc::new(Mutex::new(Way::First(Vec::new())));
        let (stop, stopped) = oneshot::channel();
        let ways = Arc::clone(&way);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be built");
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener).expect("a runtime is here");
                tokio::select! {
                    () = accept(&listener, &ways) => {}
                    // The sender may be dropped.
                    _ = stopped => {}
                }
            });
        });
        Self { address, way, stop: Some(stop), thread: Some(thread) }
    }

    /// New connections go this way.
    pub fn go(&self, way: Way) {
        *self.way.lock().expect("nobody panics with it") = way;
    }

    /// Where clients connect to.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().expect("it ends when told");
        }
    }
}

async fn accept(listener: &TcpListener, way: &Arc<Mutex<Way>>) {
    for turn in 0.. {
        let Ok((client, _)) = listener.accept().await else { continue };
        let way = way.lock().expect("nobody panics with it").clone();
        tokio::spawn(async move {
            if let Some(server) = connect(way, turn).await {
                // Whichever way it ends, both sides are closed.
                let _ = carry(client, server).await;
            }
        });
    }
}

async fn connect(way: Way, turn: usize) -> Option<TcpStream> {
    let ports = match way {
        Way::First(ports) => ports,
        Way::InTurn(mut ports) => {
            let begin = turn % ports.len().max(1);
            ports.rotate_left(begin);
            ports
        }
    };
    for port in ports {
        if let Ok(server) = TcpStream::connect(("127.0.0.1", port)).await {
            return Some(server);
        }
    }
    None
}

async fn carry(mut client: TcpStream, mut server: TcpStream) -> io::Result<()> {
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) = (client.split(), server.split());
    tokio::select! {
        ended = tokio::io::copy(&mut from_client, &mut to_server) => ended,
        ended = tokio::io::copy(&mut from_server, &mut to_client) => ended,
    }?;
    Ok(())
}
