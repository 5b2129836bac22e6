//! A cluster as processes: a real etcd, bookies and brokers, each started, killed, paused and started again by its name, and one
//! address for its clients.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use alluvium_test_etcd::Etcd;
use tempfile::TempDir;

use crate::forwarder::{Forwarder, Way};
use crate::memory::MemoryGroup;
use crate::process::{Output, Process, at_another_time, free_ports, isolated, run};

/// How long sessions outlive their process: as short as etcd lets them be.
const SESSION_TTL: Duration = Duration::from_secs(2);
/// How long one request to etcd may take: at most a third of that.
const REQUEST_TIMEOUT: Duration = Duration::from_millis(500);
/// The size of a bookie's log files: small, so that a test does not spend its time on preparing them.
const LOG_FILE_BYTES: u64 = 32 << 20;
/// What its metadata is called among the members.
const ETCD: &str = "etcd";
/// The prefix of a cluster that shares its etcd with nobody.
const PREFIX: &str = "alluvium/";
/// How long a broker may take to see all bookies.
const SEEN_LIMIT: Duration = Duration::from_secs(20);

/// A cluster, killed when dropped. Processes are `bookie-0`, `bookie-1`, … and `broker-0`, ….
#[derive(Debug)]
pub struct Cluster {
    /// Its metadata.
    pub etcd: Etcd,
    /// What `cluster init` printed.
    pub id: String,
    members: BTreeMap<String, Member>,
    front: Forwarder,
    dir: TempDir,
}

#[derive(Debug)]
struct Member {
    process: Process,
    role: &'static str,
    config: PathBuf,
    ports: Ports,
    /// How far its wall clock is from everybody else's, as `faketime` takes it.
    clock: Option<&'static str>,
    /// What bounds its memory.
    memory: Option<MemoryGroup>,
}

#[derive(Clone, Copy, Debug)]
struct Ports {
    client: u16,
    internal: u16,
}

impl Cluster {
    /// Starts etcd, makes the cluster's record, starts so many bookies and brokers, and waits until every broker serves and sees
    /// all bookies.
    pub fn start(bookies: usize, brokers: usize) -> Self {
        let mut cluster = Self::prepare(bookies, brokers);
        cluster.start_members();
        cluster
    }

    /// The same without starting the members.
    pub fn prepare(bookies: usize, brokers: usize) -> Self {
        let etcd = Etcd::start();
        let dir = TempDir::new().expect("temporary folders can be made");
        let id = init(&etcd, PREFIX, dir.path()).ok().trim().to_owned();
        let mut cluster = Self { etcd, id, members: BTreeMap::new(), front: Forwarder::start(), dir };
        for number in 0..bookies {
            cluster.add("bookie", &format!("bookie-{number}"), PREFIX, &bookie_sections());
        }
        for number in 0..brokers {
            cluster.add("broker", &format!("broker-{number}"), PREFIX, &broker_sections());
        }
        cluster
    }

    /// Starts all members, and waits until they serve and see each other.
    pub fn start_members(&mut self) {
        let names: Vec<String> = self.members.keys().cloned().collect();
        names.iter().for_each(|name| self.spawn(name));
        names.iter().for_each(|name| self.member_mut(name).process.wait_ready());
        let bookies = names.iter().filter(|name| self.member(name).role == "bookie").count();
        for broker in names.iter().filter(|name| self.member(name).role == "broker") {
            self.wait_bookies(broker, bookies);
        }
    }

    /// Adds another broker, not started: one that is told a prefix of its own, or bears a name that is taken.
    pub fn add_broker(&mut self, member: &str, name: &str, prefix: &str) {
        self.add("broker", member, prefix, &broker_sections());
        let config = self.member(member).config.clone();
        let text = std::fs::read_to_string(&config).expect("readable");
        std::fs::write(&config, text.replace(&format!("name = {member:?}"), &format!("name = {name:?}"))).expect("writable");
    }

    /// Adds another bookie, not started, that is told a prefix of its own.
    pub fn add_bookie(&mut self, member: &str, prefix: &str) {
        self.add("bookie", member, prefix, &bookie_sections());
    }

    fn add(&mut self, role: &'static str, name: &str, prefix: &str, sections: &str) {
        let [client, internal, http] = free_ports();
        let ports = Ports { client, internal };
        let mut config = format!("cluster = {:?}\nname = {name:?}\n", self.id);
        let mut line = |text: String| writeln!(config, "{text}").expect("strings take text");
        if role == "bookie" {
            line(format!("data = {:?}", self.dir.path().join(name)));
        }
        line("[listen]".to_owned());
        if role == "broker" {
            line(format!("client = \"127.0.0.1:{client}\""));
        }
        line(format!("internal = \"127.0.0.1:{internal}\"\nhttp = \"127.0.0.1:{http}\""));
        let request = REQUEST_TIMEOUT.as_millis();
        line(format!("[metadata]\nendpoints = [{:?}]\nprefix = {prefix:?}\nrequest_timeout_ms = {request}", self.etcd.url()));
        config.push_str(sections);
        let path = self.dir.path().join(format!("{name}.toml"));
        std::fs::write(&path, config).expect("writable");
        let process = Process::new(self.dir.path().join(format!("{name}.log")), http);
        self.members.insert(name.to_owned(), Member { process, role, config: path, ports, clock: None, memory: None });
    }

    /// Makes the record of another cluster in the same etcd.
    pub fn init_other(&self, prefix: &str) -> String {
        init(&self.etcd, prefix, self.dir.path()).ok().trim().to_owned()
    }

    /// Starts a member without waiting.
    pub fn spawn(&mut self, name: &str) {
        let folder = self.dir.path().to_owned();
        let member = self.member_mut(name);
        let mut command = match member.clock {
            None => isolated(&folder),
            Some(clock) => at_another_time(&folder, clock),
        };
        command.arg(member.role).arg("--config").arg(&member.config);
        member.process.spawn(&mut match &member.memory {
            None => command,
            Some(group) => group.enter(&command),
        });
    }

    /// From its next start on a member is one of this group.
    pub fn set_memory(&mut self, name: &str, group: MemoryGroup) {
        self.member_mut(name).memory = Some(group);
    }

    /// From its next start on a member's wall clock is so far off, such as `+1h`.
    pub fn set_clock(&mut self, name: &str, off: &'static str) {
        self.member_mut(name).clock = Some(off);
    }

    /// From its next start on these lines stand in a member's own section too.
    pub fn configure(&mut self, name: &str, lines: &str) {
        let member = self.member(name);
        let text = std::fs::read_to_string(&member.config).expect("readable");
        let section = format!("[{}]\n", member.role);
        std::fs::write(&member.config, text.replace(&section, &format!("{section}{lines}"))).expect("writable");
    }

    /// Starts a member, or `etcd`, again on its folder and ports, and waits until it serves.
    pub fn restart(&mut self, name: &str) {
        if name == ETCD {
            return self.etcd.restart();
        }
        self.spawn(name);
        self.process(name).wait_ready();
    }

    /// Kills a member, or `etcd`, with SIGKILL.
    pub fn kill(&mut self, name: &str) {
        if name == ETCD { self.etcd.kill() } else { self.process(name).kill() }
    }

    /// Asks a member to stop with SIGTERM, and waits until it has ended well.
    pub fn stop(&mut self, name: &str) {
        let code = self.process(name).terminate();
        assert_eq!(code, Some(0), "{name} does not stop as asked:\n{}", self.logs());
    }

    /// Stops a member, or `etcd`, where it stands: its connections stay, and nobody answers.
    pub fn pause(&mut self, name: &str) {
        if name == ETCD { self.etcd.pause() } else { self.process(name).pause() }
    }

    /// Lets a paused one go on.
    pub fn resume(&mut self, name: &str) {
        if name == ETCD { self.etcd.resume() } else { self.process(name).resume() }
    }

    /// A member as a process.
    pub fn process(&mut self, name: &str) -> &mut Process {
        &mut self.member_mut(name).process
    }

    /// Where clients reach a broker.
    pub fn url(&self, broker: &str) -> String {
        format!("http://127.0.0.1:{}", self.member(broker).ports.client)
    }

    /// The one address for clients, whatever comes and goes behind it. New connections there go to the first of these brokers that
    /// accepts.
    pub fn reach(&self, brokers: &[&str]) -> String {
        self.front.go(Way::First(self.client_ports(brokers)));
        self.front.url()
    }

    /// The same address; new connections there go to these brokers in turn, to those of them that accept.
    pub fn reach_in_turn(&self, brokers: &[&str]) -> String {
        self.front.go(Way::InTurn(self.client_ports(brokers)));
        self.front.url()
    }

    fn client_ports(&self, brokers: &[&str]) -> Vec<u16> {
        brokers.iter().map(|broker| self.member(broker).ports.client).collect()
    }

    /// Where our own processes reach a member.
    pub fn internal_url(&self, name: &str) -> String {
        format!("http://127.0.0.1:{}", self.member(name).ports.internal)
    }

    /// Runs the binary as a tool against a broker.
    pub fn tool(&self, broker: &str, args: &[&str]) -> Output {
        run(isolated(self.dir.path()).args(args).env("ALLUVIUM_SERVER", self.url(broker)), "")
    }

    /// Waits until a broker sees so many bookies.
    pub fn wait_bookies(&self, broker: &str, count: usize) {
        let begun = Instant::now();
        loop {
            let listed = self.tool(broker, &["bookie", "list", "-o", "json"]).ok();
            let listed: serde_json::Value = serde_json::from_str(&listed).expect("json");
            if listed["bookies"].as_array().map(Vec::len) == Some(count) {
                return;
            }
            assert!(begun.elapsed() < SEEN_LIMIT, "{broker} does not see {count} bookies: {listed}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// A folder that goes with the cluster.
    pub fn folder(&self) -> &Path {
        self.dir.path()
    }

    /// What all members printed so far.
    pub fn logs(&self) -> String {
        self.members.iter().map(|(name, member)| format!("== {name}\n{}\n", member.process.log())).collect()
    }

    fn member(&self, name: &str) -> &Member {
        self.members.get(name).unwrap_or_else(|| panic!("there is no {name}"))
    }

    fn member_mut(&mut self, name: &str) -> &mut Member {
        self.members.get_mut(name).unwrap_or_else(|| panic!("there is no {name}"))
    }
}

fn init(etcd: &Etcd, prefix: &str, home: &Path) -> Output {
    run(isolated(home).args(["cluster", "init", "--metadata", &etcd.url(), "--prefix", prefix]), "")
}

fn bookie_sections() -> String {
    let ttl = SESSION_TTL.as_millis();
    format!("[bookie]\nsession_ttl_ms = {ttl}\n[bookie.log]\nfile_bytes = {LOG_FILE_BYTES}\npool_files = 2\n")
}

fn broker_sections() -> String {
    let ttl = SESSION_TTL.as_millis();
    format!("[broker]\nsession_ttl_ms = {ttl}\ndispatch_margin_ms = 500\n")
}
