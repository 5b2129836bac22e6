//! A standalone server as a process.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// How long a server may take to serve before a test gives up. What it *should* take is asserted nowhere: a busy machine is
/// not a defect.
const START_LIMIT: Duration = Duration::from_secs(30);

/// The size of a bookie's log files: small, so that a test does not spend its time on preparing them.
const LOG_FILE_BYTES: u64 = 32 << 20;

/// What a test changes of a server's configuration.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Lines of TOML for the top level.
    pub top: String,
    /// Lines of TOML behind the sections that the harness writes.
    pub sections: String,
    /// The data folder is a filesystem of its own, in memory, of so many MiB: it can be full. It goes with the process.
    pub disk_mib: Option<u64>,
}

/// Whether this machine lets a process have a filesystem of its own.
pub fn can_have_disks() -> bool {
    let made = Command::new("unshare").args([&NAMESPACE[..], &["true"]].concat()).stderr(Stdio::null()).status();
    made.is_ok_and(|status| status.success())
}

/// What gives a process mounts of its own, without any right to others'.
const NAMESPACE: [&str; 3] = ["--user", "--map-root-user", "--mount"];

/// What a command printed, and how it ended.
#[derive(Debug)]
pub struct Output {
    /// The exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Output {
    /// The standard output of a command that must succeed.
    pub fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self.stdout
    }
}

/// A standalone server, killed when dropped.
#[derive(Debug)]
pub struct Server {
    child: Option<Child>,
    dir: TempDir,
    disk_mib: Option<u64>,
    ports: [u16; 3],
    started_in: Duration,
}

/// The binary under test, built by the same profile as the tests.
pub fn binary() -> PathBuf {
    let mut path = std::env::current_exe().expect("a test knows its own path");
    while path.pop() {
        let candidate = path.join("alluvium");
        if candidate.is_file() {
            return candidate;
        }
    }
    panic!("the alluvium binary is not built: cargo build --workspace");
}

/// The binary, which knows nothing of whoever runs the test: its contexts are those below `config`.
pub fn isolated(config: &Path) -> Command {
    let mut command = Command::new(binary());
    without_user(&mut command, config);
    command
}

fn without_user(command: &mut Command, config: &Path) {
    command.env("XDG_CONFIG_HOME", config).env_remove("ALLUVIUM_SERVER").env_remove("ALLUVIUM_COMMAND");
}

fn free_ports() -> [u16; 3] {
    let listeners = [0; 3].map(|_| TcpListener::bind("127.0.0.1:0").expect("loopback has free ports"));
    listeners.map(|l| l.local_addr().expect("bound").port())
}

impl Server {
    /// Starts a server with a fresh data folder and waits until it serves.
    pub fn start(options: &Options) -> Self {
        let dir = TempDir::new().expect("temporary folders can be made");
        let ports = free_ports();
        let [client, internal, http] = ports;
        let config = format!(
            "data = {data:?}\n{top}\n[listen]\nclient = \"127.0.0.1:{client}\"\ninternal = \"127.0.0.1:{internal}\"\nhttp = \
             \"127.0.0.1:{http}\"\n[bookie.log]\nfile_bytes = {LOG_FILE_BYTES}\npool_files = 2\n{sections}\n",
            data = dir.path().join("data"),
            top = options.top,
            sections = options.sections,
        );
        std::fs::write(dir.path().join("alluvium.toml"), config).expect("writable");
        std::fs::create_dir(dir.path().join("data")).expect("writable");
        let mut server = Self { child: None, dir, disk_mib: options.disk_mib, ports, started_in: Duration::ZERO };
        server.restart();
        server
    }

    /// Starts it again on the same folder and ports, and waits until it serves.
    pub fn restart(&mut self) {
        self.spawn();
        self.wait_ready();
    }

    /// Starts the process without waiting.
    pub fn spawn(&mut self) {
        assert!(self.child.is_none(), "it runs already");
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log_path()).expect("writable");
        let child = self
            .command()
            .args(["standalone", "--config"])
            .arg(self.config_path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("cloneable"))
            .stderr(log)
            .spawn()
            .expect("the binary starts");
        self.child = Some(child);
    }

    /// The binary, on its own disk where it is to have one.
    fn command(&self) -> Command {
        let Some(mib) = self.disk_mib else { return isolated(self.dir.path()) };
        let mut command = Command::new("unshare");
        let script = r#"mount -t tmpfs -o "size=$1m" tmpfs "$2" && shift 2 && exec "$@""#;
        command.args(NAMESPACE).args(["sh", "-c", script, "disk", &mib.to_string()]).arg(self.data()).arg(binary());
        without_user(&mut command, self.dir.path());
        command
    }

    /// Waits until `/readyz` says so.
    pub fn wait_ready(&mut self) {
        let begun = Instant::now();
        loop {
            if self.http("/readyz").is_some_and(|(status, _)| status == 200) {
                self.started_in = begun.elapsed();
                return;
            }
            if let Some(status) = self.child.as_mut().and_then(|c| c.try_wait().expect("a child can be asked")) {
                panic!("the server ended with {status}:\n{}", self.log());
            }
            assert!(begun.elapsed() < START_LIMIT, "the server does not serve:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// How long the last start took until it served.
    pub const fn started_in(&self) -> Duration {
        self.started_in
    }

    /// Kills the process with SIGKILL and waits for its end.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("a child can be killed");
            child.wait().expect("a child can be waited for");
        }
    }

    /// Asks the process to stop with SIGTERM and gives its exit code. It blocks: a test that has connections runs on several
    /// threads, or the server waits in vain for their end.
    pub fn terminate(&mut self) -> Option<i32> {
        let mut child = self.child.take()?;
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("a child can be signalled");
        let begun = Instant::now();
        loop {
            if let Some(status) = child.try_wait().expect("a child can be asked") {
                return status.code();
            }
            if begun.elapsed() > START_LIMIT {
                child.kill().expect("a child can be killed");
                panic!("the server does not stop:\n{}", self.log());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits until the process ends by itself and gives its exit code.
    pub fn wait_end(&mut self) -> Option<i32> {
        let mut child = self.child.take()?;
        let begun = Instant::now();
        loop {
            if let Some(status) = child.try_wait().expect("a child can be asked") {
                return status.code();
            }
            if begun.elapsed() > START_LIMIT {
                child.kill().expect("a child can be killed");
                panic!("the server goes on:\n{}", self.log());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The process's id; `None` while it doesn't run.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Where clients connect to.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports[0])
    }

    /// The ports: clients, internal, operators.
    pub const fn ports(&self) -> [u16; 3] {
        self.ports
    }

    /// The data folder.
    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// A folder that goes with the server.
    pub fn folder(&self) -> &Path {
        self.dir.path()
    }

    /// The configuration file.
    pub fn config_path(&self) -> PathBuf {
        self.dir.path().join("alluvium.toml")
    }

    fn log_path(&self) -> PathBuf {
        self.dir.path().join("server.log")
    }

    /// All that the server printed so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// Asks the operators' port: status and body.
    pub fn http(&self, path: &str) -> Option<(u16, String)> {
        use std::io::{Read, Write};
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], self.ports[2]));
        let mut socket = std::net::TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()?;
        socket.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        write!(socket, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
        let mut text = String::new();
        socket.read_to_string(&mut text).ok()?;
        let status = text.split(' ').nth(1)?.parse().ok()?;
        let body = text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default();
        Some((status, body))
    }

    /// Runs the binary as a tool against this server.
    pub fn tool(&self, args: &[&str]) -> Output {
        self.tool_with_input(args, "")
    }

    /// Runs the binary as a tool against this server, with standard input.
    pub fn tool_with_input(&self, args: &[&str], input: &str) -> Output {
        use std::io::Write;
        let mut child = isolated(self.dir.path())
            .args(args)
            .env("ALLUVIUM_SERVER", self.url())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let mut stdin = child.stdin.take().expect("piped");
        let input = input.to_owned();
        let feeder = std::thread::spawn(move || {
            // A tool that ends early closes its end.
            let _ = stdin.write_all(input.as_bytes());
        });
        let output = child.wait_with_output().expect("a child can be waited for");
        feeder.join().expect("the feeder ends");
        Output {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
