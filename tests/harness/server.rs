//! A standalone server as a process.

use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::process::{Output, Process, binary, free_ports, isolated, run, without_user};

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

/// A standalone server, killed when dropped.
#[derive(Debug)]
pub struct Server {
    process: Process,
    dir: TempDir,
    disk_mib: Option<u64>,
    ports: [u16; 3],
}

/// What any process can do.
impl Deref for Server {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}

impl DerefMut for Server {
    fn deref_mut(&mut self) -> &mut Process {
        &mut self.process
    }
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
        let process = Process::new(dir.path().join("server.log"), http);
        let mut server = Self { process, dir, disk_mib: options.disk_mib, ports };
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
        let mut command = self.command();
        self.process.spawn(command.args(["standalone", "--config"]).arg(self.config_path()));
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

    /// Runs the binary as a tool against this server.
    pub fn tool(&self, args: &[&str]) -> Output {
        self.tool_with_input(args, "")
    }

    /// Runs the binary as a tool against this server, with standard input.
    pub fn tool_with_input(&self, args: &[&str], input: &str) -> Output {
        run(isolated(self.dir.path()).args(args).env("ALLUVIUM_SERVER", self.url()), input)
    }
}
