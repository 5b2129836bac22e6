//! A process of ours: started, awaited, killed.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

/// How long a process may take to serve or to stop before a test gives up. What it *should* take is asserted nowhere: a busy
/// machine is not a defect.
const LIMIT: Duration = Duration::from_secs(30);
/// How often it is looked at.
const INTERVAL: Duration = Duration::from_millis(5);
/// Where ports are taken from: below those that the system gives to connections, so that none is lost to one while its process is
/// down.
const PORTS: std::ops::Range<u16> = 10_000..32_000;

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

/// A process, killed when dropped.
#[derive(Debug)]
pub struct Process {
    child: Option<Child>,
    log: PathBuf,
    http: u16,
    started_in: Duration,
}

/// The binary under test: the one that was built by the same profile as the tests, or another that `ALLUVIUM_BINARY` names.
pub fn binary() -> PathBuf {
    if let Some(other) = std::env::var_os("ALLUVIUM_BINARY") {
        return PathBuf::from(other);
    }
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

/// The same with a wall clock that is so far off. The monotonic one, which decides, is everybody's.
pub(crate) fn at_another_time(config: &Path, off: &str) -> Command {
    // The tool itself would stand between us and the process, and take its signals. It says what it preloads.
    let asked = Command::new("faketime").args(["-m", "-f", off, "printenv", "LD_PRELOAD"]).output();
    let asked = asked.expect("./test installs faketime");
    let mut command = Command::new(binary());
    command.env("LD_PRELOAD", String::from_utf8_lossy(&asked.stdout).trim()).env("FAKETIME", off);
    // Its older releases know the switch by the shorter name.
    command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1").env("DONT_FAKE_MONOTONIC", "1");
    without_user(&mut command, config);
    command
}

pub(crate) fn without_user(command: &mut Command, config: &Path) {
    command.env("XDG_CONFIG_HOME", config).env_remove("ALLUVIUM_SERVER").env_remove("ALLUVIUM_COMMAND");
}

/// Ports of loopback that nobody listens on.
pub fn free_ports<const N: usize>() -> [u16; N] {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Processes of tests that run side by side begin at different places.
    let first = u16::try_from(std::process::id() % 1000).expect("small") * 22;
    let length = PORTS.end - PORTS.start;
    [(); N].map(|()| {
        let mut ports = (0..length).map(|_| PORTS.start + (first + NEXT.fetch_add(1, Ordering::Relaxed) % length) % length);
        ports.find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).expect("loopback has free ports")
    })
}

/// Runs a command to its end, with standard input.
pub(crate) fn run(command: &mut Command, input: &str) -> Output {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary starts");
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

impl Process {
    /// One that doesn't run yet, with its log and the port of its operators.
    pub(crate) const fn new(log: PathBuf, http: u16) -> Self {
        Self { child: None, log, http, started_in: Duration::ZERO }
    }

    /// Starts the process without waiting.
    pub(crate) fn spawn(&mut self, command: &mut Command) {
        assert!(self.child.is_none(), "it runs already");
        let log = std::fs::OpenOptions::new().create(true).append(true).open(&self.log).expect("writable");
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("cloneable")).stderr(log);
        let program = command.get_program().to_string_lossy().into_owned();
        let spawned = command.spawn();
        self.child =
            Some(spawned.unwrap_or_else(|error| panic!("{program} does not start ({error}): ./test installs what is missing")));
    }

    /// Waits until `/readyz` says so.
    pub fn wait_ready(&mut self) {
        let begun = Instant::now();
        while !self.is_ready() {
            if let Some(status) = self.child.as_mut().and_then(|c| c.try_wait().expect("a child can be asked")) {
                panic!("the process ended with {status}:\n{}", self.log());
            }
            assert!(begun.elapsed() < LIMIT, "the process does not serve:\n{}", self.log());
            std::thread::sleep(INTERVAL);
        }
        self.started_in = begun.elapsed();
    }

    /// Whether `/readyz` says so now.
    pub fn is_ready(&self) -> bool {
        self.http("/readyz").is_some_and(|(status, _)| status == 200)
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
    /// threads, or the process waits in vain for their end.
    pub fn terminate(&mut self) -> Option<i32> {
        self.child.as_ref()?;
        self.signal(Signal::TERM);
        self.wait_end()
    }

    /// Stops the process where it stands, with SIGSTOP: its connections stay, and nobody answers. Returns once all of it stands.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
        let child = self.child.as_ref().expect("it runs");
        let stopped = waitpid(Some(Pid::from_child(child)), WaitOptions::UNTRACED).expect("a child can be waited for");
        assert!(stopped.is_some_and(|(_, status)| status.stopped()), "the process ended instead:\n{}", self.log());
    }

    /// Lets a paused process go on with SIGCONT.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("it runs");
        kill_process(Pid::from_child(child), signal).expect("a child can be signalled");
    }

    /// Waits until the process ends and gives its exit code.
    pub fn wait_end(&mut self) -> Option<i32> {
        let mut child = self.child.take()?;
        let begun = Instant::now();
        loop {
            if let Some(status) = child.try_wait().expect("a child can be asked") {
                return status.code();
            }
            if begun.elapsed() > LIMIT {
                child.kill().expect("a child can be killed");
                panic!("the process goes on:\n{}", self.log());
            }
            std::thread::sleep(INTERVAL);
        }
    }

    /// The process's id; `None` while it doesn't run.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// How much of the machine's memory it holds, in bytes.
    pub fn resident_bytes(&self) -> u64 {
        self.memory("VmRSS:")
    }

    /// How much it has held at most.
    pub fn peak_bytes(&self) -> u64 {
        self.memory("VmHWM:")
    }

    fn memory(&self, field: &str) -> u64 {
        let pid = self.pid().expect("it runs");
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("readable");
        let line = status.lines().find_map(|line| line.strip_prefix(field)).expect("it has a size");
        let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
        kib << 10
    }

    /// How long it has kept processors busy, all its threads together.
    pub fn processor_time(&self) -> Duration {
        let tasks = format!("/proc/{}/task", self.pid().expect("it runs"));
        let threads = std::fs::read_dir(tasks).expect("readable");
        // A thread may end meanwhile.
        let stat = |thread: std::fs::DirEntry| std::fs::read_to_string(thread.path().join("schedstat")).ok();
        let ran = threads.filter_map(|thread| stat(thread.ok()?)?.split(' ').next()?.parse::<u64>().ok());
        Duration::from_nanos(ran.sum())
    }

    /// All that it printed so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Asks the operators' port: status and body.
    pub fn http(&self, path: &str) -> Option<(u16, String)> {
        let address = SocketAddr::from(([127, 0, 0, 1], self.http));
        let mut socket = TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()?;
        socket.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        write!(socket, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
        let mut text = String::new();
        socket.read_to_string(&mut text).ok()?;
        let status = text.split(' ').nth(1)?.parse().ok()?;
        let body = text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default();
        Some((status, body))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
