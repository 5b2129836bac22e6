//! A real etcd as a process of its own, on free ports of loopback: started, paused, killed, emptied and started again.
//!
//! A crate by itself, because both the metadata plane's tests and the harness of whole clusters start one, and it knows
//! nothing of either.

#![expect(clippy::disallowed_methods, reason = "a test of processes looks at the outside world directly")]
#![expect(clippy::expect_used, clippy::missing_panics_doc, reason = "a harness fails the test that uses it")]

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use tempfile::TempDir;

/// How long etcd may take to serve before a test gives up.
const START_LIMIT: Duration = Duration::from_secs(30);
/// How often other ports are tried when somebody was faster.
const STARTS_MAX: usize = 5;

/// How an etcd is set up.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Whether clients speak TLS: etcd's certificate, its key, and the authority that must have signed the clients'.
    pub tls: Option<Tls>,
    /// Further arguments.
    pub arguments: Vec<String>,
}

/// Files for TLS, as PEM.
#[derive(Clone, Debug)]
pub struct Tls {
    /// etcd's certificate.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Who signs clients' certificates.
    pub clients: PathBuf,
}

/// An etcd, alone or one of several members, killed when dropped.
#[derive(Debug)]
pub struct Etcd {
    child: Option<Child>,
    dir: TempDir,
    ports: Ports,
    options: Options,
    name: String,
    /// All members, as etcd is told of them.
    members: String,
}

#[derive(Clone, Copy, Debug)]
struct Ports {
    client: u16,
    peer: u16,
    health: u16,
}

impl Ports {
    fn free() -> Self {
        let listeners = [0; 3].map(|_| TcpListener::bind("127.0.0.1:0").expect("loopback has free ports"));
        let [client, peer, health] = listeners.map(|l| l.local_addr().expect("bound").port());
        Self { client, peer, health }
    }
}

impl Etcd {
    /// Starts an empty one and waits until it serves.
    pub fn start() -> Self {
        Self::start_with(Options::default())
    }

    /// Starts an empty one as told, and waits until it serves.
    pub fn start_with(options: Options) -> Self {
        Self::start_members(1, &options).pop().expect("one was asked for")
    }

    /// Starts the members of one etcd, and waits until all serve.
    pub fn start_members(count: usize, options: &Options) -> Vec<Self> {
        let mut last = String::new();
        for _ in 0..STARTS_MAX {
            let mut members: Vec<Self> = (0..count).map(|n| Self::new(format!("m{n}"), options.clone())).collect();
            let all: Vec<String> = members.iter().map(|m| format!("{}={}", m.name, m.peer_url())).collect();
            for member in &mut members {
                member.members = all.join(",");
                member.spawn();
            }
            match members.iter_mut().try_for_each(Self::wait_ready) {
                Ok(()) => return members,
                Err(log) if log.contains("address already in use") => last = log,
                Err(log) => panic!("etcd does not serve:\n{log}"),
            }
        }
        panic!("etcd found no free port:\n{last}");
    }

    fn new(name: String, options: Options) -> Self {
        let dir = TempDir::new().expect("temporary folders can be made");
        Self { child: None, dir, ports: Ports::free(), options, name, members: String::new() }
    }

    /// Starts it again on the same folder and ports, and waits until it serves.
    pub fn restart(&mut self) {
        self.spawn();
        if let Err(log) = self.wait_ready() {
            panic!("etcd does not serve again:\n{log}");
        }
    }

    /// Kills it with SIGKILL and waits for its end.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("a child can be killed");
            child.wait().expect("a child can be waited for");
        }
    }

    /// Takes away all that it holds. It must not run.
    pub fn empty(&mut self) {
        assert!(self.child.is_none(), "it runs");
        std::fs::remove_dir_all(self.data()).expect("removable");
    }

    /// Stops its clock, and all else, with SIGSTOP. Returns once all of it stands.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
        let child = self.child.as_ref().expect("it runs");
        let stopped = waitpid(Some(Pid::from_child(child)), WaitOptions::UNTRACED).expect("a child can be waited for");
        assert!(stopped.is_some_and(|(_, status)| status.stopped()), "etcd ended instead");
    }

    /// Lets it go on with SIGCONT.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// Where clients connect to.
    pub fn url(&self) -> String {
        let scheme = if self.options.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://127.0.0.1:{}", self.ports.client)
    }

    fn peer_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports.peer)
    }

    /// The process's id; `None` while it doesn't run.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// All that it printed so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// Its metrics, as text.
    pub fn metrics(&self) -> String {
        self.http("/metrics").expect("it answers")
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn log_path(&self) -> PathBuf {
        self.dir.path().join("etcd.log")
    }

    fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("it runs");
        kill_process(Pid::from_child(child), signal).expect("a child can be signalled");
    }

    fn spawn(&mut self) {
        assert!(self.child.is_none(), "it runs already");
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log_path()).expect("writable");
        let mut command = Command::new("etcd");
        command
            .arg("--data-dir")
            .arg(self.data())
            .args(["--listen-client-urls", &self.url(), "--advertise-client-urls", &self.url()])
            .args(["--listen-peer-urls", &self.peer_url(), "--initial-advertise-peer-urls", &self.peer_url()])
            .args(["--name", &self.name, "--initial-cluster", &self.members])
            .args(["--listen-metrics-urls", &format!("http://127.0.0.1:{}", self.ports.health)])
            .args(&self.options.arguments);
        if let Some(tls) = &self.options.tls {
            command.arg("--client-cert-auth").arg("--cert-file").arg(&tls.certificate);
            command.arg("--key-file").arg(&tls.key).arg("--trusted-ca-file").arg(&tls.clients);
        }
        let spawned = command.stdin(Stdio::null()).stdout(log.try_clone().expect("cloneable")).stderr(log).spawn();
        self.child = match spawned {
            Ok(child) => Some(child),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                panic!("etcd is not installed, and these tests need a real one: ./test installs it (Debian's etcd-server)")
            }
            Err(error) => panic!("etcd does not start: {error}"),
        };
    }

    /// Waits until it serves; else gives its log.
    fn wait_ready(&mut self) -> Result<(), String> {
        let begun = Instant::now();
        while !self.is_healthy() {
            let ended = self.child.as_mut().is_none_or(|c| c.try_wait().expect("a child can be asked").is_some());
            if ended || begun.elapsed() > START_LIMIT {
                return Err(self.log());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    fn is_healthy(&self) -> bool {
        self.http("/health").is_ok_and(|answer| answer.contains(r#""health":"true""#))
    }

    /// Asks the port beside the clients', which never speaks TLS.
    fn http(&self, path: &str) -> std::io::Result<String> {
        let address = SocketAddr::from(([127, 0, 0, 1], self.ports.health));
        let mut socket = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
        socket.set_read_timeout(Some(Duration::from_secs(2)))?;
        write!(socket, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer)?;
        Ok(answer)
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
