//! Parts as processes: the same binary, on free ports of loopback, ended by whoever started them.

use std::ffi::OsString;
use std::io::{self, BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use super::part::Part;

/// How a process is told which part it is.
pub trait Starter: Send + Sync {
    /// The program and its arguments for a part. It prints where it serves, one line, and ends when its standard input does.
    fn command(&self, part: &Part) -> (PathBuf, Vec<OsString>);
}

/// A part in a process of its own; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    url: String,
}

impl Process {
    /// Starts it; it serves when this returns. Blocks.
    pub(super) fn start(starter: &dyn Starter, part: &Part) -> io::Result<Self> {
        let (program, args) = starter.command(part);
        let mut child = Command::new(program).args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let said = child.stdout.take().map(BufReader::new);
        let mut process = Self { child, url: String::new() };
        let mut line = String::new();
        said.map_or(Ok(0), |mut said| said.read_line(&mut line))?;
        if line.trim().is_empty() {
            return Err(io::Error::other("a part of the pipeline ended before it served"));
        }
        process.url = format!("http://{}", line.trim());
        Ok(process)
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
