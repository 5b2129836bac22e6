//! A bound on a process's memory that the system enforces: a control group of its own, in either of the kernel's interfaces.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// Where groups are, and what bounds one.
const INTERFACES: [(&str, &str); 2] = [("/sys/fs/cgroup", "memory.max"), ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")];

/// A control group, gone when dropped.
#[derive(Debug)]
pub struct MemoryGroup {
    path: PathBuf,
}

impl MemoryGroup {
    /// A group whose processes have at most so many bytes; `None` where this machine gives us none.
    pub fn new(bytes: u64) -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("alluvium-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        INTERFACES.iter().find_map(|(root, bound)| {
            let path = Path::new(root).join(&name);
            // A folder is only a group where the interface is mounted.
            fs::create_dir(&path).ok()?;
            let group = Self { path };
            let is_group = group.path.join(bound).exists() && fs::write(group.path.join(bound), bytes.to_string()).is_ok();
            // Where there is swap, and the interface has this.
            let _ = fs::write(group.path.join("memory.swap.max"), "0");
            is_group.then_some(group)
        })
    }

    /// The same command, as a process of this group from its beginning on.
    pub(crate) fn enter(&self, command: &Command) -> Command {
        let mut entering = Command::new("sh");
        entering.args(["-c", r#"echo $$ > "$1" && shift && exec "$@""#, "group"]);
        entering.arg(self.path.join("cgroup.procs")).arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => entering.env(name, value),
                None => entering.env_remove(name),
            };
        }
        entering
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        // Its processes have ended; where one has not, the empty group stays until the machine is restarted.
        let _ = fs::remove_dir(&self.path);
    }
}
