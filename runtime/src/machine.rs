//! The machine that a process runs on: what it is, and how busy.

use std::io;

/// What a machine is, as far as it matters to a measurement. What the system does not say is empty or 0.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Machine {
    /// Its name.
    pub host: String,
    /// The kernel's release.
    pub kernel: String,
    /// The processor's model.
    pub processor: String,
    /// Processors that this process may use.
    pub cpus: usize,
    /// Memory, in bytes.
    pub memory_bytes: u64,
}

/// Time that all processors together have spent since the system started, in the system's own unit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CpuTimes {
    busy: u64,
    total: u64,
}

impl Machine {
    /// This machine.
    pub fn here() -> Self {
        let system = rustix::system::uname();
        let text = |text: &std::ffi::CStr| text.to_string_lossy().into_owned();
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let memory_kib: u64 = field(&read("/proc/meminfo"), "MemTotal")
            .and_then(|value| value.split_whitespace().next().and_then(|kib| kib.parse().ok()))
            .unwrap_or_default();
        Self {
            host: text(system.nodename()),
            kernel: text(system.release()),
            processor: field(&read("/proc/cpuinfo"), "model name").unwrap_or_default(),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: memory_kib << 10,
        }
    }
}

/// How much memory this process may use, as the system bounds it: by the tightest limit of its control groups, if they have one; and
/// what the machine has. In bytes; 0 where the system does not say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemoryBound {
    /// The control groups' limit.
    pub group_bytes: Option<u64>,
    /// The machine's memory.
    pub machine_bytes: u64,
}

impl MemoryBound {
    /// Of this process.
    pub fn here() -> Self {
        let machine_bytes = Machine::here().memory_bytes;
        let read = |path: &str| std::fs::read_to_string(path).ok();
        // Without a limit the older interface says an absurdly large one.
        Self { group_bytes: group_limit(read).filter(|limit| machine_bytes == 0 || *limit < machine_bytes), machine_bytes }
    }
}

/// The least of the limits on memory of the groups that this process is in, and of those above them (the kernel's cgroup-v1/memory and
/// cgroup-v2 documents). In a container the path of a group may name what is not visible there: its root is looked at as well.
fn group_limit(read: impl Fn(&str) -> Option<String>) -> Option<u64> {
    let mut least: Option<u64> = None;
    for line in read("/proc/self/cgroup")?.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let (root, name) = if controllers.is_empty() {
            ("/sys/fs/cgroup", "memory.max")
        } else if controllers.split(',').any(|controller| controller == "memory") {
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
        } else {
            continue;
        };
        let mut path = path.trim_end_matches('/');
        loop {
            let limit = read(&format!("{root}{path}/{name}")).and_then(|text| text.trim().parse().ok());
            least = least.into_iter().chain(limit).min();
            let Some((above, _)) = path.rsplit_once('/') else { break };
            path = above;
        }
    }
    least
}

impl CpuTimes {
    /// Up to now.
    pub fn now() -> io::Result<Self> {
        let text = std::fs::read_to_string("/proc/stat")?;
        parse(&text)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "/proc/stat does not begin with the sum of all processors"))
    }

    /// The share of all processors that was busy since `earlier`: 0 to 1.
    pub fn busy_since(self, earlier: Self) -> f64 {
        let total = self.total.saturating_sub(earlier.total).max(1);
        self.busy.saturating_sub(earlier.busy) as f64 / total as f64
    }
}

/// The value of `name: value`.
fn field(text: &str, name: &str) -> Option<String> {
    let value = |line: &str| line.split_once(':').filter(|(key, _)| key.trim() == name).map(|(_, value)| value.trim().to_owned());
    text.lines().find_map(value)
}

/// The first line of `/proc/stat`: user, nice, system, idle, waiting for disks, interrupts, soft interrupts, stolen.
fn parse(text: &str) -> Option<CpuTimes> {
    let times = text.lines().next()?.strip_prefix("cpu ")?;
    let times: Vec<u64> = times.split_whitespace().take(8).map_while(|time| time.parse().ok()).collect();
    let idle = times.get(3)? + times.get(4)?;
    let total: u64 = times.iter().sum();
    Some(CpuTimes { busy: total - idle, total })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_processor_that_waits_for_a_disk_is_idle() {
        let at = |text| parse(text).expect("readable");
        let before = at("cpu  100 0 100 700 100 0 0 0 0 0\ncpu0 1 1 1 1\n");
        let after = at("cpu  150 0 150 850 150 0 0 0 7 7\n");
        assert!((after.busy_since(before) - 1.0 / 3.0).abs() < 1e-9);
        assert!(before.busy_since(before).abs() < 1e-9);
        assert_eq!(parse("intr 1 2 3\n"), None);
    }

    #[test]
    fn the_tightest_limit_of_the_groups_counts() {
        let limit = |files: &[(&str, &str)]| {
            group_limit(|path| files.iter().find(|(name, _)| *name == path).map(|(_, text)| (*text).to_owned()))
        };
        let new = [
            ("/proc/self/cgroup", "0::/pods/one\n"),
            ("/sys/fs/cgroup/pods/one/memory.max", "max\n"),
            ("/sys/fs/cgroup/pods/memory.max", "268435456\n"),
        ];
        assert_eq!(limit(&new), Some(256 << 20), "of the group above");
        let old = [
            ("/proc/self/cgroup", "5:cpu:/a\n4:hugetlb,memory:/docker/x\n0::/\n"),
            ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("/sys/fs/cgroup/memory/docker/x/memory.limit_in_bytes", "1073741824\n"),
        ];
        assert_eq!(limit(&old), Some(1 << 30));
        assert_eq!(limit(&old[..2]), Some(9_223_372_036_854_771_712), "in a container its own group is the root");
        assert_eq!(limit(&[]), None);
        let here = MemoryBound::here();
        assert!(here.group_bytes.is_none_or(|limit| limit > 0) && here.machine_bytes > 0, "{here:?}");
    }

    #[test]
    fn this_machine_has_a_processor_and_a_name() {
        let here = Machine::here();
        assert!(here.cpus > 0 && !here.kernel.is_empty(), "{here:?}");
        assert!(CpuTimes::now().expect("Linux").total > 0);
    }
}
