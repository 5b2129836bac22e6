//! What the configurations of all processes have in common: TOML in which everything has a default, and all that is wrong is
//! said at once.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::ops::RangeInclusive;

use alluvium_metadata::etcd::{EtcdConfig, Password};
use alluvium_runtime::machine::MemoryBound;
use alluvium_runtime::telemetry::LogConfig;
use alluvium_types::ids::ClusterId;
use alluvium_types::limits::{Limits, MESSAGE_BYTES_CEILING};
use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

/// Where the password of etcd's user comes from: never from a file, never from the command line (Q10).
pub const PASSWORD_VARIABLE: &str = "ALLUVIUM_ETCD_PASSWORD";
/// Less than this is a mistake in the unit.
const MESSAGE_BYTES_LEAST: usize = 1024;
/// With less memory no process works.
const MEMORY_BYTES_LEAST: usize = 64 << 20;

/// One kind of process, by its configuration.
pub trait Role: Default + Serialize + DeserializeOwned {
    /// Says all that is wrong at once, each with the field's name.
    fn validate(&self) -> Result<(), Vec<String>>;

    /// Takes what never stands in a file.
    fn take_secrets(&mut self, variable: impl Fn(&str) -> Option<String>);

    /// Runs the process until it is told to stop, or can't go on. The configuration was validated.
    fn run(self) -> impl Future<Output = anyhow::Result<()>>;

    /// Reads a TOML file; what it doesn't say is as the default has it, in sections that it begins, too.
    fn parse(text: &str) -> Result<Self, toml::de::Error> {
        // Faults are told with the line of the file itself.
        toml::from_str::<Self>(text)?;
        over_default(toml::from_str(text)?)
    }
}

/// The cluster that a configuration of any process names, and its `[metadata]` section.
pub fn metadata_of(text: &str) -> Result<(String, EtcdConfig), toml::de::Error> {
    let table: toml::Table = toml::from_str(text)?;
    let cluster = table.get("cluster").and_then(toml::Value::as_str).unwrap_or_default().to_owned();
    let etcd = match table.get("metadata") {
        Some(toml::Value::Table(metadata)) => over_default(metadata.clone())?,
        Some(other) => other.clone().try_into()?,
        None => EtcdConfig::default(),
    };
    Ok((cluster, etcd))
}

fn over_default<T: Default + Serialize + DeserializeOwned>(said: toml::Table) -> Result<T, toml::de::Error> {
    let mut merged = toml::Table::try_from(T::default()).expect("the defaults are TOML");
    merge(&mut merged, said);
    T::deserialize(merged)
}

/// What is said goes over what was there.
fn merge(base: &mut toml::Table, over: toml::Table) {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (Some(toml::Value::Table(base)), toml::Value::Table(over)) => merge(base, over),
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

/// Takes the password of etcd's user, if there is a user.
pub(crate) fn take_password(etcd: &mut EtcdConfig, variable: impl Fn(&str) -> Option<String>) {
    if etcd.user.is_some() {
        etcd.password = variable(PASSWORD_VARIABLE).filter(|password| !password.is_empty()).map(Password::new);
    }
}

/// All that is wrong with a configuration.
#[derive(Debug, Default)]
pub(crate) struct Wrong(Vec<String>);

impl Wrong {
    pub(crate) fn refuse(&mut self, is_wrong: bool, sentence: impl FnOnce() -> String) {
        if is_wrong {
            self.0.push(sentence());
        }
    }

    pub(crate) fn range<T: PartialOrd + std::fmt::Display>(&mut self, field: &str, value: T, range: RangeInclusive<T>) {
        let (least, most) = (range.start(), range.end());
        self.refuse(!range.contains(&value), || format!("{field}: {value} is not between {least} and {most}"));
    }

    /// What every process says of itself.
    pub(crate) fn process(&mut self, message_bytes_max: usize, drain_seconds: u64, log: &LogConfig) {
        self.range("drain_seconds", drain_seconds, 1..=600);
        self.range("message_bytes_max", message_bytes_max, MESSAGE_BYTES_LEAST..=MESSAGE_BYTES_CEILING);
        self.0.extend(log.validate().err());
    }

    /// How much memory a process is told to take, if it is told.
    pub(crate) fn memory(&mut self, bytes_max: usize) {
        self.refuse((1..MEMORY_BYTES_LEAST).contains(&bytes_max), || {
            format!("memory_bytes_max: {bytes_max} is less than {MEMORY_BYTES_LEAST}; 0 is as much as is good")
        });
    }

    /// What every process of a cluster says of its metadata. `session` is the field that holds a session's time to live.
    pub(crate) fn membership(&mut self, cluster: &str, etcd: &EtcdConfig, session: (&str, u64)) {
        if cluster.is_empty() {
            self.0.push("cluster: it is missing; `alluvium cluster init` makes a cluster and prints its id".to_owned());
        } else if parse_cluster(cluster).is_none() {
            self.0.push(format!("cluster: {cluster:?} is not an id as `alluvium cluster init` prints it"));
        }
        self.etcd(etcd);
        let (field, ttl_ms) = session;
        let request_ms = etcd.request_timeout_ms;
        self.refuse(request_ms > ttl_ms / 3, || {
            format!("metadata.request_timeout_ms: {request_ms} is more than a third of {field}: no keep-alive could be repeated")
        });
    }

    pub(crate) fn etcd(&mut self, etcd: &EtcdConfig) {
        let without_password = etcd.user.is_some() && etcd.password.is_none();
        let problems = etcd.validate().err().unwrap_or_default();
        let told = problems.into_iter().filter(|problem| !(without_password && problem.starts_with("user:")));
        self.0.extend(told.map(|problem| format!("metadata.{problem}")));
        self.refuse(without_password, || format!("metadata.user: its password is missing; set {PASSWORD_VARIABLE}"));
    }

    /// An address that others are told, for one that is listened on.
    pub(crate) fn advertised(&mut self, name: &str, said: &str, listen: SocketAddr) {
        let makes_sense = said.rsplit_once(':').is_some_and(|(host, port)| {
            !host.is_empty() && !host.contains(['/', '@', ' ']) && port.parse::<u16>().is_ok_and(|port| port != 0)
        });
        self.refuse(!said.is_empty() && !makes_sense, || format!("advertise.{name}: {said:?} is not host:port"));
        self.refuse(said.is_empty() && listen.ip().is_unspecified(), || {
            format!("advertise.{name}: it is missing, and nobody can connect to {listen}, on which it listens")
        });
    }

    /// What another section says.
    pub(crate) fn section(&mut self, name: &str, problems: Vec<String>) {
        self.0.extend(problems.into_iter().map(|problem| format!("{name}.{problem}")));
    }

    pub(crate) fn end(self) -> Result<(), Vec<String>> {
        if self.0.is_empty() { Ok(()) } else { Err(self.0) }
    }
}

/// A cluster's id, as it is printed.
pub(crate) fn parse_cluster(text: &str) -> Option<ClusterId> {
    Uuid::try_parse(text).ok().filter(|id| !id.is_nil()).map(ClusterId::new)
}

/// All that follows from the largest message.
pub(crate) fn limits(message_bytes_max: usize) -> Limits {
    Limits::new(message_bytes_max).unwrap_or_default()
}

/// So many threads; 0 is one for each core.
pub(crate) fn threads(configured: usize) -> usize {
    match configured {
        0 => std::thread::available_parallelism().map_or(1, NonZeroUsize::get),
        threads => threads,
    }
}

/// What a process bounds its memory to, in bytes: to what is configured; if that is 0, to half of what its control groups let it have, or
/// to a quarter of the machine's memory, and to no more than `most`.
pub(crate) fn memory(configured: usize, most: usize) -> usize {
    if configured > 0 { configured } else { memory_of(MemoryBound::here(), most) }
}

fn memory_of(bound: MemoryBound, most: usize) -> usize {
    let share = bound.group_bytes.map_or(bound.machine_bytes / 4, |limit| limit / 2);
    let known = usize::try_from(share).unwrap_or(most);
    if known == 0 { most } else { known.min(most) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn q6_a_process_takes_a_part_of_the_memory_that_there_is() {
        let gib = 1 << 30;
        let of = |group_bytes, machine_bytes| memory_of(MemoryBound { group_bytes, machine_bytes }, gib);
        assert_eq!(of(Some(256 << 20), 64 << 30), 128 << 20);
        assert_eq!((of(None, 2 << 30), of(None, 64 << 30)), (512 << 20, gib));
        assert_eq!(of(None, 0), gib, "the system does not say");
        assert_eq!(memory(5, gib), 5);
    }

    #[test]
    fn q10_the_password_comes_from_the_environment_alone() {
        let (cluster, mut etcd) = metadata_of("cluster = 'c'\nname = 'x'\n[metadata]\nuser = 'u'\nprefix = 'p/'").expect("sound");
        assert_eq!((cluster.as_str(), etcd.prefix.as_str()), ("c", "p/"));
        assert_eq!(etcd.endpoints, EtcdConfig::default().endpoints, "what is not said is as the default has it");
        let problems = |etcd: &EtcdConfig| {
            let mut wrong = Wrong::default();
            wrong.etcd(etcd);
            wrong.end().err().unwrap_or_default()
        };
        assert!(problems(&etcd).iter().any(|problem| problem.contains(PASSWORD_VARIABLE)), "{:?}", problems(&etcd));
        take_password(&mut etcd, |name| (name == PASSWORD_VARIABLE).then(|| "hunter2".to_owned()));
        assert_eq!(problems(&etcd), Vec::<String>::new());
        assert!(!toml::to_string(&etcd).expect("TOML").contains("hunter2"), "it is not printed either");
        metadata_of("[metadata]\npassword = 'hunter2'").expect_err("no file holds it");
        metadata_of("metadata = 5").expect_err("not a section");
    }

    #[test]
    fn an_address_that_nobody_can_connect_to_is_refused() {
        let anywhere = SocketAddr::from(([0, 0, 0, 0], 7650));
        let here = SocketAddr::from(([127, 0, 0, 1], 7650));
        for (said, listen, is_sound) in [
            ("", here, true),
            ("", anywhere, false),
            ("broker-0.brokers:7650", anywhere, true),
            ("[::1]:7650", anywhere, true),
            ("http://broker-0:7650", here, false),
            ("broker-0", here, false),
            ("broker-0:0", here, false),
        ] {
            let mut wrong = Wrong::default();
            wrong.advertised("client", said, listen);
            assert_eq!(wrong.end().is_ok(), is_sound, "{said:?} for {listen}");
        }
    }
}
