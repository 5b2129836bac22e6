//! What the machine would let a server do.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;

use alluvium_bench::ceiling::{Blocks, Ceiling, Kind, Part, Report, SOUND_SHARE, Starter, serve};
use alluvium_runtime::tasks::Tasks;
use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand};
use tokio::io::AsyncReadExt;

use super::load::say;
use crate::command::Common;
use crate::exit::{Code, Failure};
use crate::interrupt;
use crate::output::{print, warn};
use crate::units::{show_size, size};

/// Bytes that no disk keeps in a cache of its own.
const BYTES_SOUND: u64 = 3 << 30;

#[derive(Debug, Args)]
pub(super) struct CeilingArgs {
    /// A folder on the disk that the server writes to. What is made there is gone at the end
    #[arg(long, value_name = "DIR", default_value = "alluvium-ceiling")]
    dir: PathBuf,
    /// Bytes of a run: fewer than 3 GiB flatter
    #[arg(long, value_name = "SIZE", value_parser = size, default_value = "3GiB")]
    bytes: u64,
    /// These pipelines only, and not the disk alone
    #[arg(long, value_name = "PIPELINE", value_delimiter = ',', value_parser = PossibleValuesParser::new(Kind::ALL.map(Kind::word)))]
    only: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub(super) enum PartArgs {
    /// Drop what comes
    Sink,
    /// Write what comes to a log
    Log {
        /// The folder of its files
        #[arg(long)]
        dir: PathBuf,
        /// Bytes of its files
        #[arg(long)]
        bytes: u64,
        /// Bytes after which a group takes nothing more
        #[arg(long)]
        group_bytes: usize,
        /// Into blocks that were never written
        #[arg(long)]
        fresh: bool,
    },
    /// Send what comes on to logs
    Broker {
        /// Where they are
        logs: Vec<String>,
    },
}

/// Starts parts by this very binary.
pub(super) struct Itself(PathBuf);

impl Itself {
    pub(super) fn new() -> Result<Self, Failure> {
        Ok(Self(std::env::current_exe().map_err(|error| Failure::io("cannot find this program", &error))?))
    }
}

impl Starter for Itself {
    fn command(&self, part: &Part) -> (PathBuf, Vec<OsString>) {
        let mut args: Vec<OsString> = vec!["bench".into(), "part".into()];
        match part {
            Part::Sink => args.push("sink".into()),
            Part::Log { dir, bytes, blocks, group_bytes } => {
                args.extend(["log".into(), "--dir".into(), dir.into(), "--bytes".into(), bytes.to_string().into()]);
                args.extend(["--group-bytes".into(), group_bytes.to_string().into()]);
                args.extend((*blocks == Blocks::Fresh).then(|| "--fresh".into()));
            }
            Part::Broker { logs } => {
                args.push("broker".into());
                args.extend(logs.iter().map(OsString::from));
            }
        }
        (self.0.clone(), args)
    }
}

impl PartArgs {
    /// Serves until standard input ends: with whoever started it.
    pub(super) async fn run(self) -> Result<(), Failure> {
        let failed = |error: io::Error| Failure::io("cannot serve a part of the pipeline", &error);
        let part = match self {
            Self::Sink => Part::Sink,
            Self::Log { dir, bytes, group_bytes, fresh } => {
                Part::Log { dir, bytes, group_bytes, blocks: if fresh { Blocks::Fresh } else { Blocks::Recycled } }
            }
            Self::Broker { logs } => Part::Broker { logs },
        };
        let (tasks, mut failures) = Tasks::new();
        let address = serve(part, &tasks).await.map_err(failed)?;
        print(&format!("{address}\n"))?;
        let (mut input, mut ignored) = (tokio::io::stdin(), Vec::new());
        tokio::select! {
            biased;
            Some(fatal) = failures.recv() => Err(Failure::new(Code::Io, "a part of the pipeline failed").because(fatal)),
            ended = input.read_to_end(&mut ignored) => ended.map(drop).map_err(failed),
        }
    }
}

impl CeilingArgs {
    pub(super) async fn run(self, common: &Common) -> Result<(), Failure> {
        let failed = |error: io::Error| Failure::io("cannot measure the ceilings", &error);
        if self.bytes < BYTES_SOUND {
            let sentence = format!("runs of {} flatter: the disk keeps some of them", show_size(self.bytes));
            warn(common.output, &sentence, &serde_json::json!({ "bytes": self.bytes }));
        }
        let (starter, (tasks, _failures)) = (Itself::new()?, Tasks::new());
        let ceiling = Ceiling { dir: self.dir.clone(), bytes: self.bytes, starter: &starter, tasks: &tasks };
        let is_asked = |kind: &Kind| self.only.is_empty() || self.only.iter().any(|word| word == kind.word());
        let kinds: Vec<Kind> = Kind::ALL.into_iter().filter(is_asked).collect();
        let mut tell = |line: &str| say(line);
        let measured =
            interrupt::finish("the ceilings were measured", Box::pin(ceiling.measure(&kinds, self.only.is_empty(), &mut tell)))
                .await;
        let cleaned = ceiling.clean();
        let report = measured?.map_err(failed)?;
        cleaned.map_err(failed)?;
        common.output.done(&text(&report), &report.to_json())
    }
}

fn text(report: &Report) -> String {
    let machine = &report.machine;
    let mut lines = vec![format!(
        "{} ({} x {}, Linux {}), {:.0} % busy before; runs of {}",
        machine.host,
        machine.cpus,
        machine.processor,
        machine.kernel,
        report.busy_before * 100.0,
        show_size(report.bytes)
    )];
    lines.extend(report.disk.iter().map(alluvium_bench::ceiling::DiskRow::text));
    lines.extend(report.pipelines.iter().map(alluvium_bench::ceiling::PipelineRow::text));
    if let (Some(share), Some(lower)) = (report.share(), report.lower_ceiling()) {
        let verdict = if share >= SOUND_SHARE { "sound" } else { "TOO SLOW: what is compared with it is flattered" };
        lines.push(format!("the bare pipeline reaches {share:.2} of the lower ceiling ({lower:.0} MB/s): {verdict}"));
    }
    lines.join("\n")
}
